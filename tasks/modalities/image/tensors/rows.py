"""Pictures by position, through a memory map; sample order is `tasks.engine.order`.

Legend: B pictures, C channels, S stored side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.engine.order import row_of, sample_key
from tasks.modalities.image.tensors.decoding import Form, Pixels, decode


class Pictures:
    """Memory-mapped pictures as `tasks.modalities.image.tensors.shards` writes them.

    Attributes:
        num_rows: pictures.
    """

    def __init__(self, folder: Path, form: Form) -> None:
        self._form = form
        columns = [_column(path) for path in sorted(folder.glob("pictures-*.arrow"))]
        self._ends = np.cumsum([len(column) for column in columns])
        self.num_rows = int(self._ends[-1])
        self._shards: list[Any] = columns
        self._is_decoded = pa.types.is_fixed_size_list(columns[0].type)
        if self._is_decoded:
            shape = (-1, form.channels, form.side, form.side)
            self._shards = [column.flatten().to_numpy().reshape(shape) for column in columns]
        else:
            self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")

    def pixels(self, row_B: NDArray[np.int64]) -> Pixels:
        """[B, C, S, S] uint8."""
        shard_B = np.searchsorted(self._ends, row_B, side="right")
        within_B = row_B - np.append(0, self._ends)[shard_B]
        if not self._is_decoded:
            bytes_B = [self._shards[shard][int(row)] for shard, row in zip(shard_B, within_B, strict=True)]
            return np.stack(list(self._threads.map(lambda one: decode(one.as_py(), self._form), bytes_B)))
        if len(self._shards) == 1:
            return self._shards[0].take(row_B, axis=0)
        pixels_BCSS = np.empty((len(row_B), *self._shards[0].shape[1:]), np.uint8)
        for shard in np.unique(shard_B):
            chosen = shard_B == shard
            pixels_BCSS[chosen] = self._shards[shard].take(within_B[chosen], axis=0)
        return pixels_BCSS


def _column(path: Path) -> pa.Array:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)


class StoredPictures:
    """Pictures as they are stored: a batch holds `pixels` [B, C, S, S] uint8 and `key` [B] int64.

    Crops and colours are the objective's, which draws them from the key.
    """

    unit = "images"
    units_per_sample = 1.0

    def __init__(self, pictures: Pictures, seed: int) -> None:
        self._pictures = pictures
        self._seed = seed
        self.num_samples = pictures.num_rows

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The pictures at these positions."""
        position_B = torch.as_tensor(positions, dtype=torch.int64)
        row_B = row_of(position_B, self.num_samples, self._seed).numpy()
        return {
            "pixels": torch.from_numpy(self._pictures.pixels(row_B)),
            "key": sample_key(self._seed, position_B),
        }
