"""The small projects of generated data whose stages `tests.benchmarks.kills` kills."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.faults import SMALL

NUM_PICTURES = 400
SIDE = 20
ENCODERS = {
    "vit": {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96, "patch_size": 4,
        "hidden_dropout_prob": 0.1,
    },
    "small_resnet": {"hidden_sizes": [8, 16], "depths": [1, 1], "stem_stride": 2},
}  # fmt: skip
STEPS = {
    "simclr": 140, "moco": 140, "byol": 110, "simsiam": 130, "dino": 80, "mae": 150, "ijepa": 150, "rotation": 160,
    "brightness": 220,
}  # fmt: skip
PATCH_BASED = ("dino", "mae", "ijepa")
TEXT = """
seed: 0
corpora:
  none: {modality: text}
  letters: {modality: text, from: letters.jsonl, heldout_fraction: 0.1}
  notes: {modality: text, from: notes.jsonl, heldout_fraction: 0.1}
  topics:
    modality: text
    tasks: {topic: {from: topics.jsonl}}
encoders:
  tiny:
    architecture: bert
    config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, hidden_dropout_prob: 0.1}
recipes:
  tiny:
    modality: text
    general: letters
    domain: notes
    tasks: topics
    encoder: tiny
    validate: {}
    prepare: {tokenizer: {kind: wordpiece, vocabulary_size: 400}, sequence_length: 32, task_length: 32}
    pretrain: {objective: {name: declutr}, steps: 200, batch_size: 16, checkpoint_every: 20, ema_decay: 0.9, evaluate_every: 50}
    adapt: {steps: 150, batch_size: 16, checkpoint_every: 20, replay_fraction: 0.3, pull_to_initial: 0.01}
    finetune: {label_budgets: [16, 32], num_seeds: 2, steps: 20, batch_size: 8}
    report: {}
"""

Stage = tuple[str, str]


@dataclass(frozen=True)
class Project:
    """One project and what is done to it.

    Attributes:
        lay_out: writes `params.yaml` and the data into an empty folder.
        before: stages that run in peace, each with the name of its recipe or corpus.
        killed: stages after them that are killed.
    """

    lay_out: Callable[[Path], None]
    before: tuple[Stage, ...]
    killed: tuple[Stage, ...]


def text() -> Project:
    """All stages of a text recipe, each of which is killed."""
    corpora = tuple(("ingest", name) for name in ("letters", "notes", "topics"))
    names = ("validate", "prepare", "pretrain", "adapt", "finetune", "report")
    recipe = tuple((stage, "tiny") for stage in names)
    return Project(_write_documents, (("listing", ""),), (*corpora, *recipe))


def pictures(objective: str) -> Project:
    """An image recipe with that objective, of which `pretrain` is killed."""

    def lay_out(folder: Path) -> None:
        (folder / "params.yaml").write_text(json.dumps(_picture_params(objective)))
        _write_pictures(folder / "photos")

    before = tuple((stage, "tiny") for stage in ("ingest", "validate", "prepare"))
    return Project(lay_out, (("listing", ""), *before), (("pretrain", "tiny"),))


def _write_documents(folder: Path) -> None:
    """Documents of one topic use its words more often."""
    (folder / "params.yaml").write_text(TEXT)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(3, 9))) for _ in range(600)]
    for name, count, bias in (("letters", 900, 0), ("notes", 600, 300), ("topics", 300, 0)):
        lines = []
        for number in range(count):
            topic = number % 3
            favourite = words[bias + topic * 60 : bias + topic * 60 + 60]
            text = " ".join(rng.choice(favourite if rng.random() < 0.5 else words) for _ in range(60))
            lines.append(f'{{"text": "{text}", "label": "topic{topic}"}}')
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def _write_pictures(folder: Path) -> None:
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (NUM_PICTURES, 6, 6, 3), dtype=np.uint8)
    for number, coarse in enumerate(values):
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:03d}.png")


def _picture_params(objective: str) -> dict[str, object]:
    """Checkpoints, logs, health and held-out losses fall on different steps, so that kills land between them."""
    architecture = "vit" if objective in PATCH_BASED else "small_resnet"
    pretrain = {
        "objective": {"name": objective, **SMALL[objective]}, "steps": STEPS[objective], "batch_size": 32,
        "checkpoint_every": 5, "log_every": 7, "health_every": 11, "evaluate_every": 40, "evaluate_samples": 32,
        "on_collapse": "warn",
    }  # fmt: skip
    recipe = {
        "modality": "image", "general": "tiny", "domain": "none", "tasks": "none", "encoder": "tiny",
        "validate": {}, "prepare": {"stored_size": SIDE, "image_size": 16}, "pretrain": pretrain,
        "adapt": {"steps": 0}, "finetune": {}, "report": {},
    }  # fmt: skip
    return {
        "corpora": {
            "none": {"modality": "text"},
            "tiny": {"modality": "image", "from": "photos", "heldout_fraction": 0.1},
        },
        "encoders": {"tiny": {"architecture": architecture, "config": ENCODERS[architecture]}},
        "recipes": {"tiny": recipe},
    }
