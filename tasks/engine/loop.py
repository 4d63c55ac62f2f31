"""The one training loop: it owns time, and knows neither the method nor any tool around it.

Everything that happens at a step is a function of (seed, step): which samples, which masks, which
dropout, which rate. What a checkpoint must hold is therefore weights, optimizer, averages and one
integer, and a run that was killed ends bit-equal to one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.counter import mix
from models.objectives import Batch, Objective, Step
from tasks.engine import optimizer as optimizers
from tasks.engine.checkpoint import Checkpoints
from tasks.engine.distributed import World, world
from tasks.engine.interrupt import Interrupted, termination
from tasks.engine.loader import Batches
from tasks.engine.precision import autocast
from tasks.engine.schedule import learning_rate
from tasks.engine.settings import TrainSettings


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is not a number; the weights are still those of the step before."""


@dataclass(frozen=True)
class Event:
    """What callbacks are told every `log_every` steps.

    Attributes:
        step: steps done, counted from 1.
        total_steps: steps of the whole run.
        metrics: means over the steps since the last event, and the learning rate.
        steps_done: steps since this process started, which is fewer than `step` after a resume.
        units: units (tokens, images, ...) of those steps, over all ranks.
        seconds: time since it started, evaluations and checkpoints included.
        unit: the unit's name.
    """

    step: int
    total_steps: int
    metrics: Mapping[str, float]
    steps_done: int
    units: float
    seconds: float
    unit: str


class Callback(Protocol):
    """A side effect: a progress bar, a tracker, a guard."""

    def __call__(self, event: Event) -> None:
        """Called on the first rank only."""


Evaluate = Callable[[Objective, int], Mapping[str, float]]


@dataclass
class History:
    """What was measured: means between events, and held-out numbers, each with its step."""

    train: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


def train(
    objective: Objective,
    batches: Batches,
    settings: TrainSettings,
    *,
    seed: int,
    checkpoints: Path | None = None,
    callbacks: Sequence[Callback] = (),
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> History:
    """Train the objective in place; go on from the newest checkpoint where there is one.

    Args:
        objective: what is trained; holds the final (or averaged) weights afterwards.
        batches: samples by position.
        settings: length, batch, optimizer, schedule.
        seed: of sample order, masks and dropout.
        checkpoints: folder for resume; None keeps none.
        callbacks: told every `log_every` steps.
        evaluate: asked every `evaluate_every` steps and at the end, with the objective in
            evaluation mode, without gradient.
        stop: asked after each evaluation; True ends the training early.

    Raises:
        NonFiniteLoss: names the step; the weights were not touched by it.
        Interrupted: SIGTERM came; a checkpoint was written.
    """
    if not settings.steps:
        return History()
    with world() as ranks, termination() as asked_to_stop:
        run = _Run(objective.to(ranks.device), settings, ranks, seed, checkpoints)
        run.restore()
        return run.go(batches, callbacks, evaluate, stop, asked_to_stop)


class _Run:
    """State of one call of `train`."""

    def __init__(
        self, objective: Objective, settings: TrainSettings, ranks: World, seed: int, checkpoints: Path | None
    ) -> None:
        self.objective = objective
        self.settings = settings
        self.ranks = ranks
        self.seed = seed
        self.optimizer = optimizers.build(objective, settings)
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.initial = [w.detach().clone() for w in self.weights] if settings.pull_to_initial else []
        self.average = [w.detach().clone() for w in self.weights] if settings.ema_decay else []
        self.checkpoints = Checkpoints(checkpoints, settings.keep_checkpoints) if checkpoints else None
        self.step = 0
        self.history = History()
        self.sums: dict[str, Any] = {}
        self.num_summed, self.norm_sum = 0, 0.0
        self.forward = self._wrapped()

    def _wrapped(self) -> Callable[[Batch], Step]:
        if self.settings.gradient_checkpointing:
            encoder = self.objective.encoder
            # transformers 5.20 renamed the method; older ones know the first name only
            getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
        module: Any = self.objective
        if self.settings.compile:
            module = torch.compile(module)
        if self.ranks.size > 1:
            module = DistributedDataParallel(module, broadcast_buffers=False)
        forward: Callable[[Batch], Step] = module
        return forward

    def go(
        self,
        batches: Batches,
        callbacks: Sequence[Callback],
        evaluate: Evaluate | None,
        stop: Callable[[], bool],
        asked_to_stop: Callable[[], bool],
    ) -> History:
        began = time.perf_counter()
        first = self.step
        self.objective.train()
        for step, parts in self._prefetched(batches):
            self._optimize(step, parts)
            self.step = step + 1
            is_last = self.step == self.settings.steps
            if self.checkpoints and self.step == first + 1:
                self.checkpoints.reserve(self._tensors())
            if self.step % self.settings.log_every == 0 or is_last:
                self._log(callbacks, batches, (self.step - first), time.perf_counter() - began)
            every = self.settings.evaluate_every
            if evaluate and (is_last or (every and self.step % every == 0)):
                self._evaluate(evaluate)
                if stop():
                    break
            interrupted = asked_to_stop()
            if self.step % self.settings.checkpoint_every == 0 or interrupted or is_last:
                self._save()
            if interrupted and not is_last:
                self._finish_writing()
                raise Interrupted(self.step)
        self._finish_writing()
        if self.average:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.average)
        self.objective.eval()
        return self.history

    def _prefetched(self, batches: Batches) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
        """Each step with its micro-batches, made one step ahead by a thread."""
        size = self.settings.batch_size

        def make(step: int) -> list[dict[str, Tensor]]:
            positions = self.ranks.share(range(step * size, (step + 1) * size))
            part = math.ceil(len(positions) / self.settings.micro_batches)
            cuts = range(0, len(positions), part)
            return [self._moved(batches.batch(positions[cut : cut + part])) for cut in cuts]

        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            coming = thread.submit(make, self.step)
            for step in range(self.step, self.settings.steps):
                parts = coming.result()
                coming = thread.submit(make, min(step + 1, self.settings.steps - 1))
                yield step, parts

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.ranks.device.type == "cpu":
            return batch
        return {k: v.pin_memory().to(self.ranks.device, non_blocking=True) for k, v in batch.items()}

    def _optimize(self, step: int, parts: list[dict[str, Tensor]]) -> None:
        """One optimizer step. Loss and gradient are exact means over all parts and ranks."""
        torch.manual_seed(mix(self.seed, step, self.ranks.rank))
        self.optimizer.zero_grad()
        losses, weights = [], []
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            with _unsynchronised(self.forward, is_last):
                with autocast(self.settings.precision, self.ranks.device):
                    result = self.forward(part)
                weight = torch.as_tensor(result.weight, dtype=torch.float32, device=result.loss.device)
                (result.loss.float() * weight).backward()
            losses.append({"loss": result.loss.detach(), **result.metrics})
            weights.append(weight)
        total = self.ranks.sum(torch.stack(weights).sum())
        norm = self._scale_and_clip(total)
        if not math.isfinite(norm):
            raise NonFiniteLoss(
                f"step {step + 1}: the loss is {float(losses[-1]['loss']):g} and the gradient norm {norm:g}; "
                f"the weights of step {step} are kept. Lower `lr`, raise `warmup_fraction`, or look for "
                "broken samples in this step's batch."
            )
        optimizers.set_rate(self.optimizer, learning_rate(self.settings, step))
        self.optimizer.step()
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1 - self.settings.ema_decay)
        self.objective.after_step((step + 1) / self.settings.steps)
        self._accumulate(losses, weights, total, norm)

    @torch.no_grad()
    def _scale_and_clip(self, total_weight: Tensor) -> float:
        """Turn summed gradients into means, clip their global norm, and return it as it was."""
        gradients = optimizers.gradients(self.weights)
        mean = self.ranks.size / total_weight  # DDP has already divided by the number of ranks
        torch._foreach_mul_(gradients, mean)
        if self.initial:
            pull = 2 * self.settings.pull_to_initial
            moved = torch._foreach_sub(self.weights, self.initial)
            torch._foreach_add_([w.grad for w in self.weights], moved, alpha=pull)
        norm = nn.utils.get_total_norm(gradients)
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self.weights, self.settings.clip_norm, norm)
        return float(norm)

    def _accumulate(
        self, losses: list[dict[str, Tensor]], weights: list[Tensor], total: Tensor, norm: float
    ) -> None:
        """Add this step to the sums of the next event, in float64 so that a checkpoint keeps them exactly."""
        for name in losses[0]:
            parts = [part[name].double() * weight for part, weight in zip(losses, weights, strict=True)]
            self.sums[name] = self.sums.get(name, 0) + sum(parts) / total
        self.num_summed += 1
        self.norm_sum += norm

    def _log(self, callbacks: Sequence[Callback], batches: Batches, num_steps: int, seconds: float) -> None:
        names = sorted(self.sums)
        sums = self.ranks.sum(torch.stack([self.sums[name] for name in names]))
        metrics = dict(zip(names, (sums / self.num_summed).tolist(), strict=True))
        metrics["gradient_norm"] = self.norm_sum / self.num_summed
        metrics["lr"] = learning_rate(self.settings, self.step - 1)
        self.sums, self.num_summed, self.norm_sum = {}, 0, 0.0
        self.history.train.append({"step": self.step, **metrics})
        units = num_steps * self.settings.batch_size * batches.units_per_sample
        event = Event(self.step, self.settings.steps, metrics, num_steps, units, seconds, batches.unit)
        for callback in callbacks if self.ranks.is_first else ():
            callback(event)

    def _evaluate(self, evaluate: Evaluate) -> None:
        self.objective.eval()
        with torch.no_grad(), autocast(self.settings.precision, self.ranks.device):
            self.history.evaluations.append({"step": self.step, **evaluate(self.objective, self.step)})
        self.objective.train()

    def _tensors(self) -> dict[str, Tensor]:
        """All state that is tensors: weights, queues and teachers, optimizer, average, sums."""
        tensors = {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors |= {f"average.{index}": value for index, value in enumerate(self.average)}
        return tensors

    def _save(self) -> None:
        if self.checkpoints and self.ranks.is_first:
            scalars = {
                "step": self.step,
                "sums": {name: float(value) for name, value in self.sums.items()},
                "num_summed": self.num_summed,
                "norm_sum": self.norm_sum,
                "train": list(self.history.train),
                "evaluations": list(self.history.evaluations),
            }
            self.checkpoints.save(self.step, self._tensors(), scalars)

    def restore(self) -> None:
        """Load the newest whole checkpoint, if there is one."""
        newest = self.checkpoints.newest() if self.checkpoints else None
        if newest is None:
            return
        tensors, scalars = newest
        self.step = scalars["step"]
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64) for name, value in scalars["sums"].items()
        }
        self.num_summed, self.norm_sum = scalars["num_summed"], scalars["norm_sum"]
        self.history = History(scalars["train"], scalars["evaluations"])
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            groups.setdefault(kind, {})[rest] = value
        self.objective.load_state_dict(groups["objective"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in groups.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        for position, value in enumerate(self.average):
            value.copy_(groups["average"][str(position)])

    def _finish_writing(self) -> None:
        if self.checkpoints:
            self.checkpoints.wait()


def _unsynchronised(forward: Callable[[Batch], Step], is_last: bool) -> AbstractContextManager[None]:
    """DDP's `no_sync` for all micro-batches but the last; nothing where there is no DDP."""
    if is_last or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = forward.no_sync()
    return context
