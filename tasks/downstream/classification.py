"""One label per record: accuracy and macro-averaged F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from tasks.downstream import probe
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

HEADS = {
    "text": "AutoModelForSequenceClassification",
    "image": "AutoModelForImageClassification",
    "speech": "AutoModelForAudioClassification",
}
METRICS = ("accuracy", "macro_f1")
FROZEN: tuple[str, ...] = ("probe", "knn")
READABLE = True


def labels(records: pa.Table) -> list[str]:
    """The classes, sorted."""
    return sorted(set(truth(records)))


def strata(records: pa.Table) -> list[str]:
    """Each record's class."""
    return truth(records)


def truth(records: pa.Table) -> list[str]:
    """Each record's class."""
    return [str(label) for label in records.column("label").to_pylist()]


def targets(rows: Rows, labels: Sequence[str]) -> dict[str, Tensor]:
    """`labels`: the index of each row's class."""
    number = {label: index for index, label in enumerate(labels)}
    return {"labels": torch.tensor([number[label] for label in truth(rows.records)])}


def learnable(targets: Mapping[str, Tensor]) -> Tensor:
    """Every row."""
    return torch.ones_like(targets["labels"], dtype=torch.bool)


def decode(outputs: Sequence[Mapping[str, Tensor]], rows: Rows, labels: Sequence[str]) -> list[str]:
    """The class with the largest logit."""
    return [labels[int(output["logits"].argmax())] for output in outputs]


def score(rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that occur in truths or predictions."""
    right = truth(rows.records)
    hits = Counter(a for a, b in zip(right, predictions, strict=True) if a == b)
    of_truth, of_predictions = Counter(right), Counter(predictions)
    classes = sorted(of_truth | of_predictions)
    f1 = [2 * hits[name] / (of_truth[name] + of_predictions[name]) for name in classes]
    return {"accuracy": hits.total() / max(len(right), 1), "macro_f1": sum(f1) / max(len(f1), 1)}


def gather(hidden_BLD: Tensor, batch: Mapping[str, Tensor], pooling: str) -> list[Tensor]:
    """One pooled vector per row."""
    return list(probe.pooled(hidden_BLD, batch.get("attention_mask"), pooling).cpu())


def probes(
    train: Rows, labels: Sequence[str], penalties: Sequence[float] = probe.PENALTIES
) -> Iterator[Predict]:
    """Logistic regressions on the pooled vectors, one per penalty."""

    def matrix(rows: Rows) -> probe.Matrix:
        return torch.stack(list(rows.features)).numpy()

    for model in probe.regressions(matrix(train), truth(train.records), penalties):
        yield lambda rows, model=model: [str(label) for label in model.predict(matrix(rows))]  # type: ignore[misc]


def majority(train: Rows, labels: Sequence[str]) -> Predict:
    """The most frequent class of the training rows (the first by name of equals)."""
    counts = Counter(truth(train.records))
    most = min(counts, key=lambda label: (-counts[label], label))
    return lambda rows: [most] * len(rows)
