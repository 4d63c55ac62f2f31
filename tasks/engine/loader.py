"""Samples by position: what the loop asks of any data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


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


def parts(batches: Batches, positions: range, count: int, device: torch.device) -> list[dict[str, Tensor]]:
    """The samples at these positions in that many parts, on the device."""
    size = math.ceil(len(positions) / count)
    cuts = range(0, len(positions), size)
    return [_moved(batches.batch(positions[cut : cut + size]), device) for cut in cuts]


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    if device.type == "cpu":
        return batch
    return {k: v.pin_memory().to(device, non_blocking=True) for k, v in batch.items()}


def ahead(make: Callable[[int], Made], current: Callable[[], int], steps: int) -> Iterator[tuple[int, Made]]:
    """Each step with what is made for it, one step ahead by a thread.

    Args:
        make: for a step, counted from 0.
        current: the next step; asked after each, because a run may go back.
        steps: where it ends.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        step = current()
        coming = thread.submit(make, step)
        while step < steps:
            made = coming.result()
            if step + 1 < steps:
                coming = thread.submit(make, step + 1)
            yield step, made
            if current() != step + 1:
                coming = thread.submit(make, current())
            step = current()
