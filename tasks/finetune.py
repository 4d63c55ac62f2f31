"""Stage `finetune`: what the encoders are worth with few labels, under one protocol for every arm.

    python -m tasks.finetune <recipe>

Arms: `scratch` (the same architecture, random weights), `pretrained` and `adapted` (what the stages
before left). An arm that no training tells from the one before is left out, with a sentence. Each is
probed (a linear model on frozen features) and fine-tuned, at every label budget, for several seeds,
beside the floors of `tasks.downstream.floors`. The rules are in `tasks.downstream.protocol`.

A probe of `scratch` reads one random encoder; its interval spans label draws, not initialisations.
Fine-tuning draws both anew with every seed.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.settings import Settings
from tasks import layout, stage
from tasks.config import Config, Finetune, Recipe

log = logging.getLogger(__name__)
FLOORS = "floors"
TRAINING = ("pretrain", "adapt")


def inputs(name: str, config: Config) -> tuple[Sequence[Settings], Sequence[Path]]:
    """The settings and files that the stage depends on."""
    from tasks.downstream import intake
    from tasks.training import COST

    recipe = config.recipe(name)
    read = intake.files(name, recipe, sorted(config.corpus(recipe.tasks).tasks))
    for _, folder in _arms(name, recipe, config):
        read += [
            folder / "config.json",
            *(sorted(folder.glob("*.safetensors")) or [folder / "model.safetensors"]),
        ]
    if recipe.finetune.scratch_compute != "same_steps":
        read += [layout.run(name, stage) / COST for stage in TRAINING]
    return [recipe.finetune], list(dict.fromkeys(read))


def run(context: stage.Context) -> stage.Outcome:
    """Fine-tune and probe the encoders of a recipe on few labels.

    Raises:
        InputError: a task cannot be learnt (one class, a test label that training lacks).
        Interrupted: SIGTERM came; what is done is stored.
    """
    from tasks.downstream import intake, jobs, pool, results

    name, recipe, config = context.name, context.recipe, context.config
    settings = recipe.finetune
    found = _arms(name, recipe, config)
    arms = [
        jobs.Arm(arm, folder, arm != "scratch", _more(arm, name, recipe, config)) for arm, folder in found
    ]
    for arm, reason in _left_out(recipe, config).items():
        if arm in settings.arms:
            log.warning("finetune: arm %s is left out: %s", arm, reason)
    seeds = tuple(range(config.seed, config.seed + settings.num_seeds))
    rows = context.scratch / "rows"
    shutil.rmtree(rows, ignore_errors=True)
    tasks = [
        intake.store(rows / task, task, entry.kind, name, recipe, seeds)
        for task, entry in sorted(config.corpus(recipe.tasks).tasks.items())
    ]
    todo = grid(tasks, arms, settings, seeds, context.scratch / "jobs")
    best = results.BestModel(todo)
    title = f"finetune@{name}"
    for done in shown(title, len(todo), pool.run_all(todo, pool.num_processes(todo))):
        best.offer(done)
    with stage.published(layout.run(name, "finetune")) as out:
        summary = results.write(out, todo, best.jobs())
        _write_generation(out, name, recipe, arms, config.seed)
        _finish_models(out, recipe.modality, name)
    _tell(context, tasks, layout.run(name, "finetune"))
    metrics = {
        ".".join([line["task"], line["arm"], line["method"], line["budget"], line["metric"]]): line["mean"]
        for line in summary
    }
    return stage.Outcome(metrics, samples=len(todo), units=len(todo), unit="runs")


def _arms(name: str, recipe: Recipe, config: Config) -> list[tuple[str, Path]]:
    """Name and model folder of the arms that are asked for and differ from each other."""
    same = _left_out(recipe, config)
    return [
        (arm, layout.run(name, "adapt" if arm == "adapted" else "pretrain") / "model")
        for arm in ("scratch", "pretrained", "adapted")
        if arm in recipe.finetune.arms and arm not in same
    ]


def _left_out(recipe: Recipe, config: Config) -> dict[str, str]:
    """The arms that equal the one before them, and why."""
    same = {}
    if not recipe.pretrain.steps and config.encoders[recipe.encoder].source is None:
        same["pretrained"] = "pretrain.steps is 0, so it equals scratch"
    if not recipe.adapt.steps:
        same["adapted"] = "adapt.steps is 0, so it equals the arm before"
    return same


def _more(arm: str, name: str, recipe: Recipe, config: Config) -> float:
    """Floating-point operations that each fine-tuning run of an arm may use beyond the settings' steps."""
    from tasks.training import COST

    settings = recipe.finetune
    if arm != "scratch" or settings.scratch_compute == "same_steps":
        return 0.0
    costs = (layout.run(name, stage) / COST for stage in TRAINING)
    flops = sum(float(json.loads(file.read_text())["flops"]) for file in costs)
    if settings.scratch_compute == "equal":
        return flops
    num_tasks = len(config.corpus(recipe.tasks).tasks)
    return flops / (num_tasks * len(settings.label_budgets) * settings.num_seeds)


def grid(
    tasks: Sequence[Any], arms: Sequence[Any], settings: Finetune, seeds: tuple[int, ...], folder: Path
) -> list[Any]:
    """Every job of the stage; the long ones first, so that processes end together."""
    from tasks.downstream import kind
    from tasks.downstream.jobs import Job

    made = []
    for task in tasks:
        points = sorted(task.points, key=_size, reverse=True)
        has_head = task.modality in kind(task.kind).HEADS
        for point in points if "finetune" in settings.methods and has_head else ():
            for arm in arms:
                for seed in seeds:
                    where = folder / task.name / arm.name / f"finetune-{point}-{seed}"
                    keeps = point == points[0]
                    made.append(Job(task, arm, "finetune", (point,), (seed,), settings, False, keeps, where))
        for arm in arms:
            embeds = arm == arms[-1]
            if embeds or {"probe", "knn"} & set(settings.methods):
                where = folder / task.name / arm.name / "probe"
                made.append(Job(task, arm, "probe", task.points, seeds, settings, embeds, False, where))
        if settings.floors:
            where = folder / task.name / FLOORS
            made.append(Job(task, None, "floor", task.points, seeds, settings, False, False, where))
    return made


def _size(point: int | str) -> float:
    return float("inf") if point == "all" else float(point)


def shown(title: str, total: int, jobs: Iterator[Any]) -> Iterator[Any]:
    """The finished jobs, shown as they come: a bar on a terminal, lines in a log."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        for number, job in enumerate(jobs, start=1):
            if number % max(1, total // 20) == 0 or number == total:
                log.info("%s %d/%d runs, last: %s", title, number, total, job.title)
            yield job
        return
    form = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} runs, {remaining} left{postfix}"
    with tqdm(total=total, desc=title, bar_format=form, dynamic_ncols=True, disable=None) as bar:
        for job in jobs:
            yield job
            bar.set_postfix_str(job.title, refresh=False)
            bar.update()


def _write_generation(out: Path, name: str, recipe: Recipe, arms: Sequence[Any], seed: int) -> None:
    """`samples.json`: perplexity and samples, where the encoders are causal language models."""
    from tasks.downstream import generation, jobs

    folders = {arm.name: arm.source for arm in arms if arm.pretrained and generation.applies(arm.source)}
    slots = [slot for slot in ("general", "domain") if getattr(recipe, slot) != "none"]
    if not folders or not slots:
        return
    length = int(json.loads((layout.prepared(name) / "manifest.json").read_text())["sequence_length"])
    with jobs.one_thread():
        made = generation.report(folders, layout.prepared(name), slots, length, seed)
    (out / "samples.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _finish_models(out: Path, modality: str, name: str) -> None:
    from tasks import modalities

    weights = str(layout.run(name, "pretrain") / "model")
    for folder in sorted((out / "models").iterdir()):
        modalities.tensors(modality).finish(layout.prepared(name), folder, weights)


def _tell(context: stage.Context, tasks: Sequence[Any], out: Path) -> None:
    """Keep what was read and what came out with the tracked run."""
    from tasks import serving
    from tasks.downstream import intake
    from tasks.downstream.rows import Rows

    for file in ("summary.json", "samples.json"):
        if (out / file).exists():
            context.journal.artifact(out / file)
    for task in tasks:
        folder = out / "models" / task.name
        if folder.exists() and serving.opens_anywhere(folder):
            ids = Rows.load(task.folder / "test").ids[:2]
            test = intake.read(context.recipe, task.name, "test", ids)
            examples = {
                column: [serving.example(value) for value in test.column(column).to_pylist()]
                for column in serving.INPUTS[serving.kind(folder)]
            }
            context.journal.model(folder, task.name, examples)


def main() -> None:
    """Command line: `python -m tasks.finetune <recipe>`."""
    stage.main("finetune", run, inputs)


if __name__ == "__main__":
    main()
