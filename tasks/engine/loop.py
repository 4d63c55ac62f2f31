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
from dataclasses import dataclass
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
from tasks.engine.memory import keep_freed_memory
from tasks.engine.precision import autocast
from tasks.engine.schedule import learning_rate
from tasks.engine.settings import TrainSettings
from tasks.engine.state import History, State


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
        evaluate: asked every `evaluate_every` steps, and at the end of the weights that are kept;
            the objective is in evaluation mode then, without gradient.
        stop: asked after each evaluation; True ends the training early.

    Raises:
        NonFiniteLoss: names the step; the weights were not touched by it.
        Interrupted: SIGTERM came; a checkpoint was written.
    """
    if not settings.steps:
        return History()
    keep_freed_memory()
    with world() as ranks, termination() as asked_to_stop:
        # without a name of its own, so that DDP is gone before its process group is
        return _Loop(objective.to(ranks.device), batches, settings, ranks, seed, checkpoints).run(
            callbacks, evaluate, stop, asked_to_stop
        )


class _Loop:
    """One call of `train`."""

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        settings: TrainSettings,
        ranks: World,
        seed: int,
        folder: Path | None,
    ) -> None:
        self.objective = objective
        self.batches = batches
        self.settings = settings
        self.ranks = ranks
        self.seed = seed
        self.state = State(objective, settings)
        self.forward = _wrapped(objective, settings, ranks)
        self.checkpoints = Checkpoints(folder, settings.keep_checkpoints) if folder else None
        newest = self.checkpoints.newest() if self.checkpoints else None
        if newest is not None:
            self.state.restore(*newest)
        self.began = time.perf_counter()
        self.first_step = self.state.step

    def run(
        self,
        callbacks: Sequence[Callback],
        evaluate: Evaluate | None,
        stop: Callable[[], bool],
        asked_to_stop: Callable[[], bool],
    ) -> History:
        state, settings = self.state, self.settings
        self.objective.train()
        for step, parts in self._prefetched():
            self._optimize(step, parts)
            state.step = step + 1
            is_last = state.step == settings.steps
            if self.checkpoints and step == self.first_step:
                self.checkpoints.reserve(state.tensors())
            if state.step % settings.log_every == 0 or is_last:
                self._log(callbacks)
            if (
                evaluate
                and not is_last
                and settings.evaluate_every
                and state.step % settings.evaluate_every == 0
            ):
                self._evaluate(evaluate)
                if stop():
                    break
            is_interrupted = asked_to_stop() and not is_last
            if state.step % settings.checkpoint_every == 0 or is_last or is_interrupted:
                self._save()
            if is_interrupted:
                self._finish_writing()
                raise Interrupted(state.step)
        self._finish_writing()
        state.keep_average()
        if evaluate and state.step == settings.steps:
            self._evaluate(evaluate)
        self.objective.eval()
        return state.history

    def _prefetched(self) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
        """Each step with its micro-batches, made one step ahead by a thread."""
        size, steps = self.settings.batch_size, self.settings.steps

        def make(step: int) -> list[dict[str, Tensor]]:
            positions = self.ranks.share(range(step * size, (step + 1) * size))
            part = math.ceil(len(positions) / self.settings.micro_batches)
            cuts = range(0, len(positions), part)
            return [self._moved(self.batches.batch(positions[cut : cut + part])) for cut in cuts]

        with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
            coming = thread.submit(make, self.state.step)
            for step in range(self.state.step, steps):
                parts = coming.result()
                if step + 1 < steps:
                    coming = thread.submit(make, step + 1)
                yield step, parts

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.ranks.device.type == "cpu":
            return batch
        return {k: v.pin_memory().to(self.ranks.device, non_blocking=True) for k, v in batch.items()}

    def _optimize(self, step: int, parts: list[dict[str, Tensor]]) -> None:
        """One optimizer step. Loss and gradient are exact means over all parts and ranks."""
        torch.manual_seed(mix(self.seed, step, self.ranks.rank))
        self.state.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with _unsynchronised(self.forward, is_last=index == len(parts) - 1):
                with autocast(self.settings.precision, self.ranks.device):
                    result = self.forward(part)
                weight = torch.as_tensor(result.weight, dtype=torch.float64, device=result.loss.device)
                (result.loss.float() * weight.float()).backward()
            measured = {"weight": torch.ones_like(weight), "loss": result.loss.detach(), **result.metrics}
            for name, value in measured.items():
                sums[name] = sums.get(name, torch.zeros_like(weight)) + value.double() * weight
        totals = dict(zip(sums, self.ranks.sum(torch.stack([*sums.values()])), strict=True))
        weight = totals.pop("weight")
        means = {name: total / weight for name, total in totals.items()}
        norm = self._scale_and_clip(weight.float())
        if not math.isfinite(norm):
            raise NonFiniteLoss(
                f"step {step + 1}: the loss is {float(means['loss']):g} and the gradient norm {norm:g}; "
                f"the weights of step {step} are kept. Lower `lr`, raise `warmup_fraction`, or look for "
                "broken samples in this step's batch."
            )
        optimizers.set_rate(self.state.optimizer, learning_rate(self.settings, step))
        self.state.optimizer.step()
        self.state.move_average(self.settings.ema_decay)
        self.objective.after_step((step + 1) / self.settings.steps)
        self.state.add({**means, "gradient_norm": torch.full_like(weight, norm)})

    @torch.no_grad()
    def _scale_and_clip(self, total_weight: Tensor) -> float:
        """Turn summed gradients into means, clip their global norm, and return it as it was."""
        state = self.state
        gradients = optimizers.gradients(state.weights)
        # DDP has already divided by the number of ranks
        torch._foreach_mul_(gradients, self.ranks.size / total_weight)
        if state.initial:
            moved = torch._foreach_sub(state.weights, state.initial)
            pull = 2 * self.settings.pull_to_initial
            torch._foreach_add_([weight.grad for weight in state.weights], moved, alpha=pull)
        norm = nn.utils.get_total_norm(gradients)
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(state.weights, self.settings.clip_norm, norm)
        return float(norm)

    def _log(self, callbacks: Sequence[Callback]) -> None:
        state, settings = self.state, self.settings
        metrics = {**state.take_means(), "lr": learning_rate(settings, state.step - 1)}
        state.history.train.append({"step": state.step, **metrics})
        num_steps = state.step - self.first_step
        units = num_steps * settings.batch_size * self.batches.units_per_sample
        seconds = time.perf_counter() - self.began
        event = Event(state.step, settings.steps, metrics, num_steps, units, seconds, self.batches.unit)
        for callback in callbacks if self.ranks.is_first else ():
            callback(event)

    def _evaluate(self, evaluate: Evaluate) -> None:
        self.objective.eval()
        with torch.no_grad(), autocast(self.settings.precision, self.ranks.device):
            measured = evaluate(self.objective, self.state.step)
        self.state.history.evaluations.append({"step": self.state.step, **measured})
        self.objective.train()

    def _save(self) -> None:
        if self.checkpoints and self.ranks.is_first:
            self.checkpoints.save(self.state.step, self.state.tensors(), self.state.scalars())

    def _finish_writing(self) -> None:
        if self.checkpoints:
            self.checkpoints.wait()


def _wrapped(objective: Objective, settings: TrainSettings, ranks: World) -> Callable[[Batch], Step]:
    """The objective as it is called: recomputing activations, compiled, synchronised over ranks."""
    if settings.gradient_checkpointing:
        encoder = objective.encoder
        # transformers 5.20 renamed the method; older ones know the first name only
        getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
    module: Any = objective
    if settings.compile:
        module = torch.compile(module)
    if ranks.size > 1:
        module = DistributedDataParallel(module, forward_sync_buffers=False)
    forward: Callable[[Batch], Step] = module
    return forward


def _unsynchronised(forward: Callable[[Batch], Step], *, is_last: bool) -> AbstractContextManager[None]:
    """DDP's `no_sync` for all micro-batches but the last; nothing where there is no DDP."""
    if is_last or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[None] = forward.no_sync()
    return context
