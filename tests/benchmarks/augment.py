"""Random views by the batch against Pillow picture by picture: the same operations, chances and strengths.

SimCLR's augmentation from decoded pictures to float tensors, at 32 and 224 pixels, in turns. Both
do bicubic crop and resize, flip, brightness, contrast, saturation and hue in random order,
greyscale and blur; Pillow's hue goes through its HSV mode, as torchvision's does, and its Gaussian
blur is its own approximation by three box blurs.

    python -m tests.benchmarks.augment --threads 1
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from models.augment.choices import choose
from models.augment.views import CIFAR32, SIMCLR, Augment, view

CASES = {"32 px, SIMCLR": (32, 32, 256, SIMCLR), "32 px, CIFAR32": (32, 32, 256, CIFAR32), "224 px, SIMCLR": (256, 224, 32, SIMCLR)}  # fmt: skip
ENHANCERS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "saturation": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
}


def pillow_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Shift the hue as torchvision does for Pillow pictures."""
    hue, saturation, value = picture.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(round(turns * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(shifted, "L"), saturation, value)).convert("RGB")


def pillow_view(pixels: Any, box: list[float], augment: Augment, size: int, rng: random.Random) -> Tensor:
    """One picture, Pillow's operations in a row."""
    top, left, height, width = box
    picture = Image.fromarray(pixels).crop((int(left), int(top), int(left + width), int(top + height)))
    resampling = Image.Resampling.BICUBIC if augment.interpolation == "bicubic" else Image.Resampling.BILINEAR
    picture = picture.resize((size, size), resampling)
    if rng.random() < augment.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < augment.jitter:
        for name in rng.sample(["brightness", "contrast", "saturation", "hue"], 4):
            strength = getattr(augment, name)
            if name == "hue":
                picture = pillow_hue(picture, rng.uniform(-strength, strength))
            else:
                picture = ENHANCERS[name](picture, rng.uniform(1 - strength, 1 + strength))
    if rng.random() < augment.greyscale:
        picture = picture.convert("L").convert("RGB")
    if rng.random() < augment.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*augment.blur_sigma)))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)


def pillow_views(pixels: Any, boxes: list[list[float]], augment: Augment, size: int, seed: int) -> Tensor:
    """A batch, picture by picture."""
    rng = random.Random(seed)
    return torch.stack(
        [pillow_view(one, box, augment, size, rng) for one, box in zip(pixels, boxes, strict=True)]
    )


def main() -> None:
    """Measure in turns and print pictures per CPU second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'':16} {'ours/CPU s':>12} {'Pillow/CPU s':>13} {'x CPU':>7} {'x wall':>7}")
    for name, (side, size, num, augment) in CASES.items():
        pixels_BCHW = smooth_pictures(num, side)
        arrays = pixels_BCHW.permute(0, 2, 3, 1).contiguous().numpy()
        seconds = []
        for seed in range(arguments.rounds + 2):
            keys = torch.arange(num) + seed * num
            boxes = choose(keys, augment, side, side, stream=1).box.tolist()
            ours = functools.partial(view, pixels_BCHW, keys, augment, size, stream=1)
            theirs = functools.partial(pillow_views, arrays, boxes, augment, size, seed)
            seconds.append((*_timed(ours), *_timed(theirs)))
        our_cpu, our_wall, their_cpu, their_wall = zip(*seconds[2:], strict=True)
        ratios = [
            statistics.median(b / a for a, b in zip(our, their, strict=True))
            for our, their in ((our_cpu, their_cpu), (our_wall, their_wall))
        ]
        rates = [num / statistics.median(cpu) for cpu in (our_cpu, their_cpu)]
        print(f"{name:16} {rates[0]:12,.0f} {rates[1]:13,.0f} {ratios[0]:7.2f} {ratios[1]:7.2f}")


def smooth_pictures(num: int, side: int) -> Tensor:
    """Random pictures with large and small structure, uint8 [num, 3, side, side]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    fine = torch.rand(num, 3, side, side, generator=generator)
    return (255 * (0.8 * smooth + 0.2 * fine)).to(torch.uint8)


def _timed(work: Callable[[], Tensor]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
