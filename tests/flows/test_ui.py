"""`make ui`: taken ports are explained, and what came up goes. The last file here: it stops the servers."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows import running, ui
from flows.access import Access
from flows.services import Service
from tasks.errors import InputError
from tests.flows.conftest import Project, answers, free_port, wait_until


def test_taken_port_is_named_with_its_holder_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("UNMASK_PREFECT_PORT", str(port))
        with pytest.raises(
            InputError, match=rf"port {port} .*taken by process .*UNMASK_PREFECT_PORT={port + 1}"
        ):
            ui.ports("127.0.0.1")


@pytest.mark.parametrize("nonsense", ["http", "0", "65536", "-1"])
def test_port_that_is_none_is_refused(nonsense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_MLFLOW_PORT", nonsense)
    monkeypatch.setenv("UNMASK_PREFECT_PORT", str(free_port()))
    with pytest.raises(InputError, match="between 1 and 65535"):
        ui.ports("127.0.0.1")


def test_service_that_ends_is_started_again_and_one_that_keeps_ending_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "RESTARTS", 2)
    command = [sys.executable, "-S", "-c", "print('out of luck')"]
    wanted = [Service("Server", command, {}, tmp_path / "server.log", lambda: True)]
    kept = running.Running(wanted, {"Server": subprocess.Popen(command)})
    for _ in range(2):
        kept.processes["Server"].wait()
        (told,) = kept.keep()
        assert told == f"Server ended with code 0 and was started again; see {wanted[0].log}"
    kept.processes["Server"].wait()
    with pytest.raises(InputError, match="(?s)Server ended 3 times within .* code 0; .*out of luck"):
        kept.keep()
    kept.ends["Server"] = [when - running.LATELY_SECONDS for when in kept.ends["Server"]]
    assert kept.keep(), "what ended long ago is forgiven"
    kept.processes["Server"].wait()
    assert kept.keep(), "and begins to count anew"
    kept.processes["Server"].wait()


@pytest.mark.servers
def test_mlflow_is_shown_at_our_runs_as_soon_as_there_are_some(
    shared_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(shared_project.mlflow.uri.rpartition(":")[2])
    address = f"http://127.0.0.1:{port}/#/experiments"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of nobody")
    assert ui.runs_page(Access(), port) == address
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Default")
    assert ui.runs_page(Access(), port) == f"{address}/0?workflowType=machine_learning"


@pytest.mark.servers
def test_keeper_that_is_killed_is_replaced(shared_project: Project) -> None:
    def keepers() -> list[psutil.Process]:
        found = []
        for process in psutil.Process(shared_project.ui.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # also of one that has just ended
                if process.cmdline()[-1:] == ["flows.keeper"]:
                    found.append(process)
        return found

    before = keepers()
    assert len(before) == 2, "itself, under a supervisor"
    before[-1].kill()
    wait_until(lambda: len(now := keepers()) == 2 and not {*now} & {*before})


@pytest.mark.servers
def test_ctrl_c_ends_all_of_it(shared_project: Project) -> None:
    family = psutil.Process(shared_project.ui.pid).children(recursive=True)
    assert len(family) >= 8, "four services, each under a supervisor"
    shared_project.ui.send_signal(signal.SIGINT)
    shared_project.ui.communicate(timeout=60)
    assert shared_project.ui.returncode == 0
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not answers(f"{shared_project.mlflow.uri}/health")
