"""What DVC is asked for a flow, in a folder where others were killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from flows import stages
from tests.flows import toy


def look(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", stages.__file__, "look", "pretrain@toy"]
    env = toy.environment(project, UNMASK_TRACKING="off")
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)


def test_list_of_locks_that_a_kill_has_cut_off_is_begun_anew(tmp_path: Path) -> None:
    project = toy.make(tmp_path / "toy")
    locks = project / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(exist_ok=True)
    locks.write_text("")
    told = look(project)
    assert told.returncode == 0, told.stderr
    assert "cut off by a kill" in told.stdout
    assert json.loads(told.stdout.splitlines()[-1].removeprefix(stages.PLAN))["pretrain@toy"] == "stale"
    assert isinstance(json.loads(locks.read_text()), dict)
    assert "cut off" not in look(project).stdout
