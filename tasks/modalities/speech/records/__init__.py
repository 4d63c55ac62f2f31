"""Recordings as records: unlabelled, with a class, or with a transcript.

A record keeps one channel of 16-bit samples at the corpus's rate, as FLAC. Two recordings are the same
when these samples are, however they were stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.settings import Settings, setting
from tasks import sources
from tasks.config import Columns, Corpus
from tasks.corpora import fields
from tasks.errors import InputError, unknown
from tasks.modalities import Record, Rejected

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tasks.modalities.speech.records.decoding import Samples
    from tasks.sources import File

THREADED = True
COMPANIONS = (".txt", ".lab")
KINDS = ("classification", "transcription")
WANTED: Mapping[str | None, tuple[str, ...]] = {
    "classification": ("label",),
    "transcription": ("transcript",),
}
ADVICE = "Correct `columns`, or `pattern`, or put recordings into one sub-folder per class."


@dataclass(frozen=True, kw_only=True)
class Duplicates(Settings):
    """Which recordings count as heard before, and are left out of the unlabelled ones."""

    exact: bool = setting(True, "Leave out recordings whose samples equal those of an earlier one.")
    near: bool = setting(
        True, "Leave out recordings that sound nearly like an earlier one, at whatever level."
    )
    distance: int = setting(
        1,
        "How many of 64 bits of the shape of the spectrogram may differ between near duplicates.",
        ge=0,
        le=4,
    )


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Corpus):
    """A corpus of recordings of speech."""

    sample_rate_hz: int = setting(
        16_000,
        "Samples a second that all recordings are brought to; encoders are made for one rate.",
        ge=4000,
    )
    channels: Literal["mean", "first"] = setting("mean", "What becomes of several channels.")
    max_seconds: float = setting(
        20.0,
        "Longer recordings are cut at pauses where they are unlabelled, else left out.",
        ge=0.1,
    )
    min_seconds: float = setting(0.1, "Shorter recordings are left out.", gt=0)
    pattern: str | None = setting(
        None,
        "Regular expression over a recording's path below its location; named groups become fields, e.g. "
        r"(?P<label>\d)_(?P<group>[a-z]+)_. Without it `label` is the first sub-folder, or the second "
        "where the first is train, validation or test.",
    )
    root: str | None = setting(
        None,
        "Where relative paths in tables start; null is where the table lies, or a folder `clips` beside it, "
        "archives included.",
    )
    encoding: str = setting("utf-8", "Encoding of tables that have no byte-order mark.")
    binary: Literal["error", "drop"] = setting("error", "Binary files under the name of a text table.")
    missing: Literal["error", "drop"] = setting(
        "error",
        "Rows whose path is empty or leads nowhere, recordings without a transcript where one is asked for, "
        "and transcripts without a recording: stop, or leave them out and count them.",
    )
    unreadable: Literal["error", "drop"] = setting(
        "drop",
        "Files that are empty, damaged, without sound, too long, too short or not to be opened: stop, or "
        "leave them out, count them and name the first few.",
    )
    max_bytes: int = setting(1 << 30, "Files of more bytes are not read.", ge=1)
    case: Literal["lower", "upper", "keep"] = setting("lower", "Case of the letters of transcripts.")
    punctuation: Literal["drop", "keep"] = setting(
        "drop",
        "Punctuation of transcripts; dropped it becomes space, but for apostrophes inside of words.",
    )
    alphabet: str | None = setting(
        None,
        "Characters that transcripts may hold beside space, in the case that they are given; null takes all.",
    )
    outside: Literal["error", "drop"] = setting(
        "drop",
        "Transcripts with characters outside of the alphabet: stop, or leave them out and count them.",
    )
    words: dict[str, str] = setting(
        {}, "What is said where a whole transcript is written otherwise, e.g. {'7': seven}."
    )
    duplicates: Duplicates = setting(Duplicates(), "Removal of duplicate recordings.")


def schema(kind: str | None) -> pa.Schema:
    """Columns of unlabelled recordings (None), or of those of a task of that kind.

    `recording` is FLAC, `samples` the hash of what it holds, `sounds` what like recordings share (null where
    nothing is to be heard), `rate_hz` the rate at which it was stored before.
    """
    import pyarrow as pa

    if kind not in (None, *KINDS):
        raise InputError(f"{unknown('kind of task for recordings', str(kind), KINDS)}.")
    columns = {"id": pa.string(), "recording": pa.binary(), "seconds": pa.float64(), "rate_hz": pa.int32()}
    columns |= {"samples": pa.string(), "sounds": pa.binary()}
    columns |= {name: pa.string() for name in ("source", "license", "group")}
    columns |= dict.fromkeys(WANTED.get(kind, ("split",)), pa.string())
    return pa.schema(list(columns.items()))


def gathered(files: Iterator[File]) -> Iterator[File]:
    """The files, members of an archive that share a key (WebDataset) as one; each knows its folder."""
    from tasks.corpora import beside, webdataset
    from tasks.modalities.speech.records import transcripts
    from tasks.modalities.speech.records.decoding import MEDIUM

    joined = webdataset.gathered(files, MEDIUM)
    return beside.acquainted(joined, COMPANIONS, transcripts.Folder)


def read(
    file: File, format: str, columns: Columns, kind: str | None, corpus: CorpusSettings
) -> Iterator[Record]:
    """Stored recordings of one file: `recording` as bytes, what is `WANTED`, and where each comes from.

    Raises:
        InputError: the file is damaged or lacks a column, a path leads nowhere, or nothing says what is said.
        Rejected: the file as a whole is left out by rule.
    """
    from tasks.corpora import media
    from tasks.modalities.speech.records import transcripts
    from tasks.modalities.speech.records.decoding import MEDIUM

    given = {name: field for name, field in file.columns.items() if getattr(columns, name) is None}
    columns = dataclasses.replace(columns, **given)
    wanted = WANTED.get(kind, ())
    with sources.read_to_the_end(file):
        if kind == "transcription":
            found = transcripts.rows(file, format, columns, corpus)
            columns = dataclasses.replace(columns, transcript="transcript", group=columns.group or "group")
        else:
            found = media.rows(file, format, columns, corpus, MEDIUM)
        for number, row, stored in found:
            own = dataclasses.replace(columns, split=columns.split or ("split" if "split" in row else None))
            yield stored | fields.picked(row, own, wanted, file, number, ADVICE)


def normalise(record: Record, corpus: CorpusSettings, kind: str | None) -> Iterator[Record]:
    """The recording in `schema`'s columns and `group`, `split`, `row`, `damaged`, `remarks`.

    Long ones that are unlabelled come in pieces.

    Raises:
        InputError: a label is missing, a transcript is outside of the alphabet, or a recording cannot be
            read, and must be.
        Rejected: a rule of the corpus leaves it out.
    """
    where = f"{record['source']}, row {record['row']}"
    answer = _answer(record, corpus, kind, where)
    with fields.rules_kept(where, "recording", corpus.unreadable):
        found = list(_normalised(record, corpus, kind))
    for piece in found:
        yield piece | answer


def _answer(record: Record, corpus: CorpusSettings, kind: str | None, where: str) -> Record:
    """What a model is to say of the recording."""
    from tasks.modalities.speech.records import spelling

    if kind == "classification":
        return {"label": fields.label(record["label"], where)}
    if kind == "transcription":
        if record["transcript"] is None:
            raise Rejected("no_transcript")
        return {"transcript": spelling.spelt(record["transcript"], corpus, where)}
    return {}


def _normalised(record: Record, corpus: CorpusSettings, kind: str | None) -> Iterator[Record]:
    from tasks.modalities.speech.records import decoding, pauses

    if record["refused"]:
        raise Rejected(record["refused"])
    most = math.inf if kind is None else corpus.max_seconds
    heard = decoding.decoded(record["recording"], corpus, suffix=record["suffix"], max_seconds=most)
    rate_hz = corpus.sample_rate_hz
    if len(heard.samples) < corpus.min_seconds * rate_hz:
        raise Rejected("too_short")
    cuts = pauses.pieces(heard.samples, rate_hz, corpus.max_seconds)
    remarks = (*heard.remarks, "cut") if len(cuts) > 1 else heard.remarks
    for begin, end in cuts:
        if end - begin >= corpus.min_seconds * rate_hz:  # the last piece may be a rest
            yield _piece(record, heard.samples[begin:end], heard.rate_hz, rate_hz, remarks)
            remarks = ()


def _piece(
    record: Record, samples: Samples, stored_hz: int, rate_hz: int, remarks: tuple[str, ...]
) -> Record:
    from tasks.modalities.speech.records import decoding, likeness

    kept = {name: record[name] for name in ("id", "source", "row", "license", "group", "split")}
    return kept | {
        "recording": decoding.flac(samples, rate_hz),
        "seconds": len(samples) / rate_hz,
        "rate_hz": stored_hz,
        "samples": hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest(),
        "sounds": likeness.sounds(samples, rate_hz),
        "damaged": False,
        "remarks": remarks,
    }


def content(record: Record) -> bytes:
    """The hash of the samples."""
    return bytes(record["samples"], "ascii")


def signatures(batch: list[Record], corpus: CorpusSettings) -> list[NDArray[np.uint64]]:
    """Per recording, keys of what it sounds like; none where nothing is to be heard."""
    from tasks.corpora import likeness

    return likeness.signatures([record["sounds"] for record in batch], corpus.duplicates.distance)
