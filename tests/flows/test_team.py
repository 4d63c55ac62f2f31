"""As a team has it: PostgreSQL behind the servers, a password in front, many runs at once; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest

from flows import access
from flows.deploy import TRIGGER
from flows.services import MLFLOW_DATABASE, PREFECT_DATABASE
from tests.flows import postgres
from tests.flows.conftest import Project, free_port, serving, wait_until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed"),
]
STEPS = 1200  # a line of log each
AT_ONCE = int(os.environ.get("UNMASK_RUNS_AT_ONCE", "3"))
PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    home = tmp_path_factory.mktemp("postgres")
    with (
        postgres.running(free_port()) as address,
        serving(
            home / "project",
            **{
                access.HOST: "0.0.0.0",
                access.USER: "team",
                access.PASSWORD: PASSWORD,
                PREFECT_DATABASE: f"{address}/prefect",
                MLFLOW_DATABASE: f"{address}/mlflow",
                "UNMASK_PLACES": "a,b",
            },
        ) as project,
    ):
        yield project


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's client of MLflow is let in."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "team")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def status(url: str, body: bytes | None = None, **headers: str) -> int:
    """What a server answers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **named})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


def test_both_servers_ask_who_is_there_and_let_a_browser_of_another_machine_in(team: Project) -> None:
    prefect, mlflow = f"{team.api}/flow_runs/filter", f"{team.mlflow.uri}/api/2.0/mlflow/experiments/search"
    wrong = access.Access(user="team", password="wrong-horse-battery").headers()
    right = access.Access(user="team", password=PASSWORD).headers()
    asked = b'{"max_results": 10}'
    for url, body in ((prefect, b"{}"), (mlflow, asked)):
        assert status(url, body) == 401
        assert status(url, body, **wrong) == 401
        assert status(url, body, **right) == 200
    own = f"http://{socket.gethostname()}:{team.mlflow.port}"
    assert status(mlflow, asked, **right, Origin=own, Host=own.removeprefix("http://")) == 200
    assert status(mlflow, asked, **right, Origin="http://elsewhere.example") == 403
    promote = [sys.executable, "-m", "tasks.promote", "rollback", "nobody"]
    told = subprocess.run(promote, cwd=team.folder, env=team.environment, capture_output=True, text=True)
    assert "export UNMASK_USER and UNMASK_PASSWORD" in told.stderr
    env = {**team.environment, access.USER: "team", access.PASSWORD: PASSWORD}
    told = subprocess.run(promote, cwd=team.folder, env=env, capture_output=True, text=True)
    assert "no registered model 'nobody'; known: none" in told.stderr
    secret = team.folder / "scratch" / "access"
    assert secret.stat().st_mode & 0o077 == 0, "its users are nobody else's to read"


def test_many_runs_at_once_keep_their_values_and_every_event_starts_its_run(team: Project) -> None:
    project = team
    wanted = [STEPS + number for number in range(AT_ONCE)]
    runs = [
        project.begin("train", recipe="toy", until="pretrain", changes={"pretrain.steps": steps})
        for steps in wanted
    ]
    before = {run["id"] for run in project.ask("flow_runs/filter", {})}
    for number in range(AT_ONCE):
        resource = {"prefect.resource.id": f"unmask.toy-{number}", "prefect.resource.name": "toy"}
        event = {
            "event": "unmask.data.new",
            "resource": resource,
            "payload": {"recipe": "toy"},
            "id": _id(number),
        }
        project.ask("events", [event | {"occurred": _now()}])
    for run, steps in zip(project.ended(*runs, seconds=400), wanted, strict=True):
        assert run["state"]["name"] == "Completed", run["state"]["message"]
        assert project.values(run) == {str(steps)}

    def started() -> list[str]:
        found = [run["id"] for run in project.ask("flow_runs/filter", {}) if run["id"] not in before]
        return found if len(found) >= AT_ONCE else []

    assert len(wait_until(started, 60)) == AT_ONCE, f"one run for each event, by the automation {TRIGGER!r}"
    wait_until(lambda: len(project.mlflow.runs("attributes.status = 'FINISHED'")) >= 2 * AT_ONCE, 240)
    assert len(started()) == AT_ONCE, "nor any later"


def test_password_of_a_database_is_in_no_command_line(team: Project) -> None:
    commands = []
    for pid in _family(team.ui.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            commands.append(Path(f"/proc/{pid}/cmdline").read_text())
    assert commands
    assert not [command for command in commands if "postgresql" in command or PASSWORD in command]


def _family(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def _now() -> str:
    from datetime import datetime

    return datetime.now(UTC).isoformat()
