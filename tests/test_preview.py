"""The preview: made before anything has run, with training's own draws, in one page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from models.augment.views import CIFAR32, DINO_LOCAL, Augment, view
from models.objectives.brightness import BrightnessSettings
from models.objectives.ijepa import IJEPASettings
from models.objectives.mae import MAESettings
from models.objectives.rotation import RotationSettings
from models.objectives.simclr import SimCLRSettings
from models.settings import Settings
from tasks import preview
from tasks.config import Config, Encoder
from tasks.engine.order import sample_key
from tasks.errors import InputError
from tasks.modalities.image.pictures import views
from tests.modalities.image import finished_run
from tests.tiny import Pictures

KEY = sample_key(0, torch.arange(4))


def stored() -> torch.Tensor:
    return Pictures().batch(range(4))["pixels"]


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
    with pytest.raises(InputError, match=r"recipes\.shapes\.encoder: unknown architecture 'no-such-net'"):
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


def test_views_are_the_objectives_own_draws() -> None:
    settings = SimCLRSettings(augment=CIFAR32)
    found = views.augmented(settings, stored(), KEY, 16, 4)
    assert [name for name, _ in found] == ["augment", "augment, again"]
    for stream, (_, values) in enumerate(found, start=1):
        torch.testing.assert_close(values, view(stored(), KEY, CIFAR32, 16, stream=stream))


def test_masks_are_the_objectives_own() -> None:
    from tests.tiny import tiny_objective

    settings = MAESettings(decoder_width=16, decoder_layers=1, decoder_heads=2)
    values = views.augmented(settings, stored(), KEY, 16, 4)[0][1]
    (_, visible), (_, hidden) = views.masked(settings, values, KEY, 4)
    objective = tiny_objective("mae", decoder_width=16, decoder_layers=1, decoder_heads=2)
    done = objective.reconstruct(objective.images.normalise(values), KEY)  # type: ignore[operator,union-attr]
    for place in range(4):
        full = (values[place].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        for patch in done.visible[place].tolist():
            top, left = 4 * (patch // 4), 4 * (patch % 4)
            part = (slice(top, top + 4), slice(left, left + 4))
            assert (visible[place][part] == full[part]).all()
            assert (hidden[place][part] != full[part]).any()


def test_each_kind_of_objective_shows_what_is_its_own() -> None:
    values = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    key = KEY[:2]
    assert [name for name, _ in views.masked(RotationSettings(), values, key, None)] == [
        "turned by 90°", "turned by 180°", "turned by 270°",
    ]  # fmt: skip
    grey = views.masked(BrightnessSettings(), values, key, None)[0][1][0]
    assert (grey[..., 0] == grey[..., 1]).all()
    columns = [name for name, _ in views.masked(IJEPASettings(num_targets=2), values, key, 4)]
    assert columns == ["context", "target 1", "target 2"]


def test_local_crops_have_their_own_size() -> None:
    from models.objectives.dino import DINOSettings

    settings = DINOSettings(augment_local=DINO_LOCAL, local_crops=6)
    found = dict(views.augmented(settings, stored(), KEY, 16, 4))
    assert found["augment global 1"].shape[-1] == 16
    assert found["augment local"].shape[-1] == 8
    assert len(found) == 4  # repeated local crops share a title


def test_every_setting_comes_with_its_sentence() -> None:
    told = views.explained(SimCLRSettings())
    paths = {path: (value, sentence) for path, value, sentence in told}
    assert paths["pretrain.objective.temperature"] == ("0.1", "Divisor of the cosines before the softmax.")
    assert paths["pretrain.objective.augment.crop_scale"][0] == "0.08 to 1"
    assert all(sentence for _, _, sentence in told)
    assert isinstance(Augment(), Settings)
