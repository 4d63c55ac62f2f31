"""Masks from patches: what is counted, and that a linear model finds what colours show."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tasks.downstream import floors, jobs, kind, protocol, segmentation
from tasks.downstream.jobs import Arm, Task
from tasks.downstream.rows import Rows
from tasks.modalities.image.tensors.reading import Reader
from tests.downstream.picture_sets import IMAGES, SIDE, encoder_folder
from tests.downstream.supervised_sets import job

SEGMENTATION = kind("segmentation")


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def blocks(count: int, seed: int, prefix: str = "row") -> Rows:
    """A red block (class 1) or a green one (class 7) on grey noise (class 0)."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(90, 160, (count, 3, SIDE, SIDE), dtype=np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for row in range(count):
        top, left = draw.integers(0, SIDE - 8, 2) // 4 * 4
        place = (row, slice(top, top + 8), slice(left, left + 8))
        masks[place] = (1, 7)[row % 2]
        pixels[row, row % 2, place[1], place[2]] = 255
    ids = [f"{prefix}{row}" for row in range(count)]
    records = pa.table({"id": ids, "mask": [png(mask) for mask in masks]})
    return Rows(records, {"pixels": torch.from_numpy(pixels), "mask": torch.from_numpy(masks)})


def said(masks: torch.Tensor) -> list[str]:
    return [base64.b64encode(png(mask.numpy())).decode() for mask in masks]


def test_the_score_is_the_mean_over_classes_of_all_pixels_that_count() -> None:
    rows = blocks(6, 0)
    right = rows.inputs["mask"]
    right[:, 0] = segmentation.IGNORED
    given = right.roll(2, dims=2)
    given[:, 0] = 3
    counts = right != segmentation.IGNORED
    iou = [
        float(
            ((right == name) & (given == name))[counts].sum()
            / ((right == name) | (given == name))[counts].sum()
        )
        for name in (0, 1, 7)
    ]
    scores = SEGMENTATION.score(rows, said(given))
    assert scores["mean_iou"] == pytest.approx(sum(iou) / 3)
    assert scores["pixel_accuracy"] == pytest.approx(float((right == given)[counts].float().mean()))
    assert SEGMENTATION.score(rows, said(right))["mean_iou"] == 1


def test_labels_are_the_numbers_in_masks_but_not_the_one_that_does_not_count() -> None:
    masks = [np.array([[0, 7]], np.uint8), np.array([[255, 12]], np.uint8)]
    assert SEGMENTATION.labels(pa.table({"mask": [png(mask) for mask in masks]})) == ["000", "007", "012"]


def test_a_patch_has_the_class_of_most_of_its_pixels() -> None:
    index = torch.tensor([[[0, 1, 2, 2], [1, 1, 2, 2], [255, 255, 255, 255], [255, 0, 255, 255]]])
    found = segmentation._majority_of_patches(index, 2, 3)
    assert found.tolist() == [[1, 2, 0, segmentation.IGNORED]]


def test_colours_of_cells_find_coloured_blocks_and_the_majority_does_not() -> None:
    train, test = blocks(12, 0), blocks(8, 1)
    labels = SEGMENTATION.labels(train.records)
    scores = {}
    for name, candidates in floors.of("image", "segmentation", SEGMENTATION).items():
        chosen, _ = protocol.choose(SEGMENTATION, candidates(train, labels), train)
        scores[name] = protocol.read_test(SEGMENTATION, chosen, test)[1]["mean_iou"]
    assert scores["majority"] < 0.3
    assert scores["cell_colours"] > 0.8


@pytest.mark.parametrize("architecture", ["vit", "small_resnet"])
def test_a_probe_reads_the_patches_of_an_encoder(tmp_path: Path, architecture: str) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = {split: blocks(10, seed, split) for seed, split in enumerate(("train", "validation", "test"))}
    for split, part in rows.items():
        part.save(folder / split)
    labels = tuple(SEGMENTATION.labels(rows["train"].records))
    task = Task("toy", "segmentation", "image", labels, ("all",), None, folder, Reader(IMAGES, None))
    (folder / "draws.json").write_text("{}")
    arm = Arm("pretrained", encoder_folder(tmp_path / "e", architecture), True)
    work = job(task, arm, "probe", tmp_path / "job", budgets=("all",))
    jobs.execute(work)
    (outcome,) = work.outcomes()
    assert outcome.test["mean_iou"] > 0.3
