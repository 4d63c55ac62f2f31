"""DINO: our loop against lightly's recipe.

Two crops of 32 pixels and six of 16; heads and prototypes as in lightly's example. lightly needs
torchvision, whose compiled part does not load beside torch's build for CPUs; so its recipe
(`examples/pytorch/dino.py` of https://github.com/lightly-ai/lightly) is written here from its public
description: `DINOTransform`, one forward pass per crop, `DINOProjectionHead` with weight
normalisation, `DINOLoss`, `update_momentum`. The checks that torchvision makes around the same operations
of Pillow are left out, which favours the peer.

    python -m tests.benchmarks.dino
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import PreTrainedModel

from models.image.augment.presets import CIFAR32, CIFAR32_LOCAL
from models.objectives.dino import DINO, GLOBAL_CROPS
from tests.benchmarks.baton import Loop, race
from tests.benchmarks.pictures import BATCH, SIDE, WIDTH, Method, follow, ours, plain, stored, vit

SETTINGS = DINO.Settings(
    local_crops=6, local_size=16, prototypes=2048, hidden_width=512, bottleneck_width=64,
    augment_global_1=CIFAR32, augment_global_2=CIFAR32, augment_local=CIFAR32_LOCAL,
)  # fmt: skip
CROPS = [(CIFAR32, SIDE)] * GLOBAL_CROPS + [(CIFAR32_LOCAL, 16)] * SETTINGS.local_crops


class Head(nn.Module):
    """Three layers, a unit vector, its cosines with prototypes."""

    def __init__(self) -> None:
        super().__init__()
        hidden, bottleneck = SETTINGS.hidden_width, SETTINGS.bottleneck_width
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        self.prototypes = weight_norm(nn.Linear(bottleneck, SETTINGS.prototypes, bias=False))
        self.prototypes.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, features_BD: Tensor) -> Tensor:
        outputs_BK: Tensor = self.prototypes(nn.functional.normalize(self.layers(features_BD), dim=1))
        return outputs_BK


class Lightly(Method):
    """Crop after crop through student and teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = vit(), Head()
        self.teacher_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.centre_K = torch.zeros(SETTINGS.prototypes)
        self.teacher_TBK = torch.empty(0)

    def forward(self, views: list[Tensor]) -> Tensor:
        with torch.no_grad():
            teacher = [self.teacher_head(encode(self.teacher_encoder, view)) for view in views[:GLOBAL_CROPS]]
        student_SBK = torch.stack([self.head(encode(self.encoder, view)) for view in views])
        self.teacher_TBK = torch.stack(teacher)
        temperature = SETTINGS.teacher_temperature
        target_TBK = ((self.teacher_TBK - self.centre_K) / temperature).softmax(-1)
        log_SBK = (student_SBK / SETTINGS.student_temperature).log_softmax(-1)
        loss_TS = -torch.einsum("tbk,sbk->ts", target_TBK.float(), log_SBK.float())
        loss_TS = loss_TS * (1 - torch.eye(*loss_TS.shape))
        return loss_TS.sum() / ((loss_TS.numel() - GLOBAL_CROPS) * BATCH)

    def after_step(self) -> None:
        follow(self.encoder, self.teacher_encoder, SETTINGS.momentum)
        follow(self.head, self.teacher_head, SETTINGS.momentum)
        self.centre_K = torch.lerp(
            self.teacher_TBK.float().mean((0, 1)), self.centre_K, SETTINGS.centre_momentum
        )


def encode(encoder: PreTrainedModel, crop_BCHW: Tensor) -> Tensor:
    """The class token, [B, D]."""
    return encoder(pixel_values=crop_BCHW, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def contestants(folder: Path) -> dict[str, Loop]:
    peer = partial(plain, Lightly, folder, CROPS)
    return {
        "ours": ours(DINO, SETTINGS, folder),
        "lightly as shipped (float32)": peer(at_best=False),
        "lightly, bfloat16 + compile + decoded": peer(at_best=True),
    }


if __name__ == "__main__":
    with stored() as folder:
        race(contestants(folder), units_per_step=BATCH, unit="images")
