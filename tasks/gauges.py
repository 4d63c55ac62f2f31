"""Load of the machine while a stage runs, under the names that MLflow's system page knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

MEGABYTE = 1e6


def machine() -> Callable[[], dict[str, float]]:
    """A function that measures processor, memory and, where NVIDIA's library is there, each GPU."""
    import psutil

    process, gpus = psutil.Process(), _gpus()
    process.cpu_percent()
    psutil.cpu_percent()  # both answer for the time since their last call

    def measure() -> dict[str, float]:
        memory = psutil.virtual_memory()
        measured = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_cpu_percentage": process.cpu_percent(),
            "system/process_memory_megabytes": process.memory_info().rss / MEGABYTE,
        }
        for gpu in gpus:
            measured |= gpu()
        return measured

    return measure


def _gpus() -> list[Callable[[], dict[str, float]]]:
    with contextlib.suppress(Exception):  # no library, no driver, no card: nothing to measure
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(i), i) for i in range(count)]
    return []


def _gpu(pynvml: Any, handle: Any, index: int) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            f"system/gpu_{index}_utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            f"system/gpu_{index}_memory_usage_megabytes": memory.used / MEGABYTE,
            f"system/gpu_{index}_memory_usage_percentage": 100 * memory.used / memory.total,
            f"system/gpu_{index}_power_usage_watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        }

    return measure
