"""What a causal language model makes of text it has not seen: perplexity, and samples of its own.

Each document stands for itself: windows of the model's length that overlap by one token, so that
every token but a document's first is predicted exactly once. Bits per character compare models
with different tokenizers; perplexity per token does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import encoders, heads
from models.text import attention
from models.text.token_masks import IGNORED
from tasks.downstream.rows import device
from tasks.engine.precision import autocast

MOST_TOKENS = 100_000
WINDOWS_PER_BATCH = 64
PROMPT_TOKENS = 8
NEW_TOKENS = 48

Ids = np.ndarray[Any, np.dtype[np.int64]]


def applies(folder: Path) -> bool:
    """Whether a folder by `save_pretrained` holds a causal language model."""
    from transformers import AutoConfig

    return (folder / "config.json").exists() and heads.is_causal(AutoConfig.from_pretrained(folder))


def report(
    arms: dict[str, Path], prepared: Path, slots: Sequence[str], length: int, seed: int
) -> dict[str, Any]:
    """Perplexity of each arm on held-out text of each slot, and continuations of its first documents.

    Args:
        arms: model folders (weights and tokenizer) by name.
        prepared: folder of packed token rows.
        slots: of the held-out text; the samples continue the last one's.
        length: tokens per window.
        seed: of the samples.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scores, samples = [], []
    for arm, folder in arms.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with encoders.quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        torch.nn.Module.to(model, device())
        for slot in slots:
            held_out = list(documents(prepared / slot / "heldout", MOST_TOKENS))
            characters = sum(len(tokenizer.decode(ids[1:], skip_special_tokens=True)) for ids in held_out)
            scores.append({"arm": arm, "slot": slot, **perplexity(model, held_out, length, characters)})
        for ids in held_out[:3]:
            samples.append({"arm": arm, **_continued(model, tokenizer, ids[:PROMPT_TOKENS], length, seed)})
    return {"perplexity": scores, "samples": samples}


def documents(folder: Path, most_tokens: int) -> Iterator[Ids]:
    """Token ids of the first documents of a split, at least two tokens each, up to that many in all."""
    parts = [_column(path, "input_ids") for path in sorted(folder.glob("rows-*.arrow"))]
    stream = np.concatenate([part.flatten().to_numpy(zero_copy_only=False) for part in parts]).astype(
        np.int64
    )
    starts = _column(folder / "documents.arrow", "start").to_numpy(zero_copy_only=False)
    total = 0
    for start, end in zip(starts, [*starts[1:], len(stream)], strict=True):
        ids = stream[start:end][: most_tokens - total]
        if len(ids) > 1:
            total += len(ids)
            yield ids


def _column(path: Path, name: str) -> Any:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all().column(name).combine_chunks()


@torch.no_grad()
def perplexity(
    model: PreTrainedModel, held_out: Sequence[Ids], length: int, characters: int
) -> dict[str, float]:
    """`perplexity` per predicted token, `bits_per_character`, and how many `tokens` were predicted.

    Args:
        model: a causal language model in evaluation mode.
        held_out: token ids of documents.
        length: tokens per window, at most the model's positions.
        characters: of the text that the predicted tokens stand for.
    """
    step = length - 1
    windows = [ids[at : at + length] for ids in held_out for at in range(0, len(ids) - 1, step)]
    windows.sort(key=len, reverse=True)
    attention.choose(model, length, model.device)
    nats, tokens = 0.0, 0
    for first in range(0, len(windows), WINDOWS_PER_BATCH):
        part = [torch.from_numpy(window) for window in windows[first : first + WINDOWS_PER_BATCH]]
        ids_BL = torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(model.device)
        mask_BL = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in part], True).to(model.device)
        with autocast("auto", model.device):
            logits_BLV: Tensor = model(input_ids=ids_BL, attention_mask=mask_BL).logits
        targets_BL = ids_BL.masked_fill(mask_BL == 0, IGNORED)[:, 1:]
        loss = torch.nn.functional.cross_entropy(
            logits_BLV[:, :-1].float().flatten(0, 1),
            targets_BL.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        nats += float(loss)
        tokens += int((targets_BL != IGNORED).sum())
    return {
        "perplexity": math.exp(nats / tokens),
        "bits_per_character": nats / math.log(2) / max(characters, 1),
        "tokens": tokens,
    }


@torch.no_grad()
def _continued(model: Any, tokenizer: Any, prompt: Ids, length: int, seed: int) -> dict[str, str]:
    """The prompt and what the model writes after it (temperature 0.8, the 50 likeliest tokens)."""
    ids_1L = torch.from_numpy(prompt)[None].to(model.device)
    torch.manual_seed(seed)
    written = model.generate(
        ids_1L,
        attention_mask=torch.ones_like(ids_1L),
        do_sample=True,
        temperature=0.8,
        top_k=50,
        max_new_tokens=max(1, min(NEW_TOKENS, length - len(prompt))),
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )[0, len(prompt) :]
    return {
        "prompt": tokenizer.decode(prompt, skip_special_tokens=True),
        "text": tokenizer.decode(written, skip_special_tokens=True),
    }
