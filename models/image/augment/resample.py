"""Crop, resize, mirror and blur as one operation: each line of the result is a weighted sum of lines.

All are separable, so that they are two matrix products. The matrices are banded; the result is
made in tiles of neighbouring lines, and a tile reads only the window of lines that it needs.

Resizing weighs as Pillow does: the filter is stretched by the factor of shrinking (no aliasing),
cut at the crop's edge, and its weights sum to one. Cubic: Keys 1981 with a = -0.5.

Legend: B pictures, C channels, H rows, W columns, T tiles, N lines of a tile, K lines of its window;
U, M, J are tiles, lines and window of the columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 16
BLUR_REACH = 4  # standard deviations
RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True)
class Taps:
    """How the lines of the result are made from the lines of the source.

    Attributes:
        index_BTK: int64, the source lines that a tile reads.
        weight_BTNK: their weight in each line of the tile.
        num: lines of the result; the last tile may have more.
    """

    index_BTK: Tensor
    weight_BTNK: Tensor
    num: int


def resample(x_BCHW: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """The pictures [B, C, rows.num, columns.num], float32."""
    num_pictures, num_channels, height, width = x_BCHW.shape
    _, num_tiles, num_lines, _ = rows.weight_BTNK.shape
    maps_BC = torch.arange(num_pictures * num_channels, device=x_BCHW.device).view(num_pictures, num_channels)
    line_BTKC = maps_BC[:, None, None, :] * height + rows.index_BTK[..., None]
    x_BTCWN = _weigh(x_BCHW.reshape(-1, width), line_BTKC, rows.weight_BTNK)
    x_BCWTN = x_BTCWN.view(num_pictures, num_tiles, num_channels * width, num_lines).transpose(1, 2)
    line_BUJC = maps_BC[:, None, None, :] * width + columns.index_BTK[..., None]
    x_BUCHM = _weigh(x_BCWTN.reshape(-1, num_tiles * num_lines), line_BUJC, columns.weight_BTNK)
    x_BCHUM = x_BUCHM.view(num_pictures, -1, num_channels, num_tiles * num_lines, x_BUCHM.shape[2]).permute(
        0, 2, 3, 1, 4
    )
    return x_BCHUM[:, :, : rows.num].flatten(3)[..., : columns.num].contiguous()


def _weigh(lines: Tensor, line_BTKC: Tensor, weight_BTNK: Tensor) -> Tensor:
    """Weighted sums of the lines of each window, the summed axis last: [B·T, C·length, N]."""
    num_windows, num_taps = weight_BTNK.shape[0] * weight_BTNK.shape[1], weight_BTNK.shape[3]
    window = lines.index_select(0, line_BTKC.flatten()).float().view(num_windows, num_taps, -1)
    return torch.bmm(window.transpose(1, 2), weight_BTNK.flatten(0, 1).transpose(1, 2))


def crop_taps(
    start_B: Tensor,
    length_B: Tensor,
    side: int,
    size: int,
    interpolation: str,
    mirrored_B: Tensor | None = None,
) -> Taps:
    """Resize `length` lines from `start` on, of pictures of `side` lines, to `size` lines."""
    radius = RADIUS[interpolation]
    scale_B11 = (length_B / size).view(-1, 1, 1)
    stretch_B11 = scale_B11.clamp(min=1)
    line_TN = _tiles(size, start_B.device)
    place_BTN = line_TN.clamp(max=size - 1).expand(len(start_B), -1, -1)
    if mirrored_B is not None:
        place_BTN = torch.where(mirrored_B.view(-1, 1, 1), size - 1 - place_BTN, place_BTN)
    centre_BTN = start_B.view(-1, 1, 1) + (place_BTN + 0.5) * scale_B11
    largest = max(1.0, side / size)
    num_taps = min(side, math.ceil((line_TN.shape[1] - 1) * side / size + 2 * radius * largest) + 1)
    first_BT1 = (centre_BTN.amin(2, keepdim=True) - radius * stretch_B11).floor().clamp(0, side - num_taps)
    index_BTK = first_BT1 + torch.arange(num_taps, device=start_B.device)
    end_B11 = (start_B + length_B).view(-1, 1, 1)
    is_inside_BTK = (index_BTK >= start_B.view(-1, 1, 1)) & (index_BTK < end_B11)
    distance_BTNK = (index_BTK.unsqueeze(2) + 0.5 - centre_BTN.unsqueeze(3)) / stretch_B11.unsqueeze(3)
    weight_BTNK = _filter(distance_BTNK.abs_(), interpolation).mul_(is_inside_BTK.unsqueeze(2))
    weight_BTNK /= weight_BTNK.sum(3, keepdim=True)
    return Taps(index_BTK.long(), weight_BTNK, size)


def blur_taps(sigma_B: Tensor, side: int, largest_sigma: float) -> Taps:
    """Gaussian blur of `side` lines; beyond the edge the picture is its own mirror image."""
    reach = min(side - 1, math.ceil(BLUR_REACH * largest_sigma))
    line_TN = _tiles(side, sigma_B.device)
    num_lines = line_TN.shape[1]
    index_TK = line_TN[:, :1] - reach + torch.arange(num_lines + 2 * reach, device=sigma_B.device)
    index_TK = side - 1 - (side - 1 - index_TK.abs()).abs()
    offset_NK = torch.arange(-reach, num_lines + reach, device=sigma_B.device) - line_TN[0, :, None]
    weight_BNK = torch.exp(-0.5 * (offset_NK / sigma_B.view(-1, 1, 1)) ** 2) * (offset_NK.abs() <= reach)
    weight_BNK /= weight_BNK.sum(2, keepdim=True)
    shape = len(sigma_B), len(line_TN), -1, -1
    return Taps(index_TK.clamp(min=0).expand(*shape[:3]), weight_BNK.unsqueeze(1).expand(shape), side)


def _tiles(size: int, device: torch.device) -> Tensor:
    """Numbers of the lines by tile; tiles are equal, so that the last one may go on beyond the end."""
    num_tiles = math.ceil(size / TILE)
    return torch.arange(num_tiles * math.ceil(size / num_tiles), device=device).view(num_tiles, -1)


def _filter(distance: Tensor, interpolation: str) -> Tensor:
    if interpolation == "bilinear":
        return (1 - distance).clamp_(min=0)
    near, far = distance.clamp(max=1), distance.clamp(1, 2)  # each polynomial is 0 at the ends of its part
    return (1.5 * near - 2.5) * near * near + ((-0.5 * far + 2.5) * far - 4) * far + 3
