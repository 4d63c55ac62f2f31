"""A view is the papers' operations in a row, drawn from each picture's key alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.image.augment import colour, shape, views
from models.image.augment.choices import Choices, choose
from models.image.augment.views import GLYPHS, MAE, PRESETS, SIMCLR, Augment, view

EVERYTHING = Augment(
    rotate=20.0, shear=10.0, thicken=0.5, mix_channels=0.5, solarise=0.5, invert=0.5, greyscale=0.5
)
STILL = Augment(
    crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, greyscale=0.0, blur=0.0
)  # fmt: skip


def pictures(num: int, side: int = 20, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num, channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [12, 20, 40])
def test_view_depends_on_the_pictures_own_key_alone(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, keys = pictures(9), torch.arange(9)
    together = view(pixels, keys, EVERYTHING, size, stream=1)
    order = torch.tensor([4, 2, 8, 0])
    monkeypatch.setattr(views, "CACHED_VALUES", 1)
    among_others = view(pixels[order], keys[order], EVERYTHING, size, stream=1)
    assert torch.allclose(together[order], among_others, rtol=0, atol=1e-5)


def test_same_call_has_the_same_bits_and_another_stream_another_view() -> None:
    pixels, keys = pictures(6), torch.arange(6)
    torch.manual_seed(0)
    first = view(pixels, keys, EVERYTHING, 16, stream=1)
    torch.manual_seed(5)
    assert torch.equal(first, view(pixels, keys, EVERYTHING, 16, stream=1))
    assert not torch.allclose(first, view(pixels, keys, EVERYTHING, 16, stream=2), atol=0.05)
    assert not torch.allclose(first, view(pixels, keys + 6, EVERYTHING, 16, stream=1), atol=0.05)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_preset_gives_values_between_0_and_1(name: str, channels: int) -> None:
    pixels = pictures(16, channels=channels)
    before = pixels.clone()
    seen = view(pixels, torch.arange(16), PRESETS[name], 14, stream=3)
    assert seen.shape == (16, channels, 14, 14)
    assert seen.dtype == torch.float32
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    assert seen.std() > 0.02
    assert torch.equal(pixels, before)


def test_an_operation_may_follow_one_that_all_pictures_undergo() -> None:
    augment = replace(STILL, greyscale=1.0, blur=0.5)
    pixels, keys = pictures(9), torch.arange(9)
    together = view(pixels, keys, augment, 20, stream=1)
    alone = [view(pixels[row : row + 1], keys[row : row + 1], augment, 20, stream=1) for row in range(9)]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_nothing_chosen_is_the_picture_itself() -> None:
    pixels = pictures(5)
    assert torch.allclose(view(pixels, torch.arange(5), STILL, 20, stream=1), pixels / 255, rtol=0, atol=1e-6)


def test_certain_flip_mirrors_left_for_right() -> None:
    pixels = pictures(5)
    flipped = view(pixels, torch.arange(5), replace(STILL, flip=1.0), 20, stream=1)
    assert torch.allclose(flipped, pixels.flip(3) / 255, rtol=0, atol=1e-6)


def test_autocast_does_not_blunt_the_pictures() -> None:
    pixels, keys = pictures(4), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = view(pixels, keys, SIMCLR, 16, stream=1)
    assert torch.equal(inside, view(pixels, keys, SIMCLR, 16, stream=1))


def test_operations_happen_as_often_as_their_chance_says() -> None:
    augment = replace(EVERYTHING, flip=0.3, jitter=0.8, greyscale=0.2, blur=0.1, solarise=0.4)
    choices = choose(torch.arange(20_000), augment, 32, 32, stream=1)
    for name, chance in {
        "flip": 0.3, "jitter": 0.8, "greyscale": 0.2, "blur": 0.1, "solarise": 0.4, "invert": 0.5, "mixed": 0.5,
    }.items():  # fmt: skip
        assert abs(float(getattr(choices, name).float().mean()) - chance) < 0.015
    assert abs(float((choices.stroke == 1).float().mean()) - 0.25) < 0.015
    assert torch.allclose(choices.mixture.sum(2), torch.ones(20_000, 3), atol=1e-4)
    orders = choices.order @ torch.tensor([16, 4, 1]) + 64 * choices.num_before_hue
    counts = torch.unique(orders, return_counts=True)[1]
    assert len(counts) == 24
    assert float((counts / 20_000 * 24 - 1).abs().max()) < 0.15


def test_crops_have_the_areas_ratios_and_places_that_were_asked_for() -> None:
    top, left, height, width = choose(torch.arange(20_000), SIMCLR, 256, 200, stream=2).box.unbind(1)
    area, ratio = height * width / (256 * 200), width / height
    assert float(area.min()) > 0.075
    assert float(area.max()) <= 1
    assert float(ratio.min()) > 0.73
    assert float(ratio.max()) < 1.36
    assert bool(((top + height <= 256) & (left + width <= 200) & (top >= 0) & (left >= 0)).all())
    small = area < 0.3
    assert abs(float((top / (256 - height).clamp(min=1))[small].mean()) - 0.5) < 0.02


def test_crop_that_never_fits_is_the_largest_central_one() -> None:
    box = choose(torch.arange(4), replace(MAE, crop_scale=(1.0, 1.0)), 20, 100, stream=1).box
    assert box.tolist() == [[0, 36, 20, 27]] * 4


def test_ranges_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="crop_scale must be two numbers"):
        Augment(crop_scale=(0.5, 0.2))
    with pytest.raises(ValueError, match="crop_scale ends at 1"):
        Augment(crop_scale=(0.5, 2.0))


def test_letters_are_never_mirrored() -> None:
    assert not choose(torch.arange(1000), GLYPHS, 32, 32, stream=1).flip.any()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("glyphs", PRESETS["glyphs"]),
        ({"preset": "cifar32", "crop_scale": [0.3, 0.5]}, replace(PRESETS["cifar32"], crop_scale=(0.3, 0.5))),
        ({"crop_scale": [0.3, 0.5]}, Augment(crop_scale=(0.3, 0.5))),
    ],
)
def test_a_preset_stands_for_its_settings(given: object, wanted: Augment) -> None:
    two = TypeAdapter(tuple[Augment, Augment])
    assert two.validate_json(json.dumps([given, given])) == (wanted, wanted)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="unknown preset 'glyf'; known: simclr"):
        TypeAdapter(Augment).validate_json('"glyf"')


def jittered(x: torch.Tensor, c: Choices) -> torch.Tensor:
    """Picture by picture: brightness, contrast and saturation in their drawn order, hue somewhere between."""
    out = []
    for row in range(len(x)):
        one, before, order = x[row : row + 1], int(c.num_before_hue[row]), c.order[row].tolist()
        for kind in [*order[:before], None, *order[before:]]:
            if kind is None:
                one = colour.shift_hue(one, c.hue[[row]])
            else:
                one = colour.adjust(one, torch.tensor([kind]), c.factor[row, kind].view(1))
        out.append(one)
    return torch.cat(out)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rotate": 20.0, "shear": 10.0}, lambda x, c: shape.turn(x, c.angle, c.shear)),
        ({"thicken": 1.0}, lambda x, c: shape.thicken(x, c.stroke)),
        ({"mix_channels": 1.0}, lambda x, c: colour.mix(x, c.mixture)),
        ({"jitter": 1.0}, jittered),
        ({"greyscale": 1.0}, lambda x, c: colour.greyscale(x)),
        ({"blur": 1.0}, lambda x, c: views.blur(x, c.sigma, 2.0)),
        ({"solarise": 1.0}, lambda x, c: colour.solarise(x)),
        ({"invert": 1.0}, lambda x, c: 1 - x),
    ],
)
def test_a_view_undergoes_what_was_chosen(changes: dict[str, float], expected: Any) -> None:
    pixels, keys, augment = pictures(8), torch.arange(8), replace(STILL, **changes)  # type: ignore[arg-type]
    wanted = expected(pixels / 255, choose(keys, augment, 20, 20, stream=1))
    torch.testing.assert_close(view(pixels, keys, augment, 20, stream=1), wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(wanted, pixels / 255, atol=0.05)


def test_strengths_fill_their_ranges_evenly() -> None:
    augment = Augment(
        brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05, rotate=20.0, shear=10.0, blur_sigma=(0.5, 1.5)
    )
    c = choose(torch.arange(20_000), augment, 32, 32, stream=1)
    for found, low, high in (
        (c.factor[:, 0], 0.9, 1.1), (c.factor[:, 1], 0.8, 1.2), (c.factor[:, 2], 0.7, 1.3),
        (c.hue, -0.05, 0.05), (c.sigma, 0.5, 1.5), (c.angle.rad2deg(), -20, 20),
        (c.shear.atan().rad2deg(), -10, 10),
    ):  # fmt: skip
        shares = (found - low) / (high - low)
        assert float(shares.min()) > -1e-4
        assert float(shares.max()) < 1.0001
        assert float((torch.histc(shares, 10, 0, 1) / 2000 - 1).abs().max()) < 0.12
