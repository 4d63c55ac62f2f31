"""What the file of a run says, told to MLflow; the only file that imports it.

Sending twice is harmless: a run is found again by its name, and how far its file is sent stands
beside it (see `tasks.spool`).
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from tasks import layout, serving, spool

NAME_TAG = "unmask.run"
MOST_METRICS = 1000  # MLflow's limits per request
MOST_PARAMS = 100
LONGEST_PARAM = 6000
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


class Sender:
    """Reads the files of a folder and tells MLflow.

    Args:
        where: folder of the files.
        uri: tracking server or database.
    """

    def __init__(self, where: Path, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        self._where, self._uri = where, uri
        self._client = mlflow.MlflowClient(uri)
        self._experiment_id = ""

    def deliver(self, path: Path) -> None:
        """Send what a run's file holds beyond what is sent; remember each step at once."""
        state = spool.load(spool.state_file(path))
        gone = spool.written_by_nobody(path)
        metrics: list[Metric] = []
        for line, end in spool.read(path, state.get("offset", 0)):
            if "m" in line:
                metrics += self._metrics(line)
            if "m" not in line or len(metrics) >= MOST_METRICS - len(line["m"]):
                self._send_metrics(state, metrics)
                metrics = []
                if "m" not in line:
                    self._apply(path, state, line)
            state["offset"] = end
            if not metrics:
                spool.store(spool.state_file(path), state)
        if metrics:
            self._send_metrics(state, metrics)
            spool.store(spool.state_file(path), state)
        if gone and state.get("run_id") and "status" not in state:
            self._end(state, "KILLED", spool.now())
            spool.store(spool.state_file(path), state)

    def _send_metrics(self, state: dict[str, Any], metrics: list[Metric]) -> None:
        if metrics:
            self._allowing_refusal(lambda: self._client.log_batch(state["run_id"], metrics=metrics))

    def _metrics(self, line: spool.Line) -> list[Metric]:
        return [Metric(_plain(name), value, line["t"], line["s"]) for name, value in line["m"].items()]

    def _apply(self, path: Path, state: dict[str, Any], line: spool.Line) -> None:
        if "run" in line:
            state["run_id"] = self._find(path.stem) or self._create(path.stem, line)
            spool.store(spool.state_file(path), state)
        elif "again" in line:
            state.pop("status", None)
            self._client.update_run(state["run_id"], status="RUNNING")
        elif "end" in line:
            self._end(state, line["end"], line["t"])
        else:
            for what in ("params", "tags", "dataset", "artifact", "model"):
                if what in line:
                    send = getattr(self, f"_send_{what}")
                    self._allowing_refusal(lambda: send(state["run_id"], line[what]))  # noqa: B023 - called at once

    def _allowing_refusal(self, send: Any) -> None:
        """Send; what MLflow will never accept is written down and left out, so that the rest follows."""
        try:
            send()
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            print(f"refused: {error}", flush=True)
        except OSError:
            raise
        except Exception as error:  # an input example that a model cannot answer, for one
            print(f"left out: {type(error).__name__}: {error}", flush=True)

    def _find(self, name: str) -> str | None:
        runs = self._client.search_runs([self._experiment()], f"tags.`{NAME_TAG}` = '{name}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _create(self, name: str, line: spool.Line) -> str:
        tags = {NAME_TAG: name, "mlflow.user": getpass.getuser(), "mlflow.source.name": "unmask"}
        if line["parent"] and (parent := self._parent(line["parent"], line["t"])):
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(self._experiment(), line["t"], tags, line["run"])
        return str(run.info.run_id)

    def _parent(self, name: str, began: int) -> str | None:
        path = self._where / f"{name}.jsonl"
        if path.exists():
            self.deliver(path)
        found = spool.load(spool.state_file(path)).get("run_id") or self._find(name)
        if found or not name.startswith("by-hand."):
            return found
        title = name.removeprefix("by-hand.") + " by hand"
        run_id = self._create(name, {"parent": "", "run": title, "t": began})
        self._client.set_terminated(run_id, "FINISHED", began)
        return run_id

    def _end(self, state: dict[str, Any], status: str, when: int) -> None:
        self._client.set_terminated(state["run_id"], status, when)
        state["status"] = status

    def _experiment(self) -> str:
        if not self._experiment_id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", spool.EXPERIMENT)
            at = (layout.scratch() / "mlartifacts").as_uri() if self._uri.startswith("sqlite:") else None
            with contextlib.suppress(MlflowException):  # it is there, or another machine was faster
                # says that it holds runs, not traces of language models
                kind = {"mlflow.experimentKind": "custom_model_development"}
                self._client.create_experiment(name, at, kind)
            experiment = self._client.get_experiment_by_name(name)
            assert experiment is not None, "made above, or there before"
            self._experiment_id = experiment.experiment_id
        return self._experiment_id

    def _send_params(self, run_id: str, params: dict[str, str]) -> None:
        entries = [Param(_plain(name), value[:LONGEST_PARAM]) for name, value in params.items()]
        for first in range(0, len(entries), MOST_PARAMS):
            self._client.log_batch(run_id, params=entries[first : first + MOST_PARAMS])

    def _send_tags(self, run_id: str, tags: dict[str, str]) -> None:
        for name, value in tags.items():
            self._client.set_tag(run_id, _plain(name), value)

    def _send_dataset(self, run_id: str, dataset: dict[str, str]) -> None:
        source = json.dumps({"uri": dataset["source"]})
        entity = Dataset(dataset["name"], dataset["digest"], "local", source, profile=None, schema=None)
        context = InputTag("mlflow.data.context", dataset["context"])
        self._client.log_inputs(run_id, [DatasetInput(entity, [context])])

    def _send_artifact(self, run_id: str, artifact: dict[str, str]) -> None:
        path = self._where / artifact["copy"]
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), str(Path(artifact["folder"]) / path.name))
        else:
            self._client.log_artifact(run_id, str(path), artifact["folder"] or None)

    def _send_model(self, run_id: str, model: dict[str, Any]) -> None:
        import pandas as pd

        there = self._client.search_logged_models(
            [self._experiment()], f"source_run_id = '{run_id}' AND name = '{_plain(model['name'])}'"
        )
        if there:
            return
        folder = self._where / model["copy"]
        mlflow.set_experiment(experiment_id=self._experiment())  # asked for even where a run is given
        examples = pd.DataFrame(model["examples"])
        mlflow.models.Model.log(
            artifact_path=None,
            name=_plain(model["name"]),
            flavor=mlflow.pyfunc,
            run_id=run_id,
            loader_module="unmask_serving",
            data_path=str(folder),
            code_paths=[str(_serving_code(folder))],
            signature=_signature(serving.kind(folder)),
            input_example=examples,
            pip_requirements=serving.requirements(serving.kind(folder)),
        )


def _serving_code(folder: Path) -> Path:
    code = folder.parent / "unmask_serving.py"
    shutil.copyfile(serving.__file__, code)
    return code


def _signature(kind: str) -> ModelSignature:
    words = Array(DataType.string)
    types: dict[str, Any] = {
        "label": "string",
        "score": "double",
        "answer": "string",
        "words": words,
        "tags": words,
    }
    return ModelSignature(
        inputs=Schema([ColSpec("string", name) for name in serving.INPUTS[kind]]),
        outputs=Schema([ColSpec(types[name], name) for name in serving.OUTPUTS[kind]]),
    )


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)[:250]
