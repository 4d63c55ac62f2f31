"""What a retraining goes on from, and when it has nothing to learn."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import champion


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(champion, "get_run_logger", lambda: logging.getLogger("test"))
    place = tmp_path / "weights"
    place.mkdir()
    monkeypatch.setattr(champion, "encoder", lambda *_: place)
    return place


def says(monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    monkeypatch.setattr(champion, "_digest", lambda *_: digest)


def test_settled_is_what_the_run_began_with(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "settings of then")
    begun = champion.Start("notes", Path("project"), "run 1")
    assert not begun.is_settled
    assert begun.begun() == weights
    says(monkeypatch, "edited since")
    again = champion.Start("notes", Path("project"), "run 1")
    assert again.begun() == weights
    again.settle()
    assert not champion.Start("notes", Path("project"), "run 2").is_settled, (
        "nobody has learnt the edited ones"
    )
    says(monkeypatch, "settings of then")
    assert champion.Start("notes", Path("project"), "run 3").is_settled


def test_run_that_began_since_has_the_last_word(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "settings of then")
    champion.Start("notes", Path("project"), "run 1").begun()
    says(monkeypatch, "edited since")
    champion.Start("notes", Path("project"), "run 2").begun()
    champion.Start("notes", Path("project"), "run 1").settle()
    assert not champion.Start("notes", Path("project"), "run 3").is_settled, "that was something else"
    champion.Start("notes", Path("project"), "run 2").settle()
    assert champion.Start("notes", Path("project"), "run 3").is_settled


def test_start_whose_weights_are_gone_is_made_anew(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "the same")
    start = champion.Start("notes", Path("project"), "run 1")
    start.begun()
    start.settle()
    assert champion.Start("notes", Path("project"), "run 2").is_settled
    weights.rmdir()
    assert not champion.Start("notes", Path("project"), "run 2").is_settled
