"""What a masked autoencoder puts where it saw nothing.

Legend: B pictures, C channels, H and W sides in pixels, P patches, K visible and M hidden patches, Q
values of a patch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models.objectives import Objective
from models.objectives.mae import MAE
from models.pictures import patchify, unpatchify
from tasks.modalities.image.pictures import tiles
from tasks.modalities.image.pictures.maps import MOST_SHOWN, Looked
from tasks.pages.sheets import Section, sheet, side_by_side


@torch.no_grad()
def section(objective: Objective, looked: Looked, key_B: Tensor, folder: Path) -> list[Section]:
    """Picture, what was visible, and what was made of it; nothing for other objectives."""
    if not isinstance(objective, MAE):
        return []
    pixel_values = looked.pixel_values[:MOST_SHOWN]
    rebuilt, is_visible_BHW = completed(objective.eval(), pixel_values, key_B[:MOST_SHOWN])
    truth = looked.values[:MOST_SHOWN]
    columns = [truth, tiles.faded(truth, is_visible_BHW), tiles.as_values(looked.images, rebuilt)]
    scale = (
        " The decoder says each patch at mean 0 and variance 1; here it has the true patch’s, which it "
        "cannot know."
        if objective.settings.normalise_patches
        else ""
    )
    caption = f"Hidden patches as the decoder puts them, between the visible ones.{scale}"
    rows = tiles.rows(*map(tiles.of, columns))
    laid_out = side_by_side(rows, ["picture", "visible to the encoder", "reconstruction"])
    made = sheet("reconstructions", caption, *laid_out, folder=folder)
    return [Section("What the decoder fills in", sheets=[made])]


def completed(objective: MAE, pixel_values: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures with predictions in their hidden patches [B, C, H, W]; what was visible, bool [B, H, W]."""
    done = objective.reconstruct(pixel_values, key_B)
    true_BPQ = patchify(pixel_values, objective.side)
    index_BMQ = done.hidden.unsqueeze(-1).expand(-1, -1, true_BPQ.shape[-1])
    predicted_BMQ = done.predicted.float()
    if objective.settings.normalise_patches:
        variance, mean = torch.var_mean(true_BPQ.gather(1, index_BMQ), dim=-1, keepdim=True)
        predicted_BMQ = predicted_BMQ * (variance + 1e-6).sqrt() + mean
    num_rows = pixel_values.shape[2] // objective.side
    completed_BCHW = unpatchify(true_BPQ.scatter(1, index_BMQ, predicted_BMQ), objective.side, num_rows)
    is_visible_BP = torch.ones(true_BPQ.shape[:2]).scatter(1, done.hidden, 0.0)
    height, width = completed_BCHW.shape[2:]
    return completed_BCHW, tiles.on_pixels(is_visible_BP.unflatten(1, (num_rows, -1)), height, width) > 0.5
