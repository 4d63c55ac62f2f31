"""The last layer of an encoder at the positions that are read, and at no others.

Keys and values are needed everywhere; queries, the output projection and the feed-forward network
only where somebody reads the result: at hidden tokens (masked language modelling) or at the first
token (classification). Values and gradients stay the same.

Legend: B rows, L tokens per row, K positions read per row, D width, H heads, W width per head.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def install(model: PreTrainedModel, *, first_only: bool = False) -> None:
    """Let the last layer be asked for some positions alone; what is saved does not change.

    Encoders of another build than BERT's, whose last layer is not known here, stay as they are.

    Args:
        model: its encoder then takes `positions_BK`, the positions that are read, beside its inputs.
        first_only: read the first position where none are given.
    """
    if model.config.model_type in ARCHITECTURES:
        base: Any = model.base_model
        layer: Any = base.encoder.layer[-1]
        layer.reads_first_only = first_only
        layer.forward = MethodType(_forward, layer)


def is_installed(encoder: PreTrainedModel) -> bool:
    """Whether the encoder takes `positions_BK`."""
    if encoder.config.model_type not in ARCHITECTURES:
        return False
    base: Any = encoder.base_model
    return hasattr(base.encoder.layer[-1], "reads_first_only")


def _forward(
    layer: Any,
    hidden_BLD: Tensor,
    attention_mask: Tensor | None = None,
    *rest: Any,
    positions_BK: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """In the place of the layer's own `forward`: features [B, K, D], or [B, L, D] without positions."""
    if positions_BK is None and layer.reads_first_only:
        positions_BK = torch.zeros(len(hidden_BLD), 1, dtype=torch.int64, device=hidden_BLD.device)
    if positions_BK is None:
        everywhere: Tensor = type(layer).forward(layer, hidden_BLD, attention_mask, *rest, **options)
        return everywhere
    attention = layer.attention.self
    heads = (attention.num_attention_heads, attention.attention_head_size)
    read_BKD = _at(hidden_BLD, positions_BK, 1)
    query_BHKW, key_BHLW, value_BHLW = (
        part.unflatten(-1, heads).transpose(1, 2)
        for part in (attention.query(read_BKD), attention.key(hidden_BLD), attention.value(hidden_BLD))
    )
    scores_BHKL = ((query_BHKW * attention.scaling) @ key_BHLW.transpose(2, 3)).float()
    if attention_mask is not None:
        mask_B1KL = _at(attention_mask, positions_BK, 2) if attention_mask.shape[2] > 1 else attention_mask
        if mask_B1KL.dtype == torch.bool:
            scores_BHKL = scores_BHKL.masked_fill(~mask_B1KL, torch.finfo(scores_BHKL.dtype).min)
        else:
            scores_BHKL = scores_BHKL + mask_B1KL
    weights_BHKL = attention.dropout(scores_BHKL.softmax(-1)).to(value_BHLW.dtype)
    seen_BKD = (weights_BHKL @ value_BHLW).transpose(1, 2).flatten(2)
    out_BKD: Tensor = layer.feed_forward_chunk(layer.attention.output(seen_BKD, read_BKD))
    return out_BKD


def _at(values: Tensor, positions_BK: Tensor, dim: int) -> Tensor:
    """The values at each row's positions along a dimension."""
    shape = [1] * values.ndim
    shape[0], shape[dim] = positions_BK.shape
    wanted = list(values.shape)
    wanted[dim] = positions_BK.shape[1]
    return values.gather(dim, positions_BK.view(shape).expand(wanted))
