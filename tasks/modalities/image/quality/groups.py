"""Which pictures of a table are equal or look alike."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.modalities.image.records import likeness


def pieces(records: pa.Table, distance: int) -> pa.Array:
    """Keys of each picture's `looks`, none where nothing is to be seen: list<uint64>."""
    looks = records["looks"].to_pylist()
    seen = [value for value in looks if value is not None]
    keys_NK = likeness.keys(seen, distance)
    numbers = np.array([0 if value is None else keys_NK.shape[1] for value in looks], dtype=np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(numbers)])
    return pa.LargeListArray.from_arrays(offsets, keys_NK.reshape(-1))


def of(records: pa.Table, distance: int) -> tuple[list[bool], list[bool], list[str | None]]:
    """Whether each equals an earlier picture, whether it looks like one, and the id of its group's first."""
    ids, pixels = records["id"].to_pylist(), records["pixels"].to_pylist()
    lists = pieces(records, distance)
    keys, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    parents = np.arange(len(ids))
    first_with: dict[str | int, int] = {}
    duplicate, near = [], []
    for row, own in enumerate(pixels):
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
    return duplicate, near, [ids[first] if sizes[first] > 1 else None for first in firsts]


def _root(parents: NDArray[np.int64], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _join(parents: NDArray[np.int64], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
