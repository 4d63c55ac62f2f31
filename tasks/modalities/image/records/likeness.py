"""Whether two pictures look alike: a perceptual hash and the mean colour, as keys that like pictures share.

The hash is imagehash's `phash`: signs of the 64 lowest frequencies of the picture's brightness
(Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Pictures whose
hashes differ in few bits are found without comparing all pairs as in Manku, Jain, Das Sarma,
"Detecting Near-Duplicates for Web Crawling", 2007, section 3: the 64 bits are cut into blocks, and each
key leaves out as many blocks as bits may differ; so pictures that near share at least one key. Others
agree in 2^-38 of pairs if their bits are independent, more often where all pictures are taken alike
(X-rays, products): there set `distance` to 0. The hash sees no colour, so that a key also holds the cell
of the mean chroma in one of three grids, shifted so that less than 16 levels apart share a cell in one.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

LENGTH = 10  # bytes: the hash and two means
MIN_DEVIATION = 2.0  # grey levels, below which the hash is one of noise
REDUCED_SIDE = 64  # pixels, twice what the hash looks at
BLOCKS = (1, 3, 6, 8, 10)  # by the number of bits that may differ: 64, 42, 42, 40 and 38 bits a key
CELL, SHIFT = 48, 16  # levels of chroma
MAX_DISTANCE = len(BLOCKS) - 1

Keys = NDArray[np.uint64]


def looks(image: Image) -> bytes | None:
    """Hash and mean colour of a picture of mode L or RGB; None where it shows nothing."""
    import imagehash

    small = image.reduce(max(min(image.size) // REDUCED_SIDE, 1))
    light, blue, red = (np.asarray(channel) for channel in small.convert("RGB").convert("YCbCr").split())
    if light.std() < MIN_DEVIATION:
        return None
    bits = np.packbits(imagehash.phash(small).hash.ravel())
    return bytes(bits) + bytes([round(blue.mean()), round(red.mean())])


def keys(stored: list[bytes], distance: int) -> Keys:
    """Keys [picture, key] of pictures by their `looks`; of two alike pictures at least one is equal.

    Args:
        stored: `looks` of each picture.
        distance: bits of 64 in which the hashes of alike pictures may differ.
    """
    values_N10 = np.frombuffer(b"".join(stored), dtype=np.uint8).reshape(-1, LENGTH)
    hashes_N = np.ascontiguousarray(values_N10[:, :8]).view(np.uint64)[:, 0]
    chroma_N2 = values_N10[:, 8:].astype(np.uint64)
    found = []
    for number, (kept, grid) in enumerate(itertools.product(_kept_bits(distance), range(CELL // SHIFT))):
        cells_N2 = (chroma_N2 + np.uint64(grid * SHIFT)) // np.uint64(CELL)
        colour_N = cells_N2[:, 0] * np.uint64(8) + cells_N2[:, 1]
        found.append(_mixed((hashes_N & kept) ^ _mixed(colour_N + np.uint64(64 * number + 1))))
    return np.stack(found, axis=1)


@functools.cache
def _kept_bits(distance: int) -> tuple[np.uint64, ...]:
    """One mask per choice of the blocks that are left out."""
    borders = np.linspace(0, 64, BLOCKS[distance] + 1).round().astype(int).tolist()
    blocks = [sum(1 << bit for bit in range(*ends)) for ends in itertools.pairwise(borders)]
    everything = (1 << 64) - 1
    return tuple(
        np.uint64(everything ^ sum(left_out)) for left_out in itertools.combinations(blocks, distance)
    )


def _mixed(values: Keys) -> Keys:
    """SplitMix64's finaliser: every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
