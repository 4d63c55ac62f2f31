"""A folder of its own for each run, with other values for known keys and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import workspaces
from tasks.errors import InputError
from tests.flows import toy


def test_key_that_looks_like_an_option_is_an_unknown_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make(tmp_path / "toy")
    monkeypatch.setenv("UNMASK_SCRATCH", str(project / "scratch"))
    with pytest.raises(InputError, match="unknown key '--weights'"):
        workspaces.opened(project, "id", ["toy"], {"--weights=/elsewhere": 7})
    assert not workspaces.folder("id").exists()
