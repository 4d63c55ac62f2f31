"""What pretraining and adapting share: the objective, its held-out losses, and what is left in the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from models import encoders, objectives
from models.attention import choose
from models.objectives import LoneSample, Objective
from tasks import layout, modalities
from tasks.config import Config
from tasks.engine.events import Event
from tasks.engine.loader import Batches
from tasks.engine.loop import train
from tasks.engine.memory import is_exhausted
from tasks.engine.settings import TrainSettings
from tasks.engine.state import History
from tasks.errors import InputError
from tasks.journal import Run
from tasks.progress import Progress
from tasks.stage import Context, Outcome, is_first

HEADS = "heads.safetensors"
EVALUATION_BATCH = 64


def build_objective(name: str, config: Config, stage: Path | None = None) -> Objective:
    """The recipe's objective, with the encoder it starts from or with what a stage left.

    Args:
        name: recipe.
        config: all of params.yaml.
        stage: folder of an earlier training stage, whose model and heads are taken.

    Raises:
        InputError: encoder, tokenizer and objective do not fit together; says what to change.
    """
    recipe = config.recipe(name)
    encoder = config.encoders[recipe.encoder]
    tensors = modalities.tensors(recipe.modality)
    prepared = layout.prepared(name)
    wanted = recipe.pretrain.objective
    kind = objectives.load(wanted.name)  # type: ignore[attr-defined]  # the union's tag
    decided = tensors.encoder_config(prepared)
    try:
        model = encoders.build(
            kind.auto,
            architecture=encoder.architecture,
            source=str(stage / "model") if stage else encoder.source,
            config={**encoder.config, **decided},
            seed=config.seed,
        )
        encoders.check_vocabulary(model, decided.get("vocab_size", 0))
        encoders.check_length(model, getattr(recipe.prepare, "sequence_length", 0))
        objective = kind(model, wanted, **tensors.constants(prepared))
    except ValueError as error:
        raise InputError(f"recipes.{name}: {error}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choose(objective, getattr(recipe.prepare, "sequence_length", 0), device)
    if stage:
        objective.load_state_dict(load_file(stage / HEADS), strict=False)
    return objective


class HeldOut:
    """Mean losses on held-out samples of each slot, as the loop's `evaluate`."""

    def __init__(self, slots: Mapping[str, Batches], num_samples: int, journal: Run) -> None:
        self.slots = slots
        self.num_samples = num_samples
        self.journal = journal

    def __call__(self, objective: Objective, step: int) -> dict[str, float]:
        """The loss per slot after that many steps."""
        device = next(objective.parameters()).device
        losses = {slot: self._loss(objective, batches, device) for slot, batches in self.slots.items()}
        self.journal.log({f"heldout.{slot}": loss for slot, loss in losses.items()}, step)
        return losses

    def _loss(self, objective: Objective, batches: Batches, device: torch.device) -> float:
        total = weight = 0.0
        count = min(self.num_samples, batches.num_samples)
        for start in range(0, count, EVALUATION_BATCH):
            batch = batches.batch(range(start, min(start + EVALUATION_BATCH, count)))
            step = objective({key: value.to(device) for key, value in batch.items()})
            total += float(step.loss) * float(step.weight)
            weight += float(step.weight)
        return total / weight


def held_out(context: Context, reads: tuple[str, ...], num_samples: int) -> HeldOut:
    """Held-out losses on all unlabelled corpora that the recipe has."""
    recipe = context.recipe
    tensors = modalities.tensors(recipe.modality)
    slots = {
        slot: tensors.batches(
            layout.prepared(context.name), slot, "heldout", recipe, reads, context.config.seed
        )
        for slot in ("general", "domain")
        if getattr(recipe, slot) != "none"
    }
    return HeldOut(slots, num_samples, context.journal)


@dataclass(frozen=True)
class Trained:
    """What a training stage has to hand on."""

    history: History
    outcome: Outcome


def run(
    title: str,
    objective: Objective,
    batches: Batches,
    settings: TrainSettings,
    evaluate: HeldOut,
    *,
    seed: int,
    scratch: Path,
    journal: Run,
) -> Trained:
    """Train with a progress bar, tracked, from the newest checkpoint.

    Raises:
        InputError: the batch is too small for the objective, or too large for the memory.
    """
    progress = Progress(title, settings.steps)

    def track(event: Event) -> None:
        if event.verdict is not None:
            journal.log(event.metrics, event.step)
            if event.verdict.sentence:
                said = event.decision or event.verdict.state
                journal.tags({"health": f"step {event.step}, {said}: {event.verdict.sentence}"})
            if event.decision == "roll_back":
                journal.goes_back()
            return
        rate = event.units / event.seconds
        journal.log({**event.metrics, f"{event.unit}_per_second": rate}, event.step)

    with _fitting(settings):
        history = train(
            objective,
            batches,
            settings,
            seed=seed,
            checkpoints=scratch,
            callbacks=(progress, track),
            evaluate=evaluate,
        )
    progress.close()
    samples = settings.steps * settings.batch_size
    metrics = {f"heldout_{slot}": loss for slot, loss in _last(history.evaluations).items()}
    outcome = Outcome(metrics, samples, samples * batches.units_per_sample, batches.unit)
    return Trained(history, outcome)


@contextlib.contextmanager
def _fitting(settings: TrainSettings) -> Iterator[None]:
    """What is wrong with the size of a batch, as something that a person can mend."""
    given = f"batch_size {settings.batch_size}, micro_batches {settings.micro_batches}"
    try:
        yield
    except LoneSample as error:
        raise InputError(f"{given}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise InputError(
            f"{given}: a step does not fit into memory; checkpoints are kept. Raise `micro_batches`, lower "
            "`batch_size`, set `gradient_checkpointing: true`, or give the objective fewer or smaller crops."
        ) from error


def _last(evaluations: Sequence[Mapping[str, float]]) -> dict[str, float]:
    last = dict(evaluations[-1]) if evaluations else {}
    last.pop("step", None)
    return last


def leave(folder: Path, objective: Objective, history: History, prepared: Path, modality: str) -> None:
    """Write model, heads and losses of a training stage; the first of several processes does."""
    if not is_first():
        return
    objective.to("cpu")
    with encoders.quiet():
        objective.model.save_pretrained(folder / "model")
    modalities.tensors(modality).finish(prepared, folder / "model")
    heads = {name: value for name, value in objective.state_dict().items() if not name.startswith("model.")}
    save_file(heads, folder / HEADS)
    (folder / "losses.json").write_text(json.dumps(losses(history), indent=1) + "\n")


def losses(history: History) -> dict[str, object]:
    """The history by what was measured, for the report."""
    slots = sorted({slot for entry in history.evaluations for slot in entry} - {"step"})
    return {
        "train": history.train,
        "health": history.health,
        "decisions": history.decisions,
        "heldout": {
            slot: [
                {"step": entry["step"], "loss": entry[slot]} for entry in history.evaluations if slot in entry
            ]
            for slot in slots
        },
    }
