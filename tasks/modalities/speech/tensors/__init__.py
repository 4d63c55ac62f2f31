"""Recordings as 16-bit samples: segments for training without labels, whole recordings with labels.

Settings and the functions that every modality has; the work is done in `shards`, `rows` and `reading`
beside this file, which are loaded when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from models.settings import Settings, setting
from models.speech.settings import Hiding
from models.speech.spelling import BETWEEN_WORDS, BLANK
from tasks.errors import InputError, unknown

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from tasks.config import Recipe
    from tasks.engine.loader import Batches

UNIT = "seconds of audio"
OFFERS = ("sounds", "units")
READS = ("sounds",)
BULKY = ("recording",)
GO_WITH_WEIGHTS = ()
KINDS = ("classification", "transcription")
PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """How recordings are stored, and what an encoder hears of them."""

    sample_rate_hz: int = setting(
        16_000, "Samples a second that the encoder reads; the corpora's must be the same.", ge=4000
    )
    segment_seconds: float = setting(
        10.0,
        "Length of a training sample: recordings follow each other and are cut into such segments.",
        gt=0,
    )
    normalise: Literal["auto", "each", "none"] = setting(
        "auto",
        "Each: every recording is brought to mean 0 and variance 1; none: samples are between -1 and 1. "
        "auto: as the released weights say that the encoder starts from, else each.",
    )
    num_units: int = setting(
        100, "Clusters of what short windows sound like, for objectives that predict such units.", ge=2
    )
    hiding: Hiding = setting(
        Hiding(), "What is hidden of labelled recordings while an encoder is fine-tuned."
    )


def prepare(
    recipe: Recipe, corpora: Mapping[str, Path], excluded: Mapping[str, set[str]], out: Path, seed: int
) -> dict[str, Any]:
    """Write the recordings of every slot; answer the statistics for the manifest.

    Raises:
        InputError: a corpus has another rate, or less sound than units need.
    """
    from models.speech.sounds import Sounds
    from tasks.corpora.parts import parts
    from tasks.modalities.speech.tensors import shards, units

    settings = cast("PrepareSettings", recipe.prepare)
    segment = round(settings.segment_seconds * settings.sample_rate_hz)
    slots: dict[str, dict[str, dict[str, int]]] = {}
    for (slot, split), part in parts(corpora, excluded).items():
        folder = out / slot / split
        folder.mkdir(parents=True)
        num_rows = shards.write(part, folder, settings.sample_rate_hz, segment, f"{slot}/{split}")
        seconds = round(num_rows * settings.segment_seconds)
        slots.setdefault(slot, {})[split] = {"rows": num_rows, UNIT: seconds}
    if "units" in _reads(recipe):
        slot = next(slot for slot in ("general", "domain", "tasks") if slot in slots)
        sounds = Sounds(settings.sample_rate_hz, settings.normalise != "none")
        units.save(units.fit(out / slot / "train", sounds, settings.num_units, seed), out)
    return {
        "sample_rate_hz": settings.sample_rate_hz,
        "segment_seconds": settings.segment_seconds,
        "normalise": settings.normalise,
        "slots": slots,
    }


def batches(
    prepared: Path, slot: str, split: str, recipe: Recipe, reads: tuple[str, ...], seed: int
) -> Batches:
    """Segments by position.

    Raises:
        InputError: that slot and split hold nothing.
    """
    from tasks.modalities.speech.tensors.rows import StoredSounds
    from tasks.modalities.speech.tensors.shards import Segments

    if not reads or not {*reads} <= {*OFFERS}:
        raise KeyError(unknown("kind of batch", ", ".join(reads), OFFERS))
    folder = prepared / slot / split
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing: the recipe's corpus `{slot}` is none; name one, and prepare again."
        )
    settings = cast("PrepareSettings", recipe.prepare)
    segments = Segments(folder)
    if not segments.num_rows:
        raise InputError(
            f"{folder} holds less sound than one segment of {settings.segment_seconds} s; lower "
            "prepare.segment_seconds, give the corpus more, or raise its heldout_fraction."
        )
    return StoredSounds(segments, settings.sample_rate_hz, seed)


def vectors(
    encoder: PreTrainedModel, batch: Mapping[str, Tensor], prepared: Path, weights: str | None = None
) -> Tensor:
    """The mean of each segment's frames, [B, D]."""
    import torch

    from models.speech.sounds import features

    sound_BN = batch["sound"]
    length_B = torch.full((len(sound_BN),), sound_BN.shape[1], device=sound_BN.device)
    return features(encoder, constants(prepared, weights)["sounds"].values(sound_BN), length_B)


def inputs(records: pa.Table, kind: str, prepared: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Labelled recordings as int16 `sound` [N, samples], zeros behind, `num_samples` [N], `rate_hz` [N].

    Raises:
        KeyError: no such kind for recordings.
    """
    import torch

    from tasks.modalities.speech.tensors import shards

    if kind not in KINDS:
        raise KeyError(unknown("kind of task for recordings", kind, KINDS))
    rate_hz = cast("PrepareSettings", recipe.prepare).sample_rate_hz
    columns = (records.column(name).to_pylist() for name in ("recording", "source"))
    sound, lengths = shards.padded(
        shards.at_rate(content, rate_hz, source) for content, source in zip(*columns, strict=True)
    )
    return {
        "sound": torch.from_numpy(sound),
        "num_samples": torch.from_numpy(lengths),
        "rate_hz": torch.full((len(lengths),), rate_hz),
    }


def encoder_config(prepared: Path) -> dict[str, Any]:
    """Nothing: encoders of speech read any length at their rate."""
    return {}


def check_encoder(config: PretrainedConfig, recipe: Recipe) -> None:
    """Refuse an encoder that does not read samples, or that makes too few frames of a segment.

    Raises:
        ValueError: names some that do, or says that segments must be longer.
    """
    if not hasattr(config, "conv_stride"):
        raise ValueError(
            f"{config.model_type} does not read samples of sound; choose an encoder such as wav2vec2, hubert "
            "or wavlm"
        )
    settings, objective = cast("PrepareSettings", recipe.prepare), cast("Any", recipe.pretrain.objective)
    frames = round(settings.segment_seconds * settings.sample_rate_hz)
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        frames = max(0, (frames - kernel) // stride + 1)
    wanted = 1 + getattr(objective, "mask_length", 0)
    if frames < wanted:
        raise ValueError(
            f"{config.model_type} makes {frames} frames of segments of {settings.segment_seconds} s at "
            f"{settings.sample_rate_hz} Hz, and {objective.name} needs {wanted}; raise "
            "prepare.segment_seconds, or lower the objective's mask_length"
        )


def constants(prepared: Path, weights: str | None = None) -> dict[str, Any]:
    """What objectives over recordings are constructed with."""
    from models.speech.sounds import Sounds
    from tasks.modalities.speech.tensors import units

    manifest = json.loads((prepared / "manifest.json").read_text(encoding="utf-8"))
    normalises = _normalises(manifest["normalise"], weights)
    return {"sounds": Sounds(manifest["sample_rate_hz"], normalises, units.load(weights, prepared))}


def reader(prepared: Path, recipe: Recipe, weights: str | None = None) -> nn.Module:
    """Stored samples to what an encoder reads."""
    from tasks.modalities.speech.tensors.reading import Reader

    return Reader(constants(prepared, weights)["sounds"], cast("PrepareSettings", recipe.prepare).hiding)


def finish(prepared: Path, folder: Path, weights: str | None = None) -> None:
    """Write `preprocessor_config.json`, with which `AutoFeatureExtractor` does what `Sounds.values` does.

    Units go with the weights that learnt to tell them apart.
    """
    from tasks.modalities.speech.tensors import units

    sounds = constants(prepared, weights)["sounds"]
    if sounds.units is not None:
        units.save(sounds.units, folder)
    processor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": sounds.sample_rate_hz,
        "padding_value": 0.0,
        "do_normalize": sounds.normalise,
        "return_attention_mask": True,
    }
    _write_vocabulary(folder)
    text = json.dumps(processor, indent=1, sort_keys=True)
    (folder / PROCESSOR).write_text(text + "\n", encoding="utf-8")


def _write_vocabulary(folder: Path) -> None:
    """What `AutoProcessor` needs to spell a transcriber's answers, where the folder holds one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not str(config.get("architectures")).endswith("ForCTC']"):
        return
    files = {
        "vocab.json": config["label2id"],
        "tokenizer_config.json": {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": BLANK,
            "unk_token": BLANK,
            "bos_token": None,
            "eos_token": None,
            "word_delimiter_token": BETWEEN_WORDS,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _reads(recipe: Recipe) -> tuple[str, ...]:
    """What the recipe's objective asks of a sample."""
    from models import objectives

    return objectives.load(recipe.pretrain.objective.name).reads  # type: ignore[attr-defined]  # the union's tag


def _normalises(said: str, weights: str | None) -> bool:
    if said != "auto" or weights is None:
        return said != "none"
    from transformers import AutoFeatureExtractor

    try:
        return bool(AutoFeatureExtractor.from_pretrained(weights).do_normalize)
    except (OSError, AttributeError):
        return True
