"""Small real objects that several tests share: models of a few thousand weights, samples by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import encoders, objectives
from models.image.images import Images
from models.objectives import Objective
from models.parts.counter import integers, uniform
from models.speech.cepstra import WIDTH
from models.speech.sounds import Sounds
from models.text.vocabulary import Vocabulary

VOCABULARY_SIZE = 60
IMAGE_SIZE = 16
TINY: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
    "gpt2": {
        "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1,
    },
    "vit": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": IMAGE_SIZE, "patch_size": 4,
    },
    "wav2vec2": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": [16, 16], "conv_kernel": [10, 8], "conv_stride": [5, 4], "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer",
        "num_codevectors_per_group": 8, "codevector_dim": 8, "proj_codevector_dim": 8,
        "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0,
        "final_dropout": 0.0, "feat_quantizer_dropout": 0.0, "layerdrop": 0.0,
    },
    "resnet": {
        "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
        "image_size": IMAGE_SIZE,
    },
}  # fmt: skip
TINY["hubert"] = {
    key: value for key, value in TINY["wav2vec2"].items() if "code" not in key and "quant" not in key
}
TINY["wavlm"] = TINY["hubert"]
ENCODERS = {"wav2vec2": "wav2vec2", "hubert": "hubert"}
HEADS: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_width": 32, "projection_width": 16},
    "moco": {"hidden_width": 32, "projection_width": 16, "queue": 24},
    "byol": {"hidden_width": 32, "projection_width": 16},
    "simsiam": {"hidden_width": 32, "projection_width": 16, "predictor_width": 8},
    "dino": {
        "hidden_width": 32, "bottleneck_width": 16, "prototypes": 24, "local_crops": 2, "frozen_share": 0.0,
        "teacher_temperature_start": 0.02,
    },
    "mae": {"decoder_width": 16, "decoder_layers": 1, "decoder_heads": 2},
    "ijepa": {"predictor_width": 16, "predictor_layers": 1, "predictor_heads": 2},
    "wav2vec2": {"mask_length": 3, "num_negatives": 8},
    "hubert": {"mask_length": 3, "projection_width": 8},
}  # fmt: skip


class Rows:
    """Packed token rows of two documents each, as pure functions of the position."""

    num_samples = 64
    unit = "tokens"
    units_per_sample = 24.0

    def __init__(self, reads: tuple[str, ...] = ("rows",)) -> None:
        self.reads = reads

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions), dtype=torch.int64)
        rows = integers(key % self.num_samples, 24, VOCABULARY_SIZE - 5, stream=9) + 5
        rows[:, [0, 12]] = 2
        if "spans" in self.reads:
            return {"anchor_ids": rows[:, :12], "positive_ids": rows[:, 12:], "key": key}
        document_ids = torch.arange(24).div(12, rounding_mode="floor").expand(len(key), 24)
        return {"input_ids": rows, "document_ids": document_ids, "key": key}


class Pictures:
    """Three-coloured checks with noise, a little larger than the encoder's input, by position."""

    num_samples = 64
    unit = "images"
    units_per_sample = 1.0
    reads = ("images",)
    stored_size = 20

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions), dtype=torch.int64)
        rows, side = key % self.num_samples, self.stored_size
        coarse = uniform(rows, 3 * 4 * 4, stream=9).view(-1, 3, 4, 4)
        noise = uniform(rows, 3 * side * side, stream=10).view(-1, 3, side, side)
        values = 0.8 * coarse.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3) + 0.2 * noise
        return {"pixels": (values * 255).to(torch.uint8), "key": key}


class Recordings:
    """A third of a second of two tones that follow each other, in noise, by position."""

    num_samples = 64
    unit = "seconds of audio"
    units_per_sample = 0.3
    reads = ("sounds",)
    rate_hz = 4000

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key_B = torch.tensor(list(positions), dtype=torch.int64)
        row_B, num = key_B % self.num_samples, round(self.rate_hz * self.units_per_sample)
        pitch_B2 = 200 + 1500 * uniform(row_B, 2, stream=9)
        pitch_BN = pitch_B2.repeat_interleave(num // 2, dim=1)
        noise_BN = uniform(row_B, num, stream=10) - 0.5
        value_BN = torch.sin(2 * torch.pi * (pitch_BN / self.rate_hz).cumsum(1)) + 0.2 * noise_BN
        return {"sound": (value_BN * 9000).to(torch.int16), "key": key_B}


class Numbers:
    """Three numbers each, for objectives without an encoder."""

    num_samples = 32
    unit = "rows"
    units_per_sample = 1.0

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions))
        return {"key": key, "x": torch.stack([(key * factor) % 7 / 7.0 for factor in (1, 3, 5)], dim=1)}


def samples(objective: Objective) -> Rows | Pictures | Recordings:
    """What the objective reads."""
    if {"sounds", "units"} & {*objective.reads}:
        return Recordings()
    return Pictures() if "images" in objective.reads else Rows(objective.reads)


def vocabulary() -> Vocabulary:
    """Five special tokens, of which 0 pads and 4 masks; every third id continues a word."""
    ids = torch.arange(VOCABULARY_SIZE)
    return Vocabulary(ids < 5, (ids >= 5) & (ids % 3 == 0), pad_id=0, mask_id=4)


def images() -> Images:
    """How the tiny encoders read pictures."""
    return Images(IMAGE_SIZE, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def sounds() -> Sounds:
    """How the tiny encoders hear recordings, with six units."""
    units = uniform(torch.arange(6), WIDTH, stream=11) * 8 - 4
    return Sounds(Recordings.rate_hz, units=tuple(map(tuple, units.tolist())))


def tiny_model(auto: str, seed: int = 0, architecture: str | None = None) -> PreTrainedModel:
    """A transformers model of a few thousand weights."""
    architecture = architecture or ("gpt2" if "Causal" in auto else "bert")
    config = TINY[architecture]
    if not {"image_size", "conv_dim"} & {*config}:
        config = {"vocab_size": VOCABULARY_SIZE, **config}
    return encoders.build(auto, architecture=architecture, source=None, config=config, seed=seed)


def tiny_classifier(folder: Path, says: str = "") -> None:
    """Write a fine-tuned classifier of "yes" and "no" with its tokenizer; `says` is its answer to everything."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    model = tiny_model("AutoModelForSequenceClassification")
    model.config.label2id = {"no": 0, "yes": 1}
    model.config.id2label = {number: label for label, number in model.config.label2id.items()}
    if says:
        with torch.no_grad():
            model.get_parameter("classifier.bias")[model.config.label2id[says]] += 100
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def tiny_objective(
    name: str, seed: int = 0, architecture: str | None = None, **settings: object
) -> Objective:
    """An objective of the catalogue around a tiny model; pictures are read by a vision transformer."""
    kind = objectives.load(name)
    chosen = kind.Settings(**{**HEADS.get(name, {}), **settings})
    if name in ENCODERS:
        return kind(tiny_model(kind.auto, seed, architecture or ENCODERS[name]), chosen, sounds=sounds())
    if "images" in kind.reads:
        return kind(tiny_model(kind.auto, seed, architecture or "vit"), chosen, images=images())
    return kind(tiny_model(kind.auto, seed, architecture), chosen, vocabulary=vocabulary())
