"""Near duplicates of text: MinHash over word shingles, cut into bands.

Broder, "On the resemblance and containment of documents", 1997; banding as in Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", chapter 3 (http://www.mmds.org). Permutations, minima and the
best number of bands come from datasketch. A signature is the band hashes alone: two texts count as
near duplicates when they share one. That is datasketch's `MinHashLSH.query`, in 8 bytes a band
instead of several hundred, so that hundreds of millions of documents fit one machine.
"""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(rb"[0-9a-z_]+")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts without spaces: each character is a word
_ANY_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_CHUNK = 4096  # shingles at once: 2 MB of permuted values at 128 permutations, however long the text

Signature = NDArray[np.uint64]


def signature(text: str, *, threshold: float, shingle_words: int, permutations: int) -> Signature:
    """Band hashes of a text; none where it has fewer words than a shingle.

    Args:
        text: the text; case and punctuation don't count.
        threshold: Jaccard similarity of shingle sets from which two texts count as the same.
        shingle_words: words per shingle.
        permutations: size of the MinHash; more is sharper around the threshold, and slower.
    """
    words = np.fromiter(map(zlib.crc32, _words(text.lower())), dtype=np.uint32)
    num_shingles = len(words) - shingle_words + 1
    if num_shingles < 1:
        return np.empty(0, dtype=np.uint64)
    shingles = np.zeros(num_shingles, dtype=np.uint32)
    for offset in range(shingle_words):
        shingles *= np.uint32(0x9E3779B1)
        shingles += words[offset : offset + num_shingles]
    sketch = _empty_sketch(permutations).copy()
    for start in range(0, num_shingles, _CHUNK):
        sketch.update_batch(shingles[start : start + _CHUNK].tolist())
    return _bands(sketch.hashvalues, *_shape(threshold, permutations))


def _words(text: str) -> list[bytes]:
    if text.isascii():  # twice as fast
        return _WORD.findall(text.encode())
    return [word.encode() for word in _ANY_WORD.findall(text)]


def _bands(minima: NDArray[np.uint32], num_bands: int, rows: int) -> Signature:
    """One 64-bit hash per band of `rows` minima, different for equal minima of different bands."""
    used = minima[: num_bands * rows].astype(np.uint64)
    folded = np.add.reduceat(used * _multipliers(num_bands * rows), np.arange(0, num_bands * rows, rows))
    folded ^= folded >> np.uint64(33)
    folded *= np.uint64(0xFF51AFD7ED558CCD)
    return np.asarray(folded ^ (folded >> np.uint64(33)))


@functools.cache
def _empty_sketch(permutations: int) -> Any:
    from datasketch import MinHash  # brings scipy: 1.5 s that listings need not pay

    return MinHash(num_perm=permutations, seed=1, hashfunc=_itself, scheme="affine32")


def _itself(value: Any) -> Any:
    """Shingles are hashes already."""
    return value


@functools.cache
def _shape(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands, and rows per band, that err least around the threshold."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=permutations)
    return index.b, index.r


@functools.cache
def _multipliers(count: int) -> NDArray[np.uint64]:
    odd = np.random.RandomState(1).randint(0, 1 << 63, count, dtype=np.uint64)
    return np.asarray(odd * np.uint64(2) + np.uint64(1))
