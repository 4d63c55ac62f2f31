"""Encoders, objectives and segments that do not fit recordings: one sentence, an exit code, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import encoders
from tests.bad_recordings.recordings import Change, contents, done, write
from tests.tiny import HEADS, TINY, tiny_model


def preparing(**more: Any) -> Change:
    return lambda params: params["recipes"]["mine"]["prepare"].update(more)


def objective(name: str, **more: Any) -> Change:
    given = {"name": name, **HEADS.get(name, {}), **more}
    return lambda params: params["recipes"]["mine"]["pretrain"].update(objective=given)


def encoder(name: str) -> Change:
    return lambda params: params["recipes"]["mine"].update(encoder=name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (encoder("text"), "bert does not read samples of sound; choose an encoder such as wav2vec2, hubert or wavlm"),
        (encoder("picture"), "vit does not read samples of sound; choose an encoder such as wav2vec2, hubert or wavlm"),
        (encoder("given"), "cannot load weights from 'weights'"),
        (objective("masked_lm"), "unknown speech objective 'masked_lm'; known: hubert"),
        (objective("hubert"), "these recordings were prepared without units; prepare them again"),
        (objective("wav2vec2", mask_length=200), "wav2vec2 makes 98 frames of segments of 0.25 s at 8000 Hz, and wav2vec2 needs 201; raise prepare.segment_seconds"),
    ],
)  # fmt: skip
def test_training_that_cannot_work_is_refused_and_the_last_model_stays(
    change: Change, sentence: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    write(change)
    code, said = done("pretrain", capsys)
    assert (code, sentence in said) == (1, True), said
    assert contents() == before


def units_of_long_segments(params: dict[str, Any]) -> None:
    preparing(segment_seconds=1000)(params)
    objective("hubert")(params)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (preparing(sample_rate_hz=16_000), "its corpus holds 8000 samples a second, and prepare.sample_rate_hz is 16000; set `sample_rate_hz` of"),
        (preparing(segment_seconds=0.005), "wav2vec2 makes 0 frames of segments of 0.005 s at 8000 Hz, and wav2vec2 needs 4; raise prepare.seg"),
        (units_of_long_segments, "has 0 frames of sound for 100 units; lower prepare.num_units or prepare.segment_seconds"),
    ],
)  # fmt: skip
def test_preparing_that_cannot_work_is_refused_and_the_last_tensors_stay(
    change: Change, sentence: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    write(change)
    code, said = done("prepare", capsys)
    assert (code, sentence in said) == (1, True), said
    assert contents() == before


def test_segments_longer_than_the_corpus_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(preparing(segment_seconds=1000))
    assert done("prepare", capsys)[0] == 0
    before = contents()
    code, said = done("pretrain", capsys)
    sentence = "holds less sound than one segment of 1000.0 s; lower prepare.segment_seconds, give the corpus"
    assert (code, sentence in said) == (1, True), said
    assert contents() == before


@pytest.mark.parametrize(("config", "fault"), [
    ({"num_hidden_layers": 1}, "they lack 16 tensors (wav2vec2.encoder.layers.1."),
    ({"hidden_size": 32}, "of another size (wav2vec2.encoder.layer_norm.bias, ...)"),
], ids=["fewer layers", "another width"])  # fmt: skip
def test_weights_of_another_architecture_are_refused(
    config: dict[str, Any], fault: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    encoders.build("AutoModel", architecture="wav2vec2", source=None, config={**TINY["wav2vec2"], **config}, seed=0).save_pretrained("weights")  # fmt: skip
    tiny_model("AutoModel", architecture="wav2vec2").config.save_pretrained("weights")
    write(encoder("given"))
    code, said = done("pretrain", capsys)
    assert code == 1
    assert "the weights in 'weights' are not those of its config.json, a wav2vec2: " in said
    assert fault in said
    assert contents() == before
