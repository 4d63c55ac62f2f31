"""Whether a newly trained model may take the place of the one in production, and why.

Both are judged on the same test rows by a paired bootstrap (Efron & Tibshirani 1993, "An Introduction
to the Bootstrap", section 8.3; for comparing systems Koehn 2004, https://aclanthology.org/W04-3250):
rows are drawn with replacement, and each draw gives one difference of the two scores. Rows of one
group (a patient, a product) are drawn together, for they are right and wrong together.

What cannot be compared is not compared: a test set that changed, or that training has seen,
blocks the decision instead of deciding it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.downstream import kind as kind_of
from tasks.downstream.rows import Rows

DRAWS = 1000
CONFIDENCE = 0.95
PROVENANCE = {"id", "source", "row", "split", "license"}  # columns that say nothing of the content

Result = Literal["promote", "refuse", "blocked"]


@dataclass(frozen=True)
class Exam:
    """Test rows and what a model answered.

    Attributes:
        kind: of the task.
        records: the test rows, with id and label.
        answers: one per row.
    """

    kind: str
    records: pa.Table
    answers: Sequence[str]

    def score(self, metric: str, rows: NDArray[np.int64] | None = None) -> float:
        """The score on these rows, or on all."""
        if rows is None:
            rows = np.arange(self.records.num_rows)
        taken = Rows(self.records.take(pa.array(rows)), {})
        return kind_of(self.kind).score(taken, [self.answers[row] for row in rows])[metric]


@dataclass(frozen=True)
class Difference:
    """How much better the first of two models is, with its 95 % interval over test rows."""

    first: float
    second: float
    low: float
    high: float
    rows: int

    @property
    def mean(self) -> float:
        """First less second."""
        return self.first - self.second

    def __str__(self) -> str:
        """In points of a hundred."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f} to {100 * self.high:+.1f}] points"


def difference(
    first: Exam,
    second: Exam,
    metric: str,
    *,
    seed: int,
    rows: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
) -> Difference:
    """The paired difference of two models on the same rows.

    Args:
        first: of the challenger.
        second: of the champion, on the same rows in the same order.
        metric: one of the kind's.
        seed: of the draws.
        rows: those that count; all where none are given.
        draws: of the bootstrap.
    """
    counted = np.arange(first.records.num_rows) if rows is None else rows
    units = _units(first.records, counted)
    draw = np.random.default_rng(seed)
    differences = []
    for _ in range(draws):
        drawn = np.concatenate([units[unit] for unit in draw.integers(len(units), size=len(units))])
        differences.append(first.score(metric, drawn) - second.score(metric, drawn))
    edge = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(differences, [edge, 100 - edge])
    return Difference(
        first.score(metric, counted), second.score(metric, counted), float(low), float(high), len(counted)
    )


def _units(records: pa.Table, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """What is drawn as one: the rows of a group, else each row."""
    groups = records.column("group").to_pylist() if "group" in records.column_names else []
    if not any(group is not None for group in groups):
        return [rows[index : index + 1] for index in range(len(rows))]
    found: dict[Any, list[int]] = {}
    for row in rows.tolist():
        group = groups[row]
        found.setdefault(row if group is None else ("group", group), []).append(row)
    return [np.array(members) for members in found.values()]


def fingerprints(records: pa.Table) -> dict[str, str]:
    """A hash of each test row's content and label, by its id."""
    kept = [name for name in sorted(records.column_names) if name not in PROVENANCE]
    ids = records.column("id").to_pylist()
    rows = records.select(kept).to_pylist()
    return {
        str(name): hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=8).hexdigest()
        for name, row in zip(ids, rows, strict=True)
    }


@dataclass(frozen=True)
class Check:
    """One condition of a promotion.

    Attributes:
        name: in a word or two.
        outcome: passed; failed refuses the challenger; blocked says that nothing can be decided.
        sentence: what was seen, and where it did not pass, what to do.
        numbers: behind the sentence.
    """

    name: str
    outcome: Literal["passed", "failed", "blocked"]
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What follows from all checks."""

    checks: tuple[Check, ...]

    @property
    def result(self) -> Result:
        """Blocked where one check is, refused where one failed."""
        outcomes = {check.outcome for check in self.checks}
        return "blocked" if "blocked" in outcomes else "refuse" if "failed" in outcomes else "promote"

    @property
    def sentence(self) -> str:
        """What decided."""
        deciding = {"blocked": "blocked", "refuse": "failed", "promote": "passed"}[self.result]
        return " ".join(check.sentence for check in self.checks if check.outcome == deciding)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"result": self.result, "checks": [asdict(check) for check in self.checks]}

    def markdown(self) -> str:
        """A table for people."""
        lines = [f"**{self.result}**", "", "| check | outcome | what was seen |", "|---|---|---|"]
        lines += [f"| {check.name} | {check.outcome} | {check.sentence} |" for check in self.checks]
        return "\n".join(lines)


def same_rows(challenger: Mapping[str, str], champion: Mapping[str, str]) -> Check:
    """Whether both models sat the same exam."""
    gone = champion.keys() - challenger.keys()
    new = challenger.keys() - champion.keys()
    other = {name for name in champion.keys() & challenger.keys() if champion[name] != challenger[name]}
    if not gone and not new and not other:
        return Check("test set", "passed", f"Both answered the same {len(champion)} test rows.")
    said = ", ".join(
        f"{len(rows)} {what} (such as {min(rows)})"
        for what, rows in (("gone", gone), ("new", new), ("changed", other))
        if rows
    )
    return Check(
        "test set", "blocked",
        f"The test set is not the one that the champion was judged on: {said}. Bring the old rows back, or "
        "take the new model without a comparison: python -m tasks.promote accept <recipe>.",
    )  # fmt: skip


def unseen(leakage: Sequence[Mapping[str, Any]], task: str) -> Check:
    """Whether no test row stands in what was trained on, by the findings of validation."""
    left = [
        entry
        for entry in leakage
        if entry["task"] == task and entry["split"] == "test" and entry["rows"] > entry["removed"]
    ]
    if not left:
        return Check("leakage", "passed", "No test row stands in the training data.")
    where = ", ".join(f"{entry['rows'] - entry['removed']} in {entry['found_in']}" for entry in left)
    return Check(
        "leakage", "blocked",
        f"Test rows of {task} stand in the training data ({where}), so that its scores mean nothing; take "
        "them out of one of the two.",
    )  # fmt: skip


def better(found: Difference, metric: str, least: float) -> Check:
    """Whether the challenger's gain is above the least one with its whole interval."""
    numbers = {key: round(value, 6) for key, value in asdict(found).items()} | {"least_gain": least}
    scores = f"{100 * found.first:.1f} against the champion's {100 * found.second:.1f}"
    said = f"{metric} {scores} on {found.rows} rows: {found}."
    if found.low > least:
        return Check("gain", "passed", said, numbers)
    needed = "0" if not least else f"{100 * least:g}"
    return Check("gain", "failed", f"{said} The whole interval would have to lie above {needed}.", numbers)


def not_worse(name: str, found: Difference, metric: str) -> Check:
    """Whether a slice did not lose, its whole interval below 0."""
    numbers = {key: round(value, 6) for key, value in asdict(found).items()}
    said = f"{name}: {metric} {found} on {found.rows} rows."
    return Check(f"slice {name}", "failed" if found.high < 0 else "passed", said, numbers)


def remembers(gap: Mapping[str, Any]) -> Check:
    """Whether adaptation forgot no more of the general corpus than its budget."""
    if gap.get("forgetting") is None:
        return Check("forgetting", "passed", "Nothing was adapted, and nothing forgotten.")
    numbers = {"forgetting": float(gap["forgetting"]), "budget": float(gap["budget"])}
    change, budget = f"{gap['forgetting']:+.3f}", f"{gap['budget']:g}"
    said = f"The held-out loss on the general corpus changed by {change}; {budget} is allowed."
    if gap["within_budget"]:
        return Check("forgetting", "passed", said, numbers)
    return Check(
        "forgetting", "failed", f"{said} Raise `adapt.replay_fraction`, or lower `adapt.lr`.", numbers
    )


def healthy(decisions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Check:
    """Whether the guard of collapse found nothing in any training stage."""
    for stage, entries in decisions.items():
        if entries:
            last = entries[-1]
            said = (
                f"The guard acted in {stage} at step {last['step']} ({last['decision']}): {last['sentence']}"
            )
            return Check("health", "failed", said)
    return Check("health", "passed", "The guard had nothing to say.")


def valid(checks: Sequence[Mapping[str, Any]]) -> Check:
    """Whether the data met all hard expectations; soft ones that it did not are told."""
    broken = [check for check in checks if not check["passed"]]
    hard = [check for check in broken if check["severity"] == "critical"]
    if hard:
        said = ", ".join(f"{check['slot']}.{check['column']}" for check in hard)
        return Check("validation", "failed", f"The data broke hard expectations: {said}.")
    soft = ", ".join(f"{check['slot']}.{check['column']}" for check in broken)
    said = f"All hard expectations hold; soft ones that do not: {soft}." if soft else "All expectations hold."
    return Check("validation", "passed", said)


def fast_enough(factor: float, most: float) -> Check:
    """Whether the challenger answers not much slower than the champion."""
    said = f"Answers take {factor:.2f} times the champion's time; {most:g} times is allowed."
    return Check("speed", "passed" if factor <= most else "failed", said, {"factor": factor, "most": most})


def digest(fingerprint: Mapping[str, str]) -> str:
    """One hash of a whole test set."""
    return hashlib.sha256(json.dumps(sorted(fingerprint.items())).encode()).hexdigest()
