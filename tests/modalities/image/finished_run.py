"""The files of a small run over pictures, as its stages leave them, around encoders with random weights."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from models import objectives
from tasks import layout, modalities, prepare, training
from tasks.config import Adapt, Config, Corpus, Encoder, Finetune, Pretrain, Recipe, Report, Validate
from tests.tiny import TINY

LABELS = ("disc", "square", "cross")
SIZE = 16


def drawn(number: int, side: int = 24) -> tuple[Image.Image, Image.Image, str]:
    """A shape on a ground, its mask, its label."""
    noise = np.random.default_rng(number)
    label = LABELS[number % len(LABELS)]
    ground, colour = (
        tuple(int(value) for value in noise.integers(*low_high, 3)) for low_high in ((0, 90), (140, 255))
    )
    image, mask = Image.new("RGB", (side, side), ground), Image.new("L", (side, side))
    left, top = (int(value) for value in noise.integers(2, side // 3, 2))
    box = (left, top, left + side // 2, top + side // 2)
    for canvas, fill in ((image, colour), (mask, 1)):
        pen = ImageDraw.Draw(canvas)
        if label == "disc":
            pen.ellipse(box, fill=fill)
        elif label == "square":
            pen.rectangle(box, fill=fill)
        else:
            pen.line(box, fill=fill, width=4)
            pen.line((box[0], box[3], box[2], box[1]), fill=fill, width=4)
    return image, mask, label


def png(image: Image.Image) -> bytes:
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return stored.getvalue()


def records(numbers: range, **more: str) -> pa.Table:
    rows = []
    for number in numbers:
        image, mask, label = drawn(number)
        row = {"id": f"picture-{number}", "picture": png(image), "mask": png(mask), "label": label}
        rows.append({**row, "width": image.width, "height": image.height, **more})
    return pa.Table.from_pylist(rows)


def config(objective: str = "mae", architecture: str = "vit", **settings: Any) -> Config:
    kind = objectives.load(objective)
    chosen = kind.Settings(**settings)
    object.__setattr__(chosen, "name", objective)  # the tag that the schema adds
    recipe = Recipe(
        modality="image", description="Shapes.", general="shapes", domain="none", tasks="shape-names",
        encoder="tiny", validate=Validate(),
        prepare=modalities.tensors("image").PrepareSettings(stored_size=20, image_size=SIZE),  # type: ignore[call-arg]
        pretrain=Pretrain(objective=chosen), adapt=Adapt(steps=0), finetune=Finetune(),
        report=Report(num_embedded=60, num_neighbours=4),
    )  # fmt: skip
    corpora = {name: Corpus(modality="image") for name in ("none", "shapes", "shape-names")}
    encoders = {"tiny": Encoder(architecture=architecture, config=TINY[architecture])}
    return Config(corpora=corpora, encoders=encoders, recipes={"shapes": recipe})


def leave(config: Config, name: str = "shapes") -> None:
    """Corpora, prepared tensors, a model with random weights, and results, below the working folder."""
    _corpora()
    recipe = config.recipe(name)
    corpora = {"general": layout.corpus("shapes"), "tasks": layout.corpus("shape-names")}
    prepare.prepare(recipe, corpora, {}, layout.prepared(name), seed=0)
    objective, source = training.build_objective(name, config), config.encoders[recipe.encoder].source
    folder = layout.run(name, "pretrain")
    folder.mkdir(parents=True)
    training.leave(folder, objective, training.Trained(), layout.prepared(name), recipe.modality, source)
    _results(name)


def _corpora() -> None:
    for name in ("shapes", "shape-names"):
        folder = layout.corpus(name)
        folder.mkdir(parents=True)
        manifest: dict[str, Any] = {
            "corpus": name,
            "modality": "image",
            "counts": {"kept": 40},
            "files": [],
            "tasks": {},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
    train = pa.concat_tables([records(range(36), split="train"), records(range(36, 40), split="heldout")])
    pq.write_table(train.drop_columns(["label"]), layout.corpus("shapes") / "records-00000.parquet")
    task = layout.corpus("shape-names") / "tasks" / "shape"
    task.mkdir(parents=True)
    for split, numbers in (("train", range(40, 64)), ("validation", range(64, 76)), ("test", range(76, 106))):
        pq.write_table(records(numbers), task / f"{split}.parquet")


def _results(name: str) -> None:
    noise = np.random.default_rng(0)
    rows = [
        {
            "task": "shape", "id": f"picture-{number}", "label": LABELS[number % 3], "text": "",
            "vector": (noise.normal(size=8) + 3 * np.eye(8)[number % 3]).tolist(),
        }
        for number in range(76, 106)
    ]  # fmt: skip
    folder = layout.run(name, "finetune")
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "embeddings.parquet")
