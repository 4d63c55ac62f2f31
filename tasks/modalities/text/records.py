"""Text as records."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings import setting
from tasks.config import Corpus


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Corpus):
    """A corpus of text."""

    min_characters: int = setting(1, "Shorter records are left out, and counted.", ge=1)
    max_characters: int = setting(1_000_000, "Longer records are cut or left out by `over_long`.", ge=1)
