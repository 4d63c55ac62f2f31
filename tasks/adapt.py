"""Continued pretraining on the domain, and the transfer gap: `python -m tasks.adapt <recipe>`.

Don't Stop Pretraining, Gururangan et al. 2020, https://arxiv.org/abs/2004.10964: on a corpus of the
domain (DAPT), or on the tasks' own unlabelled training text (TAPT).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.parts.counter import mix, uniform
from models.settings import Settings
from tasks import distance, layout, modalities, stage, training
from tasks.config import Adapt, Config, Recipe
from tasks.engine.loader import Batches
from tasks.engine.precision import autocast

log = logging.getLogger(__name__)


class Replayed:
    """The domain's samples, of which a share is replaced by general ones against forgetting.

    Which positions are replaced depends on (seed, position) alone.
    """

    def __init__(self, domain: Batches, general: Batches, fraction: float, seed: int) -> None:
        self.domain = domain
        self.general = general
        self.fraction = fraction
        self.seed = seed
        self.num_samples = domain.num_samples
        self.unit = domain.unit
        self.units_per_sample = domain.units_per_sample

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """Samples of either corpus, stacked in the order of the positions."""
        key = torch.tensor(list(positions), dtype=torch.int64) + mix(self.seed, 1) % (1 << 40)
        is_general = uniform(key, 1, stream=5).squeeze(1) < self.fraction
        domain, general = self.domain.batch(positions), self.general.batch(positions)
        return {
            name: torch.where(is_general.view(-1, *[1] * (value.ndim - 1)), general[name], value)
            for name, value in domain.items()
        }


def run(context: stage.Context) -> stage.Outcome:
    """Adapt a recipe's pretrained encoder to its domain."""
    name, recipe, seed = context.name, context.recipe, context.config.seed
    settings, prepared = recipe.adapt, layout.prepared(context.name)
    pretrained = layout.run(name, "pretrain")
    weights = str(pretrained / "model")
    objective = training.build_objective(name, context.config, pretrained)
    evaluate = training.held_out(context, objective.reads, settings.evaluate_samples)
    trained = training.Trained()
    gap: dict[str, Any] = {}
    if settings.steps:
        device = next(objective.parameters()).device
        with torch.no_grad(), autocast(settings.precision, device):
            before = evaluate(objective.eval(), 0)
        apart = distance.measure(context, objective)
        trained = training.run(
            f"adapt@{name}", objective, _batches(prepared, recipe, objective.reads, seed), settings, evaluate,
            training.readings(context, settings, weights),
            seed=mix(seed, 2), scratch=context.scratch, journal=context.journal,
        )  # fmt: skip
        evaluations = trained.history.evaluations
        evaluations.insert(0, {"step": 0, **before})
        gap = _gap(name, before, dict(evaluations[-1]), settings)
        gap["features"] = distance.before_and_after(apart, distance.measure(context, objective))
    with stage.published(layout.run(name, "adapt")) as folder:
        training.leave(folder, objective, trained, prepared, recipe.modality, weights)
        (folder / "gap.json").write_text(json.dumps(gap, indent=1, sort_keys=True) + "\n")
    metrics = dict(trained.outcome.metrics)
    metrics |= {key: float(gap[key]) for key in ("gap_before", "gap_after", "forgetting") if key in gap}
    for measure, both in gap.get("features", {}).items():
        metrics |= {f"{measure}_{when}": value for when, value in both.items()}
    return dataclasses.replace(trained.outcome, metrics=metrics)


def _batches(prepared: Path, recipe: Recipe, reads: tuple[str, ...], seed: int) -> Batches:
    tensors = modalities.tensors(recipe.modality)
    settings = recipe.adapt
    target = tensors.batches(prepared, settings.corpus, "train", recipe, reads, mix(seed, 3))
    if not settings.replay_fraction:
        return target
    general = tensors.batches(prepared, "general", "train", recipe, reads, mix(seed, 4))
    return Replayed(target, general, settings.replay_fraction, seed)


def _gap(name: str, before: dict[str, float], after: dict[str, float], settings: Adapt) -> dict[str, Any]:
    """The transfer gap (loss on the domain minus loss on the general corpus) and what was forgotten."""
    gap: dict[str, Any] = {
        slot: {"before": before[slot], "after": after[slot]}
        for slot in ("general", "domain")
        if slot in before
    }
    if {"general", "domain"} <= gap.keys():
        gap["gap_before"] = before["domain"] - before["general"]
        gap["gap_after"] = after["domain"] - after["general"]
    if "general" in gap:
        forgetting = after["general"] - before["general"]
        gap |= {"forgetting": forgetting, "budget": settings.forgetting_budget}
        gap["within_budget"] = forgetting <= settings.forgetting_budget
        if not gap["within_budget"]:
            log.warning(
                "adapt@%s: the loss on the general corpus rose by %.3f, more than the budget of %.3f; "
                "raise adapt.replay_fraction or adapt.pull_to_initial, or lower adapt.steps",
                name, forgetting, settings.forgetting_budget,
            )  # fmt: skip
    validation = json.loads((layout.validated(name) / "validation.json").read_text())
    manifest = json.loads((layout.prepared(name) / "manifest.json").read_text())
    gap["overlap"] = validation.get("overlap", {})
    gap["fertility"] = manifest.get("fertility", {})
    return gap


def inputs(name: str, config: Config) -> tuple[Sequence[Settings], Sequence[Path]]:
    """What the work depends on."""
    recipe = config.recipe(name)
    files = (
        layout.prepared(name) / "manifest.json",
        layout.run(name, "pretrain") / "model" / "model.safetensors",
        layout.run(name, "pretrain") / training.HEADS,
        layout.validated(name) / "validation.json",
        *training.files_of_readings(name, config, recipe.adapt),
    )
    return (recipe.pretrain, recipe.adapt, config.encoders[recipe.encoder]), list(dict.fromkeys(files))


if __name__ == "__main__":
    stage.main("adapt", run, inputs)
