"""Spans of frames and of channels hidden while few labels are learnt, so that they are not learnt by heart.

wav2vec 2.0, Baevski et al. 2020, section 4.3, https://arxiv.org/abs/2006.11477, after SpecAugment, Park et
al. 2019, https://arxiv.org/abs/1904.08779. As in `transformers`, but drawn from each recording's key.

Legend: B recordings, T frames, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.parts.counter import uniform
from models.speech.settings import Hiding

_TIME, _CHANNELS = 40, 41  # streams, apart from those that objectives draw from


@contextlib.contextmanager
def hidden(model: PreTrainedModel, key_B: Tensor, hiding: Hiding) -> Iterator[None]:
    """Within, the model's forward pass hides spans of what its convolutions say.

    Args:
        model: of the family of wav2vec 2.0, with or without a head.
        key_B: int64, from which spans are drawn.
        hiding: how much.
    """
    encoder: Any = model.base_model

    def hide(_: Any, __: Any, output: Any) -> Any:
        if not isinstance(output, tuple):  # HuBERT's
            return _hide(output, encoder.masked_spec_embed, key_B, hiding)
        return (_hide(output[0], encoder.masked_spec_embed, key_B, hiding), *output[1:])

    hook = encoder.feature_projection.register_forward_hook(hide)
    try:
        yield
    finally:
        hook.remove()


def _hide(state_BTD: Tensor, mask_D: Tensor, key_B: Tensor, hiding: Hiding) -> Tensor:
    _, num_frames, width = state_BTD.shape
    time_BT = _spans(key_B, num_frames, hiding.time_probability, hiding.time_length, _TIME)
    channel_BD = _spans(key_B, width, hiding.channel_probability, hiding.channel_length, _CHANNELS)
    state_BTD = torch.where(time_BT[..., None], mask_D.to(state_BTD.dtype), state_BTD)
    return state_BTD.masked_fill(channel_BD[:, None], 0)


def _spans(key_B: Tensor, num: int, probability: float, length: int, stream: int) -> Tensor:
    """Boolean [B, num]; the first places are the same for every `num`, so that padding changes nothing."""
    begin_BN = (uniform(key_B, num, stream=stream) < probability).float()
    ends_BN = begin_BN.cumsum(1)
    before_BN = torch.nn.functional.pad(ends_BN, (length, 0))[:, :num]
    return ends_BN > before_BN
