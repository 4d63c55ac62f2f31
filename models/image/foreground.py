"""Foreground that nobody labelled: from patch features, from attention, and from brightness as a floor.

- components: DINOv2, Oquab et al. 2023, section 7.5, https://arxiv.org/abs/2304.07193
- attention: Emerging Properties in Self-Supervised Vision Transformers, Caron et al. 2021, section
  4.2.2, https://arxiv.org/abs/2104.14294: the patches that hold 60 % of a class token's attention
- brightness: A Threshold Selection Method from Gray-Level Histograms, Otsu 1979

Differs from the papers: attention is the mean over heads, not the best head by the true mask; and
where a split says nothing of which side is foreground, it is the side that lines less of the border.

Legend: B pictures, C channels, H and W sides in pixels, P patches, R and S rows and columns of
patches, K heads, D width, N levels of brightness.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

MASS = 0.6
LEVELS = 256


@torch.no_grad()
def class_attention(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor | None:
    """Attention of the class token to each patch in the last layer, [B, K, P]; None without such a token.

    The encoder must be set to `eager` attention; the others keep no weights.
    """
    embeddings: Any = getattr(encoder, "embeddings", None)
    if not hasattr(embeddings, "cls_token"):
        return None
    attention_BKLL = encoder(pixel_values=pixel_values, output_attentions=True).attentions[-1]
    side: int = encoder.config.patch_size
    num_patches = (pixel_values.shape[2] // side) * (pixel_values.shape[3] // side)
    return cast("Tensor", attention_BKLL[:, :, 0, -num_patches:])


def components(patches_BPD: Tensor, num: int) -> Tensor:
    """Principal components over all patches of all pictures, [B, P, num].

    Of each component the largest loading is positive, so that signs are the same again.
    """
    rows = patches_BPD.flatten(0, 1).double()
    rows = rows - rows.mean(0)
    loadings_ND = torch.linalg.svd(rows, full_matrices=False).Vh[:num]
    largest_N1 = loadings_ND.abs().argmax(1, keepdim=True)
    loadings_ND = loadings_ND * loadings_ND.gather(1, largest_N1).sign()
    return (rows @ loadings_ND.T).float().unflatten(0, patches_BPD.shape[:2])


def by_component(patches_BPD: Tensor, num_rows: int) -> Tensor:
    """Which patches lie on the foreground's side of the first component's mean, bool [B, R, S]."""
    first_BRS = components(patches_BPD, 1)[..., 0].unflatten(1, (num_rows, -1))
    is_above_BRS = first_BRS > 0
    return is_above_BRS if _border(is_above_BRS).mean() <= 0.5 else ~is_above_BRS


def by_attention(attention_BKP: Tensor, num_rows: int, mass: float = MASS) -> Tensor:
    """The fewest patches that hold that share of the attention, bool [B, R, S]."""
    weight_BP = attention_BKP.mean(1)
    weight_BP = weight_BP / weight_BP.sum(1, keepdim=True)
    sorted_BP, order_BP = weight_BP.sort(1, descending=True)
    before_BP = sorted_BP.cumsum(1) - sorted_BP
    chosen_BP = torch.zeros_like(order_BP, dtype=torch.bool).scatter(1, order_BP, before_BP < mass)
    return chosen_BP.unflatten(1, (num_rows, -1))


def by_brightness(pixels_BCHW: Tensor) -> Tensor:
    """Each picture split at the brightness that sets its halves furthest apart, bool [B, H, W]."""
    level_BHW = pixels_BCHW.float().mean(1).round().long().clamp(0, LEVELS - 1)
    counts_BN = torch.zeros(len(level_BHW), LEVELS, dtype=torch.float64)
    counts_BN.scatter_add_(
        1, level_BHW.flatten(1), torch.ones_like(level_BHW.flatten(1), dtype=torch.float64)
    )
    share_BN = counts_BN / counts_BN.sum(1, keepdim=True)
    below_BN = share_BN.cumsum(1)
    mean_BN = (share_BN * torch.arange(LEVELS)).cumsum(1)
    whole_B1 = mean_BN[:, -1:]
    between_BN = (whole_B1 * below_BN - mean_BN) ** 2 / (below_BN * (1 - below_BN)).clamp(min=1e-12)
    threshold_B = between_BN.argmax(1)
    is_above_BHW = level_BHW > threshold_B[:, None, None]
    return is_above_BHW ^ (_border(is_above_BHW) > 0.5)[:, None, None]


def _border(is_above_BHW: Tensor) -> Tensor:
    """Share of each picture's border that is above, [B]."""
    sides = (is_above_BHW[:, 0], is_above_BHW[:, -1], is_above_BHW[:, :, 0], is_above_BHW[:, :, -1])
    return torch.cat(sides, dim=1).float().mean(1)


def enlarged(found_BRS: Tensor, height: int, width: int) -> Tensor:
    """Patches as the pixels that they cover, bool [B, H, W]."""
    values = found_BRS.float().unsqueeze(1)
    return torch.nn.functional.interpolate(values, size=(height, width), mode="nearest").squeeze(1) > 0.5


def mean_iou(found_BHW: Tensor, true_BHW: Tensor) -> float:
    """Intersection over union with the true foreground, mean over pictures; 1 where both are empty."""
    both_B = (found_BHW & true_BHW).flatten(1).sum(1).double()
    either_B = (found_BHW | true_BHW).flatten(1).sum(1).double()
    return float(torch.where(either_B > 0, both_B / either_B.clamp(min=1), 1.0).mean())
