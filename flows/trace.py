"""Where a model, a run or a report comes from, back to the raw files; and whether all of it is as it was.

    python -m flows.trace notes                        # what lies in runs/notes
    python -m flows.trace models:/notes@champion       # what is served
    python -m flows.trace runs/notes-swift-otter       # a run that worked in a folder of its own
    python -m flows.trace --verify notes               # hash everything again

Everything told here stands in dvc.lock, in DVC's cache, in git and in MLflow; nothing is kept for this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from tasks import layout, listing, params, tracking
from tasks.errors import InputError, unknown
from tasks.journal import masked
from tasks.sources.folders import sha256

RUN_ID = re.compile(r"[0-9a-f]{32}")
LAST_STAGE = "report"
MOST_FILES = 20  # raw files of a corpus that are told one by one
NO_LICENCE = "no licence given"


@dataclass(frozen=True)
class Subject:
    """What is traced.

    Attributes:
        recipe: whose stages made it.
        revision: git's commit with its dvc.lock; empty for what lies in the folder.
        last: the stage that made it.
        facts: what is known of it beside, as label and value.
        run_id: of the last stage in MLflow, where that is what was asked for.
    """

    recipe: str
    revision: str = ""
    last: str = LAST_STAGE
    facts: tuple[tuple[str, str], ...] = ()
    run_id: str = ""


@dataclass
class Project:
    """dvc.lock, params.yaml and DVC's cache, as they were at a commit.

    Attributes:
        folder: of the project.
        revision: git's commit; empty for the files as they lie there.
    """

    folder: Path
    revision: str = ""
    cache: Path = field(init=False)
    stages: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from dvc.config import Config

        given = Config(str(self.folder / ".dvc"))["cache"].get("dir")
        self.cache = (
            Path(self.folder / ".dvc", given) if given else self.folder / ".dvc" / "cache"
        ).resolve()
        self.stages = dict(YAML(typ="safe").load(self.text("dvc.lock")).get("stages", {}))

    def text(self, name: str) -> str:
        """A file that git holds.

        Raises:
            InputError: there is none.
        """
        if not self.revision:
            try:
                return (self.folder / name).read_text(encoding="utf-8")
            except FileNotFoundError:
                raise InputError(f"{self.folder / name} is missing; nothing was run here yet") from None
        done = subprocess.run(
            ["git", "show", f"{self.revision}:{name}"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InputError(f"{name} at {self.revision[:12]}: {done.stderr.strip()}")
        return done.stdout

    def chain(self, address: str) -> list[str]:
        """The stages behind an address, what was needed first in front.

        Raises:
            InputError: it was never run.
        """
        if address not in self.stages:
            ran = sorted(name for name in self.stages if name.partition("@")[0] == address.partition("@")[0])
            raise InputError(f"dvc.lock: {unknown('stage', address, ran)}")
        made = {out["path"]: name for name, stage in self.stages.items() for out in stage.get("outs", ())}
        found: list[str] = []

        def visit(name: str) -> None:
            for dep in self.stages[name].get("deps", ()):
                for path in (dep["path"], *map(str, Path(dep["path"]).parents)):
                    if path in made and made[path] not in found:
                        visit(made[path])
            found.append(name)

        visit(address)
        return list(dict.fromkeys(found))

    def stale(self, address: str) -> Iterator[str]:
        """Inputs of a stage that were made anew since it ran."""
        outs = [out for stage in self.stages.values() for out in stage.get("outs", ()) if "md5" in out]
        files = {out["path"]: out["md5"] for out in outs}
        for dep in self.stages[address].get("deps", ()):
            path = dep["path"]
            for out in outs:
                if path.startswith(f"{out['path']}/"):
                    files |= self.objects(out)
            if path in files and files[path] != dep.get("md5"):
                yield f"{path}: was made anew since {address} ran, and is not what it read"

    def objects(self, out: Mapping[str, Any]) -> dict[str, str]:
        """Path and md5 of every file of an output; of a folder that the cache has lost, nothing."""
        if not out["md5"].endswith(".dir"):
            return {out["path"]: out["md5"]}
        listed = self.cached(out["md5"])
        if not listed.exists() or md5(listed) + ".dir" != out["md5"]:
            return {}
        return {f"{out['path']}/{entry['relpath']}": entry["md5"] for entry in json.loads(listed.read_text())}

    def cached(self, md5: str) -> Path:
        """Where the cache keeps what hashes to that."""
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def made(self, address: str, path: str) -> dict[str, Any] | None:
        """A JSON file that a stage has made, from the cache."""
        for out in self.stages.get(address, {}).get("outs", ()):
            md5 = self.objects(out).get(path) if "md5" in out else None
            if md5 and self.cached(md5).exists():
                return dict(json.loads(self.cached(md5).read_text(encoding="utf-8")))
        return None


def subject(name: str, folder: Path) -> Subject:
    """What a name means: a recipe, a report, a branch, a run or a registered model of MLflow.

    Raises:
        InputError: nothing is known by that name.
    """
    if name.startswith("models:/"):
        return _registered(name, folder)
    if RUN_ID.fullmatch(name):
        return _tracked(name, folder, ())
    if name.startswith("runs/") and (found := _commit(name, folder)):
        last, _, recipe = _git(folder, "log", "-1", "--format=%s", found).rpartition(" ")[2].partition("@")
        return Subject(recipe, found, last, (("branch", name),))
    recipe = Path(name).parts[1] if name.startswith("runs/") and len(Path(name).parts) > 1 else name
    recipes = params.read_yaml(folder / "params.yaml").get("recipes", {})
    if recipe not in recipes:
        raise InputError(unknown("recipe, report, branch runs/..., models:/... or MLflow run", name, recipes))
    return Subject(recipe)


def _registered(name: str, folder: Path) -> Subject:
    from tasks.registry import Registry, reachable

    model, _, alias = name.removeprefix("models:/").partition("@")
    model, _, number = model.partition("/")
    if not alias and not number:
        raise InputError(f"{name}: which one? {name}@champion, or {name}/1")
    with reachable(tracking.tracking_uri()):
        registry = Registry(tracking.tracking_uri())
        version = registry.aliased(model, alias) if alias else registry.version(model, number)
        if version is None:
            raise InputError(f"{name}: {model} has no {alias}; champions so far: {registry.champions(model)}")
    facts = [("registered model", f"{version.name}, version {version.number}")]
    facts += [(label, version.tags[tag]) for label, tag in WRITTEN if version.tags.get(tag)]
    return _tracked(version.run_id, folder, tuple(facts))


WRITTEN = (("decision", "decision"), ("because", "why"), ("word", "word"), ("reason", "reason"))


def _tracked(run_id: str, folder: Path, facts: tuple[tuple[str, str], ...]) -> Subject:
    """What MLflow knows of a run, and of the flow run above it."""
    from tasks.registry import Registry, reachable

    with reachable(tracking.tracking_uri()):
        run, parent = Registry(tracking.tracking_uri()).run(run_id)
    facts += (("MLflow run", f"{run.info.run_name}, {run_id}"),)
    if parent is not None:
        facts += (("MLflow parent", f"{parent.info.run_name}, {parent.info.run_id}"),)
    above = (parent or run).data.tags
    facts += tuple((label, above[tag]) for label, tag in LINKS if tag in above)
    is_stage = "stage" in run.data.tags
    recipe = run.data.tags["name"] if is_stage else above.get("recipe", "")
    branch = above.get("branch", "")
    revision = _commit(branch, folder) if branch else ""
    if branch and not revision:
        raise InputError(f"branch {branch} is not here; git fetch origin {branch}:{branch}")
    return Subject(
        recipe, revision, run.data.tags.get("stage", LAST_STAGE), facts, run_id if is_stage else ""
    )


LINKS = (("branch", "branch"), ("Prefect", "prefect.url"))


def tell(project: Project, what: Subject) -> Iterator[str]:
    """The chain, a line at a time."""
    for label, value in what.facts:
        yield f"{label:18}{value}"
    commit = what.revision or _git(project.folder, "rev-parse", "HEAD")
    yield f"{'git commit':18}{commit}{'' if what.revision else ', and what lies in the folder'}"
    _refuse_another(project, what)
    for address in reversed(project.chain(f"{what.last}@{what.recipe}")):
        stage, _, name = address.partition("@")
        yield ""
        yield address
        record = project.made(address, str(layout.record(name, stage))) if name else None
        if record:
            where = f"on {record['device']}, commit {record['git_commit']}"
            yield f"  ran               {record['seconds']:.0f} s {where}"
            yield f"  MLflow run        {record['mlflow_run_id'] or 'none: tracking was off'}"
        for section in project.stages[address].get("params", {}).values():
            for key, value in section.items():
                yield f"  {key}: {masked(json.dumps(value, ensure_ascii=False))}"
        yield from (f"  BUT {line}" for line in project.stale(address))
        for out in project.stages[address].get("outs", ()):
            yield f"  made              {out['path']}, {out.get('size', 0):,} bytes, md5 {out.get('md5', '')}"
        yield from _of_corpus(project, address) if stage == "ingest" else ()
        yield from _of_validation(project, address) if stage == "validate" else ()
    yield ""
    yield f"again             {again(what)}"


def _refuse_another(project: Project, what: Subject) -> None:
    """Where a run of MLflow is asked for, what lies here must be of that run."""
    address = f"{what.last}@{what.recipe}"
    record = project.made(address, str(layout.record(what.recipe, what.last))) if what.run_id else None
    if record and record.get("mlflow_run_id") != what.run_id:
        where = f"commit {what.revision[:12]}" if what.revision else "the folder"
        raise InputError(
            f"{address} in {where} is of another run of MLflow, {record.get('mlflow_run_id')}; look for "
            "the commit of dvc.lock that was made then (git log dvc.lock)"
        )


def _of_corpus(project: Project, address: str) -> Iterator[str]:
    name = address.partition("@")[2]
    manifest = project.made(address, str(layout.corpus(name) / "manifest.json")) or {}
    for source in manifest.get("sources", ()):
        yield f"  read              {source['location']}, {source.get('license') or NO_LICENCE}"
    for task, entry in manifest.get("tasks", {}).items():
        yield f"  labels            {task}, {entry.get('license') or NO_LICENCE}"
    files = (project.made(address, str(layout.listed(name))) or {}).get("files", [])
    for entry in files[:MOST_FILES]:
        yield f"  raw file          {entry['location']}, sha256 {entry.get('sha256', 'not known')}"
    if len(files) > MOST_FILES:
        yield f"  raw files         {len(files) - MOST_FILES} more, in {layout.listed(name)}"


def _of_validation(project: Project, address: str) -> Iterator[str]:
    found = project.made(address, str(layout.validated(address.partition("@")[2]) / "validation.json"))
    if found:
        unmet = [f"{check['slot']}.{check['column']}" for check in found["checks"] if not check["passed"]]
        met = f"{len(found['checks']) - len(unmet)} of {len(found['checks'])} expectations hold"
        yield f"  found             {met}{'; not: ' + ', '.join(unmet) if unmet else ''}"


def again(what: Subject) -> str:
    """The command that makes it anew."""
    target = f"dvc repro {what.last}@{what.recipe}"
    if not what.revision:
        return target
    place = f"../{what.recipe}-again"
    return f"git worktree add {place} {what.revision[:12]} && cd {place} && {target}"


def faults(project: Project, what: Subject) -> Iterator[str]:
    """What is missing here or no longer as it was: outputs, code, settings, raw files."""
    chain = project.chain(f"{what.last}@{what.recipe}")
    for address in tqdm(chain, desc="verify", unit=" stages", disable=None):
        stage = project.stages[address]
        for out in stage.get("outs", ()):
            yield from _output(project, address, out) if "md5" in out and address != "list" else ()
        yield from project.stale(address)
        yield from _sources(project, address.partition("@")[2]) if address.startswith("ingest@") else ()
        if not project.revision:
            yield from _code(project, address)


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


def md5_of_folder(folder: Path) -> str:
    """Of a folder of code, as DVC counts it: of the list of its files and their hashes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    entries = [{"md5": md5(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def md5(path: Path) -> str:
    """Of a file's bytes, as DVC counts it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _commit(name: str, folder: Path) -> str:
    """The commit of a branch, here or at a remote; empty where there is none."""
    listed = _git(
        folder, "for-each-ref", "--format=%(objectname)", f"refs/heads/{name}", f"refs/remotes/*/{name}"
    )
    return (listed.splitlines() or [""])[0]


def _git(folder: Path, *words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=folder, text=True).strip()


def main() -> int:
    """Command line; exit code 1 where something is missing or was changed."""
    parser = argparse.ArgumentParser(prog="python -m flows.trace", description=main.__doc__)
    parser.add_argument(
        "name", help="recipe, report, branch runs/..., models:/name@champion, or MLflow run id"
    )
    parser.add_argument("--verify", action="store_true", help="hash everything of it again")
    options = parser.parse_args()
    folder = Path.cwd()
    try:
        what = subject(options.name, folder)
        project = Project(folder, what.revision)
        if not options.verify:
            print("\n".join(tell(project, what)))
            return 0
        found = [*faults(project, what)]
    except InputError as error:
        sys.exit(f"trace: {error}")
    print("\n".join(found) or "all of it is here, and as it was")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
