"""All that a training run remembers, as tensors and scalars for a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from models.objectives import Objective
from tasks.engine import optimizer as optimizers
from tasks.engine.checkpoint import Scalars
from tasks.engine.settings import TrainSettings


@dataclass
class History:
    """What was measured and decided, each with its step.

    Attributes:
        train: means between events.
        evaluations: held-out numbers.
        probes: what can be read off the frozen encoder.
        health: the objective's own measures.
        decisions: what the guard did, and the sentence that says why.
        earlier_seconds: what processes that were killed had spent up to the checkpoint gone on from.
    """

    train: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)
    health: list[dict[str, float]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    earlier_seconds: float = field(default=0.0, compare=False)


class State:
    """Weights, optimizer, average, and sums of what is logged next.

    Attributes:
        step: optimizer steps done.
        weights: what the optimizer changes, in its order.
        average: moving average of the weights; empty where none is kept.
        initial: the weights at the start; empty where nothing pulls towards them. They are not
            part of a checkpoint, because whoever restores one has built the same objective anew.
        sums: of each metric since the last event, in float64 so that a checkpoint keeps them exactly.
        num_summed: steps in those sums.
    """

    def __init__(self, objective: Objective, settings: TrainSettings) -> None:
        self.objective = objective
        self.settings = settings
        self.optimizer = optimizers.build(objective, settings)
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.average = [w.detach().clone() for w in self.weights] if settings.ema_decay else []
        self.initial = [w.detach().clone() for w in self.weights] if settings.pull_to_initial else []
        self.step = 0
        self.history = History()
        self.sums: dict[str, Tensor] = {}
        self.num_summed = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one step's metrics to the sums."""
        self.sums = {
            name: self.sums[name] + value if name in self.sums else value for name, value in metrics.items()
        }
        self.num_summed += 1

    def take_means(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: float(value) / self.num_summed for name, value in self.sums.items()}
        self.sums, self.num_summed = {}, 0
        return means

    @torch.no_grad()
    def scale_and_clip(self, factor: Tensor) -> float:
        """Turn summed gradients into means by that factor, clip their global norm, return it as it was."""
        gradients = optimizers.gradients(self.weights)
        torch._foreach_mul_(gradients, factor)
        if self.initial:
            pairs = zip(self.weights, self.initial, strict=True)
            pulled = [(weight, start) for weight, start in pairs if weight.grad is not None]
            moved = torch._foreach_sub([weight for weight, _ in pulled], [start for _, start in pulled])
            torch._foreach_add_(gradients, moved, alpha=2 * self.settings.pull_to_initial)
        norm = nn.utils.get_total_norm(gradients)
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self.weights, self.settings.clip_norm, norm)
        return float(norm)

    @torch.no_grad()
    def move_average(self, decay: float) -> None:
        """Let the average follow the weights by one step."""
        if self.average:
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    @torch.no_grad()
    def keep_average(self) -> None:
        """Put the average in the place of the weights."""
        if self.average:
            torch._foreach_copy_(self.weights, self.average)

    def tensors(self) -> dict[str, Tensor]:
        """State of the objective (queues and teachers included), the optimizer and the average."""
        tensors = {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors |= {f"average.{index}": value for index, value in enumerate(self.average)}
        return tensors

    def settled(self) -> set[str]:
        """Names of those tensors that an optimizer step changes and no forward pass does."""
        changing = {f"objective.{name}" for name, _ in self.objective.named_buffers()}
        return self.tensors().keys() - changing

    def scalars(self) -> Scalars:
        """Everything else."""
        return {
            "step": self.step,
            "sums": {name: float(value) for name, value in self.sums.items()},
            "num_summed": self.num_summed,
            **{part.name: copy(getattr(self.history, part.name)) for part in fields(History)},
        }

    def restore(self, tensors: Mapping[str, Tensor], scalars: Scalars) -> None:
        """Become the state that `tensors` and `scalars` were taken from."""
        self.step, self.num_summed = scalars["step"], scalars["num_summed"]
        device = self.weights[0].device
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in scalars["sums"].items()
        }
        self.history = History(**{part.name: scalars[part.name] for part in fields(History)})
        groups: dict[str, dict[str, Tensor]] = {"objective": {}, "optimizer": {}, "average": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            groups[kind][rest] = value
        self.objective.load_state_dict(groups["objective"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimizer"].items():
            index, _, key = name.partition(".")
            weight = self.weights[int(index)]
            is_like_weight = value.shape == weight.shape  # and lies in memory as the weight does
            moments.setdefault(int(index), {})[key] = (
                torch.empty_like(weight).copy_(value) if is_like_weight else value
            )
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for position, value in enumerate(self.average):
            value.copy_(groups["average"][str(position)])
