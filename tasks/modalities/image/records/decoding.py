"""Bytes of a picture to upright pixels of 8 bits, grey or RGB, and its alpha channel as a mask.

Colour profiles are not applied. Of animations and multi-page files the first picture counts. Pillow
decodes (https://pillow.readthedocs.io); its own limit on pixels is replaced by the corpus's, which is
checked before a pixel is decoded.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tasks.corpora.media import Medium
from tasks.errors import InputError
from tasks.modalities import Rejected

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
KEPT = ("JPEG", "MPO", "PNG", "WEBP")  # MPO: what some telephones make of JPEG
SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
}
MEDIUM = Medium(
    name="picture",
    column="image",
    suffixes=tuple(SUFFIXES),
    fields=("picture", "image", "img", "path", "file_name", "filename", "file", "image_path"),
)
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
ORIENTATION = 0x0112  # EXIF tag
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class Rules(Protocol):
    """What a corpus says of decoding."""

    @property
    def background(self) -> str:
        """Colour behind what is transparent, a CSS name or #rrggbb."""

    @property
    def deep(self) -> Literal["full", "stretch"]:
        """How more than 8 bits become 8."""

    @property
    def max_pixels(self) -> int:
        """Pictures with more pixels are not decoded."""


@dataclass(frozen=True)
class Decoded:
    """A picture as models see it.

    Attributes:
        image: of mode L or RGB, upright.
        alpha: mode L, where the picture has an alpha channel.
        format: as its bytes say.
        is_as_stored: whether any reader of its bytes finds the same pixels without further rules.
        remarks: what was done to it.
    """

    image: Image
    alpha: Image | None
    format: str
    is_as_stored: bool
    remarks: tuple[str, ...]

    def stored(self, content: bytes) -> bytes:
        """What is kept of the bytes that it was decoded from: themselves, or a PNG of what became of them."""
        return content if self.is_as_stored else png(self.image)


def decoded(content: bytes, rules: Rules) -> Decoded:
    """The picture in `content`.

    Raises:
        Rejected: empty, not a picture, too many pixels, truncated or damaged.
    """
    image = _loaded(content, rules.max_pixels)
    kind = str(image.format)
    remarks = ["first_frame"] if kind != "MPO" and getattr(image, "is_animated", False) else []
    upright = _upright(image)
    if upright is not image:
        remarks.append("turned")
    if image.mode in DEEP:
        remarks.append("deep")
        upright = _eight_bit(upright, rules.deep)
    elif image.mode not in ("L", "RGB"):
        remarks.append(f"mode_{image.mode.lower()}")
    shown, alpha = _composited(upright, rules.background)
    if alpha is not None:
        remarks.append("composited")
    return Decoded(shown, alpha, kind, kind in KEPT and not remarks, tuple(remarks))


def foreground(alpha: Image) -> Image:
    """The mask that an alpha channel makes: 1 from half opacity on, else 0."""
    return alpha.point([0] * 128 + [1] * 128)


def mask(content: bytes, rules: Rules) -> Image:
    """The numbers of a mask, which name classes, as mode L.

    Of a palette, and of more than 8 bits, the numbers count. Where a mask holds but 0 and 255, or
    1 bit, 255 stands for 1.

    Raises:
        Rejected: as for `decoded`; its numbers don't fit into 8 bits, or it has colours instead.
    """
    image = _upright(_loaded(content, rules.max_pixels))
    if image.mode == "P" or image.mode in DEEP:
        numbers = _array(image)
        if (numbers != numbers.astype("uint8")).any():
            raise Rejected("mask_beyond_8_bits")
        return _library().fromarray(numbers.astype("uint8"))
    grey = image.convert("L")
    if image.mode != "1" and (_array(image.convert("RGB")) != _array(grey)[..., None]).any():
        raise Rejected("mask_of_colours")
    is_black_and_white = not any(grey.histogram()[1:255])
    return foreground(grey) if is_black_and_white else grey


@functools.cache
def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour.

    Raises:
        InputError: there is none of that name.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise InputError(f"background {name!r} is no colour; give a CSS name (white) or #rrggbb.") from None
    return red, green, blue


def png(image: Image) -> bytes:
    """The picture without loss."""
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return stored.getvalue()


def opened(content: bytes) -> Image:
    """A stored picture or mask, which `decoded` has been through: its pixels as they are."""
    return _library().open(io.BytesIO(content))


@functools.cache
def _library() -> Any:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image


def _loaded(content: bytes, max_pixels: int) -> Image:
    if not content:
        raise Rejected("empty")
    try:
        image: Image = _library().open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:
        raise Rejected("truncated" if content.startswith(BEGINNINGS) else "not_a_picture") from error
    if image.width * image.height > max_pixels:
        raise Rejected("too_many_pixels")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever their format makes them stumble over
        is_short = isinstance(error, EOFError) or "truncated" in str(error)
        raise Rejected("truncated" if is_short else "damaged") from error
    return image


def _upright(image: Image) -> Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that cannot be parsed says nothing
        return image
    turns = _library().Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image, deep: Literal["full", "stretch"]) -> Image:
    import numpy as np

    values = np.nan_to_num(_array(image).astype(np.float64))
    if deep == "full" and image.mode not in ("I", "F"):
        low, span = 0.0, 65535.0
    else:
        low, span = values.min(), max(np.ptp(values), 1e-12)
    return _library().fromarray(np.round((values - low) * (255 / span)).astype(np.uint8))


def _array(image: Image) -> Any:
    import numpy as np

    return np.asarray(image)


def _composited(image: Image, background: str) -> tuple[Image, Image | None]:
    if not image.has_transparency_data:
        return (image if image.mode in ("L", "RGB") else image.convert(_plain_mode(image))), None
    seen = image.convert("RGBA")
    ground = _library().new("RGBA", image.size, (*colour(background), 255))
    ground.alpha_composite(seen)
    return ground.convert("RGB"), seen.getchannel("A")


def _plain_mode(image: Image) -> str:
    return "L" if image.mode == "1" else "RGB"
