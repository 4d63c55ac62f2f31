"""A served champion takes up the next one without missing a request, and goes into a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tasks import promote, serve, tracking
from tasks.registry import Registry
from tests.production import Project, begun

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return begun(tmp_path, monkeypatch)


def promoted(project: Project, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    project.run(says)
    project.judged(capsys)
    promote.main(["accept", "notes"])


def test_champion_is_replaced_while_requests_go_on(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(project, "no", capsys)
    champion = serve.Champion(Registry(tracking.tracking_uri()), "notes", "champion")
    client = TestClient(serve.application(champion))

    def answer() -> str:
        reply = client.post("/invocations", json={"inputs": ["good"]})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["predictions"][0]["label"])

    assert (answer(), client.get("/model").json()) == ("no", {"name": "notes", "version": "1"})
    promoted(project, "yes", capsys)
    assert answer() == "no", "nobody has told the server yet"
    heard: list[str] = []
    over = threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            heard.append(answer())

    asking = threading.Thread(target=keep_asking, daemon=True)
    asking.start()
    while not heard:
        assert asking.is_alive()
    told = client.post("/reload").json()
    heard_before = len(heard)
    while len(heard) < heard_before + 5:
        assert asking.is_alive()
    over.set()
    asking.join()
    assert heard[0] == "no"
    assert told == {"name": "notes", "alias": "champion", "version": "2"}
    assert heard[-1] == "yes"
    assert heard == sorted(heard), "first the one, then the other, and never a failure between"

    Registry(tracking.tracking_uri())._client.delete_registered_model_alias("notes", "champion")
    refused = client.post("/reload")
    assert refused.status_code == 503
    assert "notes has no champion" in refused.json()["detail"]
    assert answer() == "yes"


def test_folder_to_take_away_answers_without_this_project(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    promoted(project, "yes", capsys)
    serve.main(["notes", "--take-away", "away"])
    told = (tmp_path / "away" / "README.md").read_text()
    assert "BertForSequenceClassification.from_pretrained(" in told
    program = (
        "import mlflow, sys;"
        "print(mlflow.pyfunc.load_model('away').predict({'text': ['good']})['label'][0]);"
        "assert not [name for name in sys.modules if name.startswith(('tasks.', 'models.'))]"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert (said.returncode, said.stdout.strip()) == (0, "yes"), said.stderr
    with pytest.raises(SystemExit, match="away is there already"):
        serve.main(["notes", "--take-away", "away"])


def test_model_without_champion_is_explained(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("yes")
    project.judged(capsys)
    with pytest.raises(SystemExit, match="notes has no champion; versions that were champion: none"):
        serve.main(["notes"])
