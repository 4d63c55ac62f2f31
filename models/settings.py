"""Typed settings that carry their own documentation; the standard library alone.

A settings class is a frozen dataclass that derives from `Settings` and whose fields are made by
`setting`. The sentence and the bounds given there are what error messages, the JSON schema for
editors, and forms in a web page show.
"""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any, ClassVar


class Settings:
    """Base of every settings class: unknown keys and wrong types are refused, never coerced."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
        "populate_by_name": True,
    }


def setting(default: Any = MISSING, description: str = "", **constraints: Any) -> Any:
    """Declare one field of a settings class.

    Args:
        default: the value where the user gives none; without it the field is required.
        description: one sentence, with unit and meaning.
        **constraints: bounds in pydantic's words (`gt`, `ge`, `lt`, `le`, `min_length`), or
            `alias` where the word in the file is a Python keyword.
    """
    metadata = {"description": description, **constraints}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)
