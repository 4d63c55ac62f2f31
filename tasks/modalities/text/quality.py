"""What is expected of text: metrics of each record, thresholds on them, and how alike two corpora are.

Metrics follow the filters of MassiveText (Rae et al. 2021, "Scaling Language Models", appendix A.1:
repeated lines, repeated word sequences, share of letters); vocabulary overlap follows Gururangan
et al. 2020, "Don't Stop Pretraining", section 2.
Differs from the papers: stop words stay in the vocabulary, since lists of them exist for few languages.
"""

from __future__ import annotations

import functools
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.settings import setting
from tasks.config import Validate

if TYPE_CHECKING:  # numpy and pyarrow cost a light command 0.3 s, great_expectations 4 s
    import great_expectations.expectations as gxe
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

BLOCK_CHARACTERS = 4_000_000  # 16 MB of code points at a time
LANGUAGE_RECORDS = 5_000  # py3langid takes 0.1 to 0.2 ms a guess
LANGUAGE_CHARACTERS = (30, 300)  # shorter text is not guessed, longer is cut
COMPRESSED_BYTES = 2_048
SEQUENCE_WORDS = 4  # repetition: word sequences that stood earlier in the same record
SEQUENCES_AT_LEAST = 20
PIECE_WORDS = 8  # leakage: GPT-3 took 13 (Brown et al. 2020), too long for tasks of one sentence
VOCABULARY_WORDS = 10_000
LETTER, DIGIT, SPACE, PUNCTUATION, CONTROL, REPLACEMENT, OTHER, IDEOGRAPH = range(8)
WITHOUT_SPACES = (  # scripts that put no space between words: each character counts as a word
    (0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100), (0x3400, 0xA000),
    (0xF900, 0xFB00), (0x20000, 0x32000),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(Validate):
    """Expectations on text; those called hard stop the recipe, the others are reported."""

    languages: tuple[str, ...] = setting(
        (), "Languages that are expected (ISO 639-1 codes); a breach is hard. Empty: any one, and soft."
    )
    min_language_share: float = setting(
        0.8, "Smallest share of records in `languages`, or else in the most frequent language.", ge=0, le=1
    )
    max_damaged_records: float = setting(
        0.01, "Hard: largest share of records over `max_replacement_share` or `max_control_share`.", ge=0, le=1
    )
    max_replacement_share: float = setting(
        0.02, "Share of U+FFFD among a record's characters that makes it damaged.", ge=0, le=1
    )
    max_control_share: float = setting(
        0.05, "Share of control characters in a record that makes it damaged (binary data).", ge=0, le=1
    )
    max_poor_records: float = setting(
        0.1, "Soft: largest share of records that break any one of the three limits below.", ge=0, le=1
    )
    max_repetition: float = setting(
        0.3, "Share of four-word sequences that stood earlier in the same record.", ge=0, le=1
    )
    min_compression_ratio: float = setting(
        0.15, "Compressed size over size of a record's first 2,048 bytes; repetition makes it small.", ge=0, le=1
    )
    min_letter_share: float = setting(0.5, "Share of letters among a record's characters.", ge=0, le=1)
    max_duplicates_share: float = setting(
        0.1, "Soft: largest share of records whose text stood in an earlier one.", ge=0, le=1
    )


def describe(records: pa.Table) -> pa.Table:
    """Derived metrics, one row per record.

    Columns: `id`; `characters`, `words`, `lines`; `language` (of up to 5,000 records, chosen by the
    hash of their id, null elsewhere) and `in_main_language`; shares of `letter`, `digit`, `space`,
    `punctuation`, `control` and `replacement` characters; `repetition` (null under 20 sequences),
    `top_word_share`, `repeated_line_share`, `compression_ratio`; `duplicate` (of an earlier record).
    """
    import numpy as np
    import pyarrow as pa

    parts: list[dict[str, NDArray[Any]]] = []
    for block in _blocks(records):
        texts = block["text"].to_pylist()
        parts.append(_characters(texts) | _repetition(texts) | _one_by_one(texts))
    names = parts[0].keys() if parts else (_characters([]) | _repetition([]) | _one_by_one([])).keys()
    columns = {name: np.concatenate([part[name] for part in parts] or [np.zeros(0)]) for name in names}
    language = _languages(records)
    digests = columns.pop("digest")
    first = np.unique(digests, return_index=True)[1]
    duplicate = np.ones(len(digests), dtype=bool)
    duplicate[first] = False
    table = {"id": records["id"].combine_chunks() if records.num_rows else pa.array([], pa.string())}
    table |= {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    table |= {"language": language, "in_main_language": _in_main(language), "duplicate": pa.array(duplicate)}
    return pa.table(table)


def expectations(settings: Validate) -> list[gxe.Expectation]:
    """Expectations over `describe`'s columns; severity `critical` fails the stage."""
    with warnings.catch_warnings():  # its marshmallow models import a module that Python 3.11 deprecates
        warnings.filterwarnings("ignore", "module 'sre_", DeprecationWarning)
        import great_expectations.expectations as gxe
    if not isinstance(settings, ValidateSettings):
        raise TypeError(f"text is validated by ValidateSettings, not {type(settings).__name__}")
    hard: dict[str, Any] = {"severity": "critical", "mostly": 1 - settings.max_damaged_records}
    soft: dict[str, Any] = {"severity": "warning", "mostly": 1 - settings.max_poor_records}
    between = gxe.ExpectColumnValuesToBeBetween
    in_set = gxe.ExpectColumnValuesToBeInSet
    return [
        between(column="characters", min_value=1, severity="critical"),
        between(column="replacement_share", max_value=settings.max_replacement_share, **hard),
        between(column="control_share", max_value=settings.max_control_share, **hard),
        in_set(
            column="language" if settings.languages else "in_main_language",
            value_set=list(settings.languages) or [True],
            mostly=settings.min_language_share,
            severity="critical" if settings.languages else "warning",
        ),
        between(column="repetition", max_value=settings.max_repetition, **soft),
        between(column="compression_ratio", min_value=settings.min_compression_ratio, **soft),
        between(column="letter_share", min_value=settings.min_letter_share, **soft),
        in_set(
            column="duplicate", value_set=[False], mostly=1 - settings.max_duplicates_share, severity="warning"
        ),
    ]


def compare(a: pa.Table, b: pa.Table) -> dict[str, float]:
    """How alike two corpora are.

    Returns:
        vocabulary_overlap: share of the 10,000 most frequent words of one that are among those of
            the other (of the smaller vocabulary where one has fewer words).
        known_share: share of the running words of `b` that are in the vocabulary of `a`.
        known_share_back: the same of `a` in the vocabulary of `b`.
    """
    import numpy as np

    (words_a, counts_a), (words_b, counts_b) = _vocabulary(a), _vocabulary(b)
    top_a, top_b = (
        words[np.lexsort((words, -counts))[:VOCABULARY_WORDS]]
        for words, counts in ((words_a, counts_a), (words_b, counts_b))
    )
    smaller = min(len(top_a), len(top_b))
    shared = len(np.intersect1d(top_a, top_b))
    return {
        "vocabulary_overlap": shared / smaller if smaller else 0.0,
        "known_share": _share(counts_b[np.isin(words_b, top_a)].sum(), counts_b.sum()),
        "known_share_back": _share(counts_a[np.isin(words_a, top_b)].sum(), counts_a.sum()),
    }


def pieces(records: pa.Table) -> pa.Array:
    """Hashes of every eight-word sequence of each record, case and punctuation aside (list<uint64>)."""
    import numpy as np
    import pyarrow as pa

    values, offsets, end = [np.zeros(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)], 0
    for block in _blocks(records):
        hashes, starts = _sequences(*_words(block["text"].to_pylist()), length=PIECE_WORDS)
        values.append(hashes)
        offsets.append(starts[1:] + end)
        end += len(hashes)
    return pa.LargeListArray.from_arrays(np.concatenate(offsets), np.concatenate(values))


def _blocks(records: pa.Table) -> Iterator[pa.Table]:
    """Slices of about `BLOCK_CHARACTERS`."""
    import numpy as np
    import pyarrow.compute as pc

    if not records.num_rows:
        return
    ends = np.cumsum(pc.utf8_length(records["text"]).to_numpy())
    cuts = np.unique(np.searchsorted(ends, np.arange(BLOCK_CHARACTERS, ends[-1], BLOCK_CHARACTERS)))
    borders = [0, *(int(cut) for cut in cuts if cut), records.num_rows]
    for start, end in zip(borders, borders[1:], strict=False):
        yield records.slice(start, end - start)


@functools.cache
def _classes() -> NDArray[np.uint8]:
    """Class of every code point."""
    import numpy as np

    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE, "P": PUNCTUATION, "S": PUNCTUATION}
    classes = np.full(0x110000, OTHER, dtype=np.uint8)
    for point in range(0x110000):
        category = unicodedata.category(chr(point))
        if category != "Cn":
            classes[point] = by_category.get(category[0], OTHER if category == "Cf" else CONTROL)
    classes[[ord(mark) for mark in "\t\n\v\f\r\x85"]] = SPACE
    classes[0xFFFD] = REPLACEMENT
    for start, end in WITHOUT_SPACES:
        span = classes[start:end]
        span[span == LETTER] = IDEOGRAPH
    return classes


def _code_points(texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All characters one after the other, and the offset at which each text starts (one more at the end)."""
    import numpy as np

    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(joined, dtype=np.uint32), offsets


def _characters(texts: list[str]) -> dict[str, NDArray[Any]]:
    """Counts and shares of characters by class."""
    import numpy as np

    points, offsets = _code_points(texts)
    classes = _classes()[points]
    lengths = np.diff(offsets)
    columns: dict[str, NDArray[Any]] = {"characters": lengths}
    members = {"letter": (LETTER, IDEOGRAPH), "digit": (DIGIT,), "space": (SPACE,)}
    members |= {"punctuation": (PUNCTUATION,), "control": (CONTROL,), "replacement": (REPLACEMENT,)}
    for name, numbers in members.items():
        mask = functools.reduce(np.logical_or, [classes == number for number in numbers])
        columns[f"{name}_share"] = _sums(mask, offsets) / np.maximum(lengths, 1)
    return columns


def _sums(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of each text's part of `values`; empty texts have 0."""
    import numpy as np

    totals = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=totals[1:])
    sums: NDArray[np.int64] = totals[offsets[1:]] - totals[offsets[:-1]]
    return sums


def _words(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A 64-bit hash of every word (a run of letters and digits, case folded), and offsets by text.

    A word is hashed as the polynomial of its mixed code points modulo 2^64, by differences of one
    running sum: 20 times faster than hashing each word as a Python string.
    """
    import numpy as np

    points, offsets = _code_points([text.casefold() for text in texts])
    classes = _classes()[points]
    inside = (classes == LETTER) | (classes == DIGIT)
    alone = classes == IDEOGRAPH
    before = np.concatenate([[False], inside[:-1]]) if len(inside) else inside
    starts = (inside & ~before) | alone
    starts[offsets[:-1][offsets[:-1] < len(points)]] |= inside[offsets[:-1][offsets[:-1] < len(points)]]
    first = np.flatnonzero(starts)
    after = np.concatenate([inside[1:], [False]]) if len(inside) else inside
    ends = (inside & ~after) | alone
    borders = offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < len(points))] - 1
    ends[borders] |= inside[borders]
    last = np.flatnonzero(ends)
    running, powers = _running(_mix(points.astype(np.uint64) + np.uint64(1)))
    hashes = _mix((running[last + 1] - running[first]) * powers[1][first])
    return hashes, np.searchsorted(first, offsets)


def _sequences(
    words: NDArray[np.uint64], offsets: NDArray[np.int64], length: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all runs of `length` words within a text, and offsets by text."""
    import numpy as np

    running, powers = _running(words)
    counts = np.maximum(np.diff(offsets) - length + 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    first = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], counts)
    return _mix((running[first + length] - running[first]) * powers[1][first]), starts


def _running(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], tuple[NDArray[np.uint64], ...]]:
    """Running sums of values[i] * base^i modulo 2^64, and the powers of base and of its inverse."""
    import numpy as np

    base = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
    powers = []
    for factor in (base, pow(base, -1, 2**64)):
        power = np.full(len(values) + 1, factor, dtype=np.uint64)
        power[0] = 1
        powers.append(np.cumprod(power, dtype=np.uint64))
    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[0][:-1], out=running[1:])
    return running, tuple(powers)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


def _repetition(texts: list[str]) -> dict[str, NDArray[Any]]:
    """Number of words, share of the most frequent one, share of repeated word sequences."""
    import numpy as np

    words, offsets = _words(texts)
    sequences, starts = _sequences(words, offsets, SEQUENCE_WORDS)
    numbers = np.diff(offsets)
    distinct, most = _distinct(words, offsets)[1], np.diff(starts)
    repeated = 1 - _distinct(sequences, starts)[0] / np.maximum(most, 1)
    return {
        "words": numbers,
        "top_word_share": distinct / np.maximum(numbers, 1),
        "repetition": np.where(most >= SEQUENCES_AT_LEAST, repeated, np.nan),
    }


def _distinct(values: NDArray[np.uint64], offsets: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many distinct values each text has, and how often its most frequent one stands."""
    import numpy as np

    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((values, owners))
    values, owners = values[order], owners[order]
    new = np.ones(len(values), dtype=bool)
    new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    counts = np.diff(np.append(np.flatnonzero(new), len(values)))
    most = np.zeros(len(offsets) - 1, dtype=np.int64)
    np.maximum.at(most, owners[new], counts)
    return np.bincount(owners[new], minlength=len(offsets) - 1), most


def _one_by_one(texts: list[str]) -> dict[str, NDArray[Any]]:
    """What has no vectorised form: lines, compression, a digest of the normalised text."""
    import numpy as np
    import xxhash

    lines = np.zeros(len(texts), dtype=np.int64)
    repeated, ratio = np.zeros(len(texts)), np.ones(len(texts))
    digests = np.zeros(len(texts), dtype=np.uint64)
    for row, text in enumerate(texts):
        filled = [line for line in text.split("\n") if line and not line.isspace()]
        lines[row] = len(filled)
        if len(filled) > 1:
            repeated[row] = 1 - len(set(filled)) / len(filled)
        head = text[:COMPRESSED_BYTES].encode("utf-8", "surrogatepass")[:COMPRESSED_BYTES]
        ratio[row] = min(len(zlib.compress(head, 1)) / len(head), 1.0) if head else 1.0
        digests[row] = xxhash.xxh3_64_intdigest(" ".join(text.casefold().split()))
    return {"lines": lines, "repeated_line_share": repeated, "compression_ratio": ratio, "digest": digests}


def _languages(records: pa.Table) -> pa.Array:
    """Language of a sample of the records, null elsewhere and where there is too little text."""
    import pyarrow as pa

    shortest, longest = LANGUAGE_CHARACTERS
    limit = 2**32 * LANGUAGE_RECORDS / max(records.num_rows, 1)
    guesses: list[str | None] = []
    for batch in records.select(["id", "text"]).to_batches():
        for name, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            chosen = zlib.crc32(str(name).encode()) < limit and len(text) >= shortest
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


def _vocabulary(records: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Distinct words by hash, and how often each stands."""
    import numpy as np

    words, counts = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    for block in _blocks(records):
        found, times = np.unique(_words(block["text"].to_pylist())[0], return_counts=True)
        words, where = np.unique(np.concatenate([words, found]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts, times])).astype(np.int64)
    return words, counts


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0
