"""Histograms of oriented gradients, for many pictures at once.

Histograms of oriented gradients for human detection, Dalal & Triggs 2005, sections 6.2 to 6.4,
https://doi.org/10.1109/CVPR.2005.177: gradients by central differences in the channel where they
are largest, 9 unsigned orientations, blocks of cells that overlap, normalised by L2-Hys.

Differs from the paper: a gradient counts for one cell and one orientation alone, without
interpolation, as in scikit-image's `hog`, whose numbers these are.

Legend: N pictures, C channels, H, W sides in pixels, R, S rows and columns of cells, O orientations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot

NUM_ORIENTATIONS = 9
CLIPPED_AT = 0.2
EPSILON = 1e-5


def hog(pictures_NCHW: Tensor, cell: int, block: int = 2) -> Tensor:
    """Descriptors, [N, blocks · block² · 9].

    Args:
        pictures_NCHW: values of any scale.
        cell: side of a cell in pixels; what is left over at the right and below is not looked at.
        block: side of a block in cells.
    """
    magnitude_NHW, bin_NHW = _gradients(pictures_NCHW.float())
    votes_NOHW = one_hot(bin_NHW, NUM_ORIENTATIONS).permute(0, 3, 1, 2) * magnitude_NHW.unsqueeze(1)
    cells_NORS = avg_pool2d(votes_NOHW, cell)
    blocks = cells_NORS.unfold(2, block, 1).unfold(3, block, 1).permute(0, 2, 3, 4, 5, 1)
    blocks = blocks.flatten(3)
    clipped = _unit(blocks).clamp(max=CLIPPED_AT)
    return _unit(clipped).flatten(1)


def _gradients(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Length and orientation (0 to 8) of the gradient at each pixel; none at the border along its axis."""
    down_NCHW, right_NCHW = torch.zeros_like(x_NCHW), torch.zeros_like(x_NCHW)
    down_NCHW[:, :, 1:-1] = x_NCHW[:, :, 2:] - x_NCHW[:, :, :-2]
    right_NCHW[..., 1:-1] = x_NCHW[..., 2:] - x_NCHW[..., :-2]
    magnitude_NHW, channel_NHW = torch.hypot(down_NCHW, right_NCHW).max(1)
    down_NHW, right_NHW = (
        part.gather(1, channel_NHW.unsqueeze(1)).squeeze(1) for part in (down_NCHW, right_NCHW)
    )
    angle_NHW = torch.atan2(down_NHW, right_NHW).remainder(math.pi)
    bin_NHW = (angle_NHW * (NUM_ORIENTATIONS / math.pi)).long().clamp(max=NUM_ORIENTATIONS - 1)
    return magnitude_NHW, bin_NHW


def _unit(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(-1, keepdim=True) + EPSILON**2).sqrt()
