"""Objectives over recordings, against transformers and against their equations written slowly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.objectives.hubert import HuBERT
from models.objectives.wav2vec2 import Wav2Vec2
from models.speech import context, quantiser
from models.speech.cepstra import cepstra
from models.speech.sounds import Sounds, num_frames, receptive_field
from models.speech.spans import Spans, distractors, listed, spans
from tests.tiny import Recordings, sounds, tiny_model, tiny_objective

NUM = 4


def wav2vec2(**settings: Any) -> Wav2Vec2:
    objective = tiny_objective("wav2vec2", **settings)
    assert isinstance(objective, Wav2Vec2)
    return objective


def hubert(architecture: str = "hubert") -> HuBERT:
    objective = tiny_objective("hubert", architecture=architecture)
    assert isinstance(objective, HuBERT)
    return objective


def their_negatives(hidden: Spans, others_BKR: Tensor) -> Tensor:
    """Our distractors as transformers counts them: positions in the flattened batch of frames."""
    num_rows, num_frames = hidden.hidden.shape
    negative_BTR = torch.zeros(num_rows, num_frames, others_BKR.shape[2], dtype=torch.long)
    for row in range(num_rows):
        place_K = hidden.place[row]
        for k in range(int(hidden.count[row])):
            negative_BTR[row, place_K[k]] = place_K[others_BKR[row, k]] + row * num_frames
    return negative_BTR


@pytest.mark.parametrize("is_training", [False, True])
def test_wav2vec2_equals_transformers_in_loss_parts_and_gradients(
    is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = wav2vec2().train(is_training)
    theirs: Any = ours.model
    theirs.quantizer.temperature = ours.gumbel_temperature
    theirs.config.diversity_loss_weight = ours.settings.diversity_weight
    theirs.config.contrastive_logits_temperature = ours.settings.contrastive_temperature
    batch = Recordings().batch(range(NUM))
    value_BN = ours.sounds.values(batch["sound"])
    feature_BTC = context.features(ours.encoder, value_BN)
    hidden = listed(torch.rand(feature_BTC.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.4)
    others_BKR = distractors(batch["key"], hidden, 8)
    key_B = batch["key"] if is_training else None
    step = ours.contrast(feature_BTC, hidden, others_BKR, key_B)
    count = float(hidden.count.sum())
    mine = torch.autograd.grad(step.loss, list(theirs.parameters()), allow_unused=True)
    if is_training:
        monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", same_noise(ours, hidden, batch["key"]))
    out = theirs(
        value_BN,
        mask_time_indices=hidden.hidden,
        sampled_negative_indices=their_negatives(hidden, others_BKR),
    )
    other = torch.autograd.grad(out.loss / count, list(theirs.parameters()), allow_unused=True)
    assert step.loss.item() == pytest.approx(out.loss.item() / count, abs=1e-5)
    assert float(step.metrics["contrastive_loss"]) == pytest.approx(
        out.contrastive_loss.item() / count, abs=1e-5
    )
    assert float(step.metrics["diversity_loss"]) == pytest.approx(out.diversity_loss.item() / count, abs=1e-5)
    assert [a is None for a in mine] == [b is None for b in other]
    for a, b in zip(mine, other, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def same_noise(ours: Wav2Vec2, hidden: Spans, key_B: Tensor) -> Any:
    """`gumbel_softmax` of all frames, with our noise at the hidden ones."""

    def softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        num_rows, num_frames = hidden.hidden.shape
        groups: Any = ours.model.get_submodule("quantizer")
        all_BTGV = logits.view(num_rows, num_frames, groups.num_groups, groups.num_vars)
        noise_BKGV = quantiser.gumbel(key_B, hidden.place.shape[1], groups.num_groups, groups.num_vars)
        noise_BTGV = torch.zeros_like(all_BTGV)
        for row in range(num_rows):
            count = int(hidden.count[row])
            noise_BTGV[row, hidden.place[row, :count]] = noise_BKGV[row, :count]
        soft = ((all_BTGV + noise_BTGV) / tau).softmax(-1).view_as(logits)
        sharp = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
        assert hard
        return sharp - soft.detach() + soft

    return softmax


def test_a_distractor_with_the_code_of_the_right_frame_distracts_nobody() -> None:
    objective = wav2vec2()
    code_BKP = torch.randn(1, 3, 8)
    code_BKP[0, 2] = code_BKP[0, 0]
    logits_BKR = objective.logits(torch.randn(1, 3, 8), code_BKP, torch.tensor([[[1, 2], [0, 2], [0, 1]]]))
    assert torch.isinf(logits_BKR).tolist()[0] == [[False, False, True], [False] * 3, [False, True, False]]


def test_temperature_of_the_quantiser_falls_by_equal_factors() -> None:
    objective = wav2vec2(gumbel_start=2.0, gumbel_end=0.5)
    seen = []
    for progress in (0.0, 0.5, 1.0):
        objective.after_step(progress)
        seen.append(objective.gumbel_temperature)
    assert seen == pytest.approx([2.0, 1.0, 0.5])


def test_one_code_for_everything_is_told_as_a_failure() -> None:
    objective = wav2vec2().train()
    with torch.no_grad():
        bias = objective.model.get_parameter("quantizer.weight_proj.bias").view(2, -1)
        bias[:, 0] += 100
    objective(Recordings().batch(range(NUM)))
    health = objective.health()
    assert "same code" in health.signature
    assert health.measures["codes_used"] == pytest.approx(2 / 16, abs=1e-3)


def test_a_contrast_at_chance_is_told_once_half_of_the_training_is_over() -> None:
    objective = wav2vec2().train()
    step = objective(Recordings().batch(range(NUM)))
    guessing = math.log(1 + objective.settings.num_negatives)
    nats = guessing - float(step.metrics["contrastive_loss"])
    health = objective.health()
    assert health.measures["information"] == pytest.approx(nats, abs=1e-5)
    assert nats < 0.02
    assert health.signature == ""
    objective.after_step(0.6)
    assert "nothing has been learnt yet" in objective.health().signature
    features, shown = objective.seen or pytest.fail("a step leaves what health looks at")
    objective.seen = (features, {**shown, "information": 0.1})
    assert objective.health().signature == ""


def test_wav2vec2_refuses_an_encoder_without_a_quantiser() -> None:
    with pytest.raises(ValueError, match="has no quantiser; choose an encoder such as wav2vec2"):
        Wav2Vec2(tiny_model("AutoModel", architecture="hubert"), Wav2Vec2.Settings(), sounds())


def test_hidden_spans_have_their_length_and_share_and_differ_between_recordings() -> None:
    hidden = spans(torch.arange(200), 100, probability=0.05, length=7)
    begins = torch.nn.functional.pad(hidden.hidden.int(), (1, 0)).diff(dim=1) == 1
    ends = torch.nn.functional.pad(hidden.hidden.int(), (0, 1)).diff(dim=1) == -1
    assert all(
        (end - begin + 1) >= 7
        for row in range(200)
        for begin, end in zip(begins[row].nonzero(), ends[row].nonzero(), strict=True)
    )
    assert hidden.hidden.float().mean() == pytest.approx(1 - (1 - 7 / 94) ** 5, abs=0.03)
    assert len({tuple(row) for row in hidden.hidden.tolist()}) > 190


def test_recordings_too_short_for_a_span_are_refused_with_what_to_change() -> None:
    with pytest.raises(ValueError, match="give longer recordings"):
        spans(torch.arange(2), 10, probability=0.1, length=10)


def test_distractors_are_other_hidden_frames_of_the_same_recording_evenly() -> None:
    hidden = listed(torch.tensor([[True] * 6 + [False] * 2, [True] * 3 + [False] * 5]))
    others_BKR = distractors(torch.arange(2), hidden, 3000)
    for row, count in enumerate(hidden.count.tolist()):
        for own in range(count):
            drawn = torch.bincount(others_BKR[row, own], minlength=count) / 3000
            assert drawn[own] == 0
            assert drawn.sum() == pytest.approx(1)
            assert drawn[torch.arange(count) != own] == pytest.approx(1 / (count - 1), abs=0.04)


@pytest.mark.parametrize("architecture", ["hubert", "wav2vec2", "wavlm"])
def test_hubert_is_cross_entropy_over_cosines_of_hidden_frames(architecture: str) -> None:
    objective = hubert(architecture)
    objective.eval()
    batch = Recordings().batch(range(NUM))
    step = objective(batch)
    value_BN = objective.sounds.values(batch["sound"])
    feature_BTC = context.features(objective.encoder, value_BN)
    hidden_BT = spans(batch["key"], feature_BTC.shape[1], probability=0.08, length=3).hidden
    state_BTD, _ = context.context(objective.encoder, feature_BTC, hidden_BT)
    unit_BT = objective.units(value_BN, feature_BTC.shape[1])
    lost, right = [], []
    for row, frame in hidden_BT.nonzero().tolist():
        guess_P = objective.project(state_BTD[row, frame])
        cosine_U = torch.stack(
            [torch.cosine_similarity(guess_P, code, dim=0) for code in objective.codes.weight]
        )
        lost.append(-(cosine_U / 0.1).log_softmax(0)[unit_BT[row, frame]])
        right.append(float(cosine_U.argmax() == unit_BT[row, frame]))
    assert step.loss.item() == pytest.approx(torch.stack(lost).mean().item(), abs=1e-5)
    assert float(step.metrics["accuracy"]) == pytest.approx(sum(right) / len(right))
    assert float(step.weight) == len(lost)


def test_a_hidden_frame_says_nothing_of_itself() -> None:
    objective = hubert()
    objective.eval()
    feature_BTC = torch.randn(1, 20, 16)
    hidden_BT = torch.zeros(1, 20, dtype=torch.bool)
    hidden_BT[0, 8:11] = True
    other_BTC = feature_BTC.clone()
    other_BTC[0, 8:11] += 5
    states = [context.context(objective.encoder, value, hidden_BT)[0] for value in (feature_BTC, other_BTC)]
    torch.testing.assert_close(*states)


def test_a_frame_has_the_unit_of_the_sound_in_its_middle() -> None:
    rate, objective = Recordings.rate_hz, hubert()
    time_N = torch.arange(rate) / rate
    low_N, high_N = (torch.sin(2 * math.pi * pitch * time_N) for pitch in (300, 1400))
    value_BN = torch.cat([low_N[: rate // 2], high_N[: rate // 2]])[None]
    centre = cepstra(value_BN, rate)[0]
    objective.sounds = Sounds(rate)
    objective.unit_UQ = torch.stack([centre[20], centre[-20]])
    count = num_frames(objective.encoder, rate)
    unit_T = objective.units(value_BN, count)[0]
    width, stride = receptive_field(objective.encoder)
    middle_T = torch.arange(count) * stride + width / 2
    clear_T = (middle_T - rate / 2).abs() > 0.06 * rate
    assert torch.equal(unit_T[clear_T], (middle_T > rate / 2).long()[clear_T])


def test_receptive_field_is_what_a_frame_hears() -> None:
    encoder = tiny_model("AutoModel", architecture="wav2vec2")
    value_BN = torch.randn(1, 1200, requires_grad=True)
    context.features(encoder, value_BN)[0, 7].sum().backward()
    assert value_BN.grad is not None
    heard = value_BN.grad[0].nonzero().flatten()
    width, stride = receptive_field(encoder)
    assert (int(heard[0]), int(heard[-1])) == (7 * stride, 7 * stride + width - 1)


def test_hubert_refuses_data_without_units() -> None:
    model = tiny_model("AutoModel", architecture="hubert")
    with pytest.raises(ValueError, match="prepared without units; prepare them again"):
        HuBERT(model, HuBERT.Settings(), Sounds(4000))
