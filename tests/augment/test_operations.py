"""Each operation against Pillow or against itself written plainly, one picture at a time."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.image.augment import colour, shape
from models.image.augment.resample import crop_taps, resample
from models.image.augment.views import blur
from models.image.images import Images

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def values(num: int = 4, side: int = 13) -> Tensor:
    return torch.rand(num, 3, side, side + 4, generator=torch.Generator().manual_seed(2))


def pillow_resize(channel: Tensor, size: int, interpolation: str) -> Tensor:
    picture = Image.fromarray(channel.numpy().astype(np.float32))
    return torch.from_numpy(np.array(picture.resize((size, size), FILTERS[interpolation])))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(32, 32), (50, 17), (20, 45), (256, 224), (9, 32)])
def test_crop_and_resize_are_pillows(interpolation: str, side: int, size: int) -> None:
    """Pillow's float pictures, cut first; within 1e-4 of 255."""
    pixels = torch.randint(0, 256, (4, 2, side, side), dtype=torch.uint8)
    boxes = [
        (0, 0, side, side),
        (1, 2, side - 4, side - 5),
        (side // 2, 0, side // 2, side),
        (3, side - 2, 2, 1),
    ]
    top, left, height, width = torch.tensor(boxes).float().unbind(1)
    mirrored = torch.tensor([False, True, False, True])
    found = resample(
        pixels,
        crop_taps(top, height, side, size, interpolation),
        crop_taps(left, width, side, size, interpolation, mirrored),
    )
    for picture, (y, x, h, w), is_mirrored, result in zip(pixels, boxes, mirrored, found, strict=True):
        for channel, given in zip(picture, result, strict=True):
            expected = pillow_resize(channel[y : y + h, x : x + w], size, interpolation)
            expected = expected.flip(1) if is_mirrored else expected
            assert torch.allclose(given, expected, rtol=0, atol=1e-4 * 255)


def test_blur_is_a_gaussian_average_over_the_mirrored_picture() -> None:
    x_BCHW, sigmas = values(), torch.tensor([0.1, 0.7, 1.3, 2.0])
    found = blur(x_BCHW, sigmas, 2.0)
    for picture, sigma, result in zip(x_BCHW, sigmas.tolist(), found, strict=True):
        padded = np.pad(picture.double().numpy(), ((0, 0), (8, 8), (8, 8)), mode="reflect")
        weights = np.array([math.exp(-((offset / sigma) ** 2) / 2) for offset in range(-8, 9)])
        weights /= weights.sum()
        kernel = np.outer(weights, weights)
        height, width = picture.shape[1:]
        expected = np.array(
            [
                [(padded[:, y : y + 17, x : x + 17] * kernel).sum((1, 2)) for x in range(width)]
                for y in range(height)
            ]
        ).transpose(2, 0, 1)
        assert np.allclose(result.numpy(), expected, rtol=0, atol=1e-5)


def test_blur_of_a_picture_smaller_than_its_reach_keeps_one_colour() -> None:
    assert torch.allclose(blur(torch.full((2, 3, 4, 1), 0.3), torch.ones(2), 2.0), torch.tensor(0.3))


def test_hue_is_shifted_as_colorsys_does() -> None:
    x_BCHW, turns = values(), torch.tensor([-0.5, -0.13, 0.2, 0.5])
    x_BCHW[:, :, :6] = (x_BCHW[:, :, :6] * 2).round() / 2  # equal channels: greys and edges of sectors
    found = colour.shift_hue(x_BCHW, turns)
    for picture, turn, result in zip(x_BCHW.double(), turns.tolist(), found, strict=True):
        for given, (r, g, b) in zip(result.flatten(1).T.tolist(), picture.flatten(1).T.tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            assert given == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=1e-5)


@pytest.mark.parametrize("kind", [colour.BRIGHTNESS, colour.CONTRAST, colour.SATURATION])
def test_adjusting_blends_with_black_mean_grey_or_own_grey(kind: int) -> None:
    x_BCHW, factors = values(), torch.tensor([0.0, 0.3, 1.0, 1.8])
    found = colour.adjust(x_BCHW, torch.full((4,), kind), factors)
    for picture, factor, result in zip(x_BCHW, factors, found, strict=True):
        grey = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
        other = (torch.zeros_like(grey), grey.mean().expand_as(grey), grey)[kind]
        expected = (factor * picture + (1 - factor) * other).clamp(0, 1)
        assert torch.allclose(result, expected, rtol=0, atol=1e-5)


def test_one_channel_has_brightness_and_contrast() -> None:
    x_BCHW = values()[:, :1]
    bright = colour.adjust(x_BCHW, torch.zeros(4, dtype=torch.long), torch.full((4,), 0.5))
    assert torch.allclose(bright, x_BCHW / 2)
    flat = colour.adjust(x_BCHW, torch.ones(4, dtype=torch.long), torch.zeros(4))
    assert torch.allclose(flat, x_BCHW.mean((2, 3), keepdim=True).expand_as(flat), atol=1e-6)


def test_grey_is_pillows() -> None:
    pixels = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    expected = np.array(Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L"), dtype=np.float32)
    found = colour.greyscale(pixels[None] / 255)[0]
    assert np.abs(found.numpy() * 255 - expected).max() <= 0.51  # Pillow rounds


def test_solarise_invert_and_mix() -> None:
    x_BCHW = values()
    assert torch.equal(colour.solarise(x_BCHW), torch.where(x_BCHW < 0.5, x_BCHW, 1 - x_BCHW))
    assert torch.equal(colour.invert(x_BCHW), 1 - x_BCHW)
    swap = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]).expand(4, 3, 3)
    mixed = colour.mix(x_BCHW, swap)
    assert torch.allclose(mixed[:, 0], x_BCHW[:, 2])
    assert torch.allclose(mixed[:, 2], (x_BCHW[:, 0] + x_BCHW[:, 1]) / 2)


def test_strokes_grow_by_the_largest_and_the_least_neighbour() -> None:
    x_BCHW = values()
    found = shape.thicken(x_BCHW, torch.tensor([1.0, -1.0, 1.0, -1.0]))
    height, width = x_BCHW.shape[2:]
    for number, (picture, result) in enumerate(zip(x_BCHW, found, strict=True)):
        extreme = torch.amin if number % 2 else torch.amax
        for y in range(height):
            for x in range(width):
                near = picture[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                assert torch.equal(result[:, y, x], extreme(near, (1, 2)))


def test_turning_is_bilinear_about_the_centre() -> None:
    x_BCHW = values()
    angles, shears = torch.tensor([0.0, 0.3, -0.6, 3.0]), torch.tensor([0.0, 0.2, -0.3, 0.0])
    found = shape.turn(x_BCHW, angles, shears)
    height, width = x_BCHW.shape[2:]
    for picture, angle, shear, result in zip(x_BCHW, angles.tolist(), shears.tolist(), found, strict=True):
        cosine, sine = math.cos(angle), math.sin(angle)
        for y in range(height):
            for x in range(width):
                across, down = x - (width - 1) / 2, y - (height - 1) / 2
                turned_across, turned_down = cosine * across - sine * down, sine * across + cosine * down
                at_x = turned_across - shear * turned_down + (width - 1) / 2
                at_y = turned_down + (height - 1) / 2
                assert torch.allclose(result[:, y, x], bilinear(picture, at_y, at_x), rtol=0, atol=1e-4)


def bilinear(picture: Tensor, y: float, x: float) -> Tensor:
    height, width = picture.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    down, across = y - top, x - left
    upper = (1 - across) * picture[:, top, left] + across * picture[:, top, left + 1]
    lower = (1 - across) * picture[:, top + 1, left] + across * picture[:, top + 1, left + 1]
    return (1 - down) * upper + down * lower


def test_quarter_turn_is_anticlockwise() -> None:
    x_BCHW = values()[:1, :, :9, :9]
    turned = shape.turn(x_BCHW, torch.tensor([math.pi / 2]), torch.zeros(1))
    assert torch.allclose(turned, torch.rot90(x_BCHW, 1, (2, 3)), atol=1e-5)


@pytest.mark.parametrize(("stored", "size", "crop"), [(32, 32, 32), (64, 56, 56), (96, 32, 84), (36, 32, 32), (16, 32, 16)])  # fmt: skip
def test_plain_pictures_are_the_centre_at_the_encoders_size(stored: int, size: int, crop: int) -> None:
    images = Images(size, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (2, 3, stored, stored), dtype=torch.uint8)
    edge = (stored - crop) // 2
    centre = pixels[:, :, edge : edge + crop, edge : edge + crop]
    found = images.plain(pixels)
    for picture, result in zip(centre, found, strict=True):
        for channel in range(3):
            expected = pillow_resize(picture[channel], size, "bilinear") / 255
            expected = (expected - images.mean[channel]) / images.std[channel]
            assert torch.allclose(result[channel], expected, rtol=0, atol=1e-3)


def test_images_of_one_colour_and_missing_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="one colour"):
        Images(32, 1, (0.5,), (0.0,))
    with pytest.raises(ValueError, match="3 channels need as many means"):
        Images(32, 3, (0.5,), (0.1,))
