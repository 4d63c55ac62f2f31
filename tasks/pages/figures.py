"""The figures of the page: losses, readings, the transfer gap, confusions, maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pages.plots import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SERIES,
    Plot,
    draw,
    label_ends,
    sparse_grid,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOT_COLOURS = {"general": BLUE, "domain": ORANGE}
LARGEST_LABELLED_MATRIX = 20
MEASURES = {"lr": "learning rate"}
READINGS = {"knn": "k-NN"}


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
