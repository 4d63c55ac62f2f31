"""Sounds, cepstra and what is hidden in training, against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
import transformers
from torch import Tensor

from models import heads
from models.speech.cepstra import BANDS, COEFFICIENTS, cepstra
from models.speech.context import features
from models.speech.hiding import hidden
from models.speech.settings import Hiding
from models.speech.sounds import num_frames
from tests.tiny import tiny_model

RATE = 8000


def test_cepstra_are_a_cosine_transform_of_log_mel_energies() -> None:
    value_N = np.random.default_rng(0).standard_normal(RATE // 4).astype(np.float32)
    corner = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), BANDS + 2) / 2595) - 1)
    frequency = np.arange(129) * RATE / 256
    rows = []
    for start in range(0, len(value_N) - 200 + 1, 80):
        power = np.abs(np.fft.rfft(value_N[start : start + 200] * np.hamming(200), 256)) ** 2
        energy = [
            sum(
                p * np.interp(f, corner[m : m + 3], [0, 1, 0], 0, 0)
                for f, p in zip(frequency, power, strict=True)
            )
            for m in range(BANDS)
        ]
        rows.append(scipy.fft.dct(np.log(energy), norm="ortho")[:COEFFICIENTS])
    own = np.array(rows)
    padded = np.pad(own, ((2, 2), (0, 0)), mode="edge")
    change = (
        sum(k * (padded[2 + k : len(own) + 2 + k] - padded[2 - k : len(own) + 2 - k]) for k in (1, 2)) / 10
    )
    found = cepstra(torch.from_numpy(value_N)[None], RATE)[0].numpy()
    assert found[:, :COEFFICIENTS] == pytest.approx(own - own.mean(0), abs=2e-3)
    assert found[:, COEFFICIENTS : 2 * COEFFICIENTS] == pytest.approx(change - change.mean(0), abs=2e-3)


def test_cepstra_do_not_hear_how_loud_a_recording_is() -> None:
    value_BN = torch.randn(2, RATE // 2)
    torch.testing.assert_close(cepstra(value_BN, RATE), cepstra(0.1 * value_BN, RATE), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("norm", "has_bias"), [("layer", True), ("group", False)])
@pytest.mark.parametrize("num_samples", [400, 401, 4003, 8000])
def test_features_are_those_of_transformers_convolutions(norm: str, has_bias: bool, num_samples: int) -> None:
    config = transformers.Wav2Vec2Config(
        feat_extract_norm=norm, conv_bias=has_bias, conv_dim=(16,) * 7, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=16, num_conv_pos_embedding_groups=1,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = transformers.Wav2Vec2Model(config).eval()
    for weight in encoder.feature_extractor.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    value_BN = torch.randn(2, num_samples)
    mine_BTC, theirs_BTC = features(encoder, value_BN), encoder.feature_extractor(value_BN).transpose(1, 2)
    torch.testing.assert_close(mine_BTC, theirs_BTC, atol=3e-5, rtol=1e-4)
    weights = list(encoder.feature_extractor.parameters())
    gradients = [torch.autograd.grad(out.square().mean(), weights) for out in (mine_BTC, theirs_BTC)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def states(key_B: Tensor, hiding: Hiding, num_samples: int = 800) -> Tensor:
    """What the transformer of a tiny encoder is given of a constant sound."""
    encoder = tiny_model("AutoModel", architecture="wav2vec2").eval()
    seen: list[Tensor] = []
    hook = encoder.get_submodule("encoder").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad(), hidden(encoder, key_B, hiding):
        encoder(torch.ones(len(key_B), num_samples))
    hook.remove()
    with torch.no_grad():
        encoder(torch.ones(len(key_B), num_samples))
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("architecture", ["wav2vec2", "hubert", "wavlm"])
def test_outside_of_training_nothing_is_hidden(architecture: str) -> None:
    model = tiny_model("AutoModel", architecture=architecture).eval()
    value_BN = torch.randn(2, 800)
    with torch.no_grad():
        before = model(value_BN).last_hidden_state
        with hidden(model, torch.arange(2), Hiding(time_probability=0.5)):
            changed = model(value_BN).last_hidden_state
        after = model(value_BN).last_hidden_state
    assert torch.equal(before, after)
    assert not torch.allclose(before, changed)


def test_spans_of_frames_and_channels_are_hidden_by_the_key() -> None:
    hiding = Hiding(time_probability=0.05, time_length=4, channel_probability=0.1, channel_length=3)
    key_B = torch.arange(300)
    state_BTD = states(key_B, hiding)
    usual_D = states(key_B[:1], Hiding(time_probability=0, channel_probability=0))[0, 0]
    channel_BD = (state_BTD == 0).all(1)
    time_BT = (((state_BTD - usual_D).abs() > 1e-4) & ~channel_BD[:, None]).any(-1)
    assert time_BT.float().mean() == pytest.approx(1 - 0.95**4, abs=0.02)
    assert channel_BD.float().mean() == pytest.approx(1 - 0.9**3, abs=0.05)
    assert torch.equal(state_BTD, states(key_B, hiding))
    assert torch.equal(state_BTD[7:9], states(key_B[7:9], hiding))


def test_what_is_hidden_does_not_depend_on_padding() -> None:
    hiding = Hiding(time_probability=0.2, time_length=2, channel_probability=0)
    short, long = states(torch.arange(5), hiding, 800), states(torch.arange(5), hiding, 1600)
    torch.testing.assert_close(short[:, :-1], long[:, : short.shape[1] - 1])


@pytest.mark.parametrize(("architecture", "head"), [("wav2vec2", "AutoModelForCTC"), ("bert", "AutoModel")])
def test_a_frozen_stem_has_no_gradient_and_all_else_has(architecture: str, head: str) -> None:
    model = tiny_model(head, architecture=architecture).train()
    heads.freeze_stem(model)
    stem = "feature_extractor" if architecture == "wav2vec2" else "embeddings"
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert all(is_trained != (f"{stem}." in name) for name, is_trained in trained.items())
    assert set(trained.values()) == {True, False}


def test_frames_behind_the_end_of_a_recording_are_blank() -> None:
    model = tiny_model("AutoModelForCTC", architecture="wav2vec2").eval()
    value_BN, mask_BN = torch.randn(2, 1200), torch.ones(2, 1200, dtype=torch.long)
    value_BN[1, 700:], mask_BN[1, 700:] = 0, 0
    with torch.no_grad():
        logits_BTV = heads.answered(model, {"input_values": value_BN, "attention_mask": mask_BN}).logits
        alone_BTV = model(value_BN[1:, :700]).logits
    count = int(num_frames(model, 700))
    assert logits_BTV[1, count:].argmax(-1).unique().tolist() == [model.config.pad_token_id]
    torch.testing.assert_close(logits_BTV[1, :count], alone_BTV[0], atol=1e-4, rtol=1e-3)
    assert not torch.isinf(logits_BTV[0]).any()
