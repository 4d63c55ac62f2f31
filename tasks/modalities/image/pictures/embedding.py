"""Vectors of the pictures of a folder, by an encoder and what its folder says of its inputs.

Differs from the processors of `transformers`: the shorter side is always scaled and the centre kept,
where some stretch pictures to a square.

Legend: N pictures, B of them at a time, C channels, S side in pixels, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from models import encoders
from models.image.images import Images
from models.image.pictures import Pooling, features
from tasks.errors import InputError
from tasks.modalities import Embedded, Rejected
from tasks.modalities.image.records import CorpusSettings, decoding
from tasks.modalities.image.tensors.decoding import Form, Pixels, decode
from tasks.sources import File, folders

BATCH = 64
PROCESSOR = "preprocessor_config.json"


def embed(model: Path, folder: Path, pooling: str) -> Embedded:
    """Vectors of all pictures below a folder.

    Raises:
        InputError: the model cannot be opened, or the folder holds no picture that can be decoded.
    """
    form, images = inputs(model)
    encoder = opened(model, images)
    files = [file for file in folders.files(str(folder)) if file.suffix in decoding.SUFFIXES]
    if not files:
        raise InputError(
            f"{folder} holds no pictures (files that end in {', '.join(decoding.SUFFIXES)}); "
            "name another folder."
        )
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(encoder, where)
    paths: list[str] = []
    parts: list[torch.Tensor] = []
    left_out: dict[str, str] = {}
    for batch in _batches(files, form, left_out, len(str(folder).rstrip("/")) + 1):
        pixels_BCSS = torch.from_numpy(np.stack(list(batch.values()))).to(where)
        with torch.inference_mode():
            parts.append(features(encoder, images.plain(pixels_BCSS), cast("Pooling", pooling)).float().cpu())
        paths += batch
    if not paths:
        told = ", ".join(f"{path} ({reason})" for path, reason in list(left_out.items())[:5])
        raise InputError(f"{folder}: none of {len(files)} pictures can be decoded: {told}.")
    return Embedded(paths, torch.cat(parts).numpy(), left_out)


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


def _batches(
    files: Sequence[File], form: Form, left_out: dict[str, str], skipped: int
) -> Iterator[dict[str, Pixels]]:
    """Decoded pictures by path below the folder, `BATCH` at a time; why others have none to `left_out`."""
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    with threads, tqdm(total=len(files), desc="embed", unit="pictures", disable=None) as bar:
        for start in range(0, len(files), BATCH):
            some = files[start : start + BATCH]
            decoded = {}
            for file, answer in zip(some, threads.map(lambda one: _pixels(one, form), some), strict=True):
                path = file.location[skipped:]
                if isinstance(answer, str):
                    left_out[path] = answer
                else:
                    decoded[path] = answer
            bar.update(len(some))
            if decoded:
                yield decoded


def _pixels(file: File, form: Form) -> Pixels | str:
    """The picture [C, S, S], or why there is none."""
    try:
        with file.open() as stream:
            content = stream.read()
        picture = decoding.decoded(content, CorpusSettings(modality="image"))
    except Rejected as verdict:
        return verdict.reason.replace("_", " ")
    except InputError:
        return "a link that leads nowhere, or round in a circle"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return decode(picture.stored(content), form)
