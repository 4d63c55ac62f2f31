"""Which tokens are hidden and with what: BERT's masking as a pure function of each sample's key.

Devlin et al. 2019 (BERT), section 3.1 and appendix A.1; whole-word masking as released with it in
2019 (https://github.com/google-research/bert#new-may-31st-2019-whole-word-masking-models).

As in the paper's code, a fixed share of each row is chosen, not each token with a fixed
probability; shapes are then static and only chosen positions need a prediction.

Legend: B rows, L tokens per row, K predicted tokens per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.parts.counter import integers, uniform

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class MaskedTokens:
    """Rows with hidden tokens, and what was hidden.

    Attributes:
        input_ids: [B, L], the rows as the encoder sees them.
        positions: [B, K], where predictions are due.
        labels: [B, K], the true ids there; `IGNORED` where a row has fewer than K maskable tokens.
    """

    input_ids: Tensor
    positions: Tensor
    labels: Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def mask_tokens(
    input_ids_BL: Tensor,
    maskable_BL: Tensor,
    key_B: Tensor,
    *,
    probability: float,
    mask_id: int,
    vocabulary_size: int,
    replace: tuple[float, float] = (0.8, 0.1),
    word_BL: Tensor | None = None,
) -> MaskedTokens:
    """Hide a share of the maskable tokens of each row.

    Args:
        input_ids_BL: int64 ids.
        maskable_BL: bool; False for special tokens and padding.
        key_B: int64 key per row, see `models.parts.counter`.
        probability: share of a row's maskable tokens to predict.
        mask_id: id of the mask token.
        vocabulary_size: random replacements are drawn below this.
        replace: shares of the chosen tokens that become the mask token and a random token; the
            rest stay as they are.
        word_BL: int64 word number of each token; words are then hidden whole or not at all.
    """
    length = input_ids_BL.shape[1]
    num_chosen = max(1, round(probability * length))
    scores_BL = uniform(key_B, length, stream=1)
    if word_BL is not None:
        scores_BL = scores_BL.gather(1, word_BL)
    scores_BL = scores_BL.masked_fill(~maskable_BL, -1.0)
    scores_BK, positions_BK = scores_BL.topk(num_chosen, dim=1, sorted=True)
    budget_B = (probability * maskable_BL.sum(1)).round().clamp(min=1)
    rank_K = torch.arange(num_chosen, device=key_B.device)
    chosen_BK = (scores_BK >= 0) & (rank_K < budget_B[:, None])
    if word_BL is not None:
        chosen_BK &= _whole(scores_BL, scores_BK, chosen_BK)
    original_BK = input_ids_BL.gather(1, positions_BK)
    hidden_BK = _replacements(original_BK, key_B, mask_id, vocabulary_size, replace)
    masked_BL = input_ids_BL.scatter(1, positions_BK, torch.where(chosen_BK, hidden_BK, original_BK))
    return MaskedTokens(masked_BL, positions_BK, original_BK.masked_fill(~chosen_BK, IGNORED))


def _replacements(
    original_BK: Tensor, key_B: Tensor, mask_id: int, vocabulary_size: int, replace: tuple[float, float]
) -> Tensor:
    num = original_BK.shape[1]
    fate_BK = uniform(key_B, num, stream=2)
    random_BK = integers(key_B, num, vocabulary_size, stream=3)
    to_mask, to_random = replace
    hidden_BK = torch.where(fate_BK < to_mask + to_random, random_BK, original_BK)
    return torch.where(fate_BK < to_mask, mask_id, hidden_BK)


def _whole(scores_BL: Tensor, scores_BK: Tensor, chosen_BK: Tensor) -> Tensor:
    """False for the tokens of a word that the budget cut in two; the first word is kept whatever happens.

    The tokens of a word share a score, so that a word is whole where as many tokens of its score
    were chosen as the row has.
    """
    same_BKL = scores_BK.unsqueeze(2) == scores_BL.unsqueeze(1)
    in_row_BK = same_BKL.sum(2)
    same_BKK = scores_BK.unsqueeze(2) == scores_BK.unsqueeze(1)
    in_choice_BK = (same_BKK & chosen_BK.unsqueeze(1)).sum(2)
    is_first_word_BK = scores_BK == scores_BK[:, :1]
    return (in_row_BK == in_choice_BK) | is_first_word_BK
