"""Faults that make each method collapse, and whether the guard sees them; healthy runs, and whether it is quiet.

    python -m tests.benchmarks.faults                      # all faults, three healthy seeds a method
    python -m tests.benchmarks.faults --only byol moco --steps 300

Every run goes on to its end with `on_collapse: warn`, so that one run tells both: the step at which
`stop` would have ended it, and the k-NN accuracy that going on would have given. Data are letters in
the fonts that matplotlib ships; k-NN is asked about turned, sheared and thickened letters of fonts that
training has not seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from models import encoders, objectives
from models.image.augment.presets import GLYPHS
from models.image.augment.settings import Augment
from models.image.images import Images
from models.image.pictures import features, patches
from models.objectives import Objective
from models.objectives.byol import BYOL
from models.objectives.dino import DINO
from models.objectives.ijepa import IJEPA
from models.objectives.moco import MoCo
from models.objectives.simsiam import SimSiam
from tasks.engine.events import Event
from tasks.engine.guard import NonFiniteLoss
from tasks.engine.loop import train
from tasks.engine.order import row_of, sample_key
from tasks.engine.settings import TrainSettings

SIDE = 32
BATCH = 128
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
STYLES = ("", "-Bold", "-Oblique", "-Italic", "Bol", "Italic", "BolIta", "-BoldOblique", "-BoldItalic")
TURNED = dataclasses.replace(GLYPHS, crop_scale=(1.0, 1.0), invert=0.0)
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "small_resnet": (
        "small_resnet", {"hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "stem_stride": 2, "pooled_side": 4},
    ),
    "vit": (
        "vit",
        {
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
            "patch_size": 8,
        },
    ),
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_width": 256, "projection_width": 64, "temperature": 0.2},
    "moco": {"hidden_width": 256, "projection_width": 64, "queue": 512, "momentum": 0.99},
    "byol": {"hidden_width": 256, "projection_width": 64, "momentum": 0.9},
    "simsiam": {"hidden_width": 256, "projection_width": 256, "predictor_width": 64},
    "dino": {
        "hidden_width": 256, "bottleneck_width": 64, "prototypes": 256, "local_crops": 2, "momentum": 0.95,
        "head_batch_norm": True, "teacher_temperature": 0.04,
    },
    "mae": {
        "decoder_width": 64, "decoder_layers": 1, "decoder_heads": 4, "mask_ratio": 0.5, "normalise_patches": False,
    },
    "ijepa": {"predictor_width": 64, "predictor_layers": 2, "predictor_heads": 4, "momentum": 0.98},
    "rotation": {},
    "brightness": {},
}  # fmt: skip


class SimSiamWithGradient(SimSiam):
    def stop_gradient(self, projected_BE: Tensor) -> Tensor:
        return projected_BE


class BYOLWithoutPredictor(BYOL):
    def predict(self, projected_BE: Tensor) -> Tensor:
        return projected_BE


class DINOWithoutCentring(DINO):
    def centred(self, outputs_VBK: Tensor) -> Tensor:
        return outputs_VBK


class DINOWithoutSharpening(DINO):
    def sharpened(self, outputs_VBK: Tensor) -> Tensor:
        return outputs_VBK.softmax(2)


class IJEPAWithGradient(IJEPA):
    def target(self, pixel_values: Tensor) -> Tensor:
        features_BPD = patches(self.encoder, pixel_values).float()
        return nn.functional.layer_norm(features_BPD, features_BPD.shape[-1:])


def with_momentum(kind: Any, momentum: float) -> Any:
    """The method with a teacher that keeps this share of itself from the first step to the last."""
    return type(f"{kind.__name__}At{momentum:g}", (kind,), {"momentum": lambda self, progress: momentum})


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: what is printed.
        method: name in the catalogue.
        kind: the method with the fault built in; None is the method as it is.
        settings: of the method.
        lr_factor: of the learning rate.
        constant: whether all training pictures are the same.
    """

    name: str
    method: str
    kind: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    lr_factor: float = 1.0
    constant: bool = False


FAULTS = [
    Fault("no stop-gradient", "simsiam", SimSiamWithGradient),
    Fault("no predictor", "byol", BYOLWithoutPredictor),
    *(
        Fault(f"EMA rate {rate:g}", name, with_momentum(kind, rate))
        for name, kind in (("byol", BYOL), ("dino", DINO), ("moco", MoCo))
        for rate in (0.0, 1.0)
    ),
    Fault("no centring", "dino", DINOWithoutCentring),
    Fault("no sharpening", "dino", DINOWithoutSharpening),
    *(
        Fault(f"temperature {t:g}", n, None, {"temperature": t})
        for n in ("simclr", "moco")
        for t in (0.001, 10)
    ),
    Fault("queue of one batch", "moco", None, {"queue": BATCH}),
    *(Fault("lr x 30", name, lr_factor=30) for name in ("simclr", "byol", "dino", "mae", "ijepa")),
    *(Fault("constant pictures", name, constant=True) for name in SMALL),
    Fault("target with gradient", "ijepa", IJEPAWithGradient),
]


class Letters:
    """Letters and digits in some fonts, 32 × 32, by position."""

    unit = "images"
    units_per_sample = 1.0

    def __init__(self, fonts: Sequence[Path], seed: int, *, constant: bool = False) -> None:
        drawn = [(draw(letter, font), label) for font in fonts for label, letter in enumerate(LETTERS)]
        self.pixels_NCHW = torch.from_numpy(np.stack([picture for picture, _ in drawn])).unsqueeze(1)
        self.labels_N = torch.tensor([label for _, label in drawn])
        if constant:
            self.pixels_NCHW = torch.full_like(self.pixels_NCHW, 128)
        self.num_samples, self.seed = len(drawn), seed

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        position = torch.tensor(list(positions), dtype=torch.int64)
        rows = row_of(position, self.num_samples, self.seed)
        return {"pixels": self.pixels_NCHW[rows], "key": sample_key(self.seed, position)}


LETTERS = string.ascii_uppercase


def draw(letter: str, font: Path) -> Any:
    """White on black, centred."""
    canvas = Image.new("L", (SIDE, SIDE))
    drawing = ImageDraw.Draw(canvas)
    drawing.text((SIDE / 2, SIDE / 2), letter, 255, ImageFont.truetype(font, 24), anchor="mm")
    return np.asarray(canvas)


def fonts() -> tuple[list[Path], list[Path]]:
    """Fonts to learn from, and fonts to be asked about."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = [folder / f"{font}{style}.ttf" for font in FONTS for style in STYLES]
    found = [path for path in names if path.exists()]
    return [path for path in found if "Serif" not in path.stem], [p for p in found if "Serif" in p.stem]


def objective(fault: Fault, seed: int) -> Objective:
    """The method with its fault around a small ResNet, or a vision transformer where it needs patches."""
    kind = fault.kind or objectives.load(fault.method)
    chosen = {**SMALL[fault.method], **fault.settings}
    for entry in dataclasses.fields(kind.Settings):
        if isinstance(entry.default, Augment):
            is_local = entry.default.crop_scale[1] < 1
            chosen[entry.name] = dataclasses.replace(
                TURNED, crop_scale=(0.2, 0.5) if is_local else (0.5, 1.0)
            )
    architecture, config = ENCODERS["vit" if fault.method in ("mae", "ijepa") else "small_resnet"]
    config = {**config, "image_size": SIDE, "num_channels": 1}
    model = encoders.build("AutoModel", architecture=architecture, source=None, config=config, seed=seed)
    made: Objective = kind(model, kind.Settings(**chosen), images=Images(SIDE, 1, (0.2,), (0.35,)))
    return made


@torch.no_grad()
def knn(trained: Objective, known: Letters, asked: Letters) -> float:
    """Share of letters in unseen fonts whose ten nearest known letters name them (weighted, cosine, T 0.07)."""
    trained.eval()
    images: Any = trained.images
    turned = {"pixels": asked.pixels_NCHW, "key": sample_key(0, torch.arange(len(asked.pixels_NCHW)))}
    views = images.plain(known.pixels_NCHW), images.view(turned, TURNED, stream=1)
    bank_NE, asked_ME = (
        nn.functional.normalize(features(trained.encoder, view_BCHW), dim=1) for view_BCHW in views
    )
    similarity, index = (asked_ME @ bank_NE.T).topk(10, dim=1)
    votes = torch.zeros(len(asked_ME), len(LETTERS))
    votes.scatter_add_(1, known.labels_N[index], (similarity / 0.07).exp())
    return 100 * (votes.argmax(1) == asked.labels_N).float().mean().item()


@dataclass(frozen=True)
class Course:
    """What became of a run: step of the failure or None, its sentence, warnings, k-NN at the end, last measures."""

    failed: int | None
    sentence: str
    num_warnings: int
    knn: float
    measures: dict[str, float]


def course(fault: Fault, seed: int, steps: int, health_every: int) -> Course:
    """Run to the end whatever the guard says."""
    told: list[Event] = []

    def hear(event: Event) -> None:
        if event.verdict is not None:
            told.append(event)

    learned, asked = fonts()
    settings = TrainSettings(
        steps=steps, batch_size=BATCH, lr=2e-3 * fault.lr_factor, weight_decay=0.05, log_every=steps,
        health_every=health_every, on_collapse="warn", checkpoint_every=steps + 1,
    )  # fmt: skip
    trained, lost = objective(fault, seed), None
    try:
        train(trained, Letters(learned, seed, constant=fault.constant), settings, seed=seed, callbacks=[hear])
    except NonFiniteLoss as error:
        lost = str(error)
    failures = [event for event in told if event.decision]
    step = failures[0].step if failures else told[-1].step if lost and told else None
    said = [event.verdict.sentence for event in failures if event.verdict]
    return Course(
        step,
        (said or [lost or ""])[0],
        sum(event.verdict is not None and event.verdict.state != "healthy" for event in told),
        knn(trained, Letters(learned, seed), Letters(asked, seed)),
        {name.removeprefix("health."): value for name, value in (told[-1].metrics if told else {}).items()},
    )


def main() -> None:
    """Print one line per fault, then one per healthy run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--health-every", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(SMALL), default=list(SMALL), metavar="METHOD")
    parser.add_argument("--measures", action="store_true", help="print the last measures of each run")
    arguments = parser.parse_args()
    logging.disable()
    methods = arguments.only

    def run(fault: Fault, seed: int, line: Callable[[Course], str]) -> Course:
        done = course(fault, seed, arguments.steps, arguments.health_every)
        print(f"{fault.method:11}{fault.name:22}{line(done)}", flush=True)
        if arguments.measures:
            print(" " * 11 + ", ".join(f"{name} {value:.3g}" for name, value in done.measures.items()))
        return done

    def as_fault(done: Course) -> str:
        step = "-" if done.failed is None else str(done.failed)
        saved = 0.0 if done.failed is None else 1 - done.failed / arguments.steps
        return f"{step:>8}{done.knn:>8.1f}{saved:>8.0%}  {done.sentence}"

    resnet, vit = (
        knn(objective(Fault("", name), 0), *map(Letters, fonts(), (0, 0))) for name in ("simclr", "mae")
    )
    print(f"k-NN of untrained encoders: ResNet {resnet:.1f}, vision transformer (mae, ijepa) {vit:.1f}\n")
    print(f"{'method':11}{'fault':22}{'seen at':>8}{'k-NN':>8}{'saved':>8}  what the guard says")
    faults = [fault for fault in FAULTS if fault.method in methods]
    seen = sum(run(fault, 0, as_fault).failed is not None for fault in faults)
    print(f"{seen} of {len(faults)} faults seen\n")
    alarms = [
        run(Fault(f"healthy, seed {seed}", name), seed, as_fault)
        for name in methods
        for seed in range(arguments.seeds)
    ]
    false = sum(done.failed is not None for done in alarms)
    print(
        f"{false} of {len(alarms)} healthy runs failed; {sum(done.num_warnings for done in alarms)} warnings"
    )


if __name__ == "__main__":
    main()
