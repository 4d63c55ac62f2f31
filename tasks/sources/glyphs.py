"""Pictures of characters in the fonts that matplotlib ships, in the manner of notMNIST.

32 x 32 RGB: a character at a random size, angle, place and colour on a plain or textured ground. The task
asks which of the 26 capital letters it is, in fonts that training never shows; nothing of a letter's
colour, brightness or place helps, so that its shape must be learnt. Textures are cut from the two photographs
that scikit-learn ships. The same for the same versions of matplotlib, Pillow and scikit-learn.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.corpora.duplicates import hash64
from tasks.errors import InputError

if TYPE_CHECKING:
    from numpy.random import RandomState
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SIDE = 32
CANVAS = 48  # on which a character is drawn before it is turned and cut out
# Left out of what matplotlib ships: cmex10, cmsy10, LastResort, Display, NonUni and Siz, whose tables
# claim letters that they don't have.
TRAIN_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *("cmr10", "cmb10", "cmmi10", "cmti10"),
)
TEST_FONTS = (
    *(f"STIXGeneral{style}" for style in ("", "Italic", "Bol", "BolIta")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *("cmss10", "cmtt10"),
)
LETTERS = string.ascii_uppercase
OTHERS = string.ascii_lowercase + string.digits + "!#$%&*+?@"
NUM_GLYPHS, NUM_OTHERS = 20_000, 10_000
ROWS = {"train": 100, "validation": 25, "test": 75}  # per letter: intervals of some 2 points on test
SIZES = (18, 30)  # pixels an em
MAX_ANGLE, MAX_SHIFT = 15.0, 3.0  # degrees, pixels
MIN_DIFFERENCE = 48  # levels of brightness between character and ground, which also show in grey
BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601, as Pillow's L
LICENSE = "Bitstream-Vera AND OFL-1.1"

Rows = Iterator[dict[str, Any]]


def letters() -> Rows:
    """Unlabelled capital letters in the fonts for training."""
    return _unlabelled("glyphs", LETTERS, NUM_GLYPHS)


def others() -> Rows:
    """Unlabelled small letters, digits and signs in the fonts for training: what is general."""
    return _unlabelled("glyphs-general", OTHERS, NUM_OTHERS)


def letter_task() -> Rows:
    """Capital letters with their name, split and mask; the test's fonts are in neither other split."""
    for split, count in ROWS.items():
        fonts = TEST_FONTS if split == "test" else TRAIN_FONTS
        for number in range(count * len(LETTERS)):
            letter = LETTERS[number % len(LETTERS)]
            font = fonts[number // len(LETTERS) % len(fonts)]
            picture, mask = draw(letter, font, f"letter-of-glyph/{split}/{number}")
            yield {
                "picture": _png(picture),
                "mask": _png(mask.point([0] * 128 + [1] * 128)),
                "label": letter,
                "split": split,
                "group": font,
                "license": LICENSE,
            }


def _unlabelled(name: str, characters: str, count: int) -> Rows:
    for number in range(count):
        character = characters[number % len(characters)]
        font = TRAIN_FONTS[number // len(characters) % len(TRAIN_FONTS)]
        picture, _ = draw(character, font, f"{name}/{number}")
        yield {"picture": _png(picture), "license": LICENSE}


def draw(character: str, font: str, name: str) -> tuple[Image, Image]:
    """A picture of a character and how much of each pixel it covers; `name` decides all that is random."""
    import numpy as np
    from PIL import Image

    draws = np.random.RandomState(hash64(name.encode()) % 2**32)  # a stream that no version of numpy changes
    cover = _cover(character, font, draws)
    ink, paper = _colours(draws)
    ground = Image.new("RGB", (SIDE, SIDE), paper)
    texture = _texture(draws)
    if draws.rand() < 0.7:
        ground = Image.blend(ground, texture, draws.uniform(0.1, 0.4))
    ground.paste(Image.new("RGB", (SIDE, SIDE), ink), (0, 0), cover)
    return ground, cover


def _cover(character: str, font: str, draws: RandomState) -> Image:
    from PIL import Image, ImageDraw

    size = int(draws.randint(SIZES[0], SIZES[1] + 1))
    canvas = Image.new("L", (CANVAS, CANVAS))
    chosen = _font(font, size)
    left, top, right, bottom = chosen.getbbox(character)
    corner = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, character, fill=255, font=chosen)
    turned = canvas.rotate(
        float(draws.uniform(-MAX_ANGLE, MAX_ANGLE)),
        Image.Resampling.BICUBIC,
        translate=tuple(draws.uniform(-MAX_SHIFT, MAX_SHIFT, 2)),
    )
    edge = (CANVAS - SIDE) // 2
    return turned.crop((edge, edge, edge + SIDE, edge + SIDE))


def _colours(draws: RandomState) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Colours of character and ground, far enough apart to be seen."""
    while True:
        ink, paper = draws.randint(0, 256, (2, 3))
        if abs((ink - paper) @ BRIGHTNESS) >= MIN_DIFFERENCE:
            return tuple(ink.tolist()), tuple(paper.tolist())


def _texture(draws: RandomState) -> Image:
    from PIL import Image

    photographs = _photographs()
    photograph = photographs[draws.randint(len(photographs))]
    side = int(draws.randint(SIDE, 4 * SIDE))
    left = int(draws.randint(photograph.width - side))
    top = int(draws.randint(photograph.height - side))
    return photograph.resize(
        (SIDE, SIDE), Image.Resampling.BOX, box=(left, top, left + side, top + side)
    )  # fmt: skip


@functools.cache
def _photographs() -> tuple[Image, ...]:
    from PIL import Image

    folder = _folder("sklearn") / "datasets" / "images"
    return tuple(Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg"))


@functools.cache
def _font(name: str, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    path = _folder("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise InputError(f"embedded glyphs: matplotlib ships no {path.name} here; reinstall matplotlib.")
    return ImageFont.truetype(path, size)


def _folder(package: str) -> Path:
    """Where a package is installed, found without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"embedded glyphs need {package}; pip install it.")
    return Path(found.origin).parent


def _png(image: Image) -> bytes:
    stored = io.BytesIO()
    image.save(stored, "PNG", compress_level=3)
    return stored.getvalue()


_UNLABELLED = {"image": "picture", "license": "license"}
COLUMNS: dict[str, Mapping[str, str]] = {
    "glyphs": _UNLABELLED,
    "glyphs-general": _UNLABELLED,
    "letter-of-glyph": {**_UNLABELLED, "mask": "mask", "split": "split", "group": "group"},
}
PACKAGES = ("matplotlib", "pillow", "scikit-learn")
