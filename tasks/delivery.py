"""The process that delivers what stages wrote: one per machine and tracking server, gone when all is sent.

It is started by whoever finds it missing, and holds a lock while it lives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tasks import layout, spool
from tasks.journal import masked

if TYPE_CHECKING:
    from tasks.mlflow_runs import Sender

IDLE_SECONDS = 15.0
GIVE_UP_SECONDS = 60.0
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}


def ensure_sender(where: Path, uri: str) -> None:
    """Start the process that sends what lies in `where`, unless it is at work."""
    if not spool.written_by_nobody(where / "sender.lock"):
        return
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, **ENVIRONMENT, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": path}
    env["UNMASK_SCRATCH"] = str(layout.scratch())
    env.pop("MLFLOW_RUN_ID", None)
    command = [sys.executable, "-P", "-m", "tasks.tracking", "follow"]
    with (where / "sender.log").open("ab") as log:
        subprocess.run(  # the shell ends at once, so that the sender is nobody's child and leaves no zombie
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            env=env, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            check=True,
        )  # fmt: skip


def follow(
    where: Path, uri: str, *, idle_seconds: float = IDLE_SECONDS, niceness: int = 0, patience: float = 0.0
) -> bool:
    """Send until nothing was written for a while and no writer is left.

    Args:
        where: folder of the files.
        uri: tracking server or database.
        idle_seconds: how long to wait for another stage when all is sent.
        niceness: by how much to stand back behind training once the first run has its id.
        patience: seconds to wait for another sender that is at work.

    Returns:
        Whether all is sent.
    """
    with (where / "sender.lock").open("a") as lock:
        if not _is_mine(lock, patience):
            return not unsent(where)
        (where / "trouble").unlink(missing_ok=True)
        sender: Sender | None = None
        busy = time.monotonic()
        pause, trouble_since = 0.5, 0.0
        while time.monotonic() - busy < idle_seconds:
            try:
                left = unsent(where)
                for path in left:
                    sender = sender or _sender(where, uri)
                    sender.deliver(path)
                _forget_finished(where)
                if left and niceness:
                    os.nice(niceness)
                    niceness = 0
                (where / "trouble").unlink(missing_ok=True)
                pause, trouble_since = 0.5, 0.0
            except Exception as error:
                trouble_since = trouble_since or time.monotonic()
                pause = min(2 * pause, 10.0)
                _note(where, error)
            alive = any(not spool.written_by_nobody(path) for path in where.glob("*.jsonl"))
            if (
                trouble_since
                and not alive
                and time.monotonic() - trouble_since > min(GIVE_UP_SECONDS, idle_seconds)
            ):
                break
            if alive or unsent(where):
                busy = time.monotonic()
            time.sleep(pause)
        return not unsent(where)


def unsent(where: Path) -> list[Path]:
    """Files with something that MLflow does not have yet."""
    return [path for path in sorted(where.glob("*.jsonl")) if is_unsent(path)]


def is_unsent(path: Path) -> bool:
    """Whether MLflow lacks something of that file, or the word that its run has ended."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:  # only a sender puts it away, once all of it is sent
        return False
    state = spool.load(spool.state_file(path))
    return size > state.get("offset", 0) or "status" not in state


def _sender(where: Path, uri: str) -> Sender:
    from tasks.mlflow_runs import Sender  # takes 2 s

    return Sender(where, uri)


def _forget_finished(where: Path) -> None:
    waiting = unsent(where)
    for path in where.glob("*.jsonl"):
        finished = spool.load(spool.state_file(path)).get("status") == "FINISHED"
        if finished and path not in waiting and spool.written_by_nobody(path):
            shutil.rmtree(spool.files(path), ignore_errors=True)
            path.unlink(missing_ok=True)
    # the state stays: children that come later, and the record of the stage, ask it for MLflow's id


def _is_mine(lock: IO[str], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(0.2)


def _note(where: Path, error: Exception) -> None:
    cause = masked(str(error).splitlines()[0] if str(error) else type(error).__name__)[:300]
    print(f"{type(error).__name__}: {cause}", flush=True)
    known = spool.load(where / "trouble")
    if not known:
        spool.store(where / "trouble", {"cause": cause})
