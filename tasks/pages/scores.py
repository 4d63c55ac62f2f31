"""Results of the arms as comparable scores: which is better, and whether the intervals can tell.

Two scores are called apart only where their 95 % intervals do not touch; everything else is reported
as "not told apart" (Cumming & Finch 2005, Inference by eye, https://doi.org/10.1037/0003-066X.60.2.170).
The intervals span draws of labels and initialisations on one set of test rows, not other test rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.downstream.direction import ERROR_RATES, LOWER_IS_BETTER, sign

Standing = Literal["above", "below", "overlapping", "unknown"]

TRAINED_ARMS = ("scratch", "pretrained", "adapted")
METHODS = ("finetune", "probe", "knn", "floor")
ARM_NAMES = {
    "majority": "majority class", "tfidf": "tf-idf", "hog": "HOG", "pixel_knn": "pixels, k-NN",
    "log_mel": "log-mel, logistic", "pixel_lr": "pixels, logistic",
}  # fmt: skip
METHOD_NAMES = {"finetune": "fine-tuned", "probe": "linear probe", "knn": "k-NN", "floor": "floor"}
METRIC_NAMES = {
    "macro_f1": "macro-F1", "f1_macro": "macro-F1", "micro_f1": "micro-F1", "f1": "F1",
    "entity_f1": "entity F1", "exact_match": "exact match",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of `summary.json`: an arm's test score at a label budget, over seeds."""

    task: str
    kind: str
    arm: str
    method: str
    budget: str
    metric: str
    mean: float
    low: float
    high: float
    seeds: int
    steps: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Score:
        """The score of one summary row; without bounds, the interval is the mean alone."""
        mean = _number(row.get("mean"))
        low, high = _number(row.get("low")), _number(row.get("high"))
        bounded = math.isfinite(low) and math.isfinite(high)
        return cls(
            task=str(row["task"]),
            kind=str(row.get("kind", "")),
            arm=str(row["arm"]),
            method=str(row["method"]),
            budget=str(row["budget"]),
            metric=str(row["metric"]),
            mean=mean,
            low=low if bounded else mean,
            high=high if bounded else mean,
            seeds=int(row.get("seeds") or 1) if bounded else 1,
            steps=int(row.get("steps") or 0),
        )

    @property
    def is_fixed(self) -> bool:
        """True where nothing is drawn at random, so that one number is the whole truth."""
        return self.method == "floor" and (self.arm == "majority" or self.budget == "all")

    @property
    def has_interval(self) -> bool:
        """True where a spread was measured, or there is none to measure."""
        return self.is_fixed or self.seeds > 1

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return sign(self.metric)

    @property
    def scale(self) -> float:
        """Shares and error rates are shown as per cent, anything else as it is."""
        return 1.0 if self.metric in LOWER_IS_BETTER - ERROR_RATES else 100.0

    @property
    def unit(self) -> str:
        """The unit behind a shown number, with its space."""
        return "" if self.scale == 1 else " %"

    @property
    def shown(self) -> str:
        """The mean with one decimal."""
        return decimal(self.mean * self.scale)

    @property
    def interval(self) -> str:
        """The 95 % interval, empty where there is none."""
        if self.seeds < 2 or self.low == self.high:
            return ""
        return f"{decimal(self.low * self.scale)}–{decimal(self.high * self.scale)}"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def decimal(value: float) -> str:
    """One decimal, with a real minus sign; a dash where there is no number."""
    if not math.isfinite(value):
        return "—"
    return f"{value:.1f}".replace("-", "−")


def arm_name(arm: str) -> str:
    """The arm in words."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def method_name(method: str) -> str:
    """The method in words."""
    return METHOD_NAMES.get(method, method.replace("_", " "))


def metric_name(metric: str) -> str:
    """The metric in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def budget_name(budget: str) -> str:
    """The budget with its unit: `50 labels`, `all labels`."""
    return "all labels" if budget == "all" else f"{int(budget):,} labels" if budget.isdigit() else budget


def standing(a: Score, b: Score) -> Standing:
    """Where `a` stands against `b`, as far as the intervals can tell."""
    if not (a.has_interval and b.has_interval):
        return "unknown"
    if not (math.isfinite(a.mean) and math.isfinite(b.mean)):
        return "unknown"
    if a.low > b.high:
        return "above" if a.sign > 0 else "below"
    if a.high < b.low:
        return "below" if a.sign > 0 else "above"
    return "overlapping"


def by_budget(budgets: Iterable[str]) -> list[str]:
    """Budgets from few labels to all."""
    return sorted(
        set(budgets), key=lambda budget: (not budget.isdigit(), int(budget) if budget.isdigit() else 0)
    )


@dataclass(frozen=True)
class TaskScores:
    """All scores of one task, by arm, method and budget."""

    task: str
    scores: Sequence[Score]

    @property
    def metric(self) -> str:
        """The metric of the task."""
        return self.scores[0].metric

    @property
    def budgets(self) -> list[str]:
        """Label budgets, from few to all."""
        return by_budget(score.budget for score in self.scores)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(arm, method) of every line of the table: fine-tuned, probes, neighbours, then floors."""
        found = {(score.arm, score.method) for score in self.scores}
        return sorted(
            found, key=lambda line: (_place(METHODS, line[1]), _place(TRAINED_ARMS, line[0]), line[0])
        )

    @property
    def method(self) -> str:
        """The method that sentences are about: full fine-tuning, else whatever there is."""
        return next((method for _, method in self.lines if method != "floor"), "floor")

    @property
    def arms(self) -> list[str]:
        """Trained arms of that method, in the order in which they build on each other."""
        return [arm for arm, method in self.lines if method == self.method and method != "floor"]

    def get(self, arm: str, method: str, budget: str) -> Score | None:
        """The score in one cell of the table."""
        wanted = (arm, method, budget)
        return next((s for s in self.scores if (s.arm, s.method, s.budget) == wanted), None)

    def floor(self, budget: str) -> Score | None:
        """The best floor at a budget; a floor without that budget (majority) counts at every one."""
        floors = [s for s in self.scores if s.method == "floor" and math.isfinite(s.mean)]
        here = [s for s in floors if s.budget == budget] or [s for s in floors if s.arm == "majority"]
        return max(here, key=lambda s: s.sign * s.mean, default=None)

    def winner(self, budget: str) -> Score | None:
        """The best score of a column, if the intervals tell it from the second."""
        column = [s for s in self.scores if s.budget == budget and math.isfinite(s.mean)]
        column.sort(key=lambda s: -s.sign * s.mean)
        if len(column) < 2 or standing(column[0], column[1]) != "above":
            return None
        # A wide interval further down can still reach the best mean's.
        return column[0] if all(standing(column[0], s) == "above" for s in column[1:]) else None


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def by_task(summary: Iterable[Mapping[str, Any]]) -> list[TaskScores]:
    """The rows of `summary.json` by task, in the order of the file; a task's first metric counts."""
    first: dict[str, TaskScores] = {}
    for scores in by_metric(summary):
        first.setdefault(scores.task, scores)
    return list(first.values())


def by_metric(summary: Iterable[Mapping[str, Any]]) -> list[TaskScores]:
    """The rows of `summary.json` by task and metric, in the order of the file."""
    grouped: dict[tuple[str, str], list[Score]] = {}
    for row in summary:
        score = Score.of(row)
        grouped.setdefault((score.task, score.metric), []).append(score)
    return [TaskScores(task, scores) for (task, _), scores in grouped.items()]
