"""Batch normalisation with the statistics of all ranks, or of earlier batches, on CPU and GPU.

Methods that compare samples of a batch learn to cheat where each rank has statistics of its own, so
their papers normalise over all devices (SimCLR, section 2.2; BYOL, section 3.3; SimSiam, section 4).
torch's SyncBatchNorm does it on GPUs only. Where a sample is compared with those of other batches
(MoCo), even that would tell which batch it came from.

Legend: N samples, C channels; further dimensions are positions.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from models.objectives import LoneSample
from models.parts.gather import total, world_size


def across_ranks(module: nn.Module) -> None:
    """Let each batch normalisation in the module read all ranks' samples; what is saved does not change."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and "forward" not in vars(part):
            norm: Any = part
            norm.forward = MethodType(_forward, part)


def by_earlier_batches(module: nn.Module) -> None:
    """Let batch normalisation use its running statistics while training too, as they were before the batch.

    The batch joins them afterwards; the first one has none but its own.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            norm: Any = part
            norm.forward = MethodType(_forward_by_earlier, part)


@torch.no_grad()
def _forward_by_earlier(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean_C, variance_C = norm.running_mean, norm.running_var
    assert mean_C is not None
    assert variance_C is not None
    if norm.training:
        assert norm.num_batches_tracked is not None
        is_first = norm.num_batches_tracked == 0
        own_mean_C, own_variance_C = _statistics(x.float())
        unbiased_C = own_variance_C * _unbiased(x)
        mean_C = torch.where(is_first, own_mean_C, mean_C)
        variance_C = torch.where(is_first, unbiased_C, variance_C)
        _follow(norm, own_mean_C, unbiased_C, at_first=1.0)
    return nn.functional.batch_norm(x, mean_C, variance_C, norm.weight, norm.bias, eps=norm.eps)


def _forward(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    num_values = x.numel() // x.shape[1] * world_size()
    if num_values == 1:
        raise LoneSample(
            "batch normalisation compares a picture with the others of its batch, and this batch has one; "
            "raise `batch_size` or lower `micro_batches`"
        )
    if world_size() == 1:
        return type(norm).forward(norm, x)
    shape = [1, -1] + [1] * (x.ndim - 2)
    values = x.float()
    mean_C, variance_C = _statistics(values)
    _follow(norm, mean_C.detach(), variance_C.detach() * _unbiased(x))
    centred, scale_C = values - mean_C.view(shape), torch.rsqrt(variance_C + norm.eps)
    if not norm.affine:
        return (centred * scale_C.view(shape)).to(x.dtype)
    return (centred * (scale_C * norm.weight).view(shape) + norm.bias.view(shape)).to(x.dtype)


def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    mean_C = _mean(values)
    return mean_C, _mean((values - mean_C.view([1, -1] + [1] * (values.ndim - 2))).square())


def _unbiased(x: Tensor) -> float:
    """Factor from the variance of the values of all ranks to an estimate without bias."""
    num_values = x.numel() // x.shape[1] * world_size()
    return num_values / max(1, num_values - 1)


def _mean(values: Tensor) -> Tensor:
    """Mean of each channel over the samples and positions of all ranks, which have equal shares."""
    return total(values.mean([0, *range(2, values.ndim)])) / world_size()


@torch.no_grad()
def _follow(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, variance_C: Tensor, at_first: float = 0.0
) -> None:
    """Move the running statistics that evaluation uses; `at_first` over the number of batches at least."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    least = 1.0 if norm.momentum is None else at_first
    share = (least / norm.num_batches_tracked.float()).clamp(min=norm.momentum or 0.0)
    norm.running_mean.lerp_(mean_C, share)
    norm.running_var.lerp_(variance_C, share)
