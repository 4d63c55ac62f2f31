from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tasks import sources
from tasks.errors import InputError
from tasks.ingest import ingest
from tasks.listing import list_corpus
from tasks.modalities.text.records import CorpusSettings
from tasks.sources import remote


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "notes.txt").write_text("from afar\n")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_web_address_is_read_and_listed(address: str) -> None:
    (file,) = sources.files(f"{address}/notes.txt?signature=secret")
    assert file.location == f"{address}/notes.txt", "a query may hold a signature"
    with file.open() as stream:
        assert stream.read() == b"from afar\n"
    (entry,) = sources.listing(f"{address}/notes.txt")["files"]
    assert entry["size"] == 10


def test_a_signature_stands_in_no_file(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    far, gone = (
        CorpusSettings(source=(f"{place}/notes.txt?signature=secret",), heldout_fraction=0)
        for place in (address, "http://127.0.0.1:9")
    )
    ingest("far", far, tmp_path / "out")
    listed = [list_corpus("far", corpus, []) for corpus in (far, gone)]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret" in text for text in [*kept, json.dumps(listed).encode()])


def test_a_missing_page_and_a_silent_server_say_what_to_do(address: str) -> None:
    with pytest.raises(InputError, match="not found"):
        list(sources.files(f"{address}/nothing.txt"))
    with pytest.raises(InputError, match="cannot be reached"):
        list(sources.files("http://127.0.0.1:9/notes.txt"))


def test_an_object_store_gives_all_below_a_prefix_or_what_matches() -> None:
    store = fsspec.filesystem("memory")
    for name in ("/bucket/b.txt", "/bucket/a.txt", "/bucket/deep/c.md", "/bucket/.hidden"):
        store.pipe_file(name, b"x")
    try:
        assert [file.name for file in remote.files("memory://bucket")] == ["a.txt", "b.txt", "c.md"]
        assert [file.name for file in remote.files("memory://bucket/*.txt")] == ["a.txt", "b.txt"]
        assert [file.name for file in remote.files("memory://bucket/deep/c.md")] == ["c.md"]
        with pytest.raises(InputError, match="not"):
            list(remote.files("memory://bucket/nothing"))
    finally:
        store.rm("/bucket", recursive=True)


def test_a_missing_driver_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ImportError("no s3fs here")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(InputError, match="pip install s3fs"):
        list(sources.files("s3://bucket/x.txt"))


def test_a_google_bucket_out_of_reach_is_told_at_once_without_asking_its_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(*args: object, **options: object) -> None:
        raise AssertionError("the driver tries for 80 seconds")

    monkeypatch.setattr(fsspec.core, "url_to_fs", ask)
    monkeypatch.setattr(remote, "GOOGLE", ("127.0.0.1", 9))
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    with pytest.raises(InputError, match=r"^gs://bucket/x.txt: cannot be reached .*local folder"):
        list(sources.files("gs://bucket/x.txt"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    with pytest.raises(AssertionError, match="the driver"):
        list(sources.files("gs://bucket/x.txt"))
