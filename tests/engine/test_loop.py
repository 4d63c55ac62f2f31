"""The loop's promises: bit-equal resume, exact accumulation, nothing broken reaches the weights."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.encoders import UnknownEncoder
from models.objectives import CATALOG, Batch, Objective, Step
from tasks.engine import optimizer
from tasks.engine.checkpoint import Checkpoints
from tasks.engine.events import Event, Probe
from tasks.engine.guard import NonFiniteLoss
from tasks.engine.interrupt import Interrupted
from tasks.engine.loop import train
from tasks.engine.schedule import learning_rate
from tasks.engine.settings import TrainSettings
from tasks.engine.state import History
from tests.tiny import Numbers, Rows, samples, tiny_model, tiny_objective

SETTINGS = TrainSettings(
    steps=12, batch_size=8, lr=1e-3, log_every=3, checkpoint_every=4, precision="float32"
)


class StoppedHere(Exception):
    pass


class StopAfter:
    """A callback that ends the run as a kill would: without a word to the loop."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Event) -> None:
        if event.step >= self.step:
            raise StoppedHere


def weights(objective: Objective) -> list[Tensor]:
    return [value.clone() for value in objective.state_dict().values()]


def run(
    name: str,
    settings: TrainSettings,
    folder: Path | None = None,
    architecture: str | None = None,
    **more: object,
) -> tuple[Objective, History]:
    objective = tiny_objective(name, architecture=architecture)
    history = train(objective, samples(objective), settings, seed=5, checkpoints=folder, **more)  # type: ignore[arg-type]
    return objective, history


@pytest.mark.parametrize(
    ("name", "architecture"),
    [*((name, None) for name in sorted(CATALOG)), *((name, "resnet") for name in ("simclr", "moco", "byol"))],
)
def test_resumed_run_equals_uninterrupted_run(name: str, architecture: str | None, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, ema_decay=0.9, pull_to_initial=0.01, log_every=5)
    whole, expected = run(name, settings, architecture=architecture)
    with pytest.raises(StoppedHere):
        run(name, dataclasses.replace(settings), tmp_path, architecture, callbacks=[StopAfter(9)])
    resumed, history = run(name, settings, tmp_path, architecture)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert history == expected


def test_accumulated_micro_batches_equal_the_whole_batch() -> None:
    whole, first = run("masked_lm", SETTINGS)
    parts, second = run("masked_lm", dataclasses.replace(SETTINGS, micro_batches=4))
    assert [e["loss"] for e in first.train] == pytest.approx([e["loss"] for e in second.train], rel=1e-4)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_changes_nothing() -> None:
    _, plain = run("masked_lm", SETTINGS)
    _, recomputed = run("masked_lm", dataclasses.replace(SETTINGS, gradient_checkpointing=True))
    assert [e["loss"] for e in plain.train] == pytest.approx([e["loss"] for e in recomputed.train], rel=1e-5)


def test_gradient_checkpointing_is_refused_where_there_is_none() -> None:
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=True)
    with pytest.raises(UnknownEncoder, match="resnet cannot recompute activations"):
        run("simclr", settings, architecture="resnet")


def test_time_of_killed_lives_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StoppedHere):
        run("masked_lm", SETTINGS, tmp_path, callbacks=[StopAfter(9)])
    began = time.perf_counter()
    _, history = run("masked_lm", SETTINGS, tmp_path)
    assert history.earlier_seconds > 0
    assert run("masked_lm", SETTINGS)[1].earlier_seconds == 0
    assert history.earlier_seconds < 60 + time.perf_counter() - began


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("vit", {"embeddings.cls_token": 2, "layers.0.mlp.fc1.weight": 1, "layers.1.mlp.fc1.weight": 0}),
        ("bert", {"embeddings.word_embeddings.weight": 2, "encoder.layer.1.output.dense.weight": 0}),
        ("gpt2", {"wte.weight": 2, "h.0.attn.c_attn.weight": 1, "ln_f.weight": 0}),
        (
            "resnet",
            {
                "embedder.embedder.convolution.weight": 2,
                "encoder.stages.0.layers.0.layer.1.convolution.weight": 1,
                "encoder.stages.1.layers.0.layer.0.convolution.weight": 0,
                "encoder.stages.1.layers.0.shortcut.convolution.weight": 0,
            },
        ),
    ],
)
def test_rates_decay_by_layer_from_the_top_down(architecture: str, expected: dict[str, int]) -> None:
    model = tiny_model("AutoModel", architecture=architecture)
    settings = dataclasses.replace(SETTINGS, layer_decay=0.5)
    groups = optimizer.build(model, settings).param_groups
    scales = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    found = {name: scales[id(weight)] for name, weight in model.named_parameters()}
    assert {name: found[name] for name in expected} == {name: 0.5**above for name, above in expected.items()}


def test_heads_learn_at_the_rate_of_the_last_layer() -> None:
    objective = tiny_objective("mae")
    groups = optimizer.build(objective, dataclasses.replace(SETTINGS, layer_decay=0.5)).param_groups
    scales = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    heads = [weight for name, weight in objective.named_parameters() if not name.startswith("model.")]
    assert {scales[id(weight)] for weight in heads if weight.requires_grad} == {1.0}
    assert len(set(scales.values())) == 3


def test_non_finite_loss_stops_before_it_reaches_the_weights() -> None:
    objective = tiny_objective("masked_lm")
    seen: list[list[Tensor]] = []
    original = objective.forward

    def forward(batch: dict[str, Tensor]) -> object:
        step = original(batch)
        if len(seen) == 3:
            return dataclasses.replace(step, loss=step.loss * float("nan"))
        seen.append(weights(objective))
        return step

    objective.forward = forward  # type: ignore[assignment]
    with pytest.raises(NonFiniteLoss, match="step 4"):
        train(objective, Rows(), SETTINGS, seed=0)
    assert all(torch.isfinite(value).all() for value in weights(objective))
    assert any(not torch.equal(a, b) for a, b in zip(seen[-1], weights(objective), strict=True))


@pytest.mark.usefixtures("heard")
def test_the_second_ctrl_c_is_obeyed_at_once(tmp_path: Path) -> None:
    def press(event: Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("masked_lm", SETTINGS, tmp_path, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Line(Objective):
    """A sum, learnt by two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))

    def forward(self, batch: Batch) -> Step:
        x = batch["x"]
        return Step((self.layers(x).squeeze(1) - x.sum(1)).square().mean(), {}, len(batch["key"]))


def test_steps_are_adamws_at_the_scheduled_rate_with_clipped_gradients() -> None:
    settings = TrainSettings(
        steps=12, batch_size=4, lr=1e-2, layer_decay=0.5, weight_decay=0.3, clip_norm=0.05,
        precision="float32",
    )  # fmt: skip
    found, expected = Line(), Line()
    train(found, Numbers(), settings, seed=0)
    adamw = torch.optim.AdamW(
        [
            {
                "params": [weight],
                "weight_decay": 0.3 if weight.ndim > 1 else 0.0,
                "scale": 0.5 if name.startswith("layers.0") else 1.0,
            }
            for name, weight in expected.named_parameters()
        ],
        betas=settings.betas,
        eps=settings.eps,
    )
    for step in range(12):
        adamw.zero_grad()
        expected(Numbers().batch(range(4 * step, 4 * step + 4))).loss.backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.05)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(settings, step) * group["scale"]
        adamw.step()
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_holds_its_step_however_slow_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Checkpoints._stage

    def slowly(self: Checkpoints, tensors: Mapping[str, Tensor]) -> None:
        if threading.current_thread().name == "checkpoint":
            time.sleep(0.1)
        stage(self, tensors)

    monkeypatch.setattr(Checkpoints, "_stage", slowly)
    settings = dataclasses.replace(SETTINGS, log_every=1, ema_decay=0.9)
    whole, _ = run("byol", settings, architecture="resnet")
    with pytest.raises(StoppedHere):
        run("byol", settings, tmp_path, "resnet", callbacks=[StopAfter(9)])
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    resumed, _ = run("byol", settings, tmp_path, "resnet")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


@pytest.mark.parametrize(
    ("changes", "calls", "dtype"),
    [
        ({}, 1, torch.float32),
        ({"gradient_checkpointing": True}, 2, torch.float32),
        ({"precision": "bfloat16"}, 1, torch.bfloat16),
    ],
)
def test_activations_are_computed_as_the_settings_say(
    changes: dict[str, Any], calls: int, dtype: torch.dtype
) -> None:
    objective, seen = tiny_objective("masked_lm"), []
    encoder: Any = objective.encoder
    encoder.encoder.layer[0].output.dense.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    train(objective, Rows(), dataclasses.replace(SETTINGS, steps=1, **changes), seed=0)
    assert seen == [dtype] * calls


def test_the_last_evaluation_is_of_the_weights_that_are_kept() -> None:
    seen = []

    def evaluate(objective: Objective, step: int) -> dict[str, float]:
        seen.append(weights(objective))
        return {"score": 0.0}

    settings = dataclasses.replace(SETTINGS, ema_decay=0.99)
    objective, _ = run("masked_lm", settings, evaluate=evaluate)
    assert all(torch.equal(a, b) for a, b in zip(seen[-1], weights(objective), strict=True))


def test_zero_steps_keep_the_weights() -> None:
    objective = tiny_objective("masked_lm")
    before = weights(objective)
    assert train(objective, Rows(), dataclasses.replace(SETTINGS, steps=0), seed=0) == History()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(objective), strict=True))


def test_evaluations_are_kept_and_may_end_the_run() -> None:
    asked: list[int] = []

    def evaluate(objective: Objective, step: int) -> dict[str, float]:
        assert not objective.training
        asked.append(step)
        return {"score": float(step)}

    settings = dataclasses.replace(SETTINGS, evaluate_every=4)
    _, history = run("causal_lm", settings, evaluate=evaluate, stop=lambda: len(asked) == 2)
    assert history.evaluations == [{"step": 4, "score": 4.0}, {"step": 8, "score": 8.0}]


def test_readings_begin_with_the_initial_weights_and_end_with_those_that_are_kept() -> None:
    seen: list[list[Tensor]] = []

    def read(objective: Objective, step: int) -> dict[str, float]:
        assert not objective.training
        assert not torch.is_grad_enabled()
        seen.append(weights(objective))
        return {"score": float(step)}

    settings = dataclasses.replace(SETTINGS, ema_decay=0.99)
    objective, history = run("masked_lm", settings, probe=Probe(5, read))
    assert history.probes == [{"step": step, "score": float(step)} for step in (0, 5, 10, 12)]
    for found, expected in ((seen[0], weights(tiny_objective("masked_lm"))), (seen[-1], weights(objective))):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def distance_from_start(objective: Objective) -> float:
    start = weights(tiny_objective("masked_lm"))
    return sum(float((a - b).square().sum()) for a, b in zip(weights(objective), start, strict=True))


def test_averaged_weights_are_what_remains() -> None:
    plain, _ = run("masked_lm", SETTINGS)
    averaged, _ = run("masked_lm", dataclasses.replace(SETTINGS, ema_decay=0.99))
    distance = [distance_from_start(objective) for objective in (plain, averaged)]
    assert 0 < distance[1] < 0.5 * distance[0]


def test_pull_to_initial_holds_the_weights_back() -> None:
    free, _ = run("masked_lm", SETTINGS)
    pulled, _ = run("masked_lm", dataclasses.replace(SETTINGS, pull_to_initial=10.0))
    distance = [distance_from_start(objective) for objective in (free, pulled)]
    assert distance[1] < 0.5 * distance[0]


def train_and_save(folder: Path, out: Path) -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(os.getpid())  # nothing of the end may hang on these
    settings = TrainSettings(steps=120, batch_size=8, checkpoint_every=5, log_every=4, ema_decay=0.9)
    objective = tiny_objective("declutr")
    train(objective, Rows(objective.reads), settings, seed=1, checkpoints=folder)
    save_file({name: value.contiguous().clone() for name, value in objective.state_dict().items()}, out)


def start(folder: Path, out: Path) -> ForkProcess:
    """A process that can be killed; forked, because loading torch anew takes longer than the training."""
    process = get_context("fork").Process(target=train_and_save, args=(folder, out))
    process.start()
    return process


@pytest.mark.slow
def test_run_killed_at_any_moment_ends_bit_equal(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    undisturbed = start(tmp_path / "undisturbed", whole)
    undisturbed.join(120)
    assert undisturbed.exitcode == 0
    out = tmp_path / "killed.safetensors"
    for at_least in (5, 40, 80):
        process = start(tmp_path / "killed", out)
        while not any(int(p.stem[5:]) >= at_least for p in (tmp_path / "killed").glob("step-*.json")):
            assert process.is_alive()
            time.sleep(0.005)
        process.kill()
        process.join()
    last = start(tmp_path / "killed", out)
    last.join(120)
    assert last.exitcode == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C does what it does at a terminal; who runs the tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_being_asked_to_stop_leaves_a_checkpoint_of_the_step(signum: int, tmp_path: Path) -> None:
    def terminate(event: Event) -> None:
        if event.step == 3:
            os.kill(os.getpid(), signum)

    with pytest.raises(Interrupted, match="step 3"):
        run("masked_lm", SETTINGS, tmp_path, callbacks=[terminate])
    assert [path.name for path in tmp_path.glob("*.json")] == ["step-000000003.json"]
    whole, _ = run("masked_lm", SETTINGS)
    resumed, _ = run("masked_lm", SETTINGS, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
