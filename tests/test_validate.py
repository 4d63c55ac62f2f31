"""A recipe's data is checked before anything is trained; what breaks is named with its rows."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import layout, stage, validate
from tasks.config import Config
from tasks.corpora import stored
from tasks.errors import InputError, ValidationFailed
from tasks.journal import Run
from tasks.modalities.text import records
from tasks.params import schema

SUBJECTS = [
    "The bridge",
    "A committee",
    "The river",
    "Our neighbour",
    "The museum",
    "A gardener",
    "The train",
    "Her letter",
]
VERBS = [
    "was closed",
    "met again",
    "rose quickly",
    "waited",
    "reopened",
    "left early",
    "arrived late",
    "came back",
]
TIMES = [
    "in spring",
    "on Tuesday",
    "before noon",
    "after the storm",
    "this year",
    "for a week",
    "at night",
    "without warning",
]


def text(seed: int) -> str:
    """A few English sentences, different for every seed."""
    numbers = random.Random(seed)
    sentences = [
        f"{numbers.choice(SUBJECTS)} {numbers.choice(VERBS)} {numbers.choice(TIMES)} number {seed}."
        for _ in range(4)
    ]
    return " ".join(sentences)


def texts(start: int, number: int = 20) -> list[str]:
    return [text(seed) for seed in range(start, start + number)]


def write(name: str, rows: Sequence[str], **tasks: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    """A corpus as ingest leaves it: unlabelled `rows`, and tasks of (text, label) by split."""
    folder = layout.corpus(name)
    folder.mkdir(parents=True)
    lines = [{"id": f"{name}-{row}", "text": content, "split": "train"} for row, content in enumerate(rows)]
    if lines:
        pq.write_table(pa.Table.from_pylist(lines, records.schema(None)), folder / "records-00000.parquet")
    for task, splits in tasks.items():
        (folder / "tasks" / task).mkdir(parents=True)
        for split in stored.SPLITS:
            lines = [
                {"id": f"{split}-{row}", "text": content, "label": label}
                for row, (content, label) in enumerate(splits[split])
            ]
            table = pa.Table.from_pylist(lines, records.schema("classification"))
            pq.write_table(table, folder / "tasks" / task / f"{split}.parquet")
    (folder / "manifest.json").write_text("{}")


def labelled(rows: Sequence[str], labels: Sequence[str] = ("a", "b")) -> list[tuple[str, str]]:
    return [(content, labels[row % len(labels)]) for row, content in enumerate(rows)]


def sound_corpora() -> None:
    write("books", texts(0))
    write("papers", texts(100))
    splits = {"train": labelled(texts(200)), "validation": labelled(texts(300)), "test": labelled(texts(400))}
    write("sets", [], topic=splits)


def configured(tasks: str = "sets", domain: str = "papers", **settings: Any) -> Config:
    recipe = {
        "modality": "text",
        "general": "books",
        "domain": domain,
        "tasks": tasks,
        "encoder": "tiny",
        "validate": settings,
        "prepare": {},
        "pretrain": {"objective": {"name": "masked_lm"}},
        "adapt": {},
        "finetune": {},
        "report": {},
    }
    raw = {"encoders": {"tiny": {"architecture": "bert"}}, "recipes": {"small": recipe}}
    return schema().validate_json(json.dumps(raw))


def run(**settings: Any) -> stage.Outcome:
    return validate.run(stage.Context("small", configured(**settings), Run(None), Path("checkpoints")))


def verdicts() -> list[dict[str, Any]]:
    answer: dict[str, Any] = json.loads((layout.validated("small") / "validation.json").read_text())
    assert isinstance(answer["checks"], list)
    return answer["checks"]


def broken() -> set[tuple[str, str]]:
    return {(verdict["slot"], verdict["column"]) for verdict in verdicts() if not verdict["passed"]}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty project folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_sound_data_passes_and_the_same_data_gives_the_same_bytes() -> None:
    sound_corpora()
    outcome = run()
    assert outcome.metrics["hard_breaches"] == 0
    assert outcome.metrics["records.general"] == 20
    assert 0.3 < outcome.metrics["overlap.general-domain"] < 0.9
    first = digests(layout.validated("small"))
    assert set(first) == {"validation.json", "exclusions.parquet"}
    run()
    assert digests(layout.validated("small")) == first


def test_pages_are_built_outside_of_the_outputs() -> None:
    sound_corpora()
    run()
    pages = layout.scratch() / "data_docs" / "small"
    assert (pages / "index.html").is_file()
    assert {page.parts[-4] for page in (pages / "validations").rglob("*.html")} == {
        "general records",
        "domain records",
        *(f"tasks topic {split} {table}" for split in stored.SPLITS for table in ("records", "labels")),
        "leakage leaked rows",
        "leakage rows left",
    }


def test_damaged_text_fails_hard_and_names_slot_share_rows_and_remedy() -> None:
    write("books", [*texts(0), "\ufffd\ufffd\ufffd bro\ufffden \ufffd text"])
    write("papers", texts(100))
    with pytest.raises(ValidationFailed) as failure:
        run(tasks="none")
    message = str(failure.value)
    assert "general, records: replacement_share must be at most 0.02 in at least 99 % of the rows" in message
    assert "1 are not (4.76%): books-20. Name the corpus's `encoding`" in message
    assert str(layout.scratch() / "data_docs" / "small" / "index.html") in message
    assert broken() == {("general", "replacement_share")}


def test_settings_move_the_limit() -> None:
    write("books", [*texts(0), "\ufffd\ufffd\ufffd bro\ufffden \ufffd text"])
    write("papers", texts(100))
    run(tasks="none", max_damaged_records=0.1)
    assert not broken()


def test_few_records_doubled_ids_and_empty_text_fail_hard() -> None:
    write("books", texts(0, 5))
    write("papers", [*texts(100), ""])
    table = pq.read_table(layout.corpus("papers") / "records-00000.parquet").to_pylist()
    table[3]["id"] = table[7]["id"]
    pq.write_table(
        pa.Table.from_pylist(table, records.schema(None)), layout.corpus("papers") / "records-00000.parquet"
    )
    with pytest.raises(ValidationFailed, match=r"general, records: rows must be at least 10; there are 5\."):
        run(tasks="none")
    assert broken() == {("general", "rows"), ("domain", "id"), ("domain", "characters")}
    examples = {
        verdict["column"]: verdict["examples"] for verdict in verdicts() if verdict["slot"] == "domain"
    }
    assert examples["id"] == ["papers-7", "papers-7"]
    assert examples["characters"] == ["papers-20"]


def test_one_class_fails_and_rare_or_unseen_classes_warn() -> None:
    sound_corpora()
    one = {split: labelled(texts(500 + 50 * n), ["only"]) for n, split in enumerate(stored.SPLITS)}
    rare = {split: labelled(texts(700 + 50 * n)) for n, split in enumerate(stored.SPLITS)}
    rare["train"].append((text(690), "rare"))
    rare["test"].append((text(691), "unseen"))
    write("more", [], one=one, rare=rare)
    with pytest.raises(
        ValidationFailed, match=r"tasks/one/train, labels: rows must be at least 2; there are 1\."
    ):
        run(tasks="more")
    assert broken() == {
        ("tasks/one/train", "rows"),
        ("tasks/one/train", "share"),
        ("tasks/rare/train", "records"),
        ("tasks/rare/test", "in_training"),
    }


def test_leaked_rows_are_excluded_and_reported_and_later_stages_can_read_them() -> None:
    leaked = texts(400)
    write("books", [*texts(0), f"Quoted: {leaked[3]} And so on."])
    write("papers", texts(100))
    splits = {
        "train": labelled([*texts(200), leaked[0]]),
        "validation": labelled(texts(300)),
        "test": labelled(leaked),
    }
    write("sets", [], topic=splits)
    outcome = run()
    assert validate.excluded(layout.validated("small")) == {
        "general": {"books-20"},
        "tasks/topic/train": {"train-20"},
    }
    assert outcome.metrics["leaked.topic.test.general.near"] == 1
    assert outcome.metrics["leaked.topic.test.tasks/topic/train.exact"] == 1
    assert outcome.metrics["excluded"] == 2
    assert not broken()
    run(max_leaked_share=0.01)
    assert broken() == {("leakage", "share")}


def test_training_rows_that_are_all_in_the_test_set_fail_hard() -> None:
    sound_corpora()
    rows = labelled(texts(400))
    write("copied", [], topic={"train": rows, "validation": labelled(texts(300)), "test": rows})
    with pytest.raises(
        ValidationFailed,
        match=r"leakage, rows left: left must be at least 1; 1 are not .*: tasks/topic/train",
    ):
        run(tasks="copied")


def test_a_recipe_without_domain_and_tasks_is_checked_as_well() -> None:
    write("books", texts(0))
    outcome = run(tasks="none", domain="none")
    assert outcome.samples == 20
    assert validate.excluded(layout.validated("small")) == {}


def test_large_corpora_are_described_by_a_sample() -> None:
    write("books", texts(0, 400))
    run(tasks="none", domain="none", max_described=100)
    statistics = json.loads((layout.validated("small") / "validation.json").read_text())["statistics"][
        "general"
    ]
    assert statistics["rows"] == 400
    assert 50 < statistics["described"] < 150
    assert statistics["metrics"]["characters"]["mean"] == pytest.approx(len(text(7)), rel=0.2)


def test_a_corpus_that_is_missing_or_damaged_is_named_with_the_next_step() -> None:
    sound_corpora()
    with pytest.raises(InputError, match=r"'elsewhere' \(domain\).*dvc repro ingest@elsewhere"):
        run(domain="elsewhere")
    path = layout.corpus("papers") / "records-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"records-00000.parquet cannot be read .* run ingest again"):
        run()


def test_markdown_shows_what_is_broken_and_what_leaked() -> None:
    leaked = texts(400)
    write("books", texts(0))
    write("papers", [*texts(100), leaked[3]])
    write(
        "sets",
        [],
        topic={"train": labelled(texts(200)), "validation": labelled(texts(300)), "test": labelled(leaked)},
    )
    run(min_letter_share=0.99)
    validation = json.loads((layout.validated("small") / "validation.json").read_text())
    shown = validate.markdown(validation)
    assert shown.startswith("Every hard expectation holds.")
    assert "| general | 20 | 9 of 10 |" in shown
    (line,) = (line for line in shown.splitlines() if "| general | letter_share |" in line)
    assert line.startswith("| soft | general | letter_share | at least 0.99 in at least 90 % of the rows |")
    assert "| 20 off (100.00%) | books-0, " in line
    (verdict,) = (
        line
        for line in validation["checks"]
        if line["column"] == "letter_share" and line["slot"] == "general"
    )
    assert line.endswith(f"| {verdict['remedy']} |")
    assert "| topic test | domain | exact | 1 of 20 | 1 |" in shown
    assert "| general and domain | " in shown
