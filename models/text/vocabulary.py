"""What an objective over tokens must know of the tokenizer: which ids are special, which continue a word."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """Facts about the ids 0 to V−1.

    Attributes:
        is_special: bool [V]; never hidden, never predicted.
        continues_word: bool [V]; pieces that belong to the word of the token before.
        pad_id: fills the last row of a corpus.
        mask_id: stands for a hidden token; None where the tokenizer has none.
    """

    is_special: Tensor
    continues_word: Tensor
    pad_id: int
    mask_id: int | None = None

    def require_mask_id(self) -> int:
        """The id of the mask token.

        Raises:
            ValueError: the tokenizer has none; says which to choose.
        """
        if self.mask_id is None:
            raise ValueError(
                "this tokenizer has no mask token, which masked language modelling needs; "
                "train a wordpiece or unigram tokenizer, or choose the objective causal_lm"
            )
        return self.mask_id
