"""Stored recordings to what an encoder reads, wherever labelled recordings are used.

Legend: B recordings, N samples, L vectors of a recording, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from transformers import PreTrainedModel

from models.speech import hiding, sounds
from models.speech.settings import Hiding
from models.speech.sounds import Sounds


class Reader(nn.Module):
    """`sound` [B, N] int16 and `num_samples` [B] to `input_values` and `attention_mask` [B, N].

    Args:
        facts: rate and normalisation.
        hides: what is hidden of a recording in training.
    """

    def __init__(self, facts: Sounds, hides: Hiding) -> None:
        super().__init__()
        self.sounds = facts
        self.hiding = hides

    def forward(
        self, batch: Mapping[str, Tensor], *, training: bool, key: Tensor | None
    ) -> dict[str, Tensor]:
        """The batch as the model reads it."""
        rest = {name: value for name, value in batch.items() if name != "sound"}
        sound_BN, length_B = batch["sound"], batch["num_samples"]
        mask_BN = sounds.real(length_B, sound_BN.shape[1]).long()
        return {**rest, "input_values": self.sounds.values(sound_BN, length_B), "attention_mask": mask_BN}

    def within(self, model: PreTrainedModel, key: Tensor | None) -> AbstractContextManager[None]:
        """Spans of frames and channels are hidden."""
        return nullcontext() if key is None else hiding.hidden(model, key, self.hiding)

    def hidden(
        self, encoder: PreTrainedModel, batch: Mapping[str, Tensor], kind: str, pooling: str
    ) -> Tensor:
        """The mean of each recording's frames, [B, 1, D]."""
        length_B = batch["num_samples"]
        value_BN = self.sounds.values(batch["sound"], length_B)
        return sounds.features(encoder, value_BN, length_B).unsqueeze(1)
