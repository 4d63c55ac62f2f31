"""Object stores and web addresses through fsspec: s3://, gs://, https://.

Credentials come from where the store's own tools look for them (environment, ~/.aws, gcloud);
further options from fsspec's own variables, e.g. `FSSPEC_S3='{"anon": true}'` for public buckets.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.request import getproxies

from tasks.errors import InputError
from tasks.sources import File, without_query

CONNECT_SECONDS = 10
READ_SECONDS = 60  # of silence, not of the whole transfer
DRIVERS = {"s3": "s3fs", "gs": "gcsfs"}
GOOGLE = ("storage.googleapis.com", 443)


def files(location: str) -> Iterator[File]:
    """One object, all objects below a prefix, or those that match a glob, in sorted order.

    Raises:
        InputError: no network, no credentials, no driver for the scheme, or nothing there.
    """
    system, _ = _file_system(location)
    for name, info in _objects(location):
        path = info["name"]
        yield File(
            location=name, contents=functools.partial(_open, system, path, name), size=info.get("size")
        )


def listing(location: str, *, full_hash: bool) -> dict[str, Any]:
    """Size and etag (or time of change) of each object; `full_hash` adds nothing to an etag."""
    entries = []
    for name, info in _objects(location):
        entry = {"location": name, "size": info.get("size")}
        etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
        modified = info.get("LastModified") or info.get("updated") or info.get("mtime")
        if etag:
            entry["etag"] = str(etag).strip('"')
        elif modified:
            entry["modified"] = str(modified)
        entries.append(entry)
    return {"files": entries}


def _objects(location: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and fsspec's `info` of each object, hidden ones left out."""
    system, path = _file_system(location)
    with _explained(location):
        if any(mark in path for mark in "*[") and location.partition("://")[0] not in ("http", "https"):
            found = system.glob(path, detail=True)
        elif location.startswith("http") or system.isfile(path):
            found = {path: system.info(path)}
        else:
            found = system.find(path, detail=True)
    infos = [info for _, info in sorted(found.items()) if info.get("type", "file") == "file"]
    named = [(_name(system, info["name"]), info) for info in infos]
    named = [(name, info) for name, info in named if not PurePosixPath(name).name.startswith(".")]
    if not named:
        raise InputError(f"{location}: nothing is stored there; correct `from`.")
    return named


def _name(system: Any, path: str) -> str:
    """The address of an object, queries left out: they may hold a signature."""
    full = path if "://" in path else str(system.unstrip_protocol(path))
    return without_query(full)


def _file_system(location: str) -> tuple[Any, str]:
    import fsspec

    scheme = location.partition("://")[0]
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    elif scheme == "s3":
        options = {
            "config_kwargs": {
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"max_attempts": 2},
            }
        }
    elif scheme == "gs":
        with _explained(location):
            _reach_google()
        options = {"session_kwargs": {"trust_env": True}}
    try:
        system, path = fsspec.core.url_to_fs(location, **options)
    except ImportError as error:
        driver = DRIVERS.get(scheme, "fsspec[http]")
        raise InputError(
            f"{location}: {scheme}:// needs one more package; run `pip install {driver}`."
        ) from error
    if scheme == "s3":
        system.retries = (
            2  # s3fs tries five times on top of botocore's own: minutes where there is no network
        )
    return system, path


def _reach_google() -> None:
    """One connection to Google's storage, or the error that it meets.

    Google's driver takes 80 seconds to find out by itself that there is no network: it asks for
    credentials and objects up to six times, a number that is no setting. Where proxies or an
    address of one's own (`STORAGE_EMULATOR_HOST`, fsspec's `endpoint_url`) stand in between, the
    driver alone knows the way, and nothing is asked beforehand.
    """
    import fsspec

    settings = fsspec.config.conf.get("gs", {}) | fsspec.config.conf.get("gcs", {})
    if getproxies() or os.environ.get("STORAGE_EMULATOR_HOST") or "endpoint_url" in settings:
        return
    found = socket.getaddrinfo(*GOOGLE, type=socket.SOCK_STREAM)
    one_of_each_family = {family: str(address[0]) for family, *_, address in found}
    errors = []
    for address in one_of_each_family.values():
        try:
            seconds = CONNECT_SECONDS / len(one_of_each_family)
            socket.create_connection((address, GOOGLE[1]), seconds).close()
            return
        except OSError as error:
            errors.append(error)
    raise errors[-1]


def _open(system: Any, path: str, location: str) -> BinaryIO:
    with _explained(location):
        return cast("BinaryIO", system.open(path, "rb"))


@contextmanager
def _explained(location: str) -> Iterator[None]:
    """The many errors of the drivers as one sentence with a next step."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # fsspec calls a server that doesn't answer a file that isn't there; the cause tells them apart
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if isinstance(error, FileNotFoundError) and not _is_of_the_network(cause):
            remedy = "not found there; correct `from`."
        elif isinstance(error, PermissionError):
            remedy = f"access denied ({error}); check the credentials of the store."
        elif _is_of_the_network(cause):
            remedy = (
                f"cannot be reached ({type(cause).__name__}: {cause}). Check the network and the "
                "credentials, or copy the data to a local folder and name that in `from`."
            )
        else:
            raise
        raise InputError(f"{location}: {remedy}") from error


def _is_of_the_network(error: Exception) -> bool:
    # The drivers' exceptions live in packages that need not be installed: told by their home.
    if isinstance(error, FileNotFoundError) or type(error).__name__ == "ClientResponseError":
        return False
    home = type(error).__module__.partition(".")[0]
    known = ("aiohttp", "botocore", "gcsfs", "google", "s3fs", "requests")
    return isinstance(error, OSError | asyncio.TimeoutError) or home in known
