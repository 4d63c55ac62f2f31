"""Fine-tuned models of recordings answer as they are served, and open with transformers alone."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

from models import heads
from tasks import serving
from tasks.modalities.speech import tensors
from tests.tiny import tiny_model

RATE = 4000


def finished(folder: Path, head: str, labels: list[str]) -> Path:
    """A model folder as fine-tuning leaves it."""
    prepared = folder / "prepared"
    prepared.mkdir()
    (prepared / "manifest.json").write_text(json.dumps({"sample_rate_hz": RATE, "normalise": "each"}))
    tiny_model("AutoModel", architecture="wav2vec2").save_pretrained(folder / "encoder")
    model = heads.build(head, folder / "encoder", labels, pretrained=True, padding=None, seed=0)
    heads.save(model, folder / "model")
    tensors.finish(prepared, folder / "model")
    return folder / "model"


def noise(rate: int = RATE) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (0.1 * np.random.default_rng(0).standard_normal(rate // 2)).astype(np.float32)


def sent(samples: np.ndarray[tuple[int], np.dtype[np.float32]], rate: int = RATE) -> dict[str, list[str]]:
    stored = io.BytesIO()
    soundfile.write(stored, samples, rate, format="WAV", subtype="FLOAT")
    return {"recording": [base64.b64encode(stored.getvalue()).decode()]}


def test_a_transcriber_answers_as_transformers_pipeline_does(tmp_path: Path) -> None:
    folder = finished(tmp_path, "AutoModelForCTC", ["<pad>", "|", "a", "b"])
    assert serving.kind(folder) == "transcription"
    answer = serving.Answerer(folder).predict(sent(noise()))["text"][0]
    pipeline: Any = transformers.pipeline("automatic-speech-recognition", model=str(folder))
    said = pipeline({"raw": noise(), "sampling_rate": RATE})["text"]
    assert answer == " ".join(said.split())
    assert {*answer} <= {"a", "b", " "}


def test_a_classifier_of_recordings_is_not_taken_for_one_of_texts(tmp_path: Path) -> None:
    folder = finished(tmp_path, "AutoModelForAudioClassification", ["no", "yes"])
    assert serving.kind(folder) == "audio_classification"
    answerer = serving.Answerer(folder)
    answer = answerer.predict(sent(noise()))
    value_BN = torch.from_numpy((noise() - noise().mean()) / noise().std())[None]
    with torch.no_grad():
        share_BV = answerer.model(value_BN).logits.softmax(-1)
    assert answer["label"][0] == ["no", "yes"][int(share_BV.argmax())]
    assert answer["score"][0] == pytest.approx(float(share_BV.max()), abs=1e-4)
    assert "soundfile" in " ".join(serving.requirements("audio_classification"))


def test_a_recording_of_another_rate_and_two_channels_is_brought_to_the_models(tmp_path: Path) -> None:
    answerer = serving.Answerer(finished(tmp_path, "AutoModelForAudioClassification", ["no", "yes"]))
    time = np.arange(4 * RATE) / (4 * RATE)
    fast = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    slow = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    both = answerer.predict(sent(np.stack([fast, fast], axis=1), 4 * RATE))["score"][0]
    assert both == pytest.approx(answerer.predict(sent(slow))["score"][0], abs=1e-2)
