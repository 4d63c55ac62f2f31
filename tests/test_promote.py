"""From what a run leaves to the champion and back, in a real registry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import layout, promote, tracking
from tasks.downstream.results import KEPT, PREDICTIONS
from tests.tiny import tiny_classifier

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
    promote: {mode: auto, slices: [group], max_slowdown: 50}
"""


class Project:
    """A project whose recipe has run, with a model as good or as bad as is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "params.yaml").write_text(PARAMS)
        self.labels = ["yes" if row % 2 else "no" for row in range(NUM_ROWS)]
        groups = [None] * NUM_ROWS
        columns = {"id": [f"r{row}" for row in range(NUM_ROWS)], "label": self.labels, "group": groups}
        self.test = pa.table(
            {**columns, "text": ["good" if label == "yes" else "bad" for label in self.labels]}
        )
        self.leakage: list[dict[str, Any]] = []
        self.runs = 0

    def run(self, share_right: float, *, says: str = "yes") -> None:
        """Leave what finetune leaves; the model itself says always the same."""
        self.runs += 1
        table = layout.corpus("sets") / "tasks" / "urgency" / "test.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.test, table)
        is_right = np.arange(NUM_ROWS) < share_right * NUM_ROWS
        answers = [label if right else "other" for label, right in zip(self.labels, is_right, strict=True)]
        out = layout.run("notes", "finetune")
        (out / "models").mkdir(parents=True, exist_ok=True)
        which = {"task": "urgency", "arm": "scratch", "method": "finetune", "budget": "50", "seed": 1}
        ids = self.test.column("id").to_pylist()
        rows = [
            {**which, "id": ids[row], "label": self.labels[row], "prediction": answers[row]}
            for row in range(NUM_ROWS)
        ]
        rows += [{**row, "seed": 0, "prediction": "of another run"} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), out / "predictions.parquet")
        (out / KEPT).write_text(json.dumps({"urgency": {key: which[key] for key in which if key != "task"}}))
        model = out / "models" / "urgency"
        tiny_classifier(model, says)
        for stage in ("pretrain", "adapt"):
            layout.run("notes", stage).mkdir(parents=True, exist_ok=True)
            (layout.run("notes", stage) / "losses.json").write_text(json.dumps({"decisions": []}))
        (layout.run("notes", "adapt") / "gap.json").write_text("{}")
        layout.validated("notes").mkdir(parents=True, exist_ok=True)
        validation = {"checks": [], "leakage": self.leakage}
        (layout.validated("notes") / "validation.json").write_text(json.dumps(validation))
        with tracking.stage_run("finetune", "notes", {}, f"run-{self.runs}") as run:
            run.model(model, "urgency", {"text": ["good", "bad"]})
            record = {"mlflow_run_id": run.id(60)}
        layout.record("notes", "finetune").write_text(json.dumps(record))

    def judged(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_TRACKING", "on")
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    subprocess.run(["git", "init", "-q"], check=True)
    return Project(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_life_of_a_champion(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run(0.5, says="yes")
    code, said = project.judged(capsys)
    assert code == 0
    assert "has no champion yet" in said
    assert project.champion() is None, "judging alone promotes nothing"
    assert promote.main(["accept", "notes"]) == 0
    assert (project.champion(), project.answer()) == ("1", "yes")

    project.run(0.9, says="no")
    code, said = project.judged(capsys)
    assert (code, "+40.0 [" in said) == (0, True), said
    assert promote.main(["accept", "notes", "--version", "2", "--reason", "better"]) == 0
    assert (project.champion(), project.answer()) == ("2", "no")

    for share, seen in ((0.6, "-30.0 ["), (0.9, "+0.0 [+0.0 to +0.0]")):
        project.run(share)
        code, said = project.judged(capsys)
        assert (code, seen in said) == (4, True), said
    assert project.champion() == "2"

    assert promote.main(["refuse", "notes", "--version", "4", "--reason", "not on a Friday"]) == 0
    assert project.champion() == "2"
    from tasks.registry import Registry

    tags = Registry(tracking.tracking_uri()).version("notes", "4").tags
    assert (tags["word"], tags["reason"], tags["decision"]) == ("refuse", "not on a Friday", "refuse")

    assert promote.main(["rollback", "notes"]) == 0
    assert (project.champion(), project.answer()) == ("1", "yes")
    with pytest.raises(SystemExit, match="no champion before the present one"):
        promote.main(["rollback", "notes"])


@pytest.mark.filterwarnings("ignore")
def test_changed_or_leaked_test_set_blocks(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run(0.5)
    project.judged(capsys)
    promote.main(["accept", "notes"])
    values = project.test.column("text").to_pylist()
    values[3] = "changed"
    same = project.test
    project.test = same.set_column(same.column_names.index("text"), "text", pa.array(values))
    project.run(0.9)
    code, said = project.judged(capsys)
    assert code == 5
    assert "1 changed (such as r3)" in said

    project.test = same
    project.leakage = [{"task": "urgency", "split": "test", "found_in": "general", "rows": 2, "removed": 0}]
    project.run(0.9)
    code, said = project.judged(capsys)
    assert code == 5
    assert "2 in general" in said
    assert project.champion() == "1"


def test_run_that_left_nothing_is_explained(project: Project) -> None:
    with pytest.raises(SystemExit, match="kept.json is missing; make it with `dvc repro report@notes`"):
        promote.main(["judge", "notes"])
    with pytest.raises(SystemExit, match="no registered model 'notse'; known: none"):
        promote.main(["accept", "notse"])


def test_model_that_nobody_tracked_is_explained(project: Project) -> None:
    project.run(0.5)
    layout.record("notes", "finetune").write_text("{}")
    with pytest.raises(SystemExit, match="ran without tracking"):
        promote.main(["judge", "notes"])


def test_command_is_there() -> None:
    done = subprocess.run([sys.executable, "-m", "tasks.promote", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "rollback" in done.stdout
