"""From what a run leaves to the champion and back, in a real registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import layout, promote, tracking
from tests.production import PARAMS, Project, begun


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return begun(tmp_path, monkeypatch)


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

    for last_call in ("set_registered_model_tag", "set_registered_model_alias"):
        killed = registry()
        setattr(killed._client, last_call, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            killed.roll_back("notes", by="somebody")
        assert project.champion() == "2"
    assert registry().roll_back("notes", by="somebody") == ("2", "1")
    assert registry().roll_back("notes", by="somebody") == ("2", "1"), "once"
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
