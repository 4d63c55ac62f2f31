"""Tokenise and pack against `datasets.map(batched=True, num_proc=2)` and run_mlm.py's `group_texts`.

    python -m tests.benchmarks.tokenise_and_pack [--megabytes 55] [--kind wordpiece] [--rounds 3]

Both start from one parquet file with the same documents and end with rows of the same length on disk;
both use the same trained tokenizer and the same two cores; rounds are interleaved, the median counts.
The ids are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer

from tasks.corpora.parts import parts
from tasks.modalities.text import tensors
from tasks.modalities.text.tensors import PrepareSettings, TokenizerSettings, documents
from tasks.modalities.text.tensors.packing import Encoder
from tasks.modalities.text.tensors.rows import Stream
from tasks.modalities.text.tensors.tokenizers import save, train
from tests.benchmarks.docstrings import corpus

LENGTH = 128


def ours(records: Path, tokenizer: Path, out: Path) -> None:
    """Our way: the stage's own function."""
    recipe: Any = SimpleNamespace(
        modality="text",
        prepare=PrepareSettings(tokenizer=TokenizerSettings(source=str(tokenizer)), sequence_length=LENGTH),
    )
    tensors.prepare(recipe, {"general": records}, {}, out, seed=0)


def theirs(records: Path, tokenizer: Path, out: Path) -> None:
    """The way of transformers' examples/pytorch/language-modeling/run_mlm.py."""
    fast: Any = AutoTokenizer.from_pretrained(tokenizer)
    end = [] if fast("")["input_ids"] else [fast.eos_token_id]

    def tokenise(rows: dict[str, list[str]]) -> dict[str, Any]:
        ids = fast(rows["text"], return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        return {"input_ids": [document + end for document in ids]}

    def group(rows: dict[str, list[list[int]]]) -> dict[str, Any]:
        joined = list(chain(*rows["input_ids"]))
        total = len(joined) // LENGTH * LENGTH
        return {"input_ids": [joined[i : i + LENGTH] for i in range(0, total, LENGTH)]}

    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(records / "records-00000.parquet"),
        split="train",
        cache_dir=str(out / "cache"),
    )
    tokenised = loaded.map(tokenise, batched=True, num_proc=2, remove_columns=loaded.column_names)
    tokenised.map(group, batched=True, num_proc=2)


def check(records: Path, tokenizer: Path, out: Path) -> None:
    """Every document's ids against the library's."""
    fast: Any = AutoTokenizer.from_pretrained(tokenizer)
    after = Encoder(fast).after if not fast("")["input_ids"] else []
    stream = Stream(out / "general/train")
    ids = np.split(stream.tokens(np.array([0]), stream.num_tokens)[0], stream.starts[1:])
    number = 0
    for chunk in documents.texts(parts({"general": records}, {})["general", "train"]):
        for expected in fast(chunk.to_pylist(), return_attention_mask=False)["input_ids"]:
            assert ids[number].tolist() == expected + after, number
            number += 1
    print(f"ids of all {number} documents equal")


def timed(work: Callable[[Path, Path, Path], None], records: Path, tokenizer: Path) -> tuple[float, float]:
    """Wall and processor seconds of one run, children included."""
    with tempfile.TemporaryDirectory() as folder:
        before, began = cpu_seconds(), time.perf_counter()
        work(records, tokenizer, Path(folder))
        return time.perf_counter() - began, cpu_seconds() - before


def cpu_seconds() -> float:
    """Processor time of this process and its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=55)
    parser.add_argument("--kind", default="wordpiece")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "unmask-benchmarks")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    datasets.disable_progress_bars()
    records = corpus(arguments.folder, arguments.megabytes)
    tokenizer = arguments.folder / f"tokenizer-{arguments.kind}"
    if not tokenizer.exists():
        settings = TokenizerSettings(kind=arguments.kind, training_megabytes=10)
        found = parts({"general": records}, {})
        save(train(settings, lambda: documents.training_text(found, settings), LENGTH), tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        ours(records, tokenizer, Path(folder))
        check(records, tokenizer, Path(folder))
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for number in range(arguments.rounds):
        for name, work in (("ours", ours), ("theirs", theirs)):
            times[name].append(timed(work, records, tokenizer))
            wall, cpu = times[name][-1]
            print(f"round {number + 1} {name}: {wall:.1f} s wall, {cpu:.1f} s cpu", flush=True)
    wall, cpu = (
        statistics.median(t[i] for t in times["theirs"]) / statistics.median(t[i] for t in times["ours"])
        for i in (0, 1)
    )
    print(
        f"{arguments.kind}, {arguments.megabytes} MB: {wall:.1f} times as fast per wall second, "
        f"{cpu:.1f} per cpu second"
    )
    shutil.rmtree(tokenizer)


if __name__ == "__main__":
    main()
