"""WebDataset shards: members of a tar or zip that share a key make one row.

The key is the path up to the first dot of the name (https://github.com/webdataset/webdataset):
`0001.jpg`, `0001.cls` and `0001.json` are one sample. Its fields are the endings, the keys of its JSON,
and `label` (of `cls`) and `text` (of `txt`) where the JSON has none. Pictures (or sounds, ...) that share
a key with no such companion stay rows of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from tasks.corpora.media import Medium
from tasks.errors import InputError
from tasks.sources import File

COMPANIONS = {"cls": "label", "txt": "text", "json": None}
MOST_PARTS = 64  # of a sample; names with dots (frame.0001.jpg) share what looks like a key
MAX_BYTES = 1 << 28  # of one member: larger ones stay rows of their own

Held = tuple[File, str, bytes]


def gathered(files: Iterator[File], medium: Medium) -> Iterator[File]:
    """The files, members of archives of equal key as one file with one row."""
    held: list[Held] = []
    key: tuple[str, str] | None = None
    for file in files:
        own, ending = _key(file)
        is_part = file.archive is not None and (f".{ending}" in medium.suffixes or ending in COMPANIONS)
        is_part = is_part and file.size is not None and file.size <= MAX_BYTES
        if own != key or not is_part or len(held) == MOST_PARTS:
            yield from _joined(held, medium)
            held, key = [], None
        if is_part:
            with file.open() as stream:
                held.append((file, ending, stream.read()))
            key = own
        else:
            yield file
    yield from _joined(held, medium)


def _key(file: File) -> tuple[tuple[str, str], str]:
    """Archive and key, and the last ending."""
    path = PurePosixPath(file.inside)
    archive = file.archive.location if file.archive else ""
    return (archive, str(path.with_name(path.name.partition(".")[0]))), path.suffix[1:].lower()


def _joined(held: list[Held], medium: Medium) -> Iterator[File]:
    wanted = [file for file, ending, _ in held if f".{ending}" in medium.suffixes]
    if wanted and len(wanted) < len(held):
        rows = functools.partial(_row, tuple(held), medium)
        yield dataclasses.replace(wanted[0], contents=None, rows=rows)
        return
    for file, _, content in held:
        yield dataclasses.replace(file, contents=functools.partial(io.BytesIO, content))


def _row(held: tuple[Held, ...], medium: Medium) -> Iterator[Mapping[str, Any]]:
    fields: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for file, ending, content in held:
        name = PurePosixPath(file.inside).name
        fields[name.partition(".")[2]] = (
            content if f".{ending}" in medium.suffixes else content.decode("utf-8")
        )
        if ending == "json":
            described |= _object(file, content)
        elif meaning := COMPANIONS.get(ending):
            fields[meaning] = content.decode("utf-8").strip()
    yield {**fields, **described, "__key__": PurePosixPath(held[0][0].inside).name.partition(".")[0]}


def _object(file: File, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file.location}: is not JSON ({error}); mend the shard.") from None
    if not isinstance(value, dict):
        raise InputError(f"{file.location}: must hold an object {{...}}; got {type(value).__name__}.")
    return value
