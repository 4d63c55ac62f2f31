"""Seconds to describe and check 100,000 records of text: `python -m tests.benchmarks.validate_rows [rows]`.

Text: paragraphs of WikiText-2 from the folder in `UNMASK_MIRROR`, cut at random places so that no
two are alike. Prints seconds by part; `import` is paid once per process.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pyarrow as pa

from tasks import modalities
from tasks.checks import expected, suites
from tasks.modalities.text.quality import ValidateSettings

CHARACTERS = 600


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took, and how much of it the processor worked."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what:>12} {time.perf_counter() - began:7.2f} s, of one core {time.process_time() - cpu:7.2f} s")


def main() -> None:
    """Time each part of the stage on one table."""
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    folder = Path(os.environ["UNMASK_MIRROR"]) / "wikitext2"
    text = "".join((folder / f"{name}.txt").read_text(encoding="utf-8") for name in ("valid", "test"))
    places = random.Random(0)
    starts = [places.randrange(len(text) - CHARACTERS) for _ in range(num_rows)]
    records = pa.table(
        {
            "id": [f"r{row}" for row in range(num_rows)],
            "text": [text[start : start + places.randrange(CHARACTERS // 4, CHARACTERS)] for start in starts],
        }
    )
    print(f"{num_rows} records, {sum(map(len, records['text'].to_pylist())) / 1e6:.1f} M characters")
    quality, settings = modalities.quality("text"), ValidateSettings()
    with timed("import"):
        quality.expectations(settings)
    with timed("together"):
        with timed("describe"):
            metrics = quality.describe(records)
        with timed("summary"):
            expected.summary(metrics)
        with timed("expectations"), tempfile.TemporaryDirectory() as docs:
            suites.check(expected.of_records({"domain": metrics}, quality, settings), Path(docs) / "docs")
    with timed("pieces"):
        quality.pieces(records)
    with timed("compare"):
        quality.compare(records, records)


if __name__ == "__main__":
    main()
