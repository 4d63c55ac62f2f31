"""What a tokenizer's trainer is told, and what it found, freed from the order of a seeded hash table.

The trainers of `tokenizers` number the alphabet (WordPiece) and sum floats (Unigram) in the order of
a hash table whose seed is random.
Here the alphabet is counted and sorted before, and Unigram's scores are counted anew afterwards, so
that the same text gives the same tokenizer to the byte.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models

from tasks.errors import InputError
from tasks.modalities.text.tensors.segments import Segments

Texts = Callable[[], Iterator[pa.Array]]  # the training text, as many times as asked for
SCORE_DIGITS = 6  # of log-probabilities; the noise of sums in random order is far below


@dataclass(frozen=True)
class Alphabet:
    """Single characters of the training text after normalising, the most frequent ones.

    Attributes:
        characters: sorted.
        inner: those that stand inside words, not only at their start; sorted.
        rare: those beyond the limit, which become unknown; sorted.
    """

    characters: tuple[str, ...]
    inner: tuple[str, ...]
    rare: tuple[str, ...]


def assemble(model: Any, *, pre_tokenizer: Any, normalizer: Any = None) -> Any:
    """A tokenizer of these parts."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def count_segments(tokenizer: Any, texts: Texts) -> Counter[str]:
    """How often each segment occurs in the text; sorted by nothing, needs no model."""
    segments = Segments(tokenizer)
    counted: Counter[str] = Counter()
    for documents in texts():
        counted.update(segments.count(documents))
    return counted


def count_alphabet(tokenizer: Any, counted: Mapping[str, int], limit: int) -> Alphabet:
    """Count single characters.

    Args:
        tokenizer: normaliser and pre-tokeniser; its model is not used.
        counted: the training text as segments with their counts.
        limit: most characters that are kept, rarer ones are not; ties go by code point.

    Raises:
        InputError: the text holds no character.
    """
    every: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for text, count in counted.items():
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            for position, character in enumerate(piece):
                every[character] += count
                if position:
                    inner[character] += count
    if not every:
        raise no_text()
    ranked = sorted(every, key=lambda character: (-every[character], character))
    kept, rare = ranked[:limit], ranked[limit:]
    return Alphabet(tuple(sorted(kept)), tuple(sorted(set(kept) & set(inner))), tuple(sorted(rare)))


def recounted(
    pieces: Sequence[tuple[str, float]],
    special: Sequence[str],
    counted: Mapping[str, int],
    parts: Any,
    size: int,
) -> list[tuple[str, float]]:
    """Unigram's pieces with scores and an order that do not depend on the order of a hash table.

    The trainer sums floats, and gives dropped characters back, in such an order. Scores are therefore
    estimated anew, from how often each piece stands in the best segmentation of each segment (hard
    EM, two passes): sums of integers. Where the size leaves room for little more than the alphabet,
    the trainer gives more pieces than asked for; single characters come first then.

    Args:
        pieces: what the trainer found.
        special: tokens that keep their numbers, 0 and up.
        counted: the training text as segments with their counts.
        parts: normaliser and pre-tokeniser.
        size: most entries, special tokens included.
    """
    scores = {piece: score for piece, score in pieces if piece not in special}
    segments = list(counted)
    weights = np.array([counted[segment] for segment in segments], np.float64)
    for _ in range(2):
        ranked = _ranked(scores, special)
        encodings = assemble(
            models.Unigram(ranked, unk_id=special.index("<unk>")), **parts
        ).encode_batch_fast(segments)
        lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)
        ids = np.array([number for encoding in encodings for number in encoding.ids], np.int64)
        uses = np.bincount(ids, np.repeat(weights, lengths), len(ranked))
        total = uses[len(special) :].sum()
        scores = {
            piece: math.log(max(count, 0.5) / total) for (piece, _), count in zip(ranked, uses, strict=True)
        }
        for token in special:
            del scores[token]
    by_worth = sorted(scores, key=lambda piece: (len(piece) > 1, -scores[piece], piece))
    return _ranked({piece: scores[piece] for piece in by_worth[: size - len(special)]}, special)


def _ranked(scores: Mapping[str, float], special: Sequence[str]) -> list[tuple[str, float]]:
    rounded = {piece: round(score, SCORE_DIGITS) for piece, score in scores.items()}
    ranked = sorted(rounded, key=lambda piece: (-rounded[piece], piece))
    return [*((token, 0.0) for token in special), *((piece, rounded[piece]) for piece in ranked)]


def no_text() -> InputError:
    """The error for training on nothing."""
    return InputError(
        "prepare.tokenizer.corpora: these slots hold no text to train a tokenizer on; name slots that do, or "
        "reuse a tokenizer (prepare.tokenizer.from)."
    )
