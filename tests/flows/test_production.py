"""From a run to the champion, through Prefect's pages: asked, approved, refused, gone on from, rolled back."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.flows.conftest import Project, wait_until

pytestmark = pytest.mark.servers
NOTES = "notes"


@pytest.fixture
def source(project: Project) -> Iterator[Project]:
    yield project
    (project.folder / "raw.txt").write_text("one")


def champion(project: Project, name: str = NOTES) -> str | None:
    client = project.mlflow.client()
    found = {model.name: model.aliases for model in client.search_registered_models()}
    return found.get(name, {}).get("champion")


def paused(project: Project, run: str) -> dict[str, Any]:
    """The run, when it waits for a person's word."""

    def waits() -> dict[str, Any] | None:
        found = project.ask(f"flow_runs/{run}")
        assert found["state"]["type"] not in ("FAILED", "CRASHED"), found["state"]["message"]
        return found if found["state"]["type"] == "PAUSED" else None

    return dict(wait_until(waits, 240))


def answer(project: Project, run: str, *, promote: bool) -> str:
    """A person's word, as the page sends it; what became of the run."""
    said = {"run_input": {"promote": promote, "reason": "because"}}
    project.ask(f"flow_runs/{run}/resume", said)
    (over,) = project.ended(run)
    return str(over["state"]["name"])


def verified(project: Project) -> tuple[int, str]:
    """What `trace --verify` says of the champion."""
    command = [sys.executable, "-m", "flows.trace", "--verify", "models:/notes@champion"]
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, text=True
    )
    return done.returncode, done.stdout


def spoil(path: Path) -> None:
    """Turn a byte over; done again, it is as it was."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(bytes(content))


def test_person_decides_who_is_champion_and_retraining_goes_on_from_it(source: Project) -> None:
    project = source
    first = project.begin("train", recipe=NOTES, changes={"finetune.steps": 1})
    paused(project, first)
    asked = project.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [first]}}})
    (question,) = [artifact for artifact in asked if artifact["key"] == "promotion-notes"]
    assert "notes has no champion yet" in question["data"]
    assert champion(project) is None, "nobody has said so"
    assert answer(project, first, promote=True) == "Completed"
    assert champion(project) == "1"
    assert verified(project) == (0, "all of it is here, and as it was\n")
    kept = (project.folder / "scratch" / "mlartifacts").rglob("model.safetensors")
    weights = max(kept, key=lambda path: path.stat().st_mtime)
    spoil(weights)
    code, said = verified(project)
    assert code == 1
    assert said == "models:/notes/1, model.safetensors: not what finetune@notes has made\n"
    spoil(weights)

    second = project.begin("train", recipe=NOTES, changes={"finetune.steps": 2})
    paused(project, second)
    (over,) = project.ended(project.begin("train", recipe=NOTES, changes={"finetune.steps": 2}))
    assert over["state"]["name"] == "Completed", "one question is enough"
    assert answer(project, second, promote=False) == "Completed"
    assert champion(project) == "1", "a person refused the better one"

    accept = [
        sys.executable,
        "-m",
        "tasks.promote",
        "accept",
        NOTES,
        "--version",
        "2",
        "--reason",
        "after all",
    ]
    subprocess.run(accept, cwd=project.folder, env=project.environment, check=True)
    assert champion(project) == "2"
    (over,) = project.ended(project.begin("rollback", model=NOTES))
    assert over["state"]["name"] == "Completed", over["state"]["message"]
    assert champion(project) == "1"

    (project.folder / "raw.txt").write_text("news")
    retrained = project.begin("retrain", recipe=NOTES)
    (over,) = project.ended(retrained)
    assert over["state"]["name"] == "Completed", over["state"]["message"]
    assert champion(project) == "1", "a tie is refused without a question"
    git = ["git", "-C", str(project.folder), "show", f"runs/{over['name']}:params.yaml"]
    settings = YAML(typ="safe").load(subprocess.check_output(git, text=True))
    start = settings["encoders"]["tiny"]["from"]
    assert start.startswith(str(project.folder / "scratch" / "champions"))
    assert (project.folder / start / "weights").read_text() == "adapted from 3"
    assert settings["recipes"][NOTES]["prepare"]["tokenizer"]["from"] == start
    (over,) = project.ended(project.begin("retrain", recipe=NOTES))
    assert over["state"]["name"] == "Nothing new"


def test_several_recipes_come_onto_one_page(project: Project) -> None:
    (over,) = project.ended(project.begin("compare", recipes=["toy", "other"]))
    assert over["state"]["name"] == "Completed", over["state"]["message"]
    shown = {a["key"]: a["data"] for a in project.ask("artifacts/filter", {})}
    assert "| toy " in shown["comparison"]
    assert "| other " in shown["comparison"]
    assert shown["comparison-letter-50"].startswith("data:image/png;base64,")
    (page,) = (project.folder / "scratch" / "pages").glob(f"{over['name']}/comparison.html")
    assert "linear probe with 50 labels: toy reaches 90.0 %, above all others" in page.read_text().replace(
        "\u00a0", " "
    )

    def told() -> list[Any]:
        return list(project.mlflow.runs("tags.stage = 'compare' AND attributes.status = 'FINISHED'"))

    rows = wait_until(lambda: told() if len(told()) == 2 else [])
    assert {run.data.metrics["letter.pretrained.probe.50.accuracy"] for run in rows} == {0.9, 0.5}
    assert len({run.data.tags["mlflow.parentRunId"] for run in rows}) == 1, "below the flow's run"


def test_one_recipe_is_no_comparison(project: Project) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        project.begin("compare", recipes=["toy"])
    assert b"too short" in refusal.value.read() or b"non-empty" in refusal.value.read()
