"""Documents as one stream of tokens, cut into rows of one length: Arrow IPC, uncompressed, memory-mapped.

    rows-00000.arrow …   input_ids: FixedSizeList<uint16 | uint32>[sequence_length], one record batch per file
    documents.arrow      start: int64, offset of each document in the stream; metadata `tokens`: its length

The rows laid end to end are the stream; the last row is padded. A document's ids are those of the
library's `tokenizer(document)`, or of that and the end-of-text token where the tokenizer adds
nothing itself (`tasks.modalities.text.tensors.tokenizers.frame`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.modalities.text.tensors.segments import Ids, Segments, count_words
from tasks.modalities.text.tensors.tokenizers import frame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

SHARD_TOKENS = 1 << 26  # of one file, which is written as a whole: 128 or 256 MB
NUM_THREADS = 2  # numpy and tokenizers let go of the interpreter; more gain little and take memory
CHECKED_DOCUMENTS = 32  # of each chunk that is encoded


class SegmentsDisagree(Exception):
    """Encoding by segments gave other ids than the library for a document."""


class Encoder:
    """Documents to token ids, by segments where that is certain, else as the library does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.before, self.after = frame(tokenizer)
        self._adds_end = not self.before and self.after == [tokenizer.eos_token_id]
        self._backend: Any = tokenizer.backend_tokenizer
        segments = Segments(self._backend)
        self._segments: Segments | None = segments if segments.is_known else None
        if self._segments is None:
            log.info("this tokenizer's cuts are not known: documents are encoded one by one, which is slower")

    def use_library(self) -> None:
        """Encode as the library does from now on."""
        self._segments = None

    def encode(self, documents: pa.Array) -> tuple[Ids, Ids]:
        """Ids of all documents in a row, special tokens included, and the number of each document's."""
        encode = self._by_library if self._segments is None else self._segments.encode
        return self._framed(*encode(documents))

    def _by_library(self, documents: pa.Array) -> tuple[Ids, Ids]:
        encodings = self._backend.encode_batch_fast(documents.to_pylist(), add_special_tokens=False)
        ids = [np.array(encoding.ids, np.int64) for encoding in encodings]
        return np.concatenate([np.zeros(0, np.int64), *ids]), np.array([len(part) for part in ids], np.int64)

    def _framed(self, body: Ids, lengths: Ids) -> tuple[Ids, Ids]:
        """Put the special tokens around each document."""
        if not self.before and not self.after:
            return body, lengths
        whole = lengths + len(self.before) + len(self.after)
        ends = np.cumsum(whole)
        starts = ends - whole
        ids = np.empty(int(whole.sum()), np.int64)
        is_body = np.ones(len(ids), np.bool_)
        for place, token in enumerate(self.before):
            ids[starts + place], is_body[starts + place] = token, False
        for place, token in enumerate(reversed(self.after)):
            ids[ends - 1 - place], is_body[ends - 1 - place] = token, False
        ids[is_body] = body
        return ids, whole

    def check(self, documents: pa.Array, ids: Ids, lengths: Ids) -> None:
        """Compare a sample of the documents with the library, where they were not encoded by it.

        Raises:
            SegmentsDisagree: one has other ids.
        """
        if self._segments is None:
            return
        ends = np.cumsum(lengths)
        step = max(1, len(documents) // CHECKED_DOCUMENTS)
        for number in range(0, len(documents), step):
            text = documents[number].as_py()
            expected = self.tokenizer(text, verbose=False)["input_ids"]
            if self._adds_end:
                expected = [*expected, self.tokenizer.eos_token_id]
            if ids[ends[number] - lengths[number] : ends[number]].tolist() != expected:
                raise SegmentsDisagree(text)


class Packer:
    """Writes a stream of documents as rows.

    Args:
        folder: an existing, empty folder.
        sequence_length: tokens per row.
        vocabulary_size: decides between 16 and 32 bits per token.
        pad_id: fills the last row.
    """

    def __init__(self, folder: Path, *, sequence_length: int, vocabulary_size: int, pad_id: int) -> None:
        self.num_tokens = 0
        self.num_documents = 0
        self._folder = folder
        self._length = sequence_length
        self._dtype: Any = np.uint16 if vocabulary_size <= 1 << 16 else np.uint32
        self._pad_id = pad_id
        self._waiting: list[NDArray[Any]] = []
        self._num_waiting = 0
        self._starts: list[Ids] = []
        self._num_shards = 0
        self._shard_tokens = max(1, SHARD_TOKENS // sequence_length) * sequence_length

    def add(self, ids: Ids, lengths: Ids) -> None:
        """Append documents; those without any token leave no trace."""
        lengths = lengths[lengths > 0]
        self._starts.append(self.num_tokens + np.cumsum(lengths) - lengths)
        self.num_tokens += len(ids)
        self.num_documents += len(lengths)
        self._waiting.append(ids.astype(self._dtype))
        self._num_waiting += len(ids)
        while self._num_waiting >= self._shard_tokens:
            stream = np.concatenate(self._waiting)
            self._write_rows(stream[: self._shard_tokens])
            self._waiting = [stream[self._shard_tokens :]]
            self._num_waiting = len(self._waiting[0])

    def close(self) -> int:
        """Write the padded rest and the documents' offsets; answer the number of rows."""
        rest = np.concatenate([np.zeros(0, self._dtype), *self._waiting])
        padding = np.full(-len(rest) % self._length, self._pad_id, self._dtype)
        if len(rest) or not self._num_shards:
            self._write_rows(np.concatenate([rest, padding]))
        starts = pa.array(np.concatenate([np.zeros(0, np.int64), *self._starts]))
        schema = pa.schema([("start", pa.int64())], metadata={"tokens": str(self.num_tokens)})
        _write(self._folder / "documents.arrow", pa.record_batch([starts], schema=schema))
        return -(-self.num_tokens // self._length)

    def _write_rows(self, stream: NDArray[Any]) -> None:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(stream), self._length)
        _write(
            self._folder / f"rows-{self._num_shards:05d}.arrow", pa.record_batch([rows], names=["input_ids"])
        )
        self._num_shards += 1


def _write(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def pack(
    chunks: Iterable[pa.Array], encoder: Encoder, packer: Packer, unknown_id: int | None
) -> Iterator[tuple[int, int, int]]:
    """Encode and pack chunk by chunk, in threads; yields (documents, words, unknown tokens) of each.

    Raises:
        SegmentsDisagree: see `Encoder.check`; what is packed must then be thrown away.
    """

    def encode(documents: pa.Array) -> tuple[pa.Array, Ids, Ids, int]:
        return documents, *encoder.encode(documents), count_words(documents)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        running: deque[Future[tuple[pa.Array, Ids, Ids, int]]] = deque()
        for documents in chain(chunks, [None] * NUM_THREADS):
            if documents is not None:
                running.append(threads.submit(encode, documents))
            if running and (documents is None or len(running) > NUM_THREADS):
                done, ids, lengths, num_words = running.popleft().result()
                encoder.check(done, ids, lengths)
                packer.add(ids, lengths)
                yield len(done), num_words, 0 if unknown_id is None else int((ids == unknown_id).sum())
