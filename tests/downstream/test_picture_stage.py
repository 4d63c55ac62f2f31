"""Stages `prepare` and `finetune` over pictures: every arm, method and floor, and a model that opens."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from PIL import Image

from tasks import finetune, layout, params, prepare, stage
from tasks.downstream import intake
from tasks.downstream.rows import Rows
from tests.downstream.picture_sets import encoder_folder, striped

PARAMS = """
seed: 3
corpora:
  none: {modality: text}
  pictures: {modality: image, from: unused, tasks: {stripes: {from: unused}}}
encoders:
  tiny: {architecture: vit}
recipes:
  toy:
    modality: image
    general: pictures
    domain: none
    tasks: pictures
    encoder: tiny
    validate: {}
    prepare: {stored_size: 16, image_size: 16, augment: cifar32}
    pretrain: {steps: 1, objective: {name: OBJECTIVE}}
    adapt: {steps: 0}
    finetune: {steps: 2, batch_size: 8, label_budgets: [8], num_seeds: 2, methods: [probe, knn, finetune]}
    report: {}
"""


def records(count: int, seed: int, *columns: str) -> pa.Table:
    rows = striped(count, seed, f"{seed}-")
    contents = []
    for pixels in rows.inputs["pixels"].permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        contents.append(file.getvalue())
    splits = pa.array(["heldout" if row % 4 == 0 else "train" for row in range(count)])
    table = rows.records.append_column("picture", pa.array(contents, pa.binary()))
    return table.append_column("split", splits).select(["id", "picture", *columns])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pictures have been prepared and learnt from."""
    from models import objectives

    root = tmp_path_factory.mktemp("done")
    name = "simclr" if "simclr" in objectives.CATALOG else "masked_lm"
    (root / "params.yaml").write_text(PARAMS.replace("OBJECTIVE", name))
    corpus = root / layout.corpus("pictures")
    (corpus / "tasks" / "stripes").mkdir(parents=True)
    pq.write_table(records(20, 9, "split"), corpus / "records-00000.parquet")
    for seed, (split, count) in enumerate({"train": 20, "validation": 10, "test": 12}.items()):
        pq.write_table(records(count, seed, "label"), corpus / "tasks" / "stripes" / f"{split}.parquet")
    validated = root / layout.validated("toy")
    validated.mkdir(parents=True)
    schema = pa.schema([(name, pa.string()) for name in ("slot", "id", "reason")])
    pq.write_table(schema.empty_table(), validated / "exclusions.parquet")
    recipe = params.load(root / "params.yaml").recipe("toy")
    prepare.prepare(recipe, {"general": corpus, "tasks": corpus}, {}, root / layout.prepared("toy"), seed=0)
    encoder_folder(root / layout.run("toy", "pretrain") / "model", "vit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("UNMASK_SCRATCH", str(root / "scratch"))
        patch.setenv("UNMASK_PROCESSES", "1")
        stage.execute("finetune", "toy", finetune.run, finetune.inputs, params.load())
    return root


def test_every_arm_method_and_floor_has_its_line(done: Path) -> None:
    lines = json.loads((done / layout.run("toy", "finetune") / "summary.json").read_text())
    floors = {(name, "floor") for name in ("majority", "pixel_knn", "pixel_lr", "hog")}
    trained = {(arm, how) for arm in ("scratch", "pretrained") for how in ("probe", "knn", "finetune")}
    assert {(line["arm"], line["method"]) for line in lines} == floors | trained
    assert {line["metric"] for line in lines} == {"accuracy", "macro_f1"}


def test_jobs_get_pixels_and_no_encoded_pictures(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    recipe = params.load().recipe("toy")
    task = intake.store(tmp_path / "rows", "stripes", "classification", "toy", recipe, (0, 1))
    for split in ("train", "validation", "test"):
        rows = Rows.load(task.folder / split)
        assert rows.records.column_names == ["id", "label"]
        stored = intake.read(recipe, "stripes", split, rows.ids)
        shown = [np.asarray(Image.open(io.BytesIO(content))) for content in stored["picture"].to_pylist()]
        assert np.array_equal(rows.inputs["pixels"].permute(0, 2, 3, 1).numpy(), np.stack(shown))


def test_the_model_of_a_task_opens_with_its_processor(done: Path) -> None:
    folder = done / layout.run("toy", "finetune") / "models" / "stripes"
    classify = transformers.pipeline("image-classification", model=str(folder), device="cpu")
    content = records(1, 5)["picture"][0].as_py()
    found = classify(Image.open(io.BytesIO(content)))
    assert {one["label"] for one in found} == {"lying", "standing"}


def test_the_kept_model_answers_when_it_is_served(done: Path) -> None:
    from tasks import serving

    folder = done / layout.run("toy", "finetune") / "models" / "stripes"
    assert serving.opens_anywhere(folder)
    pictures = [serving.example(content) for content in records(3, 5)["picture"].to_pylist()]
    answers = serving.Answerer(folder).predict({"picture": pictures})
    assert list(answers.columns) == ["label", "score"]
    assert set(answers["label"]) <= {"lying", "standing"}
