"""Masked language modelling: our loop against Hugging Face's Trainer as `run_mlm.py` sets it up.

Same encoder (BERT, 4 layers of 256, random weights, no dropout), same packed rows of 128 tokens,
same batch of 32 rows, same AdamW and clipping.

    python -m tests.benchmarks.masked_lm
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from models import encoders
from models.attention import choose
from models.objectives.masked_lm import MaskedLM
from models.vocabulary import Vocabulary
from tasks.engine.loop import Event, train
from tasks.engine.settings import TrainSettings
from tests.benchmarks.baton import Turn, race

VOCABULARY_SIZE, LENGTH, BATCH, NUM_ROWS = 8192, 128, 32, 4096
STEPS = 100_000
ENCODER = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 1024, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
ROWS = torch.randint(5, VOCABULARY_SIZE, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


def build() -> Any:
    return encoders.build("AutoModelForMaskedLM", architecture="bert", source=None, config=ENCODER, seed=0)


class Packed:
    """The rows for our loop."""

    num_samples, unit, units_per_sample = NUM_ROWS, "tokens", float(LENGTH)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions))
        return {"input_ids": ROWS[key % NUM_ROWS], "key": key}


class Examples(Dataset[dict[str, Any]]):
    """The rows as `run_mlm.py` keeps them after `group_texts`."""

    def __len__(self) -> int:
        return NUM_ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": ROWS[index].tolist()}


def ours(*, compile: bool) -> Any:
    def loop(turn: Turn) -> None:
        model = build()
        choose(model, LENGTH, torch.device("cpu"))
        facts = Vocabulary(
            torch.arange(VOCABULARY_SIZE) < 5, torch.zeros(VOCABULARY_SIZE, dtype=torch.bool), 0, 4
        )
        settings = TrainSettings(
            steps=STEPS, batch_size=BATCH, log_every=1, compile=compile, schedule="constant"
        )

        def count(event: Event) -> None:
            turn.step()

        train(MaskedLM(model, MaskedLM.Settings(), facts), Packed(), settings, seed=0, callbacks=[count])

    return loop


def trainer(*, bf16: bool, compile: bool) -> Any:
    def loop(turn: Turn) -> None:
        class Count(TrainerCallback):
            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                turn.step()

        vocabulary = {f"t{i}": i for i in range(VOCABULARY_SIZE)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t1")),
            pad_token="t0", unk_token="t1", cls_token="t2", sep_token="t3", mask_token="t4",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=BATCH, max_steps=STEPS, report_to=[], save_strategy="no",
                logging_strategy="no", disable_tqdm=True, bf16=bf16, torch_compile=compile, use_cpu=True,
            )  # fmt: skip
            Trainer(
                build(), arguments, train_dataset=Examples(), callbacks=[Count()],
                data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
            ).train()  # fmt: skip

    return loop


if __name__ == "__main__":
    race(
        {
            "ours": ours(compile=False),
            "ours, compiled": ours(compile=True),
            "Trainer as shipped (float32)": trainer(bf16=False, compile=False),
            "Trainer, bfloat16": trainer(bf16=True, compile=False),
            "Trainer, bfloat16 + compile": trainer(bf16=True, compile=True),
        },
        units_per_step=BATCH * LENGTH,
        unit="tokens",
    )
