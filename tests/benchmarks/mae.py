"""MAE: our loop against Hugging Face's Trainer as `run_mae.py` sets it up.

Same encoder, a decoder of 2 layers of 128 with 4 heads, three quarters of the patches hidden. As
shipped the Trainer decodes files and crops, flips and normalises with Pillow in its own process; at
its best it finds decoded pictures and two workers make the views. `run_mae.py` takes its transforms
from torchvision, whose compiled part does not load beside torch's build for CPUs; they are written
here with Pillow.

    python -m tests.benchmarks.mae
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from models.image.augment.presets import MAE as PAPER
from models.objectives.mae import MAE
from tests.benchmarks import huggingface
from tests.benchmarks.baton import Loop, race
from tests.benchmarks.pictures import BATCH, SIDE, VIT, Views, ours, stored

SETTINGS = MAE.Settings(decoder_width=128, decoder_layers=2, decoder_heads=4)
CONFIG = ViTMAEConfig(
    **VIT, mask_ratio=SETTINGS.mask_ratio, norm_pix_loss=SETTINGS.normalise_patches,
    decoder_hidden_size=SETTINGS.decoder_width, decoder_num_hidden_layers=SETTINGS.decoder_layers,
    decoder_num_attention_heads=SETTINGS.decoder_heads, decoder_intermediate_size=4 * SETTINGS.decoder_width,
)  # fmt: skip


def files(folder: Path) -> Dataset[dict[str, Tensor]]:
    """The files with the views made when they are read."""
    views = Views(folder, [(PAPER, SIDE)], is_decoded=False)
    pictures = datasets.Dataset.from_dict({"image": [str(path) for path in views.paths]})
    pictures = pictures.cast_column("image", datasets.Image())
    pictures.set_transform(lambda rows: {"pixel_values": [views.of(picture)[0] for picture in rows["image"]]})
    return cast("Dataset[dict[str, Tensor]]", pictures)


class Decoded(Dataset[dict[str, Tensor]]):
    """The decoded pictures with the views made when they are read."""

    def __init__(self, folder: Path) -> None:
        self.views = Views(folder, [(PAPER, SIDE)], is_decoded=True)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.views[index][0]}


def collate(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """`run_mae.py`'s collator."""
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}


def model() -> Any:
    torch.manual_seed(0)
    return ViTMAEForPreTraining(CONFIG)


def run_mae(folder: Path, *, at_best: bool) -> Loop:
    """The Trainer with the switches that `run_mae.py`'s page gives."""
    return huggingface.trainer(
        model, Decoded(folder) if at_best else files(folder), lambda: collate, batch_size=BATCH, bf16=at_best,
        compile=at_best, remove_unused_columns=False, dataloader_num_workers=2 if at_best else 0,
        label_names=["pixel_values"],
    )  # fmt: skip


def contestants(folder: Path) -> dict[str, Loop]:
    return {
        "ours": ours(MAE, SETTINGS, folder),
        "ours, compiled": ours(MAE, SETTINGS, folder, compile=True),
        "Trainer as shipped (float32)": run_mae(folder, at_best=False),
        "Trainer, bfloat16 + compile + decoded": run_mae(folder, at_best=True),
    }


if __name__ == "__main__":
    with stored() as folder:
        race(contestants(folder), units_per_step=BATCH, unit="images")
