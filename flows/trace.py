"""Where a model, a run or a report comes from, back to the raw files; and whether all of it is as it was.

    python -m flows.trace notes                        # what lies in runs/notes
    python -m flows.trace models:/notes@champion       # what is served
    python -m flows.trace runs/notes-swift-otter       # a run that worked in a folder of its own
    python -m flows.trace --verify notes               # hash everything again

Everything told here stands in dvc.lock, in DVC's cache, in git and in MLflow; nothing is kept for this.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows import workspaces
from flows.past import Project
from flows.verify import faults, registered_faults
from tasks import layout, params, tracking
from tasks.errors import InputError, unknown
from tasks.journal import masked

if TYPE_CHECKING:
    from tasks.registry import Version

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
        version: of a registered model, where that is what was asked for.
    """

    recipe: str
    revision: str = ""
    last: str = LAST_STAGE
    facts: tuple[tuple[str, str], ...] = ()
    run_id: str = ""
    version: Version | None = None

    @property
    def address(self) -> str:
        """The last stage as DVC addresses it."""
        return f"{self.last}@{self.recipe}"


def subjects(name: str, folder: Path) -> list[Subject]:
    """What a name means: a recipe, a report, a branch, a run or a registered model of MLflow.

    The branch of a comparison holds several recipes, everything else one.

    Raises:
        InputError: nothing is known by that name.
    """
    if name.startswith("models:/"):
        return [_registered(name, folder)]
    if RUN_ID.fullmatch(name):
        return _tracked(name, folder, ())
    if name.startswith("runs/") and (found := _commit(name, folder)):
        kept = workspaces.git(folder, "log", "-1", "--format=%s", found).partition(": ")[2]
        parts = [address.partition("@") for address in kept.split() if "@" in address]
        if not parts:
            raise InputError(
                f"{name}: its last commit is of no run; name the commit by which the run kept it"
            )
        return [Subject(recipe, found, last, (("branch", name),)) for last, _, recipe in parts]
    recipe = Path(name).parts[1] if name.startswith("runs/") and len(Path(name).parts) > 1 else name
    recipes = params.read_yaml(folder / "params.yaml").get("recipes", {})
    if recipe not in recipes:
        raise InputError(unknown("recipe, report, branch runs/..., models:/... or MLflow run", name, recipes))
    return [Subject(recipe)]


def champion(name: str, folder: Path) -> Subject | None:
    """The model in production by that name; None where there is none yet."""
    from tasks.registry import CHAMPION, Registry, reachable

    with reachable(tracking.tracking_uri()):
        version = Registry(tracking.tracking_uri()).aliased(name, CHAMPION)
    return _registered(f"models:/{name}/{version.number}", folder) if version else None


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
    return replace(_tracked(version.run_id, folder, tuple(facts))[0], version=version)


WRITTEN = (("decision", "decision"), ("because", "why"), ("word", "word"), ("reason", "reason"))


def _tracked(run_id: str, folder: Path, facts: tuple[tuple[str, str], ...]) -> list[Subject]:
    """What MLflow knows of a run, and of the flow run above it."""
    from tasks.registry import Registry, reachable

    with reachable(tracking.tracking_uri()):
        run, parent = Registry(tracking.tracking_uri()).run(run_id)
    facts += (("MLflow run", f"{run.info.run_name}, {run_id}"),)
    if parent is not None:
        facts += (("MLflow parent", f"{parent.info.run_name}, {parent.info.run_id}"),)
    above = (parent or run).data.tags
    facts += tuple((label, above[tag]) for label, tag in LINKS if tag in above)
    stage = run.data.tags.get("stage", "")
    branch = above.get("branch", "")
    revision = _commit(branch, folder) if branch else ""
    if branch and not revision:
        raise InputError(f"branch {branch} is not here; git fetch origin {branch}:{branch}")
    if stage and stage != tracking.COMPARED:
        return [Subject(run.data.tags["name"], revision, stage, facts, run_id)]
    if stage:
        recipes = [run.data.tags["name"]]
    else:
        recipes = [what.recipe for what in subjects(branch, folder)] if branch else above["recipe"].split()
    return [Subject(recipe, revision, facts=facts) for recipe in recipes]


LINKS = (("branch", "branch"), ("Prefect", "prefect.url"))


def tell(project: Project, what: Subject) -> Iterator[str]:
    """The chain, a line at a time."""
    for label, value in what.facts:
        yield f"{label:18}{value}"
    commit = what.revision or workspaces.git(project.folder, "rev-parse", "HEAD")
    yield f"{'git commit':18}{commit}{'' if what.revision else ', and what lies in the folder'}"
    refuse_another(project, what)
    for address in reversed(project.chain(what.address)):
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


def refuse_another(project: Project, what: Subject) -> None:
    """Where a run of MLflow is asked for, what lies here must be of that run."""
    record = project.made(what.address, str(layout.record(what.recipe, what.last))) if what.run_id else None
    if what.run_id and (record or {}).get("mlflow_run_id") != what.run_id:
        where = f"commit {what.revision[:12]}" if what.revision else "the folder"
        raise InputError(
            f"{what.address} in {where} is not of that run of MLflow; look for "
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
    target = f"dvc repro {what.address}"
    if not what.revision:
        return target
    place = f"../{what.recipe}-again"
    return f"python -m flows.workspaces {what.revision[:12]} {place} && cd {place} && {target}"


def _commit(name: str, folder: Path) -> str:
    """The commit of a branch, here or at a remote; empty where there is none."""
    listed = workspaces.git(
        folder, "for-each-ref", "--format=%(objectname)", f"refs/heads/{name}", f"refs/remotes/*/{name}"
    )
    return (listed.splitlines() or [""])[0]


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
        every = subjects(options.name, folder)
        project = Project(folder, every[0].revision)
        if not options.verify:
            print("\n\n".join("\n".join(tell(project, what)) for what in every))
            return 0
        found: list[str] = []
        for what in every:
            refuse_another(project, what)
            found += faults(project, what.address)
            if what.version:
                from tasks.registry import reachable

                with reachable(tracking.tracking_uri()):
                    found += registered_faults(project, what.recipe, what.version)
    except InputError as error:
        sys.exit(f"trace: {error}")
    print("\n".join(dict.fromkeys(found)) or "all of it is here, and as it was")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
