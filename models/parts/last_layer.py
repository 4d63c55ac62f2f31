"""The last layer of an encoder at the positions that are read, and at no others.

Keys and values are needed everywhere; queries, the output projection and the feed-forward network
only where somebody reads the result: at hidden tokens (masked language modelling), at hidden patches
(masked pictures) or at the first token (classification, DINO). Values and gradients stay the same.

Legend: B rows, L tokens per row, K positions read per row, D width, H heads, W width per head.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import ViTLayer, eager_attention_forward

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


def at(layer: Any, hidden_BLD: Tensor, read: slice) -> Tensor:
    """A layer of a vision transformer at the positions that are read, [B, K, D].

    Layers of another build than ViT's run whole.
    """
    if not isinstance(layer, ViTLayer):
        everywhere: Tensor = layer(hidden_BLD, None)
        return everywhere[:, read]
    attention: Any = layer.attention
    normed_BLD = layer.layernorm_before(hidden_BLD)
    normed_BKD = normed_BLD[:, read]
    query_BHKW, key_BHLW, value_BHLW = (
        part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for part in (attention.q_proj(normed_BKD), attention.k_proj(normed_BLD), attention.v_proj(normed_BLD))
    )
    implementation = attention.config._attn_implementation
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    dropout = attention.attention_dropout if layer.training else 0.0
    seen_BKHW, _ = attend(
        attention, query_BHKW, key_BHLW, value_BHLW, None, dropout=dropout, scaling=attention.scaling
    )
    read_BKD = hidden_BLD[:, read] + layer.dropout(attention.o_proj(seen_BKHW.flatten(2)))
    out_BKD: Tensor = read_BKD + layer.dropout(layer.mlp(layer.layernorm_after(read_BKD)))
    return out_BKD


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
