"""From a result back to its raw files, and every byte that changed on the way is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows import trace, verify, workspaces
from flows.past import Project
from flows.trace import Subject
from tasks.errors import InputError
from tests.flows import toy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("trace") / "toy")
    command = [sys.executable, "-m", "dvc", "repro", "-q", "report@toy"]
    subprocess.run(command, cwd=folder, env=toy.environment(folder, UNMASK_TRACKING="off"), check=True)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil, times of files included."""
    subprocess.run(["cp", "-a", str(made), str(tmp_path / "toy")], check=True)
    return tmp_path / "toy"


def faults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder)
    return [*verify.faults(Project(folder), "report@toy")]


def test_chain_leads_from_the_report_to_the_raw_file(folder: Path) -> None:
    told = "\n".join(trace.tell(Project(folder), Subject("toy")))
    stages = re.findall(r"^(\w+@\w+|list)$", told, re.MULTILINE)
    assert stages == ["report@toy", "finetune@toy", "pretrain@toy", "ingest@a", "list"]
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()
    assert head in told
    assert "read              raw.txt, MIT" in told
    assert re.search(r"made +runs/toy/pretrain, \d+ bytes, md5 [0-9a-f]{32}\.dir", told)
    assert '"steps": 3' in told
    assert told.endswith("again             dvc repro report@toy")


def test_untouched_project_has_no_faults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(folder, monkeypatch) == []


def cached(folder: Path, path: str) -> Path:
    project = Project(folder)
    outs = [out for stage in project.stages.values() for out in stage.get("outs", ()) if "md5" in out]
    files = {name: md5 for out in outs for name, md5 in project.objects(out).items()}
    return project.cached(files[path])


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_changed_raw_file_is_named_though_its_size_and_time_are_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "raw.txt").stat()
    spoil(folder / "raw.txt")
    os.utime(folder / "raw.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert faults(folder, monkeypatch) == ["raw.txt: changed since a was read"]


def test_touched_raw_file_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "raw.txt").touch()
    assert faults(folder, monkeypatch) == []


def test_changed_setting_and_a_file_too_many_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("steps: 3}", "steps: 4}"))
    (folder / "runs" / "toy" / "pretrain" / "more").write_text("")
    assert faults(folder, monkeypatch) == [
        "runs/toy/pretrain/more: pretrain@toy has not made it",
        "params.yaml, recipes.toy.pretrain: changed since pretrain@toy ran",
    ]


def test_chain_that_was_made_anew_in_the_middle_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "raw.txt").write_text("two")
    command = [sys.executable, "-m", "dvc", "repro", "-q", "ingest@a"]
    subprocess.run(command, cwd=folder, env=toy.environment(folder, UNMASK_TRACKING="off"), check=True)
    said = "data/corpora/a: was made anew since pretrain@toy ran, and is not what it read"
    assert said in faults(folder, monkeypatch)
    assert f"  BUT {said}" in [*trace.tell(Project(folder), Subject("toy"))]


def test_broken_list_of_files_in_the_cache_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(folder)
    (out,) = (out for out in project.stages["pretrain@toy"]["outs"] if out["path"] == "runs/toy/pretrain")
    spoil(project.cached(out["md5"]))
    assert (
        f"runs/toy/pretrain: the cache's list of its files was changed ({project.cached(out['md5'])})"
        in faults(folder, monkeypatch)
    )


def test_run_of_mlflow_that_does_not_lie_here_is_not_passed_off(folder: Path) -> None:
    with pytest.raises(InputError, match="is not of that run of MLflow"):
        [*trace.tell(Project(folder), Subject("toy", last="pretrain", run_id="0" * 32))]


@pytest.mark.parametrize(
    "path", ["data/corpora/a/rows", "runs/toy/pretrain/model", "runs/toy/report/report.html"]
)
def test_changed_byte_of_a_result_is_named(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / path).unlink()  # it may be the cache's own file by another name
    (folder / path).write_bytes(cached(folder, path).read_bytes())
    spoil(folder / path)
    (found,) = faults(folder, monkeypatch)
    assert found.startswith(f"{path}: is not what ")


def test_changed_byte_in_the_cache_and_a_lost_file_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = cached(folder, "runs/toy/pretrain/model"), cached(folder, "data/corpora/a/rows")
    spoil(model)
    rows.unlink()
    found = [line for line in faults(folder, monkeypatch) if "is not what" not in line]
    assert found == [
        "data/corpora/a/rows: not in the cache here; dvc pull ingest@a, or make it again",
        f"runs/toy/pretrain/model: the cache's copy was changed ({model})",
    ]


def test_changed_code_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "stage.py").open("a") as file:
        file.write("# another line")
    assert "stage.py: changed since pretrain@toy ran" in faults(folder, monkeypatch)


def test_branch_of_a_run_is_traced_though_the_folder_went_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_SCRATCH", str(folder / "scratch"))
    place = workspaces.opened(folder, "id", ["toy"], {"seed": 1})
    branch = workspaces.kept(folder, place, "toy run", "toy run: report@toy")
    workspaces.closed(folder, place)
    (folder / "dvc.lock").unlink()
    monkeypatch.chdir(folder)
    (what,) = trace.subjects(branch, folder)
    assert (branch, what.recipe, what.last) == ("runs/toy-run", "toy", "report")
    project = Project(folder, what.revision)
    told = "\n".join(trace.tell(project, what))
    assert "branch            runs/toy-run" in told
    again = told.rpartition("again             ")[2]
    assert again.startswith(
        f"python -m flows.workspaces {what.revision[:12]} ../toy-again && cd ../toy-again"
    )
    (folder / "raw.txt").rename(folder / "raw.txt.kept")  # what git holds comes with the commit
    env = toy.environment(folder, UNMASK_TRACKING="off")
    done = subprocess.run(again, shell=True, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder.parent / "toy-again" / "runs" / "toy" / "pretrain" / "model").read_text() == "3"
    (folder / "raw.txt.kept").rename(folder / "raw.txt")
    assert [*verify.faults(project, what.address)] == []


@pytest.mark.parametrize(("name", "recipe"), [("toy", "toy"), ("runs/toy/report/report.html", "toy")])
def test_names_of_a_subject(folder: Path, name: str, recipe: str) -> None:
    assert [what.recipe for what in trace.subjects(name, folder)] == [recipe]


def test_branch_of_a_comparison_names_every_recipe(folder: Path) -> None:
    message = "compare-swift-otter: report@toy report@other"
    subprocess.run(["git", *toy.WHO, "commit", "-q", "--allow-empty", "-m", message], cwd=folder, check=True)
    subprocess.run(["git", "branch", "runs/compare-swift-otter"], cwd=folder, check=True)
    found = trace.subjects("runs/compare-swift-otter", folder)
    assert [what.address for what in found] == ["report@toy", "report@other"]


def test_unknown_name_and_stage_that_never_ran(folder: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'toy'"):
        trace.subjects("tyo", folder)
    with pytest.raises(InputError, match="unknown stage 'report@slow'; .*known: report@toy"):
        [*trace.tell(Project(folder), Subject("slow"))]
