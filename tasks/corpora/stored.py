"""The records of a recipe's corpora on disk: which files hold which slot, and how to read them in pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import layout
from tasks.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.config import Recipe

SPLITS = ("train", "validation", "test")
BATCH_ROWS = 1024
BATCH_BYTES = 16 * 2**20
SAMPLED_BYTES = 256 * 2**20


def folders(recipe: Recipe) -> dict[str, Path]:
    """Folder of each corpus that the recipe names, by slot (`general`, `domain`, `tasks`).

    Raises:
        InputError: a corpus has not been ingested.
    """
    named = {"general": recipe.general, "domain": recipe.domain, "tasks": recipe.tasks}
    found = {slot: layout.corpus(name) for slot, name in named.items() if name != "none"}
    for slot, folder in found.items():
        if not (folder / "manifest.json").is_file():
            raise InputError(
                f"corpus {named[slot]!r} ({slot}) has no {folder / 'manifest.json'}; "
                f"run `dvc repro ingest@{named[slot]}`, or `python -m tasks.ingest {named[slot]}`."
            )
    return found


def slots(corpora: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Files by slot: `general`, `domain`, and `tasks/<task>/<split>` for every split of every task."""
    files: dict[str, list[Path]] = {}
    for slot in ("general", "domain"):
        if slot in corpora:
            files[slot] = sorted(corpora[slot].glob("records-*.parquet"))
    if "tasks" in corpora:
        for task in sorted(path for path in (corpora["tasks"] / "tasks").glob("*") if path.is_dir()):
            for split in SPLITS:
                files[f"tasks/{task.name}/{split}"] = [task / f"{split}.parquet"]
    return files


def as_text(slot: str) -> str:
    """The name under which training rows of a task are spoken of as unlabelled text, for adaptation."""
    return f"{slot}/text"


def stream(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Batches of at most `BATCH_ROWS` records and, where no single record exceeds it, `BATCH_BYTES`.

    Args:
        files: parquet files, read in order.
        columns: those wanted; a file that lacks one is read without it.

    Raises:
        InputError: a file is missing or damaged.
    """
    import pyarrow as pa

    for path in files:
        with _parquet(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                yield from _halves(pa.Table.from_batches([batch]))


def count(files: Sequence[Path]) -> int:
    """Number of records, from the files' footers."""
    rows = 0
    for path in files:
        with _parquet(path) as file:
            rows += file.metadata.num_rows
    return rows


def sample(files: Sequence[Path], columns: Sequence[str], max_records: int) -> pa.Table:
    """About `max_records` records (of long ones fewer: `SAMPLED_BYTES`), chosen by the hash of their id.

    Records of equal ids are chosen together, so doubled ids show in a sample too.
    """
    import pyarrow as pa

    size = 0
    for path in files:
        with _parquet(path) as file:
            groups = range(file.metadata.num_row_groups)
            size += sum(file.metadata.row_group(group).total_byte_size for group in groups)
    share = min(1.0, max_records / max(count(files), 1), SAMPLED_BYTES / max(size, 1))
    chosen = []
    for batch in stream(files, columns):
        if share < 1:
            batch = batch.filter(
                [zlib.crc32(name.encode()) < share * 2**32 for name in batch["id"].to_pylist()]
            )
        chosen.append(batch)
    if chosen:
        return pa.concat_tables(chosen)
    return pa.table({name: pa.array([], pa.string()) for name in columns})


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run ingest again.") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and run ingest again.") from None


def _halves(batch: pa.Table) -> Iterator[pa.Table]:
    if batch.nbytes <= BATCH_BYTES or batch.num_rows < 2:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _halves(batch.slice(0, middle))
    yield from _halves(batch.slice(middle))
