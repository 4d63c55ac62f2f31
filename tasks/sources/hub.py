"""Data sets of the Hugging Face hub, streamed: `hf://owner/name[@revision][:config][/split]`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from tasks.errors import InputError
from tasks.sources import File

GRAMMAR = "hf://owner/name[@revision][:config][/split]"
_LOCATION = re.compile(
    r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(:(?P<config>[\w.-]+))?(/(?P<split>[\w.-]+))?"
)


def files(location: str) -> Iterator[File]:
    """One file per split; its rows are streamed, class numbers given as their names.

    Raises:
        InputError: the location is misspelt, unknown to the hub, or the hub cannot be reached.
    """
    parts = _parse(location)
    for split, dataset in _load(location, parts).items():
        name = location if parts["split"] else f"{location}/{split}"
        yield File(
            location=name, rows=functools.partial(_rows, name, dataset), license=dataset.info.license or None
        )


def listing(location: str, *, full_hash: bool) -> dict[str, Any]:
    """The commit that the location points to now."""
    import huggingface_hub

    parts = _parse(location)
    try:
        commit = (
            huggingface_hub.HfApi().dataset_info(parts["name"], revision=parts["revision"], timeout=10).sha
        )
    except Exception as error:
        raise _unreachable(location, error) from error
    return {"files": [{"location": location, "etag": commit}]}


def _parse(location: str) -> dict[str, Any]:
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise InputError(f"{location}: is not of the form {GRAMMAR}.")
    return match.groupdict()


def _load(location: str, parts: dict[str, Any]) -> dict[str, Any]:
    import datasets

    try:
        loaded = datasets.load_dataset(
            parts["name"], parts["config"], split=parts["split"], revision=parts["revision"], streaming=True
        )
    except Exception as error:
        raise _unreachable(location, error) from error
    splits = {parts["split"]: loaded} if parts["split"] else dict(sorted(loaded.items()))
    # pictures and sound stay the bytes that they are: their modality decodes them by its own rules
    return {
        split: dataset.decode(False) if dataset.features else dataset for split, dataset in splits.items()
    }


def _rows(location: str, dataset: Any) -> Iterator[dict[str, Any]]:
    names = {key: _class_names(feature) for key, feature in (dataset.features or {}).items()}
    try:
        for row in dataset:
            yield {key: named(value, names.get(key)) for key, value in row.items()}
    except (OSError, ValueError) as error:
        raise _unreachable(location, error) from error


def _class_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if type(inner).__name__ == "ClassLabel" else None


def named(value: Any, names: list[str] | None) -> Any:
    """Class numbers as names; -1 is the hub's word for a label that is withheld."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [named(item, names) for item in value]
    return names[value] if value >= 0 else None


def _unreachable(location: str, error: Exception) -> InputError:
    first = (str(error).splitlines() or [""])[0]
    return InputError(
        f"{location}: the hub gave no data set ({type(error).__name__}: {first}). Check name, revision, "
        "config, split, the network, and HF_TOKEN for private sets; or name a folder with the set as parquet."
    )
