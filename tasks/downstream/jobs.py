"""The runs of the grid as jobs; each is stored whole when it is done.

A job computes on one thread and draws from its own seeds, so that the results are the same bytes
for any number of processes, and for a stage that was killed and started again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.config import Finetune
from tasks.downstream import kind as kind_of
from tasks.downstream.protocol import Budget, Outcome, Predict, choose, read_test
from tasks.downstream.rows import Rows
from tasks.engine.memory import is_exhausted
from tasks.errors import InputError
from tasks.modalities import Reader

PROCESSES = "UNMASK_PROCESSES"
TRAINING = "training"


@dataclass(frozen=True)
class Task:
    """A labelled set as the jobs find it.

    Its folder holds `{train,validation,test}` by `Rows.save`, and `draws.json`. `train`
    holds the rows of all draws and no others; `draws.json` says which rows each draw has.

    Attributes:
        name: of the task.
        kind: of the task.
        modality: whose floors it gets.
        labels: in the order of the logits.
        points: label budgets, in the curve's order.
        padding: id of padding in the inputs, where they have one.
        folder: of the rows.
        reader: makes of the rows' inputs what a model reads; None where it reads them as they are.
    """

    name: str
    kind: str
    modality: str
    labels: tuple[str, ...]
    points: tuple[Budget, ...]
    padding: int | None
    folder: Path
    reader: Reader | None = None


@dataclass(frozen=True)
class Arm:
    """An encoder to compare.

    Attributes:
        name: of the arm.
        source: folder by `save_pretrained`.
        pretrained: whether its weights are used, or drawn anew.
        flops: floating-point operations by which each fine-tuning run is longer than the settings say.
    """

    name: str
    source: Path
    pretrained: bool
    flops: float = 0.0


@dataclass(frozen=True)
class Job:
    """One piece of work: all floors of a task, one arm's probes, or one fine-tuning run.

    Attributes:
        task: the labelled set.
        arm: the encoder; None for floors.
        method: `floor`, `probe` (all that `settings.methods` asks of frozen features) or `finetune`.
        budgets: points that this job covers.
        seeds: label draws that this job covers.
        settings: of the stage.
        embeds: whether to keep the test rows' vectors.
        keeps_model: whether to keep the fine-tuned model.
        folder: where the results go.
    """

    task: Task
    arm: Arm | None
    method: str
    budgets: tuple[Budget, ...]
    seeds: tuple[int, ...]
    settings: Finetune
    embeds: bool
    keeps_model: bool
    folder: Path

    @property
    def done(self) -> Path:
        """The file whose existence says that the job is finished; holds its outcomes."""
        return self.folder / "outcomes.json"

    @property
    def title(self) -> str:
        """For the progress bar."""
        return " ".join([self.task.name, self.arm.name if self.arm else "", self.method])

    def outcomes(self) -> list[Outcome]:
        """What the finished job found."""
        return [Outcome(**plain) for plain in json.loads(self.done.read_text(encoding="utf-8"))]


def execute(job: Job) -> None:
    """Do the job and store its outcomes, in one thread.

    Raises:
        InputError: memory does not hold it.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with one_thread(), _fitting(job):
        work = {"floor": _floors, "probe": _probes, "finetune": _finetune}[job.method]
        outcomes = [outcome.plain() for outcome in work(job)]
    partial = job.done.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(outcomes, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(job.done)
    shutil.rmtree(job.folder / TRAINING, ignore_errors=True)


@contextlib.contextmanager
def _fitting(job: Job) -> Iterator[None]:
    """Want of memory as something that a person can mend."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise InputError(
            f"{job.title} does not fit into memory. Start again with {PROCESSES}=1 (finished runs are kept), "
            f"or lower finetune.batch_size from {job.settings.batch_size} (all runs start anew)."
        ) from error


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch and the linear algebra under scikit-learn on one thread: sums come in one order."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=6)
def _rows(stem: Path) -> Rows:
    return Rows.load(stem)


def _split(job: Job, split: str) -> Rows:
    return _rows(job.task.folder / split)


def _draws(job: Job, train: Rows) -> Iterator[tuple[Budget, int, Rows]]:
    drawn = json.loads((job.task.folder / "draws.json").read_text())
    for budget in job.budgets:
        # Without a label draw a linear model gives the same answer for every seed.
        seeds = job.seeds[:1] if budget == "all" and job.method != "finetune" else job.seeds
        for seed in seeds:
            yield budget, seed, train if budget == "all" else train.take(drawn[str(budget)][str(seed)])


def _floors(job: Job) -> Iterator[Outcome]:
    from tasks.downstream import floors

    kind = kind_of(job.task.kind)
    train, validation, test = (_split(job, split) for split in ("train", "validation", "test"))
    for name, candidates in floors.of(job.task.modality, job.task.kind, kind).items():
        for budget, seed, drawn in _draws(job, train):
            found = candidates(drawn, job.task.labels)
            first = next(found, None)
            if first is None:  # nothing for such rows
                continue
            chosen, scores = choose(kind, itertools.chain([first], found), validation)
            predictions, test_scores = read_test(kind, chosen, test)
            yield Outcome(name, "floor", str(budget), seed, scores, test_scores, predictions)


def _probes(job: Job) -> Iterator[Outcome]:
    from tasks.downstream import features, neighbours

    assert job.arm is not None
    kind = kind_of(job.task.kind)
    splits = [_split(job, split) for split in ("train", "validation", "test")]
    methods: dict[str, Callable[[Rows], Iterator[Predict]]] = {}
    asked = {*job.settings.methods} & {*kind.FROZEN}
    if "probe" in asked:
        methods["probe"] = lambda drawn: kind.probes(drawn, job.task.labels)
    if "knn" in asked:
        methods["knn"] = lambda drawn: neighbours.voters(drawn, kind.truth(drawn.records), features.stacked)
    answers = _read_features(job, splits if methods else splits[2:])
    if job.embeds:
        _store_vectors(job, [vector for _, vector in answers[-1]])
    if not methods:
        return
    train, validation, test = (
        split.with_features([read for read, _ in answer])
        for split, answer in zip(splits, answers, strict=True)
    )
    for name, candidates in methods.items():
        for budget, seed, drawn in _draws(job, train):
            chosen, scores = choose(kind, candidates(drawn), validation)
            predictions, test_scores = read_test(kind, chosen, test)
            yield Outcome(job.arm.name, name, str(budget), seed, scores, test_scores, predictions)


def _read_features(job: Job, splits: Sequence[Rows]) -> list[list[Any]]:
    """Of each row of each split what the kind's probe reads, and one vector."""
    from models import heads
    from tasks.downstream import features

    assert job.arm is not None
    return features.read(
        heads.encoder(job.arm.source, pretrained=job.arm.pretrained, seed=job.seeds[0]),
        splits,
        kind=job.task.kind,
        reader=job.task.reader,
        pooling=job.settings.pooling,
        precision=job.settings.precision,
    )


def _store_vectors(job: Job, vectors: Sequence[Any]) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"vectors": torch.stack(list(vectors)).contiguous()}, job.folder / "vectors.safetensors")


def _finetune(job: Job) -> Iterator[Outcome]:
    from models import heads
    from tasks.downstream import supervised

    assert job.arm is not None
    kind = kind_of(job.task.kind)
    train, validation, test = (_split(job, split) for split in ("train", "validation", "test"))
    for budget, seed, drawn in _draws(job, train):
        model = heads.build(
            kind.HEADS[job.task.modality],
            job.arm.source,
            job.task.labels,
            pretrained=job.arm.pretrained,
            padding=job.task.padding,
            seed=seed,
            pools_by=job.settings.pooling,
        )
        if job.settings.freeze == "stem" and job.arm.pretrained:
            heads.freeze_stem(model)
        fitted = supervised.fit(
            kind,
            model,
            drawn,
            validation,
            list(job.task.labels),
            job.settings,
            seed=seed,
            folder=job.folder / TRAINING,
            reader=job.task.reader,
            more_flops=job.arm.flops,
        )
        predictions, test_scores = read_test(kind, fitted.predict, test)
        if job.keeps_model:
            heads.save(model, job.folder / "model")
        yield Outcome(
            job.arm.name, "finetune", str(budget), seed, fitted.scores, test_scores, predictions, fitted.steps
        )
