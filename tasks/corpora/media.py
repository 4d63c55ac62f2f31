"""Pictures, sounds and the like in files, tables and archives: every row with their stored bytes.

A row is `(number, fields, stored)`; `stored` holds, by the medium's name, the bytes (or None), `mask`
(likewise, where a column names it), `suffix` (of the file's name, where there is one) and `refused` (why
the bytes were not read, or None).
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast

from tasks import sources
from tasks.corpora import tables
from tasks.corpora.labelled import WORDS as SPLIT_WORDS
from tasks.errors import InputError, unknown
from tasks.modalities import Rejected
from tasks.sources import MEMBER, BrokenLink, File

if TYPE_CHECKING:
    from tasks.config import Columns

# As the hub names files of a data set, also within archives (`zip://..::hf://..`).
HUB_FILES = "hf://datasets/"

Stored = dict[str, Any]
Row = tuple[int, Mapping[str, Any], Stored]


@dataclass(frozen=True)
class Medium:
    """What files of one kind are called.

    Attributes:
        name: of what a file holds, for people, and of its bytes in a row (`picture`).
        column: the key of `Columns` that names its field, and the format of such a file (`image`).
        suffixes: lower-case endings of its files, with the dot; the commonest first.
        fields: where it is looked for in a table whose `columns` don't say.
        folders: beside a table, in which the files that it names may lie as well.
    """

    name: str
    column: str
    suffixes: tuple[str, ...]
    fields: tuple[str, ...]
    folders: tuple[str, ...] = ()


class Rules(tables.Decoding, Protocol):
    """What a corpus says of reading its files."""

    @property
    def pattern(self) -> str | None:
        """Regular expression over a path below its location, whose groups become fields."""

    @property
    def root(self) -> str | None:
        """Where relative paths in tables start; None is where the table lies."""

    @property
    def missing(self) -> Literal["error", "drop"]:
        """What becomes of rows whose path is empty or leads nowhere."""

    @property
    def max_bytes(self) -> int:
        """Files of more are not read."""


def rows(file: File, format: str, columns: Columns, corpus: Rules, medium: Medium) -> Iterator[Row]:
    """Rows of a file in its format, with what they hold or name.

    Raises:
        InputError: nobody knows the format of that name.
        Rejected: the file's ending is that of neither the medium nor a table.
    """
    if file.rows is not None:
        for number, fields in enumerate(file.rows(), start=1):
            named = {**_of_path(file.inside, corpus), **fields} if file.inside else fields
            yield number, named, _stored(file, number, fields, columns, corpus, medium)
        return
    name = format_of(file, format, medium)
    is_medium = name == medium.column
    if not is_medium and PurePosixPath(PurePosixPath(file.name).stem).suffix.lower() in medium.suffixes:
        raise Rejected(f"beside_a_{medium.name}")  # photo.jpg.json, as photo services export it
    if is_medium:
        content, refused = _content(file, corpus)
        yield 1, _of_path(file.inside, corpus), held(medium, content, refused, file.suffix)
    elif file.archive is not None:
        yield from _members(file, name, columns, corpus, medium)
    else:
        for number, fields in tables.READERS[name](file, corpus):
            yield number, fields, _stored(file, number, fields, columns, corpus, medium)


def format_of(file: File, format: str, medium: Medium) -> str:
    """Format of a file: as given, or by its name.

    Raises:
        InputError: nobody knows the format of that name.
        Rejected: the file's ending is that of neither the medium nor a table.
    """
    known = (medium.column, *tables.READERS)
    if format != "auto":
        if format not in known:
            raise InputError(f"{unknown('format', format, known)}.")
        return format
    found = file.format or (
        medium.column if file.suffix in medium.suffixes else tables.SUFFIXES.get(file.suffix)
    )
    if found is None:
        raise Rejected("unknown_format")
    return found


def _of_path(inside: str, corpus: Rules) -> dict[str, Any]:
    """Fields that a file's path below its location gives."""
    folders = PurePosixPath(inside).parts[:-1]
    fields = {"path": inside, "name": PurePosixPath(inside).stem}
    if corpus.pattern is None:
        if len(folders) > 1 and folders[0].lower() in SPLIT_WORDS:
            return fields | {"split": folders[0], "label": folders[1]}
        return fields | ({"label": folders[0]} if folders else {})
    match = _compiled(corpus.pattern).search(inside)
    if match is None:
        raise Rejected("path_without_pattern")
    return fields | match.groupdict()


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}.") from None


def _stored(
    file: File, number: int, fields: Mapping[str, Any], columns: Columns, corpus: Rules, medium: Medium
) -> Stored:
    """Bytes of the medium and the mask that a row holds or names."""
    name = field_of(medium, fields, columns, f"{file.location}, row {number}")
    value, mask = fields[name], None
    content, refused = _resolved(value, file, number, corpus, medium)
    if columns.mask is not None and not refused:
        if columns.mask not in fields:
            raise InputError(
                f"{file.location}, row {number}: has no field {columns.mask!r}; its fields: "
                f"{', '.join(fields)}. Correct `columns.mask`."
            )
        if fields[columns.mask] is not None:
            mask, refused = _resolved(fields[columns.mask], file, number, corpus, medium)
    path = _path(value) or (f".{name}" if isinstance(value, bytes) else "")
    suffix = PurePosixPath(path if "." in path[1:] else f"x{path}").suffix.lower()
    return held(medium, content, refused, suffix, mask)


def held(
    medium: Medium, content: bytes | None, refused: str | None, suffix: str = "", mask: bytes | None = None
) -> Stored:
    """What a row holds, under the medium's name."""
    return {medium.name: content, "mask": mask, "suffix": suffix, "refused": refused}


def field_of(medium: Medium, fields: Mapping[str, Any], columns: Columns, where: str) -> str:
    """Name of the field with the medium.

    Raises:
        InputError: there is none; lists the fields.
    """
    given = getattr(columns, medium.column)
    endings = (suffix[1:] for suffix in medium.suffixes)
    wanted = (given,) if given is not None else (*medium.fields, *endings)
    there = [name for name in wanted if name in fields]
    found = next((name for name in there if _holds_bytes(fields[name])), there[0] if there else None)
    if found is None:
        raise InputError(
            f"{where}: has no field {' or '.join(map(repr, wanted[:3]))} with a {medium.name}; its fields: "
            f"{', '.join(fields)}. Name it in `columns.{medium.column}`; or, where the table is none of "
            f"{medium.name}s, name what is: `from: folder/**/*{medium.suffixes[0]}`."
        )
    return found


def _holds_bytes(value: Any) -> bool:
    return isinstance(_inner(value), bytes | bytearray | memoryview)


def _inner(value: Any) -> Any:
    return value.get("bytes") if isinstance(value, Mapping) else value


def _path(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("path")
    return value.strip() if isinstance(value, str) else ""


def _resolved(
    value: Any, file: File, number: int, corpus: Rules, medium: Medium
) -> tuple[bytes | None, str | None]:
    """Bytes as they are, or those at the path; or why they were not read."""
    content = _inner(value)
    if isinstance(content, bytes | bytearray | memoryview):
        return (None, "too_many_bytes") if len(content) > corpus.max_bytes else (bytes(content), None)
    where, path = f"{file.location}, row {number}", _path(value)
    if not path:
        return _missing(where, f"holds {content!r}, neither a path nor bytes of a {medium.name}", corpus)
    for place in _places(file, path, corpus, medium):
        try:
            return _content(_at(place), corpus)
        except (InputError, FileNotFoundError):
            continue
    return _missing(where, f"nothing can be read at {path!r}", corpus)


def _missing(where: str, what: str, corpus: Rules) -> tuple[None, str]:
    if corpus.missing == "error":
        raise InputError(
            f"{where}: {what}. Correct the table or `root`, or set `missing: drop` to leave such rows out."
        )
    return None, "missing"


def _places(file: File, path: str, corpus: Rules, medium: Medium) -> list[str]:
    """What a path in a table may mean."""
    if "://" in path or "::" in path or path.startswith(("/", "~")):
        return [path]
    if corpus.root is not None:
        return [f"{corpus.root.rstrip('/')}/{path}"]
    home = file.location.rpartition("/")[0] or "."
    return [f"{home}/{path}", *(f"{home}/{folder}/{path}" for folder in medium.folders)]


def _at(place: str) -> File:
    if "::" in place or place.startswith(HUB_FILES):
        return File(place, contents=functools.partial(_through_fsspec, place))
    if Path(place).expanduser().is_dir():
        raise FileNotFoundError(place)
    return next(sources.files(place))


def _through_fsspec(path: str) -> BinaryIO:
    import fsspec

    return cast("BinaryIO", fsspec.open(path, "rb").open())


def _content(file: File, corpus: Rules) -> tuple[bytes | None, str | None]:
    """Bytes of a file, or why they were not read."""
    if file.size is not None and file.size > corpus.max_bytes:
        return None, "too_many_bytes"
    # room is made for as many bytes as are asked for, so that only what is compressed asks for all
    most = file.size if file.size and not file.compression else corpus.max_bytes
    try:
        with file.open() as stream:
            content = stream.read(most + 1)
    except BrokenLink:
        return None, "broken_link"
    except PermissionError:
        return None, "permission_denied"
    return (None, "too_many_bytes") if len(content) > corpus.max_bytes else (content, None)


def _members(table: File, format: str, columns: Columns, corpus: Rules, medium: Medium) -> Iterator[Row]:
    """Rows of a table in an archive, in the order in which the archive has the files that they name.

    An archive is read from its start to its end, never at will; so the rows wait for their files.
    """
    from tasks.sources import archives

    assert table.archive is not None
    listed = list(tables.READERS[format](table, corpus))
    home = PurePosixPath(table.location.rpartition(MEMBER)[2]).parent
    waiting: dict[str, list[int]] = defaultdict(list)
    late: dict[int, str] = {}
    for at, (number, fields) in enumerate(listed):
        value = fields[field_of(medium, fields, columns, f"{table.location}, row {number}")]
        if path := _path(value):
            late[at] = path
            for folder in ("", *medium.folders):
                waiting[str(home / folder / path)].append(at)
            continue
        yield number, fields, _stored(table, number, fields, columns, corpus, medium)
    for member in archives.members(table.archive):
        for at in waiting.pop(member.location.rpartition(MEMBER)[2], ()):
            if late.pop(at, None) is not None:
                content, refused = _content(member, corpus)
                yield *listed[at], held(medium, content, refused, member.suffix)
    for at, path in late.items():
        number, fields = listed[at]
        what = f"the archive has no {str(home / path)!r}"
        yield number, fields, held(medium, *_missing(f"{table.location}, row {number}", what, corpus))
