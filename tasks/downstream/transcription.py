"""The words of a recording by connectionist temporal classification: word and character error rates.

Connectionist Temporal Classification, Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf;
characters and a sign between words as in wav2vec 2.0, Baevski et al. 2020, section 4.3,
https://arxiv.org/abs/2006.11477. Errors are counted by jiwer over all rows together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from models.speech.spelling import BETWEEN_WORDS, BLANK, spelt
from models.text.token_masks import IGNORED
from tasks.downstream import probe
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

HEADS = {"speech": "AutoModelForCTC"}
METRICS = ("word_error_rate", "character_error_rate")
FROZEN: tuple[str, ...] = ()
READABLE = True


def labels(records: pa.Table) -> list[str]:
    """The blank, the sign between words, and the characters of the transcripts, sorted."""
    found = set().union(*truth(records)) - {" "}
    return [BLANK, BETWEEN_WORDS, *sorted(found)]


def strata(records: pa.Table) -> list[str]:
    """The transcript where several recordings have it; all others together."""
    counts = Counter(truth(records))
    return [text if counts[text] > 1 else "" for text in truth(records)]


def truth(records: pa.Table) -> list[str]:
    """Each record's transcript."""
    return [str(text) for text in records.column("transcript").to_pylist()]


def targets(rows: Rows, labels: Sequence[str]) -> dict[str, Tensor]:
    """`labels` [B, L]: the characters' indices; what is ignored stands behind, and for unknown characters."""
    number = {label: index for index, label in enumerate(labels)}
    texts = [text.replace(" ", BETWEEN_WORDS) for text in truth(rows.records)]
    labels_BL = torch.full((len(texts), max(map(len, texts), default=0)), IGNORED)
    for row, text in enumerate(texts):
        known = [number[character] for character in text if character in number]
        labels_BL[row, : len(known)] = torch.tensor(known, dtype=torch.long)
    return {"labels": labels_BL}


def learnable(targets: Mapping[str, Tensor]) -> Tensor:
    """Rows with a transcript."""
    return (targets["labels"] != IGNORED).any(1)


def decode(outputs: Sequence[Mapping[str, Tensor]], rows: Rows, labels: Sequence[str]) -> list[str]:
    """The likeliest label of each frame, repetitions joined, without blanks."""
    return [spelt(output["logits"].argmax(-1).tolist(), labels) for output in outputs]


def score(rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
    """Substituted, left out and added words per word, and the same of characters; can exceed 1."""
    import jiwer

    right = truth(rows.records)
    if not right:
        return dict.fromkeys(METRICS, 0.0)
    said = list(predictions)
    return {
        "word_error_rate": float(jiwer.wer(right, said)),
        "character_error_rate": float(jiwer.cer(right, said)),
    }


def gather(hidden_BLD: Tensor, batch: Mapping[str, Tensor], pooling: str) -> list[Tensor]:
    """One pooled vector per row."""
    return list(probe.pooled(hidden_BLD, batch.get("attention_mask"), pooling).cpu())


def probes(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """None: what stands where in a recording is not to be read off one vector."""
    yield from ()


def majority(train: Rows, labels: Sequence[str]) -> Predict:
    """The most frequent transcript of the training rows (the first by name of equals)."""
    counts = Counter(truth(train.records))
    most = min(counts, key=lambda text: (-counts[text], text))
    return lambda rows: [most] * len(rows)
