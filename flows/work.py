"""One stage of DVC as a supervised process: its lines as they come, and how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.quiet import QUIET

SUPERVISOR = Path(__file__).with_name("supervise.py")
GRACE_SECONDS = 60
VALIDATION_FAILED = 3  # exit code of a stage whose data broke a hard expectation
SKIPPED = re.compile(r"^Stage '.*' didn't change, skipping")
RESTORED = re.compile(r"^Stage '.*' is cached - skipping run")
EXITED = re.compile(r"exited with (-?\d+)")
ADVICE = re.compile(
    r"^(Updating lock file|Generating lock file|To track the changes with git|To enable auto staging"
    r"|Use `dvc push`|Data and pipelines are up to date|\s+git add|\s+dvc config core.autostage)"
)

Outcome = Literal["ran", "restored", "unchanged"]


class StageFailed(RuntimeError):
    """A stage ended with an error; the message holds its last lines."""

    def __init__(self, address: str, code: int, lines: list[str]) -> None:
        self.address, self.code = address, code
        super().__init__(f"{address} ended with code {code}:\n" + "\n".join(lines))

    @property
    def may_pass_next_time(self) -> bool:
        """Whether the stage was killed from outside rather than wrong in itself."""
        return self.code < 0 or self.code > 128


@dataclass(frozen=True)
class Order:
    """One stage to bring up to date, and where."""

    address: str
    workspace: Path
    environment: dict[str, str]
    force: bool = False


def run(order: Order, hear: Callable[[str], None]) -> Outcome:
    """Bring one stage up to date; its lines go to `hear` as they come.

    Raises:
        StageFailed: the stage did not end well.
    """
    force = ["--force"] if order.force else []
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *force, order.address]
    process = subprocess.Popen(
        [sys.executable, "-S", str(SUPERVISOR), "--grace", str(GRACE_SECONDS), "--", *command],
        cwd=order.workspace, env=order.environment, text=True, errors="replace", bufsize=1,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=25)
    outcome: Outcome = "ran"
    code = 0
    try:
        for line in map(str.rstrip, process.stdout):
            if not line or ADVICE.match(line):
                continue
            last.append(line)
            hear(line)
            outcome = "unchanged" if SKIPPED.match(line) else "restored" if RESTORED.match(line) else outcome
            if found := EXITED.search(line):
                code = int(found[1])
        process.wait()
    except BaseException:  # cancelled, or out of time: the stage gets the time to write its checkpoint
        process.terminate()
        for line in map(str.rstrip, process.stdout):
            hear(line)
        process.wait()
        raise
    if process.returncode:
        raise StageFailed(order.address, code or process.returncode, list(last))
    return outcome


def environment(extra: dict[str, str]) -> dict[str, str]:
    """Variables of a stage: this process's, less Prefect's, plus what keeps logs readable and tools quiet."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    path = os.pathsep.join([str(Path(sys.executable).parent), mine.get("PATH", "")])
    return {**QUIET, **mine, "PATH": path, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1", **extra}


@contextlib.contextmanager
def alone(workspace: Path, who: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the workspace, for two runs in one checkout would write to the same files.

    Args:
        workspace: folder of `dvc.yaml`.
        who: what others that have to wait are told.
        say: told once, when there is somebody to wait for.
    """
    path = workspace / ".dvc" / "tmp" / "unmask.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    holder = path.read_text() or "another run"
                    say(f"waiting for {holder}, which works in {workspace.absolute()}")
                waiting = True
                time.sleep(0.5)
        file.truncate(0)
        file.write(who)
        file.flush()
        yield
