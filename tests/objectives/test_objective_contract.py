"""What every line of the catalogue promises."""

from __future__ import annotations

import copy

import pytest
import torch

from models import objectives
from tests.tiny import Rows, tiny_objective

NAMES = sorted(objectives.CATALOG)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch_for(name: str, num: int = 8) -> dict[str, torch.Tensor]:
    return Rows(objectives.load(name).reads).batch(range(num))


def test_loss_is_a_finite_scalar_and_metrics_are_detached(name: str) -> None:
    step = tiny_objective(name)(batch_for(name))
    assert step.loss.shape == ()
    assert torch.isfinite(step.loss)
    assert step.metrics
    assert not any(value.requires_grad for value in step.metrics.values())


def test_gradient_reaches_every_trainable_weight(name: str) -> None:
    objective = tiny_objective(name)
    objective(batch_for(name)).loss.backward()
    without = [
        n for n, w in objective.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())
    ]
    assert [n for n in without if "position" not in n and "wpe" not in n and "token_type" not in n] == []


def test_loss_falls_on_one_batch(name: str) -> None:
    objective = tiny_objective(name)
    batch = batch_for(name)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        step = objective(batch)
        step.loss.backward()
        optimizer.step()
        objective.after_step(0.5)
        losses.append(step.loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_same_seed_gives_the_same_loss_and_another_key_another(name: str) -> None:
    first, second = tiny_objective(name), tiny_objective(name)
    batch = batch_for(name)
    assert torch.equal(first(batch).loss, second(batch).loss)
    if name != "causal_lm":  # hides nothing at random
        other = {**batch, "key": batch["key"] + 1}
        assert not torch.equal(first(batch).loss, first(other).loss)


def test_state_saved_in_mid_training_continues_bit_equal(name: str) -> None:
    def advance(objective: objectives.Objective, optimizer: torch.optim.Optimizer, steps: range) -> float:
        for step in steps:
            optimizer.zero_grad()
            loss = objective(Rows(objective.reads).batch(range(8 * step, 8 * step + 8))).loss
            loss.backward()
            optimizer.step()
            objective.after_step(step / 10)
        return loss.item()

    whole = tiny_objective(name)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    advance(whole, optimizer, range(4))
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    expected = advance(whole, optimizer, range(4, 8))
    resumed = tiny_objective(name, seed=1)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=1e-3)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert advance(resumed, optimizer, range(4, 8)) == expected


def test_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="known: .*masked_lm"):
        objectives.load("masked")
