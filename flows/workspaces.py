"""A folder of its own for each run: a git worktree that shares DVC's cache with the project.

It begins as the project stands, uncommitted changes of tracked files included, so that a run sees
what its user sees, and what the user does meanwhile reaches no run under way. What came out is
kept as a commit on the branch `runs/<name>`, and in the cache; the folder goes.

    python -m flows.workspaces runs/notes-swift-otter ../notes-again    # such a folder for a person
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import layout, overrides, params
from tasks.errors import InputError

BRANCH = "runs/"
OURS = (
    ".dvc/config",
    ".dvcignore",
    "dvc.lock",
    "dvc.yaml",
    "params.yaml",
    "flows",
    "models",
    "tasks",
)  # seen though not yet tracked
REMOTE_PATHS = ("url", "keyfile", "credentialpath")  # of a remote of DVC; may be given from .dvc/
WHO = {
    "GIT_AUTHOR_NAME": "Unmask", "GIT_AUTHOR_EMAIL": "unmask@localhost",
    "GIT_COMMITTER_NAME": "Unmask", "GIT_COMMITTER_EMAIL": "unmask@localhost",
}  # fmt: skip


def folder(run_id: str) -> Path:
    """Where the run of that id works."""
    return layout.scratch() / "worktrees" / run_id


def opened(
    project: Path,
    run_id: str,
    recipes: Sequence[str],
    changes: Mapping[str, Any],
    weights: Path | None = None,
) -> Path:
    """The folder of a run; the same again where the run was begun before.

    Args:
        project: the checkout that people work in.
        run_id: of the run.
        recipes: whose keys `changes` are where they name no section of params.yaml.
        changes: other values for keys of params.yaml.
        weights: folder of an encoder that the recipes go on from.

    Raises:
        InputError: the project is no git repository, has no commit yet, or cannot have these values.
    """
    place = folder(run_id)
    ready = place.with_name(f"{run_id}.ready")  # written last, so that a run killed in between begins anew
    if ready.exists() and (place / ".git").exists():
        return place
    closed(project, place)
    try:
        checked_out(project, snapshot(project), place)
        for recipe in recipes:
            _override(project, place, recipe, changes, weights)
        bring_sources(project, place)
        ready.touch()
    except BaseException:
        closed(project, place)
        raise
    return place


def checked_out(project: Path, revision: str, place: Path) -> None:
    """Make a folder of its own for a commit, with the project's cache.

    Raises:
        InputError: there is no such commit, or the folder is taken.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    git(project, "worktree", "prune")
    git(project, "worktree", "add", "--quiet", "--detach", "--force", str(place), revision)
    _share_cache(project, place)


def snapshot(project: Path) -> str:
    """A commit of the project as it stands; touches neither its index nor its files.

    Raises:
        InputError: git has no commit here, or the folder is not its root; says what to do.
    """
    _refuse_below_root(project)
    try:
        head = git(project, "rev-parse", "--verify", "HEAD")
    except InputError as error:
        raise InputError(f"{error}; if there is no commit yet: git add . && git commit") from None
    index = Path(git(project, "rev-parse", "--path-format=absolute", "--git-path", "index"))
    with tempfile.TemporaryDirectory() as elsewhere:
        own = Path(elsewhere) / "index"
        if index.exists():
            shutil.copy2(index, own)  # with its time, by which git tells what may have changed since
        mine = {"GIT_INDEX_FILE": str(own)}
        git(project, "add", "--update", ".", env=mine)
        git(project, "add", "--", *(name for name in OURS if (project / name).exists()), env=mine)
        tree = git(project, "write-tree", env=mine)
    if tree == git(project, "rev-parse", "HEAD^{tree}"):
        return head
    return git(project, "commit-tree", tree, "-p", head, "-m", "The working tree, as a run found it", env=WHO)


def _refuse_below_root(project: Path) -> None:
    if prefix := git(project, "rev-parse", "--show-prefix"):
        raise InputError(
            f"{project} is the folder {prefix} of a git repository, and a run in a folder of its own needs "
            "its root; run in the project's folder instead (apart: false)"
        )


def kept(project: Path, place: Path, name: str, message: str, *, is_shared: bool = False) -> str:
    """Commit what a run changed on a branch of its own; the branch's name, empty where nothing has changed.

    Args:
        project: the checkout that people work in.
        place: the run's folder.
        name: of the run.
        message: of the commit.
        is_shared: whether a branch of another run that holds the same will do.
    """
    git(place, "add", "--", *(name for name in ("params.yaml", "dvc.lock") if (place / name).exists()))
    tree, head = git(place, "write-tree"), git(place, "rev-parse", "HEAD")
    if tree == git(place, "rev-parse", "HEAD^{tree}"):
        return ""
    form = "--format=%(tree) %(refname:short)"
    known: dict[str, str] = {}
    if is_shared:
        known = dict(
            line.split() for line in git(project, "for-each-ref", form, f"refs/heads/{BRANCH}").splitlines()
        )
    if tree in known:
        return str(known[tree])
    commit = git(place, "commit-tree", tree, "-p", head, "-m", message, env=WHO)
    branch = BRANCH + re.sub(r"[^A-Za-z0-9-]+", "-", name)
    git(project, "branch", "--force", branch, commit)
    return branch


def closed(project: Path, place: Path) -> None:
    """Remove a run's folder; what it made stays in the cache."""
    with contextlib.suppress(InputError):
        git(project, "worktree", "remove", "--force", str(place))
    shutil.rmtree(place, ignore_errors=True)
    place.with_name(f"{place.name}.ready").unlink(missing_ok=True)


def _share_cache(project: Path, place: Path) -> None:
    """The project's own settings of DVC, and its cache, in the worktree."""
    from configobj import ConfigObj
    from dvc.config import Config

    local, own = project / ".dvc" / "config.local", place / ".dvc" / "config.local"
    settings = ConfigObj(str(local) if local.exists() else None, write_empty_values=True)
    settings.filename = str(own)
    own.parent.mkdir(exist_ok=True)
    own.touch(mode=0o600)  # it may hold the keys of a remote store
    known = Config(str(project / ".dvc"))
    shared = known["cache"].get("dir") or project / ".dvc" / "cache"
    settings.setdefault("cache", {})["dir"] = str(Path(project / ".dvc", shared).resolve())
    for name, remote in known["remote"].items():
        for key in {*REMOTE_PATHS} & {*remote}:  # as DVC resolves them there
            settings.setdefault(f'remote "{name}"', {})[key] = str(remote[key])
    settings.setdefault("core", {})["site_cache_dir"] = str(place / ".dvc" / "site")
    settings.write()


def _override(
    project: Path, place: Path, recipe: str, changes: Mapping[str, Any], weights: Path | None
) -> None:
    if not changes and weights is None:
        return
    words = ["--weights", str(weights)] if weights else []
    words += ["--", recipe, *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    done = subprocess.run(  # by the worktree's code, which may know objectives that ours does not
        [sys.executable, "-m", "tasks.overrides", *words],
        cwd=place, env={**os.environ, overrides.PROJECT: str(project)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputError(done.stderr.strip())


def bring_sources(project: Path, place: Path) -> None:
    """What params.yaml names by a path from the project's folder.

    What git does not hold is linked, file by file where it holds some of a folder; what it does hold gets the
    project's times, by which listings tell whether a file has changed.
    """
    for _, location in overrides.places(params.read_yaml(place / "params.yaml")):
        if "://" in location or location.startswith(("/", "~")):
            continue
        path = Path(location.partition("!/")[0])
        while glob.has_magic(str(path)):
            path = path.parent
        if not (project / path).exists():
            continue
        for file in [place / path, *(place / path).rglob("*")] if (place / path).exists() else ():
            found = project / file.relative_to(place)
            if file.is_file() and found.is_file() and file.stat().st_size == found.stat().st_size:
                os.utime(file, ns=(found.stat().st_atime_ns, found.stat().st_mtime_ns))
        others = git(project, "ls-files", "-z", "--others", "--directory", "--", str(path))
        for name in filter(None, others.split("\0")):
            link = place / name.rstrip("/")
            if not link.exists() and not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((project / name.rstrip("/")).absolute())


def git(where: Path, *words: str, env: dict[str, str] | None = None) -> str:
    """What git answers there, by nobody's hooks and signatures.

    Raises:
        InputError: it refuses; in git's words.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    quiet = ("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null")  # nobody is there to be asked
    done = subprocess.run(
        ["git", *quiet, *words], cwd=where, env={**mine, **(env or {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"git {words[0]} in {where}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.workspaces",
        description="A folder for a commit, with cache and sources.",
    )
    parser.add_argument("revision", help="branch runs/..., or another commit")
    parser.add_argument("folder", type=Path, help="that is not there yet")
    options = parser.parse_args()
    project, place = Path.cwd(), options.folder.absolute()
    try:
        if place.exists():
            raise InputError(f"{place} is there already; name a folder that is not")
        _refuse_below_root(project)
        try:
            checked_out(project, options.revision, place)
            bring_sources(project, place)
        except BaseException:
            closed(project, place)
            raise
    except InputError as error:
        sys.exit(f"workspaces: {error}")
    print(f"{place}; when you are done with it: git worktree remove --force {options.folder}")


if __name__ == "__main__":
    main()
