"""A project of five stages that take no time, for flows to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PARAMS = """
corpora:
  a: {modality: text, from: raw.txt}
  none: {modality: text}
  sets: {modality: text, tasks: {urgency: {from: raw.txt}}}
encoders: {tiny: {architecture: bert}, other: {architecture: bert}}
recipes:
  toy: &toy
    modality: text
    general: a
    domain: none
    tasks: none
    encoder: tiny
    validate: {}
    prepare: {}
    pretrain: &pretrain {objective: {name: masked_lm}, steps: 3}
    adapt: {steps: 0}
    finetune: {}
    report: {}
  slow: {<<: *toy, pretrain: {<<: *pretrain, steps: 3000}}
  broken: {<<: *toy, pretrain: {<<: *pretrain}}
  other: {<<: *toy, pretrain: {<<: *pretrain, steps: 4}}
  notes:                 # the model says what finetune.steps says: 1 no, 2 yes
    <<: *toy
    tasks: sets
    pretrain: {<<: *pretrain}
    finetune: {steps: 1}
    promote: {mode: ask, max_slowdown: 50}
    retrain: {start: champion}
"""

DVC = """
stages:
  list:
    cmd: python -m tasks.listing
    always_changed: true
    outs: [{data/listings: {cache: false}}]
  ingest:
    foreach: [a, sets]
    do:
      cmd: python stage.py ingest ${item}
      deps: ["data/listings/${item}.json"]
      outs: ["data/corpora/${item}", "data/corpora/${item}.listing.json"]
  pretrain:
    foreach: [toy, slow, broken, other, notes]
    do:
      cmd: python stage.py pretrain ${item}
      deps: [data/corpora/a, stage.py]
      params: ["recipes.${item}.pretrain"]
      outs: ["runs/${item}/pretrain", "runs/${item}/pretrain.record.json"]
      metrics: ["runs/${item}/pretrain.metrics.json"]
  finetune:
    foreach: {toy: a, slow: a, broken: a, other: a, notes: sets}
    do:
      cmd: python stage.py finetune ${key}
      deps: ["runs/${key}/pretrain", "data/corpora/${item}"]
      params: ["recipes.${key}.finetune"]
      outs: ["data/validated/${key}", "runs/${key}/adapt", "runs/${key}/finetune", "runs/${key}/finetune.record.json"]
  report:
    foreach: [toy, slow, broken, other, notes]
    do:
      cmd: python stage.py report ${item}
      deps: ["runs/${item}/finetune"]
      outs: ["runs/${item}/report"]
"""

IGNORED = "data\nruns\nscratch\nprefect\nmlflow*\n*.txt\n!raw.txt\n"
WHO = ("-c", "user.name=toy", "-c", "user.email=toy@localhost")

STAGE = """
import hashlib, json, os, pathlib, signal, sys, time
import yaml
from tasks import tracking

stage, name = sys.argv[1:]
shown = pathlib.Path(os.environ["UNMASK_SCRATCH"]).parent  # wherever this run works
with (shown / "tried.txt").open("a") as file:
    file.write(f"{stage}@{name}\\n")
if stage == "ingest":
    out = pathlib.Path("data/corpora") / name
    out.mkdir(parents=True)
    if name == "sets":
        from tests import production
        production.leave_corpus(production.labelled_rows())
    (out / "rows").write_text(pathlib.Path("raw.txt").read_text())
    listed = json.loads(pathlib.Path(f"data/listings/{name}.json").read_text())
    for entry in listed["files"]:
        entry["sha256"] = hashlib.sha256(pathlib.Path(entry["location"]).read_bytes()).hexdigest()
    pathlib.Path(f"data/corpora/{name}.listing.json").write_text(json.dumps(listed))
    (out / "manifest.json").write_text(json.dumps({"sources": [{"location": "raw.txt", "license": "MIT"}]}))
elif stage == "pretrain":
    settings = yaml.safe_load(open("params.yaml"))["recipes"][name]["pretrain"]
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    if name == "broken":
        print("unmask: the data broke a hard expectation")
        sys.exit(3)
    out = pathlib.Path("runs") / name
    with tracking.stage_run(stage, name, settings, "key-of-" + name) as run:
        for step in range(1, settings["steps"] + 1):
            print(f"step {step}/{settings['steps']} loss {1 / step:.3f}")
            run.log({"loss": 1 / step}, step)
            (shown / "step.txt").write_text(str(step))
            if name == "slow":
                time.sleep(0.05)
            if stop:
                (shown / "checkpoint.txt").write_text(str(step))
                print("checkpoint written")
                sys.exit(143)
        (out / "pretrain").mkdir(parents=True)
        (out / "pretrain" / "model").write_text(str(settings["steps"]))
        (out / "pretrain" / "losses.json").write_text(json.dumps({"decisions": []}))
        (out / "pretrain.metrics.json").write_text(json.dumps({"loss": 1 / settings["steps"]}))
        (out / "pretrain.record.json").write_text(json.dumps(
            {"seconds": 1.0, "mlflow_run_id": run.id(), "device": "toy", "git_commit": "toy"}))
elif stage == "finetune":
    settings = yaml.safe_load(open("params.yaml"))["recipes"][name]["finetune"]
    out, pretrained = pathlib.Path("runs") / name, (pathlib.Path("runs") / name / "pretrain" / "model").read_text()
    if name == "notes":
        from tests import production
        steps = settings["steps"]
        production.leave(production.labelled_rows(), ("no", "yes")[steps - 1], f"key-of-{steps}-{pretrained}")
    else:
        (out / "finetune.record.json").write_text("{}")
        pathlib.Path("data/validated").mkdir(parents=True, exist_ok=True)
        (pathlib.Path("data/validated") / name).mkdir()
    (out / "finetune").mkdir(exist_ok=True)
    row = {"task": "letter", "kind": "classification", "metric": "accuracy", "arm": "pretrained", "method": "probe"}
    mean = 0.9 if name == "toy" else 0.5
    row |= {"budget": "50", "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "seeds": 3}
    (out / "finetune" / "summary.json").write_text(json.dumps([row]))
    (out / "adapt" / "model").mkdir(parents=True)
    (out / "adapt" / "model" / "weights").write_text(f"adapted from {pretrained}")
else:
    out = pathlib.Path("runs") / name / "report"
    (out / "plots").mkdir(parents=True)
    (out / "report.html").write_text("<h1>report</h1>")
    from PIL import Image
    Image.new("RGB", (64, 32), "teal").save(out / "plots" / "views.png")
"""


def make(folder: Path) -> Path:
    """The project as a git and DVC repository."""
    folder.mkdir(parents=True)
    files = {
        "prefect.yaml": (ROOT / "prefect.yaml").read_text().replace("text-mlm", "toy"),
        "params.yaml": PARAMS,
        "dvc.yaml": DVC,
        "stage.py": STAGE,
        "raw.txt": "one",
        ".gitignore": IGNORED,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    quiet = {"check": True, "capture_output": True, "cwd": folder, "env": environment(folder)}
    subprocess.run(["git", "init", "-q"], **quiet)  # type: ignore[call-overload]
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], **quiet)  # type: ignore[call-overload]
    subprocess.run(["git", "add", "."], **quiet)  # type: ignore[call-overload]
    subprocess.run(["git", *WHO, "commit", "-q", "-m", "toy"], **quiet)  # type: ignore[call-overload]
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
