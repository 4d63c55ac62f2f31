"""Stored pictures to what an encoder reads, wherever labelled pictures are used.

Legend: B pictures, C channels, S stored side and H, W the encoder's in pixels, L vectors of a picture,
D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.image import pictures
from models.image.augment.views import PRESETS, Augment
from models.image.images import Images
from models.settings import Settings

_STREAM = 32  # apart from the streams that objectives draw from


class Reader(nn.Module):
    """`pixels` [B, C, S, S] uint8 to normalised `pixel_values` [B, C, H, W]; the rest of a batch stays.

    Args:
        images: size and normalisation.
        augment: what may happen to a picture in training; None leaves it as evaluation sees it.
    """

    def __init__(self, images: Images, augment: Augment | None) -> None:
        super().__init__()
        self.images = images
        self.augment = augment

    def forward(
        self, batch: Mapping[str, Tensor], *, training: bool, key: Tensor | None
    ) -> dict[str, Tensor]:
        """The batch with `pixel_values`; in training a random view by the key of each picture, [B]."""
        rest = {name: value for name, value in batch.items() if name != "pixels"}
        if not training or self.augment is None:
            return {**rest, "pixel_values": self.images.plain(batch["pixels"])}
        assert key is not None
        keyed = {"pixels": batch["pixels"], "key": key}
        return {**rest, "pixel_values": self.images.view(keyed, self.augment, stream=_STREAM)}

    def within(self, model: PreTrainedModel, key: Tensor | None) -> AbstractContextManager[None]:
        """Nothing changes within the model."""
        return nullcontext()

    def hidden(
        self, encoder: PreTrainedModel, batch: Mapping[str, Tensor], kind: str, pooling: str
    ) -> Tensor:
        """What a probe reads of each picture, [B, L, D]: its patches for segmentation, else one vector."""
        pixel_values = self.images.plain(batch["pixels"])
        if kind == "segmentation":
            return pictures.patches(encoder, pixel_values)
        if pooling == "cells":
            return pictures.in_cells(encoder, pixel_values).unsqueeze(1)
        return pictures.features(encoder, pixel_values, "class" if pooling == "first" else "mean").unsqueeze(
            1
        )


def augmentation(name: str, objective: Settings) -> Augment | None:
    """The preset of that name, or for `method` the first augmentation among the objective's settings."""
    if name == "none":
        return None
    if name != "method":
        return PRESETS[name]
    return next((value for value in vars(objective).values() if isinstance(value, Augment)), None)
