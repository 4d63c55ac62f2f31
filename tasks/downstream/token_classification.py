"""One tag per word in IOB2: entity F1 as conlleval counts it (seqeval's default mode).

Inputs hold `word_ids`, [B, L]: the index of the word that a position belongs to, -1 elsewhere. A
word's tag is learnt and read at its first position. Words beyond the cut have the tag `O`.

Tjong Kim Sang & De Meulder 2003, https://aclanthology.org/W03-0419; seqeval 1.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from models.text.token_masks import IGNORED
from tasks.downstream import probe
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

HEADS = {"text": "AutoModelForTokenClassification"}
METRICS = ("entity_f1", "entity_precision", "entity_recall")
FROZEN: tuple[str, ...] = ("probe",)
READABLE = True
OUTSIDE = "O"


def labels(records: pa.Table) -> list[str]:
    """The tags, `O` first."""
    tags = {tag for row in records.column("tags").to_pylist() for tag in row}
    return [OUTSIDE, *sorted(tags - {OUTSIDE})]


def strata(records: pa.Table) -> list[str]:
    """Whether a record holds an entity."""
    return [str(any(tag != OUTSIDE for tag in tags)) for tags in records.column("tags").to_pylist()]


def truth(records: pa.Table) -> list[str]:
    """Each record's tags, joined by spaces."""
    return [" ".join(tags) for tags in records.column("tags").to_pylist()]


def first_positions(word_ids_BL: Tensor) -> Tensor:
    """Boolean [B, L]: where a word begins."""
    before_BL = torch.full_like(word_ids_BL, -1)
    before_BL[:, 1:] = word_ids_BL[:, :-1]
    return (word_ids_BL >= 0) & (word_ids_BL != before_BL)


def targets(rows: Rows, labels: Sequence[str]) -> dict[str, Tensor]:
    """`labels` [B, L]: the tag's index where a word begins, ignored elsewhere."""
    number = {label: index for index, label in enumerate(labels)}
    word_ids_BL = rows.inputs["word_ids"]
    labels_BL = torch.full(word_ids_BL.shape, IGNORED, dtype=torch.long)
    begins_BL = first_positions(word_ids_BL)
    for row, tags in enumerate(rows.column("tags")):
        tag_numbers = torch.tensor([number[tag] for tag in tags], dtype=torch.long)
        begins_L = begins_BL[row]
        labels_BL[row, begins_L] = tag_numbers[word_ids_BL[row, begins_L].long()]
    return {"labels": labels_BL}


def learnable(targets: Mapping[str, Tensor]) -> Tensor:
    """Rows with at least one word before the cut."""
    return (targets["labels"] != IGNORED).any(1)


def words(rows: Rows) -> list[list[int]]:
    """Per row the indices of the words that its inputs hold; a tokenizer may drop a word, or cut it off."""
    word_ids_BL = rows.inputs["word_ids"]
    begins_BL = first_positions(word_ids_BL)
    return [ids_L[begins_L].tolist() for ids_L, begins_L in zip(word_ids_BL, begins_BL, strict=True)]


def decode(outputs: Sequence[Mapping[str, Tensor]], rows: Rows, labels: Sequence[str]) -> list[str]:
    """The tag with the largest logit at each word's first position."""
    begins_BL = first_positions(rows.inputs["word_ids"])
    best = [
        output["logits"].argmax(-1)[begins_L[: len(output["logits"])]].tolist()
        for output, begins_L in zip(outputs, begins_BL, strict=True)
    ]
    return _spread([[labels[number] for number in row] for row in best], rows)


def _spread(tags: Sequence[Sequence[str]], rows: Rows) -> list[str]:
    """Tags of the words that inputs hold to one tag for every word, joined by spaces."""
    joined = []
    for given, held, right in zip(tags, words(rows), rows.column("tags"), strict=True):
        found = dict(zip(held, given, strict=True))
        joined.append(" ".join(found.get(word, OUTSIDE) for word in range(len(right))))
    return joined


def score(rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 over whole entities, pooled over all rows."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    right = rows.column("tags")
    given = [prediction.split() for prediction in predictions]
    measures = {"entity_f1": f1_score, "entity_precision": precision_score, "entity_recall": recall_score}
    return {name: float(measure(right, given, zero_division=0)) for name, measure in measures.items()}


def gather(hidden_BLD: Tensor, batch: Mapping[str, Tensor], pooling: str) -> list[Tensor]:
    """Per row the vectors at which its words begin, [words, D]."""
    begins_BL = first_positions(batch["word_ids"])
    return [row_LD[begins_L].float().cpu() for row_LD, begins_L in zip(hidden_BLD, begins_BL, strict=True)]


def probes(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Logistic regressions on the words' vectors."""
    known = [
        tags[word] for tags, held in zip(train.column("tags"), words(train), strict=True) for word in held
    ]
    for model in probe.regressions(torch.cat(list(train.features)).numpy(), known):
        yield lambda rows, model=model: _tagged(rows, model)  # type: ignore[misc]


def _tagged(rows: Rows, model: probe.Classifier) -> list[str]:
    tags = iter(model.predict(torch.cat(list(rows.features)).numpy()))
    return _spread([[str(next(tags)) for _ in vectors] for vectors in rows.features], rows)


def majority(train: Rows, labels: Sequence[str]) -> Predict:
    """The most frequent tag of the training words, for every word."""
    counts = Counter(tag for tags in train.column("tags") for tag in tags)
    most = min(counts, key=lambda tag: (-counts[tag], tag))
    return lambda rows: [" ".join([most] * len(tags)) for tags in rows.column("tags")]
