"""Segments by position; sample order is `tasks.engine.order`.

Legend: B segments, N samples of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.parts.counter import integers
from tasks.engine.order import row_of, sample_key
from tasks.modalities.speech.tensors.shards import Segments

_SHIFT_STREAM = 16  # apart from the streams that objectives draw from


class StoredSounds:
    """Segments, each begun at another sample in every epoch.

    A batch holds `sound` [B, N] int16 and `key` [B] int64.
    """

    unit = "seconds of audio"

    def __init__(self, segments: Segments, rate_hz: int, seed: int) -> None:
        self._segments = segments
        self._seed = seed
        self.num_samples = segments.num_rows
        self.units_per_sample = segments.num_samples / rate_hz

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The segments at these positions."""
        position_B = torch.as_tensor(positions, dtype=torch.int64)
        key_B = sample_key(self._seed, position_B)
        row_B = row_of(position_B, self.num_samples, self._seed)
        shift_B = integers(key_B, 1, self._segments.num_samples, stream=_SHIFT_STREAM)[:, 0]
        sound_BN = self._segments.samples(row_B.numpy(), shift_B.numpy())
        return {"sound": torch.from_numpy(sound_BN), "key": key_B}
