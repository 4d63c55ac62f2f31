"""Histograms over a sample of a corpus, and what two of them share."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Histogram = NDArray[np.float64]


def by_hash(records: pa.Table, most: int) -> pa.Table:
    """About so many of the records, chosen by the hash of their id; all where there are fewer."""
    share = most / max(records.num_rows, 1)
    if share >= 1:
        return records
    return records.filter([zlib.crc32(name.encode()) < share * 2**32 for name in records["id"].to_pylist()])


def shared(a: Histogram, b: Histogram) -> float:
    """What two histograms have in common, as a share: 1 where they are equal, 0 where they never meet."""
    if not a.sum() or not b.sum():
        return 0.0
    return float(np.minimum(a / a.sum(), b / b.sum()).sum())
