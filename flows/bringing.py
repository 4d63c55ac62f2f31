"""One run from its sources to its end: what is out of date is made, shown, kept, and judged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime
from prefect.events import emit_event
from prefect.settings import PREFECT_UI_URL

from flows import chain, champion, lives, pages, promotion, sharing, turns, work, workspaces
from flows.forms import STAGES
from tasks import layout, tracking
from tasks.errors import InputError
from tasks.journal import Run


@dataclass(frozen=True)
class Wish:
    """What a run is to bring.

    Attributes:
        recipe: entry of params.yaml's recipes.
        until: last stage to run.
        project: folder of the project.
        redo_from: stage from which on all run even where nothing has changed.
        changes: other values for keys of params.yaml.
        is_apart: whether it works in a folder of its own.
        onward: whether to go on from the model in production, where there is something new to learn.
    """

    recipe: str
    project: Path
    until: str = STAGES[-1]
    redo_from: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    is_apart: bool = True
    onward: bool = False

    @property
    def target(self) -> str:
        """The last stage as DVC addresses it."""
        return f"{self.until}@{self.recipe}"


def bring(wish: Wish, turn: AbstractContextManager[None] | None = None) -> dict[str, str]:
    """Bring a recipe's results up to date; what became of each stage: ran, restored or unchanged.

    Args:
        wish: what is wanted.
        turn: held while stages run, and no longer while a person is asked.

    Raises:
        InputError: the wish cannot be met as it stands; says what to do.
        StageFailed: a stage did not end well.
    """
    _refuse(wish)
    with at_work({"recipe": wish.recipe}) as here:
        with turn or nullcontext():
            run = str(runtime.flow_run.id)
            start = champion.Start(wish.recipe, wish.project, run) if wish.onward else None
            if start is not None and start.is_settled:
                return {}
            with _place(wish, here.title, start.begun() if start else None) as folder:
                order = here.order(wish.target, folder)
                outcomes = chain.run(order, wish.redo_from)
                _publish(wish.recipe, folder, here, outcomes)
                if wish.is_apart:
                    found_nothing = not wish.changes and "ran" not in outcomes.values()
                    here.keep(wish.project, folder, wish.target, is_shared=found_nothing)
                decision = promotion.judged(wish.recipe, order) if wish.until == STAGES[-1] else None
        if decision:
            outcome = promotion.follow(replace(order, workspace=wish.project), decision)
            here.tracked.tags({"promotion": outcome})
            if outcome in promotion.OPEN:
                return outcomes  # the next tick asks again, where nobody does then
        if start is not None:
            start.settle()
    return outcomes


def _place(wish: Wish, title: str, weights: Path | None) -> AbstractContextManager[Path]:
    if wish.is_apart:
        return apart(wish.project, title, [wish.recipe], wish.changes, weights)
    return _in_place(wish.project, title)


@dataclass(frozen=True)
class Here:
    """The flow run that is under way.

    Attributes:
        title: its name.
        tracked: its run in MLflow.
        environment: of its processes.
    """

    title: str
    tracked: Run
    environment: dict[str, str] = field(repr=False)  # it may hold a password

    def order(self, address: str, folder: Path) -> work.Order:
        """To bring a stage up to date in a folder."""
        return work.Order(address, folder, self.environment, self.title)

    def keep(self, project: Path, folder: Path, what: str, *, is_shared: bool = False) -> None:
        """Commit what came out on a branch of this run, and say how to have it."""
        branch = workspaces.kept(project, folder, self.title, f"{self.title}: {what}", is_shared=is_shared)
        if branch:
            get = f"git checkout {branch} -- params.yaml dvc.lock && dvc checkout"
            get_run_logger().info("kept as branch %s; to have it in your folder: %s", branch, get)
            self.tracked.tags({"branch": branch})
            self._share(project, folder, branch, what.split())

    def _share(self, project: Path, folder: Path, branch: str, addresses: list[str]) -> None:
        try:
            if sharing.remote(project):
                sharing.share(project, self.order("", folder), branch, addresses, get_run_logger().info)
        except InputError as error:  # what was trained is here; a network that is away does not spoil it
            get_run_logger().error("%s", error)
            emit_event("unmask.run.unshared", pages.resource(branch), payload={"why": str(error)})


@contextmanager
def at_work(tags: dict[str, str]) -> Iterator[Here]:
    """The flow run that is under way, tracked, and known to be alive as long as its process lives."""
    run_id, asked = str(runtime.flow_run.id), runtime.flow_run.parameters
    title, address = str(runtime.flow_run.name), _address()
    every = {**tags, "prefect.flow_run_id": run_id, "prefect.url": address["UNMASK_FLOW_RUN_URL"]}
    with (
        lives.held(run_id, title, get_run_logger().info),
        tracking.flow_run(title, asked, run_id, tags=every) as run,
    ):
        yield Here(title, run, work.environment({**tracking.environment(run), **address}))


def _refuse(wish: Wish) -> None:
    if wish.changes and not wish.is_apart:
        raise InputError("other values are for runs in a folder of their own; edit params.yaml instead")
    if wish.redo_from and STAGES.index(wish.redo_from) > STAGES.index(wish.until):
        raise InputError(
            f"redo_from {wish.redo_from} comes after until {wish.until}; nothing would be done again"
        )


@contextmanager
def _in_place(project: Path, title: str) -> Iterator[Path]:
    """The project's own folder, where one run works at a time."""
    lock = project / ".dvc" / "tmp" / "unmask.lock"
    with turns.alone(lock, title, f"works in {project}", get_run_logger().info):
        yield project


@contextmanager
def apart(
    project: Path, title: str, recipes: Sequence[str], changes: Mapping[str, Any], weights: Path | None = None
) -> Iterator[Path]:
    """A folder of this run's own; where the run fails it stays, for another try.

    Args:
        project: the checkout that people work in.
        title: of the run.
        recipes: whose keys `changes` are.
        changes: other values for keys of params.yaml.
        weights: folder of an encoder to go on from.
    """
    sharing.remote(project)  # a misspelt one is refused before anything runs
    folder = workspaces.opened(project, str(runtime.flow_run.id), recipes, changes, weights)
    get_run_logger().info("%s works in %s", title, folder)
    yield folder
    workspaces.closed(project, folder)


def _address() -> dict[str, str]:
    return {
        "UNMASK_FLOW_RUN_ID": str(runtime.flow_run.id),
        "UNMASK_FLOW_RUN_URL": f"{PREFECT_UI_URL.value() or ''}/runs/flow-run/{runtime.flow_run.id}",
    }


def _publish(recipe: str, folder: Path, here: Here, outcomes: dict[str, str]) -> None:
    """One row for the whole run: what became of each stage, and the numbers that matter of all of them."""
    rows = []
    versions = _versions(folder)
    for address, outcome in outcomes.items():
        stage, _, name = address.partition("@")
        record = folder / layout.record(name, stage)
        facts = json.loads(record.read_text()) if record.exists() else {}
        seconds = f"{facts['seconds']:.1f}" if "seconds" in facts else ""
        rows.append({"stage": address, "outcome": outcome, "seconds": seconds})
        made_by = facts.get("mlflow_run_id")
        origin = "" if outcome == "ran" or not made_by else f", made by {made_by}"
        here.tracked.tags({f"stage.{address}": outcome + origin, **versions.get(address, {})})
        metrics = folder / layout.metrics(name, stage)
        if name == recipe and metrics.exists():
            numbers = json.loads(metrics.read_text())
            here.tracked.log({f"{stage}.{metric}": value for metric, value in numbers.items()}, 0)
    pages.summary(recipe, rows)
    pages.report(recipe, folder, here.title)


def _versions(folder: Path) -> dict[str, dict[str, str]]:
    """DVC's hashes of what each stage made, as tags."""
    from ruamel.yaml import YAML

    lock = folder / "dvc.lock"
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {}) if lock.exists() else {}
    return {
        address: {f"dvc.{out['path']}": out["md5"] for out in entry.get("outs", ()) if "md5" in out}
        for address, entry in stages.items()
    }
