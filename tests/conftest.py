"""What every test runs under: one thread, no network, no tracking server."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["UNMASK_TRACKING"] = "off"

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start servers, which take longest."""
    items.sort(key=lambda item: item.get_closest_marker("servers") is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several test processes, one runs a whole file, and one all files that share servers."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "servers" if _shares_servers(config.rootpath / file) else file

    return ByFile(config, log)


@functools.cache
def _shares_servers(file: Path) -> bool:
    """Whether its tests start servers, and not some of their own."""
    text = file.read_text(encoding="utf-8")
    return "pytest.mark.servers" in text and "serving(" not in text


@pytest.fixture
def mirror() -> Path:
    """Folder with public data sets."""
    folder = os.environ.get("UNMASK_MIRROR")
    if not folder:
        pytest.skip("UNMASK_MIRROR is unset: real data sets are left out")
    return Path(folder)
