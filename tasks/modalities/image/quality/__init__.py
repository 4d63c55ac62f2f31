"""What is expected of pictures: metrics of each, thresholds on them, and how alike two corpora are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.settings import Settings, setting
from tasks.checks.suites import among, between
from tasks.config import Validate

if TYPE_CHECKING:  # numpy and pyarrow cost a light command 0.3 s, great_expectations 4 s
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation

KIN = ("pixels", "looks")
ANSWERS = ()
DISTANCE = 2  # bits in which the hashes of a test picture and a training picture that leaks it may differ


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(Validate):
    """Expectations on pictures; a hard one stops the recipe, a soft one is reported."""

    leak_containment: float = setting(
        0.01,
        "Share of the keys of a test picture's perceptual hash that a training picture has as well from "
        "which on the picture counts as known; the default means any key, 1 means equal hashes.",
        gt=0,
        le=1,
    )
    max_blank_records: float = setting(0.1, "Hard: largest share of pictures of one even colour.", ge=0, le=1)
    min_side: int = setting(16, "Side in pixels below which a picture is small.", ge=1)
    max_aspect: float = setting(4.0, "Longer over shorter side over which a picture is a strip.", ge=1)
    min_entropy: float = setting(
        0.5, "Bits of the histogram of brightness below which a picture is flat.", ge=0, le=8
    )
    max_poor_records: float = setting(
        0.1, "Soft: largest share of pictures that break any one of the last three limits.", ge=0, le=1
    )
    max_duplicates_share: float = setting(
        0.1, "Soft: largest share of pictures that look like an earlier one.", ge=0, le=1
    )


def describe(records: pa.Table) -> pa.Table:
    """Derived metrics, one row per picture.

    Returns:
        `id`; `width`, `height`; `aspect` (longer over shorter side); `bytes` as stored; of the
        brightness (0 to 1, at 256 pixels a side at most) `mean`, `contrast` (deviation), `entropy`
        (bits of its histogram) and `sharpness` (variance of its Laplacian); `is_grey`; `is_blank`;
        `duplicate` (equal pixels stood earlier), `near_duplicate` (alike or equal ones did), and
        `duplicate_group` (id of the first of those, null where a picture is alone).
    """
    import pyarrow as pa

    from tasks.corpora import kin
    from tasks.modalities.image.quality import measures

    of_pictures = measures.of(records)
    columns = {name: records[name] for name in ("id", "width", "height")}
    columns |= {name: pa.array(values) for name, values in of_pictures.items()}
    columns |= kin.columns(records["id"], records["pixels"], records["looks"], DISTANCE)
    return pa.table(columns)


def expectations(settings: Settings) -> list[Expectation]:
    """Expectations over `describe`'s columns; severity `critical` fails the stage."""
    if not isinstance(settings, ValidateSettings):
        raise TypeError(f"pictures are validated by ValidateSettings, not {type(settings).__name__}")
    return [*_hard(settings), *_soft(settings)]


def _hard(settings: ValidateSettings) -> Iterator[Expectation]:
    yield among(
        "is_blank",
        [False],
        breaking=settings.max_blank_records,
        hard=True,
        remedy="Nothing can be learnt from empty pictures: remove them, look at how they are exported "
        "(`deep`, `background`), or raise `validate.max_blank_records`.",
    )


def _soft(settings: ValidateSettings) -> Iterator[Expectation]:
    limits = (
        ("width", "min_side"),
        ("height", "min_side"),
        ("aspect", "max_aspect"),
        ("entropy", "min_entropy"),
    )
    for column, limit in limits:
        bound = {"minimum" if limit.startswith("min") else "maximum": getattr(settings, limit)}
        remedy = f"Look at those pictures; the limit is `validate.{limit}`."
        yield between(column, breaking=settings.max_poor_records, hard=False, remedy=remedy, **bound)
    yield among(
        "near_duplicate",
        [False],
        breaking=settings.max_duplicates_share,
        hard=False,
        remedy="Doubled pictures weigh twice; the limit is `validate.max_duplicates_share`.",
    )


def compare(a: pa.Table, b: pa.Table) -> dict[str, float]:
    """How alike two corpora are, by histograms over the pixels of up to 2,000 pictures of each.

    Returns:
        appearance_overlap: mean of the next two.
        colour_overlap: shared share of the joint histograms of red, green and blue.
        edge_overlap: shared share of the histograms of edges by direction and strength.
        size_overlap: shared share of the histograms of the shorter side, in octaves.
    """
    from tasks.corpora.samples import shared
    from tasks.modalities.image.quality import measures

    first, second = measures.histograms(a), measures.histograms(b)
    found = {name: shared(first[name], second[name]) for name in first}
    return {
        "appearance_overlap": (found["colour"] + found["edge"]) / 2,
        **{f"{name}_overlap": value for name, value in found.items()},
    }


def pieces(records: pa.Table) -> pa.Array:
    """Keys of each picture's perceptual hash, of which alike pictures share at least one: list<uint64>."""
    from tasks.corpora import kin

    return kin.pieces(records["looks"], DISTANCE)
