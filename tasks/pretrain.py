"""Self-supervised training on the general corpus: `python -m tasks.pretrain <recipe>`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.settings import Settings
from tasks import layout, modalities, stage, training
from tasks.config import Config


def run(context: stage.Context) -> stage.Outcome:
    """Pretrain a recipe's encoder with its objective."""
    name, recipe, seed = context.name, context.recipe, context.config.seed
    settings = recipe.pretrain
    objective = training.build_objective(name, context.config)
    prepared, source = layout.prepared(name), context.config.encoders[recipe.encoder].source
    evaluate = training.held_out(context, objective.reads, settings.evaluate_samples)
    trained = training.Trained()
    if settings.steps:
        batches = modalities.tensors(recipe.modality).batches(
            prepared, "general", "train", recipe, objective.reads, seed
        )
        trained = training.run(
            f"pretrain@{name}", objective, batches, settings, evaluate,
            training.readings(context, settings, source),
            seed=seed, scratch=context.scratch, journal=context.journal,
        )  # fmt: skip
    with stage.published(layout.run(name, "pretrain")) as folder:
        training.leave(folder, objective, trained, prepared, recipe.modality, source)
    return trained.outcome


def inputs(name: str, config: Config) -> tuple[Sequence[Settings], Sequence[Path]]:
    """What the work depends on."""
    recipe = config.recipe(name)
    files = [
        layout.prepared(name) / "manifest.json",
        *training.files_of_readings(name, config, recipe.pretrain),
    ]
    return (recipe.pretrain, config.encoders[recipe.encoder]), list(dict.fromkeys(files))


if __name__ == "__main__":
    stage.main("pretrain", run, inputs)
