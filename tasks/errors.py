"""What a person can mend: one message that names the cause and the next step."""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

UNWRITABLE = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


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


@contextlib.contextmanager
def one_sentence(command: str, out: Path) -> Iterator[None]:
    """End a command with one sentence where its input is wrong or its folder takes no files."""
    try:
        yield
    except InputError as error:
        sys.exit(f"{command}: {error}")
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        sys.exit(f"{command}: {error.filename or out}: {(error.strerror or '').lower()}")
