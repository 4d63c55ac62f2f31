"""Recordings that cannot be read or learned from: refused by name, or counted and named; nothing is lost."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks import layout, stage
from tests.bad_recordings.recordings import RATE, Change, contents, corpus, done, write
from tests.modalities.speech.signals import Sound, film, samples, stored, utterance

SPOKEN = utterance(99, 2, RATE)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return file.getvalue()


def only(content: bytes, suffix: str = ".wav") -> None:
    """All recordings become that one."""
    for path in Path("said").rglob("*.wav"):
        path.write_bytes(content)
        path.rename(path.with_suffix(suffix))


def empty_folder() -> tuple[Change, str]:
    Path("empty").mkdir()
    return corpus(**{"from": "empty"}), "empty: the folder holds no files; put data there"


def one_class() -> tuple[Change, str]:
    shutil.rmtree("said/yes")
    return corpus(tasks={"answer": {"from": "said"}}), "one class only (no); there is nothing to learn"


def all_are_pictures() -> tuple[Change, str]:
    only(png())
    return corpus(**{"from": "said"}), "no record is left of 40 in said (left out: 40 no sound (said/no/0.wav"


def all_are_text() -> tuple[Change, str]:
    only(b"words, not a recording", ".mp3")
    return corpus(**{"from": "said"}), "no record is left of 40 in said (left out: 40 no recording (said/no/"


def headers_alone() -> tuple[Change, str]:
    only(stored(SPOKEN[:0], rate=RATE))
    return corpus(**{"from": "said"}), "no record is left of 40 in said (left out: 40 no sound (said/no/0.wav"


def films_without_sound() -> tuple[Change, str]:
    only(film(None, "mp4"), ".mp4")
    return corpus(**{"from": "said"}), "no record is left of 40 in said (left out: 40 no sound (said/no/0.mp4"


def all_silent() -> tuple[Change, str]:
    only(stored(np.zeros(RATE, np.int16), rate=RATE))
    return (
        corpus(**{"from": "said"}),
        "none of its 1 records fell into 'heldout' at heldout_fraction 0.2 (left out of 40 read: 39 exact duplicates)",
    )


def damaged_where_none_may_be() -> tuple[Change, str]:
    Path("said/no/cut.flac").write_bytes(stored(SPOKEN, "FLAC", rate=RATE)[:-2000])
    entry = {"from": "said", "unreadable": "error"}
    return corpus(**entry), "said/no/cut.flac, row 1: the recording is left out: damaged. Mend or remove it"


def more_bytes_than_allowed() -> tuple[Change, str]:
    entry = {"from": "said", "unreadable": "error", "max_bytes": 1000}
    return corpus(**entry), "said/no/0.wav, row 1: the recording is left out: too many bytes. Mend or remove"


def labelled_ones_all_too_long() -> tuple[Change, str]:
    entry = {"tasks": {"answer": {"from": "said"}}, "max_seconds": 0.3}
    return corpus(**entry), "40 too long (said/no/0.wav, row 1;"


def label_missing() -> tuple[Change, str]:
    Path("table.csv").write_text("path,label\nsaid/no/0.wav,no\nsaid/yes/1.wav,\n")
    return corpus(tasks={"answer": {"from": "table.csv"}}), "table.csv, row 3: the label is missing; remove"


def no_labels() -> tuple[Change, str]:
    Path("flat").mkdir()
    Path("flat/a.wav").write_bytes(stored(SPOKEN, rate=RATE))
    return corpus(tasks={"answer": {"from": "flat"}}), "put recordings into one sub-folder per class"


def path_that_leads_nowhere() -> tuple[Change, str]:
    Path("table.csv").write_text("path,label\nsaid/no/0.wav,no\nsaid/no/999.wav,no\n")
    return corpus(
        **{"from": "table.csv"}
    ), "table.csv, row 3: nothing can be read at 'said/no/999.wav'. Correct"


def table_without_the_column() -> tuple[Change, str]:
    pq.write_table(pa.table({"clip": [stored(SPOKEN)], "label": ["no"]}), "table.parquet")
    return corpus(**{"from": "table.parquet"}), "its fields: clip, label. Name it in `columns.audio`"


def table_of_numbers() -> tuple[Change, str]:
    pq.write_table(pa.table({"audio": [7]}), "table.parquet")
    return corpus(**{"from": "table.parquet"}), "row 1: holds 7, neither a path nor bytes of a recording"


def pattern_that_is_none() -> tuple[Change, str]:
    return corpus(**{"from": "said", "pattern": "(?P<label"}), "is not a regular expression"


@pytest.mark.parametrize(
    "spoil",
    [
        empty_folder, one_class, all_are_pictures, all_are_text, headers_alone, films_without_sound, all_silent,
        damaged_where_none_may_be, more_bytes_than_allowed, labelled_ones_all_too_long, label_missing, no_labels,
        path_that_leads_nowhere, table_without_the_column, table_of_numbers, pattern_that_is_none,
    ],
)  # fmt: skip
def test_spoiled_recordings_are_refused_by_name_and_the_old_records_stay(
    spoil: Callable[[], tuple[Change, str]], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    change, sentence = spoil()
    write(change)
    code, said = done("ingest", capsys)
    assert (code, sentence in said) == (1, True), said
    assert contents() == before


def kept(source: str) -> dict[str, Any]:
    records = [pq.read_table(path) for path in layout.corpus("spoken").glob("records-*.parquet")]
    (found,) = [row for row in pa.concat_tables(records).to_pylist() if row["source"] == source]
    return dict(found)


def test_what_is_broken_among_good_recordings_is_counted_and_named(
    project: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    broken = Path("said/broken")
    (broken / "folder.wav").mkdir(parents=True)
    (broken / "gone.wav").symlink_to("nowhere.wav")
    for name, content in {
        "empty.wav": b"", "words.mp3": b"words, not a recording", "picture.wav": png(),
        "header.wav": stored(SPOKEN[:0], rate=RATE), "head.wav": stored(SPOKEN, rate=RATE)[:30],
        "cut.flac": stored(SPOKEN, "FLAC", rate=RATE)[:-2000], "cut.mp4": film(SPOKEN, "mp4", rate=RATE)[:-2000],
        "silent.mp4": film(None, "mp4"), "click.wav": stored(SPOKEN[:700], rate=RATE),
        "large.wav": stored(np.tile(SPOKEN, 8), rate=RATE), "notes.docx": b"?",
    }.items():  # fmt: skip
        (broken / name).write_bytes(content)
    write(corpus(**{"from": "said", "max_bytes": 200_000}))
    caplog.set_level(logging.INFO)
    assert done("ingest", capsys)[0] == 0
    counts = json.loads((layout.corpus("spoken") / "manifest.json").read_text())["counts"]
    assert counts["kept"] == 40
    assert counts["rejected"] == {
        "broken_link": 1, "damaged": 1, "empty": 1, "no_recording": 3, "no_sound": 3, "too_many_bytes": 1, "too_short": 1,
        "unknown_format": 1,
    }  # fmt: skip
    assert "ingest spoken: 40 of 51 records kept; left out: " in caplog.text
    assert "1 damaged (said/broken/cut.flac, row 1)" in caplog.text


def altered(sound: Sound, **values: float) -> Sound:
    """As real numbers, some of which are none."""
    found = sound / 32768
    for at, value in values.items():
        found[int(at.strip("_"))] = value
    return found


@pytest.mark.parametrize(
    ("name", "content", "remarks"),
    [
        ("eight.wav", stored(SPOKEN, "WAV", "PCM_U8", RATE), {}),
        ("deep.wav", stored(SPOKEN, "WAV", "PCM_24", RATE), {}),
        ("fine.wav", stored(SPOKEN.repeat(12), rate=12 * RATE), {"resampled": 1}),
        ("cut.wav", stored(SPOKEN, rate=RATE)[:-9001], {"broken_tail": 1}),
        ("cut.mp3", stored(SPOKEN, "MP3", rate=RATE)[:-300], {}),
        ("cut.mkv", film(SPOKEN, "matroska", rate=RATE)[:-900], {}),
        ("named.mp3", stored(SPOKEN, rate=RATE), {"wrong_extension": 1}),
        ("nan.wav", stored(altered(SPOKEN, _9000=np.nan), "WAV", "FLOAT", RATE), {"not_finite": 1}),
        ("inf.wav", stored(altered(SPOKEN, _9000=np.inf, _9100=-1e30), "WAV", "FLOAT", RATE), {"not_finite": 1}),
        ("both.wav", stored(altered(SPOKEN, _9000=np.nan), "WAV", "FLOAT", 2 * RATE), {"not_finite": 1, "resampled": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_unusual_and_half_broken_recordings_are_kept_and_what_was_wrong_is_counted(
    name: str, content: bytes, remarks: dict[str, int], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("said", name).write_bytes(content)
    assert done("ingest", capsys)[0] == 0
    counts = json.loads((layout.corpus("spoken") / "manifest.json").read_text())["counts"]
    assert (counts["kept"], counts["rejected"], counts["remarks"]) == (41, {}, remarks)
    found = samples(kept(f"said/{name}"))
    assert len(found) > 4000
    if name not in ("fine.wav", "both.wav", "cut.mp3", "cut.mkv"):
        expected = SPOKEN[: len(found)].astype(int)
        expected[[9000, 9100]] = found[[9000, 9100]] if len(found) > 9100 else expected[[9000, 9100]]
        assert np.abs(found - expected).max() <= 256
    assert 500 < np.abs(found.astype(int)).max() < 32_767


def hours(seconds: float = 3 * 3600) -> bytes:
    """Silence of 8 bits between words at its beginning and end."""
    spoken = (utterance(7, 30, RATE) // 256 + 128).astype(np.uint8)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 1, RATE, 0, "NONE", ""))
        out.writeframes(spoken.tobytes())
        out.writeframes(bytes([128]) * round((seconds - 60) * RATE))
        out.writeframes(spoken[::-1].tobytes())
    return file.getvalue()


def test_three_hours_in_one_file_are_cut_where_unlabelled_and_left_out_where_labelled(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("said/no/long.wav").write_bytes(hours())
    write(corpus(**{"from": "said", "duplicates": {"exact": False, "near": False}, "tasks": {"answer": {"from": "said"}}}))  # fmt: skip
    tracemalloc.start()
    code, said = done("ingest", capsys)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == 0, said
    manifest = json.loads((layout.corpus("spoken") / "manifest.json").read_text())
    assert manifest["counts"]["remarks"] == {"cut": 1}
    assert manifest["counts"]["kept"] > 40 + 3 * 3600 / 20
    tables = [pq.read_table(path) for path in layout.corpus("spoken").glob("records-*.parquet")]
    seconds = pa.concat_tables(tables)["seconds"].to_numpy()
    assert seconds.max() <= 20
    assert seconds.sum() == pytest.approx(3 * 3600 + 40 * 0.4)
    answer = manifest["tasks"]["answer"]
    assert answer["rejected"] == {"too_long": 1}
    assert sum(answer["splits"].values()) == 40
    assert most < 4.5 * 3 * 3600 * RATE, "the file, its samples in 16 bits, and little more"


def test_silence_stops_before_training_with_what_to_do(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only(stored(np.zeros(RATE, np.int16), rate=RATE))
    write(corpus(**{"from": "said", "duplicates": {"exact": False, "near": False}}))
    assert done("ingest", capsys)[0] == 0
    before = contents()
    code, said = done("validate", capsys)
    assert code == stage.VALIDATION_FAILED
    assert "general, records: is_silent must be false" in said
    assert "Nothing can be learnt from silence: remove those recordings, look at which channel has" in said
    assert {path: content for path, content in contents().items() if "validated" not in path.parts} == {
        path: content for path, content in before.items() if "validated" not in path.parts
    }
