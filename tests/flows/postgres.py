"""A PostgreSQL server of the test's own, from Debian's package."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """Folder of `initdb` and `postgres`, which Debian keeps off the PATH; None where it is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextlib.contextmanager
def running(port: int) -> Iterator[str]:
    """Start a server in an empty folder; its address, less the name of a database."""
    binaries = programs()
    assert binaries is not None, "ask programs() first"
    with tempfile.TemporaryDirectory(prefix="unmask-postgres-") as folder:  # pytest's own is closed to others
        data = Path(folder)
        as_postgres: list[str] = []
        if os.geteuid() == 0:  # which the server refuses
            shutil.chown(data, "postgres")
            as_postgres = ["runuser", "-u", "postgres", "--"]
        yield from _served(data, port, binaries, as_postgres)


def _served(data: Path, port: int, binaries: Path, as_postgres: list[str]) -> Iterator[str]:
    quiet = {"check": True, "capture_output": True, "cwd": data}
    initdb = [binaries / "initdb", "-D", data, "-U", "unmask", "-A", "trust", "-N"]
    subprocess.run([*as_postgres, *map(str, initdb)], **quiet)  # type: ignore[call-overload]
    options = f"-p {port} -h 127.0.0.1 -k {data} -F"
    control = [*as_postgres, str(binaries / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run(
        [*control, "-l", str(data / "log"), "-o", options, "start"], check=True, stdout=subprocess.DEVNULL
    )
    try:
        for name in ("prefect", "mlflow"):
            create = ["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "unmask", name]
            subprocess.run([str(binaries / create[0]), *create[1:]], check=True)
        yield f"postgresql://unmask@127.0.0.1:{port}"
    finally:  # nothing of it is kept
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL)
