"""What like recordings have in common, however loud they are: the coarse shape of their spectrogram.

The hash is made as imagehash's `phash` (Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010) of the logarithmic mel spectrogram from its first loud frame to its last; length and mean
pitch of the spectrum stand beside it. `tasks.corpora.likeness` makes keys of them.

Differs from it: bits are signs of the coefficients that change in time and over pitch, without those that
all voices and all words share, and only what is within 30 dB of the loudest counts, which is there at any
level. Of the 4.5 million pairs of the Free Spoken Digit Dataset one is taken alike; by `phash` 18 are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tasks.modalities.speech.mel import HOP_SECONDS, spectrogram

if TYPE_CHECKING:
    from tasks.modalities.speech.records.decoding import Samples

MIN_PEAK = 33  # of 32767, -60 dB: below it there is nothing to be heard
SHAPE = (32, 64)  # pitches and times of the reduced spectrogram
RANGE = 30.0  # dB below the loudest cell that count
LOUD = 25.0  # dB below the loudest cell, within which a frame belongs to the recording
LEVELS_PER_OCTAVE = 512  # of length; 16 levels are 2 %
LEVELS_OF_PITCH = 1020  # from the lowest to the highest; 16 levels are 1.6 %


def sounds(samples: Samples, rate_hz: int) -> bytes | None:
    """Hash, length and brightness of a recording; None where nothing is to be heard."""
    import scipy.fft
    from PIL import Image

    if not len(samples) or np.abs(samples.astype(np.int32)).max() < MIN_PEAK:
        return None
    mel_TM = spectrogram(samples, rate_hz)
    level_TM = np.clip(mel_TM - mel_TM.max() + RANGE, 0, RANGE)
    loud = np.flatnonzero(level_TM.max(1) >= RANGE - LOUD)
    level_TM = level_TM[loud[0] : loud[-1] + 1]
    drawn = Image.fromarray(level_TM).resize(SHAPE, Image.Resampling.BOX)
    bits = np.packbits(scipy.fft.dctn(np.asarray(drawn))[1:9, 1:9].ravel() > 0)
    octaves = math.log2(len(level_TM) * HOP_SECONDS)
    weight_M = level_TM.sum(0)
    brightness = (weight_M * np.arange(len(weight_M))).sum() / weight_M.sum() / len(weight_M)
    return bytes(bits) + bytes([_folded(LEVELS_PER_OCTAVE * octaves), _folded(LEVELS_OF_PITCH * brightness)])


def _folded(level: float) -> int:
    """0 to 255, up and down again, so that near levels stay near."""
    turned = level % 510
    return round(min(turned, 510 - turned))
