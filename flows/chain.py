"""The stages of a recipe as tasks of a flow, as far as DVC finds them out of date.

DVC alone decides what is up to date; nothing is cached here. Every stage is a process under a
supervisor, so that cancelling, a time limit, or the death of this process reaches the training.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from flows import lives, pages, stages, work
from flows.forms import STAGES
from tasks import layout


def run(order: work.Order, redo_from: str | None = None) -> dict[str, str]:
    """Run what is out of date. Once DVC was asked for a stage, only it knows what that means for the rest.

    Args:
        order: the last stage wanted, and where.
        redo_from: stage from which on all run even where nothing has changed.

    Returns:
        What became of each stage: ran, restored or unchanged.

    Raises:
        StageFailed: a stage did not end well.
    """
    outcomes: dict[str, str] = {}
    is_open = False
    redone = lives.file(str(runtime.flow_run.id)).with_suffix(".redone")  # by an earlier try of this run
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
    # without tags: Prefect asks its server for a limit of each, and where SQLite is busy waits for 2 s
    options = run_stage.with_options(name=stage)
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
