"""How long training stands still for a checkpoint: ours against `torch.save`, in turns.

The state is that of 100 million weights under AdamW: 1.2 GB in float32. Writing goes on behind the
training and is told apart; the folder should lie on the disk that checkpoints will lie on.

    python -m tests.benchmarks.checkpoints
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
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
    blocked, written, plain = [], [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        checkpoints = Checkpoints(Path(folder) / "ours", keep=1)
        checkpoints.reserve(tensors)
        checkpoints.wait()
        for step in range(arguments.rounds):
            began = time.perf_counter()
            checkpoints.save(step, tensors, {})
            blocked.append(time.perf_counter() - began)
            checkpoints.wait()
            written.append(time.perf_counter() - began)
            began = time.perf_counter()
            torch.save(tensors, Path(folder) / "plain.pt")
            plain.append(time.perf_counter() - began)
    ours, behind, theirs = (statistics.median(seconds) for seconds in (blocked, written, plain))
    print(f"ours: training blocked {ours:.3f} s (slowest {max(blocked):.3f}), on disk after {behind:.1f} s")
    print(f"torch.save: training blocked {theirs:.3f} s, {theirs / ours:.0f} times as long")


if __name__ == "__main__":
    main()
