"""Nearest neighbours and a linear probe of an encoder that still trains, on validation rows.

What they say over the steps beside the pretext loss shows whether a task without labels teaches what
labels ask for. Nothing is chosen, so that validation rows are read often without harm: neighbours as
in `neighbours.py` with one number of them, the probe as in `probe.py` with one penalty. Test rows are
never read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from models.objectives import Objective
from tasks import layout, modalities
from tasks.config import Config, SelfSupervised
from tasks.downstream import classification, features, intake, neighbours
from tasks.downstream.jobs import one_thread
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows
from tasks.journal import Run
from tasks.modalities import Reader

KIND = "classification"
NEIGHBOURS = 20
PENALTY = 0.1
POOLING = "mean"


class Readings:
    """Accuracies on validation rows, `knn.<task>` and `probe.<task>`, and how long they took.

    Args:
        sets: training and validation rows of each task.
        reader: makes of rows what the encoder reads; None where it reads them as they are.
        precision: `auto`, `float32` or `bfloat16`.
        journal: is told every reading, and its seconds.

    Attributes:
        seconds: that all readings took so far.
    """

    def __init__(
        self,
        sets: Mapping[str, tuple[Rows, Rows]],
        reader: Reader | None,
        *,
        precision: str,
        journal: Run,
    ) -> None:
        self.sets = sets
        self.reader = reader
        self.precision = precision
        self.journal = journal
        self.seconds = 0.0

    def __call__(self, objective: Objective, step: int) -> dict[str, float]:
        """The accuracies after that many steps; the encoder and its attention stay as they are."""
        began = time.perf_counter()
        scores: dict[str, float] = {}
        for task, (train, validation) in self.sets.items():
            scores |= self._read(task, objective.encoder, train, validation)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.journal.log({**scores, "probe_seconds": seconds}, step)
        return scores

    def _read(self, task: str, encoder: PreTrainedModel, train: Rows, validation: Rows) -> dict[str, float]:
        answers = features.read(
            encoder,
            (train, validation),
            kind=KIND,
            reader=self.reader,
            pooling=POOLING,
            precision=self.precision,
        )
        train, validation = (
            split.with_features([vector for _, vector in answer])
            for split, answer in zip((train, validation), answers, strict=True)
        )
        labels = classification.truth(train.records)

        def accuracy(predict: Predict) -> float:
            return classification.score(validation, predict(validation))["accuracy"]

        with one_thread():
            (vote,) = neighbours.voters(train, labels, features.stacked, (NEIGHBOURS,))
            (probe,) = classification.probes(train, labels, (PENALTY,))
            return {f"knn.{task}": accuracy(vote), f"probe.{task}": accuracy(probe)}


def of(
    name: str, config: Config, settings: SelfSupervised, journal: Run, weights: str | None = None
) -> Readings:
    """Readings on the labelled sets of a recipe.

    Args:
        name: of the recipe.
        config: all of params.yaml.
        settings: of the stage.
        journal: where they are tracked.
        weights: what the stage starts from, folder or name on the hub; None from scratch.

    Raises:
        InputError: nothing can be learnt from a set; says which rows or labels, and what to do.
    """
    recipe, num_train = config.recipe(name), settings.probe_rows
    sets = {
        task: intake.sampled(
            task,
            KIND,
            name,
            recipe,
            num_train=num_train,
            num_validation=num_train // 2,
            seed=config.seed,
        )
        for task in tasks(name, config)
    }
    reader = modalities.tensors(recipe.modality).reader(layout.prepared(name), recipe, weights)
    return Readings(sets, reader, precision=settings.precision, journal=journal)


def tasks(name: str, config: Config) -> list[str]:
    """The labelled sets of a recipe that can be read."""
    sets = config.corpus(config.recipe(name).tasks).tasks
    return sorted(task for task, entry in sets.items() if entry.kind == KIND)


def files(name: str, config: Config) -> list[Path]:
    """What `of` reads."""
    return intake.files(name, config.recipe(name), tasks(name, config), intake.SEEN)
