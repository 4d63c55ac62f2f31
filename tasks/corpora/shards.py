"""Records as parquet, in parts of a size that stores like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.sources import folders

SHARD_BYTES = 256 << 20  # of Arrow memory: some 100 MB as a file, a size that DVC and stores like


class Shards:
    """Writes records to `<stem>-00000.parquet` and so on; at least one file, be it empty."""

    def __init__(self, folder: Path, stem: str, schema: pa.Schema, *, is_numbered: bool = True) -> None:
        self.num_rows = 0
        self._folder = folder
        self._stem = stem
        self._schema = schema
        self._is_numbered = is_numbered
        self._written: list[tuple[Path, int]] = []
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def __enter__(self) -> Shards:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Append records; fields that the schema doesn't know are left out."""
        if not records:
            return
        columns = {name: [record[name] for record in records] for name in self._schema.names}
        batch = pa.RecordBatch.from_pydict(columns, schema=self._schema)
        if self._is_numbered and self._bytes + batch.nbytes > SHARD_BYTES and self._bytes:
            self._begin()
        assert self._writer is not None
        self._writer.write_batch(batch)
        self._bytes += batch.nbytes
        self.num_rows += batch.num_rows
        path, rows = self._written[-1]
        self._written[-1] = (path, rows + batch.num_rows)

    def files(self, root: Path) -> list[dict[str, Any]]:
        """Path below `root`, rows and sha256 of each file; only after the block."""
        return [
            {"path": path.relative_to(root).as_posix(), "rows": rows, "sha256": folders.sha256(path)}
            for path, rows in self._written
        ]

    def _begin(self) -> None:
        if self._writer is not None:
            self._writer.close()
        number = f"-{len(self._written):05d}" if self._is_numbered else ""
        path = self._folder / f"{self._stem}{number}.parquet"
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._written.append((path, 0))
        self._bytes = 0
