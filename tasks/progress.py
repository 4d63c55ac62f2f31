"""Progress for people: a bar on a terminal, a line now and then where the output is a log."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from tasks.engine.events import Event

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0
WINDOW = 20.0  # seconds that a pace is measured over


class Pace:
    """How fast a run goes now: over its last events, as many as lie within `WINDOW`, but one at least."""

    def __init__(self) -> None:
        self._seen = deque([(0.0, 0.0, 0)])

    def of(self, event: Event) -> tuple[float, float]:
        """Units per second, and seconds per step."""
        self._seen.append((event.seconds, event.units, event.steps_done))
        while len(self._seen) > 2 and self._seen[1][0] <= event.seconds - WINDOW:
            self._seen.popleft()
        seconds, units, steps = self._seen[0]
        passed = event.seconds - seconds
        return (event.units - units) / passed, passed / max(1, event.steps_done - steps)


class Progress:
    """A callback of the loop that shows step, loss, rate and time left.

    Args:
        title: what is being done (`pretrain@text-mlm`).
        total_steps: length of the bar.

    Attributes:
        rate: units per second, as last shown.
    """

    def __init__(self, title: str, total_steps: int) -> None:
        self.title = title
        self._last_line = 0.0
        self._scores = ""
        self._pace = Pace()
        self.rate = 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            form = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
            self._bar = tqdm(total=total_steps, desc=title, bar_format=form, dynamic_ncols=True)

    def __call__(self, event: Event) -> None:
        """Show the event."""
        if event.verdict is not None:
            return
        self.rate, seconds_per_step = self._pace.of(event)
        shown = f"loss {event.metrics['loss']:.3f}, {self.rate:,.0f} {event.unit}/s{self._scores}"
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(event.step - self._bar.n)
            return
        is_last = event.step == event.total_steps
        if is_last or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = seconds_per_step * (event.total_steps - event.step)
            log.info("%s step %d/%d, %s, %d s left", self.title, event.step, event.total_steps, shown, left)

    def tell(self, scores: Mapping[str, float]) -> None:
        """Show these shares behind the pace until newer ones come."""
        self._scores = "".join(f", {name} {100 * share:.1f} %" for name, share in scores.items())

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
