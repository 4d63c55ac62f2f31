"""Whether two records look or sound alike: 64 bits and two numbers of each, as keys that like ones share.

Records whose bits differ in few places are found without comparing all pairs as in Manku, Jain, Das Sarma,
"Detecting Near-Duplicates for Web Crawling", 2007, section 3: the 64 bits are cut into blocks, and each
key leaves out as many blocks as bits may differ; so records that near share at least one key. Others agree
in 2^-38 of pairs if their bits are independent, more often where all are taken alike (X-rays, products):
there set `distance` to 0. A key also holds the cell of the two numbers, 0 to 255, in one of three grids,
shifted so that less than 16 levels apart share a cell in one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LENGTH = 10  # bytes: the bits and both numbers
BLOCKS = (1, 3, 6, 8, 10)  # by the number of bits that may differ: 64, 42, 42, 40 and 38 bits a key
CELL, SHIFT = 48, 16  # levels of the two numbers

Keys = NDArray[np.uint64]


def keys(stored: list[bytes], distance: int) -> Keys:
    """Keys [record, key]; of two records that are alike at least one is equal.

    Args:
        stored: of each record 8 bytes of bits, and the two numbers.
        distance: how many of the bits may differ.
    """
    values_N10 = np.frombuffer(b"".join(stored), dtype=np.uint8).reshape(-1, LENGTH)
    hashes_N = np.ascontiguousarray(values_N10[:, :8]).view(np.uint64)[:, 0]
    number_N2 = values_N10[:, 8:].astype(np.uint64)
    found = []
    for number, (kept, grid) in enumerate(itertools.product(_kept_bits(distance), range(CELL // SHIFT))):
        cells_N2 = (number_N2 + np.uint64(grid * SHIFT)) // np.uint64(CELL)
        cell_N = cells_N2[:, 0] * np.uint64(8) + cells_N2[:, 1]
        found.append(_mixed((hashes_N & kept) ^ _mixed(cell_N + np.uint64(64 * number + 1))))
    return np.stack(found, axis=1)


def signatures(likes: Sequence[bytes | None], distance: int) -> list[Keys]:
    """The keys of each record, none where it is like nothing."""
    found = iter(keys([like for like in likes if like is not None], distance))
    nothing = np.empty(0, dtype=np.uint64)
    return [nothing if like is None else next(found) for like in likes]


@functools.cache
def _kept_bits(distance: int) -> tuple[np.uint64, ...]:
    """One mask per choice of the blocks that are left out."""
    borders = np.linspace(0, 64, BLOCKS[distance] + 1).round().astype(int).tolist()
    blocks = [sum(1 << bit for bit in range(*ends)) for ends in itertools.pairwise(borders)]
    everything = (1 << 64) - 1
    return tuple(
        np.uint64(everything ^ sum(left_out)) for left_out in itertools.combinations(blocks, distance)
    )


def _mixed(values: Keys) -> Keys:
    """SplitMix64's finaliser: every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
