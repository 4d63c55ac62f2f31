"""What running through Prefect costs: `python -m tests.benchmarks.operations`.

A project of seven stages that take no time, under a real `make ui`; medians over laps. Each lap is done once
by `dvc repro` alone and once as a flow, in turns.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.flows import toy
from tests.flows.conftest import Project, serving, wait_until
from tests.flows.test_pipeline import under_way

MORE_STAGES = """
  validate:
    cmd: mkdir checked && cp data/corpora/a/rows checked
    deps: [data/corpora/a]
    outs: [checked]
  prepare:
    cmd: mkdir prepared && cp checked/rows prepared
    deps: [checked]
    outs: [prepared]
  adapt:
    cmd: mkdir adapted && cp runs/toy/pretrain/model adapted
    deps: [runs/toy/pretrain]
    outs: [adapted]
"""
LINKS = (  # so that the toy's chain is as long as a recipe's
    ("deps: [data/corpora/a, stage.py]", "deps: [prepared, stage.py]"),
    ('deps: ["runs/${key}/pretrain", "data/corpora/${item}"]', "deps: [adapted]"),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.operations", description=__doc__)
    parser.add_argument("--laps", type=int, default=5)
    laps = parser.parse_args().laps
    dvc = toy.DVC
    for old, new in LINKS:
        assert old in dvc, old
        dvc = dvc.replace(old, new)
    toy.DVC = dvc.rstrip() + MORE_STAGES
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with serving(Path(folder) / "project") as project:
            tell("make ui is up", [time.monotonic() - began])
            tell("memory of make ui, idle, GB", [idle_memory(project)])
            measure(project, laps)


def measure(project: Project, laps: int) -> None:
    """Print the figures of a project that is served."""
    figures: dict[str, list[float]] = {}
    for lap in range(laps):
        alone = plain(project)
        whole, to_running = flow(project, recipe="toy", apart=False, changes={})
        again, _ = flow(project, recipe="toy", apart=False, changes={})
        apart, _ = flow(project, recipe="toy", apart=True, changes={})
        seconds = {
            "dvc repro, all stages run": alone,
            "flow, all stages run": whole,
            "flow's own overhead": whole - alone,
            "flow, everything cached": again,
            "flow in a folder of its own, everything cached": apart,
            "dvc repro, nothing to do": repro(project),
            "click to Running": to_running,
            **cancel(project),
        }
        for name, value in seconds.items():
            figures.setdefault(name, []).append(value)
        print(f"lap {lap + 1} of {laps} done", file=sys.stderr)
    for name, values in figures.items():
        tell(name, values)


def tell(name: str, values: list[float]) -> None:
    """One line: median, smallest, largest."""
    print(f"{name:50}{statistics.median(values):8.2f}   [{min(values):.2f} to {max(values):.2f}]", flush=True)


def clean(project: Project) -> None:
    """Back to where nothing has run."""
    project.forget()
    for name in ("checked", "prepared", "adapted"):
        shutil.rmtree(project.folder / name, ignore_errors=True)


def plain(project: Project) -> float:
    """Seconds of `dvc repro` where all stages run."""
    clean(project)
    seconds = repro(project)
    clean(project)
    return seconds


def repro(project: Project) -> float:
    """Seconds of `dvc repro`."""
    began = time.monotonic()
    command = [sys.executable, "-m", "dvc", "repro", "-q", "report@toy"]
    subprocess.run(command, cwd=project.folder, env=project.environment, check=True)
    return time.monotonic() - began


def flow(project: Project, **parameters: Any) -> tuple[float, float]:
    """Seconds from Running to Completed, and from the click to Running."""
    (run,) = project.ended(project.begin("train", **parameters))
    assert run["state"]["name"] == "Completed", run["state"]["message"]
    created, start, end = (datetime.fromisoformat(run[key]) for key in ("created", "start_time", "end_time"))
    return (end - start).total_seconds(), (start - created).total_seconds()


def cancel(project: Project) -> dict[str, float]:
    """Seconds from the click to the end of a training, and to the state."""
    (project.folder / "step.txt").unlink(missing_ok=True)
    run = project.begin("train", recipe="slow", until="pretrain")
    training = wait_until(lambda: under_way(project), 60)
    began = time.monotonic()
    project.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    gone = since(began, lambda: not training.is_running())
    state = since(began, lambda: project.ask(f"flow_runs/{run}")["state"]["name"] == "Cancelled")
    assert (project.folder / "checkpoint.txt").exists()
    return {"cancel: training gone": gone, "cancel: state Cancelled": state}


def since(began: float, happened: Callable[[], bool]) -> float:
    """Seconds until something has happened."""
    wait_until(happened, 60)
    return time.monotonic() - began


def idle_memory(project: Project) -> float:
    """Gigabytes of all processes, what they share counted once, after half a minute of rest."""
    time.sleep(30)
    family = [psutil.Process(project.ui.pid), *psutil.Process(project.ui.pid).children(recursive=True)]
    return float(sum(process.memory_full_info().pss for process in family)) / 1e9


if __name__ == "__main__":
    main()
