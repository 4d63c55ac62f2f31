"""Characters of recordings: a tiny encoder learns which tone is which letter."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from models import heads
from models.objectives import Batch
from models.speech.settings import Hiding
from models.speech.sounds import Sounds
from models.speech.spelling import spelt
from models.text.token_masks import IGNORED
from tasks.downstream import floors, kind, supervised, transcription
from tasks.downstream.rows import Rows, Supervision
from tasks.errors import InputError
from tasks.modalities.speech.tensors.reading import Reader
from tests.downstream.supervised_sets import QUICK
from tests.tiny import Recordings, tiny_model

RATE = Recordings.rate_hz
PITCHES = {"a": 300, "b": 700, "c": 1200, "d": 1700, " ": None}
SAID = ("ab", "ba", "cab", "a bad", "dac", "bc da", "add")
LETTER = 160  # samples


def spoken(text: str, draw: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """A tone for each letter, and a rest between."""
    parts = []
    for letter in text:
        pitch, time = PITCHES[letter], np.arange(LETTER) / RATE
        tone = np.zeros(LETTER) if pitch is None else np.sin(2 * np.pi * pitch * time)
        parts += [tone, np.zeros(LETTER // 4)]
    return (8000 * np.concatenate(parts) + draw.normal(0, 100, len(parts) // 2 * 200)).astype(np.int16)


def said(count: int, seed: int, texts: tuple[str, ...] = SAID) -> Rows:
    draw = np.random.default_rng(seed)
    chosen = [texts[row % len(texts)] for row in range(count)]
    sounds = [spoken(text, draw) for text in chosen]
    longest = max(map(len, sounds))
    sound = np.stack([np.pad(one, (0, longest - len(one))) for one in sounds])
    records = pa.table({"id": [f"r{seed}-{row}" for row in range(count)], "transcript": chosen})
    lengths = torch.tensor([len(one) for one in sounds])
    return Rows(
        records,
        {"sound": torch.from_numpy(sound), "num_samples": lengths, "rate_hz": torch.full((count,), RATE)},
    )


def model_for(labels: list[str], folder: Path) -> PreTrainedModel:
    tiny_model("AutoModel", architecture="wav2vec2").save_pretrained(folder)
    return heads.build("AutoModelForCTC", folder, labels, pretrained=True, padding=None, seed=0)


READER = Reader(Sounds(RATE), Hiding(time_probability=0.01, time_length=2, channel_probability=0))


def test_letters_of_tones_are_learnt(tmp_path: Path) -> None:
    train, test = said(42, 0), said(21, 1)
    labels = transcription.labels(train.records)
    model = model_for(labels, tmp_path / "encoder")
    settings = dataclasses.replace(
        QUICK, steps=300, max_epochs=100, batch_size=14, lr=1e-2, schedule="tri_stage"
    )
    fitted = supervised.fit(
        kind("transcription"),
        model,
        train,
        test,
        labels,
        settings,
        seed=0,
        folder=tmp_path / "run",
        reader=READER,
    )
    predictions = fitted.predict(test)
    scores = transcription.score(test, predictions)
    assert scores["character_error_rate"] < 0.15
    best = min(score["word_error_rate"] for _, score in _looks(tmp_path))
    assert fitted.scores["word_error_rate"] == best


def _looks(folder: Path) -> list[tuple[int, dict[str, float]]]:
    import json

    return [(step, scores) for step, scores in json.loads((folder / "run" / "validation.json").read_text())]


def test_labels_are_the_blank_the_sign_between_words_and_the_characters() -> None:
    assert transcription.labels(said(7, 0).records) == ["<pad>", "|", "a", "b", "c", "d"]


def test_targets_are_characters_by_number_and_unknown_ones_are_left_out() -> None:
    labels_BL = transcription.targets(said(4, 0), ["<pad>", "|", "a", "b", "d"])["labels"]
    assert labels_BL.tolist() == [
        [2, 3, IGNORED, IGNORED, IGNORED],
        [3, 2, IGNORED, IGNORED, IGNORED],
        [2, 3, IGNORED, IGNORED, IGNORED],
        [2, 1, 3, 2, 4],
    ]


def test_the_likeliest_path_is_read_without_repetitions_and_blanks() -> None:
    labels = ["<pad>", "|", "a", "b"]
    assert spelt([0, 2, 2, 0, 2, 3, 1, 1, 0, 1, 3, 0], labels) == "aab b"
    assert spelt([1, 0, 0], labels) == ""


def test_error_rates_are_edits_per_word_and_per_character() -> None:
    rows = said(4, 0)  # ab, ba, cab, a bad
    found = transcription.score(rows, ["ab", "b", "cab xx", "bad"])
    assert found["word_error_rate"] == pytest.approx(3 / 5)
    assert found["character_error_rate"] == pytest.approx((1 + 3 + 2) / 12)


def test_label_draws_hold_every_word_that_is_said_often() -> None:
    records = pa.table({"transcript": ["one", "two", "one", "two", "a sentence", "another"]})
    assert transcription.strata(records) == ["one", "two", "one", "two", "", ""]


def test_the_loss_is_the_negative_logarithm_of_all_paths_that_spell_the_transcript(tmp_path: Path) -> None:
    rows = said(2, 0, ("ab",)).take([0])
    short = {"sound": rows.inputs["sound"][:, :200], "num_samples": torch.tensor([112])}
    labels = ["<pad>", "|", "a", "b"]
    model = model_for(labels, tmp_path).eval()
    batch: Batch = {**short, "key": torch.arange(1), "labels": torch.tensor([[2, 3]])}
    step = heads.Supervised(model, READER).eval()(batch)
    with torch.no_grad():
        read = READER(short, training=False, key=None)
        log_TV = model(read["input_values"], attention_mask=read["attention_mask"]).logits[0].log_softmax(-1)
    log_TV = log_TV[: ((112 - 10) // 5 + 1 - 8) // 4 + 1]
    paths = [
        path
        for path in itertools.product(range(4), repeat=len(log_TV))
        if spelt(path, labels) == "ab" and 1 not in path
    ]
    total = torch.stack([sum((log_TV[t, v] for t, v in enumerate(path)), torch.zeros(())) for path in paths])
    assert step.loss.item() == pytest.approx(-total.logsumexp(0).item() / 2, abs=1e-4)
    assert step.weight == 1.0


def test_a_recording_too_short_for_its_transcript_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = said(14, 0)
    cut: dict[str, Tensor] = {**rows.inputs, "num_samples": rows.inputs["num_samples"].clone()}
    cut["num_samples"][3] = 90
    labels = transcription.labels(rows.records)
    model = model_for(labels, tmp_path / "encoder")
    settings = dataclasses.replace(QUICK, steps=2)
    supervised.fit(
        kind("transcription"), model, Rows(rows.records, cut), said(7, 1), labels, settings,
        seed=0, folder=tmp_path / "run", reader=READER,
    )  # fmt: skip
    assert "1 of 14 training recordings are too short for their transcripts, such as r0-3" in caplog.text


def test_recordings_all_too_short_are_an_error_with_what_to_do(tmp_path: Path) -> None:
    rows = said(4, 0)
    none = Rows(rows.records, {**rows.inputs, "num_samples": torch.full((4,), 60)})
    labels = transcription.labels(rows.records)
    model = model_for(labels, tmp_path / "encoder")
    with pytest.raises(InputError, match="4 of 4 training recordings are too short .* shorter strides"):
        supervised.fit(
            kind("transcription"), model, none, rows, labels, QUICK, seed=0, folder=tmp_path, reader=READER
        )


def test_doubled_letters_need_a_frame_more(tmp_path: Path) -> None:
    model = model_for(["<pad>", "|", "a", "d"], tmp_path)
    inputs = {"num_samples": torch.tensor([75, 95, 95])}  # 2, 3 and 3 frames
    targets = {"labels": torch.tensor([[2, 3, IGNORED], [2, 2, IGNORED], [2, 3, 3]])}
    assert heads.has_room(model, inputs, targets).tolist() == [True, True, False]


def test_words_said_alone_are_told_by_log_mel_and_sentences_are_not_tried() -> None:
    train, test = said(28, 0), said(14, 1)
    found = floors.of("speech", "transcription", kind("transcription"))
    best = min(
        transcription.score(test, predict(test))["word_error_rate"] for predict in found["log_mel"](train, [])
    )
    assert best < 0.2
    others = train.records.set_column(1, "transcript", pa.array([f"text {row}" for row in range(28)]))
    assert list(found["log_mel"](Rows(others, train.inputs), [])) == []


def test_batches_are_cut_to_their_longest_recording() -> None:
    rows = said(7, 0)
    batches = Supervision(rows.inputs, transcription.targets(rows, ["<pad>", "|", *"abcd"]), seed=0)
    batch = batches.batch([0])
    assert batch["sound"].shape[1] == int(batch["num_samples"].max())
