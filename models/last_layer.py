"""The last layer of an encoder at the positions that are read, and at no others.

Keys and values are needed everywhere; queries, the output projection and the feed-forward network
only where somebody reads the result: at hidden tokens (masked language modelling) or at the first
token (classification). Values and gradients stay the same.

Legend: B rows, L tokens per row, K positions read per row, D width, H heads, W width per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")

Choose = Callable[[Tensor, int], Tensor]


def can_restrict(model: PreTrainedModel) -> bool:
    """Whether the encoder is of BERT's build, whose last layer is known here.

    Recomputing activations calls the layer again when nobody says the positions any more.
    """
    if model.config.model_type not in ARCHITECTURES:
        return False
    base: Any = model.base_model
    return not getattr(base.encoder.layer[-1], "gradient_checkpointing", False)


def first(values: Tensor, dim: int) -> Tensor:
    """The first position along a dimension."""
    return values.narrow(dim, 0, 1)


@contextmanager
def only_at(encoder: PreTrainedModel, positions_BK: Tensor) -> Iterator[None]:
    """While open, the encoder's features are [B, K, D], those of the positions."""

    def choose(values: Tensor, dim: int) -> Tensor:
        shape = [1] * values.ndim
        shape[0], shape[dim] = positions_BK.shape
        wanted = list(values.shape)
        wanted[dim] = positions_BK.shape[1]
        return values.gather(dim, positions_BK.view(shape).expand(wanted))

    restrict(encoder, choose)
    try:
        yield
    finally:
        base: Any = encoder.base_model
        del base.encoder.layer[-1].forward


def restrict(model: PreTrainedModel, choose: Choose) -> None:
    """Let the last layer compute the chosen positions alone; what is saved does not change."""
    base: Any = model.base_model
    layer = base.encoder.layer[-1]
    attention = layer.attention.self
    num_heads, width = attention.num_attention_heads, attention.attention_head_size

    def forward(
        hidden_BLD: Tensor, attention_mask: Tensor | None = None, *rest: Any, **options: Any
    ) -> Tensor:
        read_BKD = choose(hidden_BLD, 1)
        query_BHKW, key_BHLW, value_BHLW = (
            part.unflatten(-1, (num_heads, width)).transpose(1, 2)
            for part in (attention.query(read_BKD), attention.key(hidden_BLD), attention.value(hidden_BLD))
        )
        scores_BHKL = ((query_BHKW * attention.scaling) @ key_BHLW.transpose(2, 3)).float()
        if attention_mask is not None:
            mask_B1KL = choose(attention_mask, 2) if attention_mask.shape[2] > 1 else attention_mask
            if mask_B1KL.dtype == torch.bool:
                scores_BHKL = scores_BHKL.masked_fill(~mask_B1KL, torch.finfo(scores_BHKL.dtype).min)
            else:
                scores_BHKL = scores_BHKL + mask_B1KL
        weights_BHKL = attention.dropout(scores_BHKL.softmax(-1)).to(value_BHLW.dtype)
        seen_BKD = (weights_BHKL @ value_BHLW).transpose(1, 2).flatten(2)
        out_BKD: Tensor = layer.feed_forward_chunk(layer.attention.output(seen_BKD, read_BKD))
        return out_BKD

    layer.forward = forward
