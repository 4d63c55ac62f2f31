"""Metrics of recordings against signals for which the right answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.signal

from tasks.checks import suites
from tasks.modalities.speech import quality, records
from tests.modalities.speech.signals import RATE, Sound, heard, samples, stored, tone, utterance, whole


def table(sounds: list[Sound], **rules: Any) -> pa.Table:
    kept = [heard(stored(sound), **rules) for sound in sounds]
    listed = [{**record, "id": f"r{number}", "split": "train"} for number, record in enumerate(kept)]
    return pa.Table.from_pylist(listed, records.schema(None))


def described(*sounds: Sound) -> list[dict[str, Any]]:
    return list(quality.describe(table(list(sounds))).to_pylist())


def noise(seconds: float, level: float, seed: int = 0) -> Sound:
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE))


@pytest.mark.parametrize("amplitude", [1.0, 0.5, 0.01])
def test_the_level_of_a_sine_is_its_amplitude_less_three_decibels(amplitude: float) -> None:
    (found,) = described(whole(tone(440, level=amplitude * 0.999)))
    assert found["level_db"] == pytest.approx(20 * math.log10(amplitude) - 3.01, abs=0.05)
    assert found["peak"] == pytest.approx(amplitude, rel=0.01)
    assert found["seconds"] == 1.0


def test_the_clipped_share_is_the_part_of_a_sine_beyond_full_scale() -> None:
    loud, below = described(whole(tone(441, level=2.0)), whole(tone(441, level=0.99)))
    assert loud["clipped"] == pytest.approx(1 - 2 / math.pi * math.asin(32_700 / 65_536), abs=0.005)
    assert loud["peak"] == 1
    assert below["clipped"] == 0


def test_the_silent_share_is_that_of_the_pauses() -> None:
    sound = whole(tone(500, 2.0))
    sound[RATE // 2 : RATE * 2] = 3
    spoken, constant, nothing = described(sound, whole(tone(500, 2.0)), np.zeros(RATE, np.int16))
    assert spoken["silence"] == pytest.approx(0.75, abs=0.01)
    assert (constant["silence"], constant["is_silent"]) == (0, False)
    quiet = whole(tone(500, 2.0, level=0.005))
    quiet[RATE // 2 : RATE * 2] = 3
    assert described(quiet)[0]["silence"] == 0, "31 dB below what is heard is no pause"
    assert (nothing["is_silent"], nothing["level_db"]) == (True, pytest.approx(-100))


@pytest.mark.parametrize("ratio_db", [5, 15, 30])
def test_speech_over_noise_is_measured_by_loud_and_quiet_frames(ratio_db: float) -> None:
    sound = noise(4, 0.003)
    power = 0.003**2 * (10 ** (ratio_db / 10) - 1)  # so that both together are that much above the noise
    for start in range(0, 4 * RATE, RATE):
        sound[start : start + RATE // 2] += tone(700, 0.5, level=math.sqrt(2 * power))
    (found,) = described(whole(sound))
    assert found["snr_db"] == pytest.approx(ratio_db, abs=1.5)


def test_bandwidth_shows_that_a_recording_was_made_at_half_the_rate() -> None:
    full = noise(2, 0.05)
    half = samples(heard(stored(whole(full), rate=RATE // 2)))
    low, high, tonal = described(half, whole(full), whole(tone(2000)))
    assert low["bandwidth_hz"] == pytest.approx(4000, abs=100)
    assert high["bandwidth_hz"] == pytest.approx(8000, abs=20)
    assert tonal["bandwidth_hz"] == pytest.approx(2000, abs=60)


def test_bandwidth_is_that_of_the_whole_recording() -> None:
    late = np.concatenate([tone(300, 15.0, level=0.1), noise(4, 0.1)])
    (found,) = described(whole(late))
    assert found["bandwidth_hz"] == pytest.approx(8000, abs=20)


def test_the_rate_of_the_file_is_told_and_not_that_of_the_corpus() -> None:
    record = heard(stored(utterance(0, rate=8000), rate=8000)) | {"id": "a", "split": "train"}
    found = quality.describe(pa.Table.from_pylist([record], records.schema(None)))
    assert found["rate_hz"].to_pylist() == [8000]


def test_equal_recordings_and_those_at_another_level_are_one_group() -> None:
    one, other = utterance(0), utterance(1)
    silence = np.zeros(RATE, np.int16)
    rows = described(one, other, one, one // 3, silence, silence)
    assert [row["duplicate"] for row in rows] == [False, False, True, False, False, True]
    assert [row["near_duplicate"] for row in rows] == [False, False, True, True, False, True]
    assert [row["duplicate_group"] for row in rows] == ["r0", None, "r0", "r0", "r4", "r4"]


def test_silence_is_judged_by_the_peak() -> None:
    rows = described(np.full(RATE, 32, np.int16), np.full(RATE, -33, np.int16), np.zeros(RATE, np.int16))
    assert [row["is_silent"] for row in rows] == [True, False, True]


def test_no_recordings_and_very_short_ones_are_described() -> None:
    assert quality.describe(table([])).num_rows == 0
    (found,) = quality.describe(table([utterance(0)[:5]], min_seconds=1e-6)).to_pylist()
    assert found["seconds"] == 5 / RATE
    assert math.isfinite(found["snr_db"])


GOOD = [utterance(seed, 2) for seed in range(10)]
SPOILT: dict[str, Callable[[Sound], Sound]] = {
    "is_silent": lambda sound: sound * 0,
    "clipped": lambda sound: whole(sound / 3000),
    "silence": lambda sound: np.append(sound, np.zeros(16 * RATE, np.int16)),
    "snr_db": lambda sound: whole(noise(2, 0.1, seed=abs(int(sound[99])))),
    "bandwidth_hz": lambda sound: whole(low(sound)),
    "near_duplicate": lambda sound: GOOD[0] // 2,
}


def low(sound: Sound) -> Sound:
    """Nothing of it above 2 kHz."""
    return scipy.signal.sosfiltfilt(scipy.signal.butter(12, 1500, fs=RATE, output="sos"), sound / 32768)


def test_only_silence_stops_the_recipe_and_each_fault_is_reported_by_its_name(tmp_path: Path) -> None:
    settings = quality.ValidateSettings()
    tables = {("none", "good"): GOOD}
    for column, spoil in SPOILT.items():
        tables[column, "one"] = [*GOOD[:9], spoil(GOOD[9])]
        tables[column, "three"] = [*GOOD[:7], *map(spoil, GOOD[7:])]
    described = {name: quality.describe(table(sounds)) for name, sounds in tables.items()}
    given = [suites.Suite(*name, found, quality.expectations(settings)) for name, found in described.items()]
    failed = [verdict for verdict in suites.check(given, tmp_path / "docs") if not verdict["passed"]]
    assert {verdict["table"] for verdict in failed} == {"three"}, "a tenth of the recordings may be poor"
    for column in SPOILT:
        (verdict,) = [found for found in failed if (found["slot"], found["column"]) == (column, column)]
        assert verdict["unexpected"] == 3
        assert (verdict["severity"] == "critical") == (column == "is_silent")
        assert "limit is" in verdict["remedy"] or "remove those recordings" in verdict["remedy"]


def test_settings_of_another_modality_are_refused() -> None:
    from tasks.modalities.image.quality import ValidateSettings

    with pytest.raises(TypeError, match="recordings are validated by ValidateSettings, not ValidateSettings"):
        quality.expectations(ValidateSettings())


def test_overlap_is_one_with_itself_and_less_with_other_sounds_and_lengths() -> None:
    speech = table([utterance(seed) for seed in range(12)])
    hiss = table([whole(noise(1, 0.1, seed)) for seed in range(12)])
    longer = table([utterance(seed, 4) for seed in range(12)])
    itself = quality.compare(speech, speech)
    assert next(iter(itself)) == "sound_overlap"
    assert itself == pytest.approx(dict.fromkeys(itself, 1.0))
    assert quality.compare(speech, hiss)["sound_overlap"] < 0.3
    assert quality.compare(speech, hiss)["length_overlap"] == 1
    assert quality.compare(speech, longer)["length_overlap"] == 0
    assert quality.compare(speech, longer)["sound_overlap"] > 0.8
    assert quality.compare(speech, table([]))["sound_overlap"] == 0
    assert quality.compare(hiss, speech) == pytest.approx(quality.compare(speech, hiss))


def test_overlap_does_not_hear_how_loud_a_corpus_is() -> None:
    loud = [utterance(seed) for seed in range(12)]
    quiet = [sound // 4 for sound in loud]
    assert quality.compare(table(loud), table(quiet))["sound_overlap"] > 0.9


def test_recordings_that_are_alike_share_a_piece_and_silence_has_none() -> None:
    sounds = [utterance(0), utterance(0) // 2, utterance(1), np.zeros(RATE, np.int16)]
    one, again, other, nothing = map(set, quality.pieces(table(sounds)).to_pylist())
    assert one & again
    assert not one & other
    assert not nothing
