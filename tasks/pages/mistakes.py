"""Where the best model errs: confusions of classes, entities by kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.pages.evidence import Row
from tasks.pages.scores import TaskScores, arm_name, budget_name, method_name
from tasks.pages.wording import OTHER

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CLASSES = 30


@dataclass(frozen=True)
class Chosen:
    """The model whose errors are shown: best on validation at the largest label budget."""

    arm: str
    method: str
    budget: str
    seed: int

    @property
    def sentence(self) -> str:
        """What it is, in words."""
        return (
            f"Model: {arm_name(self.arm)}, {method_name(self.method)} on {budget_name(self.budget)}, "
            f"seed {self.seed}, the best on validation."
        )


def choose(task: TaskScores, results: pa.Table | None) -> Chosen | None:
    """The arm with the best mean validation score at the largest budget, and its best seed."""
    if results is None or not task.arms:
        return None
    budgets = [b for b in task.budgets if any(task.get(arm, task.method, b) for arm in task.arms)]
    rows = [
        row
        for row in _where(results, task=task.task, method=task.method, budget=budgets[-1], metric=task.metric)
        if row["validation"] is not None and math.isfinite(row["validation"])
    ]
    if not rows:
        return None
    sign = task.scores[0].sign
    by_arm: dict[str, list[float]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(sign * row["validation"])
    arm = max(sorted(by_arm), key=lambda name: sum(by_arm[name]) / len(by_arm[name]))
    best = max(
        (row for row in rows if row["arm"] == arm), key=lambda row: (sign * row["validation"], -row["seed"])
    )
    return Chosen(arm, task.method, budgets[-1], int(best["seed"]))


def predictions_of(table: pa.Table | None, task: str, model: Chosen) -> list[tuple[str, str]]:
    """(label, prediction) of every test row, by that model."""
    if table is None:
        return []
    rows = _where(table, task=task, arm=model.arm, method=model.method, budget=model.budget, seed=model.seed)
    return [(str(row["label"]), str(row["prediction"])) for row in rows]


def _where(table: pa.Table, **values: Any) -> list[Row]:
    import pyarrow.compute as pc

    for column, value in values.items():
        table = table.filter(pc.equal(table[column], value))
    rows: list[Row] = table.to_pylist()
    return rows


@dataclass(frozen=True)
class Confusion:
    """Counts of true against predicted labels, and the errors that happen most."""

    labels: list[str]
    counts: list[list[int]]
    worst: list[tuple[str, str, int, int]]
    correct: int
    total: int


def confusion(pairs: Sequence[tuple[str, str]]) -> Confusion:
    """The confusion matrix; beyond 30 labels the rarest are joined as `other`."""
    frequency = Counter(label for label, _ in pairs)
    names = sorted({*frequency, *(prediction for _, prediction in pairs)})
    if len(names) > MOST_CLASSES:
        common = {label for label, _ in frequency.most_common(MOST_CLASSES - 1)}
        names = [*sorted(common), OTHER]
    place = {name: index for index, name in enumerate(names)}
    counts = [[0] * len(names) for _ in names]
    for label, prediction in pairs:
        counts[place.get(label, len(names) - 1)][place.get(prediction, len(names) - 1)] += 1
    errors = Counter(pair for pair in pairs if pair[0] != pair[1])
    worst = [
        (*pair, count, frequency[pair[0]])
        for pair, count in sorted(errors.items(), key=lambda e: (-e[1], e[0]))
    ]
    return Confusion(names, counts, worst[:5], len(pairs) - errors.total(), len(pairs))


@dataclass(frozen=True)
class EntityScore:
    """How one kind of entity is found, whole spans only."""

    entity: str
    precision: float
    recall: float
    f1: float
    support: int


def entity_scores(pairs: Sequence[tuple[str, str]]) -> list[EntityScore]:
    """Precision, recall and F1 per entity, by whole spans in IOB2, commonest first (seqeval's rules)."""
    from seqeval.metrics.sequence_labeling import get_entities

    true, predicted, hit = Counter[str](), Counter[str](), Counter[str]()
    for label, prediction in pairs:
        gold, found = ({*get_entities(tags.split())} for tags in (label, prediction))
        true.update(kind for kind, _, _ in gold)
        predicted.update(kind for kind, _, _ in found)
        hit.update(kind for kind, _, _ in gold & found)
    scores = []
    for kind in sorted({*true, *predicted}, key=lambda name: (-true[name], name)):
        precision = hit[kind] / predicted[kind] if predicted[kind] else 0.0
        recall = hit[kind] / true[kind] if true[kind] else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        scores.append(EntityScore(kind, precision, recall, f1, true[kind]))
    return scores
