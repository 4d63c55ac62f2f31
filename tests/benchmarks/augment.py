"""Random views by the batch against Pillow picture by picture: the same operations, chances and strengths.

SimCLR's augmentation from decoded pictures to float tensors, at 32 and 224 pixels, in turns. Both
do bicubic crop and resize, flip, brightness, contrast, saturation and hue in random order,
greyscale and blur.

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

import torch
from PIL import Image
from torch import Tensor

from models.image.augment.choices import choose
from models.image.augment.views import CIFAR32, SIMCLR, Augment, view
from tests.benchmarks.pictures import photographs
from tests.benchmarks.pillow_views import pillow_view

CASES = {"32 px, SIMCLR": (32, 32, 256, SIMCLR), "32 px, CIFAR32": (32, 32, 256, CIFAR32), "224 px, SIMCLR": (256, 224, 32, SIMCLR)}  # fmt: skip


def pillow_views(pixels: Any, boxes: list[list[float]], augment: Augment, size: int, seed: int) -> Tensor:
    """A batch, picture by picture."""
    rng = random.Random(seed)
    return torch.stack(
        [
            pillow_view(Image.fromarray(one), box, augment, size, rng)
            for one, box in zip(pixels, boxes, strict=True)
        ]
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
        pixels_BCHW = photographs(num, side)
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


def _timed(work: Callable[[], Tensor]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
