"""Objectives over patches and the two controls, against transformers and against their equations written slowly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from models import encoders, objectives
from models.image.augment.views import view
from models.image.images import Images
from models.image.patch_decoder import PatchDecoder, sine_positions
from models.image.pictures import encode_visible, features, patchify, unpatchify
from models.objectives import Objective
from models.objectives.brightness import Brightness
from models.objectives.ijepa import IJEPA
from models.objectives.mae import MAE
from models.objectives.rotation import Rotation, all_turns

VIT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 4, "num_channels": 3,
}  # fmt: skip
DECODER = {"decoder_width": 8, "decoder_layers": 2, "decoder_heads": 2}
PREDICTOR = {"predictor_width": 8, "predictor_layers": 2, "predictor_heads": 2}
SETTINGS: dict[str, dict[str, Any]] = {"mae": DECODER, "ijepa": PREDICTOR}
IMAGES = Images(size=16, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


def objective(name: str, architecture: str = "vit", **settings: Any) -> Any:
    config = VIT if architecture == "vit" else {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16}
    model = encoders.build("AutoModel", architecture=architecture, source=None, config=config, seed=0)
    kind = objectives.load(name)
    return kind(model, kind.Settings(**SETTINGS.get(name, {}), **settings), images=IMAGES)


def batch(num: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, 3, 20, 20), generator=generator, dtype=torch.uint8)
    return {"pixels": pixels, "key": torch.arange(num) * 13 + 5}


def values(num: int = 6) -> Tensor:
    return torch.randn(num, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def with_weights_of(mine: MAE, theirs: Any) -> dict[str, str]:
    """Copy their weights; names of ours by theirs."""
    pairs = {f"vit.{name}": f"model.{name}" for name, _ in mine.model.named_parameters()}
    for name, _ in mine.decoder.named_parameters():
        other = name.replace("layers.", "decoder_layers.") if name.startswith("layers.") else name
        for ours, their in (
            ("embed.", "decoder_embed."),
            ("norm.", "decoder_norm."),
            ("predict.", "decoder_pred."),
        ):
            other = their + other.removeprefix(ours) if other.startswith(ours) else other
        pairs[f"decoder.{other}"] = f"decoder.{name}"
    state = theirs.state_dict()
    mine.load_state_dict({ours: state[their] for their, ours in pairs.items()}, strict=False)
    return pairs


@pytest.mark.parametrize("normalise_patches", [True, False])
def test_mae_equals_transformers_vit_mae_in_loss_and_gradient(normalise_patches: bool) -> None:
    mine = objective("mae", normalise_patches=normalise_patches)
    decoder: dict[str, Any] = {f"decoder_{key}": value for key, value in (("hidden_size", 8), ("num_hidden_layers", 2), ("num_attention_heads", 2), ("intermediate_size", 32))}  # fmt: skip
    config = transformers.ViTMAEConfig(**VIT, **decoder, norm_pix_loss=normalise_patches, mask_ratio=0.75)
    torch.manual_seed(5)
    theirs: Any = transformers.ViTMAEForPreTraining(config)
    theirs.decoder.decoder_pos_embed._is_hf_initialized = False  # else its own positions stay zero
    theirs.decoder.initialize_weights(16)
    pairs = with_weights_of(mine, theirs)
    torch.testing.assert_close(mine.decoder.positions_1PD, theirs.decoder.decoder_pos_embed[:, 1:])
    key_B = batch()["key"]
    done = mine.reconstruct(values(), key_B)
    loss = nn.functional.mse_loss(done.predicted, done.target)
    loss.backward()
    order = torch.cat([done.visible, done.hidden], 1)
    answer = theirs(values(), noise=order.argsort(1).float())
    answer.loss.backward()
    torch.testing.assert_close(loss, answer.loss, rtol=1e-5, atol=1e-5)
    ours = dict(mine.named_parameters())
    compared = 0
    for name, weight in theirs.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(ours[pairs[name]].grad, weight.grad, rtol=1e-5, atol=1e-5, msg=name)
            compared += 1
    assert compared == len(pairs) - 1  # their positions of the encoder are fixed


def test_mae_reads_the_view_that_its_settings_say() -> None:
    mine = objective("mae").eval()
    pixel_values = IMAGES.normalise(
        view(batch()["pixels"], batch()["key"], mine.settings.augment, 16, stream=1)
    )
    done = mine.reconstruct(pixel_values, batch()["key"])
    torch.testing.assert_close(mine(batch()).loss, (done.predicted - done.target).square().mean())


def test_decoder_tells_places_apart_and_not_the_order_they_are_given_in() -> None:
    decoder = PatchDecoder(6, 5, 4, width=8, num_layers=2, num_heads=2)
    tokens, given = torch.randn(2, 4, 6), torch.tensor([[1, 2, 3], [4, 5, 6]])
    asked = torch.tensor([[7, 8], [9, 10]])
    there = decoder(tokens, given, asked)
    assert there.shape == (2, 2, 5)
    assert not torch.allclose(there[:, 0], there[:, 1], atol=1e-4)
    shuffled = decoder(tokens[:, [0, 3, 1, 2]], given[:, [2, 0, 1]], asked.flip(1))
    torch.testing.assert_close(shuffled.flip(1), there, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="width 10 needs a multiple of 4 and of its 4 heads; 16 would do"):
        PatchDecoder(6, 5, 4, width=10, num_layers=1, num_heads=4)


def test_positions_are_waves_of_column_and_row() -> None:
    found = sine_positions(5, 8)
    for row in range(5):
        for column in range(5):
            expected = [
                wave(place / 10000 ** (index / 2))
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for index in range(2)
            ]
            torch.testing.assert_close(found[5 * row + column], torch.tensor(expected))


@pytest.mark.parametrize("distance", ["smooth_l1", "l2"])
def test_ijepa_equals_its_equation_block_by_block(distance: str) -> None:
    mine: IJEPA = objective("ijepa", distance=distance).eval()
    for weight in mine.teacher.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    pixel_values, blocks = values(), mine.blocks(batch()["key"])
    loss = mine.distance(mine.predict(pixel_values, blocks), _targets(mine, pixel_values, blocks))
    total, count = 0.0, 0
    with torch.no_grad():
        teacher = mine.teacher.networks[0](pixel_values).last_hidden_state[:, 1:]
        for row in range(len(pixel_values)):
            context = encode_visible(mine.encoder, pixel_values[row : row + 1], blocks.context[row : row + 1])
            for asked in blocks.targets[row]:
                predicted = mine.predictor(context[:, 1:], blocks.context[row : row + 1], asked[None])[0]
                for answer, patch in zip(predicted, asked, strict=True):
                    truth = teacher[row, patch]
                    truth = (truth - truth.mean()) / (truth.var(correction=0) + 1e-5).sqrt()
                    for difference in (answer - truth).abs().tolist():
                        near = difference < 1
                        total += {
                            "l2": difference**2,
                            "smooth_l1": 0.5 * difference**2 if near else difference - 0.5,
                        }[distance]
                        count += 1
    assert float(loss.detach()) == pytest.approx(total / count, rel=1e-4)


def _targets(mine: IJEPA, pixel_values: Tensor, blocks: Any) -> Tensor:
    features_BPD = mine.target(pixel_values)
    return torch.stack([features_BPD[row][asked] for row, asked in enumerate(blocks.targets)])


def test_ijepa_forward_joins_its_parts() -> None:
    mine: IJEPA = objective("ijepa").eval()
    pixel_values = IMAGES.normalise(
        view(batch()["pixels"], batch()["key"], mine.settings.augment, 16, stream=1)
    )
    blocks = mine.blocks(batch()["key"])
    expected = mine.distance(mine.predict(pixel_values, blocks), _targets(mine, pixel_values, blocks))
    torch.testing.assert_close(mine(batch()).loss, expected)


def test_the_target_encoder_follows_and_gets_no_gradient() -> None:
    mine: IJEPA = objective("ijepa", momentum=0.9)
    before = mine.teacher.networks[0].state_dict()["layernorm.weight"].clone()
    mine.model.state_dict()["layernorm.weight"].add_(1.0)
    mine(batch()).loss.backward()
    assert all(weight.grad is None for weight in mine.teacher.parameters())
    mine.after_step(0.5)
    moved = mine.teacher.networks[0].state_dict()["layernorm.weight"]
    torch.testing.assert_close(moved, before + 0.05)  # linear: 0.95 half-way
    mine.after_step(1.0)
    torch.testing.assert_close(mine.teacher.networks[0].state_dict()["layernorm.weight"], moved)


def test_predictions_at_a_target_do_not_see_what_is_there() -> None:
    mine: IJEPA = objective("ijepa").eval()
    blocks = mine.blocks(batch()["key"][:1])
    other = values(1).clone()
    cells = patchify(other, 4)
    cells[0, blocks.targets.flatten()] = 7.0
    shown = set(blocks.context.flatten().tolist()) & set(blocks.targets.flatten().tolist())
    assert not shown
    torch.testing.assert_close(mine.predict(unpatchify(cells, 4), blocks), mine.predict(other, blocks))


def test_rotation_asks_for_all_four_turns_of_every_picture() -> None:
    mine: Rotation = objective("rotation", architecture="small_resnet").eval()
    pixel_values = IMAGES.normalise(
        view(batch()["pixels"], batch()["key"], mine.settings.augment, 16, stream=1)
    )
    total = 0.0
    for picture in pixel_values:
        turned = picture
        for turn in range(4):
            scores = mine.classifier(features(mine.encoder, turned[None]))[0].detach()
            total += float(scores.logsumexp(0) - scores[turn])
            turned = turned.transpose(1, 2).flip(1)  # a quarter against the clock
    step = mine(batch())
    assert float(step.loss.detach()) == pytest.approx(total / 24, rel=1e-4)
    assert step.weight == 24
    assert torch.equal(all_turns(pixel_values)[12:18], pixel_values.flip((2, 3)))


def test_brightness_is_the_mean_of_a_grey_picture() -> None:
    mine: Brightness = objective("brightness", architecture="small_resnet").eval()
    pixels = torch.full((4, 3, 20, 20), 51, dtype=torch.uint8)
    pixels[:, 1] = 102
    step = mine({"pixels": pixels, "key": torch.arange(4)})
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.2
    means = [(grey - mean) / std for mean, std in zip(IMAGES.mean, IMAGES.std, strict=True)]
    constant = torch.tensor(means).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    predicted = float(mine.regressor(features(mine.encoder, constant)).detach())
    assert float(step.loss.detach()) == pytest.approx((predicted - sum(means) / 3) ** 2, rel=1e-3)


@pytest.mark.parametrize("name", ["mae", "ijepa", "rotation", "brightness"])
def test_a_healthy_start_is_measured_and_evaluation_leaves_no_trace(name: str) -> None:
    mine: Objective = objective(name)
    assert not mine.health().measures
    mine.eval()(batch())
    assert not mine.health().measures
    mine.train()(batch(24))
    mine.after_step(0.0)
    health = mine.health()
    assert health.measures["effective_rank"] > 0.1
    assert 0 < health.measures["deviation"] <= 1
    assert all(math.isfinite(value) for value in health.measures.values())


def test_a_decoder_that_ignores_places_is_named() -> None:
    mine: MAE = objective("mae")
    nn.init.zeros_(mine.decoder.predict.weight)
    mine(batch())
    health = mine.health()
    assert health.measures["prediction_deviation"] == 0
    assert "same patch everywhere" in health.signature


def test_a_target_encoder_that_answers_the_same_everywhere_is_named() -> None:
    mine: IJEPA = objective("ijepa")
    layernorm = mine.teacher.networks[0].get_submodule("layernorm")
    nn.init.zeros_(layernorm.get_parameter("weight"))
    nn.init.normal_(layernorm.get_parameter("bias"))
    mine(batch())
    mine.after_step(0.1)
    health = mine.health()
    assert health.measures["target_deviation"] < 1e-3
    assert "answers the same at every place" in health.signature


def test_blocks_of_one_patch_are_compared_with_each_other() -> None:
    mine: IJEPA = objective("ijepa", target_scale=(0.05, 0.05))
    assert mine.blocks(batch()["key"]).targets.shape[2] == 1
    mine(batch())
    assert math.isfinite(mine.health().measures["prediction_deviation"])
    mine = objective("ijepa", target_scale=(0.05, 0.05), num_targets=1)
    mine(batch())
    assert "prediction_deviation" not in mine.health().measures


def test_one_answer_for_all_is_named() -> None:
    rotation: Rotation = objective("rotation")
    nn.init.zeros_(rotation.classifier.weight)
    rotation.classifier.bias.data = torch.tensor([20.0, 0.0, 0.0, 0.0])
    rotation(batch())
    assert rotation.health().measures["class_entropy"] < 1e-3
    assert "same answer" in rotation.health().signature
    brightness: Brightness = objective("brightness")
    nn.init.zeros_(brightness.regressor.weight)
    brightness(batch())
    assert "same brightness" in brightness.health().signature


def test_bounds_of_blocks_are_checked() -> None:
    with pytest.raises(ValueError, match="target_scale must be two numbers"):
        IJEPA.Settings(target_scale=(0.5, 0.2))


@pytest.mark.parametrize(
    ("name", "side", "sentence"),
    [("ijepa", 8, "2 x 2 patches leave no context"), ("mae", 16, "is one patch of 16")],
)
def test_grids_on_which_nothing_can_be_hidden_are_refused(name: str, side: int, sentence: str) -> None:
    config = {**VIT, "patch_size": side}
    model = encoders.build("AutoModel", architecture="vit", source=None, config=config, seed=0)
    kind = objectives.load(name)
    with pytest.raises(ValueError, match=sentence):
        kind(model, kind.Settings(**SETTINGS[name]), images=IMAGES)


def test_brightness_says_nothing_of_a_part_of_one_picture() -> None:
    control = objective("brightness").train()
    control(batch(1))
    assert control.health().signature == ""
    assert "prediction_deviation" not in control.health().measures


def test_ijepa_crops_its_pictures_and_does_no_more_to_them() -> None:
    augment = IJEPA.Settings().augment
    assert (augment.crop_scale, augment.flip, augment.jitter, augment.greyscale, augment.blur) == (
        (0.3, 1.0), 0.0, 0.0, 0.0, 0.0,
    )  # fmt: skip
