"""SimSiam: one view predicts the other, and only the one that predicts is changed.

Exploring Simple Siamese Representation Learning, Chen & He 2021, section 3 and algorithm 1,
https://arxiv.org/abs/2011.10566.

Differs from the paper: the predictor's learning rate falls with that of all other weights. Batch
statistics are those of all ranks, so that several processes give one process's loss on the joined
batch.

Legend: B pictures, C channels, H rows, W columns, D width, E projected width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import SIMSIAM, Augment
from models.image.images import Images
from models.image.pictures import Pooling, features, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.parts.batch_norm import across_ranks
from models.parts.projection import mlp
from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SimSiamSettings(Settings):
    """The paper's numbers."""

    hidden_width: int = setting(2048, "Width of the projector's hidden layers.", ge=1)
    projection_width: int = setting(2048, "Width of what is compared.", ge=1)
    predictor_width: int = setting(512, "Width of the predictor's hidden layer, a bottleneck.", ge=1)
    pooling: Pooling = setting("mean", "Vision transformers: the mean of the patches, or the class token.")
    augment: Augment = setting(SIMSIAM, "What may happen to each view.")


class SimSiam(Objective):
    """Negative cosine between a prediction from one view and the projection of the other."""

    Settings = SimSiamSettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: SimSiamSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        hidden, projected = settings.hidden_width, settings.projection_width
        self.projector = mlp(width(model), hidden, hidden, projected, normalise_last=True)
        self.predictor = mlp(projected, settings.predictor_width, projected)
        across_ranks(self)
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean of both directions; −1 where each view foretells the other."""
        features_1BD, features_2BD = (
            features(self.encoder, view_BCHW, self.settings.pooling)
            for view_BCHW in self.views(batch).values()
        )
        projected_1BE, projected_2BE = self.projector(features_1BD), self.projector(features_2BD)
        cosine_B = self.cosine(projected_1BE, projected_2BE) + self.cosine(projected_2BE, projected_1BE)
        if self.training:
            self.seen = health.sample(features_1BD), health.sample(projected_1BE)
        loss = -cosine_B.mean() / 2
        return Step(loss, {"cosine": -loss.detach()}, len(batch["key"]))

    def cosine(self, projected_BE: Tensor, other_BE: Tensor) -> Tensor:
        """Cosine between what one view predicts and what the other is, [B]."""
        predicted_BE = self.predict(projected_BE).float()
        return nn.functional.cosine_similarity(predicted_BE, self.stop_gradient(other_BE).float())

    def predict(self, projected_BE: Tensor) -> Tensor:
        """What the other view's projection should be."""
        predicted_BE: Tensor = self.predictor(projected_BE)
        return predicted_BE

    def stop_gradient(self, projected_BE: Tensor) -> Tensor:
        """The projection as a constant, without which all projections become the same."""
        return projected_BE.detach()

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """Two by the same rules."""
        return self.images.two_views(batch, self.settings.augment, self.settings.augment)

    def health(self) -> Health:
        """Spread of features and projections of the last batch."""
        if self.seen is None:
            return Health()
        return health.joint_embedding(*self.seen, "Lower `lr`, or raise `batch_size` or `weight_decay`.")
