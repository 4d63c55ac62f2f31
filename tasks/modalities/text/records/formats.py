"""Text in files and tables: one reader per format, each a stream of rows.

A reader gives `(row number, fields)`. Text formats give their documents in the field that
`columns.text` names, so that what follows treats every format alike.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.corpora import tables
from tasks.corpora.tables import Row
from tasks.errors import InputError, unknown
from tasks.modalities import Rejected
from tasks.sources import File

if TYPE_CHECKING:
    from tasks.config import Columns
    from tasks.modalities.text.records import CorpusSettings

PIECE = 1 << 20  # characters read at once of a text without line ends

_TITLE = re.compile(r"^ ?= [^=](.*[^=])? =\s*$|^# \S")  # WikiText's first level, or Markdown's


def of(file: File, format: str) -> str:
    """The format by name: as told, else as the source knows it, else by the file's ending.

    Raises:
        InputError: nobody knows the format of that name.
        Rejected: the file's ending is none of `SUFFIXES`.
    """
    if format != "auto":
        if format not in FORMATS:
            raise InputError(f"{unknown('format', format, FORMATS)}.")
        return format
    found = file.format or SUFFIXES.get(file.suffix)
    if found is None:
        raise Rejected("unknown_format")
    return found


def rows(file: File, format: str, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """Rows of a file in its format, as `of` gives it."""
    if format in DOCUMENTS:
        return DOCUMENTS[format](file, columns, corpus)
    return tables.READERS[format](file, corpus)


def _text(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    for number, document in _documents(tables.lines(file, corpus, PIECE), corpus):
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
        soup = BeautifulSoup(tables.whole(file), "html.parser")
    for tag in soup(["script", "style", "noscript", "template"]):
        tag.decompose()
    text = soup.get_text("\n", strip=True)
    if soup.contains_replacement_characters:
        text = text.replace("\ufffd", "\udcff")  # as the other formats mark what cannot be decoded
    yield 1, {columns.text: text}


def _json(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """A list of objects, or SQuAD's nesting of articles, paragraphs and questions."""
    number = 0
    for _, entry in tables.json_list(file, corpus):
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


def _conll(file: File, columns: Columns, corpus: CorpusSettings) -> Iterator[Row]:
    """Sentences of one word a line: word first, tag last, blank lines and -DOCSTART- between them."""
    words: list[list[str]] = []
    first, document = 1, 0
    for number, line in tables.lines(file, corpus, tables.MAX_LINE):
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


Reader = Callable[[File, "Columns", "CorpusSettings"], Iterator[Row]]

DOCUMENTS: dict[str, Reader] = {
    "txt": _text,
    "md": _text,
    "html": _html,
    "json": _json,
    "conll": _conll,
}

FORMATS = (*DOCUMENTS, *(name for name in tables.READERS if name not in DOCUMENTS))

SUFFIXES = (
    tables.SUFFIXES
    | {f".{name}": name for name in DOCUMENTS}
    | {
        ".text": "txt",
        ".markdown": "md",
        ".htm": "html",
        ".xhtml": "html",
        ".iob": "conll",
        ".iob2": "conll",
        ".bio": "conll",
    }
)

RUNNING_TEXT = {"txt", "md", "html"}  # documents without fields
