"""Contact sheets of a recipe's corpora: what the files hold, before anything is made of them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from tasks import layout
from tasks.corpora import glance
from tasks.modalities.image.pictures.tiles import Tile
from tasks.pages.sheets import SIDE, Section, Sheet, sheet, side_by_side

if TYPE_CHECKING:
    from tasks.config import Config
    from tasks.modalities import Record

COLUMNS = 10
ROWS = 2
MOST_ROWS_OF_A_CLASS = 3
POOL = 400  # rows of a labelled set among which classes are sought


def section(name: str, config: Config, folder: Path) -> list[Section]:
    """One sheet per corpus and labelled set; none where nothing was ingested."""
    recipe = config.recipe(name)
    sheets: list[Sheet] = []
    for corpus in dict.fromkeys((recipe.general, recipe.domain, recipe.tasks)):
        where = layout.corpus(corpus)
        files = sorted(where.glob("records-*.parquet"))
        found = glance.spread(files, ("id", "picture"), COLUMNS * ROWS)
        if found:
            caption = f"{corpus}: {len(found)} of {_kept(where):,} records, at even distances."
            sheets.append(_unlabelled(f"contact-{corpus}", caption, found, folder))
        for path in sorted(where.glob("tasks/*/train.parquet")):
            rows = glance.spread([path], ("id", "picture", "label"), POOL)
            sheets += _labelled(f"{corpus}-{path.parent.name}", path.parent.name, rows, folder)
    return [Section("The pictures themselves", sheets=sheets)] if sheets else []


def _unlabelled(name: str, caption: str, found: Sequence[Record], folder: Path) -> Sheet:
    shown = [opened(record["picture"]) for record in found]
    rows = [shown[start : start + COLUMNS] for start in range(0, len(shown), COLUMNS)]
    return sheet(name, caption, rows, folder=folder)


def _labelled(name: str, task: str, found: Sequence[Record], folder: Path) -> list[Sheet]:
    by_label: dict[str, list[Record]] = {}
    for record in found:
        by_label.setdefault(str(record.get("label", "")), []).append(record)
    if not found:
        return []
    if len(by_label) == 1:
        few = glance.evenly(found, COLUMNS * ROWS)
        return [_unlabelled(f"contact-{name}", f"{task}: training rows.", few, folder)]
    labels = sorted(by_label)[:COLUMNS]
    most = MOST_ROWS_OF_A_CLASS * (COLUMNS // len(labels))
    columns = [[opened(record["picture"]) for record in by_label[label][:most]] for label in labels]
    rows = [
        [column[row] if row < len(column) else None for column in columns]
        for row in range(max(map(len, columns)))
    ]
    caption = f"{task}: training rows by label" + (
        f", {len(labels)} of {len(by_label)} labels." if len(labels) < len(by_label) else "."
    )
    return [sheet(f"contact-{name}", caption, *side_by_side(rows, labels), folder=folder)]


def opened(picture: bytes, side: int = 2 * SIDE) -> Tile:
    """An encoded picture upright, whole, no larger than `side`; what is transparent stays so."""
    with Image.open(io.BytesIO(picture)) as file:
        file.draft("RGB", (side, side))
        image = ImageOps.exif_transpose(file)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((side, side))
    return np.asarray(image, np.uint8)


def _kept(corpus: Path) -> int:
    manifest: dict[str, Any] = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
    return int(manifest.get("counts", {}).get("kept", 0))
