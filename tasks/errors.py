"""What a person can mend: one message that names the cause and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something given by a person is wrong; the message says what, where, and what to do next."""


class ValidationFailed(InputError):
    """Data broke a hard expectation; raised before any training time is spent."""


class ChecksumMismatch(InputError):
    """A file is not the one that was expected."""


def unknown(what: str, value: str, known: Iterable[str]) -> str:
    """The sentence for a name that nobody knows: the nearest known name first, then all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {value!r}; {hint}known: {', '.join(known) or 'none'}"
