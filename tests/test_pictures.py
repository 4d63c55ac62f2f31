"""Pictures through encoders: the features that transformers' own forward pass gives, and less work for fewer patches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from models import encoders
from models.image.pictures import (
    encode_visible,
    features,
    grid_side,
    in_cells,
    patches,
    patchify,
    take,
    unpatchify,
    width,
)
from models.text.attention import PRODUCTS, choose

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {**SMALL, "intermediate_size": 32, "image_size": 16, "patch_size": 4},
    "vit_msn": {**SMALL, "intermediate_size": 32, "image_size": 16, "patch_size": 4},
    "ijepa": {**SMALL, "intermediate_size": 32, "image_size": 16, "patch_size": 4},
    "dinov2": {**SMALL, "mlp_ratio": 2, "image_size": 16, "patch_size": 4},
    "dinov2_with_registers": {
        **SMALL, "mlp_ratio": 2, "image_size": 16, "patch_size": 4, "num_register_tokens": 3,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "small_resnet": {"hidden_sizes": [8, 16], "depths": [1, 1]},
}  # fmt: skip
WITH_PATCHES = [name for name in CONFIGS if "resnet" not in name]
NUM_FIRST = {"ijepa": 0, "dinov2_with_registers": 4}


def encoder(name: str, **changes: Any) -> PreTrainedModel:
    config = {**CONFIGS[name], "image_size": 16, **changes}
    model = encoders.build("AutoModel", architecture=name, source=None, config=config, seed=0).eval()
    for key, weight in model.named_parameters():  # tokens that begin as zeros would hide a missing one
        if key.endswith(("cls_token", "register_tokens", "position_embeddings")):
            weight.data.normal_(generator=torch.Generator().manual_seed(len(key)))
    return model


def pictures(size: int = 16, num: int = 3) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(1))


def original(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Last hidden state by the model's own forward pass."""
    options = {} if model.config.model_type.startswith("dinov2") else {"interpolate_pos_encoding": True}
    return model(pixel_values, **options).last_hidden_state


@pytest.mark.parametrize("name", WITH_PATCHES)
@pytest.mark.parametrize("size", [16, 24, 8])
def test_tokens_are_those_of_the_models_own_forward_pass(name: str, size: int) -> None:
    model = encoder(name)
    whole = original(model, pictures(size))
    first = NUM_FIRST.get(name, 1)
    torch.testing.assert_close(patches(model, pictures(size)), whole[:, first:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encode_visible(model, pictures(size), None), whole, rtol=1e-5, atol=1e-5)
    mean = features(model, pictures(size))
    torch.testing.assert_close(mean, whole[:, first:].mean(1), rtol=1e-5, atol=1e-5)
    assert mean.shape == (3, width(model))
    if first:
        torch.testing.assert_close(
            features(model, pictures(size), "class"), whole[:, 0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", ["resnet", "small_resnet"])
def test_convolutional_networks_answer_with_their_pooled_map(name: str) -> None:
    model = encoder(name)
    whole = model(pictures(40))
    torch.testing.assert_close(features(model, pictures(40)), whole.pooler_output.flatten(1))
    cells = patches(model, pictures(40))
    torch.testing.assert_close(cells.mean(1), features(model, pictures(40)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cells[:, 1], whole.last_hidden_state[:, :, 0, 1])
    assert width(model) == 16


def test_cells_are_means_of_neighbouring_patches_side_by_side() -> None:
    model = encoder("vit")
    map_BRSD = patches(model, pictures(32)).unflatten(1, (8, 8))
    cell_BD = map_BRSD[:, 2:4, 6:8].mean((1, 2))  # second row of cells, last column
    found_BD44 = in_cells(model, pictures(32)).unflatten(1, (16, 4, 4))
    torch.testing.assert_close(found_BD44[:, :, 1, 3], cell_BD)
    network = encoder("small_resnet")
    torch.testing.assert_close(in_cells(network, pictures(40)), features(network, pictures(40)))


@pytest.mark.parametrize("name", WITH_PATCHES)
def test_hidden_patches_change_nothing_and_cost_nothing(name: str) -> None:
    model = encoder(name)
    visible = torch.tensor([[0, 5, 7], [15, 2, 3], [4, 8, 12]])
    lengths = []
    for module in model.modules():
        if type(module).__name__.endswith("Layer"):
            module.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    tokens = encode_visible(model, pictures(), visible)
    assert set(lengths) == {NUM_FIRST.get(name, 1) + 3}
    other = patchify(pictures(), 4).scatter(
        1, ((visible.unsqueeze(2) + 1) % 16)[:, :1].expand(-1, -1, 48), 9.0
    )
    untouched = encode_visible(model, unpatchify(other, 4), visible[:, :1])
    torch.testing.assert_close(untouched, encode_visible(model, pictures(), visible[:, :1]))
    assert tokens.shape == (3, NUM_FIRST.get(name, 1) + 3, 16)


@pytest.mark.parametrize("attention", ["eager", "sdpa", PRODUCTS])
def test_the_class_token_alone_has_its_values_and_gradients_for_less_work(attention: str) -> None:
    model: Any = encoder("vit")
    model.set_attn_implementation(attention)
    lengths = []
    for layer in model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    alone = features(model, pictures(), "class")
    assert lengths == [17, 1]
    whole = original(model, pictures())[:, 0]
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)
    weights = list(model.parameters())
    for mine, expected in zip(
        torch.autograd.grad(alone.square().sum(), weights),
        torch.autograd.grad(whole.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_the_class_token_alone_is_dropped_out_in_training_only(dropout: str) -> None:
    model: Any = encoder("vit", **{dropout: 0.5})
    assert torch.equal(features(model, pictures(), "class"), features(model, pictures(), "class"))
    model.layers[1].train()
    assert not torch.equal(features(model, pictures(), "class"), features(model, pictures(), "class"))


def test_visible_tokens_are_those_of_a_mask_in_attention() -> None:
    model = encoder("vit")
    visible = torch.tensor([[0, 5, 7], [15, 2, 3], [4, 8, 12]])
    sees = torch.zeros(3, 17, dtype=torch.bool)
    sees[:, 0] = True
    sees.scatter_(1, visible + 1, True)
    masked = model(pictures(), attention_mask=sees).last_hidden_state
    expected = take(masked, torch.cat([torch.zeros(3, 1, dtype=torch.int64), visible + 1], 1))
    torch.testing.assert_close(encode_visible(model, pictures(), visible), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_features_pass_gradient_to_every_weight(name: str) -> None:
    model = encoder(name).train()
    features(model, pictures()).square().sum().backward()
    without = [
        key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
    ]
    assert without == []


def test_patches_are_cut_row_by_row_as_mae_cuts_them() -> None:
    theirs = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **CONFIGS["vit"],
            decoder_hidden_size=8,
            decoder_num_attention_heads=2,
            decoder_num_hidden_layers=1,
        )
    )
    torch.testing.assert_close(patchify(pictures(), 4), theirs.patchify(pictures()))
    assert torch.equal(unpatchify(patchify(pictures(), 4), 4), pictures())
    wide = torch.randn(2, 1, 8, 12)
    assert torch.equal(unpatchify(patchify(wide, 4), 4, num_rows=2), wide)
    assert torch.equal(patchify(wide, 4)[:, 4, :4], wide[:, 0, 4, 4:8])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no class token"):
        features(encoder("ijepa"), pictures(), "class")
    with pytest.raises(ValueError, match="resnet cannot leave hidden patches out; choose one of vit"):
        encode_visible(encoder("resnet"), pictures(), torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="small_resnet has no patches"):
        grid_side(encoder("small_resnet"), 16)
    with pytest.raises(ValueError, match="18 pixels cannot be cut into patches of 4; set `image_size` to 16"):
        grid_side(encoder("vit"), 18)


def test_short_rows_on_cpu_are_attended_by_products_in_every_model_of_a_module() -> None:
    module = nn.ModuleList([encoder("vit"), encoder("resnet"), encoder("vit", image_size=128)])
    choose(module, 0, torch.device("cpu"))
    chosen = [part.config._attn_implementation for part in module if isinstance(part, PreTrainedModel)]
    assert chosen[0] == "products"
    assert chosen[2] == "sdpa"
    before = features(encoder("vit"), pictures())
    torch.testing.assert_close(features(module[0], pictures()), before, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


def test_encoders_that_join_their_patches_have_a_mean_and_no_class_token() -> None:
    config = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "patch_size": 4}
    swin = encoders.build(
        "AutoModel", architecture="swin", source=None, config={**config, "image_size": 16}, seed=0
    ).eval()
    last_BLD = swin(pictures()).last_hidden_state
    torch.testing.assert_close(features(swin, pictures(), "mean"), last_BLD.mean(1))
    with pytest.raises(encoders.UnknownEncoder, match="swin has no class token; use the mean"):
        features(swin, pictures(), "class")
    with pytest.raises(encoders.UnknownEncoder, match="swin joins its patches on the way"):
        patches(swin, pictures())


def test_encoders_beside_the_known_ones_read_crops_of_another_size() -> None:
    config = {**CONFIGS["vit"], "image_size": 16}
    deit = encoders.build("AutoModel", architecture="deit", source=None, config=config, seed=0).eval()
    assert features(deit, pictures(8), "class").shape == (3, 16)
