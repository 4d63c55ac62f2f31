"""Two processes give the losses and weights of one on the joined batch."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.objectives import CATALOG
from tasks.engine.distributed import World

PER_BATCH = {"ijepa"}  # the pictures of a rank's batch share the sizes of their blocks, as in its paper
CASES = [
    *((name, 1, "") for name in sorted(CATALOG.keys() - PER_BATCH)),
    ("masked_lm", 2, ""),
    *((name, 1, "resnet") for name in ("simclr", "moco", "byol")),  # batch statistics in the encoder
]
SCRIPT = """
import json, os, sys
import tests.conftest
from pathlib import Path
from safetensors.torch import save_file
from tests.tiny import samples, tiny_objective
from tasks.engine.events import Probe
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
out, size = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1"))
probe = Probe(3, lambda objective, step: {"rank": float(os.environ.get("RANK", "0"))})
for number, (name, micro_batches, architecture) in enumerate(json.loads(sys.argv[2])):
    os.environ["MASTER_PORT"] = sys.argv[3 + number]  # train opens and closes the group each time
    parts = micro_batches if size > 1 else 1
    settings = TrainSettings(steps=6, batch_size=8, log_every=1, precision="float32", micro_batches=parts)
    objective = tiny_objective(name, architecture=architecture or None)
    rows = samples(objective)
    def held_out(objective, step):
        return {"loss": float(objective(rows.batch(range(40, 48))).loss)}
    history = train(objective, rows, settings, seed=3, probe=probe, evaluate=held_out)
    assert history.probes == [{"step": step, "rank": 0.0} for step in (0, 3, 6)]
    case = f"{name}-{micro_batches}-{architecture}"
    if os.environ.get("RANK", "0") == "0":
        (out / f"{case}.json").write_text(json.dumps([history.train, history.evaluations]))
        state = {k: v.contiguous().clone() for k, v in objective.state_dict().items()}
        save_file(state, out / f"{case}.safetensors")
"""


def free_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


def train_in(num_processes: int, out: Path) -> Path:
    ports = free_ports(len(CASES))
    out.mkdir()
    processes = []
    for rank in range(num_processes):
        env = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
        if num_processes > 1:
            env |= {
                "RANK": str(rank), "WORLD_SIZE": str(num_processes), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
            }  # fmt: skip
        arguments = [sys.executable, "-c", SCRIPT, str(out), json.dumps(CASES), *ports]
        processes.append(subprocess.Popen(arguments, env=env))
    assert [process.wait(600) for process in processes] == [0] * num_processes
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process and what two processes made of the same cases."""
    folder = tmp_path_factory.mktemp("distributed")
    return train_in(1, folder / "one"), train_in(2, folder / "two")


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_equal_one_on_the_joined_batch(
    case: tuple[str, int, str], folders: tuple[Path, Path]
) -> None:
    file = "-".join(map(str, case))
    histories, states = zip(
        *(
            (
                json.loads((folder / f"{file}.json").read_text()),
                load_file(folder / f"{file}.safetensors"),
            )
            for folder in folders
        ),
        strict=True,
    )
    for metric, tolerance in (("loss", 1e-4), ("gradient_norm", 1e-3)):
        expected, measured = ([entry[metric] for entry in steps] for steps, _ in histories)
        assert measured == pytest.approx(expected, rel=tolerance)
    held_out, also_held_out = (evaluations[-1]["loss"] for _, evaluations in histories)
    assert also_held_out == pytest.approx(held_out, rel=1e-3)
    for key, value in states[0].items():
        assert (states[1][key] - value).abs().max() < 1e-3, key


LIFE = """
import os, signal, sys
import tests.conftest
from pathlib import Path
from safetensors.torch import save_file
from tests.tiny import samples, tiny_objective
from tasks.engine.interrupt import Interrupted
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
objective, rank = tiny_objective("moco"), os.environ["RANK"]
original = objective.after_step
def after_step(progress):
    original(progress)
    if sys.argv[2] == "stop" and progress == 0.375 and rank == "1":
        os.kill(os.getpid(), signal.SIGTERM)
objective.after_step = after_step
try:
    settings = TrainSettings(steps=8, batch_size=8, checkpoint_every=100)
    train(objective, samples(objective), settings, seed=3, checkpoints=Path(sys.argv[1]))
except Interrupted as error:
    print(error)
    sys.exit(7)
state = {key: value.contiguous().clone() for key, value in objective.state_dict().items()}
save_file(state, f"{sys.argv[1]}-{rank}.safetensors")
"""


def two(folder: Path, how: str) -> tuple[list[int], list[str]]:
    """Exit codes and words of two processes that train together, one of which may be asked to stop."""
    (port,) = free_ports(1)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LIFE, str(folder), how],
            env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], said


def test_one_process_asked_to_stop_stops_both_and_resumed_they_end_as_if_left_in_peace(
    tmp_path: Path,
) -> None:
    assert two(tmp_path / "whole", "")[0] == [0, 0]
    codes, said = two(tmp_path / "stopped", "stop")
    assert codes == [7, 7]
    assert said[0] == said[1]
    assert "at step 4;" in said[0]
    assert [path.name for path in (tmp_path / "stopped").glob("*.json")] == ["step-000000004.json"]
    assert two(tmp_path / "stopped", "")[0] == [0, 0]
    first, *others = (
        load_file(f"{tmp_path / name}-{rank}.safetensors") for name in ("whole", "stopped") for rank in (0, 1)
    )
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 9 is not a multiple of the 2 processes"):
        World(0, 2).share(range(9))
