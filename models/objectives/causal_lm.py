"""Causal language modelling: predict each token from those before it.

Language Models are Unsupervised Multitask Learners, Radford et al. 2019 (GPT-2), section 2,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf.

The loss runs over chunks of tokens, so that scores over the vocabulary never stand in memory for
the whole batch; the value and the gradient are those of the plain cross-entropy.

Legend: B rows, L tokens per row, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.objectives import Batch, Health, Objective, Step
from models.settings import Settings, setting
from models.text import token_health
from models.text.token_loss import token_loss
from models.text.token_masks import IGNORED
from models.text.tokens import encode_packed
from models.text.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class CausalLMSettings(Settings):
    """GPT-2 has nothing to choose but how the loss is computed."""

    chunk_tokens: int = setting(1024, "Tokens whose scores over the vocabulary are held at once.", ge=1)


class CausalLM(Objective):
    """Cross-entropy of the next token, within its document."""

    Settings = CausalLMSettings
    reads = ("rows",)
    auto = "AutoModelForCausalLM"

    def __init__(self, model: PreTrainedModel, settings: CausalLMSettings, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.pad_id = vocabulary.pad_id
        self.seen: Tensor | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over all tokens that have a predecessor in their document."""
        input_ids_BL, document_ids_BL = batch["input_ids"], batch.get("document_ids")
        features_BLD = encode_packed(self.encoder, input_ids_BL, document_ids_BL, is_causal=True)
        if self.training:
            self.seen = token_health.sample(features_BLD)
        targets_BL = next_tokens(input_ids_BL, document_ids_BL)
        count = (targets_BL != IGNORED).sum().clamp(min=1)
        total, right = token_loss(
            features_BLD.flatten(0, 1),
            self.model.get_output_embeddings(),
            targets_BL.flatten(),
            self.settings.chunk_tokens,
        )
        return Step(total / count, {"accuracy": right / count}, count.float())

    def health(self) -> Health:
        """Rank and spread of the tokens' features."""
        return token_health.token_health(self.seen)


def next_tokens(input_ids_BL: Tensor, document_ids_BL: Tensor | None) -> Tensor:
    """The token due at each place; `IGNORED` at the end of a row or document and in padding."""
    targets_BL = torch.full_like(input_ids_BL, IGNORED)
    targets_BL[:, :-1] = input_ids_BL[:, 1:]
    if document_ids_BL is not None:
        crosses_BL = document_ids_BL[:, 1:] != document_ids_BL[:, :-1]
        is_padding_BL = document_ids_BL[:, 1:] < 0
        targets_BL[:, :-1].masked_fill_(crosses_BL | is_padding_BL, IGNORED)
    return targets_BL
