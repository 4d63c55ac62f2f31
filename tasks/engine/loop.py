"""The one training loop: it owns time, and knows neither the method nor any tool around it.

Everything that happens at a step is a function of (seed, step): which samples, which masks, which
dropout, which rate. What a checkpoint must hold is therefore weights, optimizer, averages and one
integer, and a run that was killed ends bit-equal to one that was not. Where the guard sends the run
back to an earlier checkpoint, it goes on with samples of epochs that it would not have reached.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.objectives import Health, Objective
from models.parts.counter import mix
from tasks.engine import optimizer as optimizers
from tasks.engine.checkpoint import Checkpoints
from tasks.engine.distributed import World, world
from tasks.engine.events import Callback, Evaluate, Event, Probe
from tasks.engine.guard import (
    Collapsed,
    Decision,
    Guard,
    NonFiniteLoss,
    Verdict,
    check_finite,
    sameness,
)
from tasks.engine.interrupt import Interrupted, termination
from tasks.engine.loader import Batches, ahead, parts
from tasks.engine.memory import bounded, channels_last, keep_freed_memory
from tasks.engine.precision import autocast
from tasks.engine.schedule import learning_rate
from tasks.engine.settings import TrainSettings
from tasks.engine.state import History, State
from tasks.engine.wrapping import unsynchronised, wrapped

log = logging.getLogger(__name__)


def train(
    objective: Objective,
    batches: Batches,
    settings: TrainSettings,
    *,
    seed: int,
    checkpoints: Path | None = None,
    callbacks: Sequence[Callback] = (),
    evaluate: Evaluate | None = None,
    probe: Probe | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> History:
    """Train the objective in place; go on from the newest checkpoint where there is one.

    Args:
        objective: what is trained; holds the final (or averaged) weights afterwards.
        batches: samples by position.
        settings: length, batch, optimizer, schedule.
        seed: of sample order, masks and dropout.
        checkpoints: folder for resume; None keeps none.
        callbacks: told every `log_every` steps, and every `health_every` steps what the guard says.
        evaluate: asked every `evaluate_every` steps, and at the end of the weights that are kept, by
            the first of several ranks; the objective is in evaluation mode then, without gradient.
        probe: readings of the encoder; they leave the training as it is.
        stop: asked after each evaluation; True ends the training early.

    Raises:
        NonFiniteLoss: names the step; the weights were not touched by it.
        Collapsed: the guard saw the objective fail, and the settings say to stop.
        ValueError: the settings ask for roll-backs and there is no folder for checkpoints.
        Interrupted: SIGTERM or Ctrl-C came; a checkpoint was written.
    """
    if not settings.steps:
        return History()
    keep_freed_memory()
    with (
        world() as ranks,
        termination() as asked_to_stop,
        bounded(ranks.device),
        channels_last(objective),
    ):
        # without a name of its own, so that DDP is gone before its process group is
        return _Loop(objective.to(ranks.device), batches, settings, ranks, seed, checkpoints).run(
            callbacks, evaluate, probe, stop, asked_to_stop
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
        self.forward = wrapped(objective, settings, ranks)
        self.guard = Guard(settings)
        self.began = time.perf_counter()
        self.checkpoints = Checkpoints(folder, settings.keep_checkpoints) if folder else None
        if settings.on_collapse == "roll_back" and not folder:
            raise ValueError("on_collapse roll_back needs a folder for checkpoints; give one, or choose stop")
        newest = self.checkpoints.newest() if self.checkpoints else None
        if newest is not None:
            self.state.restore(*newest)
            self.guard.restore(newest[1]["guard"])
        else:
            objective.begin()
            if settings.on_collapse == "roll_back":
                self._save()
        self.steps_done = 0
        self.is_stopping = False

    def run(
        self,
        callbacks: Sequence[Callback],
        evaluate: Evaluate | None,
        probe: Probe | None,
        stop: Callable[[], bool],
        asked_to_stop: Callable[[], bool],
    ) -> History:
        state, settings = self.state, self.settings
        self.objective.train()
        for step, batch in self._prefetched():
            if probe and step % probe.every == 0:
                self._probe(probe)
            try:
                self._optimize(step, batch, asked_to_stop)
            except NonFiniteLoss as error:
                if settings.on_collapse != "roll_back":
                    raise
                self._act(callbacks, {}, Verdict("failed", str(error)))
                continue
            state.step = step + 1
            self.steps_done += 1
            is_last = state.step == settings.steps
            if self.checkpoints and self.ranks.is_first and self.steps_done == 1:
                self.checkpoints.reserve(state.tensors())
            if state.step % settings.log_every == 0 or is_last:
                self._log(callbacks)
            if self.guard.is_due(state.step) and self._look(callbacks, batch) == "roll_back":
                continue
            if (
                evaluate
                and not is_last
                and settings.evaluate_every
                and state.step % settings.evaluate_every == 0
            ):
                self._evaluate(evaluate)
                if self.ranks.from_first(stop):
                    break
            is_alone = self.ranks.size == 1
            is_interrupted = (asked_to_stop() if is_alone else self.is_stopping) and not is_last
            is_regular = state.step % settings.checkpoint_every == 0
            if is_regular:
                self.guard.saving(state.step)
            if is_regular or is_last or is_interrupted:
                self._save()
            if is_interrupted:
                self._finish_writing()
                raise Interrupted(state.step)
        self._finish_writing()
        state.keep_average()
        if evaluate and state.step == settings.steps:
            self._evaluate(evaluate)
        if probe:
            self._probe(probe)
        self.objective.eval()
        return state.history

    def _prefetched(self) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
        """Each step with its micro-batches; other samples after each roll-back."""
        size, steps = self.settings.batch_size, self.settings.steps
        num_samples = self.batches.num_samples
        num_positions = math.ceil(steps * size / num_samples) * num_samples

        def make(step: int) -> list[dict[str, Tensor]]:
            start = self.guard.num_roll_backs * num_positions + step * size
            positions = self.ranks.share(range(start, start + size))
            return parts(self.batches, positions, self.settings.micro_batches, self.ranks.device)

        return ahead(make, lambda: self.state.step, steps)

    def _optimize(self, step: int, batch: list[dict[str, Tensor]], asked_to_stop: Callable[[], bool]) -> None:
        """One optimizer step. Loss and gradient are exact means over all parts and ranks.

        If one rank is asked to stop, all know after the step.
        """
        torch.manual_seed(mix(self._seed(), step, self.ranks.rank))
        self.state.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(batch):
            with unsynchronised(self.forward, is_last=index == len(batch) - 1):
                with autocast(self.settings.precision, self.ranks.device):
                    result = self.forward(part)
                weight = torch.as_tensor(result.weight, dtype=torch.float64, device=result.loss.device)
                (result.loss.float() * weight.float()).backward()
            measured = {"weight": torch.ones_like(weight), "loss": result.loss.detach(), **result.metrics}
            for name, value in measured.items():
                sums[name] = sums.get(name, torch.zeros_like(weight)) + value.double() * weight
        sums["asked"] = torch.full_like(sums["weight"], asked_to_stop())
        totals = dict(zip(sums, self.ranks.sum(torch.stack([*sums.values()])), strict=True))
        weight, self.is_stopping = totals.pop("weight"), bool(totals.pop("asked"))
        means = {name: total / weight for name, total in totals.items()}
        norm = self.state.scale_and_clip(self.ranks.size / weight.float())  # DDP has divided by the ranks
        check_finite(step, float(means["loss"]), norm)
        if self.checkpoints:
            self.checkpoints.settle()
        optimizers.set_rate(self.state.optimizer, self._rate(step))
        self.state.optimizer.step()
        self.state.move_average(self.settings.ema_decay)
        self.objective.after_step((step + 1) / self.settings.steps)
        self.state.add({**means, "gradient_norm": torch.full_like(weight, norm)})

    def _seed(self) -> int:
        num_roll_backs = self.guard.num_roll_backs
        return mix(self.seed, num_roll_backs) if num_roll_backs else self.seed

    def _rate(self, step: int) -> float:
        return learning_rate(self.settings, step) * self.guard.memory.rate

    def _log(self, callbacks: Sequence[Callback]) -> None:
        state = self.state
        metrics = {**state.take_means(), "lr": self._rate(state.step - 1)}
        state.history.train.append({"step": state.step, **metrics})
        self._tell(callbacks, metrics)

    def _tell(
        self,
        callbacks: Sequence[Callback],
        metrics: Mapping[str, float],
        verdict: Verdict | None = None,
        decision: Decision = "",
    ) -> None:
        units = self.steps_done * self.settings.batch_size * self.batches.units_per_sample
        event = Event(
            self.state.step, self.settings.steps, metrics, self.steps_done, units,
            time.perf_counter() - self.began, self.batches.unit, verdict, decision,
        )  # fmt: skip
        for callback in callbacks if self.ranks.is_first else ():
            callback(event)

    def _look(self, callbacks: Sequence[Callback], batch: list[dict[str, Tensor]]) -> Decision:
        """Read the objective's health on the first rank, and act on it on all."""
        health = self.ranks.from_first(lambda: self._health(batch))
        if not health.measures and not health.signature:
            return ""
        self.state.history.health.append({"step": self.state.step, **health.measures})
        return self._act(callbacks, health.measures, self.guard.judge(health, self.state.step))

    def _health(self, batch: list[dict[str, Tensor]]) -> Health:
        health = self.objective.health()
        return replace(health, signature=sameness(batch[0]) or health.signature)

    def _act(
        self, callbacks: Sequence[Callback], measures: Mapping[str, float], verdict: Verdict
    ) -> Decision:
        step, decision = self.state.step, self.guard.decide(verdict)
        if decision:
            entry = {"step": step, "decision": decision, "sentence": verdict.sentence}
            self.state.history.decisions.append(entry)
        metrics = {f"health.{name}": value for name, value in measures.items()}
        self._tell(callbacks, metrics, verdict, decision)
        if decision == "stop":
            raise Collapsed(f"step {step}: {verdict.sentence}")
        if self.ranks.is_first and (decision or self.guard.memory.num_bad == 1):
            log.warning("step %d, %s: %s", step, decision or verdict.state, verdict.sentence)
        if decision == "roll_back":
            self._roll_back()
        return decision

    def _roll_back(self) -> None:
        """Become the last healthy checkpoint again; it then is the newest, and knows that we came back."""
        assert self.checkpoints is not None
        step = self.guard.memory.healthy_step
        known = {"guard": self.guard.scalars(), "decisions": self.state.history.decisions}
        if self.ranks.is_first:
            self.checkpoints.rewind(step, known)
        self.ranks.from_first(lambda: None)
        newest = self.checkpoints.newest()
        if newest is None or newest[1]["step"] != step:
            raise Collapsed(f"the checkpoint of step {step}, the last healthy one, is lost; start again")
        earlier_seconds = self.state.history.earlier_seconds
        self.state.restore(*newest)
        self.state.history.earlier_seconds = earlier_seconds  # this process still counts its own

    def _evaluate(self, evaluate: Evaluate) -> None:
        measured = self.ranks.from_first(lambda: self._asked(evaluate))
        self.state.history.evaluations.append({"step": self.state.step, **measured})

    def _probe(self, probe: Probe) -> None:
        measured = self.ranks.from_first(lambda: self._asked(probe.read))
        self.state.history.probes.append({"step": self.state.step, **measured})

    def _asked(self, ask: Evaluate) -> dict[str, float]:
        self.objective.eval()
        with torch.no_grad(), autocast(self.settings.precision, self.ranks.device):
            measured = ask(self.objective, self.state.step)
        self.objective.train()
        return dict(measured)

    def _save(self) -> None:
        if self.checkpoints and self.ranks.is_first:
            tensors, scalars = self.state.tensors(), {**self.state.scalars(), "guard": self.guard.scalars()}
            scalars["earlier_seconds"] += time.perf_counter() - self.began
            self.checkpoints.save(
                self.state.step, tensors, scalars, settled=self.state.settled(), keep=self.guard.protected
            )

    def _finish_writing(self) -> None:
        if self.checkpoints:
            self.checkpoints.wait()
