"""Embeddings of a folder: the encoder's own features, every bad file named, clear errors, a page."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models import encoders
from models.image.images import Images
from models.image.pictures import features
from tasks import embed
from tasks.errors import InputError
from tasks.modalities.image.pictures import embedding
from tasks.modalities.image.tensors.decoding import Form, decode
from tests.modalities.image import finished_run
from tests.tiny import tiny_model

PROCESSOR = {
    "size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16},
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def model(folder: Path, architecture: str = "vit") -> Path:
    with encoders.quiet():
        tiny_model("AutoModel", architecture=architecture).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def photos(folder: Path, count: int = 12) -> Path:
    for number in range(count):
        image, _, label = finished_run.drawn(number, 30)
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_embeddings_are_the_encoders_features_of_each_file(tmp_path: Path, architecture: str) -> None:
    source, folder = model(tmp_path / "model", architecture), photos(tmp_path / "photos")
    embed.run(source, folder, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/embeddings.parquet")
    assert sorted(table["path"].to_pylist()) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.png")
    )
    encoder = embedding.opened(source, Images(16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    path = folder / table["path"][5].as_py()
    pixels = torch.from_numpy(decode(path.read_bytes(), Form(20, 3)))[None]
    images = Images(16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    with torch.inference_mode():
        wanted = features(encoder, images.plain(pixels))[0].numpy()
    np.testing.assert_allclose(np.array(table["embedding"][5].as_py(), np.float32), wanted, atol=1e-5)
    page = (tmp_path / "out/neighbours.html").read_text()
    assert page.count('class="query looks"') == 3  # one of each sub-folder
    assert "nearest neighbours are in the file’s own" in page


def test_bad_files_are_left_out_counted_and_named(tmp_path: Path) -> None:
    source, folder = model(tmp_path / "model"), photos(tmp_path / "photos", 4)
    whole = (folder / "disc/0.png").read_bytes()
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no picture by its name")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("CMYK", (9, 7)).save(folder / "print.jpg")
    found = embed.run(source, folder, tmp_path / "out")
    assert len(found.paths) == 6
    assert {"dot.png", "print.jpg"} <= set(found.paths)
    assert {path: found.left_out[path] for path in ("text.jpg", "empty.png", "bomb.png")} == {
        "text.jpg": "not a picture", "empty.png": "empty", "bomb.png": "too many pixels",
    }  # fmt: skip
    assert set(found.left_out) == {"text.jpg", "cut.png", "empty.png", "bomb.png", "gone.png"}
    told = embed.told(found)[0]
    assert told.startswith("5 files have no vector (")
    assert "text.jpg" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_left_out(tmp_path: Path) -> None:
    source, folder = model(tmp_path / "model"), photos(tmp_path / "photos", 4)
    (folder / "disc/0.png").chmod(0)
    assert embed.run(source, folder, tmp_path / "out").left_out == {"disc/0.png": "permission denied"}


def test_one_picture_has_no_neighbours(tmp_path: Path) -> None:
    source, folder = model(tmp_path / "model"), photos(tmp_path / "photos", 1)
    assert embed.run(source, folder, tmp_path / "out").vectors.shape == (1, 16)
    assert "One file has no neighbours." in (tmp_path / "out/neighbours.html").read_text()


def test_run_stands_for_its_adapted_encoder_else_for_the_pretrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/shapes/pretrain/model").mkdir(parents=True)
    (tmp_path / "runs/shapes/pretrain/model/config.json").write_text("{}")
    wanted = Path("runs/shapes/pretrain/model")
    for given in ("shapes", "runs/shapes", "runs/shapes/pretrain", "runs/shapes/pretrain/model"):
        assert embed.model_folder(Path(given)) == wanted
    (tmp_path / "runs/shapes/adapt/model").mkdir(parents=True)
    (tmp_path / "runs/shapes/adapt/model/config.json").write_text("{}")
    assert embed.model_folder(Path("shapes")) == Path("runs/shapes/adapt/model")
    with pytest.raises(InputError, match="unknown run or model folder 'shape'; did you mean 'shapes'"):
        embed.model_folder(Path("shape"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no model \(no config.json"):
        embed.model_folder(Path("empty"))


def test_what_cannot_be_embedded_is_refused_in_one_sentence(tmp_path: Path) -> None:
    source, folder, out = model(tmp_path / "model"), photos(tmp_path / "photos", 3), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: the folder holds no files"):
        embed.run(source, tmp_path / "empty", out)
    (tmp_path / "empty/notes.txt").write_text("words")
    with pytest.raises(InputError, match=r"holds no pictures \(files that end in .jpg"):
        embed.run(source, tmp_path / "empty", out)
    (tmp_path / "empty/a.png").write_text("words")
    with pytest.raises(InputError, match=r"none of 1 pictures can be decoded: a.png \(not a picture\)"):
        embed.run(source, tmp_path / "empty", out)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        embed.run(source, tmp_path / "nowhere", out)
    with encoders.quiet():
        tiny_model("AutoModel", architecture="bert").save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="reads texts, not pictures"):
        embed.run(tmp_path / "bert", folder, out)
    (source / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load weights"):
        embed.run(source, folder, out)
    (source / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="preprocessor_config.json is missing"):
        embed.run(source, folder, out)
    (source / "config.json").write_text('{"model_type": "no_such_network"}')
    with pytest.raises(InputError, match="is not a config that transformers"):
        embed.run(source, folder, out)
    assert not out.exists()


def test_pooling_decides_what_stands_for_a_picture(tmp_path: Path) -> None:
    source, folder = model(tmp_path / "model"), photos(tmp_path / "photos", 3)
    mean, first = (
        embed.run(source, folder, tmp_path / pooling, pooling).vectors for pooling in ("mean", "class")
    )
    assert not np.allclose(mean, first)


def test_command_line_says_where_the_table_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = model(tmp_path / "model"), photos(tmp_path / "photos", 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["embed", str(source), str(folder)])
    embed.main()
    assert capsys.readouterr().out == "embedded/photos/embeddings.parquet\nembedded/photos/neighbours.html\n"
    monkeypatch.setattr(sys, "argv", ["embed", "no-such-run", str(folder)])
    with pytest.raises(SystemExit, match="embed: unknown run or model folder 'no-such-run'"):
        embed.main()
