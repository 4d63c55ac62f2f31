"""Text as packed token rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(Settings):
    """A tokenizer to train, or to take as it is."""

    kind: Literal["wordpiece", "byte_bpe", "unigram", "character"] = setting(
        "wordpiece", "Algorithm: WordPiece (BERT), byte-level BPE (GPT-2), Unigram, or single characters."
    )
    source: str | None = setting(
        None, "Tokenizer to reuse: a name on the hub or a folder; overrides `kind`.", alias="from"
    )
    vocabulary_size: int = setting(8192, "Entries, special tokens included.", ge=32)
    lowercase: bool = setting(True, "WordPiece: fold case and accents as uncased BERT does.")
    corpora: tuple[Literal["general", "domain"], ...] = setting(
        ("general", "domain"), "Slots whose training text the tokenizer is trained on."
    )


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """Tokenizer and packing of text."""

    tokenizer: TokenizerSettings = setting(TokenizerSettings(), "A tokenizer to train or to reuse.")
    sequence_length: int = setting(128, "Tokens per packed row.", ge=8)
    cross_document_attention: bool = setting(
        False, "Let attention cross the border between documents packed into one row."
    )
    task_length: int = setting(128, "Most tokens of a labelled example; the rest is cut off.", ge=8)
