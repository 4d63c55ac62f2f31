"""Several finished recipes side by side: `python -m tasks.compare <recipe> <recipe> ...`.

One line per task, label budget, recipe and arm: scores with their intervals, what the training cost, and
how healthy it ended; the floors stand below. Recipes that share their task are comparable; `make compare`
runs what is not up to date first. The same with a figure is written as a page. MLflow gets one run per recipe
with the same names of metrics in each, all tagged with the comparison and with the page among their files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks import layout, params
from tasks.errors import InputError
from tasks.pages import comparison
from tasks.pages.comparison import FLOOR, Results, line_name, of_task, points
from tasks.pages.scores import Score, TaskScores, arm_name, budget_name, by_budget, by_task, metric_name

RANK = "effective_rank"
METHODS = {"knn": "k-NN", "probe": "linear probe", "finetune": "fine-tuned"}
STAGES = {"pretrained": "pretrain", "adapted": "adapt"}
DECISIONS = {"warn": "warned", "lower_lr": "rate lowered", "roll_back": "rolled back", "stop": "stopped"}

Table = list[list[str]]


def read(recipes: Sequence[str]) -> Results:
    """Scores by recipe.

    Raises:
        InputError: a recipe has no result yet, or its task is another set of the same name; says what to do.
    """
    results = {recipe: by_task(_summary(recipe)) for recipe in recipes}
    config, corpora = params.load(), dict[str, tuple[str, str]]()
    for recipe, scores in ((recipe, scores) for recipe, tasks in results.items() for scores in tasks):
        here = config.recipe(recipe).tasks
        first, there = corpora.setdefault(scores.task, (recipe, here))
        if here != there:
            raise InputError(
                f"task {scores.task} is of corpus {there} in {first} and of {here} in {recipe}; compare "
                "recipes over one corpus, or give one of the tasks another name"
            )
    return results


def lines(results: Results) -> Table:
    """Header and rows of what was trained, so that recipes stand together at each budget of each task."""
    units = dict.fromkeys(str(_record(recipe, "pretrain").get("unit", "")) for recipe in results)
    header = ["task", "labels", "method", *METHODS.values()]
    table = [[*header, f"{' or '.join(filter(None, units))}/s", "wall seconds", "health"]]
    for task, budget in points(results):
        for recipe, scores in of_task(results, task):
            arms = dict.fromkeys(arm for arm, method in scores.lines if method != FLOOR)
            for arm in arms:
                cells = [_cell(scores.get(arm, method, budget)) for method in METHODS]
                if any(cells):
                    place = [f"{task} ({metric_name(scores.metric)})", budget, line_name(recipe, arm)]
                    table.append([*place, *cells, *_cost(recipe, STAGES.get(arm))])
    return table


def floors(results: Results) -> Table:
    """Header and rows of the floors, each once."""
    budgets = by_budget(budget for _, budget in points(results))
    found: dict[tuple[str, str], list[str]] = {}
    for scores in (scores for tasks in results.values() for scores in tasks):
        for arm in (arm for arm, method in scores.lines if method == FLOOR):
            cells = [_cell(scores.get(arm, FLOOR, budget)) for budget in budgets]
            place = [f"{scores.task} ({metric_name(scores.metric)})", arm_name(arm)]
            found.setdefault((scores.task, arm), [*place, *cells])
    return [["task", "floor", *map(budget_name, budgets)], *found.values()]


def metrics(recipe: str, tasks: Sequence[TaskScores]) -> dict[str, float]:
    """All of a recipe's numbers, under names that every recipe of the same tasks shares."""
    found: dict[str, float] = {}
    for score in (score for task in tasks for score in task.scores):
        name = ".".join([score.task, score.arm, score.method, score.budget, score.metric])
        found[name] = score.mean
        if score.interval:
            found |= {f"{name}.low": score.low, f"{name}.high": score.high}
    record = _record(recipe, "pretrain")
    found |= {f"{record['unit']}_per_second": record["units_per_second"]} if record.get("unit") else {}
    found |= {"wall_seconds": record["seconds"]} if "seconds" in record else {}
    losses = _losses(recipe, "pretrain")
    ranks = [entry[RANK] for entry in losses.get("health", ()) if RANK in entry]
    found |= {f"health.{RANK}": ranks[-1]} if ranks else {}
    return found | {"health.num_decisions": float(len(losses.get("decisions", ())))}


def write(results: Results) -> Path:
    """The page with the tables and a figure per number of labels, and the tables as Markdown; where it is."""
    page = layout.comparison()
    plots = page.with_suffix(".plots")
    shutil.rmtree(plots, ignore_errors=True)
    plots.mkdir(parents=True)
    title, tables = f"{', '.join(results)} side by side", [lines(results), floors(results)]
    page.write_text(comparison.render(title, results, tables, plots), encoding="utf-8")
    page.with_suffix(".md").write_text("\n".join(map(text, tables)), encoding="utf-8")
    return page


def track(results: Results, page: Path) -> str:
    """Tell MLflow, one run per recipe with the page; answers the tag that they share."""
    from tasks import tracking
    from tasks.config import plain

    config = params.load()
    shared = f"{' '.join(results)}, {datetime.now():%Y-%m-%d %H:%M:%S}"
    for recipe, tasks in results.items():
        with tracking.comparison_run(shared, recipe, plain(config.recipe(recipe))) as run:
            run.log(metrics(recipe, tasks), step=0)
            run.artifact(page)
            run.artifact(page.with_suffix(".plots"))
    return shared


def _summary(recipe: str) -> list[dict[str, Any]]:
    path = layout.run(recipe, "finetune") / "summary.json"
    if not path.exists():
        raise InputError(f"{path} is missing; make it with `dvc repro report@{recipe}`")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.shown} [{score.interval}]" if score.interval else score.shown


def _cost(recipe: str, stage: str | None) -> list[str]:
    """Units per second and seconds of a training, and how it ended; nothing where none was done."""
    record = _record(recipe, stage) if stage else {}
    if stage is None or not record.get("units"):
        return ["", "", ""]
    rate, seconds = f"{record['units_per_second']:,.0f}", f"{record['seconds']:,.0f}"
    return [rate, seconds, _health(_losses(recipe, stage))]


def _health(losses: Mapping[str, Any]) -> str:
    """What the guard did, or that it had nothing to do, and the last effective rank."""
    readings = losses.get("health") or []
    if not readings:
        return "not measured"
    decisions = losses.get("decisions") or []
    told = ", ".join(f"{DECISIONS[entry['decision']]} at step {entry['step']}" for entry in decisions)
    ranks = [entry[RANK] for entry in readings if RANK in entry]
    return (told or "healthy") + (f", rank {ranks[-1]:.2f}" if ranks else "")


def _record(recipe: str, stage: str) -> dict[str, Any]:
    return _json(layout.record(recipe, stage))


def _losses(recipe: str, stage: str) -> dict[str, Any]:
    return _json(layout.run(recipe, stage) / "losses.json")


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


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
    """Print the tables, write the page, and tell MLflow."""
    parser = argparse.ArgumentParser(prog="python -m tasks.compare", description=main.__doc__)
    parser.add_argument("recipes", nargs="+", metavar="recipe")
    try:
        results = read(parser.parse_args().recipes)
        page = write(results)
        print(page.with_suffix(".md").read_text(encoding="utf-8"), end="", flush=True)
        shared = track(results, page)
    except InputError as error:
        sys.exit(str(error))
    print(f"page: {page}\nMLflow: the runs with tags.comparison = '{shared}'", file=sys.stderr)


if __name__ == "__main__":
    main()
