"""DeCLUTR: spans of one document attract, spans of others repel, beside masked language modelling.

DeCLUTR: Deep Contrastive Learning for Unsupervised Textual Representations, Giorgi et al. 2021,
section 3, https://arxiv.org/abs/2006.03659; NT-Xent as in Chen et al. 2020 (SimCLR), equation 1.

Differs from the paper: one anchor and one positive per document, which do not overlap; both are
masked and both count in the masked-language-modelling loss, so that one forward pass serves both
losses; the masked loss has a weight.

Legend: B documents, S tokens per span, K hidden tokens per span, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.objectives import Batch, Health, Step
from models.objectives.masked_lm import MaskedLM, MaskedLMSettings
from models.parts import health
from models.parts.contrast import nt_xent
from models.parts.counter import bits
from models.settings import setting
from models.text import token_health


@dataclass(frozen=True, kw_only=True)
class DeCLUTRSettings(MaskedLMSettings):
    """The paper's temperature, and how much masked language modelling counts."""

    temperature: float = setting(0.05, "Divisor of the cosines before the softmax.", gt=0)
    mask_weight: float = setting(1.0, "Weight of the masked-language-modelling loss; 0 leaves it out.", ge=0)


class DeCLUTR(MaskedLM):
    """NT-Xent between mean-pooled spans, plus masked language modelling on them."""

    Settings = DeCLUTRSettings
    reads = ("spans",)
    settings: DeCLUTRSettings

    def forward(self, batch: Batch) -> Step:
        """Contrast of all spans of all ranks; `contrast_accuracy` is the share that finds its partner."""
        ids_2BS = torch.cat([batch["anchor_ids"], batch["positive_ids"]])
        key_2B = torch.cat([batch["key"], bits(batch["key"], 1, stream=4).squeeze(1)])
        is_token_2BS = ids_2BS != self.pad_id
        masked = self.mask(ids_2BS, key_2B)
        features_2BSD = self.encoder(
            input_ids=masked.input_ids, attention_mask=is_token_2BS.long()
        ).last_hidden_state
        embeddings_2BD = mean_pool(features_2BSD, is_token_2BS)
        if self.training:
            self.seen = token_health.sample(embeddings_2BD)
        contrast, found = nt_xent(embeddings_2BD, self.settings.temperature, joins_ranks=self.training)
        index_2BKD = masked.positions.unsqueeze(-1).expand(-1, -1, features_2BSD.shape[-1])
        language = self.predict(features_2BSD.gather(1, index_2BKD), masked.labels)
        metrics = {
            "contrast_loss": contrast.detach(),
            "contrast_accuracy": found,
            "masked_loss": language.loss.detach(),
            "accuracy": language.metrics["accuracy"],
        }
        return Step(contrast + self.settings.mask_weight * language.loss, metrics, len(batch["key"]))

    def health(self) -> Health:
        """Rank and spread of the spans' embeddings."""
        return Health() if self.seen is None else Health(health.measures(self.seen))


def mean_pool(features_BSD: Tensor, is_token_BS: Tensor) -> Tensor:
    """Mean over the tokens that are not padding, [B, D] in float32."""
    weights_BS1 = is_token_BS.unsqueeze(-1).float()
    return (features_BSD.float() * weights_BS1).sum(1) / weights_BS1.sum(1).clamp(min=1)
