"""Whether a recipe's new model takes the place of the one in production, by all that a run has left.

    python -m tasks.promote judge text-mlm      # register the new model as challenger, and decide
    python -m tasks.promote accept text-mlm     # the challenger becomes champion
    python -m tasks.promote rollback text-mlm   # the champion before becomes champion again

The champion is an alias in MLflow's registry, which `mlflow models serve -m models:/text-mlm@champion` finds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks import judging, layout, modalities, params, tracking
from tasks.config import Config, Recipe
from tasks.downstream import kind as kind_of
from tasks.errors import InputError
from tasks.judging import Check, Decision, Exam

if TYPE_CHECKING:
    from tasks.registry import Registry, Version

DECISION = "decision: "  # before the line that `judge --json` prints
FINAL_WORDS = ("refuse", "rolled back")
EXITS = {"promote": 0, "refuse": 4, "blocked": 5}
LAPS = 5
QUESTIONS = 32  # test rows on which the pace is measured
ANSWERED = ("id", *judging.ANSWERS, "group", "source", "license")  # what scores and slices read


@dataclass(frozen=True)
class Candidate:
    """What a run has left of a model and the test rows it has answered."""

    recipe: Recipe
    name: str
    task: str
    run_id: str
    exam: Exam
    prints: dict[str, str]

    def answers(self) -> pa.Table:
        """Id, fingerprint and answer of each test row."""
        ids = self.exam.records.column("id").to_pylist()
        prints = [self.prints[name] for name in ids]
        return pa.table({"id": ids, "fingerprint": prints, "answer": list(self.exam.answers)})


def candidate(name: str, config: Config) -> Candidate:
    """The model that a recipe's run has kept.

    Raises:
        InputError: the run is not complete, keeps no model, or nobody tracked it; says what to do.
    """
    from tasks.downstream.results import KEPT  # loads transformers, which takes seconds

    recipe = config.recipe(name)
    sets = config.corpus(recipe.tasks).tasks
    task = recipe.promote.task or next(iter(sets))
    out = layout.run(name, "finetune")
    kept = _json(out / KEPT, name)
    if task not in kept:
        raise InputError(f"{out} has no fine-tuned model of {task}; `methods` of finetune must name finetune")
    record = _json(layout.record(name, "finetune"), name)
    if not record.get("mlflow_run_id"):
        raise InputError(
            f"finetune@{name} ran without tracking or while MLflow was away, which has no model of it; "
            f"where it is there: dvc repro -f -s finetune@{name}"
        )
    rows = pq.read_table(out / "predictions.parquet", filters=_filter({"task": task, **kept[task]}))
    bulky = modalities.tensors(recipe.modality).BULKY
    file = pq.ParquetFile(layout.corpus(recipe.tasks) / "tasks" / task / "test.parquet")
    test = file.read([column for column in file.schema_arrow.names if column not in bulky])
    given = dict(zip(rows.column("id").to_pylist(), rows.column("prediction").to_pylist(), strict=True))
    right = dict(zip(rows.column("id").to_pylist(), rows.column("label").to_pylist(), strict=True))
    ids = test.column("id").to_pylist()
    if right != dict(zip(ids, kind_of(sets[task].kind).truth(test), strict=True)):
        raise InputError(
            f"finetune@{name} answered other test rows than lie here now; `dvc repro report@{name}`"
        )
    records = test.select([column for column in ANSWERED if column in test.column_names])
    exam = Exam(sets[task].kind, records, [given[row] for row in ids])
    prints = judging.fingerprints(test, modalities.records(recipe.modality).content)
    registered = recipe.promote.name or name
    return Candidate(recipe, registered, task, record["mlflow_run_id"], exam, prints)


def judge(name: str, registry: Registry) -> tuple[Decision, Version, str]:
    """Enter a recipe's model as challenger; the decision, its version, and the champion's number.

    Args:
        name: of the recipe.
        registry: where the champion is.
    """
    config = params.load()
    new = candidate(name, config)
    if not tracking.delivered(new.run_id):
        raise InputError(f"finetune@{name} is not in MLflow yet; is it at {tracking.tracking_uri()}?")
    digest = judging.digest(new.prints)
    champion = registry.aliased(new.name, "champion")
    known = registry.known(new.name, new.run_id, digest)
    if known and champion and known.number == champion.number:
        return Decision((judging.standing("it is the champion", ""),)), known, champion.number
    if known and known.tags.get("word") in FINAL_WORDS:
        said = judging.standing(known.tags["word"], known.tags.get("reason", ""))
        return Decision((said,)), known, champion.number if champion else ""
    version = registry.enter(new.name, new.run_id, new.task, new.answers(), digest)
    checks = [*_own_checks(name, new)]
    if champion is None:
        checks.append(Check("champion", "passed", f"{new.name} has no champion yet."))
    else:
        looks = 1 + registry.looks(new.name, digest[:12], champion.number)
        checks += _against(new, version, champion, config.seed, looks - (known is not None))
    decision = Decision(tuple(checks))
    against = champion.number if champion else ""
    registry.write(version, {"decision": decision.result, "why": decision.sentence, "against": against})
    registry.note(
        version.run_id, f"promotion-{version.number}.json", {**decision.plain(), "against": against}
    )
    return decision, version, against


def _own_checks(name: str, new: Candidate) -> Iterator[Check]:
    """What a model must show whoever is champion."""
    found = _json(layout.validated(name) / "validation.json", name)
    yield judging.unseen(found["leakage"], new.task, new.recipe.validate.max_leaked_share)
    yield judging.valid(found["checks"])
    stages = ("pretrain", "adapt")
    acted = {
        stage: _json(layout.run(name, stage) / "losses.json", name).get("decisions", []) for stage in stages
    }
    yield judging.healthy(acted)
    yield judging.remembers(_json(layout.run(name, "adapt") / "gap.json", name))


def _against(new: Candidate, version: Version, champion: Version, seed: int, looks: int) -> Iterator[Check]:
    """What it must show against the champion; `looks` is how many have tried on these rows, it included."""
    answers, prints = champion.answers()
    same = judging.same_rows(new.prints, prints)
    yield same
    if same.outcome != "passed":
        return
    settings = new.recipe.promote
    metric = settings.metric or kind_of(new.exam.kind).METRICS[0]
    ids = new.exam.records.column("id").to_pylist()
    old = Exam(new.exam.kind, new.exam.records, [answers[row] for row in ids])
    whole = judging.difference(new.exam, old, metric, seed=seed, looks=looks)
    yield judging.better(whole, metric, settings.min_gain)
    parts = [
        (column, value, rows)
        for column in settings.slices
        for value, rows in _slices(new.exam.records, column, settings.min_slice_rows)
    ]
    for column, value, rows in parts:
        part = judging.difference(
            new.exam, old, metric, seed=seed, rows=rows, looks=len(parts), by_row=column == "group"
        )
        yield judging.not_worse(f"{column}={value}", part, metric)
    yield from _in_service(new, version, champion)


def _slices(records: pa.Table, column: str, least: int) -> Iterator[tuple[str, Any]]:
    if column not in records.column_names:
        raise InputError(
            f"promote.slices: the test rows have no column {column}; known: {records.column_names}"
        )
    values = records.column(column).to_pylist()
    for value in sorted({value for value in values if value is not None}):
        rows = np.flatnonzero([other == value for other in values])
        if len(rows) >= least:
            yield str(value), rows


def _in_service(new: Candidate, version: Version, champion: Version) -> Iterator[Check]:
    """Whether what would be served answers as in the exam, and how fast, in turns with the champion."""
    from tasks import serving
    from tasks.downstream import intake

    with tempfile.TemporaryDirectory() as folder:
        both = [serving.Answerer(one.download(Path(folder) / one.number)) for one in (version, champion)]
        ids = new.exam.records.column("id").to_pylist()[:QUESTIONS]
        rows = intake.read(new.recipe, new.task, "test", ids)
        asked = {
            column: [serving.example(value) for value in rows.column(column).to_pylist()]
            for column in serving.INPUTS[both[0].kind]
        }
        seconds: list[list[float]] = [[], []]
        for _ in range(LAPS + 1):
            for model, spent in zip(both, seconds, strict=True):
                began = time.perf_counter()
                model.predict(asked)
                spent.append(time.perf_counter() - began)
        answers = both[0].predict(asked)
    if "label" in answers:
        given = dict(zip(new.exam.records.column("id").to_pylist(), new.exam.answers, strict=True))
        pairs = zip(rows.column("id").to_pylist(), answers["label"], strict=True)
        yield judging.as_served(sum(given[row] != answer for row, answer in pairs), rows.num_rows)
    mine, theirs = (float(np.median(spent[1:])) for spent in seconds)  # the first lap warms up
    yield judging.fast_enough(mine / theirs, new.recipe.promote.max_slowdown)


def _filter(values: dict[str, Any]) -> Any:
    wanted = pc.scalar(True)
    for column, value in values.items():
        wanted = wanted & (pc.field(column) == value)
    return wanted


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; make it with `dvc repro report@{name}`") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code of judge: 0 better, 4 not better, 5 not comparable."""
    parser = argparse.ArgumentParser(prog="python -m tasks.promote", description=main.__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    judging_ = commands.add_parser("judge", help="enter a recipe's new model as challenger, and decide")
    judging_.add_argument("name", help="recipe")
    judging_.add_argument("--json", action="store_true", help="print the decision for programs")
    for what, said in (("accept", "make a version champion"), ("refuse", "leave the champion where it is")):
        command = commands.add_parser(what, help=said)
        command.add_argument("name", help="registered model; the recipe's name, unless it says otherwise")
        command.add_argument("--version", help="of the model; the challenger where none is given")
        command.add_argument("--reason", default="", help="is kept with the model")
        command.add_argument(
            "--against", help="number of the champion it was judged against, who must still be it"
        )
    back = commands.add_parser("rollback", help="make the champion before champion again")
    back.add_argument("name", help="registered model; the recipe's name, unless it says otherwise")
    back.add_argument("--by", default="", help="who asks; asked again by the same, nothing more happens")
    options = parser.parse_args(argv)
    try:
        return _do(options)
    except InputError as error:
        sys.exit(f"promote: {error}")


def _do(options: argparse.Namespace) -> int:
    from tasks.registry import Registry, reachable

    uri = tracking.tracking_uri()
    with reachable(uri):
        return _done(options, Registry(uri))


def _done(options: argparse.Namespace, registry: Registry) -> int:
    name = options.name
    if options.what == "judge":
        decision, version, against = judge(name, registry)
        said = {
            "version": version.number,
            "name": version.name,
            "against": against,
            "markdown": decision.markdown(),
        }
        print(DECISION + json.dumps({**decision.plain(), **said}) if options.json else decision.markdown())
        return EXITS[decision.result]
    if options.what == "rollback":
        before, after = registry.roll_back(name, options.by)
        print(f"{name}: version {after} is champion again, {before} is not")
        return 0
    version = registry.version(name, options.version)
    if options.what == "accept":
        registry.crown(version, options.against)
    registry.write(version, {"word": options.what, "reason": options.reason})
    print(f"{name}: version {version.number} is {'champion' if options.what == 'accept' else 'refused'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
