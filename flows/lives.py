"""Whether the process of a flow run lives: it holds a file as long as it does, however it dies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from flows import turns
from tasks import layout, spool


def folder() -> Path:
    """Of these files."""
    return layout.scratch() / "flows"


def file(run_id: str) -> Path:
    """The file that the run of that id holds."""
    return folder() / run_id


def held(run_id: str, title: str, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold a run's file; a second process of the same run waits until the first is gone."""
    return turns.alone(file(run_id), title, "is this very run", say)


def at_work(run_id: str) -> bool:
    """Whether the process of that run lives on this machine."""
    return file(run_id).exists() and not spool.written_by_nobody(file(run_id))


def is_lost(run_id: str) -> bool:
    """Whether it has worked on this machine and is gone."""
    return file(run_id).exists() and spool.written_by_nobody(file(run_id))
