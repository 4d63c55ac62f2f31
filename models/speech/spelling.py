"""Labels of a transcriber's frames to words.

Connectionist Temporal Classification, Graves et al. 2006, section 3.1,
https://www.cs.toronto.edu/~graves/icml_2006.pdf.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

BLANK, BETWEEN_WORDS = "<pad>", "|"  # as released wav2vec 2.0 tokenizers spell them


def spelt(path: Sequence[int], labels: Sequence[str]) -> str:
    """What a path of labels through the frames says: repetitions joined, no blanks, words one space apart."""
    characters = [labels[number] for number, _ in groupby(path)]
    return " ".join("".join(c for c in characters if c != BLANK).replace(BETWEEN_WORDS, " ").split())
