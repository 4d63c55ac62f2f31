"""Measures of embeddings that show whether an objective still learns.

RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
Rank, Garrido et al. 2023, equation 1, https://arxiv.org/abs/2210.02885; deviation per dimension as in
Chen & He 2021 (SimSiam), section 4.1, https://arxiv.org/abs/2011.10566.

Differs from RankMe: embeddings are centred, and the rank is divided by the largest that so many rows
of that width can have.

Legend: N rows, D width, E width of what the loss compares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.objectives import Health

MAX_ROWS = 512
COLLAPSED_DEVIATION = 0.1  # a mean cosine of 0.99 between different pictures
COLLAPSED_DIMENSIONS = 2.0  # healthy projections fill many; without a stop-gradient they end on a line


def sample(embeddings_ND: Tensor) -> Tensor:
    """What `health` needs to remember of a batch: a copy of at most `MAX_ROWS` rows."""
    return embeddings_ND[:MAX_ROWS].detach().clone()


def measures(embeddings_ND: Tensor) -> dict[str, float]:
    """`effective_rank` and `deviation` of the embeddings; nothing where there are fewer than two."""
    if len(embeddings_ND) < 2:
        return {}
    return {"effective_rank": effective_rank(embeddings_ND), "deviation": deviation(embeddings_ND)}


@torch.no_grad()
def effective_rank(embeddings_ND: Tensor) -> float:
    """Exponential of the entropy of the singular values over min(N−1, D): 1 all used, near 0 one used."""
    centred_ND = embeddings_ND.double() - embeddings_ND.double().mean(0)
    num, width = centred_ND.shape
    gram = centred_ND @ centred_ND.T if num < width else centred_ND.T @ centred_ND
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(shares).sum().exp()) / min(num - 1, width)


@torch.no_grad()
def deviation(embeddings_ND: Tensor) -> float:
    """Mean deviation per dimension of the rows at unit length, times √D: 1 spread out, 0 all the same."""
    rows_ND = nn.functional.normalize(embeddings_ND.double(), dim=-1)
    return float(rows_ND.std(0, correction=0).mean()) * rows_ND.shape[1] ** 0.5


def joint_embedding(features_ND: Tensor, outputs_NE: Tensor, advice: str) -> Health:
    """Health of a method that compares outputs of two views.

    Args:
        features_ND: what the encoder answers, which is kept.
        outputs_NE: what the loss compares.
        advice: what to change where all outputs are the same.
    """
    outputs = {f"output_{name}": value for name, value in measures(outputs_NE).items()}
    if not outputs:
        return Health()
    spread = outputs["output_deviation"]
    largest = min(len(outputs_NE) - 1, outputs_NE.shape[1])
    dimensions = outputs["output_effective_rank"] * largest
    signature = ""
    if spread < COLLAPSED_DEVIATION:
        signature = (
            f"All pictures are mapped to nearly the same point (deviation {spread:.3f}, where 1 is spread "
            f"out and 0 a single point): views of one picture agree without anything being learned. {advice}"
        )
    elif dimensions < min(COLLAPSED_DIMENSIONS, largest / 2):
        signature = (
            f"All pictures are mapped close to one line ({dimensions:.1f} of {largest} dimensions in use): "
            f"views of one picture agree while hardly anything about it is told. {advice}"
        )
    return Health({**measures(features_ND), **outputs}, signature)
