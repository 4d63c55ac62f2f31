"""Colour: brightness, contrast, saturation, hue, greyscale, mixing, solarising, inverting.

As torchvision's functions for float tensors: results are cut to 0..1 after each operation, grey is
ITU-R 601, and the hue is shifted in HSV (Smith 1978) exactly.

Legend: B pictures, C channels, H rows, W columns, P pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION = range(3)


def adjust(x_BCHW: Tensor, kind_B: Tensor, factor_B: Tensor) -> Tensor:
    """Change brightness, contrast or saturation, as `kind` says for each picture.

    Each blends the picture, `factor` parts, with black, its mean grey, or its own greyscale: one
    matrix over channels and one constant.
    """
    num_channels = x_BCHW.shape[1]
    grey_C = _grey(x_BCHW)
    rest_B = 1 - factor_B
    rest_grey_B = torch.where(kind_B == SATURATION, rest_B, 0.0)
    matrix_BCC = factor_B.view(-1, 1, 1) * torch.eye(num_channels, device=x_BCHW.device)
    matrix_BCC = matrix_BCC + rest_grey_B.view(-1, 1, 1) * grey_C
    x_BCP = x_BCHW.flatten(2)
    mean_B = x_BCP.mean(2) @ grey_C
    constant_B11 = torch.where(kind_B == CONTRAST, rest_B * mean_B, 0.0).view(-1, 1, 1)
    return torch.baddbmm(constant_B11, matrix_BCC, x_BCP).clamp_(0, 1).view(x_BCHW.shape)


def shift_hue(x_BCHW: Tensor, turns_B: Tensor) -> Tensor:
    """Turn the colour circle; value and saturation stay.

    With the least channel at 0 and the greatest at 1, the hue in sixths of a turn is 1 + green -
    red + blue where green >= blue, and its negative elsewhere: HSV's six cases without a branch.
    """
    red, green, blue = x_BCHW.unbind(1)
    value_BHW = torch.maximum(torch.maximum(red, green), blue)
    least_BHW = torch.minimum(torch.minimum(red, green), blue)
    chroma_BHW = value_BHW - least_BHW
    sixths_BHW = (green + blue).sub_(red).sub_(least_BHW).div_(chroma_BHW.clamp(min=1e-12)).add_(1)
    hue_BHW = torch.copysign(sixths_BHW, green - blue).mul_(1 / 6).add_(turns_B.view(-1, 1, 1))
    hue_BHW = hue_BHW.sub_(hue_BHW.floor()).mul_(6)
    out_BCHW = torch.empty_like(x_BCHW)
    for channel, (start_BHW, sign, centre) in enumerate(
        ((least_BHW, 1, 3), (value_BHW, -1, 2), (value_BHW, -1, 4))
    ):
        share_BHW = (hue_BHW - centre).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(start_BHW, chroma_BHW, share_BHW, value=sign, out=out_BCHW[:, channel])
    return out_BCHW


def greyscale(x_BCHW: Tensor) -> Tensor:
    """Every channel becomes the picture's ITU-R 601 grey."""
    return (_grey(x_BCHW) @ x_BCHW.flatten(2)).view(len(x_BCHW), 1, *x_BCHW.shape[2:]).expand_as(x_BCHW)


def mix(x_BCHW: Tensor, mixture_BCC: Tensor) -> Tensor:
    """Each channel becomes a weighted sum of all."""
    return (mixture_BCC @ x_BCHW.flatten(2)).view(x_BCHW.shape)


def solarise(x_BCHW: Tensor) -> Tensor:
    """Values from one half on are inverted."""
    return torch.minimum(x_BCHW, 1 - x_BCHW)


def invert(x_BCHW: Tensor) -> Tensor:
    """Light for dark."""
    return 1 - x_BCHW


def _grey(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.new_tensor(GREY if x_BCHW.shape[1] == len(GREY) else (1.0,))
