"""Rows of the test sets that stand in what is trained on: found, counted, and named for removal.

Two records are the same when their modality says so (`content`: the text with even spacing); a
row stands in a record when at least a given share of its pieces (`pieces`: eight-word sequences)
stand in that one record. Rows are removed from what they would spoil, and test sets stay frozen:
test rows are removed from validation, training and pretraining data, validation rows from training
and pretraining data, held-out records (by equality alone) from the training records of both corpora.
Where the tasks' training rows serve as unlabelled text, the rows of all other tasks are removed from
that text too; a task's labelled training rows don't depend on which other tasks stand beside it.

Containment instead of resemblance, since a long document may quote a short row: Broder 1997, "On
the resemblance and containment of documents"; overlap of word sequences as in Brown et al. 2020,
"Language Models are Few-Shot Learners", appendix C. Memory grows with the guarded rows only (about
40 bytes a record and 28 a piece); what is trained on is streamed.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.corpora import stored
from tasks.corpora.duplicates import hash64

if TYPE_CHECKING:  # numpy and pyarrow cost a light command 0.3 s
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]  # of a record in the batch and a guarded row

EXACT, NEAR = "exact", "near"
JOINED_PAIRS = 4_000_000  # 32 MB an array; sequences that many rows share would make it grow
FILTER_BITS = 22  # a table of 4 MB turns most pieces away before they are looked up


@dataclass(frozen=True)
class Kin:
    """What makes two records the same in one modality.

    Attributes:
        content: bytes that equal records share.
        pieces: list<uint64> with the hashes of each record's parts.
        columns: the columns that both read, in unlabelled and in labelled records.
        containment: share of a row's pieces in one record from which on the row stands in it.
    """

    content: Callable[[dict[str, Any]], bytes]
    pieces: Callable[[pa.Table], pa.Array]
    columns: Sequence[str]
    containment: float


@dataclass
class Leakage:
    """What was found.

    Attributes:
        entries: one per guarded set, place and kind: `task`, `split`, `found_in`, `kind`, number of
            guarded `rows` that stand there, `of` how many, number of records `removed` from there.
        excluded: reason by slot and id.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    excluded: dict[tuple[str, str], str] = field(default_factory=dict)

    def ids(self, slot: str) -> set[str]:
        """Ids that must not be trained on in that slot."""
        return {name for where, name in self.excluded if where == slot}


@dataclass(frozen=True)
class _Set:
    """Rows that must not be trained on: a task's test or validation rows, or a corpus's held-out records."""

    owner: str
    split: str
    files: list[Path]

    @property
    def is_heldout(self) -> bool:
        return self.split == "heldout"


def find(corpora: Mapping[str, Path], kin: Kin) -> Leakage:
    """Look for guarded rows in everything that is trained on.

    Args:
        corpora: folder of normalised records by slot.
        kin: what makes two records the same.
    """
    slots = stored.slots(corpora)
    leakage = Leakage()
    guarded: list[_Set] = []
    for task in sorted({slot.split("/")[1] for slot in slots if slot.startswith("tasks/")}):
        test, validation = (
            _Set(task, split, slots[f"tasks/{task}/{split}"]) for split in ("test", "validation")
        )
        for split, sets in (("validation", [test]), ("train", [test, validation])):
            slot = f"tasks/{task}/{split}"
            _scan(slot, slots[slot], _Guard(sets, kin), kin, leakage)
        guarded += [test, validation]
    unlabelled = [slot for slot in ("general", "domain") if slot in slots]
    guard = _Guard(guarded + [_Set(slot, "heldout", slots[slot]) for slot in unlabelled], kin)
    for slot in unlabelled:
        _scan(slot, slots[slot], guard, kin, leakage)
    for task in sorted({guarded_set.owner for guarded_set in guarded}):
        slot = f"tasks/{task}/train"
        _scan(stored.as_text(slot), slots[slot], guard, kin, leakage, own=task)
    return leakage


class _Guard:
    """Rows to look for, by the hash of their content and by their pieces."""

    def __init__(self, sets: Sequence[_Set], kin: Kin) -> None:
        import numpy as np

        self.sets = sets
        hashes, members, pieces, owners = [], [], [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        num_rows = 0
        for number, guarded in enumerate(sets):
            for batch in _batches(guarded.files, kin, only="heldout" if guarded.is_heldout else None):
                hashes.append(_hashes(batch, kin))
                members.append(np.full(batch.num_rows, number))
                if not guarded.is_heldout:
                    values, offsets = _flat(kin.pieces(batch))
                    pieces.append(values)
                    owners.append(num_rows + np.repeat(np.arange(batch.num_rows), np.diff(offsets)))
                num_rows += batch.num_rows
        self.set_of_row = np.concatenate([np.zeros(0, np.int64), *members])
        contents = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self._content_row = np.argsort(contents, kind="stable")
        self._contents = contents[self._content_row]
        self._index_pieces(np.concatenate(pieces), np.concatenate(owners))

    def _index_pieces(self, pieces: NDArray[np.uint64], owners: NDArray[np.int64]) -> None:
        import numpy as np

        order = np.lexsort((owners, pieces))
        pieces, owners = pieces[order], owners[order]
        new = np.ones(len(pieces), dtype=bool)
        new[1:] = (pieces[1:] != pieces[:-1]) | (owners[1:] != owners[:-1])
        pieces, self._piece_rows = pieces[new], owners[new]
        self._pieces, starts = np.unique(pieces, return_index=True)
        self._bounds = np.append(starts, len(pieces))
        self._num_pieces = np.bincount(self._piece_rows, minlength=len(self.set_of_row))
        self._filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._filter[self._pieces >> np.uint64(64 - FILTER_BITS)] = True

    def exact(self, hashes: NDArray[np.uint64]) -> Pairs:
        """Records and guarded rows of equal content."""
        import numpy as np

        left = np.searchsorted(self._contents, hashes, side="left")
        right = np.searchsorted(self._contents, hashes, side="right")
        return np.repeat(np.arange(len(hashes)), right - left), self._content_row[_ranges(left, right - left)]

    def near(self, pieces: pa.Array, containment: float) -> Pairs:
        """Records and guarded rows that stand in them."""
        import numpy as np

        values, offsets = _flat(pieces)
        likely = np.flatnonzero(self._filter[values >> np.uint64(64 - FILTER_BITS)])
        at = np.searchsorted(self._pieces, values[likely])
        at[at == len(self._pieces)] = 0
        known = self._pieces[at] == values[likely] if len(self._pieces) else np.zeros(0, dtype=bool)
        record = np.searchsorted(offsets, likely[known], side="right") - 1
        joint = np.unique(record * max(len(self._pieces), 1) + at[known])
        record, piece = np.divmod(joint, max(len(self._pieces), 1))
        sharing = self._bounds[piece + 1] - self._bounds[piece]
        if sharing.sum() > JOINED_PAIRS and len(pieces) > 1:
            return self._near_by_halves(pieces, containment)
        row = self._piece_rows[_ranges(self._bounds[piece], sharing)]
        num_rows = max(len(self.set_of_row), 1)
        pair, shared = np.unique(np.repeat(record, sharing) * num_rows + row, return_counts=True)
        record, row = np.divmod(pair, num_rows)
        enough = shared >= containment * self._num_pieces[row] - 1e-9
        return record[enough], row[enough]

    def _near_by_halves(self, pieces: pa.Array, containment: float) -> Pairs:
        import numpy as np

        middle = len(pieces) // 2
        records, rows = self.near(pieces[:middle], containment)
        more_records, more_rows = self.near(pieces[middle:], containment)
        return np.concatenate([records, more_records + middle]), np.concatenate([rows, more_rows])


def _scan(
    slot: str, files: list[Path], guard: _Guard, kin: Kin, leakage: Leakage, own: str | None = None
) -> None:
    """Look for the guard's rows, but those of the task `own`, in one slot; add what is found to `leakage`."""
    rows: dict[tuple[str, int], set[int]] = defaultdict(set)
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for batch in _batches(files, kin):
        names = batch["id"].to_pylist()
        splits = batch["split"].to_pylist() if "split" in batch.column_names else [None] * len(names)
        near = guard.near(kin.pieces(batch), kin.containment)
        for kind, pairs in ((EXACT, guard.exact(_hashes(batch, kin))), (NEAR, near)):
            for record, row in zip(*(side.tolist() for side in pairs), strict=True):
                number = int(guard.set_of_row[row])
                if guard.sets[number].is_heldout and splits[record] == "heldout":
                    continue
                if not guard.sets[number].is_heldout and guard.sets[number].owner == own:
                    continue
                rows[kind, number].add(row)
                ids[kind, number].add(names[record])
    for number in range(len(guard.sets)):  # what is equal is contained as well, and counts once
        rows[NEAR, number] -= rows[EXACT, number]
        ids[NEAR, number] -= ids[EXACT, number]
    for kind, number in itertools.product((EXACT, NEAR), range(len(guard.sets))):
        guarded = guard.sets[number]
        if kind == NEAR if guarded.is_heldout else guarded.owner == own:
            continue
        leakage.entries.append(
            {
                "task": guarded.owner,
                "split": guarded.split,
                "found_in": slot,
                "kind": kind,
                "rows": len(rows[kind, number]),
                "of": int((guard.set_of_row == number).sum()),
                "removed": len(ids[kind, number]),
            }
        )
        for name in ids[kind, number]:
            leakage.excluded.setdefault((slot, name), f"{kind}: {guarded.split} of {guarded.owner}")


def _batches(files: Sequence[Path], kin: Kin, only: str | None = None) -> Iterator[pa.Table]:
    import pyarrow.compute as pc

    for batch in stored.stream(files, ["id", *kin.columns, "split"]):
        if only is not None:
            batch = batch.filter(pc.equal(batch["split"], only))
        if batch.num_rows:
            yield batch


def _hashes(batch: pa.Table, kin: Kin) -> NDArray[np.uint64]:
    import numpy as np

    contents = (hash64(kin.content(record)) for record in batch.select(list(kin.columns)).to_pylist())
    return np.fromiter(contents, dtype=np.uint64, count=batch.num_rows)


def _flat(lists: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Values and offsets, the first of which is 0 in a slice too."""
    offsets = lists.offsets.to_numpy()
    return lists.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... of every range, one after the other."""
    import numpy as np

    before = np.cumsum(lengths) - lengths
    ranges: NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return ranges
