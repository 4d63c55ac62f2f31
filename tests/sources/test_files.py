from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks import sources
from tasks.errors import InputError

TEXT = b"some words\n" * 1000


def read_all(location: str) -> dict[str, bytes]:
    found = {}
    for file in sources.files(location):
        with file.open() as stream:
            found[file.location] = stream.read()
    return found


def pack_tar(path: Path, mode: Any, members: dict[str, bytes]) -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_folder_gives_its_files_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/two.txt", "a.txt", ".hidden", "b/.cache"):
        (tmp_path / name).write_bytes(TEXT)
    assert list(read_all(str(tmp_path))) == [f"{tmp_path}/a.txt", f"{tmp_path}/b/two.txt"]


def test_a_glob_gives_what_matches(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x.md").write_bytes(TEXT)
    (tmp_path / "deep" / "y.txt").write_bytes(TEXT)
    assert list(read_all(f"{tmp_path}/**/*.md")) == [f"{tmp_path}/deep/er/x.md"]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_compression_is_undone_and_does_not_hide_the_format(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"notes.TXT{suffix}"
    path.write_bytes(compress(TEXT))
    (file,) = sources.files(str(path))
    assert file.suffix == ".txt"
    with file.open() as stream:
        assert stream.read() == TEXT


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_a_truncated_compressed_file_is_an_error_and_not_a_short_file(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"notes.txt{suffix}"
    path.write_bytes(compress(os.urandom(50_000))[:20_000])
    (file,) = sources.files(str(path))
    with file.open() as stream, pytest.raises(EOFError):
        stream.read()


def test_zstandard_frames_one_after_the_other_are_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt.zst"
    path.write_bytes(zstandard.compress(TEXT) + zstandard.compress(b"end"))
    assert read_all(str(path)) == {str(path): TEXT + b"end"}


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.txz", "w:xz")]
)
def test_members_of_a_tar_are_streamed_one_by_one(tmp_path: Path, name: str, mode: str) -> None:
    pack_tar(tmp_path / name, mode, {"x/one.txt": b"1", "x/.hidden": b"h", "two.txt": b"2"})
    assert read_all(str(tmp_path)) == {
        f"{tmp_path}/{name}!/x/one.txt": b"1",
        f"{tmp_path}/{name}!/two.txt": b"2",
    }


def test_members_of_a_zip_are_streamed_one_by_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("x/", b"")
        zipped.writestr("x/one.txt", b"1")
        zipped.writestr("two.txt", b"2")
    assert list(read_all(str(tmp_path / "a.zip")).values()) == [b"1", b"2"]


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil.txt", "x/../../evil.txt", "C:\\evil.txt", "..\\evil.txt"]
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_points_outside_its_archive_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        pack_tar(path, "w", {"fine.txt": b"1", name: b"2"})
    else:
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(zipfile.ZipInfo(name), b"2")
    with pytest.raises(InputError, match="outside the archive"):
        read_all(str(path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("link.txt")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError, match="link"):
        read_all(str(tmp_path / "a.tar"))


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="link"):
        read_all(str(tmp_path / "a.zip"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_that_is_none_is_called_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(os.urandom(2048))
    with pytest.raises(InputError, match="damaged"):
        read_all(str(tmp_path / name))


def test_a_missing_path_an_empty_folder_and_an_unknown_scheme_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_all(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds no files"):
        read_all(str(tmp_path))
    with pytest.raises(InputError, match=r"did you mean 'public://'"):
        read_all("publik://wikitext-2")


def test_a_listing_follows_size_and_time_and_with_full_hash_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    before, hashed = sources.listing(str(path)), sources.listing(str(path), full_hash=True)
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sources.listing(str(path)) == before, "what a listing by time cannot see"
    assert sources.listing(str(path), full_hash=True) != hashed
    os.utime(path, ns=(1, 1))
    assert sources.listing(str(path)) != before
