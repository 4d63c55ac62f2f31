"""Pictures through probes, neighbours, fine-tuning and floors."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity

from models import heads
from models.image import pictures
from models.text.attention import PRODUCTS
from tasks.config import Finetune
from tasks.downstream import floors, jobs, kind, neighbours, picture_floors, protocol, rows, supervised
from tasks.downstream.hog import hog
from tasks.downstream.jobs import Arm
from tasks.downstream.rows import Rows, Supervision
from tests.downstream.picture_sets import CONFIGS, encoder_folder, stored, striped
from tests.downstream.supervised_sets import job

CLASSIFICATION = kind("classification")
HEAD = CLASSIFICATION.HEADS["image"]
QUICK = Finetune(
    steps=60, batch_size=16, lr=3e-3, label_budgets=(10, 20), num_seeds=2, max_epochs=60, precision="float32",
    methods=("probe", "knn"),
)  # fmt: skip


@pytest.mark.parametrize("architecture", CONFIGS)
def test_probe_and_neighbours_answer_for_every_encoder(tmp_path: Path, architecture: str) -> None:
    arm = Arm("pretrained", encoder_folder(tmp_path / "encoder", architecture), True)
    work = job(
        stored(tmp_path / "rows", QUICK), arm, "probe", tmp_path / "job",
        settings=QUICK, budgets=(10, "all"), seeds=(0, 1), embeds=True,
    )  # fmt: skip
    jobs.execute(pickle.loads(pickle.dumps(work)))  # as a process gets it
    outcomes = work.outcomes()
    assert [(one.method, one.budget, one.seed) for one in outcomes] == [
        (method, budget, seed)
        for method in ("probe", "knn")
        for budget, seed in (("10", 0), ("10", 1), ("all", 0))
    ]
    assert all(len(one.predictions) == 40 for one in outcomes)
    assert (work.folder / "vectors.safetensors").exists()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_classifier_of_pictures_learns_and_its_folder_says_the_same(
    tmp_path: Path, architecture: str
) -> None:
    source = encoder_folder(tmp_path / "encoder", architecture)
    train, test = striped(60, 0), striped(40, 1)
    task = stored(tmp_path / "rows", QUICK)
    settings = dataclasses.replace(QUICK, steps=200 if architecture == "vit" else 60)
    model = heads.build(HEAD, source, task.labels, pretrained=True, padding=None, seed=0, pools_by="mean")
    fitted = supervised.fit(
        CLASSIFICATION,
        model,
        train,
        test,
        list(task.labels),
        settings,
        seed=0,
        folder=tmp_path / "run",
        reader=task.reader,
    )
    predictions = fitted.predict(test)
    assert CLASSIFICATION.score(test, predictions)["accuracy"] > 0.8
    heads.save(model, tmp_path / "saved")
    reloaded = getattr(transformers, HEAD).from_pretrained(tmp_path / "saved").eval()
    assert task.reader is not None
    pixel_values = task.reader(test.inputs, training=False, key=None)["pixel_values"]
    with torch.no_grad():
        logits = reloaded(pixel_values=pixel_values).logits
    assert [reloaded.config.id2label[int(i)] for i in logits.argmax(-1)] == predictions


def test_training_sees_views_and_evaluation_plain_pictures(tmp_path: Path) -> None:
    task = stored(tmp_path / "rows", QUICK)
    seen: list[tuple[bool, torch.Tensor | None]] = []

    class Spy(torch.nn.Module):
        def forward(self, batch: object, *, training: bool, key: torch.Tensor | None) -> object:
            seen.append((training, key))
            assert task.reader is not None
            return task.reader(batch, training=training, key=key)  # type: ignore[arg-type]

        def within(self, model: object, key: torch.Tensor | None) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    model = heads.build(
        HEAD, encoder_folder(tmp_path / "e", "vit"), task.labels, pretrained=True, padding=None, seed=0
    )
    settings = dataclasses.replace(QUICK, steps=2, batch_size=4)
    rows = striped(8, 0)
    supervised.fit(
        CLASSIFICATION, model, rows, rows, list(task.labels), settings, seed=5, folder=tmp_path / "run",
        reader=Spy(),  # type: ignore[arg-type]
    )  # fmt: skip
    expected = Supervision({"pixels": rows.inputs["pixels"]}, {}, seed=5).batch([0, 1, 2, 3])["key"]
    assert [training for training, _ in seen] == [True, True, False]
    assert seen[0][1] is not None
    assert torch.equal(seen[0][1], expected)


@torch.no_grad()
def test_the_class_token_of_a_vit_begins_as_the_mean_of_its_patches(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "e", "vit")
    model = heads.build(
        HEAD, source, ["a", "b"], pretrained=True, padding=None, seed=0, pools_by="mean"
    ).eval()
    encoder = heads.encoder(source, pretrained=True, seed=0)
    values = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    token_BD = model.base_model(values).last_hidden_state[:, 0]
    mean_BD = pictures.features(encoder, values, "mean")
    assert cosine_similarity(token_BD, mean_BD).min() > 0.9
    assert cosine_similarity(pictures.features(encoder, values, "class"), mean_BD).max() < 0.8
    as_it_is = heads.build(HEAD, source, ["a", "b"], pretrained=True, padding=None, seed=0, pools_by="first")
    assert as_it_is.config.num_hidden_layers == CONFIGS["vit"]["num_hidden_layers"]


def test_neighbours_vote_by_the_exponential_of_their_cosine() -> None:
    draw = torch.Generator().manual_seed(0)
    train_ND, asked_BD = torch.randn(30, 4, generator=draw), torch.randn(9, 4, generator=draw)
    answers = [str(row % 3) for row in range(30)]
    train, asked = striped(30, 0), striped(9, 1)
    vectors = {id(train): train_ND, id(asked): asked_BD}
    candidates = list(neighbours.voters(train, answers, lambda rows: vectors[id(rows)]))
    assert len(candidates) == 5  # 1, 5, 10, 20 and all 30
    for count, predict in zip((1, 5, 10, 20, 30), candidates, strict=True):
        for vector, said in zip(asked_BD, predict(asked), strict=True):
            cosines = [float(torch.dot(vector, one) / (vector.norm() * one.norm())) for one in train_ND]
            best = sorted(range(30), key=lambda row: -cosines[row])[:count]
            votes = {
                name: sum(math.exp(cosines[row] / 0.07) for row in best if answers[row] == name)
                for name in "012"
            }
            assert said == max(votes, key=lambda name: votes[name])


def test_neighbours_of_two_sets_are_not_mixed_up() -> None:
    train = striped(20, 0)
    (predict, *_) = neighbours.voters(
        train, train.column("label"), lambda rows: rows.inputs["pixels"].flatten(1).float()
    )
    assert predict(train) == train.column("label")
    assert len(predict(striped(7, 1))) == 7
    assert predict(train) == train.column("label")


@pytest.mark.parametrize("channels", [1, 3])
def test_histograms_are_those_of_scikit_image(channels: int) -> None:
    feature = pytest.importorskip("skimage.feature")
    pixels = striped(4, 0).inputs["pixels"][:, :channels]
    mine = hog(pixels, cell=4)
    for row, picture in enumerate(pixels.permute(0, 2, 3, 1).double().numpy()):
        theirs = feature.hog(
            picture if channels == 3 else picture[..., 0], orientations=9, pixels_per_cell=(4, 4),
            cells_per_block=(2, 2), block_norm="L2-Hys", channel_axis=-1 if channels == 3 else None,
        )  # fmt: skip
        np.testing.assert_allclose(mine[row], theirs, atol=2e-4)


def test_pictures_have_four_floors_of_which_gradients_tell_stripes_apart() -> None:
    train, test = striped(40, 0), striped(60, 1)
    found = floors.of("image", "classification", CLASSIFICATION)
    assert list(found) == ["majority", "pixel_knn", "pixel_lr", "hog"]
    scores = {}
    for name, candidates in found.items():
        chosen, _ = protocol.choose(CLASSIFICATION, candidates(train, []), train)
        scores[name] = protocol.read_test(CLASSIFICATION, chosen, test)[1]["accuracy"]
    assert scores["majority"] == 0.5
    assert scores["hog"] > 0.95


def test_every_floor_of_pictures_survives_a_draw_of_one_class() -> None:
    rows = striped(10, 0).take([0, 2, 4])
    for name, candidates in floors.of("image", "classification", CLASSIFICATION).items():
        chosen, _ = protocol.choose(CLASSIFICATION, candidates(rows, []), rows)
        assert chosen(rows) == ["lying"] * 3, name


def test_pieces_of_many_pictures_give_the_numbers_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = striped(9, 0)
    whole = picture_floors._hog(rows)
    monkeypatch.setattr(picture_floors, "PIXELS_AT_ONCE", 2 * 16 * 16)
    assert torch.equal(picture_floors._hog(rows), whole)


def test_pictures_are_answered_in_parts_that_memory_holds(tmp_path: Path) -> None:
    sizes: list[int] = []
    rows = Rows(striped(300, 0).records, {"pixels": torch.zeros(300, 3, 64, 64, dtype=torch.uint8)})

    def ask(model: object, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        sizes.append(len(batch["pixels"]))
        return batch["pixels"]

    from tasks.downstream.rows import answers

    encoder = heads.encoder(encoder_folder(tmp_path / "e", "vit"), pretrained=True, seed=0)
    found = answers(encoder, rows.inputs, "float32", lambda outputs, batch: list(outputs), ask)
    assert len(found) == 300
    assert sizes == [128, 128, 44]


@pytest.mark.parametrize(("architecture", "attention"), [("vit", PRODUCTS), ("resnet", None)])
def test_vision_transformers_attend_by_products_while_they_answer(
    tmp_path: Path, architecture: str, attention: str | None
) -> None:
    model = heads.encoder(encoder_folder(tmp_path / "e", architecture), pretrained=True, seed=0)
    before = model.config._attn_implementation
    rows.use_fast_attention(model, striped(4, 0).inputs, torch.device("cpu"))
    assert model.config._attn_implementation == (attention or before)
