"""What the loop tells others while it runs, and what it asks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from models.objectives import Objective
from tasks.engine.guard import Decision, Verdict

Evaluate = Callable[[Objective, int], Mapping[str, float]]


@dataclass(frozen=True)
class Event:
    """What callbacks are told every `log_every` steps, and apart from that at every reading of health.

    Attributes:
        step: steps done, counted from 1.
        total_steps: steps of the whole run.
        metrics: means over the steps since the last event, and the learning rate; or the measures
            of health (`health.effective_rank`, ...) where there is a verdict.
        steps_done: steps that this process has done: fewer than `step` after a resume, more after
            the run went back to an earlier checkpoint.
        units: units (tokens, images, ...) of those steps, over all ranks.
        seconds: time since it started, evaluations and checkpoints included.
        unit: the unit's name.
        verdict: what the guard says of the measures.
        decision: what the loop does about it.
    """

    step: int
    total_steps: int
    metrics: Mapping[str, float]
    steps_done: int
    units: float
    seconds: float
    unit: str
    verdict: Verdict | None = None
    decision: Decision = ""


class Callback(Protocol):
    """A side effect: a progress bar, a tracker."""

    def __call__(self, event: Event) -> None:
        """Called on the first rank only."""


@dataclass(frozen=True)
class Probe:
    """What is read off the frozen encoder now and then, from the initial weights to those that are kept.

    Attributes:
        every: steps between readings.
        read: asked on the first rank alone, in evaluation mode and without gradient.
    """

    every: int
    read: Evaluate
