"""Work of DVC as supervised processes: their lines as they come, and how they ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flows import services, stages
from flows.quiet import QUIET
from tasks import layout

SUPERVISOR = Path(__file__).with_name("supervise.py")
STAGES = ("-P", stages.__file__)
GRACE_SECONDS = 60
DECISION = "decision: "  # before the line with the decision, as tasks.promote prints it
DECIDED = (4, 5)  # exit codes of a model that is not better, or cannot be compared
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


class NoPlan(RuntimeError):
    """DVC cannot read the project, or knows no such stage; the message is DVC's."""


@dataclass(frozen=True)
class Order:
    """What to bring up to date, and where.

    Attributes:
        address: a stage as DVC addresses it, such as `report@text-mlm`.
        workspace: folder of `dvc.yaml`.
        environment: variables of the processes that do it.
        who: what others that wait for it are told.
        force: run the stage even where nothing has changed.
    """

    address: str
    workspace: Path
    environment: dict[str, str] = field(repr=False)
    who: str = "another run"
    force: bool = False


Hear = Callable[[str], None]


def look(order: Order, hear: Hear) -> dict[str, stages.Found]:
    """Stages that the address needs, in order, and how it stands with each one's outputs.

    Args:
        order: what is wanted in the end.
        hear: gets the lines that are said meanwhile, for sources are listed anew.

    Raises:
        NoPlan: DVC does not know the address or cannot read its files.
    """
    plans: list[str] = []

    def sift(line: str) -> None:
        (plans.append if line.startswith(stages.PLAN) else hear)(line)

    code, last = _supervised(order, [*STAGES, "look", order.address], sift)
    if code or not plans:
        said = [line for line in last if line] or ["DVC said nothing"]
        raise NoPlan(f"{order.address} in {order.workspace}: {said[-1]}")
    return dict(json.loads(plans[-1].removeprefix(stages.PLAN)))


def run(order: Order, hear: Hear) -> Outcome:
    """Bring one stage up to date; its lines go to `hear` as they come.

    Raises:
        StageFailed: the stage did not end well.
    """
    outcome: Outcome = "ran"
    exited = 0

    def note(line: str) -> None:
        nonlocal outcome, exited
        outcome = "unchanged" if SKIPPED.match(line) else "restored" if RESTORED.match(line) else outcome
        if found := EXITED.search(line):
            exited = int(found[1])
        hear(line)

    force = ["--force"] if order.force else []
    code, last = _supervised(order, [*STAGES, "make", order.address, "--who", order.who, *force], note)
    if code:
        raise StageFailed(order.address, exited or code, last)
    return outcome


def judge(order: Order, recipe: str, hear: Hear) -> dict[str, Any]:
    """What `python -m tasks.promote judge` decides of a recipe's new model.

    Raises:
        StageFailed: it could not be judged.
    """
    decisions: list[str] = []

    def sift(line: str) -> None:
        (decisions.append if line.startswith(DECISION) else hear)(line)

    promote(order, ["judge", recipe, "--json"], sift)
    return dict(json.loads(decisions[-1].removeprefix(DECISION)))


def promote(order: Order, words: list[str], hear: Hear) -> None:
    """Judge, accept or refuse a model: `python -m tasks.promote`.

    Raises:
        StageFailed: it could not be done.
    """
    code, last = _supervised(order, ["-m", "tasks.promote", *words], hear)
    if code not in (0, *DECIDED):
        raise StageFailed(f"promote {' '.join(words[:2])}", code, last)


def compare(order: Order, recipes: Sequence[str], hear: Hear) -> None:
    """Write the page that `python -m tasks.compare` makes of finished recipes.

    Raises:
        StageFailed: they could not be compared.
    """
    code, last = _supervised(order, ["-m", "tasks.compare", *recipes], hear)
    if code:
        raise StageFailed(f"compare {' '.join(recipes)}", code, last)


def push(order: Order, addresses: Sequence[str], hear: Hear) -> None:
    """Bring what these stages and those before them have made to DVC's default remote.

    Raises:
        StageFailed: there is none, or it does not take all of it.
    """
    code, last = _supervised(order, ["-m", "dvc", "push", "--with-deps", *addresses], hear)
    if code:
        raise StageFailed("dvc push", code, last)


def _supervised(order: Order, words: list[str], hear: Hear) -> tuple[int, list[str]]:
    """Run Python with these arguments under the supervisor; its exit code and last lines."""
    command = [sys.executable, *words]
    process = subprocess.Popen(
        [sys.executable, "-S", str(SUPERVISOR), "--grace", str(GRACE_SECONDS), "--", *command],
        cwd=order.workspace, env=order.environment, text=True, errors="replace", bufsize=1,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=25)
    try:
        for line in map(str.rstrip, process.stdout):
            if line and not ADVICE.match(line):
                last.append(line)
                hear(line)
        process.wait()
    except BaseException:  # cancelled, or out of time: the stage gets the time to write its checkpoint
        process.terminate()
        for line in map(str.rstrip, process.stdout):
            hear(line)
        process.wait()
        raise
    finally:
        process.stdout.close()
    return process.returncode, list(last)


def environment(extra: dict[str, str]) -> dict[str, str]:
    """Variables of a stage: this process's, less the servers', plus what keeps logs readable."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PREFECT") and name not in services.OURS
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), mine.get("PATH", "")])
    own = {
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
        "UNMASK_SCRATCH": str(layout.scratch()),
    }
    return {**QUIET, **mine, **own, **extra}
