"""One run from its sources to its end: what is out of date is made, shown, kept, and judged.

DVC alone decides what is up to date; nothing is cached here. Every stage is a process under a
supervisor, so that cancelling, a time limit, or the death of this process reaches the training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.settings import PREFECT_UI_URL
from prefect.states import Completed

from flows import pages, promotion, stages, turns, work, workspaces
from flows.forms import STAGES
from tasks import layout, tracking
from tasks.errors import InputError

ALIVE = "flows"  # folder of files that flow runs hold while their process lives


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
    """

    recipe: str
    project: Path
    until: str = STAGES[-1]
    redo_from: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    is_apart: bool = True

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
    title = str(runtime.flow_run.name or wish.recipe)
    flow_run_id, asked = str(runtime.flow_run.id), runtime.flow_run.parameters
    alive = turns.alone(_alive(flow_run_id), title, "is this very run", get_run_logger().info)
    with alive, tracking.flow_run(title, asked, flow_run_id, tags=_tags(wish.recipe)) as run:
        env = work.environment({**tracking.environment(run), **_address()})
        place = _apart(wish, title) if wish.is_apart else _here(wish, title)
        with turn or nullcontext(), place as folder:
            order = work.Order(wish.target, folder, env, title)
            outcomes = _stages(order, wish.redo_from)
            _publish(wish.recipe, folder, run, outcomes)
            if wish.is_apart and (branch := _keep(wish, folder, title, outcomes)):
                run.tags({"branch": branch})
            decision = promotion.judged(wish.recipe, order) if wish.until == STAGES[-1] else None
        if decision:
            run.tags({"promotion": promotion.follow(replace(order, workspace=wish.project), decision)})
    return outcomes


def _refuse(wish: Wish) -> None:
    if wish.changes and not wish.is_apart:
        raise InputError("other values are for runs in a folder of their own; edit params.yaml instead")
    if wish.redo_from and STAGES.index(wish.redo_from) > STAGES.index(wish.until):
        raise InputError(
            f"redo_from {wish.redo_from} comes after until {wish.until}; nothing would be done again"
        )


def _alive(flow_run_id: str) -> Path:
    """The file that a flow run holds while its process lives."""
    return layout.scratch() / ALIVE / flow_run_id


@contextmanager
def _here(wish: Wish, title: str) -> Iterator[Path]:
    """The project's own folder, where one run works at a time."""
    lock = wish.project / ".dvc" / "tmp" / "unmask.lock"
    with turns.alone(lock, title, f"works in {wish.project}", get_run_logger().info):
        yield wish.project


@contextmanager
def _apart(wish: Wish, title: str) -> Iterator[Path]:
    """A folder of this run's own; where the run fails it stays, for another try."""
    folder = workspaces.opened(wish.project, str(runtime.flow_run.id), wish.recipe, wish.changes)
    get_run_logger().info("%s works in %s", title, folder)
    yield folder
    workspaces.closed(wish.project, folder)


def _keep(wish: Wish, folder: Path, title: str, outcomes: dict[str, str]) -> str:
    is_shared = not wish.changes and "ran" not in outcomes.values()  # a tick that found nothing new
    branch = workspaces.kept(wish.project, folder, title, f"{title}: {wish.target}", is_shared=is_shared)
    if branch:
        here = f"git checkout {branch} -- params.yaml dvc.lock && dvc checkout"
        get_run_logger().info("kept as branch %s; to have it in your folder: %s", branch, here)
    return branch


def _stages(order: work.Order, redo_from: str | None) -> dict[str, str]:
    """Run what is out of date. Once DVC was asked for a stage, only it knows what that means for the rest."""
    outcomes: dict[str, str] = {}
    is_open = False
    redone = _alive(str(runtime.flow_run.id)).with_suffix(".redone")  # by an earlier try of this run
    done = set(redone.read_text().split()) if redone.exists() else set()
    for address, found in look(order).items():
        stage, _, name = address.partition("@")
        forced = (
            redo_from is not None and STAGES.index(stage) >= STAGES.index(redo_from) and address not in done
        )
        known = None if is_open or forced or found == "stale" else found
        outcomes[address] = _task(stage, name, replace(order, address=address, force=forced), known)
        is_open = is_open or known is None
        if forced:
            with redone.open("a") as file:
                file.write(f"{address}\n")
    return outcomes


@task(task_run_name="look", cache_policy=NO_CACHE, persist_result=False)
def look(order: work.Order) -> dict[str, stages.Found]:
    """List the sources, ask DVC which stages are out of date, and take from its cache what it has."""
    log = get_run_logger()
    found = work.look(order, log.info)
    log.info("to run: %s", ", ".join(name for name, state in found.items() if state == "stale") or "nothing")
    return found


def _task(stage: str, name: str, order: work.Order, known: str | None) -> str:
    options = run_stage.with_options(name=stage, tags={stage, name})
    return str(options(order.address, order, known, return_state=True).result())


def _worth_another_try(_: Any, __: Any, state: State) -> bool:
    try:
        state.result()
    except work.StageFailed as failure:
        return failure.may_pass_next_time
    except Exception:
        return False
    return False


@task(
    task_run_name="{address}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=_worth_another_try,
)
def run_stage(address: str, order: work.Order, known: str | None) -> Any:
    """Bring one stage of DVC up to date and show what it says; `known` says that nothing is to be done."""
    if known is not None:
        return Completed(name="Cached", message=f"DVC: {known}.", data=known)
    log = get_run_logger()
    progress = pages.Progress(address)

    def hear(line: str) -> None:
        log.info(line)
        progress.hear(line)

    stage, _, name = address.partition("@")
    try:
        outcome = work.run(order, hear)
    finally:
        progress.close()
        if stage == "validate":
            pages.validation(name, order.workspace)
    if outcome != "ran":
        return Completed(name="Cached", message=f"DVC: {outcome}.", data=outcome)
    _tell_of_guard(stage, name, order.workspace)
    return outcome


def _tell_of_guard(stage: str, recipe: str, folder: Path) -> None:
    """An event for each time that the guard of collapse acted; automations can pass it on."""
    losses = folder / layout.run(recipe, stage) / "losses.json"
    for entry in json.loads(losses.read_text()).get("decisions", ()) if losses.exists() else ():
        emit_event("unmask.guard.acted", pages.resource(f"{stage}@{recipe}"), payload=entry)


def _tags(recipe: str) -> dict[str, str]:
    address = _address()
    return {
        "recipe": recipe,
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "prefect.url": address["UNMASK_FLOW_RUN_URL"],
    }


def _address() -> dict[str, str]:
    return {
        "UNMASK_FLOW_RUN_ID": str(runtime.flow_run.id),
        "UNMASK_FLOW_RUN_URL": f"{PREFECT_UI_URL.value() or ''}/runs/flow-run/{runtime.flow_run.id}",
    }


def _publish(recipe: str, folder: Path, run: Any, outcomes: dict[str, str]) -> None:
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
        run.tags({f"stage.{address}": outcome + origin, **versions.get(address, {})})
        metrics = folder / layout.metrics(name, stage)
        if name == recipe and metrics.exists():
            numbers = json.loads(metrics.read_text())
            run.log({f"{stage}.{metric}": value for metric, value in numbers.items()}, 0)
    pages.summary(recipe, rows)
    pages.report(recipe, folder)


def _versions(folder: Path) -> dict[str, dict[str, str]]:
    """DVC's hashes of what each stage made, as tags."""
    from ruamel.yaml import YAML

    lock = folder / "dvc.lock"
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {}) if lock.exists() else {}
    return {
        address: {f"dvc.{out['path']}": out["md5"] for out in entry.get("outs", ()) if "md5" in out}
        for address, entry in stages.items()
    }
