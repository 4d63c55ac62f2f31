"""Mel-frequency cepstral coefficients of recordings, and their changes: what HuBERT's first units stand for.

Comparison of Parametric Representations for Monosyllabic Word Recognition, Davis & Mermelstein 1980,
https://doi.org/10.1109/TASSP.1980.1163420; changes by the regression of the HTK Book, equation 5.16.

Legend: B recordings, N samples, T frames of 10 ms, S samples of a window, F frequencies, M mel bands,
Q numbers of a frame.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
BANDS, COEFFICIENTS = 26, 13
WIDTH = 3 * COEFFICIENTS
_FLOOR = 1e-10
_REACH = 2  # frames to either side over which changes are read


def cepstra(value_BN: Tensor, rate_hz: int) -> Tensor:
    """Coefficients, their changes and the changes of these, each recording's at mean 0: [B, T, Q].

    Args:
        value_BN: at least a window long; their level does not count.
        rate_hz: samples a second.
    """
    window, hop = round(WINDOW_SECONDS * rate_hz), round(HOP_SECONDS * rate_hz)
    size = 1 << (window - 1).bit_length()
    weight_FM, turn_MQ, shape_S = _constants(rate_hz, window, size, value_BN.device)
    window_BTS = value_BN.float().unfold(1, window, hop) * shape_S
    power_BTF = torch.fft.rfft(window_BTS, n=size).abs().square()
    level_BTM = (power_BTF @ weight_FM).clamp(min=_FLOOR).log()
    own_BTQ = level_BTM @ turn_MQ
    change_BTQ = _changes(own_BTQ)
    found_BTQ = torch.cat([own_BTQ, change_BTQ, _changes(change_BTQ)], dim=-1)
    return found_BTQ - found_BTQ.mean(1, keepdim=True)


def num_frames(num_samples: int, rate_hz: int) -> int:
    """T for so many samples."""
    window, hop = round(WINDOW_SECONDS * rate_hz), round(HOP_SECONDS * rate_hz)
    return (num_samples - window) // hop + 1


def _changes(value_BTQ: Tensor) -> Tensor:
    padded = nn.functional.pad(value_BTQ.transpose(1, 2), (_REACH, _REACH), mode="replicate").transpose(1, 2)
    num = value_BTQ.shape[1]
    slope_BTQ = torch.zeros_like(value_BTQ)
    for step in range(1, _REACH + 1):
        later, earlier = _REACH + step, _REACH - step
        slope_BTQ += step * (padded[:, later : later + num] - padded[:, earlier : earlier + num])
    return slope_BTQ / (2 * sum(step * step for step in range(1, _REACH + 1)))


@functools.lru_cache(maxsize=8)
def _constants(rate_hz: int, window: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Mel triangles [F, M], the cosine transform [M, Q] (orthonormal DCT-II), and Hamming's window [S]."""
    highest = 2595 * math.log10(1 + rate_hz / 2 / 700)
    corner = 700 * (10 ** (torch.linspace(0, highest, BANDS + 2, dtype=torch.float64) / 2595) - 1)
    frequency_F1 = torch.linspace(0, rate_hz / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    left, middle, right = corner[:-2], corner[1:-1], corner[2:]
    rising, falling = (frequency_F1 - left) / (middle - left), (right - frequency_F1) / (right - middle)
    weight_FM = torch.minimum(rising, falling).clamp(min=0)
    band_M1 = (torch.arange(BANDS, dtype=torch.float64)[:, None] + 0.5) * math.pi / BANDS
    turn_MQ = torch.cos(band_M1 * torch.arange(COEFFICIENTS)) * math.sqrt(2 / BANDS)
    turn_MQ[:, 0] /= math.sqrt(2)
    shape_S = torch.hamming_window(window, periodic=False, dtype=torch.float64)
    made = tuple(table.float().to(device) for table in (weight_FM, turn_MQ, shape_S))
    return made[0], made[1], made[2]
