"""Masked language modelling: predict the hidden tokens of a text from both sides.

BERT: Pre-training of Deep Bidirectional Transformers, Devlin et al. 2019, section 3.1,
https://arxiv.org/abs/1810.04805.

Differs from the paper: no next-sentence prediction (Liu et al. 2019, RoBERTa, section 4.2), and
rows are packed with whole documents that do not see each other. The last layer and the vocabulary
head run on the hidden positions only, which changes nothing but the time.

Legend: B rows, L tokens per row, K hidden tokens per row, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from models.objectives import Batch, Health, Objective, Step
from models.parts import last_layer
from models.settings import Settings, setting
from models.text import token_health
from models.text.token_loss import token_loss
from models.text.token_masks import IGNORED, MaskedTokens, mask_tokens
from models.text.tokens import encode_packed, token_head
from models.text.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class MaskedLMSettings(Settings):
    """BERT's numbers."""

    mask_probability: float = setting(0.15, "Share of a row's tokens that are predicted.", gt=0, lt=1)
    mask_share: float = setting(0.8, "Share of those that become the mask token.", ge=0, le=1)
    random_share: float = setting(0.1, "Share of those that become a random token.", ge=0, le=1)
    whole_words: bool = setting(False, "Hide all pieces of a word or none.")
    chunk_tokens: int = setting(1024, "Tokens whose scores over the vocabulary are held at once.", ge=1)


class MaskedLM(Objective):
    """Cross-entropy of the hidden tokens."""

    Settings = MaskedLMSettings
    reads = ("rows",)
    auto = "AutoModelForMaskedLM"
    is_special_V: Tensor
    continues_word_V: Tensor

    def __init__(self, model: PreTrainedModel, settings: MaskedLMSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        last_layer.install(model)
        self.settings = settings
        self.mask_id = vocabulary.require_mask_id()
        self.pad_id = vocabulary.pad_id
        self.register_buffer("is_special_V", vocabulary.is_special, persistent=False)
        self.register_buffer("continues_word_V", vocabulary.continues_word, persistent=False)
        self.seen: Tensor | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over hidden tokens; `accuracy` is the share of them that is guessed right."""
        masked = self.mask(batch["input_ids"], batch["key"])
        features_BKD = encode_packed(
            self.encoder, masked.input_ids, batch.get("document_ids"), positions_BK=masked.positions
        )
        if self.training:
            self.seen = token_health.sample(features_BKD)
        return self.predict(features_BKD, masked.labels)

    def health(self) -> Health:
        """Rank and spread of the features of hidden tokens."""
        return token_health.token_health(self.seen)

    def predict(self, features_BKD: Tensor, labels_BK: Tensor) -> Step:
        """The step of guessing the labels from the features, weighted by the tokens that count."""
        transform, head = token_head(self.model)
        total, right = token_loss(
            transform(features_BKD).flatten(0, 1), head, labels_BK.flatten(), self.settings.chunk_tokens
        )
        count = (labels_BK != IGNORED).sum()
        return Step(total / count.clamp(min=1), {"accuracy": right / count.clamp(min=1)}, count.float())

    def mask(self, input_ids_BL: Tensor, key_B: Tensor) -> MaskedTokens:
        """Hide tokens of each row, as its key says."""
        word_BL = None
        if self.settings.whole_words:
            word_BL = (~self.continues_word_V[input_ids_BL]).cumsum(1).clamp(max=input_ids_BL.shape[1] - 1)
        return mask_tokens(
            input_ids_BL,
            ~self.is_special_V[input_ids_BL],
            key_B,
            probability=self.settings.mask_probability,
            mask_id=self.mask_id,
            vocabulary_size=len(self.is_special_V),
            replace=(self.settings.mask_share, self.settings.random_share),
            word_BL=word_BL,
        )
