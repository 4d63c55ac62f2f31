"""Causal language modelling: our loop against Hugging Face's Trainer (`run_clm.py`) and a loop in nanoGPT's manner.

Same encoder (GPT-2, 4 layers of 256, random weights, no dropout), rows of 128 tokens, 32 a batch.
The nanoGPT peer is written from its public description: one plain module, fused attention, scores
over the whole vocabulary for every token, AdamW, clipping; as shipped it computes in float32 on a
CPU, its best setting there is bfloat16 with torch.compile.

    python -m tests.benchmarks.causal_lm
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from models import encoders
from models.attention import choose
from models.objectives.causal_lm import CausalLM
from models.vocabulary import Vocabulary
from tasks.engine.loop import Event, train
from tasks.engine.settings import TrainSettings
from tests.benchmarks.baton import Turn, race

VOCABULARY_SIZE, LENGTH, BATCH, NUM_ROWS = 8192, 128, 32, 4096
LAYERS, HEADS, WIDTH = 4, 4, 256
STEPS = 100_000
ENCODER = {
    "vocab_size": VOCABULARY_SIZE, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": LENGTH,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
ROWS = torch.randint(0, VOCABULARY_SIZE, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


def build() -> Any:
    return encoders.build("AutoModelForCausalLM", architecture="gpt2", source=None, config=ENCODER, seed=0)


class Packed:
    """The rows for our loop."""

    num_samples, unit, units_per_sample = NUM_ROWS, "tokens", float(LENGTH)

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions))
        return {"input_ids": ROWS[key % NUM_ROWS], "key": key}


class Examples(Dataset[dict[str, Any]]):
    """The rows as `run_clm.py` keeps them after `group_texts`."""

    def __len__(self) -> int:
        return NUM_ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = ROWS[index].tolist()
        return {"input_ids": ids, "labels": ids}


def ours(*, compile: bool) -> Any:
    def loop(turn: Turn) -> None:
        model = build()
        choose(model, LENGTH, torch.device("cpu"))
        facts = Vocabulary(
            torch.arange(VOCABULARY_SIZE) < 1, torch.zeros(VOCABULARY_SIZE, dtype=torch.bool), 0
        )
        settings = TrainSettings(
            steps=STEPS, batch_size=BATCH, log_every=1, compile=compile, schedule="constant"
        )

        def count(event: Event) -> None:
            turn.step()

        train(CausalLM(model, CausalLM.Settings(), facts), Packed(), settings, seed=0, callbacks=[count])

    return loop


def trainer(*, bf16: bool, compile: bool) -> Any:
    def loop(turn: Turn) -> None:
        class Count(TrainerCallback):
            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                turn.step()

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=BATCH, max_steps=STEPS, report_to=[], save_strategy="no",
                logging_strategy="no", disable_tqdm=True, bf16=bf16, torch_compile=compile, use_cpu=True,
            )  # fmt: skip
            Trainer(
                build(),
                arguments,
                train_dataset=Examples(),
                callbacks=[Count()],
                data_collator=default_data_collator,
            ).train()

    return loop


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BLD: Tensor) -> Tensor:
        num, length, _ = x_BLD.shape
        q, k, v = (
            part.view(num, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm1(x_BLD)).split(WIDTH, dim=2)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BLD = x_BLD + self.project(attended.transpose(1, 2).reshape(num, length, WIDTH))
        return x_BLD + self.down(functional.gelu(self.up(self.norm2(x_BLD))))


class PlainGPT(nn.Module):
    """GPT-2 as one plain module."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY_SIZE, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY_SIZE, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids_BL: Tensor, targets_BL: Tensor) -> Tensor:
        x_BLD = self.tokens(ids_BL) + self.places(torch.arange(ids_BL.shape[1]))
        scores = self.head(self.norm(self.blocks(x_BLD)))
        return functional.cross_entropy(scores.flatten(0, 1), targets_BL.flatten(), ignore_index=-1)


def nanogpt(*, bf16: bool, compile: bool) -> Any:
    def loop(turn: Turn) -> None:
        torch.manual_seed(0)
        model: Any = PlainGPT()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        run = torch.compile(model) if compile else model
        context = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
        stream = ROWS.flatten()
        for _ in range(STEPS):
            starts = torch.randint(len(stream) - LENGTH - 1, (BATCH,))
            ids = torch.stack([stream[i : i + LENGTH] for i in starts])
            targets = torch.stack([stream[i + 1 : i + 1 + LENGTH] for i in starts])
            with context:
                loss = run(ids, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            turn.step()

    return loop


if __name__ == "__main__":
    race(
        {
            "ours": ours(compile=False),
            "ours, compiled": ours(compile=True),
            "Trainer as shipped (float32)": trainer(bf16=False, compile=False),
            "Trainer, bfloat16 + compile": trainer(bf16=True, compile=True),
            "nanoGPT as shipped (float32)": nanogpt(bf16=False, compile=False),
            "nanoGPT, bfloat16 + compile": nanogpt(bf16=True, compile=True),
        },
        units_per_step=BATCH * LENGTH,
        unit="tokens",
    )
