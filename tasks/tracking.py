"""Every stage as a run in MLflow, without training ever waiting for MLflow.

A stage writes what happens to a file (`tasks.journal`, `tasks.spool`). One process per machine and
tracking server, started on demand and gone when there is nothing left to send, reads these files
(`tasks.delivery`) and calls MLflow (`tasks.mlflow_runs`). So a server that is slow or away costs
the training nothing, a killed stage still gets its last metrics delivered and its run closed, and
importing MLflow (2 s) delays no stage.

Where: `MLFLOW_TRACKING_URI`, else an SQLite file in the scratch folder. `UNMASK_TRACKING=off`
switches tracking off. `python -m tasks.tracking send` delivers what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks import delivery, layout, spool
from tasks.engine.interrupt import Interrupted
from tasks.journal import Run, masked

PARENT = "UNMASK_PARENT_RUN"
COMPARED = "compare"  # what runs of a comparison are tagged with, in the place of a stage


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


@contextlib.contextmanager
def comparison_run(comparison: str, name: str, settings: Mapping[str, Any]) -> Iterator[Run]:
    """Track what one of several compared recipes came to, in a run of its own (below the flow's, if any).

    Args:
        comparison: a tag that the runs of one comparison share, and no others.
        name: recipe.
        settings: what to show as parameters.
    """
    parent = os.environ.get(PARENT, "")
    tags = {"stage": COMPARED, "name": name, "comparison": comparison}
    with _tracked(f"compare@{name}-{comparison}", f"compare@{name}", parent, settings, tags) as run:
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
    delivery.ensure_sender(where, uri)
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
        delivery.ensure_sender(where, uri)


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
    delivery.ensure_sender(where, uri)
    cause = spool.load(where / "trouble").get("cause")
    if cause and not spool.load(where / "trouble").get("told"):
        spool.store(where / "trouble", {"cause": cause, "told": True})
        print(
            f"MLflow at {masked(uri)} does not answer ({cause}). Training goes on; its metrics are kept in "
            f"{where} and sent when it returns, at the latest by `python -m tasks.tracking send`.",
            file=sys.stderr,
        )


def delivered(run_id: str, patience: float = 120.0) -> bool:
    """Whether MLflow has all that the run of that id has written; waits for it.

    Args:
        run_id: MLflow's.
        patience: seconds to wait at most.
    """
    uri = tracking_uri()
    where = spool.folder(uri)
    files = [
        path.with_suffix(".jsonl")
        for path in where.glob("*.state")
        if spool.load(path).get("run_id") == run_id
    ]
    deadline = time.monotonic() + patience
    while any(delivery.is_unsent(path) for path in files):
        if time.monotonic() > deadline:
            return False
        delivery.ensure_sender(where, uri)
        time.sleep(0.3)
    return True


def main() -> int:
    """Command line: `send` delivers what is left and says so; `follow` is what stages start."""
    parser = argparse.ArgumentParser(description="Deliver tracked metrics to MLflow.")
    parser.add_argument("what", choices=["send", "follow"])
    what = parser.parse_args().what
    uri = tracking_uri()
    where = spool.folder(uri)
    where.mkdir(parents=True, exist_ok=True)
    os.environ.update(delivery.ENVIRONMENT)
    if what == "follow":
        return 0 if delivery.follow(where, uri, niceness=10) else 1
    before = len(delivery.unsent(where))
    delivery.follow(where, uri, idle_seconds=1.0, patience=2 * delivery.GIVE_UP_SECONDS)
    left = len(delivery.unsent(where))
    print(
        f"{before - left} of {before} runs delivered to {masked(uri)}"
        + (f"; {left} wait in {where}" if left else "")
    )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
