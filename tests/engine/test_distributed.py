"""Two processes give the losses and weights of one on the joined batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from models.objectives import CATALOG
from tasks.engine.distributed import World

SCRIPT = """
import json, os, sys
import tests.conftest
from pathlib import Path
from safetensors.torch import save_file
from tests.tiny import Rows, tiny_objective
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
settings = TrainSettings(steps=6, batch_size=8, log_every=1, precision="float32", micro_batches=int(sys.argv[3]))
objective = tiny_objective(sys.argv[1])
history = train(objective, Rows(objective.reads), settings, seed=3)
if os.environ.get("RANK", "0") == "0":
    out = Path(sys.argv[2])
    out.with_suffix(".json").write_text(json.dumps(history.train))
    save_file({k: v.contiguous().clone() for k, v in objective.state_dict().items()}, out)
"""


def train_in(num_processes: int, name: str, out: Path, micro_batches: int = 1) -> list[dict[str, float]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(num_processes):
        env = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
        if num_processes > 1:
            env |= {
                "RANK": str(rank), "WORLD_SIZE": str(num_processes), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        arguments = [sys.executable, "-c", SCRIPT, name, str(out), str(micro_batches)]
        processes.append(subprocess.Popen(arguments, env=env))
    assert [process.wait(120) for process in processes] == [0] * num_processes
    history: list[dict[str, float]] = json.loads(out.with_suffix(".json").read_text())
    return history


@pytest.mark.parametrize(
    ("name", "micro_batches"), [*((name, 1) for name in sorted(CATALOG)), ("masked_lm", 2)]
)
def test_two_processes_equal_one_on_the_joined_batch(name: str, micro_batches: int, tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    expected = train_in(1, name, one)
    measured = train_in(2, name, two, micro_batches)
    assert [e["loss"] for e in measured] == pytest.approx([e["loss"] for e in expected], rel=1e-4)
    assert [e["gradient_norm"] for e in measured] == pytest.approx(
        [e["gradient_norm"] for e in expected], rel=1e-3
    )
    for key, value in load_file(one).items():
        assert (load_file(two)[key] - value).abs().max() < 1e-3, key


def test_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 9 is not a multiple of the 2 processes"):
        World(0, 2).share(range(9))
