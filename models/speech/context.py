"""The halves of encoders such as wav2vec 2.0, HuBERT and WavLM: convolutions, and what sees all frames.

The convolutions have strides nearly as long as their kernels, so that they are computed as products of blocks
of samples with blocks of the kernel; channels lie last throughout, as normalisation and what follows read
them. On two cores that takes a third of the time of `Conv1d` with its transpositions.

Legend: B recordings, N samples or frames of a layer, T frames after it, C its channels, D width, S stride.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def features(encoder: PreTrainedModel, value_BN: Tensor) -> Tensor:
    """What the convolutions say of each frame, [B, T, C]."""
    network: Any = encoder
    state_BNC = value_BN.unsqueeze(-1)
    for layer in network.feature_extractor.conv_layers:
        state_BTC = convolved(layer.conv, state_BNC)
        if hasattr(layer, "layer_norm"):
            state_BTC = _normalised(layer.layer_norm, state_BTC).to(state_BTC.dtype)
        state_BNC = layer.activation(state_BTC)
    return state_BNC


def convolved(conv: nn.Conv1d, state_BNC: Tensor) -> Tensor:
    """`conv` along the second dimension, channels last; it has neither padding nor dilation."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    num_rows, num_samples, channels = state_BNC.shape
    num_blocks = -(-kernel // stride)
    num_frames = (num_samples - kernel) // stride + 1
    length = (num_frames + num_blocks - 1) * stride
    state_BNC = nn.functional.pad(state_BNC, (0, 0, 0, length - num_samples))  # negative: cut
    block_BMX = state_BNC.reshape(num_rows, -1, stride * channels)
    weight_OCK = nn.functional.pad(conv.weight, (0, num_blocks * stride - kernel))
    weight_NOX = weight_OCK.unflatten(2, (num_blocks, stride)).permute(2, 0, 3, 1).flatten(2)
    found_BTO = nn.functional.linear(block_BMX, weight_NOX[0], conv.bias)[:, :num_frames]
    for number in range(1, num_blocks):
        part_BMO = nn.functional.linear(block_BMX, weight_NOX[number])
        found_BTO = found_BTO + part_BMO[:, number : number + num_frames]
    return found_BTO


def _normalised(norm: nn.Module, state_BTC: Tensor) -> Tensor:
    """Over the channels of each frame, or over the frames of each channel, as the layer has it."""
    if isinstance(norm, nn.LayerNorm):
        normed_BTC: Tensor = norm(state_BTC)
        return normed_BTC
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == norm.num_channels
    variance_B1C, mean_B1C = torch.var_mean(state_BTC.float(), dim=1, correction=0, keepdim=True)
    return (state_BTC - mean_B1C) * (variance_B1C + norm.eps).rsqrt() * norm.weight + norm.bias


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
