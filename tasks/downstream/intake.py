"""A labelled set, checked, drawn from, and stored where jobs find it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from tasks import layout, modalities
from tasks.config import Recipe
from tasks.downstream import kind as kind_of
from tasks.downstream import protocol
from tasks.downstream.jobs import Task
from tasks.downstream.rows import Rows
from tasks.errors import InputError

log = logging.getLogger(__name__)
SEEN = ("train", "validation")  # before everything is chosen
SPLITS = (*SEEN, "test")


def files(name: str, recipe: Recipe, tasks: Sequence[str], splits: Sequence[str] = SPLITS) -> list[Path]:
    """What is read of these sets and splits."""
    folder = layout.corpus(recipe.tasks) / "tasks"
    return [
        *(folder / task / f"{split}.parquet" for task in tasks for split in splits),
        layout.validated(name) / "exclusions.parquet",
        layout.prepared(name) / "manifest.json",
    ]


def store(folder: Path, task: str, kind_name: str, name: str, recipe: Recipe, seeds: Sequence[int]) -> Task:
    """Check a labelled set, draw its labels, and write rows, inputs and draws.

    Args:
        folder: where to; made here.
        task: name of the labelled set.
        kind_name: its kind.
        name: of the recipe.
        recipe: the recipe.
        seeds: one per draw.

    Raises:
        InputError: the set cannot be learnt from; says which rows or labels, and what to do.
    """
    kind = kind_of(kind_name)
    splits = {split: _records(name, recipe, task, split) for split in SPLITS}
    labels = kind.labels(splits["train"])
    check(task, kind_name, labels, splits)
    points, told = protocol.budgets(recipe.finetune.label_budgets, splits["train"].num_rows, task)
    for sentence in told:
        log.warning("finetune: %s", sentence)
    splits["train"], draws = drawn(kind_name, splits["train"], points, seeds)
    ids = splits["validation"].column("id").to_pylist()
    chosen = protocol.sample(ids, recipe.finetune.max_validation)
    splits["validation"] = splits["validation"].take(pa.array(chosen, pa.int64()))
    folder.mkdir(parents=True)
    (folder / "draws.json").write_text(json.dumps(draws))
    padding = None
    tensors = modalities.tensors(recipe.modality)
    for split, records in splits.items():
        inputs = _inputs(records, kind_name, name, recipe, task, split)
        padding = _padding(inputs) if padding is None else padding
        Rows(records, inputs).save(folder / split)
    weights = layout.run(name, "pretrain") / "model"
    reader = tensors.reader(layout.prepared(name), recipe, str(weights))
    return Task(task, kind_name, recipe.modality, tuple(labels), tuple(points), padding, folder, reader)


def sampled(
    task: str, kind_name: str, name: str, recipe: Recipe, *, num_train: int, num_validation: int, seed: int
) -> tuple[Rows, Rows]:
    """At most so many training and validation rows with their inputs; test rows are not read.

    Args:
        task: name of the labelled set.
        kind_name: its kind.
        name: of the recipe.
        recipe: the recipe.
        num_train: training rows, in which the classes keep their shares.
        num_validation: validation rows.
        seed: of the choice of training rows.

    Raises:
        InputError: nothing can be learnt from the set; says which rows or labels, and what to do.
    """
    kind = kind_of(kind_name)
    train, validation = (_records(name, recipe, task, split) for split in SEEN)
    check(task, kind_name, kind.labels(train), {"train": train, "validation": validation})
    ids = train.column("id").to_pylist()
    rows = protocol.draw(ids, kind.strata(train), num_train, seed)
    asked = protocol.sample(validation.column("id").to_pylist(), num_validation)
    chosen = [train.take(pa.array(rows, pa.int64())), validation.take(pa.array(asked, pa.int64()))]
    first, second = (
        Rows(records, _inputs(records, kind_name, name, recipe, task, split))
        for split, records in zip(SEEN, chosen, strict=True)
    )
    return first, second


def drawn(
    kind_name: str, train: pa.Table, points: Sequence[protocol.Budget], seeds: Sequence[int]
) -> tuple[pa.Table, dict[str, dict[str, list[int]]]]:
    """The rows that any draw has, and of each draw (by budget and seed) their positions among these."""
    ids, strata = train.column("id").to_pylist(), kind_of(kind_name).strata(train)
    draws = {
        (point, seed): protocol.draw(ids, strata, point, seed)
        for point in points
        if point != "all"
        for seed in seeds
    }
    used = (
        list(range(len(ids))) if "all" in points else sorted({row for rows in draws.values() for row in rows})
    )
    place = {row: index for index, row in enumerate(used)}
    nested: dict[str, dict[str, list[int]]] = {}
    for (point, seed), rows in draws.items():
        nested.setdefault(str(point), {})[str(seed)] = [place[row] for row in rows]
    return train.take(pa.array(used, pa.int64())), nested


def _records(name: str, recipe: Recipe, task: str, split: str) -> pa.Table:
    """One split without the rows that validation excluded from it, and without what is bulky."""
    file = layout.corpus(recipe.tasks) / "tasks" / task / f"{split}.parquet"
    bulky = modalities.tensors(recipe.modality).BULKY
    records = pq.read_table(file, columns=[name for name in pq.read_schema(file).names if name not in bulky])
    slot = f"tasks/{task}/{split}"
    table = pq.read_table(layout.validated(name) / "exclusions.parquet", filters=[("slot", "==", slot)])
    excluded = set(table.column("id").to_pylist())
    if not excluded:
        return records
    log.info("%s: %d rows are left out, as validation.json says", slot, len(excluded))
    return records.filter(pa.array([row not in excluded for row in records.column("id").to_pylist()]))


def _inputs(
    records: pa.Table, kind_name: str, name: str, recipe: Recipe, task: str, split: str
) -> dict[str, Tensor]:
    """Inputs of rows of a split, in its order; what is bulky is read here, of these rows, and not kept."""
    tensors = modalities.tensors(recipe.modality)
    ids = records.column("id").to_pylist()
    for column in tensors.BULKY:
        records = records.append_column(column, read(recipe, task, split, ids, [column]).column(column))
    return tensors.inputs(records, kind_name, layout.prepared(name), recipe)


def read(
    recipe: Recipe, task: str, split: str, ids: Sequence[str], columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of a split by their ids, in its order, as ingest wrote them; all columns where none are named."""
    file = layout.corpus(recipe.tasks) / "tasks" / task / f"{split}.parquet"
    return pq.read_table(file, columns=columns, filters=pc.field("id").isin(ids))


def check(task: str, kind_name: str, labels: Sequence[str], splits: Mapping[str, pa.Table]) -> None:
    """Refuse what cannot be learnt or scored, as far as it shows in these splits.

    Raises:
        InputError: a split is empty, there is one class only, or a test label that training lacks.
    """
    for split, records in splits.items():
        if not records.num_rows:
            raise InputError(
                f"task {task!r}: no {split} rows are left; give it a {split} set, or look in validation.json "
                "for what was excluded."
            )
    if kind_name == "question_answering":
        return
    kind = kind_of(kind_name)
    if len(labels) < 2:
        raise InputError(
            f"task {task!r}: the training rows have one class only ({', '.join(labels)}); nothing can be "
            "learnt. Give training rows of at least two classes, or check `columns`."
        )
    unseen = sorted(set(kind.labels(splits["test"])) - set(labels)) if "test" in splits else []
    if unseen:
        raise InputError(
            f"task {task!r}: test rows have labels that no training row has: {', '.join(unseen)}. "
            f"Training knows {', '.join(labels)}. Add training rows, or take these rows out of the test set."
        )
    surprising = sorted(set(kind.labels(splits["validation"])) - set(labels))
    if surprising:
        log.warning(
            "%s: validation labels that training lacks count as errors: %s",
            task,
            ", ".join(surprising),
        )


def _padding(inputs: Mapping[str, Any]) -> int | None:
    """The id that stands where the mask is 0."""
    if "attention_mask" not in inputs or "input_ids" not in inputs:
        return None
    padded = inputs["input_ids"][inputs["attention_mask"] == 0]
    return int(padded[0]) if len(padded) else None
