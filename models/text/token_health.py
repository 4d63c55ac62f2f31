"""Health of a language model: whether its features still tell tokens apart.

Early in healthy training a model predicts the commonest tokens everywhere, and its features lie close
together for as long as that lasts (deviation 0.14 of 0.69 at the start in a small BERT). A low rank or
spread is thus no alarm by itself, and the names differ from those of embeddings, which are judged; a
diverged model's features are one point to the last digits.

Legend: B rows, L tokens per row, D width, N sampled tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.objectives import Health
from models.parts import health

_ONE_POINT = 0.005


@torch.no_grad()
def sample(features_BLD: Tensor) -> Tensor:
    """A copy of some rows from all over the batch, so that the batch itself can be freed."""
    rows_ND = features_BLD.flatten(0, -2)
    return rows_ND[:: -(-len(rows_ND) // health.MAX_ROWS)].clone()


def token_health(features_ND: Tensor | None) -> Health:
    """Rank and spread of the tokens' features; nothing before the first batch."""
    if features_ND is None:
        return Health()
    measures = {f"token_{name}": value for name, value in health.measures(features_ND).items()}
    signature = ""
    if measures.get("token_deviation", 1.0) < _ONE_POINT:
        signature = (
            f"All tokens have the same features (deviation {measures['token_deviation']:.4f}, where 1 is "
            "spread out): the model answers the same everywhere and has most likely diverged. Lower `lr`, "
            "or raise `warmup_fraction`."
        )
    return Health(measures, signature)
