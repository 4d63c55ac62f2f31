"""Which records of a table are equal or alike, by `tasks.corpora.likeness`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.corpora import likeness


def pieces(likes: pa.Array, distance: int) -> pa.Array:
    """Keys of what each record is like, none where that says nothing: list<uint64>."""
    keys = likeness.signatures(likes.to_pylist(), distance)
    offsets = np.cumsum([0, *map(len, keys)], dtype=np.int64)
    return pa.LargeListArray.from_arrays(offsets, np.concatenate([np.empty(0, dtype=np.uint64), *keys]))


def columns(id_: pa.Array, digests: pa.Array, likes: pa.Array, distance: int) -> dict[str, pa.Array]:
    """What records have to do with each other, by names of columns.

    Args:
        id_: of each record.
        digests: hash of what it holds.
        likes: what it is like, in `likeness`'s form; null where that says nothing.
        distance: bits in which like records may differ.

    Returns:
        `duplicate` (an equal one stood earlier), `near_duplicate` (an alike or equal one did), and
        `duplicate_group` (id of the first of those, null where a record is alone).
    """
    ids = id_.to_pylist()
    lists = pieces(likes, distance)
    keys, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    parents = np.arange(len(ids))
    first_with: dict[str | int, int] = {}
    duplicate, near = [], []
    for row, own in enumerate(digests.to_pylist()):
        marks = [own, *keys[offsets[row] : offsets[row + 1]].tolist()]
        known = {first_with[mark] for mark in marks if mark in first_with}
        duplicate.append(own in first_with)
        near.append(bool(known))
        for other in known:
            _join(parents, row, other)
        for mark in marks:
            first_with.setdefault(mark, row)
    firsts = [_root(parents, row) for row in range(len(ids))]
    sizes = np.bincount(firsts, minlength=len(ids))
    group = [ids[first] if sizes[first] > 1 else None for first in firsts]
    return {
        "duplicate": pa.array(duplicate, pa.bool_()),
        "near_duplicate": pa.array(near, pa.bool_()),
        "duplicate_group": pa.array(group, pa.string()),
    }


def _root(parents: NDArray[np.int64], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _join(parents: NDArray[np.int64], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
