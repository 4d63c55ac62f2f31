"""Vectors of the pictures of a folder, by an encoder and what its folder says of its inputs.

Differs from the processors of `transformers`: the shorter side is always scaled and the centre kept,
where some stretch pictures to a square.

Legend: B pictures, C channels, S side in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from models import encoders
from models.image.images import Images
from models.image.pictures import Pooling, features
from tasks.corpora import vectors
from tasks.errors import InputError
from tasks.modalities import Embedded
from tasks.modalities.image.records import CorpusSettings, decoding
from tasks.modalities.image.tensors.decoding import Form, Pixels, decode

PROCESSOR = "preprocessor_config.json"


def embed(model: Path, folder: Path, pooling: str) -> Embedded:
    """Vectors of all pictures below a folder.

    Raises:
        InputError: the model cannot be opened, or the folder holds no picture that can be decoded.
    """
    form, images = inputs(model)
    encoder = opened(model, images)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(encoder, where)
    rules = CorpusSettings(modality="image")

    def read(content: bytes) -> Pixels:
        return decode(decoding.decoded(content, rules).stored(content), form)

    def answered(pixels: Sequence[Pixels]) -> torch.Tensor:
        pixels_BCSS = torch.from_numpy(np.stack(list(pixels))).to(where)
        return features(encoder, images.plain(pixels_BCSS), cast("Pooling", pooling))

    return vectors.of_folder(folder, decoding.MEDIUM, read, answered)


def inputs(model: Path) -> tuple[Form, Images]:
    """How a model's folder wants its pictures: what they are scaled to, cut to and normalised by.

    Raises:
        InputError: the folder does not say.
    """
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        said = json.loads((model / PROCESSOR).read_text(encoding="utf-8"))
        channels = int(config.get("num_channels", 3))
        scaled = _side(said["size"])
        size = _side(said["crop_size"]) if said.get("do_center_crop") else scaled
        mean, std = said["image_mean"], said["image_std"]
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} is missing: without it nobody knows how pictures were scaled and normalised; "
            "copy it from the place that the weights come from."
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{model / PROCESSOR} lacks size, image_mean or image_std, or is damaged: {error}."
        ) from None
    if not said.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    return Form(scaled, channels), Images(
        size=size, channels=channels, mean=tuple(map(float, mean)), std=tuple(map(float, std))
    )


def opened(model: Path, images: Images) -> PreTrainedModel:
    """The encoder of a folder, in evaluation mode.

    Raises:
        InputError: there are no weights, or none that fit.
    """
    facts = {"image_size": images.size, "num_channels": images.channels}
    try:
        encoder = encoders.build("AutoModel", architecture=None, source=str(model), config=facts, seed=0)
    except ValueError as error:
        raise InputError(str(error)) from None
    return encoder.eval()


def _side(size: int | Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    return size["shortest_edge"] if "shortest_edge" in size else size["height"]
