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

RUN_ID = re.compile(r"[0-9a-f]{32}")
LAST_STAGE = "report"


@dataclass(frozen=True)
class Subject:
    """What is traced.

    Attributes:
        recipe: whose stages made it.
        revision: git's commit with its dvc.lock; empty for what lies in the folder.
        last: the stage that made it.
        facts: what is known of it beside, as label and value.
    """

    recipe: str
    revision: str = ""
    last: str = LAST_STAGE
    facts: tuple[tuple[str, str], ...] = ()


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

    def objects(self, out: Mapping[str, Any]) -> dict[str, str]:
        """Path and md5 of every file of an output; of a folder that the cache has lost, nothing."""
        if not out["md5"].endswith(".dir"):
            return {out["path"]: out["md5"]}
        listed = self.cached(out["md5"])
        if not listed.exists():
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
    from tasks.registry import Registry

    registry = Registry(tracking.tracking_uri())
    model, _, alias = name.removeprefix("models:/").partition("@")
    if alias:
        version = registry.aliased(model, alias)
        if version is None:
            raise InputError(f"{name}: {model} has no {alias}; champions so far: {registry.champions(model)}")
    else:
        model, _, number = model.partition("/")
        version = registry.version(model, number or None)
    facts = [("registered model", f"{version.name}, version {version.number}")]
    facts += [(label, version.tags[tag]) for label, tag in WRITTEN if version.tags.get(tag)]
    return _tracked(version.run_id, folder, tuple(facts))


WRITTEN = (("decision", "decision"), ("because", "why"), ("word", "word"), ("reason", "reason"))


def _tracked(run_id: str, folder: Path, facts: tuple[tuple[str, str], ...]) -> Subject:
    """What MLflow knows of a run, and of the flow run above it."""
    from tasks.registry import Registry

    run, parent = Registry(tracking.tracking_uri()).run(run_id)
    facts += (("MLflow run", f"{run.info.run_name}, {run_id}"),)
    stage, recipe = run.data.tags.get("stage", LAST_STAGE), run.data.tags.get("name", "")
    revision = ""
    if parent is not None:
        facts += (("MLflow parent", f"{parent.info.run_name}, {parent.info.run_id}"),)
        recipe = recipe or parent.data.tags.get("recipe", "")
        branch = parent.data.tags.get("branch", "")
        facts += tuple((label, parent.data.tags[tag]) for label, tag in LINKS if tag in parent.data.tags)
        revision = _commit(branch, folder) if branch else ""
        if branch and not revision:
            raise InputError(f"branch {branch} is not here; git fetch origin {branch}:{branch}")
    return Subject(recipe, revision, stage, facts)


LINKS = (("branch", "branch"), ("Prefect", "prefect.url"))


def tell(project: Project, what: Subject) -> Iterator[str]:
    """The chain, a line at a time."""
    for label, value in what.facts:
        yield f"{label:18}{value}"
    commit = what.revision or _git(project.folder, "rev-parse", "HEAD")
    yield f"{'git commit':18}{commit}{'' if what.revision else ', and what lies in the folder'}"
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
                yield f"  {key}: {json.dumps(value, ensure_ascii=False)}"
        for out in project.stages[address].get("outs", ()):
            yield f"  made              {out['path']}, {out.get('size', 0):,} bytes, md5 {out.get('md5', '')}"
        yield from _of_corpus(project, address) if stage == "ingest" else ()
        yield from _of_validation(project, address) if stage == "validate" else ()
    yield ""
    yield f"again             {again(what)}"


def _of_corpus(project: Project, address: str) -> Iterator[str]:
    name = address.partition("@")[2]
    manifest = project.made(address, str(layout.corpus(name) / "manifest.json"))
    sources = [*manifest["sources"]] if manifest else []
    for entry in (manifest or {}).get("tasks", {}).values():
        sources += entry.get("sources", [])
    for source in sources:
        terms = source.get("license") or "no licence given"
        yield f"  read              {source['location']}, {terms}, sha256 {source.get('sha256', '')}"


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
        yield from _sources(project, address.partition("@")[2]) if address.startswith("ingest@") else ()
        if not project.revision:
            yield from _code(project, address)


def _output(project: Project, address: str, out: Mapping[str, Any]) -> Iterator[str]:
    files = project.objects(out)
    if not files:
        yield f"{out['path']}: not in the cache here; dvc pull {address}, or make it again"
    elif out["md5"].endswith(".dir") and md5(project.cached(out["md5"])) + ".dir" != out["md5"]:
        yield f"{out['path']}: the cache's list of its files was changed ({project.cached(out['md5'])})"
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
        if before.get(location) != after.get(location):
            was = "gone" if location not in after else "new" if location not in before else "changed"
            yield f"{location}: {was} since {corpus} was read"
    for package in sorted(known.get("packages", {}).items() ^ now.get("packages", {}).items()):
        yield f"{package[0]} {package[1]}: another version since {corpus} was read"


def _code(project: Project, address: str) -> Iterator[str]:
    """Code and settings that are not those the stage ran with."""
    made = {out["path"] for stage in project.stages.values() for out in stage.get("outs", ())}
    for dep in project.stages[address].get("deps", ()):
        path = project.folder / dep["path"]
        if {dep["path"], *map(str, Path(dep["path"]).parents)} & made or not path.is_file():
            continue  # folders of code are git's to compare
        if md5(path) != dep["md5"]:
            yield f"{dep['path']}: changed since {address} ran"


def md5(path: Path) -> str:
    """Of a file's bytes, as DVC counts it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _commit(name: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"refs/heads/{name}"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()


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
