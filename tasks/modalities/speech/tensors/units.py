"""Units of sound: clusters of the cepstra of stored segments, as HuBERT predicts them.

Legend: B segments, F frames, U units, Q numbers of a frame's cepstra.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.speech.cepstra import WIDTH, cepstra
from models.speech.sounds import Sounds
from tasks.errors import InputError
from tasks.modalities.speech.tensors.shards import Segments

log = logging.getLogger(__name__)
FILE = "units.safetensors"
MOST_FRAMES = 200_000
SEGMENTS_AT_ONCE = 16


def fit(folder: Path, sounds: Sounds, num_units: int, seed: int) -> NDArray[np.float32]:
    """Centres [U, Q] of k-means over frames of the segments in a folder.

    Raises:
        InputError: there are fewer frames than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    frame_FQ = _frames(Segments(folder), sounds, seed)
    if len(frame_FQ) < num_units:
        raise InputError(
            f"{folder} has {len(frame_FQ)} frames of sound for {num_units} units; lower prepare.num_units "
            "or prepare.segment_seconds, or give the corpus more recordings."
        )
    log.info("cluster %d frames into %d units", len(frame_FQ), num_units)
    with threadpool_limits(1):  # sums come in one order
        clusters = MiniBatchKMeans(
            num_units, batch_size=10_000, n_init=5, max_no_improvement=20, random_state=seed
        ).fit(frame_FQ)
    return clusters.cluster_centers_.astype(np.float32)


def _frames(segments: Segments, sounds: Sounds, seed: int) -> NDArray[np.float32]:
    """Cepstra of frames of segments chosen at random, at most about `MOST_FRAMES`."""
    order = np.random.default_rng(seed).permutation(segments.num_rows)
    found = [np.empty((0, WIDTH), np.float32)]
    for start in range(0, len(order), SEGMENTS_AT_ONCE):
        rows = order[start : start + SEGMENTS_AT_ONCE]
        sound_BN = torch.from_numpy(segments.samples(rows, np.zeros_like(rows)))
        spoken_BFQ = cepstra(sounds.values(sound_BN), sounds.sample_rate_hz)
        found.append(spoken_BFQ.flatten(0, 1).numpy())
        if sum(map(len, found)) >= MOST_FRAMES:
            break
    return np.concatenate(found)


def save(centre_UQ: Sequence[Sequence[float]] | NDArray[np.float32], folder: Path) -> None:
    """Write them into a folder."""
    from safetensors.numpy import save_file

    save_file({"centres": np.array(centre_UQ, dtype=np.float32)}, folder / FILE)


def load(*folders: Path | str | None) -> tuple[tuple[float, ...], ...] | None:
    """Those of the first folder that has some; None where none has."""
    from safetensors.numpy import load_file

    for folder in folders:
        if folder is not None and (Path(folder) / FILE).is_file():
            return tuple(map(tuple, load_file(Path(folder) / FILE)["centres"].tolist()))
    return None
