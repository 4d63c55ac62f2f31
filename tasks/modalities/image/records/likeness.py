"""What like pictures have in common: a perceptual hash and the mean colour.

The hash is imagehash's `phash`: signs of the 64 lowest frequencies of the picture's brightness
(Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). It sees no colour,
so that the mean chroma stands beside it; `tasks.corpora.likeness` makes keys of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_DEVIATION = 2.0  # grey levels, below which the hash is one of noise
REDUCED_SIDE = 64  # pixels, twice what the hash looks at


def looks(image: Image) -> bytes | None:
    """Hash and mean colour of a picture of mode L or RGB; None where it shows nothing."""
    import imagehash

    small = image.reduce(max(min(image.size) // REDUCED_SIDE, 1))
    light, blue, red = (np.asarray(channel) for channel in small.convert("RGB").convert("YCbCr").split())
    if light.std() < MIN_DEVIATION:
        return None
    bits = np.packbits(imagehash.phash(small).hash.ravel())
    return bytes(bits) + bytes([round(blue.mean()), round(red.mean())])
