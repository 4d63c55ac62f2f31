"""The order of samples as arithmetic: which row stands at a position, and the key of its randomness.

A generalised Feistel network permutes a rectangle a little larger than the number of samples, and
cycle walking cuts it down to size (Black and Rogaway 2002, "Ciphers with arbitrary finite domains",
sections 3 and 5, https://eprint.iacr.org/2001/012). No index array is held, however many samples
there are; resume is an integer; and the order depends on neither ranks nor history. Not
cryptography: the round function is a mixer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROUNDS = 3  # of two half rounds each
_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer, the step of SplitMix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9, the multipliers of SplitMix64's finaliser
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def permute(position: Tensor, num_samples: int, key: Tensor | int) -> Tensor:
    """Where a keyed permutation of 0 … num_samples − 1 sends each position.

    Args:
        position: int64 values in 0 … num_samples − 1, any shape.
        num_samples: size of the permuted range, 1 … 2⁶².
        key: chooses the permutation; one for all, or one per position.

    Raises:
        ValueError: a position lies outside the range, or the range is empty or too large.
    """
    if not 1 <= num_samples <= 1 << 62:
        raise ValueError(f"num_samples must be 1 to 2**62, got {num_samples}")
    position = torch.as_tensor(position, dtype=torch.int64)
    if bool(((position < 0) | (position >= num_samples)).any()):
        raise ValueError(
            f"positions must be 0 to {num_samples - 1}, got {position.min()} to {position.max()}"
        )
    num_low = math.isqrt(num_samples - 1) + 1 if num_samples > 1 else 1
    num_high = -(-num_samples // num_low)
    row = position.flatten()
    keys = torch.as_tensor(key, dtype=torch.int64).expand(position.shape).flatten()
    outside = torch.ones_like(row, dtype=torch.bool)
    while bool(outside.any()):  # a permutation's cycle returns to its start, so this ends
        row = torch.where(outside, _feistel(row, num_low, num_high, keys), row)
        outside = row >= num_samples
    return row.reshape(position.shape)


def row_of(position: Tensor, num_samples: int, seed: int) -> Tensor:
    """The row that stands at each position of an endless run: every epoch is another permutation.

    Args:
        position: int64, counted from the start of training; epoch e holds e·num_samples and on.
        num_samples: rows in one epoch.
        seed: seed of the run.
    """
    position = torch.as_tensor(position, dtype=torch.int64)
    epoch = position.div(num_samples, rounding_mode="floor")
    return permute(position % num_samples, num_samples, _epoch_key(seed, epoch))


def sample_key(seed: int, position: Tensor) -> Tensor:
    """One int64 per sample from which all its randomness is drawn (masks, spans, crops, noise).

    Counter-based: a pure function of (seed, position), in the manner of SplitMix64 (Steele et al.
    2014, "Fast splittable pseudorandom number generators").
    """
    position = torch.as_tensor(position, dtype=torch.int64)
    start = _mix(torch.tensor(seed, dtype=torch.int64) + _GOLDEN_GAMMA)
    return _mix(start + (position + 1) * _GOLDEN_GAMMA)


def _epoch_key(seed: int, epoch: Tensor) -> Tensor:
    return sample_key(-1 - seed, epoch)  # apart from the samples' own keys, whose seeds are not negative


def _feistel(value: Tensor, num_low: int, num_high: int, key: Tensor) -> Tensor:
    """A permutation of 0 … num_low · num_high − 1: each half in turn is shifted by a hash of the other."""
    high, low = value // num_low, value % num_low
    for _ in range(_ROUNDS):
        high = (high + _hash(low, key)) % num_high
        low = (low + _hash(high, ~key)) % num_low
        key = key + _GOLDEN_GAMMA
    return high * num_low + low


def _hash(value: Tensor, key: Tensor) -> Tensor:
    """48 signed bits of which each depends on the whole value; half the operations of `_mix`."""
    product = (value ^ key) * _MIX_1
    return ((product ^ (product >> 32)) * _MIX_2) >> 16


def _mix(value: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the value."""
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own copies the sign of an int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
