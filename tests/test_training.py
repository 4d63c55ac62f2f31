"""What a recipe starts from: released weights with the recipe's changes and their own normalisation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models import heads
from tasks import layout, training
from tasks.config import Encoder
from tasks.errors import InputError
from tests.modalities.image import finished_run
from tests.tiny import HEADS, tiny_model


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vision transformer as transformers leaves it on the hub; the project's folder is the working one."""
    monkeypatch.chdir(tmp_path)
    heads.save(tiny_model("AutoModel", architecture="vit"), tmp_path / "weights")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "weights/preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "weights"


def test_changes_and_normalisation_of_released_weights_last_from_stage_to_stage(weights: Path) -> None:
    config = finished_run.config("simclr", **HEADS["simclr"])
    changes = {"patch_size": 8, "hidden_dropout_prob": 0.25}
    config.encoders["tiny"] = Encoder(source=str(weights), config=changes)
    finished_run.leave(config)
    folder = layout.run("shapes", "pretrain")
    for objective in (
        training.build_objective("shapes", config), training.build_objective("shapes", config, folder),
    ):  # fmt: skip
        assert objective.images.mean == (0.1, 0.2, 0.3)
        found = objective.encoder.config
        assert (found.patch_size, found.hidden_dropout_prob, found.hidden_size) == (8, 0.25, 16)
    processor = json.loads((folder / "model/preprocessor_config.json").read_text())
    assert processor["image_std"] == [0.4, 0.5, 0.6]


def test_what_contradicts_released_weights_is_told_with_the_recipe(weights: Path) -> None:
    config = finished_run.config("simclr", **HEADS["simclr"])
    finished_run.leave(config)
    config.encoders["tiny"] = Encoder(source=str(weights), config={"num_hidden_layers": 5})
    with pytest.raises(InputError, match=r"recipes\.shapes: .* have num_hidden_layers 2, and 5 contradicts"):
        training.build_objective("shapes", config)
