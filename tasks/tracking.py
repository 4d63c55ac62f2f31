"""Every stage as a run in MLflow, without training ever waiting for MLflow; the only file that imports it.

A stage writes what happens to a file (`tasks.journal`, `tasks.spool`). One process per machine and
tracking server, started on demand and gone when there is nothing left to send, reads these files
and calls MLflow. So a server that is slow or away costs the training nothing, a killed stage still
gets its last metrics delivered and its run closed, and importing MLflow (2 s) delays no stage.

Where: `MLFLOW_TRACKING_URI`, else an SQLite file in the scratch folder. `UNMASK_TRACKING=off`
switches tracking off. `python -m tasks.tracking send` delivers what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tasks import layout, spool
from tasks.engine.interrupt import Interrupted
from tasks.journal import Run, masked

PARENT = "UNMASK_PARENT_RUN"
EXPERIMENT = "unmask"
NAME_TAG = "unmask.run"
IDLE_SECONDS = 15.0
GIVE_UP_SECONDS = 60.0
MOST_METRICS = 1000  # MLflow's limits per request
MOST_PARAMS = 100
LONGEST_PARAM = 6000
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
SENDER_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}


# ---------------------------------------------------------------- the side of the stages


def tracking_uri() -> str:
    """Address of the tracking server or database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{layout.scratch() / 'mlflow.db'}"


@contextlib.contextmanager
def stage_run(
    stage: str, name: str, settings: Mapping[str, Any], key: str, *, tags: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """Track one stage as a child of the flow's run, or of one run per recipe where it is started by hand.

    Args:
        stage: the stage.
        name: recipe or corpus.
        settings: what to show as parameters.
        key: hash of command, parameters and inputs. A run with that key that did not finish goes on.
        tags: further words to find the run by, such as DVC's hashes of the inputs.
    """
    parent = os.environ.get(PARENT) or f"by-hand.{name}"
    every = {"stage": stage, "name": name, "stage_key": key, **(tags or {})}
    with _tracked(f"{stage}@{name}-{key[:12]}", f"{stage}@{name}", parent, settings, every) as run:
        run.measure_machine()
        yield run


@contextlib.contextmanager
def flow_run(name: str, settings: Mapping[str, Any], key: str, *, tags: Mapping[str, str]) -> Iterator[Run]:
    """Track a whole flow run; stages under `environment(run)` become its children.

    Args:
        name: what MLflow shows.
        settings: what to show as parameters.
        key: the flow run's id; a retried flow run goes on in the same MLflow run.
        tags: words to find the run by.
    """
    with _tracked(f"flow-{key}", name, "", settings, tags) as run:
        yield run


def environment(run: Run) -> dict[str, str]:
    """Variables for processes whose stages are children of `run`."""
    return {PARENT: run.name, "UNMASK_SCRATCH": str(layout.scratch())} if run.name else {}


@contextlib.contextmanager
def _tracked(
    key: str, title: str, parent: str, settings: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Run]:
    uri = tracking_uri()
    if not _is_on():
        yield Run(None)
        return
    where = spool.folder(uri)
    file = spool.Spool(where, key)
    run = Run(file, watch=lambda: _watch(where, uri))
    tags = {**_lineage(), **tags}
    if run.resumed:
        file.append({"again": True, "t": spool.now()})
    else:
        file.append({"run": title, "parent": parent, "t": spool.now()})
        run.params(settings)
    run.tags(tags)
    _ensure_sender(where, uri)
    status = "FINISHED"
    try:
        yield run
    except Interrupted:
        status = "KILLED"
        raise
    except Exception as error:
        status = "FAILED"
        run.tags({"error": f"{type(error).__name__}: {error}"[:1000]})
        raise
    except BaseException:  # Ctrl-C, cancelled flow
        status = "KILLED"
        raise
    finally:
        run.end(status)
        _ensure_sender(where, uri)


def _is_on() -> bool:
    if os.environ.get("UNMASK_TRACKING", "on").lower() in ("off", "0", "false"):
        return False
    if int(os.environ.get("RANK", "0")):
        return False  # the first of several training processes speaks for all
    if importlib.util.find_spec("mlflow") is None:
        warnings.warn(
            "mlflow is not installed here: nothing is tracked (UNMASK_TRACKING=off says so)", stacklevel=2
        )
        return False
    return True


def _lineage() -> dict[str, str]:
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = git.stdout.strip() if git.returncode == 0 else "unknown"
    from_flow = {
        tag: os.environ[variable]
        for tag, variable in (
            ("prefect.flow_run_id", "UNMASK_FLOW_RUN_ID"),
            ("prefect.url", "UNMASK_FLOW_RUN_URL"),
        )
        if variable in os.environ
    }
    return {"git_commit": commit, "mlflow.source.git.commit": commit, **from_flow}


def _watch(where: Path, uri: str) -> None:
    _ensure_sender(where, uri)
    cause = spool.load(where / "trouble").get("cause")
    if cause and not spool.load(where / "trouble").get("told"):
        spool.store(where / "trouble", {"cause": cause, "told": True})
        print(
            f"MLflow at {masked(uri)} does not answer ({cause}). Training goes on; its metrics are kept in "
            f"{where} and sent when it returns, at the latest by `python -m tasks.tracking send`.",
            file=sys.stderr,
        )


def _ensure_sender(where: Path, uri: str) -> None:
    if not spool.written_by_nobody(where / "sender.lock"):
        return
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, **SENDER_ENVIRONMENT, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": path}
    env["UNMASK_SCRATCH"] = str(layout.scratch())
    env.pop("MLFLOW_RUN_ID", None)
    command = [sys.executable, "-P", "-m", "tasks.tracking", "follow"]
    with (where / "sender.log").open("ab") as log:
        subprocess.run(  # the shell ends at once, so that the sender is nobody's child and leaves no zombie
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            env=env, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            check=True,
        )  # fmt: skip


# ---------------------------------------------------------------- the side of the sender


class Sender:
    """Reads the files of a folder and tells MLflow.

    Args:
        where: folder of the files.
        uri: tracking server or database.
    """

    def __init__(self, where: Path, uri: str) -> None:
        import mlflow

        mlflow.set_tracking_uri(uri)
        self._where, self._uri = where, uri
        self._client = mlflow.MlflowClient(uri)
        self._experiment_id = ""

    def deliver(self, path: Path) -> None:
        """Send what a run's file holds beyond what is sent; remember each step at once."""
        state = spool.load(spool.state_file(path))
        gone = spool.written_by_nobody(path)
        metrics: list[Any] = []
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

    def _send_metrics(self, state: dict[str, Any], metrics: list[Any]) -> None:
        if metrics:
            self._allowing_refusal(lambda: self._client.log_batch(state["run_id"], metrics=metrics))

    def _metrics(self, line: spool.Line) -> list[Any]:
        from mlflow.entities import Metric

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
        from mlflow.exceptions import MlflowException

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
        from mlflow.exceptions import MlflowException

        if not self._experiment_id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            at = (layout.scratch() / "mlartifacts").as_uri() if self._uri.startswith("sqlite:") else None
            with contextlib.suppress(MlflowException):  # it is there, or another machine was faster
                # without the tag MLflow's pages open on traces of language models, not on runs
                kind = {"mlflow.experimentKind": "custom_model_development"}
                self._client.create_experiment(name, at, kind)
            experiment = self._client.get_experiment_by_name(name)
            assert experiment is not None, "made above, or there before"
            self._experiment_id = experiment.experiment_id
        return self._experiment_id

    def _send_params(self, run_id: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(_plain(name), value[:LONGEST_PARAM]) for name, value in params.items()]
        for first in range(0, len(entries), MOST_PARAMS):
            self._client.log_batch(run_id, params=entries[first : first + MOST_PARAMS])

    def _send_tags(self, run_id: str, tags: dict[str, str]) -> None:
        for name, value in tags.items():
            self._client.set_tag(run_id, _plain(name), value)

    def _send_dataset(self, run_id: str, dataset: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

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
        import mlflow
        import pandas as pd

        from tasks import serving

        there = self._client.search_logged_models(
            [self._experiment()], f"source_run_id = '{run_id}' AND name = '{_plain(model['name'])}'"
        )
        if there:
            return
        folder = self._where / model["copy"]
        mlflow.set_experiment(
            experiment_id=self._experiment()
        )  # where a run is given, it still asks for this
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
            pip_requirements=serving.requirements(),
        )


def _serving_code(folder: Path) -> Path:
    from tasks import serving

    code = folder.parent / "unmask_serving.py"
    shutil.copyfile(serving.__file__, code)
    return code


def _signature(kind: str) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    from tasks import serving

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


def _forget_finished(where: Path) -> None:
    waiting = unsent(where)
    for path in where.glob("*.jsonl"):
        finished = spool.load(spool.state_file(path)).get("status") == "FINISHED"
        if finished and path not in waiting and spool.written_by_nobody(path):
            shutil.rmtree(spool.files(path), ignore_errors=True)
            path.unlink(missing_ok=True)
    # the state stays: children that come later, and the record of the stage, ask it for MLflow's id


def unsent(where: Path) -> list[Path]:
    """Files with something that MLflow does not have yet."""
    return [
        path
        for path in sorted(where.glob("*.jsonl"))
        if path.stat().st_size > (state := spool.load(spool.state_file(path))).get("offset", 0)
        or "status" not in state
    ]


def follow(
    where: Path, uri: str, *, idle_seconds: float = IDLE_SECONDS, niceness: int = 0, patience: float = 0.0
) -> bool:
    """Send until nothing was written for a while and no writer is left.

    Args:
        where: folder of the files.
        uri: tracking server or database.
        idle_seconds: how long to wait for another stage when all is sent.
        niceness: by how much to stand back behind training once the first run has its id.
        patience: seconds to wait for another sender that is at work.

    Returns:
        Whether all is sent.
    """
    with (where / "sender.lock").open("a") as lock:
        if not _is_mine(lock, patience):
            return not unsent(where)
        (where / "trouble").unlink(missing_ok=True)
        sender: Sender | None = None
        busy = time.monotonic()
        pause, trouble_since = 0.5, 0.0
        while time.monotonic() - busy < idle_seconds:
            try:
                left = unsent(where)
                for path in left:
                    sender = sender or Sender(where, uri)
                    sender.deliver(path)
                _forget_finished(where)
                if left and niceness:
                    os.nice(niceness)
                    niceness = 0
                (where / "trouble").unlink(missing_ok=True)
                pause, trouble_since = 0.5, 0.0
            except Exception as error:
                trouble_since = trouble_since or time.monotonic()
                pause = min(2 * pause, 10.0)
                _note(where, error)
            alive = any(not spool.written_by_nobody(path) for path in where.glob("*.jsonl"))
            if (
                trouble_since
                and not alive
                and time.monotonic() - trouble_since > min(GIVE_UP_SECONDS, idle_seconds)
            ):
                break
            if alive or unsent(where):
                busy = time.monotonic()
            time.sleep(pause)
        return not unsent(where)


def _is_mine(lock: IO[str], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(0.2)


def _note(where: Path, error: Exception) -> None:
    cause = masked(str(error).splitlines()[0] if str(error) else type(error).__name__)[:300]
    print(f"{type(error).__name__}: {cause}", flush=True)
    known = spool.load(where / "trouble")
    if not known:
        spool.store(where / "trouble", {"cause": cause})


def main() -> int:
    """Command line: `send` delivers what is left and says so; `follow` is what stages start."""
    parser = argparse.ArgumentParser(description="Deliver tracked metrics to MLflow.")
    parser.add_argument("what", choices=["send", "follow"])
    what = parser.parse_args().what
    uri = tracking_uri()
    where = spool.folder(uri)
    where.mkdir(parents=True, exist_ok=True)
    os.environ.update(SENDER_ENVIRONMENT)
    if what == "follow":
        return 0 if follow(where, uri, niceness=10) else 1
    before = len(unsent(where))
    everything = follow(where, uri, idle_seconds=1.0, patience=2 * GIVE_UP_SECONDS)
    left = len(unsent(where))
    print(
        f"{before - left} of {before} runs delivered to {masked(uri)}"
        + (f"; {left} wait in {where}" if left else "")
    )
    return 0 if everything else 1


if __name__ == "__main__":
    sys.exit(main())
