"""Tensors of pictures as tiles for a sheet, and heat and colours laid over patches.

Legend: B pictures, C channels, H and W sides in pixels, P patches, R and S rows and columns of patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from models.image.images import Images
    from tasks.modalities import Record
    from tasks.modalities.image.tensors import PrepareSettings
    from tasks.modalities.image.tensors.decoding import Form

Tile = NDArray[np.uint8]

FADED = 0.2  # of a picture's own colour, where something is hidden
GREY = 0.82


def form(settings: PrepareSettings) -> Form:
    """What a recipe's stored pictures look like."""
    from tasks.modalities.image.tensors.decoding import Form

    return Form(settings.stored_size, settings.channels)


def decoded(records: list[Record], column: str, form: Form) -> Tensor:
    """The pictures of records as they are stored, uint8 [B, C, S, S].

    Raises:
        InputError: one cannot be decoded; names its id.
    """
    import pyarrow as pa

    from tasks.modalities.image.tensors.decoding import decode_all

    columns = {"id": [record["id"] for record in records], "picture": [record[column] for record in records]}
    return torch.from_numpy(decode_all(pa.table(columns), form))


def of(values_BCHW: Tensor) -> list[Tile]:
    """Tiles of uint8 values, or of 0 to 1."""
    if values_BCHW.dtype != torch.uint8:
        values_BCHW = (values_BCHW.clamp(0, 1) * 255).round().to(torch.uint8)
    return list(values_BCHW.permute(0, 2, 3, 1).numpy())


def as_values(images: Images, pixel_values: Tensor) -> Tensor:
    """Normalised pictures as values 0 to 1 again."""
    mean_C11, std_C11 = (torch.tensor(numbers)[:, None, None] for numbers in (images.mean, images.std))
    return (pixel_values * std_C11 + mean_C11).clamp(0, 1)


def faded(values_BCHW: Tensor, is_shown_BHW: Tensor) -> Tensor:
    """The pictures, light grey where they are not shown."""
    faint_BCHW = GREY + FADED * (values_BCHW - GREY)
    return torch.where(is_shown_BHW.unsqueeze(1), values_BCHW, faint_BCHW)


def heat(values_BRS: Tensor) -> list[Tile]:
    """Each picture's numbers as colours from dark (its least) to light (its most)."""
    import matplotlib

    values_BP = values_BRS.flatten(1).float()
    low_B1, high_B1 = values_BP.amin(1, keepdim=True), values_BP.amax(1, keepdim=True)
    shares = ((values_BP - low_B1) / (high_B1 - low_B1).clamp(min=1e-12)).view_as(values_BRS).numpy()
    coloured: Any = matplotlib.colormaps["magma"](shares)
    return list((coloured[..., :3] * 255).round().astype(np.uint8))


def colours(components_BRS3: Tensor) -> list[Tile]:
    """Three components as red, green and blue, each from its 2nd to its 98th percentile."""
    flat = components_BRS3.flatten(0, 2).float()
    low_3, high_3 = torch.quantile(flat, torch.tensor([0.02, 0.98]), dim=0)
    shares = ((components_BRS3 - low_3) / (high_3 - low_3).clamp(min=1e-12)).clamp(0, 1)
    return list((shares.numpy() * 255).round().astype(np.uint8))


def rows(*columns: list[Tile]) -> list[list[Tile]]:
    """Columns of tiles as rows."""
    return [list(row) for row in zip(*columns, strict=True)]
