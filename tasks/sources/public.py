"""Public data sets by name: `public://wikitext-2/valid.txt`, or `public://wikitext-2` for all files of a set.

A glob names some of them: `public://cifar10/train-*.parquet`.

A file is taken from the mirror where `UNMASK_MIRROR` names one, else downloaded once into the
scratch folder: with progress, resumed where it broke off, retried, and checked against its sha256.
"""

from __future__ import annotations

import fnmatch
import functools
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tasks import layout
from tasks.errors import ChecksumMismatch, InputError, unknown
from tasks.sources import File, folders
from tasks.sources.catalogue import CATALOGUE, PublicSet

SCHEME = "public://"
TIMEOUT_SECONDS = 30
PAUSES_SECONDS = (1, 2, 4, 8)  # between attempts; one attempt more than pauses
CHUNK_BYTES = 1 << 20
OFFLINE = (
    "check the network, or download it elsewhere and set UNMASK_MIRROR to a folder laid out as "
    "tasks/sources/catalogue.py says."
)


def files(location: str) -> Iterator[File]:
    """The named file, or the files of a set or of a folder in it, in the catalogue's order.

    Raises:
        InputError: the name is unknown, or there is neither network nor mirror.
        ChecksumMismatch: what was found is not the file of the catalogue.
    """
    name, chosen, paths = _lookup(location)
    for path in paths:
        local = fetch(name, path)
        yield File(
            location=f"{SCHEME}{name}/{path}",
            contents=functools.partial(folders.opened, local),
            license=chosen.license,
            size=chosen.files[path][0],
            format=chosen.format,
        )


def listing(location: str, *, full_hash: bool) -> dict[str, Any]:
    """What the catalogue says; nothing is downloaded, because a file with another sha256 is refused."""
    name, chosen, paths = _lookup(location)
    return {
        "files": [
            {
                "location": f"{SCHEME}{name}/{path}",
                "size": chosen.files[path][0],
                "sha256": chosen.files[path][1],
            }
            for path in paths
        ]
    }


def fetch(name: str, path: str) -> Path:
    """A local copy of one file of the catalogue whose sha256 has been checked."""
    chosen = CATALOGUE[name]
    size, sha256 = chosen.files[path]
    mirror = os.environ.get("UNMASK_MIRROR")
    if mirror:
        local = Path(mirror).expanduser() / chosen.mirror / path
        if local.is_file():
            _check(local, sha256, "replace it in the mirror by the original")
            return local
    local = layout.scratch() / "downloads" / name / path
    if local.is_file() and folders.sha256(local) == sha256:
        return local
    if chosen.address is None:
        raise InputError(
            f"{SCHEME}{name}/{path}: no server offers this file; it was made from {chosen.homepage}. "
            f"Set UNMASK_MIRROR to a folder that holds {Path(chosen.mirror) / path}"
            + (f" (it is {mirror} now, without that file)." if mirror else ".")
        )
    download(chosen.address + path, local, sha256=sha256, size=size)
    return local


def download(url: str, target: Path, *, sha256: str, size: int) -> None:
    """Download a file to `target`, which appears only when it is whole and checked.

    Raises:
        InputError: the server cannot be reached or doesn't have the file.
        ChecksumMismatch: the server has another file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for pause in (*PAUSES_SECONDS, None):
        try:
            _append(url, part, size)
            break
        except urllib.error.HTTPError as error:
            with error:
                reason = f"{error.code} {error.reason}"
            if error.code == 416:  # the part is longer than the file: begin again
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{url}: the server answers {reason}; {OFFLINE}") from error
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno == 28:  # disk full is not the server's fault
                raise
            failure = error
        if pause is None:
            raise InputError(f"{url}: cannot be reached ({failure}); {OFFLINE}") from failure
        time.sleep(pause)
    try:
        _check(part, sha256, "the server has another version; get the original and put it into a mirror")
    except ChecksumMismatch:
        part.unlink()
        raise
    part.replace(target)


def _append(url: str, part: Path, size: int) -> None:
    """Fetch what `part` still lacks of `size` bytes."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if have and response.status != 206:  # the server ignores ranges
            have = 0
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < size:
        raise ConnectionError(f"the connection closed after {part.stat().st_size} of {size} bytes")


def _check(path: Path, sha256: str, remedy: str) -> None:
    found = folders.sha256(path)
    if found != sha256:
        raise ChecksumMismatch(f"{path}: sha256 is {found}, expected {sha256}; {remedy}.")


def _lookup(location: str) -> tuple[str, PublicSet, list[str]]:
    name, _, path = location.removeprefix(SCHEME).strip("/").partition("/")
    if name not in CATALOGUE:
        raise InputError(f"{location}: {unknown('public set', name, CATALOGUE)}")
    chosen = CATALOGUE[name]
    paths = [
        known
        for known in chosen.files
        if not path or known == path or known.startswith(path + "/") or fnmatch.fnmatchcase(known, path)
    ]
    if not paths:
        raise InputError(f"{location}: {unknown('file', path, chosen.files)}")
    return name, chosen, paths
