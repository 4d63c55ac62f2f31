"""From what a run leaves to the champion and back, in a real registry."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

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
    promote: {mode: auto, slices: [label], max_slowdown: 50}
"""


class Project:
    """A project whose recipe has run: "yes" is right in 140 of 200 rows, and the model says always the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "params.yaml").write_text(PARAMS)
        self.labels = ["yes" if row < 0.7 * NUM_ROWS else "no" for row in range(NUM_ROWS)]
        columns = {"id": [f"r{row}" for row in range(NUM_ROWS)], "label": self.labels}
        self.test = pa.table({**columns, "text": ["good"] * NUM_ROWS})
        self.leakage: list[dict[str, Any]] = []
        self.runs = 0

    def run(self, says: str) -> None:
        """Leave what finetune leaves."""
        self.runs += 1
        table = layout.corpus("sets") / "tasks" / "urgency" / "test.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.test, table)
        out = layout.run("notes", "finetune")
        (out / "models").mkdir(parents=True, exist_ok=True)
        which = {"task": "urgency", "arm": "scratch", "method": "finetune", "budget": "50", "seed": 1}
        ids = self.test.column("id").to_pylist()
        rows = [
            {**which, "id": ids[row], "label": self.labels[row], "prediction": says}
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


def registry() -> Any:
    from tasks.registry import Registry

    return Registry(tracking.tracking_uri())


@pytest.mark.filterwarnings("ignore")
def test_life_of_a_champion(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("no")
    code, said = project.judged(capsys)
    assert code == 0, said
    assert "has no champion yet" in said
    assert project.champion() is None, "judging alone promotes nothing"
    assert promote.main(["accept", "notes", "--against", ""]) == 0
    assert (project.champion(), project.answer()) == ("1", "no")

    project.run("yes")
    with tracking.flow_run("a flow", {}, "flow", tags={}):  # as where a flow judges
        code, said = project.judged(capsys)
    assert code == 4, "the slice of those who are right with no loses"
    assert "+40.0 [" in said
    assert "| slice label=no | failed |" in said
    (project.folder / "params.yaml").write_text(PARAMS.replace("slices: [label]", "slices: []"))
    code, said = project.judged(capsys)
    assert code == 0, said
    assert "answers 0 of 32 test rows otherwise" in said
    assert promote.main(["accept", "notes", "--version", "2", "--against", "1", "--reason", "better"]) == 0
    assert (project.champion(), project.answer()) == ("2", "yes")
    code, said = project.judged(capsys)
    assert (code, "judged before: it is the champion" in said) == (4, True)

    for says, seen in (("no", "-40.0 ["), ("yes", "+0.0 [+0.0 to +0.0]")):
        project.run(says)
        code, said = project.judged(capsys)
        assert (code, seen in said) == (4, True), said
    assert "It is look number 2 at these rows" in said
    assert project.champion() == "2"

    assert promote.main(["refuse", "notes", "--version", "4", "--reason", "not on a Friday"]) == 0
    code, said = project.judged(capsys)
    assert (code, "judged before: refuse: not on a Friday" in said) == (4, True)
    assert project.champion() == "2"

    with pytest.raises(SystemExit, match="version 2 has become champion of notes since"):
        promote.main(["accept", "notes", "--version", "3", "--against", "1"])
    assert promote.main(["accept", "notes", "--version", "2"]) == 0, "again, as after a kill"
    assert registry().champions("notes") == ["1", "2"]

    assert promote.main(["rollback", "notes"]) == 0
    assert (project.champion(), project.answer()) == ("1", "no")
    assert registry().version("notes", "2").tags["word"] == "rolled back"
    with pytest.raises(SystemExit, match="no champion before the present one"):
        promote.main(["rollback", "notes"])


@pytest.mark.filterwarnings("ignore")
def test_changed_or_leaked_test_set_blocks(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("no")
    project.judged(capsys)
    promote.main(["accept", "notes"])
    values = project.test.column("text").to_pylist()
    values[3] = "changed"
    same = project.test
    project.test = same.set_column(same.column_names.index("text"), "text", pa.array(values))
    project.run("yes")
    code, said = project.judged(capsys)
    assert code == 5
    assert "1 changed (such as r3)" in said

    project.test = same
    entry = {"task": "urgency", "split": "test", "found_in": "general", "rows": 20, "of": 200, "removed": 20}
    project.leakage = [entry]
    project.run("yes")
    code, said = project.judged(capsys)
    assert code == 5
    assert "20 of 200 test rows of urgency stood in general" in said
    assert project.champion() == "1"


@pytest.mark.filterwarnings("ignore")
def test_answers_of_other_rows_are_not_judged(project: Project) -> None:
    project.run("yes")
    pq.write_table(project.test.slice(1), layout.corpus("sets") / "tasks" / "urgency" / "test.parquet")
    with pytest.raises(SystemExit, match="answered other test rows than lie here now"):
        promote.main(["judge", "notes"])


def test_run_that_left_nothing_is_explained(project: Project) -> None:
    with pytest.raises(SystemExit, match="kept.json is missing; make it with `dvc repro report@notes`"):
        promote.main(["judge", "notes"])
    with pytest.raises(SystemExit, match="no registered model 'notse'; known: none"):
        promote.main(["accept", "notse"])


def test_model_that_nobody_tracked_is_explained(project: Project) -> None:
    project.run("yes")
    layout.record("notes", "finetune").write_text("{}")
    with pytest.raises(SystemExit, match="dvc repro -f -s finetune@notes"):
        promote.main(["judge", "notes"])


def test_server_that_is_away_is_a_sentence(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit, match="promote: MLflow at http://127.0.0.1:9: .*is it there?"):
        promote.main(["rollback", "notes"])
