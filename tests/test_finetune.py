"""The stage as a whole: its files, the same bytes whatever happened on the way, and what it refuses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

from models import heads
from tasks import finetune, layout, params, prepare, stage
from tasks.config import Finetune
from tasks.downstream.jobs import Arm, Task
from tasks.errors import InputError
from tests.tiny import TINY, tiny_model

ROOT = Path(__file__).parents[1]
WORDS = {"animals": "cat dog cow hen fox owl", "plants": "oak elm fir ivy fern moss"}
PARAMS = """
seed: 3
corpora:
  none: {modality: text}
  general: {modality: text, from: unused}
  sets: {modality: text, tasks: {living: {from: unused}}}
encoders:
  tiny: {architecture: ARCHITECTURE, config: CONFIG}
recipes:
  toy:
    modality: text
    general: general
    domain: general
    tasks: sets
    encoder: tiny
    validate: {}
    prepare: {tokenizer: {kind: wordpiece, vocabulary_size: 60}, sequence_length: 16, task_length: 16}
    pretrain: {steps: 1, objective: {name: OBJECTIVE}}
    adapt: {steps: ADAPT}
    finetune: {steps: STEPS, batch_size: 8, lr: 5e-3, label_budgets: [8, 24], num_seeds: 2, log_every: 5}
    report: {}
"""


def sentences(count: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    labels = [("animals", "plants")[row % 2] for row in range(count)]
    texts = [" ".join(draw.choice([*WORDS[label].split(), "is", "a"], 6)) for label in labels]
    ids = [f"{seed}-{row}" for row in range(count)]
    return pa.table({"id": ids, "text": texts, "label": labels})


def project(root: Path, *, architecture: str = "bert", adapt: int = 1, steps: int = 60) -> Path:
    """A project in which every stage before this one has left its files."""
    objective = "masked_lm" if architecture == "bert" else "causal_lm"
    text = PARAMS.replace("ARCHITECTURE", architecture).replace("OBJECTIVE", objective)
    text = text.replace("CONFIG", json.dumps(TINY[architecture]))
    (root / "params.yaml").write_text(text.replace("ADAPT", str(adapt)).replace("STEPS", str(steps)))
    sets = root / layout.corpus("sets") / "tasks" / "living"
    sets.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 40, "validation": 20, "test": 24}.items()):
        pq.write_table(sentences(count, seed), sets / f"{split}.parquet")
    general = root / layout.corpus("general")
    general.mkdir(parents=True)
    splits = ["heldout" if row % 5 == 0 else "train" for row in range(40)]
    records = sentences(40, 9).append_column("split", pa.array(splits))
    pq.write_table(records, general / "records-00000.parquet")
    validated = root / layout.validated("toy")
    validated.mkdir(parents=True)
    schema = pa.schema([(name, pa.string()) for name in ("slot", "id", "reason")])
    excluded = [{"slot": "tasks/living/train", "id": "0-0", "reason": "leak"}]
    pq.write_table(pa.Table.from_pylist(excluded, schema), validated / "exclusions.parquet")
    recipe = params.load(root / "params.yaml").recipe("toy")
    prepared = root / layout.prepared("toy")
    prepare.prepare(recipe, {"general": general, "tasks": sets.parents[1]}, {}, prepared, seed=0)
    shutil.copytree(prepared / "general", prepared / "domain")
    vocabulary = transformers.AutoTokenizer.from_pretrained(prepared / "tokenizer")
    for seed, name in enumerate(("pretrain", "adapt")):
        auto = "AutoModelForMaskedLM" if architecture == "bert" else "AutoModelForCausalLM"
        model = tiny_model(auto, seed)
        model.resize_token_embeddings(len(vocabulary))
        heads.save(model, root / layout.run("toy", name) / "model")
        vocabulary.save_pretrained(root / layout.run("toy", name) / "model")
    return root


def execute(root: Path, monkeypatch: pytest.MonkeyPatch, processes: int = 1) -> stage.Outcome:
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNMASK_SCRATCH", str(root / "scratch"))
    monkeypatch.setenv("UNMASK_PROCESSES", str(processes))
    return stage.execute("finetune", "toy", finetune.run, finetune.inputs, params.load())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished stage of one project."""
    root = project(tmp_path_factory.mktemp("done"))
    with pytest.MonkeyPatch.context() as patch:
        execute(root, patch)
    return root


def results(root: Path, name: str) -> Any:
    return pq.read_table(root / layout.run("toy", "finetune") / f"{name}.parquet")


def test_results_have_every_arm_method_budget_seed_and_metric_once(done: Path) -> None:
    rows = results(done, "results").to_pylist()
    keys = [tuple(row[key] for key in ("arm", "method", "budget", "seed", "metric")) for row in rows]
    trained = [(arm, how) for how in ("finetune", "probe") for arm in ("scratch", "pretrained", "adapted")]
    floors = [("majority", "floor"), ("tfidf", "floor")]
    assert len(keys) == len(set(keys)) == len(trained + floors) * 2 * 2 * 2
    assert {key[:2] for key in keys} == {*trained, *floors}
    assert {key[3] for key in keys} == {3, 4}  # the project's seed and the next


def test_floors_can_be_left_to_another_recipe(tmp_path: Path) -> None:
    task = Task("living", "classification", "text", ("animals", "plants"), (8,), None, tmp_path)
    arms = [Arm("pretrained", tmp_path / "model", True)]
    for measured in (True, False):
        jobs = finetune.grid([task], arms, Finetune(floors=measured), (0,), tmp_path)
        assert {"probe", "finetune"} < {"floor", *(job.method for job in jobs)}
        assert ("floor" in {job.method for job in jobs}) is measured


def test_predictions_and_embeddings_cover_the_test_rows(done: Path) -> None:
    predictions, embeddings = results(done, "predictions"), results(done, "embeddings")
    runs = {tuple(row[key] for key in ("arm", "method", "budget", "seed")) for row in predictions.to_pylist()}
    assert predictions.num_rows == len(runs) * 24
    assert embeddings.column("id").to_pylist() == sentences(24, 2).column("id").to_pylist()
    assert {len(vector) for vector in embeddings.column("vector").to_pylist()} == {
        TINY["bert"]["hidden_size"]
    }


def test_the_summary_is_that_of_the_predictions(done: Path) -> None:
    predictions = results(done, "predictions").to_pandas()
    lines = json.loads((done / layout.run("toy", "finetune") / "summary.json").read_text())
    for line in lines:
        if line["metric"] != "accuracy":
            continue
        mine = predictions[(predictions.arm == line["arm"]) & (predictions.method == line["method"])]
        mine = mine[mine.budget == line["budget"]]
        assert line["mean"] == pytest.approx((mine.label == mine.prediction).mean())
        assert line["low"] <= line["mean"] <= line["high"]


def test_words_that_tell_the_classes_apart_are_learnt(done: Path) -> None:
    metrics = json.loads((done / layout.metrics("toy", "finetune")).read_text())
    assert metrics["living.adapted.finetune.24.accuracy"] > 0.8
    assert metrics["living.majority.floor.24.accuracy"] == 0.5


def test_the_model_of_a_task_opens_with_its_tokenizer_and_names_its_labels(done: Path) -> None:
    folder = done / layout.run("toy", "finetune") / "models" / "living"
    classify = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    assert [found["label"] for found in classify(["cat dog cow", "oak elm fir"])] == ["animals", "plants"]


def test_excluded_rows_are_never_trained_on(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.downstream import intake

    monkeypatch.chdir(done)
    recipe = params.load().recipe("toy")
    task = intake.store(done / "looked-at", "living", "classification", "toy", recipe, tuple(range(20)))
    assert "0-0" not in pq.read_table(task.folder / "train.parquet").column("id").to_pylist()


def outcomes(folder: Path) -> list[Path]:
    """What finished runs have written (`os.walk`, as folders come and go while a stage works)."""
    return [Path(at) / "outcomes.json" for at, _, names in os.walk(folder) if "outcomes.json" in names]


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_stopped_midway_in_two_processes_ends_like_one_that_was_not_in_one(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: signal.Signals
) -> None:
    project(tmp_path)
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("UNMASK_PROCESSES", "2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.finetune", "toy"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while len(finished := outcomes(tmp_path / "scratch" / "checkpoints")) < 3:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal_number)
        code = process.wait(30)
    assert code == (143 if signal_number == signal.SIGTERM else -signal.SIGKILL), (
        tmp_path / "log"
    ).read_text()
    before = {path: path.stat().st_mtime_ns for path in finished}
    seen: dict[Path, int] = {}
    publish = finetune._finish_models

    def look(*given: Any) -> None:
        seen.update({path: path.stat().st_mtime_ns for path in before})
        publish(*given)

    monkeypatch.setattr(finetune, "_finish_models", look)
    execute(tmp_path, monkeypatch)
    assert seen == before  # finished runs were not done again
    expected = contents(done / layout.run("toy", "finetune"))
    assert contents(tmp_path / layout.run("toy", "finetune")) == expected


def test_arms_that_equal_another_are_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project(tmp_path, adapt=0)
    monkeypatch.chdir(tmp_path)
    loaded = params.load()
    assert [arm for arm, _ in finetune._arms("toy", loaded.recipe("toy"), loaded)] == [
        "scratch",
        "pretrained",
    ]
    monkeypatch.setattr("tasks.downstream.pool.run_all", lambda jobs, count: (_ for _ in ()).throw(KeyError))
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError):
        execute(tmp_path, monkeypatch)
    assert "arm adapted is left out: adapt.steps is 0" in caplog.text


def test_a_causal_model_is_fine_tuned_and_writes_perplexity_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, architecture="gpt2", steps=2)
    execute(tmp_path, monkeypatch)
    out = tmp_path / layout.run("toy", "finetune")
    made = json.loads((out / "samples.json").read_text())
    assert {(line["arm"], line["slot"]) for line in made["perplexity"]} == {
        (arm, slot) for arm in ("pretrained", "adapted") for slot in ("general", "domain")
    }
    assert all(line["perplexity"] > 1 and line["bits_per_character"] > 0 for line in made["perplexity"])
    assert len(made["samples"]) == 6
    assert all(sample["prompt"] for sample in made["samples"])


@pytest.mark.parametrize(
    ("split", "label", "message"),
    [
        ("train", "animals", "one class only \\(animals\\)"),
        ("test", "fungi", "test rows have labels that no training row has: fungi"),
    ],
)
def test_sets_that_cannot_be_learnt_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, label: str, message: str
) -> None:
    project(tmp_path)
    path = tmp_path / layout.corpus("sets") / "tasks" / "living" / f"{split}.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "label", pa.array([label] * table.num_rows)), path)
    with pytest.raises(InputError, match=message):
        execute(tmp_path, monkeypatch)


def test_a_missing_model_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path)
    shutil.rmtree(tmp_path / layout.run("toy", "adapt"))
    with pytest.raises(InputError, match=r"adapt/model/config.json is missing.*dvc repro"):
        execute(tmp_path, monkeypatch)
