"""Causal language modelling: predict each token from those before it.

Language Models are Unsupervised Multitask Learners, Radford et al. 2019 (GPT-2), section 2,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf.

The loss runs over chunks of tokens, so that scores over the vocabulary never stand in memory for
the whole batch; the value and the gradient are those of the plain cross-entropy.

Legend: B rows, L tokens per row, N tokens, C tokens per chunk, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.encoders import encode_packed
from models.masks import IGNORED
from models.objectives import Batch, Objective, Step
from models.settings import Settings, setting
from models.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class CausalLMSettings(Settings):
    """GPT-2 has nothing to choose but how the loss is computed."""

    chunk_tokens: int = setting(512, "Tokens whose scores over the vocabulary are held at once.", ge=1)


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

    def forward(self, batch: Batch) -> Step:
        """Mean over all tokens that have a predecessor in their document."""
        input_ids_BL, document_ids_BL = batch["input_ids"], batch.get("document_ids")
        features_BLD = encode_packed(self.encoder, input_ids_BL, document_ids_BL, is_causal=True)
        targets_BL = next_tokens(input_ids_BL, document_ids_BL)
        count = (targets_BL != IGNORED).sum().clamp(min=1)
        head = self.model.get_output_embeddings()
        total, right = _ChunkedCrossEntropy.apply(
            features_BLD.flatten(0, 1), head.weight, targets_BL.flatten(), self.settings.chunk_tokens
        )
        return Step(total / count, {"accuracy": right / count}, count.float())


def next_tokens(input_ids_BL: Tensor, document_ids_BL: Tensor | None) -> Tensor:
    """The token due at each place; `IGNORED` at the end of a row or document and in padding."""
    targets_BL = torch.full_like(input_ids_BL, IGNORED)
    targets_BL[:, :-1] = input_ids_BL[:, 1:]
    if document_ids_BL is not None:
        crosses_BL = document_ids_BL[:, 1:] != document_ids_BL[:, :-1]
        is_padding_BL = document_ids_BL[:, 1:] < 0
        targets_BL[:, :-1].masked_fill_(crosses_BL | is_padding_BL, IGNORED)
    return targets_BL


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a linear head; the gradient is computed on the way, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, features_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        weight = weight_VD.to(_compute_type(features_ND))
        gradient_ND = torch.empty_like(features_ND)
        gradient_VD = torch.zeros_like(weight_VD)
        total = features_ND.new_zeros((), dtype=torch.float32)
        right = torch.zeros((), dtype=torch.int64, device=features_ND.device)
        for start in range(0, len(features_ND), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            features_CD, targets_C = features_ND[part].to(weight.dtype), targets_N[part]
            known_C = targets_C != IGNORED
            scores_CV = (features_CD @ weight.T).float()
            right += ((scores_CV.argmax(-1) == targets_C) & known_C).sum()
            log_normaliser_C = scores_CV.logsumexp(-1)
            index_C = targets_C.clamp(min=0)
            losses_C = log_normaliser_C - scores_CV.gather(1, index_C[:, None]).squeeze(1)
            total += (losses_C * known_C).sum()
            scores_CV.sub_(log_normaliser_C[:, None]).exp_()
            scores_CV.scatter_add_(1, index_C[:, None], scores_CV.new_full((len(index_C), 1), -1.0))
            errors_CV = scores_CV.mul_(known_C[:, None]).to(weight.dtype)
            gradient_ND[part] = (errors_CV @ weight).to(gradient_ND.dtype)
            gradient_VD += errors_CV.T @ features_CD
        ctx.save_for_backward(gradient_ND, gradient_VD)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gradient_ND, gradient_VD = ctx.saved_tensors
        return gradient_ND * gradients[0], gradient_VD * gradients[0], None, None


def _compute_type(features: Tensor) -> torch.dtype:
    """What autocast would compute a matrix product in."""
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
