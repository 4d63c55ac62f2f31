"""A small project of pictures: its settings, its stages from the command line, what they have made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest, prepare, pretrain, validate
from tests.downstream.picture_sets import CONFIGS
from tests.test_bad_inputs import run
from tests.tiny import HEADS

STAGES = {"ingest": ingest, "validate": validate, "prepare": prepare, "pretrain": pretrain}
PARAMS: dict[str, Any] = {
    "corpora": {
        "none": {"modality": "text"},
        "photos": {"modality": "image", "from": "photos", "heldout_fraction": 0.2},
    },
    "encoders": {
        "tiny": {"architecture": "vit", "config": {**CONFIGS["vit"], "image_size": 16}},
        "net": {"architecture": "small_resnet", "config": CONFIGS["small_resnet"]},
        "text": {"architecture": "bert", "config": {"hidden_size": 12}},
        "video": {"architecture": "videomae", "config": {"num_hidden_layers": 1}},
        "given": {"from": "weights"},
    },
    "recipes": {
        "mine": {
            "modality": "image", "general": "photos", "domain": "none", "tasks": "none", "encoder": "tiny",
            "validate": {}, "prepare": {"stored_size": 16, "image_size": 16},
            "pretrain": {"objective": {"name": "simclr", **HEADS["simclr"]}, "steps": 1, "batch_size": 8},
            "adapt": {"steps": 0}, "finetune": {}, "report": {},
        }
    },
}  # fmt: skip

Change = Callable[[dict[str, Any]], None]


def write(change: Change = lambda params: None) -> None:
    params = json.loads(json.dumps(PARAMS))
    change(params)
    Path("params.yaml").write_text(json.dumps(params))


def done(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of a stage."""
    corpus_or_recipe = "photos" if name == "ingest" else "mine"
    return run(STAGES[name].run, STAGES[name].inputs, corpus_or_recipe, name, capsys)


def contents() -> dict[Path, bytes]:
    """All that earlier stages have made."""
    return {
        path: path.read_bytes()
        for top in ("data", "runs")
        for path in Path(top).rglob("*.*")
        if path.is_file()
    }
