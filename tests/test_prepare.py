"""The stage: what it writes, that it is the same every time, that nothing is left half done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import prepare
from tasks.errors import InputError
from tasks.modalities.text.tensors import PrepareSettings, TokenizerSettings

TEXTS = [f"Document number {i} says: every name is bound {i % 7} times, once per scope." for i in range(50)]


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for slot in ("general", "domain"):
        found[slot] = tmp_path / "corpora" / slot
        found[slot].mkdir(parents=True)
        splits = ["heldout" if i < 5 else "train" for i in range(50)]
        table = pa.table({"id": [f"{slot}{i}" for i in range(50)], "text": TEXTS, "split": splits})
        pq.write_table(table, found[slot] / "records-00000.parquet")
    return found


def recipe(**options: Any) -> Any:
    tokenizer = TokenizerSettings(vocabulary_size=options.pop("vocabulary_size", 120))
    return SimpleNamespace(
        modality="text", prepare=PrepareSettings(tokenizer=tokenizer, sequence_length=32, **options)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_manifest_lists_every_file_with_its_hash(corpora: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    manifest = prepare.prepare(recipe(), corpora, {"domain": {"domain11", "domain12"}}, out, seed=0)
    assert json.loads((out / "manifest.json").read_text()) == manifest
    files = contents(out)
    del files["manifest.json"]
    listed = {file["path"]: file["sha256"] for file in manifest["files"]}
    assert listed == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert set(manifest["slots"]) == {"general", "domain"}
    assert manifest["slots"]["general"]["train"]["documents"] == 45
    assert manifest["slots"]["domain"]["train"]["documents"] == 43
    assert manifest["sequence_length"] == 32
    assert 1 < manifest["fertility"]["general"] < 5
    assert manifest["unknown_rate"] == {"general": 0.0, "domain": 0.0}


def test_same_input_and_settings_give_the_same_bytes(corpora: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        prepare.prepare(recipe(), corpora, {}, tmp_path / name, seed=0)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_failure_leaves_the_last_good_outcome(corpora: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    prepare.prepare(recipe(), corpora, {}, out, seed=0)
    before = contents(out)
    with pytest.raises(InputError, match="smaller than the alphabet"):
        prepare.prepare(recipe(vocabulary_size=32), corpora, {}, out, seed=0)
    assert contents(out) == before


def test_a_damaged_corpus_is_named(corpora: dict[str, Path], tmp_path: Path) -> None:
    path = corpora["general"] / "records-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"records-00000\.parquet"):
        prepare.prepare(recipe(), corpora, {}, tmp_path / "prepared", seed=0)


def test_numbers_are_flat_for_tracking() -> None:
    manifest = {
        "slots": {"general": {"train": {"rows": 3}}},
        "fertility": {"general": 1.5},
        "files": [{"path": "x"}],
    }
    assert prepare.numbers(manifest) == {"slots.general.train.rows": 3, "fertility.general": 1.5}
