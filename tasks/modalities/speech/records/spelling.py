"""Transcripts in one spelling, so that equal sounds are asked for in equal characters.

Compatibility forms become plain ones (NFKC of Unicode Standard Annex 15, https://unicode.org/reports/tr15),
then follow case, punctuation (Unicode's categories P) and white space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Literal, Protocol

from tasks.errors import InputError
from tasks.modalities import Rejected

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))
_OUTSIDE_WORDS = re.compile(r"(?<![^\W_])'|'(?![^\W_])")
MOST_NAMED = 10  # characters in a message


class Rules(Protocol):
    """What a corpus says of the spelling of its transcripts."""

    @property
    def case(self) -> Literal["lower", "upper", "keep"]:
        """Which case all letters get."""

    @property
    def punctuation(self) -> Literal["drop", "keep"]:
        """What becomes of punctuation."""

    @property
    def alphabet(self) -> str | None:
        """The characters that may occur; None is whatever does."""

    @property
    def outside(self) -> Literal["error", "drop"]:
        """What becomes of transcripts with other characters."""

    @property
    def words(self) -> Mapping[str, str]:
        """What is said, by a transcript that is written otherwise."""


def spelt(text: str, rules: Rules, where: str) -> str:
    """The transcript as the corpus spells it.

    Args:
        text: as it was read.
        rules: of the corpus.
        where: file and row, for messages.

    Raises:
        InputError: it holds characters outside of the alphabet, and must not.
        Rejected: nothing is left of it, or it holds characters outside of the alphabet.
    """
    plain = _plain(rules.words.get(text.strip(), text), rules)
    if not plain:
        raise Rejected("empty_transcript")
    if rules.alphabet is None:
        return plain
    others = sorted(set(plain) - set(unicodedata.normalize("NFKC", rules.alphabet)) - {" "})
    if others and rules.outside == "error":
        raise InputError(
            f"{where}: the transcript holds {', '.join(map(repr, others[:MOST_NAMED]))}, outside of "
            "`alphabet`. Add that to it, look at `case`, mend the transcript, or set `outside: drop` to "
            "leave such recordings out."
        )
    if others:
        raise Rejected("outside_the_alphabet")
    return plain


def _plain(text: str, rules: Rules) -> str:
    text = unicodedata.normalize("NFKC", text)
    if rules.case != "keep":
        text = text.lower() if rules.case == "lower" else text.upper()
        text = unicodedata.normalize("NFKC", text)  # some letters come apart when their case changes
    if rules.punctuation == "drop":
        text = _OUTSIDE_WORDS.sub(" ", text.translate(APOSTROPHES))
        text = "".join(" " if _is_punctuation(character) else character for character in text)
    return " ".join(text.split())


def _is_punctuation(character: str) -> bool:
    return character != "'" and unicodedata.category(character).startswith("P")
