"""A project whose recipe has run, up to a model that can be promoted in a real registry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import layout, tracking

NUM_ROWS = 200
PARAMS = """
corpora:
  none: {modality: text}
  sets: {modality: text, tasks: {urgency: {from: unused}}}
encoders: {tiny: {architecture: bert}}
recipes:
  notes:
    modality: text
    general: none
    domain: none
    tasks: sets
    encoder: tiny
    validate: {}
    prepare: {}
    pretrain: {objective: {name: masked_lm}, steps: 0}
    adapt: {steps: 0}
    finetune: {}
    report: {}
    promote: {mode: auto, slices: [label], max_slowdown: 50}
"""


LABELS = ["yes" if row < 0.7 * NUM_ROWS else "no" for row in range(NUM_ROWS)]


def labelled_rows() -> pa.Table:
    """Rows of which 70 % are labelled "yes"."""
    columns = {"id": [f"r{row}" for row in range(NUM_ROWS)], "label": LABELS}
    return pa.table({**columns, "text": ["good"] * NUM_ROWS})


def leave_corpus(test: pa.Table) -> None:
    """What ingest leaves of the labelled set."""
    table = layout.corpus("sets") / "tasks" / "urgency" / "test.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(test, table)


def leave(test: pa.Table, says: str, key: str, leakage: Sequence[dict[str, Any]] = ()) -> None:
    """What the stages of `notes` leave of a model that says always the same; pretraining's losses apart."""
    from tasks.downstream.results import KEPT, PREDICTIONS  # these load transformers, which takes seconds
    from tests.tiny import tiny_classifier

    out = layout.run("notes", "finetune")
    (out / "models").mkdir(parents=True, exist_ok=True)
    which = {"task": "urgency", "arm": "scratch", "method": "finetune", "budget": "50", "seed": 1}
    pairs = zip(test.column("id").to_pylist(), LABELS, strict=False)
    rows = [{**which, "id": row, "label": label, "prediction": says} for row, label in pairs]
    rows += [{**row, "seed": 0, "prediction": "of another run"} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), out / "predictions.parquet")
    (out / KEPT).write_text(json.dumps({"urgency": {key: which[key] for key in which if key != "task"}}))
    model, adapted = out / "models" / "urgency", layout.run("notes", "adapt")
    tiny_classifier(model, says)
    adapted.mkdir(parents=True, exist_ok=True)
    (adapted / "losses.json").write_text(json.dumps({"decisions": []}))
    (adapted / "gap.json").write_text("{}")
    layout.validated("notes").mkdir(parents=True, exist_ok=True)
    validation = {"checks": [], "leakage": list(leakage)}
    (layout.validated("notes") / "validation.json").write_text(json.dumps(validation))
    with tracking.stage_run("finetune", "notes", {}, key) as run:
        run.model(model, "urgency", {"text": ["good", "bad"]})
        record = {"mlflow_run_id": run.id(60)}
    layout.record("notes", "finetune").write_text(json.dumps(record))


class Project:
    """A project whose recipe has run: "yes" is right in 140 of 200 rows, and the model says always the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "params.yaml").write_text(PARAMS)
        self.test = labelled_rows()
        self.leakage: list[dict[str, Any]] = []
        self.runs = 0

    def run(self, says: str) -> None:
        """Leave what a run leaves."""
        self.runs += 1
        pretrained = layout.run("notes", "pretrain")
        pretrained.mkdir(parents=True, exist_ok=True)
        (pretrained / "losses.json").write_text(json.dumps({"decisions": []}))
        leave_corpus(self.test)
        leave(self.test, says, f"run-{self.runs}", self.leakage)

    def judged(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        from tasks import promote

        code = promote.main(["judge", "notes"])
        return code, capsys.readouterr().out

    def champion(self) -> str | None:
        from tasks.registry import Registry

        found = Registry(tracking.tracking_uri()).aliased("notes", "champion")
        return found.number if found else None

    def answer(self) -> str:
        """What the served champion says of a text."""
        import mlflow

        mlflow.set_tracking_uri(tracking.tracking_uri())
        return str(mlflow.pyfunc.load_model("models:/notes@champion").predict({"text": ["good"]})["label"][0])


def begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A new project in a folder, which is the working one from then on, with a registry of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNMASK_TRACKING", "on")
    monkeypatch.setenv("UNMASK_SCRATCH", str(folder / "scratch"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    subprocess.run(["git", "init", "-q"], check=True)
    return Project(folder)
