"""How fast a method trains an encoder here: pictures a second, share of the machine's peak, waiting for data.

    python -m tests.benchmarks.throughput mae --encoder vit-base --size 224 --batch 256 --compile
    python -m tests.benchmarks.throughput simclr --encoder resnet-18-cifar --size 32 --batch 512 --compile
    python -m tests.benchmarks.throughput byol --encoder vit-small --size 224 --batch 256 --compile
    python -m tests.benchmarks.throughput mae --encoder vit-demo --size 32 --batch 64       # two cores

The loop and the way from the memory map to the views are those of every run; the pictures are random
with the spectrum of photographs. The share of the peak (MFU) is counted operations of forward and
backward pass, augmentation and optimizer left out, over those of square bfloat16 matrix products in the
same time, measured here before; `--peak` sets a vendor's figure in its place. Waiting for data is what a
step is slower than one that gets the same batch again and again.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models import encoders, objectives
from models.text.attention import choose
from tasks import params
from tasks.engine import compute
from tasks.engine.distributed import world
from tasks.engine.events import Event
from tasks.engine.loader import Batches
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
from tasks.modalities.image.tensors.decoding import Form
from tasks.modalities.image.tensors.rows import Pictures, StoredPictures
from tests.benchmarks.pictures import IMAGES, photographs, write_map

ROOT = Path(__file__).parents[2]
MATRIX = {"cpu": 2048, "cuda": 8192}


class Repeated:
    """The first batch again and again."""

    def __init__(self, batches: Batches, size: int) -> None:
        self.unit, self.units_per_sample = batches.unit, batches.units_per_sample
        self.num_samples = batches.num_samples
        self._batch = batches.batch(range(size))

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        return self._batch


def seconds_per_step(
    objective: objectives.Objective, batches: Batches, settings: TrainSettings, warmup: int
) -> float:
    """Mean over the steps after the warm-up."""
    times: dict[int, float] = {}

    def note(event: Event) -> None:
        times[event.step] = time.perf_counter()  # metrics were read, so that the step is done

    train(objective, batches, settings, seed=0, callbacks=[note])
    return (times[settings.steps] - times[warmup]) / (settings.steps - warmup)


def peak_flops(device: torch.device, rounds: int = 10) -> float:
    """Operations a second of bfloat16 matrix products."""
    side = MATRIX[device.type]
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)

    def seconds() -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        return time.perf_counter() - began

    seconds()  # the first products are slower
    return rounds * 2 * side**3 / seconds()


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("method")
    parser.add_argument("--encoder", default="vit-demo", help="entry of `encoders` in params.yaml")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=10, help="steps that are not counted")
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", type=float, help="operations a second in units of 1e12")
    arguments = parser.parse_args()
    if arguments.steps <= arguments.warmup:
        parser.error(f"--steps {arguments.steps}: none is left to count after --warmup {arguments.warmup}")
    entry = params.load(ROOT / "params.yaml").encoders[arguments.encoder]
    images = dataclasses.replace(IMAGES, size=arguments.size)
    settings = TrainSettings(
        steps=arguments.steps, batch_size=arguments.batch, compile=arguments.compile, log_every=1,
        health_every=0, schedule="constant",
    )  # fmt: skip
    with world() as ranks:
        device = ranks.device

    def objective() -> objectives.Objective:
        kind = objectives.load(arguments.method)
        config = {**entry.config, "image_size": arguments.size}
        model = encoders.build(
            kind.auto, architecture=entry.architecture, source=entry.source, config=config, seed=0
        )
        made: objectives.Objective = kind(model, kind.Settings(), images=images)
        choose(made, 0, device)
        return made

    with tempfile.TemporaryDirectory() as name:
        side = arguments.size * 8 // 7 if arguments.size > 64 else arguments.size
        write_map(photographs(arguments.pictures, side).numpy(), Path(name))
        batches = StoredPictures(Pictures(Path(name), Form(side, images.channels)), seed=0)
        flops = compute.per_sample(objective(), batches) * arguments.batch
        peak = arguments.peak * 1e12 if arguments.peak else peak_flops(device)
        read, repeated = (
            seconds_per_step(objective(), source, settings, arguments.warmup)
            for source in (batches, Repeated(batches, arguments.batch))
        )
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(
        f"{arguments.method}, {arguments.encoder}, {arguments.size} px, {arguments.batch} a step, {where}: "
        f"{arguments.batch / read:,.0f} images/s, MFU {flops / read / peak:.1%} of {peak / 1e12:,.1f} TFLOPS, "
        f"waiting for data {max(0.0, 1 - repeated / read):.1%}"
    )


if __name__ == "__main__":
    main()
