"""What pretraining and adapting share: the objective, its held-out losses, and what is left in the end."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from models import encoders, objectives
from models.objectives import LoneSample, Objective
from models.text import tokens
from models.text.attention import choose
from tasks import layout, modalities
from tasks.config import Config, SelfSupervised
from tasks.engine import compute
from tasks.engine.events import Event, Probe
from tasks.engine.loader import Batches
from tasks.engine.loop import train
from tasks.engine.memory import is_exhausted
from tasks.engine.state import History
from tasks.errors import InputError
from tasks.journal import Run
from tasks.progress import Progress
from tasks.stage import Context, Outcome, is_first

if TYPE_CHECKING:
    from tasks.downstream.readings import Readings

log = logging.getLogger(__name__)
HEADS = layout.HEADS
COST = "cost.json"
EVALUATION_BATCH = 64
MOST_FOR_READINGS = 0.05  # of the time; more is told with what to change


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
    source = str(stage / "model") if stage else encoder.source
    try:
        model = encoders.build(
            kind.auto,
            architecture=encoder.architecture,
            source=source,
            config={} if stage else encoder.config,
            data=decided,
            seed=config.seed,
        )
        tokens.check_vocabulary(model, decided.get("vocab_size", 0))
        tensors.check_encoder(model.config, recipe)
        objective = kind(model, wanted, **tensors.constants(prepared, source))
    except ValueError as error:
        raise InputError(f"recipes.{name}: {error}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choose(objective, getattr(recipe.prepare, "sequence_length", 0), device)
    if stage:
        objective.load_state_dict(load_file(stage / HEADS), strict=False)
    elif encoder.source:
        _take_heads(name, objective, Path(encoder.source))
    return objective


def _take_heads(name: str, objective: Objective, weights: Path) -> None:
    """Go on with the heads that lie with an encoder of ours, as far as they are of the same shape."""
    weights = weights.resolve()  # a run in a folder of its own has a link, with nothing beside it
    for file in (weights / HEADS, weights.parent / HEADS):
        if file.exists():
            mine, kept = objective.state_dict(), load_file(file)
            fitting = {
                key: value for key, value in kept.items() if key in mine and mine[key].shape == value.shape
            }
            objective.load_state_dict(fitting, strict=False)
            log.info("%s goes on with %d of %d parts of the heads in %s", name, len(fitting), len(kept), file)
            return
    log.info("%s: no heads lie with %s; they begin anew", name, weights)


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


def readings(context: Context, settings: SelfSupervised, weights: str | None) -> Readings | None:
    """What labels say of the encoder while it trains, where the settings ask for it."""
    if not settings.probe_every or not settings.steps:
        return None
    from tasks.downstream import readings

    return readings.of(context.name, context.config, settings, context.journal, weights)


def files_of_readings(name: str, config: Config, settings: SelfSupervised) -> list[Path]:
    """What `readings` reads."""
    if not settings.probe_every or not settings.steps:
        return []
    from tasks.downstream import readings

    return readings.files(name, config)


@dataclass(frozen=True)
class Trained:
    """What a training stage has to hand on.

    Attributes:
        history: losses, health and decisions.
        outcome: for metrics and records.
        flops: floating-point operations of all steps, see `tasks.engine.compute`.
    """

    history: History = field(default_factory=History)
    outcome: Outcome = field(default_factory=Outcome)
    flops: float = 0.0


def run(
    title: str,
    objective: Objective,
    batches: Batches,
    settings: SelfSupervised,
    evaluate: HeldOut,
    readings: Readings | None = None,
    *,
    seed: int,
    scratch: Path,
    journal: Run,
) -> Trained:
    """Train with a progress bar, tracked, from the newest checkpoint.

    Raises:
        InputError: the batch is too small for the objective, or too large for the memory.
    """
    progress, began = Progress(title, settings.steps), time.perf_counter()
    samples = settings.steps * settings.batch_size
    with _fitting(settings, objective):
        flops = samples * compute.per_sample(objective, batches)

    def track(event: Event) -> None:
        if event.verdict is not None:
            journal.log(event.metrics, event.step)
            if event.verdict.sentence:
                said = event.decision or event.verdict.state
                journal.tags({"health": f"step {event.step}, {said}: {event.verdict.sentence}"})
            if event.decision == "roll_back":
                journal.goes_back()
            return
        journal.log({**event.metrics, f"{event.unit}_per_second": progress.rate}, event.step)

    def read(objective: Objective, step: int) -> dict[str, float]:
        assert readings is not None
        scores = readings(objective, step)
        progress.tell(scores)
        return scores

    with _fitting(settings, objective):
        history = train(
            objective,
            batches,
            settings,
            seed=seed,
            checkpoints=scratch,
            callbacks=(progress, track),  # in this order: what is tracked is the rate shown
            evaluate=evaluate,
            probe=Probe(settings.probe_every, read) if readings else None,
        )
    progress.close()
    if readings and readings.seconds:
        _tell_cost(title, readings.seconds, time.perf_counter() - began)
    metrics = {f"heldout_{slot}": loss for slot, loss in _last(history.evaluations).items()}
    metrics["teraflop"] = flops / 1e12
    units = samples * batches.units_per_sample
    outcome = Outcome(metrics, samples, units, batches.unit, history.earlier_seconds)
    return Trained(history, outcome, flops)


def _tell_cost(title: str, seconds: float, whole: float) -> None:
    share = seconds / whole
    advice = "; raise probe_every, or lower probe_rows" if share > MOST_FOR_READINGS else ""
    log.info("%s: k-NN and probe took %.1f s, %.1f %% of the time%s", title, seconds, 100 * share, advice)


@contextlib.contextmanager
def _fitting(settings: SelfSupervised, objective: Objective) -> Iterator[None]:
    """What is wrong with the size of a batch or with recomputing, as something that a person can mend."""
    given = f"batch_size {settings.batch_size}, micro_batches {settings.micro_batches}"
    try:
        yield
    except LoneSample as error:
        raise InputError(f"{given}: {error}") from error
    except encoders.UnknownEncoder as error:
        raise InputError(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        can_recompute = objective.encoder.supports_gradient_checkpointing
        recompute = "set `gradient_checkpointing: true`, " if can_recompute else ""
        raise InputError(
            f"{given}: a step does not fit into memory. Lower `batch_size`, "
            f"{recompute}raise `micro_batches` (of which each compares its own samples alone), or give the "
            "objective fewer or smaller crops."
        ) from error


def _last(evaluations: Sequence[Mapping[str, float]]) -> dict[str, float]:
    last = dict(evaluations[-1]) if evaluations else {}
    last.pop("step", None)
    return last


def leave(
    folder: Path, objective: Objective, trained: Trained, prepared: Path, modality: str, weights: str | None
) -> None:
    """Write model, heads, losses and cost of a training stage; the first of several processes does.

    Args:
        folder: of the stage.
        objective: trained.
        trained: what the training has to hand on.
        prepared: tensors that it read.
        modality: of these.
        weights: what the stage started from, folder or name on the hub; None from scratch.
    """
    if not is_first():
        return
    objective.to("cpu")
    with encoders.quiet():
        objective.model.save_pretrained(folder / "model")
    modalities.tensors(modality).finish(prepared, folder / "model", weights)
    heads = {name: value for name, value in objective.state_dict().items() if not name.startswith("model.")}
    save_file(heads, folder / HEADS)
    (folder / "losses.json").write_text(json.dumps(losses(trained.history), indent=1) + "\n")
    (folder / COST).write_text(json.dumps({"flops": trained.flops}) + "\n")


def losses(history: History) -> dict[str, object]:
    """The history by what was measured, for the report."""
    slots = sorted({slot for entry in history.evaluations for slot in entry} - {"step"})
    return {
        "train": history.train,
        "health": history.health,
        "probes": history.probes,
        "decisions": history.decisions,
        "heldout": {
            slot: [
                {"step": entry["step"], "loss": entry[slot]} for entry in history.evaluations if slot in entry
            ]
            for slot in slots
        },
    }
