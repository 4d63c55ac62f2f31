"""Which patches are hidden: the masks of MAE and I-JEPA as functions of each sample's key.

Legend: B pictures, R and S rows and columns of patches, P = R·S patches, K visible patches, M hidden
patches, T target blocks of N patches each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.parts.counter import integers, uniform

_MIN_CONTEXT = 10  # patches, as in the code of I-JEPA


@torch.compiler.disable  # type: ignore[untyped-decorator]
def random_masks(key_B: Tensor, num_patches: int, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Visible and hidden patches, drawn anew for each picture (He et al. 2022, MAE, section 3).

    Args:
        key_B: int64 key per picture, see `models.parts.counter`.
        num_patches: of a picture.
        mask_ratio: share that is hidden; at least one patch is, and one is not.

    Returns:
        int64 indices [B, K] and [B, M].
    """
    num_visible = min(max(1, int(num_patches * (1 - mask_ratio))), num_patches - 1)
    order_BP = uniform(key_B, num_patches, stream=51).argsort(dim=1)
    return order_BP[:, :num_visible], order_BP[:, num_visible:]


@dataclass(frozen=True)
class Blocks:
    """What a picture shows, and what is to be predicted of it.

    Attributes:
        context: int64 [B, K], indices of visible patches.
        targets: int64 [B, T, N], indices of the patches of each target block; none is in the context.
    """

    context: Tensor
    targets: Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def multi_block(
    key_B: Tensor,
    num_rows: int,
    num_columns: int,
    *,
    num_targets: int,
    target_scale: tuple[float, float],
    target_ratio: tuple[float, float],
    context_scale: tuple[float, float],
) -> Blocks:
    """Blocks to predict and what surrounds them (Assran et al. 2023, I-JEPA, section 3 and figure 4).

    As in the paper's code, the pictures of a batch share the sizes of their blocks (here those that
    the first key draws), each picture has its own places, and contexts are cut to the shortest of
    the batch, the first rows staying. Where a batch would leave next to no context, patches outside
    the context's block are shown as well, so that targets are never shown.

    Args:
        key_B: int64 key per picture, see `models.parts.counter`.
        num_rows: of the grid of patches.
        num_columns: of the grid of patches.
        num_targets: blocks to predict, which may overlap.
        target_scale: smallest and largest share of the picture in a target.
        target_ratio: smallest and largest height of a target over its width.
        context_scale: smallest and largest share of the picture in the square context block.
    """
    drawn = uniform(key_B[:1], 3, stream=52)[0].tolist()
    grid = (num_rows, num_columns)
    target_size = block_size(grid, _between(target_scale, drawn[0]), _between(target_ratio, drawn[1]))
    context_size = block_size(grid, _between(context_scale, drawn[2]), 1.0)
    targets_BTP = _blocks(key_B, num_targets, grid, target_size, stream=53)
    block_BP = _blocks(key_B, 1, grid, context_size, stream=54).squeeze(1)
    free_BP = ~targets_BTP.any(1)
    index_P = torch.arange(num_rows * num_columns, device=key_B.device)
    least = torch.stack([(free_BP & block_BP).sum(1).min(), free_BP.sum(1).min()]).tolist()
    num_context = max(1, least[0], min(least[1], _MIN_CONTEXT))
    preference_BP = (free_BP.long() + (free_BP & block_BP).long()) * len(index_P) - index_P
    context_BK = preference_BP.topk(num_context, dim=1).indices.sort(dim=1).values
    in_order_BTP = targets_BTP.long() * len(index_P) - index_P
    num_target = target_size[0] * target_size[1]
    return Blocks(context_BK, in_order_BTP.topk(num_target, dim=2).indices)


def block_size(grid: tuple[int, int], scale: float, ratio: float) -> tuple[int, int]:
    """Rows and columns of a block with that share of the grid, and that height over its width."""
    area = int(grid[0] * grid[1] * scale)
    rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(1, rows), grid[0] - 1), min(max(1, columns), grid[1] - 1)


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])


def _blocks(key_B: Tensor, num: int, grid: tuple[int, int], size: tuple[int, int], *, stream: int) -> Tensor:
    """Blocks of that size anywhere in the grid, as bool [B, num, P]."""
    places = torch.tensor([grid[0] - size[0] + 1, grid[1] - size[1] + 1], device=key_B.device)
    corner_BN2 = integers(key_B, 2 * num, places.repeat(num), stream=stream).unflatten(1, (num, 2))
    inside = []
    for axis in range(2):
        index = torch.arange(grid[axis], device=key_B.device)
        first_BN1 = corner_BN2[..., axis].unsqueeze(-1)
        inside.append((index >= first_BN1) & (index < first_BN1 + size[axis]))
    return (inside[0].unsqueeze(-1) & inside[1].unsqueeze(-2)).flatten(2)
