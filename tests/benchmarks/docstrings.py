"""Real text for benchmarks without a download: docstrings of installed packages, never imported."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def corpus(folder: Path, megabytes: int) -> Path:
    """A folder of normalised records (`records-00000.parquet`) with that much text, made once."""
    folder = folder / f"docstrings-{megabytes}"
    path = folder / "records-00000.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts = list(_take(megabytes * 1_000_000))
        table = pa.table(
            {
                "id": [str(number) for number in range(len(texts))],
                "text": texts,
                "source": ["docstrings"] * len(texts),
                "license": pa.nulls(len(texts), pa.string()),
                "split": ["train"] * len(texts),
            }
        )
        aside = path.with_suffix(".partial")
        pq.write_table(table, aside)
        aside.rename(path)
    return folder


def _take(num_bytes: int) -> Iterator[str]:
    seen: set[str] = set()
    with tqdm(total=num_bytes, unit="B", unit_scale=True, desc="docstrings", disable=None) as bar:
        for text in _docstrings():
            if text in seen:
                continue
            seen.add(text)
            yield text
            bar.update(len(text.encode()))
            if bar.n >= num_bytes:
                return
    raise SystemExit(f"the installed packages hold only {bar.n / 1e6:.0f} MB of docstrings; ask for less")


def _docstrings() -> Iterator[str]:
    paths = sysconfig.get_paths()
    for root in (paths["stdlib"], paths["purelib"]):
        for file in sorted(Path(root).rglob("*.py")):
            try:
                with warnings.catch_warnings(action="ignore"):
                    tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, OSError):
                continue
            for node in ast.walk(tree):
                text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
                if text and _encodable(text):
                    yield text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
