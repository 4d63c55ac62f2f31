"""Hidden spans of frames, and the frames that each hidden one is told from.

wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations, Baevski et al. 2020,
sections 3.1 and 3.2, https://arxiv.org/abs/2006.11477.

Differs from the paper: as many spans begin in every recording, rather than each frame with a probability.

Legend: B recordings, T frames, S spans, K hidden frames of the recording that has most, R distractors,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.parts.counter import integers, uniform

_STARTS, _DISTRACTORS = 1, 2  # streams


@dataclass(frozen=True)
class Spans:
    """What is hidden.

    Attributes:
        hidden: bool [B, T].
        place: int64 [B, K], the hidden frames of each recording in their order; 0 behind its last one.
        count: int64 [B], how many each recording has.
    """

    hidden: Tensor
    place: Tensor
    count: Tensor

    @property
    def counts(self) -> Tensor:
        """Which of `place` are hidden frames, bool [B, K]."""
        return torch.arange(self.place.shape[1], device=self.count.device) < self.count[:, None]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def spans(key_B: Tensor, num_frames: int, *, probability: float, length: int) -> Spans:
    """Spans that begin at random frames and may overlap.

    Args:
        key_B: int64, from which they are drawn.
        num_frames: T.
        probability: share of the frames at which a span begins.
        length: frames of a span.

    Raises:
        ValueError: the recordings are shorter than a span.
    """
    if num_frames < length + 1:
        raise ValueError(
            f"{num_frames} frames hold no span of {length} and one more; give longer recordings "
            "(prepare.segment_seconds), or a shorter mask_length"
        )
    num_spans = max(1, round(probability * num_frames))
    order_BT = uniform(key_B, num_frames - length + 1, stream=_STARTS).argsort(dim=1, stable=True)
    first_BS = order_BT[:, :num_spans]
    place_BSL = first_BS[..., None] + torch.arange(length, device=key_B.device)
    hidden_BT = torch.zeros(len(key_B), num_frames, dtype=torch.bool, device=key_B.device)
    hidden_BT.scatter_(1, place_BSL.flatten(1), value=True)
    return listed(hidden_BT)


def listed(hidden_BT: Tensor) -> Spans:
    """The hidden frames by place."""
    count_B = hidden_BT.sum(1)
    order_BT = (~hidden_BT).to(torch.uint8).argsort(dim=1, stable=True)
    place_BK = order_BT[:, : int(count_B.max())]
    inside_BK = torch.arange(place_BK.shape[1], device=hidden_BT.device) < count_B[:, None]
    return Spans(hidden_BT, place_BK.masked_fill(~inside_BK, 0), count_B)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def distractors(key_B: Tensor, spans: Spans, num: int) -> Tensor:
    """For each hidden frame, others of the same recording: positions in `Spans.place`, int64 [B, K, R].

    Drawn evenly and with replacement.
    """
    num_places = spans.place.shape[1]
    high_B1 = (spans.count - 1).clamp(min=1)[:, None]
    drawn_BKR = integers(key_B, num_places * num, high_B1, stream=_DISTRACTORS).unflatten(1, (-1, num))
    own_K1 = torch.arange(num_places, device=key_B.device)[:, None]
    return drawn_BKR + (drawn_BKR >= own_K1)


def at(value_BTD: Tensor, place_BK: Tensor) -> Tensor:
    """The vectors at these frames, [B, K, D]."""
    return value_BTD.gather(1, place_BK[..., None].expand(-1, -1, value_BTD.shape[2]))
