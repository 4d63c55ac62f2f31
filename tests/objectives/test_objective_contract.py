"""What every line of the catalogue promises."""

from __future__ import annotations

import copy

import pytest
import torch

from models import objectives
from models.objectives import Objective
from tests.tiny import samples, tiny_objective

CONVOLUTIONAL = {"simclr", "moco", "byol", "simsiam", "dino"}  # batch normalisation has states of its own
SYMMETRIC: dict[str, object] = {"queue": 0}
CASES: list[tuple[str, str | None, dict[str, object]]] = [
    *((name, None, {}) for name in sorted(objectives.CATALOG)),
    *((name, "resnet", {}) for name in sorted(CONVOLUTIONAL & objectives.CATALOG.keys())),
    *(("moco", architecture, SYMMETRIC) for architecture in (None, "resnet")),
]
MOVING_TARGETS = {"moco", "dino"}  # queue and centre make the task harder as they fill
UNREAD = ("position", "wpe", "token_type")  # rows of tables that short inputs do not reach


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], case[1] or "", *case[2]]))
def case(request: pytest.FixtureRequest) -> tuple[str, str | None, dict[str, object]]:
    chosen: tuple[str, str | None, dict[str, object]] = request.param
    return chosen


def build(case: tuple[str, str | None, dict[str, object]], seed: int = 0) -> Objective:
    name, architecture, settings = case
    return tiny_objective(name, seed, architecture, **settings).train()


def batch_for(objective: Objective, num: int = 8) -> dict[str, torch.Tensor]:
    return samples(objective).batch(range(num))


def test_loss_is_a_finite_scalar_and_metrics_are_detached(
    case: tuple[str, str | None, dict[str, object]],
) -> None:
    objective = build(case)
    step = objective(batch_for(objective))
    assert step.loss.shape == ()
    assert torch.isfinite(step.loss)
    assert step.metrics
    assert not any(value.requires_grad for value in step.metrics.values())


def test_gradient_reaches_every_trainable_weight(case: tuple[str, str | None, dict[str, object]]) -> None:
    objective = build(case)
    objective(batch_for(objective)).loss.backward()
    without = [
        n for n, w in objective.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())
    ]
    assert [n for n in without if not any(table in n for table in UNREAD)] == []


def test_loss_falls_on_one_batch(case: tuple[str, str | None, dict[str, object]]) -> None:
    objective = build(case)
    batch = batch_for(objective)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        step = objective(batch)
        step.loss.backward()
        optimizer.step()
        if case[0] not in MOVING_TARGETS:
            objective.after_step(0.5)
        losses.append(step.loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_same_seed_gives_the_same_loss_and_another_key_another(
    case: tuple[str, str | None, dict[str, object]],
) -> None:
    first, second = build(case), build(case)
    batch = batch_for(first)
    assert torch.equal(first(batch).loss, second(batch).loss)
    if case[0] != "causal_lm":  # hides nothing at random
        other = {**batch, "key": batch["key"] + 1}
        assert not torch.equal(first(batch).loss, build(case)(other).loss)


def test_evaluation_changes_no_state(case: tuple[str, str | None, dict[str, object]]) -> None:
    objective = build(case).eval()
    before = copy.deepcopy(objective.state_dict())
    with torch.no_grad():
        losses = [objective(batch_for(objective)).loss for _ in range(2)]
    assert torch.equal(*losses)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_state_saved_in_mid_training_continues_bit_equal(
    case: tuple[str, str | None, dict[str, object]],
) -> None:
    def advance(objective: objectives.Objective, optimizer: torch.optim.Optimizer, steps: range) -> float:
        for step in steps:
            optimizer.zero_grad()
            loss = objective(samples(objective).batch(range(8 * step, 8 * step + 8))).loss
            loss.backward()
            optimizer.step()
            objective.after_step(step / 10)
        return loss.item()

    whole = build(case)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    advance(whole, optimizer, range(4))
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    expected = advance(whole, optimizer, range(4, 8))
    resumed = build(case, seed=1)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=1e-3)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert advance(resumed, optimizer, range(4, 8)) == expected
    states = [objective.state_dict() for objective in (whole, resumed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_health_of_a_fresh_objective_alarms_nobody(case: tuple[str, str | None, dict[str, object]]) -> None:
    objective = build(case)
    assert objective.health().measures == {}
    objective(batch_for(objective)).loss.backward()
    torch.optim.SGD(objective.parameters(), lr=1e-2).step()
    objective.after_step(0.01)
    health = objective.health()
    assert health.signature == ""
    if "images" in objective.reads:
        assert 0 < health.measures["effective_rank"] <= 1
        assert 0 < health.measures["deviation"] <= 1.01


def test_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="known: .*masked_lm"):
        objectives.load("masked")
