"""Real Prefect and MLflow servers, started once, and a project for flows to run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flows import toy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def wait_until(happened: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `happened` answers once that is true of anything."""
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.1)
    return value


@dataclass
class Mlflow:
    """A tracking server that can go away and return."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.home / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.home / "artifacts")]
        env = toy.environment(
            self.home, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"
        )
        with (self.home / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: answers(f"{self.uri}/health"), 90)

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, 9)
            self.process.wait()

    def runs(self, where: str = "") -> list[Any]:
        """Runs in the order of their start."""
        client = self.client()
        experiment = client.get_experiment_by_name("unmask")
        return (
            client.search_runs([experiment.experiment_id], where, order_by=["start_time"])
            if experiment
            else []
        )

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)


@dataclass
class Project:
    """A toy project, `make ui` running in it, and flows to start there."""

    folder: Path
    prefect_port: int
    mlflow: Mlflow
    ui: subprocess.Popen[str]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return toy.environment(self.folder, PREFECT_API_URL=self.api, MLFLOW_TRACKING_URI=self.mlflow.uri)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start("-m", "flows.pipeline", *words)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def tried(self, stage: str) -> int:
        """How often a stage was started."""
        return (self.folder / "tried.txt").read_text().splitlines().count(stage)

    def forget(self) -> None:
        """Back to a project in which nothing has run."""
        for name in (
            "data",
            "runs",
            "tried.txt",
            "step.txt",
            "dvc.lock",
            "checkpoint.txt",
            ".dvc/cache",
            ".dvc/tmp",
            "scratch/worktrees",
        ):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        """Prefect's answer, as its web page gets it."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.api}/{path}", data, headers, method=method)

        def answer() -> tuple[Any] | None:
            try:
                with urllib.request.urlopen(request, timeout=30) as reply:
                    return (json.loads(reply.read() or "null"),)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # the database is busy; Prefect's own clients ask again, too
                    raise
                return None

        return wait_until(answer)[0]

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Change something as the web page does."""
        self.ask(path, body, "PATCH")


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = toy.make(tmp_path_factory.mktemp("toy") / "project")
    prefect, mlflow = free_port(), free_port()
    env = toy.environment(folder, UNMASK_PREFECT_PORT=str(prefect), UNMASK_MLFLOW_PORT=str(mlflow))
    command = [sys.executable, "-m", "flows.ui"]
    ui = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    assert ui.stdout is not None
    for line in ui.stdout:
        if "Ctrl-C" in line:
            break
    yield Project(folder, prefect, Mlflow(folder, mlflow), ui)
    ui.terminate()
    ui.communicate(timeout=60)


@pytest.fixture
def project(shared_project: Project) -> Project:
    shared_project.forget()
    return shared_project


@pytest.fixture
def tracked(shared_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    """The running tracking server, as the environment of this test names it."""
    name_server(monkeypatch, tmp_path, shared_project.mlflow.uri)
    return shared_project.mlflow


def name_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str) -> None:
    monkeypatch.setenv("UNMASK_TRACKING", "on")
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("UNMASK_PARENT_RUN", raising=False)
