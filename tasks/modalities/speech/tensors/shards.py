"""Recordings on disk as one stream of samples: Arrow IPC, uncompressed, memory-mapped.

    sounds-00000.arrow …   `sound`, FixedSizeList<int16>[N]: segments of N samples

Recordings follow each other without a gap, so that no sample is padding; what does not fill the last
segment is left out.

Legend: B segments, N samples of a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from tasks.corpora.parts import Part
from tasks.errors import InputError
from tasks.modalities.speech.records import decoding

if TYPE_CHECKING:
    from tasks.modalities.speech.records.decoding import Samples

SHARD_BYTES = 256 << 20


def write(part: Part, folder: Path, rate_hz: int, segment: int, title: str) -> int:
    """Write the recordings of one slot and split; answer the number of segments.

    Raises:
        InputError: a recording has another rate.
    """
    per_shard = max(1, SHARD_BYTES // (2 * segment))
    number = num_rows = 0
    waiting: list[Samples] = []
    held = 0
    with tqdm(total=part.num_records, desc=f"decode {title}", unit="recordings", disable=None) as bar:
        for samples in _recordings(part, rate_hz, bar):
            waiting.append(samples)
            held += len(samples)
            while held >= per_shard * segment:
                joined = np.concatenate(waiting)
                _write(folder, number, joined[: per_shard * segment], segment)
                waiting, held = [joined[per_shard * segment :]], held - per_shard * segment
                number, num_rows = number + 1, num_rows + per_shard
    rest = np.concatenate(waiting) if waiting else np.empty(0, np.int16)
    if len(rest) >= segment or not number:
        _write(folder, number, rest[: len(rest) // segment * segment], segment)
    return num_rows + len(rest) // segment


def _recordings(part: Part, rate_hz: int, bar: Any) -> Iterator[Samples]:
    for table in part.records(("recording", "source")):
        for source, content in zip(table["source"].to_pylist(), table["recording"].to_pylist(), strict=True):
            yield at_rate(content, rate_hz, source)
            bar.update()


def at_rate(content: bytes, rate_hz: int, source: str) -> Samples:
    """The samples of a stored recording.

    Raises:
        InputError: they are of another rate than the recipe wants.
    """
    samples, stored_hz = decoding.opened(content)
    if stored_hz != rate_hz:
        raise InputError(
            f"{source}: its corpus holds {stored_hz} samples a second, and prepare.sample_rate_hz is "
            f"{rate_hz}; set `sample_rate_hz` of the corpora and of `prepare` to what the encoder reads."
        )
    return samples


def _write(folder: Path, number: int, samples: Samples, segment: int) -> None:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(samples), segment)
    batch = pa.record_batch([rows], names=["sound"])
    path = folder / f"sounds-{number:05d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


class Segments:
    """Memory-mapped segments as `write` leaves them.

    Attributes:
        num_rows: segments.
        num_samples: N.
    """

    def __init__(self, folder: Path) -> None:
        columns = [_column(path) for path in sorted(folder.glob("sounds-*.arrow"))]
        self.num_samples = int(columns[0].type.list_size)
        self._shards = [column.flatten().to_numpy() for column in columns]
        self._ends = np.cumsum([len(column) for column in columns])
        self.num_rows = int(self._ends[-1])

    def samples(self, row_B: NDArray[np.int64], shift_B: NDArray[np.int64]) -> Samples:
        """[B, N] from so many samples behind the beginning of each segment; at most to its shard's end."""
        shard_B = np.searchsorted(self._ends, row_B, side="right")
        within_B = row_B - np.append(0, self._ends)[shard_B]
        found = np.empty((len(row_B), self.num_samples), np.int16)
        for place, (shard, row, shift) in enumerate(zip(shard_B, within_B, shift_B, strict=True)):
            whole = self._shards[shard]
            first = min(row * self.num_samples + shift, len(whole) - self.num_samples)
            found[place] = whole[first : first + self.num_samples]
        return found


def _column(path: Path) -> pa.Array:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(0)


def padded(recordings: Iterable[Samples]) -> tuple[Samples, NDArray[np.int64]]:
    """Recordings side by side with zeros behind, [B, N], and the length of each."""
    listed = list(recordings)
    lengths = np.array([len(samples) for samples in listed], dtype=np.int64)
    found = np.zeros((len(listed), int(lengths.max(initial=1))), np.int16)
    for row, samples in enumerate(listed):
        found[row, : len(samples)] = samples
    return found, lengths
