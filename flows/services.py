"""What `make ui` keeps running: both servers, the worker and the keeper.

State lies in the scratch folder, or in PostgreSQL where an address of it is given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.access import HOST, LOOPBACK, NAMES, PASSWORD, USER, Access
from flows.quiet import QUIET
from tasks import layout

POOL = "unmask"
DEFAULT_API = f"http://{LOOPBACK}:4200/api"
PREFECT_DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
MLFLOW_DATABASE = "UNMASK_MLFLOW_DATABASE"
OURS = (PREFECT_DATABASE, MLFLOW_DATABASE, HOST, NAMES, USER, PASSWORD)  # told to those alone who need them
WITHOUT_DRIVER = re.compile(r"^postgres(ql)?://")


@dataclass(frozen=True)
class Service:
    """A process that is kept running.

    Attributes:
        name: for people.
        command: that starts it.
        environment: of the process.
        log: file of what it says.
        is_ready: whether it does its work by now.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(repr=False)
    log: Path
    is_ready: Callable[[], bool]


def services(access: Access, prefect_port: int, mlflow_port: int) -> list[Service]:
    """Both servers, the worker and the keeper, in the order in which they need each other."""
    home = layout.scratch()
    for folder in ("prefect", "logs", "mlartifacts"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    api, tracking = f"http://{access.name}:{prefect_port}/api", f"http://{access.name}:{mlflow_port}"
    common = {
        **QUIET,
        **{name: value for name, value in os.environ.items() if name not in OURS},
        **access.of_clients(),
        "UNMASK_SCRATCH": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api,
        "MLFLOW_TRACKING_URI": tracking,
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }
    prefect = {
        **common,
        **access.of_prefect(),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        PREFECT_DATABASE: database(PREFECT_DATABASE, "asyncpg", sqlite(home / "prefect")),
    }
    mlflow = {
        **common,
        **access.of_mlflow(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its judges of language models take 2 GB of memory
        "MLFLOW_BACKEND_STORE_URI": database(MLFLOW_DATABASE, "psycopg2", f"sqlite:///{home}/mlflow.db"),
        "MLFLOW_ARTIFACTS_DESTINATION": str(home / "mlartifacts"),
    }
    del mlflow["MLFLOW_TRACKING_URI"]
    worker = {**common, "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    logs, users = home / "logs", " --app-name basic-auth" if access.user else ""

    def service(name: str, words: str, environment: dict[str, str], is_ready: Callable[[], bool]) -> Service:
        command = [sys.executable, "-m", *words.split()]
        return Service(name, command, environment, logs / f"{name.lower()}.log", is_ready)

    return [
        service("Prefect", f"flows.pages_server {access.host} {prefect_port}", prefect,
                lambda: answers(f"{api}/health")),
        service("MLflow", f"mlflow server --host {access.host} --port {mlflow_port} --workers 1{users}",
                mlflow, lambda: answers(f"{tracking}/health")),
        service("worker", f"prefect worker start --pool {POOL} --type process", worker,
                lambda: _works(access, api)),
        service("keeper", "flows.keeper", common, lambda: True),
    ]  # fmt: skip


def sqlite(home: Path) -> str:
    """Address of Prefect's own file."""
    return f"sqlite+aiosqlite:///{home / 'prefect.db'}"


def database(variable: str, driver: str, default: str) -> str:
    """The address that a variable holds, with the driver that its server talks through.

    Args:
        variable: name of the variable; its value may hold a password and stays out of command lines.
        driver: for PostgreSQL.
        default: where it is unset.
    """
    return WITHOUT_DRIVER.sub(f"postgresql+{driver}://", os.environ.get(variable) or default)


def answers(url: str) -> bool:
    """Whether a server is there and well."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return bool(reply.status == 200)
    return False


def _works(access: Access, api: str) -> bool:
    """Whether a worker has told Prefect that it is there."""
    asked = f"{api}/work_pools/{POOL}/workers/filter"
    with contextlib.suppress(OSError), access.open(asked, b"{}") as reply:
        return any(worker["status"] == "ONLINE" for worker in json.load(reply))
    return False
