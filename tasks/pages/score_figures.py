"""The figure of the arms: by number of labels, or of one number below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pages.plots import ARM_COLOURS, MUTED, PAPER, Plot, draw, label_ends, sparse_grid
from tasks.pages.scores import Score, TaskScores, arm_name, budget_name, method_name, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = {"probe": ", probe", "knn": ", k-NN"}


def label_budgets(task: TaskScores, rows_in_all: int | None, folder: Path) -> Plot:
    """Score against number of labels, one line per arm; of one number of labels, all arms below each other.

    Args:
        task: the scores.
        rows_in_all: training rows that the budget `all` stands for, where known.
        folder: where the files go.
    """
    if len(task.budgets) == 1:
        return _ladder(task, folder)
    positions = _positions(task.budgets, rows_in_all)

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        sparse_grid(axes, _axis(task), "labels")
        ends = []
        offsets = _offsets(len(task.lines))
        for (arm, method), offset in zip(task.lines, offsets, strict=True):
            scores = [score for b in task.budgets if (score := task.get(arm, method, b)) is not None]
            ends += _line(axes, scores, [positions[score.budget] * offset for score in scores])
        axes.set_xticks([positions[b] for b in task.budgets], [_tick(b, rows_in_all) for b in task.budgets])
        axes.minorticks_off()
        axes.margins(x=0.06)
        label_ends(axes, ends)

    caption = (
        f"{task.task}: {metric_name(task.metric)} on test rows by number of labelled training rows. "
        "Solid: fine-tuned; dashed: frozen features; thin: floors. Bars: 95 % intervals."
    )
    return draw(f"label-budgets-{task.task}", caption, paint, folder, size=(4.5, 3.2))


def _ladder(task: TaskScores, folder: Path) -> Plot:
    budget = task.budgets[0]
    found = [task.get(arm, method, budget) for arm, method in task.lines]
    scores = [score for score in found if score is not None and math.isfinite(score.mean)]

    def paint(axes: Axes) -> None:
        sparse_grid(axes, "", _axis(task))
        for row, score in enumerate(scores):
            look = _look(score)
            ends = score.low * score.scale, score.high * score.scale
            axes.hlines(row, *ends, color=look.colour, linewidth=look.width)
            axes.plot(
                score.mean * score.scale, row, color=look.colour, marker="o", markersize=look.dot,
                markerfacecolor=look.fill,
            )  # fmt: skip
        axes.set_yticks(range(len(scores)), [_full_name(score) for score in scores])
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.invert_yaxis()

    caption = (
        f"{task.task}: {metric_name(task.metric)} on test rows with {budget_name(budget)}. Dots are means; "
        "bars: 95 % intervals."
    )
    size = (4.5, 0.9 + 0.22 * len(scores))
    return draw(f"label-budgets-{task.task}", caption, paint, folder, size=size)


def _axis(task: TaskScores) -> str:
    return metric_name(task.metric) + (", %" if task.scores[0].unit else "")


@dataclass(frozen=True)
class _Look:
    colour: str
    width: float
    dash: Any
    dot: float
    fill: str


def _look(score: Score) -> _Look:
    """Fine-tuned: solid; frozen features: dashed and hollow; floors: thin."""
    colour = ARM_COLOURS.get(score.arm, MUTED)
    if score.method == "floor":
        return _Look(colour, 0.9, "-", 2.5, colour)
    if score.method == "finetune":
        return _Look(colour, 1.6, "-", 4, colour)
    return _Look(colour, 1.6, (0, (4, 2)), 4, PAPER)


def _full_name(score: Score) -> str:
    name = arm_name(score.arm)
    return name if score.method == "floor" else f"{name}, {method_name(score.method)}"


def _positions(budgets: Sequence[str], rows_in_all: int | None) -> dict[str, float]:
    known = {budget: float(budget) for budget in budgets if budget.isdigit() and int(budget) > 0}
    beyond = 4 * max(known.values(), default=1.0)
    largest = float(rows_in_all) if rows_in_all else beyond
    return {budget: known.get(budget, largest) for budget in budgets}


def _tick(budget: str, rows_in_all: int | None) -> str:
    if budget != "all":
        return f"{int(budget):,}" if budget.isdigit() else budget
    return f"all\n({rows_in_all:,})" if rows_in_all else "all"


def _offsets(count: int) -> list[float]:
    """Factors that set the bars of neighbouring lines a hair apart on a logarithmic axis."""
    return [1.012 ** (place - (count - 1) / 2) for place in range(count)]


def _line(axes: Axes, scores: Sequence[Score], xs: Sequence[float]) -> list[tuple[float, float, str, str]]:
    if not scores:
        return []
    look = _look(scores[0])
    ys = [score.mean * score.scale for score in scores]
    axes.plot(
        xs, ys, color=look.colour, linewidth=look.width, linestyle=look.dash, marker="o", markersize=look.dot,
        markerfacecolor=look.fill, markeredgecolor=look.colour,
        zorder=2 if scores[0].method == "floor" else 3,
    )  # fmt: skip
    bars = [(x, s) for x, s in zip(xs, scores, strict=True) if s.interval]
    if bars:
        axes.vlines(
            [x for x, _ in bars], [s.low * s.scale for _, s in bars], [s.high * s.scale for _, s in bars],
            color=look.colour, linewidth=0.9, zorder=2,
        )  # fmt: skip
    name = arm_name(scores[0].arm) + SUFFIXES.get(scores[0].method, "")
    return [(xs[-1], ys[-1], name, look.colour)]
