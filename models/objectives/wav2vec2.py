"""wav2vec 2.0: which quantised piece of speech belongs where something is hidden?

wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations, Baevski et al. 2020,
sections 2 and 3, https://arxiv.org/abs/2006.11477. Network and loss are those of `transformers`'
`Wav2Vec2ForPreTraining`; quantiser, projections and contrast run on hidden frames alone, which changes
nothing but the time.

Differs from the paper: the temperature of the softmax falls over the share of the run that is done, rather
than by a factor each step; no penalty on the features and no smaller rate for their encoder.

Legend: B recordings, T frames, K hidden frames, R distractors, C width of the features, D width,
P width of what is compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.objectives import Batch, Health, Objective, Step
from models.parts import health
from models.settings import Settings, setting
from models.speech import context
from models.speech.quantiser import quantise
from models.speech.sounds import Sounds
from models.speech.spans import Spans, at, distractors, spans

_FEW_CODES = 0.02  # share of all codes; untrained quantisers stand above 0.5
_NO_NATS = 0.02  # over guessing; 300 steps on spoken digits end at 0.24


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Settings(Settings):
    """The base model's numbers."""

    mask_probability: float = setting(0.065, "Share of the frames at which a hidden span begins.", gt=0, lt=1)
    mask_length: int = setting(10, "Frames of a span, of 20 ms in released architectures.", ge=1)
    num_negatives: int = setting(100, "Distractors, other hidden frames of the same recording.", ge=1)
    contrastive_temperature: float = setting(0.1, "Divides the cosines.", gt=0)
    diversity_weight: float = setting(0.1, "Weight of the loss that has all codes used.", ge=0)
    gumbel_start: float = setting(2.0, "Temperature of the quantiser's softmax at first.", gt=0)
    gumbel_end: float = setting(0.5, "The same in the end; in between it falls by equal factors.", gt=0)


class Wav2Vec2(Objective):
    """Contrast of what context says of hidden frames with their codes, and diversity of the codes."""

    Settings = Wav2Vec2Settings
    reads = ("sounds",)
    auto = "AutoModelForPreTraining"

    def __init__(self, model: PreTrainedModel, settings: Wav2Vec2Settings, sounds: Sounds) -> None:
        super().__init__()
        if not hasattr(model, "quantizer"):
            raise ValueError(
                f"{model.config.model_type} has no quantiser; choose an encoder such as wav2vec2"
            )
        self.model = model
        self.settings = settings
        self.sounds = sounds
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.seen: tuple[Tensor, dict[str, float]] | None = None

    def forward(self, batch: Batch) -> Step:
        """Mean over hidden frames; `accuracy` is the share of them that are told from all distractors."""
        key_B = batch["key"]
        feature_BTC = context.features(self.encoder, self.sounds.values(batch["sound"]))
        settings = self.settings
        hidden = spans(
            key_B, feature_BTC.shape[1], probability=settings.mask_probability, length=settings.mask_length
        )
        others_BKR = distractors(key_B, hidden, settings.num_negatives)
        return self.contrast(feature_BTC, hidden, others_BKR, key_B if self.training else None)

    def contrast(self, feature_BTC: Tensor, hidden: Spans, others_BKR: Tensor, key_B: Tensor | None) -> Step:
        """The step for given spans and distractors; without keys the likeliest codes are taken."""
        model: Any = self.model
        context_BTD, normed_BTC = context.context(self.encoder, feature_BTC, hidden.hidden)
        guess_BKP = model.project_hid(at(context_BTD, hidden.place))
        codes = quantise(
            model.quantizer,
            model.dropout_features(at(normed_BTC, hidden.place)),
            hidden.counts,
            self.gumbel_temperature,
            key_B,
        )
        code_BKP = model.project_q(codes.vectors.to(guess_BKP.dtype))
        logits_BKR = self.logits(guess_BKP, code_BKP, others_BKR)
        right_BK = logits_BKR.argmax(-1) == 0
        lost_BK = logits_BKR.logsumexp(-1) - logits_BKR[..., 0]
        weight_BK = hidden.counts.float()
        weight = weight_BK.sum()
        contrastive = (lost_BK * weight_BK).sum() / weight
        num_codes = model.quantizer.num_groups * model.quantizer.num_vars
        diversity = (num_codes - codes.perplexity) / num_codes
        metrics = {
            "contrastive_loss": contrastive.detach(),
            "diversity_loss": diversity.detach(),
            "accuracy": ((right_BK * weight_BK).sum() / weight).detach(),
            "code_perplexity": codes.perplexity.detach(),
        }
        if self.training:
            shown = {name: float(metrics[name]) for name in ("accuracy", "code_perplexity")}
            shown["information"] = math.log(logits_BKR.shape[2]) - float(metrics["contrastive_loss"])
            self.seen = (health.sample(context_BTD.mean(1)), shown)
        return Step(contrastive + self.settings.diversity_weight * diversity, metrics, weight)

    def logits(self, guess_BKP: Tensor, code_BKP: Tensor, others_BKR: Tensor) -> Tensor:
        """Cosines over the temperature, the right code first, [B, K, 1 + R]; equal codes distract nobody."""
        cosine_BKK = (
            _unit(guess_BKP) @ _unit(code_BKP).transpose(1, 2) / self.settings.contrastive_temperature
        )
        same_BKK = (torch.cdist(code_BKP.float(), code_BKP.float(), p=float("inf")) == 0).detach()
        other_BKR = cosine_BKK.masked_fill(same_BKK, -torch.inf).gather(2, others_BKR)
        right_BK1 = cosine_BKK.diagonal(dim1=1, dim2=2).unsqueeze(-1)
        return torch.cat([right_BK1, other_BKR], dim=-1)

    @property
    def gumbel_temperature(self) -> float:
        """Of the quantiser's softmax now."""
        start, end = self.settings.gumbel_start, self.settings.gumbel_end
        return start * (end / start) ** float(self.get_buffer("progress"))

    def after_step(self, progress: float) -> None:
        """The softmax sharpens."""
        self.get_buffer("progress").fill_(progress)

    def health(self) -> Health:
        """Rank of the recordings' mean features, codes in use, nats that the contrast tells of them."""
        if self.seen is None:
            return Health()
        features_BD, shown = self.seen
        quantiser: Any = self.model.quantizer
        used = shown["code_perplexity"] / (quantiser.num_groups * quantiser.num_vars)
        measures = {f"context_{name}": value for name, value in health.measures(features_BD).items()}
        measures |= {"codes_used": used, "contrastive_accuracy": shown["accuracy"]}
        measures["information"] = shown["information"]
        signature = ""
        if used < max(_FEW_CODES, 1.5 / quantiser.num_vars):
            signature = (
                f"Nearly all frames have the same code (perplexity {shown['code_perplexity']:.1f} of "
                f"{quantiser.num_groups * quantiser.num_vars}): nothing is left to tell apart. Raise "
                "`diversity_weight` or `gumbel_start`, or lower `lr`."
            )
        elif float(self.get_buffer("progress")) > 0.5 and shown["information"] < _NO_NATS:
            signature = (
                f"More than half of the training is over, and hidden frames are told from distractors hardly "
                f"better than by guessing ({shown['information']:.3f} nats): nothing has been learnt yet. "
                "Give it more `steps`, shorten `mask_length`, or take the objective hubert, which learns "
                "sooner from little."
            )
        return Health(measures, signature)


def _unit(values: Tensor) -> Tensor:
    return nn.functional.normalize(values.float(), dim=-1, eps=1e-8)
