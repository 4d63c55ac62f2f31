"""The generator by address: reproducible, uniform, and without memory."""

from __future__ import annotations

import torch

from models.parts.counter import bits, integers, mix, uniform


def test_numbers_depend_on_their_own_key_alone() -> None:
    together = uniform(torch.arange(10), 7, stream=1)
    alone = uniform(torch.tensor([6]), 7, stream=1)
    assert torch.equal(together[6], alone[0])


def test_streams_and_keys_are_apart() -> None:
    first, second = bits(torch.arange(100), 100, stream=1), bits(torch.arange(100), 100, stream=2)
    assert len(torch.unique(torch.stack([first, second]))) == 2 * 100 * 100


def test_numbers_are_uniform_and_uncorrelated() -> None:
    values = uniform(torch.arange(2000), 200, stream=3)
    assert abs(float(values.mean()) - 0.5) < 0.002
    assert abs(float(values.var()) - 1 / 12) < 0.001
    counts = torch.histc(values, bins=50, min=0, max=1)
    assert float((counts / 8000 - 1).abs().max()) < 0.06
    between_keys = torch.corrcoef(values[:50])
    assert float((between_keys - torch.eye(50)).abs().max()) < 0.35
    assert float(values.min()) >= 0
    assert float(values.max()) < 1


def test_words_are_splitmix64s() -> None:
    """The finaliser against the published constants, written with Python's integers."""

    def scramble(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    start = scramble((12345 + mix(8) * golden) % 2**64)
    expected = [scramble((start + i * golden) % 2**64) for i in range(1, 6)]
    measured = [int(word) % 2**64 for word in bits(torch.tensor([12345]), 5, stream=8)[0]]
    assert measured == expected


def test_integers_reach_every_value_below_the_bound() -> None:
    assert torch.unique(integers(torch.arange(50), 50, 7, stream=1)).tolist() == list(range(7))


def test_mix_tells_apart_order_and_number_of_arguments() -> None:
    seen = {mix(), mix(0), mix(0, 0), mix(1), mix(1, 2), mix(2, 1), mix(-1)}
    assert len(seen) == 7
    assert all(0 <= value < 2**63 for value in seen)
