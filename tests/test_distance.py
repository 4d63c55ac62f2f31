"""How far apart an encoder holds two corpora: known answers, and what stage `adapt` writes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from models.image.images import Images
from models.image.pictures import features
from tasks import adapt, distance, layout, modalities, pretrain, stage
from tasks import params as configuration
from tests.downstream.picture_sets import striped
from tests.test_finetune import project
from tests.tiny import Rows, tiny_model


def gaussian(count: int, mean: list[float], deviation: list[float], seed: int) -> distance.Features:
    drawn = np.random.default_rng(seed).normal(size=(count, len(mean)))
    return drawn * np.array(deviation) + np.array(mean)


def test_the_frechet_distance_of_gaussians_has_its_closed_form() -> None:
    """With equal axes: squared difference of the means, and of the deviations along each axis."""
    a_ND = gaussian(200_000, [0, 0, 0], [1, 2, 3], 0)
    b_ND = gaussian(200_000, [1, -2, 0], [2, 2, 1], 1)
    assert distance.frechet(a_ND, b_ND) == pytest.approx(1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, rel=0.01)
    assert distance.frechet(a_ND, a_ND) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_the_root_of_the_product_of_covariances() -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    a_ND, b_ND = gaussian(50, [0] * 4, [1, 2, 3, 4], 0), gaussian(50, [1] * 4, [4, 1, 2, 1], 1) @ turn
    a_DD, b_DD = np.cov(a_ND, rowvar=False), np.cov(b_ND, rowvar=False)
    expected = np.square(a_ND.mean(0) - b_ND.mean(0)).sum()
    expected += np.trace(a_DD + b_DD - 2 * np.real(sqrtm(a_DD @ b_DD)))
    assert distance.frechet(a_ND, b_ND) == pytest.approx(expected, rel=1e-9)


def test_fewer_samples_than_dimensions_have_a_finite_distance() -> None:
    a_ND, b_ND = gaussian(12, [0.0] * 40, [1.0] * 40, 0), gaussian(12, [0.0] * 40, [1.0] * 40, 1)
    assert 0 < distance.frechet(a_ND, b_ND) < 80


def test_samples_of_one_distribution_cannot_be_told_apart_and_distant_ones_can() -> None:
    a_ND, b_ND = (gaussian(600, [0.0] * 5, [1.0] * 5, seed) for seed in (0, 1))
    assert distance.a_distance(a_ND, b_ND) < 0.15
    assert distance.a_distance(a_ND, b_ND + 10) == 2


def test_the_a_distance_is_that_of_the_best_line_between_two_gaussians() -> None:
    """At a distance of 2 deviations the best line errs on 15.9 % of samples: 2 (1 - 2 · 0.159) = 1.365."""
    a_ND, b_ND = gaussian(4000, [0, 0], [1, 1], 0), gaussian(4000, [2, 0], [1, 1], 1)
    assert distance.a_distance(a_ND, b_ND) == pytest.approx(1.365, abs=0.04)


def test_distances_do_not_depend_on_the_scale_of_features() -> None:
    a_ND, b_ND = gaussian(300, [0, 0], [1, 2], 0), gaussian(300, [1, 0], [2, 1], 1)
    before, after = distance.distances(a_ND, b_ND), distance.distances(a_ND / 50, b_ND / 50)
    assert after == pytest.approx(before, rel=1e-6)


def test_an_encoder_that_says_the_same_of_everything_holds_nothing_apart() -> None:
    same_ND = np.ones((40, 3))
    assert distance.distances(same_ND, same_ND) == {"frechet": 0, "a_distance": 0}


def test_the_vector_of_a_packed_row_is_the_mean_of_its_tokens(tmp_path: Path) -> None:
    encoder = tiny_model("AutoModel").eval()
    batch = Rows().batch(range(3))
    batch["document_ids"] = batch["document_ids"].clone()
    batch["document_ids"][0, 12:] = -1
    vectors_BD = modalities.tensors("text").vectors(encoder, batch, tmp_path)
    alone_LD = encoder(input_ids=batch["input_ids"][:1, :12]).last_hidden_state[0]
    torch.testing.assert_close(vectors_BD[0], alone_LD.mean(0))
    halves = [encoder(input_ids=part).last_hidden_state[0] for part in batch["input_ids"][1:2].split(12, 1)]
    torch.testing.assert_close(vectors_BD[1], torch.cat(halves).mean(0))


def test_the_vector_of_a_picture_is_that_of_its_plain_view(tmp_path: Path) -> None:
    manifest = {
        "image_size": 16,
        "channels": 3,
        "normalise": "auto",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    encoder, pixels_BCSS = tiny_model("AutoModel", architecture="vit").eval(), striped(3, 0).inputs["pixels"]
    plain = Images(16, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)).plain(pixels_BCSS)
    vectors_BD = modalities.tensors("image").vectors(encoder, {"pixels": pixels_BCSS}, tmp_path)
    torch.testing.assert_close(vectors_BD, features(encoder, plain, "mean"))
    processor = {"image_mean": [0.1, 0.1, 0.1], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    vectors_BD = modalities.tensors("image").vectors(
        encoder, {"pixels": pixels_BCSS}, tmp_path, str(tmp_path)
    )
    as_released = Images(16, 3, (0.1, 0.1, 0.1), (0.5, 0.5, 0.5)).plain(pixels_BCSS)
    torch.testing.assert_close(vectors_BD, features(encoder, as_released, "mean"))


def adapted(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What stage `adapt` wrote, of a domain that is a copy of the general corpus."""
    project(root)
    params = root / "params.yaml"
    params.write_text(
        params.read_text().replace(
            "adapt: {steps: 1}", "adapt: {steps: 3, batch_size: 8, precision: float32}"
        )
    )
    for path in (layout.prepared("toy") / "manifest.json", layout.validated("toy") / "validation.json"):
        (root / path).write_text("{}")
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNMASK_SCRATCH", str(root / "scratch"))
    config = configuration.load()
    stage.execute("pretrain", "toy", pretrain.run, pretrain.inputs, config)
    stage.execute("adapt", "toy", adapt.run, adapt.inputs, config)
    gap: dict[str, object] = json.loads((layout.run("toy", "adapt") / "gap.json").read_text())
    return gap


def test_adaptation_writes_both_distances_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "FEWEST", 2)
    monkeypatch.setattr(distance, "FOLDS", 2)
    gap = adapted(tmp_path, monkeypatch)
    assert gap["features"] == {
        "frechet": {"before": pytest.approx(0, abs=1e-9), "after": pytest.approx(0, abs=1e-9)},
        "a_distance": {"before": 0, "after": 0},
    }
    metrics = json.loads(layout.metrics("toy", "adapt").read_text())
    assert metrics["a_distance_before"] == metrics["a_distance_after"] == 0
    assert metrics.keys() >= {"frechet_before", "frechet_after", "gap_before", "forgetting"}


def test_too_few_samples_are_told_and_leave_no_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert adapted(tmp_path, monkeypatch)["features"] == {}
    assert "adapt@toy: the distance between the corpora's features is left out" in caplog.text
