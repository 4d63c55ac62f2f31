"""The objective as the loop calls it: recomputing activations, compiled, synchronised over ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from models.encoders import UnknownEncoder
from models.objectives import Batch, Objective, Step
from tasks.engine.distributed import World
from tasks.engine.settings import TrainSettings

Forward = Callable[[Batch], Step]


def wrapped(objective: Objective, settings: TrainSettings, ranks: World) -> Forward:
    """The objective's forward pass with what the settings and the number of ranks ask for.

    Raises:
        UnknownEncoder: it cannot do without its activations, as the settings ask.
    """
    if settings.gradient_checkpointing:
        encoder = objective.encoder
        if not encoder.supports_gradient_checkpointing:
            raise UnknownEncoder(
                f"{encoder.config.model_type} cannot recompute activations; "
                "leave `gradient_checkpointing` out"
            )
        # transformers 5.20 renamed the method; older ones know the first name only
        getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
    module: Any = objective
    if settings.compile:
        module = torch.compile(module)
    if ranks.size > 1:
        module = DistributedDataParallel(module, broadcast_buffers=False)
    forward: Forward = module
    return forward


def unsynchronised(forward: Forward, *, is_last: bool) -> AbstractContextManager[None]:
    """DDP's `no_sync` for all micro-batches but the last; nothing where there is no DDP."""
    if is_last or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = forward.no_sync()
    return context
