"""Pictures on disk, by position, and as inputs, against Pillow and plain numpy."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.image.augment.views import GLYPHS, PRESETS
from tasks.engine.order import row_of, sample_key
from tasks.errors import InputError
from tasks.modalities.image import tensors
from tasks.modalities.image.tensors import PrepareSettings, decoding, reading, shards, statistics
from tasks.modalities.image.tensors.decoding import Form, decode
from tasks.modalities.image.tensors.rows import Pictures

Square = np.ndarray[Any, np.dtype[np.uint8]]


def encoded(pixels: Square, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def noise(count: int, side: int = 12, seed: int = 0) -> list[Square]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def write_corpus(folder: Path, pictures: list[bytes], heldout: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    count = len(pictures)
    table = pa.table(
        {
            "id": [f"p{row}" for row in range(count)],
            "picture": pa.array(pictures, pa.binary()),
            "split": ["heldout" if row < heldout else "train" for row in range(count)],
        }
    )
    pq.write_table(table, folder / "records-00000.parquet")
    return folder


def prepare(
    tmp_path: Path, pictures: list[bytes], excluded: Any = None, slot: str = "general", **options: Any
) -> tuple[Path, Any, dict[str, Any]]:
    given = {"stored_size": 12, "image_size": 8, **options}
    recipe: Any = SimpleNamespace(modality="image", prepare=PrepareSettings(**given))
    out = tmp_path / "prepared"
    out.mkdir()
    corpora = {slot: write_corpus(tmp_path / slot, pictures)}
    manifest = tensors.prepare(recipe, corpora, excluded or {}, out, seed=0)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out, recipe, manifest


@pytest.mark.parametrize("store", ["decoded", "encoded"])
def test_every_picture_stands_at_the_position_that_the_order_says(tmp_path: Path, store: str) -> None:
    made = noise(23)
    out, recipe, manifest = prepare(tmp_path, [encoded(one) for one in made], store=store)
    assert manifest["slots"] == {"general": {"train": {"rows": 20}, "heldout": {"rows": 3}}}
    batches = tensors.batches(out, "general", "train", recipe, ("images",), seed=7)
    positions = torch.arange(18, 45)  # over the end of an epoch
    batch = batches.batch(positions.tolist())
    expected = [made[3 + int(row)].transpose(2, 0, 1) for row in row_of(positions, 20, 7)]
    assert torch.equal(batch["pixels"], torch.from_numpy(np.stack(expected)))
    assert torch.equal(batch["key"], sample_key(7, positions))
    assert (batches.num_samples, batches.unit, batches.units_per_sample) == (20, "images", 1.0)


@pytest.mark.parametrize("store", ["decoded", "encoded"])
def test_pictures_of_several_shards_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 12 * 12 * 4)
    monkeypatch.setattr("tasks.corpora.stored.BATCH_ROWS", 3)
    made = noise(14)
    out, _, _ = prepare(tmp_path, [encoded(one) for one in made], store=store)
    assert len(list((out / "general" / "train").glob("*.arrow"))) > 1
    pictures = Pictures(out / "general" / "train", Form(12, 3))
    rows = np.array([10, 0, 5, 5, 3, 4, 9])
    assert np.array_equal(pictures.pixels(rows), np.stack([made[3 + row].transpose(2, 0, 1) for row in rows]))


def test_decoding_in_processes_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [
        pa.table(
            {
                "id": [f"{part}-{row}" for row in range(5)],
                "picture": [encoded(one) for one in noise(5, seed=part)],
            }
        )
        for part in range(6)
    ]
    form = Form(10, 3)
    alone = list(decoding.stream(tables, form, 30))
    monkeypatch.setattr(decoding, "FEW", 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    for mine, theirs in zip(decoding.stream(tables, form, 30), alone, strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize(("width", "height"), [(30, 18), (18, 30), (12, 24), (1, 1)])
def test_one_resize_equals_scaling_the_whole_and_cutting_out_the_middle(width: int, height: int) -> None:
    side = 6
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = min(width, height)
    size = side * width // short, side * height // short
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    whole = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    expected = whole[top : top + side, left : left + side].transpose(2, 0, 1)
    assert np.abs(decode(encoded(pixels), Form(side, 3)).astype(int) - expected).max() <= 1


def test_a_large_jpeg_is_read_small_and_looks_the_same() -> None:
    side = 400
    down, right = np.mgrid[:side, :side] / side
    smooth = (np.stack([down, right, np.abs(down - right)], -1) * 255).astype(np.uint8)
    content = encoded(smooth, "JPEG", quality=95)
    whole = Image.open(io.BytesIO(content)).resize((20, 20), Image.Resampling.BICUBIC)
    difference = decode(content, Form(20, 3)).astype(int) - np.asarray(whole).transpose(2, 0, 1)
    assert np.abs(difference).max() <= 3


def test_grey_pictures_become_colours_and_colours_grey() -> None:
    (colours,) = noise(1)
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    assert np.array_equal(decode(encoded(colours), Form(12, 1))[0], grey)
    assert np.array_equal(decode(encoded(grey), Form(12, 3)), np.stack([grey] * 3))


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    pictures = [encoded(one) for one in noise(5)]
    pictures[4] = pictures[4][:40]
    with pytest.raises(InputError, match="record 'p4': its picture cannot be decoded"):
        prepare(tmp_path, pictures)


def test_excluded_pictures_are_left_out(tmp_path: Path) -> None:
    pictures = [encoded(one) for one in noise(8)]
    _, _, manifest = prepare(tmp_path, pictures, {"general": {"p4", "p0"}})
    assert manifest["slots"]["general"] == {"train": {"rows": 4}, "heldout": {"rows": 2}}


@pytest.mark.parametrize("store", ["decoded", "encoded"])
def test_mean_and_deviation_are_those_of_the_training_pictures(tmp_path: Path, store: str) -> None:
    made = [(one // (1, 2, 4)).astype(np.uint8) for one in noise(10)]
    _, _, manifest = prepare(tmp_path, [encoded(one) for one in made], store=store)
    values = np.stack(made[3:]) / 255
    assert manifest["mean"] == pytest.approx(values.mean((0, 1, 2)), abs=1e-5)
    assert manifest["std"] == pytest.approx(values.std((0, 1, 2)), abs=1e-5)


def test_constant_pictures_have_a_deviation_that_can_be_divided_by(tmp_path: Path) -> None:
    _, _, manifest = prepare(tmp_path, [encoded(np.full((12, 12, 3), 9, np.uint8))] * 6)
    assert manifest["std"] == [statistics.SMALLEST_DEVIATION] * 3


def test_statistics_can_come_from_released_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    facts = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (weights / "preprocessor_config.json").write_text(json.dumps(facts))
    _, _, manifest = prepare(tmp_path, [encoded(one) for one in noise(5)], normalise=str(weights))
    assert (manifest["mean"], manifest["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("normalise", "beside", "mean"),
    [
        ("auto", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, [0.1, 0.2, 0.3]),
        ("auto", {"do_normalize": False}, [0.0, 0.0, 0.0]),
        ("auto", None, "measured"),
        ("measured", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, "measured"),
        ("half", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, [0.5, 0.5, 0.5]),
    ],
)
def test_pictures_are_normalised_as_the_weights_were_trained_unless_the_recipe_says_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, normalise: str, beside: Any, mean: Any
) -> None:
    weights, folder = tmp_path / "weights", tmp_path / "model"
    weights.mkdir()
    folder.mkdir()
    if beside is not None:
        (weights / "preprocessor_config.json").write_text(json.dumps(beside))
    out, recipe, manifest = prepare(tmp_path, [encoded(one) for one in noise(9)], normalise=normalise)
    wanted = manifest["mean"] if mean == "measured" else mean
    assert tensors.constants(out, str(weights))["images"].mean == tuple(wanted)
    recipe.pretrain = SimpleNamespace(objective=SimpleNamespace())
    assert tensors.reader(out, recipe, str(weights)).images.mean == tuple(wanted)
    assert tensors.constants(out)["images"].mean == tuple(manifest["mean"])
    tensors.finish(out, folder, str(weights))
    assert statistics.of_weights(str(folder)) == (wanted, json_of(folder)["image_std"])
    assert ("does not say how pictures were normalised" in caplog.text) == (beside is None)


def json_of(folder: Path) -> Any:
    return json.loads((folder / "preprocessor_config.json").read_text())


def test_statistics_of_no_known_name_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prepare.normalise: './nowhere' is neither auto, measured"):
        prepare(tmp_path, [b"no picture"], normalise="./nowhere")


def test_an_image_larger_than_what_is_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_size: 16 is larger than stored_size"):
        prepare(tmp_path, [], image_size=16)


def test_both_sizes_are_told_beforehand_and_a_full_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        (tmp_path / "a").mkdir()
        prepare(tmp_path / "a", [encoded(one) for one in noise(2000, side=4)])
    assert "2,000 pictures of 3 × 12 × 12: 0.9 MB decoded, 0." in caplog.text
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="store: decoded takes 0.0 MB and 0.0 MB are free.*store: encoded"):
        prepare(tmp_path / "b", [encoded(one) for one in noise(2)])


def test_an_empty_split_is_refused_when_it_is_read(tmp_path: Path) -> None:
    out, recipe, manifest = prepare(
        tmp_path, [encoded(one) for one in noise(6)], {"general": {"p0", "p1", "p2"}}
    )
    assert manifest["slots"]["general"]["heldout"] == {"rows": 0}
    with pytest.raises(InputError, match="holds no pictures"):
        tensors.batches(out, "general", "heldout", recipe, ("images",), seed=0)
    with pytest.raises(InputError, match="corpus `domain` is none"):
        tensors.batches(out, "domain", "train", recipe, ("images",), seed=0)
    with pytest.raises(KeyError, match="unknown kind of batch 'rows'"):
        tensors.batches(out, "general", "train", recipe, ("rows",), seed=0)


def labelled(pictures: list[Square]) -> pa.Table:
    masks = [encoded((one[..., 0] > 127).astype(np.uint8)) for one in pictures]
    names = [f"p{row}" for row in range(len(pictures))]
    return pa.table({"id": names, "picture": [encoded(one) for one in pictures], "mask": masks})


def test_inputs_are_the_stored_pixels_and_masks_keep_their_numbers(tmp_path: Path) -> None:
    made = noise(4)
    out, recipe, _ = prepare(tmp_path, [encoded(one) for one in made], image_size=10)
    found = tensors.inputs(labelled(made), "segmentation", out, recipe)
    assert torch.equal(found["pixels"], torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2))
    assert torch.equal(found["mask"], (found["pixels"][:, 0] > 127).to(torch.uint8)[:, 1:11, 1:11])
    assert set(tensors.inputs(labelled(made), "classification", out, recipe)) == {"pixels"}
    with pytest.raises(KeyError, match="token_classification"):
        tensors.inputs(labelled(made), "token_classification", out, recipe)


def test_masks_lie_over_pictures_that_are_made_smaller(tmp_path: Path) -> None:
    many = [encoded(one) for one in noise(6, side=32)]
    out, recipe, _ = prepare(tmp_path, many, stored_size=32, image_size=16, normalise="half")
    shift = 0
    for edge in range(3, 30):
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[:, edge:] = 255
        found = tensors.inputs(labelled([picture]), "segmentation", out, recipe)
        shown = tensors.constants(out)["images"].plain(found["pixels"])[0, 0, 8]
        shift += int((shown > 0).sum()) - int(found["mask"][0, 8].sum())
    assert abs(shift) / 27 < 0.1  # of the encoder's pixels


def test_the_reader_augments_in_training_alone_by_key(tmp_path: Path) -> None:
    out, recipe, _ = prepare(tmp_path, [encoded(one) for one in noise(9)], augment="cifar32")
    recipe.pretrain = SimpleNamespace(objective=SimpleNamespace())
    read = tensors.reader(out, recipe)
    pixels, key = torch.from_numpy(np.stack(noise(4))).permute(0, 3, 1, 2), torch.arange(4)
    batch = {"pixels": pixels, "labels": torch.arange(4)}
    plain = read(batch, training=False, key=None)
    images = tensors.constants(out)["images"]
    assert set(plain) == {"pixel_values", "labels"}
    assert torch.equal(plain["pixel_values"], images.plain(pixels))
    views = read(batch, training=True, key=key)["pixel_values"]
    assert views.shape == plain["pixel_values"].shape == (4, 3, 8, 8)
    assert not torch.allclose(views, plain["pixel_values"])
    alone = read({"pixels": pixels[2:3]}, training=True, key=key[2:3])["pixel_values"]
    torch.testing.assert_close(alone, views[2:3])


def test_augmentation_is_the_methods_a_preset_or_none() -> None:
    objective: Any = SimpleNamespace(temperature=0.1, augment=GLYPHS)
    assert reading.augmentation("method", objective) is GLYPHS
    nothing: Any = SimpleNamespace(temperature=0.1)
    assert reading.augmentation("method", nothing) is reading.augmentation("none", objective) is None
    names = PrepareSettings.__dataclass_fields__["augment"].type
    offered = {name for name in PRESETS if f'"{name}"' in str(names).replace("'", '"')}
    assert offered >= {"simclr", "mae", "cifar32", "glyphs"}
    for name in offered:
        assert reading.augmentation(name, nothing) is PRESETS[name]


def test_what_finish_writes_prepares_pictures_as_evaluation_does(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    out, _, _ = prepare(tmp_path, [encoded(one) for one in noise(9)], stored_size=16, image_size=14)
    folder = tmp_path / "model"
    folder.mkdir()
    tensors.finish(out, folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    (picture,) = noise(1, side=31)
    mine = tensors.constants(out)["images"].plain(
        torch.from_numpy(decode(encoded(picture), Form(16, 3)))[None]
    )
    theirs = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, mine, atol=0.02, rtol=0)


def test_the_encoder_learns_size_and_channels_from_the_data(tmp_path: Path) -> None:
    out, _, manifest = prepare(tmp_path, [encoded(one) for one in noise(6)], channels=1)
    assert tensors.encoder_config(out) == {"image_size": 8, "num_channels": 1}
    assert len(manifest["mean"]) == 1
