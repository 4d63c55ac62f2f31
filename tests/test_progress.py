"""What people are shown while a run goes on."""

from __future__ import annotations

import pytest

from tasks.engine.events import Event
from tasks.progress import WINDOW, Pace


def event(seconds: float, units: float, steps: int) -> Event:
    return Event(steps, 100, {"loss": 1.0}, steps, units, seconds, "images")


def test_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.of(event(10, 1000, 1)) == (100, 10)
    assert pace.of(event(WINDOW + 5, 1000, 1))[0] == pytest.approx(1000 / (WINDOW + 5))  # it stood still
    assert pace.of(event(WINDOW + 10, 1500, 2)) == (500 / WINDOW, WINDOW)
    assert pace.of(event(3 * WINDOW + 10, 1600, 6)) == (100 / (2 * WINDOW), 2 * WINDOW / 4)
