"""Synthetic voices: the same each time, apart between splits, and asked for where they are missing."""

from __future__ import annotations

import collections
import importlib.util
import io
from typing import Any

import numpy as np
import pytest
import soundfile

from tasks import sources
from tasks.config import Columns
from tasks.errors import InputError
from tasks.modalities.speech import records
from tasks.modalities.speech.records import CorpusSettings
from tasks.sources import voices

IS_THERE = importlib.util.find_spec("espeakng_loader") is not None
spoken = pytest.mark.skipif(not IS_THERE, reason="espeakng-loader is not installed: make voices")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [*voices.digit_task()]


@spoken
def test_splits_have_their_sizes_and_no_voice_in_common_with_the_test(rows: list[dict[str, Any]]) -> None:
    assert collections.Counter(row["split"] for row in rows) == voices.SETS["spoken-digit"]
    said_by = {
        split: {row["said_by"] for row in rows if row["split"] == split}
        for split in voices.SETS["spoken-digit"]
    }
    assert not said_by["test"] & (said_by["train"] | said_by["validation"])
    assert len(said_by["test"]) == voices.NUM_TEST_VOICES
    counts = collections.Counter((row["split"], row["label"]) for row in rows)
    assert all(count == voices.SETS["spoken-digit"][split] / 10 for (split, _), count in counts.items())
    assert all(voices.DIGITS[int(row["label"])] == row["transcript"] for row in rows)


@spoken
def test_a_fresh_process_says_the_same_to_the_sample(rows: list[dict[str, Any]]) -> None:
    again = voices.digit_task()
    assert [next(again)["recording"] for _ in range(150)] == [row["recording"] for row in rows[:150]]


@spoken
def test_recordings_are_speech_of_different_lengths_at_different_levels(rows: list[dict[str, Any]]) -> None:
    sounds = [soundfile.read(io.BytesIO(row["recording"]))[0] for row in rows[::40]]
    seconds = [len(sound) / 22_050 for sound in sounds]
    assert 0.2 < min(seconds) < max(seconds) < 1.5
    peaks = [np.abs(sound).max() for sound in sounds]
    assert 0.19 < min(peaks) < 0.4 < 0.7 < max(peaks) < 0.91
    assert len({row["recording"] for row in rows}) == len(rows)


@spoken
def test_they_are_read_as_records_with_transcripts(rows: list[dict[str, Any]]) -> None:
    (file,) = sources.files("embedded://spoken-digit")
    corpus = CorpusSettings(modality="speech", sample_rate_hz=8000)
    read = records.read(file, "auto", Columns(), "transcription", corpus)
    (record,) = records.normalise(next(read), corpus, "transcription")
    assert record["transcript"] == rows[0]["transcript"]
    assert record["rate_hz"] == 22_050
    assert "GPL" in record["license"]


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"an extra under the GPL: .*pip install espeakng-loader==0\.2\.4"):
        next(voices.phrases())
