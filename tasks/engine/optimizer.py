"""AdamW over the trainable weights (Loshchilov & Hutter 2019), with layer-wise decay of the rate."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tasks.engine.settings import TrainSettings

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


def build(module: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """The optimizer; matrices decay, vectors (biases, norms) do not, each layer has its own rate.

    A group's `scale` is the factor that layer-wise decay (Clark et al. 2020, ELECTRA, appendix)
    puts on the scheduled rate.
    """
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    if not named:
        raise ValueError("nothing to train: every weight of the objective is frozen")
    depth = 1 + max((int(match[1]) for name, _ in named if (match := _LAYER.search(name))), default=-1)
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, weight in named:
        scale = settings.layer_decay ** (depth - _level(name, depth))
        groups.setdefault((weight.ndim >= 2, scale), []).append(weight)
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": settings.weight_decay if decays else 0.0, "scale": scale}
            for (decays, scale), weights in groups.items()
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def _level(name: str, depth: int) -> int:
    """0 for embeddings, 1 to depth for layers, depth for what lies above them."""
    if match := _LAYER.search(name):
        return int(match[1]) + 1
    return 0 if "embed" in name or ".wte" in name or ".wpe" in name else depth


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the scheduled rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def gradients(weights: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that exist, in the order of the weights."""
    return [weight.grad for weight in weights if weight.grad is not None]
