"""Readings of an encoder that trains: what they say, what they leave alone, and which rows they see."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.objectives import Objective
from models.text import attention
from tasks import adapt, layout, pretrain, stage
from tasks import params as configuration
from tasks.config import Config
from tasks.downstream import classification, features, neighbours, probe, readings
from tasks.downstream.protocol import weights_hash
from tasks.downstream.readings import Readings
from tasks.engine.events import Event, Probe
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
from tasks.errors import InputError
from tasks.journal import Run
from tasks.modalities.image.tensors.reading import Reader
from tests import tiny
from tests.downstream.picture_sets import IMAGES, striped
from tests.downstream.supervised_sets import classified
from tests.test_finetune import project

SETTINGS = TrainSettings(steps=9, batch_size=8, lr=1e-3, log_every=2, checkpoint_every=4, precision="float32")


class Heard(Run):
    """A journal that remembers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.said: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Any, step: int) -> None:
        self.said.append((step, dict(metrics)))


def made(name: str, architecture: str | None = None) -> tuple[Objective, Readings]:
    """An objective of the catalogue, and readings of it on rows of its modality."""
    objective = tiny.tiny_objective(name, architecture=architecture)
    is_picture = "images" in objective.reads
    rows = striped if is_picture else classified
    sets = {"toy": (rows(40, 0, "t"), rows(30, 1, "v"))}
    reader = Reader(IMAGES, None) if is_picture else None
    return objective, Readings(sets, reader, precision="float32", journal=Heard())


def trained(name: str, architecture: str | None, every: int) -> tuple[Objective, Any]:
    objective, read = made(name, architecture)
    attention.choose(objective, 1024, torch.device("cpu"))  # not what the short labelled rows ask for
    settings = dataclasses.replace(SETTINGS, ema_decay=0.9)
    history = train(
        objective, tiny.samples(objective), settings, seed=5, probe=Probe(every, read) if every else None
    )
    return objective, history


CASES = [("masked_lm", None), ("causal_lm", None), ("simclr", "resnet"), ("byol", "resnet"), ("dino", None)]


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_training_is_the_same_to_the_bit_with_readings_and_without(
    name: str, architecture: str | None
) -> None:
    alone, expected = trained(name, architecture, 0)
    watched, history = trained(name, architecture, 2)
    assert weights_hash(watched) == weights_hash(alone)  # running statistics, teachers and queues too
    assert history.train == expected.train
    assert [reading["step"] for reading in history.probes] == [0, 2, 4, 6, 8, 9]


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_a_reading_changes_neither_weights_nor_attention_nor_chance(
    name: str, architecture: str | None
) -> None:
    objective, read = made(name, architecture)
    attention.choose(objective, 1024, torch.device("cpu"))
    parts = [part for part in objective.modules() if hasattr(part, "set_attn_implementation")]

    def state() -> tuple[Any, ...]:
        chosen = [part.config._attn_implementation for part in parts]  # type: ignore[union-attr]
        chance = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
        return weights_hash(objective), chosen, chance, torch.get_num_threads()

    weights = weights_hash(objective)
    read(objective, 0)  # the first one also imports scikit-learn, which draws from `random`
    before = state()
    read(objective, 1)
    assert state() == before
    assert before[0] == weights


def test_a_reading_is_one_vote_of_twenty_and_one_probe() -> None:
    objective, read = made("masked_lm")
    train_rows, validation = read.sets["toy"]
    answers = features.read(
        objective.encoder, (train_rows, validation), kind="classification", reader=None,
        pooling="mean", precision="float32",
    )  # fmt: skip
    train_ND, asked_BD = (torch.stack([vector for _, vector in answer]) for answer in answers)
    right = np.array(classification.truth(validation.records))
    (model,) = probe.regressions(train_ND.numpy(), classification.truth(train_rows.records), (0.1,))
    known = {id(train_rows): train_ND, id(validation): asked_BD}
    labels = classification.truth(train_rows.records)
    votes = list(neighbours.voters(train_rows, labels, lambda rows: known[id(rows)]))[3]
    assert read(objective, 7) == {
        "knn.toy": pytest.approx((np.array(votes(validation)) == right).mean()),
        "probe.toy": pytest.approx((np.asarray(model.predict(asked_BD.numpy())) == right).mean()),
    }
    ((step, said),) = read.journal.said  # type: ignore[attr-defined]
    assert step == 7
    assert said.keys() == {"knn.toy", "probe.toy", "probe_seconds"}
    assert said["probe_seconds"] == read.seconds > 0


def test_neighbours_under_autocast_are_those_without() -> None:
    """The loop asks in bfloat16, in which a thousand cosines are but a few numbers."""
    draw = torch.Generator().manual_seed(0)
    train_ND = torch.nn.functional.normalize(torch.ones(50, 8) + 1e-3 * torch.randn(50, 8, generator=draw))
    label_N = torch.arange(50)
    plain = neighbours.nearest(train_ND, label_N, train_ND, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine_BK, label_BK = neighbours.nearest(train_ND, label_N, train_ND, 20)
        neighbours.votes(cosine_BK, label_BK, 20, 50)
    assert torch.equal(cosine_BK, plain[0])
    assert torch.equal(label_BK, plain[1])


class StoppedHere(Exception):
    pass


def stop_after(step: int) -> Any:
    def stop(event: Event) -> None:
        if event.step >= step:
            raise StoppedHere

    return stop


@pytest.mark.parametrize("last", [4, 7, 9])
def test_a_killed_run_has_the_readings_of_one_that_was_not(last: int, tmp_path: Path) -> None:
    _, expected = trained("simclr", "resnet", 2)
    settings = dataclasses.replace(SETTINGS, ema_decay=0.9)
    for callbacks in ([stop_after(last)], []):
        objective, read = made("simclr", "resnet")
        attention.choose(objective, 1024, torch.device("cpu"))
        arguments: dict[str, Any] = {
            "seed": 5, "checkpoints": tmp_path, "callbacks": callbacks, "probe": Probe(2, read),
        }  # fmt: skip
        if callbacks:
            with pytest.raises(StoppedHere):
                train(objective, tiny.samples(objective), settings, **arguments)
        else:
            history = train(objective, tiny.samples(objective), settings, **arguments)
    assert history.probes == expected.probes


def watched_project(root: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> Config:
    """A text project whose stages read the encoder every 2 of 4 steps."""
    project(root)
    params = root / "params.yaml"
    text = params.read_text().replace(
        "pretrain: {steps: 1,", f"pretrain: {{steps: 4, batch_size: 8, precision: float32{more},"
    )
    text = text.replace("adapt: {steps: 1}", f"adapt: {{steps: 4, batch_size: 8, precision: float32{more}}}")
    params.write_text(text)
    (root / layout.prepared("toy") / "manifest.json").write_text("{}")
    (root / layout.validated("toy") / "validation.json").write_text("{}")
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNMASK_SCRATCH", str(root / "scratch"))
    return configuration.load()


ON = ", probe_every: 2, probe_rows: 24"


def test_stages_leave_readings_and_the_models_of_stages_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: dict[str, list[bytes]] = {"": [], ON: []}
    for more, found in models.items():
        root = tmp_path / ("on" if more else "off")
        root.mkdir()
        config = watched_project(root, monkeypatch, more)
        if more:
            (layout.corpus("sets") / "tasks/living/test.parquet").unlink()  # nobody may ask for it
        for name, module in (("pretrain", pretrain), ("adapt", adapt)):
            stage.execute(name, "toy", module.run, module.inputs, config)
            folder = layout.run("toy", name)
            found.append((folder / "model" / "model.safetensors").read_bytes())
            probes = json.loads((folder / "losses.json").read_text())["probes"]
            assert [reading["step"] for reading in probes] == ([0, 2, 4] if more else [])
            assert all(reading.keys() == {"step", "knn.living", "probe.living"} for reading in probes)
    assert models[""] == models[ON]


def test_stages_name_the_labelled_rows_that_they_read_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, excluded = layout.corpus("sets") / "tasks/living", layout.validated("toy") / "exclusions.parquet"
    config = watched_project(tmp_path, monkeypatch, ON)
    for module in (pretrain, adapt):
        files = module.inputs("toy", config)[1]
        assert {sets / "train.parquet", sets / "validation.parquet", excluded} <= set(files)
        assert sets / "test.parquet" not in files
        assert len(files) == len(set(files))
    recipe = config.recipe("toy")
    off = dataclasses.replace(recipe, pretrain=dataclasses.replace(recipe.pretrain, probe_every=0))
    files = pretrain.inputs("toy", dataclasses.replace(config, recipes={"toy": off}))[1]
    assert list(files) == [layout.prepared("toy") / "manifest.json"]


def test_excluded_rows_are_left_out_and_classes_keep_their_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = watched_project(tmp_path, monkeypatch, "")
    most = dataclasses.replace(config.recipe("toy").pretrain, probe_every=1, probe_rows=1000)
    ((train_rows, validation),) = readings.of("toy", config, most, Run(None)).sets.values()
    assert (len(train_rows), len(validation)) == (39, 20)
    assert "0-0" not in train_rows.ids
    few = dataclasses.replace(most, probe_rows=12)
    ((train_rows, validation),) = readings.of("toy", config, few, Run(None)).sets.values()
    assert sorted(train_rows.column("label")) == ["animals"] * 6 + ["plants"] * 6
    assert len(validation) == 6
    assert len(train_rows.inputs["input_ids"]) == 12


def test_a_set_of_one_class_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = watched_project(tmp_path, monkeypatch, ON)
    file = layout.corpus("sets") / "tasks/living/train.parquet"
    pq.write_table(pq.read_table(file, filters=[("label", "==", "plants")]), file)
    with pytest.raises(InputError, match="'living': the training rows have one class only"):
        stage.execute("pretrain", "toy", pretrain.run, pretrain.inputs, config)
    assert not list((tmp_path / "scratch").rglob("step-*"))
