"""Frees what nobody needs any more: old branches of runs, folders, checkpoints, starts, and DVC's cache.

    python -m flows.gc                     # says what would go, and how much that frees
    python -m flows.gc --yes               # removes it
    python -m flows.gc --keep 50 --days 90

Never touched: what a registered model, a run under way, the newest runs, any other branch, a tag or
the folder itself needs.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows import champion, lives, workspaces
from tasks import layout, tracking
from tasks.errors import InputError


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Attributes:
        kind: folder, branch, checkpoint, page or start (an encoder that a retraining went on from).
        name: of it.
        days: since it was last touched.
        size: bytes that go with it at once; a branch's are in DVC's cache.
    """

    kind: str
    name: str
    days: float
    size: int = 0


def items(project: Path, *, keep: int, days: float) -> Iterator[Item]:
    """What nobody needs, by age and number.

    Args:
        project: its folder.
        keep: newest branches that stay whatever their age.
        days: age from which on the others go.
    """
    for folder in sorted((layout.scratch() / "worktrees").glob("*/")):
        if _age(folder) > days and not lives.at_work(folder.name):
            yield Item("folder", str(folder), _age(folder), _size(folder))
    for folder in sorted((layout.scratch() / "checkpoints").glob("*")):
        newest = min((_age(path) for path in folder.rglob("*")), default=_age(folder))
        if newest > days:
            yield Item("checkpoint", str(folder), newest, _size(folder))
    for folder in sorted((layout.scratch() / "pages").glob("*/")):
        if _age(folder) > days:
            yield Item("page", str(folder), _age(folder), _size(folder))
    needed = _needed()
    form = "%(refname:short) %(committerdate:unix)"
    listed = workspaces.git(
        project, "for-each-ref", "--sort=-committerdate", f"--format={form}", "refs/heads/runs/"
    )
    going = set()
    for place, line in enumerate(listed.splitlines()):
        name, seconds = line.split()
        age = (time.time() - int(seconds)) / 86400
        if place >= keep and age > days and name not in needed:
            going.add(name)
            yield Item("branch", name, age)
    named = champion.remembered() + (project / "params.yaml").read_text(encoding="utf-8")
    for name in workspaces.git(project, "for-each-ref", "--format=%(refname:short)").splitlines():
        if name not in going:
            with contextlib.suppress(InputError):  # of before there was such a file
                named += workspaces.git(project, "show", f"{name}:params.yaml")
    for folder in sorted(champion.folder().glob("*/")):
        if _age(folder) > days and folder.name not in named:
            yield Item("start", str(folder), _age(folder), _size(folder))


def remove(project: Path, item: Item) -> None:
    """Remove one of them."""
    if item.kind == "branch":
        workspaces.git(project, "branch", "-D", item.name)
    elif item.kind == "folder":
        workspaces.closed(project, Path(item.name))
    else:
        shutil.rmtree(item.name, ignore_errors=True)


def clean_cache(project: Path, *, is_dry: bool) -> str:
    """Free DVC's cache of what neither the folder nor a branch nor a tag names; what DVC says of it.

    Raises:
        InputError: a run is under way, whose results no branch names yet.
    """
    under_way = [*filter(lives.at_work, (path.name for path in (layout.scratch() / "worktrees").glob("*/")))]
    if under_way:
        raise InputError(
            f"{len(under_way)} runs are under way, and the cache stays; try again when they have ended"
        )
    command = [sys.executable, "-m", "dvc", "gc", "--workspace", "--all-branches", "--all-tags", "--force"]
    done = subprocess.run(
        [*command, *(["--dry"] if is_dry else [])], cwd=project, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"dvc gc: {done.stderr.strip()}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing to free"


def _needed() -> set[str]:
    """Branches that registered models come from."""
    from tasks.registry import Registry

    return Registry(tracking.tracking_uri()).branches()


def _age(path: Path) -> float:
    return (time.time() - path.lstat().st_mtime) / 86400


def _size(folder: Path) -> int:
    """Bytes that no other name keeps; most of a run's folder are links into the cache."""
    stats = [path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.gc", description=main.__doc__)
    parser.add_argument("--keep", type=int, default=20, help="newest runs that stay whatever their age")
    parser.add_argument("--days", type=float, default=30.0, help="age from which on the others go")
    parser.add_argument("--yes", action="store_true", help="remove it, rather than say what would go")
    options = parser.parse_args()
    project = Path.cwd()
    try:
        found = [*items(project, keep=options.keep, days=options.days)]
        for item in found:
            print(f"{item.kind:11}{item.days:5.0f} days{item.size / 1e6:10.1f} MB  {item.name}")
            if options.yes:
                remove(project, item)
        print(f"DVC's cache: {clean_cache(project, is_dry=not options.yes)}")
    except InputError as error:
        sys.exit(f"gc: {error}")
    if not options.yes:
        print(f"{len(found)} would go; nothing was touched. Add --yes to remove them.")


if __name__ == "__main__":
    main()
