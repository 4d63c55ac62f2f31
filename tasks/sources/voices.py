"""Words said by the synthetic voices of espeak-ng, in noise: recordings that need no download and no person.

The voices come with the package `espeakng-loader` (https://github.com/thewh1teagle/espeakng-loader), an
extra: espeak-ng is under the GPL-3.0-or-later. It runs in a process of its own, for what it says depends on
what it said before; asked in the same order by a fresh process it says the same to the sample.

    python -m tasks.sources.voices <set>     # an Arrow stream of that set's rows
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.corpora.duplicates import hash64
from tasks.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import RandomState
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]

LICENSE = "synthetic, by espeak-ng (GPL-3.0-or-later)"
PACKAGES = ("espeakng-loader",)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OTHERS = tuple(
    """
    ten eleven twelve thirteen fifteen twenty thirty forty fifty sixty seventy eighty ninety hundred
    thousand yes no on off up down left right stop go open close start end begin wait please thanks hello
    again more less new old Monday Tuesday Wednesday Thursday Friday Saturday Sunday January March April
    July August winter summer morning evening water river house garden window table paper letter number name
    answer question music color doctor
    """.split()  # noqa: SIM905 - a hundred quoted words read worse
)
ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
)  # fmt: skip
# Recordings of each set by split; each digit is said as often as the others.
SETS = {"voices": {"train": 3000}, "spoken-digit": {"train": 600, "validation": 200, "test": 480}}
WORDS_OF_A_PHRASE = (1, 4)  # one to three
NUM_TEST_VOICES = 24
DIFFERENT_EACH_TIME = frozenset(
    {
        "Alicia",
        "Demonic",
        "f2",
        "f3",
        "f5",
        "sandro",
        "victor",
        "whisper",
        "whisperf",
    }  # whose breath is noise
)
SPEEDS, PITCHES = (110, 220), (25, 75)  # words a minute; percent
NOISE_DB = (12.0, 30.0)  # of speech over noise
REST_SECONDS = (0.02, 0.15)  # before and after
BATCH = 64

_RETRIEVAL, _UTF8 = 1, 1  # espeak_AUDIO_OUTPUT, and the flag of `espeak_Synth`
_SPEED, _PITCH = 1, 3  # espeak_PARAMETER


def phrases() -> Iterator[dict[str, Any]]:
    """Words, one to three at a time, by all voices but those of the test."""
    return _streamed("voices")


def digit_task() -> Iterator[dict[str, Any]]:
    """Digits with label, transcript, speaker and split; the test's voices are in neither other split."""
    return _streamed("spoken-digit")


def _streamed(name: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    if importlib.util.find_spec("espeakng_loader") is None:
        raise InputError(
            f"embedded://{name} is spoken by espeak-ng, which is an extra under the GPL: "
            "`make voices` installs it (`.venv/bin/pip install espeakng-loader==0.2.4`)."
        )
    command = [sys.executable, "-m", "tasks.sources.voices", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with pa.ipc.open_stream(process.stdout) as stream:
            for batch in stream:
                yield from batch.to_pylist()
    if process.returncode:
        raise InputError(f"embedded://{name}: espeak-ng ended with code {process.returncode}.")


def _voices() -> tuple[list[str], list[str]]:
    """Voices for training, and for the test alone, in the order of a hash; each has an accent of its own."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    keys = {
        hash64(name.encode()): name for name in {path.name for path in folder.iterdir()} - DIFFERENT_EACH_TIME
    }
    voices = [f"{ACCENTS[key % len(ACCENTS)]}+{keys[key]}" for key in sorted(keys)]
    return voices[NUM_TEST_VOICES:], voices[:NUM_TEST_VOICES]


class _Speaker:
    """espeak-ng's library, https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate_hz = self._library.espeak_Initialize(_RETRIEVAL, 0, ctypes.c_char_p(data), 0)
        self._voice = ""
        self._parts: list[bytes] = []
        heard = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = heard(self._keep)  # which must outlive the library's pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _keep(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._parts.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, speed: int, pitch: int) -> Samples:
        """The samples of a text, int16 at `rate_hz`.

        Raises:
            RuntimeError: there is no such voice.
        """
        import numpy as np

        if voice != self._voice and self._library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        self._voice = voice
        self._library.espeak_SetParameter(_SPEED, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._parts.clear()
        said = text.encode()
        size = ctypes.c_size_t(len(said) + 1)
        self._library.espeak_Synth(said, size, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.frombuffer(b"".join(self._parts), np.int16)


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """A set voice by voice, for the library takes longer to find one than to speak."""
    train, test = _voices()
    speaker = _Speaker()
    for split, count in SETS[name].items():
        voices = test if split == "test" else train
        for number in range(count):
            draws = _draws(f"{name}/{split}/{number}")
            voice = voices[number * len(voices) // count]
            digit = None if name == "voices" else number % len(DIGITS)
            words = (
                draws.choice([*DIGITS, *OTHERS], draws.randint(*WORDS_OF_A_PHRASE)) if digit is None else ()
            )
            text = " ".join(words) if digit is None else DIGITS[digit]
            yield {
                "recording": _recorded(speaker, text, voice, draws),
                "label": None if digit is None else str(digit),
                "transcript": text,
                "said_by": voice,
                "split": split,
                "license": LICENSE,
            }


def _draws(name: str) -> RandomState:
    import numpy as np

    return np.random.RandomState(hash64(name.encode()) % 2**32)  # a stream that no version of numpy changes


def _recorded(speaker: _Speaker, text: str, voice: str, draws: RandomState) -> bytes:
    """A WAV of the text at a speed, pitch and level of its own, in noise."""
    import numpy as np
    import soundfile

    said = speaker.say(text, voice, int(draws.randint(*SPEEDS)), int(draws.randint(*PITCHES))) / 32768
    rests = (draws.uniform(*REST_SECONDS, 2) * speaker.rate_hz).astype(int)
    sound = np.pad(said, tuple(rests))
    level = np.sqrt(np.square(said).mean() + 1e-12)
    sound = sound + draws.standard_normal(len(sound)) * level * 10 ** (-draws.uniform(*NOISE_DB) / 20)
    sound *= draws.uniform(0.2, 0.9) / np.abs(sound).max()
    stored = io.BytesIO()
    soundfile.write(stored, sound, speaker.rate_hz, format="WAV", subtype="PCM_16")
    return stored.getvalue()


def main() -> None:
    """Write a set to standard output."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.binary() if name == "recording" else pa.string()) for name in FIELDS])
    rows = _rows(sys.argv[1])
    with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
        while some := list(itertools.islice(rows, BATCH)):
            stream.write_batch(pa.RecordBatch.from_pylist(some, schema))


FIELDS = ("recording", "label", "transcript", "said_by", "split", "license")
_RECORDINGS = {"audio": "recording", "license": "license"}
COLUMNS: dict[str, Mapping[str, str]] = {
    "voices": _RECORDINGS,
    "spoken-digit": {**_RECORDINGS, "split": "split", "transcript": "transcript"},
}

if __name__ == "__main__":
    main()
