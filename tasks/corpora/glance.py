"""A few records to look at: from all over an ingested corpus, or else the first of its sources."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks import layout, modalities
from tasks.corpora import reading
from tasks.errors import InputError

if TYPE_CHECKING:
    from tasks.config import Config, Corpus, Task
    from tasks.modalities import Record

T = TypeVar("T")
MOST_GROUPS = 16  # row groups that are read for it


def of_recipe(name: str, config: Config, num: int) -> tuple[str, list[Record]]:
    """The corpus that a recipe learns from first, and a few of its records.

    Raises:
        InputError: the recipe has no corpus, or nothing can be read of it.
    """
    recipe = config.recipe(name)
    for slot in ("general", "domain", "tasks"):
        corpus = getattr(recipe, slot)
        if corpus == "none":
            continue
        found = spread(_ingested(corpus), ("id", "picture", "recording", "text"), num) or [
            *itertools.islice(_from_sources(config.corpus(corpus)), num)
        ]
        if found:
            return corpus, found
    raise InputError(
        f"recipes.{name}: none of its corpora gave a record; correct `from` of the corpus in params.yaml, "
        "or name a corpus."
    )


def spread(files: Sequence[Path], columns: Sequence[str], num: int) -> list[Record]:
    """Up to `num` records at even distances, of at most `MOST_GROUPS` row groups; columns that are there."""
    import pyarrow.parquet as pq

    metadata = {path: pq.read_metadata(path) for path in files}
    groups = [
        (path, group)
        for path, one in metadata.items()
        for group in range(one.num_row_groups)
        if one.row_group(group).num_rows
    ]
    chosen = evenly(groups, min(num, MOST_GROUPS))
    found: list[Record] = []
    for place, (path, group) in enumerate(chosen):
        wanted = (place + 1) * num // len(chosen) - place * num // len(chosen)
        with pq.ParquetFile(path) as file:
            known = [column for column in columns if column in file.schema_arrow.names]
            rows = evenly(range(metadata[path].row_group(group).num_rows), wanted)
            found += file.read_row_group(group, known).take(rows).to_pylist()
    return found


def evenly(items: Sequence[T], num: int) -> list[T]:
    """At most `num` of the items at even distances."""
    step = max(1.0, len(items) / max(1, num))
    return [items[int(place * step)] for place in range(min(num, len(items)))]


def _ingested(corpus: str) -> list[Path]:
    folder = layout.corpus(corpus)
    return sorted(folder.glob("records-*.parquet")) or sorted(folder.glob("tasks/*/train.parquet"))


def _from_sources(corpus: Corpus) -> Iterator[Record]:
    module = modalities.records(corpus.modality)
    parts: list[tuple[str, Corpus | Task, str | None]] = [(place, corpus, None) for place in corpus.source]
    parts += [
        (place, task, task.kind) for task in corpus.tasks.values() if (place := task.source or task.train)
    ]
    for location, part, kind in parts:
        yield from reading.records(location, part, corpus, kind, module, reading.Tally())
