"""What is expected of the data of any modality: enough records, ids, labels, and rows left after leakage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.checks.suites import Suite, among, between, rows, unique
from tasks.corpora import stored

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations.expectations.expectation import Expectation

    from tasks.checks.leakage import Leakage
    from tasks.config import Validate
    from tasks.modalities import Quality

DECIMALS = 6  # the last bits of a sum may differ between processors
MOST_FREQUENT = 10


def of_records(metrics: Mapping[str, pa.Table], quality: Quality, settings: Validate) -> Iterator[Suite]:
    """Enough records with an id of their own, and what the modality expects of its metrics."""
    for slot, table in metrics.items():
        least = 1 if slot.endswith(("/validation", "/test")) else settings.min_records
        yield Suite(
            slot,
            "records",
            table,
            [
                rows(minimum=least, hard=True, remedy="Give more data, or lower `validate.min_records`."),
                unique(
                    "id", hard=True, remedy="Give each record its own id (`columns.id`), and ingest again."
                ),
                *quality.expectations(settings),
            ],
        )


def labels(files: Sequence[Path], left_out: Collection[str]) -> Counter[str]:
    """How many records (of tagged ones: how many words) each class has; empty where there are no classes."""
    counts: Counter[str] = Counter()
    for batch in stored.stream(files, ["id", "label", "tags"]):
        kept = batch.filter([name not in left_out for name in batch["id"].to_pylist()])
        if "label" in kept.column_names:
            counts.update(kept["label"].to_pylist())
        elif "tags" in kept.column_names:
            counts.update(tag for tags in kept["tags"].to_pylist() for tag in tags)
    return counts


def of_labels(counts: Mapping[str, Counter[str]], settings: Validate) -> Iterator[Suite]:
    """At least two classes with enough training rows each; no class that training never shows."""
    import pyarrow as pa

    for slot, found in counts.items():
        if not found:
            continue
        training = counts[slot.rpartition("/")[0] + "/train"]
        names = sorted(found)
        table = pa.table(
            {
                "id": names,
                "records": [found[name] for name in names],
                "share": [found[name] / found.total() for name in names],
                "in_training": [name in training for name in names],
            }
        )
        yield Suite(
            slot, "labels", table, [*_of_training(settings)] if slot.endswith("/train") else [_of_others()]
        )


def _of_training(settings: Validate) -> Iterator[Expectation]:
    yield rows(minimum=2, hard=True, remedy="A task needs at least two classes; look at `columns.label`.")
    for column, limit in (("records", "min_labels_per_class"), ("share", "max_class_share")):
        bound = {"minimum" if limit.startswith("min") else "maximum": getattr(settings, limit)}
        remedy = f"Give more rows of the rare classes, or leave those out; the limit is `validate.{limit}`."
        yield between(column, hard=False, remedy=remedy, **bound)


def _of_others() -> Expectation:
    return among(
        "in_training", [True], hard=False, remedy="No model can learn such a class: add training rows."
    )


def of_conflicts(tasks: Path | None) -> Iterator[Suite]:
    """No two rows of a task with equal content and different labels; silent where there are none.

    Args:
        tasks: folder of the corpus with the labelled sets.
    """
    import pyarrow as pa

    manifest = json.loads((tasks / "manifest.json").read_text(encoding="utf-8")) if tasks else {}
    found = {
        task: entry["conflicting_labels"] / max(sum(entry["splits"].values()), 1)
        for task, entry in manifest.get("tasks", {}).items()
        if entry.get("conflicting_labels")
    }
    if found:
        remedy = "The first of them are named in the corpus's manifest.json: correct or remove them."
        yield Suite(
            "tasks",
            "agreement",
            pa.table({"id": list(found), "conflicting_share": list(found.values())}),
            [between("conflicting_share", maximum=0, hard=False, remedy=remedy)],
        )


def of_leakage(leakage: Leakage, num_rows: Mapping[str, int], settings: Validate) -> Iterator[Suite]:
    """Few test rows that stand in training data, and training data left when those are removed."""
    import pyarrow as pa

    shares: dict[str, float] = {}
    for entry in leakage.entries:
        if entry["split"] == "heldout":  # of a corpus, which may well share records with another
            continue
        name = f"{entry['task']} {entry['split']} in {entry['found_in']}"
        shares[name] = shares.get(name, 0.0) + entry["rows"] / max(entry["of"], 1)
    if not shares:
        return
    remedy = "They are removed from what is trained on; the limit is `validate.max_leaked_share`."
    yield Suite(
        "leakage",
        "leaked rows",
        pa.table({"id": list(shares), "share": list(shares.values())}),
        [between("share", maximum=settings.max_leaked_share, hard=False, remedy=remedy)],
    )
    left = [number - len(leakage.ids(slot)) for slot, number in num_rows.items()]
    yield Suite(
        "leakage",
        "rows left",
        pa.table({"id": list(num_rows), "left": left}),
        [
            between(
                "left", minimum=1, hard=True, remedy="All of it is known to a test set: split the data anew."
            )
        ],
    )


def of_groups(slots: Mapping[str, Sequence[Path]]) -> Iterator[Suite]:
    """No group (speaker, patient) of a task on both sides of a split; silent where there is none."""
    import pyarrow as pa

    shares: dict[str, float] = {}
    for task in sorted({slot.split("/")[1] for slot in slots if slot.startswith("tasks/")}):
        groups = {split: _groups(slots[f"tasks/{task}/{split}"]) for split in stored.SPLITS}
        for split, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
            if shared := groups[split].keys() & groups[other].keys():
                num_shared = sum(groups[split][name] for name in shared)
                shares[f"{task} {split} in tasks/{task}/{other}"] = num_shared / groups[split].total()
    if shares:
        remedy = (
            "Scores there are too good for speakers, patients, ... that are new: split by `columns.group`, "
            "or give other test rows."
        )
        yield Suite(
            "leakage",
            "shared groups",
            pa.table({"id": list(shares), "group_share": list(shares.values())}),
            [between("group_share", maximum=0, hard=False, remedy=remedy)],
        )


def _groups(files: Sequence[Path]) -> Counter[str]:
    """How many records each group has, of those that tell theirs."""
    counts: Counter[str] = Counter()
    for batch in stored.stream(files, ["group"]):
        if "group" in batch.column_names:
            counts.update(filter(None, batch["group"].to_pylist()))
    return counts


def summary(metrics: pa.Table) -> dict[str, Any]:
    """Mean and quantiles of numbers, share of claims, most frequent values of words; nulls don't count."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers: dict[str, Any] = {}
    for name in metrics.column_names:
        column = metrics[name].drop_null()
        if name == "id" or not len(column):
            continue
        if pa.types.is_boolean(column.type):
            numbers[name] = {"share": round(pc.mean(column).as_py(), DECIMALS)}
        elif pa.types.is_string(column.type):
            counts = Counter(column.to_pylist())
            ranked = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_FREQUENT]
            numbers[name] = {value: counts[value] for value in ranked}
        else:
            quantiles = pc.quantile(column, q=[0, 0.05, 0.5, 0.95, 1]).to_pylist()
            values = [pc.mean(column).as_py(), *quantiles]
            names = ("mean", "min", "p05", "median", "p95", "max")
            numbers[name] = {key: round(value, DECIMALS) for key, value in zip(names, values, strict=True)}
    return numbers
