from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import layout, listing, sources
from tasks.config import Task
from tasks.errors import InputError
from tasks.modalities.speech import records as recordings
from tasks.modalities.text.records import CorpusSettings


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one")
    return tmp_path


def test_listings_change_when_a_source_changes_and_only_then(project: Path) -> None:
    corpora = {"notes": CorpusSettings(source=("texts",)), "none": CorpusSettings()}
    listing.run(corpora)
    before = layout.listing("notes").read_bytes()
    listing.run(corpora)
    assert layout.listing("notes").read_bytes() == before
    assert json.loads(layout.listing("none").read_text()) == {"corpus": "none", "files": []}
    (project / "texts" / "b.txt").write_text("two")
    listing.run(corpora)
    found = json.loads(layout.listing("notes").read_text())
    assert [entry["location"] for entry in found["files"]] == ["texts/a.txt", "texts/b.txt"]


def test_a_transcript_beside_recordings_that_a_glob_names_is_listed_with_them(project: Path) -> None:
    calls = project / "calls"
    (calls / "one").mkdir(parents=True)
    for name in ("one/a.wav", "one/a.txt", "one/b.LAB", "one/notes.md", "one.txt"):
        (calls / name).write_text("")
    corpora = {"calls": recordings.CorpusSettings(modality="speech", source=("calls/*/*.wav",))}
    listing.run(corpora)
    before = json.loads(layout.listing("calls").read_text())
    places = [entry["location"] for entry in before["files"]]
    assert places == ["calls/one/a.txt", "calls/one/a.wav", "calls/one/b.LAB"]
    (calls / "one" / "a.txt").write_text("said otherwise")
    listing.run(corpora)
    assert json.loads(layout.listing("calls").read_text()) != before


def test_listings_hold_the_locations_of_labelled_sets_and_versions_of_packages() -> None:
    task = Task(train="texts", test="public://chemprot/test.txt")
    listing.run({"c": CorpusSettings(source=("embedded://web-docs",), tasks={"t": task})})
    found = json.loads(layout.listing("c").read_text())
    assert [entry["location"] for entry in found["files"]] == ["public://chemprot/test.txt", "texts/a.txt"]
    assert "python" in found["packages"]


def test_a_corpus_that_was_removed_loses_its_listing() -> None:
    listing.run({"old": CorpusSettings(), "new": CorpusSettings()})
    listing.run({"new": CorpusSettings()})
    assert [path.name for path in layout.listing("x").parent.iterdir()] == ["new.json"]


def test_a_missing_source_is_complained_of_and_the_others_are_listed() -> None:
    complaints = listing.run(
        {"gone": CorpusSettings(source=("nowhere",)), "here": CorpusSettings(source=("texts",))}
    )
    assert len(complaints) == 1
    assert "nowhere" in complaints[0]
    assert json.loads(layout.listing("here").read_text())["files"]


def test_a_store_that_is_away_for_a_while_keeps_its_last_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    corpora = {"far": CorpusSettings(source=("s3://bucket/x",))}

    def reached(location: str, *, full_hash: bool = False) -> dict[str, object]:
        return {"files": [{"location": location, "size": 1, "etag": "e"}]}

    def away(location: str, *, full_hash: bool = False) -> dict[str, object]:
        raise InputError("no network")

    monkeypatch.setattr(sources, "listing", reached)
    assert listing.run(corpora) == []
    before = layout.listing("far").read_bytes()
    monkeypatch.setattr(sources, "listing", away)
    assert listing.run(corpora) == ["far: no network"]
    assert layout.listing("far").read_bytes() == before


def test_transcripts_stay_listed_while_their_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = recordings.CorpusSettings(modality="speech", source=("s3://bucket/*.wav",))

    def reached(location: str, *, full_hash: bool = False) -> dict[str, object]:
        names = ("a.wav",) if location.endswith("*.wav") else ("a.wav", "a.txt")
        return {"files": [{"location": f"s3://bucket/{name}", "etag": name} for name in names]}

    def away(location: str, *, full_hash: bool = False) -> dict[str, object]:
        raise InputError("no network")

    monkeypatch.setattr(sources, "listing", reached)
    assert listing.run({"calls": recorded}) == []
    before = layout.listing("calls").read_bytes()
    assert b"s3://bucket/a.txt" in before
    monkeypatch.setattr(sources, "listing", away)
    assert listing.run({"calls": recorded}) == ["calls: no network"]
    assert layout.listing("calls").read_bytes() == before


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys, tasks.listing;"
        "heavy = {'torch', 'numpy', 'pyarrow', 'pandas', 'transformers', 'mlflow', 'prefect', 'datasets'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(listing.__file__).parents[1])},
    )
    assert done.stdout.strip() == "[]"
