"""Tiny labelled pictures and encoders for the tests of fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models import encoders, heads
from models.image.augment.settings import Augment
from models.image.images import Images
from tasks.config import Finetune
from tasks.downstream import intake, kind
from tasks.downstream.jobs import Task
from tasks.downstream.rows import Rows
from tasks.modalities.image.tensors.reading import Reader

SIDE = 16
IMAGES = Images(size=SIDE, channels=3, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3))
AUGMENT = Augment(crop_scale=(0.8, 1.0), blur=0.0, greyscale=0.0)
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "patch_size": 4, "image_size": SIDE,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "small_resnet": {"hidden_sizes": (8, 16), "depths": (1, 1)},
}  # fmt: skip


def striped(count: int, seed: int, prefix: str = "row") -> Rows:
    """Two classes: stripes that lie or stand, of random colour, width and place, under noise."""
    draw = np.random.default_rng(seed)
    labels = [("lying", "standing")[row % 2] for row in range(count)]
    pixels = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for row, label in enumerate(labels):
        stripes = np.sin((np.arange(SIDE) + draw.integers(SIDE)) * 2 * np.pi / draw.integers(4, 7))
        picture = stripes[:, None] if label == "lying" else stripes[None, :]
        strength = draw.uniform(40, 90, (3, 1, 1)) * draw.choice([-1, 1])
        values = draw.uniform(90, 160, (3, 1, 1)) + strength * picture + draw.normal(0, 15, (3, SIDE, SIDE))
        pixels[row] = values.clip(0, 255)
    records = pa.table({"id": [f"{prefix}{row}" for row in range(count)], "label": labels})
    return Rows(records, {"pixels": torch.from_numpy(pixels)})


def encoder_folder(folder: Path, architecture: str, seed: int = 0) -> Path:
    """A tiny encoder as stage `pretrain` leaves it."""
    config = {"image_size": SIDE, "num_channels": 3, **CONFIGS[architecture]}
    heads.save(
        encoders.build("AutoModel", architecture=architecture, source=None, config=config, seed=seed), folder
    )
    return folder


def stored(folder: Path, settings: Finetune) -> Task:
    """A labelled set as jobs find it."""
    rows = {split: striped(40, seed, split) for seed, split in enumerate(("train", "validation", "test"))}
    whole = rows["train"].records
    _, draws = intake.drawn("classification", whole, (*settings.label_budgets, "all"), (0, 1))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "draws.json").write_text(json.dumps(draws))
    for split, part in rows.items():
        part.save(folder / split)
    labels = tuple(kind("classification").labels(whole))
    points = (*settings.label_budgets, "all")
    return Task("toy", "classification", "image", labels, points, None, folder, Reader(IMAGES, AUGMENT))
