"""AdamW over the trainable weights (Loshchilov & Hutter 2019), with layer-wise decay of the rate."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.objectives import Objective
from tasks.engine.settings import TrainSettings

# a layer, or a stage and a block of it: `layer.3.`, `h.3.`, `stages.1.0.`, `stages.1.layers.0.`
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|stages)\.(\d+)\.(?:(?:layers\.|blocks\.)?(\d+)\.)?")


def build(module: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """The optimizer; matrices decay, vectors (biases, norms) do not, each layer has its own rate.

    A group's `scale` is the factor that layer-wise decay (Clark et al. 2020, ELECTRA, appendix)
    puts on the scheduled rate. Heads have the rate of the encoder's last layer.
    """
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    if not named:
        raise ValueError("nothing to train: every weight of the objective is frozen")
    has_model = hasattr(module, "model")
    depths = _depths(module.encoder if isinstance(module, Objective) and has_model else module)
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for _, weight in named:
        scale = settings.layer_decay ** depths.get(id(weight), 0)
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


def _depths(encoder: nn.Module) -> dict[int, int]:
    """How many layers lie above each of the encoder's weights, by the weight's identity.

    The last layer has 0, and so has what follows it; embeddings have as many as there are layers.
    """
    names = dict(encoder.named_parameters())
    layers = sorted({place for name in names if (place := _place(name))})
    depths = {}
    for name, weight in names.items():
        place = _place(name)
        is_first = place is None and ("embed" in name or name.startswith(("wte", "wpe")))
        above = len(layers) if is_first else 0 if place is None else len(layers) - 1 - layers.index(place)
        depths[id(weight)] = above
    return depths


def _place(name: str) -> tuple[int, int] | None:
    """Stage and block, or layer and 0; None where the weight is in no layer."""
    match = _LAYER.search(name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the scheduled rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def gradients(weights: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that exist, in the order of the weights."""
    return [weight.grad for weight in weights if weight.grad is not None]
