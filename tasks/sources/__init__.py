"""Where records come from: one module per kind of place, one line of `SCHEMES` per scheme.

A source module answers two questions about a location:

    files(location)               what can be read there, in an order that never changes
    listing(location, full_hash)  what is there now, without reading it (names, sizes, times, versions)
"""

from __future__ import annotations

import bz2
import dataclasses
import fnmatch
import glob
import gzip
import importlib
import io
import lzma
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, cast

from tasks.errors import InputError, unknown

SCHEMES = {
    "": "tasks.sources.folders",
    "embedded": "tasks.sources.embedded",
    "public": "tasks.sources.public",
    "hf": "tasks.sources.hub",
    "https": "tasks.sources.remote",
    "http": "tasks.sources.remote",
    "s3": "tasks.sources.remote",
    "gs": "tasks.sources.remote",
}

COMPRESSIONS = {f".{name}": name for name in ("gz", "bz2", "xz", "zst")} | {
    ".tgz": "gz",
    ".tbz2": "bz2",
    ".txz": "xz",
}
MEMBER = "!/"  # between an archive's location and a path in it
ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".zip")


class BrokenLink(InputError):
    """A name in a folder with no file behind it."""


@dataclass(frozen=True)
class File:
    """One thing that can be read: bytes of a file, or rows that the source has parsed itself.

    Files of a streamed archive can be read only until the next one is asked for.

    Attributes:
        location: unique and stable name, as messages and the column `source` show it.
        contents: opens the stored bytes, compressed as they are.
        license: licence of the file, where the source knows it.
        size: stored bytes, where the source knows them.
        format: format, where the source knows better than the name.
        rows: the rows, of a source that has no bytes to give (a hub, parsed documentation).
        columns: what fields of `rows` mean, in the words of `tasks.config.Columns`.
        inside: its path below the location that was asked for.
        archive: the archive that it is a member of.
        beside: what a modality makes of the files in its folder (`tasks.corpora.beside`).
    """

    location: str
    contents: Callable[[], BinaryIO] | None = None
    license: str | None = None
    size: int | None = None
    format: str | None = None
    rows: Callable[[], Iterator[Mapping[str, Any]]] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    inside: str = ""
    archive: File | None = None
    beside: Callable[[], Any] | None = None

    @property
    def name(self) -> str:
        """Last part of the location."""
        return PurePosixPath(self.location).name

    @property
    def compression(self) -> str | None:
        """`gz`, `bz2`, `xz`, `zst`, or None."""
        return COMPRESSIONS.get(PurePosixPath(self.name).suffix.lower())

    @property
    def suffix(self) -> str:
        """Lower-case ending that tells the format, without that of the compression: `.txt` of `a.txt.gz`."""
        path = PurePosixPath(self.name.lower())
        if path.suffix in COMPRESSIONS and path.suffix not in ARCHIVES:
            path = path.with_suffix("")
        return path.suffix

    def open(self) -> io.BufferedReader:
        """The decompressed bytes, from the start; closing them closes what lies below."""
        if self.contents is None:
            raise TypeError(f"{self.location} has rows, not bytes")
        raw = self.contents()
        return _Reader(_decompress(raw, self.compression), raw)


def without_query(location: str) -> str:
    """A location as files may keep it: the query of a web address may hold a signature."""
    return location.partition("?")[0] if location.startswith("http") else location


def readable(name: str) -> str:
    """A file's name as text that can be stored: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Source(Protocol):
    """What a module named in `SCHEMES` offers."""

    def files(self, location: str) -> Iterator[File]:
        """What can be read at the location."""

    def listing(self, location: str, *, full_hash: bool) -> dict[str, Any]:
        """`{"files": [...]}` or `{"packages": {...}}`: changes when what `files` gives would change."""


def files(location: str) -> Iterator[File]:
    """Every file at a location, members of archives one by one, in a fixed order.

    `photos.tar!/train` and `photos.tar!/*.png` are members of an archive, by folder, name or glob.

    Raises:
        InputError: the scheme is unknown, nothing is there, or it cannot be reached.
    """
    archives = importlib.import_module("tasks.sources.archives")
    place, mark, wanted = location.partition(MEMBER)
    num_found, root = 0, _root(place)
    for file in _source(place).files(place):
        is_archive = file.rows is None and file.suffix in ARCHIVES
        for found in archives.members(file) if is_archive else [file]:
            inside = _inside(root, found)
            if not mark or (is_archive and _is_among(inside, wanted)):
                num_found += 1
                yield dataclasses.replace(found, inside=inside)
    if mark and not num_found:
        raise InputError(f"{location}: the archive has no such member; correct what stands after `{MEMBER}`.")


def _root(place: str) -> str:
    """The part of a place that no pattern varies."""
    steps = place.rstrip("/").split("/")
    is_glob = not Path(place).expanduser().exists()  # brackets in a folder's own name are no pattern
    magic = (number for number, step in enumerate(steps) if is_glob and glob.has_magic(step))
    plain = next(magic, len(steps))
    return "/".join(steps[:plain])


def _inside(root: str, file: File) -> str:
    """Path of a file below the place that was asked for; of an archive's member, its path in there."""
    if file.archive is not None:
        return file.location.rpartition(MEMBER)[2]
    return file.location.removeprefix(f"{root}/") if root and file.location != root else file.name


def _is_among(name: str, wanted: str) -> bool:
    folder = wanted.rstrip("/")
    return name == folder or name.startswith(f"{folder}/") or fnmatch.fnmatchcase(name, wanted)


def listing(location: str, *, full_hash: bool = False) -> dict[str, Any]:
    """What stands at a location now, read from names, sizes and times alone unless `full_hash`."""
    place = location.partition(MEMBER)[0]
    return _source(place).listing(place, full_hash=full_hash)


def _source(location: str) -> Source:
    scheme, mark, _ = location.partition("://")
    scheme = scheme if mark else ""
    if scheme not in SCHEMES:
        known = [f"{name}://" for name in SCHEMES if name]
        raise InputError(
            f"{location}: {unknown('kind of location', scheme + '://', known)}, or a local path."
        )
    return cast("Source", importlib.import_module(SCHEMES[scheme]))


def is_damage(error: Exception) -> bool:
    """Whether an error in reading means a damaged or truncated file, or a connection that broke.

    Decompressors, archives and parquet raise each their own, from packages that need not be
    installed; those that are plain OSErrors carry no errno, which tells them from a full disk.
    """
    home = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError):
        return error.errno is None
    known = ("zlib", "_lzma", "lzma", "zipfile", "tarfile", "_csv", "zstandard", "zstd", "pyarrow", "aiohttp")
    # zipfile has no error of its own for what it cannot decompress
    return isinstance(error, EOFError | UnicodeError | NotImplementedError) or home in known


@contextmanager
def read_to_the_end(file: File) -> Iterator[None]:
    """Damage that shows while a file is read becomes one message; all other errors pass.

    Raises:
        InputError: the file is damaged; says what to do.
    """
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise InputError(
            f"{file.location}: cannot be read to its end ({type(error).__name__}: {error}); it is damaged, "
            "truncated, or not of this format. Fetch it again, or name its `format`."
        ) from error


class _Reader(io.BufferedReader):
    """A decompressor that closes the file it reads from, which those of the standard library don't."""

    def __init__(self, stream: Any, raw: BinaryIO) -> None:
        super().__init__(stream)
        self._raw = raw

    def close(self) -> None:
        super().close()
        self._raw.close()


def _decompress(raw: BinaryIO, compression: str | None) -> Any:
    match compression:
        case "gz":
            return gzip.GzipFile(fileobj=raw)
        case "bz2":
            return bz2.BZ2File(raw)
        case "xz":
            return lzma.LZMAFile(raw)
        case "zst":
            import zstandard

            return _Zstandard(zstandard.ZstdDecompressor().decompressobj, raw)
    return raw


class _Zstandard(io.RawIOBase):
    """Frames of zstd as one stream; a last frame that is cut short is an error, as in the other formats."""

    def __init__(self, new_frame: Callable[[], Any], raw: BinaryIO) -> None:
        self._new_frame = new_frame
        self._frame: Any = None
        self._raw = raw
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._raw.read(1 << 17)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the last zstd frame ends before its end-of-frame mark")
                return 0
            self._frame = self._frame or self._new_frame()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
