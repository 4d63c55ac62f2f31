"""Recordings on disk, by position, and as inputs, against the source samples and transformers."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from models.speech.sounds import Sounds, features
from tasks.engine.order import row_of, sample_key
from tasks.errors import InputError
from tasks.modalities.speech import tensors
from tasks.modalities.speech.records import decoding
from tasks.modalities.speech.tensors import PrepareSettings, shards
from tests.modalities.speech.signals import Sound
from tests.tiny import tiny_model

RATE = 4000
SEGMENT = 400


def noises(count: int, seed: int = 0) -> list[Sound]:
    draw = np.random.default_rng(seed)
    return [draw.integers(-9000, 9000, draw.integers(50, 1500), dtype=np.int16) for _ in range(count)]


def write_corpus(folder: Path, sounds: list[Sound], heldout: int = 3, rate: int = RATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    count = len(sounds)
    columns = {
        "id": [f"r{row}" for row in range(count)],
        "recording": [decoding.flac(sound, rate) for sound in sounds],
        "source": [f"{row}.wav" for row in range(count)],
        "split": ["heldout" if row < heldout else "train" for row in range(count)],
    }
    pq.write_table(pa.table(columns), folder / "records-00000.parquet")
    return folder


def prepare(
    tmp_path: Path, sounds: list[Sound], excluded: Any = None, rate: int = RATE, objective: str = "wav2vec2",
    **options: Any,
) -> tuple[Path, Any, dict[str, Any]]:  # fmt: skip
    settings = PrepareSettings(**{"sample_rate_hz": RATE, "segment_seconds": SEGMENT / RATE, **options})
    pretrain = SimpleNamespace(objective=SimpleNamespace(name=objective))
    recipe: Any = SimpleNamespace(modality="speech", prepare=settings, pretrain=pretrain)
    out = tmp_path / "prepared"
    out.mkdir(parents=True)
    corpora = {"general": write_corpus(tmp_path / "general", sounds, rate=rate)}
    manifest = tensors.prepare(recipe, corpora, excluded or {}, out, seed=0)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out, recipe, manifest


def stored(out: Path, split: str = "train") -> Sound:
    segments = shards.Segments(out / "general" / split)
    rows = np.arange(segments.num_rows)
    return segments.samples(rows, np.zeros_like(rows)).ravel()


def test_segments_joined_are_the_recordings_joined(tmp_path: Path) -> None:
    made = noises(23)
    out, _, manifest = prepare(tmp_path, made)
    for split, sounds in (("heldout", made[:3]), ("train", made[3:])):
        joined = np.concatenate(sounds)
        rows = len(joined) // SEGMENT
        assert np.array_equal(stored(out, split), joined[: rows * SEGMENT])
        seconds = round(rows * SEGMENT / RATE)
        assert manifest["slots"]["general"][split] == {"rows": rows, "seconds of audio": seconds}
    assert (manifest["sample_rate_hz"], manifest["segment_seconds"]) == (RATE, SEGMENT / RATE)


@pytest.mark.parametrize("per_shard", [1, 2, 7])
def test_nothing_is_lost_between_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_shard: int
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 2 * SEGMENT * per_shard)
    made = [*noises(15), np.arange(-6000, 6000, dtype=np.int16)]
    out, _, manifest = prepare(tmp_path, made)
    joined = np.concatenate(made[3:])
    rows = len(joined) // SEGMENT
    assert len(list((out / "general" / "train").glob("*.arrow"))) == -(-rows // per_shard)
    assert manifest["slots"]["general"]["train"]["rows"] == rows
    assert np.array_equal(stored(out), joined[: rows * SEGMENT])


def test_excluded_recordings_are_left_out(tmp_path: Path) -> None:
    made = noises(12)
    out, _, _ = prepare(tmp_path, made, {"general": {"r4", "r0"}})
    joined = np.concatenate([made[3], *made[5:]])
    assert np.array_equal(stored(out), joined[: len(joined) // SEGMENT * SEGMENT])


def test_a_batch_follows_from_seed_and_positions_alone(tmp_path: Path) -> None:
    out, recipe, manifest = prepare(tmp_path, noises(23))
    rows = manifest["slots"]["general"]["train"]["rows"]
    batches = tensors.batches(out, "general", "train", recipe, ("sounds",), seed=7)
    assert (batches.num_samples, batches.unit) == (rows, "seconds of audio")
    assert batches.units_per_sample == SEGMENT / RATE
    positions = list(range(rows - 5, rows + 9))  # over the end of an epoch
    batch = batches.batch(positions)
    assert torch.equal(batch["key"], sample_key(7, torch.tensor(positions)))
    again = tensors.batches(out, "general", "train", recipe, ("sounds",), seed=7)
    alone = torch.cat([again.batch([position])["sound"] for position in reversed(positions)])
    assert torch.equal(alone.flip(0), batch["sound"])
    other = tensors.batches(out, "general", "train", recipe, ("sounds",), seed=8).batch(positions)
    assert not torch.equal(other["sound"], batch["sound"])


def test_each_segment_begins_elsewhere_in_every_epoch(tmp_path: Path) -> None:
    made = [np.arange(-12_000, 12_000, dtype=np.int16)]  # each sample says where it stood
    out, recipe, manifest = prepare(tmp_path, [*noises(3), *made])
    rows = manifest["slots"]["general"]["train"]["rows"]
    batches = tensors.batches(out, "general", "train", recipe, ("sounds",), seed=0)
    begins: dict[int, list[int]] = {row: [] for row in range(rows)}
    for epoch in range(20):
        positions = torch.arange(epoch * rows, (epoch + 1) * rows)
        sound = batches.batch(positions.tolist())["sound"]
        assert torch.equal(sound - sound[:, :1], torch.arange(SEGMENT).expand_as(sound))
        for row, first in zip(row_of(positions, rows, 0).tolist(), sound[:, 0].tolist(), strict=True):
            begins[row].append(first + 12_000 - row * SEGMENT)
    assert begins.pop(rows - 1) == [0] * 20, "behind the last segment there is nothing"
    shifts = np.array(list(begins.values()))
    assert shifts.min() >= 0
    assert shifts.max() < SEGMENT
    assert shifts.mean() == pytest.approx(SEGMENT / 2, rel=0.05)
    assert all(len(set(row)) > 15 for row in shifts.tolist())


def test_segments_stay_on_disk(tmp_path: Path) -> None:
    out, _, _ = prepare(tmp_path, noises(23))
    before = pa.total_allocated_bytes()
    (shard,) = shards.Segments(out / "general" / "train")._shards
    assert not shard.flags.owndata
    assert not shard.flags.writeable
    assert pa.total_allocated_bytes() == before
    with (out / "general" / "train" / "sounds-00000.arrow").open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert shard.tobytes() in held[:], "as it stands, uncompressed"
        held.close()


def test_a_corpus_of_another_rate_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3.wav: its corpus holds 8000 samples a second, and prepare.sample_rate_hz is 4000; set `sample_rate_hz` of"):  # fmt: skip
        prepare(tmp_path, noises(5), rate=8000)


def test_less_sound_than_a_segment_is_refused_when_it_is_read(tmp_path: Path) -> None:
    made = [np.zeros(100, np.int16)] * 3 + [np.zeros(500, np.int16)]
    out, recipe, manifest = prepare(tmp_path, made)
    assert manifest["slots"]["general"]["heldout"] == {"rows": 0, "seconds of audio": 0}
    with pytest.raises(
        InputError, match=r"holds less sound than one segment of 0.1 s; lower prepare.segment"
    ):
        tensors.batches(out, "general", "heldout", recipe, ("sounds",), seed=0)
    with pytest.raises(InputError, match="corpus `domain` is none"):
        tensors.batches(out, "domain", "train", recipe, ("sounds",), seed=0)
    with pytest.raises(KeyError, match="unknown kind of batch 'rows'; known: sounds, units"):
        tensors.batches(out, "general", "train", recipe, ("rows",), seed=0)


def test_units_of_too_little_sound_are_refused_with_what_to_set(tmp_path: Path) -> None:
    for seconds in (1.0, 100.0):
        with pytest.raises(
            InputError, match=r"frames of sound for 100 units; lower prepare.num_units or prep"
        ):
            prepare(tmp_path / str(seconds), noises(5), objective="hubert", segment_seconds=seconds)


def labelled(sounds: list[Sound], rate: int = RATE) -> pa.Table:
    names = [f"r{row}" for row in range(len(sounds))]
    recordings = [decoding.flac(sound, rate) for sound in sounds]
    return pa.table({"id": names, "recording": recordings, "source": names})


@pytest.mark.parametrize("normalise", ["each", "none"])
def test_inputs_and_reader_equal_transformers_feature_extractor(tmp_path: Path, normalise: str) -> None:
    sounds = [noises(1, seed)[0] // (seed + 1) + np.int16(300 * seed) for seed in range(6)]
    out, recipe, _ = prepare(tmp_path, noises(9), normalise=normalise)
    found = tensors.inputs(labelled(sounds), "classification", out, recipe)
    assert found["sound"].dtype == torch.int16
    assert found["num_samples"].tolist() == [len(sound) for sound in sounds]
    assert found["rate_hz"].tolist() == [RATE] * 6
    read = tensors.reader(out, recipe)({**found, "labels": torch.arange(6)}, training=False, key=None)
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=RATE, do_normalize=normalise == "each", return_attention_mask=True
    )
    expected = extractor(
        [sound.astype(np.float32) / 32768 for sound in sounds],
        sampling_rate=RATE,
        padding=True,
        return_tensors="pt",
    )
    torch.testing.assert_close(read["input_values"], expected["input_values"], atol=1e-5, rtol=0)
    assert torch.equal(read["attention_mask"].int(), expected["attention_mask"])
    assert torch.equal(read["labels"], torch.arange(6))


@pytest.mark.parametrize("normalise", [True, False])
def test_what_stands_behind_the_end_of_a_recording_is_not_heard(normalise: bool) -> None:
    sound, lengths = map(torch.from_numpy, shards.padded(noises(4)))
    behind = torch.arange(sound.shape[1]) >= lengths[:, None]
    sounds = Sounds(RATE, normalise)
    expected = sounds.values(sound, lengths)
    torch.testing.assert_close(sounds.values(sound.masked_fill(behind, 9999), lengths), expected)
    assert not expected[behind].any()


def test_inputs_of_another_kind_or_rate_are_refused(tmp_path: Path) -> None:
    out, recipe, _ = prepare(tmp_path, noises(9))
    with pytest.raises(KeyError, match="unknown kind of task for recordings 'segmentation'; known: classif"):
        tensors.inputs(labelled(noises(2)), "segmentation", out, recipe)
    with pytest.raises(InputError, match="r0: its corpus holds 8000 samples a second"):
        tensors.inputs(labelled(noises(2), rate=8000), "classification", out, recipe)


@pytest.mark.filterwarnings(
    "ignore:Support for mismatched key_padding_mask:UserWarning"
)  # transformers' WavLM
@pytest.mark.parametrize("architecture", ["wav2vec2", "hubert", "wavlm"])
def test_the_vector_of_a_recording_does_not_depend_on_what_stands_beside_it(architecture: str) -> None:
    encoder = tiny_model("AutoModel", architecture=architecture).eval()
    short, long = noises(1, 3)[0][:500], np.concatenate(noises(4))
    alone, beside = vectors(encoder, [short]), vectors(encoder, [short, long])
    torch.testing.assert_close(beside[0], alone[0], atol=1e-4, rtol=0)
    assert not torch.allclose(beside[1], alone[0], atol=1e-2)
    with torch.no_grad():
        frames = encoder(Sounds(RATE).values(torch.from_numpy(short)[None])).last_hidden_state
    torch.testing.assert_close(alone[0], frames[0].mean(0), atol=1e-4, rtol=0)


def vectors(encoder: Any, sounds: list[Sound]) -> Tensor:
    sound, lengths = map(torch.from_numpy, shards.padded(sounds))
    with torch.no_grad():
        return features(encoder, Sounds(RATE).values(sound, lengths), lengths)


def test_vectors_of_segments_are_those_of_recordings_of_that_length(tmp_path: Path) -> None:
    out, recipe, _ = prepare(tmp_path, noises(23))
    encoder = tiny_model("AutoModel", architecture="wav2vec2").eval()
    batch = tensors.batches(out, "general", "train", recipe, ("sounds",), seed=0).batch([0, 5])
    with torch.no_grad():
        found = tensors.vectors(encoder, batch, out)
    torch.testing.assert_close(found, vectors(encoder, list(batch["sound"].numpy())))


def test_encoders_that_do_not_read_samples_are_refused(tmp_path: Path) -> None:
    _, recipe, _ = prepare(tmp_path, noises(9))
    for architecture in ("wav2vec2", "hubert", "wavlm"):
        tensors.check_encoder(tiny_model("AutoModel", architecture=architecture).config, recipe)
    for architecture in ("bert", "vit", "resnet"):
        config = tiny_model("AutoModel", architecture=architecture).config
        with pytest.raises(ValueError, match=f"{architecture} does not read samples of sound; choose an enc"):
            tensors.check_encoder(config, recipe)
    assert tensors.encoder_config(tmp_path) == {}


@pytest.mark.parametrize(("normalise", "expected"), [("auto", True), ("each", True), ("none", False)])
def test_what_finish_writes_reads_recordings_as_evaluation_does(
    tmp_path: Path, normalise: str, expected: bool
) -> None:
    out, recipe, _ = prepare(tmp_path, noises(9), normalise=normalise)
    folder = tmp_path / "model"
    tiny_model("AutoModel", architecture="wav2vec2").save_pretrained(folder)
    tensors.finish(out, folder)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert (extractor.sampling_rate, extractor.do_normalize) == (RATE, expected)
    (sound,) = noises(1, 5)
    theirs = extractor(sound.astype(np.float32) / 32768, sampling_rate=RATE, return_tensors="pt")
    batch = {"sound": torch.from_numpy(sound)[None], "num_samples": torch.tensor([len(sound)])}
    mine = tensors.reader(out, recipe)(batch, training=False, key=None)
    torch.testing.assert_close(mine["input_values"], theirs["input_values"], atol=1e-5, rtol=0)
    assert torch.equal(mine["attention_mask"].int(), theirs["attention_mask"])


@pytest.mark.parametrize("of_weights", [True, False])
def test_recordings_are_normalised_as_the_weights_were_trained_unless_the_recipe_says_otherwise(
    tmp_path: Path, of_weights: bool
) -> None:
    weights = tmp_path / "weights"
    Wav2Vec2FeatureExtractor(do_normalize=of_weights).save_pretrained(weights)
    for normalise, expected in (("auto", of_weights), ("each", True), ("none", False)):
        out, _, _ = prepare(tmp_path / normalise, noises(9), normalise=normalise)
        assert tensors.constants(out, str(weights))["sounds"].normalise is expected
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert tensors.constants(tmp_path / "auto" / "prepared", str(nothing))["sounds"].normalise is True
