"""Kill -9 of everything that takes part in a run, one after the other: `python -m tests.benchmarks.outages`.

A training of 20 seconds is under way when its victim dies. Told are the run's state after two minutes at the
latest, whether the training outlived its run, and what Retry (after `make ui` has been started again, where it
is gone) leads to.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows.ui import PORTS
from tests.flows import toy
from tests.flows.conftest import FINAL, Project, serving, wait_until
from tests.flows.test_pipeline import training_of, under_way

STEPS = 400  # of 0.05 s
PATIENCE = 120.0
READING = 10.0  # seconds until a person who sees a run crashed presses Retry

Victim = Callable[[Project], psutil.Process]


def of_family(*words: str) -> Victim:
    """The process below `make ui` whose command has these words in a row, the innermost of several."""

    def find(project: Project) -> psutil.Process:
        found = [
            process
            for process in psutil.Process(project.ui.pid).children(recursive=True)
            if " ".join(words) in " ".join(process.cmdline())
        ]
        assert found, f"no process {' '.join(words)}"
        return found[-1]

    return find


def training(project: Project) -> psutil.Process:
    """The training itself."""
    found = training_of(project)
    assert found is not None, "it is under way"
    return found


def command_of(*words: str) -> Victim:
    """The nearest ancestor of the training whose command has these words in a row."""

    def find(project: Project) -> psutil.Process:
        for process in training(project).parents():
            if " ".join(words) in " ".join(process.cmdline()):
                return process
        raise AssertionError(f"no ancestor {' '.join(words)}")

    return find


VICTIMS: dict[str, Victim] = {
    "training": training,
    "DVC": command_of("stages.py make"),
    "supervisor": command_of("supervise.py"),
    "flow process": command_of("-m prefect.engine"),
    "worker": of_family("prefect worker start"),
    "keeper": of_family("flows.keeper"),
    "Prefect's server": of_family("flows.pages_server"),
    "MLflow's server": of_family("mlflow server"),
    "make ui": lambda project: psutil.Process(project.ui.pid),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outages", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*VICTIMS], default=[*VICTIMS])
    print(f"{'killed':20}{'state after':28}{'seconds':>8}  {'training gone after':>20}  {'after Retry':20}")
    for name in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "project") as project:
            print(f"{name:20}{tried(project, VICTIMS[name])}", flush=True)


def tried(project: Project, victim: Victim) -> str:
    """What became of a run whose victim was killed."""
    run = project.begin("train", recipe="slow", until="pretrain", changes={"pretrain.steps": STEPS})
    work = wait_until(lambda: under_way(project), 60)
    victim(project).send_signal(signal.SIGKILL)
    began = time.monotonic()
    gone, state, restarted = 0.0, "", False
    while time.monotonic() - began < PATIENCE:
        if not gone and not alive(work):
            gone = time.monotonic() - began
        if project.ui.poll() is not None:
            restart(project)
            restarted = True
        state = state_of(project, run)
        if state.partition(" ")[0] in FINAL:
            break
        time.sleep(0.2)
    seconds = time.monotonic() - began
    time.sleep(READING)
    if project.ui.poll() is not None:
        restart(project)
        restarted = True
    told = f"{state}{', make ui anew' if restarted else ''}"
    outlived = f"{gone:.1f}" if gone else "goes on"
    return f"{told:28}{seconds:8.1f}  {outlived:>20}  {after_retry(project, run, state)}"


def after_retry(project: Project, run: str, state: str) -> str:
    """The state to which Retry brings a run, and how often its training was begun in all."""
    if state.startswith("COMPLETED"):
        return "not needed"
    again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    project.ask(f"flow_runs/{run}/set_state", again)
    (over,) = project.ended(run, seconds=PATIENCE)
    return f"{over['state']['name']}, begun {project.tried('pretrain@slow')} times {over['state']['message'] or ''}"


def alive(process: psutil.Process) -> bool:
    """Whether it works still."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def state_of(project: Project, run: str) -> str:
    """The type of a run's state; empty where Prefect does not answer."""
    with contextlib.suppress(OSError):
        found: dict[str, Any] = project.ask(f"flow_runs/{run}")
        return str(found["state"]["type"])
    return ""


def restart(project: Project) -> None:
    """Start `make ui` again, as a person would."""
    ports = dict(zip(PORTS, (str(project.prefect_port), str(project.mlflow.port)), strict=True))
    env = toy.environment(project.folder, **ports)
    command = [sys.executable, "-m", "flows.ui"]
    project.ui = subprocess.Popen(command, cwd=project.folder, env=env, stdout=subprocess.PIPE, text=True)
    assert project.ui.stdout is not None
    for line in project.ui.stdout:
        if "Ctrl-C" in line:
            return
    raise AssertionError(f"make ui does not start again: code {project.ui.wait()}")


if __name__ == "__main__":
    main()
