"""Product quantisation by a Gumbel softmax, of the frames that are asked for alone.

wav2vec 2.0, Baevski et al. 2020, sections 2 and 3.2, https://arxiv.org/abs/2006.11477, after Categorical
Reparameterization with Gumbel-Softmax, Jang et al. 2016, https://arxiv.org/abs/1611.01144. The weights are
those of `transformers`' `Wav2Vec2GumbelVectorQuantizer`; noise is drawn from the recordings' keys.

Legend: B recordings, K frames, C width of the features, G groups, V codes of a group, P width of codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.parts.counter import uniform
from models.parts.gather import total

_NOISE = 3  # stream
_LEAST = 2.0**-25  # half the step of `uniform`, so that no logarithm is of 0


@dataclass(frozen=True)
class Quantised:
    """Codes of frames.

    Attributes:
        vectors: [B, K, P].
        perplexity: of the codes over all frames that count (in training, of all ranks), summed over groups:
            G to G · V.
    """

    vectors: Tensor
    perplexity: Tensor


def quantise(
    quantiser: Any, feature_BKC: Tensor, counts_BK: Tensor, temperature: float, key_B: Tensor | None
) -> Quantised:
    """One code of each group for every frame.

    Args:
        quantiser: `transformers`' module.
        feature_BKC: what the feature encoder says of the frames.
        counts_BK: which frames the perplexity is taken over.
        temperature: of the softmax through which the gradient goes.
        key_B: int64, of the noise; None takes the likeliest code, without gradient.
    """
    num_groups, num_codes = quantiser.num_groups, quantiser.num_vars
    logit_BKGV = quantiser.weight_proj(feature_BKC).float().unflatten(-1, (num_groups, num_codes))
    if key_B is None:
        hard_BKGV = _one_hot(logit_BKGV)
        share_BKGV = chosen_BKGV = hard_BKGV
    else:
        noise_BKGV = gumbel(key_B, *logit_BKGV.shape[1:])
        soft_BKGV = ((logit_BKGV + noise_BKGV) / temperature).softmax(-1)
        chosen_BKGV = _one_hot(soft_BKGV) - soft_BKGV.detach() + soft_BKGV
        share_BKGV = logit_BKGV.softmax(-1)
    counted = counts_BK[..., None, None]
    sum_GV, count = (share_BKGV * counted).sum((0, 1)), counted.sum().float()
    if key_B is not None:  # outside of training each rank asks when it likes
        sum_GV, count = total(sum_GV), total(count)
    mean_GV = sum_GV / count
    perplexity = torch.exp(torch.special.entr(mean_GV).sum(-1)).sum()
    code_GVP = quantiser.codevectors[0].unflatten(0, (num_groups, num_codes))
    vectors_BKP = torch.einsum("bkgv,gvp->bkgp", chosen_BKGV, code_GVP.float()).flatten(2)
    return Quantised(vectors_BKP, perplexity)


def gumbel(key_B: Tensor, *shape: int) -> Tensor:
    """Gumbel noise by the keys, [B, *shape]."""
    even_BN = uniform(key_B, math.prod(shape), stream=_NOISE)
    return -torch.log(-torch.log(even_BN * (1 - 2 * _LEAST) + _LEAST)).unflatten(1, shape)


def _one_hot(score_BKGV: Tensor) -> Tensor:
    best = score_BKGV.argmax(-1, keepdim=True)
    return torch.zeros_like(score_BKGV).scatter_(-1, best, 1.0)
