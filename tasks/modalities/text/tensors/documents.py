"""The documents of each slot and split, in chunks of a size that is worth encoding at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.corpora import stored

if TYPE_CHECKING:
    from tasks.modalities.text.tensors import TokenizerSettings

CHUNK_BYTES = 8 << 20  # text that is encoded at once; the arrays over it are some thirty times as large


@dataclass(frozen=True)
class Part:
    """Documents of one slot and split.

    Attributes:
        files: the records.
        split: keeps rows of that split where records have one; None takes all.
        excluded: ids that are left out.
    """

    files: Mapping[Path, frozenset[str]]
    split: str | None

    @property
    def num_records(self) -> int:
        """Records of the files; an upper bound of the documents."""
        return stored.count(list(self.files))

    def texts(self) -> Iterator[pa.Array]:
        """String arrays of about `CHUNK_BYTES`."""
        waiting: list[pa.Array] = []
        num_bytes = 0
        for path, excluded in self.files.items():
            for records in stored.stream([path], _columns(path)):
                text = _text(self._kept(records, excluded))
                waiting.append(text)
                num_bytes += text.nbytes
                if num_bytes >= CHUNK_BYTES:
                    yield pa.concat_arrays(waiting)
                    waiting, num_bytes = [], 0
        if num_bytes:
            yield pa.concat_arrays(waiting)

    def _kept(self, records: pa.Table, excluded: frozenset[str]) -> pa.Table:
        if self.split is not None:
            records = records.filter(pc.equal(records["split"], self.split))
        if excluded:
            ids = pa.array(sorted(excluded), records.schema.field("id").type)
            records = records.filter(pc.invert(pc.is_in(records["id"], ids)))
        return records


def parts(corpora: Mapping[str, Path], excluded: Mapping[str, set[str]]) -> dict[tuple[str, str], Part]:
    """The documents by slot (`general`, `domain`, `tasks`) and split (`train`, `heldout`).

    Of labelled sets: the text of all training rows that are known to no task's test or validation
    set, and as held-out text that of the validation rows.
    """
    files = stored.slots(corpora)
    found: dict[tuple[str, str], Part] = {}
    for slot in ("general", "domain"):
        if slot in files:
            without = frozenset(excluded.get(slot, ()))
            for split in ("train", "heldout"):
                found[slot, split] = Part(dict.fromkeys(files[slot], without), split)
    for split, labelled_split in (("train", "train"), ("heldout", "validation")):
        of_tasks = {
            path: frozenset(excluded.get(slot, ())) | frozenset(excluded.get(stored.as_text(slot), ()))
            for slot, paths in files.items()
            if slot.startswith("tasks/") and slot.endswith(f"/{labelled_split}")
            for path in paths
            if path.exists()
        }
        if of_tasks:
            found["tasks", split] = Part(of_tasks, None)
    return found


def training_text(parts: Mapping[tuple[str, str], Part], settings: TokenizerSettings) -> Iterator[pa.Array]:
    """The training documents of the tokenizer's slots; evenly spaced ones where they are too many."""
    chosen = [parts[slot, "train"] for slot in settings.corpora if (slot, "train") in parts]
    num_bytes = sum(_text_bytes(path) for part in chosen if part.num_records for path in part.files)
    share = min(1.0, settings.training_megabytes * 1e6 / max(num_bytes, 1))
    position = 0
    for part in chosen:
        for documents in part.texts():
            number = np.arange(position, position + len(documents) + 1)
            position += len(documents)
            taken = np.diff(np.floor(number * share)) > 0
            yield documents if share == 1 else documents.filter(pa.array(taken))


def _columns(path: Path) -> Sequence[str]:
    names = pq.read_schema(path).names
    return [name for name in ("id", "split", "text", "tokens") if name in names]


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
