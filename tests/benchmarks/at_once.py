"""Many runs at once, lap after lap, on PostgreSQL: is anything mixed or lost? `python -m tests.benchmarks.at_once`.

    python -m tests.benchmarks.at_once --runs 8 --laps 10
    python -m tests.benchmarks.at_once --runs 4 --laps 1 --steps 600 --restart    # both servers killed on the way

Each run changes `pretrain.steps`, and each by another number; `steps` lines of log and as many values of the
loss follow. A run is as it should be where its branch's params.yaml, its dvc.lock, its model and its MLflow
run say that number, where MLflow has every value and Prefect every line.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.outages import killed, of_family, on_postgres
from tests.flows.conftest import Project, answers, wait_until
from tests.flows.test_pipeline import under_way

PATIENCE = 900.0
LATE = 240.0  # seconds until MLflow and Prefect have the last line


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.at_once", description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--laps", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="of the first run; each other has one more")
    parser.add_argument(
        "--restart", action="store_true", help="kill both servers while the runs are under way"
    )
    options = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as folder, on_postgres(Path(folder)) as project:
        for lap in range(options.laps):
            first = options.steps + lap * options.runs
            began = time.monotonic()
            found = tried(project, range(first, first + options.runs), restart=options.restart)
            wrong += found
            print(
                f"lap {lap + 1}: {time.monotonic() - began:.0f} s, {'; '.join(found) or 'all right'}",
                flush=True,
            )
    print(f"{options.laps * options.runs} runs, {len(wrong)} of them mixed, lost or failed")


def tried(project: Project, wanted: range, *, restart: bool) -> list[str]:
    """What is wrong with runs of so many steps, begun together."""
    change = "pretrain.steps"
    runs = [
        project.begin("train", recipe="slow" if restart else "toy", until="pretrain", changes={change: steps})
        for steps in wanted
    ]
    if restart:
        wait_until(lambda: under_way(project), PATIENCE)
        without_servers(project)
    ended = project.ended(*runs, seconds=PATIENCE)
    return [
        told for run, steps in zip(ended, wanted, strict=True) if (told := complaint(project, run, steps))
    ]


def without_servers(project: Project) -> None:
    """Kill -9 of both; they are started again."""
    for words in ("flows.pages_server", "mlflow server"):
        killed(of_family(words))(project, 0.0)
    time.sleep(1)  # until their ports are free
    wait_until(lambda: answers(f"{project.api}/health") and answers(f"{project.mlflow.uri}/health"), PATIENCE)


def complaint(project: Project, run: dict[str, Any], steps: int) -> str:
    """What is wrong with a run; nothing where all is right."""
    if run["state"]["name"] != "Completed":
        return f"{run['name']}: {run['state']['name']}, {run['state']['message']}"
    recipe = run["parameters"]["recipe"]
    if (values := project.values(run, recipe)) != {str(steps)}:
        return f"{run['name']}: {steps} wanted, {values} found"
    try:
        wait_until(lambda: tracked(project, run) == (str(steps), steps), LATE)
    except AssertionError:
        return f"{run['name']}: {steps} wanted, MLflow has {tracked(project, run)}"
    try:
        wait_until(lambda: lines(project, run) == steps, LATE)
    except AssertionError:
        return f"{run['name']}: {lines(project, run)} of {steps} lines in Prefect"
    return ""


def tracked(project: Project, run: dict[str, Any]) -> tuple[str, int]:
    """`steps` of the training in MLflow, and how many values of its loss are there."""
    found = project.mlflow.runs(f"tags.`prefect.flow_run_id` = '{run['id']}' and tags.stage = 'pretrain'")
    if len(found) != 1:
        return f"{len(found)} runs", 0
    return found[0].data.params["steps"], len(
        project.mlflow.client().get_metric_history(found[0].info.run_id, "loss")
    )


def lines(project: Project, run: dict[str, Any]) -> int:
    """How many lines of the training Prefect has."""
    asked: dict[str, Any] = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"}
    found: list[str] = []
    while page := project.ask("logs/filter", asked | {"offset": len(found)}):
        found += [line["message"] for line in page]
    return sum("loss" in line for line in found)


if __name__ == "__main__":
    main()
