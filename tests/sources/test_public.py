from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import sources
from tasks.errors import ChecksumMismatch, InputError
from tasks.sources import public
from tasks.sources.catalogue import CATALOGUE, PublicSet

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT with ranges; breaks off the first `num_breaks` answers, or fails with `status`."""

    num_breaks = 0
    status = 200
    asked: list[str]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int((re.findall(r"bytes=(\d+)-", wanted) or ["0"])[0])
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.num_breaks:
            self.server.num_breaks -= 1
            body = body[:100_000]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(public, "PAUSES_SECONDS", (0, 0, 0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def listed(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A catalogue with one file on the server, and the scratch folder."""
    entry = PublicSet(
        mirror="tiny",
        homepage="https://example.org",
        license="CC0-1.0",
        address=server.url.removesuffix("file.bin"),
        format="txt",
        files={"file.bin": (len(CONTENT), SHA256)},
    )
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("UNMASK_MIRROR", raising=False)
    return tmp_path / "scratch"


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.num_breaks = 2
    public.download(server.url, tmp_path / "x", sha256=SHA256, size=len(CONTENT))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=100000-", "bytes=200000-"]


def test_another_file_than_the_catalogues_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match="expected 0000"):
        public.download(server.url, tmp_path / "x", sha256="0000", size=len(CONTENT))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_is_an_error_at_once_and_a_busy_server_is_asked_again(
    server: Server, tmp_path: Path
) -> None:
    server.status = 404
    with pytest.raises(InputError, match="404"):
        public.download(server.url, tmp_path / "x", sha256=SHA256, size=len(CONTENT))
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(InputError, match="503"):
        public.download(server.url, tmp_path / "x", sha256=SHA256, size=len(CONTENT))
    assert len(server.asked) == 1 + 4


def test_without_a_network_the_message_names_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "PAUSES_SECONDS", ())
    with pytest.raises(InputError, match="UNMASK_MIRROR"):
        public.download("http://127.0.0.1:9/x", tmp_path / "x", sha256=SHA256, size=1)


def test_a_public_file_is_downloaded_once_and_again_when_the_cache_is_gone_or_spoilt(
    server: Server, listed: Path
) -> None:
    def read() -> bytes:
        (file,) = sources.files("public://tiny/file.bin")
        assert file.license == "CC0-1.0"
        with file.open() as stream:
            return stream.read()

    assert read() == read() == CONTENT
    assert len(server.asked) == 1
    cached = listed / "downloads" / "tiny" / "file.bin"
    cached.write_bytes(b"spoilt")
    assert read() == CONTENT
    cached.unlink()
    cached.parent.rmdir()
    assert read() == CONTENT
    assert len(server.asked) == 3


def test_the_mirror_comes_before_the_network_and_is_checked(
    server: Server, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_MIRROR", str(tmp_path / "mirror"))
    held = tmp_path / "mirror" / "tiny" / "file.bin"
    held.parent.mkdir(parents=True)
    held.write_bytes(CONTENT)
    assert public.fetch("tiny", "file.bin") == held
    held.write_bytes(b"changed")
    with pytest.raises(ChecksumMismatch, match="replace it in the mirror"):
        public.fetch("tiny", "file.bin")
    assert server.asked == []


def test_unknown_sets_and_files_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'wikitext-2'"):
        list(sources.files("public://wikitext2/valid.txt"))
    with pytest.raises(InputError, match=r"did you mean 'valid\.txt'"):
        list(sources.files("public://wikitext-2/vaild.txt"))


def test_a_set_that_no_server_offers_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path))
    monkeypatch.delenv("UNMASK_MIRROR", raising=False)
    with pytest.raises(InputError, match="no server offers"):
        public.fetch("fsdd", "fsdd.tar")


def test_listing_a_public_set_downloads_nothing(listed: Path, server: Server) -> None:
    assert sources.listing("public://tiny") == {
        "files": [{"location": "public://tiny/file.bin", "size": len(CONTENT), "sha256": SHA256}]
    }
    assert server.asked == []


@pytest.mark.mirror
def test_every_file_of_the_catalogue_that_the_mirror_holds_has_its_sha256(mirror: Path) -> None:
    held = 0
    for name, public_set in CATALOGUE.items():
        for path in public_set.files:
            if (mirror / public_set.mirror / path).is_file():
                public.fetch(name, path)
                held += 1
    assert held > 20


@pytest.mark.mirror
def test_members_of_a_public_archive_are_found(mirror: Path) -> None:
    names = [file.location for file in sources.files("public://fsdd")]
    assert len([name for name in names if name.endswith(".wav")]) == 3000
    assert names[0].startswith("public://fsdd/fsdd.tar!/")


def test_a_glob_names_some_files_of_a_set() -> None:
    found = sources.listing("public://cifar10/train-*.parquet")["files"]
    assert [entry["location"].rpartition("/")[2][:11] for entry in found] == [
        f"train-{number:05d}" for number in range(5)
    ]
    with pytest.raises(InputError, match="unknown file 'tain-"):
        sources.listing("public://cifar10/tain-*.parquet")
