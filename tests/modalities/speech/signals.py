"""Sounds of which everything is known, in the forms in which people have them."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tasks import sources
from tasks.config import Columns
from tasks.modalities.speech import records
from tasks.modalities.speech.records import CorpusSettings, decoding

RATE = 16_000
Sound = NDArray[Any]


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.5) -> Sound:
    """A sine between -level and level."""
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def whole(sound: Sound) -> Sound:
    """Values between -1 and 1 as 16-bit samples."""
    return np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)


def utterance(seed: int, seconds: float = 1.0, rate: int = RATE) -> Sound:
    """16-bit samples of ten syllables a second, of two random pitches and a level each; resembles no other."""
    draw = np.random.default_rng(seed)
    length = rate // 10
    rise = np.hanning(length)
    parts = [
        rise * draw.uniform(0.1, 0.3) * sum(tone(draw.uniform(150, 3500), 0.1, rate, 1.0) for _ in "12")
        for _ in range(round(seconds * 10))
    ]
    return whole(np.concatenate(parts) + draw.normal(0, 1e-3, len(parts) * length))


def stored(sound: Sound, format: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    """As a file that libsndfile writes; channels are columns."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=format, subtype=subtype)
    return file.getvalue()


def film(
    sound: Sound | None, format: str, codec: str = "aac", *, with_pictures: bool = True, rate: int = RATE
) -> bytes:
    """As a file that FFmpeg writes; 16-bit samples, or None for no sound."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        streams: list[tuple[Any, list[Any]]] = []
        if with_pictures:
            seen = container.add_stream("mpeg4", rate=10)
            seen.width = seen.height = 32
            pictures = [
                av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * number, np.uint8)) for number in range(10)
            ]
            streams.append((seen, pictures))
        if sound is not None:
            audible = container.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            streams.append((audible, [frame]))
        for stream, frames in streams:
            for given in (*frames, None):
                container.mux(stream.encode(given))
    return file.getvalue()


def pieces(
    content: bytes, name: str = "a.wav", kind: str | None = None, **rules: Any
) -> list[dict[str, Any]]:
    """What becomes of a file's bytes; its label is the first folder of its name."""
    corpus = CorpusSettings(**rules)
    contents = functools.partial(io.BytesIO, content)
    file = sources.File(name, contents=contents, size=len(content), inside=name)
    (raw,) = records.read(file, "auto", Columns(), kind, corpus)
    return list(records.normalise(raw, corpus, kind))


def heard(content: bytes, name: str = "a.wav", **rules: Any) -> dict[str, Any]:
    """The one record that becomes of them."""
    (found,) = pieces(content, name, **rules)
    return found


def samples(record: dict[str, Any]) -> Sound:
    """16-bit samples of a record."""
    return decoding.opened(record["recording"])[0]


def pitch_and_level(sound: Sound, rate: int = RATE) -> tuple[float, float]:
    """Frequency in Hz and amplitude of the one tone in 16-bit samples."""
    middle = sound[len(sound) // 4 : len(sound) * 3 // 4] / 32768
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))
    return float(power.argmax() * rate / (1 << 18)), float(np.sqrt(2 * np.square(middle).mean()))
