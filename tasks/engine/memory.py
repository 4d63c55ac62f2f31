"""Memory on the CPU: what becomes of what tensors give back, and what happens when there is no more."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = -1
_LARGEST = 1 << 30
_REFUSALS = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "could not create a memory")


def keep_freed_memory() -> None:
    """Let the process keep what tensors free, for the tensors of the next step.

    glibc hands blocks of megabytes back to the system and asks for them again at every step, and
    the system clears each page anew: a sixth of a step's time on a CPU (BERT of 4 layers, 354 ms
    with and 298 ms without, two cores). The process then stays as large as its largest step.
    Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)


@contextlib.contextmanager
def channels_last(module: nn.Module) -> Iterator[None]:
    """Let the weights of 2-D convolutions lie as their activations do, the channels innermost.

    Otherwise they are laid out anew at every call: a fifth of a step of SimCLR with a small ResNet
    on a CPU (256 pictures of 32 pixels: 373 ms with and 300 ms without, one core). Afterwards they
    lie as files want them.
    """
    _lay_out(module, torch.channels_last)
    try:
        yield
    finally:
        _lay_out(module, torch.contiguous_format)


def _lay_out(module: nn.Module, order: torch.memory_format) -> None:
    for weight in module.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=order)


@contextlib.contextmanager
def bounded(device: torch.device) -> Iterator[None]:
    """Let a tensor that no longer fits fail with an error, on a CPU under Linux.

    Linux promises more memory than there is, and ends the process without a word when the promise is
    called in. Here it may take what is free when the block begins, memory-mapped files not counted.
    """
    if device.type != "cpu" or sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _kilobytes("/proc/self/status", "VmData") + free_kilobytes()
    resource.setrlimit(resource.RLIMIT_DATA, (_least(1024 * limit, soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_exhausted(error: BaseException) -> bool:
    """Whether the error says that a tensor did not fit into memory, the CPU's or a GPU's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(refusal in str(error) for refusal in _REFUSALS)


def free_kilobytes() -> int:
    """What the system can give without writing to swap."""
    return _kilobytes("/proc/meminfo", "MemAvailable")


def _kilobytes(path: str, name: str) -> int:
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _least(*limits: int) -> int:
    return min(limit for limit in limits if limit != resource.RLIM_INFINITY)
