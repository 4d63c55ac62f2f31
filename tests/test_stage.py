"""The harness around stages: exit codes, messages, keys, and outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pytest

from tasks import layout, stage
from tasks.config import Config
from tasks.engine.guard import Collapsed
from tasks.engine.interrupt import Interrupted
from tasks.errors import InputError, ValidationFailed

PARAMS = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    monkeypatch.setattr(sys, "argv", ["stage", "text-mlm"])
    return tmp_path


def inputs(name: str, config: Config) -> tuple[list[object], list[Path]]:
    return [config.recipe(name).pretrain], []


def leave(work: stage.Work) -> int:
    with pytest.raises(SystemExit) as left:
        stage.main("pretrain", work, inputs)  # type: ignore[arg-type]
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("column 'txt' is missing"), 1, "column 'txt' is missing"),
        (ValidationFailed("too many duplicates"), 3, "too many duplicates"),
        (Interrupted(7), 143, "stopped at step 7"),
        (KeyboardInterrupt(), 143, "stopped; start again, finished work is kept"),
        (Collapsed("step 9: all samples get the same embedding"), 1, "step 9: all samples get the same"),
        (OSError(errno.ENOSPC, "No space left", "runs/x"), 1, "runs/x: the disk is full; free some space"),
        (OSError(errno.EROFS, "Read-only", "runs/x"), 1, "runs/x: the folder is read-only"),
        (PermissionError(errno.EACCES, "denied", "runs/x"), 1, "runs/x: permission denied"),
    ],
)
def test_expected_failure_ends_in_one_message_and_its_exit_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(context: stage.Context) -> stage.Outcome:
        raise error

    assert leave(work) == code
    said = capsys.readouterr().err
    assert f"pretrain@text-mlm: {says}" in said
    assert "Traceback" not in said


def test_defect_of_ours_shows_its_trace() -> None:
    def work(context: stage.Context) -> stage.Outcome:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        stage.main("pretrain", work, inputs)  # type: ignore[arg-type]


def test_done_work_leaves_metrics_record_and_no_scratch() -> None:
    folders = []

    def work(context: stage.Context) -> stage.Outcome:
        context.scratch.mkdir(parents=True)
        folders.append(context.scratch)
        return stage.Outcome({"loss": 1.5}, samples=10, units=640, unit="tokens")

    assert leave(work) == 0
    assert not folders[0].exists()
    assert json.loads(layout.metrics("text-mlm", "pretrain").read_text()) == {"loss": 1.5}
    record = json.loads(layout.record("text-mlm", "pretrain").read_text())
    assert (record["units"], record["unit"], record["samples"]) == (640, "tokens", 10)
    assert record["seconds"] >= 0


def test_failed_work_keeps_its_scratch_folder_for_the_next_start() -> None:
    folders = []

    def work(context: stage.Context) -> stage.Outcome:
        context.scratch.mkdir(parents=True, exist_ok=True)
        folders.append(context.scratch)
        raise InputError("later")

    leave(work)
    leave(work)
    assert folders[0] == folders[1]
    assert folders[0].exists()


def test_key_depends_on_settings_contents_and_name(project: Path) -> None:
    data = project / "data.bin"
    data.write_bytes(b"a")
    keys = {
        stage.work_key("pretrain", "a", {"lr": 1}, [data]),
        stage.work_key("pretrain", "b", {"lr": 1}, [data]),
        stage.work_key("adapt", "a", {"lr": 1}, [data]),
        stage.work_key("pretrain", "a", {"lr": 2}, [data]),
    }
    data.write_bytes(b"b")
    keys.add(stage.work_key("pretrain", "a", {"lr": 1}, [data]))
    assert len(keys) == 5


def test_missing_input_names_the_stage_that_makes_it() -> None:
    with pytest.raises(InputError, match=r"nowhere is missing; make it .*dvc repro pretrain@text-mlm"):
        stage.work_key("pretrain", "text-mlm", {}, [Path("nowhere")])


def test_published_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with stage.published(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError, match="full"), stage.published(target) as folder:
        _write_and_fail(folder / "a")
    assert (target / "a").read_text() == "old"
    with stage.published(target) as folder:
        (folder / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_of_several_processes_the_first_alone_leaves_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def work(context: stage.Context) -> stage.Outcome:
        context.scratch.mkdir(parents=True, exist_ok=True)
        with stage.published(target) as folder:
            if stage.is_first():
                (folder / "model").write_text("weights")
        return stage.Outcome({"loss": 1.5}, samples=1, units=1, unit="tokens")

    assert leave(work) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setenv("RANK", "1")
    assert leave(work) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (target / "model").read_text() == "weights"


def test_a_record_that_is_a_link_into_the_cache_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    cached, record = tmp_path / "cached", layout.record("text-mlm", "pretrain")
    cached.write_text("of an earlier run")
    record.parent.mkdir(parents=True)
    record.hardlink_to(cached)
    assert leave(lambda context: stage.Outcome({}, samples=1, units=1, unit="tokens")) == 0
    assert cached.read_text() == "of an earlier run"
    assert json.loads(record.read_text())["samples"] == 1


def _write_and_fail(path: Path) -> None:
    path.write_text("new")
    raise OSError("full")
