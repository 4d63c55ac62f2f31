"""Tiny labelled sets and encoders for the tests of fine-tuning: real tables, tensors and model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models import heads
from tasks.config import Finetune
from tasks.downstream import intake, kind
from tasks.downstream.jobs import Arm, Job, Task
from tasks.downstream.rows import Rows
from tests.tiny import VOCABULARY_SIZE, tiny_model

LENGTH = 12
WORDS = [f"w{number}" for number in range(VOCABULARY_SIZE)]
QUICK = Finetune(
    steps=30, batch_size=8, lr=5e-3, label_budgets=(12, 24), num_seeds=2, max_epochs=10, precision="float32"
)


def classified(count: int, seed: int, prefix: str = "row") -> Rows:
    """Two classes; a row of class `high` holds more ids from the upper half of the vocabulary."""
    draw = np.random.default_rng(seed)
    labels = [("low", "high")[row % 2] for row in range(count)]
    sizes = draw.integers(5, LENGTH + 1, count)
    ids = np.zeros((count, LENGTH), np.int64)
    for row, (label, size) in enumerate(zip(labels, sizes, strict=True)):
        middle = VOCABULARY_SIZE // 2
        low, high = (5, middle + 8) if label == "low" else (middle - 8, VOCABULARY_SIZE)
        ids[row, :size] = draw.integers(low, high, size)
    records = pa.table(
        {
            "id": [f"{prefix}{row}" for row in range(count)],
            "text": [" ".join(WORDS[i] for i in ids[row] if i) for row in range(count)],
            "label": labels,
        }
    )
    tensors = torch.from_numpy(ids)
    return Rows(records, {"input_ids": tensors, "attention_mask": (tensors > 0).long()})


def tagged(count: int, seed: int, prefix: str = "row") -> Rows:
    """Words of one or two positions; upper ids are names of things, the second of two in a row is inside."""
    draw = np.random.default_rng(seed)
    ids, word_ids, tokens, tags = (
        np.zeros((2, count, LENGTH), np.int64)[0],
        np.full((count, LENGTH), -1),
        [],
        [],
    )
    for row in range(count):
        words: list[int] = [int(i) for i in draw.integers(5, VOCABULARY_SIZE, 5)]
        names = [word >= VOCABULARY_SIZE * 2 // 3 for word in words]
        tokens.append([WORDS[word] for word in words])
        tags.append(
            ["O" if not name else "I-X" if n and names[n - 1] else "B-X" for n, name in enumerate(names)]
        )
        place = 1
        for number, word in enumerate(words):
            for _ in range(1 + word % 2):
                ids[row, place], word_ids[row, place] = word, number
                place += 1
        ids[row, 0] = 2
    records = pa.table(
        {
            "id": [f"{prefix}{row}" for row in range(count)],
            "text": [" ".join(words) for words in tokens],
            "tokens": tokens,
            "tags": tags,
        }
    )
    tensors = torch.from_numpy(ids)
    inputs = {
        "input_ids": tensors,
        "attention_mask": (tensors > 0).long(),
        "word_ids": torch.from_numpy(word_ids),
    }
    return Rows(records, inputs)


def asked(count: int, seed: int, prefix: str = "row") -> Rows:
    """The answer is the only word from the upper third; words are two letters, one position each."""
    draw = np.random.default_rng(seed)
    size = 8
    ids = np.zeros((count, LENGTH), np.int64)
    offsets = np.zeros((count, LENGTH, 2), np.int64)
    mask = np.zeros((count, LENGTH), np.int64)
    texts, answers, starts = [], [], []
    upper = VOCABULARY_SIZE * 2 // 3
    for row in range(count):
        words = draw.integers(5, upper, size)
        place = int(draw.integers(0, size))
        words[place] = draw.integers(upper, VOCABULARY_SIZE)
        texts.append(" ".join(f"{word:02d}" for word in words))
        answers.append([f"{words[place]:02d}"])
        starts.append([3 * place])
        ids[row, : size + 2] = [2, 3, *words]
        offsets[row, 2 : size + 2] = [(3 * n, 3 * n + 2) for n in range(size)]
        mask[row, 2 : size + 2] = 1
    records = pa.table(
        {
            "id": [f"{prefix}{row}" for row in range(count)],
            "text": texts,
            "question": ["which one?"] * count,
            "answer_texts": answers,
            "answer_starts": pa.array(starts, pa.list_(pa.int32())),
        }
    )
    tensors = {"input_ids": ids, "offsets": offsets, "context_mask": mask, "attention_mask": (ids > 0) * 1}
    return Rows(records, {key: torch.from_numpy(value) for key, value in tensors.items()})


MAKERS = {"classification": classified, "token_classification": tagged, "question_answering": asked}
AUTO = {
    "bert": "AutoModelForMaskedLM",
    "gpt2": "AutoModelForCausalLM",
}


def encoder_folder(folder: Path, architecture: str = "bert", seed: int = 0) -> Path:
    """A tiny model with its pretraining head, as stage `pretrain` leaves it."""
    heads.save(tiny_model(AUTO[architecture], seed), folder)
    return folder


def stored(folder: Path, kind_name: str = "classification", settings: Finetune = QUICK) -> Task:
    """A labelled set as jobs find it."""
    sizes = {"train": 40, "validation": 24, "test": 30}
    make = MAKERS[kind_name]
    rows = {split: make(count, seed, split) for seed, (split, count) in enumerate(sizes.items())}
    whole = rows["train"]
    _, draws = intake.drawn(kind_name, whole.records, (*settings.label_budgets, "all"), (0, 1))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "draws.json").write_text(json.dumps(draws))
    for split, part in rows.items():
        part.save(folder / split)
    labels = tuple(kind(kind_name).labels(whole.records))
    return Task("toy", kind_name, "text", labels, settings.label_budgets, 0, folder)


def job(task: Task, arm: Arm | None, method: str, folder: Path, **changes: Any) -> Job:
    """A job at the smallest budget."""
    given = {
        "budgets": task.points[:1], "seeds": (0,), "settings": QUICK, "embeds": False, "keeps_model": False,
        **changes,
    }  # fmt: skip
    return Job(task=task, arm=arm, method=method, folder=folder, **given)
