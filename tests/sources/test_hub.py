from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import sources
from tasks.errors import InputError
from tasks.sources import hub


def test_a_location_has_a_name_and_may_have_revision_config_and_split() -> None:
    parts = hub._parse("hf://acme/notes@v1.0:en/train")
    assert parts == {"name": "acme/notes", "revision": "v1.0", "config": "en", "split": "train"}
    assert hub._parse("hf://acme/notes")["split"] is None
    with pytest.raises(InputError, match="is not of the form"):
        list(sources.files("hf://acme/notes/train/more"))


def test_rows_of_each_split_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "acme" / "notes"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"text": f"a {split} row"}) + "\n")
    monkeypatch.chdir(tmp_path)
    found = {file.location: [*file.rows()] for file in sources.files("hf://acme/notes") if file.rows}
    assert found == {
        "hf://acme/notes/test": [{"text": "a test row"}],
        "hf://acme/notes/train": [{"text": "a train row"}],
    }


def test_class_numbers_are_given_as_names() -> None:
    assert hub.named([0, 1, -1], ["no", "yes"]) == ["no", "yes", None]
    assert hub.named(3, None) == 3


def test_an_unreachable_set_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="gave no data set"):
        list(sources.files("hf://acme/missing"))
