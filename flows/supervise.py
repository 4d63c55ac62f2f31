"""Stands between whoever orders work and the work, so that every way of stopping ends in the same state.

    python flows/supervise.py --grace 60 -- dvc repro -s pretrain@text-mlm

When it is told to stop (SIGTERM, SIGINT), or when the process that started it is gone, the stage
that DVC runs gets SIGTERM, writes its checkpoint and leaves; DVC then sees a failed stage and
leaves cleanly. What still lives after the grace is killed. Nothing outlives this process: orphans
of the work become its children. Standard library alone, and run by path, so that it starts in
milliseconds and from any directory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SHELLS = {"sh", "dash", "bash", "zsh", "ksh"}
STOPPED = 128 + signal.SIGTERM
TIDY_SECONDS = 2.0  # for DVC to note that a stage failed; a signal then would spoil what it writes
LAST_SECONDS = 3.0  # for what has already been asked to leave


def main(argv: list[str] | None = None) -> int:
    """Run a command until it ends or must end; its exit code, or 143 where it was stopped."""
    parser = argparse.ArgumentParser(description="Run a command of which nothing stays behind.")
    parser.add_argument("--grace", type=float, default=60.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(argv)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stop.append(received))
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return STOPPED  # it died before it could be watched
    work = subprocess.Popen(
        options.command, start_new_session=True, preexec_fn=_die_with_parent,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    relay = threading.Thread(target=_relay, args=(work.stdout,), daemon=True)
    relay.start()
    while work.poll() is None and not stop:
        _collect(besides=work.pid)
        time.sleep(0.05)
    if work.returncode is None:
        _stop(work, options.grace)
    _leave_nothing()
    relay.join(LAST_SECONDS)
    return STOPPED if stop else _exit_code(work.returncode)


def _relay(said: IO[bytes]) -> None:
    """Pass on what the work says; where nobody listens any more, it must not break on a line it writes."""
    while data := os.read(said.fileno(), 1 << 16):
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(1, data) :]


def _stop(work: subprocess.Popen[bytes], grace: float) -> None:
    """Ask the stage, not DVC, to leave: DVC told first would die at once and orphan it."""
    asked: set[int] = set()
    deadline = time.monotonic() + grace
    last_seen = 0.0
    while work.poll() is None and (now := time.monotonic()) < deadline:
        stages = set(_main_processes(work.pid))
        for pid in stages - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        last_seen = now if stages else last_seen
        if now - last_seen > TIDY_SECONDS and work.pid not in asked:  # between stages: a Ctrl-C ends DVC, too
            asked.add(work.pid)
            work.send_signal(signal.SIGINT)
        asked |= stages
        time.sleep(0.05)
    if work.poll() is None:
        for pid in [work.pid, *_descendants(work.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        work.wait()


def _leave_nothing() -> None:
    """End what the work left behind, and collect it."""
    for number, patience in ((signal.SIGTERM, LAST_SECONDS), (signal.SIGKILL, LAST_SECONDS)):
        rest = _descendants(os.getpid())
        for pid in rest:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while rest and time.monotonic() < deadline:
            time.sleep(0.02)
            rest = _descendants(os.getpid())
            _collect()  # after the look: of what is gone by then nothing stays, not even its number


def _collect(besides: int = 0) -> None:
    """Let go of orphans that have ended; of the work itself `poll` does, which wants its exit code."""
    if sys.platform != "linux":  # elsewhere nobody is adopted
        return
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == besides:
                return
            os.waitpid(ended.si_pid, 0)


def _main_processes(pid: int) -> Iterator[int]:
    """Children of a process, looking through shells: the processes that know what SIGTERM means."""
    for child in _children().get(pid, []):
        name, grandchildren = _name(child), _children().get(child, [])
        if name in SHELLS and grandchildren:
            yield from _main_processes(child)
        else:
            yield child


def _descendants(pid: int) -> list[int]:
    children = _children()
    found = list(children.get(pid, []))
    for child in found:  # grows while it is walked
        found += children.get(child, [])
    return found


def _children() -> dict[int, list[int]]:
    table: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                table.setdefault(int(parent), []).append(int(entry.parent.name))
    return table


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":  # elsewhere a killed parent is not noticed
        ctypes.CDLL(None).prctl(option, value)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
