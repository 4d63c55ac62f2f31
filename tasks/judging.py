"""Whether a newly trained model may take the place of the one in production, and why.

Both are judged on the same test rows by a paired bootstrap (Efron & Tibshirani 1993, "An Introduction
to the Bootstrap", section 8.3; for comparing systems Koehn 2004, https://aclanthology.org/W04-3250):
rows are drawn with replacement, and each draw gives one difference of the two scores. Rows of one
group (a patient, a product) are drawn together, for they are right and wrong together.

The more challengers sit the same exam against the same champion, and the more slices are looked at,
the wider the intervals (Bonferroni), for one of many looks deceives sooner than one.

What cannot be compared is not compared: a test set that changed, or of which training has seen too
much, blocks the decision instead of deciding it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.downstream import kind as kind_of
from tasks.downstream.direction import sign

DRAWS = 2000
ERROR = 0.05  # of all intervals together
MOST_OTHER = 0.1  # share of answers that rounding may change between exam and service
FEWEST_UNITS = 10  # rows or groups that draws are made of
ANSWERS = ("label", "tags", "answer_texts")  # columns of right answers

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
        from tasks.downstream.rows import Rows  # loads transformers, which takes seconds

        if rows is None:
            rows = np.arange(self.records.num_rows)
        taken = Rows(self.records.take(pa.array(rows)), {})
        return kind_of(self.kind).score(taken, [self.answers[row] for row in rows])[metric]


@dataclass(frozen=True)
class Difference:
    """How much better the first of two models is, with an interval over test rows.

    Attributes:
        first: score of the first.
        second: score of the second.
        low: end of the interval of their difference.
        high: its other end.
        rows: that both answered.
        units: rows or groups of rows that draws are made of.
        looks: intervals that share the error of 5 %.
        sign: +1 where more of the score is better, -1 where less is.
    """

    first: float
    second: float
    low: float
    high: float
    rows: int
    units: int
    looks: int = 1
    sign: int = 1

    @property
    def mean(self) -> float:
        """By how much the first is better."""
        return self.sign * (self.first - self.second)

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
    looks: int = 1,
    by_row: bool = False,
) -> Difference:
    """The paired difference of two models on the same rows.

    Args:
        first: of the challenger.
        second: of the champion, on the same rows in the same order.
        metric: one of the kind's.
        seed: of the draws.
        rows: those that count; all where none are given.
        draws: of the bootstrap.
        looks: intervals that share the error of 5 %.
        by_row: draw single rows though they have groups, as within one group.
    """
    counted = np.arange(first.records.num_rows) if rows is None else rows
    units = _units(first.records, counted, by_row=by_row)
    draw = np.random.default_rng(seed)
    differences = []
    for _ in range(draws):
        drawn = np.concatenate([units[unit] for unit in draw.integers(len(units), size=len(units))])
        differences.append(sign(metric) * (first.score(metric, drawn) - second.score(metric, drawn)))
    edge = 50 * ERROR / looks
    low, high = (float(value) for value in np.percentile(differences, [edge, 100 - edge]))
    scores = first.score(metric, counted), second.score(metric, counted)
    return Difference(*scores, low, high, len(counted), len(units), looks, sign(metric))


def _units(records: pa.Table, rows: NDArray[np.int64], *, by_row: bool) -> list[NDArray[np.int64]]:
    """What is drawn as one: the rows of a group, else each row."""
    groups = records.column("group").to_pylist() if "group" in records.column_names else []
    if by_row or not any(group is not None for group in groups):
        return [rows[index : index + 1] for index in range(len(rows))]
    found: dict[Any, list[int]] = {}
    for row in rows.tolist():
        group = groups[row]
        found.setdefault(row if group is None else ("group", group), []).append(row)
    return [np.array(members) for members in found.values()]


def fingerprints(records: pa.Table, content: Callable[[dict[str, Any]], bytes]) -> dict[str, str]:
    """A hash of each test row's content and right answer, by its id.

    Args:
        records: the rows.
        content: the bytes that make two records of a modality the same.
    """
    return {
        str(row["id"]): hashlib.blake2b(content(row) + repr(_answer(row)).encode(), digest_size=8).hexdigest()
        for row in records.to_pylist()
    }


def _answer(row: Mapping[str, Any]) -> list[Any]:
    """The right answer; hashes of models that are in production stay what they are when a kind is added."""
    return [row.get(name) for name in ANSWERS] + [row[name] for name in ("transcript",) if name in row]


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
        "take the new model without a comparison: python -m tasks.promote accept <model>.",
    )  # fmt: skip


def unseen(leakage: Sequence[Mapping[str, Any]], task: str, most: float) -> Check:
    """Whether few enough of the test rows stood in training data, by the findings of validation.

    They are taken out of training; but a test set much of which is known elsewhere says little of new data.

    Args:
        leakage: entries of validation.json.
        task: the labelled set.
        most: largest accepted share of its test rows in one place.
    """
    known: dict[str, int] = {}
    of = {entry["of"] for entry in leakage if entry["task"] == task and entry["split"] == "test"}
    for entry in leakage:
        if entry["task"] == task and entry["split"] == "test":
            known[entry["found_in"]] = known.get(entry["found_in"], 0) + entry["rows"]
    worst = max(known, key=lambda place: known[place], default="")
    if not worst or known[worst] <= most * max(of):
        return Check("leakage", "passed", "No more test rows than are allowed stood in training data.")
    return Check(
        "leakage", "blocked",
        f"{known[worst]} of {max(of)} test rows of {task} stood in {worst}, more than {100 * most:g} % "
        "(`validate.max_leaked_share`): the test set has leaked. Split it anew, or raise the share.",
        {"known": known[worst], "rows": max(of), "most": most},
    )  # fmt: skip


def better(found: Difference, metric: str, least: float) -> Check:
    """Whether the challenger's gain is above the least one with its whole interval."""
    numbers = {key: round(value, 6) for key, value in asdict(found).items()} | {"least_gain": least}
    scores = f"{100 * found.first:.1f} against the champion's {100 * found.second:.1f}"
    said = f"{metric} {scores} on {found.rows} rows: {found}."
    if found.units < FEWEST_UNITS:
        few = f"{said} {found.units} rows or groups are too few for an interval; {FEWEST_UNITS} are needed."
        return Check("gain", "blocked", few, numbers)
    if found.looks > 1:
        said += f" It is look number {found.looks} at these rows against this champion."
    if found.low > least:
        return Check("gain", "passed", said, numbers)
    needed = "0" if not least else f"{100 * least:g}"
    return Check("gain", "failed", f"{said} The whole interval would have to lie above {needed}.", numbers)


def not_worse(name: str, found: Difference, metric: str) -> Check:
    """Whether a slice did not lose, its whole interval below 0."""
    numbers = {key: round(value, 6) for key, value in asdict(found).items()}
    said = f"{name}: {metric} {found} on {found.rows} rows."
    if found.units < FEWEST_UNITS:
        return Check(f"slice {name}", "passed", f"{said} Too few rows or groups to say more.", numbers)
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


def as_served(num_other: int, num_asked: int) -> Check:
    """Whether the kept model answers as it did in the exam."""
    said = (
        f"Asked as it is served, it answers {num_other} of {num_asked} test rows otherwise than in the exam."
    )
    if num_other <= MOST_OTHER * num_asked:
        return Check("serving", "passed", said)
    return Check("serving", "blocked", f"{said} What was judged is not what would be served; report this.")


def standing(word: str, reason: str) -> Check:
    """What was said of this very model before."""
    return Check("word", "failed", f"This model was judged before: {word}{': ' + reason if reason else ''}.")


def digest(fingerprint: Mapping[str, str]) -> str:
    """One hash of a whole test set."""
    return hashlib.sha256(json.dumps(sorted(fingerprint.items())).encode()).hexdigest()
