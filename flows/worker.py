"""A worker for the servers of another machine: `python -m flows.worker`, until Ctrl-C.

It runs in a clone of the project, whose code, data and cache its runs use; PREFECT_API_URL and
MLFLOW_TRACKING_URI name the servers, UNMASK_USER and UNMASK_PASSWORD say who comes. It takes the runs of a
queue of its own, which the form of a run and prefect.yaml can name: those of the default queue stay with the
servers' machine, where checkpoints, locks and what is known of new data lie.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import urllib.error

from flows import access
from flows.access import Access
from flows.running import exit_code, running, say, until_told
from flows.services import POOL, QUEUE, workers
from tasks.errors import InputError
from tasks.journal import masked

SERVERS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")


def addresses(who: Access) -> tuple[str, str]:
    """Of both servers, as the environment names them.

    Raises:
        InputError: one is not named, does not answer, lets nobody in, or has no pool; says what to do.
    """
    api, tracking = (os.environ.get(name, "").rstrip("/") for name in SERVERS)
    for name, address in zip(SERVERS, (api, tracking), strict=True):
        if not address.startswith(("http://", "https://")):
            raise InputError(f"{name}={masked(address)}: export it as `make ui` says on the other machine")
    for name, asked in zip(SERVERS, (f"{api}/work_pools/{POOL}", f"{tracking}/version"), strict=True):
        try:
            who.open(asked, timeout=10).close()
        except urllib.error.HTTPError as error:
            why = str(error)
            if error.code == 401:
                why = f"it asks who is there: export {access.USER} and {access.PASSWORD}"
            elif error.code == 404 and name == SERVERS[0]:
                why = f"it has no work pool {POOL}; `make ui` there makes it"
            raise InputError(f"{name}: {masked(asked)}: {why}") from error
        except OSError as error:
            raise InputError(f"{name}: nobody answers at {masked(asked)} ({error})") from error
    return api, tracking


def main() -> None:
    """Run until Ctrl-C, SIGTERM, or a service that keeps ending.

    Raises:
        InputError: it cannot be; says what to do.
    """
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description=about)
    parser.add_argument("--queue", required=True, help="a work queue of its own, such as gpu-box")
    queue = parser.parse_args().queue
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", queue):
        raise InputError(f"--queue {queue}: expected letters, digits, - and _")
    if queue == QUEUE:
        raise InputError(f"--queue {queue} is that of the servers' machine; name another, such as gpu-box")
    who = access.visitor()
    with running(workers(who, *addresses(who), queue, is_guest=True)) as working:
        say(f"Waiting for runs of queue {queue}; Ctrl-C stops.")
        until_told(working)


if __name__ == "__main__":
    sys.exit(exit_code(main))
