"""SimCLR: two views of a picture attract, views of all other pictures repel.

A Simple Framework for Contrastive Learning of Visual Representations, Chen et al. 2020, section 2,
https://arxiv.org/abs/2002.05709.

Differs from the paper: the optimizer is the loop's. Negatives and batch statistics are those of all
ranks, with gradient, so that several processes give one process's loss on the joined batch.

Legend: B pictures, C channels, H rows, W columns, D width, E projected width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.image.augment.views import SIMCLR, Augment
from models.image.images import Images
from models.image.pictures import Pooling, features, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.parts.batch_norm import across_ranks
from models.parts.contrast import information, nt_xent, require_negatives
from models.parts.gather import world_size
from models.parts.projection import mlp
from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SimCLRSettings(Settings):
    """The paper's numbers for ImageNet."""

    temperature: float = setting(0.1, "Divisor of the cosines before the softmax.", gt=0)
    hidden_width: int = setting(2048, "Width of the projector's hidden layer.", ge=1)
    projection_width: int = setting(128, "Width of what is compared.", ge=1)
    pooling: Pooling = setting("mean", "Vision transformers: the mean of the patches, or the class token.")
    augment: Augment = setting(SIMCLR, "What may happen to each view.")


class SimCLR(Objective):
    """NT-Xent between projections of two views."""

    Settings = SimCLRSettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: SimCLRSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        self.projector = mlp(
            width(model), settings.hidden_width, settings.projection_width, normalise_last=True
        )
        across_ranks(self)
        self.seen: tuple[Tensor, Tensor, Tensor, int] | None = None

    def forward(self, batch: Batch) -> Step:
        """Contrast of all views of all ranks; `contrast_accuracy` is the share that finds its partner."""
        num = len(batch["key"])
        if self.training:
            require_negatives(num * world_size())
        views_2BCHW = torch.cat(list(self.views(batch).values()))
        features_2BD = features(self.encoder, views_2BCHW, self.settings.pooling)
        outputs_2BE = self.projector(features_2BD)
        loss, found = nt_xent(outputs_2BE, self.settings.temperature, joins_ranks=self.training)
        if self.training:
            features_ND, outputs_NE = health.sample(features_2BD[:num]), health.sample(outputs_2BE[:num])
            self.seen = features_ND, outputs_NE, loss.detach(), 2 * num * world_size() - 1
        return Step(loss, {"contrast_accuracy": found}, num)

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """Two by the same rules."""
        return self.images.two_views(batch, self.settings.augment, self.settings.augment)

    def health(self) -> Health:
        """Spread of features and projections of the last batch, and what the contrast tells of pairs."""
        if self.seen is None:
            return Health()
        features_ND, outputs_NE, loss, num_candidates = self.seen
        advice = "Lower `lr`, or `temperature` if it is above 0.5."
        spread = health.joint_embedding(features_ND, outputs_NE, advice)
        nats, sentence = information(loss, num_candidates, self.settings.temperature)
        return Health({**spread.measures, "information": nats}, spread.signature or sentence)
