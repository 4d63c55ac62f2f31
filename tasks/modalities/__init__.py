"""What differs between kinds of data. Stages, loop, flow and report never name a modality.

A modality is one folder of three parts, and one word of `NAMES`:

    records    raw files -> normalised records      (ingest)
    quality    records -> derived metrics, checks   (validate)
    tensors    records -> memory-mapped tensors -> batches and model inputs (prepare and after)

so that a stage depends on the part that it uses and on no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from tasks.errors import unknown

if TYPE_CHECKING:  # tasks.config joins the settings that modalities declare into one schema
    import numpy as np
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation
    from numpy.typing import NDArray
    from torch import Tensor

    from models.settings import Settings
    from tasks.config import Columns, Corpus, Recipe, Validate
    from tasks.engine.loader import Batches
    from tasks.sources import File

NAMES = ("text",)

Record = dict[str, Any]


class Rejected(Exception):
    """A record breaks a rule of its corpus; `reason` is counted in the manifest."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Records(Protocol):
    """`records`: raw files to normalised records."""

    CorpusSettings: type[Corpus]

    def schema(self, kind: str | None) -> pa.Schema:
        """Columns of normalised records: of unlabelled ones (None), or of a task of that kind."""

    def read(
        self, file: File, format: str, columns: Columns, kind: str | None, corpus: Any
    ) -> Iterator[Record]:
        """Raw records of one file, streamed with bounded memory; each knows its `source` and `row`.

        Raises:
            InputError: the file as a whole cannot be read; names file, cause and next step.
            Rejected: a rule of the corpus leaves the whole file out.
        """

    def normalise(self, record: Record, corpus: Any, kind: str | None) -> Iterator[Record]:
        """The record in `schema`'s columns, in several pieces where a rule splits it.

        Beside the columns: `id` (None where the user gave none), `group`, `split` and `row` as read,
        and `damaged` where something in it could not be decoded.

        Raises:
            Rejected: a rule of the corpus (empty, over-long, undecodable) leaves it out.
        """

    def content(self, record: Record) -> bytes:
        """What two records share when they are the same, for ids and duplicates."""

    def signature(self, record: Record, corpus: Any) -> NDArray[np.uint64] | None:
        """Hashes of which near duplicates share at least one; None where a record is too short to tell."""


class Quality(Protocol):
    """`quality`: derived metrics of records and what is expected of them."""

    ValidateSettings: type[Validate]

    def describe(self, records: pa.Table) -> pa.Table:
        """Derived metrics, one row per record, first column `id`."""

    def expectations(self, settings: Settings) -> list[Expectation]:
        """Expectations over `describe`'s columns; severity `critical` fails the stage."""

    def compare(self, a: pa.Table, b: pa.Table) -> dict[str, float]:
        """How alike two corpora are, the headline first (text: vocabulary overlap)."""

    def pieces(self, records: pa.Table) -> pa.Array:
        """Hashes of each record's parts, list<uint64>: a record that holds another has most of its pieces."""


class Tensors(Protocol):
    """`tensors`: records to memory-mapped tensors, and those to batches."""

    PrepareSettings: type[Settings]

    def prepare(
        self,
        recipe: Recipe,
        corpora: Mapping[str, Path],
        excluded: Mapping[str, set[str]],
        out: Path,
        seed: int,
    ) -> dict[str, Any]:
        """Write the tensors of every slot under `out`; answer the statistics for the manifest.

        Args:
            recipe: the whole recipe.
            corpora: folder of normalised records by slot (`general`, `domain`, `tasks`).
            excluded: ids that must not be trained on, by slot.
            out: an existing, empty folder.
            seed: seed of whatever is drawn.
        """

    def encoder_config(self, prepared: Path) -> dict[str, Any]:
        """Fields of the encoder's config that the data decides (text: `vocab_size`, special ids)."""

    def constants(self, prepared: Path) -> dict[str, Any]:
        """Facts about the prepared data that objectives are constructed with (text: `vocabulary`)."""

    def batches(
        self, prepared: Path, slot: str, split: str, recipe: Recipe, reads: tuple[str, ...], seed: int
    ) -> Batches:
        """Samples of one slot (`general`, `domain`, `tasks`) and split (`train`, `heldout`)."""

    def inputs(self, records: pa.Table, kind: str, prepared: Path, recipe: Recipe) -> dict[str, Tensor]:
        """Labelled records as tensors for a `transformers` model, first dimension the record."""

    def finish(self, prepared: Path, folder: Path) -> None:
        """Write beside saved weights what `Auto*.from_pretrained` needs as well (a tokenizer)."""


def records(modality: str) -> Records:
    """The `records` module of a modality."""
    return cast("Records", _part(modality, "records"))


def quality(modality: str) -> Quality:
    """The `quality` module of a modality."""
    return cast("Quality", _part(modality, "quality"))


def tensors(modality: str) -> Tensors:
    """The `tensors` module of a modality."""
    return cast("Tensors", _part(modality, "tensors"))


def _part(modality: str, part: Literal["records", "quality", "tensors"]) -> Any:
    if modality not in NAMES:
        raise KeyError(unknown("modality", modality, NAMES))
    return importlib.import_module(f"tasks.modalities.{modality}.{part}")
