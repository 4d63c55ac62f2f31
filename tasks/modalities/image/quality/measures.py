"""Numbers read off the pixels of pictures, on all cores.

Legend: H, W pixels; C channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.corpora.samples import Histogram, by_hash
from tasks.modalities.image.records import decoding, likeness

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

MAX_SIDE = 256  # metrics of pictures of any size are comparable, and a photograph decodes eight times faster
COMPARED = 2_000  # pictures of a corpus
COLOURS = 8  # steps per channel
DIRECTIONS, STRENGTHS = 8, (0.02, 0.05, 0.1, 0.2, 0.4)
COARSE_SIDE = 64
OCTAVES = 16

T = TypeVar("T")


def of(records: pa.Table) -> dict[str, list[Any]]:
    """Metrics by name, one value per picture."""
    found = [*_each(records, _metrics)]
    names = ("bytes", "aspect", "mean", "contrast", "entropy", "sharpness", "is_grey", "is_blank")
    return {name: [metrics[name] for metrics in found] for name in names}


def _metrics(content: bytes) -> dict[str, Any]:
    image = decoding.opened(content)
    longer, shorter = max(image.size), min(image.size)
    grey = _small(image, MAX_SIDE).convert("L")
    light_HW = np.asarray(grey, dtype=np.float64) / 255
    return {
        "bytes": len(content),
        "aspect": longer / shorter,
        "mean": float(light_HW.mean()),
        "contrast": float(light_HW.std()),
        "entropy": float(grey.entropy()),
        "sharpness": float(_laplacian(light_HW).var()) if min(light_HW.shape) > 2 else 0.0,
        "is_grey": image.mode == "L" or _is_grey(image),
        "is_blank": bool(light_HW.std() * 255 < likeness.MIN_DEVIATION),
    }


def _laplacian(light_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = light_HW[1:-1, 1:-1]
    sides = light_HW[:-2, 1:-1] + light_HW[2:, 1:-1] + light_HW[1:-1, :-2] + light_HW[1:-1, 2:]
    return np.asarray(sides - 4 * middle)


def _is_grey(image: Image) -> bool:
    values_HWC = np.asarray(_small(image, COARSE_SIDE).convert("RGB"), dtype=np.int16)
    return bool(np.ptp(values_HWC, axis=2).max() <= 2)


def _small(image: Image, side: int) -> Image:
    """The picture at `side` pixels or a little more, as it is where it is smaller."""
    image.draft(image.mode, (side, side))
    return image.reduce(max(max(image.size) // side, 1))


def histograms(records: pa.Table) -> dict[str, Histogram]:
    """Shares of colours, edges and sizes over a sample of the pictures, chosen by the hash of their id."""
    records = by_hash(records, COMPARED)
    colours, edges = np.zeros(COLOURS**3), np.zeros(DIRECTIONS * len(STRENGTHS) + 1)
    for colour, edge in _each(records, _colours_and_edges):
        colours += colour
        edges += edge
    sides = [
        min(size) for size in zip(records["width"].to_pylist(), records["height"].to_pylist(), strict=True)
    ]
    octaves = np.log2(np.maximum(sides, 1)).astype(np.int64)
    sizes = np.bincount(np.minimum(octaves, OCTAVES - 1), minlength=OCTAVES)
    return {"colour": colours, "edge": edges, "size": sizes.astype(np.float64)}


def _colours_and_edges(content: bytes) -> tuple[Histogram, Histogram]:
    """Histograms of one picture; each picture counts as much as any other."""
    small = _small(decoding.opened(content), COARSE_SIDE)
    steps_HWC = np.asarray(small.convert("RGB"), dtype=np.int64) * COLOURS // 256
    codes = (steps_HWC * (COLOURS**2, COLOURS, 1)).sum(axis=2)
    colours = np.bincount(codes.ravel(), minlength=COLOURS**3)
    light_HW = np.pad(np.asarray(small.convert("L"), dtype=np.float64) / 255, 1, mode="edge")
    down, right = (np.gradient(light_HW, axis=axis)[1:-1, 1:-1] for axis in (0, 1))
    strength = np.digitize(np.hypot(down, right), STRENGTHS)  # 0 is no edge
    direction = ((np.arctan2(down, right) / np.pi + 1) * DIRECTIONS / 2).astype(np.int64) % DIRECTIONS
    codes = np.where(strength > 0, (strength - 1) * DIRECTIONS + direction + 1, 0)
    edges = np.bincount(codes.ravel(), minlength=DIRECTIONS * len(STRENGTHS) + 1)
    return colours / colours.sum(), edges / edges.sum()


def _each(records: pa.Table, work: Callable[[bytes], T]) -> Iterator[T]:
    """The work's answer for every picture, in order; a table's pictures are in memory already."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for batch in records.select(["picture"]).to_batches(max_chunksize=256):
            yield from pool.map(work, batch["picture"].to_pylist())
