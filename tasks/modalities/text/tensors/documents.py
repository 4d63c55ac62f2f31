"""The documents of each slot and split, in chunks of a size that is worth encoding at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.corpora.parts import Part

if TYPE_CHECKING:
    from tasks.modalities.text.tensors import TokenizerSettings

CHUNK_BYTES = 8 << 20  # text that is encoded at once; the arrays over it are some thirty times as large


def texts(part: Part) -> Iterator[pa.Array]:
    """String arrays of about `CHUNK_BYTES`."""
    waiting: list[pa.Array] = []
    num_bytes = 0
    for records in part.records(("text", "tokens")):
        text = _text(records)
        waiting.append(text)
        num_bytes += text.nbytes
        if num_bytes >= CHUNK_BYTES:
            yield pa.concat_arrays(waiting)
            waiting, num_bytes = [], 0
    if num_bytes:
        yield pa.concat_arrays(waiting)


def training_text(parts: Mapping[tuple[str, str], Part], settings: TokenizerSettings) -> Iterator[pa.Array]:
    """The training documents of the tokenizer's slots; evenly spaced ones where they are too many."""
    chosen = [parts[slot, "train"] for slot in settings.corpora if (slot, "train") in parts]
    num_bytes = sum(_text_bytes(path) for part in chosen if part.num_records for path in part.files)
    share = min(1.0, settings.training_megabytes * 1e6 / max(num_bytes, 1))
    position = 0
    for part in chosen:
        for documents in texts(part):
            number = np.arange(position, position + len(documents) + 1)
            position += len(documents)
            taken = np.diff(np.floor(number * share)) > 0
            yield documents if share == 1 else documents.filter(pa.array(taken))


def _text(records: pa.Table) -> pa.Array:
    """The text of records; words of token classification are joined by spaces."""
    is_words = "tokens" in records.column_names
    column = pc.binary_join(records["tokens"], " ") if is_words else records["text"]
    column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return column.drop_null() if column.null_count else column


def _text_bytes(path: Path) -> int:
    metadata = pq.read_metadata(path)
    names = {"text", "tokens"}
    return sum(
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
        if metadata.row_group(group).column(column).path_in_schema.split(".")[0] in names
    )
