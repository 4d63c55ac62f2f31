"""Numbers read off the samples of recordings, on all cores.

Legend: T frames, M mel bands.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.corpora.samples import Histogram, by_hash
from tasks.modalities.speech.mel import spectrogram
from tasks.modalities.speech.records import decoding
from tasks.modalities.speech.records.likeness import MIN_PEAK

if TYPE_CHECKING:
    import pyarrow as pa


CLIPPED = 32_700  # of 32,767, from which on a sample counts as cut off
FRAME_SECONDS = 0.02
SILENT_BELOW = 40.0  # dB below the loudest frame
QUIET_SHARE, LOUD_SHARE = 10, 90  # percentiles of the frames' levels that stand for noise and for speech
BAND_BELOW = 55.0  # dB below the strongest frequency, from which on nothing is there
COMPARED = 2_000  # recordings of a corpus
LEVELS = 24  # of 5 dB
OCTAVES = 16

T = TypeVar("T")


def of(records: pa.Table) -> dict[str, list[Any]]:
    """Metrics by name, one value per recording."""
    found = [*_each(records, _metrics)]
    names = ("level_db", "peak", "clipped", "silence", "snr_db", "bandwidth_hz", "is_silent")
    return {name: [metrics[name] for metrics in found] for name in names}


def _metrics(content: bytes) -> dict[str, Any]:
    samples, rate_hz = decoding.opened(content)
    value = samples.astype(np.float64) / 32768
    size = max(1, min(len(value), round(FRAME_SECONDS * rate_hz)))
    power_T = np.square(value[: len(value) // size * size].reshape(-1, size)).mean(1)
    level_T = 10 * np.log10(power_T + 1e-10)
    quiet, loud = np.percentile(level_T, (QUIET_SHARE, LOUD_SHARE))
    peak = int(np.abs(samples.astype(np.int32)).max())
    return {
        "level_db": float(10 * np.log10(np.square(value).mean() + 1e-10)),
        "peak": peak / 32768,
        "clipped": float((np.abs(samples.astype(np.int32)) >= CLIPPED).mean()),
        "silence": float((level_T < level_T.max() - SILENT_BELOW).mean()),
        "snr_db": float(loud - quiet),
        "bandwidth_hz": _bandwidth(value, rate_hz),
        "is_silent": peak < MIN_PEAK,
    }


def _bandwidth(value: NDArray[np.float64], rate_hz: int) -> float:
    """The highest frequency at which there is anything; half the rate where the sound fills it."""
    size = 1024
    padded = np.pad(value, (0, max(0, size - len(value))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2]
    frames = frames[:: 1 + len(frames) // 256]  # of a long recording some, from all of it
    power_F = np.square(np.abs(np.fft.rfft(frames * np.hanning(size)))).mean(0)
    level_F = 10 * np.log10(power_F + 1e-12)
    there = np.flatnonzero(level_F > level_F.max() - BAND_BELOW)
    return float(there[-1] * rate_hz / size)


def of_transcripts(records: pa.Table) -> dict[str, pa.Array]:
    """Metrics of transcripts by name, null for recordings without one."""
    import pyarrow as pa

    is_there = "transcript" in records.column_names
    texts = records["transcript"].to_pylist() if is_there else [None] * records.num_rows
    lengths = [None if text is None else len(text) for text in texts]
    seconds = records["seconds"].to_pylist()
    rates = [None if size is None else size / time for size, time in zip(lengths, seconds, strict=True)]
    holding = Counter(character for text in texts for character in set(text or ""))
    rarest = [min(holding[character] for character in text) if text else None for text in texts]
    return {
        "characters": pa.array(lengths, pa.int64()),
        "characters_per_second": pa.array(rates, pa.float64()),
        "rarest_character_count": pa.array(rarest, pa.int64()),
    }


def histograms(records: pa.Table) -> dict[str, Histogram]:
    """Shares of levels by mel band, and of lengths in octaves, over at most `COMPARED` recordings."""
    records = by_hash(records, COMPARED)
    spectrum = sum(_each(records, _levels), np.zeros(1))
    seconds = np.maximum(records["seconds"].to_numpy(), 1 / 16)
    octaves = np.clip(np.log2(seconds * 16), 0, OCTAVES - 1).astype(np.int64)
    return {"spectrum": spectrum, "length": np.bincount(octaves, minlength=OCTAVES).astype(np.float64)}


def _levels(content: bytes) -> Histogram:
    """Histogram of one recording over bands and levels below its loudest, at a sum of 1."""
    samples, rate_hz = decoding.opened(content)
    level_TM = spectrogram(samples, rate_hz)
    step_TM = np.clip((level_TM.max() - level_TM) / 5, 0, LEVELS - 1).astype(np.int64)
    bands = level_TM.shape[1]
    counts = np.bincount((step_TM * bands + np.arange(bands)).ravel(), minlength=LEVELS * bands)
    return counts / counts.sum()


def _each(records: pa.Table, work: Callable[[bytes], T]) -> Iterator[T]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for batch in records.select(["recording"]).to_batches(max_chunksize=256):
            yield from pool.map(work, batch["recording"].to_pylist())
