"""Masks of patches against the papers' code written slowly, patch by patch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from models.image.patch_masks import block_size, multi_block, random_masks
from models.parts.counter import integers, uniform

KEYS = torch.arange(40) * 7 + 1
PAPER: dict[str, Any] = {
    "num_targets": 4, "target_scale": (0.15, 0.2), "target_ratio": (0.75, 1.5), "context_scale": (0.85, 1.0),
}  # fmt: skip


def test_random_masks_split_each_picture_in_its_own_way() -> None:
    visible, hidden = random_masks(KEYS, 16, 0.75)
    assert visible.shape == (40, 4)
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(16).expand(40, 16))
    assert len(torch.unique(visible.sort(1).values, dim=0)) > 35
    alone, _ = random_masks(KEYS[5:6], 16, 0.75)
    assert torch.equal(alone[0], visible[5])
    share = torch.bincount(random_masks(torch.arange(4000), 16, 0.75)[1].flatten(), minlength=16) / 4000
    assert float((share - 0.75).abs().max()) < 0.03


def test_at_least_one_patch_is_shown_and_one_is_hidden() -> None:
    assert random_masks(KEYS, 4, 0.99)[0].shape == (40, 1)
    assert random_masks(KEYS, 4, 0.01)[1].shape == (40, 1)


def slow_blocks(keys: torch.Tensor, rows: int, columns: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Appendix A.1 of I-JEPA with plain loops: blocks, context without targets, cut to the shortest."""
    shares = [float(share) for share in uniform(keys[:1], 3, stream=52)[0]]

    def size(scale: float, ratio: float) -> tuple[int, int]:
        area = math.floor(rows * columns * scale)
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        while height >= rows:
            height -= 1
        while width >= columns:
            width -= 1
        return height, width

    target = size(0.15 + shares[0] * 0.05, 0.75 + shares[1] * 0.75)
    context = size(0.85 + shares[2] * 0.15, 1.0)

    def block(key: torch.Tensor, which: int, shape: tuple[int, int], stream: int) -> list[int]:
        places = torch.tensor([rows - shape[0] + 1, columns - shape[1] + 1]).repeat(which + 1)
        top, left = integers(key[None], 2 * which + 2, places, stream=stream)[0, -2:].tolist()
        return [(top + r) * columns + left + c for r in range(shape[0]) for c in range(shape[1])]

    targets = [[block(key, which, target, 53) for which in range(4)] for key in keys]
    contexts = []
    for key, its_targets in zip(keys, targets, strict=True):
        hidden = {patch for one in its_targets for patch in one}
        contexts.append([patch for patch in block(key, 0, context, 54) if patch not in hidden])
    shortest = min(len(one) for one in contexts)
    return [one[:shortest] for one in contexts], targets


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("grid", [(14, 14), (12, 16)])
def test_blocks_are_those_of_the_slow_way(first: int, grid: tuple[int, int]) -> None:
    keys = KEYS[first:]
    blocks = multi_block(keys, *grid, **PAPER)
    contexts, targets = slow_blocks(keys, *grid)
    assert len(contexts[0]) >= 10
    assert blocks.context.tolist() == contexts
    assert blocks.targets.tolist() == targets


@pytest.mark.parametrize("side", [4, 6, 8, 14])
def test_targets_are_never_shown_on_any_grid(side: int) -> None:
    for first in range(20):
        blocks = multi_block(KEYS[first:], side, side, **PAPER)
        for shown, asked in zip(blocks.context.tolist(), blocks.targets.flatten(1).tolist(), strict=True):
            assert len(shown) == len(set(shown)) >= 1
            assert not set(shown) & set(asked) or side == 4


def test_sizes_follow_the_papers_bounds() -> None:
    sizes = {tuple(multi_block(torch.tensor([key]), 14, 14, **PAPER).targets.shape) for key in range(60)}
    counts = sorted(shape[2] for shape in sizes)
    assert counts[0] >= 0.15 * 196 * 0.8
    assert counts[-1] <= 0.2 * 196 * 1.2
    assert len(counts) > 3
    assert block_size((14, 14), 1.0, 1.0) == (13, 13)
