"""Mishaps of everything that takes part in a run, one after the other: `python -m tests.benchmarks.outages`.

A training of 20 seconds is under way when a process is killed with -9, the disk is full or the clock moves.
Told are the run's state two minutes after that at the latest, whether the training outlived its run, and what
Retry (after `make ui` has been started again, where it is gone) leads to. A full disk takes root, for a
file system of its own; a clock that moves takes a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from flows.services import MLFLOW_DATABASE, PREFECT_DATABASE
from flows.ui import PORTS
from tests.flows import postgres, toy
from tests.flows.conftest import FINAL, Project, free_port, serving, wait_until
from tests.flows.test_pipeline import training_of, under_way

STEPS = 400  # of 0.05 s
PATIENCE = 120.0
READING = 10.0  # seconds until a person who sees a run crashed presses Retry

DISK = 300  # MB

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long moved_by(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("MOVED_CLOCK"), "r");
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += moved_by();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *seconds) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (seconds) *seconds = exact.tv_sec;
    return exact.tv_sec;
}
"""

Victim = Callable[[Project], psutil.Process]
Blow = Callable[[Project, float], None]  # with seconds until it is over, where it ends
Scene = Callable[[Path], contextlib.AbstractContextManager[Project]]


def words_of(process: psutil.Process) -> str:
    """Its command line; empty where it has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def of_family(*words: str) -> Victim:
    """The process below `make ui` whose command has these words in a row, the innermost of several."""

    def find(project: Project) -> psutil.Process:
        found = [
            process
            for process in psutil.Process(project.ui.pid).children(recursive=True)
            if " ".join(words) in words_of(process)
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
            if " ".join(words) in words_of(process):
                return process
        raise AssertionError(f"no ancestor {' '.join(words)}")

    return find


def killed(victim: Victim) -> Blow:
    """Kill -9 of a process."""
    return lambda project, away: victim(project).send_signal(signal.SIGKILL)


def hung(victim: Victim) -> Blow:
    """A process and those below it answer nobody for a while."""

    def hang(project: Project, away: float) -> None:
        process = victim(project)
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.suspend()
        time.sleep(away)
        for member in family:
            member.resume()

    return hang


def without_database(project: Project, away: float) -> None:
    """Kill -9 of PostgreSQL, which its machine starts again after a while."""
    (postmaster,) = [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == "postgres" and process.parent().name() != "postgres"  # type: ignore[union-attr]
    ]
    command, user = postmaster.cmdline(), postmaster.username()
    for process in [postmaster, *postmaster.children(recursive=True)]:
        process.kill()
    time.sleep(away)
    subprocess.Popen(command, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def with_full_disk(project: Project, away: float) -> None:
    """Write until nothing more fits on the project's disk; leave room again after a while."""
    ballast = project.folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass
    time.sleep(away)
    ballast.unlink()


def clock_moved(by: int) -> Blow:
    """The time of day is moved by so many seconds, as an administrator would; no timer runs off."""

    def move(project: Project, away: float) -> None:
        (project.folder.parent / "clock").write_text(str(by))

    return move


@contextlib.contextmanager
def on_postgres(folder: Path) -> Iterator[Project]:
    """Both servers keep their state in PostgreSQL."""
    with postgres.running(free_port()) as address:
        databases = {PREFECT_DATABASE: f"{address}/prefect", MLFLOW_DATABASE: f"{address}/mlflow"}
        with serving(folder / "project", **databases) as project:
            yield project


@contextlib.contextmanager
def on_small_disk(folder: Path) -> Iterator[Project]:
    """The project has a file system of its own."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "unmask", str(disk)], check=True)
    try:
        with serving(disk / "project") as project:
            yield project
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextlib.contextmanager
def by_movable_clock(folder: Path) -> Iterator[Project]:
    """Programs read the time of day by way of a file."""
    clock, library = folder / "clock", folder / "clock.so"
    clock.write_text("0")
    compiler = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(compiler, input=CLOCK, text=True, check=True)
    with serving(folder / "project", LD_PRELOAD=str(library), MOVED_CLOCK=str(clock)) as project:
        yield project


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Project]:
    """As `make ui` runs by default."""
    with serving(folder / "project") as project:
        yield project


MISHAPS: dict[str, tuple[Scene, Blow]] = {
    "training": (plain, killed(training)),
    "DVC": (plain, killed(command_of("stages.py make"))),
    "supervisor": (plain, killed(command_of("supervise.py"))),
    "flow process": (plain, killed(command_of("-m prefect.engine"))),
    "worker": (plain, killed(of_family("prefect worker start"))),
    "keeper": (plain, killed(of_family("flows.keeper"))),
    "Prefect's server": (plain, killed(of_family("flows.pages_server"))),
    "MLflow's server": (plain, killed(of_family("mlflow server"))),
    "Prefect's server hangs": (plain, hung(of_family("flows.pages_server"))),
    "MLflow's server hangs": (plain, hung(of_family("mlflow server"))),
    "make ui": (plain, killed(lambda project: psutil.Process(project.ui.pid))),
    "PostgreSQL": (on_postgres, without_database),
    "disk full": (on_small_disk, with_full_disk),
    "clock an hour on": (by_movable_clock, clock_moved(3600)),
    "clock an hour back": (by_movable_clock, clock_moved(-3600)),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.outages", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*MISHAPS], default=[*MISHAPS])
    parser.add_argument("--away", type=float, default=20.0, help="seconds that what ends by itself lasts")
    options = parser.parse_args()
    print(f"{'what':24}{'state after':28}{'seconds':>8}  {'training gone after':>20}  {'after Retry':20}")
    for name in options.only:
        scene, blow = MISHAPS[name]
        with tempfile.TemporaryDirectory() as folder, scene(Path(folder)) as project:
            print(f"{name:24}{tried(project, blow, options.away)}", flush=True)


def tried(project: Project, blow: Blow, away: float) -> str:
    """What became of a run that met with a mishap."""
    run = project.begin("train", recipe="slow", until="pretrain", changes={"pretrain.steps": STEPS})
    work = wait_until(lambda: under_way(project), 60)
    began = time.monotonic()
    blowing = threading.Thread(target=blow, args=(project, away))
    blowing.start()
    gone, state, restarted = 0.0, "", False
    while blowing.is_alive() or time.monotonic() - began < PATIENCE + away:
        if not gone and not alive(work):
            gone = time.monotonic() - began
        if project.ui.poll() is not None:
            restart(project)
            restarted = True
        state = state_of(project, run)
        if state in FINAL:
            break
        time.sleep(0.2)
    seconds = time.monotonic() - began
    blowing.join()
    time.sleep(READING)
    if project.ui.poll() is not None:
        restart(project)
        restarted = True
    told = f"{state}{', make ui anew' if restarted else ''}"
    outlived = f"{gone:.1f}" if gone else "goes on"
    return f"{told:28}{seconds:8.1f}  {outlived:>20}  {after_retry(project, run, state)}"


def after_retry(project: Project, run: str, state: str) -> str:
    """The state to which Retry brings a run, and how often its training was begun in all."""
    if state == "COMPLETED":
        return f"not needed, begun {project.tried('pretrain@slow')} times"
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
    env = toy.environment(project.folder, **ports, **project.variables)
    command = [sys.executable, "-m", "flows.ui"]
    project.ui = subprocess.Popen(command, cwd=project.folder, env=env, stdout=subprocess.PIPE, text=True)
    assert project.ui.stdout is not None
    for line in project.ui.stdout:
        if "Ctrl-C" in line:
            return
    raise AssertionError(f"make ui does not start again: code {project.ui.wait()}")


if __name__ == "__main__":
    main()
