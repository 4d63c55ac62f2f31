from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.objectives import Batch, Objective, Step
from tasks.engine import compute

INPUTS, HIDDEN, ROWS = 7, 5, 3


class TwoLayers(Objective):
    """Mean of two linear layers' outputs; counts how often it was asked."""

    asked: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, 1))
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, batch: Batch) -> Step:
        self.asked.add_(1)
        return Step(self.layers(batch["values"]).mean())


class Zeros:
    num_samples, unit, units_per_sample = 100, "rows", 1.0

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        return {"values": torch.zeros(len(positions), ROWS, INPUTS)}


def test_operations_are_two_per_product_forward_and_twice_that_backward_but_for_the_inputs() -> None:
    first, second = 2 * ROWS * INPUTS * HIDDEN, 2 * ROWS * HIDDEN
    forward, weights, inputs = first + second, first + second, second  # no gradient is asked of the values
    assert compute.per_sample(TwoLayers(), Zeros()) == forward + weights + inputs


def test_counting_leaves_no_trace() -> None:
    objective = TwoLayers().eval()
    compute.per_sample(objective, Zeros())
    assert objective.asked == 0
    assert not objective.training
    assert all(parameter.grad is None for parameter in objective.parameters())
