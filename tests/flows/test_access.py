"""Servers that others reach ask who they are; no password stands in a command line or goes to the stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import access, services, work
from flows.access import Access
from tasks.errors import InputError

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path))
    for name in (access.HOST, access.USER, access.PASSWORD, *services.OURS):
        monkeypatch.delenv(name, raising=False)


def test_loopback_asks_nobody() -> None:
    assert access.chosen() == Access("127.0.0.1")
    for service in services.servers(access.chosen(), 1, 2):
        assert "127.0.0.1" in service.command


@pytest.mark.parametrize(
    ("user", "password"), [("", ""), ("me", ""), ("me", "short"), ("me:you", PASSWORD), ("", PASSWORD)]
)
def test_network_address_without_user_and_good_password_is_refused(
    user: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(access.HOST, "0.0.0.0")
    monkeypatch.setenv(access.USER, user)
    monkeypatch.setenv(access.PASSWORD, password)
    with pytest.raises(InputError, match="lets other machines reach both servers.*ssh -L"):
        access.chosen()


def test_name_of_a_machine_is_bound_as_the_address_that_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "socket.gethostbyname", {"mybox": "127.0.1.1", "box": "192.0.2.5", "0": "0.0.0.0"}.get
    )
    monkeypatch.setenv(access.HOST, "mybox")
    assert access.chosen() == Access("127.0.1.1")
    monkeypatch.setenv(access.USER, "me")
    monkeypatch.setenv(access.PASSWORD, PASSWORD)
    for host, address, reached in (("box", "192.0.2.5", "192.0.2.5"), ("0", "0.0.0.0", "127.0.0.1")):
        monkeypatch.setenv(access.HOST, host)
        chosen = access.chosen()
        assert (chosen.host, chosen.name, chosen.names) == (address, reached, (host,))


def test_servers_on_the_network_ask_and_commands_name_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.HOST, "0.0.0.0")
    monkeypatch.setenv(access.USER, "me")
    monkeypatch.setenv(access.PASSWORD, PASSWORD)
    monkeypatch.setenv(services.PREFECT_DATABASE, f"postgresql://me:{PASSWORD}@db/prefect")
    monkeypatch.setenv(services.MLFLOW_DATABASE, f"postgres://me:{PASSWORD}@db/mlflow")
    reach = access.chosen()
    prefect, mlflow = services.servers(reach, 1, 2)
    worker, keeper = services.workers(reach, *services.addresses(reach, 1, 2))
    for service in (prefect, mlflow, worker, keeper):
        assert not [word for word in service.command if PASSWORD in word]
    assert prefect.environment["PREFECT_SERVER_API_AUTH_STRING"] == f"me:{PASSWORD}"
    assert prefect.environment[services.PREFECT_DATABASE] == f"postgresql+asyncpg://me:{PASSWORD}@db/prefect"
    assert mlflow.environment["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://")
    assert mlflow.command[-2:] == ["--app-name", "basic-auth"]
    assert services.PREFECT_DATABASE not in worker.environment
    assert worker.environment["PREFECT_API_AUTH_STRING"] == f"me:{PASSWORD}"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"me:{PASSWORD}")
    assert not [name for name in work.environment({}) if "AUTH_STRING" in name]
