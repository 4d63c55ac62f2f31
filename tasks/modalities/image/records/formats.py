"""Pictures in files, tables and archives: every row with the stored bytes of its picture and mask.

A row is `(number, fields, stored)`; `stored` holds `picture` and `mask` (bytes or None), `suffix` (of
the picture's name, where it has one) and `refused` (why its bytes were not read, or None).
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tasks import sources
from tasks.corpora import tables
from tasks.corpora.labelled import WORDS as SPLIT_WORDS
from tasks.errors import InputError, unknown
from tasks.modalities import Rejected
from tasks.modalities.image.records.decoding import SUFFIXES
from tasks.sources import MEMBER, BrokenLink, File

if TYPE_CHECKING:
    from tasks.config import Columns
    from tasks.modalities.image.records import CorpusSettings

PICTURE = "image"  # the format of a file that is a picture
HUB_FILES = (
    "hf://datasets/"  # as the hub names files of a data set, also within archives (`zip://..::hf://..`)
)
FIELDS = ("picture", "image", "img", "path", "file_name", "filename", "file", "image_path")

Stored = dict[str, Any]
Row = tuple[int, Mapping[str, Any], Stored]


def rows(file: File, format: str, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """Rows of a file in its format, with their pictures.

    Raises:
        InputError: nobody knows the format of that name.
        Rejected: the file's ending is that of no picture or table.
    """
    if file.rows is not None:
        for number, fields in enumerate(file.rows(), start=1):
            named = {**_of_path(file.inside, corpus), **fields} if file.inside else fields
            yield number, named, _stored(file, number, fields, columns, corpus)
        return
    name = _format(file, format)
    if name != PICTURE and PurePosixPath(PurePosixPath(file.name).stem).suffix.lower() in SUFFIXES:
        raise Rejected("beside_a_picture")  # photo.jpg.json, as photo services export it
    if name == PICTURE:
        content, refused = _content(file, corpus)
        yield 1, _of_path(file.inside, corpus), _held(content, refused, file.suffix)
    elif file.archive is not None:
        yield from _members(file, name, columns, corpus)
    else:
        for number, fields in tables.READERS[name](file, corpus):
            yield number, fields, _stored(file, number, fields, columns, corpus)


def _format(file: File, format: str) -> str:
    known = (PICTURE, *tables.READERS)
    if format != "auto":
        if format not in known:
            raise InputError(f"{unknown('format', format, known)}.")
        return format
    found = file.format or (PICTURE if file.suffix in SUFFIXES else tables.SUFFIXES.get(file.suffix))
    if found is None:
        raise Rejected("unknown_format")
    return found


def _of_path(inside: str, corpus: CorpusSettings) -> dict[str, Any]:
    """Fields that a picture's path below its location gives."""
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
    file: File, number: int, fields: Mapping[str, Any], columns: Columns, corpus: CorpusSettings
) -> Stored:
    """Bytes of the picture and the mask that a row holds or names."""
    name = picture_field(fields, columns, f"{file.location}, row {number}")
    value, mask = fields[name], None
    content, refused = _resolved(value, file, number, corpus)
    if columns.mask is not None and not refused:
        if columns.mask not in fields:
            raise InputError(
                f"{file.location}, row {number}: has no field {columns.mask!r}; its fields: "
                f"{', '.join(fields)}. Correct `columns.mask`."
            )
        if fields[columns.mask] is not None:
            mask, refused = _resolved(fields[columns.mask], file, number, corpus)
    path = _path(value) or (f".{name}" if isinstance(value, bytes) else "")
    suffix = PurePosixPath(path if "." in path[1:] else f"x{path}").suffix.lower()
    return _held(content, refused, suffix, mask)


def _held(content: bytes | None, refused: str | None, suffix: str = "", mask: bytes | None = None) -> Stored:
    return {"picture": content, "mask": mask, "suffix": suffix, "refused": refused}


def picture_field(fields: Mapping[str, Any], columns: Columns, where: str) -> str:
    """Name of the field with the picture.

    Raises:
        InputError: there is none; lists the fields.
    """
    endings = tuple(suffix[1:] for suffix in SUFFIXES)
    wanted = (columns.image,) if columns.image is not None else (*FIELDS, *endings)
    there = [name for name in wanted if name in fields]
    found = next((name for name in there if _holds_bytes(fields[name])), there[0] if there else None)
    if found is None:
        raise InputError(
            f"{where}: has no field {' or '.join(map(repr, wanted[:3]))} with a picture; its fields: "
            f"{', '.join(fields)}. Name it in `columns.image`; or, where the table is none of pictures, name "
            "what is: `from: folder/**/*.jpg`."
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


def _resolved(value: Any, file: File, number: int, corpus: CorpusSettings) -> tuple[bytes | None, str | None]:
    """Bytes as they are, or those at the path; or why they were not read."""
    content = _inner(value)
    if isinstance(content, bytes | bytearray | memoryview):
        return (None, "too_many_bytes") if len(content) > corpus.max_bytes else (bytes(content), None)
    where, path = f"{file.location}, row {number}", _path(value)
    if not path:
        return _missing(where, f"holds {content!r}, neither a path nor bytes of a picture", corpus)
    try:
        return _content(_beside(file, path, corpus), corpus)
    except (InputError, FileNotFoundError):
        return _missing(where, f"nothing can be read at {path!r}", corpus)


def _missing(where: str, what: str, corpus: CorpusSettings) -> tuple[None, str]:
    if corpus.missing == "error":
        raise InputError(
            f"{where}: {what}. Correct the table or `root`, or set `missing: drop` to leave such rows out."
        )
    return None, "missing"


def _beside(file: File, path: str, corpus: CorpusSettings) -> File:
    """The file that a path in a table means."""
    if "::" in path or path.startswith(HUB_FILES):
        return File(path, contents=functools.partial(_through_fsspec, path))
    is_whole = "://" in path or path.startswith(("/", "~"))
    folder = corpus.root if corpus.root is not None else file.location.rpartition("/")[0] or "."
    place = path if is_whole else f"{folder.rstrip('/')}/{path}"
    if Path(place).expanduser().is_dir():
        raise FileNotFoundError(place)
    return next(sources.files(place))


def _through_fsspec(path: str) -> BinaryIO:
    import fsspec

    return cast("BinaryIO", fsspec.open(path, "rb").open())


def _content(file: File, corpus: CorpusSettings) -> tuple[bytes | None, str | None]:
    """Bytes of a file, or why they were not read."""
    if file.size is not None and file.size > corpus.max_bytes:
        return None, "too_many_bytes"
    try:
        with file.open() as stream:
            content = stream.read(corpus.max_bytes + 1)
    except BrokenLink:
        return None, "broken_link"
    except PermissionError:
        return None, "permission_denied"
    return (None, "too_many_bytes") if len(content) > corpus.max_bytes else (content, None)


def _members(table: File, format: str, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """Rows of a table in an archive, in the order in which the archive has their pictures.

    An archive is read from its start to its end, never at will; so the rows wait for their pictures.
    """
    from tasks.sources import archives

    assert table.archive is not None
    listed = list(tables.READERS[format](table, corpus))
    home = PurePosixPath(table.location.rpartition(MEMBER)[2]).parent
    waiting: dict[str, list[int]] = defaultdict(list)
    for at, (number, fields) in enumerate(listed):
        value = fields[picture_field(fields, columns, f"{table.location}, row {number}")]
        if path := _path(value):
            waiting[str(home / path)].append(at)
            continue
        yield number, fields, _stored(table, number, fields, columns, corpus)
    for member in archives.members(table.archive):
        for at in waiting.pop(member.location.rpartition(MEMBER)[2], ()):
            content, refused = _content(member, corpus)
            yield *listed[at], _held(content, refused, member.suffix)
    for path, late in waiting.items():
        for at in late:
            number, fields = listed[at]
            where = f"{table.location}, row {number}"
            yield number, fields, _held(*_missing(where, f"the archive has no {path!r}", corpus))
