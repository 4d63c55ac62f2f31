"""A project of five stages that take no time, for flows to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PARAMS = """
corpora: {a: {}}
recipes:
  toy: {pretrain: {steps: 3, fail: 0}}
  slow: {pretrain: {steps: 3000, fail: 0}}
  broken: {pretrain: {steps: 3, fail: 3}}
"""

DVC = """
stages:
  list:
    cmd: python stage.py list all
    always_changed: true
    outs: [{data/listings: {cache: false}}]
  ingest:
    foreach: [a]
    do:
      cmd: python stage.py ingest ${item}
      deps: [data/listings/a.json]
      outs: ["data/corpora/${item}"]
  pretrain:
    foreach: [toy, slow, broken]
    do:
      cmd: python stage.py pretrain ${item}
      deps: [data/corpora/a]
      params: ["recipes.${item}.pretrain"]
      outs: ["runs/${item}/pretrain", "runs/${item}/pretrain.record.json"]
      metrics: [{"runs/${item}/pretrain.metrics.json": {cache: false}}]
  report:
    foreach: [toy, slow, broken]
    do:
      cmd: python stage.py report ${item}
      deps: ["runs/${item}/pretrain"]
      outs: ["runs/${item}/report"]
"""

STAGE = """
import json, pathlib, signal, sys, time
import yaml
from tasks import tracking

stage, name = sys.argv[1:]
tried = pathlib.Path("tried.txt")
with tried.open("a") as file:
    file.write(f"{stage}@{name}\\n")
if stage == "list":
    pathlib.Path("data/listings").mkdir(parents=True)
    pathlib.Path("data/listings/a.json").write_text(pathlib.Path("raw.txt").read_text())
elif stage == "ingest":
    pathlib.Path("data/corpora/a").mkdir(parents=True)
    pathlib.Path("data/corpora/a/rows").write_text(pathlib.Path("raw.txt").read_text())
elif stage == "pretrain":
    settings = yaml.safe_load(open("params.yaml"))["recipes"][name]["pretrain"]
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    if settings["fail"]:
        print("unmask: the data broke a hard expectation")
        sys.exit(settings["fail"])
    out = pathlib.Path("runs") / name
    with tracking.stage_run(stage, name, settings, "key-of-" + name) as run:
        for step in range(1, settings["steps"] + 1):
            print(f"step {step}/{settings['steps']} loss {1 / step:.3f}")
            run.log({"loss": 1 / step}, step)
            pathlib.Path("step.txt").write_text(str(step))
            if settings["steps"] > 10:
                time.sleep(0.05)
            if stop:
                pathlib.Path("checkpoint.txt").write_text(str(step))
                print("checkpoint written")
                sys.exit(143)
        (out / "pretrain").mkdir(parents=True)
        (out / "pretrain" / "model").write_text(str(settings["steps"]))
        (out / "pretrain.metrics.json").write_text(json.dumps({"loss": 1 / settings["steps"]}))
        (out / "pretrain.record.json").write_text(json.dumps({"seconds": 1.0, "mlflow_run_id": run.id()}))
else:
    out = pathlib.Path("runs") / name / "report"
    out.mkdir(parents=True)
    (out / "report.html").write_text("<h1>report</h1>")
"""


def make(folder: Path) -> Path:
    """The project as a git and DVC repository."""
    folder.mkdir(parents=True)
    for name, text in (("params.yaml", PARAMS), ("dvc.yaml", DVC), ("stage.py", STAGE), ("raw.txt", "one")):
        (folder / name).write_text(text)
    quiet = {"check": True, "capture_output": True, "cwd": folder, "env": environment(folder)}
    subprocess.run(["git", "init", "-q"], **quiet)  # type: ignore[call-overload]
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], **quiet)  # type: ignore[call-overload]
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables of a process that works in the project and keeps its state there."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "UNMASK", "MLFLOW"))
    }
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "UNMASK_SCRATCH": str(folder / "scratch"),
        **more,
    }
