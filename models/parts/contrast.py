"""NT-Xent: two embeddings of one sample attract, those of all other samples repel.

A Simple Framework for Contrastive Learning of Visual Representations, Chen et al. 2020 (SimCLR),
equation 1, https://arxiv.org/abs/2002.05709.

Legend: B samples, D width, W ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.objectives import LoneSample
from models.parts.gather import gather, rank

LEAST_NATS = 0.2  # over guessing, that must be within reach
WORST_NATS = -10.0  # against guessing: at the papers' temperatures untrained encoders stay above -5


def nt_xent(embeddings_2BD: Tensor, temperature: float, *, joins_ranks: bool = True) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy over the samples of all ranks.

    Args:
        embeddings_2BD: one embedding of each sample, then the other of each in the same order.
        temperature: divisor of the cosines.
        joins_ranks: False where one rank asks alone, as in evaluation.

    Returns:
        The mean over this rank's 2B embeddings, and the share whose nearest other one is its partner.
    """
    own_2BD = nn.functional.normalize(embeddings_2BD, dim=-1)
    num = len(own_2BD)
    all_W2BD, start = (gather(own_2BD), rank() * num) if joins_ranks else (own_2BD, 0)
    row_2B = torch.arange(num, device=own_2BD.device)
    own_index_2B = row_2B + start
    partner_2B = (row_2B + num // 2) % num + start
    cosines = own_2BD @ all_W2BD.T / temperature
    cosines = cosines.scatter(1, own_index_2B[:, None], float("-inf"))
    loss = nn.functional.cross_entropy(cosines, partner_2B)
    return loss, (cosines.detach().argmax(1) == partner_2B).float().mean()


def information(loss: Tensor, num_candidates: int, temperature: float) -> tuple[float, str]:
    """What a contrast has learnt of its pairs, and what is to be said where the temperature is far off.

    InfoNCE's lower bound of the mutual information between the two embeddings of a sample: Representation
    Learning with Contrastive Predictive Coding, van den Oord et al. 2018, section 2.3,
    https://arxiv.org/abs/1807.03748.

    Args:
        loss: mean cross-entropy, in nats.
        num_candidates: among which each embedding's partner was to be found.
        temperature: divisor of the cosines.

    Returns:
        The bound in nats, below 0 where guessing would do better; and a sentence, or nothing.
    """
    most = math.log(num_candidates)
    nats = most - float(loss)
    attainable = most - math.log1p((num_candidates - 1) * math.exp(-1 / temperature))
    if attainable < LEAST_NATS:
        return nats, (
            f"Embeddings that tell all pictures apart would win {attainable:.2f} nats over guessing, of "
            f"{most:.1f}: at temperature {temperature:g} near and far all but count the same. Lower "
            "`temperature` (papers: 0.1 to 0.5)."
        )
    if nats < WORST_NATS:
        return nats, (
            f"The contrast is worse than guessing ({nats:.1f} nats): at temperature {temperature:g} wrong "
            "partners are preferred as if it were certain. Raise `temperature` (papers: 0.1 to 0.5), or "
            "lower `lr`."
        )
    return nats, ""


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
