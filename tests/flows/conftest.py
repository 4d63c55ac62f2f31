"""Real Prefect and MLflow servers, started once, and a project for flows to run."""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows import access
from flows.deploy import FLOWS
from tests.flows import toy

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


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


def wait_until(happened: Callable[[], Any], seconds: float = 60.0) -> Any:
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
    credentials: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def pages(self) -> str:
        """Where Prefect's pages are."""
        return f"http://127.0.0.1:{self.prefect_port}/v2"

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
        said, _ = process.communicate(timeout=240)
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

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Prefect's answer, as its web page gets it."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.credentials}
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

    def begin(self, deployment: str, queue: str = "", **parameters: Any) -> str:
        """Ask for a run of a deployment, as the page does; the run's id."""
        number = self.ask(f"deployments/name/{FLOWS[deployment]}/{deployment}")["id"]
        asked: dict[str, Any] = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        asked |= {"work_queue_name": queue} if queue else {}
        return str(self.ask(f"deployments/{number}/create_flow_run", asked)["id"])

    def ended(self, *runs: str, seconds: float = 240) -> list[dict[str, Any]]:
        """The runs of these ids, when all of them are over."""

        found: list[dict[str, Any]] = []

        def over() -> bool:
            found[:] = [self.ask(f"flow_runs/{run}") for run in runs]
            return all(run["state"]["type"] in FINAL for run in found)

        try:
            wait_until(over, seconds)
        except AssertionError:
            told = [(run["name"], run["state"]["name"], self.said(run["id"])[-3:]) for run in found]
            raise AssertionError(f"not over within {seconds} s: {told}") from None
        return found

    def said(self, run: str) -> list[str]:
        """What a run has logged."""
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.ask("logs/filter", asked)]

    def values(self, run: dict[str, Any], recipe: str = "toy") -> set[str]:
        """`pretrain.steps` of a run: what its branch's params.yaml, its dvc.lock and its model say."""
        from ruamel.yaml import YAML

        def kept(name: str) -> Any:
            git = ["git", "-C", str(self.folder), "show", f"runs/{run['name']}:{name}"]
            return YAML(typ="safe").load(subprocess.check_output(git, text=True))

        def cached(md5: str) -> str:
            return (self.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_text()

        made = kept("dvc.lock")["stages"][f"pretrain@{recipe}"]
        (model,) = (out["md5"] for out in made["outs"] if out["path"] == f"runs/{recipe}/pretrain")
        (content,) = (file["md5"] for file in json.loads(cached(model)) if file["relpath"] == "model")
        locked = made["params"]["params.yaml"][f"recipes.{recipe}.pretrain"]["steps"]
        return {
            str(kept("params.yaml")["recipes"][recipe]["pretrain"]["steps"]),
            str(locked),
            cached(content),
        }

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Change something as the web page does."""
        self.ask(path, body, "PATCH")


@contextlib.contextmanager
def serving(folder: Path, **more: str) -> Iterator[Project]:
    """`make ui` in a new toy project.

    Args:
        folder: of the project.
        more: variables of its environment.
    """
    toy.make(folder)
    prefect, mlflow = free_port(), free_port()
    env = toy.environment(folder, UNMASK_PREFECT_PORT=str(prefect), UNMASK_MLFLOW_PORT=str(mlflow), **more)
    command = [sys.executable, "-m", "flows.ui"]
    ui = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    assert ui.stdout is not None
    who = access.Access(user=more.get(access.USER, ""), password=more.get(access.PASSWORD, ""))
    project = Project(folder, prefect, Mlflow(folder, mlflow), ui, who.headers(), more)
    try:
        said = ""
        while "Ctrl-C" not in (line := ui.stdout.readline()):
            said += line
            assert line, f"make ui ended:\n{said}"
        yield project
    finally:  # a test may have started it anew
        project.ui.terminate()
        project.ui.communicate(timeout=60)


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with serving(tmp_path_factory.mktemp("toy") / "project") as project:
        yield project


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
