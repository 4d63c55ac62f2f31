"""Samples of packed text by position: rows for language modelling, pairs of spans for contrast.

Rows are read through a memory map, without workers and without work per row in Python. Sample order
is `tasks.engine.order`; what is random in a sample follows from its key.

Legend: B samples, L tokens per row, S tokens per span.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.parts.counter import integers
from tasks.engine.order import row_of, sample_key
from tasks.modalities.text.tensors.segments import Ids

PADDING = -1  # in `document_ids`
_SPAN_STREAM = 16  # apart from the streams that objectives draw from


class Stream:
    """A memory-mapped stream of packed documents, as `tasks.modalities.text.tensors.packing` writes it.

    Attributes:
        num_rows: rows of `sequence_length` tokens.
        sequence_length: tokens per row.
        num_tokens: tokens without padding.
        starts: offset of each document.
    """

    def __init__(self, folder: Path) -> None:
        documents = _batch(folder / "documents.arrow")
        self.num_tokens = int(documents.schema.metadata[b"tokens"])
        self.starts: Ids = documents.column(0).to_numpy()
        self._shards: list[NDArray[Any]] = []
        for path in sorted(folder.glob("rows-*.arrow")):
            rows = _batch(path).column(0)
            self.sequence_length = rows.type.list_size
            self._shards.append(rows.flatten().to_numpy())
        self._shard_tokens = len(self._shards[0])
        self.num_rows = sum(map(len, self._shards)) // self.sequence_length

    def tokens(self, first_B: Ids, length: int) -> Ids:
        """[B, length] int64 ids from these offsets on; what lies behind the end repeats the last id."""
        place_BL = first_B[:, None] + np.arange(length)
        if len(self._shards) == 1:
            return self._shards[0].take(place_BL, mode="clip").astype(np.int64)
        place_BL = np.minimum(place_BL, self.num_rows * self.sequence_length - 1)
        shard_BL, within_BL = np.divmod(place_BL, self._shard_tokens)
        ids_BL = np.empty(place_BL.shape, np.int64)
        for shard in np.unique(shard_BL):
            chosen = shard_BL == shard
            ids_BL[chosen] = self._shards[shard][within_BL[chosen]]
        return ids_BL

    def lengths(self) -> Ids:
        """Tokens of each document."""
        return np.diff(np.append(self.starts, self.num_tokens))

    def document_ids(self, row_B: Ids) -> Ids:
        """[B, L]: 0 for a row's first document, 1 for its second, …; `PADDING` behind the stream's end."""
        length = self.sequence_length
        first_B = row_B * length
        begin_B = np.searchsorted(self.starts, first_B, side="right")
        count_B = np.searchsorted(self.starts, first_B + length, side="left") - begin_B
        sample = np.repeat(np.arange(len(row_B)), count_B)
        number = np.arange(len(sample)) - np.repeat(np.cumsum(count_B) - count_B, count_B) + begin_B[sample]
        ids_BL = np.zeros((len(row_B), length), np.int64)
        ids_BL[sample, self.starts[number] - first_B[sample]] = 1
        np.cumsum(ids_BL, axis=1, out=ids_BL)
        ids_BL[first_B[:, None] + np.arange(length) >= self.num_tokens] = PADDING
        return ids_BL


def _batch(path: Path) -> pa.RecordBatch:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return reader.get_batch(0)


class PackedRows:
    """Rows as they are packed.

    A batch holds `input_ids` [B, L], `document_ids` [B, L] (which document of its row a token
    belongs to, −1 for padding) and `key` [B].
    """

    unit = "tokens"

    def __init__(self, stream: Stream, seed: int, *, is_joined: bool) -> None:
        self._stream = stream
        self._seed = seed
        self._is_joined = is_joined
        self.num_samples = stream.num_rows
        self.units_per_sample = float(stream.sequence_length)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The rows at these positions."""
        position_B = torch.as_tensor(positions, dtype=torch.int64)
        row_B = row_of(position_B, self.num_samples, self._seed).numpy()
        length = self._stream.sequence_length
        document_ids_BL = self._stream.document_ids(row_B)
        if self._is_joined:
            document_ids_BL = np.minimum(document_ids_BL, 0)
        return {
            "input_ids": torch.from_numpy(self._stream.tokens(row_B * length, length)),
            "document_ids": torch.from_numpy(document_ids_BL),
            "key": sample_key(self._seed, position_B),
        }


class SpanPairs:
    """Two spans of one document that do not overlap (Giorgi et al. 2021, DeCLUTR, section 3.1).

    Differs from the paper: spans never overlap, and both are as long as fits, not of random length;
    one anchor and one positive per document. A document is taken where each span can have half
    the full length.

    A batch holds `anchor_ids` and `positive_ids` [B, S], with the tokenizer's special tokens around
    and padding behind, and `key` [B].

    Args:
        stream: packed documents.
        seed: seed of the run.
        span_length: S, special tokens included.
        before: special tokens before a text.
        after: special tokens after a text.
        pad_id: fills short spans.
    """

    unit = "tokens"

    def __init__(
        self,
        stream: Stream,
        seed: int,
        *,
        span_length: int,
        before: Sequence[int],
        after: Sequence[int],
        pad_id: int,
    ) -> None:
        self._stream = stream
        self._seed = seed
        self._before, self._after = list(before), list(after)
        self._pad_id = pad_id
        self._length = span_length
        self._most = span_length - len(before) - len(after)
        body = stream.lengths() - len(before) - len(after)
        long_enough = np.flatnonzero(body >= 2 * max(1, self._most // 2))
        self._body = body[long_enough]
        self._starts = stream.starts[long_enough] + len(before)
        self.num_samples = len(long_enough)
        self.units_per_sample = 2.0 * span_length

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The spans of the documents at these positions; which is the anchor is random, too."""
        position_B = torch.as_tensor(positions, dtype=torch.int64)
        key_B = sample_key(self._seed, position_B)
        document_B = row_of(position_B, self.num_samples, self._seed).numpy()
        body_B = self._body[document_B]
        size_B = np.minimum(self._most, body_B // 2)
        free_B = body_B - 2 * size_B
        drawn_B2 = integers(key_B, 2, torch.from_numpy(free_B + 1)[:, None], stream=_SPAN_STREAM).numpy()
        swap_B = integers(key_B, 1, 2, stream=_SPAN_STREAM + 1).numpy()[:, 0].astype(np.bool_)
        left_B = self._starts[document_B] + drawn_B2.min(1)
        right_B = self._starts[document_B] + drawn_B2.max(1) + size_B
        return {
            "anchor_ids": self._framed(np.where(swap_B, right_B, left_B), size_B),
            "positive_ids": self._framed(np.where(swap_B, left_B, right_B), size_B),
            "key": key_B,
        }

    def _framed(self, first_B: Ids, size_B: Ids) -> Tensor:
        """[B, S]: special tokens, the span, special tokens, padding."""
        first = len(self._before)
        ids_BS = np.full((len(first_B), self._length), self._pad_id, np.int64)
        ids_BS[:, :first] = self._before
        ids_BS[:, first : first + self._most] = self._stream.tokens(first_B, self._most)
        ids_BS[np.arange(self._length) >= (first + size_B)[:, None]] = self._pad_id
        row_B = np.arange(len(first_B))
        for place, token in enumerate(self._after):
            ids_BS[row_B, first + size_B + place] = token
        return torch.from_numpy(ids_BS)
