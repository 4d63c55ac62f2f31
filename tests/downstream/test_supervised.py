from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from torch import Tensor

from models import heads
from tasks.downstream import jobs, kind, protocol, results, rows, supervised
from tasks.downstream.jobs import Arm
from tasks.downstream.rows import Rows, Supervision
from tasks.engine import compute
from tasks.errors import InputError
from tests.downstream.supervised_sets import MAKERS, QUICK, classified, encoder_folder, job, stored


def bias(model: transformers.PreTrainedModel) -> Tensor:
    return dict(model.named_parameters())["classifier.bias"]


def fitted(
    tmp_path: Path, architecture: str, kind_name: str, folder: str = "run"
) -> tuple[Rows, list[str], object]:
    made, test = MAKERS[kind_name](40, 0), MAKERS[kind_name](30, 1)
    kind_module = kind(kind_name)
    labels = kind_module.labels(made.records)
    source = encoder_folder(tmp_path / architecture, architecture)
    model = heads.build(kind_module.HEADS["text"], source, labels, pretrained=True, padding=0, seed=0)
    settings = dataclasses.replace(QUICK, steps=120, max_epochs=60)
    fitted = supervised.fit(
        kind_module, model, made, test, labels, settings, seed=0, folder=tmp_path / folder
    )
    return test, fitted.predict(test), model


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_classifier_learns_and_its_folder_reloads_to_the_same_logits(
    tmp_path: Path, architecture: str
) -> None:
    test, predictions, model = fitted(tmp_path, architecture, "classification")
    assert kind("classification").score(test, predictions)["accuracy"] > 0.8
    assert isinstance(model, transformers.PreTrainedModel)
    model.save_pretrained(tmp_path / "saved")
    reloaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    reloaded.set_attn_implementation("eager")
    model.set_attn_implementation("eager")
    inputs = dict(test.inputs)
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    assert reloaded.config.id2label == {0: "high", 1: "low"}
    assert reloaded.config.label2id == {"high": 0, "low": 1}
    named = [reloaded.config.id2label[int(i)] for i in reloaded(**inputs).logits.argmax(-1)]
    assert named == predictions


def test_padding_does_not_change_what_a_causal_classifier_says(tmp_path: Path) -> None:
    test, _, model = fitted(tmp_path, "gpt2", "classification")
    assert isinstance(model, transformers.PreTrainedModel)
    row = test.take([int(rows.lengths(test.inputs).argmin())])
    with torch.no_grad():
        padded = model(**row.inputs).logits
        bare = model(**rows.trim(row.inputs)).logits
    torch.testing.assert_close(padded, bare)


@pytest.mark.parametrize(
    ("kind_name", "metric", "least"),
    [("token_classification", "entity_f1", 0.6), ("question_answering", "f1", 0.7)],
)
def test_taggers_and_readers_learn(tmp_path: Path, kind_name: str, metric: str, least: float) -> None:
    test, predictions, _ = fitted(tmp_path, "bert", kind_name)
    assert kind(kind_name).score(test, predictions)[metric] > least


def test_training_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    model = heads.build(
        "AutoModelForSequenceClassification", encoder_folder(tmp_path / "e"), ["a", "b"],
        pretrained=True, padding=0, seed=0,
    )  # fmt: skip
    stopping = supervised.EarlyStopping(tmp_path / "stop", "f1", patience=2)
    over = []
    for step, score in enumerate((0.5, 0.7, 0.7, 0.6), start=1):
        bias(model).data.fill_(float(step))
        stopping.look(step, {"f1": score}, model)
        over.append(stopping.is_over())
    stopping.restore(model)
    assert over == [False, False, False, True]
    assert bias(model).tolist() == [2.0, 2.0]


def test_looks_after_the_step_of_a_resumed_run_are_forgotten(tmp_path: Path) -> None:
    model = heads.build(
        "AutoModelForSequenceClassification", encoder_folder(tmp_path / "e"), ["a", "b"],
        pretrained=True, padding=0, seed=0,
    )  # fmt: skip
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.6)):
        supervised.EarlyStopping(tmp_path / "stop", "f1", 2).look(step, {"f1": score}, model)
    resumed = supervised.EarlyStopping(tmp_path / "stop", "f1", 2)
    resumed.look(2, {"f1": 0.9}, model)
    assert [(step, scores["f1"]) for step, scores in resumed.looks] == [(1, 0.5), (2, 0.9)]


def test_steps_follow_the_labels_and_are_capped() -> None:
    few = supervised.schedule(dataclasses.replace(QUICK, steps=1000, max_epochs=20), 5)
    assert (few.batch_size, few.steps) == (5, 20)
    many = supervised.schedule(dataclasses.replace(QUICK, steps=100, max_epochs=20), 80)
    assert (many.batch_size, many.steps, many.evaluate_every) == (8, 100, 20)


def test_more_compute_is_as_many_steps_more_as_it_pays_for(tmp_path: Path) -> None:
    made = classified(16, 0)
    source = encoder_folder(tmp_path / "encoder")
    model = heads.build("AutoModelForSequenceClassification", source, ["high", "low"], pretrained=False,
                        padding=0, seed=0)  # fmt: skip
    batches = Supervision(made.inputs, kind("classification").targets(made, ["high", "low"]), seed=0)
    cost = compute.per_sample(heads.Supervised(model), batches)
    fitted = supervised.fit(
        kind("classification"), model, made, made, ["high", "low"], dataclasses.replace(QUICK, steps=4), seed=0,
        folder=tmp_path / "run", more_flops=cost * QUICK.batch_size * 6,
    )  # fmt: skip
    assert fitted.steps == 4 + 6
    looks = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert looks[-1][0] == 10


def test_each_epoch_sees_every_row_once_in_its_own_order() -> None:
    made = classified(10, 0)
    batches = Supervision(made.inputs, {"labels": torch.arange(10)}, seed=3)
    first, second = (batches.batch(range(at, at + 10))["labels"].tolist() for at in (0, 10))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_batches_are_cut_to_their_longest_row() -> None:
    made = classified(10, 0)
    sizes = rows.lengths(made.inputs)
    batch = Supervision(made.inputs, {}, seed=0).batch([0, 1])
    assert batch["input_ids"].shape[1] == int(rows.lengths(batch).max()) <= int(sizes.max())


def test_answers_come_in_the_rows_order(tmp_path: Path) -> None:
    made = classified(20, 0)
    encoder = heads.encoder(encoder_folder(tmp_path / "e"), pretrained=True, seed=0)

    def read(outputs: object, batch: dict[str, Tensor]) -> list[int]:
        return batch["input_ids"][:, 0].tolist()

    assert rows.answers(encoder, made.inputs, "float32", read) == made.inputs["input_ids"][:, 0].tolist()


def test_a_probe_leaves_the_encoder_as_it_was_and_beats_chance(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "e")
    work = job(
        stored(tmp_path / "rows"),
        Arm("pretrained", source, True),
        "probe",
        tmp_path / "job",
        embeds=True,
        budgets=("all",),
    )
    before = protocol.weights_hash(heads.encoder(source, pretrained=True, seed=0))
    jobs.execute(work)
    (outcome,) = work.outcomes()
    assert protocol.weights_hash(heads.encoder(source, pretrained=True, seed=0)) == before
    assert outcome.test["accuracy"] > 0.6
    assert len(outcome.predictions) == 30
    assert (work.folder / "vectors.safetensors").exists()


@pytest.mark.parametrize("kind_name", ["token_classification", "question_answering"])
@pytest.mark.parametrize("method", ["probe", "floor"])
def test_every_kind_has_probes_and_floors(tmp_path: Path, kind_name: str, method: str) -> None:
    arm = None if method == "floor" else Arm("scratch", encoder_folder(tmp_path / "e"), False)
    work = job(
        stored(tmp_path / "rows", kind_name), arm, method, tmp_path / "job", budgets=(24, "all"), seeds=(0, 1)
    )
    jobs.execute(work)
    outcomes = work.outcomes()
    budgets = [outcome.budget for outcome in outcomes if outcome.arm == outcomes[0].arm]
    assert budgets == ["24", "24", "all"]  # no draw at "all": one seed says it all
    assert all(0 <= value <= 1 for outcome in outcomes for value in outcome.test.values())


def test_arms_of_one_seed_get_the_same_labels_and_other_initial_weights(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "e")
    head = kind("classification").HEADS["text"]
    built = {
        (pretrained, seed): heads.build(head, source, ["a", "b"], pretrained=pretrained, padding=0, seed=seed)
        for pretrained in (True, False) for seed in (0, 1)
    }  # fmt: skip
    embeddings = {key: next(model.get_input_embeddings().parameters()) for key, model in built.items()}
    assert torch.equal(embeddings[True, 0], embeddings[True, 1])
    assert not torch.equal(embeddings[False, 0], embeddings[False, 1])
    assert not torch.equal(embeddings[True, 0], embeddings[False, 0])


def test_a_finished_job_leaves_its_outcomes_and_no_checkpoints(tmp_path: Path) -> None:
    arm = Arm("pretrained", encoder_folder(tmp_path / "e"), True)
    work = job(stored(tmp_path / "rows"), arm, "finetune", tmp_path / "job", keeps_model=True)
    jobs.execute(work)
    assert json.loads(work.done.read_text())[0]["method"] == "finetune"
    assert sorted(path.name for path in work.folder.iterdir()) == ["model", "outcomes.json"]


def test_a_job_that_memory_does_not_hold_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    monkeypatch.setattr(jobs, "_floors", refuse)
    work = job(stored(tmp_path / "rows"), None, "floor", tmp_path / "job")
    with pytest.raises(InputError, match=r"UNMASK_PROCESSES=1 .*finetune\.batch_size from 8"):
        jobs.execute(work)
    assert not work.done.exists()


@pytest.mark.parametrize("method", ["floor", "probe", "finetune"])
def test_labels_of_test_rows_change_nothing_but_the_test_score(tmp_path: Path, method: str) -> None:
    task, found = stored(tmp_path / "rows"), []
    arm = None if method == "floor" else Arm("pretrained", encoder_folder(tmp_path / "e"), True)
    settings = dataclasses.replace(QUICK, methods=("probe", "knn", "finetune"))
    for name in ("as they are", "exchanged"):
        work = job(task, arm, method, tmp_path / name, budgets=(24,), settings=settings)
        jobs.execute(work)
        found.append(work.outcomes())
        table = pq.read_table(task.folder / "test.parquet")
        exchanged = [
            dict(zip(task.labels, reversed(task.labels), strict=True))[one]
            for one in table["label"].to_pylist()
        ]
        place = table.column_names.index("label")
        pq.write_table(table.set_column(place, "label", pa.array(exchanged)), task.folder / "test.parquet")
        jobs._rows.cache_clear()
    for one, two in zip(*found, strict=True):
        assert (one.validation, one.predictions, one.steps) == (two.validation, two.predictions, two.steps)
    assert [one.test for one in found[0]] != [two.test for two in found[1]]


@pytest.mark.parametrize(
    ("method", "file"), [("probe", "vectors.safetensors"), ("finetune", "model/model.safetensors")]
)
def test_scratch_takes_the_architecture_and_no_weight(tmp_path: Path, method: str, file: str) -> None:
    task, made = stored(tmp_path / "rows"), {}
    for pretrained in (False, True):
        for seed in (0, 7):
            source = encoder_folder(tmp_path / f"e{seed}", seed=seed)
            keeps = {"embeds": method == "probe", "keeps_model": method == "finetune"}
            work = job(task, Arm("a", source, pretrained), method, tmp_path / f"{pretrained}{seed}", **keeps)
            jobs.execute(work)
            made[pretrained, seed] = (work.folder / file).read_bytes()
    assert made[False, 0] == made[False, 7]
    assert made[True, 0] != made[True, 7]


def test_every_draw_is_that_of_its_budget_and_seed(tmp_path: Path) -> None:
    task = stored(tmp_path / "rows")
    train = Rows.load(task.folder / "train")
    work = job(task, None, "floor", tmp_path / "job", budgets=(12, 24), seeds=(0, 1))
    seen = []
    for budget, seed, drawn in jobs._draws(work, train):
        wanted = protocol.draw(train.ids, train.column("label"), budget, seed)
        assert drawn.ids == [train.ids[row] for row in wanted]
        seen.append((budget, seed))
    assert seen == [(12, 0), (12, 1), (24, 0), (24, 1)]


def test_the_model_that_is_best_on_validation_is_kept_whatever_the_test_says(tmp_path: Path) -> None:
    task, made = stored(tmp_path / "rows"), []
    for name, validation, test in (("a", 0.9, 0.1), ("b", 0.5, 0.99)):
        work = job(task, Arm(name, tmp_path, True), "finetune", tmp_path / name, keeps_model=True)
        (work.folder / "model").mkdir(parents=True)
        scored = protocol.Outcome(name, "finetune", "12", 0, {"accuracy": validation}, {"accuracy": test}, [])
        work.done.write_text(json.dumps([scored.plain()]))
        made.append(work)
    best = results.BestModel(made)
    for work in reversed(made):
        best.offer(work)
    assert best.jobs() == {"toy": made[0]}
    assert not (tmp_path / "b" / "model").exists()
