"""Several finished recipes in one table: `python -m tasks.compare <recipe> <recipe> ...`.

One line per recipe and kind of encoder: score per label budget with its interval, what the training
cost, and how healthy it ended. Recipes that share their task are comparable; `make compare` runs
what is not up to date first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import layout
from tasks.errors import InputError
from tasks.pages.scores import Score, arm_name, by_task, method_name, metric_name

FLOOR = "floor"
RANK = "effective_rank"


def lines(recipes: Sequence[str]) -> list[list[str]]:
    """Header and rows of the table.

    Raises:
        InputError: a recipe has no result yet; says how to make it.
    """
    results = {recipe: _scores(recipe) for recipe in recipes}
    budgets = list(
        dict.fromkeys(
            budget for scores in results.values() for task in by_task(scores) for budget in task.budgets
        )
    )
    header = ["recipe", "task", "arm", "method", *(f"{budget} labels" for budget in budgets)]
    table = [[*header, "per second", "seconds", "effective rank"]]
    told_floors: set[tuple[str, str]] = set()
    for recipe, rows in results.items():
        cost = _cost(recipe)
        for task in by_task(rows):
            for arm, method in task.lines:
                if method == FLOOR:
                    if (task.task, arm) in told_floors:
                        continue
                    told_floors.add((task.task, arm))
                cells = [_cell(task.get(arm, method, budget)) for budget in budgets]
                trained = cost if method != FLOOR and arm != "scratch" else ["", "", ""]
                owner = "" if method == FLOOR else recipe
                name = f"{task.task} ({metric_name(task.metric)})"
                table.append([owner, name, arm_name(arm), method_name(method), *cells, *trained])
    return table


def _scores(recipe: str) -> list[dict[str, Any]]:
    path = layout.run(recipe, "finetune") / "summary.json"
    if not path.exists():
        raise InputError(f"{path} is missing; make it with `dvc repro report@{recipe}`")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.shown} [{score.interval}]" if score.interval else score.shown


def _cost(recipe: str) -> list[str]:
    """Units per second and seconds of pretraining, and the effective rank that it ended with."""
    folder = layout.run(recipe, "pretrain")
    record = json.loads(Path(f"{folder}.record.json").read_text(encoding="utf-8"))
    readings = json.loads((folder / "losses.json").read_text(encoding="utf-8")).get("health", [])
    ranks = [entry[RANK] for entry in readings if RANK in entry]
    rate = f"{record['units_per_second']:,.0f} {record['unit']}" if record.get("units_per_second") else ""
    return [rate, f"{record['seconds']:,.0f}", f"{ranks[-1]:.2f}" if ranks else ""]


def text(table: Sequence[Sequence[str]]) -> str:
    """The table as aligned plain text that is valid Markdown as well."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    made = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([made[0], rule, *made[1:]]) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tasks.compare", description=main.__doc__)
    parser.add_argument("recipes", nargs="+", metavar="recipe")
    try:
        sys.stdout.write(text(lines(parser.parse_args().recipes)))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
