"""Flows against real servers: what runs, what is cached, what is retried, what a cancel leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from tests.flows.conftest import Project, wait_until

pytestmark = pytest.mark.servers


def task_states(project: Project, flow_run_id: str) -> dict[str, str]:
    runs = project.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
    return {run["name"]: run["state"]["name"] for run in runs}


def newest_flow_run(project: Project) -> dict[str, Any]:
    return dict(project.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0])


def test_versions_that_are_installed_together_can_start_the_server() -> None:
    program = "import prefect.server.api.server as server; print(server.API_TITLE)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_second_run_is_cached_and_both_are_seen_in_both_servers(project: Project) -> None:
    code, said = project.run("toy")
    assert code == 0, said
    assert "step 3/3 loss 0.333" in said
    first = newest_flow_run(project)
    assert set(task_states(project, first["id"]).values()) == {"Completed"}
    artifacts = project.ask("artifacts/filter", {})
    assert {"progress-pretrain-toy", "report-toy", "stages-toy", "toy-views"} <= {
        artifact["key"] for artifact in artifacts
    }

    code, said = project.run("toy")
    assert code == 0, said
    second = newest_flow_run(project)
    states = task_states(project, second["id"])
    assert states == {
        "look": "Completed",
        "ingest@a": "Cached",
        "pretrain@toy": "Cached",
        "finetune@toy": "Cached",
        "report@toy": "Cached",
    }
    assert project.tried("pretrain@toy") == 1

    def children() -> list[Any]:
        parents = project.mlflow.runs(f"tags.`prefect.flow_run_id` = '{first['id']}'")
        wanted = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'" if parents else "tags.x = 'none'"
        return [run for run in project.mlflow.runs(wanted) if run.info.status == "FINISHED"]

    (child,) = wait_until(children)
    assert child.info.run_name == "pretrain@toy"
    assert child.data.metrics["loss"] == pytest.approx(1 / 3)
    reused = f"tags.`prefect.flow_run_id` = '{second['id']}' AND attributes.status = 'FINISHED'"
    (again,) = wait_until(lambda: project.mlflow.runs(reused))
    assert again.data.tags["stage.pretrain_toy"] == f"unchanged, made by {child.info.run_id}"
    assert again.data.metrics["pretrain.loss"] == pytest.approx(1 / 3)


def test_new_data_reaches_every_stage(project: Project) -> None:
    assert project.run("toy", "--until", "pretrain")[0] == 0
    (project.folder / "raw.txt").write_text("two")
    try:
        code, said = project.run("toy", "--until", "pretrain")
    finally:
        (project.folder / "raw.txt").write_text("one")
    assert code == 0, said
    assert (project.tried("ingest@a"), project.tried("pretrain@toy")) == (2, 2)


def test_failed_validation_is_not_tried_again_and_its_exit_code_is_kept(project: Project) -> None:
    code, said = project.run("broken")
    assert code == 3
    assert "hard expectation" in said
    assert project.tried("pretrain@broken") == 1
    assert newest_flow_run(project)["state"]["name"] == "Failed"


def training_of(project: Project) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if command[-3:] == ["stage.py", "pretrain", "slow"] and process.info["cwd"].startswith(
            str(project.folder)
        ):
            return process
    return None


def under_way(project: Project) -> psutil.Process | None:
    return training_of(project) if (project.folder / "step.txt").exists() else None


def test_run_from_the_page_survives_a_killed_training_and_ends_when_cancelled(project: Project) -> None:
    flow_run = project.begin("train", recipe="slow", until="pretrain")
    first = wait_until(lambda: under_way(project), 60)
    (project.folder / "step.txt").unlink()
    first.kill()
    second = wait_until(lambda: under_way(project))
    assert project.tried("pretrain@slow") == 2

    project.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: not second.is_running(), 10)
    assert int((project.folder / "checkpoint.txt").read_text()) > 0
    wait_until(lambda: project.ask(f"flow_runs/{flow_run}")["state"]["name"] == "Cancelled")

    killed = "tags.stage_key = 'key-of-slow' AND attributes.status = 'KILLED'"
    (run,) = wait_until(lambda: project.mlflow.runs(killed))
    steps = [metric.step for metric in project.mlflow.client().get_metric_history(run.info.run_id, "loss")]
    assert steps == sorted(set(steps)), "the second try said nothing twice"


def test_page_refuses_a_recipe_that_does_not_exist(project: Project) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        project.begin("train", recipe="tyo")
    assert b"tyo" in refusal.value.read()


def test_flow_that_is_killed_takes_its_training_along(project: Project) -> None:
    flow = project.start("-m", "flows.pipeline", "slow", "--until", "pretrain")
    training = wait_until(lambda: under_way(project))
    flow.kill()
    flow.communicate()
    wait_until(lambda: not training.is_running(), 5)
    assert (project.folder / "checkpoint.txt").exists()


def test_page_form_offers_the_recipes(project: Project) -> None:
    program = (
        "import json; from flows.pipeline import pipeline;"
        "print(json.dumps(pipeline.parameters.model_dump()['properties']))"
    )
    form = json.loads(
        subprocess.check_output([sys.executable, "-c", program], cwd=project.folder, env=project.environment)
    )
    assert form["recipe"]["enum"] == ["toy", "slow", "broken", "other", "notes"]
    assert form["recipe"]["description"] == "Entry of params.yaml's recipes."
    assert "report" in form["until"]["enum"]


def test_runs_at_once_keep_their_own_values_and_the_twin_takes_the_others_result(project: Project) -> None:
    """Four runs, two of them of one kind: three trainings, and nobody's values in another's result."""
    wanted: list[dict[str, Any]] = [
        {"pretrain.steps": 4},
        {"pretrain.steps": 5},
        {"pretrain.steps": 6, "encoder": "other"},
    ]
    wanted.append(wanted[0])
    runs = [project.begin("train", recipe="toy", until="pretrain", changes=changes) for changes in wanted]
    for run, changes in zip(project.ended(*runs), wanted, strict=True):
        assert run["state"]["name"] == "Completed", run["state"]["message"]
        assert project.values(run) == {str(changes["pretrain.steps"])}
    assert project.tried("pretrain@toy") == 3
    assert not list((project.folder / "scratch" / "worktrees").glob("*"))
    params = YAML(typ="safe").load(project.folder / "params.yaml")
    assert params["recipes"]["toy"]["pretrain"]["steps"] == 3, "the project's own file stays"


def test_misspelt_change_is_refused_before_anything_runs(project: Project) -> None:
    code, said = project.run("toy", "--set", "pretrain.stepz=5")
    assert code == 1
    assert "recipes.toy.pretrain.stepz: unknown key 'stepz'; did you mean 'steps'?" in said
    assert not (project.folder / "tried.txt").exists()
    assert not list((project.folder / "scratch" / "worktrees").glob("*"))
