"""Measures of spread at their known values."""

from __future__ import annotations

import pytest
import torch

from models.parts.health import MAX_ROWS, deviation, effective_rank, joint_embedding, measures, sample


def test_effective_rank_is_the_entropy_of_singular_values() -> None:
    embeddings = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals((embeddings - embeddings.mean(0)).double())
    shares = singular / singular.sum()
    expected = float(torch.exp(-(shares * shares.log()).sum())) / 6
    assert effective_rank(embeddings) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(400, 5), (5, 400)])
def test_effective_rank_reaches_one_in_wide_and_in_narrow_embeddings(shape: tuple[int, int]) -> None:
    embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert effective_rank(embeddings) == pytest.approx(1, abs=0.03)


def test_effective_rank_of_a_line_is_one_dimension() -> None:
    line = torch.linspace(-1, 1, 30)[:, None] * torch.ones(1, 10)
    assert effective_rank(line + 7) == pytest.approx(1 / 10, rel=1e-3)


def test_deviation_is_one_when_spread_and_zero_at_a_point() -> None:
    spread = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert deviation(spread) == pytest.approx(1, abs=0.02)
    assert deviation(torch.ones(10, 16)) == pytest.approx(0, abs=1e-6)
    assert deviation(spread + 100) < 0.05


def test_what_is_remembered_is_small_and_detached() -> None:
    rows = sample(torch.randn(2 * MAX_ROWS, 3, requires_grad=True))
    assert len(rows) == MAX_ROWS
    assert not rows.requires_grad
    assert measures(rows[:1]) == {}


def test_projections_at_a_point_or_on_a_line_are_named_with_the_advice() -> None:
    spread = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    line = torch.linspace(-1, 1, 64)[:, None] * torch.ones(1, 16)
    assert joint_embedding(spread, spread, "Do this.").signature == ""
    assert "nearly the same point" in joint_embedding(spread, spread + 100, "Do this.").signature
    assert "close to one line (1.0 of 16" in joint_embedding(spread, line, "Do this.").signature
    assert joint_embedding(spread, line, "Do this.").signature.endswith("Do this.")
