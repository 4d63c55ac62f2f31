"""Where transcripts stand, how they are spelt, and what of them is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tasks import sources
from tasks.config import Columns
from tasks.errors import InputError
from tasks.modalities import Record, Rejected
from tasks.modalities.speech import records
from tasks.modalities.speech.records import CorpusSettings
from tasks.modalities.speech.records.spelling import spelt

RATE = 4000


def wav(seed: int = 0) -> bytes:
    stored = io.BytesIO()
    noise = np.random.default_rng(seed).integers(-3000, 3000, RATE // 2).astype(np.int16)
    soundfile.write(stored, noise, RATE, format="WAV")
    return stored.getvalue()


def corpus(**more: Any) -> CorpusSettings:
    return CorpusSettings(modality="speech", sample_rate_hz=RATE, **more)


def written(folder: Path, files: dict[str, bytes | str]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def packed(path: Path, files: dict[str, bytes | str]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def read(
    location: str, settings: CorpusSettings | None = None, columns: Columns | None = None
) -> tuple[list[Record], list[str]]:
    """The records of a location, and why what else lies there is left out."""
    settings = settings or corpus()
    found: list[Record] = []
    reasons: list[str] = []
    for file in records.gathered(sources.files(location)):
        try:
            for raw in records.read(file, "auto", columns or Columns(), "transcription", settings):
                try:
                    found += records.normalise(raw, settings, "transcription")
                except Rejected as verdict:
                    reasons.append(verdict.reason)
        except Rejected as verdict:
            reasons.append(verdict.reason)
    return found, reasons


def said(location: str, settings: CorpusSettings | None = None, columns: Columns | None = None) -> list[Any]:
    return sorted((record["transcript"], record["group"]) for record in read(location, settings, columns)[0])


LIBRISPEECH: dict[str, bytes | str] = {
    "84/121123/84-121123-0000.flac": wav(0),
    "84/121123/84-121123-0001.flac": wav(1),
    "84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS THAN\n",
    "174/50561/174-50561.trans.txt": "174-50561-0000 FORGOTTEN TOO\n",
    "174/50561/174-50561-0000.flac": wav(2),
    "SPEAKERS.TXT": "84 | F | dev-clean\n",
}
PAIRS: dict[str, bytes | str] = {
    "a/one.wav": wav(0), "a/one.txt": "One, two!\n", "b/two.wav": wav(1), "b/two.lab": "three", "b/notes.txt": "of mine",
}  # fmt: skip


@pytest.mark.parametrize("is_archive", [False, True])
def test_librispeechs_chapters_give_transcripts_and_speakers(tmp_path: Path, is_archive: bool) -> None:
    where = packed(tmp_path / "l.tar", LIBRISPEECH) if is_archive else written(tmp_path / "l", LIBRISPEECH)
    found, reasons = read(where)
    assert sorted((record["transcript"], record["group"]) for record in found) == [
        ("but in less than", "84"), ("forgotten too", "174"), ("go do you hear", "84"),
    ]  # fmt: skip
    assert reasons == ["text_without_a_recording"]  # SPEAKERS.TXT


@pytest.mark.parametrize("is_archive", [False, True])
def test_a_text_of_the_same_name_says_what_is_said(tmp_path: Path, is_archive: bool) -> None:
    where = packed(tmp_path / "p.tar", PAIRS) if is_archive else written(tmp_path / "p", PAIRS)
    found, reasons = read(where)
    assert sorted((record["transcript"], record["group"]) for record in found) == [
        ("one two", None), ("three", None),
    ]  # fmt: skip
    assert reasons == ["text_without_a_recording"]


def test_common_voices_tables_name_recordings_in_their_folder_clips(tmp_path: Path) -> None:
    table = 'client_id\tpath\tsentence\nme\tx.wav\tHello there.\nyou\ty.wav\tSay "no"\n'
    written(tmp_path, {"train.tsv": table, "clips/x.wav": wav(0), "clips/y.wav": wav(1)})
    assert said(str(tmp_path / "train.tsv")) == [("hello there", "me"), ("say no", "you")]


def test_webdataset_samples_bring_their_text(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "0.wav": wav(0), "0.txt": "first", "1.wav": wav(1), "1.json": json.dumps({"text": "second", "speaker": 7}),
    }  # fmt: skip
    assert said(packed(tmp_path / "shard.tar", files)) == [("first", None), ("second", "7")]


def test_a_column_that_is_named_is_taken_and_one_that_is_not_there_refused(tmp_path: Path) -> None:
    table = "path,heard,text\nx.wav,what was heard,what was meant\n"
    written(tmp_path, {"t.csv": table, "x.wav": wav()})
    where = str(tmp_path / "t.csv")
    assert said(where, columns=Columns(transcript="heard")) == [("what was heard", None)]
    assert said(where) == [("what was meant", None)]
    with pytest.raises(InputError, match=r"row 2: has no field 'spoken'; its fields: path, heard, text"):
        read(where, columns=Columns(transcript="spoken"))


def test_a_recording_without_a_transcript_stops_or_is_counted(tmp_path: Path) -> None:
    where = written(tmp_path / "p", {"a.wav": wav(0), "a.txt": "yes", "b.wav": wav(1)})
    with pytest.raises(InputError, match=r"b\.wav, row 1: nothing says what is said.*`missing: drop`"):
        read(where)
    found, reasons = read(where, corpus(missing="drop"))
    assert [record["transcript"] for record in found] == ["yes"]
    assert reasons == ["no_transcript"]


def test_a_line_of_a_chapter_without_a_recording_stops_or_is_left_out(tmp_path: Path) -> None:
    where = written(tmp_path / "l", {"7-1-0000.flac": wav(), "7-1.trans.txt": "7-1-0000 A\n7-1-0001 B\n"})
    with pytest.raises(InputError, match=r"there is no recording 7-1-0001 beside it \(1 in all\)"):
        read(where)
    assert said(where, corpus(missing="drop")) == [("a", "7")]


def test_a_recording_that_a_chapter_names_twice_is_refused(tmp_path: Path) -> None:
    where = written(tmp_path / "l", {"7-1-0000.flac": wav(), "7-1.trans.txt": "7-1-0000 A\n7-1-0000 B\n"})
    with pytest.raises(InputError, match=r"line 2: 7-1-0000 has a transcript already"):
        read(where)


def test_a_text_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    where = written(tmp_path / "p", {"a.wav": wav(), "a.txt": "caf\u00e9".encode("latin-1")})
    with pytest.raises(InputError, match=r"a\.txt: is not UTF-8 \(byte 3\)"):
        read(where)


def test_one_speaker_alone_is_enough(tmp_path: Path) -> None:
    only = {name: content for name, content in LIBRISPEECH.items() if name.startswith("84")}
    assert {group for _, group in said(written(tmp_path / "l", only))} == {"84"}


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("  Don\u2019t  STOP\u2014now\u2026\n", {}, "don't stop now"),
        ("'Tis the boys' own", {}, "tis the boys own"),
        ("\ufb01ne", {}, "fine"),
        ("Stra\u00dfe", {"case": "upper"}, "STRASSE"),
        ("Mr. X", {"case": "keep", "punctuation": "keep"}, "Mr. X"),
        ("7", {"words": {"7": "seven"}}, "seven"),
        ("na\u0303o", {"alphabet": "n\u00e3o"}, "n\u00e3o"),
    ],
)
def test_transcripts_are_brought_to_one_spelling(text: str, more: dict[str, Any], expected: str) -> None:
    assert spelt(text, corpus(**more), "here") == expected


def test_characters_outside_of_the_alphabet_stop_or_are_counted() -> None:
    with pytest.raises(Rejected, match="outside_the_alphabet"):
        spelt("abc", corpus(alphabet="ab"), "here")
    with pytest.raises(InputError, match=r"here: the transcript holds 'c', 'd', outside of `alphabet`"):
        spelt("a c d", corpus(alphabet="ab", outside="error"), "here")


def test_nothing_but_punctuation_is_an_empty_transcript() -> None:
    with pytest.raises(Rejected, match="empty_transcript"):
        spelt("\u2026 - !", corpus(), "here")
