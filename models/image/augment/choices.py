"""What happens to each picture: every random number of a view, drawn from the picture's key alone.

The crop is drawn as in Szegedy et al. 2015 (https://arxiv.org/abs/1409.4842, section 6) and
torchvision's RandomResizedCrop: area uniform, ratio log-uniform, ten attempts, then the largest
central crop of an allowed ratio. Sides and corners are whole pixels.

Legend: B pictures, A attempts at a crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.image.augment.settings import Augment
from models.parts.counter import uniform

ATTEMPTS = 10
# Numbers that each choice draws; the order fixes which number means what.
DRAWS = {
    "area": ATTEMPTS, "ratio": ATTEMPTS, "corner": 2, "flip": 1, "angle": 1, "shear": 1, "stroke": 2,
    "mixed": 1, "mixture": 9, "jitter": 1, "factor": 3, "hue": 1, "order": 3, "before_hue": 1, "greyscale": 1,
    "blur": 2, "solarise": 1, "invert": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """One row per picture; `bool` where an operation may be left out.

    Attributes:
        box: [B, 4], top, left, height and width of the crop in whole pixels.
        flip: bool [B].
        angle: [B], anticlockwise, radians.
        shear: [B], tangent of the shear's angle.
        stroke: [B], +1 where bright strokes grow, -1 where dark ones do, 0 else.
        mixed: bool [B], and mixture [B, 3, 3], each row an average over channels.
        jitter: bool [B].
        factor: [B, 3], brightness, contrast, saturation.
        hue: [B], turns.
        order: int64 [B, 3], a permutation of the three factors.
        num_before_hue: int64 [B], how many of them come before the hue.
        greyscale, blur, solarise, invert: bool [B].
        sigma: [B], of the blur, pixels.
    """

    box: Tensor
    flip: Tensor
    angle: Tensor
    shear: Tensor
    stroke: Tensor
    mixed: Tensor
    mixture: Tensor
    jitter: Tensor
    factor: Tensor
    hue: Tensor
    order: Tensor
    num_before_hue: Tensor
    greyscale: Tensor
    blur: Tensor
    sigma: Tensor
    solarise: Tensor
    invert: Tensor

    def rows(self, start: int, stop: int) -> Choices:
        """The choices for some of the pictures."""
        return Choices(**{name: value[start:stop] for name, value in vars(self).items()})


def choose(key_B: Tensor, augment: Augment, height: int, width: int, *, stream: int) -> Choices:
    """The choices for pictures of that height and width."""
    numbers = uniform(key_B, sum(DRAWS.values()), stream=stream).split(list(DRAWS.values()), dim=1)
    draw = dict(zip(DRAWS, numbers, strict=True))
    one = {name: number[:, 0] for name, number in draw.items()}
    strength = key_B.new_tensor(
        (augment.brightness, augment.contrast, augment.saturation), dtype=torch.float32
    )
    exponential_B33 = -torch.log1p(-draw["mixture"]).view(-1, 3, 3)
    stroke_B = torch.where(draw["stroke"][:, 1] < 0.5, -1.0, 1.0)
    return Choices(
        box=crop_box(draw["area"], draw["ratio"], draw["corner"], augment, height, width),
        flip=one["flip"] < augment.flip,
        angle=(2 * one["angle"] - 1) * math.radians(augment.rotate),
        shear=torch.tan((2 * one["shear"] - 1) * math.radians(augment.shear)),
        stroke=torch.where(one["stroke"] < augment.thicken, stroke_B, 0.0),
        mixed=one["mixed"] < augment.mix_channels,
        mixture=exponential_B33 / exponential_B33.sum(2, keepdim=True).clamp(min=1e-6),
        jitter=one["jitter"] < augment.jitter,
        factor=_between(draw["factor"], (1 - strength).clamp(min=0), 1 + strength),
        hue=_between(one["hue"], -augment.hue, augment.hue),
        order=draw["order"].argsort(1),
        num_before_hue=(4 * one["before_hue"]).long(),
        greyscale=one["greyscale"] < augment.greyscale,
        blur=one["blur"] < augment.blur,
        sigma=_between(draw["blur"][:, 1], *augment.blur_sigma),
        solarise=one["solarise"] < augment.solarise,
        invert=one["invert"] < augment.invert,
    )


def crop_box(
    area_BA: Tensor, ratio_BA: Tensor, corner_B2: Tensor, augment: Augment, height: int, width: int
) -> Tensor:
    """Top, left, height and width [B, 4] of the first attempt that fits, from uniform numbers."""
    low, high = augment.crop_ratio
    area_BA = _between(area_BA, *augment.crop_scale) * (height * width)
    ratio_BA = torch.exp(_between(ratio_BA, math.log(low), math.log(high)))
    sides_BA2 = (
        torch.stack([(area_BA / ratio_BA).sqrt(), (area_BA * ratio_BA).sqrt()], dim=2).round().clamp(min=1)
    )
    whole_2 = area_BA.new_tensor((height, width))
    fits_BA = (sides_BA2 <= whole_2).all(2)
    first_B = fits_BA.float().argmax(1)
    drawn_B2 = sides_BA2[torch.arange(len(first_B), device=first_B.device), first_B]
    ratio = min(max(width / height, low), high)
    central_2 = area_BA.new_tensor((min(height, round(width / ratio)), min(width, round(height * ratio))))
    fits_B1 = fits_BA.any(1, keepdim=True)
    sides_B2 = torch.where(fits_B1, drawn_B2, central_2)
    free_B2 = whole_2 - sides_B2
    corner_B2 = torch.where(fits_B1, corner_B2 * (free_B2 + 1), free_B2 / 2).floor()
    return torch.cat([corner_B2.minimum(free_B2), sides_B2], dim=1)


def _between(number: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    return low + number * (high - low)
