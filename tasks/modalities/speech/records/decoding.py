"""Bytes of a recording to one channel of 16-bit samples at a stated rate.

libsndfile (by soundfile, https://python-soundfile.readthedocs.io) reads WAV, FLAC, Ogg, Opus and MP3; FFmpeg
(by PyAV, https://pyav.basswood-io.com) what else has sound, films included. soxr
(https://python-soxr.readthedocs.io) resamples. All of it in blocks, so that memory holds the result alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tasks.corpora.media import Medium
from tasks.modalities import Rejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]
    Block = NDArray[np.float32]  # [samples, channels]

SNDFILE = {
    ".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG",
    ".aiff": "AIFF", ".aif": "AIFF", ".au": "AU",
}  # fmt: skip
FILMS = (".m4a", ".aac", ".wma", ".mp4", ".mov", ".mkv", ".webm", ".avi", ".3gp", ".amr")
MEDIUM = Medium(
    name="recording",
    column="audio",
    suffixes=(*SNDFILE, *FILMS),
    fields=("audio", "recording", "sound", "wav", "path", "file_name", "filename", "file", "audio_path"),
    folders=("clips",),  # Common Voice
)
BLOCK_SECONDS = 10
LARGEST = 32767
LOUDEST = 1e6  # of full scale: what is beyond it is no sample of a sound
STREAMED = 0x7FFFF000  # bytes from which on a WAV says that it did not know its length


class Rules(Protocol):
    """What a corpus says of decoding."""

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second after decoding."""

    @property
    def channels(self) -> Literal["mean", "first"]:
        """What becomes of several channels."""


@dataclass(frozen=True)
class Decoded:
    """A recording as models hear it.

    Attributes:
        samples: [N], one channel at the corpus's rate.
        rate_hz: samples a second as it was stored.
        remarks: what was done to it, or found.
    """

    samples: Samples
    rate_hz: int
    remarks: tuple[str, ...]


def decoded(content: bytes, rules: Rules, *, suffix: str = "", max_seconds: float = math.inf) -> Decoded:
    """The recording in `content`.

    Args:
        content: of a file.
        rules: of the corpus.
        suffix: of the file's name, with the dot.
        max_seconds: after which decoding is given up.

    Raises:
        Rejected: empty, without sound, too long, or so damaged that nothing of it can be read.
    """
    import numpy as np

    if not content:
        raise Rejected("empty")
    found_as, rate_hz, num_channels, blocks = _opened(content)
    remarks = ["resampled"] if rate_hz != rules.sample_rate_hz else []
    if num_channels > 1:
        remarks.append(f"channels_{rules.channels}")
    if found_as is not None and suffix in MEDIUM.suffixes and SNDFILE.get(suffix) != found_as:
        remarks.append("wrong_extension")
    if _is_cut(content):
        remarks.append("broken_tail")
    held = bytearray()  # which grows in place: a recording of hours is not held twice
    try:
        for part in _resampled(_finite(blocks, remarks), rate_hz, rules):
            held += np.rint(np.clip(part * (LARGEST + 1), -LARGEST - 1, LARGEST)).astype(np.int16).tobytes()
            if len(held) > 2 * max_seconds * rules.sample_rate_hz:
                raise Rejected("too_long")
    except (MemoryError, Rejected):
        raise
    except Exception as error:  # decoders raise whatever their format makes them stumble over
        if not held:
            raise Rejected("damaged") from error
        remarks.append("broken_tail")
    if not held:
        raise Rejected("no_sound")
    return Decoded(np.frombuffer(held, np.int16), rate_hz, tuple(dict.fromkeys(remarks)))


def flac(samples: Samples, rate_hz: int) -> bytes:
    """The samples without loss, in half the room."""
    import soundfile

    stored = io.BytesIO()
    soundfile.write(stored, samples, rate_hz, format="FLAC", subtype="PCM_16")
    return stored.getvalue()


def opened(content: bytes) -> tuple[Samples, int]:
    """The samples of a stored recording, which `flac` has written, and their rate."""
    import soundfile

    samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="int16")
    return samples, int(rate_hz)


def _opened(content: bytes) -> tuple[str | None, int, int, Iterator[Block]]:
    """Libsndfile's name of the format, rate, number of channels, and the samples in blocks."""
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(content))
    except Exception:  # no format of libsndfile's, or damaged
        return _with_ffmpeg(content)
    found_as = "WAV" if file.format in ("WAVEX", "RF64") else file.format
    return found_as, file.samplerate, file.channels, _blocks(file)


def _blocks(file: Any) -> Iterator[Block]:
    while len(block := file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)):
        yield block


def _with_ffmpeg(content: bytes) -> tuple[None, int, int, Iterator[Block]]:
    import av

    try:
        container = av.open(io.BytesIO(content))
    except Exception as error:
        raise Rejected("no_recording") from error
    if not container.streams.audio:
        raise Rejected("no_sound")
    stream = container.streams.audio[0]
    if not stream.rate or not stream.channels:
        raise Rejected("damaged")
    return None, stream.rate, stream.channels, _frames(container, stream)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    import av

    planar = av.AudioResampler(format="fltp")  # the format alone; the rate is soxr's
    for frame in container.decode(stream):
        for converted in planar.resample(frame):
            yield converted.to_ndarray().T


def _is_cut(content: bytes) -> bool:
    """Whether a WAV says that it is longer than it is."""
    return content[:4] == b"RIFF" and len(content) < int.from_bytes(content[4:8], "little") + 8 < STREAMED


def _finite(blocks: Iterator[Block], remarks: list[str]) -> Iterator[Block]:
    """The blocks, with 0 for what is no sample; one of those would spoil all that is resampled with it."""
    import numpy as np

    for block in blocks:
        is_sample = np.abs(block) < LOUDEST
        if is_sample.all():
            yield block
            continue
        remarks.append("not_finite")
        yield np.where(is_sample, block, np.float32(0))


def _resampled(blocks: Iterator[Block], rate_hz: int, rules: Rules) -> Iterator[Any]:
    """One channel at the corpus's rate."""
    import numpy as np
    import soxr

    mono = (block.mean(1) if rules.channels == "mean" else block[:, 0] for block in blocks)
    if rate_hz == rules.sample_rate_hz:
        yield from mono
        return
    resampler = soxr.ResampleStream(rate_hz, rules.sample_rate_hz, 1, dtype="float32")
    for block in mono:
        yield resampler.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)
