"""Files of tracked events: training appends, a process of its own reads and sends, nobody waits.

One file holds one run: JSON lines in the order in which they happened, each with its own time
stamp, so that sending a line twice is the same as sending it once. The writer holds a lock on its
file for as long as it lives: a reader that gets the lock knows that the writer is gone, however it
went. The file of a run that did not finish is found again by its key, and goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tasks import layout

EXPERIMENT = "unmask"  # where MLFLOW_EXPERIMENT_NAME names no other

Line = dict[str, Any]


def folder(uri: str) -> Path:
    """Folder of the runs that are meant for the tracking server at `uri`; holds no credentials."""
    return layout.scratch() / "spool" / hashlib.sha256(uri.encode()).hexdigest()[:8]


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


class Spool:
    """The writer's end of one run's file.

    Args:
        where: folder of the file.
        key: what makes two runs the same work. Where an unfinished file with that key lies and
            nobody writes to it, that file is continued; otherwise a new one is made.
    """

    def __init__(self, where: Path, key: str) -> None:
        where.mkdir(parents=True, exist_ok=True)
        self._unwritten = b""
        self._complained = False
        self._turn = threading.Lock()
        for path in sorted(where.glob(f"{file_name(key)}-??????.jsonl")):
            file = _lock(path)
            if file is None:
                continue
            lines = [line for line, _ in read(path)]
            if not (lines and lines[-1].get("end") == "FINISHED"):
                self._open(path, file, lines)
                return
            file.close()
        path = where / f"{file_name(key)}-{uuid.uuid4().hex[:6]}.jsonl"
        file = _lock(path)
        assert file is not None, "nobody else knows a name that was just drawn"
        self._open(path, file, [])

    def _open(self, path: Path, file: IO[bytes], lines: list[Line]) -> None:
        self.path, self._file = path, file
        self.name = path.stem
        self.resumed = bool(lines)
        self.newest: dict[str, int] = {}
        for line in lines:
            for metric in line.get("m", ()):
                self.newest[metric] = max(line["s"], self.newest.get(metric, line["s"]))
        _end_at_a_line(file)

    def append(self, line: Line) -> None:
        """Write one line; a full disk delays it instead of raising, for training must not end of it."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._turn:
            self._unwritten += data
            try:
                while self._unwritten:
                    self._unwritten = self._unwritten[os.write(self._file.fileno(), self._unwritten) :]
            except OSError as error:
                if not self._complained:
                    self._complained = True
                    warnings.warn(f"{self.path}: {error.strerror}; metrics wait in memory", stacklevel=3)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read(path: Path, start: int = 0) -> Iterator[tuple[Line, int]]:
    """Whole lines from byte `start` on, each with the byte where the next one begins."""
    with path.open("rb") as file:
        file.seek(start)
        for data in file:
            if not data.endswith(b"\n"):  # still being written
                return
            start += len(data)
            yield _parse(data), start


def written_by_nobody(path: Path) -> bool:
    """Whether the process that wrote to this file is gone."""
    file = _lock(path, patience=0.0)
    if file is not None:
        file.close()
    return file is not None


def file_name(key: str) -> str:
    """`key` with only such characters as are plain in file names and in patterns for them."""
    return re.sub(r"[^A-Za-z0-9@._-]", "_", key)


def state_file(path: Path) -> Path:
    """What the sender knows of a run: its id in MLflow, and how many bytes are sent."""
    return path.with_suffix(".state")


def files(path: Path) -> Path:
    """Folder for copies of what is to be sent beside the lines."""
    return path.with_suffix(".files")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place, whole, when the block ends well."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The JSON object in a small file, or an empty one where there is no such file."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def store(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON object, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(value))


def _parse(data: bytes) -> Line:
    try:
        line = json.loads(data)
    except ValueError:  # torn by a power cut; the lines around it are whole
        return {}
    return line if isinstance(line, dict) else {}


def _lock(path: Path, patience: float = 0.5) -> IO[bytes] | None:
    file = path.open("a+b", buffering=0)
    deadline = time.monotonic() + patience  # a reader that looks holds the lock for microseconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > deadline:
                file.close()
                return None
        time.sleep(0.02)


def _end_at_a_line(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            os.write(file.fileno(), b"\n")
