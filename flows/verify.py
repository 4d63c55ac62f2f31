"""Whether everything behind a result is still here, and as it was: outputs, code, settings, raw files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from flows.past import Project, md5, md5_of_folder
from tasks import layout, listing, params
from tasks.errors import InputError
from tasks.sources.folders import sha256

if TYPE_CHECKING:
    from tasks.registry import Version


def faults(project: Project, last: str) -> Iterator[str]:
    """What is missing here or no longer as it was, of all that a stage came from.

    Args:
        project: as it is, or was at a commit.
        last: the stage, such as `report@notes`.
    """
    for address in tqdm(project.chain(last), desc="verify", unit=" stages", disable=None):
        stage = project.stages[address]
        for out in stage.get("outs", ()):
            yield from _output(project, address, out) if "md5" in out and address != "list" else ()
        yield from project.stale(address)
        yield from _sources(project, address.partition("@")[2]) if address.startswith("ingest@") else ()
        if not project.revision:
            yield from _code(project, address)


def registered_faults(project: Project, recipe: str, version: Version) -> Iterator[str]:
    """What of a registered model is missing, or is not what the fine-tuning has kept.

    Args:
        project: as it was at the commit that the version was made by.
        recipe: whose model it is.
        version: of the registered model.
    """
    task = version.tags.get("task")
    if task is None:
        yield f"{version.uri}: was not registered by a run of ours, so that nothing tells what it is made of"
        return
    made = f"{layout.run(recipe, 'finetune')}/models/{task}/"
    outs = project.stages.get(f"finetune@{recipe}", {}).get("outs", ())
    files = {path: known for out in outs if "md5" in out for path, known in project.objects(out).items()}
    wanted = {path.removeprefix(made): known for path, known in files.items() if path.startswith(made)}
    if not wanted:
        if files:  # else the cache has lost the list of its files, as `faults` tells
            yield f"{version.uri}: finetune@{recipe} has kept no model of {task}"
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy = version.download(Path(folder))
        except InputError as error:
            yield str(error)
            return
        here = {str(path.relative_to(copy)): md5(path) for path in copy.rglob("*") if path.is_file()}
    for name in sorted(wanted.keys() | here.keys()):
        if wanted.get(name) != here.get(name):
            how = "missing" if name not in here else "not what" if name in wanted else "nothing that"
            yield f"{version.uri}, {name}: {how}{'' if name not in here else f' finetune@{recipe} has made'}"


def _output(project: Project, address: str, out: Mapping[str, Any]) -> Iterator[str]:
    files, listed = project.objects(out), project.cached(out["md5"])
    if out["md5"].endswith(".dir") and not listed.exists():
        yield f"{out['path']}: not in the cache here; dvc pull {address}, or make it again"
    elif out["md5"].endswith(".dir") and md5(listed) + ".dir" != out["md5"]:
        yield f"{out['path']}: the cache's list of its files was changed ({listed})"
    if not project.revision:
        for path in sorted((project.folder / out["path"]).rglob("*")):
            if path.is_file() and files and str(path.relative_to(project.folder)) not in files:
                yield f"{path.relative_to(project.folder)}: {address} has not made it"
    for path, expected in files.items():
        kept, here = project.cached(expected), project.folder / path
        if not kept.exists():
            yield f"{path}: not in the cache here; dvc pull {address}, or make it again"
        elif md5(kept) != expected:
            yield f"{path}: the cache's copy was changed ({kept})"
        if not project.revision and here.exists() and md5(here) != expected:
            yield f"{path}: is not what {address} has made"


def _sources(project: Project, corpus: str) -> Iterator[str]:
    """Raw files that are gone, new or changed since they were read."""
    path = str(layout.listed(corpus))
    known = project.made(f"ingest@{corpus}", path)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(project.text("params.yaml"))
        file.flush()
        corpora = params.load_corpora(Path(file.name))
    if known is None or corpus not in corpora:
        yield f"{path}: not here, so that the raw files of {corpus} cannot be compared"
        return
    complaints: list[str] = []
    now = listing.list_corpus(corpus, corpora[corpus], complaints)
    yield from complaints
    before, after = ({entry["location"]: entry for entry in found.get("files", [])} for found in (known, now))
    for location in sorted(before.keys() | after.keys()):
        if location not in before or location not in after:
            yield f"{location}: {'new' if location in after else 'gone'} since {corpus} was read"
        elif _differs(before[location], after[location], project.folder):
            yield f"{location}: changed since {corpus} was read"
    for package in sorted(known.get("packages", {}).items() ^ now.get("packages", {}).items()):
        yield f"{package[0]} {package[1]}: another version since {corpus} was read"


def _differs(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> bool:
    """Whether a raw file is another: by its bytes where these are here, else by what its listing says."""
    path = folder / Path(before["location"]).expanduser()
    if "sha256" in before and path.is_file():
        return sha256(path) != before["sha256"]
    return {**before, "sha256": None} != {**now, "sha256": None}


def _code(project: Project, address: str) -> Iterator[str]:
    """Code and settings that are not those the stage ran with."""
    made = {out["path"] for stage in project.stages.values() for out in stage.get("outs", ())}
    for dep in project.stages[address].get("deps", ()):
        path = project.folder / dep["path"]
        if {dep["path"], *map(str, Path(dep["path"]).parents)} & made:
            continue
        if not path.exists():
            yield f"{dep['path']}: gone since {address} ran"
        elif (md5_of_folder(path) if path.is_dir() else md5(path)) != dep["md5"]:
            yield f"{dep['path']}: changed since {address} ran"
    for file, section in project.stages[address].get("params", {}).items():
        now = params.read_yaml(project.folder / file)
        for key, value in section.items():
            if _at(now, key) != value:
                yield f"{file}, {key}: changed since {address} ran"


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
