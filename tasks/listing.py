"""What stands at the sources of every corpus now: `python -m tasks.listing` writes `data/listings/`.

`dvc repro` cannot know that a folder outside the repository or a bucket has changed. `ingest`
depends on these files, so that unchanged sources cost one listing and changed ones are read again.
Sizes and times can lie where a program restores both; `full_hash: true` reads every byte instead.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import layout, modalities, sources, spool
from tasks.config import Corpus
from tasks.corpora import beside
from tasks.errors import InputError
from tasks.params import load_corpora


def run(corpora: Mapping[str, Corpus]) -> list[str]:
    """List every corpus; answer one sentence for each location that could not be listed.

    Such a location keeps its last known entries: a network that is away for an hour must not make
    everything that was built from it look out of date. `ingest` says what is wrong when it runs.
    """
    complaints: list[str] = []
    for old in layout.listing("any").parent.glob("*.json"):
        if old.stem not in corpora:
            old.unlink()
    for name, corpus in corpora.items():
        path = layout.listing(name)
        entry = {"corpus": name, **list_corpus(name, corpus, complaints)}
        _write(path, entry)
    return complaints


def list_corpus(name: str, corpus: Corpus, complaints: list[str]) -> dict[str, Any]:
    """`files` and `packages` of all its locations, those of labelled sets included, sorted."""
    files: dict[str, dict[str, Any]] = {}
    packages: dict[str, str] = {}
    for location in locations(corpus):
        found = _listed(name, location, corpus, complaints)
        files |= {entry["location"]: entry for entry in found.get("files", [])}
        packages |= found.get("packages", {})
    listed: dict[str, Any] = {"files": [files[key] for key in sorted(files)]}
    return listed | ({"packages": dict(sorted(packages.items()))} if packages else {})


def _companions(location: str, files: Sequence[Mapping[str, Any]], corpus: Corpus) -> list[dict[str, Any]]:
    """What is read beside the files that a glob matched (transcripts), though it does not match them."""
    suffixes = modalities.records(corpus.modality).COMPANIONS
    if not suffixes or not glob.has_magic(location) or sources.MEMBER in location:
        return []
    folders = sorted({beside.folder_of(entry["location"]) for entry in files})
    near = [entry for folder in folders for entry in beside.entries(folder, full_hash=corpus.full_hash)]
    return [entry for entry in near if entry["location"].lower().endswith(suffixes)]


def locations(corpus: Corpus) -> list[str]:
    """Every location that a corpus and its labelled sets name, once, sorted."""
    named = {*corpus.source}
    for task in corpus.tasks.values():
        named |= {
            place for place in (task.source, task.train, task.validation, task.test) if place is not None
        }
    return sorted(named)


def _listed(name: str, location: str, corpus: Corpus, complaints: list[str]) -> dict[str, Any]:
    known, shown = layout.scratch() / "listings" / f"{name}.json", sources.without_query(location)
    remembered: dict[str, Any] = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    try:
        found = sources.listing(location, full_hash=corpus.full_hash)
        if files := found.get("files"):
            found["files"] = [*files, *_companions(location, files, corpus)]
    except (InputError, OSError) as error:
        complaints.append(f"{name}: {error}")
        missing = {"files": [{"location": shown, "size": None}]}
        return dict(remembered.get(shown, missing)) if "://" in location else missing
    if "://" in location and not location.startswith(("embedded://", "public://")):
        _write(known, {**remembered, shown: found})
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with spool.replacing(path) as aside:  # several runs may list at once
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Command line: list all corpora of params.yaml."""
    argparse.ArgumentParser(prog="python -m tasks.listing", description=main.__doc__).parse_args()
    try:
        complaints = run(load_corpora())
    except InputError as error:
        sys.exit(f"listing: {error}")
    for complaint in complaints:
        print(f"listing: not listed now: {complaint}", file=sys.stderr)


if __name__ == "__main__":
    main()
