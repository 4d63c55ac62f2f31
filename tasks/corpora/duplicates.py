"""Which of many 64-bit hashes were seen before, at 8 bytes each.

Sorted runs of doubling size, merged as they grow (a log-structured merge tree in memory): a Python
set would take ten times the memory, and a table of fixed size would need to know the count. Among a
billion hashes the chance that one new one is mistaken for seen is one in 20 billion per look-up.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


def hash64(content: bytes) -> int:
    """A stable 64-bit hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class Seen:
    """A growing set of 64-bit hashes."""

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """For each hash, whether it was added before."""
        found = np.zeros(hashes.shape, dtype=np.bool_)
        for run in self._runs:
            at = np.searchsorted(run, hashes)
            at[at == len(run)] = 0
            found |= run[at] == hashes
        return found

    def add(self, hashes: Hashes) -> None:
        """Remember the hashes."""
        if not len(hashes):
            return
        self._runs.append(np.unique(hashes))
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._runs.append(np.union1d(self._runs.pop(), self._runs.pop()))

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)
