"""Encoders of pictures from scratch and from folders that transformers itself wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from models import encoders, heads
from models.image.pictures import features, patches, patchify
from tests.test_pictures import CONFIGS, encoder, pictures

MAE = {**CONFIGS["vit"], "decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}  # fmt: skip


def folder(path: Path, name: str) -> Path:
    """Released weights with a head, in the layout of the hub."""
    torch.manual_seed(3)
    model: PreTrainedModel
    if name == "vit_mae":
        model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**MAE))
    else:
        config = transformers.AutoConfig.for_model(name, num_labels=5, **CONFIGS[name])
        model = transformers.AutoModelForImageClassification.from_config(config)
    heads.save(model, path / name)
    return path / name


def opened(source: Path, *, image_size: int = 16, num_channels: int = 3, **config: Any) -> PreTrainedModel:
    data = {"image_size": image_size, "num_channels": num_channels}
    return encoders.build(
        "AutoModel", architecture=None, source=str(source), config=config, data=data, seed=0
    ).eval()


@pytest.mark.parametrize("name", ["vit", "vit_mae", "dinov2", "resnet", "small_resnet"])
def test_released_weights_give_the_features_of_their_own_class(tmp_path: Path, name: str) -> None:
    source = folder(tmp_path, name)
    mine = opened(source)
    if name == "vit_mae":
        theirs = transformers.ViTMAEModel.from_pretrained(source, mask_ratio=0.0).eval()
        in_order = torch.arange(16.0).expand(3, 16)
        expected = theirs(pictures(), noise=in_order).last_hidden_state[:, 1:].mean(1)
        assert mine.config.model_type == "vit"
    else:
        expected = features(transformers.AutoModel.from_pretrained(source).eval(), pictures())
    torch.testing.assert_close(features(mine, pictures()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov2", "vit_mae"])
def test_another_input_size_interpolates_positions_once_and_for_all(tmp_path: Path, name: str) -> None:
    source = folder(tmp_path, name)
    large = opened(source, image_size=24)
    assert large.config.image_size == 24
    torch.testing.assert_close(features(large, pictures(24)), features(opened(source), pictures(24)))
    heads.save(large, tmp_path / "saved")
    again = transformers.AutoModel.from_pretrained(tmp_path / "saved").eval()
    own = again(pictures(24)).last_hidden_state[:, 1:].mean(1)
    torch.testing.assert_close(own, features(large, pictures(24)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_an_enlarged_patch_gives_the_token_of_the_patch(tmp_path: Path, name: str) -> None:
    source = folder(tmp_path, name)
    small, large = opened(source), opened(source, image_size=32, patch_size=8)
    tiles = patchify(pictures(), 4).unflatten(2, (4, 4, 3)).permute(0, 1, 4, 2, 3).flatten(0, 1)
    enlarged = torch.nn.functional.interpolate(tiles, size=(8, 8), mode="bilinear")
    grid = enlarged.unflatten(0, (3, 4, 4)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    torch.testing.assert_close(patches(large, grid), patches(small, pictures()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "dinov2", "resnet", "small_resnet"])
def test_colour_weights_read_greyscale_as_they_read_grey(tmp_path: Path, name: str) -> None:
    source = folder(tmp_path, name)
    grey: Tensor = pictures()[:, :1]
    expected = features(opened(source), grey.expand(-1, 3, -1, -1))
    single = opened(source, num_channels=1)
    torch.testing.assert_close(features(single, grey), expected, rtol=1e-4, atol=1e-5)
    heads.save(single, tmp_path / "grey")
    back = opened(tmp_path / "grey")
    torch.testing.assert_close(features(back, grey.expand(-1, 3, -1, -1)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="read 3 channels and the pictures have 4"):
        opened(source, num_channels=4)


@pytest.mark.parametrize("name", ["vit", "vit_mae"])
def test_released_weights_take_another_patch_and_other_rates_of_dropout(tmp_path: Path, name: str) -> None:
    source = folder(tmp_path, name)
    changed = opened(source, image_size=32, patch_size=8, hidden_dropout_prob=0.25)
    torch.testing.assert_close(
        features(changed, pictures(32)), features(opened(source, image_size=32, patch_size=8), pictures(32))
    )
    assert {part.p for part in changed.layers.modules() if isinstance(part, nn.Dropout)} == {0.25}  # type: ignore[union-attr]
    heads.save(changed, tmp_path / "saved")
    again = opened(tmp_path / "saved", image_size=32)
    assert (again.config.patch_size, again.config.hidden_dropout_prob) == (8, 0.25)
    torch.testing.assert_close(features(again, pictures(32)), features(changed, pictures(32)))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"hidden_size": 32}, "have hidden_size 16, and 32 contradicts them; leave it out"),
        ({"num_hidden_layers": 3}, "have num_hidden_layers 2, and 3 contradicts them"),
        ({"num_attention_heads": 4}, "have num_attention_heads 2, and 4 contradicts them"),
        ({"hidden_sise": 16}, "vit has no config field 'hidden_sise'; known: .*hidden_size"),
        ({"hidden_dropout_prob": "much"}, "Field 'hidden_dropout_prob' with value 'much'"),
        ({"patch_size": 5}, "16 pixels cannot be cut into patches of 5"),
    ],
)
def test_what_contradicts_released_weights_is_refused(
    tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    source = folder(tmp_path, "vit")
    with pytest.raises(ValueError, match=sentence):
        opened(source, **config)
    assert opened(source, hidden_size=16).config.hidden_size == 16


def test_weights_of_an_architecture_that_cannot_be_fitted_say_so(tmp_path: Path) -> None:
    small: dict[str, Any] = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1}
    config = transformers.DeiTConfig(**small, num_attention_heads=2, intermediate_size=16)
    heads.save(transformers.DeiTModel(config), tmp_path / "deit")
    with pytest.raises(
        ValueError, match="the weights of deit cannot be made to fit image_size 32, patch_size 4"
    ):
        opened(tmp_path / "deit", image_size=32)


@pytest.mark.parametrize(("source", "architecture"), [("vit", None), ("vit_mae", None), (None, "dinov2")])
def test_an_outline_is_what_would_be_built_without_its_values(
    tmp_path: Path, source: str | None, architecture: str | None
) -> None:
    given: dict[str, Any] = {
        "architecture": architecture,
        "source": str(folder(tmp_path, source)) if source else None,
        "config": {"patch_size": 8} if source else CONFIGS["dinov2"],
        "data": {"image_size": 32, "num_channels": 1},
    }
    outline, built = encoders.outline("AutoModel", **given), encoders.build("AutoModel", **given, seed=0)
    assert outline.config.to_dict() == built.config.to_dict()
    shapes = {name: weight.shape for name, weight in outline.named_parameters()}
    assert all(shapes[name] == weight.shape for name, weight in built.named_parameters())
    assert {weight.device.type for weight in outline.parameters()} == {"meta"}


def test_what_the_data_decide_is_left_out_where_an_architecture_has_no_field_for_it() -> None:
    assert not hasattr(encoder("resnet", image_size=32).config, "image_size")
    with pytest.raises(encoders.UnknownEncoder, match="resnet has no config field 'image_sise'"):
        encoders.architecture_config("resnet", {"image_sise": 32})


def test_no_weight_is_kept_that_no_picture_reaches() -> None:
    assert not [name for name, _ in encoder("vit").named_parameters() if "pooler" in name]
    mask_token = dict(encoder("dinov2").named_parameters())["embeddings.mask_token"]
    assert not mask_token.requires_grad


@pytest.mark.parametrize("released", [True, False])
def test_sizes_that_patches_do_not_fill_are_refused(tmp_path: Path, released: bool) -> None:
    with pytest.raises(ValueError, match="30 pixels cannot be cut into patches of 4; set `image_size` to 28"):
        opened(folder(tmp_path, "vit"), image_size=30) if released else encoder("vit", image_size=30)


def test_an_encoder_of_text_is_refused() -> None:
    with pytest.raises(encoders.UnknownEncoder, match="bert reads input_ids, not pictures"):
        encoders.build("AutoModel", architecture="bert", source=None, config={"image_size": 32}, seed=0)
