"""Causal language modelling: our loop against Hugging Face's Trainer (`run_clm.py`) and a loop in nanoGPT's manner.

Same encoder (GPT-2, 4 layers of 256, random weights, no dropout), rows of 128 tokens, 32 a batch.
The nanoGPT peer is written from its public description: one plain module, fused attention, scores
over the whole vocabulary for every token, AdamW, clipping; as shipped it computes in float32 on a
CPU, its best setting there is bfloat16 with torch.compile.

    python -m tests.benchmarks.causal_lm
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import default_data_collator

from models.objectives.causal_lm import CausalLM
from tests.benchmarks.baton import ENDLESS, Turn, race
from tests.benchmarks.language import (
    BATCH,
    HEADS,
    LAYERS,
    LENGTH,
    ROWS,
    VOCABULARY_SIZE,
    WIDTH,
    build,
    ours,
    trainer,
)

ENCODER = {
    "vocab_size": VOCABULARY_SIZE, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": LENGTH,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


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
        for _ in range(ENDLESS):
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
    gpt2 = partial(build, "AutoModelForCausalLM", "gpt2", ENCODER)
    peer = partial(trainer, gpt2, lambda: default_data_collator, has_labels=True)
    race(
        {
            "ours": ours(CausalLM, gpt2, compile=False),
            "ours, compiled": ours(CausalLM, gpt2, compile=True),
            "Trainer as shipped (float32)": peer(bf16=False, compile=False),
            "Trainer, bfloat16 + compile": peer(bf16=True, compile=True),
            "nanoGPT as shipped (float32)": nanogpt(bf16=False, compile=False),
            "nanoGPT, bfloat16 + compile": nanogpt(bf16=True, compile=True),
        },
        units_per_step=BATCH * LENGTH,
        unit="tokens",
    )
