"""Sheets of pictures for a page: tiles in rows and columns as one image, with the columns named above.

The page gets WebP inside it and names that wrap and can be read aloud; a PNG file with the same names
drawn in stands beside the other figures.

Legend: H rows of pixels, W columns of pixels, C channels.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pages.plots import slug

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Tile = NDArray[np.uint8]  # [H, W], or [H, W, C] with 1, 3 or 4 channels

SIDE = 96  # pixels of a tile on the page
GAP = 6
MOST_COLUMNS = 11
HEADING_PIXELS = 11
QUALITY = 85


@dataclass(frozen=True)
class Sheet:
    """One sheet of pictures.

    Attributes:
        name: of its file.
        caption: the sentence under it, which says what it shows.
        html: for the page.
    """

    name: str
    caption: str
    html: str = field(repr=False)


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: what is looked at.
        sentences: what a reader must know of it.
        sheets: the pictures.
        settings: what made them so: path in `params.yaml`, value, sentence.
    """

    title: str
    sentences: Sequence[str] = ()
    sheets: Sequence[Sheet] = ()
    settings: Sequence[tuple[str, str, str]] = ()


def sheet(
    name: str,
    caption: str,
    rows: Sequence[Sequence[Tile | None]],
    columns: Sequence[str] = (),
    *,
    folder: Path,
    side: int = SIDE,
) -> Sheet:
    """Lay out tiles, write `<folder>/<name>.png`, and answer the form for the page.

    Args:
        name: of the file.
        caption: what the sheet shows; with the columns' names also its text alternative.
        rows: tiles by row and column; None leaves a place empty.
        columns: a name for each column, or none.
        folder: where the file goes.
        side: side of a tile, pixels.
    """
    from markupsafe import escape

    name = slug(name)
    drawn = [[None if tile is None else scaled(tile, side) for tile in row] for row in rows]
    image = _composed(drawn, side)
    folder.mkdir(parents=True, exist_ok=True)
    _headed(image, columns).save(folder / f"{name}.png")
    heads = "".join(f"<span>{escape(column)}</span>" for column in columns)
    count = max(map(len, rows), default=1)
    named = ", ".join(dict.fromkeys(filter(None, columns)))
    spoken = f"{caption} Columns: {named}." if named else caption
    html = (
        f'<div class="scroll"><div class="sheet" style="--n:{count};--g:{GAP}px;width:{image.width}px;'
        f'min-width:min({image.width}px,30rem)">'
        + (f'<div class="heads">{heads}</div>' if heads else "")
        + f'<img src="{data_uri(image)}" width="{image.width}" height="{image.height}" '
        f'alt="{escape(spoken)}"></div></div>'
    )
    return Sheet(name, caption, html)


def side_by_side(
    rows: Sequence[Sequence[Tile | None]], columns: Sequence[str]
) -> tuple[list[list[Tile | None]], list[str]]:
    """Rows in as many blocks as the page is wide, each under the same names, with a free column between."""
    blocks = min(len(rows), max(1, (MOST_COLUMNS + 1) // (len(columns) + 1)))
    height = -(-len(rows) // blocks)
    starts = range(0, len(rows), height)
    empty: list[Tile | None] = [None] * len(columns)
    joined: list[list[Tile | None]] = []
    for line in range(height):
        parts = [rows[start + line] if start + line < len(rows) else empty for start in starts]
        joined.append([tile for part in parts for tile in (*part, None)][:-1])
    return joined, [name for _ in starts for name in (*columns, "")][:-1]


def scaled(tile: Tile, side: int = SIDE) -> Image:
    """The tile with its longer side at most `side`; small ones grow by a whole factor, pixels visible."""
    from PIL import Image

    if tile.ndim == 3 and tile.shape[2] == 1:
        tile = tile[..., 0]
    image = Image.fromarray(tile)
    factor = side / max(image.size)
    if factor >= 2:
        width, height = (length * int(factor) for length in image.size)
        return image.resize((width, height), Image.Resampling.NEAREST)
    if factor < 1:
        width, height = (max(1, round(length * factor)) for length in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def data_uri(image: Image) -> str:
    """The image as WebP inside an address: without loss where that is as small."""
    choices: list[dict[str, Any]] = [{"quality": QUALITY}, {"lossless": True}]
    coded = []
    for options in choices:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", **options)
        coded.append(buffer.getvalue())
    return "data:image/webp;base64," + base64.b64encode(min(coded, key=len)).decode()


def _composed(rows: Sequence[Sequence[Image | None]], side: int) -> Image:
    """All tiles on one clear ground, each in the middle of its place."""
    from PIL import Image

    largest = max((max(tile.size) for row in rows for tile in row if tile is not None), default=side)
    step = largest + GAP
    count = max(map(len, rows), default=1)
    ground = Image.new("RGBA", (count * step - GAP, max(1, len(rows)) * step - GAP), (0, 0, 0, 0))
    for line, row in enumerate(rows):
        for place, tile in enumerate(row):
            if tile is not None:
                left, top = ((largest - length) // 2 for length in tile.size)
                ground.paste(tile.convert("RGBA"), (place * step + left, line * step + top))
    return ground


def _headed(image: Image, columns: Sequence[str]) -> Image:
    """The image on white, with the columns' names above."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), HEADING_PIXELS
    )
    step = (image.width + GAP) // max(1, len(columns))
    wrapped = [textwrap.wrap(column, max(6, int(step / (0.6 * HEADING_PIXELS)))) for column in columns]
    line = HEADING_PIXELS + 3
    head = line * max(map(len, wrapped), default=0) + (GAP if columns else 0)
    page = Image.new("RGB", (image.width, image.height + head), "white")
    page.paste(image, (0, head), image)
    pen = ImageDraw.Draw(page)
    for place, lines in enumerate(wrapped):
        top = head - GAP - line * len(lines)
        pen.multiline_text((place * step, top), "\n".join(lines), fill="#6b6962", font=font, spacing=1)
    return page
