"""SIGTERM as a question that the loop asks between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Interrupted(Exception):
    """Training was asked to stop and did, with a checkpoint written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped by SIGTERM at step {step}; start again to go on from there")
        self.step = step


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """While open, SIGTERM is noted instead of obeyed; the function given says whether it came."""
    asked = threading.Event()

    def note(signum: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread may set handlers; its caller sees the signal
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
