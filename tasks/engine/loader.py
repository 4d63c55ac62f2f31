"""Samples by position: what the loop asks of any data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Batches(Protocol):
    """An endless sequence of samples in which everything random is a function of the position.

    Epoch e holds the positions e·num_samples to (e+1)·num_samples − 1. The order within an epoch,
    masks, crops and noise depend on (seed, position) alone: neither on ranks nor on history.

    Attributes:
        num_samples: samples in one epoch.
        unit: what throughput counts ("tokens", "images", "seconds of audio").
        units_per_sample: how many of them a sample holds.
    """

    num_samples: int
    unit: str
    units_per_sample: float

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The samples at these positions, stacked along the first dimension."""
