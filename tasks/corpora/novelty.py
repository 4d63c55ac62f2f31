"""Removal of documents that were said before, exactly or nearly, over a whole corpus."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.corpora.duplicates import Hashes, Seen, hash64
from tasks.corpora.reading import Tally, records, repeated
from tasks.errors import InputError
from tasks.modalities import Record, Records


class Novelty:
    """Tells records that are new from those said before, and gives each an id."""

    def __init__(self, corpus: Any, module: Records, tally: Tally) -> None:
        self._corpus = corpus
        self._module = module
        self._tally = tally
        self._contents, self._signatures, self._ids = Seen(), Seen(), Seen()

    def of(self, batch: list[Record]) -> list[Record]:
        """The records of a batch that neither it nor any earlier batch holds already."""
        rules = self._corpus.duplicates
        self._refuse_repeated_ids(batch)
        hashes = []
        for record in batch:
            content = self._module.content(record)
            hashes.append(np.array([hash64(content)], dtype=np.uint64))
            if record["id"] is None:
                place = b"" if rules.exact else f"\0{record['source']}\0{record['row']}".encode()
                record["id"] = f"{hash64(content + place):016x}"
        if rules.exact:
            batch, known = _unseen(batch, hashes, self._contents)
            self._tally.exact_duplicates += known
        if rules.near:
            batch, known = _unseen(batch, self._module.signatures(batch, self._corpus), self._signatures)
            self._tally.near_duplicates += known
        return batch

    def _refuse_repeated_ids(self, batch: list[Record]) -> None:
        given = [record for record in batch if record.get("given_id") is not None]
        hashes = [np.array([hash64(record["given_id"].encode())], dtype=np.uint64) for record in given]
        fresh, known = _unseen(given, hashes, self._ids)
        if known:
            places = {id(record) for record in fresh}
            second = next(record for record in given if id(record) not in places)
            first = self._first_with(second["given_id"])
            raise repeated(second["given_id"], first, second)

    def _first_with(self, given_id: str) -> Record:
        """Found by reading again: remembering the place of every id would cost ten times the memory."""
        for location in self._corpus.source:
            for record in records(location, self._corpus, self._corpus, None, self._module, Tally()):
                if record.get("given_id") == given_id:
                    return record
        raise InputError(f"the sources changed while they were read (id {given_id!r} is gone); ingest again.")


def _unseen(batch: list[Record], keys: list[Hashes], seen: Seen) -> tuple[list[Record], int]:
    """Records none of whose keys were seen, in `seen` or earlier in the batch, and the number of others."""
    flat = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
    is_known = seen.contains(flat).tolist()
    fresh: list[Record] = []
    added: set[int] = set()
    at = 0
    for record, own in zip(batch, keys, strict=True):
        values = own.tolist()
        was_known = any(is_known[at : at + len(values)]) or not added.isdisjoint(values)
        at += len(values)
        if not was_known:
            added.update(values)
            fresh.append(record)
    seen.add(np.fromiter(added, dtype=np.uint64, count=len(added)))
    return fresh, len(batch) - len(fresh)
