"""What modalities whose records are files share: fields to raw records, rules that may not be broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import InputError
from tasks.modalities import Rejected

if TYPE_CHECKING:
    from tasks.config import Columns
    from tasks.modalities import Record
    from tasks.sources import File


def picked(
    fields: Mapping[str, Any],
    stored: Mapping[str, Any],
    columns: Columns,
    kind: str | None,
    file: File,
    number: int,
) -> Record:
    """A raw record: what is stored, and the fields that are wanted, by the names of `Records.schema`.

    Raises:
        InputError: a field that `columns` names is not there.
    """

    def get(name: str) -> Any:
        if name not in fields:
            raise InputError(
                f"{file.location}, row {number}: has no field {name!r}; its fields: {', '.join(fields)}. "
                "Correct `columns`, or `pattern`, or put files into one sub-folder per class."
            )
        return fields[name]

    record: Record = {"source": file.location, "row": number, **stored}
    for name in ("id", "license", "group", "split"):
        field = getattr(columns, name)
        value = get(field) if field else fields.get(name) if name == "split" else None
        record[name] = None if value is None else str(value)
    record["license"] = record["license"] or file.license
    if kind == "classification":
        record["label"] = get(columns.label)
    return record


@contextlib.contextmanager
def rules_kept(where: str, name: str, unreadable: Literal["error", "drop"]) -> Iterator[None]:
    """What breaks a rule, as an error where nothing may be left out.

    Args:
        where: file and row.
        name: of the medium.
        unreadable: what the corpus says of it.
    """
    try:
        yield
    except Rejected as verdict:
        if unreadable == "drop":
            raise
        reason = verdict.reason.replace("_", " ")
        raise InputError(
            f"{where}: the {name} is left out: {reason}. Mend or remove it, or set `unreadable: drop` to "
            f"leave such {name}s out."
        ) from verdict


def label(value: Any, where: str) -> str:
    """The label that a field holds.

    Raises:
        InputError: it is empty.
    """
    text = "" if value is None or value != value else str(value).strip()
    if not text:
        raise InputError(f"{where}: the label is missing; remove the row, or correct `columns.label`.")
    return text
