"""SIGTERM and Ctrl-C as a question that the loop asks between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM


class Interrupted(Exception):
    """Training was asked to stop and did, with a checkpoint written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}; start again to go on from there")
        self.step = step


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """While open, SIGTERM and the first Ctrl-C are noted instead of obeyed.

    The function given says whether one came. Whoever ignores Ctrl-C goes on ignoring it.
    """
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        asked.set()
        if signum == signal.SIGINT:
            signal.signal(signum, before[signal.SIGINT])  # whoever presses it twice does not want to wait

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may set handlers; its caller sees the signal
        return
    for signum in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            before[signum] = signal.signal(signum, note)
    try:
        yield asked.is_set
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
