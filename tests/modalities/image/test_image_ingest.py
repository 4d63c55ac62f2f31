"""Pictures in folders, tables, archives and shards, through the whole of ingest."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks import sources
from tasks.config import Columns, Task
from tasks.errors import InputError
from tasks.ingest import ingest
from tasks.modalities.image.records import CorpusSettings, Duplicates, gathered

CLASSES = ("cat", "dog")


def png(seed: int, side: int = 16) -> bytes:
    """A picture that resembles no other."""
    coarse = np.random.RandomState(seed).randint(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def corpus(*locations: str, **settings: Any) -> CorpusSettings:
    return CorpusSettings(**{"source": locations, "heldout_fraction": 0, "modality": "image", **settings})


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def rows(folder: Path, pattern: str = "records-*.parquet") -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def folder_of_classes(root: Path, count: int = 6) -> dict[str, bytes]:
    """`cat/0.png`, ... ; their names and bytes."""
    found = {}
    for number, name in enumerate(CLASSES * count):
        path = root / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
        found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def as_folder(root: Path) -> str:
    folder_of_classes(root / "photos")
    return str(root / "photos")


def as_glob(root: Path) -> str:
    folder_of_classes(root / "photos")
    return str(root / "photos" / "*" / "*.png")


def as_tar(root: Path) -> str:
    with tarfile.open(root / "photos.tar.gz", "w:gz") as tar:
        for name, content in folder_of_classes(root / "photos").items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(root / "photos.tar.gz")


def as_zip(root: Path) -> str:
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for name, content in folder_of_classes(root / "photos").items():
            archive.writestr(name, content)
    return str(root / "photos.zip")


def table(root: Path) -> list[dict[str, Any]]:
    found = folder_of_classes(root / "photos")
    return [{"path": f"photos/{name}", "label": name.partition("/")[0]} for name in found]


def as_csv(root: Path) -> str:
    listed = table(root)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label"])
        writer.writeheader()
        writer.writerows(listed)
    return str(root / "table.csv")


def as_json_lines(root: Path) -> str:
    (root / "table.jsonl").write_text("\n".join(map(json.dumps, table(root))))
    return str(root / "table.jsonl")


def as_parquet_of_paths(root: Path) -> str:
    pq.write_table(pa.Table.from_pylist(table(root)), root / "table.parquet")
    return str(root / "table.parquet")


def as_hub_parquet(root: Path) -> str:
    """The layout of Hugging Face: {bytes, path}, class numbers, their names in the schema."""
    listed = [
        {
            "img": {"bytes": (root / row["path"]).read_bytes(), "path": row["path"]},
            "label": CLASSES.index(row["label"]),
        }
        for row in table(root)
    ]
    features = {"img": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    written = pa.Table.from_pylist(listed).replace_schema_metadata(metadata)
    pq.write_table(written, root / "hub.parquet")
    return str(root / "hub.parquet")


def as_bytes_parquet(root: Path) -> str:
    listed = [{"image": (root / row["path"]).read_bytes(), "label": row["label"]} for row in table(root)]
    pq.write_table(pa.Table.from_pylist(listed), root / "bytes.parquet")
    return str(root / "bytes.parquet")


def as_table_in_a_tar(root: Path) -> str:
    """The table stands after its pictures, so they have to be gone through again."""
    as_csv(root)
    with tarfile.open(root / "all.tar", "w") as tar:
        tar.add(root / "photos", "photos")
        tar.add(root / "table.csv", "table.csv")
    return f"{root / 'all.tar'}!/table.csv"


def as_webdataset(root: Path) -> str:
    found = folder_of_classes(root / "photos")
    with tarfile.open(root / "shard-000.tar", "w") as tar:
        for number, (name, content) in enumerate(found.items()):
            label = name.partition("/")[0]
            sample = {"png": content, "cls": label.encode(), "json": json.dumps({"key": number}).encode()}
            for ending, body in sample.items():
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return str(root / "shard-000.tar")


LAYOUTS = [
    as_folder, as_glob, as_tar, as_zip, as_csv, as_json_lines, as_parquet_of_paths, as_hub_parquet, as_bytes_parquet,
    as_table_in_a_tar, as_webdataset,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pictures_and_classes(
    layout: Callable[[Path], str], tmp_path: Path
) -> None:
    location = layout(tmp_path)
    task = Task(source=location, fractions=(0.5, 0.25, 0.25))
    ingest("mine", corpus(location, tasks={"animal": task}), tmp_path / "out")
    expected = {png(number): name for number, name in enumerate(CLASSES * 6)}
    kept = rows(tmp_path / "out")
    assert sorted(row["picture"] for row in kept) == sorted(expected)
    assert {(row["width"], row["height"]) for row in kept} == {(16, 16)}
    labelled = rows(tmp_path / "out", "tasks/animal/*.parquet")
    assert {row["picture"]: row["label"] for row in labelled} == expected
    assert manifest(tmp_path / "out")["tasks"]["animal"]["labels"] == ["cat", "dog"]


def test_a_set_of_the_hub_gives_its_pictures_undecoded_and_its_class_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = folder_of_classes(tmp_path / "acme" / "photos" / "train")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    task = Task(source="hf://acme/photos/train", fractions=(0.5, 0.25, 0.25))
    ingest("mine", corpus(tasks={"animal": task}), tmp_path / "out")
    labelled = rows(tmp_path / "out", "tasks/animal/*.parquet")
    expected = {content: name.partition("/")[0] for name, content in found.items()}
    assert {row["picture"]: row["label"] for row in labelled} == expected


def test_the_same_pictures_give_the_same_bytes_however_many_threads_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_classes(tmp_path / "photos", 100)
    for cores in (1, 7):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: set(range(cores)))
        mine = corpus(str(tmp_path / "photos"), duplicates=Duplicates(near=False))
        ingest("mine", mine, tmp_path / f"{cores}")
    for path in (tmp_path / "1").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "7" / path.relative_to(tmp_path / "1")).read_bytes()
    read = [row["source"] for row in rows(tmp_path / "1")]
    assert read == [file.location for file in sources.files(str(tmp_path / "photos"))]


def test_what_is_broken_is_counted_and_named_and_the_others_are_kept(tmp_path: Path) -> None:
    good = folder_of_classes(tmp_path / "photos")
    broken = tmp_path / "photos" / "broken"
    broken.mkdir()
    (broken / "empty.jpg").write_bytes(b"")
    (broken / "text.jpg").write_text("words, not a picture")
    (broken / "cut.png").write_bytes(png(1)[:100])
    (broken / "tiny.png").write_bytes(png(2, side=1))
    (broken / "notes.docx").write_bytes(b"?")
    (broken / "named.jpg").write_bytes(png(777))
    (broken / "again.png").write_bytes(png(0))
    (broken / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (broken / "self.png").symlink_to(broken / "self.png")
    (broken / "up").symlink_to(tmp_path / "photos")
    counts = ingest("mine", corpus(str(tmp_path / "photos")), tmp_path / "out")
    assert counts["kept"] == len(good) + 1
    found = manifest(tmp_path / "out")["counts"]
    assert found["rejected"] == {
        "broken_link": 2, "empty": 1, "not_a_picture": 1, "too_small": 1, "truncated": 1, "unknown_format": 2,
    }  # fmt: skip
    assert found["exact_duplicates"] == 1
    assert found["remarks"] == {"wrong_extension": 1}
    assert found["examples"]["truncated"] == [f"{tmp_path}/photos/broken/cut.png, row 1"]
    assert f"{tmp_path}/photos/broken/up" in found["examples"]["unknown_format"]


def test_linked_folders_are_read(tmp_path: Path) -> None:
    found = folder_of_classes(tmp_path / "elsewhere")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    assert len([*sources.files(str(tmp_path / "photos"))]) == len(found)
    assert sources.listing(str(tmp_path / "photos"), full_hash=True)


def test_folders_that_link_to_each_other_are_read_once_and_at_their_own_place(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    found = folder_of_classes(photos)
    for name, other in (("cat", "dog"), ("dog", "cat"), ("dog", "..")):
        (photos / name / f"to_{other.strip('.')}").symlink_to(photos / name / ".." / other)
    files = {file.inside for file in sources.files(str(photos))}
    assert files == found.keys() | {"cat/to_dog", "dog/to_cat", "dog/to_"}


def test_of_two_links_to_one_folder_the_first_is_read(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "elsewhere", count=1)
    (tmp_path / "photos").mkdir()
    for name in ("b", "a"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "elsewhere")
    files = [file.inside for file in sources.files(str(tmp_path / "photos"))]
    assert files == ["b", "a/cat/0.png", "a/dog/1.png"]


def test_names_that_are_no_utf8_are_stored_as_escapes(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "photos", count=1)
    (tmp_path / "photos" / os.fsdecode(b"caf\xe9.png")).write_bytes(png(5))
    assert ingest("mine", corpus(str(tmp_path / "photos")), tmp_path / "out")["kept"] == 3
    assert f"{tmp_path}/photos/caf\\xe9.png" in {row["source"] for row in rows(tmp_path / "out")}
    json.dumps(sources.listing(str(tmp_path / "photos"))).encode()


@pytest.mark.parametrize("name", ["photos", "set [2023]"])
def test_first_folders_that_name_splits_are_no_classes(name: str, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder_of_classes(tmp_path / name / split, count=2)
    task = Task(source=str(tmp_path / name))
    ingest("mine", corpus(tasks={"kind": task}), tmp_path / "out")
    found = manifest(tmp_path / "out")["tasks"]["kind"]
    assert found["splits"] == {"train": 4, "validation": 4, "test": 4}
    assert found["labels"] == ["cat", "dog"]


def test_what_a_photo_service_puts_beside_a_picture_is_left_out(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "photos", count=1)
    (tmp_path / "photos" / "cat" / "0.png.json").write_text('{"title": "a cat"}')
    counts = ingest("mine", corpus(str(tmp_path / "photos")), tmp_path / "out")
    assert (counts["kept"], manifest(tmp_path / "out")["counts"]["rejected"]) == (2, {"beside_a_picture": 1})


def archive(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


def test_names_with_dots_in_an_archive_are_not_held_as_one_sample(tmp_path: Path) -> None:
    frames = {f"clip.{number:04}.png": png(number) for number in range(200)}
    waiting = 0

    def counted(files: Iterator[sources.File]) -> Iterator[sources.File]:
        nonlocal waiting
        for file in files:
            waiting += 1
            yield file

    given = counted(sources.files(archive(tmp_path / "frames.tar", frames)))
    most = 0
    for number, _ in enumerate(gathered(given), start=1):
        most = max(most, waiting - number)
    assert number == 200
    assert most <= 65


def test_a_picture_in_a_shard_comes_before_a_path_in_its_json(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(3):
        members |= {f"{number}.png": png(number), f"{number}.json": b'{"path": "orig/0.jpg", "label": "cat"}'}
    counts = ingest("mine", corpus(archive(tmp_path / "shard.tar", members)), tmp_path / "out")
    assert counts["kept"] == 3


def test_near_duplicates_are_left_out_where_the_corpus_says_so(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "photos")
    for number in range(12):
        image = Image.open(io.BytesIO(png(number))).convert("RGB")
        image.save(tmp_path / "photos" / f"again{number}.jpg", quality=95)
    kept = {}
    for near in (True, False):
        rules = Duplicates(near=near)
        kept[near] = ingest("mine", corpus(str(tmp_path / "photos"), duplicates=rules), tmp_path / "out")[
            "kept"
        ]
    assert kept[False] == 24
    assert kept[True] <= 14


def test_fields_of_the_path_by_a_pattern(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "photos" / ("train", "val", "test")[number % 3] / f"cat{number % 2}_p{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    pattern = r"(?P<split>\w+)/(?P<label>[a-z]+\d)_(?P<patient>p\d+)"
    columns = Columns(split="split", group="patient")
    task = Task(source=str(tmp_path / "photos"), columns=columns)
    ingest("mine", corpus(pattern=pattern, tasks={"kind": task}), tmp_path / "out")
    found = manifest(tmp_path / "out")["tasks"]["kind"]
    assert found["splits"] == {"train": 8, "validation": 8, "test": 8}
    assert found["labels"] == ["cat0", "cat1"]
    assert {row["group"] for row in rows(tmp_path / "out", "tasks/kind/train.parquet")} == {
        f"p{number}" for number in range(0, 24, 3)
    }


def test_equal_pictures_under_different_labels_are_counted_and_named(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "photos")
    (tmp_path / "photos/dog/wrong.png").write_bytes(png(0))
    task = Task(source=str(tmp_path / "photos"))
    ingest("mine", corpus(tasks={"animal": task}), tmp_path / "out")
    found = manifest(tmp_path / "out")["tasks"]["animal"]
    assert found["conflicting_labels"] == 1
    (named,) = found["examples"]["conflicting_label"]
    assert "wrong.png" in named


def test_pictures_with_masks_for_segmentation(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(30):
        image = Image.open(io.BytesIO(png(number))).convert("RGB")
        image.putalpha(Image.new("L", image.size, 255 * (number % 2)))
        image.save(tmp_path / "photos" / f"{number}.png")
    task = Task(kind="segmentation", source=str(tmp_path / "photos"))
    ingest("mine", corpus(tasks={"front": task}), tmp_path / "out")
    found = rows(tmp_path / "out", "tasks/front/*.parquet")
    assert len(found) == 30
    values = {int(np.asarray(Image.open(io.BytesIO(row["mask"]))).max()) for row in found}
    assert values == {0, 1}
    folder_of_classes(tmp_path / "plain")
    with pytest.raises(InputError, match="has no mask"):
        ingest(
            "mine",
            corpus(tasks={"front": Task(kind="segmentation", source=str(tmp_path / "plain"))}),
            tmp_path / "o",
        )


def empty_folder(root: Path) -> tuple[CorpusSettings, str]:
    (root / "photos").mkdir()
    return corpus(str(root / "photos")), "the folder holds no files"


def one_class(root: Path) -> tuple[CorpusSettings, str]:
    for number in range(20):
        (root / "photos" / "cat").mkdir(parents=True, exist_ok=True)
        (root / "photos" / "cat" / f"{number}.png").write_bytes(png(number))
    return corpus(tasks={"animal": Task(source=str(root / "photos"))}), r"one class only \(cat\)"


def no_classes(root: Path) -> tuple[CorpusSettings, str]:
    (root / "photos").mkdir()
    (root / "photos" / "a.png").write_bytes(png(0))
    return corpus(tasks={"animal": Task(source=str(root / "photos"))}), "one sub-folder per class"


def only_text(root: Path) -> tuple[CorpusSettings, str]:
    (root / "a.jpg").write_text("words")
    return corpus(str(root / "a.jpg")), "no record is left of 1 .*1 not a picture .*a.jpg, row 1"


def only_single_pixels(root: Path) -> tuple[CorpusSettings, str]:
    (root / "a.png").write_bytes(png(0, side=1))
    return corpus(str(root / "a.png")), "1 too small"


def truncated_and_strict(root: Path) -> tuple[CorpusSettings, str]:
    (root / "a.png").write_bytes(png(0)[:90])
    return corpus(str(root / "a.png"), unreadable="error"), "a.png, row 1: the picture is left out: truncated"


def all_black(root: Path) -> tuple[CorpusSettings, str]:
    (root / "photos").mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16)).save(root / "photos" / f"{number}.png")
    return corpus(str(root / "photos"), heldout_fraction=0.1), "none of its 1 records fell into 'heldout'"


def missing_path(root: Path) -> tuple[CorpusSettings, str]:
    location = as_csv(root)
    (root / "photos/dog/1.png").unlink()
    return corpus(location), r"table.csv, row 3: nothing can be read at 'photos/dog/1.png'.*missing: drop"


def empty_path(root: Path) -> tuple[CorpusSettings, str]:
    (root / "table.csv").write_text("path,label\n,cat\n")
    return corpus(str(root / "table.csv")), "table.csv, row 2: holds '', neither a path nor bytes"


def missing_member(root: Path) -> tuple[CorpusSettings, str]:
    with zipfile.ZipFile(root / "all.zip", "w") as archive:
        archive.writestr("table.csv", "path\na.png\n")
    return corpus(f"{root / 'all.zip'}!/table.csv"), "row 2: the archive has no 'a.png'"


def other_member(root: Path) -> tuple[CorpusSettings, str]:
    return corpus(f"{as_zip(root)}!/table.csv"), "the archive has no such member"


def wrong_column(root: Path) -> tuple[CorpusSettings, str]:
    columns = Columns(image="photo")
    return corpus(as_hub_parquet(root), columns=columns), "has no field 'photo'.*its fields: img, label"


def no_column(root: Path) -> tuple[CorpusSettings, str]:
    pq.write_table(pa.table({"text": ["a"]}), root / "a.parquet")
    return corpus(str(root / "a.parquet")), "its fields: text. Name it in `columns.image`"


def escaping_archive(root: Path) -> tuple[CorpusSettings, str]:
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("../../outside.png", png(0))
    return corpus(str(root / "a.zip")), "points outside the archive"


def bad_pattern(root: Path) -> tuple[CorpusSettings, str]:
    return corpus(as_folder(root), pattern="(?P<label"), "is not a regular expression"


def bad_sidecar(root: Path) -> tuple[CorpusSettings, str]:
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("0.png", png(0))
        archive.writestr("0.json", "{")
    return corpus(str(root / "a.zip")), "0.json: is not JSON"


BAD = [
    empty_folder, one_class, no_classes, only_text, only_single_pixels, truncated_and_strict, all_black, missing_path,
    empty_path, missing_member, other_member, wrong_column, no_column, escaping_archive, bad_pattern, bad_sidecar,
]  # fmt: skip


@pytest.mark.parametrize("spoil", BAD)
def test_bad_input_ends_in_one_sentence_and_nothing_is_left_behind(
    spoil: Callable[[Path], tuple[CorpusSettings, str]], tmp_path: Path
) -> None:
    settings, sentence = spoil(tmp_path)
    with pytest.raises(InputError, match=sentence):
        ingest("mine", settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_without_pictures_are_left_out_where_the_corpus_says_so(tmp_path: Path) -> None:
    location = as_csv(tmp_path)
    (tmp_path / "photos/dog/1.png").unlink()
    ingest("mine", corpus(location, missing="drop"), tmp_path / "out")
    found = manifest(tmp_path / "out")["counts"]
    assert (found["kept"], found["rejected"]) == (11, {"missing": 1})


@pytest.mark.mirror
def test_cifar_and_emoji_have_their_counts(mirror: Path, tmp_path: Path) -> None:
    test = "public://cifar10/test-00000-of-00001.parquet"
    settings = corpus(test, tasks={"object": Task(source=test)}, max_records=1000)
    ingest("cifar", settings, tmp_path / "cifar")
    found = manifest(tmp_path / "cifar")["tasks"]["object"]
    assert sum(found["splits"].values()) == 10_000
    assert found["labels"][:3] == ["airplane", "automobile", "bird"]
    table = "public://emoji/emoji.tar!/pairs.csv"
    columns = Columns(label="group")
    ingest("emoji", corpus(table, tasks={"group": Task(source=table, columns=columns)}), tmp_path / "emoji")
    counts = manifest(tmp_path / "emoji")["counts"]
    assert counts["read"] == 1644
    assert counts["exact_duplicates"] == 5
