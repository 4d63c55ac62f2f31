"""What `make ui` keeps running: both servers, and a worker with its keeper, such as other machines may have.

State lies in the scratch folder, or in PostgreSQL where an address of it is given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.access import HOST, LOOPBACK, NAMES, PASSWORD, USER, Access
from flows.quiet import QUIET
from tasks import layout

POOL, QUEUE = "unmask", "default"
DEFAULT_API = f"http://{LOOPBACK}:4200/api"
PREFECT_DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
MLFLOW_DATABASE = "UNMASK_MLFLOW_DATABASE"
FOLDER = "UNMASK_FOLDER"  # where a worker's runs start, as prefect.yaml has it
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


def servers(access: Access, prefect_port: int, mlflow_port: int) -> list[Service]:
    """Both servers."""
    api, tracking = addresses(access, prefect_port, mlflow_port)
    common, home = _common(access, api, tracking), layout.scratch()
    (home / "mlartifacts").mkdir(exist_ok=True)
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
    users = " --app-name basic-auth" if access.user else ""
    return [
        _service("Prefect", f"flows.pages_server {access.host} {prefect_port}", prefect,
                 lambda: answers(f"{api}/health")),
        _service("MLflow", f"mlflow server --host {access.host} --port {mlflow_port} --workers 1{users}",
                 mlflow, lambda: answers(f"{tracking}/health")),
    ]  # fmt: skip


def workers(
    access: Access, api: str, tracking: str, queue: str = QUEUE, *, is_guest: bool = False
) -> list[Service]:
    """A worker, which runs flows, and the keeper, which tidies up after it.

    Args:
        access: whom the servers let in.
        api: address of Prefect's server.
        tracking: address of MLflow's server.
        queue: whose runs it takes.
        is_guest: whether the servers are another machine's.
    """
    common, name = _common(access, api, tracking), f"{socket.gethostname()}-{os.getpid()}"
    worker = {
        **common,
        FOLDER: str(Path.cwd()),
        "PREFECT_WORKER_QUERY_SECONDS": "15" if is_guest else "2",  # it ends when 42 such times got no answer
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "TMPDIR": str(_own_temporary_folder()),
    }
    start = f"prefect worker start --pool {POOL} --work-queue {queue} --type process --name {name}"
    return [
        _service("worker", start, worker, lambda: _works(access, api, name)),
        _service("keeper", f"flows.keeper{' --guest' if is_guest else ''}", common, lambda: True),
    ]


def addresses(access: Access, prefect_port: int, mlflow_port: int) -> tuple[str, str]:
    """Of both servers, for programs of this machine."""
    return f"http://{access.name}:{prefect_port}/api", f"http://{access.name}:{mlflow_port}"


def _common(access: Access, api: str, tracking: str) -> dict[str, str]:
    home = layout.scratch()
    for folder in ("prefect", "logs"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    return {
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


def _own_temporary_folder() -> Path:
    """This user's, with a short name as sockets want it: Prefect's worker shares one with those of others."""
    folder = Path(tempfile.gettempdir()) / f"unmask-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _service(name: str, words: str, environment: dict[str, str], is_ready: Callable[[], bool]) -> Service:
    log = layout.scratch() / "logs" / f"{name.lower()}.log"
    return Service(name, [sys.executable, "-m", *words.split()], environment, log, is_ready)


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


def _works(access: Access, api: str, name: str) -> bool:
    """Whether the worker of that name has told Prefect that it is there."""
    asked = f"{api}/work_pools/{POOL}/workers/filter"
    with contextlib.suppress(OSError), access.open(asked, b"{}") as reply:
        return any(one["name"] == name and one["status"] == "ONLINE" for one in json.load(reply))
    return False
