"""Ranks: one process per device, started by torchrun; a single process is a world of one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class World:
    """This process's place among all of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks to servers."""
        return self.rank == 0

    def share(self, positions: range) -> range:
        """This rank's contiguous part of the positions of one step.

        Raises:
            ValueError: the positions cannot be cut into equal parts.
        """
        if len(positions) % self.size:
            raise ValueError(
                f"batch_size {len(positions)} is not a multiple of the {self.size} processes; "
                "change one of them"
            )
        part = len(positions) // self.size
        return positions[self.rank * part : (self.rank + 1) * part]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def from_first(self, ask: Callable[[], Answer]) -> Answer:
        """What the first rank answers, which alone is asked; all wait for it."""
        if self.size == 1:
            return ask()
        answers = [ask() if self.is_first else None]
        dist.broadcast_object_list(answers, device=self.device)
        return cast("Answer", answers[0])


@contextmanager
def world() -> Iterator[World]:
    """Join the process group that torchrun's environment describes, and leave it at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1 or dist.is_initialized():
        yield World(dist.get_rank() if size > 1 else 0, size, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        gc.collect()  # what is left of DDP would wait for ever for a group that is gone
        dist.destroy_process_group()
