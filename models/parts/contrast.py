"""NT-Xent: two embeddings of one sample attract, those of all other samples repel.

A Simple Framework for Contrastive Learning of Visual Representations, Chen et al. 2020 (SimCLR),
equation 1, https://arxiv.org/abs/2002.05709.

Legend: B samples, D width, W ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.objectives import LoneSample
from models.parts.gather import gather, rank


def nt_xent(embeddings_2BD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy over the samples of all ranks.

    Args:
        embeddings_2BD: one embedding of each sample, then the other of each in the same order.
        temperature: divisor of the cosines.

    Returns:
        The mean over this rank's 2B embeddings, and the share whose nearest other one is its partner.
    """
    own_2BD = nn.functional.normalize(embeddings_2BD, dim=-1)
    num = len(own_2BD)
    all_W2BD = gather(own_2BD)
    row_2B = torch.arange(num, device=own_2BD.device)
    own_index_2B = row_2B + rank() * num
    partner_2B = (row_2B + num // 2) % num + rank() * num
    cosines = own_2BD @ all_W2BD.T / temperature
    cosines = cosines.scatter(1, own_index_2B[:, None], float("-inf"))
    loss = nn.functional.cross_entropy(cosines, partner_2B)
    return loss, (cosines.detach().argmax(1) == partner_2B).float().mean()


def require_negatives(num_samples: int) -> None:
    """Refuse to contrast a sample with nothing.

    Raises:
        LoneSample: there is one sample over all ranks.
    """
    if num_samples < 2:
        raise LoneSample(
            "a contrastive loss compares a sample with the others of its batch, and this batch has one; "
            "raise `batch_size` or lower `micro_batches`"
        )
