"""Stored recordings to what encoders of speech read, and what stands for each of them.

Legend: B recordings, N samples, T frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

_LEAST = 1e-7  # of a variance, as `Wav2Vec2FeatureExtractor` adds it


@dataclass(frozen=True)
class Sounds:
    """Facts about the stored recordings.

    Attributes:
        sample_rate_hz: samples a second.
        normalise: whether each recording is brought to mean 0 and variance 1.
        units: centres of clusters of cepstra [unit, number]; None where none were made.
    """

    sample_rate_hz: int
    normalise: bool = True
    units: tuple[tuple[float, ...], ...] | None = None

    def values(self, sound_BN: Tensor, length_B: Tensor | None = None) -> Tensor:
        """Samples as the encoder reads them, float32 [B, N]; 0 behind the end of each recording.

        Args:
            sound_BN: int16.
            length_B: samples of each recording; None where all are full.
        """
        value_BN = sound_BN.float() / 32768
        if length_B is None:
            length_B = torch.full((len(sound_BN),), sound_BN.shape[1], device=sound_BN.device)
        mask_BN = real(length_B, sound_BN.shape[1])
        if self.normalise:
            value_BN = value_BN * mask_BN
            count_B1 = length_B[:, None].clamp(min=1)
            centred_BN = value_BN - value_BN.sum(1, keepdim=True) / count_B1
            variance_B1 = (centred_BN * mask_BN).square().sum(1, keepdim=True) / count_B1
            value_BN = centred_BN / (variance_B1 + _LEAST).sqrt()
        return value_BN * mask_BN


def real(length_B: Tensor, num_samples: int) -> Tensor:
    """Which samples belong to each recording, bool [B, N]."""
    return torch.arange(num_samples, device=length_B.device) < length_B[:, None]


def num_frames(encoder: PreTrainedModel, length: Any) -> Any:
    """Frames that the feature encoder makes of so many samples."""
    config = encoder.config
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
    return length


def receptive_field(encoder: PreTrainedModel) -> tuple[int, int]:
    """Samples that a frame is made of, and samples from one frame to the next."""
    width, stride = 1, 1
    for kernel, step in zip(encoder.config.conv_kernel, encoder.config.conv_stride, strict=True):
        width, stride = width + (kernel - 1) * stride, stride * step
    return width, stride


def features(encoder: PreTrainedModel, value_BN: Tensor, length_B: Tensor) -> Tensor:
    """Mean over the frames of each recording, [B, D]."""
    mask_BN = real(length_B, value_BN.shape[1])
    frame_BTD = cast("Any", encoder)(value_BN, attention_mask=mask_BN).last_hidden_state
    mask_BT1 = real(num_frames(encoder, length_B).clamp(min=1), frame_BTD.shape[1]).unsqueeze(-1)
    summed_BD: Tensor = (frame_BTD.float() * mask_BT1).sum(1)
    return summed_BD / mask_BT1.sum(1)
