"""Small real objects that several tests share: models of a few thousand weights, rows by position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import encoders, objectives
from models.counter import integers
from models.objectives import Objective
from models.vocabulary import Vocabulary

VOCABULARY_SIZE = 60
TINY = {
    "bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
    "gpt2": {
        "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1,
    },
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


def vocabulary() -> Vocabulary:
    """Five special tokens, of which 0 pads and 4 masks; every third id continues a word."""
    ids = torch.arange(VOCABULARY_SIZE)
    return Vocabulary(ids < 5, (ids >= 5) & (ids % 3 == 0), pad_id=0, mask_id=4)


def tiny_model(auto: str, seed: int = 0) -> PreTrainedModel:
    """A transformers model of a few thousand weights."""
    architecture = "gpt2" if "Causal" in auto else "bert"
    config = {"vocab_size": VOCABULARY_SIZE, **TINY[architecture]}
    return encoders.build(auto, architecture=architecture, source=None, config=config, seed=seed)


def tiny_objective(name: str, seed: int = 0, **settings: object) -> Objective:
    """An objective of the catalogue around a tiny model."""
    kind = objectives.load(name)
    return kind(tiny_model(kind.auto, seed), kind.Settings(**settings), vocabulary=vocabulary())
