"""What becomes of the pictures that people have: every format and mode, and what is broken about them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import sources
from tasks.config import Columns
from tasks.errors import InputError
from tasks.modalities import Rejected
from tasks.modalities.image import records
from tasks.modalities.image.records import CorpusSettings, decoding

SMOOTH = np.clip(
    np.add.outer(np.arange(24) * 6, np.arange(32) * 3)[..., None] + np.array([0, 20, 40]), 0, 255
).astype(np.uint8)


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(SMOOTH).convert(mode)


def stored(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def normalised(content: bytes, name: str = "a.png", **rules: Any) -> dict[str, Any]:
    corpus = CorpusSettings(**rules)
    file = sources.File(name, contents=lambda: io.BytesIO(content), size=len(content), inside=name)
    (raw,) = records.read(file, "auto", Columns(), None, corpus)
    (found,) = records.normalise(raw, corpus, None)
    return found


def pixels(record: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(record["picture"])))


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.png", "PNG"), ("a.bmp", "BMP"), ("a.tiff", "TIFF"), ("a.webp", "WEBP"), ("a.jpg", "JPEG"), ("a.gif", "GIF")],
)  # fmt: skip
def test_every_format_gives_its_pixels(name: str, format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    content = stored(picture(), format, **options)
    found = normalised(content, name)
    assert (found["width"], found["height"]) == (32, 24)
    tolerance = {"JPEG": 6, "GIF": 40}.get(format, 0)
    assert np.abs(pixels(found).astype(int) - SMOOTH).max() <= tolerance
    assert (found["picture"] == content) == (format in ("PNG", "WEBP", "JPEG"))
    assert "wrong_extension" not in found["remarks"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_pixels_and_sizes(orientation: int) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    content = stored(picture(), "PNG", exif=exif)
    found = normalised(content)
    # the standard's table: where the 0th row and the 0th column of the stored pixels belong
    expected = {
        1: SMOOTH,
        2: SMOOTH[:, ::-1],
        3: SMOOTH[::-1, ::-1],
        4: SMOOTH[::-1],
        5: SMOOTH.transpose(1, 0, 2),
        6: SMOOTH.transpose(1, 0, 2)[:, ::-1],
        7: SMOOTH.transpose(1, 0, 2)[::-1, ::-1],
        8: SMOOTH.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert np.array_equal(pixels(found), expected)
    assert (found["height"], found["width"]) == expected.shape[:2]
    assert ("turned" in found["remarks"]) == (orientation > 1)


def test_palette_bits_grey_and_cmyk_become_what_they_show() -> None:
    grey = np.asarray(picture("L"))
    assert np.array_equal(pixels(normalised(stored(picture("L")))), grey)
    assert np.array_equal(pixels(normalised(stored(picture("P")))), np.asarray(picture("P").convert("RGB")))
    bits = pixels(normalised(stored(picture("1"))))
    assert set(np.unique(bits)) == {0, 255}
    cmyk = normalised(stored(picture("CMYK"), "TIFF"), "a.tif")
    assert np.abs(pixels(cmyk).astype(int) - SMOOTH).max() <= 1
    assert "mode_cmyk" in cmyk["remarks"]


def test_sixteen_bits_keep_their_range_or_are_stretched() -> None:
    values = (np.arange(24 * 32).reshape(24, 32) * 5).astype(np.uint16)  # a sensor of 12 bits
    content = stored(Image.fromarray(values))
    full, stretched = normalised(content), normalised(content, deep="stretch")
    assert np.array_equal(pixels(full), np.round(values / 257).astype(np.uint8))
    assert np.array_equal(pixels(stretched), np.round(values * (255 / values.max())).astype(np.uint8))
    real = stored(Image.fromarray(values.astype(np.float32) / 7 - 3), "TIFF")
    assert np.array_equal(pixels(normalised(real, "a.tif")), pixels(stretched))


def test_transparent_pictures_are_laid_on_the_background_and_leave_their_mask() -> None:
    alpha = np.zeros((24, 32), np.uint8)
    alpha[4:20, 8:24] = 255
    alpha[0, 0] = 127
    content = stored(Image.fromarray(np.dstack([SMOOTH, alpha])))
    found = normalised(content, background="#102030", keep_mask=True)
    expected = np.where(alpha[..., None] == 255, SMOOTH, np.array([0x10, 0x20, 0x30], np.uint8))
    expected[0, 0] = pixels(found)[0, 0]
    assert np.array_equal(pixels(found), expected)
    mask = np.asarray(Image.open(io.BytesIO(found["mask"])))
    assert np.array_equal(mask, alpha == 255)
    assert normalised(content)["mask"] is None
    with pytest.raises(InputError, match="'wite' is no colour"):
        normalised(content, background="wite")


def test_of_an_animation_the_first_picture_counts() -> None:
    other = Image.fromarray(255 - SMOOTH)
    for name, kind in (("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.tif", "TIFF")):
        content = stored(picture(), kind, save_all=True, append_images=[other])
        found = normalised(content, name)
        assert np.abs(pixels(found).astype(int) - SMOOTH).mean() < 10
        assert "first_frame" in found["remarks"]


def test_a_wrong_extension_is_noted_and_the_picture_kept() -> None:
    found = normalised(stored(picture()), "a.jpg")
    assert found["remarks"] == ("wrong_extension",)
    assert np.array_equal(pixels(found), SMOOTH)


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in some hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "empty"),
        (lambda: b"These are words.\n" * 50, "not_a_picture"),
        (lambda: stored(picture(), "JPEG")[:300], "truncated"),
        (lambda: stored(picture(), "JPEG")[:-40], "truncated"),
        (lambda: stored(picture())[:-40], "truncated"),
        (bomb, "too_many_pixels"),
        (lambda: stored(Image.new("RGB", (1, 1))), "too_small"),
        (lambda: stored(picture()) + bytes(2000), "too_many_bytes"),
    ],
)
def test_what_is_no_good_picture_is_left_out_by_rule(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(Rejected, match=f"^{reason}$"):
        normalised(make(), "a.jpg", max_bytes=2000)
    with pytest.raises(
        InputError, match=rf"a.jpg, row 1: the picture is left out: {reason.replace('_', ' ')}"
    ):
        normalised(make(), "a.jpg", max_bytes=2000, unreadable="error")


def test_large_pictures_are_decoded_where_the_corpus_allows_them(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(Rejected, match="too_many_pixels"):
        normalised(stored(picture()), max_pixels=32 * 24 - 1)
    assert normalised(stored(picture()), max_pixels=32 * 24)["width"] == 32
    assert not recwarn, "Pillow's own limit is out of the way"


def test_equal_pixels_have_equal_content_however_they_are_stored() -> None:
    png, bmp = normalised(stored(picture())), normalised(stored(picture(), "BMP"), "a.bmp")
    grey = stored(picture("L")), stored(picture("L").convert("RGB"))
    assert records.content(png) == records.content(bmp)
    assert len({records.content(normalised(content)) for content in grey}) == 1
    changed = SMOOTH.copy()
    changed[0, 0, 0] ^= 1
    assert records.content(normalised(stored(Image.fromarray(changed)))) != records.content(png)


def test_near_duplicates_share_a_key_and_others_do_not() -> None:
    def textured(seed: int) -> Image.Image:
        coarse = np.random.RandomState(seed).randint(0, 256, (6, 8, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)

    def keys(image: Image.Image, format: str = "PNG", **options: Any) -> set[int]:
        (found,) = records.signatures([normalised(stored(image, format, **options))], CorpusSettings())
        return set(found.tolist())

    originals = [keys(textured(seed)) for seed in range(40)]
    for seed, own in enumerate(originals):
        assert all(own.isdisjoint(other) for other in originals[:seed])
    again = [
        not own.isdisjoint(keys(textured(seed).resize((80, 60)), "JPEG", quality=80))
        for seed, own in enumerate(originals)
    ]
    assert sum(again) >= 38
    red, blue = Image.new("RGB", (40, 40), "#c02020"), Image.new("RGB", (40, 40), "#2020c0")
    for image in (red, blue):
        image.paste((0, 0, 0), (10, 5, 20, 35))
    assert keys(red).isdisjoint(keys(blue)), "the same shape in another colour"
    blank_and_red = [normalised(stored(image)) for image in (Image.new("L", (40, 40), 9), red)]
    blank, of_red = records.signatures(blank_and_red, CorpusSettings())
    assert not len(blank)
    assert set(of_red.tolist()) == keys(red)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(stored(picture()))
    path.chmod(0)
    (file,) = sources.files(str(path))
    (raw,) = records.read(file, "auto", Columns(), None, CorpusSettings())
    with pytest.raises(Rejected, match="permission_denied"):
        list(records.normalise(raw, CorpusSettings(), None))


def test_masks_are_numbers_of_classes_and_fit_their_picture() -> None:
    classes = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 5
    palette = Image.fromarray(classes).convert("P")
    palette.putpalette([9, 9, 9] * 256)
    palette.putdata(classes.ravel().tolist())
    corpus = CorpusSettings()
    assert np.array_equal(np.asarray(decoding.mask(stored(palette), corpus)), classes)
    white = Image.fromarray((classes > 2).astype(np.uint8) * 255)
    assert np.array_equal(np.asarray(decoding.mask(stored(white), corpus)), classes > 2)


@pytest.mark.parametrize("mode", [np.uint16, np.int32])
def test_masks_of_more_than_8_bits_keep_their_numbers_or_are_left_out(mode: type) -> None:
    classes: Any = np.array([[0, 1], [7, 20]], mode)
    deep = Image.fromarray(classes)
    content = io.BytesIO()
    deep.save(content, "PNG" if mode is np.uint16 else "TIFF")
    assert np.array_equal(np.asarray(decoding.mask(content.getvalue(), CorpusSettings())), classes)
    beyond = io.BytesIO()
    Image.fromarray(classes + mode(300)).save(beyond, "PNG" if mode is np.uint16 else "TIFF")
    with pytest.raises(Rejected, match="mask_beyond_8_bits"):
        decoding.mask(beyond.getvalue(), CorpusSettings())


def test_masks_in_colours_are_left_out() -> None:
    colours = Image.fromarray(np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8))
    with pytest.raises(Rejected, match="mask_of_colours"):
        decoding.mask(stored(colours), CorpusSettings())
    grey = Image.fromarray(np.array([[[3, 3, 3], [5, 5, 5]]], np.uint8))
    assert np.asarray(decoding.mask(stored(grey), CorpusSettings())).tolist() == [[3, 5]]


def test_kinds_that_are_no_task_for_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="known: classification, segmentation"):
        records.schema("question_answering")
