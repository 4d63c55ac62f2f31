"""Figures in one style: for the page as inline SVG in the page's own colours, and as SVG and PNG files.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), told apart by all common kinds of
colour vision; lines carry their names at their ends instead of a legend. Files are equal byte for
byte where the numbers are.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1c1b19", "#6b6962", "#d8d5cb", "#fffefa"
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED = (
    "#0072b2", "#d55e00", "#009e73", "#b0588f", "#56b4e9", "#b38600", "#a23b2a",
)  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED)
ARM_COLOURS = {"scratch": MUTED, "pretrained": BLUE, "adapted": ORANGE, "tfidf": GREEN, "majority": "#a5a298"}
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", "#a5a298": "faint"} | {
    colour: f"c{place}" for place, colour in enumerate(SERIES)
}
STYLE: dict[str, Any] = {
    "figure.facecolor": "none", "savefig.facecolor": "none", "axes.facecolor": "none",
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.5,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
    "axes.titlesize": 9, "axes.labelsize": 8.5, "axes.titlecolor": INK,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.major.size": 3, "ytick.major.size": 3,
    "lines.linewidth": 1.6, "lines.solid_capstyle": "round", "svg.fonttype": "none", "path.simplify": True,
    "text.parse_math": False,
}  # fmt: skip
PANEL = (4.6, 3.0)
MAX_POINTS = 300
PIXELS_PER_POINT = 1.32  # one size of type in all figures, whatever their width


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes:
        name: of its files.
        caption: the sentence under it, which says what it shows.
        svg: for the page; colours are the page's variables.
    """

    name: str
    caption: str
    svg: str = field(repr=False)


def draw(
    name: str, caption: str, paint: Callable[[Axes], None], folder: Path, size: tuple[float, float] = PANEL
) -> Plot:
    """Paint one figure, write `<folder>/<name>.svg` and `.png`, and answer its inline form."""
    import matplotlib
    from matplotlib.figure import Figure

    name = slug(name)
    style: Any = STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A label in a script that the font lacks is a box in the PNG; the SVG keeps its letters.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        source = _svg(figure)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(source, encoding="utf-8")
        figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white", metadata={"Software": None})
    return Plot(name, caption, inline(source, name, caption))


def slug(name: str) -> str:
    """A name for files and ids; names that lose letters on the way get a checksum, to stay apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name.replace("_", "-"):
        return plain
    return f"{plain[:60]}-{zlib.crc32(name.encode()):08x}"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    return buffer.getvalue()


def inline(source: str, name: str, caption: str) -> str:
    """A matplotlib SVG for use inside a page: themed colours, the page's font, ids of its own."""
    from markupsafe import escape

    body = source[source.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", body)
    for colour, variable in VARIABLES.items():
        body = re.sub(colour, f"var(--{variable})", body, flags=re.IGNORECASE)
    view = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', body)
    assert view is not None
    width = round(float(view.group(1)) * PIXELS_PER_POINT)
    opening = f'<svg role="img" aria-label="{escape(caption)}" {view.group()} style="max-width:{width}px">'
    return re.sub(r"^<svg[^>]*>", lambda _: opening, body, count=1)


def thinned(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """A curve with at most `most` points, each the mean of its neighbours."""
    points = [(x, y) for x, y in points if y == y]
    size = -(-len(points) // most) or 1
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [_mean(x for x, _ in c) for c in chunks], [_mean(y for _, y in c) for c in chunks]


def _mean(values: Any) -> float:
    values = list(values)
    return float(sum(values) / len(values))


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its right end, pushed apart where two would overlap.

    Args:
        axes: already with its final limits and scales.
        ends: (x, y, name, colour) of the last point of each line.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    to_axes = axes.transLimits.transform
    scale = axes.transScale.transform
    gap = 11.5 / (axes.get_figure().get_figheight() * 72 * 0.78)  # type: ignore[union-attr]
    heights = [float(to_axes(scale((x, min(max(y, low), high))))[1]) for x, y, _, _ in ends]
    for (_, _, name, colour), height in zip(ends, spread(heights, gap), strict=True):
        axes.annotate(
            name, (1.0, height), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points",
            color=colour, va="center", annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as needed for all to be at least `gap` apart."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    groups: list[list[int]] = []
    centres: list[float] = []
    for place in order:
        groups.append([place])
        centres.append(heights[place])
        while len(groups) > 1 and centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            last = groups.pop()
            centres.pop()
            groups[-1] += last
            centres[-1] = _mean(heights[member] for member in groups[-1])
    moved = [0.0] * len(heights)
    for group, centre in zip(groups, centres, strict=True):
        for rank, place in enumerate(group):
            moved[place] = centre + gap * (rank - (len(group) - 1) / 2)
    return moved


def sparse_grid(axes: Axes, y_label: str, x_label: str) -> None:
    """Names of the axes, and hairlines to read heights by."""
    axes.set_title(y_label, color=MUTED, pad=8)
    axes.set_xlabel(x_label, loc="right")
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
