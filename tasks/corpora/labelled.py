"""Labelled sets: every row in its split, none removed, impossible sets refused."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tasks.config import Corpus, Task
from tasks.corpora.duplicates import hash64
from tasks.corpora.reading import Tally, batches, records, repeated, share
from tasks.corpora.shards import Shards
from tasks.errors import InputError, unknown
from tasks.modalities import Record, Records

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


@dataclass
class _Written:
    """What one pass over a labelled set found."""

    files: list[dict[str, Any]]
    sizes: dict[str, int]
    labels: dict[str, Counter[str]]
    licenses: set[str]
    tally: Tally
    num_conflicting: int
    has_groups: bool


def labelled(
    name: str, task: Task, corpus: Corpus, module: Records, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write `train`, `validation` and `test.parquet`; answer the manifest's entry and its files.

    Raises:
        InputError: locations, splits, labels or ids don't make a set that can be learnt and tested.
    """
    places = _places(name, task)
    written = _write(name, task, corpus, module, folder, places, keeps_groups=True)
    if not all(written.sizes.values()) and written.has_groups and task.columns.group is None:
        log.warning(
            "ingest %s: too few groups (speakers, ...) for every split to get one: rows are split one by "
            "one, and validate says how many share a group; name splits apart (`train`, `test`) to choose",
            name,
        )
        written = _write(name, task, corpus, module, folder, places, keeps_groups=False)
        written.tally.remarks["split_within_groups"] = sum(written.sizes.values())
    tally = written.tally
    _refuse_impossible(name, task, written.sizes, written.labels["train"], tally)
    if tally.rejected:
        log.info("ingest %s: left out of %d rows: %s", name, tally.read, tally.left_out())
    entry = {
        "kind": task.kind,
        "license": ", ".join(sorted(written.licenses)) or None,
        "labels": sorted(set().union(*written.labels.values())),
        "splits": written.sizes,
        "rejected": dict(sorted(tally.rejected.items())),
        "examples": dict(sorted(tally.examples.items())),
        "remarks": dict(sorted(tally.remarks.items())),
        "encoding_errors": tally.encoding_errors,
        "conflicting_labels": written.num_conflicting,
    }
    return entry, written.files


def _write(
    name: str,
    task: Task,
    corpus: Corpus,
    module: Records,
    folder: Path,
    places: dict[str, str],
    *,
    keeps_groups: bool,
) -> _Written:
    tally, ids, has_groups = Tally(), _Ids(module), False
    agreement = _Agreement(module, tally)
    labels: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    licenses: set[str] = set()
    with contextlib.ExitStack() as stack, tqdm(desc=f"ingest {name}", unit=" records", disable=None) as bar:
        schema = module.schema(task.kind)
        shards = {
            split: stack.enter_context(Shards(folder, split, schema, is_numbered=False)) for split in SPLITS
        }
        for place, location in places.items():
            for batch in batches(records(location, task, corpus, task.kind, module, tally)):
                by_split: dict[str, list[Record]] = {split: [] for split in SPLITS}
                for record in batch:
                    ids.give(record)
                    licenses.update(filter(None, [record["license"]]))
                    has_groups = has_groups or bool(record["group"])
                    key = (record["group"] if keeps_groups else None) or _content(record, module)
                    split = _split(place, record, task, key, is_cut="validation" not in places)
                    by_split[split].append(record)
                    labels[split].update(_labels(record, task.kind))
                    if task.kind == "classification":
                        agreement.check(record)
                for split, chosen in by_split.items():
                    shards[split].write(chosen)
                bar.update(len(batch))
    sizes = {split: shards[split].num_rows for split in SPLITS}
    files = [file for split in SPLITS for file in shards[split].files(folder)]
    return _Written(files, sizes, labels, licenses, tally, agreement.num_conflicting, has_groups)


def _places(name: str, task: Task) -> dict[str, str]:
    """Where rows come from: `all` in one location, or one location per split."""
    apart = {split: getattr(task, split) for split in SPLITS if getattr(task, split) is not None}
    if task.source is not None and apart:
        raise InputError(f"task {name}: give either `from` or {', '.join(apart)}, not both.")
    if task.source is None and not {"train", "test"} <= apart.keys():
        raise InputError(f"task {name}: give `from`, or at least `train` and `test` (and best `validation`).")
    if min(task.fractions) < 0 or abs(sum(task.fractions) - 1) > 1e-6:
        raise InputError(
            f"task {name}: fractions {task.fractions} must not be negative and must add up to 1."
        )
    return {"all": task.source} if task.source is not None else apart


def _content(record: Record, module: Records) -> str:
    return module.content(record).decode("utf-8", "replace")


def _split(place: str, record: Record, task: Task, key: str, *, is_cut: bool) -> str:
    """The split of a row: as given, or by the hash of `key`, its group or content."""
    if place != "all" and not (place == "train" and is_cut):
        return place
    if place == "all" and (record["split"] is not None or task.columns.split is not None):
        word = str(record["split"]).strip().lower()
        if word not in WORDS:
            where = f"{record['source']}, row {record['row']}"
            raise InputError(f"{where}: {unknown('split', word, WORDS)}; correct `columns.split`.")
        return WORDS[word]
    at = share(key)
    train, validation, _ = task.fractions
    if place == "train":
        return "train" if at < train / (train + validation) else "validation"
    return "train" if at < train else "validation" if at < train + validation else "test"


class _Ids:
    """Ids as given, each once; or from the content, numbered where it comes again."""

    def __init__(self, module: Records) -> None:
        self._module = module
        self._given: dict[str, Record] = {}
        self._made: Counter[int] = Counter()

    def give(self, record: Record) -> None:
        given = record["id"]
        if given is None:
            key = hash64(self._module.content(record))
            self._made[key] += 1
            again = self._made[key]
            record["id"] = f"{key:016x}" if again == 1 else f"{key:016x}-{again}"
        else:
            place = {name: record[name] for name in ("source", "row")}
            if given in self._given:
                raise repeated(given, self._given[given], place)
            self._given[given] = place


class _Agreement:
    """Rows whose content stood earlier under another label."""

    def __init__(self, module: Records, tally: Tally) -> None:
        self.num_conflicting = 0
        self._module = module
        self._tally = tally
        self._labels: dict[int, str] = {}

    def check(self, record: Record) -> None:
        first = self._labels.setdefault(hash64(self._module.content(record)), record["label"])
        if first != record["label"]:
            self.num_conflicting += 1
            place = f"{record['source']}, row {record['row']}: {record['label']!r}, earlier {first!r}"
            self._tally.name("conflicting_label", place)


def _labels(record: Record, kind: str) -> Iterator[str]:
    match kind:
        case "classification":
            yield record["label"]
        case "token_classification":
            yield from record["tags"]


def _refuse_impossible(
    name: str, task: Task, sizes: dict[str, int], labels: Counter[str], tally: Tally
) -> None:
    for split, size in sizes.items():
        if not size:
            raise InputError(
                f"task {name}: no row is left for {split!r} of {tally.read} read (left out: "
                f"{tally.left_out()}); correct its location, `format`, or `fractions`. Where there are train "
                "and test alone, name them apart (`train`, `test`): validation is then cut from train."
            )
    if task.kind in ("classification", "token_classification") and len(labels) < 2:
        only = ", ".join(labels) or "none"
        raise InputError(
            f"task {name}: its {sizes['train']} training rows have one class only ({only}); there is nothing "
            "to learn. Name the column with the labels in `columns`, or add rows of another class."
        )
