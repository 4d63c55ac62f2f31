"""Heads on encoders: a first token that begins as the mean, in classes that transformers can open."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models import heads
from models.parts import last_layer
from models.text.attention import PRODUCTS
from tests.tiny import TINY, VOCABULARY_SIZE, tiny_model

CLASSIFY = "AutoModelForSequenceClassification"
LABELS = ["a", "b"]
IDS = torch.tensor([[2, 7, 9, 30, 41, 3], [2, 50, 51, 3, 0, 0]])
MASK = (IDS > 0).long()


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    heads.save(tiny_model("AutoModelForMaskedLM"), tmp_path / "bert")
    return tmp_path / "bert"


def built(
    source: Path, pooling: str, *, pretrained: bool = True, head: str = CLASSIFY
) -> transformers.PreTrainedModel:
    return heads.build(
        head, source, LABELS, pretrained=pretrained, padding=0, seed=0, pools_by=pooling
    ).eval()


@torch.no_grad()
def test_the_first_token_begins_as_the_mean_of_the_real_ones(bert: Path) -> None:
    model = built(bert, "mean")
    above = model.base_model(IDS, attention_mask=MASK).last_hidden_state
    below = heads.encoder(bert, pretrained=True, seed=0)(IDS, attention_mask=MASK).last_hidden_state
    weights = MASK[..., None].float()
    mean = (below * weights).sum(1) / weights.sum(1)
    norm = torch.nn.functional.layer_norm
    expected = norm(10 * mean + below[:, 0], below.shape[-1:], eps=1e-12)
    torch.testing.assert_close(above[:, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", last_layer.ARCHITECTURES)
@pytest.mark.parametrize("pools_by", ["mean", "first"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", PRODUCTS])
def test_computing_the_first_token_alone_changes_neither_logits_nor_gradients(
    tmp_path: Path, architecture: str, pools_by: str, attention: str
) -> None:
    config = transformers.AutoConfig.for_model(
        architecture, vocab_size=VOCABULARY_SIZE, pad_token_id=0, max_position_embeddings=20, **TINY["bert"]
    )
    heads.save(transformers.AutoModel.from_config(config), tmp_path / "encoder")
    short = built(tmp_path / "encoder", pools_by)
    for weight in short.parameters():  # an averaging layer at its start would not notice a wrong query
        weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    whole = copy.deepcopy(short)
    base: Any = whole.base_model
    del vars(base.encoder.layer[-1])["forward"]
    logits = []
    for model in (short, whole):
        model.set_attn_implementation(attention)
        logits.append(model(IDS, attention_mask=MASK).logits)
        logits[-1].square().sum().backward()
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(short.parameters(), whole.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_folder_with_the_averaging_layer_opens_without_our_code(bert: Path, tmp_path: Path) -> None:
    model = built(bert, "mean")
    heads.save(model, tmp_path / "saved")
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    expected = model(IDS, attention_mask=MASK).logits
    torch.testing.assert_close(opened(IDS, attention_mask=MASK).logits, expected)


@pytest.mark.parametrize("pretrained", [True, False])
def test_both_arms_get_the_same_architecture(bert: Path, pretrained: bool) -> None:
    layers = TINY["bert"]["num_hidden_layers"]
    assert built(bert, "mean", pretrained=pretrained).config.num_hidden_layers == layers + 1
    assert built(bert, "first", pretrained=pretrained).config.num_hidden_layers == layers


def test_heads_that_answer_at_every_token_get_no_such_layer(bert: Path) -> None:
    model = built(bert, "mean", head="AutoModelForTokenClassification")
    assert model.config.num_hidden_layers == TINY["bert"]["num_hidden_layers"]


def test_modernbert_is_told_by_its_config(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(
        "modernbert", vocab_size=VOCABULARY_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    heads.save(transformers.AutoModelForMaskedLM.from_config(config), tmp_path / "modern")
    model = built(tmp_path / "modern", "mean")
    assert model.config.classifier_pooling == "mean"
    assert model.config.num_hidden_layers == 1
    assert model(IDS, attention_mask=MASK).logits.shape == (2, 2)


def test_gpt2_gets_a_padding_id_and_is_known_as_causal(tmp_path: Path) -> None:
    heads.save(tiny_model("AutoModelForCausalLM"), tmp_path / "gpt2")
    model = built(tmp_path / "gpt2", "mean")
    assert model.config.pad_token_id == 0
    assert heads.is_causal(model.config)
    assert not heads.is_causal(transformers.BertConfig())


@torch.no_grad()
def test_the_encoder_of_a_masked_autoencoder_sees_every_patch(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(
        **TINY["vit"], decoder_hidden_size=8, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
        decoder_intermediate_size=16,
    )  # fmt: skip
    heads.save(transformers.ViTMAEForPreTraining(config), tmp_path / "mae")
    pixel_values = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    encoder = heads.encoder(tmp_path / "mae", pretrained=True, seed=0)
    tokens = encoder(pixel_values).last_hidden_state
    theirs = transformers.ViTMAEModel.from_pretrained(tmp_path / "mae", mask_ratio=0.0).eval()
    expected = theirs(pixel_values, noise=torch.arange(16.0).expand(2, 16)).last_hidden_state
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
    assert heads.encoder(tmp_path / "mae", pretrained=False, seed=0).config.model_type == "vit"
    classifier = heads.build(
        "AutoModelForImageClassification", tmp_path / "mae", LABELS, pretrained=True, padding=None, seed=0
    ).eval()
    torch.testing.assert_close(
        classifier.base_model(pixel_values).last_hidden_state, tokens, rtol=1e-5, atol=1e-5
    )
