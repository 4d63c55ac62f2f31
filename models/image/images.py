"""What an objective over pictures must know of them: their side, their channels, their mean values.

Legend: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.image.augment import views
from models.image.augment.resample import crop_taps, resample
from models.image.augment.settings import Augment

CENTRAL_SHARE = 7 / 8  # of a stored side, when it is larger than the encoder's: 224 of 256 pixels


@dataclass(frozen=True)
class Images:
    """Facts about the stored pictures.

    Attributes:
        size: side of the encoder's input, pixels.
        channels: 3 or 1.
        mean: of each channel, values 0 to 1.
        std: of each channel.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and deviations; got {self.mean} and {self.std}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"deviations must be above 0; got {self.std}: are all pictures of one colour?")

    def normalise(self, values_BCHW: Tensor) -> Tensor:
        """Values 0 to 1 to mean 0 and deviation 1 per channel, float32."""
        values_BCHW = values_BCHW.float()
        mean_C11 = values_BCHW.new_tensor(self.mean).view(-1, 1, 1)
        std_C11 = values_BCHW.new_tensor(self.std).view(-1, 1, 1)
        return (values_BCHW - mean_C11) / std_C11

    def view(
        self, batch: Mapping[str, Tensor], augment: Augment, *, stream: int, size: int | None = None
    ) -> Tensor:
        """One random view of each picture of a batch as the encoder reads it: [B, C, size, size], normalised.

        Args:
            batch: `pixels` uint8 [B, C, H, W] and `key` int64 [B], from which all chance is drawn.
            augment: what may happen.
            stream: tells apart the views of one batch.
            size: side of the view in pixels; None is the encoder's.
        """
        size = size or self.size
        return self.normalise(views.view(batch["pixels"], batch["key"], augment, size, stream=stream))

    def two_views(self, batch: Mapping[str, Tensor], first: Augment, second: Augment) -> dict[str, Tensor]:
        """What methods compare that look at each picture twice, by name; `batch` as for `view`."""
        return {
            "first view": self.view(batch, first, stream=1),
            "second view": self.view(batch, second, stream=2),
        }

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def plain(self, pixels_BCHW: Tensor) -> Tensor:
        """The pictures without any chance, as evaluation reads them: [B, C, size, size], normalised.

        Of pictures stored larger than the encoder's side, the central 7/8 are read, but never less
        than that side; the rest is one resize without aliasing.
        """
        return self.normalise(self._fit(pixels_BCHW))

    def _fit(self, pixels_BCHW: Tensor) -> Tensor:
        stored = min(pixels_BCHW.shape[2:])
        if pixels_BCHW.shape[2:] == (self.size, self.size):
            return pixels_BCHW.float() / 255
        crop = min(stored, max(self.size, round(CENTRAL_SHARE * stored)))
        top, left = ((side - crop) // 2 for side in pixels_BCHW.shape[2:])
        crop_BCHW = pixels_BCHW[:, :, top : top + crop, left : left + crop]
        if crop == self.size:
            return crop_BCHW.float() / 255
        with torch.no_grad(), torch.autocast(pixels_BCHW.device.type, enabled=False):
            start_B = torch.zeros(len(pixels_BCHW), device=pixels_BCHW.device)
            taps = crop_taps(start_B, start_B + crop, crop, self.size, "bilinear")
            return resample(crop_BCHW, taps, taps) / 255
