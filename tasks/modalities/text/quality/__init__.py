"""What is expected of text: metrics of each record, thresholds on them, and how alike two corpora are.

Metrics follow the filters of MassiveText (Rae et al. 2021, "Scaling Language Models", appendix A.1:
repeated lines, repeated word sequences, share of letters); vocabulary overlap follows Gururangan
et al. 2020, "Don't Stop Pretraining", section 2.
Differs from the papers: stop words stay in the vocabulary, since lists of them exist for few languages.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.settings import Settings, setting
from tasks.checks.suites import among, between
from tasks.config import Validate
from tasks.corpora.duplicates import hash64
from tasks.modalities.text.quality.hashed_words import (
    blocks,
    class_shares,
    distinct,
    sequences,
    vocabulary,
    words,
)
from tasks.modalities.text.records import content

if TYPE_CHECKING:  # numpy and pyarrow cost a light command 0.3 s, great_expectations 4 s
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation
    from numpy.typing import NDArray

KIN = ("text",)
ANSWERS = ()
LANGUAGE_RECORDS = 2_000  # a guess takes 0.2 to 0.4 ms; the share is good to 2 points
LANGUAGE_CHARACTERS = (30, 300)  # shorter text is not guessed, longer is cut
COMPRESSED_BYTES = 2_048
REPEATED_WORDS = 4
REPEATED_AT_LEAST = 20  # sequences, below which repetition says nothing
PIECE_WORDS = 8  # GPT-3 took 13 (Brown et al. 2020, appendix C), too long for tasks of one sentence
VOCABULARY_WORDS = 10_000


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(Validate):
    """Expectations on text; a hard one stops the recipe, a soft one is reported."""

    languages: tuple[str, ...] = setting(
        (), "Expected languages (ISO 639-1 codes), hard; empty expects any one of them, soft."
    )
    min_language_share: float = setting(
        0.8, "Smallest share of records in `languages`, or else in the most frequent language.", ge=0, le=1
    )
    max_damaged_records: float = setting(
        0.01, "Hard: largest share of records over either of the next two limits.", ge=0, le=1
    )
    max_replacement_share: float = setting(
        0.02, "Share of U+FFFD among its characters over which a record is damaged.", ge=0, le=1
    )
    max_control_share: float = setting(
        0.05, "Share of control characters over which a record is damaged (binary data).", ge=0, le=1
    )
    max_poor_records: float = setting(
        0.1, "Soft: largest share of records that break any one of the next three limits.", ge=0, le=1
    )
    max_repetition: float = setting(
        0.3, "Share of four-word sequences that stood earlier in the same record.", ge=0, le=1
    )
    min_compression_ratio: float = setting(
        0.15, "Compressed size over size of a record's first 2,048 bytes; small where it repeats itself.",
        ge=0, le=1,
    )  # fmt: skip
    min_letter_share: float = setting(0.5, "Share of letters among a record's characters.", ge=0, le=1)
    max_duplicates_share: float = setting(
        0.1, "Soft: largest share of records whose text stood in an earlier one.", ge=0, le=1
    )


def describe(records: pa.Table) -> pa.Table:
    """Derived metrics, one row per record.

    Returns:
        `id`; `characters`, `words`, `lines`; shares of `letter`, `digit`, `space`, `punctuation`,
        `control` and `replacement` characters; `top_word_share`; `repetition` (null where there
        are fewer than 20 sequences); `repeated_line_share`; `compression_ratio`; `duplicate` (of
        an earlier record); `language` (of about 2,000 records chosen by the hash of their id, null
        elsewhere) and `in_main_language`.
    """
    import numpy as np
    import pyarrow as pa

    parts = [_metrics(texts) for texts in blocks(records)] or [_metrics([])]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    digests = columns.pop("digest")
    duplicate = np.ones(len(digests), dtype=bool)
    duplicate[np.unique(digests, return_index=True)[1]] = False
    language = _languages(records)
    return pa.table(
        {"id": records["id"]}
        | {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
        | {"duplicate": duplicate, "language": language, "in_main_language": _in_main(language)}
    )


def expectations(settings: Settings) -> list[Expectation]:
    """Expectations over `describe`'s columns; severity `critical` fails the stage."""
    if not isinstance(settings, ValidateSettings):
        raise TypeError(f"text is validated by ValidateSettings, not {type(settings).__name__}")
    return [*_hard(settings), *_soft(settings)]


def _hard(settings: ValidateSettings) -> Iterator[Expectation]:
    yield between("characters", minimum=1, hard=True, remedy="Remove the empty records, and ingest again.")
    for kind, remedy in (
        ("replacement", "Name the corpus's `encoding`"),
        ("control", "Take binary files out of the corpus's locations"),
    ):
        limit = f"max_{kind}_share"
        yield between(
            f"{kind}_share",
            maximum=getattr(settings, limit),
            breaking=settings.max_damaged_records,
            hard=True,
            remedy=f"{remedy}, or raise `validate.{limit}` or `validate.max_damaged_records`.",
        )
    if settings.languages:
        yield among(
            "language",
            settings.languages,
            breaking=1 - settings.min_language_share,
            hard=True,
            remedy="Remove those records, or change `validate.languages` or `validate.min_language_share`.",
        )


def _soft(settings: ValidateSettings) -> Iterator[Expectation]:
    if not settings.languages:
        yield among(
            "in_main_language",
            [True],
            breaking=1 - settings.min_language_share,
            hard=False,
            remedy="If that is as it should be, lower `validate.min_language_share`.",
        )
    for column, limit in (
        ("repetition", "max_repetition"),
        ("compression_ratio", "min_compression_ratio"),
        ("letter_share", "min_letter_share"),
    ):
        bound = {"minimum" if limit.startswith("min") else "maximum": getattr(settings, limit)}
        remedy = f"Look at those records; the limit is `validate.{limit}`."
        yield between(column, breaking=settings.max_poor_records, hard=False, remedy=remedy, **bound)
    yield among(
        "duplicate",
        [False],
        breaking=settings.max_duplicates_share,
        hard=False,
        remedy="Doubled rows weigh twice; the limit is `validate.max_duplicates_share`.",
    )


def compare(a: pa.Table, b: pa.Table) -> dict[str, float]:
    """How alike two corpora are.

    Returns:
        vocabulary_overlap: share of the 10,000 most frequent words of one that are among those of
            the other (of the smaller vocabulary, where one has fewer words).
        unknown_share: share of the running words of `b` that are outside the vocabulary of `a`.
        unknown_share_back: the same of `a` outside the vocabulary of `b`.
    """
    import numpy as np

    (words_a, counts_a), (words_b, counts_b) = vocabulary(a), vocabulary(b)
    top_a, top_b = words_a[:VOCABULARY_WORDS], words_b[:VOCABULARY_WORDS]
    smaller = max(min(len(top_a), len(top_b)), 1)
    unknown_b = counts_b[~np.isin(words_b, top_a)].sum()
    unknown_a = counts_a[~np.isin(words_a, top_b)].sum()
    return {
        "vocabulary_overlap": len(np.intersect1d(top_a, top_b)) / smaller,
        "unknown_share": float(unknown_b / max(counts_b.sum(), 1)),
        "unknown_share_back": float(unknown_a / max(counts_a.sum(), 1)),
    }


def pieces(records: pa.Table) -> pa.Array:
    """Hashes of the eight-word sequences of each record, case and punctuation aside: list<uint64>."""
    import numpy as np
    import pyarrow as pa

    hashes, offsets = [np.zeros(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)]
    for texts in blocks(records):
        values, starts = sequences(*words(texts), length=PIECE_WORDS)
        hashes.append(values)
        offsets.append(starts[1:] + offsets[-1][-1])
    return pa.LargeListArray.from_arrays(np.concatenate(offsets), np.concatenate(hashes))


def _metrics(texts: list[str]) -> dict[str, NDArray[Any]]:
    """Every metric that looks at one record alone, and a digest of its normalised text."""
    import numpy as np

    columns: dict[str, NDArray[Any]] = {"characters": np.array([len(text) for text in texts], dtype=np.int64)}
    hashes, offsets = words(texts)
    columns["words"] = np.diff(offsets)
    columns |= {f"{name}_share": shares for name, shares in class_shares(texts).items()}
    columns["top_word_share"] = distinct(hashes, offsets)[1] / np.maximum(columns["words"], 1)
    runs, starts = sequences(hashes, offsets, length=REPEATED_WORDS)
    numbers = np.diff(starts)
    repeated = 1 - distinct(runs, starts)[0] / np.maximum(numbers, 1)
    columns["repetition"] = np.where(numbers >= REPEATED_AT_LEAST, repeated, np.nan)
    columns["lines"], columns["repeated_line_share"] = _lines(texts)
    columns["compression_ratio"] = np.array([_compression(text) for text in texts], dtype=np.float64)
    columns["digest"] = np.array([hash64(content({"text": text})) for text in texts], dtype=np.uint64)
    return columns


def _lines(texts: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Number of lines that are not blank, and the share of them that stood earlier in the record."""
    import numpy as np

    numbers, repeated = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts))
    for row, text in enumerate(texts):
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        numbers[row] = len(lines)
        repeated[row] = 1 - len(set(lines)) / len(lines) if lines else 0
    return numbers, repeated


def _compression(text: str) -> float:
    head = text[:COMPRESSED_BYTES].encode("utf-8", "surrogatepass")[:COMPRESSED_BYTES]
    return min(len(zlib.compress(head, level=1)) / len(head), 1.0) if head else 1.0


def _languages(records: pa.Table) -> pa.Array:
    """Language of a sample of the records, null elsewhere and where there is too little text."""
    import pyarrow as pa

    shortest, longest = LANGUAGE_CHARACTERS
    limit = 2**32 * LANGUAGE_RECORDS / max(records.num_rows, 1)
    guesses: list[str | None] = []
    for batch in records.select(["id", "text"]).to_batches():
        for name, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            chosen = text and len(text) >= shortest and zlib.crc32(str(name).encode()) < limit
            guesses.append(_identifier().classify(text[:longest])[0] if chosen else None)
    return pa.array(guesses, pa.string())


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _in_main(language: pa.Array) -> pa.Array:
    """Whether each guess is the most frequent one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(language.drop_null()).to_pylist()}
    if not counts:
        return pa.nulls(len(language), pa.bool_())
    return pc.equal(language, min(counts, key=lambda name: (-counts[name], name)))
