"""Fine-tuning of one encoder on one draw of labels, with early stopping on validation."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from models import heads
from tasks.config import Finetune
from tasks.downstream import Kind, rows
from tasks.downstream.direction import sign
from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows, Supervision
from tasks.engine import compute, loop
from tasks.errors import InputError
from tasks.modalities import Reader

# Where `evaluate_every` is 0: how many looks at validation a whole run has. A look at 500 rows costs as
# much as 10 steps of 16.
EVALUATIONS = 5

Look = tuple[int, dict[str, float]]
log = logging.getLogger(__name__)


def schedule(settings: Finetune, num_rows: int) -> Finetune:
    """The settings for that many labelled rows: `max_epochs` in steps, at most `steps`."""
    batch_size = min(settings.batch_size, num_rows)
    per_epoch = math.ceil(num_rows / batch_size)
    steps = min(settings.steps, settings.max_epochs * per_epoch)
    every = settings.evaluate_every or max(per_epoch, math.ceil(steps / EVALUATIONS))
    return dataclasses.replace(settings, batch_size=batch_size, steps=steps, evaluate_every=every)


def longer(settings: Finetune, num_steps: int) -> Finetune:
    """A schedule with so many steps more, and as many looks at validation, none of which ends it."""
    steps = settings.steps + num_steps
    every = max(1, settings.evaluate_every * steps // settings.steps)
    return dataclasses.replace(settings, steps=steps, evaluate_every=every, patience=steps)


class EarlyStopping:
    """Keeps the weights that score best on validation, on disk, and says when to stop.

    The looks at validation are written after the weights, and those at or after the current step
    are forgotten: a run that resumes from an older checkpoint decides as if it had not been cut.

    Args:
        folder: where both are kept.
        metric: which of the scores decides.
        patience: looks without a better score before it is over.
    """

    def __init__(self, folder: Path, metric: str, patience: int) -> None:
        self.metric = metric
        self.patience = patience
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "validation.json"
        self._weights = folder / "best.safetensors"
        self.looks: list[Look] = []
        if self._file.exists():
            self.looks = [(step, scores) for step, scores in json.loads(self._file.read_text())]

    @property
    def best(self) -> Look:
        """The look with the best score; the first of equals."""
        return max(self.looks, key=lambda look: sign(self.metric) * look[1][self.metric])

    def look(self, step: int, scores: Mapping[str, float], model: PreTrainedModel) -> None:
        """Take note of the scores; keep the weights where they are the best."""
        self.looks = [*((at, before) for at, before in self.looks if at < step), (step, dict(scores))]
        if self.best[0] == step:
            partial = self._weights.with_suffix(".partial")
            save_file({name: value.contiguous() for name, value in _own(model).items()}, partial)
            partial.replace(self._weights)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self.looks))
        partial.replace(self._file)

    def is_over(self) -> bool:
        """Whether the last `patience` looks brought nothing."""
        return sum(step > self.best[0] for step, _ in self.looks) >= self.patience

    def restore(self, model: PreTrainedModel) -> None:
        """Give the model its best weights."""
        model.load_state_dict(load_file(self._weights), strict=False)
        model.tie_weights()


def _own(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state without second names of shared tensors, which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen or not value.numel():
            seen.add(value.data_ptr())
            own[name] = value
    return own


@dataclass(frozen=True)
class Fitted:
    """What a run left.

    Attributes:
        predict: predictions by its best weights.
        scores: theirs on validation.
        steps: optimizer steps that it was given.
    """

    predict: Predict
    scores: dict[str, float]
    steps: int


def fit(
    kind: Kind,
    model: PreTrainedModel,
    train: Rows,
    validation: Rows,
    labels: list[str],
    settings: Finetune,
    *,
    seed: int,
    folder: Path,
    reader: Reader | None = None,
    more_flops: float = 0.0,
) -> Fitted:
    """Train the model in place, and keep the weights that are best on validation.

    Args:
        kind: of the task.
        model: with a new head.
        train: the labelled rows of the draw.
        validation: rows that choose the step.
        labels: in the order of the logits.
        settings: of the stage.
        seed: of order and dropout.
        folder: for checkpoints and the best weights.
        reader: makes of stored inputs what the model reads.
        more_flops: floating-point operations by which the run is longer than the settings say.
    """
    targets = kind.targets(train, labels)
    usable = _usable(kind, model, train, targets).nonzero().flatten()
    plan = schedule(settings, max(1, len(usable)))
    inputs = {key: value[usable] for key, value in train.inputs.items()}
    answers = {key: value[usable] for key, value in targets.items()}
    supervised, batches = heads.Supervised(model, reader), Supervision(inputs, answers, seed)
    if more_flops and len(usable):
        cost = compute.per_sample(supervised, batches)
        plan = longer(plan, round(more_flops / (cost * plan.batch_size)))
    stopping = EarlyStopping(folder, kind.METRICS[0], plan.patience)
    predict = predictor(kind, model, labels, settings.precision, reader)

    def evaluate(objective: Any, step: int) -> Mapping[str, float]:
        scores = kind.score(validation, predict(validation))
        stopping.look(step, scores, model)
        return scores

    if len(usable):
        rows.use_fast_attention(model, train.inputs, rows.device())
        loop.train(
            supervised,
            batches,
            plan,
            seed=seed,
            checkpoints=folder / "loop",
            evaluate=evaluate,
            stop=stopping.is_over,
        )
    if not stopping.looks:
        return Fitted(predict, kind.score(validation, predict(validation)), 0)
    stopping.restore(model)
    return Fitted(predict, stopping.best[1], plan.steps)


def _usable(kind: Kind, model: PreTrainedModel, train: Rows, targets: Mapping[str, Tensor]) -> Tensor:
    """Boolean per row: whether its answer can be learnt from what the model reads of it.

    Raises:
        InputError: none of the recordings is long enough for its transcript.
    """
    learnable_B, room_B = kind.learnable(targets), heads.has_room(model, train.inputs, targets)
    if not room_B.all():
        short = [train.ids[row] for row in (~room_B).nonzero().flatten().tolist()]
        said = (
            f"{len(short)} of {len(train)} training recordings are too short for their transcripts, such as "
            f"{short[0]}: they have more characters than the encoder makes frames. Look at those "
            "transcripts, or take an encoder with shorter strides"
        )
        if len(short) == len(train):
            raise InputError(f"{said}.")
        log.warning("finetune: left out, for %s", said)
    return learnable_B & room_B


def predictor(
    kind: Kind, model: PreTrainedModel, labels: list[str], precision: str, reader: Reader | None = None
) -> Predict:
    """Predictions by the model as it is when asked."""

    def read(outputs: Any, batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        logits = {key: value.float().cpu() for key, value in outputs.items() if key.endswith("logits")}
        num_rows = len(next(iter(batch.values())))
        return [{key: value[row] for key, value in logits.items()} for row in range(num_rows)]

    def predict(given: Rows) -> list[str]:
        outputs = rows.answers(model, given.inputs, precision, read, rows.ask_through(reader))
        return kind.decode(outputs, given, labels)

    return predict
