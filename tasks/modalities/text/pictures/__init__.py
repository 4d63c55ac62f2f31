"""Texts are read, not looked at: no pictures of them, and no vectors of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tasks.errors import InputError

if TYPE_CHECKING:
    from tasks.config import Config
    from tasks.pages.sheets import Section

READS = "input_ids"


def files(name: str, config: Config) -> list[Path]:
    """Nothing."""
    return []


def sections(name: str, config: Config, folder: Path) -> list[Section]:
    """Nothing."""
    return []


def preview(name: str, config: Config, folder: Path) -> list[Section]:
    """Nothing."""
    return []


def thumbnails(records: Path, ids: Set[str]) -> Mapping[str, Any]:
    """Nothing."""
    return {}


def embed(model: Path, folder: Path, pooling: str) -> NoReturn:
    """Refuse.

    Raises:
        InputError: always.
    """
    raise InputError(f"{model} reads texts, not pictures; name a model of pictures, or a run of one.")


def picture(file: Path) -> NoReturn:
    """Refuse, as `embed` does."""
    raise InputError(f"{file} is no picture.")
