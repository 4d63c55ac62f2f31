"""What every stage does around its work: arguments, tracking, clear messages, exit codes, its cost.

Exit codes: 0 done, 1 something to mend (one message says what), 3 data broke an expectation, 143
stopped by SIGTERM or Ctrl-C, with a checkpoint where it trains. Any other exception is a defect of ours and
shows its trace.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.settings import Settings
from tasks import layout, params, tracking
from tasks.config import Config, Recipe, plain
from tasks.engine import interrupt
from tasks.errors import InputError, ValidationFailed
from tasks.journal import Run

VALIDATION_FAILED = 3
_PR_SET_PDEATHSIG = 1
_NEXT_STEP = {
    errno.ENOSPC: "the disk is full; free some space and start again, finished work is kept",
    errno.EROFS: "the folder is read-only; make it writable, or move the project",
    errno.EACCES: "permission denied; give this user the right to that path",
}


@dataclass(frozen=True)
class Outcome:
    """What a stage reports when it is done.

    Attributes:
        metrics: the few numbers that `dvc metrics` and MLflow compare.
        samples: rows, sequences, ... that it worked through.
        units: tokens, images, ... that it worked through.
        unit: the unit's name.
        earlier_seconds: spent on it by processes that were killed on the way.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: float = 0
    units: float = 0
    unit: str = ""
    earlier_seconds: float = 0.0


@dataclass(frozen=True)
class Context:
    """What a stage is given.

    Attributes:
        name: recipe, or corpus for `ingest`.
        config: all of params.yaml.
        journal: where metrics, datasets and artifacts are told to the tracker.
        scratch: folder for unfinished work; the same again when the same work is started again.
    """

    name: str
    config: Config
    journal: Run
    scratch: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe of that name."""
        return self.config.recipe(self.name)


Work = Callable[[Context], Outcome]
Inputs = Callable[[str, Config], tuple[Sequence[Settings], Sequence[Path]]]


def main(stage: str, work: Work, inputs: Inputs) -> None:
    """Run a stage from the command line and leave with its exit code.

    Args:
        stage: its name.
        work: the stage's own part.
        inputs: the settings and files on which the work depends; they name its scratch folder, so
            that only the same work goes on from a checkpoint.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{stage}", description=work.__doc__)
    parser.add_argument("name", help="corpus" if stage == "ingest" else "recipe")
    name = parser.parse_args().name
    _end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for ours in ("__main__", "tasks", "models"):
        logging.getLogger(ours).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.exit(_guarded(stage, name, work, inputs))


def _end_with_parent() -> None:
    """Get SIGTERM when DVC dies, however it dies, so that no training goes on for nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _guarded(stage: str, name: str, work: Work, inputs: Inputs) -> int:
    try:
        execute(stage, name, work, inputs, _config(stage))
    except ValidationFailed as error:
        return _fail(stage, name, str(error), VALIDATION_FAILED)
    except InputError as error:
        return _fail(stage, name, str(error), 1)
    except interrupt.Interrupted as stopped:
        return _fail(stage, name, str(stopped), interrupt.EXIT_CODE)
    except KeyboardInterrupt:
        return _fail(stage, name, "stopped; start again, finished work is kept", interrupt.EXIT_CODE)
    except ArithmeticError as error:
        return _fail(stage, name, str(error), 1)
    except OSError as error:
        if error.errno not in _NEXT_STEP:
            raise
        where = error.filename or "writing"
        return _fail(stage, name, f"{where}: {_NEXT_STEP[error.errno]}", 1)
    return 0


def _config(stage: str) -> Config:
    """What the stage needs of params.yaml; reading recipes brings torch, which takes seconds."""
    if stage == "ingest":
        return Config(corpora=params.load_corpora())
    return params.load()


def _fail(stage: str, name: str, message: str, code: int) -> int:
    print(f"\n{stage}@{name}: {message}", file=sys.stderr)
    return code


def execute(stage: str, name: str, work: Work, inputs: Inputs, config: Config) -> Outcome:
    """Do the work under tracking; write its record and metrics; drop its scratch folder."""
    settings, files = inputs(name, config)
    shown: dict[str, Any] = {"seed": config.seed}
    for part in settings:
        shown |= plain(part)
    key = work_key(stage, name, shown, files)
    began = time.perf_counter()
    with tracking.stage_run(stage, name, shown, key, tags=_versions_of(files)) as journal:
        for path in files:
            if path.name == "manifest.json":
                journal.dataset(str(path.parent), _digest(path)[:32], str(path.parent), stage)
        outcome = work(Context(name, config, journal, layout.checkpoints(key)))
        journal.log(dict(outcome.metrics), step=0)
        seconds = outcome.earlier_seconds + time.perf_counter() - began
        record = _record(stage, name, outcome, seconds, journal.id())
    if is_first():
        _write(layout.record(name, stage), record)
        if stage != "ingest":
            _write(layout.metrics(name, stage), dict(sorted(outcome.metrics.items())))
        shutil.rmtree(layout.checkpoints(key), ignore_errors=True)
    return outcome


def is_first() -> bool:
    """Whether this process is the one that leaves files, of those that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def work_key(stage: str, name: str, settings: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Hash of all that the work depends on: command, settings, contents of inputs, our code.

    Raises:
        InputError: an input is missing; names the stage that makes it.
    """
    digest = hashlib.sha256(json.dumps([stage, name, settings], sort_keys=True).encode())
    root = Path(__file__).parents[1]
    for path in [*files, *sorted(root.glob("models/**/*.py")), *sorted(root.glob("tasks/**/*.py"))]:
        try:
            digest.update(_digest(path).encode())
        except FileNotFoundError:
            raise InputError(
                f"{path} is missing; make it and what comes before with `dvc repro {stage}@{name}`"
            ) from None
    return digest.hexdigest()[:32]


def _versions_of(files: Sequence[Path]) -> dict[str, str]:
    """DVC's hash of every stage output that the files are part of, by its path."""
    lock = Path("dvc.lock")
    if not lock.exists():
        return {}
    stages = params.read_yaml(lock).get("stages", {}).values()
    made = {out["path"]: out.get("md5", "") for entry in stages for out in entry.get("outs", ())}
    return {
        f"dvc.{path}": made[path]
        for file in files
        for path in (str(file), *map(str, file.parents))
        if made.get(path)
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well.

    Of several processes only the first one's does; what the others leave is thrown away.
    """
    if not is_first():
        with tempfile.TemporaryDirectory() as elsewhere:
            yield Path(elsewhere)
        return
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _record(
    stage: str, name: str, outcome: Outcome, seconds: float, mlflow_run_id: str | None
) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "stage": stage,
        "name": name,
        "seconds": round(seconds, 3),
        "samples": outcome.samples,
        "units": outcome.units,
        "unit": outcome.unit,
        "units_per_second": round(outcome.units / seconds, 3),
        "device": device(),
        "threads": len(os.sched_getaffinity(0)),
        "peak_memory_bytes": max(usage, children) * 1024,
        "mlflow_run_id": mlflow_run_id,
        "git_commit": git.stdout.strip() or None,
        "versions": {
            "python": platform.python_version(),
            **_versions("torch", "transformers", "tokenizers", "pyarrow"),
        },
    }


def device() -> str:
    """Name of what computes, for records; asks torch only where the stage has brought it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    aside.replace(path)  # the old file may be a read-only link into DVC's cache
