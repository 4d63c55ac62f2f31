"""Rotation: by which quarter turn was a picture turned?

Unsupervised Representation Learning by Predicting Image Rotations, Gidaris et al. 2018, section 3,
https://arxiv.org/abs/1803.07728. Kept as a control: it can be solved by cues that say little about
what a picture shows, and has no answer where things have no upright.

Legend: B pictures, C channels, H and W sides in pixels, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import Augment
from models.image.images import Images
from models.image.pictures import features, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.settings import Settings, setting

NUM_TURNS = 4
_ONE_CLASS = 0.1  # of the entropy of four equal classes

SHIFTS = Augment(crop_scale=(0.7, 1.0), jitter=0.0, greyscale=0.0, blur=0.0)


@dataclass(frozen=True, kw_only=True)
class RotationSettings(Settings):
    """The paper has no numbers beyond the four turns."""

    augment: Augment = setting(SHIFTS, "What may happen to the picture before it is turned.")


class Rotation(Objective):
    """Cross-entropy of four classes over all four turns of each picture."""

    Settings = RotationSettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: RotationSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        self.classifier = nn.Linear(width(model), NUM_TURNS)
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over pictures and turns; `accuracy` is the share of turns that is recognised."""
        views_BCHW = self.images.view(batch, self.settings.augment, stream=1)
        turned_4BCHW = all_turns(views_BCHW)
        turn_4B = torch.arange(NUM_TURNS, device=views_BCHW.device).repeat_interleave(len(views_BCHW))
        features_4BD = features(self.encoder, turned_4BCHW)
        scores_4B4 = self.classifier(features_4BD).float()
        if self.training:
            self.seen = health.sample(features_4BD[: len(views_BCHW)]), scores_4B4.detach()
        loss = nn.functional.cross_entropy(scores_4B4, turn_4B)
        accuracy = (scores_4B4.detach().argmax(1) == turn_4B).float().mean()
        return Step(loss, {"accuracy": accuracy}, len(turn_4B))

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The view in all its turns."""
        turned_4BCHW = all_turns(self.images.view(batch, self.settings.augment, stream=1))
        turns = turned_4BCHW.unflatten(0, (NUM_TURNS, -1)).unbind()
        return {f"turned by {90 * number}°": turn_BCHW for number, turn_BCHW in enumerate(turns)}

    def health(self) -> Health:
        """Spread of features, and how evenly the four answers are given."""
        if self.seen is None:
            return Health()
        features_ND, scores_N4 = self.seen
        share_4 = scores_N4.softmax(1).mean(0)
        entropy = float(torch.special.entr(share_4).sum()) / math.log(NUM_TURNS)
        signature = ""
        if entropy < _ONE_CLASS:
            signature = (
                f"All pictures get the same answer (entropy of the four turns {entropy:.2f} of the largest): "
                "the classifier is stuck and gives the encoder no gradient worth having. Lower `lr`."
            )
        return Health({**health.measures(features_ND), "class_entropy": entropy}, signature)


def all_turns(x_BCHW: Tensor) -> Tensor:
    """The pictures as they are, then turned by one, two and three quarters, [4·B, C, H, W]."""
    return torch.cat([torch.rot90(x_BCHW, turn, (2, 3)) for turn in range(NUM_TURNS)])
