"""SimCLR: our loop against lightly's recipe.

lightly needs torchvision, whose compiled part does not load beside torch's build for CPUs; so its
recipe (`examples/pytorch/simclr.py` of https://github.com/lightly-ai/lightly) is written here from its
public description: `SimCLRTransform` as it advises for small pictures (strength 0.5, no blur), one
forward pass per view, `SimCLRProjectionHead` and `NTXentLoss`. The checks that torchvision makes around
the same operations of Pillow are left out, which favours the peer.

    python -m tests.benchmarks.simclr
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from models.image.augment.presets import CIFAR32
from models.objectives.simclr import SimCLR
from models.parts.projection import mlp
from tests.benchmarks.baton import Loop, race
from tests.benchmarks.pictures import BATCH, SIDE, WIDTH, Method, features, ours, plain, stored, vit

SETTINGS = SimCLR.Settings(augment=CIFAR32)


class Lightly(Method):
    """Two views, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = vit()
        self.projector = mlp(WIDTH, SETTINGS.hidden_width, SETTINGS.projection_width, normalise_last=True)

    def forward(self, views: list[Tensor]) -> Tensor:
        first_BE, second_BE = (self.projector(features(self.encoder, view_BCHW)) for view_BCHW in views)
        return nt_xent(first_BE, second_BE)


def nt_xent(first_BE: Tensor, second_BE: Tensor) -> Tensor:
    """Four blocks of cosines, of which two lose their diagonals."""
    first_BE, second_BE = (nn.functional.normalize(each_BE, dim=1) for each_BE in (first_BE, second_BE))
    is_other_BB = ~torch.eye(BATCH, dtype=torch.bool)
    rows = []
    for own_BE, other_BE in ((first_BE, second_BE), (second_BE, first_BE)):
        negatives = (own_BE @ own_BE.T)[is_other_BB].view(BATCH, -1)
        rows.append(torch.cat([own_BE @ other_BE.T, negatives], dim=1))
    partner = torch.arange(BATCH).repeat(2)
    return nn.functional.cross_entropy(torch.cat(rows) / SETTINGS.temperature, partner)


def contestants(folder: Path) -> dict[str, Loop]:
    peer = partial(plain, Lightly, folder, [(CIFAR32, SIDE)] * 2)
    return {
        "ours": ours(SimCLR, SETTINGS, folder),
        "ours, compiled": ours(SimCLR, SETTINGS, folder, compile=True),
        "lightly as shipped (float32)": peer(at_best=False),
        "lightly, bfloat16 + compile + decoded": peer(at_best=True),
    }


if __name__ == "__main__":
    with stored() as folder:
        race(contestants(folder), units_per_step=BATCH, unit="images")
