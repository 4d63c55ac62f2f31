"""From the file to a real MLflow server: exactly once, in order, however often either side goes away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks import delivery, spool, tracking
from tests.flows.conftest import Mlflow, free_port, name_server, wait_until
from tests.tiny import tiny_classifier

pytestmark = pytest.mark.servers

TRAINING = """
import sys, time
from tasks import tracking
first, last = map(int, sys.argv[1:])
with tracking.stage_run("pretrain", "text", {"lr": 0.001}, "crashing") as run:
    for step in range(first, last):
        run.log({"loss": 1 / step, "lr": 0.1}, step)
        if step == 150:
            print("there", flush=True)
            time.sleep(60)
"""


def history(server: Mlflow, run: Any) -> list[tuple[int, float]]:
    return [
        (metric.step, metric.value) for metric in server.client().get_metric_history(run.info.run_id, "loss")
    ]


def finished(server: Mlflow, where: str) -> Any:
    (run,) = wait_until(lambda: server.runs(f"{where} AND attributes.status = 'FINISHED'"), 60)
    return run


def test_killed_process_and_its_successor_are_one_run_without_gap_or_double(tracked: Mlflow) -> None:
    first = subprocess.Popen([sys.executable, "-c", TRAINING, "1", "200"], stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    first.kill()
    first.communicate()
    (killed,) = wait_until(
        lambda: tracked.runs("tags.stage_key = 'crashing' AND attributes.status = 'KILLED'"), 60
    )
    subprocess.run(
        [sys.executable, "-c", TRAINING, "151", "301"], check=True
    )  # from an older checkpoint: 101
    run = finished(tracked, "tags.stage_key = 'crashing'")
    assert run.info.run_id == killed.info.run_id
    assert history(tracked, run) == [(step, 1 / step) for step in range(1, 301)]


def test_all_that_is_said_arrives_under_one_parent_per_recipe(tracked: Mlflow, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<h1>report</h1>")
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "loss.svg").write_text("<svg/>")
    settings = {f"setting{i}": i for i in range(130)} | {"from": "https://me:secret@host/data"}
    for stage in ("prepare", "pretrain"):
        with tracking.stage_run(stage, "whole", settings, "said", tags={"dvc.data/x": "abc.dir"}) as run:
            run.log({"heldout/loss": float("nan"), "f1 (macro)": 0.5}, 0)
            run.dataset("wikitext-2", "d41d8cd98f00b204e9800998ecf8427e.dir", "data/corpora/wikitext-2")
            run.artifact(page)
            run.artifact(plots)
            assert run.id()
    child = finished(tracked, "attributes.run_name = 'pretrain@whole'")
    assert len(child.data.params) == 131
    assert child.data.params["from"] == "https://***@host/data"
    assert child.data.metrics["f1 _macro_"] == 0.5
    assert child.data.tags["dvc.data/x"] == "abc.dir"
    (dataset,) = child.inputs.dataset_inputs
    assert (dataset.dataset.name, len(dataset.dataset.digest)) == ("wikitext-2", 36)
    names = [artifact.path for artifact in tracked.client().list_artifacts(child.info.run_id)]
    assert names == ["plots", "report.html"]
    parent = tracked.client().get_run(child.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == "whole by hand"
    sibling = finished(tracked, "attributes.run_name = 'prepare@whole'")
    assert sibling.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_server_that_is_away_neither_slows_training_nor_loses_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Mlflow(tmp_path, free_port())
    name_server(monkeypatch, tmp_path, server.uri)
    where = spool.folder(server.uri)
    slowest = 0.0
    try:
        with tracking.stage_run("pretrain", "away", {}, "away") as run:
            for step in range(1, 601):
                began = time.perf_counter()
                run.log({"loss": 1 / step}, step)
                slowest = max(slowest, time.perf_counter() - began)
                if step == 200:
                    wait_until(lambda: spool.load(where / "trouble"), 60)
                    server.start()
                if step == 400:
                    wait_until(run.id, 60)
                    server.stop()
                time.sleep(0.002)
        assert len(delivery.unsent(where)) == 1
        server.start()
        said = subprocess.check_output([sys.executable, "-m", "tasks.tracking", "send"], text=True)
        assert f"delivered to {server.uri}\n" in said
        assert history(server, finished(server, "tags.stage_key = 'away'")) == [
            (s, 1 / s) for s in range(1, 601)
        ]
        assert slowest < 0.25
    finally:
        server.stop()


def test_kept_model_answers_texts_with_labels(tracked: Mlflow, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_classifier(folder)
    with tracking.stage_run("finetune", "serving", {}, "serving") as run:
        run.model(folder, "sentiment", {"text": ["good good", "bad"]})
    child = finished(tracked, "tags.stage_key = 'serving'")
    models_logged = tracked.client().search_logged_models(
        [child.info.experiment_id], f"source_run_id = '{child.info.run_id}'"
    )
    (kept,) = models_logged
    program = (
        "import sys, mlflow;"
        "model = mlflow.pyfunc.load_model(sys.argv[1]);"
        "print(model.metadata.get_input_schema().input_names());"
        "print(model.predict([{'text': 'good'}, {'text': 'bad bad'}]).to_json())"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, f"models:/{kept.model_id}"]
    names, answers = subprocess.check_output(command, text=True, cwd=tmp_path).splitlines()
    assert names == "['text']"
    columns = json.loads(answers)
    assert set(columns) == {"label", "score"}
    assert len(columns["label"]) == 2
    assert set(columns["label"].values()) <= {"no", "yes"}
