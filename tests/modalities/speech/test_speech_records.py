"""What becomes of the recordings that people have: formats, rates, channels, lengths, likeness."""

from __future__ import annotations

import io
import itertools
import tarfile
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile

from tasks.config import Columns
from tasks.corpora import likeness as keys_of
from tasks.errors import InputError
from tasks.modalities import Rejected
from tasks.modalities.speech import records
from tasks.modalities.speech.records import CorpusSettings, decoding, likeness, pauses
from tests.modalities.speech.signals import (
    RATE,
    Sound,
    film,
    heard,
    pieces,
    pitch_and_level,
    samples,
    stored,
    tone,
    utterance,
    whole,
)

SPOKEN = utterance(0)


@pytest.mark.parametrize(
    ("name", "format", "subtype", "tolerance"),
    [
        ("a.wav", "WAV", "PCM_U8", 256), ("a.wav", "WAV", "PCM_16", 0), ("a.wav", "WAV", "PCM_24", 0), ("a.wav", "WAV", "FLOAT", 0),
        ("a.wav", "WAVEX", "PCM_24", 0), ("a.flac", "FLAC", "PCM_16", 0), ("a.flac", "FLAC", "PCM_24", 0), ("a.aiff", "AIFF", "PCM_16", 0),
        ("a.au", "AU", "PCM_16", 0),
    ],
)  # fmt: skip
def test_formats_without_loss_give_their_samples(
    name: str, format: str, subtype: str, tolerance: int
) -> None:
    given = SPOKEN / 32768 if subtype == "FLOAT" else SPOKEN
    found = heard(stored(given, format, subtype), name)
    assert np.abs(samples(found).astype(int) - SPOKEN).max() <= tolerance
    assert (found["seconds"], found["rate_hz"], found["remarks"]) == (1.0, RATE, ())


def test_a_float_recording_keeps_what_lies_between_two_steps_and_is_cut_off_at_full_scale() -> None:
    sound = np.array([0.0, 1.4, 1.6, -2.6, 0.99999 * 32768, 40_000, -40_000]) / 32768
    found = heard(stored(np.tile(sound, 400), "WAV", "FLOAT"))
    assert samples(found)[:7].tolist() == [0, 1, 2, -3, 32767, 32767, -32768]


LOSSY = [
    ("a.ogg", stored(whole(tone(700)), "OGG", "VORBIS")),
    ("a.opus", stored(whole(tone(700)), "OGG", "OPUS")),
    ("a.mp3", stored(whole(tone(700)), "MP3", "MPEG_LAYER_III")),
    ("a.mp4", film(whole(tone(700)), "mp4")),
    ("a.mov", film(whole(tone(700)), "mov")),
    ("a.mkv", film(whole(tone(700)), "matroska", "libopus")),
    ("a.m4a", film(whole(tone(700)), "ipod", with_pictures=False)),
]


@pytest.mark.parametrize(("name", "content"), LOSSY, ids=[name for name, _ in LOSSY])
def test_lossy_formats_and_films_keep_pitch_level_and_length(name: str, content: bytes) -> None:
    found = heard(content, name)
    pitch, level = pitch_and_level(samples(found))
    assert pitch == pytest.approx(700, abs=1)
    assert level == pytest.approx(0.5, rel=0.03)
    assert found["seconds"] == pytest.approx(1, abs=0.07)
    assert "wrong_extension" not in found["remarks"]


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_a_tone_keeps_its_pitch_and_level_at_another_rate(rate: int) -> None:
    found = heard(stored(whole(tone(1234, rate=rate)), rate=rate))
    pitch, level = pitch_and_level(samples(found))
    assert (pitch, level) == pytest.approx((1234, 0.5), rel=1e-3)
    assert found["seconds"] == pytest.approx(1, abs=1e-3)
    assert (found["rate_hz"], found["remarks"]) == (rate, ("resampled",))


@pytest.mark.parametrize("rate", [8000, 48_000, 96_000])
def test_resampling_equals_another_librarys(rate: int) -> None:
    sound = np.sum([tone(hertz, rate=rate, level=0.1) for hertz in (130, 555, 1700, 3100)], axis=0)
    content = stored(whole(sound), rate=rate)
    read, _ = soundfile.read(io.BytesIO(content))
    divisor = np.gcd(rate, RATE)
    expected = scipy.signal.resample_poly(read, RATE // divisor, rate // divisor)
    difference = samples(heard(content)) / 32768 - expected
    assert np.abs(difference[800:-800]).max() < 2e-3


def test_what_the_corpuss_rate_cannot_hold_does_not_come_back_at_another_pitch() -> None:
    found = heard(stored(whole(tone(10_000, rate=44_100)), rate=44_100))
    assert np.abs(samples(found)[800:-800]).max() < 30


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_decoding_in_blocks_gives_the_samples_of_the_whole(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = stored(utterance(1, 3.3, 44_100), rate=rate)
    at_once = samples(heard(content))
    monkeypatch.setattr(decoding, "BLOCK_SECONDS", 1)
    assert np.array_equal(samples(heard(content)), at_once)


def test_channels_are_averaged_or_the_first_is_taken() -> None:
    sides = np.stack([whole(tone(300)), whole(tone(900))], axis=1)
    both, first = heard(stored(sides)), heard(stored(sides), channels="first")
    assert np.abs(samples(both) - sides.mean(1)).max() <= 0.5
    assert np.array_equal(samples(first), sides[:, 0])
    assert (both["remarks"], first["remarks"]) == (("channels_mean",), ("channels_first",))


def bursts(seconds: list[float], pause: float) -> tuple[Sound, list[tuple[int, int]]]:
    """Noise of these lengths with silence between, and where each burst begins and ends."""
    draw = np.random.default_rng(0)
    parts, places, at = [], [], 0
    for length in seconds:
        noise = draw.normal(0, 3000, round(length * RATE)).astype(np.int16)
        parts += [noise, np.zeros(round(pause * RATE), np.int16)]
        places.append((at, at + len(noise)))
        at += len(noise) + len(parts[1])
    return np.concatenate(parts), places


@pytest.mark.parametrize("pause", [0.1, 0.3, 1.0])
def test_long_recordings_are_cut_where_nobody_speaks_and_nothing_is_lost(pause: float) -> None:
    draw = np.random.default_rng(1)
    sound, places = bursts(draw.uniform(0.4, 1.2, 40).tolist(), pause)
    found = pieces(stored(sound), max_seconds=4)
    each = [samples(piece) for piece in found]
    assert np.array_equal(np.concatenate(each), sound)
    assert len(each) > 5
    assert max(map(len, each)) <= 4 * RATE
    for cut in np.cumsum([len(one) for one in each])[:-1]:
        assert not any(begin < cut < end for begin, end in places)
    assert [piece["remarks"] for piece in found] == [("cut",), *[()] * (len(each) - 1)]
    assert len({piece["samples"] for piece in found}) == len(each)


def test_where_nobody_pauses_the_cut_is_where_it_is_quietest() -> None:
    sound = np.random.default_rng(0).normal(0, 3000, 6 * RATE)
    sound[round(3.1 * RATE) : round(3.2 * RATE)] /= 10
    (begin, cut), (again, end) = pauses.pieces(sound.astype(np.int16), RATE, 4)
    assert (begin, again, end) == (0, cut, len(sound))
    assert 3.1 < cut / RATE < 3.2


def test_the_end_of_a_recording_is_no_pause() -> None:
    sound = np.random.default_rng(0).normal(0, 3000, round(4.02 * RATE))
    sound[round(2.4 * RATE) : round(2.9 * RATE)] *= 0.9
    (_, cut), _ = pauses.pieces(sound.astype(np.int16), RATE, 4)
    assert 2.4 < cut / RATE < 2.9


def test_a_recording_of_the_greatest_length_stays_one_and_a_labelled_one_is_left_out_beyond_it() -> None:
    just, beyond = utterance(2, 2), np.append(utterance(2, 2), np.int16(0))
    assert len(pieces(stored(just), max_seconds=2)) == 1
    assert len(pieces(stored(just), "yes/a.wav", "classification", max_seconds=2)) == 1
    assert len(pieces(stored(beyond), max_seconds=2)) == 2
    with pytest.raises(Rejected, match="^too_long$"):
        pieces(stored(beyond), "yes/a.wav", "classification", max_seconds=2)


def test_a_recording_that_is_too_long_is_not_decoded_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    whole_read = soundfile.SoundFile.read

    def counted(file: Any, frames: int, **more: Any) -> Any:
        nonlocal read
        read += frames
        return whole_read(file, frames, **more)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    monkeypatch.setattr(decoding, "BLOCK_SECONDS", 1)
    with pytest.raises(Rejected, match="too_long"):
        pieces(stored(np.zeros(60 * RATE, np.int16)), "yes/a.wav", "classification", max_seconds=2)
    assert read == 3 * RATE


def test_a_rest_behind_the_last_cut_that_is_too_short_is_left_out() -> None:
    sound = np.append(bursts([1.9], 0.05)[0], np.zeros(round(0.3 * RATE), np.int16))
    short, long = pieces(stored(sound), max_seconds=2, min_seconds=0.5), pieces(stored(sound), max_seconds=2)
    assert [len(short), len(long)] == [1, 2]
    with pytest.raises(Rejected, match="^too_short$"):
        heard(stored(SPOKEN), min_seconds=1.01)


def test_equal_samples_have_equal_content_however_they_are_stored() -> None:
    files = [stored(SPOKEN), stored(SPOKEN, "FLAC"), stored(SPOKEN, "WAV", "PCM_24"), stored(SPOKEN, "AIFF")]
    assert len({records.content(heard(content, "a.wav")) for content in files}) == 1
    changed = SPOKEN.copy()
    changed[5] += 1
    assert records.content(heard(stored(changed))) != records.content(heard(files[0]))


@pytest.mark.parametrize(
    ("name", "content", "is_wrong"),
    [
        ("a.mp3", stored(SPOKEN), True), ("a.mp4", stored(SPOKEN), True), ("a.flac", stored(SPOKEN, "FLAC"), False),
        ("a.WAV", stored(SPOKEN, "WAVEX"), False), ("a.oga", stored(SPOKEN, "OGG", "VORBIS"), False),
    ],
)  # fmt: skip
def test_a_wrong_extension_is_noted_and_the_recording_kept(name: str, content: bytes, is_wrong: bool) -> None:
    found = heard(content, name)
    assert found["remarks"] == (("wrong_extension",) if is_wrong else ())
    assert found["seconds"] == pytest.approx(1, abs=0.05)


def keys(sound: Sound, format: str = "WAV", subtype: str | None = None) -> set[int]:
    record = heard(stored(sound, format, subtype))
    (found,) = records.signatures([record], CorpusSettings())
    return set(found.tolist())


def test_the_same_speech_is_found_at_another_level_and_in_another_form() -> None:
    spoken = [utterance(seed, 1 + seed / 20) for seed in range(30)]
    own = [keys(sound) for sound in spoken]

    def found(change: Any) -> int:
        return sum(not mine.isdisjoint(change(sound)) for mine, sound in zip(own, spoken, strict=True))

    assert found(lambda sound: keys(sound // 2)) == 30
    assert found(lambda sound: keys(sound // 10)) >= 28
    assert found(lambda sound: keys(whole(sound / 32768 + tone(50, len(sound) / RATE, level=1e-3)))) >= 28
    assert found(lambda sound: keys(sound, "OGG", "VORBIS")) >= 20
    silence = np.zeros(RATE // 2, np.int16)
    assert found(lambda sound: keys(np.concatenate([silence, sound, silence]))) >= 18


def test_other_speech_of_the_same_length_is_not_alike() -> None:
    own = [keys(utterance(seed)) for seed in range(100)]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(own, 2))


def test_silence_is_like_nothing() -> None:
    assert likeness.sounds(np.zeros(RATE, np.int16), RATE) is None
    quiet = np.resize(np.array([likeness.MIN_PEAK - 1, -5], np.int16), RATE)
    assert likeness.sounds(quiet, RATE) is None
    assert likeness.sounds(np.append(quiet, np.int16(-likeness.MIN_PEAK)), RATE) is not None
    assert keys(np.zeros(RATE, np.int16)) == set()


@pytest.mark.mirror
def test_takes_of_one_word_by_one_speaker_are_not_taken_for_each_other(mirror: Any) -> None:
    likes = []
    with tarfile.open(mirror / "fsdd.tar") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".wav") else None
            if file is not None:
                heard_at_8k = decoding.decoded(file.read(), CorpusSettings(sample_rate_hz=8000))
                likes.append(likeness.sounds(heard_at_8k.samples, 8000))
    found = keys_of.signatures(likes, CorpusSettings().duplicates.distance)
    repeated = sum(map(len, found)) - len(set(np.concatenate(found).tolist()))
    assert len(likes) == 3000
    assert repeated <= 6, "the keys of two pairs"


def test_kinds_that_are_no_task_for_recordings_are_refused() -> None:
    with pytest.raises(
        InputError, match="unknown kind of task for recordings 'segmentation'; known: classif"
    ):
        records.schema("segmentation")


def test_a_label_that_is_empty_is_named() -> None:
    corpus = CorpusSettings()
    raw = dict.fromkeys(("id", "license", "group", "split", "refused"), None)
    raw |= {"recording": stored(SPOKEN), "suffix": ".wav", "source": "t.csv", "row": 3, "label": " "}
    with pytest.raises(InputError, match=r"t.csv, row 3: the label is missing"):
        list(records.normalise(raw, corpus, "classification"))


def test_columns_of_a_path_follow_the_corpus() -> None:
    columns = Columns()
    assert columns.audio is None
    with pytest.raises(Rejected, match="path_without_pattern"):
        pieces(stored(SPOKEN), "seven_anna_1.wav", "classification", pattern=r"(?P<label>\d)_")
    (found,) = pieces(stored(SPOKEN), "7_anna_1.wav", "classification", pattern=r"(?P<label>\d)_")
    assert found["label"] == "7"
