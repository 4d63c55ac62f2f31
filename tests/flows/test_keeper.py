"""The keeper tells of new data once it holds still, and never takes the living for lost."""

from __future__ import annotations

import fcntl
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound

from flows import keeper, lives
from tasks import layout
from tests.flows import toy


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = toy.make(tmp_path / "toy")
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("    report: {}\n", "    report: {}\n    watch: true\n"))
    monkeypatch.setenv("UNMASK_SCRATCH", str(folder / "scratch"))
    monkeypatch.chdir(folder)
    return folder


def looked(project: Path) -> list[str]:
    told: list[str] = []
    keeper.look_around(project, told.append)
    return [name for name in told if name == "toy"]


def test_new_data_is_told_once_and_when_it_holds_still(project: Path) -> None:
    assert looked(project) == [], "what lies there at first is no news"
    assert looked(project) == []
    for content in ("half", "whole thing"):
        (project / "raw.txt").write_text(content)
        assert looked(project) == [], "it may still be arriving"
    assert looked(project) == ["toy"]
    assert looked(project) == []


def test_source_that_is_away_is_no_news(project: Path) -> None:
    looked(project)
    (project / "raw.txt").rename(project / "away")
    assert [looked(project) for _ in range(3)] == [[], [], []]
    (project / "away").rename(project / "raw.txt")
    assert [looked(project) for _ in range(3)] == [[], [], []]


def test_news_that_could_not_be_told_are_told_later(project: Path) -> None:
    looked(project)
    (project / "raw.txt").write_text("new")
    looked(project)

    def away(_: str) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        keeper.look_around(project, away)
    assert looked(project) == ["toy"]


@dataclass
class Run:
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    state_id: uuid.UUID = field(default_factory=uuid.uuid4)
    name: str = "swift-otter"
    end_time: datetime | None = None


class Server:
    """The few questions that the keeper asks Prefect."""

    def __init__(self, *runs: Run) -> None:
        self.runs = list(runs)
        self.marked: list[uuid.UUID] = []

    def read_flow_runs(self, **_: Any) -> list[Run]:
        return self.runs

    def read_flow_run(self, run_id: uuid.UUID) -> Run:
        for run in self.runs:
            if run.id == run_id:
                return run
        raise ObjectNotFound(ValueError("no such run"))

    def set_flow_run_state(self, run_id: uuid.UUID, state: Any) -> None:
        assert state.name == "Crashed"
        self.marked.append(run_id)


def alive(run: Run) -> Path:
    file = lives.file(str(run.id))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def test_run_is_lost_when_two_looks_find_nobody_and_the_same_state(project: Path) -> None:
    dead, living, elsewhere, changing = Run(), Run(), Run(), Run()
    server = Server(dead, living, elsewhere, changing)
    for run in (dead, changing):
        alive(run)
    with alive(living).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lost = keeper.Lost()
        assert lost.mark(server) == []  # type: ignore[arg-type]
        changing.state_id = uuid.uuid4()
        assert lost.mark(server) == ["swift-otter"]  # type: ignore[arg-type]
    assert server.marked == [dead.id]


def test_folders_go_a_week_after_their_runs_have_ended(project: Path) -> None:
    now = datetime.now(UTC)
    old, fresh, running = Run(end_time=now - timedelta(days=8)), Run(end_time=now - timedelta(days=1)), Run()
    held = Run(end_time=now - timedelta(days=8))
    unknown = Run()
    for run in (old, fresh, running, held, unknown):
        (layout.scratch() / "worktrees" / str(run.id)).mkdir(parents=True)
    with alive(held).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        removed = keeper.remove_old(Server(old, fresh, running, held), project)  # type: ignore[arg-type]
    assert removed == [str(old.id)]
    left = {path.name for path in (layout.scratch() / "worktrees").iterdir()}
    assert left == {str(run.id) for run in (fresh, running, held, unknown)}
