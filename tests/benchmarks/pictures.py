"""What the comparisons on pictures share: the pictures, our loop, and a plain loop beside it.

1,024 pictures of 32 pixels stand on disk twice: as bytes in a memory map, as our pipeline leaves
them, and as PNG files. Every contestant trains the same vision transformer (6 layers of 192, 3 heads,
patches of 4 pixels, no dropout) on batches of 64 with the same heads and the same augmentation. The
plain loop augments picture by picture with Pillow in two workers of a DataLoader; as shipped it reads
the files and computes in float32, at its best it finds the pictures decoded in memory and runs
in bfloat16 with its networks compiled. Both use AdamW.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import PreTrainedModel

from models import encoders
from models.image.augment.settings import Augment
from models.image.images import Images
from models.objectives import Objective
from models.text.attention import choose
from tasks.engine.events import Event
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
from tasks.modalities.image.tensors.decoding import Form
from tasks.modalities.image.tensors.rows import Pictures, StoredPictures
from tests.benchmarks.baton import ENDLESS, Loop, Turn
from tests.benchmarks.pillow_views import TorchRandom, pillow_view, random_box

SIDE, NUM_PICTURES, BATCH = 32, 1024, 64
WIDTH = 192
GRID = SIDE // 4  # patches along a side
VIT: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 4 * WIDTH,
    "image_size": SIDE, "patch_size": 4, "num_channels": 3,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
IMAGES = Images(size=SIDE, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

Crop = tuple[Augment, int]


def photographs(num: int, side: int) -> Tensor:
    """Random pictures with the spectrum of photographs, uint8 [num, 3, side, side].

    Amplitude falls with the frequency (Field 1987), and the channels mostly agree.
    """
    noise_N4SS = np.random.default_rng(0).standard_normal((num, 4, side, side), dtype=np.float32)
    frequency_SS = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    spectrum_N4SS = np.fft.fft2(noise_N4SS) / np.maximum(frequency_SS, 1 / side)
    waves_N4SS = np.fft.ifft2(spectrum_N4SS).real
    values_N3SS = waves_N4SS[:, :1] + 0.5 * waves_N4SS[:, 1:]
    darkest, lightest = (edge((1, 2, 3), keepdims=True) for edge in (values_N3SS.min, values_N3SS.max))
    return torch.from_numpy((255 * (values_N3SS - darkest) / (lightest - darkest)).astype(np.uint8))


def write_map(pixels_NCSS: NDArray[np.uint8], folder: Path) -> None:
    """Decoded pictures as our pipeline leaves them."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(pixels_NCSS.ravel()), pixels_NCSS[0].size)
    batch = pa.record_batch([values], names=["pixels"])
    with (
        pa.OSFile(str(folder / "pictures-00000.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


@contextlib.contextmanager
def stored() -> Iterator[Path]:
    """A folder with the pictures as a memory map and as files."""
    pixels_NCSS = photographs(NUM_PICTURES, SIDE).numpy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_map(pixels_NCSS, folder)
        for index, pixels_CSS in enumerate(pixels_NCSS):
            Image.fromarray(np.moveaxis(pixels_CSS, 0, 2)).save(folder / f"{index:05d}.png")
        yield folder


def vit() -> PreTrainedModel:
    """The encoder with random weights, the same for every contestant."""
    return encoders.build("AutoModel", architecture="vit", source=None, config=VIT, seed=0)


def ours(kind: type[Objective], settings: Any, folder: Path, *, compile: bool = False) -> Loop:
    """Our loop on that objective."""

    def loop(turn: Turn) -> None:
        objective = kind(vit(), settings, images=IMAGES)
        choose(objective, 0, torch.device("cpu"))
        told = TrainSettings(
            steps=ENDLESS, batch_size=BATCH, log_every=1, compile=compile, schedule="constant"
        )

        def count(event: Event) -> None:
            if event.verdict is None:
                turn.step()

        pictures = StoredPictures(Pictures(folder, Form(SIDE, 3)), seed=0)
        train(objective, pictures, told, seed=0, callbacks=[count])

    return loop


class Views(Dataset[list[Tensor]]):
    """Each picture as normalised views, one for each crop, made by Pillow."""

    def __init__(self, folder: Path, crops: Sequence[Crop], *, is_decoded: bool) -> None:
        self.crops = crops
        self.paths = sorted(folder.glob("*.png"))
        self.decoded = [np.asarray(Image.open(path)) for path in self.paths] if is_decoded else None
        self.mean_C11, self.std_C11 = (torch.tensor(each).view(3, 1, 1) for each in (IMAGES.mean, IMAGES.std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.of(self.picture(index))

    def of(self, picture: Image.Image) -> list[Tensor]:
        """The views of a picture, each [3, size, size]."""
        rng = TorchRandom()
        return [
            pillow_view(picture, random_box(picture, augment, rng), augment, size, rng)
            .sub_(self.mean_C11)
            .div_(self.std_C11)
            for augment, size in self.crops
        ]

    def picture(self, index: int) -> Image.Image:
        if self.decoded is not None:
            return Image.fromarray(self.decoded[index])
        with Image.open(self.paths[index]) as file:
            return file.convert("RGB")


class Method(nn.Module):
    """What the plain loop trains: networks, and the loss that they give on the views of a batch."""

    has_varying_shapes = False

    def after_step(self) -> None:
        """What changes by time rather than by gradient."""


def plain(method: Callable[[], Method], folder: Path, crops: Sequence[Crop], *, at_best: bool) -> Loop:
    """A loop as recipes and tutorials write it."""

    def loop(turn: Turn) -> None:
        torch.manual_seed(0)
        module = method()
        for network in module.children() if at_best else ():
            network.compile(dynamic=None if module.has_varying_shapes else False)
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-3)
        views = Views(folder, crops, is_decoded=at_best)
        endless = RandomSampler(views, replacement=True, num_samples=ENDLESS * BATCH)
        for views_BCHW in DataLoader(views, BATCH, sampler=endless, num_workers=2):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=at_best):
                loss = module(views_BCHW)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            module.after_step()
            turn.step()

    return loop


def features(encoder: PreTrainedModel, pixels_BCHW: Tensor) -> Tensor:
    """The mean of the patch tokens, [B, D]."""
    return encoder(pixel_values=pixels_BCHW).last_hidden_state[:, 1:].mean(1)


def follow(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """Move the teacher's weights towards the student's, one after the other."""
    with torch.no_grad():
        for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
            own.mul_(momentum).add_(other, alpha=1 - momentum)
