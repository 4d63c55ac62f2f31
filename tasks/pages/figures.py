"""The figures of the page: label budgets, losses, the transfer gap, confusions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pages.plots import (
    ARM_COLOURS,
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    SERIES,
    Plot,
    draw,
    label_ends,
    sparse_grid,
    thinned,
)
from tasks.pages.scores import Score, TaskScores, arm_name, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOT_COLOURS = {"general": BLUE, "domain": ORANGE}
LARGEST_LABELLED_MATRIX = 20
MEASURES = {"lr": "learning rate"}
READINGS = {"knn": "k-NN"}


def label_budgets(task: TaskScores, rows_in_all: int | None, folder: Path) -> Plot:
    """Score against number of labels, one line per arm, intervals as bars.

    Args:
        task: the scores.
        rows_in_all: training rows that the budget `all` stands for, where known.
        folder: where the files go.
    """
    positions = _positions(task.budgets, rows_in_all)

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        sparse_grid(axes, metric_name(task.metric) + (", %" if task.scores[0].unit else ""), "labels")
        ends = []
        offsets = _offsets(len(task.lines))
        for (arm, method), offset in zip(task.lines, offsets, strict=True):
            scores = [score for b in task.budgets if (score := task.get(arm, method, b)) is not None]
            ends += _line(axes, scores, [positions[score.budget] * offset for score in scores])
        axes.set_xticks([positions[b] for b in task.budgets], [_tick(b, rows_in_all) for b in task.budgets])
        axes.minorticks_off()
        axes.margins(x=0.06)
        if len(task.budgets) == 1:
            only = positions[task.budgets[0]]
            axes.set_xlim(only / 1.5, only * 1.5)
        label_ends(axes, ends)

    caption = (
        f"{task.task}: {metric_name(task.metric)} on test rows by number of labelled training rows. "
        "Solid: fine-tuned; dashed: linear probe; thin: floors. Bars: 95 % intervals."
    )
    return draw(f"label-budgets-{task.task}", caption, paint, folder, size=(4.5, 3.2))


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
    arm, method = scores[0].arm, scores[0].method
    colour = ARM_COLOURS.get(arm, MUTED)
    is_floor, is_probe = method == "floor", method == "probe"
    ys = [score.mean * score.scale for score in scores]
    axes.plot(
        xs, ys, color=colour, linewidth=0.9 if is_floor else 1.6, linestyle=(0, (4, 2)) if is_probe else "-",
        marker="o", markersize=2.5 if is_floor else 4, markerfacecolor=PAPER if is_probe else colour,
        markeredgecolor=colour, zorder=2 if is_floor else 3,
    )  # fmt: skip
    bars = [(x, s) for x, s in zip(xs, scores, strict=True) if s.interval]
    if bars:
        axes.vlines(
            [x for x, _ in bars], [s.low * s.scale for _, s in bars], [s.high * s.scale for _, s in bars],
            color=colour, linewidth=0.9, zorder=2,
        )  # fmt: skip
    suffix = ", probe" if is_probe else ""
    return [(xs[-1], ys[-1], f"{arm_name(arm)}{suffix}", colour)]


def losses(stage: str, curves: Mapping[str, Any], folder: Path) -> Plot:
    """Training loss by step, and held-out losses where they were measured."""
    train = [(point["step"], float(point["loss"])) for point in curves.get("train", [])]
    heldout = {
        name: [(point["step"], float(point["loss"])) for point in points]
        for name, points in curves.get("heldout", {}).items()
        if points
    }

    def paint(axes: Axes) -> None:
        sparse_grid(axes, "loss", "step")
        ends = []
        if train:
            xs, ys = thinned(train)
            axes.plot(xs, ys, color=MUTED, linewidth=1)
            ends.append((xs[-1], ys[-1], "train", MUTED))
        for place, (name, points) in enumerate(heldout.items()):
            xs, ys = thinned(points, 60)
            colour = SLOT_COLOURS.get(name, SERIES[place % len(SERIES)])
            axes.plot(xs, ys, color=colour, marker="o", markersize=3)
            ends.append((xs[-1], ys[-1], f"held-out, {name}", colour))
        label_ends(axes, ends)

    measured = f" Held-out records of {' and '.join(heldout)}." if heldout else ""
    return draw(f"loss-{stage}", f"Loss in {stage}.{measured}", paint, folder)


def measure(stage: str, key: str, points: Sequence[tuple[float, float]], folder: Path) -> Plot:
    """One more quantity by step: gradient norm, learning rate, what `health` reports."""

    def paint(axes: Axes) -> None:
        xs, ys = thinned(points)
        sparse_grid(axes, name, "step")
        axes.plot(xs, ys, color=INK, linewidth=1)
        axes.set_ylim(bottom=min(0.0, *ys))
        axes.locator_params(nbins=4)
        if max(ys) < 0.01:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    name = MEASURES.get(key, key.replace("_", " "))
    return draw(
        f"{key}-{stage}", f"{name[:1].upper()}{name[1:]} in {stage}, by step.", paint, folder, (2.9, 1.7)
    )


def readings(stage: str, task: str, lines: Mapping[str, Sequence[tuple[float, float]]], folder: Path) -> Plot:
    """Accuracy on a task's validation rows by step, of what is read off the encoder while it trains."""

    def paint(axes: Axes) -> None:
        sparse_grid(axes, f"{_short(task)}: accuracy, %", "step")
        ends = []
        for (name, points), colour in zip(lines.items(), SERIES, strict=False):
            xs, ys = thinned([(step, 100 * share) for step, share in points])
            axes.plot(xs, ys, color=colour, linewidth=1, marker="o", markersize=2)
            ends.append((xs[-1], ys[-1], READINGS.get(name, name), colour))
        axes.locator_params(nbins=4)
        label_ends(axes, ends)

    names = " and ".join(READINGS.get(name, name) for name in lines)
    caption = f"{task}: accuracy of {names} on validation rows in {stage}, by step."
    return draw(f"readings-{stage}-{task}", caption, paint, folder, (2.9, 1.7))


def gap(losses_by_slot: Mapping[str, Mapping[str, float]], folder: Path) -> Plot:
    """Held-out loss on general and domain data, before adaptation and after."""

    def paint(axes: Axes) -> None:
        left, right = [], []
        for place, (slot, both) in enumerate(losses_by_slot.items()):
            colour = SLOT_COLOURS.get(slot, SERIES[place % len(SERIES)])
            before, after = float(both["before"]), float(both["after"])
            axes.plot([0, 1], [before, after], color=colour, marker="o", markersize=5)
            left.append((0.0, before, f"{before:.2f}", colour))
            right.append((1.0, after, f"{after:.2f}  {slot}", colour))
        axes.set_xticks([0, 1], ["before", "after adaptation"])
        axes.set_yticks([])
        axes.margins(x=0.04, y=0.2)
        axes.spines["left"].set_visible(False)
        axes.set_title("held-out loss", color=MUTED, pad=8)
        label_ends(axes, right)
        for _, y, text, colour in left:
            axes.annotate(
                text,
                (0, y),
                xytext=(-9, 0),
                textcoords="offset points",
                color=colour,
                va="center",
                ha="right",
            )

    caption = "Held-out loss: the domain's should fall in adaptation, the general one should not rise."
    return draw("transfer-gap", caption, paint, folder, size=(4.0, 3.0))


def confusion(
    task: str, labels: Sequence[str], counts: Sequence[Sequence[int]], what: str, folder: Path
) -> Plot:
    """Confusion matrix: rows are true labels, shade is the share of the row, numbers are counts."""
    size = len(labels)
    show_counts = size <= LARGEST_LABELLED_MATRIX

    def paint(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for row, line in enumerate(counts):
            total = sum(line) or 1
            for column, count in enumerate(line):
                if not count:
                    continue
                colour = BLUE if row == column else ORANGE
                axes.add_patch(
                    Rectangle(
                        (column, row), 1, 1, facecolor=colour, alpha=0.08 + 0.55 * count / total, linewidth=0
                    )
                )
                if show_counts:
                    axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", fontsize=8)
        axes.set_xlim(0, size)
        axes.set_ylim(size, 0)
        places = [place + 0.5 for place in range(size)]
        names = [_short(label) for label in labels]
        axes.set_xticks(
            places, names, rotation=40 if max(map(len, names)) > 3 else 0, ha="left" if size else "center"
        )
        axes.set_yticks(places, names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_aspect("equal")

    side = min(8.0, max(3.0, 1.5 + 0.42 * size))
    caption = f"{task}: true labels in rows, predicted ones in columns; shade is the share of the row. {what}"
    return draw(f"confusion-{task}", caption, paint, folder, size=(side, side))


def _short(label: str, most: int = 18) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def embedding(
    task: str, points: Sequence[tuple[float, float, int]], labels: Sequence[str], folder: Path
) -> Plot:
    """The embedding map as files; the page draws its own, with text under the pointer."""

    def paint(axes: Axes) -> None:
        for place, label in enumerate(labels):
            mine = [(x, y) for x, y, group in points if group == place]
            if mine:
                axes.plot(
                    [x for x, _ in mine], [y for _, y in mine], linestyle="", markersize=3.5, alpha=0.85,
                    marker="os^D"[place // len(SERIES) % 4], color=SERIES[place % len(SERIES)],
                    markeredgewidth=0, label=_short(label),
                )  # fmt: skip
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        if len(labels) > 1:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1)

    return draw(
        f"embedding-{task}", f"{task}: test rows by the encoder, t-SNE.", paint, folder, size=(6.4, 4.6)
    )


def finite(points: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of one key, without the points that lack it."""
    return [
        (float(point["step"]), float(point[key]))
        for point in points
        if isinstance(point.get(key), int | float) and math.isfinite(point[key])
    ]
