"""BYOL: one view predicts what a slow teacher says of the other.

Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, Grill et al. 2020, section 3,
https://arxiv.org/abs/2006.07733.

Differs from the paper: the optimizer is the loop's. Batch statistics are those of all ranks, the
teacher's included, so that several processes give one process's loss on the joined batch.

Legend: B pictures, C channels, H rows, W columns, D width, E projected width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import BYOL_1, BYOL_2, Augment
from models.image.images import Images
from models.image.pictures import Pooling, features, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.parts.batch_norm import across_ranks
from models.parts.projection import mlp
from models.parts.teacher import Teacher, cosine_momentum
from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class BYOLSettings(Settings):
    """The paper's numbers."""

    momentum: float = setting(0.996, "The teacher's at first; it rises to 1 by a cosine.", ge=0, le=1)
    hidden_width: int = setting(4096, "Width of the hidden layers of projector and predictor.", ge=1)
    projection_width: int = setting(256, "Width of what is compared.", ge=1)
    pooling: Pooling = setting("mean", "Vision transformers: the mean of the patches, or the class token.")
    augment_1: Augment = setting(BYOL_1, "What may happen to the first view.")
    augment_2: Augment = setting(BYOL_2, "What may happen to the second view.")


class BYOL(Objective):
    """Squared distance of unit vectors between a prediction and the teacher's projection."""

    Settings = BYOLSettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: BYOLSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        hidden, projected = settings.hidden_width, settings.projection_width
        self.projector = mlp(width(model), hidden, projected)
        self.predictor = mlp(projected, hidden, projected)
        self.teacher = Teacher(self.encoder, self.projector)
        across_ranks(self)
        self.progress = 0.0
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Step:
        """Sum of both directions, equation 2 and its mirror image: 0 where all is foretold, 8 at most."""
        view_1BCHW, view_2BCHW = self.views(batch).values()
        features_1BD = features(self.encoder, view_1BCHW, self.settings.pooling)
        features_2BD = features(self.encoder, view_2BCHW, self.settings.pooling)
        projected_1BE, projected_2BE = self.projector(features_1BD), self.projector(features_2BD)
        cosine_B = self.cosine(self.predict(projected_1BE), self.target(view_2BCHW))
        cosine_B = cosine_B + self.cosine(self.predict(projected_2BE), self.target(view_1BCHW))
        if self.training:
            self.seen = health.sample(features_1BD), health.sample(projected_1BE)
        return Step((4 - 2 * cosine_B).mean(), {"cosine": cosine_B.detach().mean() / 2}, len(batch["key"]))

    def predict(self, projected_BE: Tensor) -> Tensor:
        """What the teacher should say of the other view."""
        predicted_BE: Tensor = self.predictor(projected_BE)
        return predicted_BE

    def target(self, view_BCHW: Tensor) -> Tensor:
        """What the teacher says of a view, without gradient."""
        encoder, projector = self.teacher.networks
        assert isinstance(encoder, PreTrainedModel)
        projected_BE: Tensor = projector(features(encoder, view_BCHW, self.settings.pooling))
        return projected_BE.detach()

    @staticmethod
    def cosine(predicted_BE: Tensor, target_BE: Tensor) -> Tensor:
        """Cosine per picture, [B]."""
        return nn.functional.cosine_similarity(predicted_BE.float(), target_BE.float())

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """One by each set of rules."""
        return self.images.two_views(batch, self.settings.augment_1, self.settings.augment_2)

    def momentum(self, progress: float) -> float:
        """How much of itself the teacher keeps."""
        return cosine_momentum(self.settings.momentum, progress)

    def after_step(self, progress: float) -> None:
        """Let the teacher follow."""
        self.progress = progress
        self.teacher.update(self.encoder, self.projector, momentum=self.momentum(progress))

    def health(self) -> Health:
        """Spread of features and projections of the last batch, and whether the teacher follows."""
        if self.seen is None:
            return Health()
        spread = health.joint_embedding(*self.seen, "Lower `lr`, or raise `momentum` or `batch_size`.")
        teacher = self.teacher.health(self.encoder, self.projector, progress=self.progress)
        return Health({**spread.measures, **teacher.measures}, spread.signature or teacher.signature)
