"""Long recordings cut at pauses, so that no word falls on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tasks.modalities.speech.records.decoding import Samples

FRAME_SECONDS = 0.02
PAUSE_SECONDS = 0.3  # loudness is judged over so long a stretch: stops within words are shorter
EARLIEST = 0.5  # share of the longest piece before which no cut is looked for


def pieces(samples: Samples, rate_hz: int, max_seconds: float) -> list[tuple[int, int]]:
    """Where each piece begins and ends, in samples; together they are the whole.

    Each cut lies where the recording is quietest within the second half of what a piece may be long.

    Args:
        samples: [N].
        rate_hz: samples a second.
        max_seconds: of a piece.
    """
    longest = round(max_seconds * rate_hz)
    if len(samples) <= longest:
        return [(0, len(samples))]
    frame = max(1, round(FRAME_SECONDS * rate_hz))
    power = _power(samples, frame, round(PAUSE_SECONDS / FRAME_SECONDS))
    found, begin = [], 0
    while len(samples) - begin > longest:
        first = (begin + round(EARLIEST * longest)) // frame
        last = min(len(power), (begin + longest) // frame)
        end = (first + int(np.argmin(power[first:last]))) * frame + frame // 2
        found.append((begin, end))
        begin = end
    return [*found, (begin, len(samples))]


def _power(samples: Samples, frame: int, width: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Power around each frame, that which is nearest weighing most: so the least is a pause's middle."""
    whole = samples[: len(samples) // frame * frame].reshape(-1, frame)
    each = np.einsum("ij,ij->i", whole, whole, dtype=np.float64)  # in pieces, where it is hours long
    near = np.pad(each, (width // 2, (width - 1) // 2), mode="edge")
    return np.convolve(near, np.hanning(width + 2)[1:-1], mode="valid")
