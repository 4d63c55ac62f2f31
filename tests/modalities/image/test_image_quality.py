"""Metrics of pictures equal a slow count of the same thing, and alike pictures are grouped."""

from __future__ import annotations

import functools
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks import sources
from tasks.checks import leakage
from tasks.checks.leakage import Kin
from tasks.config import Columns, Task
from tasks.ingest import ingest
from tasks.modalities.image import quality, records
from tasks.modalities.image.records import CorpusSettings


def textured(seed: int, side: int = 24, tint: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 6, 3)) * np.array(tint) // 255
    return Image.fromarray(coarse.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def stored(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def table(images: list[Image.Image], format: str = "PNG") -> pa.Table:
    corpus = CorpusSettings(min_side=1)
    kept = []
    for number, image in enumerate(images):
        content = stored(image, format)
        file = sources.File(f"{number}.png", contents=functools.partial(io.BytesIO, content))
        (raw,) = records.read(file, "image", Columns(), None, corpus)
        kept += [
            {**record, "id": f"r{number}", "split": "train"}
            for record in records.normalise(raw, corpus, None)
        ]
    return pa.Table.from_pylist(kept, records.schema(None))


def described(images: list[Image.Image]) -> list[dict[str, Any]]:
    return list(quality.describe(table(images)).to_pylist())


def test_metrics_equal_a_count_one_pixel_at_a_time() -> None:
    images = [textured(0), textured(1, side=17).convert("L"), textured(2).crop((0, 0, 24, 6))]
    for image, row in zip(images, described(images), strict=True):
        grey = image.convert("L")
        width, height = image.size
        light = [[grey.getpixel((x, y)) / 255 for x in range(width)] for y in range(height)]  # type: ignore[operator]
        flat = [value for line in light for value in line]
        mean = sum(flat) / len(flat)
        shares = [count / len(flat) for count in Counter(flat).values()]
        laplacian = [
            light[y - 1][x] + light[y + 1][x] + light[y][x - 1] + light[y][x + 1] - 4 * light[y][x]
            for y in range(1, height - 1)
            for x in range(1, width - 1)
        ]
        middle = sum(laplacian) / len(laplacian)
        assert (row["width"], row["height"], row["bytes"]) == (width, height, len(stored(image)))
        assert row["aspect"] == pytest.approx(max(image.size) / min(image.size))
        assert row["mean"] == pytest.approx(mean)
        assert row["contrast"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in flat) / len(flat)))
        assert row["entropy"] == pytest.approx(-sum(share * math.log2(share) for share in shares))
        assert row["sharpness"] == pytest.approx(sum((v - middle) ** 2 for v in laplacian) / len(laplacian))
        assert row["is_grey"] == (image.mode == "L")
        assert not row["is_blank"]


def test_sharpness_falls_when_a_picture_is_blurred() -> None:
    sharp = textured(0, side=48)
    soft = sharp.resize((12, 12), Image.Resampling.BOX).resize((48, 48), Image.Resampling.BICUBIC)
    first, second = described([sharp, soft])
    assert second["sharpness"] < first["sharpness"]


def test_blank_and_tiny_pictures_are_described() -> None:
    rows = described([Image.new("RGB", (20, 20), "navy"), Image.new("L", (1, 1)), textured(0)])
    assert [row["is_blank"] for row in rows] == [True, True, False]
    assert quality.describe(table([])).num_rows == 0


def test_equal_and_alike_pictures_are_one_group() -> None:
    one, other = textured(0, side=96), textured(1, side=96)
    again = Image.open(io.BytesIO(stored(one.resize((80, 80)), "JPEG"))).convert("RGB")
    rows = described([one, other, one, again])
    assert [row["duplicate"] for row in rows] == [False, False, True, False]
    assert [row["near_duplicate"] for row in rows] == [False, False, True, True]
    assert [row["duplicate_group"] for row in rows] == ["r0", None, "r0", "r0"]


def test_overlap_is_one_with_itself_and_less_with_other_colours_edges_and_sizes() -> None:
    plain = table([textured(seed) for seed in range(20)])
    red = table([textured(seed, tint=(255, 40, 40)) for seed in range(20)])
    small = table([textured(seed, side=8) for seed in range(20)])
    itself = quality.compare(plain, plain)
    assert next(iter(itself)) == "appearance_overlap"
    assert itself == pytest.approx(dict.fromkeys(itself, 1.0))
    assert quality.compare(plain, red)["colour_overlap"] < 0.5
    assert quality.compare(plain, red)["size_overlap"] == 1
    assert quality.compare(plain, small)["size_overlap"] == 0
    assert quality.compare(plain, small)["edge_overlap"] < 0.9
    assert quality.compare(plain, table([]))["appearance_overlap"] == 0
    assert quality.compare(red, plain) == pytest.approx(quality.compare(plain, red))


def test_empty_pictures_stop_the_recipe_and_poor_ones_are_reported() -> None:
    expectations = quality.expectations(quality.ValidateSettings())
    hard = {expected.column for expected in expectations if expected.severity.value == "critical"}  # type: ignore[attr-defined]
    assert hard == {"is_blank"}
    soft = {expected.column for expected in expectations} - hard  # type: ignore[attr-defined]
    assert soft == {"width", "height", "aspect", "entropy", "near_duplicate"}


def test_test_pictures_are_found_in_training_data_equal_or_changed_a_little(tmp_path: Path) -> None:
    """Leakage between pretraining data and a test set, and between the splits of a task."""
    for split, seeds in (("train", range(40)), ("validation", range(40, 60)), ("test", range(60, 100))):
        for seed in seeds:
            path = tmp_path / "task" / split / "ab"[seed % 2] / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            textured(seed, side=64).save(path)
    textured(61, side=64).save(tmp_path / "task/train/b/leaked.png")
    (tmp_path / "general").mkdir()
    for seed in range(200, 230):
        textured(seed, side=64).save(tmp_path / "general" / f"{seed}.png")
    textured(70, side=64).save(tmp_path / "general" / "equal.bmp")
    for seed in (80, 81, 82, 83):
        textured(seed, side=64).resize((56, 56)).save(tmp_path / "general" / f"like{seed}.jpg", quality=85)
    train, validation, test = (str(tmp_path / "task" / split) for split in ("train", "validation", "test"))
    task = Task(train=train, validation=validation, test=test)
    ingest("task", CorpusSettings(modality="image", tasks={"letter": task}), tmp_path / "tasks")
    source = (str(tmp_path / "general"),)
    ingest(
        "general", CorpusSettings(modality="image", source=source, heldout_fraction=0), tmp_path / "records"
    )
    corpora = {"general": tmp_path / "records", "tasks": tmp_path / "tasks"}
    kin = Kin(records.content, quality.pieces, quality.KIN, quality.ValidateSettings().leak_containment)
    found = leakage.find(corpora, kin)
    counts = {
        (entry["split"], entry["found_in"], entry["kind"]): entry["rows"]
        for entry in found.entries
        if entry["rows"]
    }
    assert counts == {
        ("test", "tasks/letter/train", "exact"): 1,
        ("test", "general", "exact"): 1,
        ("test", "general", "near"): 4,
    }
    assert len(found.ids("general")) == 5
