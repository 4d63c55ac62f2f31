"""The table that a run ends with in a terminal: arms, methods, label budgets, intervals, one verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.pages import verdict
from tasks.pages.scores import TaskScores, arm_name, budget_name, by_task, method_name, metric_name

WIDTH = 100
COLUMN = 19
ARM, METHOD = 17, 13


def table(summary: Iterable[Mapping[str, Any]]) -> str:
    """The results as plain text, at most 100 columns wide.

    A star marks the best of a column where its interval is apart from all others.

    Args:
        summary: rows of `runs/<recipe>/finetune/summary.json`.
    """
    rows = list(summary)
    blocks = [_block(task) for task in by_task(rows)]
    headline = verdict.sentences(rows)[0]
    return "\n\n".join([*blocks, textwrap.fill(headline, WIDTH, break_on_hyphens=False)]) + "\n"


def _block(task: TaskScores) -> str:
    seeds = sorted({score.seeds for score in task.scores if not score.is_fixed})
    over = f" over {' or '.join(map(str, seeds))} seeds" if seeds and seeds[-1] > 1 else ""
    unit = task.scores[0].unit.strip()
    metric = metric_name(task.metric) + (f" in {unit}" if unit else "")
    interval = f", mean [95 % interval{over}]" if over else ""
    lines = [f"{task.task}: {metric}{interval}"]
    fits = (WIDTH - ARM - METHOD) // COLUMN
    for start in range(0, len(task.budgets), fits):
        budgets = task.budgets[start : start + fits]
        lines += ["", *_lines(task, budgets)]
    return "\n".join(lines)


def _lines(task: TaskScores, budgets: list[str]) -> list[str]:
    header = (
        "arm".ljust(ARM) + "method".ljust(METHOD) + "".join(f"{budget_name(b):<{COLUMN}}" for b in budgets)
    )
    lines = [header.rstrip(), "─" * (ARM + METHOD + COLUMN * len(budgets) - 1)]
    winners = [task.winner(budget) for budget in budgets]
    previous = ""
    for arm, method in task.lines:
        if previous and method != previous:
            lines.append("")
        previous = method
        cells = []
        for budget, winner in zip(budgets, winners, strict=True):
            score = task.get(arm, method, budget)
            if score is None:
                cells.append("".ljust(COLUMN))
                continue
            star = "*" if score is winner else " "
            interval = f" [{score.interval}]" if score.interval else ""
            cells.append(f"{score.shown:>5}{star}{interval}".ljust(COLUMN))
        label = f"{arm_name(arm)[: ARM - 1]:<{ARM}}{method_name(method)[: METHOD - 1]:<{METHOD}}"
        lines.append((label + "".join(cells)).rstrip())
    return lines
