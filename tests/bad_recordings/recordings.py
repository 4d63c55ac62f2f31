"""A small project of recordings: its settings, its stages from the command line, what they have made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest, prepare, pretrain, validate
from tests.modalities.speech.signals import stored, utterance
from tests.test_bad_inputs import run
from tests.tiny import HEADS, TINY

STAGES = {"ingest": ingest, "validate": validate, "prepare": prepare, "pretrain": pretrain}
RATE = 8000
PARAMS: dict[str, Any] = {
    "corpora": {
        "none": {"modality": "text"},
        "spoken": {"modality": "speech", "from": "said", "sample_rate_hz": RATE, "heldout_fraction": 0.2},
    },
    "encoders": {
        "tiny": {"architecture": "wav2vec2", "config": TINY["wav2vec2"]},
        "text": {"architecture": "bert", "config": TINY["bert"]},
        "picture": {"architecture": "vit", "config": TINY["vit"]},
        "given": {"from": "weights"},
    },
    "recipes": {
        "mine": {
            "modality": "speech", "general": "spoken", "domain": "none", "tasks": "none", "encoder": "tiny",
            "validate": {}, "prepare": {"sample_rate_hz": RATE, "segment_seconds": 0.25},
            "pretrain": {"objective": {"name": "wav2vec2", **HEADS["wav2vec2"]}, "steps": 1, "batch_size": 4},
            "adapt": {"steps": 0}, "finetune": {}, "report": {},
        }
    },
}  # fmt: skip
Change = Callable[[dict[str, Any]], None]


def speak() -> None:
    """`said/no/0.wav`, `said/yes/1.wav`, ...; forty of them."""
    for number in range(40):
        path = Path("said") / ("no", "yes")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored(utterance(number, 0.4, RATE), rate=RATE))


def write(change: Change = lambda params: None) -> None:
    params = json.loads(json.dumps(PARAMS))
    change(params)
    Path("params.yaml").write_text(json.dumps(params))


def corpus(**entry: Any) -> Change:
    """The corpus with these settings instead."""
    given = {"modality": "speech", "sample_rate_hz": RATE, "heldout_fraction": 0.2, **entry}
    return lambda params: params["corpora"].update(spoken=given)


def done(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of a stage."""
    corpus_or_recipe = "spoken" if name == "ingest" else "mine"
    return run(STAGES[name].run, STAGES[name].inputs, corpus_or_recipe, name, capsys)


def contents() -> dict[Path, bytes]:
    """All that earlier stages have made."""
    return {
        path: path.read_bytes()
        for top in ("data", "runs")
        for path in Path(top).rglob("*.*")
        if path.is_file()
    }
