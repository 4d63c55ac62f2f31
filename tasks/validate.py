"""Check the data of a recipe before any training time is spent: `python -m tasks.validate <recipe>`.

Reads the normalised records of the recipe's corpora. Writes `validation.json` (verdicts, leakage,
overlap of corpora, statistics) and `exclusions.parquet` (records that must not be trained on, since
a test set knows them), both free of time stamps, and Data Docs in the scratch folder. A hard breach
ends the stage, after everything is written.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import layout, modalities, stage
from tasks.checks import expected
from tasks.checks.leakage import Kin, Leakage, find
from tasks.checks.suites import check
from tasks.corpora import stored
from tasks.errors import ValidationFailed

if TYPE_CHECKING:
    import pyarrow as pa

    from models.settings import Settings
    from tasks.config import Config, Recipe
    from tasks.modalities import Quality

DESCRIPTIVE = ("id", "source", "license", "split")  # columns that say nothing of a record's content
DECIMALS = 6  # the last bits of a sum may differ between processors


def run(context: stage.Context) -> stage.Outcome:
    """Check the data of a recipe, and name the records that must not be trained on.

    Raises:
        ValidationFailed: a hard expectation is broken; the outputs are written all the same.
        InputError: a corpus is missing or damaged.
    """
    name, recipe = context.name, context.recipe
    docs = layout.scratch() / "data_docs" / name
    validation, leakage = inspect(recipe, stored.folders(recipe), docs)
    out = layout.validated(name)
    with stage.published(out) as folder:
        text = json.dumps(validation, indent=1, ensure_ascii=False)
        (folder / "validation.json").write_text(text + "\n", encoding="utf-8")
        _write_exclusions(leakage, folder / "exclusions.parquet")
    if not validation["passed"]:
        raise ValidationFailed(_message(name, validation, out, docs))
    records = sum(slot["rows"] for slot in validation["statistics"].values())
    return stage.Outcome(_metrics(validation, leakage), samples=records, units=records, unit="records")


def inputs(name: str, config: Config) -> tuple[Sequence[Settings], Sequence[Path]]:
    """What the work depends on."""
    recipe = config.recipe(name)
    return (recipe.validate,), [folder / "manifest.json" for folder in stored.folders(recipe).values()]


def inspect(recipe: Recipe, corpora: Mapping[str, Path], docs: Path) -> tuple[dict[str, Any], Leakage]:
    """Verdicts, leakage, overlap and statistics, as `validation.json` holds them.

    Args:
        recipe: the whole recipe.
        corpora: folder of normalised records by slot (`general`, `domain`, `tasks`).
        docs: folder of the Data Docs, which is replaced.
    """
    settings, quality = recipe.validate, modalities.quality(recipe.modality)
    records = modalities.records(recipe.modality)
    columns = [column for column in records.schema(None).names if column not in DESCRIPTIVE]
    leakage = find(corpora, Kin(records.content, quality.pieces, quality.KIN, settings.leak_containment))
    slots = stored.slots(corpora)
    num_rows = {slot: stored.count(files) for slot, files in slots.items()}
    samples = {
        slot: stored.sample(files, ["id", *columns, *quality.ANSWERS], settings.max_described)
        for slot, files in slots.items()
    }
    labels = {slot: expected.labels(files, leakage.ids(slot)) for slot, files in slots.items()}
    metrics = {slot: quality.describe(sample) for slot, sample in samples.items()}
    suites = [
        *expected.of_records(metrics, quality, settings),
        *expected.of_labels(labels, settings),
        *expected.of_conflicts(corpora.get("tasks")),
        *expected.of_leakage(leakage, num_rows, settings),
        *expected.of_groups(slots),
    ]
    checks = check(suites, docs)
    comparisons = _comparisons(samples, quality)
    validation = {
        "passed": all(verdict["passed"] or verdict["severity"] != "critical" for verdict in checks),
        "checks": checks,
        "leakage": leakage.entries,
        "overlap": {pair: next(iter(measures.values())) for pair, measures in comparisons.items()},
        "comparisons": comparisons,
        "statistics": {
            slot: {
                "rows": num_rows[slot],
                "described": metrics[slot].num_rows,
                "labels": dict(sorted(labels[slot].items())),
                "metrics": expected.summary(metrics[slot]),
            }
            for slot in slots
        },
    }
    return validation, leakage


def excluded(validated: Path) -> dict[str, set[str]]:
    """Ids that must not be trained on, by slot: `general`, `domain`, `tasks/<task>/<split>`.

    `tasks/<task>/train/text` names the rows that may be trained on with their labels, but whose text
    must not be adapted to, since another task's test or validation set or held-out text knows it.
    """
    import pyarrow.parquet as pq

    ids: dict[str, set[str]] = {}
    for row in pq.read_table(validated / "exclusions.parquet", columns=["slot", "id"]).to_pylist():
        ids.setdefault(row["slot"], set()).add(row["id"])
    return ids


def markdown(validation: Mapping[str, Any]) -> str:
    """What `validation.json` says, as tables for people."""
    head = "Every hard expectation holds." if validation["passed"] else "**A hard expectation is broken.**"
    checks = validation["checks"]
    held = Counter(verdict["slot"] for verdict in checks if verdict["passed"])
    cells = [
        [slot, f"{values['rows']}", f"{held[slot]} of {sum(verdict['slot'] == slot for verdict in checks)}"]
        for slot, values in validation["statistics"].items()
    ]
    parts = [head, _table(["data", "records", "expectations met"], cells)]
    broken = [_verdict_cells(verdict) for verdict in checks if not verdict["passed"]]
    if broken:
        columns = ["", "data", "measure", "expected", "found", "the first of them", "what to do"]
        parts += [
            "Not met; a hard expectation stops the recipe, a soft one is only reported",
            _table(columns, sorted(broken)),
        ]
    leaks = [
        [
            f"{entry['task']} {entry['split']}",
            entry["found_in"],
            entry["kind"],
            f"{entry['rows']} of {entry['of']}",
            str(entry["removed"]),
        ]
        for entry in validation["leakage"]
        if entry["rows"]
    ]
    if leaks:
        parts += ["Leakage", _table(["rows of", "stand in", "how", "rows", "removed from there"], leaks)]
    if validation["comparisons"]:
        measures = [*next(iter(validation["comparisons"].values()))]
        cells = [
            [pair.replace("~", " and "), *(f"{values[measure]:.1%}" for measure in measures)]
            for pair, values in validation["comparisons"].items()
        ]
        parts += ["Likeness", _table(["corpora", *(name.replace("_", " ") for name in measures)], cells)]
    return "\n\n".join(parts) + "\n"


def _verdict_cells(verdict: Mapping[str, Any]) -> list[str]:
    found = f"{verdict['unexpected']} off ({verdict['observed']:.2%})"
    return [
        "**hard**" if verdict["severity"] == "critical" else "soft",
        verdict["slot"],
        verdict["column"],
        verdict["expectation"],
        f"{verdict['observed']:g}" if verdict["column"] == "rows" else found,
        ", ".join(verdict["examples"]),
        verdict["remedy"],
    ]


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _comparisons(samples: Mapping[str, pa.Table], quality: Quality) -> dict[str, dict[str, float]]:
    """How alike the corpora are, pair by pair; the tasks by their training rows."""
    import pyarrow as pa

    training = [samples[slot] for slot in samples if slot.startswith("tasks/") and slot.endswith("/train")]
    tables = {slot: samples[slot] for slot in ("general", "domain") if slot in samples}
    if training:
        tables["tasks"] = pa.concat_tables(training, promote_options="default")
    return {
        f"{a}~{b}": {
            name: round(value, DECIMALS) for name, value in quality.compare(tables[a], tables[b]).items()
        }
        for a, b in itertools.combinations(tables, 2)
    }


def _write_exclusions(leakage: Leakage, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column, pa.string()) for column in ("slot", "id", "reason")])
    lines = [
        {"slot": slot, "id": name, "reason": reason}
        for (slot, name), reason in sorted(leakage.excluded.items())
    ]
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), path)


def _message(name: str, validation: Mapping[str, Any], out: Path, docs: Path) -> str:
    """What is broken, where, by which rows, and what to do."""
    lines = []
    for verdict in validation["checks"]:
        if verdict["passed"] or verdict["severity"] != "critical":
            continue
        if verdict["column"] == "rows":
            seen = f"there are {verdict['observed']:g}"
        else:
            named = ", ".join(verdict["examples"])
            seen = f"{verdict['unexpected']} are not ({verdict['observed']:.2%}): {named}"
        lines.append(
            f"- {verdict['slot']}, {verdict['table']}: {verdict['column']} must be "
            f"{verdict['expectation']}; {seen}. {verdict['remedy']}"
        )
    return "\n".join(
        [
            f"the data of recipe {name!r} breaks a hard expectation; nothing was trained.",
            *lines,
            f"All verdicts: {out / 'validation.json'}; as pages: {docs / 'index.html'}",
        ]
    )


def _metrics(validation: Mapping[str, Any], leakage: Leakage) -> dict[str, float]:
    broken = [verdict["severity"] for verdict in validation["checks"] if not verdict["passed"]]
    numbers = {
        "hard_breaches": broken.count("critical"),
        "soft_breaches": broken.count("warning"),
        "excluded": len(leakage.excluded),
    }
    numbers |= {f"records.{slot}": values["rows"] for slot, values in validation["statistics"].items()}
    numbers |= {f"overlap.{pair.replace('~', '-')}": share for pair, share in validation["overlap"].items()}
    for entry in leakage.entries:
        if entry["rows"]:
            key = f"leaked.{entry['task']}.{entry['split']}.{entry['found_in']}.{entry['kind']}"
            numbers[key] = entry["rows"]
    return {key: float(value) for key, value in numbers.items()}


if __name__ == "__main__":
    stage.main("validate", run, inputs)
