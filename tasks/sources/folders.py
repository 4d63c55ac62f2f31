"""Local files: a file, a folder with all that lies below it, or a glob (`notes/**/*.md`)."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import InputError
from tasks.sources import File


def files(location: str) -> Iterator[File]:
    """Files in sorted order; hidden ones (a leading dot) are left out.

    Raises:
        InputError: nothing is there.
    """
    for path, name in _paths(location):
        yield File(location=name, contents=functools.partial(opened, path), size=path.stat().st_size)


def listing(location: str, *, full_hash: bool) -> dict[str, Any]:
    """Size and time of change of each file, or its sha256.

    A listing by time can lie: a program that rewrites bytes and restores size and time goes unseen.
    """
    entries: list[dict[str, Any]] = []
    for path, name in _paths(location):
        stat = path.stat()
        entry: dict[str, Any] = {"location": name, "size": stat.st_size}
        if full_hash:
            entry["sha256"] = sha256(path)
        else:
            entry["modified"] = stat.st_mtime_ns
        entries.append(entry)
    return {"files": entries}


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(path: Path) -> BinaryIO:
    """The stored bytes of a file."""
    return path.open("rb")


def _paths(location: str) -> Iterator[tuple[Path, str]]:
    """Path and stable name of each file."""
    root = Path(location).expanduser()
    if root.is_file():
        yield root, location
        return
    if root.is_dir():
        found = [
            (path, f"{location.rstrip('/')}/{path.relative_to(root).as_posix()}") for path in _walk(root)
        ]
        if not found:
            raise InputError(
                f"{location}: the folder holds no files; put data there or name another location."
            )
    else:
        # Path.glob neither takes absolute patterns nor keeps `./`
        matches = sorted(glob.glob(str(root), recursive=True)) if glob.has_magic(location) else []  # noqa: PTH207
        found = [(Path(match), _short(match, location)) for match in matches if Path(match).is_file()]
        if not found:
            raise InputError(
                f"{location}: no such file or folder, and no file matches it as a glob "
                f"(looked from {Path.cwd()}); correct `from`."
            )
    yield from found


def _short(match: str, location: str) -> str:
    """A match as the user would write it: with `~` where the location has it."""
    return f"~{match.removeprefix(str(Path.home()))}" if location.startswith("~") else match


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name
