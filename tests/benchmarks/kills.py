"""Kill -9 at random moments of every stage, start again, and compare with a project that was left in peace.

    python -m tests.benchmarks.kills --kills 20

Passes where all outputs (weights, records, tables; not times and addresses) have the same bytes and
MLflow holds every metric step once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = [
    ("ingest", "letters"), ("ingest", "notes"), ("ingest", "topics"), ("validate", "tiny"), ("prepare", "tiny"),
    ("pretrain", "tiny"), ("adapt", "tiny"), ("finetune", "tiny"), ("report", "tiny"),
]  # fmt: skip
PARAMS = """
seed: 0
corpora:
  none: {modality: text}
  letters: {modality: text, from: letters.jsonl, heldout_fraction: 0.1}
  notes: {modality: text, from: notes.jsonl, heldout_fraction: 0.1}
  topics:
    modality: text
    tasks: {topic: {from: topics.jsonl}}
encoders:
  tiny:
    architecture: bert
    config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, hidden_dropout_prob: 0.1}
recipes:
  tiny:
    modality: text
    general: letters
    domain: notes
    tasks: topics
    encoder: tiny
    validate: {}
    prepare: {tokenizer: {kind: wordpiece, vocabulary_size: 400}, sequence_length: 32, task_length: 32}
    pretrain: {objective: {name: declutr}, steps: 200, batch_size: 16, checkpoint_every: 20, ema_decay: 0.9, evaluate_every: 50}
    adapt: {steps: 150, batch_size: 16, checkpoint_every: 20, replay_fraction: 0.3, pull_to_initial: 0.01}
    finetune: {label_budgets: [16, 32], num_seeds: 2, steps: 20, batch_size: 8}
    report: {}
"""


def lay_out(project: Path) -> None:
    """A project of generated text: documents of one topic use its words more often."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(3, 9))) for _ in range(600)]
    project.mkdir()
    (project / "params.yaml").write_text(PARAMS)
    for name, count, bias in (("letters", 900, 0), ("notes", 600, 300), ("topics", 300, 0)):
        lines = []
        for number in range(count):
            topic = number % 3
            favourite = words[bias + topic * 60 : bias + topic * 60 + 60]
            text = " ".join(rng.choice(favourite if rng.random() < 0.5 else words) for _ in range(60))
            lines.append(f'{{"text": "{text}", "label": "topic{topic}"}}')
        (project / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def start(project: Path, stage: str, name: str) -> subprocess.Popen[bytes]:
    """The stage as DVC starts it, in that project."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "UNMASK_SCRATCH": str(project / ".unmask"),
        "UNMASK_PROCESSES": "1",
    }
    log = (project / "log").open("ab")
    command = [sys.executable, "-m", f"tasks.{stage}", *([name] if name else [])]
    return subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log)


def finish(project: Path, stage: str, name: str) -> float:
    """Run the stage to its end; answer the seconds it took."""
    began = time.perf_counter()
    if code := start(project, stage, name).wait():
        sys.exit(f"{stage}@{name} left with {code}; see {project / 'log'}")
    return time.perf_counter() - began


def digests(project: Path) -> dict[str, str]:
    """Hash of every output that promises the same bytes; listings hold times, reports seconds."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("data", "runs")
        for path in sorted((project / folder).rglob("*"))
        if path.is_file() and ".record.json" not in path.name and not {"report", "listings"} & {*path.parts}
    }


def steps_in_mlflow(project: Path) -> dict[str, dict[str, list[int]]]:
    """Steps of every metric of every finished run, in MLflow's order."""
    finish(project, "tracking", "send")
    script = (
        "import json, mlflow, sys; c = mlflow.MlflowClient(sys.argv[1]); found = {}\n"
        "for e in c.search_experiments():\n"
        "  for r in c.search_runs([e.experiment_id], max_results=1000):\n"
        "    history = {m: [x.step for x in c.get_metric_history(r.info.run_id, m)] for m in r.data.metrics}\n"
        "    found[r.info.run_name + ' ' + r.info.status] = {m: s for m, s in history.items() if 'system/' not in m}\n"
        "print(json.dumps(found))"
    )
    uri = f"sqlite:///{project / '.unmask' / 'mlflow.db'}"
    command = [sys.executable, "-W", "ignore", "-c", script, uri]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=project).stdout
    found: dict[str, dict[str, list[int]]] = json.loads(said.splitlines()[-1])
    return found


def main() -> None:
    """Run both projects and compare."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        peace, war = Path(folder) / "peace", Path(folder) / "war"
        seconds = {}
        for project in (peace, war):
            lay_out(project)
            finish(project, "listing", "")
        for stage, name in STAGES:
            seconds[stage, name] = finish(peace, stage, name)
        num_killed = 0
        for number, (stage, name) in enumerate(STAGES):
            wanted = (arguments.kills + number) // len(STAGES)
            while wanted:
                process = start(war, stage, name)
                moment = rng.uniform(0.1, 0.9) * seconds[stage, name]
                time.sleep(moment)
                process.kill()
                if process.wait() == -signal.SIGKILL:  # else it was done before
                    wanted -= 1
                    num_killed += 1
                    print(
                        f"{stage}@{name} killed after {moment:.1f} of {seconds[stage, name]:.1f} s",
                        flush=True,
                    )
            finish(war, stage, name)
        expected, measured = digests(peace), digests(war)
        differing = sorted(
            path for path in expected.keys() | measured.keys() if expected.get(path) != measured.get(path)
        )
        steps, steps_killed = steps_in_mlflow(peace), steps_in_mlflow(war)
        doubled = [
            f"{run} {metric}"
            for run, metrics in steps_killed.items()
            for metric, found in metrics.items()
            if sorted(found) != sorted(set(found)) or found != steps.get(run, {}).get(metric, found)
        ]
        print(f"{num_killed} kills; {len(expected)} files compared; differing: {differing or 'none'}")
        print(
            f"{sum(map(len, steps_killed.values()))} metrics in MLflow; lost or doubled: {doubled or 'none'}"
        )
        sys.exit(bool(differing or doubled))


if __name__ == "__main__":
    main()
