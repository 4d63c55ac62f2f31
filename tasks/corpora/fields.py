"""What modalities share of making records: fields that must be there, rules that may not be broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import InputError
from tasks.modalities import Rejected

if TYPE_CHECKING:
    from tasks.config import Columns
    from tasks.modalities import Record
    from tasks.sources import File


def picked(
    fields: Mapping[str, Any], columns: Columns, wanted: Sequence[str], file: File, number: int, advice: str
) -> Record:
    """The fields that are wanted, by the names of `Columns`, and where the row comes from.

    Args:
        fields: of a row.
        columns: which field means what.
        wanted: what must be there beside what `columns` names of id, license, group and split.
        file: that holds the row.
        number: of the row.
        advice: what to do where a field is missing.

    Raises:
        InputError: a field is missing; lists those that there are.
    """

    def get(name: str) -> Any:
        if name not in fields:
            raise InputError(
                f"{file.location}, row {number}: has no field {name!r}; its fields: "
                f"{', '.join(fields)}. {advice}"
            )
        return fields[name]

    record: Record = {"source": file.location, "row": number}
    for name in ("id", "license", "group", "split"):
        field = getattr(columns, name)
        value = get(field) if field else None
        record[name] = None if value is None else str(value)
    record["license"] = record["license"] or file.license
    return record | {name: get(getattr(columns, name)) for name in wanted}


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
