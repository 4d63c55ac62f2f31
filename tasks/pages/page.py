"""The page: what each section shows, filled into one self-contained HTML file.

Form after Tufte 2001 (The Visual Display of Quantitative Information): words, numbers and small
figures side by side, little ink that is not data. The file asks nothing of the network; it opens
from a disk, in light and dark, on a phone and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from tasks import layout, modalities
from tasks.downstream import kind as kind_of
from tasks.pages import curves, figures, mistakes, neighbours, score_figures, verdict, wording
from tasks.pages.evidence import TRAINING_STAGES, Evidence, Json
from tasks.pages.lineage import all_units, costs, lineage
from tasks.pages.plots import SERIES
from tasks.pages.scores import (
    TaskScores,
    arm_name,
    budget_name,
    by_metric,
    by_task,
    method_name,
    metric_name,
)
from tasks.pages.sheets import Section, data_uri, scaled
from tasks.pages.templates import template

MOST_POINTS = 2400
MOST_SOURCES = 12
THUMBNAIL = 0.05  # side on the embedding map, whose side is 1
THUMBNAIL_PIXELS = 48


def render(evidence: Evidence, plots: Path, sections: Sequence[Section] = ()) -> str:
    """The whole page; figures are written into `plots` as SVG and PNG files as well.

    Args:
        evidence: what the run left.
        plots: folder of the figures' files.
        sections: what the recipe's modality shows of it.
    """
    filters: dict[str, Callable[..., Any]] = {
        "count": wording.count, "short": wording.short, "duration": wording.duration,
        "pace": wording.pace, "number": wording.number, "memory": wording.memory,
        "percent": wording.percent, "words": wording.words, "unbroken": wording.unbroken,
        "with_code": wording.with_code, "arm": arm_name, "method": method_name, "budget": budget_name,
        "metric": metric_name,
    }  # fmt: skip
    tasks = by_task(evidence.summary)
    spent = costs(evidence.records)
    sentences = verdict.sentences(evidence.summary)
    if not tasks:
        sentences = [*_loss_sentences(evidence), *sentences]
    blocks = [
        {
            "scores": task,
            "sentences": verdict.on_task(task) if len(tasks) > 1 else [],
            "plot": score_figures.label_budgets(task, _rows_in_all(evidence, task.task), plots),
            "others": [
                s for s in by_metric(evidence.summary) if s.task == task.task and s.metric != task.metric
            ],
        }
        for task in tasks
    ]
    return template("report.html.j2", filters).render(
        evidence=evidence,
        headline=sentences[0],
        sentences=sentences[1:] if len(tasks) < 2 else [],
        tasks=blocks,
        losses=curves.figures_of(evidence.losses, plots),
        untrained=[stage for stage in TRAINING_STAGES if not evidence.losses[stage].get("train")],
        gap=gap_section(evidence, plots),
        errors=[error for task in tasks if (error := error_section(evidence, task, plots))],
        maps=map_sections(evidence, plots),
        sections=sections,
        data=data_section(evidence),
        perplexity=evidence.generation.get("perplexity") or [],
        samples=evidence.generation.get("samples") or [],
        costs=spent,
        all_units=all_units(spent),
        lineage=lineage(evidence),
        num_colours=len(SERIES),
        thumbnail=THUMBNAIL,
    )


def _loss_sentences(evidence: Evidence) -> list[str]:
    """A headline for runs without tasks: what adaptation, else pretraining, did to the losses."""
    domain, general = evidence.gap.get("domain"), evidence.gap.get("general")
    if domain:
        verb = "lowers" if domain["after"] < domain["before"] else "does not lower"
        text = f"Adaptation {verb} the held-out loss on the domain: "
        text += f"{domain['before']:.2f} before, {domain['after']:.2f} after"
        if general:
            text += f"; on general data it goes from {general['before']:.2f} to {general['after']:.2f}"
        return [text + "."]
    train = evidence.losses["pretrain"].get("train") or []
    if train:
        return [
            f"Pretraining takes the training loss from {train[0]['loss']:.2f} to {train[-1]['loss']:.2f}."
        ]
    return []


def _rows_in_all(evidence: Evidence, task: str) -> int | None:
    manifest = evidence.corpora.get(evidence.slots.get("tasks", ""), {})
    train = manifest.get("tasks", {}).get(task, {}).get("splits", {}).get("train")
    return int(train) if train else None


def gap_section(evidence: Evidence, plots: Path) -> dict[str, Any]:
    """The transfer gap: figure, forgetting against its budget, distances, overlap, fertility."""
    gap = evidence.gap
    both = {slot: gap[slot] for slot in ("general", "domain") if _has_both(gap.get(slot))}
    forgetting, budget = gap.get("forgetting"), gap.get("budget")
    scale = max(abs(forgetting or 0.0), budget or 0.0) * 1.15 or 1.0
    return {
        "plot": figures.gap(both, plots) if both else None,
        "forgetting": forgetting,
        "budget": budget,
        "within": bool(gap.get("within_budget", True)),
        "bar": max(0.0, 100 * (forgetting or 0.0) / scale),
        "mark": 100 * (budget or 0.0) / scale,
        "features": gap.get("features") or {},
        "told_apart": _told_apart(gap.get("features") or {}),
        "overlap": _overlap(gap.get("overlap"), evidence.validation),
        "fertility": gap.get("fertility") or evidence.prepared.get("fertility") or {},
        "unknown_rate": evidence.prepared.get("unknown_rate") or {},
    }


def _told_apart(features: Json) -> dict[str, float]:
    """Share of samples whose corpus a linear classifier names, which is what the A-distance says."""
    return {when: 0.5 + value / 4 for when, value in features.get("a_distance", {}).items()}


def _overlap(measured: Any, validation: Json) -> dict[str, dict[str, float]]:
    """Likeness of corpora by pair and measure, from `validate` where it was measured there."""
    if validation.get("comparisons"):
        return dict(validation["comparisons"])
    if measured is None:
        measured = validation.get("overlap") or {}
    pairs = measured if isinstance(measured, Mapping) else {"general~domain": measured}
    return {pair: {"overlap": value} for pair, value in pairs.items()}


def _has_both(losses: Any) -> bool:
    return isinstance(losses, Mapping) and all(
        isinstance(losses.get(when), int | float) and math.isfinite(losses[when])
        for when in ("before", "after")
    )


def error_section(evidence: Evidence, task: TaskScores, plots: Path) -> dict[str, Any] | None:
    """Where the best model of a task errs; None where no predictions were kept, or nobody can read them."""
    if not kind_of(task.scores[0].kind).READABLE:
        return None
    model = mistakes.choose(task, evidence.results)
    pairs = mistakes.predictions_of(evidence.predictions, task.task, model) if model else []
    if not pairs or model is None:
        return None
    section: dict[str, Any] = {
        "task": task.task,
        "model": model.sentence,
        "plot": None,
        "entities": [],
        "misses": [],
    }
    kind = task.scores[0].kind
    if kind == "token_classification":
        section["entities"] = mistakes.entity_scores(pairs)
    elif kind == "classification":
        found = mistakes.confusion(pairs)
        section["plot"] = figures.confusion(task.task, found.labels, found.counts, model.sentence, plots)
        section |= {"worst": found.worst, "correct": found.correct, "total": found.total}
    else:
        wrong = [pair for pair in pairs if pair[0] != pair[1]]
        section["misses"] = [tuple(wording.excerpt(text) for text in pair) for pair in wrong[:8]]
        section |= {"correct": len(pairs) - len(wrong), "total": len(pairs)}
    return section


def map_sections(evidence: Evidence, plots: Path) -> list[dict[str, Any]]:
    """Nearest neighbours and the embedding map of each task."""
    if evidence.embeddings is None:
        return []
    names = list(dict.fromkeys(evidence.embeddings["task"].to_pylist()))
    most = max(10, min(evidence.num_embedded, MOST_POINTS // max(1, len(names))))
    found = []
    for name in names:
        rows, vectors = neighbours.rows_and_vectors(evidence.embeddings, name)
        near = neighbours.neighbourhood(rows, vectors, evidence.num_neighbours)
        placed = neighbours.embedding_map(rows, vectors, most)
        if placed:
            figures.embedding(name, placed.points, placed.groups, plots)
        if near or placed:
            shown = placed.apart(THUMBNAIL) if placed else []
            ids = {placed.ids[place] for place in shown} if placed else set()
            for query in near.queries if near else ():
                ids |= {query.id, *(one.id for one in query.neighbours)}
            seen = thumbnails(evidence, name, ids)
            found.append({"task": name, "near": near, "map": placed, "shown": set(shown), "seen": seen})
    return found


def thumbnails(evidence: Evidence, task: str, ids: Set[str]) -> dict[str, str]:
    """Small pictures of test rows by id, as addresses; of a kind of data that can be looked at."""
    records = layout.corpus(evidence.slots.get("tasks", "none")) / "tasks" / task / "test.parquet"
    if not records.is_file():
        return {}
    found = modalities.pictures(evidence.modality).thumbnails(records, ids)
    return {row: data_uri(scaled(picture, THUMBNAIL_PIXELS)) for row, picture in found.items()}


def data_section(evidence: Evidence) -> dict[str, Any]:
    """Sources, counts, licences, leakage and checks."""
    corpora = []
    for name, manifest in evidence.corpora.items():
        sources: list[Json] = manifest.get("sources") or []
        slots = [slot for slot, corpus in evidence.slots.items() if corpus == name]
        corpora.append({
            "name": name,
            "slots": slots,
            "counts": manifest.get("counts") or {},
            "rejected": (manifest.get("counts") or {}).get("rejected") or {},
            "sources": sources[:MOST_SOURCES],
            "num_sources": len(sources),
            "licenses": _licenses(sources),
            "tasks": manifest.get("tasks") or {},
        })  # fmt: skip
    checks: list[Json] = evidence.validation.get("checks") or []
    return {
        "corpora": corpora,
        "passed": evidence.validation.get("passed"),
        "num_checks": len(checks),
        "failed": [check for check in checks if not check.get("passed")],
        "leakage": [line for line in evidence.validation.get("leakage") or [] if line.get("rows")],
        "searched": len(evidence.validation.get("leakage") or []),
        "statistics": _flat_statistics(evidence.validation.get("statistics") or {}),
        "prepared": evidence.prepared.get("slots") or {},
        "sequence_length": evidence.prepared.get("sequence_length"),
        "vocabulary_size": evidence.prepared.get("vocabulary_size"),
    }


def _licenses(sources: Sequence[Json]) -> list[tuple[str, int]]:
    """Records by licence, most first."""
    counts: dict[str, int] = {}
    for source in sources:
        name = str(source.get("license") or "not stated")
        counts[name] = counts.get(name, 0) + int(source.get("records") or 0)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _flat_statistics(statistics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Per statistic its value in each slot; what is not a number is left to `validation.json`."""
    flat: dict[str, dict[str, float]] = {}
    for slot, values in statistics.items():
        for key, value in _leaves(values, ""):
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                flat.setdefault(key, {})[str(slot)] = float(value)
    return flat


def _leaves(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        yield prefix, values
        return
    for key, value in values.items():
        if key != "labels":  # a class balance is as long as the classes are many
            yield from _leaves(value, f"{prefix}, {key}" if prefix and prefix != "metrics" else str(key))
