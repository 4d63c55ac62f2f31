"""Mean and deviation per channel, of pixel values 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import InputError
from tasks.modalities.image.tensors.decoding import Form
from tasks.modalities.image.tensors.rows import Pictures

Statistics = tuple[list[float], list[float]]

MOST_PICTURES = 10_000
SMALLEST_DEVIATION = 0.01  # pictures of a single colour would be divided by nothing
PRESETS: dict[str, Statistics] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5] * 3, [0.5] * 3),
}


def given(name: str) -> Statistics | None:
    """What a preset or released weights say; None where it is to be measured.

    Raises:
        InputError: no such preset, and no weights of that name with statistics of their own.
    """
    if name in ("auto", "measured"):
        return None
    known = PRESETS.get(name) or of_weights(name)
    if known is None:
        raise InputError(
            f"prepare.normalise: {name!r} is neither auto, measured, imagenet nor half, and no mean and "
            "deviation can be read from weights of that name (their preprocessor_config.json)."
        )
    return known


def of_weights(source: str) -> Statistics | None:
    """What released weights were trained with, by the processor beside them; None where they don't say.

    Args:
        source: folder, or name on the hub.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(source)
        if not config.get("do_normalize", True):
            return [0.0] * 3, [1.0] * 3
        return [float(x) for x in config["image_mean"]], [float(x) for x in config["image_std"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_channels(known: Statistics, channels: int) -> Statistics:
    """Statistics of three colours for pictures of three, or their averages for grey ones."""
    if channels == len(known[0]):
        return known
    mean, deviation = ([sum(numbers) / len(numbers)] * channels for numbers in known)
    return mean, deviation


def measured(prepared: Path, slots: Mapping[str, Mapping[str, Any]], form: Form) -> Statistics:
    """Over training pictures of the first slot that has any, evenly spaced ones where they are many.

    Raises:
        InputError: no slot has a training picture.
    """
    slot = next((slot for slot, splits in slots.items() if splits.get("train", {}).get("rows")), None)
    if slot is None:
        raise InputError("no training picture is left; look in validation.json for what was excluded.")
    pictures = Pictures(prepared / slot / "train", form)
    rows = np.unique(np.linspace(0, pictures.num_rows - 1, MOST_PICTURES).astype(np.int64))
    count = np.zeros(form.channels)
    total, squares = count.copy(), count.copy()
    for start in range(0, len(rows), 256):
        values = pictures.pixels(rows[start : start + 256]).astype(np.float64) / 255
        total += values.sum((0, 2, 3))
        squares += np.square(values).sum((0, 2, 3))
        count += values.size / form.channels
    mean = total / count
    deviation = np.sqrt((squares / count - mean**2).clip(min=0)).clip(min=SMALLEST_DEVIATION)
    return mean.round(6).tolist(), deviation.round(6).tolist()
