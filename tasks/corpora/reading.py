"""Records of a location as a stream: read, normalised, what is left out counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks import sources
from tasks.config import Corpus, Task
from tasks.corpora.duplicates import hash64
from tasks.errors import InputError
from tasks.modalities import Record, Records, Rejected

BATCH_RECORDS = 1024
BATCH_CHARACTERS = 8 << 20  # whichever comes first: bounds memory where records are long


@dataclass
class Tally:
    """What became of the records that were read."""

    read: int = 0
    kept: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    encoding_errors: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, Any]:
        """As the manifest shows them."""
        return {**vars(self), "rejected": dict(sorted(self.rejected.items()))}


def records(
    location: str, part: Corpus | Task, corpus: Corpus, kind: str | None, module: Records, tally: Tally
) -> Iterator[Record]:
    """Normalised records of one location; what is left out is counted."""
    for file in sources.files(location):
        try:
            for raw in module.read(file, part.format, part.columns, kind, corpus):
                tally.read += 1
                yield from _pieces(raw, part, corpus, kind, module, tally)
        except Rejected as verdict:
            tally.rejected[verdict.reason] += 1


def _pieces(
    raw: Record, part: Corpus | Task, corpus: Corpus, kind: str | None, module: Records, tally: Tally
) -> Iterator[Record]:
    given = raw["id"]
    try:
        pieces = list(module.normalise(raw, corpus, kind))
    except Rejected as verdict:
        tally.rejected[verdict.reason] += 1
        return
    for number, piece in enumerate(pieces):
        piece["license"] = piece["license"] or part.license
        if given is not None:
            piece["given_id"] = given if number == 0 else None
            piece["id"] = given if len(pieces) == 1 else f"{given}-{number}"
        tally.encoding_errors += piece["damaged"] and number == 0
        yield piece


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in batches of bounded memory."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.get("text", ""))
        if len(batch) >= BATCH_RECORDS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
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
