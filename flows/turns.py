"""Turns between processes of one machine: what only one may do, and places that a few may have.

Everything is a lock on a file, which its holder's death lets go of, however it died.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

LOOK_SECONDS = 0.2
GPUS = "CUDA_VISIBLE_DEVICES"
PROCESSOR = "processor"  # the place of a machine without GPUs

Say = Callable[[str], None]


@contextlib.contextmanager
def alone(path: Path, who: str, what: str, say: Say) -> Iterator[None]:
    """Hold the lock at `path`, after whoever holds it now.

    Args:
        path: the lock's file.
        who: what others that have to wait are told.
        what: what the holder does, as in "waiting for <who>, which <what>".
        say: told once, when there is somebody to wait for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        has_told = False
        while not _taken(file):
            if not has_told:
                say(f"waiting for {_holder(path)}, which {what}")
            has_told = True
            time.sleep(LOOK_SECONDS)
        _write(file, who)
        yield


def at_once(path: Path, who: str, held: contextlib.ExitStack) -> bool:
    """Take the lock at `path` if it is free, until `held` is closed; whether it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    if not _taken(file):
        file.close()
        return False
    _write(held.enter_context(file), who)
    return True


@contextlib.contextmanager
def place(folder: Path, names: Sequence[str], who: str, say: Say) -> Iterator[str]:
    """Have one of a few places, in the order in which they were asked for.

    Args:
        folder: of the queue.
        names: the places, such as the numbers of GPUs.
        who: what others that have to wait are told.
        say: told who is before this one, whenever that changes.

    Yields:
        The name of the place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _ticket(folder, who) as ticket, contextlib.ExitStack() as held:
        told = ""
        while True:
            before = _before(folder, ticket)
            name = None if before else _free(folder, names, who, held)
            if name is not None:
                break
            holders = [_holder(folder / f"{name}.place") for name in names]
            now = f"waiting for a place to compute; at work: {', '.join(holders)}"
            now += f"; before this one: {', '.join(before)}" if before else "; this one is next"
            if now != told:
                say(now)
            told = now
            time.sleep(LOOK_SECONDS)
        ticket.unlink()
        yield name


@contextlib.contextmanager
def _ticket(folder: Path, who: str) -> Iterator[Path]:
    """A numbered file that its owner holds while it waits."""
    with (folder / "counter").open("a+") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.seek(0)
        number = int(counter.read() or 0) + 1
        _write(counter, str(number))
        path = folder / f"{number:012d}.ticket"
        file = path.open("a+")
        assert _taken(file), "nobody else knows a number that was just drawn"
        _write(file, who)
    with file:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _before(folder: Path, mine: Path) -> list[str]:
    """Who waits with a lower number; tickets of the dead are thrown away."""
    found = []
    for path in sorted(folder.glob("*.ticket")):
        if path.name >= mine.name:
            break
        with contextlib.suppress(FileNotFoundError), path.open("a+") as file:
            if _taken(file):
                path.unlink(missing_ok=True)
            else:
                found.append(_holder(path))
    return found


def _free(folder: Path, names: Sequence[str], who: str, held: contextlib.ExitStack) -> str | None:
    return next((name for name in names if at_once(folder / f"{name}.place", who, held)), None)


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text() or "another run"
    return "another run"


def machine_places() -> tuple[str, ...]:
    """The places of this machine: its GPUs, else the processor as a whole (`UNMASK_PLACES` names others)."""
    for variable in ("UNMASK_PLACES", GPUS):
        if variable in os.environ:
            return tuple(filter(None, os.environ[variable].split(","))) or (PROCESSOR,)
    gpus = Path("/proc/driver/nvidia/gpus")
    return tuple(str(number) for number, _ in enumerate(sorted(gpus.glob("*")))) or (PROCESSOR,)
