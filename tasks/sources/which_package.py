"""A task with labels for free: which of eight scientific packages does a docstring belong to?

Names, aliases, doctests and house style are removed, so that what is told apart is what the packages
are about. Split by file; near duplicates are left out over all splits and packages; balanced.
Some style survives any such removal, and how clean the labels are is not known: a small, honest
exercise in few labels, not a benchmark.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.corpora.duplicates import hash64
from tasks.errors import InputError
from tasks.sources import docstrings

PACKAGES = ("networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch", "transformers")
ROWS = {"train": 300, "validation": 100, "test": 200}  # per package: intervals of some 2 points on test
MIN_CHARACTERS = 200  # shorter ones can't be told apart by anybody
MAX_CHARACTERS = 4000  # beyond what any window of the small recipes sees
MAX_PER_FILE = 30  # a file of a hundred alike methods must not be a class
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15

_ALIASES = (
    r"networkx|nx|numpy|np|ndarrays?|pandas|pd|dataframes?|scipy|sp|scikits?|sklearn|scikit-learn|skl|sympy|"
    r"pytorch|torch|aten|transformers?|hugging\s?face|hf|tf|tensorflow|nn|plt|matplotlib"
)
_NAMES = re.compile(rf"(?<![A-Za-z0-9])({_ALIASES})(?![A-Za-z0-9])\.?", re.IGNORECASE)
_CUES = re.compile(r"\bn_(samples|features|targets|outputs|classes|components)\b|\bEIN\b|\bself\b")
_HEADINGS = re.compile(
    r"^\s*((other |keyword )?(parameters|arguments)|args|kwargs|returns?|yields?|raises|attributes|methods|"
    r"examples?|usage|notes?|see also|references?|warnings?|warns|explanation|shape|inputs?|outputs?|"
    r"properties|tips?|background|complexity|algorithm)\s*:{0,2}\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_RULES = re.compile(r"^\s*[-=~^*#]{3,}\s*$", re.MULTILINE)
_DIRECTIVES = re.compile(r"^\s*(\.\. .*|<.*>|```.*|@.*)$", re.MULTILINE)
_MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*~|\[\]{}<>_]+")
_STYLE = re.compile(
    r"\b(optional|defaults? (to|is|=)|default:?|array[- ]like|of shape|shape)\b", re.IGNORECASE
)


@functools.cache  # the domain corpus leaves out what resembles test rows, then the task is read
def rows() -> tuple[dict[str, Any], ...]:
    """Text, label, split, group (file) and licence of each row.

    Raises:
        InputError: fewer than two of the packages are installed.
    """
    chosen = [row for package in _installed() for row in _of_package(package)]
    kept = _distinct(chosen)
    counts = Counter((row["split"], row["label"]) for row in kept)
    labels = sorted({row["label"] for row in kept})
    limits = {split: min(counts[split, label] for label in labels) for split in ROWS}
    taken: Counter[tuple[str, str]] = Counter()
    balanced = []
    for row in kept:
        key = row["split"], row["label"]
        limit = min(limits[row["split"]], ROWS[row["split"]])
        if taken[key] < limit:
            taken[key] += 1
            balanced.append(row)
    return tuple(balanced)


def split_of(name: str) -> str:
    """The split of a module by its stable name; salted apart from the hash that holds documents out."""
    at = hash64(b"package-of-docstring\0" + name.encode()) / 2**64
    if at < TEST_SHARE:
        return "test"
    return "validation" if at < TEST_SHARE + VALIDATION_SHARE else "train"


def masked(docstring: str) -> str:
    """A docstring without names, aliases, doctests, section headings and mark-up, on one line."""
    text = _without_doctests(docstring)
    for pattern in (_DIRECTIVES, _RULES, _HEADINGS, _NAMES, _CUES, _STYLE):
        text = pattern.sub(" ", text)
    return " ".join(_MARKUP.sub(" ", text).split())


def _without_doctests(text: str) -> str:
    """Drop each prompt with what follows it up to a blank line: the input and its output."""
    kept, is_inside = [], False
    for line in text.split("\n"):
        stripped = line.strip()
        is_inside = bool(stripped) and (is_inside or stripped.startswith((">>>", "In [")))
        if not is_inside:
            kept.append(line)
    return "\n".join(kept)


def _installed() -> dict[str, Path]:
    found = {name: path for name, path in docstrings.installed().items() if name in PACKAGES}
    if len(found) < 2:
        raise InputError(
            f"embedded://package-of-docstring: needs two of {', '.join(PACKAGES)}; installed: "
            f"{', '.join(found) or 'none'}. Run `pip install scikit-learn`."
        )
    return found


def _of_package(package: str) -> Iterator[dict[str, Any]]:
    """Rows of one package, a third more than needed for what turns out to be near duplicates."""
    wanted = {split: count * 4 // 3 for split, count in ROWS.items()}
    for name, path in docstrings.sources({package: _installed()[package]}):
        split = split_of(name)
        if not wanted[split]:
            if not any(wanted.values()):
                return
            continue
        texts = (masked(docstring) for docstring in docstrings.docstrings(path))
        long_enough = [text[:MAX_CHARACTERS] for text in texts if len(text) >= MIN_CHARACTERS]
        for text in long_enough[: min(MAX_PER_FILE, wanted[split])]:
            wanted[split] -= 1
            yield {
                "text": text,
                "label": package,
                "split": split,
                "group": name,
                "license": docstrings.license_of(package),
            }


def _distinct(chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that resemble no other: test rows first, so that it is training rows that go."""
    seen = Fingerprints()
    order = {"test": 0, "validation": 1, "train": 2}
    return [row for row in sorted(chosen, key=lambda row: order[row["split"]]) if seen.is_new(row["text"])]


class Fingerprints:
    """Masked texts by hash and near-duplicate signature."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def is_new(self, text: str) -> bool:
        """Whether no text so far resembles this one, which is then remembered."""
        marks = self.marks(text)
        is_new = self._known.isdisjoint(marks)
        self._known |= marks
        return is_new

    def resembles(self, text: str) -> bool:
        """Whether a text so far resembles this one."""
        return not self._known.isdisjoint(self.marks(text))

    @staticmethod
    def marks(text: str) -> set[int]:
        """Hash of the text and of each band of its signature."""
        from tasks.modalities.text.records import near

        signature = near.signature(text, threshold=0.7, shingle_words=3, permutations=64)
        return {hash64(text.lower().encode()), *signature.tolist()}
