"""Progress for people: a bar on a terminal, a line now and then where the output is a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from tasks.engine.events import Event

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A callback of the loop that shows step, loss, rate and time left.

    Args:
        title: what is being done (`pretrain@text-mlm`).
        total_steps: length of the bar.
    """

    def __init__(self, title: str, total_steps: int) -> None:
        self.title = title
        self._last_line = 0.0
        self._scores = ""
        self._bar: Any = None
        if sys.stderr.isatty():
            form = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
            self._bar = tqdm(total=total_steps, desc=title, bar_format=form, dynamic_ncols=True)

    def __call__(self, event: Event) -> None:
        """Show the event."""
        if event.verdict is not None:
            return
        rate = event.units / event.seconds
        shown = f"loss {event.metrics['loss']:.3f}, {rate:,.0f} {event.unit}/s{self._scores}"
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(event.step - self._bar.n)
            return
        is_last = event.step == event.total_steps
        if is_last or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = event.seconds / max(1, event.steps_done) * (event.total_steps - event.step)
            log.info("%s step %d/%d, %s, %d s left", self.title, event.step, event.total_steps, shown, left)

    def tell(self, scores: Mapping[str, float]) -> None:
        """Show these shares behind the pace until newer ones come."""
        self._scores = "".join(f", {name} {100 * share:.1f} %" for name, share in scores.items())

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
