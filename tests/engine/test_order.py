"""The keyed permutation, epoch after epoch, and the keys of samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engine.order import permute, row_of, sample_key


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 7, 16, 17, 97, 256, 1009, 4096, 65_537])
def test_every_row_stands_at_exactly_one_position(num_samples: int) -> None:
    rows = permute(torch.arange(num_samples), num_samples, key=11)
    assert torch.equal(rows.sort().values, torch.arange(num_samples))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(-(2**63), 2**63 - 1))
def test_any_key_and_any_size_give_a_bijection(num_samples: int, key: int) -> None:
    assert permute(torch.arange(num_samples), num_samples, key).unique().numel() == num_samples


def test_epochs_are_different_permutations_of_all_rows() -> None:
    rows = row_of(torch.arange(3 * 1000), 1000, seed=5).reshape(3, 1000)
    assert all(torch.equal(epoch.sort().values, torch.arange(1000)) for epoch in rows)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (rows[a] == rows[b]).float().mean() < 0.02


def test_seeds_give_different_orders() -> None:
    positions = torch.arange(1000)
    assert (row_of(positions, 1000, seed=1) == row_of(positions, 1000, seed=2)).float().mean() < 0.02


def test_order_does_not_depend_on_how_positions_are_asked_for() -> None:
    whole = row_of(torch.arange(500), 211, seed=3)
    assert torch.equal(torch.stack([row_of(torch.tensor(i), 211, seed=3) for i in range(500)]), whole)
    assert torch.equal(row_of(torch.arange(500).reshape(5, 100), 211, seed=3), whole.reshape(5, 100))


def test_neighbouring_positions_land_anywhere() -> None:
    """Rows of the first tenth of an epoch fill every tenth of the data evenly (chi-squared, 9 degrees)."""
    num_samples = 50_000
    rows = row_of(torch.arange(num_samples // 10), num_samples, seed=0)
    counts = torch.bincount(rows * 10 // num_samples, minlength=10).float()
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # the 0.1 % point
    steps = (rows[1:] - rows[:-1]).abs().float() / num_samples
    assert abs(steps.mean().item() - 1 / 3) < 0.02


def test_each_row_is_first_equally_often() -> None:
    first = torch.cat([row_of(torch.tensor([0]), 8, seed=seed) for seed in range(800)])
    counts = torch.bincount(first, minlength=8).float()
    assert ((counts - 100) ** 2 / 100).sum() < 24.3


def test_billions_of_rows_need_no_index() -> None:
    rows = permute(torch.arange(1000), 10**12, key=1)
    assert rows.unique().numel() == 1000
    assert rows.max() > 9 * 10**11


def test_positions_outside_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 9"):
        permute(torch.tensor([10]), 10, key=0)
    with pytest.raises(ValueError, match="got 0"):
        permute(torch.tensor([0]), 0, key=0)


def test_sample_keys_are_distinct_over_positions_and_seeds() -> None:
    keys = torch.cat([sample_key(seed, torch.arange(20_000)) for seed in (0, 1, 2**40)])
    assert keys.unique().numel() == 60_000
    bits = ((keys[:, None] >> torch.arange(64)) & 1).double().mean(0)
    assert ((bits - 0.5).abs() < 0.015).all()


def test_sample_keys_are_the_same_on_every_machine() -> None:
    assert sample_key(7, torch.arange(2)).tolist() == [-5137267319001854395, -6461814455296669442]
    assert permute(torch.arange(8), 8, key=1).tolist() == [4, 0, 2, 5, 1, 7, 6, 3]
