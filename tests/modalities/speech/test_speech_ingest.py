"""Recordings in folders, tables, archives and shards, through the whole of ingest."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.config import Columns, Task
from tasks.ingest import ingest
from tasks.modalities.speech.records import CorpusSettings, Duplicates
from tests.modalities.speech.signals import RATE, Sound, film, samples, stored, utterance

CLASSES = ("no", "yes")


def spoken(seed: int) -> Sound:
    """A third of a second or more that resembles no other."""
    return utterance(seed, 0.3 + seed % 4 / 10)


def corpus(*locations: str, **settings: Any) -> CorpusSettings:
    return CorpusSettings(**{"source": locations, "heldout_fraction": 0, "modality": "speech", **settings})


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def rows(folder: Path, pattern: str = "records-*.parquet") -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def folder_of_classes(root: Path, count: int = 6) -> dict[str, bytes]:
    """`no/0.wav`, ... ; their names and bytes."""
    found = {}
    for number, name in enumerate(CLASSES * count):
        path = root / name / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored(spoken(number)))
        found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def packed(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


def as_folder(root: Path) -> str:
    folder_of_classes(root / "said")
    return str(root / "said")


def as_tar(root: Path) -> str:
    return packed(root / "said.tar", folder_of_classes(root / "said"))


def table(root: Path) -> list[dict[str, Any]]:
    found = folder_of_classes(root / "said")
    return [{"path": f"said/{name}", "label": name.partition("/")[0]} for name in found]


def as_csv(root: Path) -> str:
    listed = table(root)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label"])
        writer.writeheader()
        writer.writerows(listed)
    return str(root / "table.csv")


def as_json_lines(root: Path) -> str:
    lines = [{"audio_path": row["path"], "label": row["label"]} for row in table(root)]
    (root / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(root / "table.jsonl")


def as_parquet_of_paths(root: Path) -> str:
    pq.write_table(pa.Table.from_pylist(table(root)), root / "table.parquet")
    return str(root / "table.parquet")


def as_hub_parquet(root: Path) -> str:
    """The layout of Hugging Face: {bytes, path}, class numbers, their names in the schema."""
    listed = [
        {
            "audio": {"bytes": (root / row["path"]).read_bytes(), "path": row["path"]},
            "label": CLASSES.index(row["label"]),
        }
        for row in table(root)
    ]
    features = {"audio": {"_type": "Audio"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.Table.from_pylist(listed).replace_schema_metadata(metadata), root / "hub.parquet")
    return str(root / "hub.parquet")


def as_bytes_parquet(root: Path) -> str:
    listed = [{"wav": (root / row["path"]).read_bytes(), "label": row["label"]} for row in table(root)]
    pq.write_table(pa.Table.from_pylist(listed), root / "bytes.parquet")
    return str(root / "bytes.parquet")


def as_webdataset(root: Path) -> str:
    members = {}
    for number, (name, content) in enumerate(folder_of_classes(root / "said").items()):
        members[f"{number:06d}.wav"] = content
        members[f"{number:06d}.cls"] = name.partition("/")[0].encode()
    return packed(root / "shard-000.tar", members)


LAYOUTS = [
    as_folder, as_tar, as_csv, as_json_lines, as_parquet_of_paths, as_hub_parquet, as_bytes_parquet, as_webdataset,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_recordings_and_classes(
    layout: Callable[[Path], str], tmp_path: Path
) -> None:
    location = layout(tmp_path)
    task = Task(source=location, fractions=(0.5, 0.25, 0.25))
    ingest("mine", corpus(location, tasks={"answer": task}), tmp_path / "out")
    expected = {spoken(number).tobytes(): name for number, name in enumerate(CLASSES * 6)}
    kept = rows(tmp_path / "out")
    assert sorted(samples(row).tobytes() for row in kept) == sorted(expected)
    assert {row["seconds"] for row in kept} == {0.3, 0.4, 0.5, 0.6}
    labelled = rows(tmp_path / "out", "tasks/answer/*.parquet")
    assert {samples(row).tobytes(): row["label"] for row in labelled} == expected
    assert manifest(tmp_path / "out")["tasks"]["answer"]["labels"] == ["no", "yes"]


def test_fields_of_the_path_by_a_pattern_and_no_speaker_on_both_sides(tmp_path: Path) -> None:
    members = {
        f"{number % 2}_{speaker}_{number}.wav": stored(spoken(number * 10 + at))
        for at, speaker in enumerate(("ann", "ben", "cem", "dan", "eve", "flo"))
        for number in range(4)
    }
    task = Task(source=packed(tmp_path / "said.tar", members), columns=Columns(group="group"))
    pattern = r"(?P<label>\d)_(?P<group>[a-z]+)_\d+"
    ingest("mine", corpus(pattern=pattern, tasks={"digit": task}), tmp_path / "out")
    sides = {
        split: {row["group"] for row in rows(tmp_path / "out", f"tasks/digit/{split}.parquet")}
        for split in ("train", "validation", "test")
    }
    assert set().union(*sides.values()) == {"ann", "ben", "cem", "dan", "eve", "flo"}
    assert sum(map(len, sides.values())) == 6
    assert manifest(tmp_path / "out")["tasks"]["digit"]["labels"] == ["0", "1"]


def test_the_same_samples_in_other_formats_are_read_once_and_those_at_another_level_too(
    tmp_path: Path,
) -> None:
    folder_of_classes(tmp_path / "said")
    for number in range(12):
        path = tmp_path / "said" / f"again{number}"
        path.with_suffix(".flac").write_bytes(stored(spoken(number), "FLAC"))
        path.with_suffix(".wav").write_bytes(stored(spoken(number) // 3))
    kept = {}
    for name, rules in {"all": Duplicates(), "exact": Duplicates(near=False), "none": Duplicates(exact=False, near=False)}.items():  # fmt: skip
        ingest("mine", corpus(str(tmp_path / "said"), duplicates=rules), tmp_path / name)
        counts = manifest(tmp_path / name)["counts"]
        kept[name] = counts["kept"], counts["exact_duplicates"], counts["near_duplicates"]
    assert kept["all"][:2] == (36 - 12 - kept["all"][2], 12)
    assert kept["all"][2] >= 11
    assert kept["exact"] == (24, 12, 0)
    assert kept["none"] == (36, 0, 0)


def test_ids_follow_the_samples_and_pieces_count_on_from_a_given_one(tmp_path: Path) -> None:
    found = folder_of_classes(tmp_path / "said", count=1)
    for name in found:
        (tmp_path / "other").mkdir(exist_ok=True)
        content = stored(spoken(int(Path(name).stem)), "FLAC")
        (tmp_path / "other" / f"{Path(name).stem}.flac").write_bytes(content)
    for name in ("said", "other"):
        ingest("mine", corpus(str(tmp_path / name)), tmp_path / f"{name}-out")
    ids = [{row["id"] for row in rows(tmp_path / f"{name}-out")} for name in ("said", "other")]
    assert len(ids[0]) == 2
    assert ids[0] == ids[1]
    (tmp_path / "table.csv").write_text("path,name\nsaid/no/0.wav,short\nlong.wav,long\n")
    (tmp_path / "long.wav").write_bytes(stored(utterance(50, 3)))
    columns = Columns(id="name")
    ingest("mine", corpus(str(tmp_path / "table.csv"), columns=columns, max_seconds=1.2), tmp_path / "given")
    assert [row["id"] for row in rows(tmp_path / "given")] == [
        "short",
        "long-0",
        "long-1",
        "long-2",
        "long-3",
    ]


def test_pieces_of_one_recording_stay_on_one_side_where_a_group_says_so(tmp_path: Path) -> None:
    members = {f"{number}.wav": stored(utterance(number, 4)) for number in range(12)}
    rules = {"pattern": r"(?P<group>\d+)", "columns": Columns(group="group"), "max_seconds": 1.0}
    location = packed(tmp_path / "said.tar", members)
    ingest("mine", corpus(location, heldout_fraction=0.4, **rules), tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) >= 48
    sides = {(row["group"], row["split"]) for row in found}
    assert len(sides) == 12
    assert {split for _, split in sides} == {"train", "heldout"}


def test_the_same_recordings_give_the_same_bytes_however_many_threads_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_classes(tmp_path / "said", 20)
    for cores in (1, 7):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: set(range(cores)))
        ingest("mine", corpus(str(tmp_path / "said"), max_seconds=0.35), tmp_path / f"{cores}")
    for path in (tmp_path / "1").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "7" / path.relative_to(tmp_path / "1")).read_bytes()


def test_what_was_done_to_recordings_is_counted(tmp_path: Path) -> None:
    (tmp_path / "said").mkdir()
    both = utterance(1).reshape(-1, 1).repeat(2, 1)
    for name, content in {
        "a.wav": stored(utterance(0, rate=8000), rate=8000), "b.wav": stored(both), "c.wav": stored(utterance(2, 3)),
        "d.mkv": film(utterance(3), "matroska"), "e.ogg": stored(utterance(4)),
    }.items():  # fmt: skip
        (tmp_path / "said" / name).write_bytes(content)
    ingest("mine", corpus(str(tmp_path / "said"), max_seconds=2), tmp_path / "out")
    counts = manifest(tmp_path / "out")["counts"]
    assert counts["remarks"] == {"channels_mean": 1, "cut": 1, "resampled": 1, "wrong_extension": 1}
    assert (counts["read"], counts["kept"]) == (5, 6)
    assert {row["rate_hz"] for row in rows(tmp_path / "out")} == {8000, RATE}
