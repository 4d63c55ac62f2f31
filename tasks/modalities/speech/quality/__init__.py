"""What is expected of recordings: metrics of each, thresholds on them, and how alike two corpora are."""

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

KIN = ("samples", "sounds")
ANSWERS = ("transcript",)
DISTANCE = 1  # bits in which a test recording and a training recording that leaks it may differ


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(Validate):
    """Expectations on recordings; a hard one stops the recipe, a soft one is reported."""

    leak_containment: float = setting(
        0.01,
        "Share of the keys of what a test recording sounds like that a training recording has as well from "
        "which on it counts as known; the default means any key.",
        gt=0,
        le=1,
    )
    max_silent_records: float = setting(
        0.1, "Hard: largest share of recordings in which nothing is to be heard.", ge=0, le=1
    )
    max_clipped: float = setting(
        0.01, "Share of a recording's samples at full scale from which on it is clipped.", ge=0, le=1
    )
    max_silence: float = setting(
        0.8, "Share of a recording's frames 40 dB below its loudest from which on it is a pause.", ge=0, le=1
    )
    min_snr_db: float = setting(
        10.0, "Estimated level of speech over noise in dB below which a recording is noisy.", ge=0
    )
    min_bandwidth_hz: float = setting(
        3000.0, "Highest frequency below which a recording is muffled; telephones reach 3,400.", ge=0
    )
    min_characters_per_second: float = setting(
        1.0, "Characters of its transcript a second below which a recording's transcript is in doubt.", ge=0
    )
    max_characters_per_second: float = setting(
        30.0, "Characters of its transcript a second above which a recording's transcript is in doubt.", gt=0
    )
    min_character_records: int = setting(
        2, "Transcripts that a character must stand in, or those that hold it are in doubt.", ge=1
    )
    max_poor_records: float = setting(
        0.1, "Soft: largest share of recordings that break any one of the six limits above.", ge=0, le=1
    )
    max_duplicates_share: float = setting(
        0.1, "Soft: largest share of recordings that sound like an earlier one.", ge=0, le=1
    )


def describe(records: pa.Table) -> pa.Table:
    """Derived metrics, one row per recording.

    Returns:
        `id`; `seconds`; `rate_hz` as stored before; `level_db` (of full scale) and `peak` (0 to 1); `clipped`
        and `silence` (shares of samples and frames); `snr_db` (loud over quiet frames); `bandwidth_hz`;
        `is_silent`; `characters` of its transcript with the spaces, `characters_per_second`, and
        `rarest_character_count` (transcripts that hold the character that fewest hold), null where there is
        no transcript; `duplicate` (equal samples stood earlier), `near_duplicate` (alike or equal ones did),
        and `duplicate_group` (id of the first of those, null where a recording is alone).
    """
    import pyarrow as pa

    from tasks.corpora import kin
    from tasks.modalities.speech.quality import measures

    of_sounds = measures.of(records)
    columns = {name: records[name] for name in ("id", "seconds", "rate_hz")}
    columns |= {name: pa.array(values) for name, values in of_sounds.items()}
    columns |= measures.of_transcripts(records)
    columns |= kin.columns(records["id"], records["samples"], records["sounds"], DISTANCE)
    return pa.table(columns)


def expectations(settings: Settings) -> list[Expectation]:
    """Expectations over `describe`'s columns; severity `critical` fails the stage."""
    if not isinstance(settings, ValidateSettings):
        raise TypeError(f"recordings are validated by ValidateSettings, not {type(settings).__name__}")
    return [*_hard(settings), *_soft(settings)]


def _hard(settings: ValidateSettings) -> Iterator[Expectation]:
    yield among(
        "is_silent",
        [False],
        breaking=settings.max_silent_records,
        hard=True,
        remedy="Nothing can be learnt from silence: remove those recordings, look at which channel has the "
        "sound (`channels`), or raise `validate.max_silent_records`.",
    )


def _soft(settings: ValidateSettings) -> Iterator[Expectation]:
    limits = (
        ("clipped", "max_clipped"),
        ("silence", "max_silence"),
        ("snr_db", "min_snr_db"),
        ("bandwidth_hz", "min_bandwidth_hz"),
    )
    for column, limit in limits:
        bound = {"minimum" if limit.startswith("min") else "maximum": getattr(settings, limit)}
        remedy = f"Listen to those recordings; the limit is `validate.{limit}`."
        yield between(column, breaking=settings.max_poor_records, hard=False, remedy=remedy, **bound)
    yield between(
        "characters_per_second",
        minimum=settings.min_characters_per_second,
        maximum=settings.max_characters_per_second,
        breaking=settings.max_poor_records,
        hard=False,
        remedy="Listen to those recordings and read their transcripts, which may be another's; the limits "
        "are `validate.min_characters_per_second` and `validate.max_characters_per_second`.",
    )
    yield between(
        "rarest_character_count",
        minimum=settings.min_character_records,
        breaking=settings.max_poor_records,
        hard=False,
        remedy="Too few examples to learn those characters from: name those that count in the corpus's "
        "`alphabet`, or give more recordings; the limit is `validate.min_character_records`.",
    )
    yield among(
        "near_duplicate",
        [False],
        breaking=settings.max_duplicates_share,
        hard=False,
        remedy="Doubled recordings weigh twice; the limit is `validate.max_duplicates_share`.",
    )


def compare(a: pa.Table, b: pa.Table) -> dict[str, float]:
    """How alike two corpora are, by histograms over up to 2,000 recordings of each.

    Returns:
        sound_overlap: shared share of the joint histograms of mel bands and their levels.
        length_overlap: shared share of the histograms of lengths, in octaves.
    """
    from tasks.corpora.samples import shared
    from tasks.modalities.speech.quality import measures

    first, second = measures.histograms(a), measures.histograms(b)
    return {
        "sound_overlap": shared(first["spectrum"], second["spectrum"]),
        "length_overlap": shared(first["length"], second["length"]),
    }


def pieces(records: pa.Table) -> pa.Array:
    """Keys of what each recording sounds like, of which alike ones share at least one: list<uint64>."""
    from tasks.corpora import kin

    return kin.pieces(records["sounds"], DISTANCE)
