"""What goes is old, beyond the newest, and needed by nobody."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import champion, gc, lives, workspaces
from tasks import layout
from tasks.errors import InputError
from tests.flows import toy

DAY = 24 * 3600


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = toy.make(tmp_path / "toy")
    monkeypatch.setenv("UNMASK_SCRATCH", str(folder / "scratch"))
    monkeypatch.setattr(gc, "_needed", lambda: {"runs/registered"})
    return folder


def branch(project: Path, name: str, days: float) -> None:
    when = f"{int(time.time() - days * DAY)} +0000"
    env = {**os.environ, **workspaces.WHO, "GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when}
    made = ["git", "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", name]
    commit = subprocess.check_output(made, cwd=project, env=env, text=True).strip()
    subprocess.run(["git", "branch", f"runs/{name}", commit], cwd=project, check=True)


def old(folder: Path, days: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text("content")
    for path in (folder / "file", folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def found(project: Path, **wanted: float) -> list[tuple[str, str]]:
    items = gc.items(project, **{"keep": 2, "days": 30, **wanted})  # type: ignore[arg-type]
    return [(item.kind, Path(item.name).name) for item in items]


def test_old_branches_go_beyond_the_newest_and_the_needed(project: Path) -> None:
    for name, days in (("today", 0), ("week", 7), ("month", 31), ("registered", 200), ("year", 365)):
        branch(project, name, days)
    assert found(project) == [("branch", "month"), ("branch", "year")]
    assert found(project, keep=3) == [("branch", "year")]
    assert found(project, days=300) == [("branch", "year")]
    for item in [*gc.items(project, keep=2, days=30)]:
        gc.remove(project, item)
    left = subprocess.check_output(["git", "branch", "--list", "runs/*"], cwd=project, text=True).split()
    assert left == ["runs/registered", "runs/today", "runs/week"]


def test_folder_of_a_run_under_way_stays(project: Path) -> None:
    for name in ("dead", "alive"):
        old(layout.scratch() / "worktrees" / name, 40)
    lives.folder().mkdir()
    with lives.file("alive").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert found(project) == [("folder", "dead")]
        with pytest.raises(InputError, match="1 runs are under way"):
            gc.clean_cache(project, is_dry=True)


def test_checkpoint_that_was_written_lately_stays(project: Path) -> None:
    old(layout.scratch() / "checkpoints" / "long ago", 40)
    fresh = old(layout.scratch() / "checkpoints" / "lately", 40)
    (fresh / "step").write_text("now")
    assert found(project) == [("checkpoint", "long ago")]


def test_encoder_that_a_run_went_on_from_stays_as_long_as_its_branch(project: Path) -> None:
    places = ("tag", "last", "retry", "folder", "nobody")
    starts = {name: str(old(champion.folder() / f"5eed-{name}", 40)) for name in places}
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(f"{text}  # from {starts['tag']}\n")
    for words in (["commit", "-qam", "goes on"], ["tag", "kept"], ["reset", "-q", "--hard", "HEAD^"]):
        subprocess.run(["git", *toy.WHO, *words], cwd=project, check=True)
    (project / "params.yaml").write_text(f"{text}  # from {starts['folder']}\n")
    memory = layout.scratch() / "retrained"
    memory.mkdir()
    (memory / "toy.json").write_text(json.dumps({"weights": starts["last"]}))
    lives.folder().mkdir()
    (lives.folder() / f"a-run{champion.BEGUN}").write_text(json.dumps({"weights": starts["retry"]}))
    empty = subprocess.check_output(["git", "mktree"], cwd=project, input="", text=True).strip()
    made = ["git", *toy.WHO, "commit-tree", empty, "-m", "of another kind"]
    commit = subprocess.check_output(made, cwd=project, text=True).strip()
    subprocess.run(["git", "branch", "runs/without-params", commit], cwd=project, check=True)
    assert found(project) == [("start", "5eed-nobody")]


def test_cache_keeps_what_branches_name_and_loses_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    env = toy.environment(project, UNMASK_TRACKING="off")

    def make(steps: int) -> None:
        text = (project / "params.yaml").read_text()
        (project / "params.yaml").write_text(text.replace("steps: 3}", f"steps: {steps}}}"))
        subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "-q", "pretrain@toy"], cwd=project, env=env, check=True
        )

    def models() -> set[str]:
        files = (project / ".dvc/cache/files/md5").glob("*/*")
        return {
            path.read_text() for path in files if not path.name.endswith(".dir") and path.stat().st_size < 3
        }

    make(3)
    place = workspaces.opened(project, "id", ["toy"], {"seed": 1})
    workspaces.kept(project, place, "first", "first: pretrain@toy")
    workspaces.closed(project, place)
    make(4)
    (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("steps: 4}", "steps: 3}")
    )
    make(5)
    assert models() >= {"3", "4", "5"}
    gc.clean_cache(project, is_dry=True)
    assert models() >= {"3", "4", "5"}
    gc.clean_cache(project, is_dry=False)
    assert models() & {"3", "4", "5"} == {"3", "5"}
