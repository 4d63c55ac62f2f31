"""What people get wrong: each ends in one message that says what to do, a non-zero exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import ingest, layout, prepare, pretrain, stage, validate
from tests.test_params import GOOD

DOCUMENTS = [
    f"document {i} speaks of {word} and of {i * 7} other things"
    for i in range(60)
    for word in ("rain", "sun")
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / ".unmask"))
    monkeypatch.delenv("UNMASK_MIRROR", raising=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS))
    write(tmp_path, GOOD.replace("notes/*.txt", "notes"))
    return tmp_path


def write(project: Path, params: str) -> None:
    (project / "params.yaml").write_text(params, encoding="utf-8")


def corpus(project: Path, entry: str) -> None:
    write(
        project,
        GOOD.replace("notes: {modality: text, from: notes/*.txt}", f"notes: {{modality: text, {entry}}}"),
    )


def run(
    work: stage.Work, inputs: stage.Inputs, name: str, stage_name: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and message of a stage, as from the command line."""
    before = sys.argv
    sys.argv = ["stage", name]
    try:
        with pytest.raises(SystemExit) as left:
            stage.main(stage_name, work, inputs)
    finally:
        sys.argv = before
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return int(left.value.code or 0), said


def ingested(capsys: pytest.CaptureFixture[str], name: str = "notes") -> tuple[int, str]:
    Path("data/listings").mkdir(parents=True, exist_ok=True)
    (layout.listing(name)).write_text("{}")
    return run(ingest.run, ingest.inputs, name, "ingest", capsys)


def task_of(project: Path, rows: list[dict[str, object]], more: str = "") -> None:
    (project / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus(project, f"tasks: {{topic: {{from: labels.jsonl{more}}}}}")


def empty(project: Path) -> str:
    shutil.rmtree(project / "notes")
    (project / "notes").mkdir()
    return "holds no files"


def binary(project: Path) -> str:
    (project / "notes/a.jsonl").unlink()
    (project / "notes/b.txt").write_bytes(bytes(range(256)) * 40)
    corpus(project, "from: notes, binary: error")
    return "b.txt"


def truncated_parquet(project: Path) -> str:
    pq.write_table(pa.table({"text": DOCUMENTS}), project / "notes/b.parquet")
    whole = (project / "notes/b.parquet").read_bytes()
    (project / "notes/b.parquet").write_bytes(whole[: len(whole) // 2])
    return "b.parquet"


def wrong_column(project: Path) -> str:
    corpus(project, "from: notes, columns: {text: body}")
    return "'body'"


def duplicate_ids(project: Path) -> str:
    rows = [{"text": text, "key": i % 50} for i, text in enumerate(DOCUMENTS)]
    (project / "notes/a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus(project, "from: notes, columns: {id: key}")
    return "stands twice"


def one_class(project: Path) -> str:
    task_of(project, [{"text": text, "label": "same"} for text in DOCUMENTS])
    return "one class only (same)"


def missing_label(project: Path) -> str:
    task_of(project, [{"text": t, "label": "a"} if i != 5 else {"text": t} for i, t in enumerate(DOCUMENTS)])
    return "labels.jsonl"


def escaping_archive(project: Path) -> str:
    with tarfile.open(project / "notes/b.tar", "w") as archive:
        archive.add(project / "notes/a.jsonl", arcname="../../outside.jsonl")
    corpus(project, "from: notes/b.tar")
    return "../../outside.jsonl"


def missing_folder(project: Path) -> str:
    corpus(project, "from: nots")
    return "nots"


def no_network(project: Path) -> str:
    corpus(project, "from: 'https://127.0.0.1:9/a.jsonl'")
    return "127.0.0.1"


def checksum_mismatch(project: Path) -> str:
    mirror = project / "mirror/tinyshakespeare"
    mirror.mkdir(parents=True)
    (mirror / "input.txt").write_text("To be, or not to be: that is not the file.")
    os.environ["UNMASK_MIRROR"] = str(project / "mirror")
    corpus(project, "from: 'public://tinyshakespeare/input.txt'")
    return "input.txt"


@pytest.mark.parametrize(
    "spoil",
    [
        empty, binary, truncated_parquet, wrong_column, duplicate_ids, one_class, missing_label, escaping_archive,
        missing_folder, no_network, checksum_mismatch,
    ],
)  # fmt: skip
def test_spoiled_source_is_refused_by_name_and_the_old_records_stay(
    spoil: Callable[[Path], str],
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ingested(capsys)[0] == 0
    before = sorted((path, path.stat().st_size) for path in layout.corpus("notes").rglob("*"))
    monkeypatch.setenv("UNMASK_MIRROR", "")
    named = spoil(project)
    code, said = ingested(capsys)
    assert code == 1
    assert named in said
    assert sorted((path, path.stat().st_size) for path in layout.corpus("notes").rglob("*")) == before


def test_bytes_that_are_no_text_are_counted_not_fatal(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "notes/b.txt").write_bytes("Übermut tut selten gut, ".encode("latin-1") * 20)
    assert ingested(capsys)[0] == 0
    manifest = json.loads((layout.corpus("notes") / "manifest.json").read_text())
    assert manifest["counts"]["encoding_errors"] == 1


def prepared(project: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    for name in ("notes", "none"):
        assert ingested(capsys, name)[0] == 0
    assert run(validate.run, validate.inputs, "mine", "validate", capsys)[0] == 0
    return run(prepare.run, prepare.inputs, "mine", "prepare", capsys)


MINE = GOOD.replace("notes/*.txt", "notes").replace("validate: {}", "validate: {min_records: 1}")


def test_vocabulary_smaller_than_the_alphabet(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, MINE.replace("prepare: {}", "prepare: {tokenizer: {vocabulary_size: 32}}"))
    code, said = prepared(project, capsys)
    assert code == 1
    assert "vocabulary_size" in said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "hidden_size: 32",
            "hidden_size: 24, max_position_embeddings: 64",
            "128 is longer than the 64 positions",
        ),
        ("architecture: bert", "architecture: bort", "unknown architecture 'bort'"),
        ("hidden_size: 32", "hiden_size: 32", "bert has no config field 'hiden_size'"),
        (
            "{architecture: bert, config: {hidden_size: 32}}",
            "{from: nowhere}",
            "cannot load weights from 'nowhere'",
        ),
        ("hidden_size: 32", "hidden_size: 31", "not a multiple"),
        (
            "{architecture: bert, config: {hidden_size: 32}}",
            "{architecture: vit}",
            "vit cannot be built as AutoModelForMaskedLM, which the objective needs",
        ),
    ],
)
def test_encoder_that_does_not_fit(
    old: str, new: str, says: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in MINE
    write(project, MINE)
    assert prepared(project, capsys)[0] == 0
    write(project, MINE.replace(old, new))
    code, said = run(pretrain.run, pretrain.inputs, "mine", "pretrain", capsys)
    assert code == 1
    assert says in said


def test_unknown_recipe_and_corpus_are_refused_with_the_known_ones(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(pretrain.run, pretrain.inputs, "theirs", "pretrain", capsys)
    assert code == 1
    assert "unknown recipe 'theirs'; known: mine" in said
    code, said = run(ingest.run, ingest.inputs, "note", "ingest", capsys)
    assert code == 1
    assert "unknown corpus 'note'; did you mean 'notes'?" in said


def test_deleted_scratch_folder_is_made_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingested(capsys)[0] == 0
    shutil.rmtree(project / ".unmask", ignore_errors=True)
    assert ingested(capsys)[0] == 0


def test_stage_before_its_inputs_names_what_is_missing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(pretrain.run, pretrain.inputs, "mine", "pretrain", capsys)
    assert code == 1
    assert "manifest.json is missing; make it and what comes before with `dvc repro pretrain@mine`" in said
