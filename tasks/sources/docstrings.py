"""Docstrings of what is installed beside this interpreter: parsed with `ast`, never imported."""

from __future__ import annotations

import ast
import functools
import gc
import importlib.metadata
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.corpora.duplicates import hash64

MAX_SOURCE_BYTES = 1 << 20  # larger files are generated tables, slow to parse and poor in prose
MIN_QUOTED_SHARE = 0.15  # between triple quotes: parsing takes time by the source, so poor sources wait
# Tests have few docstrings; vendored copies are said before by the package itself.
_SKIPPED = {
    "idlelib",
    "lib2to3",
    "tests",
    "test",
    "testing",
    "_vendor",
    "vendor",
    "vendored",
    "_vendored",
    "site-packages",
    "node_modules",
}


def standard_library() -> dict[str, Path]:
    """Path of each top-level module or package of the standard library, by name."""
    return _importable(Path(sysconfig.get_paths()["stdlib"]))


def installed() -> dict[str, Path]:
    """Path of each top-level module or package that pip put beside this interpreter, by name."""
    paths = sysconfig.get_paths()
    return {**_importable(Path(paths["platlib"])), **_importable(Path(paths["purelib"]))}


def versions() -> dict[str, str]:
    """Version of each installed distribution by name, read off the names of folders alone."""
    paths = sysconfig.get_paths()
    found = {}
    for folder in sorted({paths["platlib"], paths["purelib"]}):
        for entry in Path(folder).glob("*.dist-info"):
            name, _, version = entry.name.removesuffix(".dist-info").partition("-")
            found[_canonical(name)] = version
    return found


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {name: list(found) for name, found in importlib.metadata.packages_distributions().items()}


def distribution(package: str) -> str:
    """Name of the distribution that brings a top-level package (`scikit-learn` for `sklearn`)."""
    return _canonical(next(iter(sorted(_distributions().get(package, [package])))))


@functools.cache
def license_of(package: str) -> str | None:
    """Licence that the package's own metadata states; None where it states none in a few words."""
    try:
        metadata = importlib.metadata.metadata(distribution(package)).json
    except importlib.metadata.PackageNotFoundError:
        return None
    stated = str(metadata.get("license_expression") or metadata.get("license") or "")
    if not stated or len(stated) > 60 or "\n" in stated:  # some put the whole text there
        classes = [line for line in metadata.get("classifier", []) if line.startswith("License ::")]
        stated = ", ".join(line.rsplit(" :: ", 1)[-1] for line in classes)
    return stated or None


def sources(packages: dict[str, Path]) -> list[tuple[str, Path]]:
    """Stable name (`numpy/linalg/_linalg.py`) and path of every module, in an order that mixes packages."""
    named = []
    for package, root in packages.items():
        if root.is_file():
            named.append((root.name, root))
            continue
        for path in _python_files(root):
            named.append((f"{package}/{path.relative_to(root).as_posix()}", path))
    return sorted(named, key=lambda entry: (hash64(entry[0].encode()), entry[0]))


@functools.lru_cache(maxsize=4096)  # 20 MB at most: the task and the domain corpus read the same modules
def docstrings(path: Path) -> tuple[str, ...]:
    """Docstrings of a module, its classes, methods and functions, in the order of the file."""
    if path.stat().st_size > MAX_SOURCE_BYTES:
        return ()
    source = path.read_bytes()
    quoted = sum(map(len, source.split(b'"""')[1::2]))
    if quoted < MIN_QUOTED_SHARE * len(source):
        return ()
    tree = parse(source)
    return tuple(_of_body(tree)) if tree is not None else ()


def parse(source: bytes) -> ast.Module | None:
    """The syntax tree, or None where this Python cannot parse the file (templates, other versions)."""
    was_collecting = gc.isenabled()
    gc.disable()  # a tree is many objects and no cycle: collecting while it grows doubles the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    finally:
        if was_collecting:
            gc.enable()


def _of_body(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        yield inspect.cleandoc(first.value.value)
    if isinstance(node, ast.Module | ast.ClassDef):  # what is defined inside functions is rarely documented
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _of_body(child)


def _importable(folder: Path) -> dict[str, Path]:
    found = {}
    for entry in sorted(folder.iterdir()):
        name = entry.name.removesuffix(".py")
        if not name.isidentifier() or name in _SKIPPED:
            continue
        if (entry.is_dir() and any(entry.glob("*.py"))) or (entry.is_file() and entry.suffix == ".py"):
            found[name] = entry
    return found


def _python_files(root: Path) -> Iterable[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED and name.isidentifier())
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder) / name


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
