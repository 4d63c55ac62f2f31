"""Released weights of a vision model, made to fit other pictures than those it was trained on.

Positions are interpolated in the architecture's own way. The patch projection is resized so that an
enlarged patch gives the token that the patch itself gave (FlexiViT, Beyer et al. 2023, section 3.4,
https://arxiv.org/abs/2212.08013). The first layer's weights for colours are summed for greyscale,
and shared out the other way round.

Legend: D width, C channels, H and W sides in pixels, L tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, ViTConfig

PATCH_TRANSFORMERS = ("vit", "dinov2", "dinov2_with_registers", "vit_msn", "ijepa")
FACTS = ("image_size", "num_channels")  # what the data decide and not every architecture has a field for
FITTED = ("image_size", "patch_size", "num_channels")  # what `fit` can change of released weights


def as_encoder(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the kept part: the encoder of a masked autoencoder is a plain vision transformer."""
    if config.model_type != "vit_mae":
        return config
    own = set(ViTConfig().to_dict()) - {"model_type", "architectures", "pooler_output_size"}
    return ViTConfig(**{key: value for key, value in config.to_dict().items() if key in own})


def check_size(size: int, side: int) -> None:
    """Refuse pictures that cannot be cut into patches of that side.

    Raises:
        ValueError: says which sizes would do.
    """
    if not isinstance(side, int) or side < 1:
        raise ValueError(f"patch_size must be a whole number of pixels, at least 1; got {side!r}")
    if size % side:
        raise ValueError(
            f"pictures of {size} pixels cannot be cut into patches of {side}; "
            f"set `image_size` to {max(side, size - size % side)} or `patch_size` to a divisor of {size}"
        )


def fit(model: PreTrainedModel, wanted: Mapping[str, Any]) -> PreTrainedModel:
    """The model for another `image_size`, `patch_size` or `num_channels`; itself where nothing differs.

    Raises:
        ValueError: patches do not fill that size, or the weights of that architecture cannot be made to fit.
    """
    config = fitted_config(model.config, wanted)
    if config.to_dict() == model.config.to_dict():
        return model
    state = model.state_dict()
    if config.model_type in PATCH_TRANSFORMERS:
        side = model.config.patch_size
        _replace(
            state, "embeddings.position_embeddings", _positions(model, config.image_size // config.patch_size)
        )
        _resize(state, "patch_embeddings.projection.weight", side, config.patch_size)
    _recolour(model, state, config.num_channels)
    fitted: PreTrainedModel = type(model)._from_config(config, dtype=model.dtype)
    _check_fits(fitted, state, config)
    fitted.load_state_dict(state)
    return fitted


def fitted_config(config: PretrainedConfig, wanted: Mapping[str, Any]) -> PretrainedConfig:
    """The config for another `image_size`, `patch_size` or `num_channels`.

    Raises:
        ValueError: patches do not fill that size.
    """
    config = copy.deepcopy(config)
    for field in FITTED:
        if field in wanted and hasattr(config, field):
            setattr(config, field, wanted[field])
    if config.model_type in PATCH_TRANSFORMERS:
        check_size(config.image_size, config.patch_size)
    return config


def _check_fits(model: PreTrainedModel, state: Mapping[str, Tensor], config: PretrainedConfig) -> None:
    wrong = [name for name, weight in model.state_dict().items() if weight.shape != state[name].shape]
    if wrong:
        told = ", ".join(f"{field} {getattr(config, field)}" for field in FITTED if hasattr(config, field))
        raise ValueError(
            f"the weights of {config.model_type} cannot be made to fit {told}: {wrong[0]} has another shape. "
            f"Give what they were trained with, or choose one of {', '.join(PATCH_TRANSFORMERS)}"
        )


def leave_out_unused(model: PreTrainedModel) -> None:
    """Take away what no loss reaches: the pooler that some vision transformers carry, and the mask token."""
    base: Any = model.base_model
    if base.config.model_type not in PATCH_TRANSFORMERS:
        return
    if getattr(base, "pooler", None) is not None:
        base.pooler = None
    mask_token: nn.Parameter | None = getattr(base.embeddings, "mask_token", None)
    if mask_token is not None:
        mask_token.requires_grad_(False)


def _positions(model: PreTrainedModel, num_rows: int) -> Tensor:
    """Position embeddings of a square grid with that many rows, [1, L, D]."""
    base: Any = model.base_model
    known_1LD = base.embeddings.position_embeddings
    num_first = known_1LD.shape[1] - base.embeddings.patch_embeddings.num_patches
    like = known_1LD.new_empty(1, num_first + num_rows**2, known_1LD.shape[2])
    size = num_rows * model.config.patch_size
    resampled: Tensor = base.embeddings.interpolate_pos_encoding(like, size, size)
    return resampled.detach()


def _resize(state: dict[str, Tensor], ending: str, side: int, wanted: int) -> None:
    """Patch projection [D, C, side, side] for patches of another side, by the pseudo-inverse of resizing."""
    if side == wanted:
        return
    name = _name(state, ending)
    cells = torch.eye(side**2).unflatten(1, (1, side, side))
    enlarge = nn.functional.interpolate(cells, size=(wanted, wanted), mode="bilinear").flatten(1)
    weight = state[name].flatten(2) @ torch.linalg.pinv(enlarge).T
    state[name] = weight.unflatten(2, (wanted, wanted))


def _recolour(model: PreTrainedModel, state: dict[str, Tensor], num_channels: int) -> None:
    """The first convolution for another number of channels, with the same answer to grey pictures."""
    convolutions = ((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    name, first = next(convolutions)
    if first.in_channels == num_channels:
        return
    if {first.in_channels, num_channels} != {1, 3}:
        raise ValueError(
            f"the weights read {first.in_channels} channels and the pictures have {num_channels}; "
            "only greyscale and colour can stand for each other"
        )
    weight_DCHW = state[f"{name}.weight"].sum(1, keepdim=True) / num_channels
    state[f"{name}.weight"] = weight_DCHW.expand(-1, num_channels, -1, -1).contiguous()


def _replace(state: dict[str, Tensor], ending: str, value: Tensor) -> None:
    state[_name(state, ending)] = value


def _name(state: Mapping[str, Tensor], ending: str) -> str:
    return next(name for name in state if name.endswith(ending))
