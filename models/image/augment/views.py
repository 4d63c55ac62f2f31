"""A random view of each picture: a pure function of (picture, key, stream).

What happens to a picture is drawn from its key alone, so that it is the same in whatever batch, on
whatever device, and after whatever restart. Several views are several calls with other streams;
multi-crop is several calls with other sizes.

Legend: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.image.augment import colour, shape
from models.image.augment.choices import Choices, choose
from models.image.augment.presets import (
    BYOL_1,
    BYOL_2,
    CIFAR32,
    CIFAR32_LOCAL,
    DINO_GLOBAL_1,
    DINO_GLOBAL_2,
    DINO_LOCAL,
    GLYPHS,
    IJEPA,
    MAE,
    MOCO,
    PRESETS,
    SIMCLR,
    SIMSIAM,
)
from models.image.augment.resample import Taps, blur_taps, crop_taps, resample
from models.image.augment.settings import Augment

__all__ = [
    "BYOL_1",
    "BYOL_2",
    "CIFAR32",
    "CIFAR32_LOCAL",
    "DINO_GLOBAL_1",
    "DINO_GLOBAL_2",
    "DINO_LOCAL",
    "GLYPHS",
    "IJEPA",
    "MAE",
    "MOCO",
    "PRESETS",
    "SIMCLR",
    "SIMSIAM",
    "Augment",
    "view",
]

CACHED_VALUES = 1 << 19  # float32 values that a core's cache holds beside what is computed from them


@torch.compiler.disable  # type: ignore[untyped-decorator]
def view(pixels_BCHW: Tensor, key_B: Tensor, augment: Augment, size: int, *, stream: int) -> Tensor:
    """One view of each picture.

    Args:
        pixels_BCHW: uint8, three channels or one.
        key_B: int64 key per picture, see `models.parts.counter`.
        augment: what may happen.
        size: side of the view, pixels.
        stream: tells apart the views that one key is put to.

    Returns:
        float32 [B, C, size, size], values 0 to 1.
    """
    height, width = pixels_BCHW.shape[2:]
    with torch.no_grad(), torch.autocast(pixels_BCHW.device.type, enabled=False):
        choices = choose(key_B, augment, height, width, stream=stream)
        if pixels_BCHW.is_cuda:
            return _apply(pixels_BCHW, choices, augment, size)
        views_BCHW = torch.empty(*pixels_BCHW.shape[:2], size, size)
        step = max(1, CACHED_VALUES // views_BCHW[0].numel())
        for start in range(0, len(pixels_BCHW), step):
            part = slice(start, start + step)
            views_BCHW[part] = _apply(pixels_BCHW[part], choices.rows(start, start + step), augment, size)
        return views_BCHW


def _apply(pixels_BCHW: Tensor, choices: Choices, augment: Augment, size: int) -> Tensor:
    x_BCHW = _crop(pixels_BCHW, choices, augment, size)
    if augment.rotate or augment.shear:
        x_BCHW = shape.turn(x_BCHW, choices.angle, choices.shear)
    if augment.thicken:
        x_BCHW = _where(x_BCHW, choices.stroke != 0, shape.thicken, choices.stroke)
    if x_BCHW.shape[1] == 3 and augment.mix_channels:
        x_BCHW = _where(x_BCHW, choices.mixed, colour.mix, choices.mixture)
    if augment.jitter:
        x_BCHW = _jitter(x_BCHW, choices, augment)
    if x_BCHW.shape[1] == 3 and augment.greyscale:
        x_BCHW = _where(x_BCHW, choices.greyscale, colour.greyscale)
    if augment.blur:
        x_BCHW = _where(
            x_BCHW, choices.blur, lambda x, sigma: blur(x, sigma, augment.blur_sigma[1]), choices.sigma
        )
    if augment.solarise:
        x_BCHW = _where(x_BCHW, choices.solarise, colour.solarise)
    if augment.invert:
        x_BCHW = _where(x_BCHW, choices.invert, colour.invert)
    return x_BCHW


def _crop(pixels_BCHW: Tensor, choices: Choices, augment: Augment, size: int) -> Tensor:
    height, width = pixels_BCHW.shape[2:]
    top_B, left_B, rows_B, columns_B = choices.box.unbind(1)
    rows = crop_taps(top_B, rows_B, height, size, augment.interpolation)
    columns = crop_taps(left_B, columns_B, width, size, augment.interpolation, choices.flip)
    columns = Taps(columns.index_BTK, columns.weight_BTNK / 255, size)
    return resample(pixels_BCHW, rows, columns).clamp_(0, 1)


def _jitter(x_BCHW: Tensor, choices: Choices, augment: Augment) -> Tensor:
    """Brightness, contrast and saturation in random order, the hue somewhere between them."""
    factor_B3 = choices.factor.gather(1, choices.order)
    for place in range(3):
        chosen_B = choices.jitter & (place < choices.num_before_hue)
        x_BCHW = _where(x_BCHW, chosen_B, colour.adjust, choices.order[:, place], factor_B3[:, place])
    if x_BCHW.shape[1] == 3 and augment.hue:
        x_BCHW = _where(x_BCHW, choices.jitter, colour.shift_hue, choices.hue)
    for place in range(3):
        chosen_B = choices.jitter & (place >= choices.num_before_hue)
        x_BCHW = _where(x_BCHW, chosen_B, colour.adjust, choices.order[:, place], factor_B3[:, place])
    return x_BCHW


def blur(x_BCHW: Tensor, sigma_B: Tensor, largest_sigma: float) -> Tensor:
    """Gaussian blur with a standard deviation per picture, in pixels."""
    height, width = x_BCHW.shape[2:]
    return resample(
        x_BCHW, blur_taps(sigma_B, height, largest_sigma), blur_taps(sigma_B, width, largest_sigma)
    )


def _where(x_BCHW: Tensor, chosen_B: Tensor, change: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """`change(x, *parameters)` for the chosen pictures; may write into `x`.

    On a GPU all are changed and some taken: counting the chosen would make it wait.
    """
    if x_BCHW.is_cuda:
        return torch.where(chosen_B.view(-1, 1, 1, 1), change(x_BCHW, *parameters), x_BCHW)
    index_K = chosen_B.nonzero().squeeze(1)
    if len(index_K) == 0:
        return x_BCHW
    if len(index_K) == len(x_BCHW):
        return change(x_BCHW, *parameters).contiguous()  # greyscale answers one channel seen three times
    changed = change(
        x_BCHW.index_select(0, index_K), *(value.index_select(0, index_K) for value in parameters)
    )
    return x_BCHW.index_copy_(0, index_K, changed)
