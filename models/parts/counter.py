"""Random numbers by address instead of by sequence: pure functions of (key, stream, index).

A counter-based generator in the sense of Salmon et al. 2011 ("Parallel random numbers: as easy as
1, 2, 3"), with the finaliser of SplitMix64 (Steele et al. 2014) as its mixing function. What a
sample draws depends on its key alone: not on rank, batch, worker, device or history.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = 1 << 64


def mix(*numbers: int) -> int:
    """One integer below 2⁶³ from several, for seeding a generator."""
    state = 0
    for number in numbers:
        state = _scramble((state + _GOLDEN + number) % _WORD)
    return state >> 1


def _scramble(state: int) -> int:
    state = (state ^ (state >> 30)) * _MULTIPLIERS[0] % _WORD
    state = (state ^ (state >> 27)) * _MULTIPLIERS[1] % _WORD
    return state ^ (state >> 31)


# Compiled C++ may assume that signed products do not overflow; these rely on it that they wrap.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def bits(key_B: Tensor, num: int, *, stream: int) -> Tensor:
    """Random words.

    Args:
        key_B: int64, one key per sample.
        num: words per sample.
        stream: tells apart the uses that one key is put to.

    Returns:
        int64 of shape [B, num], uniform over all 2⁶⁴ words.
    """
    offset = _signed(mix(stream) * _GOLDEN % _WORD)
    index_N = torch.arange(1, num + 1, device=key_B.device) * _signed(_GOLDEN)
    return _scramble_tensor(_scramble_tensor(key_B + offset).unsqueeze(-1) + index_N)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def uniform(key_B: Tensor, num: int, *, stream: int) -> Tensor:
    """Random float32 in [0, 1) of shape [B, num]; arguments as for `bits`."""
    return _shift_right(bits(key_B, num, stream=stream), 40).to(torch.float32) * 2.0**-24


@torch.compiler.disable  # type: ignore[untyped-decorator]
def integers(key_B: Tensor, num: int, high: int | Tensor, *, stream: int) -> Tensor:
    """Random int64 in [0, high) of shape [B, num]; `high` is one bound, or broadcasts over [B, num]."""
    return _shift_right(bits(key_B, num, stream=stream), 1) % high


def _scramble_tensor(state: Tensor) -> Tensor:
    state = (state ^ _shift_right(state, 30)) * _signed(_MULTIPLIERS[0])
    state = (state ^ _shift_right(state, 27)) * _signed(_MULTIPLIERS[1])
    return state ^ _shift_right(state, 31)


def _shift_right(words: Tensor, places: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (words >> places) & ((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word
