"""What differs between kinds of data. Stages, loop, flow and report never name a modality.

A modality is one folder of four parts, and one word of `NAMES`:

    records    raw files -> normalised records      (ingest)
    quality    records -> derived metrics, checks   (validate)
    tensors    records -> memory-mapped tensors -> batches and model inputs (prepare and after)
    pictures   records, encoder -> what a person can look at        (preview, report, embed)

so that a stage depends on the part that it uses and on no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from tasks.errors import unknown

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from models.settings import Settings
    from tasks.config import Columns, Config, Corpus, Recipe, Validate
    from tasks.engine.loader import Batches
    from tasks.pages.sheets import Section
    from tasks.sources import File

NAMES = ("text", "image", "speech")

Record = dict[str, Any]


class Rejected(Exception):
    """A record breaks a rule of its corpus; `reason` is counted in the manifest."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Embedded:
    """Vectors of the files of a folder.

    Attributes:
        paths: of the files, below the folder, in the order of the rows.
        vectors: [N, D].
        left_out: why a file has no vector, by path.
    """

    paths: list[str]
    vectors: NDArray[np.float32]
    left_out: Mapping[str, str]


class Records(Protocol):
    """`records`: raw files to normalised records."""

    CorpusSettings: type[Corpus]
    THREADED: bool
    """Whether `normalise` spends its time outside of Python, so that threads share its work."""

    COMPANIONS: tuple[str, ...]
    """Suffixes of files that are read beside those that a location names (transcripts)."""

    def schema(self, kind: str | None) -> pa.Schema:
        """Columns of normalised records: of unlabelled ones (None), or of a task of that kind."""

    def gathered(self, files: Iterator[File]) -> Iterator[File]:
        """The files of a location, those that make up one record as one."""

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
        and `damaged` where something in it could not be decoded; `remarks`, where there are any, are
        words for what was done to it, which the manifest counts.

        Raises:
            Rejected: a rule of the corpus (empty, over-long, undecodable) leaves it out.
        """

    def content(self, record: Record) -> bytes:
        """What two records share when they are the same, for ids and duplicates."""

    def signatures(self, batch: list[Record], corpus: Any) -> list[NDArray[np.uint64]]:
        """Per record, hashes of which near duplicates share at least one; none where it says too little."""


class Quality(Protocol):
    """`quality`: derived metrics of records and what is expected of them."""

    ValidateSettings: type[Validate]
    KIN: tuple[str, ...]
    """Columns by which records are the same: what `Records.content` and `pieces` read."""

    ANSWERS: tuple[str, ...]
    """Columns of labelled records that `describe` reads where they are there."""

    def describe(self, records: pa.Table) -> pa.Table:
        """Derived metrics, one row per record, first column `id`."""

    def expectations(self, settings: Settings) -> list[Expectation]:
        """Expectations over `describe`'s columns; severity `critical` fails the stage."""

    def compare(self, a: pa.Table, b: pa.Table) -> dict[str, float]:
        """How alike two corpora are, the headline first (text: vocabulary overlap)."""

    def pieces(self, records: pa.Table) -> pa.Array:
        """Hashes of each record's parts, list<uint64>: a record that holds another has most of its pieces."""


class Reader(Protocol):
    """Stored inputs of labelled records to what a model reads; an `nn.Module` that processes can share."""

    def __call__(
        self, batch: Mapping[str, Tensor], *, training: bool, key: Tensor | None
    ) -> dict[str, Tensor]:
        """The batch as the model reads it.

        Args:
            batch: rows of `inputs`, and targets, which stay.
            training: whether to change the inputs at random.
            key: int64 per row, from which all that is random is drawn.
        """

    def within(self, model: PreTrainedModel, key: Tensor | None) -> AbstractContextManager[None]:
        """A context in which the forward pass of a model in training changes at random.

        Args:
            model: with a head.
            key: as above; None changes nothing.
        """

    def hidden(
        self, encoder: PreTrainedModel, batch: Mapping[str, Tensor], kind: str, pooling: str
    ) -> Tensor:
        """What a probe of that kind reads of each row, [B, L, D].

        Args:
            encoder: without heads.
            batch: rows of `inputs`.
            kind: of the task.
            pooling: `mean`, `first` or `cells`.
        """


class Tensors(Protocol):
    """`tensors`: records to memory-mapped tensors, and those to batches.

    Attributes:
        UNIT: what throughput counts ("tokens", "images"); a slot of the manifest that does not count
            it holds one in each row.
        OFFERS: what objectives can ask of a sample, in the words of `Objective.reads`.
        READS: kind of batch that `vectors` takes, in the same words.
        BULKY: columns of records that `inputs` reads and nothing after it.
        GO_WITH_WEIGHTS: keys of `prepare` that name the folder of weights which a training goes on from.
    """

    PrepareSettings: type[Settings]
    UNIT: str
    OFFERS: tuple[str, ...]
    READS: tuple[str, ...]
    BULKY: tuple[str, ...]
    GO_WITH_WEIGHTS: tuple[str, ...]

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

    def check_encoder(self, config: PretrainedConfig, recipe: Recipe) -> None:
        """Refuse an encoder that cannot read what the recipe's `prepare` makes.

        Raises:
            ValueError: says which setting would do.
        """

    def constants(self, prepared: Path, weights: str | None = None) -> dict[str, Any]:
        """Facts about the prepared data that objectives are constructed with (text: `vocabulary`).

        Args:
            prepared: what `prepare` wrote.
            weights: what the encoder starts from, folder or name on the hub; None from scratch. What
                lies beside them can say how they read their inputs.
        """

    def batches(
        self, prepared: Path, slot: str, split: str, recipe: Recipe, reads: tuple[str, ...], seed: int
    ) -> Batches:
        """Samples of one slot (`general`, `domain`, `tasks`) and split (`train`, `heldout`)."""

    def vectors(
        self,
        encoder: PreTrainedModel,
        batch: Mapping[str, Tensor],
        prepared: Path,
        weights: str | None = None,
    ) -> Tensor:
        """What the encoder makes of each sample of a batch, [B, D]; nothing is left to chance."""

    def inputs(self, records: pa.Table, kind: str, prepared: Path, recipe: Recipe) -> dict[str, Tensor]:
        """Labelled records as tensors, first dimension the record."""

    def reader(self, prepared: Path, recipe: Recipe, weights: str | None = None) -> Reader | None:
        """What makes of `inputs` what a `transformers` model reads; None where it reads them as they are.

        `weights` as for `constants`.
        """

    def finish(self, prepared: Path, folder: Path, weights: str | None = None) -> None:
        """Write beside saved weights what `Auto*.from_pretrained` needs as well (a tokenizer).

        `weights` as for `constants`.
        """


class Pictures(Protocol):
    """`pictures`: what a person can look at. Every answer is empty where a modality shows nothing."""

    READS: str
    """What its encoders take, in transformers' words (`main_input_name`)."""

    def files(self, name: str, config: Config) -> list[Path]:
        """What `sections` reads of a recipe's run beside what the page reads anyway."""

    def sections(self, name: str, config: Config, folder: Path) -> list[Section]:
        """Parts of the report, made by the encoder that a recipe's run left; files go into `folder`."""

    def preview(self, name: str, config: Config, folder: Path) -> list[Section]:
        """What a recipe's objective would make of the first records, before anything has run."""

    def thumbnails(self, records: Path, ids: Set[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Pictures [H, W, C] of records of a parquet file, by id."""

    def embed(self, model: Path, folder: Path, pooling: str) -> Embedded:
        """Vectors of the files of a folder.

        Args:
            model: folder with config, weights and what prepares a file for them.
            folder: with the files.
            pooling: how tokens become one vector, `mean` or `class`.

        Raises:
            InputError: the model or the folder cannot be read; says what to do.
        """

    def picture(self, file: Path) -> NDArray[np.uint8]:
        """A file as a picture [H, W, C] of modest size."""


def records(modality: str) -> Records:
    """The `records` module of a modality."""
    return cast("Records", _part(modality, "records"))


def quality(modality: str) -> Quality:
    """The `quality` module of a modality."""
    return cast("Quality", _part(modality, "quality"))


def tensors(modality: str) -> Tensors:
    """The `tensors` module of a modality."""
    return cast("Tensors", _part(modality, "tensors"))


def pictures(modality: str) -> Pictures:
    """The `pictures` module of a modality."""
    return cast("Pictures", _part(modality, "pictures"))


def _part(modality: str, part: Literal["records", "quality", "tensors", "pictures"]) -> Any:
    if modality not in NAMES:
        raise KeyError(unknown("modality", modality, NAMES))
    return importlib.import_module(f"tasks.modalities.{modality}.{part}")
