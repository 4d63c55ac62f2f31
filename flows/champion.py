"""The encoder of the model in production, to go on from, and whether there is anything new to go on with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from flows import lives, trace
from flows.past import Project
from tasks import layout, listing, params, spool
from tasks.config import SLOTS, plain
from tasks.errors import InputError

BEGUN = ".begun"  # suffix of what a flow run began with, beside the file by which it is known to live
NOT_LEARNT = ("description", "watch", "promote", "retrain", "report")  # settings that change no weight


def folder() -> Path:
    """Of the encoders that trainings go on from."""
    return layout.scratch() / "champions"


class Start:
    """What a retraining of a recipe begins with: the champion's encoder, and what there is to learn now.

    DVC cannot say whether there is anything new: each champion is another start, so that to it all of it is.
    A run that is tried again goes on with what it began with, whatever params.yaml says by now.

    Args:
        recipe: entry of params.yaml's recipes.
        project: folder of the project.
        run: id of the flow run.

    Raises:
        InputError: a source cannot be listed, or the champion's weights are lost; says what to do.
    """

    def __init__(self, recipe: str, project: Path, run: str) -> None:
        self._file = _memory() / f"{recipe}.json"
        self._own = lives.file(run).with_suffix(BEGUN)
        begun, last = spool.load(self._own), spool.load(self._file)
        self._digest = begun.get("digest") or _digest(recipe, project)
        known = begun or last
        is_known = known.get("digest") == self._digest and Path(known.get("weights") or "/").exists()
        self.is_settled = is_known and last.get("digest") == self._digest and bool(last.get("settled"))
        if is_known:  # begun before: the same start again, so that its stages are found
            self._weights = Path(known["weights"]) if known["weights"] else None
        else:
            self._weights = encoder(recipe, project)

    def begun(self) -> Path | None:
        """Remember what is begun; the encoder to go on from, None to start over."""
        where = f"goes on from {self._weights}" if self._weights else "no champion yet: starts over"
        get_run_logger().info(where)
        said = {"digest": self._digest, "weights": str(self._weights or "")}
        for file in (self._own, self._file):
            file.parent.mkdir(parents=True, exist_ok=True)
            spool.store(file, said)
        return self._weights

    def settle(self) -> None:
        """All of it is learnt, and the model has been judged; a run that began since has the last word."""
        last = spool.load(self._file)
        if last.get("digest") == self._digest:
            spool.store(self._file, {**last, "settled": True})


def remembered() -> str:
    """What the last retraining of each recipe, and those that may be tried again, began with."""
    files = [*_memory().glob("*.json"), *lives.folder().glob(f"*{BEGUN}")]
    return "".join(file.read_text(encoding="utf-8") for file in sorted(files))


def _memory() -> Path:
    return layout.scratch() / "retrained"


def _digest(recipe: str, project: Path) -> str:
    """Of sources and settings from which weights are learnt."""
    config = params.load(project / "params.yaml")
    settings = config.recipe(recipe)
    corpora = {name: config.corpora[name] for name in {getattr(settings, slot) for slot in SLOTS}}
    complaints: list[str] = []
    seen = {name: listing.list_corpus(name, corpus, complaints) for name, corpus in corpora.items()}
    if complaints:
        raise InputError("; ".join(complaints))
    learnt = {name: value for name, value in plain(settings).items() if name not in NOT_LEARNT}
    said: list[Any] = [seen, {name: plain(corpus) for name, corpus in corpora.items()}, learnt, config.seed]
    said.append(plain(config.encoders[settings.encoder]))
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def encoder(recipe: str, project: Path) -> Path | None:
    """Folder of the champion's adapted encoder with its heads; None where there is no champion.

    Raises:
        InputError: what was made then is not in the cache any more, or is not known; says what to do.
    """
    name = params.load(project / "params.yaml").recipe(recipe).promote.name or recipe
    what = trace.champion(name, project)
    if what is None:
        return None
    otherwise = f"; or set recipes.{recipe}.retrain.start to over"
    if what.recipe != recipe:
        raise InputError(f"the champion of {name} was made by recipe {what.recipe}, not {recipe}{otherwise}")
    past = Project(project, what.revision)
    trace.refuse_another(past, what)
    if made_anew := [*past.stale(what.address)]:
        raise InputError(f"{made_anew[0]}, and the champion of {name} is of before{otherwise}")
    files = _files(past, f"{layout.run(recipe, 'adapt')}/")
    missing = [path for path, md5 in files.items() if not past.cached(md5).exists()]
    if missing or not files:
        lost = ", ".join(missing) or str(layout.run(recipe, "adapt"))
        raise InputError(
            f"the cache has lost {lost} of {name}'s champion; `dvc pull` where a remote has it{otherwise}"
        )
    return _gathered(past, files)


def _files(past: Project, adapted: str) -> dict[str, str]:
    """Names and hashes of an encoder's files and of its heads."""
    found = {}
    for out in (out for stage in past.stages.values() for out in stage.get("outs", ()) if "md5" in out):
        if adapted.startswith(f"{out['path']}/"):
            for path, md5 in past.objects(out).items():
                name = path.removeprefix(adapted)
                if name == layout.HEADS or name.startswith("model/"):
                    found[name.removeprefix("model/")] = md5
    return found


def _gathered(past: Project, files: dict[str, str]) -> Path:
    """The files of the cache under their names, in a folder named after what they hold."""
    digest = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]
    place = folder() / digest
    if not place.exists():
        aside = place.with_name(f"{digest}.{os.getpid()}")
        for path, md5 in files.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(past.cached(md5), aside / path)  # read-only, and takes no room
            except OSError:
                shutil.copyfile(past.cached(md5), aside / path)
        try:
            aside.rename(place)
        except OSError:  # another run was faster, with the same
            shutil.rmtree(aside)
    return place
