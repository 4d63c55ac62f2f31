"""Characters and words of many texts at once, as numpy arrays: no Python object per word.

A word is a run of letters and digits with its case folded, or one character of a script that puts
no space between words. It is represented by a 64-bit hash that is the same in every process.

Source of the hashing: Karp and Rabin 1987, "Efficient randomized pattern-matching algorithms".
Differs from the paper: modulo 2^64 instead of a random prime, over values mixed by splitmix64
(Steele et al. 2014), so that structured text has no more collisions than random text.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy and pyarrow cost a light command 0.3 s
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

BLOCK_CHARACTERS = 1_000_000  # all arrays over one block: about 60 MB
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
LETTER, DIGIT, SPACE, PUNCTUATION, CONTROL, REPLACEMENT, OTHER, IDEOGRAPH = range(8)
WITHOUT_SPACES = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1000, 0x10A0),  # Myanmar
    (0x1780, 0x1800),  # Khmer
    (0x3040, 0x3100),  # Hiragana, Katakana
    (0x3400, 0xA000),  # Han
    (0xF900, 0xFB00),
    (0x20000, 0x32000),
)


def blocks(records: pa.Table) -> Iterator[list[str]]:
    """The texts, about `BLOCK_CHARACTERS` at a time; a missing text is an empty one."""
    import numpy as np
    import pyarrow.compute as pc

    if not records.num_rows:
        return
    texts = pc.fill_null(records["text"], "")
    ends = np.cumsum(pc.utf8_length(texts).to_numpy())
    cuts = np.searchsorted(ends, np.arange(BLOCK_CHARACTERS, ends[-1], BLOCK_CHARACTERS), side="right")
    borders = [0, *(int(cut) for cut in np.unique(cuts) if cut), records.num_rows]
    for start, end in itertools.pairwise(borders):
        yield texts.slice(start, end - start).to_pylist()


def class_shares(texts: list[str]) -> dict[str, NDArray[np.float64]]:
    """Share of letters, digits, ... among the characters of each text; zeros for an empty one."""
    import numpy as np

    points, starts = _code_points(texts)
    classes = _classes()[points]
    lengths = np.diff(starts) - 1
    members = {"letter": (LETTER, IDEOGRAPH), "digit": (DIGIT,), "space": (SPACE,)}
    members |= {"punctuation": (PUNCTUATION,), "control": (CONTROL,), "replacement": (REPLACEMENT,)}
    shares = {}
    for name, numbers in members.items():
        seen = np.zeros(len(classes) + 1, dtype=np.int64)
        np.cumsum(functools.reduce(np.logical_or, [classes == number for number in numbers]), out=seen[1:])
        shares[name] = (seen[starts[:-1] + lengths] - seen[starts[:-1]]) / np.maximum(lengths, 1)
    return shares


def words(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash of every word, and the offset at which each text starts (one more at the end)."""
    import numpy as np

    points, starts = _code_points([text.casefold() for text in texts])
    classes = _classes()[points]
    inside = np.zeros(len(points) + 2, dtype=bool)
    inside[1:-1] = (classes == LETTER) | (classes == DIGIT)
    alone = classes == IDEOGRAPH
    first = np.flatnonzero((inside[1:-1] & ~inside[:-2]) | alone)
    last = np.flatnonzero((inside[1:-1] & ~inside[2:]) | alone)
    hashes = _hash_spans(_mix(points.astype(np.uint64) + np.uint64(1)), first, last + 1)
    return hashes, np.searchsorted(first, starts)


def sequences(
    words: NDArray[np.uint64], offsets: NDArray[np.int64], length: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash of every run of `length` words within a text, and offsets by text."""
    import numpy as np

    counts = np.maximum(np.diff(offsets) - length + 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    first = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], counts)
    return _hash_spans(words, first, first + length), starts


def distinct(values: NDArray[np.uint64], offsets: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many distinct values each text has, and how often its most frequent one stands."""
    import numpy as np

    bits = len(
        offsets
    ).bit_length()  # which text in the high bits, the hash in the others: one sort of numbers
    owners = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    keys = np.sort((owners << np.uint64(64 - bits)) | (values >> np.uint64(bits)))
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, int)
    owners = (keys[first] >> np.uint64(64 - bits)).astype(np.int64)
    most = np.zeros(len(offsets) - 1, dtype=np.int64)
    np.maximum.at(most, owners, np.diff(np.append(first, len(keys))))
    return np.bincount(owners, minlength=len(offsets) - 1), most


def vocabulary(records: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Distinct words of all texts by hash, most frequent first, and how often each stands."""
    import numpy as np

    known, counts = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    for texts in blocks(records):
        found, times = np.unique(words(texts)[0], return_counts=True)
        known, where = np.unique(np.concatenate([known, found]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts, times])).astype(np.int64)
    order = np.lexsort((known, -counts))
    return known[order], counts[order]


@functools.cache
def _classes() -> NDArray[np.uint8]:
    """Class of every code point."""
    import numpy as np

    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE, "P": PUNCTUATION, "S": PUNCTUATION}
    classes = np.full(0x110000, OTHER, dtype=np.uint8)
    for point in range(0x110000):
        category = unicodedata.category(chr(point))
        if category[0] != "C":
            classes[point] = by_category[category[0]]
        elif category in ("Cc", "Cs"):  # the others: not assigned (a newer emoji), private, zero-width joiner
            classes[point] = CONTROL
    classes[[ord(mark) for mark in "\t\n\v\f\r\x85"]] = SPACE
    classes[0xFFFD] = REPLACEMENT
    for start, end in WITHOUT_SPACES:
        span = classes[start:end]
        span[span == LETTER] = IDEOGRAPH
    return classes


def _code_points(texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All characters, a line break after each text, and where each text starts (one more at the end)."""
    import numpy as np

    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) + 1 for text in texts], out=starts[1:])
    joined = "".join(f"{text}\n" for text in texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(joined, dtype=np.uint32), starts


def _hash_spans(
    values: NDArray[np.uint64], first: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Hash of values[first:end] for every span: a polynomial, by differences of one running sum."""
    import numpy as np

    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * _powers(BASE, len(values)), out=running[1:])
    shift = _powers(pow(BASE, -1, 2**64), len(values) + 1)
    return _mix((running[end] - running[first]) * shift[first])


def _powers(factor: int, number: int) -> NDArray[np.uint64]:
    """factor^0, factor^1, ... modulo 2^64."""
    return _power_table(factor, number.bit_length())[:number]


@functools.lru_cache(maxsize=4)
def _power_table(factor: int, bits: int) -> NDArray[np.uint64]:
    import numpy as np

    powers = np.full(1 << bits, factor, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
