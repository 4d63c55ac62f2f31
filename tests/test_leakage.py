"""Rows of the test sets that stand in what is trained on are found, exactly those."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.checks import leakage
from tasks.checks.leakage import Kin, Leakage, find
from tasks.modalities.text import quality, records

Rows = Iterable[tuple[str, str]]  # id and text
WORDS = [f"{a}{b}{c}" for a, b, c in itertools.product("bdfgklm", "aeiou", "nrst")]


def kin(containment: float = 0.8) -> Kin:
    return Kin(records.content, quality.pieces, ["text"], containment)


def unlabelled(folder: Path, rows: Rows, heldout: Rows = ()) -> Path:
    folder.mkdir(parents=True)
    lines = [{"id": name, "text": text, "split": "train"} for name, text in rows]
    lines += [{"id": name, "text": text, "split": "heldout"} for name, text in heldout]
    pq.write_table(pa.Table.from_pylist(lines, records.schema(None)), folder / "records-00000.parquet")
    return folder


def labelled(folder: Path, **tasks: Mapping[str, Rows]) -> Path:
    for task, splits in tasks.items():
        (folder / "tasks" / task).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            lines = [{"id": name, "text": text, "label": "a"} for name, text in splits.get(split, ())]
            table = pa.Table.from_pylist(lines, records.schema("classification"))
            pq.write_table(table, folder / "tasks" / task / f"{split}.parquet")
    return folder


def counts(found: Leakage, kind: str | None = None) -> dict[tuple[str, str, str], int]:
    """Guarded rows found, by task, split and place."""
    numbers: dict[tuple[str, str, str], int] = {}
    for entry in found.entries:
        if entry["rows"] and kind in (None, entry["kind"]):
            key = (entry["task"], entry["split"], entry["found_in"])
            numbers[key] = numbers.get(key, 0) + entry["rows"]
    return numbers


def sentence(seed: int, length: int = 30) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def test_test_rows_are_removed_from_training_and_validation_and_stay_in_the_test_set(tmp_path: Path) -> None:
    folder = labelled(
        tmp_path,
        topic={
            "train": [("t0", sentence(0)), ("t1", sentence(1)), ("t2", sentence(2))],
            "validation": [("v0", sentence(2)), ("v1", sentence(3))],
            "test": [("e0", sentence(3)), ("e1", "  " + sentence(0).replace(" ", "\n")), ("e2", sentence(4))],
        },
    )
    found = find({"tasks": folder}, kin())
    assert counts(found, "exact") == {
        ("topic", "test", "tasks/topic/train"): 1,
        ("topic", "validation", "tasks/topic/train"): 1,
        ("topic", "test", "tasks/topic/validation"): 1,
    }
    assert counts(found, "near") == {}
    assert found.excluded == {
        ("tasks/topic/train", "t0"): "exact: test of topic",
        ("tasks/topic/train", "t2"): "exact: validation of topic",
        ("tasks/topic/validation", "v1"): "exact: test of topic",
    }


def test_rows_of_another_tasks_test_set_leave_the_text_to_adapt_to_and_keep_their_labels(
    tmp_path: Path,
) -> None:
    topic = {
        "train": [("t0", sentence(0)), ("t1", sentence(1)), ("t2", sentence(2)), ("t3", sentence(3))],
        "validation": [("v0", sentence(10))],
        "test": [("e0", sentence(0))],
    }
    mood = {
        "train": [("m0", sentence(20)), ("m1", f"{sentence(10)} {sentence(21)}")],
        "validation": [("w0", sentence(2))],
        "test": [("f0", sentence(1))],
    }
    corpora = {
        "domain": unlabelled(tmp_path / "domain", [("d", sentence(30))], heldout=[("h", sentence(3))]),
        "tasks": labelled(tmp_path / "tasks", topic=topic, mood=mood),
    }
    assert find(corpora, kin()).excluded == {
        ("tasks/topic/train", "t0"): "exact: test of topic",
        ("tasks/topic/train/text", "t1"): "exact: test of mood",
        ("tasks/topic/train/text", "t2"): "exact: validation of mood",
        ("tasks/topic/train/text", "t3"): "exact: heldout of domain",
        ("tasks/mood/train/text", "m1"): "near: validation of topic",
    }


def test_a_short_row_quoted_in_a_long_document_is_found_and_a_distant_one_is_not(tmp_path: Path) -> None:
    quoted, other = sentence(0), sentence(1)
    half = " ".join(other.split()[:15])
    around = sentence(2, 400).split()
    long = " ".join([*around[:200], quoted.upper().replace(" ", ", "), *around[200:], half])
    corpora = {
        "general": unlabelled(tmp_path / "general", [("g0", long), ("g1", sentence(3, 200))]),
        "tasks": labelled(tmp_path / "tasks", topic={"test": [("e0", quoted), ("e1", other)]}),
    }
    found = find(corpora, kin())
    assert counts(found, "near") == {("topic", "test", "general"): 1}
    assert found.excluded == {("general", "g0"): "near: test of topic"}


@pytest.mark.parametrize(("containment", "is_found"), [(0.5, True), (0.52, False)])
def test_the_share_of_contained_sequences_decides(tmp_path: Path, containment: float, is_found: bool) -> None:
    words = sentence(0, 27).split()  # 20 sequences of eight, 10 of them in the first 17 words
    corpora = {
        "domain": unlabelled(tmp_path / "domain", [("d", " ".join([*words[:17], *sentence(1).split()]))]),
        "tasks": labelled(tmp_path / "tasks", topic={"validation": [("v", " ".join(words))]}),
    }
    assert bool(find(corpora, kin(containment)).excluded) is is_found


def test_held_out_records_leave_the_training_records_of_both_corpora(tmp_path: Path) -> None:
    corpora = {
        "general": unlabelled(
            tmp_path / "general", [("g0", sentence(0)), ("g1", sentence(1))], heldout=[("h", sentence(2))]
        ),
        "domain": unlabelled(
            tmp_path / "domain", [("d0", sentence(2)), ("d1", sentence(3))], heldout=[("k", sentence(1))]
        ),
    }
    found = find(corpora, kin())
    assert set(found.excluded) == {("general", "g1"), ("domain", "d0")}
    assert found.excluded["domain", "d0"] == "exact: heldout of general"


def test_counts_equal_those_of_a_slow_search_over_all_pairs(tmp_path: Path) -> None:
    random_numbers = random.Random(7)
    texts = {name: _noisy(random_numbers) for name in range(150)}
    training = [(f"g{name}", text) for name, text in texts.items() if name < 100]
    test = [(f"e{name}", text) for name, text in texts.items() if name >= 100]
    corpora = {
        "general": unlabelled(tmp_path / "general", training),
        "tasks": labelled(tmp_path / "tasks", topic={"test": test}),
    }
    slow = {
        ("general", name)
        for (name, text), (_, row) in itertools.product(training, test)
        if " ".join(text.split()) == " ".join(row.split()) or _contains(text, row, 0.6)
    }
    assert 5 < len(slow) < 95
    assert set(find(corpora, kin(0.6)).excluded) == slow


def _noisy(numbers: random.Random) -> str:
    """One of eight paragraphs with a few words replaced."""
    words = sentence(numbers.randrange(8), numbers.choice([5, 9, 40])).split()
    for _ in range(numbers.randrange(4)):
        words[numbers.randrange(len(words))] = numbers.choice(WORDS)
    return " ".join(words)


def _contains(text: str, row: str, containment: float) -> bool:
    held, asked = _sequences(text), _sequences(row)
    return bool(asked) and len(held & asked) >= containment * len(asked)


def _sequences(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}


def test_sequences_that_many_rows_share_are_joined_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    licence = sentence(0, 40)
    corpora = {
        "general": unlabelled(
            tmp_path / "general", [(f"g{row}", f"{licence} {sentence(row)}") for row in range(20)]
        ),
        "tasks": labelled(
            tmp_path / "tasks", topic={"test": [(f"e{row}", f"{licence} {row}") for row in range(20)]}
        ),
    }
    whole = find(corpora, kin())
    monkeypatch.setattr(leakage, "JOINED_PAIRS", 50)
    assert len(whole.excluded) == 20
    assert find(corpora, kin()) == whole


@pytest.mark.mirror
class TestPublishedSets:
    """Leaks of the sets of SciBERT (Beltagy et al. 2019), as counted over the files by plain comparison."""

    def exact(
        self, mirror: Path, folder: Path, task: str, prepare: Callable[[str], str] = str
    ) -> dict[tuple[str, str, str], int]:
        root = mirror / "scibert_tasks" / "text_classification" / task
        splits: dict[str, Sequence[tuple[str, str]]] = {}
        for split, file in (("train", "train"), ("validation", "dev"), ("test", "test")):
            lines = (root / f"{file}.txt").read_text(encoding="utf-8").split("\n")
            texts = [json.loads(line)["text"] for line in lines if line]
            splits[split] = [(f"{split}-{row}", prepare(text)) for row, text in enumerate(texts)]
        return counts(find({"tasks": labelled(folder, **{task: splits})}, kin()), "exact")

    def test_citation_intent_has_52_of_139_test_and_43_of_114_validation_rows_in_training(
        self, mirror: Path, tmp_path: Path
    ) -> None:
        train, validation = "tasks/citation_intent/train", "tasks/citation_intent/validation"
        assert self.exact(mirror, tmp_path, "citation_intent") == {
            ("citation_intent", "test", train): 52,
            ("citation_intent", "validation", train): 43,
            ("citation_intent", "test", validation): 9,
        }

    def test_chemprot_has_4_test_rows_in_training(self, mirror: Path, tmp_path: Path) -> None:
        assert self.exact(mirror, tmp_path, "chemprot") == {("chemprot", "test", "tasks/chemprot/train"): 4}

    def test_sci_cite_has_11_validation_rows_in_training_and_16_once_accents_are_composed(
        self, mirror: Path, tmp_path: Path
    ) -> None:
        place = ("sci-cite", "validation", "tasks/sci-cite/train")
        assert self.exact(mirror, tmp_path / "as_published", "sci-cite") == {place: 11}
        composed = self.exact(
            mirror, tmp_path / "nfc", "sci-cite", lambda text: unicodedata.normalize("NFC", text)
        )
        assert composed == {place: 16}
