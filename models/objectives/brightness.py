"""Brightness: how bright is a picture, seen in greyscale?

No paper: the control for a task too easy to teach anything. One average over the pixels solves it, so
that an encoder can become perfect at it and no better than a random one at anything else.

Legend: B pictures, C channels, H and W sides in pixels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image.augment.views import Augment
from models.image.images import Images
from models.image.pictures import features, width
from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.settings import Settings, setting

_STILL = 0.01  # of the deviation of what is to be predicted

CROPS = Augment(jitter=0.0, greyscale=0.0, blur=0.0)


@dataclass(frozen=True, kw_only=True)
class BrightnessSettings(Settings):
    """Nothing to choose but the crop."""

    augment: Augment = setting(CROPS, "What may happen to the picture before it is measured.")


class Brightness(Objective):
    """Squared error of the mean of a greyscale picture."""

    Settings = BrightnessSettings
    reads = ("images",)

    def __init__(self, model: PreTrainedModel, settings: BrightnessSettings, images: Images) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = images
        self.regressor = nn.Linear(width(model), 1)
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over pictures; `explained` is the share of the batch's variance that is predicted."""
        (pixel_values,) = self.views(batch).values()
        target_B = pixel_values.mean((1, 2, 3))
        features_BD = features(self.encoder, pixel_values)
        predicted_B = self.regressor(features_BD).squeeze(1).float()
        if self.training:
            self.seen = health.sample(features_BD), predicted_B.detach(), target_B
        loss = nn.functional.mse_loss(predicted_B, target_B)
        explained = 1 - loss.detach() / target_B.var(correction=0).clamp(min=1e-12)
        return Step(loss, {"explained": explained}, len(target_B))

    def views(self, batch: Batch) -> dict[str, Tensor]:
        """The view in grey."""
        grey = replace(self.settings.augment, greyscale=1.0)
        return {"in grey, to be measured": self.images.view(batch, grey, stream=1)}

    def health(self) -> Health:
        """Spread of features and of predictions."""
        if self.seen is None:
            return Health()
        features_ND, predicted_N, target_N = self.seen
        if len(target_N) < 2:  # one picture has no deviation
            return Health(health.measures(features_ND))
        spread = float(predicted_N.std(correction=0) / target_N.std(correction=0).clamp(min=1e-6))
        signature = ""
        if spread < _STILL:
            signature = (
                f"All pictures get the same brightness (deviation {spread:.3f} of the truth's): either "
                "they are equally bright, or the encoder tells none from another. Look at the pictures "
                "with tasks.preview; lower `lr`."
            )
        return Health({**health.measures(features_ND), "prediction_deviation": spread}, signature)
