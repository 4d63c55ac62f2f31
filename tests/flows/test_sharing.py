"""A worker in another clone takes runs, and what they made comes back to whoever asks for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import sharing, work, worker, workspaces
from flows.access import Access
from tasks.errors import InputError
from tests.flows import toy
from tests.flows.conftest import Project, wait_until

QUEUE = "gpu-box"


def keep_in(store: str, folder: Path) -> None:
    add = ["remote", "add", "-q", "--default", "store", store]
    subprocess.run([sys.executable, "-m", "dvc", *add], cwd=folder, check=True)


def test_run_that_cannot_be_shared_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy.make(tmp_path / "project")
    monkeypatch.setenv(sharing.REMOTE, "elsewhere")
    with pytest.raises(InputError, match="unknown git remote 'elsewhere'; known: "):
        sharing.remote(folder)
    workspaces.git(folder, "remote", "add", "elsewhere", str(tmp_path / "nowhere"))
    monkeypatch.chdir(folder)
    env = toy.environment(folder, UNMASK_TRACKING="off")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "pretrain@toy"], env=env, check=True)
    order = work.Order("", folder, env)
    workspaces.git(folder, "branch", "runs/toy-one")
    with pytest.raises(
        InputError, match=r"(?s)runs/toy-one was not shared.*no remote.*When that is mended: "
    ):
        sharing.share(folder, order, "runs/toy-one", ["pretrain@toy"], print)
    keep_in("../store", folder)
    with pytest.raises(InputError, match="(?s)nowhere' does not appear to be a git repository"):
        sharing.share(folder, order, "runs/toy-one", ["pretrain@toy"], print)
    assert [*(tmp_path / "store").rglob("*.dir")], "its files are there, though its branch is not"


@pytest.mark.parametrize(
    ("api", "tracking", "told"),
    [
        ("", "http://127.0.0.1:9", "PREFECT_API_URL=: export it"),
        (
            "http://127.0.0.1:9/api",
            "sqlite:///mlflow.db",
            "MLFLOW_TRACKING_URI=sqlite:///mlflow.db: export it",
        ),
        ("http://127.0.0.1:9/api", "http://127.0.0.1:9", "nobody answers at http://127.0.0.1:9/api"),
    ],
)
def test_worker_without_servers_says_what_to_do(
    api: str, tracking: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    with pytest.raises(InputError, match=told):
        worker.addresses(Access())


@pytest.fixture
def second(project: Project, tmp_path: Path) -> Iterator[Path]:
    """A clone whose worker takes what is put into its queue, and shares it."""
    folder = tmp_path / "second"
    subprocess.run(["git", "clone", "-q", str(project.folder), str(folder)], check=True)
    keep_in("../store", folder)
    servers = {"PREFECT_API_URL": project.api, "MLFLOW_TRACKING_URI": project.mlflow.uri}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.worker", "--queue", QUEUE],
        cwd=folder, env=toy.environment(folder, UNMASK_REMOTE="origin", **servers),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while "Waiting for runs of queue gpu-box" not in (line := process.stdout.readline()):
        said += line
        assert line, f"the worker ended:\n{said}"
    yield folder
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.servers
def test_run_of_another_clone_is_brought_back_and_traced_to_its_raw_files(
    project: Project, second: Path, tmp_path: Path
) -> None:
    (run,) = project.ended(project.begin("train", recipe="toy", queue=QUEUE))
    assert run["state"]["name"] == "Completed", project.said(run["id"])
    assert (second / "scratch" / "flows" / run["id"]).exists(), "it worked there"
    assert not (project.folder / "scratch" / "flows" / run["id"]).exists()
    branch = f"runs/{run['name']}"
    wait_until(
        lambda: branch in workspaces.git(project.folder, "branch", "--format=%(refname:short)").split()
    )

    third = tmp_path / "third"
    subprocess.run(["git", "clone", "-q", str(project.folder), str(third)], check=True)
    workspaces.git(third, "checkout", f"origin/{branch}", "--", ".dvc/config", "params.yaml", "dvc.lock")
    env = toy.environment(third, MLFLOW_TRACKING_URI=project.mlflow.uri)
    pull = [sys.executable, "-m", "dvc", "pull", "-q", "--with-deps", "report@toy"]
    subprocess.run(pull, cwd=third, env=env, check=True)
    assert (third / "runs/toy/report/report.html").read_text() == "<h1>report</h1>"
    trace = [sys.executable, "-m", "flows.trace", "--verify", branch]
    told = subprocess.run(trace, cwd=third, env=env, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "all of it is here, and as it was\n"), told.stderr
