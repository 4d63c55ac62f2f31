"""Where each stage finds its inputs and puts its outputs, relative to the project's root.

`data/` and `runs/` are DVC outputs. The scratch folder is neither versioned nor needed to
reproduce anything: checkpoints for resume, unsent metrics, MLflow's default database.
"""

from __future__ import annotations

import os
from pathlib import Path

HEADS = "heads.safetensors"  # of an objective, beside the folder of its encoder


def listing(corpus: str) -> Path:
    """Names, sizes and times of a corpus's sources; a changed listing makes `ingest` run again."""
    return Path("data/listings") / f"{corpus}.json"


def corpus(name: str) -> Path:
    """Normalised records: `records-*.parquet`, `tasks/<task>/<split>.parquet`, `manifest.json`."""
    return Path("data/corpora") / name


def listed(corpus: str) -> Path:
    """The listing by which a corpus was read; beside it, so that a touched source retrains nothing."""
    return Path("data/corpora") / f"{corpus}.listing.json"


def validated(recipe: str) -> Path:
    """`validation.json` and `exclusions.parquet`, free of time stamps."""
    return Path("data/validated") / recipe


def prepared(recipe: str) -> Path:
    """`tokenizer/`, `general/`, `domain/`, `tasks/` as Arrow IPC, and `manifest.json`."""
    return Path("data/prepared") / recipe


def run(recipe: str, stage: str) -> Path:
    """What a training stage leaves: `model/`, `heads.safetensors`, `losses.json`."""
    return Path("runs") / recipe / stage


def record(recipe: str, stage: str) -> Path:
    """Time, cost, throughput and MLflow run id of the run that made a stage's outputs."""
    if stage == "ingest":
        return Path("data/corpora") / f"{recipe}.record.json"
    return Path("runs") / recipe / f"{stage}.record.json"


def metrics(recipe: str, stage: str) -> Path:
    """The few numbers of a stage that `dvc metrics` compares."""
    return Path("runs") / recipe / f"{stage}.metrics.json"


def comparison() -> Path:
    """Page of the newest comparison; beside it `.md` with the tables and `.plots/` with the figures."""
    return Path("runs/comparison.html")  # a name that no recipe can have


def scratch() -> Path:
    """Folder for checkpoints, spooled metrics and local databases (`UNMASK_SCRATCH`, else `.unmask`)."""
    return Path(os.environ.get("UNMASK_SCRATCH", ".unmask")).absolute()


def checkpoints(key: str) -> Path:
    """Unfinished work of the stage whose inputs hash to `key`."""
    return scratch() / "checkpoints" / key
