"""Local files: a file, a folder with all that lies below it, or a glob (`notes/**/*.md`)."""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import InputError
from tasks.sources import BrokenLink, File, readable


def files(location: str) -> Iterator[File]:
    """Files in sorted order; hidden ones (a leading dot) are left out.

    Raises:
        InputError: nothing is there.
    """
    for path, name in _paths(location):
        found = _stat(path)
        yield File(
            location=name, contents=functools.partial(opened, path), size=found.st_size if found else None
        )


def listing(location: str, *, full_hash: bool) -> dict[str, Any]:
    """Size and time of change of each file, or its sha256.

    A listing by time can lie: a program that rewrites bytes and restores size and time goes unseen.
    """
    entries: list[dict[str, Any]] = []
    for path, name in _paths(location):
        found = _stat(path)
        entry: dict[str, Any] = {"location": name, "size": found.st_size if found else None}
        if found is None:
            entry["link"] = "broken"
        elif full_hash and path.is_file():
            entry["sha256"] = sha256(path)
        else:
            entry["modified"] = found.st_mtime_ns
        entries.append(entry)
    return {"files": entries}


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(path: Path) -> BinaryIO:
    """The stored bytes of a file.

    Raises:
        BrokenLink: there is none behind the link, or it is a folder, a pipe or a device.
    """
    found = _stat(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise BrokenLink(
            f"{path}: leads nowhere, round in a circle, or to what is no file; remove it or mend the link."
        )
    return path.open("rb")


def _paths(location: str) -> Iterator[tuple[Path, str]]:
    """Path and stable name of each file."""
    root = Path(location).expanduser()
    if root.is_file():
        yield root, readable(location)
        return
    if root.is_dir():
        found = [
            (path, readable(f"{location.rstrip('/')}/{path.relative_to(root).as_posix()}"))
            for path in _walk(root)
        ]
        if not found:
            raise InputError(
                f"{location}: the folder holds no files; put data there or name another location."
            )
    else:
        # Path.glob neither takes absolute patterns nor keeps `./`
        matches = sorted(glob.glob(str(root), recursive=True)) if glob.has_magic(location) else []  # noqa: PTH207
        found = [
            (Path(match), readable(_short(match, location))) for match in matches if Path(match).is_file()
        ]
        if not found:
            raise InputError(
                f"{location}: no such file or folder, and no file matches it as a glob "
                f"(looked from {Path.cwd()}); correct `from`."
            )
    yield from found


def _short(match: str, location: str) -> str:
    """A match as the user would write it: with `~` where the location has it."""
    return f"~{match.removeprefix(str(Path.home()))}" if location.startswith("~") else match


def _stat(path: Path) -> os.stat_result | None:
    """Size and time of a file; None of a link that leads nowhere or round in a circle."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return None


def _refuse_locked(error: OSError) -> None:
    """A folder that may not be listed is an error: leaving out all that lies below it would go unseen."""
    if error.errno == errno.EACCES:
        raise error


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder, also below links to other folders, each folder once.

    A link to a folder that is read anyway, or that lies above, is given as a file.
    """
    followed = _followed(root)
    for folder, subfolders, names in os.walk(root, onerror=_refuse_locked, followlinks=True):
        shown = sorted(name for name in subfolders if not name.startswith("."))
        idle = {name for name in shown if (path := Path(folder, name)).is_symlink() and path not in followed}
        subfolders[:] = [name for name in shown if name not in idle]
        for name in sorted([*names, *idle]):
            if not name.startswith("."):
                yield Path(folder) / name


def _followed(root: Path) -> set[Path]:
    """Links to folders that nothing else leads to; of several to one folder the first."""
    known = {_identity(path) for path in root.resolve().parents}
    followed, waiting = set[Path](), [root]
    while waiting:
        start = waiting.pop(0)
        if _identity(start) in known:
            continue
        followed.add(start)
        for folder, subfolders, _ in os.walk(start, onerror=_refuse_locked):
            known.add(_identity(Path(folder)))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            waiting += [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
    return followed


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
