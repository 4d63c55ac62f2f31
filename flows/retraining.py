"""Recurring training: a tick of a schedule, or an event that says that there is new data.

A tick that finds nothing new ends as "Nothing new". Ticks that were missed while the servers were
away, and events that come in a heap, end as "Superseded" or "Under way": one of them trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_client, runtime
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed

from flows.bringing import Wish, bring
from flows.forms import Recipe
from flows.pipeline import run_name

WAITING = ["Scheduled", "Late", "Pending", "AwaitingRetry"]
AT_WORK = ["Running", "Retrying", "Paused"]


@flow(name="retrain", flow_run_name=run_name, persist_result=False)
def retrain(recipe: Recipe, workspace: str | None = None) -> Any:
    """Look for new data of a recipe, and bring its results up to date where there is some.

    Args:
        recipe: Entry of params.yaml's recipes.
        workspace: Folder of the project; the current one where none is given.
    """
    if other := _other(recipe):
        return other
    outcomes = bring(Wish(recipe, Path(workspace or ".").absolute()))
    ran = [address for address, outcome in outcomes.items() if outcome == "ran"]
    if not ran:
        return Completed(name="Nothing new", message="No source and no setting has changed.")
    return Completed(message=f"made anew: {', '.join(ran)}")


def _other(recipe: str) -> Any:
    """The end of a run whose work another one does: an earlier one at work, or a later one that is due."""
    mine, deployment = runtime.flow_run.id, runtime.deployment.id
    if not deployment:
        return None
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=[*WAITING, *AT_WORK])),
            )
        )
        own = client.read_flow_run(mine)
    others = [run for run in runs if str(run.id) != str(mine) and run.parameters.get("recipe") == recipe]
    if first := next((run for run in others if run.state_name in AT_WORK and _before(run, own)), None):
        return Completed(name="Under way", message=f"{first.name} is at it.")
    if later := next(
        (run for run in others if run.state_name in ("Late", "Pending") and _before(own, run)), None
    ):
        return Completed(name="Superseded", message=f"{later.name} is due as well, and does the same.")
    return None


def _before(one: FlowRun, other: FlowRun) -> bool:
    """Whether a run came first; of two that were asked for at once, the one with the smaller id."""
    keys = [(run.expected_start_time or run.created, str(run.id)) for run in (one, other)]
    return bool(keys[0] < keys[1])
