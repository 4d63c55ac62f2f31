"""Pictures through an encoder: patch tokens, only the visible ones where asked, and one vector a picture.

Vision transformers whose embeddings are class token, patches and learned positions run layer by
layer here, so that a masked picture costs only what is visible of it; other architectures run as
they are. Positions are interpolated, in each architecture's own way, where a picture's size is not
the config's.

Legend: B pictures, C channels, H and W sides in pixels, R and S rows and columns of patches, P
patches, K visible patches, F tokens before the patches (class token, registers), D width, Q values
of a patch.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.encoders import UnknownEncoder
from models.image.picture_weights import PATCH_TRANSFORMERS, check_size
from models.parts import last_layer

Pooling = Literal["mean", "class"]
GRID = 4  # cells along the side that `in_cells` keeps


def features(encoder: PreTrainedModel, pixel_values: Tensor, pooling: Pooling = "mean") -> Tensor:
    """What stands for each picture, [B, D].

    Args:
        encoder: a vision transformer, or a network that ends in a map and pools it (ResNet).
        pixel_values: [B, C, H, W], normalised.
        pooling: `mean` of the patch tokens, or the `class` token; a map is pooled as its own
            architecture does.
    """
    if not is_patch_based(encoder):
        return cast("Tensor", _map(encoder, pixel_values).pooler_output.flatten(1))
    is_known = encoder.config.model_type in PATCH_TRANSFORMERS
    if pooling == "class" and is_known and hasattr(encoder.embeddings, "cls_token"):
        return encode_visible(encoder, pixel_values, None, first_only=True)[:, 0]
    tokens_BLD, num_first = _tokens(encoder, pixel_values)
    if pooling == "mean":
        return tokens_BLD[:, max(0, num_first) :].mean(1)
    if num_first < 1:
        raise UnknownEncoder(f"{encoder.config.model_type} has no class token; use the mean of its patches")
    return tokens_BLD[:, 0]


def in_cells(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """What stands for each picture where place matters: means of its patches in 4 × 4 cells, [B, 16·D].

    Networks that end in a map pool it as their architecture does.
    """
    if not is_patch_based(encoder):
        return features(encoder, pixel_values)
    height, side = pixel_values.shape[2], patch_side(encoder)
    map_BDRS = patches(encoder, pixel_values).transpose(1, 2).unflatten(2, (height // side, -1))
    return nn.functional.adaptive_avg_pool2d(map_BDRS, GRID).flatten(1)


def patches(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Patch tokens after the last layer, or the cells of the last map, [B, P, D], row by row."""
    if not is_patch_based(encoder):
        return cast("Tensor", _map(encoder, pixel_values).last_hidden_state.flatten(2).transpose(1, 2))
    tokens_BLD, num_first = _tokens(encoder, pixel_values)
    if num_first < 0:
        raise UnknownEncoder(
            f"{encoder.config.model_type} joins its patches on the way, so that none can be looked at in the "
            f"end; choose one of {', '.join(PATCH_TRANSFORMERS)}"
        )
    return tokens_BLD[:, num_first:]


def encode_visible(
    encoder: PreTrainedModel,
    pixel_values: Tensor,
    visible_BK: Tensor | None,
    *,
    first_only: bool = False,
) -> Tensor:
    """Tokens of the visible patches behind those before them, [B, F+K, D]; nothing else is computed.

    Args:
        encoder: a vision transformer of a layout that is known here.
        pixel_values: [B, C, H, W], normalised.
        visible_BK: int64 indices of the patches, row by row; None shows all.
        first_only: answer with the first token alone, [B, 1, D].

    Raises:
        UnknownEncoder: the architecture cannot leave patches out.
    """
    model: Any = encoder
    if model.config.model_type not in PATCH_TRANSFORMERS:
        raise UnknownEncoder(
            f"{model.config.model_type} cannot leave hidden patches out; "
            f"choose one of {', '.join(PATCH_TRANSFORMERS)}"
        )
    embeddings = model.embeddings
    projection = embeddings.patch_embeddings.projection
    patches_BPQ = patchify(pixel_values, patch_side(encoder))
    positions_1LD = _positions(encoder, pixel_values.shape[2], pixel_values.shape[3])
    first_1FD, positions_1PD = _first(embeddings, positions_1LD), positions_1LD[:, -patches_BPQ.shape[1] :]
    positions_BPD = positions_1PD.expand(len(patches_BPQ), -1, -1)
    if visible_BK is not None:
        patches_BPQ, positions_BPD = take(patches_BPQ, visible_BK), take(positions_BPD, visible_BK)
    weight_DQ = projection.weight.permute(0, 2, 3, 1).flatten(1)
    embedded_BKD = nn.functional.linear(patches_BPQ, weight_DQ, projection.bias) + positions_BPD
    tokens_BLD = torch.cat([first_1FD.expand(len(embedded_BKD), -1, -1), embedded_BKD], dim=1)
    tokens_BLD = embeddings.dropout(tokens_BLD)
    *layers, last = model.layers if hasattr(model, "layers") else model.encoder.layer
    for layer in layers:
        tokens_BLD = layer(tokens_BLD, None)
    tokens_BLD = last_layer.at(last, tokens_BLD, slice(1)) if first_only else last(tokens_BLD, None)
    return cast("Tensor", model.layernorm(tokens_BLD))


def patchify(values_BCHW: Tensor, side: int) -> Tensor:
    """Square patches row by row, each as rows of pixels of channels, [B, P, side·side·C]; rests are left."""
    num_rows, num_columns = values_BCHW.shape[2] // side, values_BCHW.shape[3] // side
    cut_BCHW = values_BCHW[:, :, : num_rows * side, : num_columns * side]
    grid = cut_BCHW.unflatten(3, (num_columns, side)).unflatten(2, (num_rows, side))
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches_BPQ: Tensor, side: int, num_rows: int | None = None) -> Tensor:
    """The pictures [B, C, H, W] that the patches were cut from; square ones where no rows are given."""
    num_rows = round(patches_BPQ.shape[1] ** 0.5) if num_rows is None else num_rows
    grid = patches_BPQ.unflatten(2, (side, side, -1)).unflatten(1, (num_rows, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def only(values_BCHW: Tensor, index_BK: Tensor, side: int) -> Tensor:
    """The pictures with NaN in the place of all patches but these."""
    nothing_BCHW = torch.full_like(values_BCHW, torch.nan)
    return put(nothing_BCHW, take(patchify(values_BCHW, side), index_BK), index_BK, side)


def put(values_BCHW: Tensor, patches_BKQ: Tensor, index_BK: Tensor, side: int) -> Tensor:
    """The pictures with other patches at these places."""
    index_BKQ = index_BK.unsqueeze(-1).expand(-1, -1, patches_BKQ.shape[-1])
    changed_BPQ = patchify(values_BCHW, side).scatter(1, index_BKQ, patches_BKQ)
    return unpatchify(changed_BPQ, side, values_BCHW.shape[2] // side)


def width(encoder: PreTrainedModel) -> int:
    """Entries of what `features` answers."""
    known: int | None = getattr(encoder.config, "hidden_size", None)
    return encoder.config.hidden_sizes[-1] if known is None else known


def patch_side(encoder: PreTrainedModel) -> int:
    """Side of a patch in pixels.

    Raises:
        UnknownEncoder: the architecture has no patches.
    """
    if not is_patch_based(encoder):
        raise UnknownEncoder(
            f"{encoder.config.model_type} has no patches to hide; "
            f"choose one of {', '.join(PATCH_TRANSFORMERS)}"
        )
    side: int = encoder.config.patch_size
    return side


def grid_side(encoder: PreTrainedModel, size: int) -> int:
    """Patches along the side of a picture of that many pixels.

    Raises:
        ValueError: no patches, or the size is not a multiple of them.
    """
    side = patch_side(encoder)
    check_size(size, side)
    return size // side


def is_patch_based(encoder: PreTrainedModel) -> bool:
    """Whether the encoder answers with tokens, one for each patch, rather than with a map."""
    return hasattr(encoder, "embeddings") and hasattr(encoder.embeddings, "patch_embeddings")


def take(rows_BPD: Tensor, index_BK: Tensor) -> Tensor:
    """The rows at each picture's indices, [B, K, D]."""
    return rows_BPD.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, rows_BPD.shape[-1]))


def _tokens(encoder: PreTrainedModel, pixel_values: Tensor) -> tuple[Tensor, int]:
    """All tokens after the last layer, and how many stand before the patches; fewer than 0 of joined ones."""
    if encoder.config.model_type in PATCH_TRANSFORMERS:
        tokens_BLD = encode_visible(encoder, pixel_values, None)
    else:
        takes = inspect.signature(encoder.forward).parameters
        any_size = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        tokens_BLD = encoder(pixel_values=pixel_values, **any_size).last_hidden_state
    side = patch_side(encoder)
    num_patches = (pixel_values.shape[2] // side) * (pixel_values.shape[3] // side)
    return tokens_BLD, tokens_BLD.shape[1] - num_patches


def _map(encoder: PreTrainedModel, pixel_values: Tensor) -> Any:
    """What a convolutional network answers; channels last, which it is fastest at."""
    return encoder(pixel_values=pixel_values.contiguous(memory_format=torch.channels_last))


def _positions(encoder: Any, height: int, width: int) -> Tensor:
    """Position embeddings of class token and patches for pictures of that size, [1, L, D]."""
    embeddings, side = encoder.embeddings, patch_side(encoder)
    num_positions = embeddings.position_embeddings.shape[1] - embeddings.patch_embeddings.num_patches
    num_positions += (height // side) * (width // side)
    like = embeddings.position_embeddings.new_empty(1, num_positions, embeddings.position_embeddings.shape[2])
    return cast("Tensor", embeddings.interpolate_pos_encoding(like, height, width))


def _first(embeddings: Any, positions_1LD: Tensor) -> Tensor:
    """The tokens before the patches: class token at its position, then registers, [1, F, D]."""
    if not hasattr(embeddings, "cls_token"):
        return positions_1LD[:, :0]
    class_11D = embeddings.cls_token + positions_1LD[:, :1]
    if not hasattr(embeddings, "register_tokens"):
        return class_11D
    return torch.cat([class_11D, embeddings.register_tokens], dim=1)
