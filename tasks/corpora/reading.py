"""Records of a location as a stream: read, normalised, what is left out counted."""

from __future__ import annotations

import functools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tasks import sources
from tasks.config import Corpus, Task
from tasks.corpora.duplicates import hash64
from tasks.errors import InputError
from tasks.modalities import Record, Records, Rejected

BATCH_RECORDS = 1024
BATCH_BYTES = 8 << 20  # whichever comes first: bounds memory where records are long
NAMED = 5  # of the records that a rule left out
_BY_NAME = ("rejected", "examples", "remarks")

Pieces = list[Record] | Rejected


@dataclass
class Tally:
    """What became of the records that were read."""

    read: int = 0
    kept: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    encoding_errors: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str, place: str) -> None:
        """Count a record that is left out, and name the first few."""
        self.rejected[reason] += 1
        self.name(reason, place)

    def name(self, reason: str, place: str) -> None:
        """Remember one of the first few places for a reason."""
        named = self.examples.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(place)

    def left_out(self) -> str:
        """How many records were not kept and why, the first of them by name."""
        doubles = {name: getattr(self, name) for name in ("exact_duplicates", "near_duplicates")}
        parts = [
            f"{count} {reason.replace('_', ' ')}{self._places(reason)}"
            for reason, count in {**doubles, **self.rejected}.items()
            if count
        ]
        return ", ".join(parts) or "none"

    def _places(self, reason: str) -> str:
        named = self.examples.get(reason, [])
        return f" ({'; '.join(named)})" if named else ""

    def counts(self) -> dict[str, Any]:
        """As the manifest shows them."""
        by_name = {name: dict(sorted(getattr(self, name).items())) for name in _BY_NAME}
        return {**vars(self), **by_name}


def records(
    location: str, part: Corpus | Task, corpus: Corpus, kind: str | None, module: Records, tally: Tally
) -> Iterator[Record]:
    """Normalised records of one location; what is left out is counted and the first of it named."""
    raw = _raw(location, part, corpus, kind, module, tally)
    pieces = functools.partial(_pieces, part=part, corpus=corpus, kind=kind, module=module)
    for record, found in _ahead(pieces, raw, module.THREADED):
        tally.read += 1
        if isinstance(found, Rejected):
            tally.reject(found.reason, f"{record['source']}, row {record['row']}")
            continue
        for number, piece in enumerate(found):
            tally.encoding_errors += piece["damaged"] and number == 0
            tally.remarks.update(piece.get("remarks", ()))
            yield piece


def _raw(
    location: str, part: Corpus | Task, corpus: Corpus, kind: str | None, module: Records, tally: Tally
) -> Iterator[Record]:
    for file in module.gathered(sources.files(location)):
        try:
            yield from module.read(file, part.format, part.columns, kind, corpus)
        except Rejected as verdict:
            tally.reject(verdict.reason, file.location)


def _pieces(raw: Record, part: Corpus | Task, corpus: Corpus, kind: str | None, module: Records) -> Pieces:
    given = raw["id"]
    try:
        pieces = list(module.normalise(raw, corpus, kind))
    except Rejected as verdict:
        return verdict
    for number, piece in enumerate(pieces):
        piece["license"] = piece["license"] or part.license
        if given is not None:
            piece["given_id"] = given if number == 0 else None
            piece["id"] = given if len(pieces) == 1 else f"{given}-{number}"
    return pieces


def _ahead(
    work: Callable[[Record], Pieces], records: Iterator[Record], is_threaded: bool
) -> Iterator[tuple[Record, Pieces]]:
    """Each record with what the work makes of it, in order; on all cores where threads help."""
    if not is_threaded:
        for record in records:
            yield record, work(record)
        return
    cores = len(os.sched_getaffinity(0))
    waiting: deque[tuple[Record, Future[Pieces]]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for record in records:
            waiting.append((record, pool.submit(work, record)))
            if len(waiting) > 4 * cores:
                record, future = waiting.popleft()
                yield record, future.result()
        while waiting:
            record, future = waiting.popleft()
            yield record, future.result()


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in batches of bounded memory."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += sum(len(value) for value in record.values() if isinstance(value, str | bytes))
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return hash64(b"split\0" + key.encode("utf-8", "replace")) / 2**64


def repeated(given_id: str, first: Record, second: Record) -> InputError:
    """The error of an id that two records claim."""
    places = " and ".join(f"{record['source']}, row {record['row']}" for record in (first, second))
    return InputError(
        f"id {given_id!r} stands twice: {places}. Make ids unique, or leave `columns.id` out: ids are then "
        "made from the content."
    )
