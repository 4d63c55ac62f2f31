"""Logarithmic mel spectrograms, for measures, floors and pictures.

Mel scale of Slaney's Auditory Toolbox is not taken but O'Shaughnessy's, 2595 log10(1 + f / 700), as in HTK.

Legend: T frames, F frequencies, M mel bands, N samples.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

BANDS = 40
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
FLOOR = 1e-10  # of power, -100 dB of full scale

Levels = NDArray[np.float32]


def spectrogram(
    samples: NDArray[np.int16], rate_hz: int, bands: int = BANDS, hop_seconds: float = HOP_SECONDS
) -> Levels:
    """Level of each frame and band, dB of full scale, [T, M]; at least one frame.

    Args:
        samples: [N].
        rate_hz: samples a second.
        bands: mel bands.
        hop_seconds: from one frame to the next.
    """
    window, hop = round(WINDOW_SECONDS * rate_hz), max(1, round(hop_seconds * rate_hz))
    padded = np.pad(samples.astype(np.float32) / 32768, (0, max(0, window - len(samples))))
    frames_TN = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    size = 1 << (window - 1).bit_length()
    weights_FM = _weights(rate_hz, size, bands)
    shape = np.hanning(window).astype(np.float32)
    parts = []
    for start in range(0, len(frames_TN), 4096):  # a recording of hours does not fit as frames
        power_TF = np.square(np.abs(np.fft.rfft(frames_TN[start : start + 4096] * shape, size)))
        parts.append(10 * np.log10(power_TF @ weights_FM / shape.sum() ** 2 + FLOOR))
    return np.concatenate(parts).astype(np.float32)


@functools.cache
def _weights(rate_hz: int, size: int, bands: int) -> NDArray[np.float64]:
    """Triangles that overlap by half, [F, M]."""
    highest = 2595 * np.log10(1 + rate_hz / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    frequency_F1 = np.linspace(0, rate_hz / 2, size // 2 + 1)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequency_F1 - left) / (middle - left)
    falling = (right - frequency_F1) / (right - middle)
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return triangles
