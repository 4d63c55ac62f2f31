"""The preview: made before anything has run, with training's own draws, in one page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import cast

import pytest
import torch

from models.image.augment.settings import Augment
from models.image.patch_masks import random_masks
from models.objectives import load_all
from models.objectives.mae import MAE
from models.objectives.simclr import SimCLRSettings
from models.settings import Settings
from tasks import preview
from tasks.config import Config, Encoder
from tasks.errors import InputError
from tasks.modalities.image.pictures import views
from tests.modalities.image import finished_run
from tests.tiny import Pictures, images, tiny_objective

BATCH = Pictures().batch(range(4))


def test_preview_of_an_ingested_corpus_opens_without_network_and_says_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run._corpora()
    path = preview.run("shapes", finished_run.config("mae", mask_ratio=0.625), Path("out"))
    page = path.read_text()
    assert "8 pictures in rows: as stored, then what mae makes of them" in page
    for words in ("visible to the encoder", "hidden, to be predicted", "pretrain.objective.mask_ratio", "0.625",
                  "Share of the patches that is hidden."):  # fmt: skip
        assert words in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert (tmp_path / "out/views.png").stat().st_size > 1000
    assert not (tmp_path / "runs").exists()


def test_preview_reads_the_sources_where_nothing_was_ingested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.modalities import records

    monkeypatch.chdir(tmp_path)
    for number in range(9):
        path = tmp_path / f"photos/{number}.png"
        path.parent.mkdir(exist_ok=True)
        finished_run.drawn(number)[0].save(path)
    config = finished_run.config("rotation")
    config.corpora["shapes"] = records("image").CorpusSettings(modality="image", source=("photos",))
    page = preview.run("shapes", config, Path("out")).read_text()
    assert "turned by 270°" in page


def test_preview_of_a_corpus_that_is_not_there_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.modalities import records

    monkeypatch.chdir(tmp_path)
    config = finished_run.config("rotation")
    config.corpora["shapes"] = records("image").CorpusSettings(modality="image", source=("photos",))
    with pytest.raises(InputError, match="photos"):
        preview.run("shapes", config, Path("out"))
    config.encoders["tiny"] = Encoder(architecture="no-such-net")
    finished_run._corpora()
    with pytest.raises(InputError, match=r"recipes\.shapes: unknown architecture 'no-such-net'"):
        preview.run("shapes", config, Path("out"))


def test_command_line_names_an_unknown_recipe_and_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("corpora: {none: {modality: text}}\n")
    monkeypatch.setattr(sys, "argv", ["preview", "nothing"])
    with pytest.raises(SystemExit, match="preview: unknown recipe 'nothing'"):
        preview.main()
    assert isinstance(Config(), Config)


# Views are those of training


@pytest.mark.parametrize("name", [name for name, kind in load_all().items() if "images" in kind.reads])
def test_every_objective_over_pictures_shows_the_same_before_it_has_a_weight(name: str) -> None:
    with torch.device("meta"):
        weightless = tiny_objective(name)
    found = weightless.views(BATCH)
    assert found
    for title, stack in tiny_objective(name).views(BATCH).items():
        torch.testing.assert_close(found[title], stack, equal_nan=True)


def test_hidden_patches_are_faded_behind_those_that_training_shows() -> None:
    objective = cast("MAE", tiny_objective("mae", decoder_width=16, decoder_layers=1))
    columns = dict(views.seen(objective, images(), BATCH["pixels"], BATCH["key"]))
    visible_BK, _ = random_masks(BATCH["key"], 16, objective.settings.mask_ratio)
    for place in range(4):
        full = columns["view"][place]
        for patch in range(16):
            top, left = 4 * (patch // 4), 4 * (patch % 4)
            part = (slice(top, top + 4), slice(left, left + 4))
            is_visible = patch in visible_BK[place]
            assert (columns["visible to the encoder"][place][part] == full[part]).all() == is_visible
            assert (columns["hidden, to be predicted"][place][part] == full[part]).all() != is_visible


def test_each_kind_of_objective_shows_what_is_its_own() -> None:
    turned = tiny_objective("rotation").views(BATCH)
    assert [*turned] == ["turned by 0°", "turned by 90°", "turned by 180°", "turned by 270°"]
    assert torch.equal(turned["turned by 180°"], turned["turned by 0°"].flip((2, 3)))
    (grey,) = tiny_objective("brightness").views(BATCH).values()
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    crops = tiny_objective("dino", local_crops=3).views(BATCH)
    assert [crop.shape[-1] for crop in crops.values()] == [16, 16, 8, 8, 8]
    asked = tiny_objective("ijepa", num_targets=2, predictor_width=16).views(BATCH)
    assert [*asked] == ["view", "context", "target 1", "target 2"]
    shown, target = (~asked[name][:, 0].isnan() for name in ("context", "target 1"))
    assert shown.any()
    assert target.any()
    assert not (shown & target).any()


def test_an_encoder_that_the_objective_cannot_use_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"recipes\.shapes: resnet has no patches to hide"):
        preview.run("shapes", finished_run.config("mae", "resnet"), Path("out"))


def test_every_setting_comes_with_its_sentence() -> None:
    told = views.explained(SimCLRSettings())
    paths = {path: (value, sentence) for path, value, sentence in told}
    assert paths["pretrain.objective.temperature"] == ("0.1", "Divisor of the cosines before the softmax.")
    assert paths["pretrain.objective.augment.crop_scale"][0] == "0.08 to 1"
    assert all(sentence for _, _, sentence in told)
    assert isinstance(Augment(), Settings)
