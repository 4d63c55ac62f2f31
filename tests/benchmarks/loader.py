"""Batches with masks against datasets + DataLoader + DataCollatorForLanguageModeling as in run_mlm.py.

    python -m tests.benchmarks.loader [--batches 200] [--rounds 5]

Same rows of 128 tokens, batches of 64, random order, BERT's masking; no workers on either side, as
training on few cores has none to spare. Rounds are interleaved; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from models.text.token_masks import mask_tokens
from tasks.modalities.text import tensors
from tasks.modalities.text.tensors import PrepareSettings, TokenizerSettings
from tasks.modalities.text.tensors.rows import Stream
from tests.benchmarks.docstrings import corpus

LENGTH, BATCH = 128, 64


def ours(prepared: Path, recipe: Any) -> Iterator[Any]:
    """Rows from the memory map, masked as the objective does it."""
    batches = tensors.batches(prepared, "general", "train", recipe, ("rows",), seed=0)
    known = tensors.vocabulary(prepared)
    position = 0
    while True:
        batch = batches.batch(range(position, position + BATCH))
        yield mask_tokens(
            batch["input_ids"],
            ~known.is_special[batch["input_ids"]],
            batch["key"],
            probability=0.15,
            mask_id=known.require_mask_id(),
            vocabulary_size=len(known.is_special),
        )
        position += BATCH


def theirs(prepared: Path, cache: Path) -> Iterator[Any]:
    """The same rows as a dataset on disk behind a shuffling DataLoader with the collator."""
    tokenizer: Any = AutoTokenizer.from_pretrained(prepared / "tokenizer")
    stream = Stream(prepared / "general/train")
    rows = stream.tokens(np.arange(stream.num_rows) * LENGTH, LENGTH).astype(np.int32)
    datasets.Dataset.from_dict({"input_ids": list(rows)}).save_to_disk(str(cache))
    loader = DataLoader(
        datasets.load_from_disk(str(cache)),
        batch_size=BATCH,
        shuffle=True,
        collate_fn=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    while True:
        yield from loader


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "unmask-benchmarks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    records = corpus(arguments.folder, arguments.megabytes)
    settings = PrepareSettings(tokenizer=TokenizerSettings(training_megabytes=5), sequence_length=LENGTH)
    recipe: Any = SimpleNamespace(modality="text", prepare=settings)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        prepared.mkdir()
        tensors.prepare(recipe, {"general": records}, {}, prepared, seed=0)
        sources = {"ours": ours(prepared, recipe), "theirs": theirs(prepared, Path(folder) / "dataset")}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
        for source in sources.values():
            next(source)
        for _ in range(arguments.rounds):
            for name, source in sources.items():
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(arguments.batches):
                    next(source)
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    for name, seconds in times.items():
        wall, cpu = (statistics.median(s[i] for s in seconds) / arguments.batches * 1e3 for i in (0, 1))
        print(f"{name}: {wall:.2f} ms wall, {cpu:.2f} ms cpu per batch of {BATCH} x {LENGTH}")
    wall, cpu = (
        statistics.median(t[i] for t in times["theirs"]) / statistics.median(t[i] for t in times["ours"])
        for i in (0, 1)
    )
    print(f"{wall:.1f} times as fast per wall second, {cpu:.1f} per cpu second")


if __name__ == "__main__":
    main()
