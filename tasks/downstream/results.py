"""The files that the stage leaves, the same bytes for the same inputs and settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file

from tasks.downstream import kind as kind_of
from tasks.downstream.direction import sign
from tasks.downstream.jobs import Job
from tasks.downstream.protocol import Outcome, summarise
from tasks.downstream.rows import Rows

KEPT = "kept.json"
RESULTS = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "kind", "arm", "method", "budget")),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("validation", pa.float64()),
        ("test", pa.float64()),
    ]
)
PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "arm", "method", "budget")),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("id", "label", "prediction")),
    ]
)
EMBEDDINGS = pa.schema(
    [*((name, pa.string()) for name in ("task", "id", "label", "text")), ("vector", pa.list_(pa.float32()))]
)


class BestModel:
    """Of the models that jobs keep, the one that is best on validation; the others are deleted at once."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._place = {job.folder: place for place, job in enumerate(jobs)}
        self._best: dict[str, tuple[float, int, Job]] = {}

    def offer(self, job: Job) -> None:
        """Take note of a finished job. Of equals the first in the grid's order wins, whenever it ended."""
        if not job.keeps_model:
            return
        metric = kind_of(job.task.kind).METRICS[0]
        score = max(sign(metric) * outcome.validation[metric] for outcome in job.outcomes())
        entry = (-score, self._place[job.folder], job)
        before = self._best.get(job.task.name)
        if before is not None:
            worse = max(before, entry, key=lambda one: one[:2])
            shutil.rmtree(worse[2].folder / "model", ignore_errors=True)
            entry = min(before, entry, key=lambda one: one[:2])
        self._best[job.task.name] = entry

    def jobs(self) -> dict[str, Job]:
        """The job whose model is kept, of each task."""
        return {task: job for task, (_, _, job) in sorted(self._best.items())}


def write(out: Path, jobs: Sequence[Job], kept: dict[str, Job]) -> list[dict[str, Any]]:
    """Write everything into an empty folder; answer the summary.

    Args:
        out: an existing, empty folder.
        jobs: of the grid, all done, in the grid's order.
        kept: the job whose model stays, by task.
    """
    tasks = {job.task.name: job.task for job in jobs}
    outcomes = {name: [o for job in jobs if job.task.name == name for o in job.outcomes()] for name in tasks}
    results: list[dict[str, Any]] = []
    predictions, embeddings, summary = [], [], []
    for name, task in tasks.items():
        test = Rows.load(task.folder / "test")
        kind = kind_of(task.kind)
        truth = kind.truth(test.records)
        labels = truth if kind.READABLE else [""] * len(truth)
        results += [line for outcome in outcomes[name] for line in _scores(name, task.kind, outcome)]
        predictions += [_predictions(name, test.ids, truth, outcome) for outcome in outcomes[name]]
        summary += summarise(name, task.kind, outcomes[name])
        embeddings += [_vectors(job, test, labels) for job in jobs if job.task.name == name and job.embeds]
    _table(out / "results.parquet", [pa.Table.from_pylist(results, RESULTS)], RESULTS)
    _table(out / "predictions.parquet", predictions, PREDICTIONS)
    _table(out / "embeddings.parquet", embeddings, EMBEDDINGS)
    (out / "summary.json").write_text(
        json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (out / "models").mkdir()
    for task_name, job in kept.items():
        shutil.copytree(job.folder / "model", out / "models" / task_name)
    origins = {name: _origin(job) for name, job in kept.items()}
    (out / KEPT).write_text(json.dumps(origins, indent=1) + "\n", encoding="utf-8")
    return summary


def _origin(job: Job) -> dict[str, Any]:
    """Which of the runs a model is: what finds its rows in predictions.parquet."""
    assert job.arm is not None, "floors keep no model"
    (budget,), (seed,) = job.budgets, job.seeds
    return {"arm": job.arm.name, "method": job.method, "budget": str(budget), "seed": seed}


def _scores(task: str, kind: str, outcome: Outcome) -> list[dict[str, Any]]:
    shared = {
        "task": task,
        "kind": kind,
        "arm": outcome.arm,
        "method": outcome.method,
        "budget": outcome.budget,
    }
    return [
        {
            **shared,
            "seed": outcome.seed,
            "metric": metric,
            "validation": outcome.validation[metric],
            "test": value,
        }
        for metric, value in outcome.test.items()
    ]


def _predictions(task: str, ids: Sequence[str], truth: Sequence[str], outcome: Outcome) -> pa.Table:
    count = len(ids)
    columns = {"task": task, "arm": outcome.arm, "method": outcome.method, "budget": outcome.budget}
    arrays: list[Any] = [[value] * count for value in columns.values()]
    return pa.Table.from_arrays(
        [
            pa.array(values, field.type)
            for values, field in zip(
                [*arrays, [outcome.seed] * count, ids, truth, outcome.predictions], PREDICTIONS, strict=True
            )
        ],
        schema=PREDICTIONS,
    )


def _vectors(job: Job, test: Rows, labels: Sequence[str]) -> pa.Table:
    vectors = load_file(job.folder / "vectors.safetensors")["vectors"].tolist()
    texts = test.column("text") if "text" in test.records.column_names else [""] * len(test)
    columns: list[Any] = [[job.task.name] * len(test), test.ids, labels, texts, vectors]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, EMBEDDINGS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=EMBEDDINGS)


def _table(path: Path, parts: Sequence[pa.Table], schema: pa.Schema) -> None:
    pq.write_table(pa.concat_tables(parts) if parts else schema.empty_table(), path, compression="zstd")
