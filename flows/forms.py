"""What the forms in Prefect's pages offer; the server refuses anything else before a run exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

STAGES = ("ingest", "validate", "prepare", "pretrain", "adapt", "finetune", "report")


def names(section: str, file: Path = Path("params.yaml")) -> tuple[str, ...]:
    """Entries of a section of params.yaml, read without checking the rest; none where there is no file."""
    from ruamel.yaml import YAML

    if not file.exists():
        return ()
    return tuple((YAML(typ="safe", pure=True).load(file) or {}).get(section) or ())


if TYPE_CHECKING:
    Recipe = str
    Encoder = str
    Stage = str
else:
    Recipe = Literal[names("recipes")] if names("recipes") else str
    Encoder = Literal[names("encoders")] if names("encoders") else str
    Stage = Literal[STAGES[1:]]
