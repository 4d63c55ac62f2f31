"""What is said in recordings: in fields of tables and samples, or in text files beside them.

`a.txt` or `a.lab` says what `a.wav` does; in LibriSpeech's layout (https://www.openslr.org/12)
`84-121123.trans.txt` holds a line `84-121123-0000 GO DO YOU HEAR` for each recording of a chapter, and the
first number is the speaker's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tasks.corpora import media
from tasks.errors import InputError
from tasks.modalities import Rejected
from tasks.modalities.speech.records import COMPANIONS
from tasks.modalities.speech.records.decoding import MEDIUM

if TYPE_CHECKING:
    from tasks.config import Columns
    from tasks.sources import File

CHAPTER = ".trans.txt"
FIELDS = ("transcript", "sentence", "text", "normalized_text", "transcription", "raw_transcription")
SPEAKERS = ("group", "speaker", "speaker_id", "spk_id", "client_id")


class Rules(media.Rules, Protocol):
    """What a corpus says of reading its files."""

    @property
    def missing(self) -> Literal["error", "drop"]:
        """What becomes of recordings without a transcript, and of transcripts without a recording."""


class Folder:
    """The files of a folder, as recordings ask them for their transcripts.

    Args:
        files: by name.
    """

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files
        named = (name.rpartition(".") for name in files)
        self._recordings = {stem for stem, _, ending in named if f".{ending.lower()}" in MEDIUM.suffixes}
        self._chapters: dict[str, dict[str, str]] = {}

    def has_recording(self, stem: str) -> bool:
        """Whether a recording of that name is there, whatever its format."""
        return stem in self._recordings

    def said(self, stem: str) -> dict[str, str]:
        """`transcript` of the recording of that name, and its `speaker` where the name tells; or nothing."""
        for suffix in COMPANIONS:
            if f"{stem}{suffix}" in self._files:
                return {"transcript": _text(self._files[f"{stem}{suffix}"])}
        chapter, mark, _ = stem.rpartition("-")
        if not mark or f"{chapter}{CHAPTER}" not in self._files:
            return {}
        lines = self.lines(f"{chapter}{CHAPTER}")
        return {"transcript": lines[stem], "speaker": stem.partition("-")[0]} if stem in lines else {}

    def lines(self, name: str) -> dict[str, str]:
        """What is said by recording, in the file of a chapter.

        Raises:
            InputError: it is not UTF-8, or names a recording twice.
        """
        if name not in self._chapters:
            self._chapters[name] = _lines(self._files[name])
        return self._chapters[name]


def _lines(file: File) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(_text(file).splitlines(), start=1):
        stem, said = [*line.split(maxsplit=1), "", ""][:2]
        if stem in found:
            raise InputError(
                f"{file.location}, line {number}: {stem} has a transcript already; leave one of the lines."
            )
        if stem:
            found[stem] = said
    return found


def _text(file: File) -> str:
    with file.open() as stream:
        content = stream.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file.location}: is not UTF-8 (byte {error.start}); save it in that encoding."
        ) from None


def rows(file: File, format: str, columns: Columns, corpus: Rules) -> Iterator[media.Row]:
    """Rows of a file as `media.rows` gives them, each with `transcript` and `group` (None where nobody says).

    Raises:
        InputError: nothing says what is said in a recording, or a transcript has none, and must.
        Rejected: the file is a text that belongs to no recording.
    """
    is_stored = file.rows is None and file.beside is not None
    if is_stored and format in ("auto", MEDIUM.column) and file.suffix in COMPANIONS:
        yield from _lost(file, columns, corpus)
        return
    is_recording = is_stored and media.format_of(file, format, MEDIUM) == MEDIUM.column
    for number, row, stored in media.rows(file, format, columns, corpus, MEDIUM):
        where = f"{file.location}, row {number}"
        fields = {**row}
        if is_recording and not _told(row, columns):
            fields |= _folder(file).said(file.name.rpartition(".")[0])
        said = _field(fields, columns, where)
        if said is None and corpus.missing == "error":
            raise InputError(
                f"{where}: nothing says what is said; its fields: {', '.join(fields)}. Name the field in "
                "`columns.transcript`, put a text file of the same name beside the recording, or set "
                "`missing: drop` to leave such recordings out."
            )
        yield number, {**fields, **_group(fields, columns), "transcript": said}, stored


def _folder(file: File) -> Folder:
    assert file.beside is not None
    found = file.beside()
    assert isinstance(found, Folder)
    return found


def _group(fields: Mapping[str, Any], columns: Columns) -> dict[str, str | None]:
    """The speaker as the group, where no column is named that says it."""
    if columns.group:
        return {}
    speaker = next((fields[name] for name in SPEAKERS if fields.get(name) is not None), None)
    return {"group": None if speaker is None else str(speaker)}


def _told(row: Mapping[str, Any], columns: Columns) -> bool:
    return columns.transcript is not None or any(name in row for name in FIELDS)


def _field(fields: Mapping[str, Any], columns: Columns, where: str) -> str | None:
    """The transcript that a row holds, as it is written."""
    if columns.transcript is not None and columns.transcript not in fields:
        raise InputError(
            f"{where}: has no field {columns.transcript!r}; its fields: {', '.join(fields)}. Correct "
            "`columns.transcript`."
        )
    names = FIELDS if columns.transcript is None else (columns.transcript,)
    found = next((fields[name] for name in names if name in fields), None)
    if found is None or found != found or not str(found).strip():
        return None
    if any("\ud800" <= character <= "\udfff" for character in str(found)):  # bytes that no character has
        raise InputError(
            f"{where}: the transcript cannot be decoded; write in `encoding` what the table is (latin-1, "
            "cp1252, ...), or save it as UTF-8."
        )
    return str(found)


def _lost(file: File, columns: Columns, corpus: Rules) -> Iterator[media.Row]:
    """Lines of a text without the recording that they belong to; the others are read with theirs."""
    folder = _folder(file)
    if not file.name.endswith(CHAPTER):
        if not folder.has_recording(file.name.rpartition(".")[0]):
            raise Rejected("text_without_a_recording")
        return
    lines = folder.lines(file.name)
    lost = [stem for stem in lines if not folder.has_recording(stem)]
    if lost and corpus.missing == "error":
        raise InputError(
            f"{file.location}: there is no recording {lost[0]} beside it ({len(lost)} in all). Bring it, "
            "remove the line, or set `missing: drop` to do without."
        )
    asked = dict.fromkeys(filter(None, (columns.id, columns.license, columns.group, columns.split)))
    for number, (stem, said) in enumerate(lines.items(), start=1):
        if not folder.has_recording(stem):
            fields = {**asked, "name": stem, "transcript": said}
            yield number, {**fields, **_group(fields, columns)}, media.held(MEDIUM, None, "missing")
