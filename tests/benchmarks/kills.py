"""Kill -9 at random moments of every stage, start again, and compare with a project that was left in peace.

    python -m tests.benchmarks.kills --kills 20                         # all stages of a text recipe
    python -m tests.benchmarks.kills --kills 10 --objective moco dino   # pretraining on pictures, each method

Moments are drawn from when a stage has kept a checkpoint since it was started (or a tenth of its time,
where it keeps none), so that they fall into the work and not into its imports. Passes where all
outputs (weights, heads with queues, centres and teachers, losses, records, tables; not times and
addresses) have the same bytes and MLflow holds every metric step once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.faults import SMALL
from tests.benchmarks.kill_projects import Project, Stage, pictures, text

ROOT = Path(__file__).parents[2]
CHECKPOINT = ".unmask/checkpoints/*/step-*.json"


@dataclass(frozen=True)
class Span:
    """Seconds of a stage in peace, before its first checkpoint (or a tenth of all) and from there on."""

    before: float
    work: float
    keeps_checkpoints: bool


def start(folder: Path, stage: Stage) -> subprocess.Popen[bytes]:
    """The stage as DVC starts it, in that project."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "UNMASK_SCRATCH": str(folder / ".unmask"),
        "UNMASK_PROCESSES": "1",
    }
    log = (folder / "log").open("ab")
    command = [sys.executable, "-m", f"tasks.{stage[0]}", *filter(None, stage[1:])]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)


def newest(folder: Path) -> int:
    """Step of the newest checkpoint, -1 where there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in folder.glob(CHECKPOINT)), default=-1)


def until_checkpoint(folder: Path, process: subprocess.Popen[bytes], known: int) -> bool:
    """Wait until the process has kept another checkpoint than the one known (True), or is done."""
    while process.poll() is None:
        if newest(folder) != known:
            return True
        time.sleep(0.02)
    return False


def finish(folder: Path, stage: Stage) -> Span:
    """Run the stage to its end."""
    began = time.perf_counter()
    process = start(folder, stage)
    keeps_checkpoints = until_checkpoint(folder, process, newest(folder))
    before = time.perf_counter() - began
    if process.wait():
        sys.exit(f"{'@'.join(stage)} left with {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}")
    seconds = time.perf_counter() - began
    before = before if keeps_checkpoints else 0.1 * seconds
    return Span(before, seconds - before, keeps_checkpoints)


def kill(folder: Path, stage: Stage, span: Span, wanted: int, rng: random.Random) -> None:
    """Start the stage and kill it until so many kills met it alive."""
    while wanted:
        known = newest(folder)
        process = start(folder, stage)
        if span.keeps_checkpoints:
            until_checkpoint(folder, process, known)
        else:
            time.sleep(span.before)
        moment = rng.uniform(0, span.work)
        time.sleep(moment)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            continue  # it was done before
        wanted -= 1
        kept = f" from step {known} on; newest checkpoint {newest(folder)}" if span.keeps_checkpoints else ""
        print(f"{'@'.join(stage)} killed after {moment:.1f} of {span.work:.1f} s{kept}", flush=True)


def digests(folder: Path) -> dict[str, str]:
    """Hash of every output that promises the same bytes; listings hold times, reports seconds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("data", "runs")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and ".record.json" not in path.name and not {"report", "listings"} & {*path.parts}
    }


def steps_in_mlflow(folder: Path) -> dict[str, dict[str, list[int]]]:
    """Steps of every metric of every finished run, in MLflow's order."""
    finish(folder, ("tracking", "send"))
    script = (
        "import json, mlflow, sys; c = mlflow.MlflowClient(sys.argv[1]); found = {}\n"
        "for e in c.search_experiments():\n"
        "  for r in c.search_runs([e.experiment_id], max_results=1000):\n"
        "    history = {m: [x.step for x in c.get_metric_history(r.info.run_id, m)] for m in r.data.metrics}\n"
        "    found[r.info.run_name + ' ' + r.info.status] = {m: s for m, s in history.items() if 'system/' not in m}\n"
        "print(json.dumps(found))"
    )
    uri = f"sqlite:///{folder / '.unmask' / 'mlflow.db'}"
    command = [sys.executable, "-W", "ignore", "-c", script, uri]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    found: dict[str, dict[str, list[int]]] = json.loads(said.splitlines()[-1])
    return found


def differing(expected: Mapping[str, str], measured: Mapping[str, str]) -> list[str]:
    """Files that are missing on one side, or not the same."""
    paths = sorted(expected.keys() | measured.keys())
    return [path for path in paths if expected.get(path) != measured.get(path)]


def lost_or_doubled(
    peace: Mapping[str, Mapping[str, list[int]]], war: Mapping[str, Mapping[str, list[int]]]
) -> list[str]:
    """Metrics of the killed project whose steps repeat, or are not those of the other."""
    return [
        f"{run} {metric}"
        for run, metrics in war.items()
        for metric, found in metrics.items()
        if sorted(found) != sorted(set(found)) or found != peace.get(run, {}).get(metric, found)
    ]


def compare(title: str, project: Project, kills: int, seed: int) -> bool:
    """Run the project in peace and at war, print what differs; whether nothing does."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        peace, war = Path(root) / "peace", Path(root) / "war"
        peace.mkdir()
        project.lay_out(peace)
        for stage in project.before:
            finish(peace, stage)
        shutil.copytree(peace, war)
        for number, stage in enumerate(project.killed):
            span = finish(peace, stage)
            kill(war, stage, span, (kills + number) // len(project.killed), rng)
            finish(war, stage)
        expected = digests(peace)
        off = differing(expected, digests(war))
        steps = steps_in_mlflow(war)
        doubled = lost_or_doubled(steps_in_mlflow(peace), steps)
    print(
        f"{title}: {kills} kills; {len(expected)} files compared, differing: {off or 'none'}; "
        f"{sum(map(len, steps.values()))} metrics in MLflow, lost or doubled: {doubled or 'none'}",
        flush=True,
    )
    return not off and not doubled


def main() -> None:
    """Run every project twice and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="in each project")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--objective", nargs="+", choices=SMALL, help="those of pictures; without it the text recipe"
    )
    given = parser.parse_args()
    projects = {name: pictures(name) for name in given.objective or ()} or {"text": text()}
    passed = [compare(name, project, given.kills, given.seed) for name, project in projects.items()]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
