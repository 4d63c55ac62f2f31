"""A random view of one picture by Pillow, operation by operation as torchvision's transforms do it.

What a picture pipeline costs that augments picture by picture: crop and resize, flip, brightness,
contrast, saturation and hue in random order, greyscale, blur, solarise. The hue goes through
Pillow's HSV mode; its Gaussian blur is its own approximation by three box blurs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from models.image.augment.settings import Augment

ATTEMPTS = 10  # of torchvision's random crop
ENHANCERS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "saturation": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class TorchRandom(random.Random):
    """Numbers of torch's generator, one tensor each, as torchvision draws them; a DataLoader seeds it."""

    def random(self) -> float:
        return torch.rand(1).item()


def pillow_view(
    picture: Image.Image, box: Sequence[float], augment: Augment, size: int, rng: random.Random
) -> Tensor:
    """One view, [3, size, size], values 0 to 1; `box` is top, left, height and width of the crop."""
    top, left, height, width = (int(number) for number in box)
    picture = picture.crop((left, top, left + width, top + height))
    picture = picture.resize((size, size), RESAMPLING[augment.interpolation])
    if rng.random() < augment.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < augment.jitter:
        picture = jittered(picture, augment, rng)
    if rng.random() < augment.greyscale:
        picture = picture.convert("L").convert("RGB")
    if rng.random() < augment.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*augment.blur_sigma)))
    if rng.random() < augment.solarise:
        picture = ImageOps.solarize(picture, 128)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)


def jittered(picture: Image.Image, augment: Augment, rng: random.Random) -> Image.Image:
    """The four colour changes in random order."""
    for name in rng.sample(["brightness", "contrast", "saturation", "hue"], 4):
        strength = getattr(augment, name)
        if name == "hue":
            picture = shifted_hue(picture, rng.uniform(-strength, strength))
        else:
            picture = ENHANCERS[name](picture, rng.uniform(1 - strength, 1 + strength))
    return picture


def shifted_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Shift the hue as torchvision does for Pillow pictures."""
    hue, saturation, value = picture.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(round(turns * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted, "L"), saturation, value)).convert("RGB")


def random_box(picture: Image.Image, augment: Augment, rng: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of the first attempt that fits; else the whole picture."""
    low, high = augment.crop_ratio
    for _ in range(ATTEMPTS):
        area = picture.width * picture.height * rng.uniform(*augment.crop_scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= picture.width and 0 < height <= picture.height:
            top, left = rng.randint(0, picture.height - height), rng.randint(0, picture.width - width)
            return top, left, height, width
    return 0, 0, picture.height, picture.width
