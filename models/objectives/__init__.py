"""The self-supervised tasks: the contract they share and the catalogue of them.

An objective is maths only. It is given batches and answers with a loss; the loop owns time, data
order, precision, devices and checkpoints. A new objective is one file and one line of `CATALOG`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.settings import Settings

CATALOG = {
    "masked_lm": "models.objectives.masked_lm:MaskedLM",
    "causal_lm": "models.objectives.causal_lm:CausalLM",
    "declutr": "models.objectives.declutr:DeCLUTR",
    "simclr": "models.objectives.simclr:SimCLR",
    "moco": "models.objectives.moco:MoCo",
    "byol": "models.objectives.byol:BYOL",
    "simsiam": "models.objectives.simsiam:SimSiam",
    "dino": "models.objectives.dino:DINO",
    "mae": "models.objectives.mae:MAE",
    "ijepa": "models.objectives.ijepa:IJEPA",
    "rotation": "models.objectives.rotation:Rotation",
    "brightness": "models.objectives.brightness:Brightness",
    "wav2vec2": "models.objectives.wav2vec2:Wav2Vec2",
    "hubert": "models.objectives.hubert:HuBERT",
}

Batch = Mapping[str, Tensor]


class LoneSample(ValueError):
    """What compares the samples of a batch with each other was given one."""


@dataclass(frozen=True)
class Step:
    """What one forward pass answers.

    Attributes:
        loss: scalar with gradient, a mean over `weight` items (masked tokens, samples).
        metrics: detached scalars, averaged over micro-batches and ranks by `weight`.
        weight: how many items the mean runs over, so that parts of a batch can be joined exactly.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | float = 1.0


@dataclass(frozen=True)
class Health:
    """What says whether an objective still learns.

    Attributes:
        measures: scalars worth a curve (effective rank, code perplexity, ...).
        signature: the failure that the measures show, in one sentence; empty where all is well.
    """

    measures: Mapping[str, float] = field(default_factory=dict)
    signature: str = ""


class Objective(nn.Module):
    """A self-supervised task around a transformers model.

    Constructed as `Objective(model, settings, **constants)`, where `constants` are facts about the
    prepared data that the modality states (for text: `vocabulary`). Random choices (masks, spans)
    are drawn in `forward` from `batch["key"]`, one integer per sample, so that they are pure
    functions of (seed, position) and never of the rank or of what ran before. (Sizes that a whole part
    of a batch must share, such as those of I-JEPA's blocks, are drawn from its first key.)

    Attributes:
        Settings: the hyper-parameters, in the paper's words.
        reads: what a sample must hold, in the modality's words (text: `rows`, or `spans`).
        auto: the transformers class that adds the heads that the objective uses.
        model: encoder and heads that transformers knows; what `save_pretrained` writes.
    """

    Settings: ClassVar[type[Any]] = Settings
    reads: ClassVar[tuple[str, ...]] = ()
    auto: ClassVar[str] = "AutoModel"
    model: PreTrainedModel

    @property
    def encoder(self) -> PreTrainedModel:
        """The network that is kept: the model without its heads."""
        return cast("PreTrainedModel", self.model.base_model)

    def forward(self, batch: Batch) -> Step:
        """Loss and metrics of one batch."""
        raise NotImplementedError

    def begin(self) -> None:
        """A training starts from these weights, also those that another has left; not called on resume."""

    def after_step(self, progress: float) -> None:
        """What changes by time rather than by gradient: teachers, queues, temperatures.

        Args:
            progress: share of the run that is done, 0 to 1.
        """

    def views(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the encoder is shown of a batch, and what is kept from it, by names for people.

        Each is as the encoder reads it; NaN where something is hidden of the whole one before. Needs no
        weights, so that it can be seen before anything is trained. Empty where there is nothing to see.
        """
        return {}

    def rebuilt(self, batch: Batch) -> Mapping[str, Tensor]:
        """The batch as evaluation reads it, and what the objective puts where it hides something.

        By names and in the form of `views`; empty for objectives that rebuild nothing.
        """
        return {}

    def health(self) -> Health:
        """Measures of the last batches that show whether the objective still learns."""
        return Health()


def load(name: str) -> type[Objective]:
    """The objective class of that name.

    Raises:
        KeyError: no line of `CATALOG` has that name; the message lists the known ones.
    """
    if name not in CATALOG:
        raise KeyError(f"unknown objective {name!r}; known: {', '.join(sorted(CATALOG))}")
    module, _, attribute = CATALOG[name].partition(":")
    objective: type[Objective] = getattr(importlib.import_module(module), attribute)
    return objective


def load_all() -> dict[str, type[Objective]]:
    """Every objective of the catalogue by name."""
    return {name: load(name) for name in CATALOG}
