"""Hugging Face's Trainer as a contestant: its defaults, and what a comparison switches on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.benchmarks.baton import ENDLESS, Loop, Turn


def trainer(
    model: Callable[[], Any],
    examples: Any,
    collator: Callable[[], Any],
    *,
    batch_size: int,
    bf16: bool,
    compile: bool,
    **switches: Any,
) -> Loop:
    """The Trainer on a CPU, without logs and checkpoints; `switches` are further `TrainingArguments`."""

    def loop(turn: Turn) -> None:
        class Count(TrainerCallback):
            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                turn.step()

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=batch_size, max_steps=ENDLESS, report_to=[], save_strategy="no",
                logging_strategy="no", disable_tqdm=True, bf16=bf16, torch_compile=compile, use_cpu=True, **switches,
            )  # fmt: skip
            Trainer(
                model(), arguments, train_dataset=examples, callbacks=[Count()], data_collator=collator()
            ).train()

    return loop
