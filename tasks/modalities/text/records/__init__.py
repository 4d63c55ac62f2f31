"""Text as records: documents, and labelled texts for classification, tagging and question answering."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from models.settings import Settings, setting
from tasks import sources
from tasks.config import Columns, Corpus
from tasks.corpora import fields
from tasks.errors import InputError
from tasks.modalities import Record, Rejected

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.corpora.tables import Row
    from tasks.modalities.text.records.near import Signature
    from tasks.sources import File


WANTED = {  # of a row, by kind of task
    None: ("text",),
    "classification": ("text", "label"),
    "token_classification": ("tokens", "tags"),
    "question_answering": ("text", "question", "answers"),
}


@dataclass(frozen=True, kw_only=True)
class Duplicates(Settings):
    """Which documents count as said before, and are left out of the unlabelled text."""

    exact: bool = setting(
        True, "Leave out documents that differ from an earlier one in case and spacing at most."
    )
    near: bool = setting(True, "Leave out documents that share most of their shingles with an earlier one.")
    threshold: float = setting(
        0.8, "Jaccard similarity of shingle sets from which two documents are near duplicates.", gt=0, lt=1
    )
    shingle_words: int = setting(5, "Words per shingle.", ge=1)
    permutations: int = setting(
        128, "Size of the MinHash; more is sharper around the threshold, and slower.", ge=16, le=1024
    )


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Corpus):
    """A corpus of text."""

    documents: Literal["file", "paragraph", "line", "heading"] = setting(
        "file",
        "What a document is in .txt and .md: the file, what stands between blank lines, a line, or what "
        "follows a first-level heading (`# Title`, or WikiText's ` = Title = `).",
    )
    encoding: str = setting("utf-8", "Encoding of text files that have no byte-order mark.")
    undecodable: Literal["replace", "drop"] = setting(
        "replace",
        "Records with bytes that are not in the encoding: U+FFFD in their place, or left out; counted.",
    )
    binary: Literal["error", "drop"] = setting(
        "error", "Binary files under a text name: stop, or leave them out and count them."
    )
    min_characters: int = setting(1, "Shorter records are left out, and counted.", ge=1)
    max_characters: int = setting(1_000_000, "Longer records are treated by `over_long`.", ge=1)
    over_long: Literal["cut", "drop", "split"] = setting(
        "split",
        "Records over `max_characters`: keep their start, leave them out and count them, or make several. "
        "Labelled text is cut instead of split; tagged words and questions are left out.",
    )
    duplicates: Duplicates = setting(Duplicates(), "Removal of duplicate documents.")


THREADED = False
COMPANIONS: tuple[str, ...] = ()

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TAG = re.compile(r"(?P<place>[BIESLU])-(?P<kind>.+)|O")


def schema(kind: str | None) -> pa.Schema:
    """Columns of documents (None), or of the labelled records of a task of that kind."""
    import pyarrow as pa

    columns = {name: pa.string() for name in ("id", "text", "source", "license")}
    match kind:
        case None:
            columns["split"] = pa.string()
            return pa.schema(list(columns.items()))
        case "segmentation":
            raise InputError("kind: segmentation is a task for pictures, not for text.")
        case "classification":
            columns["label"] = pa.string()
        case "token_classification":
            columns |= {"tokens": pa.list_(pa.string()), "tags": pa.list_(pa.string())}
        case "question_answering":
            columns |= {
                "question": pa.string(),
                "answer_texts": pa.list_(pa.string()),
                "answer_starts": pa.list_(pa.int32()),
            }
    return pa.schema([*columns.items(), ("group", pa.string())])


def gathered(files: Iterator[File]) -> Iterator[File]:
    """The files as they come: each holds whole records."""
    return files


def read(
    file: File, format: str, columns: Columns, kind: str | None, corpus: CorpusSettings
) -> Iterator[Record]:
    """Raw records of one file: `text`, what the kind of task adds, and where each comes from.

    Raises:
        InputError: the file is damaged, binary, or lacks a column.
        Rejected: the file as a whole is left out by rule.
    """
    from tasks.modalities.text.records import formats

    given = {name: field for name, field in file.columns.items() if getattr(columns, name) is None}
    columns = dataclasses.replace(columns, **given)
    if file.rows is not None:
        rows: Iterator[Row] = enumerate(file.rows(), start=1)
    else:
        found = formats.of(file, format)
        if found in formats.RUNNING_TEXT:
            columns = _of_running_text(columns, file)
        rows = formats.rows(file, found, columns, corpus)
    with sources.read_to_the_end(file):
        for number, row in rows:
            yield fields.picked(row, columns, WANTED[kind], file, number, "Correct `columns`.")


def _of_running_text(columns: Columns, file: File) -> Columns:
    """The columns where files have no fields: ids and licences are optional there, groups are not."""
    for name in ("group", "split"):
        if getattr(columns, name):
            raise InputError(
                f"{file.location}: is running text, which has no field {getattr(columns, name)!r}; leave "
                f"`columns.{name}` out, or keep this text in a table that has the field."
            )
    return dataclasses.replace(columns, id=None, license=None)


def normalise(record: Record, corpus: CorpusSettings, kind: str | None) -> Iterator[Record]:
    """The record in `schema`'s columns and `group`, `split`, `row`, `damaged`; several where it is split.

    Raises:
        InputError: a label, tag or answer is missing or impossible; names file and row.
        Rejected: a rule of the corpus leaves it out.
    """
    where = f"{record['source']}, row {record['row']}"
    kept = {name: record[name] for name in ("id", "source", "row", "license", "group", "split")}
    seen: list[bool] = []

    def clean(value: Any, what: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(
                f"{where}: {what} is {type(value).__name__} {value!r}, not text. Correct `columns`."
            )
        return _clean(value, seen)

    match kind:
        case "classification":
            kept["label"] = _clean(fields.label(record["label"], where), [])
        case "token_classification":
            tokens = [clean(token, "a token") for token in _listed(record["tokens"])]
            kept |= {"tokens": tokens, "tags": _iob2(_listed(record["tags"]), len(tokens), where)}
            record["text"] = " ".join(tokens)
        case "question_answering":
            kept["question"] = clean(record["question"], "the question").strip()
            kept |= _answers(record["answers"], record["text"] or "", where)
    text = clean(record["text"], "the text")
    if kind in (None, "classification"):  # positions in the text count for the others
        text = text.strip()
    kept["damaged"] = bool(seen)
    if seen and corpus.undecodable == "drop":
        raise Rejected("undecodable")
    for piece in _fitted(text, corpus, kind):
        yield {**kept, "text": piece}


def _fitted(text: str, corpus: CorpusSettings, kind: str | None) -> list[str]:
    """The text by the rules for length: itself, its start, or its parts."""
    from tasks.modalities.text.records.formats import pieces

    if not text.strip():
        raise Rejected("empty")
    if len(text) < corpus.min_characters:
        raise Rejected("too_short")
    if len(text) <= corpus.max_characters:
        return [text]
    if corpus.over_long == "drop" or kind not in (None, "classification"):
        raise Rejected("over_long")
    parts = [part.strip() for part in pieces(text, corpus.max_characters)]
    if corpus.over_long == "cut" or kind is not None:
        return parts[:1]
    return [part for part in parts if len(part) >= corpus.min_characters]


def _clean(text: str, seen: list[bool]) -> str:
    """NFC, without control characters; what could not be decoded as U+FFFD, and noted in `seen`."""
    if not text.isascii():
        text, damaged = _SURROGATE.subn("\ufffd", text)
        if damaged:
            seen.append(True)
        text = unicodedata.normalize("NFC", text)
    return _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


def _listed(value: Any) -> list[Any]:
    """A list as it is; a string (in CSV) cut at spaces."""
    return value.split() if isinstance(value, str) else list(value or ())


def _iob2(tags: list[Any], num_tokens: int, where: str) -> list[str]:
    """IOB1, IOB2, IOBES or BILOU as IOB2: every entity starts with B-."""
    if len(tags) != num_tokens:
        raise InputError(
            f"{where}: has {num_tokens} tokens and {len(tags)} tags; there must be one tag a token."
        )
    converted, previous = [], None
    for tag in tags:
        match = _TAG.fullmatch(str(tag))
        if match is None:
            raise InputError(f"{where}: tag {tag!r} is not O, B-<type> or I-<type>; correct `columns.tags`.")
        place, kind = match["place"], match["kind"]
        if kind is None:
            converted.append("O")
        else:
            starts = place in "BSU" or previous != kind
            converted.append(f"{'B' if starts else 'I'}-{kind}")
        previous = None if place in ("E", "L", "S", "U") else kind
    return converted


def _answers(value: Any, text: str, where: str) -> dict[str, list[Any]]:
    """Answers and their first characters, which move where cleaning shortens the text before them."""
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, Mapping):  # the hub's layout: lists by field
        value = [
            {"text": answer, "answer_start": start}
            for answer, start in zip(value["text"], value["answer_start"], strict=True)
        ]
    texts, starts = [], []
    for answer in value or ():
        start, words = int(answer["answer_start"]), str(answer["text"])
        if text[start : start + len(words)] != words:
            raise InputError(
                f"{where}: the answer {words!r} does not stand at character {start} of the text, where "
                f"{text[start : start + len(words)]!r} stands; correct `answer_start` (it counts from 0)."
            )
        texts.append(_clean(words, []))
        starts.append(len(_clean(text[:start], [])))
    return {"answer_texts": texts, "answer_starts": starts}


def content(record: Record) -> bytes:
    """The text without regard to case and spacing, and the question where there is one."""
    words = record["text"].lower().split()
    if record.get("question"):
        words += ["\x1f", *record["question"].lower().split()]
    return " ".join(words).encode("utf-8", "replace")


def signatures(batch: list[Record], corpus: CorpusSettings) -> list[Signature]:
    """Per text, band hashes of which near duplicates share one; none for very short ones."""
    from tasks.modalities.text.records import near

    how = corpus.duplicates
    return [
        near.signature(
            record["text"],
            threshold=how.threshold,
            shingle_words=how.shingle_words,
            permutations=how.permutations,
        )
        for record in batch
    ]
