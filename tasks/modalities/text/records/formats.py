"""Text in files and tables: one reader per format, each a stream of rows.

A reader gives `(row number, fields)`. Text formats give their documents in the field that
`columns.text` names, so that what follows treats every format alike.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError, unknown
from tasks.modalities import Rejected
from tasks.sources import File

if TYPE_CHECKING:
    from tasks.config import Columns
    from tasks.modalities.text.records import CorpusSettings

Row = tuple[int, Mapping[str, Any]]

MAX_LINE = 1 << 26  # characters of one line of JSON or CSV; more is a file that is not what it seems
MAX_WHOLE = 1 << 30  # bytes of a file that can only be read whole (JSON, HTML)
PIECE = 1 << 20  # characters read at once of a text without line ends

_TITLE = re.compile(r"^ ?= [^=](.*[^=])? =\s*$|^# \S")  # WikiText's first level, or Markdown's
_CONTROL = re.compile(rb"[\x01-\x06\x0e-\x1a\x1c-\x1f]")


def of(file: File, format: str) -> str:
    """The format by name: as told, else as the source knows it, else by the file's ending.

    Raises:
        InputError: nobody knows the format of that name.
        Rejected: the file's ending is none of `SUFFIXES`.
    """
    if format != "auto":
        if format not in READERS:
            raise InputError(f"{unknown('format', format, READERS)}.")
        return format
    found = file.format or SUFFIXES.get(file.suffix)
    if found is None:
        raise Rejected("unknown_format")
    return found


def rows(file: File, format: str, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """Rows of a file in its format, as `of` gives it."""
    return READERS[format](file, columns, corpus)


def _text(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    for number, document in _documents(_lines(file, corpus, PIECE), corpus):
        yield number, {columns.text: document}


def _documents(lines: Iterator[tuple[int, str]], corpus: CorpusSettings) -> Iterator[tuple[int, str]]:
    """First line and text of each document; one that is over-long is never held whole."""
    held: list[str] = []
    size, first, is_skipping = 0, 1, False
    for number, line in lines:
        if _is_border(line, corpus.documents):
            if not _is_blank(held):
                yield first, "".join(held)
            held, size, is_skipping = [], 0, False
        if is_skipping:
            continue
        if not held:
            first = number
        held.append(line)
        size += len(line)
        if size > corpus.max_characters:
            if corpus.over_long == "split":
                *whole, rest = pieces("".join(held), corpus.max_characters)
                for piece in whole:
                    yield first, piece
                held, size, first = [rest], len(rest), number
            else:  # enough for the rule that cuts or drops it; the remainder is read past
                yield first, "".join(held)
                held, size, is_skipping = [], 0, True
    if held and (corpus.documents == "file" or not _is_blank(held)):
        yield first, "".join(held)


def _is_blank(lines: list[str]) -> bool:
    return not any(line.strip() for line in lines)


def _is_border(line: str, documents: str) -> bool:
    match documents:
        case "line":
            return True
        case "paragraph":
            return not line.strip()
        case "heading":
            return _TITLE.match(line) is not None
    return False


def pieces(text: str, limit: int) -> list[str]:
    """The text in parts of at most `limit` characters, cut at line ends or spaces where there are any."""
    parts = []
    while len(text) > limit:
        half = limit // 2  # a border in the first half would make needless crumbs
        at = max(text.rfind("\n", half, limit), -1) + 1 or max(text.rfind(" ", half, limit), -1) + 1 or limit
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]


def _html(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is read well enough as HTML
        soup = BeautifulSoup(_whole(file), "html.parser")
    for tag in soup(["script", "style", "noscript", "template"]):
        tag.decompose()
    text = soup.get_text("\n", strip=True)
    if soup.contains_replacement_characters:
        text = text.replace("\ufffd", "\udcff")  # as the other formats mark what cannot be decoded
    yield 1, {columns.text: text}


def _json_lines(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    for number, line in _lines(file, corpus, MAX_LINE):
        if len(line) >= MAX_LINE:
            raise InputError(
                f"{file.location}, row {number}: longer than {MAX_LINE} characters; is it JSON lines?"
            )
        if line.strip():
            yield number, _object(_parse(line, file, number), file, number)


def _json(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """A list of objects, or SQuAD's nesting of articles, paragraphs and questions."""
    document = _parse(_whole(file).decode("utf-8-sig", "surrogateescape"), file, 1)
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    if not isinstance(document, list):
        raise InputError(f"{file.location}: must hold a list of objects, or SQuAD's {{'data': [...]}}.")
    number = 0
    for item in document:
        entry = _object(item, file, number + 1)
        for fields in _squad(entry, columns) if "paragraphs" in entry else [entry]:
            number += 1
            yield number, fields


def _squad(article: Mapping[str, Any], columns: Columns) -> Iterator[Mapping[str, Any]]:
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            yield {
                **question,
                columns.text: paragraph["context"],
                columns.question: question["question"],
                columns.answers: question.get("answers", []),
            }


def _comma(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    return _delimited(file, corpus, ",")


def _tab(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    return _delimited(file, corpus, "\t")


def _delimited(file: File, corpus: CorpusSettings, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE)  # of the whole process: the module's 131,072 refuses long documents
    reader = csv.DictReader((line for _, line in _lines(file, corpus, MAX_LINE)), delimiter=delimiter)
    for fields in reader:
        number = reader.line_num
        if None in fields:
            raise InputError(
                f"{file.location}, row {number}: has more fields than the header "
                f"({', '.join(reader.fieldnames or [])}); quote fields that hold the delimiter."
            )
        yield number, fields


def _parquet(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    import pyarrow.parquet as pq

    from tasks.sources.archives import seekable

    number = 0
    with file.open() as stream, seekable(stream) as source, pq.ParquetFile(source, pre_buffer=False) as table:
        for batch in table.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield number, fields


def _conll(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """Sentences of one word a line: word first, tag last, blank lines and -DOCSTART- between them."""
    words: list[list[str]] = []
    first, document = 1, 0
    for number, line in _lines(file, corpus, MAX_LINE):
        parts = line.split()
        is_mark = bool(parts) and parts[0].startswith("-DOCSTART-")
        if parts and not is_mark:
            first = first if words else number
            words.append(parts)
            continue
        if words:
            yield first, _sentence(words, columns, document)
            words = []
        document += is_mark
    if words:
        yield first, _sentence(words, columns, document)


def _sentence(words: list[list[str]], columns: Columns, document: int) -> Mapping[str, Any]:
    tokens = [parts[0] for parts in words]
    return {
        columns.tokens: tokens,
        columns.tags: [parts[-1] for parts in words],
        columns.text: " ".join(tokens),
        "document": document,
    }


def _lines(file: File, corpus: CorpusSettings, limit: int) -> Iterator[tuple[int, str]]:
    """Numbered lines, longer ones in parts of `limit`; bytes that cannot be decoded as lone surrogates."""
    with file.open() as stream:
        encoding = _encoding(file, stream.peek(8192)[:8192], corpus)
        errors = "replace" if encoding in ("utf-16", "utf-32") else "surrogateescape"
        with io.TextIOWrapper(stream, encoding=encoding, errors=errors) as text:
            number = 1
            while line := text.readline(limit):
                yield number, line
                number += line.endswith("\n")


def _encoding(file: File, head: bytes, corpus: CorpusSettings) -> str:
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codec = codecs.lookup(corpus.encoding)
    except LookupError:
        raise InputError(
            f"encoding {corpus.encoding!r} is unknown to Python; write utf-8, latin-1, ..."
        ) from None
    is_wide = codec.name.startswith(("utf-16", "utf-32"))
    if not is_wide and (b"\0" in head or len(_CONTROL.findall(head)) > len(head) // 20):
        if corpus.binary == "drop":
            raise Rejected("binary")
        raise InputError(
            f"{file.location}: is binary, not text (its first bytes are {head[:8]!r}); remove it, name its "
            "`format`, or set `binary: drop` to leave such files out."
        )
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def _whole(file: File) -> bytes:
    with file.open() as stream:
        content = stream.read(MAX_WHOLE + 1)
    if len(content) > MAX_WHOLE:
        raise InputError(
            f"{file.location}: is over {MAX_WHOLE} bytes; turn it into JSON lines, which stream."
        )
    return content


def _parse(text: str, file: File, number: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(
            f"{file.location}, row {number}: is not JSON ({error}); it starts with {text[:40]!r}. Correct "
            "the row, or name the file's `format`."
        ) from None


def _object(value: Any, file: File, number: int) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{file.location}, row {number}: must be an object {{...}}; got {type(value).__name__}."
        )
    return value


Reader = Callable[[File, "Columns", "CorpusSettings"], Iterator[Row]]

READERS: dict[str, Reader] = {
    "txt": _text,
    "md": _text,
    "html": _html,
    "jsonl": _json_lines,
    "json": _json,
    "csv": _comma,
    "tsv": _tab,
    "parquet": _parquet,
    "conll": _conll,
}

RUNNING_TEXT = {"txt", "md", "html"}  # documents without fields

SUFFIXES = {f".{name}": name for name in READERS} | {
    ".text": "txt",
    ".markdown": "md",
    ".htm": "html",
    ".xhtml": "html",
    ".ndjson": "jsonl",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
}
