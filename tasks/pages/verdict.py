"""What pretraining and adaptation bought, in sentences that are made from the numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.pages.scores import (
    Score,
    Standing,
    TaskScores,
    arm_name,
    budget_name,
    by_task,
    decimal,
    method_name,
    metric_name,
    standing,
)

NO_TASKS = "No labelled task was run, so nothing here says what pretraining or adaptation is worth on one."
SUBJECTS = {
    "adapted": "pretraining and adaptation",
    "pretrained": "pretraining",
    "scratch": "training from scratch",
}
Pair = tuple[Score, Score]


def sentences(summary: Iterable[Mapping[str, Any]]) -> list[str]:
    """The verdict on a run: a headline first, then what it is made of.

    Args:
        summary: rows of `runs/<recipe>/finetune/summary.json`.
    """
    tasks = by_task(summary)
    if not tasks:
        return [NO_TASKS]
    of_each = [sentence for task in tasks for sentence in on_task(task)]
    return of_each if len(tasks) == 1 else [_headline_of_many(tasks), *of_each]


def on_task(task: TaskScores) -> list[str]:
    """The verdict on one task: first the whole in one sentence, then its parts."""
    return [_task_sentence(task), *_details(task)]


def _task_sentence(task: TaskScores) -> str:
    """One sentence on one task: the last arm against scratch, and the floor against the last arm."""
    if not task.arms:
        return (
            f"Only cheap floors were measured on {task.task}, so nothing says what training is worth there."
        )
    last, first = task.arms[-1], task.arms[0]
    if last == first:
        what = f"Only the {arm_name(last)} arm was run on {task.task}, so nothing says what it bought"
        clauses = [what, *_floor_clauses(task, last)]
        return _capital("; ".join(clauses)) + "."
    subject = SUBJECTS.get(last, arm_name(last)) if first == "scratch" else "adaptation"
    against = "over training from scratch" if first == "scratch" else f"over the {arm_name(first)} model"
    clauses = _gain_clauses(subject, against, task, last, first)
    return _capital("; ".join([*clauses, *_floor_clauses(task, last)])) + "."


def _gain_clauses(subject: str, against: str, task: TaskScores, arm: str, base: str) -> list[str]:
    """One clause per outcome: where it helps, where it harms, where the intervals cannot tell."""
    groups = _grouped(task, [(_cell(task, arm, b), _cell(task, base, b)) for b in task.budgets])
    plural = " and " in subject
    clauses = []
    for place, (kind, pairs) in enumerate(groups):
        who = subject if place == 0 else "they" if plural else "it"
        what = f"{metric_name(task.metric)} on {task.task}" if place == 0 else "it"
        versus = f" {against}" if place == 0 else ""
        if kind == "overlapping":
            verb = (
                f"{'make' if plural else 'makes'} no difference to {what}{versus} that the intervals can tell"
            )
            clauses.append(f"{who} {verb} {_levels(pairs)}")
        else:
            clauses.append(
                f"{who} {_verb(*pairs[0], plural)} {what}{versus} {_gains(pairs)} ({_reason(kind)})"
            )
    return clauses or [f"{subject} and {arm_name(base)} share no label budget on {task.task}"]


def _verb(after: Score, before: Score, plural: bool) -> str:
    verb = "lift" if after.mean > before.mean else "lower"
    return verb if plural else f"{verb}s"


def _floor_clauses(task: TaskScores, arm: str) -> list[str]:
    """Where the best floor stands against the arm, as one clause per floor."""
    pairs = [(task.floor(budget), _cell(task, arm, budget)) for budget in task.budgets]
    by_floor: dict[str, list[str]] = {}
    for kind, group in _grouped(task, pairs):
        names = " and ".join(dict.fromkeys(arm_name(floor.arm) for floor, _ in group))
        verb = {
            "above": "is better",
            "below": "is worse" if _sign(task) < 0 else "stays below",
            "overlapping": "cannot be told from it",
            "unknown": f"scores {'better' if _leads(*group[0]) else 'worse'} (one draw, no interval)",
        }[kind]
        by_floor.setdefault(names, []).append(f"{verb} with {_budgets([model.budget for _, model in group])}")
    return [f"{names} {_join(verbs)}" for names, verbs in by_floor.items()]


def _compute(task: TaskScores) -> list[str]:
    """What training from scratch was given where that was more than the other arms had."""
    first, last = (_cell(task, arm, task.budgets[-1]) for arm in (task.arms[0], task.arms[-1]))
    if first is None or last is None or first.steps <= last.steps:
        return []
    return [
        f"Training from scratch had {first.steps:,} steps with {budget_name(first.budget)} where "
        f"{arm_name(last.arm)} weights had {last.steps:,} (finetune.scratch_compute)."
    ]


def _details(task: TaskScores) -> list[str]:
    """What each of the steps alone did, and whether the probe tells the same story."""
    found = _compute(task) if task.arms else []
    if task.arms[:3] == ["scratch", "pretrained", "adapted"]:
        for budget in dict.fromkeys((task.budgets[0], task.budgets[-1])):
            steps = [_step(task, task.method, arm, base, budget) for arm, base in _STEPS]
            if all(steps):
                found.append(
                    f"With {budget_name(budget)}, " + " and ".join(step for step in steps if step) + "."
                )
    others = {method for _, method in task.lines} - {task.method, "floor"}
    for method in sorted(others):
        arms = [arm for arm, m in task.lines if m == method]
        step = _step(task, method, arms[-1], arms[0], task.budgets[0]) if len(arms) > 1 else ""
        if step:
            found.append(f"By {method_name(method)} with {budget_name(task.budgets[0])}, {step}.")
    return found


_STEPS = (("pretrained", "scratch"), ("adapted", "pretrained"))
_STEP_NAMES = {
    ("pretrained", "scratch"): "pretraining alone",
    ("adapted", "pretrained"): "adaptation after it",
    ("adapted", "scratch"): "pretraining with adaptation",
}


def _step(task: TaskScores, method: str, arm: str, base: str, budget: str) -> str:
    after, before = task.get(arm, method, budget), task.get(base, method, budget)
    if after is None or before is None:
        return ""
    kind = standing(after, before)
    metric, name = (
        metric_name(task.metric),
        _STEP_NAMES.get((arm, base), f"{arm_name(arm)} after {arm_name(base)}"),
    )
    if kind == "overlapping":
        levels = f"{before.shown} and {after.shown}{after.unit}"
        return f"{name} leaves {metric} where it was ({levels}, {_reason(kind)})"
    return f"{name} {_verb(after, before, plural=False)} {metric} {_change(after, before)} ({_reason(kind)})"


def _headline_of_many(tasks: Sequence[TaskScores]) -> str:
    """The sentence over several tasks: how often the last arm wins, and how often the floor does."""
    gains: list[Standing] = []
    floors: list[Standing] = []
    names: set[str] = set()
    subjects = []
    for task in tasks:
        if not task.arms:
            continue
        subjects.append((task.arms[-1], task.arms[0]))
        for budget in task.budgets:
            last, first, floor = (
                _cell(task, task.arms[-1], budget),
                _cell(task, task.arms[0], budget),
                task.floor(budget),
            )
            if last and first and first is not last:
                gains.append(standing(last, first))
            if last and floor:
                floors.append(standing(floor, last))
                names.add(arm_name(floor.arm))
    if not gains:
        return f"{len(tasks)} tasks were run with one arm only, so nothing says what that arm bought."
    last_arm, first_arm = max(set(subjects), key=lambda pair: (subjects.count(pair), pair))
    subject = SUBJECTS.get(last_arm, last_arm) if first_arm == "scratch" else "adaptation"
    base = "training from scratch" if first_arm == "scratch" else f"the {arm_name(first_arm)} model"
    verb = "beat" if " and " in subject else "beats"
    text = f"{_capital(subject)} {verb} {base} in {_tally(gains)}"
    if floors:
        rival = " or ".join(sorted(names))
        text += f"; {rival} is better than the {arm_name(last_arm)} model in {_tally(floors)}"
    return f"{text} (intervals apart; {len(tasks)} tasks at each label budget)."


def _tally(kinds: Sequence[Standing]) -> str:
    """`5 of 6 comparisons, is worse in none, cannot be told from it in 1`."""
    rest = [
        f"{words} in {kinds.count(kind)}"
        for kind, words in (
            ("below", "worse"),
            ("overlapping", "not told apart"),
            ("unknown", "without interval"),
        )
        if kind in kinds
    ]
    wins = kinds.count("above")
    all_of_them = f"all {len(kinds)} comparisons" if len(kinds) > 1 else "the one comparison"
    text = all_of_them if wins == len(kinds) else f"{wins or 'none'} of {len(kinds)} comparisons"
    return text + (f", {_join(rest)}" if rest else "")


def _cell(task: TaskScores, arm: str, budget: str) -> Score | None:
    return task.get(arm, task.method, budget)


def _grouped(
    task: TaskScores, pairs: Iterable[tuple[Score | None, Score | None]]
) -> list[tuple[Standing, list[Pair]]]:
    """Budgets with the same outcome together, in the order of their first budget."""
    groups: dict[tuple[Standing, bool], list[Pair]] = {}
    for a, b in pairs:
        if a is not None and b is not None:
            kind = standing(a, b)
            groups.setdefault((kind, kind == "unknown" and _leads(a, b)), []).append((a, b))
    return [(kind, group) for (kind, _), group in groups.items()]


def _leads(a: Score, b: Score) -> bool:
    return a.sign * a.mean > b.sign * b.mean


def _gains(pairs: Sequence[Pair]) -> str:
    """`by 26.5 points with 50 labels and 10.5 with all labels`."""
    gains = [abs(after.mean - before.mean) * after.scale for after, before in pairs]
    unit = " points" if pairs[0][0].scale > 1 else ""
    parts = [f"{decimal(gain)}{unit if place == 0 else ''} with {budget_name(after.budget)}"
             for place, (gain, (after, _)) in enumerate(zip(gains, pairs, strict=True))]  # fmt: skip
    return f"by {_join(parts)}"


def _budgets(budgets: Sequence[str]) -> str:
    return _join([budget_name(budget).removesuffix(" labels") for budget in budgets]) + " labels"


def _levels(pairs: Sequence[Pair]) -> str:
    return _join([f"with {budget_name(a.budget)} ({b.shown} and {a.shown}{a.unit})" for a, b in pairs])


def _change(after: Score, before: Score) -> str:
    return f"from {before.shown} to {after.shown}{after.unit}"


def _reason(kind: Standing) -> str:
    return {"above": "intervals apart", "below": "intervals apart", "overlapping": "intervals overlap",
            "unknown": "one seed, no interval"}[kind]  # fmt: skip


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sign(task: TaskScores) -> int:
    return task.scores[0].sign


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
