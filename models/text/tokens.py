"""Encoders of text: whether they fit the tokens, packed rows through them, and their vocabulary head.

Legend: B rows, L tokens of a row, K positions that are read, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from models.encoders import UnknownEncoder
from models.parts import last_layer
from models.text.attention import packed_mask, packed_positions


def check_lengths(config: PretrainedConfig, lengths: Mapping[str, int]) -> None:
    """Refuse rows that are longer than the encoder has positions for; lengths by name of their setting."""
    longest = getattr(config, "max_position_embeddings", None)
    for name, length in lengths.items():
        if longest is not None and length > longest:
            raise UnknownEncoder(
                f"{name} {length} is longer than the {longest} positions of the encoder; "
                f"lower `prepare.{name}` to {longest} or raise `max_position_embeddings` in its config"
            )


def check_vocabulary(model: PreTrainedModel, vocabulary_size: int) -> None:
    """Refuse ids that the encoder has no embedding for."""
    known = getattr(model.config, "vocab_size", None)
    if known is not None and vocabulary_size > known:
        raise UnknownEncoder(
            f"the tokenizer has {vocabulary_size} entries and the encoder embeds {known}; set "
            "`prepare.tokenizer.from` to the place that the weights come from, or train from scratch"
        )


def token_head(model: PreTrainedModel) -> tuple[Callable[[Tensor], Tensor], nn.Linear]:
    """The head of a masked language model in two: features to features, and those to scores [..., V].

    Having it apart from the encoder lets an objective score only the tokens that it needs, and hold
    the scores of a few tokens at a time.
    """
    output = cast("nn.Linear", model.get_output_embeddings())
    parts: Any = model
    if hasattr(model, "cls"):
        return parts.cls.predictions.transform, output
    if hasattr(model, "lm_head"):
        return (lambda features: _roberta_transform(parts.lm_head, features)), output
    if hasattr(model, "head") and hasattr(model, "decoder"):  # ModernBERT
        return parts.head, output
    raise UnknownEncoder(
        f"{type(model).__name__} keeps its vocabulary head under a name that is not known here; "
        "supported are the layouts of BERT, RoBERTa and ModernBERT"
    )


def _roberta_transform(head: Any, features: Tensor) -> Tensor:
    return cast("Tensor", head.layer_norm(nn.functional.gelu(head.dense(features))))


def encode_packed(
    encoder: PreTrainedModel,
    input_ids_BL: Tensor,
    document_ids_BL: Tensor | None,
    *,
    is_causal: bool = False,
    positions_BK: Tensor | None = None,
) -> Tensor:
    """Features of packed rows, [B, L, D], or [B, K, D] where positions are given.

    Args:
        encoder: a model of token sequences.
        input_ids_BL: int64 ids.
        document_ids_BL: which document of the row a token belongs to, -1 for padding; documents
            then see only themselves and count positions from their own start. None lets attention
            cross their borders.
        is_causal: whether the architecture looks at earlier tokens only.
        positions_BK: the positions that are read.
    """
    packing = {}
    if document_ids_BL is not None:
        positions_BL = packed_positions(document_ids_BL)
        packing = {
            "attention_mask": packed_mask(document_ids_BL, encoder.dtype, is_causal=is_causal),
            "position_ids": positions_BL + _first_position(encoder),
        }
    return encode(encoder, positions_BK, input_ids=input_ids_BL, **packing)


def encode(encoder: PreTrainedModel, positions_BK: Tensor | None, **inputs: Tensor) -> Tensor:
    """Features at the positions, [B, K, D], as cheaply as the architecture allows; all where None."""
    if positions_BK is not None and last_layer.is_installed(encoder):
        return cast("Tensor", encoder(**inputs, positions_BK=positions_BK).last_hidden_state)
    features_BLD = cast("Tensor", encoder(**inputs).last_hidden_state)
    if positions_BK is None:
        return features_BLD
    return features_BLD.gather(1, positions_BK.unsqueeze(-1).expand(-1, -1, features_BLD.shape[-1]))


def _first_position(encoder: PreTrainedModel) -> int:
    """RoBERTa and its kin count positions from behind the padding id; all others from 0."""
    embeddings = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(embeddings, "padding_idx", None)
    return 0 if padding is None else padding + 1
