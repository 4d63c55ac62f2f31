"""Report: one self-contained page that says what a run bought, and figures as files.

Reads what the stages before left (see `tasks.pages.evidence`); where the kind of data can be looked
at, its `pictures` ask the trained encoder about a few records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.settings import Settings
from tasks import layout, modalities, stage
from tasks.config import Config
from tasks.pages import evidence, page
from tasks.pages.scores import by_task
from tasks.pages.terminal import table
from tasks.pages.verdict import sentences as verdict

PAGE = "report.html"
__all__ = ["inputs", "main", "run", "table", "verdict", "work"]


def run(name: str, config: Config) -> dict[str, float]:
    """Write `runs/<recipe>/report/`; answer what pretraining and adaptation gained, in points.

    Args:
        name: the recipe.
        config: all of `params.yaml`.

    Raises:
        InputError: nothing of the recipe has run, or one of its files is damaged.
    """
    found = evidence.read(name, config)
    with stage.published(layout.run(name, "report")) as folder:
        plots = folder / "plots"
        sections = modalities.pictures(found.modality).sections(name, config, plots)
        (folder / PAGE).write_text(page.render(found, plots, sections), encoding="utf-8")
    return {"tasks": float(len(by_task(found.summary))), **gains(found)}


def work(context: stage.Context) -> stage.Outcome:
    """Make the page and the figures of a recipe's run."""
    metrics = run(context.name, context.config)
    folder = layout.run(context.name, "report")
    context.journal.artifact(folder / PAGE)
    if (folder / "plots").is_dir():
        context.journal.artifact(folder / "plots")
    return stage.Outcome(metrics)


def inputs(name: str, config: Config) -> tuple[Sequence[Settings], Sequence[Path]]:
    """The settings and files that the page depends on."""
    recipe = config.recipe(name)
    return [recipe.report], [
        *evidence.files(name, config),
        *modalities.pictures(recipe.modality).files(name, config),
    ]


def gains(found: evidence.Evidence) -> dict[str, float]:
    """`<task>.<budget>.gain`: the last arm's mean score less the first one's, in the metric's unit."""
    answer = {}
    for task in by_task(found.summary):
        for budget in task.budgets if len(task.arms) > 1 else ():
            last, first = (task.get(arm, task.method, budget) for arm in (task.arms[-1], task.arms[0]))
            if last and first:
                answer[f"{task.task}.{budget}.gain"] = round((last.mean - first.mean) * last.scale, 6)
    return answer


def main() -> None:
    """`python -m tasks.report <recipe>`."""
    stage.main("report", work, inputs)


if __name__ == "__main__":
    main()
