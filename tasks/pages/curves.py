"""What was measured by step, as figures: losses, readings of the encoder, health, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.pages import figures
from tasks.pages.evidence import Json

Points = list[tuple[float, float]]


def figures_of(losses: Mapping[str, Json], plots: Path) -> list[dict[str, Any]]:
    """Per training stage: the loss, and beside it whatever else was measured by step."""
    found = []
    for stage, curves in losses.items():
        if not curves.get("train"):
            continue
        readings = [
            figures.readings(stage, task, lines, plots)
            for task, lines in _by_task(curves.get("probes") or []).items()
        ]
        others = [
            figures.measure(stage, key, points, plots)
            for key, points in _others(curves).items()
            if len(points) > 1
        ]
        found.append({
            "stage": stage,
            "main": figures.losses(stage, curves, plots),
            "small": [*readings, *others],
            "decisions": curves.get("decisions") or [],
        })  # fmt: skip
    return found


def _by_task(probes: Sequence[Json]) -> dict[str, dict[str, Points]]:
    """By task and method the accuracies by step, which the file names `<method>.<task>`."""
    found: dict[str, dict[str, Points]] = {}
    for key in _keys(probes, "step"):
        method, _, task = key.partition(".")
        found.setdefault(task, {})[method] = figures.finite(probes, key)
    return found


def _others(curves: Json) -> dict[str, Points]:
    measured: dict[str, Points] = {}
    for points in (curves["train"], curves.get("health") or []):
        for key in _keys(points, "step", "loss"):
            measured.setdefault(key, figures.finite(points, key))
    return measured


def _keys(points: Sequence[Json], *but: str) -> list[str]:
    return list(dict.fromkeys(key for point in points for key in point if key not in but))
