from __future__ import annotations

import pytest

from tasks.engine.schedule import learning_rate
from tasks.engine.settings import TrainSettings


def rates(**settings: object) -> list[float]:
    made = TrainSettings(steps=100, lr=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(made, step) for step in range(100)]


def test_warm_up_rises_linearly_to_the_peak() -> None:
    assert rates(warmup_fraction=0.1)[:11] == pytest.approx([i / 10 for i in range(1, 11)] + [1.0])


def test_cosine_is_half_way_down_in_the_middle_and_ends_near_its_floor() -> None:
    curve = rates(warmup_fraction=0.0, final_lr_fraction=0.2)
    assert curve[50] == pytest.approx(0.6)
    assert curve[-1] == pytest.approx(0.2, abs=1e-3)


def test_wsd_is_flat_and_then_falls_linearly() -> None:
    curve = rates(schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2)
    assert set(curve[10:81]) == {1.0}
    assert curve[90] == pytest.approx(0.5)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant", warmup_fraction=0.0)) == {1.0}
