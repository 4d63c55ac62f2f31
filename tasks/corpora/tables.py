"""Tables in files, whatever they hold: CSV, TSV, JSON, JSON lines and parquet as streams of rows.

A reader gives `(row number, fields)`; rows of text formats count lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

from tasks.errors import InputError
from tasks.modalities import Rejected
from tasks.sources import File
from tasks.sources.hub import named

Row = tuple[int, Mapping[str, Any]]

MAX_LINE = 1 << 26  # characters of one line of JSON or CSV; more is a file that is not what it seems
MAX_WHOLE = 1 << 30  # bytes of a file that can only be read whole (JSON, HTML)
BATCH_BYTES = 16 << 20  # of parquet rows at once

_CONTROL = re.compile(rb"[\x01-\x06\x0e-\x1a\x1c-\x1f]")


class Decoding(Protocol):
    """How bytes become characters; the corpora of every modality say it."""

    @property
    def encoding(self) -> str:
        """Encoding of files that have no byte-order mark."""

    @property
    def binary(self) -> Literal["error", "drop"]:
        """What becomes of binary files under the name of a text format."""


def json_lines(file: File, decoding: Decoding) -> Iterator[Row]:
    """One object a line; blank lines don't count."""
    for number, line in lines(file, decoding, MAX_LINE):
        if len(line) >= MAX_LINE:
            raise InputError(
                f"{file.location}, row {number}: longer than {MAX_LINE} characters; is it JSON lines?"
            )
        if line.strip():
            yield number, as_object(parse(line, file, number), file, number)


def json_list(file: File, decoding: Decoding) -> Iterator[Row]:
    """Objects of a list, which may stand under `data`."""
    document = parse(whole(file).decode("utf-8-sig", "surrogateescape"), file, 1)
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    if not isinstance(document, list):
        raise InputError(f"{file.location}: must hold a list of objects, or {{'data': [...]}}.")
    for number, item in enumerate(document, start=1):
        yield number, as_object(item, file, number)


def comma(file: File, decoding: Decoding) -> Iterator[Row]:
    """Comma-separated values under a header."""
    return _delimited(file, decoding, ",")


def tab(file: File, decoding: Decoding) -> Iterator[Row]:
    """Tab-separated values under a header; many programs write them without ever quoting."""
    return _delimited(file, decoding, "\t")


def _delimited(file: File, decoding: Decoding, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE)  # of the whole process: the module's 131,072 refuses long documents
    text = (line for _, line in lines(file, decoding, MAX_LINE))
    reader = csv.DictReader(_closed(text) if delimiter == "\t" else text, delimiter=delimiter)
    for fields in reader:
        number = reader.line_num
        if None in fields:
            raise InputError(
                f"{file.location}, row {number}: has more fields than the header "
                f"({', '.join(reader.fieldnames or [])}); quote fields that hold the delimiter."
            )
        yield number, fields


def _closed(lines: Iterator[str]) -> Iterator[str]:
    """Lines of tab-separated values, in which a mark that opens no quotation is quoted itself.

    It opens none where its line has all fields and the next one, which would have to go on, has them too.
    """
    line, is_open = next(lines, ""), False
    num_tabs = line.count("\t")
    for following in itertools.chain(lines, [""]):
        if line.count('"') % 2:
            is_whole = num_tabs > 0 and line.count("\t") == num_tabs
            if is_whole and not is_open and (not following or following.count("\t") == num_tabs):
                fields = line.rstrip("\r\n").replace('"', '""').split("\t")
                line = "\t".join(f'"{field}"' for field in fields) + "\n"
            else:
                is_open = not is_open
        yield line
        line = following


def parquet(file: File, decoding: Decoding) -> Iterator[Row]:
    """Rows of a parquet file; class numbers as names where the hub's metadata tell them."""
    import pyarrow.parquet as pq

    from tasks.sources.archives import seekable

    number = 0
    with file.open() as stream, seekable(stream) as source, pq.ParquetFile(source, pre_buffer=False) as table:
        names = _class_names(table.schema_arrow.metadata or {})
        for batch in table.iter_batches(batch_size=_batch_rows(table.metadata)):
            for fields in batch.to_pylist():
                number += 1
                yield number, {**fields, **{key: named(fields[key], names[key]) for key in names}}


def _batch_rows(metadata: Any) -> int:
    groups = range(metadata.num_row_groups)
    size = sum(metadata.row_group(group).total_byte_size for group in groups)
    return min(max(BATCH_BYTES * metadata.num_rows // max(size, 1), 1), 1024)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of classes by column, as `datasets` writes them into the schema."""
    info = json.loads(metadata.get(b"huggingface", b"{}")).get("info") or {}
    features = {key: entry for key, entry in (info.get("features") or {}).items() if isinstance(entry, dict)}
    inner = {key: entry.get("feature") or entry for key, entry in features.items()}
    return {key: entry["names"] for key, entry in inner.items() if entry.get("_type") == "ClassLabel"}


def lines(file: File, decoding: Decoding, limit: int) -> Iterator[tuple[int, str]]:
    """Numbered lines, longer ones in parts of `limit`; bytes that cannot be decoded as lone surrogates."""
    with file.open() as stream:
        encoding = _encoding(file, stream.peek(8192)[:8192], decoding)
        errors = "replace" if encoding in ("utf-16", "utf-32") else "surrogateescape"
        with io.TextIOWrapper(stream, encoding=encoding, errors=errors) as text:
            number = 1
            while line := text.readline(limit):
                yield number, line
                number += line.endswith("\n")


def _encoding(file: File, head: bytes, decoding: Decoding) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codec = codecs.lookup(decoding.encoding)
    except LookupError:
        raise InputError(
            f"encoding {decoding.encoding!r} is unknown to Python; write utf-8, latin-1, ..."
        ) from None
    is_wide = codec.name.startswith(("utf-16", "utf-32"))
    if not is_wide and (b"\0" in head or len(_CONTROL.findall(head)) > len(head) // 20):
        if decoding.binary == "drop":
            raise Rejected("binary")
        raise InputError(
            f"{file.location}: is binary, not text (its first bytes are {head[:8]!r}); remove it, name its "
            "`format`, or set `binary: drop` to leave such files out."
        )
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def whole(file: File) -> bytes:
    """All bytes of a file whose format does not stream."""
    with file.open() as stream:
        content = stream.read(MAX_WHOLE + 1)
    if len(content) > MAX_WHOLE:
        raise InputError(
            f"{file.location}: is over {MAX_WHOLE} bytes; turn it into JSON lines, which stream."
        )
    return content


def parse(text: str, file: File, number: int) -> Any:
    """The value of a piece of JSON, or an error that names its row."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(
            f"{file.location}, row {number}: is not JSON ({error}); it starts with {text[:40]!r}. Correct "
            "the row, or name the file's `format`."
        ) from None


def as_object(value: Any, file: File, number: int) -> Mapping[str, Any]:
    """The value, which must be an object of JSON."""
    if not isinstance(value, dict):
        raise InputError(
            f"{file.location}, row {number}: must be an object {{...}}; got {type(value).__name__}."
        )
    return value


READERS: dict[str, Callable[[File, Decoding], Iterator[Row]]] = {
    "jsonl": json_lines,
    "json": json_list,
    "csv": comma,
    "tsv": tab,
    "parquet": parquet,
}

SUFFIXES = {f".{name}": name for name in READERS} | {".ndjson": "jsonl"}
