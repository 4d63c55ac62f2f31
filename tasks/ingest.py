"""Sources to normalised, deduplicated records: `python -m tasks.ingest <corpus>`.

Everything is streamed. What is kept in memory per record are hashes: 8 bytes of its content, of its
id where the user gave one, and of each band of its near-duplicate signature. Splits follow from
hashes as well, so a record stays on its side when others come or go. Rows of labelled sets are kept
as they are given, doubles included: published test sets stay comparable, and `validate` removes from
training what would spoil them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from models.settings import Settings
from tasks import layout, modalities, sources, stage
from tasks.config import Corpus
from tasks.corpora.duplicates import hash64
from tasks.corpora.labelled import labelled
from tasks.corpora.novelty import Novelty
from tasks.corpora.reading import Tally, batches, records, share
from tasks.corpora.shards import Shards
from tasks.errors import InputError
from tasks.modalities import Records
from tasks.sources.folders import sha256
from tasks.spool import replacing

if TYPE_CHECKING:
    from tasks.config import Config


log = logging.getLogger(__name__)


def run(context: stage.Context) -> stage.Outcome:
    """Read a corpus's sources into normalised, deduplicated records."""
    name = context.name
    listed = json.loads(layout.listing(name).read_text(encoding="utf-8"))
    counts = ingest(name, context.config.corpus(name), layout.corpus(name))
    with replacing(layout.listed(name)) as aside:
        aside.write_text(
            json.dumps(_with_hashes(listed), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    rows = counts["read"] + sum(count for key, count in counts.items() if key.startswith("tasks."))
    return stage.Outcome(counts, samples=rows, units=rows, unit="records")


def _with_hashes(listed: dict[str, Any]) -> dict[str, Any]:
    """The listing with a hash of each file on this machine, by which it can be verified later."""
    for entry in tqdm(listed.get("files", ()), desc="hash sources", unit=" files", disable=None):
        path = Path(entry["location"]).expanduser()
        if "sha256" not in entry and path.is_file():
            entry["sha256"] = sha256(path)
    return listed


def inputs(name: str, config: Config) -> tuple[list[Settings], list[Path]]:
    """The corpus's settings, and the listing that tells when its sources change."""
    return [config.corpus(name)], [layout.listing(name)]


def ingest(name: str, corpus: Corpus, out: Path) -> dict[str, float]:
    """Write a corpus's records, labelled sets and manifest to `out`, which appears only when whole.

    Raises:
        InputError: a source is missing, damaged or empty, a column, label or id is wrong.
    """
    module = modalities.records(corpus.modality)
    with stage.published(out) as folder:
        manifest: dict[str, Any] = {"corpus": name, "modality": corpus.modality}
        manifest |= _documents(name, corpus, module, folder)
        manifest["tasks"] = {}
        for task_name, task in corpus.tasks.items():
            entry, files = labelled(f"{name}.{task_name}", task, corpus, module, folder / "tasks" / task_name)
            manifest["tasks"][task_name] = entry
            manifest["files"] += [{**file, "path": f"tasks/{task_name}/{file['path']}"} for file in files]
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    counts = manifest["counts"]
    return {
        **{key: float(value) for key, value in counts.items() if isinstance(value, int)},
        "rejected": float(sum(counts["rejected"].values())),
        **{
            f"tasks.{key}.rows": float(sum(task["splits"].values()))
            for key, task in manifest["tasks"].items()
        },
    }


def _documents(name: str, corpus: Corpus, module: Records, folder: Path) -> dict[str, Any]:
    """Write the unlabelled records; answer the manifest's `counts`, `splits`, `sources` and `files`."""
    tally, splits = Tally(), Counter(train=0, heldout=0)
    entries: list[dict[str, Any]] = []
    novelty = Novelty(corpus, module, tally)
    shards = Shards(folder, "records", module.schema(None))
    with shards, tqdm(desc=f"ingest {name}", unit=" records", disable=None) as bar:
        for location in corpus.source:
            if tally.kept == corpus.max_records:
                break
            digest, licenses, kept_before = hashlib.sha256(), set(), tally.kept
            for batch in batches(records(location, corpus, corpus, None, module, tally)):
                fresh = novelty.of(batch)
                if corpus.max_records is not None:
                    fresh = fresh[: corpus.max_records - tally.kept]
                for record in fresh:
                    at = share(record["group"] or record["id"])
                    record["split"] = "heldout" if at < corpus.heldout_fraction else "train"
                    splits[record["split"]] += 1
                    licenses.add(record["license"])
                    digest.update(
                        hash64(record["id"].encode() + module.content(record)).to_bytes(8, "little")
                    )
                shards.write(fresh)
                tally.kept += len(fresh)
                bar.update(len(batch))
                if tally.kept == corpus.max_records:
                    break
            entries.append(
                {
                    "location": sources.without_query(location),
                    "license": ", ".join(sorted(filter(None, licenses))) or None,
                    "records": tally.kept - kept_before,
                    "sha256": digest.hexdigest(),
                }
            )
    _refuse_empty(name, corpus, tally, splits)
    if tally.kept < tally.read:
        log.info(
            "ingest %s: %d of %d records kept; left out: %s", name, tally.kept, tally.read, tally.left_out()
        )
    return {
        "counts": tally.counts(),
        "splits": dict(splits),
        "sources": entries,
        "files": shards.files(folder),
    }


def _refuse_empty(name: str, corpus: Corpus, tally: Tally, splits: Counter[str]) -> None:
    if not corpus.source:
        return
    if not tally.kept:
        raise InputError(
            f"corpus {name}: no record is left of {tally.read} in {', '.join(corpus.source)} (left out: "
            f"{tally.left_out()}); correct `from`, `format` or the rules of the corpus."
        )
    missing = [split for split, count in splits.items() if not count]
    if missing and corpus.heldout_fraction:
        raise InputError(
            f"corpus {name}: none of its {tally.kept} records fell into {missing[0]!r} at heldout_fraction "
            f"{corpus.heldout_fraction} (left out of {tally.read} read: {tally.left_out()}); change it, add "
            "records, or cut them smaller where the corpus has a setting for that."
        )


def main() -> None:
    """Command line: `python -m tasks.ingest <corpus>`."""
    stage.main("ingest", run, inputs)


if __name__ == "__main__":
    main()
