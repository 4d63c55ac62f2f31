"""Attention for packed rows: masks that keep documents apart, and a faster kernel for short rows on CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PRODUCTS = "products"
_LONGEST_FOR_PRODUCTS = 512


def products(
    module: nn.Module,
    query_BHLD: Tensor,
    key_BHLD: Tensor,
    value_BHLD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention as two plain matrix products, in the type of its inputs.

    On CPU in bfloat16 the fused kernel is slower than this up to a length of about 512, and its
    backward pass is slow at any length.
    """
    scaling = query_BHLD.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query_BHLD.device.type, enabled=False):
        scores_BHLL = (query_BHLD * scaling) @ key_BHLD.transpose(2, 3)
        if attention_mask is not None:
            scores_BHLL = scores_BHLL + attention_mask.to(scores_BHLL.dtype)
        weights_BHLL = scores_BHLL.softmax(-1)
        if dropout and module.training:
            weights_BHLL = nn.functional.dropout(weights_BHLL, dropout)
        out_BHLD = weights_BHLL @ value_BHLD.to(weights_BHLL.dtype)
    return out_BHLD.transpose(1, 2).contiguous(), weights_BHLL


ALL_ATTENTION_FUNCTIONS.register(PRODUCTS, products)
ALL_MASK_ATTENTION_FUNCTIONS.register(PRODUCTS, eager_mask)


def choose(module: nn.Module, length: int, device: torch.device) -> None:
    """Set the fastest attention that fits the device and the length, in all models of a module.

    Args:
        module: an objective, or a model.
        length: tokens in a row; pictures are as long as they have patches.
        device: where it will run.
    """
    for part in module.modules():
        if isinstance(part, PreTrainedModel) and part._supports_sdpa:
            is_short = max(length, _num_patches(part.config)) <= _LONGEST_FOR_PRODUCTS
            part.set_attn_implementation(PRODUCTS if device.type == "cpu" and is_short else "sdpa")


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Whatever `choose` sets in the block, leave all models of the module with the attention they had."""
    before = [
        (part, part.config._attn_implementation)
        for part in module.modules()
        if isinstance(part, PreTrainedModel) and part._supports_sdpa
    ]
    try:
        yield
    finally:
        for part, implementation in before:
            part.set_attn_implementation(implementation)


def _num_patches(config: PretrainedConfig) -> int:
    size, side = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    return (size // side) ** 2 if isinstance(size, int) and isinstance(side, int) else 0


def packed_mask(document_ids_BL: Tensor, dtype: torch.dtype, *, is_causal: bool = False) -> Tensor:
    """Additive mask [B, 1, L, L] in which a token sees its own document and nothing else.

    Args:
        document_ids_BL: which document of the row a token belongs to; -1 is padding, which sees
            only itself so that no row of the softmax is empty.
        dtype: of the result.
        is_causal: whether tokens see only what stands before them.
    """
    allowed_BLL = document_ids_BL.unsqueeze(2) == document_ids_BL.unsqueeze(1)
    if is_causal:
        allowed_BLL = allowed_BLL.tril()
    allowed_B1LL = allowed_BLL.unsqueeze(1)
    return torch.zeros(allowed_B1LL.shape, dtype=dtype, device=document_ids_BL.device).masked_fill(
        ~allowed_B1LL, torch.finfo(dtype).min
    )


def packed_positions(document_ids_BL: Tensor) -> Tensor:
    """Position of each token within its own document's part of the row, int64 [B, L]."""
    index_L = torch.arange(document_ids_BL.shape[1], device=document_ids_BL.device)
    starts_BL = torch.ones_like(document_ids_BL, dtype=torch.bool)
    starts_BL[:, 1:] = document_ids_BL[:, 1:] != document_ids_BL[:, :-1]
    start_BL = torch.where(starts_BL, index_L, 0).cummax(1).values
    return index_L - start_BL
