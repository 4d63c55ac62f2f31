"""Which records become which tensors: slot by slot and split by split, without what is excluded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.corpora import stored

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Part:
    """Records of one slot and split.

    Attributes:
        files: the records, and of each file the ids that are left out.
        split: keeps rows of that split where records have one; None takes all.
    """

    files: Mapping[Path, frozenset[str]]
    split: str | None

    @property
    def num_records(self) -> int:
        """Records of the files; an upper bound of those that are kept."""
        return stored.count(list(self.files))

    def records(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of the kept records, in pieces; a file that lacks one is read without it."""
        import pyarrow.parquet as pq

        for path, excluded in self.files.items():
            known = set(pq.read_schema(path).names)
            wanted = [name for name in ("id", "split", *columns) if name in known]
            for records in stored.stream([path], wanted):
                yield self._kept(records, excluded)

    def _kept(self, records: pa.Table, excluded: frozenset[str]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.split is not None:
            records = records.filter(pc.equal(records["split"], self.split))
        if excluded:
            ids = pa.array(sorted(excluded), records.schema.field("id").type)
            records = records.filter(pc.invert(pc.is_in(records["id"], ids)))
        return records


def parts(corpora: Mapping[str, Path], excluded: Mapping[str, set[str]]) -> dict[tuple[str, str], Part]:
    """The records by slot (`general`, `domain`, `tasks`) and split (`train`, `heldout`).

    Of labelled sets: all training rows that are known to no task's test or validation set, and as
    held-out records the validation rows.
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
