"""The halves of encoders such as wav2vec 2.0, HuBERT and WavLM: convolutions, and what sees all frames.

Legend: B recordings, N samples, T frames, C width of the features, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def features(encoder: PreTrainedModel, value_BN: Tensor) -> Tensor:
    """What the convolutions say of each frame, [B, T, C].

    They are called one by one, for `transformers` has the gradient of the samples computed as well.
    """
    network: Any = encoder
    state_BCN = value_BN.unsqueeze(1)
    for layer in network.feature_extractor.conv_layers:
        state_BCN = layer(state_BCN)
    return state_BCN.transpose(1, 2)


def context(encoder: PreTrainedModel, feature_BTC: Tensor, hidden_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What the transformer says of each frame where some are hidden, [B, T, D], and the features it got.

    The latter are normalised, [B, T, C], where the architecture answers them; else as they came.

    Args:
        encoder: with the learned vector that stands for hidden frames.
        feature_BTC: by `features`.
        hidden_BT: bool.
    """
    network: Any = encoder
    projected = network.feature_projection(feature_BTC)
    state_BTD, normed_BTC = projected if isinstance(projected, tuple) else (projected, feature_BTC)
    state_BTD = torch.where(hidden_BT[..., None], network.masked_spec_embed.to(state_BTD.dtype), state_BTD)
    return network.encoder(state_BTD).last_hidden_state, normed_BTC
