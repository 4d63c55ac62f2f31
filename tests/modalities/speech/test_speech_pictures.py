"""Vectors of a folder of recordings, and spectrograms to look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from models import encoders
from models.speech.sounds import Sounds, features
from tasks import embed
from tasks.errors import InputError
from tasks.modalities.speech.pictures import drawn
from tasks.modalities.speech.records import pauses
from tests.tiny import tiny_model

RATE = 4000
PROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": RATE,
    "padding_value": 0.0, "do_normalize": True, "return_attention_mask": True,
}  # fmt: skip


def model(folder: Path) -> Path:
    with encoders.quiet():
        tiny_model("AutoModel", architecture="hubert").save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def samples(seconds: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.random.default_rng(seed).integers(-3000, 3000, round(seconds * RATE)).astype(np.int16)


def vector(folder: Path, sound: np.ndarray[tuple[int], np.dtype[np.int16]]) -> torch.Tensor:
    encoder = encoders.build("AutoModel", architecture=None, source=str(folder), config={}, seed=0).eval()
    value_BN = Sounds(RATE).values(torch.from_numpy(sound)[None])
    with torch.inference_mode():
        return features(encoder, value_BN, torch.tensor([len(sound)]))[0]


def test_a_folder_of_recordings_has_vectors_and_a_page_and_bad_files_are_told(tmp_path: Path) -> None:
    folder, out = tmp_path / "calls", tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    soundfile.write(folder / "a" / "one.wav", samples(0.5, 0), RATE)
    soundfile.write(folder / "a" / "two.flac", samples(0.7, 1), RATE)
    soundfile.write(folder / "three.wav", samples(0.01, 2), RATE)
    (folder / "four.wav").write_bytes(b"")
    found = embed.run(model(tmp_path / "model"), folder, out)
    assert found.paths == ["a/one.wav", "a/two.flac"]
    assert dict(found.left_out) == {"four.wav": "empty", "three.wav": "too short"}
    expected = vector(tmp_path / "model", samples(0.7, 1))
    np.testing.assert_allclose(found.vectors[1], expected.numpy(), atol=1e-5)
    assert pq.read_table(out / embed.TABLE).num_rows == 2
    assert "data:image/" in (out / embed.PAGE).read_text()


def test_a_long_recording_is_the_mean_of_its_pieces(tmp_path: Path) -> None:
    long = samples(30, 0)
    long[50_000:52_400] = 0  # a pause, in which it is cut
    (tmp_path / "calls").mkdir()
    soundfile.write(tmp_path / "calls" / "long.wav", long, RATE)
    found = embed.run(model(tmp_path / "model"), tmp_path / "calls", tmp_path / "out")
    ((_, cut), _) = pauses.pieces(long, RATE, max_seconds=20)
    assert 50_000 < cut < 52_400
    parts = [long[:cut], long[cut:]]
    mean = sum((vector(tmp_path / "model", part) * len(part) for part in parts), torch.zeros(16)) / len(long)
    np.testing.assert_allclose(found.vectors[0], mean.numpy(), atol=1e-5)


def test_a_model_that_does_not_say_its_rate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    soundfile.write(tmp_path / "calls" / "one.wav", samples(0.5, 0), RATE)
    (model(tmp_path / "model") / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config.json is missing .* nobody knows their rate"):
        embed.run(tmp_path / "model", tmp_path / "calls", tmp_path / "out")


def test_a_tone_is_a_light_line_at_its_height() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000) * 9000
    picture = drawn(tone.astype(np.int16), 8000).astype(int).sum(-1)
    row = int(picture.mean(1).argmax())
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 4000 / 700))
    assert (len(picture) - 1 - row) / len(picture) == pytest.approx(mel, abs=0.03)
