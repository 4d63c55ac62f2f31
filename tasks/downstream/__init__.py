"""Supervised training on few labels: one protocol, one module per kind of task.

    protocol.py    label draws, the grid of runs, choosing on validation, the single look at the test
    rows.py        labelled records with their tensors, and a model's answers to them
    features.py    what a frozen encoder says of rows
    probe.py       linear models on frozen features
    neighbours.py  nearest neighbours on frozen features
    supervised.py  fine-tuning of one model
    floors.py      what costs nothing: the majority, and each modality's cheap baseline
    intake.py      a labelled set, checked, drawn from, and stored for the jobs
    jobs.py        the runs, each stored when it is done
    pool.py        jobs in processes
    readings.py    neighbours and a probe of an encoder that still trains
    generation.py  perplexity and samples of causal language models
    results.py     the files that the stage leaves
    direction.py   which scores are better the lower they are

A kind is a module with the functions of `Kind` and one line of `KINDS`. Predictions and truths are
strings everywhere outside of it, so that the protocol knows no kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from tasks.errors import unknown

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from tasks.downstream.protocol import Predict
    from tasks.downstream.rows import Rows

KINDS = ("classification", "token_classification", "question_answering", "segmentation", "transcription")


class Kind(Protocol):
    """One kind of task.

    Attributes:
        HEADS: the `transformers` Auto class that is fine-tuned, by modality; where there is none, frozen
            features alone are read.
        METRICS: names of the scores, of which the first chooses on validation; shares of 1, or errors, as
            `direction` says.
        FROZEN: of `finetune.methods` those that read frozen features of such rows.
        READABLE: whether a person can read truths and predictions.
    """

    HEADS: Mapping[str, str]
    METRICS: tuple[str, ...]
    FROZEN: tuple[str, ...]
    READABLE: bool

    def labels(self, records: pa.Table) -> list[str]:
        """What logits stand for, from the training records; empty where answers are places in the input."""

    def strata(self, records: pa.Table) -> list[str]:
        """The group of each record whose shares a label draw keeps."""

    def truth(self, records: pa.Table) -> list[str]:
        """The right answer of each record, in the form of predictions."""

    def targets(self, rows: Rows, labels: Sequence[str]) -> dict[str, Tensor]:
        """What the head's loss reads beside the inputs."""

    def learnable(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Boolean per row: whether its answer is inside the inputs at all."""

    def decode(self, outputs: Sequence[Mapping[str, Tensor]], rows: Rows, labels: Sequence[str]) -> list[str]:
        """Predictions from what the head said of each row (`logits`, or start and end logits)."""

    def score(self, rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
        """Every metric of `METRICS`."""

    def gather(self, hidden_BLD: Tensor, batch: Mapping[str, Tensor], pooling: str) -> list[Tensor]:
        """The features of each row that a linear probe reads, from the encoder's last layer."""

    def probes(self, train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
        """Linear models on frozen features, one per penalty, the strongest penalty first."""

    def majority(self, train: Rows, labels: Sequence[str]) -> Predict:
        """The answer that looks at no input."""


def kind(name: str) -> Kind:
    """The module of that kind."""
    if name not in KINDS:
        raise KeyError(unknown("kind of task", name, KINDS))
    return cast("Kind", importlib.import_module(f"tasks.downstream.{name}"))
