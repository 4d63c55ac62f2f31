"""Pictures that cannot be read or learned from: refused by name, or counted and named; nothing is lost.

The superuser, who may run the tests, may read everything; so what may not be read is simulated.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks import layout, stage
from tests.bad_pictures.photos import Change, contents, done, write
from tests.modalities.image.test_image_ingest import png
from tests.modalities.image.test_image_records import bomb


def corpus(**entry: Any) -> Change:
    def change(params: dict[str, Any]) -> None:
        params["corpora"]["photos"] = {"modality": "image", "heldout_fraction": 0.2, **entry}

    return change


def jpeg() -> bytes:
    stored = io.BytesIO()
    Image.open(io.BytesIO(png(99, side=64))).save(stored, "JPEG")
    return stored.getvalue()


def only(content: bytes) -> None:
    """All photos become that one."""
    for path in Path("photos").rglob("*.png"):
        path.write_bytes(content)


def empty_folder() -> tuple[Change, str]:
    Path("empty").mkdir()
    return corpus(**{"from": "empty"}), "empty: the folder holds no files; put data there"


def one_class() -> tuple[Change, str]:
    shutil.rmtree("photos/dog")
    return corpus(tasks={"animal": {"from": "photos"}}), "one class only (cat); there is nothing to learn"


def all_are_text() -> tuple[Change, str]:
    only(b"words, not a picture")
    return corpus(
        **{"from": "photos"}
    ), "no record is left of 40 in photos (left out: 40 not a picture (photos/cat/0.png"


def truncated_where_none_may_be() -> tuple[Change, str]:
    Path("photos/cat/cut.jpg").write_bytes(jpeg()[:-200])
    return corpus(
        **{"from": "photos", "unreadable": "error"}
    ), "photos/cat/cut.jpg, row 1: the picture is left out: trunc"


def all_black() -> tuple[Change, str]:
    stored = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stored, "PNG")
    only(stored.getvalue())
    return (
        corpus(**{"from": "photos"}),
        "none of its 1 records fell into 'train' at heldout_fraction 0.2 (left out of 40 read: 39 exact duplicates)",
    )


def packed(name: str) -> tuple[Change, str]:
    member = tarfile.TarInfo(name)
    member.size = len(png(0))
    with tarfile.open("photos.tar", "w") as tar:
        tar.add("photos/cat/0.png", "cat/0.png")
        tar.addfile(member, io.BytesIO(png(0)))
    return corpus(**{"from": "photos.tar"}), f"member {name!r} points outside the archive; it is refused"


def archive_upwards() -> tuple[Change, str]:
    return packed("../../outside.png")


def archive_absolute() -> tuple[Change, str]:
    return packed("/etc/outside.png")


def table_of_missing_paths() -> tuple[Change, str]:
    Path("table.csv").write_text("path,label\nphotos/cat/0.png,cat\nphotos/cat/999.png,cat\n")
    return corpus(
        **{"from": "table.csv"}
    ), "table.csv, row 3: nothing can be read at 'photos/cat/999.png'. Correct"


def table_that_names_a_folder() -> tuple[Change, str]:
    Path("table.csv").write_text("path,label\nphotos/cat,cat\n")
    return corpus(**{"from": "table.csv"}), "table.csv, row 2: nothing can be read at 'photos/cat'. Correct"


def table_without_the_column() -> tuple[Change, str]:
    pq.write_table(pa.table({"img": [png(0)], "label": ["cat"]}), "table.parquet")
    entry = {"from": "table.parquet", "columns": {"image": "photo"}}
    return corpus(
        **entry
    ), "table.parquet, row 1: has no field 'photo' with a picture; its fields: img, label"


def table_of_numbers() -> tuple[Change, str]:
    pq.write_table(pa.table({"image": [7]}), "table.parquet")
    return corpus(**{"from": "table.parquet"}), "row 1: holds 7, neither a path nor bytes of a picture"


def link_to_itself() -> tuple[Change, str]:
    Path("loop").symlink_to("loop")
    return corpus(**{"from": "loop"}), "loop: no such file or folder"


@pytest.mark.parametrize(
    "spoil",
    [
        empty_folder, one_class, all_are_text, truncated_where_none_may_be, all_black, archive_upwards, archive_absolute,
        table_of_missing_paths, table_that_names_a_folder, table_without_the_column, table_of_numbers, link_to_itself,
    ],
)  # fmt: skip
def test_spoiled_pictures_are_refused_by_name_and_the_old_records_stay(
    spoil: Callable[[], tuple[Change, str]], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    change, sentence = spoil()
    write(change)
    code, said = done("ingest", capsys)
    assert (code, sentence in said) == (1, True), said
    assert contents() == before


def test_folder_that_may_not_be_listed_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def locked(path: Any) -> Any:
        if str(path) == "photos/dog":
            raise PermissionError(errno.EACCES, "Permission denied", "photos/dog")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    before = contents()
    code, said = done("ingest", capsys)
    assert (code, "photos/dog: permission denied; give this user the right" in said) == (1, True), said
    assert contents() == before


def test_what_is_broken_among_good_pictures_is_counted_and_named(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = Path("photos/broken")
    (broken / "folder.jpg").mkdir(parents=True)
    for name, content in {
        "empty.jpg": b"", "words.jpg": b"words, not a picture", "cut.jpg": jpeg()[:-200], "bomb.png": bomb(),
        "point.png": png(0, side=1), "locked.png": png(77),
    }.items():  # fmt: skip
        (broken / name).write_bytes(content)
    (broken / "loop.png").symlink_to("loop.png")
    (broken / "up").symlink_to("..")
    os.mkfifo(broken / "pipe.png")
    opened = Path.open

    def locked(path: Path, *mode: Any, **more: Any) -> Any:
        if path.name == "locked.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *mode, **more)

    monkeypatch.setattr(Path, "open", locked)
    caplog.set_level(logging.INFO)
    assert done("ingest", capsys)[0] == 0
    counts = json.loads((layout.corpus("photos") / "manifest.json").read_text())["counts"]
    assert counts["kept"] == 40
    assert counts["rejected"] == {
        "broken_link": 2, "empty": 1, "not_a_picture": 1, "permission_denied": 1, "too_many_pixels": 1, "too_small": 1,
        "truncated": 1, "unknown_format": 1,
    }  # fmt: skip
    assert "ingest photos: 40 of 48 records kept; left out: " in caplog.text
    for named in (
        "1 truncated (photos/broken/cut.jpg, row 1)",
        "1 too many pixels (photos/broken/bomb.png, row 1)",
    ):
        assert named in caplog.text


def test_pictures_that_show_nothing_stop_before_training(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_black()
    write(corpus(**{"from": "photos", "duplicates": {"exact": False, "near": False}}))
    assert done("ingest", capsys)[0] == 0
    before = contents()
    code, said = done("validate", capsys)
    assert code == stage.VALIDATION_FAILED
    assert "general, records: is_blank must be false" in said
    assert "Nothing can be learnt from empty pictures: remove them" in said
    assert {path: content for path, content in contents().items() if "validated" not in path.parts} == {
        path: content for path, content in before.items() if "validated" not in path.parts
    }
