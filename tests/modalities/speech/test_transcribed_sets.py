"""Recordings with transcripts through the whole of ingest, and what validate says of them."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.settings import Settings
from tasks import sources, validate
from tasks.config import Adapt, Columns, Finetune, Pretrain, Recipe, Report, Task
from tasks.corpora import tables
from tasks.errors import InputError
from tasks.ingest import ingest
from tasks.modalities import Rejected
from tasks.modalities.speech import quality
from tasks.modalities.speech.records import CorpusSettings
from tasks.modalities.speech.records.spelling import spelt
from tests.modalities.speech.signals import stored, utterance

RATE = 4000
SPLITS = ("train", "validation", "test")
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Files = dict[str, bytes | str]


@functools.cache
def wav(seed: int, seconds: float = 0.4) -> bytes:
    return stored(utterance(seed, seconds, RATE), rate=RATE)


@functools.cache
def flac(seed: int) -> bytes:
    return stored(utterance(seed, 0.4, RATE), "FLAC", rate=RATE)


def chapters(*speakers: int, each: int = 2) -> Files:
    """LibriSpeech's layout; the lists stand before the recordings of even speakers, behind those of odd ones."""
    files: Files = {}
    for speaker in speakers:
        names = [f"{speaker}-1-{number:04}" for number in range(each)]
        heard = {f"{speaker}/1/{name}.flac": flac(100 * speaker + at) for at, name in enumerate(names)}
        lines = "".join(f"{name} {WORDS[(speaker + at) % 10].upper()}\n" for at, name in enumerate(names))
        listed: Files = {f"{speaker}/1/{speaker}-1.trans.txt": lines}
        files |= {**listed, **heard} if speaker % 2 == 0 else {**heard, **listed}
    return files


def written(folder: Path, files: Mapping[str, bytes | str]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def tarred(path: Path, files: Mapping[str, bytes | str]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else content.encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def zipped(path: Path, files: Mapping[str, bytes | str]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def corpus(task: Task | Mapping[str, Task], **rules: Any) -> CorpusSettings:
    tasks = {"said": task} if isinstance(task, Task) else dict(task)
    return CorpusSettings(modality="speech", sample_rate_hz=RATE, tasks=tasks, **rules)


def transcribed(**places: Any) -> Task:
    return Task(kind="transcription", **places)


def ingested(folder: Path, corpus: CorpusSettings, task: str = "said") -> tuple[dict[str, set[Any]], Any]:
    """Transcript and group of the rows of each split, and the manifest's entry."""
    ingest("set", corpus, folder)
    entry = json.loads((folder / "manifest.json").read_text())["tasks"][task]
    found = {split: pq.read_table(folder / "tasks" / task / f"{split}.parquet") for split in SPLITS}
    return {
        split: set(zip(table["transcript"].to_pylist(), table["group"].to_pylist(), strict=True))
        for split, table in found.items()
    }, entry


def inspected(folder: Path) -> Any:
    """What validate says of an ingested corpus."""
    recipe = Recipe(
        modality="speech", general="none", domain="none", tasks="set", encoder="none", prepare=Settings(),
        validate=quality.ValidateSettings(min_records=1), pretrain=Pretrain(objective=Settings()),
        adapt=Adapt(), finetune=Finetune(), report=Report(),
    )  # fmt: skip
    return validate.inspect(recipe, {"tasks": folder}, folder / "docs")[0]


def broken(validation: Any, column: str) -> list[dict[str, Any]]:
    return [check for check in validation["checks"] if check["column"] == column and not check["passed"]]


@pytest.mark.parametrize("form", ["folder", "glob", "tar", "zip"])
def test_speakers_of_librispeech_stay_on_one_side_of_the_split(tmp_path: Path, form: str) -> None:
    files = chapters(*range(1, 13))
    where = {
        "folder": lambda: written(tmp_path / "l", files),
        "glob": lambda: written(tmp_path / "l", files) + "/**/*.flac",
        "tar": lambda: tarred(tmp_path / "l.tar.gz", files),
        "zip": lambda: zipped(tmp_path / "l.zip", files),
    }[form]()
    found, entry = ingested(tmp_path / "out", corpus(transcribed(source=where)))
    speakers = [{group for _, group in found[split]} for split in SPLITS]
    assert set.union(*speakers) == {str(speaker) for speaker in range(1, 13)}
    assert sum(map(len, speakers)) == 12
    expected = {(WORDS[(speaker + at) % 10], str(speaker)) for speaker in range(1, 13) for at in (0, 1)}
    assert set.union(*found.values()) == expected
    assert (entry["rejected"], entry["labels"], entry["kind"]) == ({}, [], "transcription")


def test_one_speaker_alone_is_split_recording_by_recording_and_validate_says_so(tmp_path: Path) -> None:
    where = written(tmp_path / "l", chapters(7, each=12))
    found, entry = ingested(tmp_path / "out", corpus(transcribed(source=where)))
    assert all(found.values())
    assert entry["remarks"]["split_within_groups"] == sum(entry["splits"].values()) == 12
    (verdict,) = broken(inspected(tmp_path / "out"), "group_share")
    assert verdict["severity"] == "warning"
    assert verdict["examples"] == [
        "said validation in tasks/said/train", "said test in tasks/said/train", "said test in tasks/said/validation",
    ]  # fmt: skip


def test_groups_that_a_user_names_are_never_split(tmp_path: Path) -> None:
    where = written(tmp_path / "l", chapters(7, each=12))
    with pytest.raises(InputError, match="no row is left for"):
        ingested(tmp_path / "out", corpus(transcribed(source=where, columns=Columns(group="speaker"))))


COMMON_VOICE: Files = {
    "cv/de/train.tsv": 'client_id\tpath\tsentence\tage\nan\ta.wav\t"Wohin?\t\nbo\tb.wav\tDa"hin.\t\nbo\tc.wav\tHalt!\t\n',
    "cv/de/dev.tsv": "client_id\tpath\tsentence\tage\ncy\td.wav\tJa\t\n",
    "cv/de/test.tsv": "client_id\tpath\tsentence\tage\ndi\te.wav\tNein\t\n",
    **{f"cv/de/clips/{name}.wav": wav(number) for number, name in enumerate("abcde")},
}


@pytest.mark.parametrize("is_archive", [False, True])
def test_common_voices_tables_keep_their_splits_speakers_and_quotation_marks(
    tmp_path: Path, is_archive: bool
) -> None:
    if is_archive:
        root = tarred(tmp_path / "cv.tar.gz", COMMON_VOICE) + "!/cv/de"
    else:
        root = written(tmp_path, COMMON_VOICE) + "/cv/de"
    places = {"train": f"{root}/train.tsv", "validation": f"{root}/dev.tsv", "test": f"{root}/test.tsv"}
    found, _ = ingested(tmp_path / "out", corpus(transcribed(**places)))
    assert found == {
        "train": {("wohin", "an"), ("da hin", "bo"), ("halt", "bo")},
        "validation": {("ja", "cy")},
        "test": {("nein", "di")},
    }


def test_what_lies_beside_a_table_is_found_in_clips_only_where_root_says_nothing(tmp_path: Path) -> None:
    where = written(tmp_path, {"t.csv": "path,text\na.wav,yes\n", "clips/a.wav": wav(0)}) + "/t.csv"
    with pytest.raises(InputError, match=r"t\.csv, row 2: nothing can be read at 'a\.wav'"):
        ingest("set", corpus(transcribed(train=where, test=where), root=str(tmp_path)), tmp_path / "out")


def test_a_quotation_over_several_lines_of_tab_separated_values_stays_one(tmp_path: Path) -> None:
    text = 'a\tb\n"one\ntwo"\t1\nthree"\t2\n4\t"five\nsix"\n"7\t8\n'
    path = tmp_path / "t.tsv"
    path.write_text(text)
    (file,) = sources.files(str(path))
    found = [(row["a"], row["b"]) for _, row in tables.tab(file, CorpusSettings())]
    assert found == [("one\ntwo", "1"), ('three"', "2"), ("4", "five\nsix"), ('"7', "8")]


def test_what_has_no_transcript_or_no_recording_is_counted_and_named(tmp_path: Path) -> None:
    files = chapters(*range(1, 13))
    del files["3/1/3-1-0000.flac"]
    files |= {
        "loose.wav": wav(0),
        "odd.wav": wav(1),
        "odd.txt": "\u4e2d",
        "dots.wav": wav(2),
        "dots.txt": "...",
    }
    where = written(tmp_path / "l", files)
    rules = {"missing": "drop", "alphabet": "abcdefghijklmnopqrstuvwxyz"}
    _, entry = ingested(tmp_path / "out", corpus(transcribed(source=where), **rules))
    assert entry["rejected"] == {
        "empty_transcript": 1, "missing": 1, "no_transcript": 1, "outside_the_alphabet": 1,
    }  # fmt: skip
    assert entry["examples"] == {
        "empty_transcript": [f"{where}/dots.wav, row 1"],
        "missing": [f"{where}/3/1/3-1.trans.txt, row 1"],
        "no_transcript": [f"{where}/loose.wav, row 1"],
        "outside_the_alphabet": [f"{where}/odd.wav, row 1"],
    }
    assert sum(entry["splits"].values()) == 23


def test_endings_in_capitals_are_recordings_too(tmp_path: Path) -> None:
    files: Files = {f"{number}.WAV": wav(number) for number in range(8)}
    files |= {f"{number}.txt": WORDS[number] for number in range(8)}
    _, entry = ingested(tmp_path / "out", corpus(transcribed(source=written(tmp_path / "l", files))))
    assert (sum(entry["splits"].values()), entry["rejected"]) == (8, {})


def test_a_text_that_is_named_like_a_table_is_not_what_its_recordings_say(tmp_path: Path) -> None:
    where = (
        written(tmp_path, {"t.csv": "path\na.wav\n", "t.txt": "about the table", "a.wav": wav(0)}) + "/t.csv"
    )
    with pytest.raises(InputError, match=r"t\.csv, row 2: nothing says what is said; its fields: path\."):
        ingest("set", corpus(transcribed(train=where, test=where)), tmp_path / "out")


def test_a_table_in_another_encoding_is_refused_or_read_as_told(tmp_path: Path) -> None:
    files: Files = {f"{number}.wav": wav(number) for number in range(8)}
    lines = "".join(f"{number}.wav,caf\u00e9 {WORDS[number]}\n" for number in range(8))
    where = written(tmp_path / "l", {**files, "t.csv": f"path,text\n{lines}".encode("latin-1")}) + "/t.csv"
    task = transcribed(source=where)
    with pytest.raises(
        InputError, match=r"t\.csv, row 2: the transcript cannot be decoded; write in `encoding`"
    ):
        ingested(tmp_path / "out", corpus(task))
    found, _ = ingested(tmp_path / "out", corpus(task, encoding="latin-1"))
    assert ("caf\u00e9 zero", None) in set.union(*found.values())


def test_the_same_words_of_others_are_no_leak_and_a_speaker_on_both_sides_is_named(tmp_path: Path) -> None:
    train, test = chapters(1, 2, 3), chapters(3, 4)
    for number, name in enumerate(
        sorted(name for name in test if name.startswith("3/") and name.endswith("flac"))
    ):
        test[name] = flac(999 + number)  # says the same again
    folder = tmp_path / "out"
    places = {"train": written(tmp_path / "a", train), "test": written(tmp_path / "b", test)}
    classes = {f"{name}/{seed}.wav": wav(seed) for seed, name in enumerate(WORDS * 3)}
    tasks = {
        "said": transcribed(validation=written(tmp_path / "v", chapters(6)), **places),
        "digit": Task(source=written(tmp_path / "d", classes)),
    }
    found, _ = ingested(folder, corpus(tasks))
    shared = {words for words, _ in found["train"]} & {words for words, _ in found["test"]}
    assert shared == {"three", "four"}
    validation = inspected(folder)
    assert not any(entry["rows"] for entry in validation["leakage"])
    (verdict,) = broken(validation, "group_share")
    assert (verdict["examples"], verdict["observed"]) == (["said test in tasks/said/train"], 1)
    metrics = validation["statistics"]["tasks/said/train"]["metrics"]
    assert metrics["characters"]["max"] == 5
    assert "characters" not in validation["statistics"]["tasks/digit/train"]["metrics"]


def test_a_transcript_that_is_too_long_or_short_for_its_recording_is_reported(tmp_path: Path) -> None:
    files: Files = {f"{number}.wav": wav(number, 1.0) for number in range(16)}
    files |= {f"{number}.txt": "just as many words" for number in range(16)}
    kept, wrong = written(tmp_path / "good", files), tmp_path / "bad"
    written(wrong, {**files, "0.txt": "as many words again " * 3, "1.txt": "of another recording " * 3})
    task = transcribed(train=kept, validation=kept, test=str(wrong))
    ingest("set", corpus(task), tmp_path / "out")
    (verdict,) = broken(inspected(tmp_path / "out"), "characters_per_second")
    assert (verdict["slot"], verdict["unexpected"], verdict["severity"]) == ("tasks/said/test", 2, "warning")


def test_transcripts_are_described_by_length_rate_and_rarest_character() -> None:
    lines = [
        {"id": str(number), "recording": wav(number), "seconds": seconds, "rate_hz": RATE, "samples": str(number),
         "sounds": None, "transcript": text}
        for number, (seconds, text) in enumerate([(2.0, "ab a"), (0.5, "ab"), (1.0, "a q"), (1.0, None)])
    ]  # fmt: skip
    table = pa.Table.from_pylist(lines)
    names = ("characters", "characters_per_second", "rarest_character_count")
    found = quality.describe(table)
    assert [found[name].to_pylist() for name in names] == [
        [4, 2, 3, None], [2.0, 4.0, 3.0, None], [2, 2, 1, None],
    ]  # fmt: skip
    unlabelled = quality.describe(table.drop_columns(["transcript"]))
    assert all(unlabelled[name].null_count == 4 for name in names)


@example("\u0390", "upper", "drop")
@example("a_'b", "lower", "drop")
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.text(st.sampled_from("aB\u00df\u0130\u03a3'\u2019_.-\u0301\ufb01\u00a0 9\u02bc"), min_size=1)
    | st.text(),
    st.sampled_from(("lower", "upper", "keep")),
    st.sampled_from(("drop", "keep")),
)
def test_what_is_spelt_stays_so(text: str, case: str, punctuation: str) -> None:
    rules = CorpusSettings(case=case, punctuation=punctuation)  # type: ignore[arg-type]
    try:
        once = spelt(text, rules, "here")
    except Rejected:
        return
    assert spelt(once, rules, "here") == once


def test_speechbrains_samples_are_read_from_their_table(tmp_path: Path, mirror: Path) -> None:
    samples = mirror / "speech_samples"
    if not samples.is_dir():
        pytest.skip(f"{samples} is missing: real transcripts are left out")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/samples").symlink_to(samples)  # where the paths of the table start
    where = str(samples / "annotation/ASR_train.csv")
    task = transcribed(train=where, validation=where, test=where, columns=Columns(group="spk_id"))
    found, _ = ingested(tmp_path / "out", corpus(task, root=str(tmp_path)))
    assert found["train"] == {
        ("the child almost hurt the small dog", "spk1"),
        ("drop the tue when you add the figures", "spk1"),
    }
