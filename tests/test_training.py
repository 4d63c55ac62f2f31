"""What a recipe starts from: released weights with the recipe's changes and their own normalisation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import heads
from tasks import finetune, layout, training
from tasks.adapt import Replayed
from tasks.config import Corpus, Encoder, Finetune, Task
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


@pytest.mark.parametrize(
    "place", ["model", ".", "linked"], ids=["beside the model's folder", "in it", "behind a link"]
)
def test_heads_that_lie_with_an_encoder_of_ours_go_on_with_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = finished_run.config("simclr", **HEADS["simclr"])
    finished_run.leave(config)
    folder = layout.run("shapes", "pretrain")
    earlier = training.build_objective("shapes", config, folder).state_dict()
    moved = tmp_path / "kept" / ("model" if place == "linked" else place)
    shutil.copytree(folder / "model", moved)
    shutil.copyfile(folder / training.HEADS, tmp_path / "kept" / training.HEADS)
    if place == "linked":  # as the folder of a run has it
        (tmp_path / "apart").mkdir()
        moved = tmp_path / "apart" / "model"
        moved.symlink_to(tmp_path / "kept" / "model")
    config.encoders["tiny"] = Encoder(source=str(moved))
    config = dataclasses.replace(config, seed=config.seed + 1)
    onward = training.build_objective("shapes", config).state_dict()
    heads_ = [name for name in onward if not name.startswith("model.")]
    assert heads_
    for name in heads_:
        torch.testing.assert_close(onward[name], earlier[name], rtol=0, atol=0)


def test_what_contradicts_released_weights_is_told_with_the_recipe(weights: Path) -> None:
    config = finished_run.config("simclr", **HEADS["simclr"])
    finished_run.leave(config)
    config.encoders["tiny"] = Encoder(source=str(weights), config={"num_hidden_layers": 5})
    with pytest.raises(InputError, match=r"recipes\.shapes: .* have num_hidden_layers 2, and 5 contradicts"):
        training.build_objective("shapes", config)


class Marked:
    """Samples that all say the same."""

    num_samples, unit, units_per_sample = 100, "rows", 1.0

    def __init__(self, mark: float) -> None:
        self.mark = mark

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        return {"x": torch.full((len(positions), 2), self.mark)}


def test_replay_is_a_share_of_positions_that_seed_and_position_decide() -> None:
    mixed = Replayed(Marked(0.0), Marked(1.0), 0.3, seed=4)
    whole = mixed.batch(range(4000))["x"]
    assert float(whole.mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(torch.cat([mixed.batch([at])["x"] for at in range(50)]), whole[:50])
    assert not torch.equal(Replayed(Marked(0.0), Marked(1.0), 0.3, seed=5).batch(range(50))["x"], whole[:50])


@pytest.mark.parametrize(("how", "expected"), [("same_steps", 0.0), ("equal", 5e9), ("shared", 5e9 / 6)])
def test_scratch_may_cost_what_training_before_it_cost(
    how: str, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = finished_run.config("simclr", **HEADS["simclr"])
    for stage, flops in (("pretrain", 4e9), ("adapt", 1e9)):
        folder = layout.run("shapes", stage)
        folder.mkdir(parents=True)
        (folder / training.COST).write_text(json.dumps({"flops": flops}))
    recipe = config.recipe("shapes")
    config.corpora[recipe.tasks] = Corpus(tasks={"name": Task(source="unused")})
    settings = Finetune(scratch_compute=how, label_budgets=(8, 16), num_seeds=3)  # type: ignore[arg-type]
    recipe = dataclasses.replace(recipe, finetune=settings)
    assert finetune._more("scratch", "shapes", recipe, config) == pytest.approx(expected)
    assert finetune._more("pretrained", "shapes", recipe, config) == 0
