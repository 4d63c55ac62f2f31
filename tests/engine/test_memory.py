"""Memory that is not there."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from tasks.engine import memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse by themselves")
def test_a_tensor_larger_than_what_is_free_fails_and_the_next_one_may_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_kilobytes", lambda: 64 << 10)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.bounded(CPU):
        torch.ones(1 << 20)
        with pytest.raises(RuntimeError) as refusal:
            torch.ones(1 << 28)
    assert memory.is_exhausted(refusal.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert torch.ones(1 << 26).sum() == 1 << 26


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert memory.is_exhausted(MemoryError())
    assert memory.is_exhausted(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_exhausted(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_convolutions_lie_channels_last_only_inside_and_keep_their_values() -> None:
    layer = torch.nn.Conv2d(3, 4, 3)
    before = layer.weight.detach().clone()
    with memory.channels_last(layer):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.is_contiguous()
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, before)
