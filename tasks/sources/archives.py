"""Members of tar and zip archives, one after the other, never unpacked to disk.

Members that would leave the folder they are unpacked to (`../`, absolute paths, links) are refused:
no honest data set holds them.
"""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from tasks.errors import InputError
from tasks.sources import MEMBER, File, is_damage, readable


def members(archive: File) -> Iterator[File]:
    """The regular files of an archive in its own order, each readable until the next is asked for.

    Raises:
        InputError: the archive is damaged, or a member points outside it.
    """
    try:
        yield from _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive)
    except Exception as error:
        if not is_damage(error):
            raise
        raise InputError(
            f"{archive.location}: damaged or truncated archive ({error}); fetch it again."
        ) from error


def _tar_members(archive: File) -> Iterator[File]:
    with archive.open() as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if member.isdir():
                continue
            _refuse_escape(archive, member.name, is_plain=member.isreg())
            if not _is_hidden(member.name):
                opened = cast("BinaryIO", _Forward(tar.extractfile(member)))
                yield _member(archive, member.name, opened, member.size)


def _zip_members(archive: File) -> Iterator[File]:
    with archive.open() as stream, seekable(stream) as file, zipfile.ZipFile(file) as zipped:
        for member in zipped.infolist():
            mode = member.external_attr >> 16
            _refuse_escape(archive, member.filename, is_plain=not stat.S_ISLNK(mode))
            if member.is_dir() or _is_hidden(member.filename):
                continue
            if member.flag_bits & 0x1:
                raise InputError(
                    f"{archive.location}: {member.filename} is encrypted; unpack it yourself first."
                )
            with zipped.open(member) as opened:
                yield _member(archive, member.filename, cast("BinaryIO", opened), member.file_size)


def seekable(stream: io.BufferedReader) -> BinaryIO:
    """The stream itself where it can seek, else a copy on disk that vanishes when closed."""
    if stream.seekable():
        return stream
    copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    while chunk := stream.read(1 << 20):
        copy.write(chunk)
    copy.seek(0)
    return copy


class _Forward(io.RawIOBase):
    """A member of a streamed tar that says it cannot seek, where Python 3.11.7 raises AttributeError."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._opened.readinto(buffer))


def _member(archive: File, name: str, opened: BinaryIO, size: int) -> File:
    return File(
        location=f"{archive.location}{MEMBER}{readable(name.removeprefix('./'))}",
        contents=lambda: opened,
        license=archive.license,
        size=size,
        format=archive.format,
        archive=archive,
    )


def _refuse_escape(archive: File, name: str, *, is_plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or drive or ".." in path.parts:
        raise InputError(
            f"{archive.location}: member {name!r} points outside the archive; it is refused as unsafe. "
            "Pack the files again with relative paths."
        )
    if not is_plain:
        raise InputError(
            f"{archive.location}: member {name!r} is a link or a device; it is refused as unsafe. "
            "Pack the files themselves (tar --dereference)."
        )


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts if part != ".")
