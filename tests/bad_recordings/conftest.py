"""A project whose stages are done, for tests to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks import layout, stage
from tasks import params as configuration
from tests.bad_recordings.recordings import STAGES, speak, write


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages up to `pretrain` are done."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("UNMASK_SCRATCH", str(folder / ".unmask"))
        speak()
        write()
        layout.listing("spoken").parent.mkdir(parents=True)
        layout.listing("spoken").write_text("{}")
        config = configuration.load()
        for name, module in STAGES.items():
            stage.execute(name, "spoken" if name == "ingest" else "mine", module.run, module.inputs, config)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNMASK_SCRATCH", str(folder / ".unmask"))
    return folder
