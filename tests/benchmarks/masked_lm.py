"""Masked language modelling: our loop against Hugging Face's Trainer as `run_mlm.py` sets it up.

Same encoder (BERT, 4 layers of 256, random weights, no dropout), same packed rows of 128 tokens,
same batch of 32 rows, same AdamW and clipping.

    python -m tests.benchmarks.masked_lm
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tokenizers import Tokenizer, models
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from models.objectives.masked_lm import MaskedLM
from tests.benchmarks.baton import race
from tests.benchmarks.language import (
    BATCH,
    HEADS,
    LAYERS,
    LENGTH,
    VOCABULARY_SIZE,
    WIDTH,
    build,
    ours,
    trainer,
)

ENCODER = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def collator() -> Any:
    """`run_mlm.py`'s collator."""
    vocabulary = {f"t{i}": i for i in range(VOCABULARY_SIZE)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t1")),
        pad_token="t0", unk_token="t1", cls_token="t2", sep_token="t3", mask_token="t4",
    )  # fmt: skip
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)


if __name__ == "__main__":
    bert = partial(build, "AutoModelForMaskedLM", "bert", ENCODER)
    peer = partial(trainer, bert, collator, has_labels=False)
    race(
        {
            "ours": ours(MaskedLM, bert, compile=False),
            "ours, compiled": ours(MaskedLM, bert, compile=True),
            "Trainer as shipped (float32)": peer(bf16=False, compile=False),
            "Trainer, bfloat16": peer(bf16=True, compile=False),
            "Trainer, bfloat16 + compile": peer(bf16=True, compile=True),
        },
        units_per_step=BATCH * LENGTH,
        unit="tokens",
    )
