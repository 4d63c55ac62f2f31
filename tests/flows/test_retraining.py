"""Ticks and events: new data trains once, nothing new ends at once, and the lost are found."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.flows.conftest import Project, wait_until
from tests.flows.test_pipeline import newest_flow_run, under_way

pytestmark = pytest.mark.servers


def test_new_data_trains_and_nothing_new_ends_at_once(project: Project) -> None:
    states = []
    for content in ("one", "one", "three"):
        if (project.folder / "raw.txt").read_text() != content:
            (project.folder / "raw.txt").write_text(content)
        (run,) = project.ended(project.begin("retrain", recipe="toy"))
        states.append(run["state"]["name"])
    (project.folder / "raw.txt").write_text("one")
    assert states == ["Completed", "Nothing new", "Completed"]
    assert project.tried("pretrain@toy") == 2
    branches = subprocess.check_output(
        ["git", "-C", str(project.folder), "branch", "--list", "runs/toy-*"], text=True
    )
    assert len(branches.splitlines()) >= 2


def test_of_ticks_in_a_heap_one_trains(project: Project) -> None:
    runs = project.ended(*(project.begin("retrain", recipe="toy") for _ in range(4)))
    names = sorted(run["state"]["name"] for run in runs)
    assert project.tried("pretrain@toy") == 1
    assert set(names) <= {"Completed", "Under way", "Superseded", "Nothing new"}, names
    assert "Completed" in names


def test_event_starts_retraining(project: Project) -> None:
    before = {run["id"] for run in project.ask("flow_runs/filter", {})}
    subprocess.run(
        [sys.executable, "-m", "flows.keeper", "toy"], cwd=project.folder, env=project.environment, check=True
    )

    def new() -> list[Any]:
        return [run for run in project.ask("flow_runs/filter", {}) if run["id"] not in before]

    (run,) = wait_until(new)
    assert run["parameters"] == {"recipe": "toy"}
    assert project.ended(run["id"])[0]["state"]["name"] in ("Completed", "Nothing new")


def soonest(deployment: str) -> dict[str, Any]:
    """A question for the next run that a deployment's schedules have set."""
    wanted = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    return {
        "flow_runs": wanted,
        "deployments": {"id": {"any_": [deployment]}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": 1,
    }


def test_schedule_that_was_switched_on_stays_on_when_deployed_again(project: Project) -> None:
    def schedule() -> dict[str, Any]:
        (found,) = project.ask("deployments/name/retrain/retrain")["schedules"]
        return dict(found)

    assert not schedule()["active"], "schedules are off until somebody switches them on"
    deployment = project.ask("deployments/name/retrain/retrain")["id"]
    project.patch(f"deployments/{deployment}/schedules/{schedule()['id']}", {"active": True})
    subprocess.run(
        [sys.executable, "-m", "flows.deploy"], cwd=project.folder, env=project.environment, check=True
    )
    try:
        assert schedule()["active"]
        assert schedule()["schedule"]["cron"] == "0 3 * * *"
        (first,) = wait_until(lambda: project.ask("flow_runs/filter", soonest(deployment)), 120)
        assert first["expected_start_time"][11:16] == "03:00"
    finally:
        project.patch(f"deployments/{deployment}/schedules/{schedule()['id']}", {"active": False})


def test_run_that_died_without_a_word_is_marked_and_can_be_retried(project: Project) -> None:
    flow = project.start("-m", "flows.pipeline", "slow", "--until", "pretrain")
    wait_until(lambda: under_way(project))
    run = newest_flow_run(project)["id"]
    flow.kill()
    flow.communicate()
    found = wait_until(lambda: _crashed(project, run), 240)
    assert "Retry goes on from the checkpoint" in found["state"]["message"]


def _crashed(project: Project, run: str) -> Any:
    found = project.ask(f"flow_runs/{run}")
    return found if found["state"]["name"] == "Crashed" else None
