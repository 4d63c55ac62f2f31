"""What an encoder sees in pictures: attention, patch features as colours, foreground that nobody labelled.

Legend: B pictures, C channels, H and W sides in pixels, P patches, R and S rows and columns of
patches, K heads, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.image import foreground
from models.image.pictures import patches
from tasks.modalities.image.pictures import tiles
from tasks.modalities.image.pictures.tiles import Tile
from tasks.pages.sheets import Section, Sheet, sheet, side_by_side

if TYPE_CHECKING:
    from models.image.images import Images

IGNORED = 255  # in masks
AT_A_TIME = 8  # pictures: attention is kept for all layers
MOST_SHOWN = 8
MOST_HEADS = 6
RANDOM = "random"
NAMES = {"pretrained": "pretrained encoder", "adapted": "adapted encoder", RANDOM: "random weights"}


@dataclass(frozen=True)
class Looked:
    """Pictures that are looked at.

    Attributes:
        images: what the encoder reads.
        pixel_values: normalised, [B, C, H, W].
        masks: true foreground, bool [B, H, W], where there is one.
        counted: where the truth is known, likewise.
    """

    images: Images
    pixel_values: Tensor
    masks: Tensor | None = None
    counted: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """The pictures as the encoder sees them, 0 to 1."""
        return tiles.as_values(self.images, self.pixel_values)


def look(images: Images, pixels_BCSS: Tensor, masks_B1SS: Tensor | None) -> Looked:
    """Stored pictures, and their masks by the same cut and scale."""
    if masks_B1SS is None:
        return Looked(images, images.plain(pixels_BCSS))

    def cut(mask_B1SS: Tensor) -> Tensor:
        like_pictures = mask_B1SS.to(torch.uint8).mul(255).expand(-1, images.channels, -1, -1)
        return tiles.as_values(images, images.plain(like_pictures.contiguous()))[:, 0] > 0.5

    is_known = masks_B1SS != IGNORED
    return Looked(images, images.plain(pixels_BCSS), cut((masks_B1SS > 0) & is_known), cut(is_known))


@torch.no_grad()
def sections(looked: Looked, encoders: Mapping[str, PreTrainedModel], folder: Path) -> list[Section]:
    """Attention, colours and foreground by each encoder; the last but `random` is looked at closest.

    Args:
        looked: the pictures.
        encoders: by arm, in evaluation mode; `random` for comparison.
        folder: where the files go.
    """
    for encoder in encoders.values():
        encoder.set_attn_implementation("eager")  # the others keep no weights to show
    parts = looked.pixel_values.split(AT_A_TIME)
    features = {
        arm: torch.cat([patches(encoder, part) for part in parts]).float()
        for arm, encoder in encoders.items()
    }
    attention: dict[str, Tensor] = {}
    for arm, encoder in encoders.items():
        weights = [foreground.class_attention(encoder, part) for part in parts]
        if known := [part for part in weights if part is not None]:
            attention[arm] = torch.cat(known)
    found = [_attention(looked, attention, folder)] if attention else []
    if next(iter(features.values())).shape[1] >= 4:
        found += [_colours(looked, features, folder), _foreground(looked, features, attention, folder)]
    return found


def _attention(looked: Looked, attention: Mapping[str, Tensor], folder: Path) -> Section:
    last = next(arm for arm in reversed([*attention]) if arm != RANDOM or len(attention) == 1)
    maps_BKRS = _grid(attention[last][:MOST_SHOWN].transpose(1, 2)).permute(0, 3, 1, 2)
    columns: list[tuple[str, list[Tile]]] = [("picture", _pictures(looked))]
    for arm, weights_BKP in attention.items():
        columns.append(
            (f"{NAMES[arm]}, mean of heads", _heat(looked, _grid(weights_BKP[:MOST_SHOWN].mean(1))))
        )
    for head in range(min(MOST_HEADS, maps_BKRS.shape[1])):
        columns.append((f"{NAMES[last]}, head {head + 1}", _heat(looked, maps_BKRS[:, head])))
    caption = "Attention of the class token in the last layer; each map from its own least (dark) to most."
    return Section("Where the encoder looks", sheets=[_sheet("attention", caption, columns, folder)])


def _colours(looked: Looked, features: Mapping[str, Tensor], folder: Path) -> Section:
    columns: list[tuple[str, list[Tile]]] = [("picture", _pictures(looked))]
    for arm, patches_BPD in features.items():
        tiled = tiles.colours(_grid(foreground.components(patches_BPD, 3)))[:MOST_SHOWN]
        columns.append((NAMES[arm], [_grown(tile, looked) for tile in tiled]))
    caption = (
        "Three principal components of the patches of all these pictures as red, green and blue: "
        "equal colours are equal features, in whatever picture."
    )
    return Section("What patches have in common", sheets=[_sheet("patch-colours", caption, columns, folder)])


def _foreground(
    looked: Looked, features: Mapping[str, Tensor], attention: Mapping[str, Tensor], folder: Path
) -> Section:
    height, width = looked.pixel_values.shape[2:]
    found: dict[str, Tensor] = {}
    for arm, patches_BPD in features.items():
        by_component_BRS = foreground.by_component(patches_BPD, _side(patches_BPD.shape[1]))
        found[f"{NAMES[arm]}, first component"] = foreground.enlarged(by_component_BRS, height, width)
    for arm, weights_BKP in attention.items():
        by_attention_BRS = foreground.by_attention(weights_BKP, _side(weights_BKP.shape[2]))
        found[f"{NAMES[arm]}, attention"] = foreground.enlarged(by_attention_BRS, height, width)
    found["brightness alone"] = foreground.by_brightness(looked.values * 255)
    columns: list[tuple[str, list[Tile]]] = [("picture", _pictures(looked))]
    sentences: list[str] = []
    if looked.masks is not None:
        columns.append(("true mask", _cut(looked, looked.masks)))
        assert looked.counted is not None
        tried = {**found, "the whole picture": torch.ones_like(looked.masks)}
        scores = {
            name: foreground.mean_iou(mask & looked.counted, looked.masks) for name, mask in tried.items()
        }
        ranked = sorted(scores.items(), key=lambda score: -score[1])
        told = ", ".join(f"{name} {100 * score:.0f} %" for name, score in ranked)
        sentences.append(
            f"Mean intersection over union with the true masks of {len(looked.masks)} pictures: {told}."
        )
    columns += [(name, _cut(looked, mask)) for name, mask in found.items()]
    caption = (
        "Foreground that nobody labelled; the rest is faded. First component: the side of its mean that "
        "lines less of the border. Attention: the patches that hold 60 % of the class token’s."
    )
    return Section("Foreground without labels", sentences, [_sheet("foreground", caption, columns, folder)])


def _sheet(name: str, caption: str, columns: Sequence[tuple[str, list[Tile]]], folder: Path) -> Sheet:
    rows = tiles.rows(*(column for _, column in columns))
    return sheet(name, caption, *side_by_side(rows, [title for title, _ in columns]), folder=folder)


def _pictures(looked: Looked) -> list[Tile]:
    return tiles.of(looked.values[:MOST_SHOWN])


def _cut(looked: Looked, is_shown_BHW: Tensor) -> list[Tile]:
    return tiles.of(tiles.faded(looked.values[:MOST_SHOWN], is_shown_BHW[:MOST_SHOWN]))


def _heat(looked: Looked, values_BRS: Tensor) -> list[Tile]:
    return [_grown(tile, looked) for tile in tiles.heat(values_BRS)]


def _grown(tile: Tile, looked: Looked) -> Tile:
    """A tile of patches at the size of the pictures."""
    factor = max(1, looked.pixel_values.shape[2] // len(tile))
    return tile.repeat(factor, 0).repeat(factor, 1)


def _grid(values_BPX: Tensor) -> Tensor:
    """Patches as rows and columns, [B, R, S, ...]."""
    return values_BPX.unflatten(1, (_side(values_BPX.shape[1]), -1))


def _side(num_patches: int) -> int:
    return round(num_patches**0.5)
