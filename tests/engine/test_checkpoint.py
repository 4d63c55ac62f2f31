from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tasks.engine.checkpoint import Checkpoints


def saved(folder: Path, steps: range, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, {"w": torch.full((4,), float(step))}, {"step": step})
    checkpoints.wait()
    return checkpoints


def test_newest_checkpoint_is_read_back_exactly(tmp_path: Path) -> None:
    newest = saved(tmp_path, range(1, 4)).newest()
    assert newest is not None
    assert newest[0]["w"].tolist() == [3.0] * 4
    assert newest[1] == {"step": 3}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, range(1, 6), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000004.json", "step-000000004.safetensors", "step-000000005.json", "step-000000005.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no json"])
def test_damaged_newest_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = saved(tmp_path, range(1, 3))
    data = tmp_path / "step-000000002.safetensors"
    match damage:
        case "truncate":
            data.write_bytes(data.read_bytes()[:-3])
        case "flip":
            content = bytearray(data.read_bytes())
            content[-1] ^= 1
            data.write_bytes(content)
        case "remove":
            data.unlink()
        case "no json":
            data.with_suffix(".json").write_text("{")
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest()
    assert newest is not None
    assert newest[1] == {"step": 1}
    assert "step-000000002.json is damaged" in caplog.text


def test_a_write_that_was_never_committed_does_not_exist(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, range(1, 2))
    (tmp_path / "step-000000009.safetensors").write_bytes(b"half")
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1] == {"step": 1}


def test_failed_write_is_raised_by_the_next_call(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "gone", keep=1)
    (tmp_path / "gone").rmdir()
    checkpoints.save(1, {"w": torch.zeros(2)}, {})
    with pytest.raises(OSError, match="gone"):
        checkpoints.wait()


def test_staged_copy_is_not_touched_by_later_training(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    weight = torch.zeros(1000)
    checkpoints.save(1, {"w": weight}, {})
    weight.fill_(7.0)
    checkpoints.wait()
    newest = checkpoints.newest()
    assert newest is not None
    assert not newest[0]["w"].any()
