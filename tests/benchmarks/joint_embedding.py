"""BYOL, MoCo, SimSiam and I-JEPA: our loop against a straightforward loop over Pillow-augmented pictures.

The straightforward loop sends one view after the other through the same networks, moves teachers
weight by weight, and attends as `transformers` does by default. I-JEPA's peer embeds all patches and
gives the encoder's layers those of the context; masks and predictor are ours.

    python -m tests.benchmarks.joint_embedding byol
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.image.augment.presets import CIFAR32
from models.image.augment.presets import IJEPA as CROPS
from models.image.patch_decoder import PatchDecoder
from models.image.patch_masks import multi_block
from models.image.pictures import take
from models.objectives.byol import BYOL
from models.objectives.ijepa import IJEPA
from models.objectives.moco import MoCo
from models.objectives.simsiam import SimSiam
from models.parts.projection import mlp
from tests.benchmarks.baton import Loop, options, race
from tests.benchmarks.pictures import (
    BATCH,
    GRID,
    SIDE,
    WIDTH,
    Method,
    features,
    follow,
    ours,
    plain,
    stored,
    vit,
)

BYOL_SETTINGS = BYOL.Settings(augment_1=CIFAR32, augment_2=CIFAR32)
MOCO_SETTINGS = MoCo.Settings(queue=4096, augment_1=CIFAR32, augment_2=CIFAR32)
SIMSIAM_SETTINGS = SimSiam.Settings(augment=CIFAR32)
IJEPA_SETTINGS = IJEPA.Settings(predictor_width=96, predictor_layers=3, predictor_heads=3)


class Branch(nn.Module):
    """Encoder and projector."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = vit(), projector

    def forward(self, view_BCHW: Tensor) -> Tensor:
        projected_BE: Tensor = self.projector(features(self.encoder, view_BCHW))
        return projected_BE


class PlainBYOL(Method):
    def __init__(self) -> None:
        super().__init__()
        hidden, projected = BYOL_SETTINGS.hidden_width, BYOL_SETTINGS.projection_width
        self.student = Branch(mlp(WIDTH, hidden, projected))
        self.predictor = mlp(projected, hidden, projected)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, views: list[Tensor]) -> Tensor:
        first_BE, second_BE = (self.predictor(self.student(view_BCHW)) for view_BCHW in views)
        with torch.no_grad():
            first_target_BE, second_target_BE = (self.teacher(view_BCHW) for view_BCHW in views)
        cosine_B = functional.cosine_similarity(first_BE, second_target_BE)
        return (4 - 2 * (cosine_B + functional.cosine_similarity(second_BE, first_target_BE))).mean()

    def after_step(self) -> None:
        follow(self.student, self.teacher, BYOL_SETTINGS.momentum)


class PlainMoCo(Method):
    def __init__(self) -> None:
        super().__init__()
        hidden, projected = MOCO_SETTINGS.hidden_width, MOCO_SETTINGS.projection_width
        self.student = Branch(mlp(WIDTH, hidden, projected, normalise=False))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.queue_QE = functional.normalize(torch.randn(MOCO_SETTINGS.queue, projected), dim=1)
        self.key_BE = torch.empty(0)

    def forward(self, views: list[Tensor]) -> Tensor:
        query_BE = functional.normalize(self.student(views[0]), dim=1)
        with torch.no_grad():
            self.key_BE = functional.normalize(self.teacher(views[1]), dim=1)
        own_B1 = (query_BE * self.key_BE).sum(1, keepdim=True)
        cosines = torch.cat([own_B1, query_BE @ self.queue_QE.T], dim=1)
        return functional.cross_entropy(
            cosines / MOCO_SETTINGS.temperature, torch.zeros(BATCH, dtype=torch.int64)
        )

    def after_step(self) -> None:
        follow(self.student, self.teacher, MOCO_SETTINGS.momentum)
        self.queue_QE = torch.cat([self.queue_QE[BATCH:], self.key_BE.float()])


class PlainSimSiam(Method):
    def __init__(self) -> None:
        super().__init__()
        hidden, projected = SIMSIAM_SETTINGS.hidden_width, SIMSIAM_SETTINGS.projection_width
        self.branch = Branch(mlp(WIDTH, hidden, hidden, projected, normalise_last=True))
        self.predictor = mlp(projected, SIMSIAM_SETTINGS.predictor_width, projected)

    def forward(self, views: list[Tensor]) -> Tensor:
        first_BE, second_BE = (self.branch(view_BCHW) for view_BCHW in views)
        cosine_B = functional.cosine_similarity(self.predictor(first_BE), second_BE.detach())
        cosine_B = cosine_B + functional.cosine_similarity(self.predictor(second_BE), first_BE.detach())
        return -cosine_B.mean() / 2


class Context(nn.Module):
    """An encoder that embeds all patches and goes on with some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: Any = vit()

    def forward(self, view_BCHW: Tensor, context_BK: Tensor | None = None) -> Tensor:
        tokens_BLD = self.encoder.embeddings(view_BCHW)
        if context_BK is not None:
            tokens_BLD = torch.cat([tokens_BLD[:, :1], take(tokens_BLD[:, 1:], context_BK)], dim=1)
        for layer in self.encoder.layers:
            tokens_BLD = layer(tokens_BLD)
        features_BPD: Tensor = self.encoder.layernorm(tokens_BLD)[:, 1:]
        return features_BPD


class PlainIJEPA(Method):
    has_varying_shapes = True

    def __init__(self) -> None:
        super().__init__()
        settings = IJEPA_SETTINGS
        self.student = Context()
        self.predictor = PatchDecoder(
            WIDTH, WIDTH, GRID, width=settings.predictor_width, num_layers=settings.predictor_layers,
            num_heads=settings.predictor_heads,
        )  # fmt: skip
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, views: list[Tensor]) -> Tensor:
        settings = IJEPA_SETTINGS
        num = settings.num_targets
        blocks = multi_block(
            torch.randint(2**62, (BATCH,)), GRID, GRID, num_targets=num, target_scale=settings.target_scale,
            target_ratio=settings.target_ratio, context_scale=settings.context_scale,
        )  # fmt: skip
        with torch.no_grad():
            target_BPD = functional.layer_norm(self.teacher(views[0]).float(), (WIDTH,))
        target = take(target_BPD, blocks.targets.flatten(1)).unflatten(1, (num, -1)).flatten(0, 1)
        predicted = self.predictor(
            self.student(views[0], blocks.context).repeat_interleave(num, 0),
            blocks.context.repeat_interleave(num, 0),
            blocks.targets.flatten(0, 1),
        )
        return functional.smooth_l1_loss(predicted.float(), target)

    def after_step(self) -> None:
        follow(self.student, self.teacher, IJEPA_SETTINGS.momentum)


METHODS = {
    "byol": (BYOL, BYOL_SETTINGS, PlainBYOL, [(CIFAR32, SIDE)] * 2),
    "moco": (MoCo, MOCO_SETTINGS, PlainMoCo, [(CIFAR32, SIDE)] * 2),
    "simsiam": (SimSiam, SIMSIAM_SETTINGS, PlainSimSiam, [(CIFAR32, SIDE)] * 2),
    "ijepa": (IJEPA, IJEPA_SETTINGS, PlainIJEPA, [(CROPS, SIDE)]),
}


def contestants(folder: Path, name: str) -> dict[str, Loop]:
    objective, settings, peer, crops = METHODS[name]
    return {
        f"ours, {name}": ours(objective, settings, folder),
        "plain loop as shipped (float32)": plain(peer, folder, crops, at_best=False),
        "plain loop, bfloat16 + compile + decoded": plain(peer, folder, crops, at_best=True),
    }


if __name__ == "__main__":
    parser = options()
    parser.add_argument("method", choices=METHODS)
    arguments = parser.parse_args()
    with stored() as folder:
        race(contestants(folder, arguments.method), units_per_step=BATCH, unit="images", arguments=arguments)
