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
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from flows import access
from flows.access import Access
from flows.running import exit_code, running, say, until_told
from flows.services import Service, addresses, servers, workers
from tasks import layout, spool
from tasks.errors import InputError

PORTS = {"UNMASK_PREFECT_PORT": 4200, "UNMASK_MLFLOW_PORT": 5000}


def _deploy(worker: Service) -> None:
    """Tell Prefect what there is to start.

    Raises:
        InputError: prefect.yaml or params.yaml cannot be read; says why.
    """
    command = [sys.executable, "-m", "flows.deploy"]
    done = subprocess.run(command, env=worker.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"prefect.yaml was not deployed:\n{done.stderr.strip()[-2000:]}")


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


def main() -> None:
    """Run until Ctrl-C, SIGTERM, or a service that keeps ending.

    Raises:
        InputError: it cannot be; says what to do.
    """
    if shutil.which("git") is None:
        print("git is not on the PATH; DVC needs it", file=sys.stderr)
    reach = access.chosen()
    chosen = ports(reach.host)
    first, then = servers(reach, *chosen), workers(reach, *addresses(reach, *chosen))
    say("Starting; the first time takes longest.")
    with running(first) as serving:
        _deploy(then[0])
        with running(then) as working:
            say(_greeting(reach, *chosen))
            until_told(serving, working)
            say("Stopping ...")


if __name__ == "__main__":
    sys.exit(exit_code(main))
