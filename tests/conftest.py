"""What every test runs under: one thread, no network, no tracking server."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["UNMASK_TRACKING"] = "off"

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several test processes, one runs all tests that start servers: they share them."""
    for item in items:
        if item.get_closest_marker("servers"):
            item.add_marker(pytest.mark.xdist_group("servers"))


@pytest.fixture
def mirror() -> Path:
    """Folder with public data sets."""
    folder = os.environ.get("UNMASK_MIRROR")
    if not folder:
        pytest.skip("UNMASK_MIRROR is unset: real data sets are left out")
    return Path(folder)
