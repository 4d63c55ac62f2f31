from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.config import Columns, Task
from tasks.corpora.duplicates import Seen
from tasks.errors import InputError
from tasks.ingest import ingest
from tasks.modalities.text.records import CorpusSettings, Duplicates

WORDS = [f"word{number}" for number in range(3000)]


def documents(count: int, seed: int = 0, length: int = 30) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(count)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def corpus_of(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> CorpusSettings:
    return CorpusSettings(
        source=(write_lines(tmp_path / "in.jsonl", rows),), **{"heldout_fraction": 0.1, **settings}
    )


def task_of(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> CorpusSettings:
    task = Task(source=write_lines(tmp_path / "task.jsonl", rows), **settings)
    return CorpusSettings(tasks={"mood": task})


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def records(folder: Path, name: str = "records-*.parquet") -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob(name)) for row in pq.read_table(path).to_pylist()]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [{"text": text} for text in documents(2000)])
    for out in ("one", "two"):
        ingest("notes", corpus, tmp_path / out)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_the_manifest_counts_add_up_and_its_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    texts = documents(1500)
    near = [text.replace("word", "WORD", 1) + " end" for text in texts[:200]]
    rows = [{"text": text} for text in [*texts, *texts[:300], *near, "", "x"]]
    corpus = corpus_of(tmp_path, rows, min_characters=2, license="CC0-1.0")
    ingest("notes", corpus, tmp_path / "out")
    found = manifest(tmp_path / "out")
    counts = found["counts"]
    assert counts["read"] == len(rows)
    assert counts["exact_duplicates"] == 300
    assert counts["near_duplicates"] > 190
    assert counts["rejected"] == {"empty": 1, "too_short": 1}
    assert counts["read"] == counts["kept"] + counts["exact_duplicates"] + counts["near_duplicates"] + 2
    kept = records(tmp_path / "out")
    assert len(kept) == counts["kept"] == sum(found["splits"].values())
    assert [row["text"] for row in kept[:1500]] == texts, "the first of a kind is kept"
    assert {row["license"] for row in kept} == {"CC0-1.0"}
    for file in found["files"]:
        content = (tmp_path / "out" / file["path"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    (source,) = found["sources"]
    assert source == {
        **source,
        "location": str(tmp_path / "in.jsonl"),
        "records": len(kept),
        "license": "CC0-1.0",
    }


def test_duplicates_are_kept_where_the_corpus_says_so(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path,
        [{"text": text} for text in documents(50) * 2],
        duplicates=Duplicates(exact=False, near=False),
    )
    ingest("notes", corpus, tmp_path / "out")
    kept = records(tmp_path / "out")
    assert len(kept) == 100
    assert len({row["id"] for row in kept}) == 100


def test_a_record_keeps_its_split_when_others_come(tmp_path: Path) -> None:
    texts = documents(1000)
    for name, count in (("few", 500), ("many", 1000)):
        corpus = corpus_of(tmp_path / name, [{"text": text} for text in texts[:count]])
        ingest("notes", corpus, tmp_path / f"{name}.out")
    few, many = (
        {row["id"]: row["split"] for row in records(tmp_path / f"{name}.out")} for name in ("few", "many")
    )
    assert few.items() <= many.items()
    assert 60 < Counter(many.values())["heldout"] < 140


def test_a_group_is_never_on_both_sides(tmp_path: Path) -> None:
    rows = [{"text": text, "author": f"a{number % 40}"} for number, text in enumerate(documents(800))]
    corpus = corpus_of(tmp_path, rows, columns=Columns(group="author"), heldout_fraction=0.3)
    ingest("notes", corpus, tmp_path / "out")
    split_of = {row["text"]: row["split"] for row in records(tmp_path / "out")}
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["author"], set()).add(split_of[row["text"]])
    assert set(map(len, sides.values())) == {1}
    assert {"train", "heldout"} == set().union(*sides.values())


def test_ids_given_by_the_user_are_kept_and_a_repeated_one_names_both_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": text, "key": number} for number, text in enumerate(documents(3000))
    ]
    columns = Columns(id="key")
    ingest("notes", corpus_of(tmp_path, rows, columns=columns), tmp_path / "out")
    assert [row["id"] for row in records(tmp_path / "out")] == [str(number) for number in range(3000)]
    rows[2500]["key"] = 17
    with pytest.raises(
        InputError, match=r"id '17' stands twice: .*in.jsonl, row 18 and .*in.jsonl, row 2501"
    ):
        ingest("notes", corpus_of(tmp_path, rows, columns=columns), tmp_path / "out")


def test_pieces_of_an_over_long_record_have_ids_of_their_own(tmp_path: Path) -> None:
    rows = [{"text": text, "key": f"k{number}"} for number, text in enumerate(documents(40, length=50))]
    corpus = corpus_of(tmp_path, rows, columns=Columns(id="key"), max_characters=200, heldout_fraction=0)
    ingest("notes", corpus, tmp_path / "out")
    ids = [row["id"] for row in records(tmp_path / "out")]
    assert ids[:2] == ["k0-0", "k0-1"]
    assert len(ids) == len(set(ids)) > 80


def test_max_records_stops_early_at_the_same_records(tmp_path: Path) -> None:
    rows = [{"text": text} for text in documents(3000)]
    ingest("all", corpus_of(tmp_path, rows), tmp_path / "all")
    counts = ingest("some", corpus_of(tmp_path, rows, max_records=1500), tmp_path / "some")
    assert counts["read"] < 3000
    assert records(tmp_path / "some") == records(tmp_path / "all")[:1500]


def test_a_corpus_without_sources_is_empty_and_one_whose_sources_are_is_an_error(tmp_path: Path) -> None:
    ingest("none", CorpusSettings(), tmp_path / "none")
    assert records(tmp_path / "none") == []
    assert manifest(tmp_path / "none")["counts"]["read"] == 0
    with pytest.raises(InputError, match=r"corpus notes: no record is left of 2 .*2 empty .*in.jsonl, row 1"):
        ingest("notes", corpus_of(tmp_path, [{"text": ""}, {"text": " "}]), tmp_path / "out")


def test_a_corpus_too_small_to_hold_anything_out_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 2 records fell into 'heldout'"):
        ingest(
            "notes",
            corpus_of(tmp_path, [{"text": "one"}, {"text": "two"}], heldout_fraction=1e-9),
            tmp_path / "o",
        )


def test_a_failed_run_leaves_what_was_there_before(tmp_path: Path) -> None:
    ingest("notes", corpus_of(tmp_path, [{"text": text} for text in documents(100)]), tmp_path / "out")
    before = tree(tmp_path / "out")
    bad = corpus_of(tmp_path, [{"text": text} for text in documents(2000, seed=1)] + [{"txt": "x"}])
    with pytest.raises(InputError, match=r"row 2001: has no field 'text'"):
        ingest("notes", bad, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_a_full_disk_passes_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(OSError, match="No space left"):
        ingest("notes", corpus_of(tmp_path, [{"text": text} for text in documents(100)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def moods(count: int) -> list[dict[str, Any]]:
    return [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate(documents(count))]


def test_a_task_in_one_place_is_cut_by_fractions_and_equal_texts_stay_together(tmp_path: Path) -> None:
    rows = moods(1000)
    corpus = task_of(tmp_path, rows + rows[:50], fractions=(0.5, 0.2, 0.3))
    ingest("tasks", corpus, tmp_path / "out")
    entry = manifest(tmp_path / "out")["tasks"]["mood"]
    assert entry["labels"] == ["a", "b"]
    sizes = entry["splits"]
    assert sum(sizes.values()) == 1050, "labelled rows are all kept"
    assert sizes["train"] / 1050 == pytest.approx(0.5, abs=0.06)
    assert sizes["test"] / 1050 == pytest.approx(0.3, abs=0.06)
    found = {split: records(tmp_path / "out", f"tasks/mood/{split}.parquet") for split in sizes}
    ids = [row["id"] for split in found.values() for row in split]
    assert len(ids) == len(set(ids))
    train, test = ({row["text"] for row in found[split]} for split in ("train", "test"))
    assert train.isdisjoint(test)


def test_a_task_is_split_as_its_column_says_in_any_of_the_usual_words(tmp_path: Path) -> None:
    words = ["train", "Train", "dev", "valid", "test"] * 20
    rows = [{**row, "fold": word} for row, word in zip(moods(100), words, strict=True)]
    ingest("tasks", task_of(tmp_path, rows, columns=Columns(split="fold")), tmp_path / "out")
    assert manifest(tmp_path / "out")["tasks"]["mood"]["splits"] == {
        "train": 40,
        "validation": 40,
        "test": 20,
    }
    rows[3]["fold"] = "later"
    with pytest.raises(InputError, match=r"row 4: unknown split 'later'"):
        ingest("tasks", task_of(tmp_path, rows, columns=Columns(split="fold")), tmp_path / "out")


def test_without_validation_rows_some_are_cut_from_train_and_test_stays_whole(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", moods(800))
    test = write_lines(tmp_path / "test.jsonl", moods(100))
    task = Task(train=train, test=test, fractions=(0.6, 0.2, 0.2))
    ingest("tasks", CorpusSettings(tasks={"mood": task}), tmp_path / "out")
    splits = manifest(tmp_path / "out")["tasks"]["mood"]["splits"]
    assert splits["test"] == 100
    assert splits["validation"] == pytest.approx(200, abs=40)
    assert splits["train"] + splits["validation"] == 800


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(), "give `from`, or at least `train` and `test`"),
        (Task(source="x", train="y"), "not both"),
        (Task(source="x", fractions=(0.5, 0.5, 0.5)), "must add up to 1"),
    ],
)
def test_impossible_tasks_are_refused(tmp_path: Path, task: Task, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ingest("tasks", CorpusSettings(tasks={"mood": task}), tmp_path / "out")


def test_one_class_an_empty_split_and_repeated_ids_are_refused(tmp_path: Path) -> None:
    same = [{**row, "label": "a"} for row in moods(100)]
    with pytest.raises(InputError, match=r"one class only \(a\)"):
        ingest("tasks", task_of(tmp_path, same), tmp_path / "out")
    with pytest.raises(InputError, match="no row is left for 'validation'"):
        ingest("tasks", task_of(tmp_path, moods(100), fractions=(0.5, 0, 0.5)), tmp_path / "out")
    keyed = [{**row, "key": min(number, 98)} for number, row in enumerate(moods(100))]
    with pytest.raises(InputError, match=r"id '98' stands twice: .*row 99 and .*row 100"):
        ingest("tasks", task_of(tmp_path, keyed, columns=Columns(id="key")), tmp_path / "out")


def test_hashes_seen_before_are_known_whatever_the_order_of_adding() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    seen = Seen()
    for start in range(0, 10_000, 700):
        seen.add(values[start : min(start + 700, 10_000)])
    assert seen.contains(values).tolist() == [True] * 10_000 + [False] * 10_000
    assert len(seen) == 10_000
    assert len(seen._runs) < 8, "runs are merged as they grow"


MEASURE = """
import resource, sys
from pathlib import Path
from tasks.ingest import ingest
from tasks.modalities.text.records import CorpusSettings
ingest("big", CorpusSettings(source=(sys.argv[1],)), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for name, copies in (("small", 1), ("large", 6)):
        path = tmp_path / f"{name}.jsonl"
        with path.open("w") as file:
            for copy in range(copies):
                for text in documents(800, seed=copy, length=600):
                    file.write(json.dumps({"text": text}) + "\n")
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"{name}.out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
        size = path.stat().st_size / 2**20
    assert size > 20
    assert peaks[1] - peaks[0] < 15, f"MB at {peaks}"


@pytest.mark.mirror
def test_real_sets_have_their_published_counts(mirror: Path, tmp_path: Path) -> None:
    sets = {
        name: f"public://{name}"
        for name in ("citation-intent", "chemprot", "ncbi-disease", "bc5cdr", "sciie-entities")
    }
    tasks = {
        name: Task(
            kind="classification" if name in ("citation-intent", "chemprot") else "token_classification",
            train=f"{address}/train.txt",
            validation=f"{address}/dev.txt",
            test=f"{address}/test.txt",
        )
        for name, address in sets.items()
    }
    ingest("science", CorpusSettings(tasks=tasks), tmp_path / "out")
    found = manifest(tmp_path / "out")["tasks"]
    assert found["citation-intent"]["splits"] == {"train": 1688, "validation": 114, "test": 139}
    assert found["chemprot"]["splits"] == {"train": 4169, "validation": 2427, "test": 3469}
    assert (len(found["citation-intent"]["labels"]), len(found["chemprot"]["labels"])) == (6, 13)
    starts = {
        name: Counter(
            tag[0] for row in records(tmp_path / "out", f"tasks/{name}/train.parquet") for tag in row["tags"]
        )
        for name in ("ncbi-disease", "bc5cdr", "sciie-entities")
    }
    # NCBI-disease is IOB2 in its file (5134 B-); the others are IOB1 with 2413 and 4 B- in theirs.
    assert starts["ncbi-disease"] == {"O": 124452, "B": 5134, "I": 6115}
    assert starts["bc5cdr"] == {"O": 82026, "B": 9270, "I": 4074}
    assert starts["sciie-entities"] == {"O": 32412, "B": 5572, "I": 7428}


@pytest.mark.mirror
def test_wikitext_headings_give_its_122_articles(mirror: Path, tmp_path: Path) -> None:
    counts = ingest(
        "wiki", CorpusSettings(source=("public://wikitext-2",), documents="heading"), tmp_path / "out"
    )
    assert counts["kept"] == 60 + 62
