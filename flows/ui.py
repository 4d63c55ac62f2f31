"""`make ui`: Prefect, MLflow and what runs the flows, on this machine, until Ctrl-C.

Four processes, which others reach where UNMASK_HOST says so, all keeping their state in the scratch folder:
Prefect's server (when and with what), MLflow's server (what came out), a worker that asks Prefect
for runs to start, and the keeper, which tidies up and looks for new data. One that ends is started
again; one that keeps ending, or a signal to this process, ends all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from flows import access
from flows.access import Access
from flows.services import Service, services
from tasks import layout, spool
from tasks.errors import InputError

PORTS = {"UNMASK_PREFECT_PORT": 4200, "UNMASK_MLFLOW_PORT": 5000}
START_SECONDS = 180
STOP_SECONDS = 15
RESTARTS, LATELY_SECONDS = 5, 600.0

Processes = dict[str, subprocess.Popen[bytes]]


@contextlib.contextmanager
def running(wanted: list[Service], say: Callable[[str], None] = print) -> Iterator[Processes]:
    """Start services, first the servers; when these answer, tell Prefect what there is to start.

    Raises:
        InputError: one does not start; the message has the end of its log.
    """
    processes: Processes = {}
    try:
        servers, workers = wanted[:2], wanted[2:]
        for batch in (servers, workers):
            if batch is workers:
                _deploy(workers[0])
            for service in batch:
                processes[service.name] = _start(service)
            for service in batch:
                seconds = _await(service, processes[service.name])
                say(f"{service.name} is up after {seconds:.0f} s")
        yield processes
    finally:
        _stop(processes)


def keep(wanted: list[Service], processes: Processes, ends: dict[str, list[float]]) -> list[str]:
    """Start services again that have ended; what there is to tell of it.

    Args:
        wanted: services of `running`.
        processes: theirs; those of services that are started again are replaced.
        ends: when each ended lately, by its name; kept up to date.

    Raises:
        InputError: one keeps ending; the message has the end of its log.
    """
    told = []
    for service in wanted:
        code = processes[service.name].poll()
        if code is None:
            continue
        now = time.monotonic()
        lately = [*(when for when in ends.get(service.name, []) if now - when < LATELY_SECONDS), now]
        ends[service.name] = lately
        if len(lately) > RESTARTS:
            times = f"{len(lately)} times within {now - lately[0]:.0f} s, the last time with code {code}"
            raise InputError(f"{service.name} ended {times}; {_end(service.log)}")
        processes[service.name] = _start(service)
        told.append(f"{service.name} ended with code {code} and was started again; see {service.log}")
    return told


def _start(service: Service) -> subprocess.Popen[bytes]:
    supervisor = [sys.executable, "-S", str(Path(__file__).with_name("supervise.py"))]
    with service.log.open("ab") as log:
        return subprocess.Popen(
            [*supervisor, "--grace", str(STOP_SECONDS), "--", *service.command],
            env=service.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we stop them in order
        )  # fmt: skip


def _deploy(worker: Service) -> None:
    """Tell Prefect what there is to start.

    Raises:
        InputError: prefect.yaml or params.yaml cannot be read; says why.
    """
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(command, env=worker.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"prefect.yaml was not deployed:\n{done.stderr.strip()[-2000:]}")


def _await(service: Service, process: subprocess.Popen[bytes]) -> float:
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS:
        if process.poll() is not None:
            raise InputError(f"{service.name} ended with code {process.returncode}; {_end(service.log)}")
        if service.is_ready():
            return time.monotonic() - began
        time.sleep(0.2)
    raise InputError(f"{service.name} does not answer after {START_SECONDS} s; {_end(service.log)}")


def _stop(processes: Processes) -> None:
    for process in reversed(list(processes.values())):  # the worker tells its server that it leaves
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS + 10)


def _end(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join([f"{log} ends with:", *lines])


def ports(host: str) -> tuple[int, int]:
    """Free ports of an address, as the environment names them.

    Raises:
        InputError: a port is no number, or taken; the message says by what and how to choose another.
    """
    chosen = []
    for variable, default in PORTS.items():
        text = os.environ.get(variable, str(default))
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise InputError(f"{variable}={text!r}: expected a port between 1 and 65535")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(text)))
            except OSError as error:
                raise InputError(
                    f"port {text} cannot be used ({_holder(int(text)) or error.strerror}). "
                    f"Stop that, or choose another: {variable}={int(text) + 1} make ui"
                ) from error
        chosen.append(int(text))
    if chosen[0] == chosen[1]:
        raise InputError(f"both servers cannot have port {chosen[0]}; choose another with {list(PORTS)[1]}")
    return chosen[0], chosen[1]


def _holder(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f"taken by process {connection.pid}: {command[:100]}"
    return ""


def runs_page(reach: Access, mlflow_port: int) -> str:
    """Where MLflow shows our runs, or all experiments while there is none of ours.

    Without the address's last word MLflow's pages are about language models. The experiment is left
    to the first run to make: what a server makes keeps its artifacts where a run without it cannot.
    """
    address = f"http://{reach.name}:{mlflow_port}"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", spool.EXPERIMENT)
    question = urllib.parse.urlencode({"experiment_name": name})
    place = f"{address}/api/2.0/mlflow/experiments/get-by-name?{question}"
    try:
        with reach.open(place, timeout=30) as answer:
            number = json.load(answer)["experiment"]["experiment_id"]
    except urllib.error.HTTPError:
        return f"{address}/#/experiments"
    return f"{address}/#/experiments/{number}?workflowType=machine_learning"


def _greeting(reach: Access, prefect_port: int, mlflow_port: int) -> str:
    asked = ""
    if reach.user:
        asked = (
            f"\nBoth ask for {reach.user} and the password, which our commands read from {access.USER} and\n"
        )
        asked += f"{access.PASSWORD}; nothing is encrypted.\n"
    return f"""
  Prefect   http://{reach.name}:{prefect_port}   start, watch and cancel runs
  MLflow    {runs_page(reach, mlflow_port)}   compare what came out
  logs      {layout.scratch() / "logs"}
{asked}
To run a recipe: Prefect > Deployments > train > Run > Custom run, or in another terminal
  export PREFECT_API_URL=http://{reach.name}:{prefect_port}/api
  export MLFLOW_TRACKING_URI=http://{reach.name}:{mlflow_port}
  {Path(sys.executable)} -m flows.pipeline <recipe>

Ctrl-C stops everything; runs and results stay.
"""


def main() -> int:
    """Run until Ctrl-C, SIGTERM, or a service that keeps ending."""
    if shutil.which("git") is None:
        print("git is not on the PATH; DVC needs it", file=sys.stderr)
    stop: list[int] = []
    try:
        reach = access.chosen()
        chosen = ports(reach.host)
        print("Starting; the first time takes longest.", flush=True)
        wanted, ends = services(reach, *chosen), dict[str, list[float]]()
        with running(wanted, lambda line: print(line, flush=True)) as processes:
            print(_greeting(reach, *chosen), flush=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda received, _: stop.append(received))
            while not stop:
                for line in keep(wanted, processes, ends):
                    print(line, file=sys.stderr, flush=True)
                time.sleep(0.3)
            print("Stopping ...", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
