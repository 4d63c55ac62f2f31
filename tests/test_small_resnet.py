"""The ResNet for 32-pixel pictures: transformers' blocks behind a small stem, under a registered name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models import encoders, heads
from models.image.pictures import features, patches, width
from models.image.small_resnet import SmallResNetConfig
from tests.test_pictures import pictures


def network(**config: Any) -> transformers.PreTrainedModel:
    settings = {"hidden_sizes": [8, 16], "depths": [2, 1], "image_size": 32, **config}
    return encoders.build("AutoModel", architecture="small_resnet", source=None, config=settings, seed=0)


def test_stages_are_those_of_transformers_resnet() -> None:
    mine = network().eval()
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic")
    ).eval()
    mapped = {}
    for name, weight in mine.state_dict().items():
        if name.startswith("stages."):
            _, stage, layer, rest = name.split(".", 3)
            mapped[f"encoder.stages.{stage}.layers.{layer}.{rest}"] = weight
    missing = theirs.load_state_dict(mapped, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("embedder.") for name in missing.missing_keys)
    stem = mine.embedder(pictures(32))
    torch.testing.assert_close(mine(pictures(32)).last_hidden_state, theirs.encoder(stem).last_hidden_state)


def test_the_default_is_the_resnet_18_of_the_cifar_tables() -> None:
    config = SmallResNetConfig()
    model = transformers.AutoModel.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == 11_168_832
    assert model.embedder(pictures(32)).shape == (3, 64, 32, 32)
    assert model(pictures(32)).last_hidden_state.shape == (3, 512, 4, 4)


def test_a_flattened_map_keeps_where_things_are() -> None:
    model = network(stem_stride=2, pooled_side=4).eval()
    assert width(model) == 16 * 16
    cells = patches(model, pictures(16))
    assert cells.shape == (3, 16, 16)
    torch.testing.assert_close(features(model, pictures(16)), cells.transpose(1, 2).flatten(1))
    assert features(model, pictures(32)).shape == (3, 256)


def test_a_folder_opens_with_auto_classes_and_its_head_learns(tmp_path: Path) -> None:
    model = network(pooled_side=2).eval()
    heads.save(model, tmp_path / "encoder")
    again = transformers.AutoModel.from_pretrained(tmp_path / "encoder").eval()
    assert torch.equal(features(again, pictures(32)), features(model, pictures(32)))
    with encoders.quiet():
        classifier = transformers.AutoModelForImageClassification.from_pretrained(
            tmp_path / "encoder", num_labels=5
        ).eval()
    assert torch.equal(features(classifier.base_model, pictures(32)), features(model, pictures(32)))
    labels = torch.tensor([0, 4, 2])
    answer = classifier(pictures(32), labels=labels)
    expected = torch.nn.functional.cross_entropy(answer.logits, labels)
    torch.testing.assert_close(answer.loss, expected)
    heads.save(classifier, tmp_path / "classifier")
    same = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    assert torch.equal(same(pictures(32)).logits, answer.logits)


def test_weights_begin_as_those_of_transformers_resnet() -> None:
    model = network(hidden_sizes=[64, 128])
    convolution = model.get_parameter("stages.1.0.layer.1.convolution.weight")
    assert float(convolution.detach().std()) == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
