from __future__ import annotations

import io
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import sources
from tasks.sources import glyphs


def pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_pictures_are_the_same_each_time_and_differ_from_one_another() -> None:
    first, second = ([*itertools.islice(glyphs.letters(), 60)] for _ in range(2))
    assert first == second
    assert len({row["picture"] for row in first}) == 60
    assert {pixels(row["picture"]).shape for row in first} == {(32, 32, 3)}
    general = [*itertools.islice(glyphs.others(), 60)]
    assert not {row["picture"] for row in first} & {row["picture"] for row in general}


def test_every_font_has_every_character() -> None:
    for font in (*glyphs.TRAIN_FONTS, *glyphs.TEST_FONTS):
        chosen = glyphs._font(font, 24)
        missing = bytes(chosen.getmask("\ufffe"))
        shapes = {bytes(chosen.getmask(character)) for character in glyphs.LETTERS}
        assert len(shapes) >= 25, font  # two letters of one font may look the same to a hash, never more
        assert missing not in shapes, font


def test_the_task_is_balanced_and_tested_on_fonts_that_are_in_no_other_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(glyphs, "ROWS", {"train": 12, "validation": 12, "test": 10})
    rows = [*glyphs.letter_task()]
    counts = Counter((row["split"], row["label"]) for row in rows)
    assert counts == {
        (split, letter): count for split, count in glyphs.ROWS.items() for letter in glyphs.LETTERS
    }
    fonts = {split: {row["group"] for row in rows if row["split"] == split} for split in glyphs.ROWS}
    assert fonts["train"] == {*glyphs.TRAIN_FONTS}
    assert fonts["test"] == {*glyphs.TEST_FONTS}
    assert fonts["test"].isdisjoint(fonts["train"] | fonts["validation"])


def test_the_mask_is_where_the_character_stands() -> None:
    for row in itertools.islice(glyphs.letter_task(), 50):
        mask = pixels(row["mask"]).astype(bool)
        picture = pixels(row["picture"]).astype(float)
        assert 20 < mask.sum() < 700
        assert np.abs(picture[mask].mean(axis=0) - picture[~mask].mean(axis=0)).max() > 20


def test_neither_brightness_nor_colour_tells_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest class mean of the mean colour is right hardly more often than chance, 1 of 26."""
    monkeypatch.setattr(glyphs, "ROWS", {"train": 24, "validation": 0, "test": 10})
    rows = [*glyphs.letter_task()]
    colours: dict[str, list[Any]] = {"train": [], "test": []}
    for row in rows:
        colours[row["split"]].append((pixels(row["picture"]).mean(axis=(0, 1)), row["label"]))
    means = {
        letter: np.mean([colour for colour, label in colours["train"] if label == letter], axis=0)
        for letter in glyphs.LETTERS
    }
    right = [
        min(means, key=lambda letter: float(np.abs(means[letter] - colour).sum())) == label
        for colour, label in colours["test"]
    ]
    assert np.mean(right) < 0.12


def test_sets_are_read_through_their_addresses_and_listed_by_versions() -> None:
    (file,) = sources.files("embedded://letter-of-glyph")
    assert file.rows
    assert file.columns["image"] == "picture"
    assert next(iter(file.rows())).keys() >= {"picture", "mask", "label", "split", "group", "license"}
    packages = sources.listing("embedded://glyphs")["packages"]
    assert packages.keys() == {"python", "matplotlib", "pillow", "scikit-learn"}
