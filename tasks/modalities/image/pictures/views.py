"""What an objective makes of pictures before the encoder sees them: views, masks, turns; no model needed.

Read off the settings alone, with the same draws as in training: an objective takes its augmentations
in the order of its settings, at streams 1, 2, ....

Legend: B pictures, C channels, H and W sides in pixels, P patches, T target blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.augment import colour
from models.augment.views import Augment, view
from models.objectives.brightness import BrightnessSettings
from models.objectives.dino import LOCAL_SHARE
from models.objectives.ijepa import IJEPASettings
from models.objectives.mae import MAESettings
from models.objectives.rotation import NUM_TURNS, RotationSettings, all_turns
from models.patch_masks import multi_block, random_masks
from models.settings import Settings
from tasks.modalities.image.pictures import tiles
from tasks.modalities.image.pictures.tiles import Tile
from tasks.pages.sheets import Section, sheet, side_by_side

MOST_LOCAL = 3
Column = tuple[str, list[Tile]]


def section(
    objective: Settings, pixels_BCSS: Tensor, key_B: Tensor, size: int, patch: int | None, folder: Path
) -> Section:
    """The sheet of what happens to the pictures, with the settings that decide it.

    Args:
        objective: settings of the objective.
        pixels_BCSS: stored pictures, uint8.
        key_B: int64 key per picture.
        size: side of the encoder's input, pixels.
        patch: side of the encoder's patches, pixels; None where it has none.
        folder: where the file goes.
    """
    views = augmented(objective, pixels_BCSS, key_B, size, patch)
    columns: list[Column] = [("stored", tiles.of(pixels_BCSS))]
    columns += [(name, tiles.of(values)) for name, values in views]
    if views:
        columns += masked(objective, views[0][1], key_B, patch)
    name = str(getattr(objective, "name", type(objective).__name__))
    caption = (
        f"{len(pixels_BCSS)} pictures in rows: as stored, then what {name.replace('_', ' ')} makes of them "
        "in its first step."
    )
    rows = tiles.rows(*(column for _, column in columns))
    made = sheet("views", caption, *side_by_side(rows, [name for name, _ in columns]), folder=folder)
    return Section("What the objective sees", sheets=[made], settings=explained(objective))


def augmented(
    objective: Settings, pixels_BCSS: Tensor, key_B: Tensor, size: int, patch: int | None
) -> list[tuple[str, Tensor]]:
    """Name and values 0 to 1 of each view, in the objective's order."""
    kinds = [(name, value) for name, value in vars(objective).items() if isinstance(value, Augment)]
    last = [kinds[-1]] * (1 if len(kinds) == 1 else min(MOST_LOCAL, getattr(objective, "local_crops", 1)) - 1)
    if isinstance(objective, MAESettings | IJEPASettings | RotationSettings | BrightnessSettings):
        last = []
    found = []
    for stream, (name, augment) in enumerate([*kinds, *last], start=1):
        side = local_side(objective, size, patch) if "local" in name else size
        title = name.replace("_", " ") + (", again" if stream > len(kinds) else "")
        found.append((title, view(pixels_BCSS, key_B, augment, side, stream=stream)))
    return found


def local_side(objective: Settings, size: int, patch: int | None) -> int:
    """Side of a local crop in pixels, in whole patches."""
    wanted: int | None = getattr(objective, "local_size", None)
    step = patch or 1
    return wanted or max(step, round(size * LOCAL_SHARE / step) * step)


def masked(objective: Settings, values_BCHW: Tensor, key_B: Tensor, patch: int | None) -> list[Column]:
    """What is hidden, asked or changed of the view after it was augmented."""
    if isinstance(objective, RotationSettings):
        turns = all_turns(values_BCHW).unflatten(0, (NUM_TURNS, -1))
        return [(f"turned by {90 * turn}°", tiles.of(turns[turn])) for turn in range(1, NUM_TURNS)]
    if isinstance(objective, BrightnessSettings) and values_BCHW.shape[1] == 3:
        return [("in grey, to be measured", tiles.of(colour.greyscale(values_BCHW)))]
    if patch is None or not isinstance(objective, MAESettings | IJEPASettings):
        return []
    side = values_BCHW.shape[2] // patch
    if isinstance(objective, MAESettings):
        visible_BK, hidden_BM = random_masks(key_B, side**2, objective.mask_ratio)
        return [
            ("visible to the encoder", _only(values_BCHW, visible_BK, side)),
            ("hidden, to be predicted", _only(values_BCHW, hidden_BM, side)),
        ]
    blocks = multi_block(
        key_B, side, side, num_targets=objective.num_targets, target_scale=objective.target_scale,
        target_ratio=objective.target_ratio, context_scale=objective.context_scale,
    )  # fmt: skip
    targets = [
        (f"target {place + 1}", _only(values_BCHW, blocks.targets[:, place], side))
        for place in range(blocks.targets.shape[1])
    ]
    return [("context", _only(values_BCHW, blocks.context, side)), *targets]


def _only(values_BCHW: Tensor, index_BK: Tensor, side: int) -> list[Tile]:
    """The pictures with all but these patches faded."""
    height, width = values_BCHW.shape[2:]
    is_shown_BP = torch.zeros(len(index_BK), side * side, dtype=torch.bool).scatter(1, index_BK, value=True)
    is_shown_BHW = tiles.on_pixels(is_shown_BP.unflatten(1, (side, side)), height, width) > 0.5
    return tiles.of(tiles.faded(values_BCHW, is_shown_BHW))


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
