"""Labelled records with their tensors, and what a model says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.heads import answered
from models.text import attention
from tasks.engine.order import row_of, sample_key
from tasks.engine.precision import autocast
from tasks.modalities import Reader

# A batch of evaluation holds about this many positions, so that memory does not grow with length.
POSITIONS_PER_BATCH = 8192
PIXELS_PER_POSITION = 64
SAMPLES_PER_POSITION = 320

Ask = Callable[[PreTrainedModel, Mapping[str, Tensor]], Any]


@dataclass(frozen=True)
class Rows:
    """Records of one split.

    Attributes:
        records: normalised records with their labels, one per row.
        inputs: a model's inputs, first dimension the row.
        features: per row what a probe reads; empty until an encoder has answered.
    """

    records: pa.Table
    inputs: Mapping[str, Tensor]
    features: Sequence[Tensor] = ()

    def __len__(self) -> int:
        return self.records.num_rows

    @property
    def ids(self) -> list[str]:
        """The records' ids."""
        return list(self.records.column("id").to_pylist())

    def column(self, name: str) -> list[Any]:
        """One column of the records as Python values."""
        return list(self.records.column(name).to_pylist())

    def take(self, index: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]) -> Rows:
        """These rows in this order."""
        chosen = np.asarray(index, dtype=np.int64)
        rows = torch.from_numpy(chosen)
        return Rows(
            self.records.take(pa.array(chosen)),
            {key: value[rows] for key, value in self.inputs.items()},
            [self.features[i] for i in chosen] if len(self.features) else (),
        )

    def with_features(self, features: Sequence[Tensor]) -> Rows:
        """The same rows with an encoder's answers."""
        return replace(self, features=features)

    def save(self, stem: Path) -> None:
        """Write `<stem>.parquet` and `<stem>.safetensors`."""
        pq.write_table(self.records, stem.with_suffix(".parquet"))
        save_file(
            {key: value.contiguous() for key, value in self.inputs.items()}, stem.with_suffix(".safetensors")
        )

    @staticmethod
    def load(stem: Path) -> Rows:
        """What `save` wrote."""
        return Rows(pq.read_table(stem.with_suffix(".parquet")), load_file(stem.with_suffix(".safetensors")))


class Supervision:
    """Rows with targets as endless batches for the loop; each epoch has its own order."""

    unit = "examples"
    units_per_sample = 1.0

    def __init__(self, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], seed: int) -> None:
        self.tensors = {**inputs, **targets}
        self.num_samples = len(next(iter(self.tensors.values())))
        self.seed = seed

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The rows at these positions, cut to the longest of them, and `key` [B] for what is random."""
        position_B = torch.tensor(positions)
        rows = row_of(position_B, self.num_samples, self.seed)
        batch = trim({key: value[rows] for key, value in self.tensors.items()})
        return {**batch, "key": sample_key(self.seed, position_B)}


def lengths(inputs: Mapping[str, Tensor]) -> Tensor:
    """How many positions of each row are real; all of them where nothing is padded."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].sum(1)
    if "num_samples" in inputs:
        return -(-inputs["num_samples"] // SAMPLES_PER_POSITION)
    if "pixels" in inputs:
        num_rows, _, height, width = inputs["pixels"].shape
        return torch.full((num_rows,), -(-height * width // PIXELS_PER_POSITION))
    return torch.ones(len(next(iter(inputs.values()))), dtype=torch.long)


def trim(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch without the positions that are padding in every row (padding is on the right)."""
    if "num_samples" in batch:
        padded, longest = batch["sound"].shape[1], max(int(batch["num_samples"].max()), 1)
    elif "attention_mask" in batch:
        padded, longest = batch["attention_mask"].shape[1], max(int(lengths(batch).max()), 1)
    else:
        return dict(batch)
    return {
        key: value[:, :longest].contiguous() if value.ndim > 1 and value.shape[1] == padded else value
        for key, value in batch.items()
    }


def use_fast_attention(model: PreTrainedModel, inputs: Mapping[str, Tensor], where: torch.device) -> None:
    """Set the fastest attention for these inputs; a picture is as long as the model's patches are many."""
    length = inputs["attention_mask"].shape[1] if "attention_mask" in inputs else 0
    attention.choose(model, length, where)


def device() -> torch.device:
    """Where models answer: the first CUDA device, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ask_through(reader: Reader | None) -> Ask:
    """The model's outputs for a batch of stored inputs."""

    def ask(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Any:
        known = batch if reader is None else reader(batch, training=False, key=None)
        return answered(model, known)

    return ask


@torch.no_grad()
def answers(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], precision: str, read: Any, ask: Ask | None = None
) -> list[Any]:
    """What `read(outputs, batch)` lists for every row, in the rows' order.

    Rows are sorted by length, so that batches hold little padding. The model is put in evaluation
    mode and stays there; its attention is set to what is fastest for the rows, and back.

    Args:
        model: any `transformers` model.
        inputs: of all rows.
        precision: `auto`, `float32` or `bfloat16`.
        read: from the model's outputs and the batch to one item per row.
        ask: from the model and a batch to outputs; None calls the model with the inputs as they are.
    """
    ask = ask or ask_through(None)
    where = device()
    nn.Module.to(model, where).eval()
    sizes = lengths(inputs)
    order = torch.argsort(sizes, descending=True, stable=True)
    items: list[Any] = [None] * len(order)
    start = 0
    with attention.restored(model):
        use_fast_attention(model, inputs, where)
        while start < len(order):
            rows = order[start : start + max(1, POSITIONS_PER_BATCH // max(int(sizes[order[start]]), 1))]
            some = trim({key: value[rows] for key, value in inputs.items()})
            batch = {key: value.to(where) for key, value in some.items()}
            with autocast(precision, where):
                outputs = ask(model, batch)
            for row, item in zip(rows.tolist(), read(outputs, batch), strict=True):
                items[row] = item
            start += len(rows)
    return items
