"""HuBERT: which unit of sound is it that is hidden? Units are clusters of what short windows sound like.

HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units, Hsu et al. 2021,
section II, https://arxiv.org/abs/2106.07447.

Differs from the paper: its first iteration, over clusters of cepstra, without the second over the encoder's
own features; hidden frames alone are predicted (its alpha of 1).

Legend: B recordings, T frames, K hidden frames, U units, Q numbers of a frame's cepstra, D width, P width of
what is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.settings import Settings, setting
from models.speech import context
from models.speech.cepstra import HOP_SECONDS, WINDOW_SECONDS, cepstra
from models.speech.sounds import Sounds, receptive_field
from models.speech.spans import at, spans


@dataclass(frozen=True, kw_only=True)
class HuBERTSettings(Settings):
    """The base model's numbers."""

    mask_probability: float = setting(0.08, "Share of the frames at which a hidden span begins.", gt=0, lt=1)
    mask_length: int = setting(10, "Frames of a span, of 20 ms in released architectures.", ge=1)
    projection_width: int = setting(256, "Width of what is compared with the units.", ge=1)
    temperature: float = setting(0.1, "Divides the cosines.", gt=0)


class HuBERT(Objective):
    """Cross-entropy of what context says of hidden frames over the units."""

    Settings = HuBERTSettings
    reads = ("units",)

    def __init__(self, model: PreTrainedModel, settings: HuBERTSettings, sounds: Sounds) -> None:
        super().__init__()
        if sounds.units is None:
            raise ValueError("these recordings were prepared without units; prepare them again")
        if getattr(model, "masked_spec_embed", None) is None:
            raise ValueError(
                f"{model.config.model_type} has no vector for hidden frames; choose one such as hubert, or "
                "give it a mask_time_prob above 0"
            )
        self.model = model
        self.settings = settings
        self.sounds = sounds
        self.register_buffer("unit_UQ", torch.tensor(sounds.units), persistent=False)
        self.project = nn.Linear(model.config.hidden_size, settings.projection_width)
        self.codes = nn.Embedding(len(sounds.units), settings.projection_width)
        self.seen: Tensor | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over hidden frames; `accuracy` is the share of them whose unit is the likeliest."""
        value_BN = self.sounds.values(batch["sound"])
        feature_BTC = context.features(self.encoder, value_BN)
        unit_BT = self.units(value_BN, feature_BTC.shape[1])
        hidden = spans(
            batch["key"],
            feature_BTC.shape[1],
            probability=self.settings.mask_probability,
            length=self.settings.mask_length,
        )
        context_BTD, _ = context.context(self.encoder, feature_BTC, hidden.hidden)
        if self.training:
            self.seen = health.sample(context_BTD.mean(1))
        guess_BKP = self.project(at(context_BTD, hidden.place)).float()
        logits_BKU = (_unit(guess_BKP) @ _unit(self.codes.weight.float()).T) / self.settings.temperature
        right_BK = unit_BT.gather(1, hidden.place)
        weight_BK = hidden.counts.float()
        weight = weight_BK.sum()
        lost_BK = nn.functional.cross_entropy(logits_BKU.transpose(1, 2), right_BK, reduction="none")
        hit_BK = (logits_BKU.argmax(-1) == right_BK) * weight_BK
        share_U = torch.bincount(unit_BT.flatten(), minlength=len(self.codes.weight)) / unit_BT.numel()
        metrics = {
            "accuracy": (hit_BK.sum() / weight).detach(),
            "unit_perplexity": torch.special.entr(share_U).sum().exp(),
        }
        return Step((lost_BK * weight_BK).sum() / weight, metrics, weight)

    @torch.no_grad()
    def units(self, value_BN: Tensor, num_frames: int) -> Tensor:
        """Of each of the encoder's frames the unit nearest to the cepstra in its middle, [B, T]."""
        rate = self.sounds.sample_rate_hz
        with torch.autocast(value_BN.device.type, enabled=False):
            spoken_BTQ = cepstra(value_BN, rate)
        width, stride = receptive_field(self.encoder)
        middle_T = torch.arange(num_frames, device=value_BN.device) * stride + width / 2
        nearest_T = ((middle_T / rate - WINDOW_SECONDS / 2) / HOP_SECONDS).round().long()
        frame_BTQ = spoken_BTQ[:, nearest_T.clamp(0, spoken_BTQ.shape[1] - 1)]
        unit_BUQ = self.get_buffer("unit_UQ").expand(len(frame_BTQ), -1, -1)
        return torch.cdist(frame_BTQ, unit_BUQ).argmin(-1)

    def health(self) -> Health:
        """Rank and spread of the recordings' mean features."""
        if self.seen is None:
            return Health()
        return Health({f"context_{name}": value for name, value in health.measures(self.seen).items()})


def _unit(values: Tensor) -> Tensor:
    return nn.functional.normalize(values, dim=-1, eps=1e-8)
