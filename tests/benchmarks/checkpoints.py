"""How long training stands still for a checkpoint: ours against `torch.save`, in turns.

The state is that of 100 million weights under AdamW: 1.2 GB in float32. Ours is copied and
written behind the next step: what counts is how long the training waits, and how much longer the
step takes that shares the processor with the writing.

    python -m tests.benchmarks.checkpoints
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tasks.engine.checkpoint import Checkpoints


def main() -> None:
    """Run the rounds and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    arguments = parser.parse_args()
    rows = int(arguments.gigabytes * 1e9 / 4 / 1024 / 100)
    tensors = {f"weight.{index}": torch.randn(rows, 1024) for index in range(100)}
    quiet, ours, waits, theirs = [], [], [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        checkpoints = Checkpoints(Path(folder) / "ours", keep=1)
        checkpoints.reserve(tensors)
        checkpoints.wait()
        for step in range(arguments.rounds):
            quiet.append(seconds(compute))
            began = time.perf_counter()
            waited = seconds(lambda: checkpoints.save(step, tensors, {}, settled=tensors))  # noqa: B023
            compute()
            waits.append(waited + seconds(checkpoints.settle))
            ours.append(time.perf_counter() - began)
            checkpoints.wait()
            theirs.append(seconds(lambda: torch.save(tensors, Path(folder) / "plain.pt")))
    alone, beside, wait, plain = (statistics.median(times) for times in (quiet, ours, waits, theirs))
    print(
        f"ours: training waits {wait:.3f} s; the step beside it takes {beside - wait - alone:.2f} s more than {alone:.2f} s"
    )
    print(f"torch.save: training waits {plain:.2f} s")


def compute() -> None:
    """What stands for forward and backward pass: products on all cores, for a second or two."""
    matrix = torch.ones(1024, 1024)
    for _ in range(100):
        matrix @ matrix


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
