"""What a frozen encoder says of labelled rows, as probes and neighbours read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import heads
from tasks.downstream import classification, rows
from tasks.downstream import kind as kind_of
from tasks.downstream.protocol import weights_hash
from tasks.downstream.rows import Rows
from tasks.modalities import Reader


def read(
    encoder: PreTrainedModel,
    splits: Sequence[Rows],
    *,
    kind: str,
    reader: Reader | None,
    pooling: str,
    precision: str,
) -> list[list[tuple[Any, Tensor]]]:
    """Of each row of each split what the kind's probe reads, and one vector.

    Args:
        encoder: without heads; is left in evaluation mode.
        splits: rows with their inputs.
        kind: of the task.
        reader: makes of inputs what the encoder reads; None where it reads them as they are.
        pooling: `mean` or `first`; of a causal encoder, whose first position has seen nothing, the last.
        precision: `auto`, `float32` or `bfloat16`.

    Raises:
        RuntimeError: the encoder is not what it was before.
    """
    gather = kind_of(kind).gather
    if pooling == "first" and heads.is_causal(encoder.config):
        pooling = "last"
    before = weights_hash(encoder)

    def ask(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
        if reader is None:
            hidden_BLD: Tensor = rows.ask_through(None)(model, batch).last_hidden_state
            return hidden_BLD
        return reader.hidden(model, batch, kind, pooling)

    def answer(hidden_BLD: Tensor, batch: Mapping[str, Tensor]) -> list[tuple[Any, Tensor]]:
        vectors = classification.gather(hidden_BLD, batch, pooling)
        return list(zip(gather(hidden_BLD, batch, pooling), vectors, strict=True))

    answers = [rows.answers(encoder, split.inputs, precision, answer, ask) for split in splits]
    if weights_hash(encoder) != before:
        raise RuntimeError("reading features changed the encoder's weights")
    return answers


def stacked(rows: Rows) -> Tensor:
    """The features of rows that have one vector each, [B, D]."""
    return torch.stack(list(rows.features))
