"""Vectors of the recordings of a folder, by an encoder and what its folder says of its inputs.

Legend: B recordings, P pieces of one, N samples, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, PreTrainedModel

from models import encoders
from models.speech.sounds import Sounds, features
from tasks.corpora import vectors
from tasks.errors import InputError
from tasks.modalities import Embedded, Rejected
from tasks.modalities.speech.records import CorpusSettings, decoding, pauses
from tasks.modalities.speech.tensors.shards import padded

if TYPE_CHECKING:
    from tasks.modalities.speech.records.decoding import Samples


def embed(model: Path, folder: Path, pooling: str) -> Embedded:
    """Vectors of all recordings below a folder; of long ones the mean over pieces by their length.

    Raises:
        InputError: the model cannot be opened, or the folder holds no recording that can be decoded.
    """
    sounds, encoder = opened(model)
    if pooling != "mean":
        raise InputError(f"{model} says nothing of a recording as a whole; take --pooling mean.")
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.nn.Module.to(encoder, where)
    rules = CorpusSettings(modality="speech", sample_rate_hz=sounds.sample_rate_hz)

    def read(content: bytes) -> Samples:
        samples = decoding.decoded(content, rules).samples
        if len(samples) < rules.min_seconds * rules.sample_rate_hz:
            raise Rejected("too_short")
        return samples

    def answered(recordings: Sequence[Samples]) -> Tensor:
        return torch.stack(
            [_vector(samples, rules.max_seconds, sounds, encoder, where) for samples in recordings]
        )

    return vectors.of_folder(folder, decoding.MEDIUM, read, answered)


def opened(model: Path) -> tuple[Sounds, PreTrainedModel]:
    """How a model's folder wants its recordings, and its encoder in evaluation mode.

    Raises:
        InputError: the folder lacks one of them.
    """
    try:
        said = AutoFeatureExtractor.from_pretrained(model, local_files_only=True)
        sounds = Sounds(int(said.sampling_rate), bool(said.do_normalize))
    except (OSError, ValueError, AttributeError):
        raise InputError(
            f"{model / 'preprocessor_config.json'} is missing or says nothing of recordings: without it "
            "nobody knows their rate; copy it from the place that the weights come from."
        ) from None
    try:
        encoder = encoders.build("AutoModel", architecture=None, source=str(model), config={}, seed=0)
    except ValueError as error:
        raise InputError(str(error)) from None
    return sounds, encoder.eval()


def _vector(
    samples: Samples, max_seconds: float, sounds: Sounds, encoder: PreTrainedModel, where: torch.device
) -> Tensor:
    cuts = pauses.pieces(samples, sounds.sample_rate_hz, max_seconds)
    sound, lengths = padded(samples[begin:end] for begin, end in cuts)
    length_P = torch.from_numpy(lengths).to(where)
    value_PN = sounds.values(torch.from_numpy(sound).to(where), length_P)
    return (features(encoder, value_PN, length_P) * length_P[:, None]).sum(0) / length_P.sum()
