"""What an objective makes of pictures: what it shows its encoder, and what it puts where it hides something.

Legend: B pictures, C channels, H and W sides in pixels, S stored side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.image.images import Images
from models.objectives import Objective
from models.settings import Settings
from tasks.modalities.image.pictures import tiles
from tasks.modalities.image.pictures.tiles import Tile
from tasks.pages.sheets import Section, Sheet, sheet, side_by_side

MOST_VIEWS = 6
Columns = list[tuple[str, list[Tile]]]


def section(
    objective: Objective,
    settings: Settings,
    images: Images,
    pixels_BCSS: Tensor,
    key_B: Tensor,
    folder: Path,
) -> Section:
    """The sheet of what happens to the pictures, with the settings that decide it.

    Args:
        objective: trained or not.
        settings: its own.
        images: what it was made with.
        pixels_BCSS: stored pictures, uint8.
        key_B: int64 key per picture.
        folder: where the file goes.
    """
    columns = [("stored", tiles.of(pixels_BCSS)), *seen(objective, images, pixels_BCSS, key_B)]
    name = str(getattr(settings, "name", type(objective).__name__))
    caption = (
        f"{len(pixels_BCSS)} pictures in rows: as stored, then what {name.replace('_', ' ')} makes of them "
        "in its first step."
    )
    made = _sheet("views", caption, columns, folder)
    return Section("What the objective sees", sheets=[made], settings=explained(settings))


def seen(objective: Objective, images: Images, pixels_BCSS: Tensor, key_B: Tensor) -> Columns:
    """Name and tiles of what the objective shows its encoder and hides from it."""
    stacks = objective.views({"pixels": pixels_BCSS, "key": key_B})
    return _columns(dict(list(stacks.items())[:MOST_VIEWS]), images)


@torch.no_grad()
def rebuilt(
    objective: Objective, images: Images, pixels_BCSS: Tensor, key_B: Tensor, folder: Path
) -> list[Section]:
    """The sheet of what the objective puts where it saw nothing; none where it puts nothing."""
    columns = _columns(objective.eval().rebuilt({"pixels": pixels_BCSS, "key": key_B}), images)
    if not columns:
        return []
    caption = (
        "Hidden patches as the decoder puts them, between the visible ones. A decoder that says each patch "
        "at mean 0 and variance 1 is given the true patch’s here, which it cannot know."
    )
    made = _sheet("reconstructions", caption, columns, folder)
    return [Section("What the decoder fills in", sheets=[made])]


def _columns(stacks: Mapping[str, Tensor], images: Images) -> Columns:
    """Stacks of pictures as tiles; what is hidden (NaN) is the whole picture before it, faded."""
    found: Columns = []
    whole_BCHW = torch.empty(0)
    for name, stack_BCHW in stacks.items():
        is_shown_BHW = ~stack_BCHW.isnan().any(1)
        if is_shown_BHW.all():
            whole_BCHW = tiles.as_values(images, stack_BCHW)
        found.append((name, tiles.of(tiles.faded(whole_BCHW, is_shown_BHW))))
    return found


def _sheet(name: str, caption: str, columns: Columns, folder: Path) -> Sheet:
    rows = tiles.rows(*(column for _, column in columns))
    return sheet(name, caption, *side_by_side(rows, [title for title, _ in columns]), folder=folder)


def explained(settings: Settings, prefix: str = "pretrain.objective") -> list[tuple[str, str, str]]:
    """Path, value and sentence of each setting, those of nested settings behind their own."""
    found = []
    for one in fields(cast("Any", settings)):
        value, path = getattr(settings, one.name), f"{prefix}.{one.name}"
        sentence = str(one.metadata.get("description", ""))
        if isinstance(value, Settings):
            found += [(path, "", sentence), *explained(value, path)]
        else:
            found.append((path, _plain(value), sentence))
    return found


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(_plain(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
