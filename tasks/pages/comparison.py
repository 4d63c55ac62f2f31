"""Several recipes on one page: tables of scores and costs, and a figure per number of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.pages import wording
from tasks.pages.plots import BLUE, GREEN, MUTED, ORANGE, PAPER, Plot, draw, sparse_grid
from tasks.pages.scores import (
    Score,
    TaskScores,
    arm_name,
    budget_name,
    by_budget,
    method_name,
    metric_name,
    standing,
)
from tasks.pages.templates import template

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = "floor"
MARKS = {"finetune": (BLUE, BLUE, "o"), "probe": (ORANGE, PAPER, "o"), "knn": (GREEN, PAPER, "s")}
APART = 0.24  # of a row's height, between the methods of one arm

Results = Mapping[str, Sequence[TaskScores]]
Table = Sequence[Sequence[str]]
Row = tuple[str, Sequence[Score]]


def points(results: Results) -> list[tuple[str, str]]:
    """Tasks with each of their budgets, from few labels to all."""
    found: dict[str, set[str]] = {}
    for scores in (scores for tasks in results.values() for scores in tasks):
        found.setdefault(scores.task, set()).update(scores.budgets)
    return [(task, budget) for task, budgets in found.items() for budget in by_budget(budgets)]


def of_task(results: Results, task: str) -> list[tuple[str, TaskScores]]:
    """Recipes that have a task, with their scores on it."""
    return [(recipe, scores) for recipe, tasks in results.items() for scores in tasks if scores.task == task]


def line_name(recipe: str, arm: str) -> str:
    """What a line is called: the recipe alone where it shows what pretraining gives."""
    return recipe if arm == "pretrained" else f"{recipe}, {arm_name(arm)}"


def figures(results: Results, folder: Path) -> list[Plot]:
    """One figure for each task and number of labels.

    Args:
        results: scores by recipe.
        folder: where the files go.
    """
    return [_figure(results, task, budget, folder) for task, budget in points(results)]


def sentences(results: Results) -> list[str]:
    """What the intervals tell of the best score at each number of labels: fine-tuned, or else probed."""
    found = []
    for task, budget in points(results):
        every = [(name, score) for name, row in _rows(results, task, budget) for score in row]
        method = next((method for method in MARKS if any(score.method == method for _, score in every)), "")
        scores = [(name, score) for name, score in every if score.method == method]
        scores.sort(key=lambda named: -named[1].sign * named[1].mean)
        if len(scores) < 2:
            continue
        (first, best), others = scores[0], scores[1:]
        rivals = [name for name, score in others if standing(best, score) != "above"]
        value = f"{best.shown}{best.unit}"
        place = f"{task}, {method_name(method)} with {budget_name(budget)}"
        told = f"the intervals do not tell it from {', '.join(rivals)}" if rivals else "above all others"
        found.append(f"{place}: {first} reaches {value}, {told}.")
    return found


def render(title: str, results: Results, tables: Sequence[Table], plots: Path) -> str:
    """The whole page; figures are written into `plots` as SVG and PNG files as well.

    Args:
        title: what is compared.
        results: scores by recipe.
        tables: each with its header first.
        plots: folder of the figures' files.
    """
    return template("comparison.html.j2", {"unbroken": wording.unbroken}).render(
        title=title, sentences=sentences(results), tables=tables, plots=figures(results, plots)
    )


def _rows(results: Results, task: str, budget: str) -> list[Row]:
    """Each trained arm with its finite scores at a budget, the most trained method first."""
    found: list[Row] = []
    for recipe, scores in of_task(results, task):
        for arm in dict.fromkeys(arm for arm, method in scores.lines if method != FLOOR):
            row = [score for method in MARKS if (score := scores.get(arm, method, budget)) is not None]
            if finite := [score for score in row if math.isfinite(score.mean)]:
                found.append((line_name(recipe, arm), finite))
    return found


def _figure(results: Results, task: str, budget: str, folder: Path) -> Plot:
    rows = _rows(results, task, budget)
    known = of_task(results, task)
    floors = [floor for _, scores in known if (floor := scores.floor(budget)) is not None]
    best = max(floors, key=lambda floor: floor.sign * floor.mean, default=None)
    metric = metric_name(known[0][1].metric)

    def paint(axes: Axes) -> None:
        sparse_grid(axes, "", metric)
        for place, (_, scores) in enumerate(rows):
            for number, score in enumerate(scores):
                _mark(axes, place + APART * (number - (len(scores) - 1) / 2), score)
        if best is not None:
            axes.axvline(best.mean * best.scale, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.grid(visible=False, axis="y")
        axes.set_ylim(len(rows) - 0.5, -0.5)

    below = f" Dotted line: the best floor, {arm_name(best.arm)}." if best is not None else ""
    caption = (
        f"{task}, {metric} on test rows with {budget_name(budget)}. Filled: fine-tuned; hollow circle: "
        f"linear probe; hollow square: k-NN. Bars: 95 % intervals.{below}"
    )
    return draw(
        f"comparison-{task}-{budget}", caption, paint, folder, size=(4.6, 0.9 + 0.34 * max(len(rows), 1))
    )


def _mark(axes: Axes, place: float, score: Score) -> None:
    colour, fill, shape = MARKS[score.method]
    axes.hlines(place, score.low * score.scale, score.high * score.scale, color=colour, linewidth=1.1)
    axes.plot(score.mean * score.scale, place, color=colour, marker=shape, markersize=4, markerfacecolor=fill)
