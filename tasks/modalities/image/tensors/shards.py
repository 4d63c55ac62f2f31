"""Pictures on disk: Arrow IPC, uncompressed, memory-mapped, one record batch per file.

    pictures-00000.arrow …   decoded: `pixels`, FixedSizeList<uint8>[C · S · S]; encoded: `picture`, binary

Every shard of a folder but the last holds the same number of decoded pictures.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tasks.corpora.parts import Part
from tasks.errors import InputError
from tasks.modalities.image.tensors.decoding import Form, Pixels, stream

log = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20


def tell_sizes(parts: Mapping[Any, Part], form: Form, store: str, out: Path) -> None:
    """Log what both ways to store would take, before anything is written.

    Raises:
        InputError: the disk has no room for what was chosen.
    """
    files = {path for part in parts.values() for path in part.files}
    num_records = sum(pq.read_metadata(path).num_rows for path in files)
    sizes = {"decoded": num_records * form.num_bytes, "encoded": sum(map(_picture_bytes, files))}
    log.info(
        "prepare: %s pictures of %d × %d × %d: %s decoded, %s encoded; store: %s",
        f"{num_records:,}",
        form.channels,
        form.side,
        form.side,
        megabytes(sizes["decoded"]),
        megabytes(sizes["encoded"]),
        store,
    )
    free = shutil.disk_usage(out).free
    if sizes[store] > free:
        other = "encoded" if store == "decoded" else "decoded"
        raise InputError(
            f"prepare.store: {store} takes {megabytes(sizes[store])} and {megabytes(free)} are free; "
            f"make room, lower stored_size (now {form.side}), or store: {other} "
            f"({megabytes(sizes[other])})."
        )


def megabytes(num_bytes: int) -> str:
    """For people."""
    return f"{num_bytes / 1e6:,.1f} MB"


def _picture_bytes(path: Path) -> int:
    metadata = pq.read_metadata(path)
    return sum(
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
        if metadata.row_group(group).column(column).path_in_schema == "picture"
    )


def write(part: Part, folder: Path, form: Form, store: str, title: str) -> int:
    """Write the pictures of one slot and split; answer their number."""
    num_records = part.num_records
    tables = part.records(("picture",))
    with tqdm(total=num_records, desc=f"decode {title}", unit="pictures", disable=None) as bar:
        if store == "encoded":
            return _write_encoded(_counted(tables, bar), folder)
        pixels = stream((table for table in tables if table.num_rows), form, num_records)
        return _write_decoded(_counted(pixels, bar), folder, form)


def _counted(items: Iterable[Any], bar: Any) -> Iterator[Any]:
    for item in items:
        bar.update(len(item))
        yield item


def _write_decoded(pieces: Iterable[Pixels], folder: Path, form: Form) -> int:
    per_shard = max(1, SHARD_BYTES // form.num_bytes)
    number = num_rows = 0
    waiting = np.empty((0, form.num_bytes), np.uint8)
    for pixels in pieces:
        waiting = np.concatenate([waiting, pixels.reshape(len(pixels), -1)])
        while len(waiting) >= per_shard:
            _write_pixels(folder, number, waiting[:per_shard])
            waiting, number, num_rows = waiting[per_shard:], number + 1, num_rows + per_shard
    if len(waiting) or not number:
        _write_pixels(folder, number, waiting)
    return num_rows + len(waiting)


def _write_pixels(folder: Path, number: int, pixels: Pixels) -> None:
    values = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), pixels.shape[1])
    _write(folder, number, pa.record_batch([values], names=["pixels"]))


def _write_encoded(tables: Iterable[pa.Table], folder: Path) -> int:
    number = num_rows = num_bytes = 0
    waiting: list[pa.Array] = []
    for table in tables:
        pictures = table["picture"].cast(pa.large_binary()).combine_chunks()
        waiting += pictures.chunks if isinstance(pictures, pa.ChunkedArray) else [pictures]
        num_rows += len(pictures)
        num_bytes += pictures.nbytes
        if num_bytes >= SHARD_BYTES:
            _write_pictures(folder, number, waiting)
            waiting, number, num_bytes = [], number + 1, 0
    if waiting or not number:
        _write_pictures(folder, number, waiting)
    return num_rows


def _write_pictures(folder: Path, number: int, pictures: list[pa.Array]) -> None:
    column = pa.concat_arrays(pictures) if pictures else pa.array([], pa.large_binary())
    _write(folder, number, pa.record_batch([column], names=["picture"]))


def _write(folder: Path, number: int, batch: pa.RecordBatch) -> None:
    path = folder / f"pictures-{number:05d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
