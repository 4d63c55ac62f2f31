"""The rules that every number of the stage obeys, whatever the task, the modality and the method.

- Label draws are nested, keep the shares of the classes, and depend on seed and ids alone: every arm
  gets the same labels, and a reordered file gives the same draw.
- What is chosen (epoch, penalty) is chosen on validation rows.
- Test rows are read by one function, once per run, after everything is chosen.
- A probe leaves the encoder's weights as they were; their hash says so.
- Several seeds give a mean with its 95 % interval (Student's t).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from tasks.downstream import Kind
from tasks.downstream.direction import sign
from tasks.downstream.rows import Rows
from tasks.errors import InputError

Predict = Callable[[Rows], list[str]]
Budget = int | Literal["all"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Outcome:
    """One run: what was chosen scored on validation, and its single look at the test rows.

    Attributes:
        arm: which encoder, or which floor.
        method: `floor`, `probe` or `finetune`.
        budget: labels of the point, as a string (`50`, `all`).
        seed: of the label draw and the initialisation.
        validation: score by metric.
        test: score by metric.
        predictions: one per test row.
        steps: optimizer steps that the run was given; 0 where nothing was trained step by step.
    """

    arm: str
    method: str
    budget: str
    seed: int
    validation: dict[str, float]
    test: dict[str, float]
    predictions: list[str]
    steps: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def budgets(wanted: Sequence[Budget], num_rows: int, task: str) -> tuple[list[Budget], list[str]]:
    """The points of the curve that a training set of this size can give, and what to tell the user.

    Raises:
        InputError: a budget is named twice or is too small to hold two classes.
    """
    doubled = [str(budget) for budget, count in Counter(wanted).items() if count > 1]
    if doubled:
        raise InputError(f"finetune.label_budgets: {', '.join(doubled)} stands there twice; name each once.")
    small = [budget for budget in wanted if budget != "all" and budget < 2]
    if small:
        raise InputError(
            f"finetune.label_budgets: {small[0]} is too small to learn from; give at least 2, or all."
        )
    points: list[Budget] = []
    told = []
    for budget in wanted:
        point: Budget = "all" if budget != "all" and budget >= num_rows else budget
        if point != budget:
            told.append(
                f"{task}: a budget of {budget} is all of its {num_rows} training rows; shown as 'all'."
            )
        if point not in points:
            points.append(point)
    return points, told


def draw(ids: Sequence[str], strata: Sequence[str], budget: Budget, seed: int) -> list[int]:
    """Positions of the rows whose labels a run may see.

    Each stratum gets one row (the frequent ones first) and then seats by Webster's method (highest
    averages, divisors 1, 3, 5, ...), which never takes back a seat: a larger budget with the same
    seed contains the smaller one. Within a stratum, rows come in the order of a keyed hash of id.
    """
    if budget == "all":
        return list(range(len(ids)))
    queues: dict[str, list[int]] = {}
    for row in sorted(range(len(ids)), key=lambda row: _keyed(ids[row], seed)):
        queues.setdefault(strata[row], []).append(row)
    sizes = {stratum: len(queue) for stratum, queue in queues.items()}
    seats: Counter[str] = Counter()
    for _ in range(min(budget, len(ids))):
        open_strata = [stratum for stratum in sizes if seats[stratum] < sizes[stratum]]
        seats[min(open_strata, key=lambda s: (-_claim(sizes[s], seats[s]), -sizes[s], s))] += 1
    return sorted(row for stratum, queue in queues.items() for row in queue[: seats[stratum]])


def _claim(size: int, seats: int) -> float:
    return math.inf if seats == 0 else size / (2 * seats + 1)


def _keyed(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, salt=seed.to_bytes(16, "little")).digest()


def sample(ids: Sequence[str], count: int) -> list[int]:
    """At most `count` rows, the same ones whatever the order of the file; in the file's order."""
    return sorted(sorted(range(len(ids)), key=lambda row: _keyed(ids[row], 0))[:count])


def choose(kind: Kind, candidates: Iterable[Predict], validation: Rows) -> tuple[Predict, dict[str, float]]:
    """The candidate that scores best on validation (the first of equals), and its scores."""
    best: tuple[Predict, dict[str, float]] | None = None
    metric = kind.METRICS[0]
    for candidate in candidates:
        scores = kind.score(validation, candidate(validation))
        if best is None or sign(metric) * (scores[metric] - best[1][metric]) > 0:
            best = candidate, scores
    if best is None:
        raise ValueError("nothing to choose from")
    return best


def read_test(kind: Kind, chosen: Predict, test: Rows) -> tuple[list[str], dict[str, float]]:
    """Predictions and scores on the test rows. Nothing may be chosen after this."""
    predictions = chosen(test)
    return predictions, kind.score(test, predictions)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval by Student's t; all three equal for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, mean, mean
    from scipy.stats import t

    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


def summarise(task: str, kind: str, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One line per arm, method, budget and metric: the mean over seeds on the test, with its interval."""
    points: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        points.setdefault((outcome.arm, outcome.method, outcome.budget), []).append(outcome)
    lines = []
    for (arm, method, budget), runs in points.items():
        for metric in runs[0].test:
            mean, low, high = interval([run.test[metric] for run in runs])
            lines.append(
                {
                    "task": task, "kind": kind, "arm": arm, "method": method, "budget": budget,
                    "metric": metric, "mean": mean, "low": low, "high": high, "seeds": len(runs),
                    "steps": runs[0].steps,
                }
            )  # fmt: skip
    return lines
