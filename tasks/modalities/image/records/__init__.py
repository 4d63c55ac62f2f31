"""Pictures as records: unlabelled, with a class, or with a mask.

A record keeps the bytes of its picture where every reader finds the same upright RGB or grey pixels in
them, and else a PNG of what the corpus's rules make of it. Two pictures are the same when their
pixels are, however they are stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from models.settings import Settings, setting
from tasks import sources
from tasks.config import Columns, Corpus
from tasks.corpora import fields
from tasks.errors import InputError, unknown
from tasks.modalities import Record, Rejected

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tasks.sources import File

THREADED = True
COMPANIONS: tuple[str, ...] = ()
KINDS = ("classification", "segmentation")
ADVICE = "Correct `columns`, or `pattern`, or put pictures into one sub-folder per class."


@dataclass(frozen=True, kw_only=True)
class Duplicates(Settings):
    """Which pictures count as seen before, and are left out of the unlabelled ones."""

    exact: bool = setting(True, "Leave out pictures whose pixels equal those of an earlier one.")
    near: bool = setting(True, "Leave out pictures that look nearly like an earlier one (perceptual hash).")
    distance: int = setting(
        2,
        "How many of the hash's 64 bits may differ between near duplicates, whose mean colours are alike as "
        "well. Set 0, or `near: false`, where all pictures are taken alike (products on white, X-rays).",
        ge=0, le=4,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Corpus):
    """A corpus of pictures."""

    background: str = setting("white", "Colour behind transparent pictures: a CSS name or #rrggbb.")
    keep_mask: bool = setting(
        False,
        "Keep the alpha channel as a mask (1 from half opacity on), as segmentation does anyway. Masks that "
        "`columns.mask` names are always kept.",
    )
    deep: Literal["full", "stretch"] = setting(
        "full",
        "Pictures of 16 bits: their full range becomes 0 to 255, or each picture's own least and greatest "
        "value do (always so for 32 bits).",
    )
    pattern: str | None = setting(
        None,
        "Regular expression over a picture's path below its location; named groups become fields, e.g. "
        "(?P<split>[^/]+)/(?P<label>[^/]+)/. Without it `label` is the first sub-folder, or the "
        "second where the first is train, validation or test.",
    )
    root: str | None = setting(
        None, "Where relative paths in tables start; null is where the table lies, archives included."
    )
    encoding: str = setting("utf-8", "Encoding of tables that have no byte-order mark.")
    binary: Literal["error", "drop"] = setting("error", "Binary files under the name of a text table.")
    missing: Literal["error", "drop"] = setting(
        "error", "Rows whose path is empty or leads nowhere: stop, or leave them out and count them."
    )
    unreadable: Literal["error", "drop"] = setting(
        "drop",
        "Files that are empty, truncated, damaged, no pictures, too large or not to be opened: stop, or "
        "leave them out, count them and name the first few.",
    )
    min_side: int = setting(8, "Pictures with a shorter side are left out, in pixels.", ge=1)
    max_pixels: int = setting(
        100_000_000, "Pictures with more pixels are not decoded (decompression bombs).", ge=1
    )
    max_bytes: int = setting(1 << 28, "Files of more bytes are not read.", ge=1)
    duplicates: Duplicates = setting(Duplicates(), "Removal of duplicate pictures.")


def schema(kind: str | None) -> pa.Schema:
    """Columns of unlabelled pictures (None), or of those of a task of that kind.

    `pixels` is the hash of the decoded pixels, `looks` what like pictures share (null where nothing
    is to be seen), `mask` a PNG whose values are numbers of classes (null where there is none).
    """
    import pyarrow as pa

    if kind not in (None, *KINDS):
        raise InputError(f"{unknown('kind of task for pictures', str(kind), KINDS)}.")
    columns = {"id": pa.string(), "picture": pa.binary(), "width": pa.int32(), "height": pa.int32()}
    columns |= {"mask": pa.binary(), "pixels": pa.string(), "looks": pa.binary()}
    columns |= {name: pa.string() for name in ("source", "license", "group")}
    columns["split" if kind is None else "label"] = pa.string()
    if kind == "segmentation":
        del columns["label"]
    return pa.schema(list(columns.items()))


def gathered(files: Iterator[File]) -> Iterator[File]:
    """The files, members of an archive that share a key (WebDataset) as one."""
    from tasks.corpora import webdataset
    from tasks.modalities.image.records.decoding import MEDIUM

    return webdataset.gathered(files, MEDIUM)


def read(
    file: File, format: str, columns: Columns, kind: str | None, corpus: CorpusSettings
) -> Iterator[Record]:
    """Stored pictures of one file: `picture` and `mask` as bytes, `label`, and where each comes from.

    Raises:
        InputError: the file is damaged or lacks a column, or a path leads nowhere.
        Rejected: the file as a whole is left out by rule.
    """
    from tasks.corpora import media
    from tasks.modalities.image.records.decoding import MEDIUM

    given = {name: field for name, field in file.columns.items() if getattr(columns, name) is None}
    columns = dataclasses.replace(columns, **given)
    wanted = ("label",) if kind == "classification" else ()
    with sources.read_to_the_end(file):
        for number, row, stored in media.rows(file, format, columns, corpus, MEDIUM):
            own = dataclasses.replace(columns, split=columns.split or ("split" if "split" in row else None))
            yield stored | fields.picked(row, own, wanted, file, number, ADVICE)


def normalise(record: Record, corpus: CorpusSettings, kind: str | None) -> Iterator[Record]:
    """The picture in `schema`'s columns and `group`, `split`, `row`, `damaged`, `remarks`.

    Raises:
        InputError: a label or mask is missing, or a picture cannot be read and must be.
        Rejected: a rule of the corpus leaves it out.
    """
    where = f"{record['source']}, row {record['row']}"
    with fields.rules_kept(where, "picture", corpus.unreadable):
        found = _normalised(record, corpus, kind)
    if kind == "classification":
        found["label"] = fields.label(record["label"], where)
    if kind == "segmentation" and found["mask"] is None:
        raise InputError(
            f"{where}: has no mask; name its column in `columns.mask`, or give transparent pictures."
        )
    yield found


def _normalised(record: Record, corpus: CorpusSettings, kind: str | None) -> Record:
    from tasks.modalities.image.records import decoding, likeness

    if record["refused"]:
        raise Rejected(record["refused"])
    picture = decoding.decoded(record["picture"], corpus)
    image = picture.image
    if min(image.size) < corpus.min_side:
        raise Rejected("too_small")
    kept = {name: record[name] for name in ("id", "source", "row", "license", "group", "split")}
    return kept | {
        "picture": picture.stored(record["picture"]),
        "width": image.width,
        "height": image.height,
        "mask": _mask(record, picture, corpus, is_wanted=corpus.keep_mask or kind == "segmentation"),
        "pixels": _digest(image),
        "looks": likeness.looks(image),
        "damaged": False,
        "remarks": _remarks(record, picture),
    }


def _mask(record: Record, picture: Any, corpus: CorpusSettings, *, is_wanted: bool) -> bytes | None:
    from tasks.modalities.image.records import decoding

    if record["mask"] is None:
        is_there = is_wanted and picture.alpha is not None
        return decoding.png(decoding.foreground(picture.alpha)) if is_there else None
    mask = decoding.mask(record["mask"], corpus)
    if mask.size != picture.image.size:
        raise Rejected("mask_of_another_size")
    return decoding.png(mask)


def _remarks(record: Record, picture: Any) -> tuple[str, ...]:
    from tasks.modalities.image.records import decoding

    expected = decoding.SUFFIXES.get(record["suffix"], picture.format)
    is_as_named = expected == picture.format.replace("MPO", "JPEG")
    return picture.remarks if is_as_named else (*picture.remarks, "wrong_extension")


def _digest(image: Any) -> str:
    shape = f"{image.width}x{image.height}".encode()
    return hashlib.blake2b(shape + image.convert("RGB").tobytes(), digest_size=16).hexdigest()


def content(record: Record) -> bytes:
    """The hash of the decoded pixels."""
    return bytes(record["pixels"], "ascii")


def signatures(batch: list[Record], corpus: CorpusSettings) -> list[NDArray[np.uint64]]:
    """Per picture, keys of the perceptual hash and the mean colour; none where it shows nothing."""
    from tasks.corpora import likeness

    return likeness.signatures([record["looks"] for record in batch], corpus.duplicates.distance)
