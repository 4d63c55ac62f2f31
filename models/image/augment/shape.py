"""Shape: rotation with shear, and the thickness of strokes.

Legend: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def turn(x_BCHW: Tensor, angle_B: Tensor, shear_B: Tensor) -> Tensor:
    """Shear rows by `shear` (a tangent) and turn anticlockwise by `angle` (radians), about the centre.

    Bilinear; beyond the edge the picture goes on with the colour of the edge.
    """
    height, width = x_BCHW.shape[2:]
    cosine_B, sine_B = torch.cos(angle_B), torch.sin(angle_B)
    aspect = height / width
    across_B2 = torch.stack([cosine_B - shear_B * sine_B, -(sine_B + shear_B * cosine_B) * aspect], dim=1)
    down_B2 = torch.stack([sine_B / aspect, cosine_B], dim=1)
    linear_B22 = torch.stack([across_B2, down_B2], dim=1)
    affine_B23 = torch.cat([linear_B22, torch.zeros_like(linear_B22[:, :, :1])], dim=2)
    grid_BHW2 = functional.affine_grid(affine_B23, list(x_BCHW.shape), align_corners=False)
    return functional.grid_sample(x_BCHW, grid_BHW2, "bilinear", "border", align_corners=False)


def thicken(x_BCHW: Tensor, stroke_B: Tensor) -> Tensor:
    """The largest of each 3 by 3 neighbours where `stroke` is 1, the least where it is -1."""
    stroke_B111 = stroke_B.view(-1, 1, 1, 1)
    for axis in (2, 3):
        last = x_BCHW.shape[axis] - 1
        signed_BCHW = x_BCHW * stroke_B111
        grown_BCHW = signed_BCHW.clone()
        for side in (0, 1):
            target = grown_BCHW.narrow(axis, side, last)
            torch.maximum(target, signed_BCHW.narrow(axis, 1 - side, last), out=target)
        x_BCHW = grown_BCHW * stroke_B111
    return x_BCHW
