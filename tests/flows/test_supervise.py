"""However the work or its orderer dies, the stage hears of it and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import wait_until

SUPERVISOR = Path(__file__).parents[2] / "flows" / "supervise.py"
STAGE = """
import os, pathlib, signal, sys, time
def leave(*_):
    pathlib.Path("checkpoint").write_text("written")
    sys.exit(143)
signal.signal(signal.SIGTERM, leave if "deaf" not in sys.argv else signal.SIG_IGN)
pathlib.Path("stage.pid.part").write_text(str(os.getpid()))
pathlib.Path("stage.pid.part").rename("stage.pid")
time.sleep(60)
"""
DVC = """
import subprocess, sys
sys.exit(subprocess.run(sys.argv[1], shell=True).returncode and 255)  # as DVC starts a stage
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.py").write_text(DVC)
    return tmp_path


def command(how: str = "", grace: float = 20) -> list[str]:
    supervisor = [sys.executable, "-S", str(SUPERVISOR), "--grace", str(grace), "--"]
    return [*supervisor, sys.executable, "dvc.py", f"{sys.executable} stage.py {how}; exit $?"]


def stage(work: Path) -> psutil.Process:
    pid = wait_until(lambda: (work / "stage.pid").exists() and int((work / "stage.pid").read_text()))
    return psutil.Process(pid)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_exit_code_and_output_pass_through() -> None:
    done = subprocess.run(
        [sys.executable, "-S", str(SUPERVISOR), "--", "sh", "-c", "echo said; exit 7"], capture_output=True
    )
    assert (done.returncode, done.stdout) == (7, b"said\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_work_writes_its_checkpoint(work: Path, number: int) -> None:
    supervisor = subprocess.Popen(command(), cwd=work)
    training = stage(work)
    supervisor.send_signal(number)
    assert supervisor.wait(10) == 143
    assert (work / "checkpoint").read_text() == "written"
    assert gone(training)


def test_work_that_does_not_listen_is_killed_after_the_grace(work: Path) -> None:
    supervisor = subprocess.Popen(command("deaf", grace=0.5), cwd=work)
    training = stage(work)
    supervisor.terminate()
    assert supervisor.wait(10) == 143
    assert gone(training)


def test_killed_orderer_leaves_no_orphan_but_a_checkpoint(work: Path) -> None:
    program = f"import subprocess; subprocess.run({command()!r})"
    orderer = subprocess.Popen([sys.executable, "-c", program], cwd=work)
    training = stage(work)
    supervisor = training.parents()[2 if training.parent().name() in ("sh", "dash", "bash") else 1]  # type: ignore[union-attr]
    orderer.kill()
    orderer.wait()
    wait_until(lambda: gone(training) and gone(supervisor), 10)
    assert (work / "checkpoint").read_text() == "written"


def test_what_the_work_left_behind_is_ended(work: Path) -> None:
    program = f"{sys.executable} stage.py > /dev/null 2>&1 & while [ ! -e stage.pid ]; do sleep 0.05; done"
    command = [sys.executable, "-S", str(SUPERVISOR), "--", "sh", "-c", program]
    done = subprocess.run(command, cwd=work, timeout=20)
    assert done.returncode == 0
    assert not psutil.pid_exists(int((work / "stage.pid").read_text()))


def test_orphan_that_ends_while_the_work_goes_on_leaves_not_even_its_number(work: Path) -> None:
    program = "sh -c 'sleep 0.2 & echo $! > orphan'; exec sleep 30"
    supervisor = subprocess.Popen(
        [sys.executable, "-S", str(SUPERVISOR), "--", "sh", "-c", program], cwd=work
    )
    orphan = int(wait_until(lambda: (work / "orphan").exists() and (work / "orphan").read_text()))
    wait_until(lambda: not psutil.pid_exists(orphan), 10)
    supervisor.terminate()
    assert supervisor.wait(10) == 143


def test_starts_in_a_moment() -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-S", str(SUPERVISOR), "--", "true"], check=True)
    assert time.perf_counter() - began < 2.0, os.getloadavg()
