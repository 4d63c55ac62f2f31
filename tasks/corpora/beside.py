"""What lies beside a file in its folder or archive, looked up when it is asked for.

An archive is gone through once more for it, from its start to its end, since what belongs to a file may
stand before or behind it.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tasks import sources
from tasks.errors import InputError
from tasks.sources import File

MAX_BYTES = 1 << 26  # of a member that is kept; more is no companion

Folder = Callable[[Mapping[str, File]], Any]


def acquainted(files: Iterator[File], suffixes: Sequence[str], of_folder: Folder) -> Iterator[File]:
    """The files, each of which knows what lies beside it (`File.beside`).

    Args:
        files: of one location.
        suffixes: of members of archives that are to be read; of others only the names are known.
        of_folder: what to make of the files of a folder, by name; called once as long as they are asked for
            folder by folder.
    """
    neighbours = _Neighbours(suffixes, of_folder)
    for file in files:
        yield dataclasses.replace(file, beside=functools.partial(neighbours.of, file))


class _Neighbours:
    """The folders of the archive, or the one folder, that was asked for last."""

    def __init__(self, suffixes: Sequence[str], of_folder: Folder) -> None:
        self._suffixes = suffixes
        self._of_folder = of_folder
        self._place: str | None = None
        self._folders: dict[str, Any] = {}

    def of(self, file: File) -> Any:
        folder = folder_of(file.location)
        place = folder if file.archive is None else file.archive.location
        if place != self._place:
            found = _members(file.archive, self._suffixes) if file.archive else {folder: _listed(folder)}
            self._folders = {name: self._of_folder(files) for name, files in found.items()}
            self._place = place
        return self._folders[folder]


def folder_of(location: str) -> str:
    """The folder in which a file lies, or the archive's."""
    return location.rpartition("/")[0] or "."


def entries(folder: str, *, full_hash: bool = False) -> list[dict[str, Any]]:
    """What `sources.listing` says of the files of a folder, without those of its sub-folders."""
    try:
        found = sources.listing(folder, full_hash=full_hash).get("files", ())
    except InputError:  # a place without folders, such as a web server
        return []
    return [entry for entry in found if folder_of(entry["location"]) == folder]


def _listed(folder: str) -> dict[str, File]:
    found = [File(entry["location"]) for entry in entries(folder)]
    return {
        file.name: dataclasses.replace(file, contents=functools.partial(_opened, file.location))
        for file in found
    }


def _opened(location: str) -> BinaryIO:
    contents = next(sources.files(location)).contents
    assert contents is not None
    return contents()


def _members(archive: File, suffixes: Sequence[str]) -> dict[str, dict[str, File]]:
    from tasks.sources import archives

    found: dict[str, dict[str, File]] = defaultdict(dict)
    for member in archives.members(archive):
        kept = member
        if member.suffix in suffixes and member.contents and (member.size or 0) <= MAX_BYTES:
            content = member.contents().read()
            kept = dataclasses.replace(member, contents=functools.partial(io.BytesIO, content))
        found[folder_of(member.location)][member.name] = kept
    return found
