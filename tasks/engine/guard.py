"""The collapse guard: reads an objective's health now and then, judges it, and decides what follows.

Two measures are known to every objective that learns embeddings: the effective rank (RankMe, Garrido
et al. 2023, https://arxiv.org/abs/2210.02885, equation 1) and the deviation of normalised embeddings
(SimSiam, Chen & He 2021, section 4.1, https://arxiv.org/abs/2011.10566). What is low for one method is
normal for another, so that each is compared with the best that the same run has shown: bad is what
has fallen to a tenth of it, never above `Limit.ceiling`, and always below `Limit.floor`. A method's own
signature counts as much, and so does a batch whose samples are all the same. One bad reading is a
warning; `PATIENCE` in a row are a failure, except in the beginning of a run: healthy methods dwell
there on plateaus that look like collapse (a decoder that paints the mean, tokens that are all guessed
to be the commonest).

Everything decided here is a function of the readings and of `Memory`, which a checkpoint holds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from models.objectives import Health
from tasks.engine.settings import TrainSettings

PATIENCE = 3
FALL = 0.1
LOWERED = 0.3  # factor of the rate after each failure that the run outlives
BEGINNING = 0.2  # share of the run in which nothing fails

Decision = Literal["", "warn", "lower_lr", "roll_back", "stop"]


class Collapsed(ArithmeticError):
    """The objective stopped learning anything; the message says what is seen, why it matters, what to do."""


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is not a number; the weights are still those of the step before."""


def check_finite(step: int, loss: float, norm: float) -> None:
    """Refuse the update of a step whose gradient is no number.

    Args:
        step: counted from 0.
        loss: of the step.
        norm: of its gradient.

    Raises:
        NonFiniteLoss: names the step and what to change.
    """
    if not math.isfinite(norm):
        raise NonFiniteLoss(
            f"the loss of step {step + 1} is {loss:g} and the gradient norm {norm:g}; the weights of step "
            f"{step} are kept. Lower `lr`, raise `warmup_fraction`, or look for broken samples in this "
            "step's batch."
        )


def sameness(batch: Mapping[str, Tensor]) -> str:
    """What is to be said of a batch whose samples are all the same; nothing where two differ."""
    values = [value for name, value in batch.items() if name != "key"]
    if not values or len(values[0]) < 2:
        return ""
    if not all(torch.equal(row, value[0]) for value in values for row in value[1:]):
        return ""
    return (
        "all samples of the batch are the same: nothing tells them apart, and nothing can be learnt; look "
        "at the corpus (python -m tasks.preview shows pictures), and at what it was prepared from"
    )


@dataclass(frozen=True)
class Limit:
    """When a measure is bad.

    Attributes:
        floor: bad below this, whatever the run has shown.
        ceiling: never bad above this.
        meaning: why it matters and what to change.
    """

    floor: float
    ceiling: float
    meaning: str

    def line(self, best: float) -> float:
        """What the measure must stay above, after the best reading so far."""
        return min(max(FALL * best, self.floor), self.ceiling)


LIMITS = {
    "effective_rank": Limit(
        0.01, 0.05,
        "the embeddings lie along a few directions and tell few samples apart; lower `lr`, raise "
        "`warmup_fraction` or `batch_size`, and look at the method's temperature and teacher",
    ),
    "deviation": Limit(
        0.01, 0.1,
        "all samples get all but the same embedding, from which nothing can be read; lower `lr`, see that "
        "no gradient reaches the target network, and look for constant samples in the corpus",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the guard says of one reading.

    Attributes:
        state: healthy, warning (seen, may pass) or failed.
        sentence: what is seen, why it matters and what to change; empty where all is well.
    """

    state: Literal["healthy", "warning", "failed"]
    sentence: str = ""


@dataclass
class Memory:
    """All that the guard knows of the run so far.

    Attributes:
        best: the largest value of each measure.
        num_bad: bad readings in a row.
        num_readings: readings so far.
        num_failures: failures that the run outlived.
        rate: factor of the scheduled learning rate.
        healthy_step: checkpoint with a good reading before and after it.
        candidate_step: checkpoint with a good reading before it; the next one decides.
        has_warned: whether the present failure has been told already.
    """

    best: dict[str, float] = field(default_factory=dict)
    num_bad: int = 0
    num_readings: int = 0
    num_failures: int = 0
    rate: float = 1.0
    healthy_step: int = 0
    candidate_step: int | None = None
    has_warned: bool = False


class Guard:
    """Judges readings of one run, and says which checkpoints are worth going back to."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.memory = Memory()

    def is_due(self, step: int) -> bool:
        """Whether health is read after that many steps."""
        every = self.settings.health_every
        return bool(every) and (step == 1 or step % every == 0)

    def judge(self, health: Health, step: int) -> Verdict:
        """The verdict on a reading; the first one is only what later ones are compared with."""
        memory = self.memory
        memory.num_readings += 1
        for name, value in health.measures.items():
            memory.best[name] = max(value, memory.best.get(name, value))
        seen = health.signature or self._fallen(health.measures)
        if not seen or memory.num_readings == 1:
            memory.num_bad, memory.has_warned = 0, False
            if memory.candidate_step is not None:
                memory.healthy_step, memory.candidate_step = memory.candidate_step, None
            return Verdict("healthy")
        memory.num_bad += 1
        memory.candidate_step = None
        if memory.num_bad < PATIENCE or step <= BEGINNING * self.settings.steps:
            return Verdict("warning", seen)
        return Verdict("failed", seen)

    def decide(self, verdict: Verdict) -> Decision:
        """What follows from the verdict; counts failures, and lowers the rate where that is the answer."""
        if verdict.state != "failed":
            return ""
        memory, wanted = self.memory, self.settings.on_collapse
        if wanted == "warn":
            is_new, memory.has_warned = not memory.has_warned, True
            return "warn" if is_new else ""
        if wanted == "stop" or memory.num_failures >= self.settings.max_roll_backs:
            return "stop"
        memory.num_failures += 1
        memory.num_bad = 0
        memory.candidate_step = None  # of a step that is taken back
        memory.rate *= LOWERED
        return wanted

    def saving(self, step: int) -> None:
        """A regular checkpoint of that step is about to be written."""
        if self._goes_back and not self.memory.num_bad:
            self.memory.candidate_step = step

    @property
    def protected(self) -> set[int]:
        """Steps of the checkpoints that must not be dropped."""
        memory = self.memory
        return {step for step in (memory.healthy_step, memory.candidate_step) if step is not None}

    @property
    def num_roll_backs(self) -> int:
        """How often the run went back."""
        return self.memory.num_failures if self._goes_back else 0

    @property
    def _goes_back(self) -> bool:
        return self.settings.on_collapse == "roll_back"

    def scalars(self) -> dict[str, Any]:
        """The memory, for a checkpoint."""
        return dataclasses.asdict(self.memory)

    def restore(self, scalars: Mapping[str, Any]) -> None:
        """Become the guard that `scalars` were taken from."""
        self.memory = Memory(**scalars)

    def _fallen(self, measures: Mapping[str, float]) -> str:
        """The sentence about the first measure that is bad."""
        for name, limit in LIMITS.items():
            best = self.memory.best.get(name, 0.0)
            if name in measures and not measures[name] >= limit.line(best):  # also where it is not a number
                words = name.replace("_", " ")
                return f"the {words} is {measures[name]:.2g} after {best:.2g} at best: {limit.meaning}"
        return ""
