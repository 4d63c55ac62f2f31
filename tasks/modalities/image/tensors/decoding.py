"""Encoded pictures to squares of bytes, on all cores.

One resize: the shorter side is scaled to the stored side with an antialiased bicubic filter, and of
the longer one the middle is kept. A JPEG that is far larger is first read at a half, a quarter or
an eighth of its size, never below twice the stored side.

Legend: N pictures, C channels, S stored side in pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from tasks.errors import InputError
from tasks.modalities.image.records.decoding import opened

Pixels = NDArray[np.uint8]

FEW = 2048  # pictures that are decoded before further processes would have started


@dataclass(frozen=True)
class Form:
    """What every stored picture looks like.

    Attributes:
        side: of the square, in pixels.
        channels: 3 or 1.
        is_exact: keep values as they are, which number the classes of a mask: nearest neighbours.
    """

    side: int
    channels: int
    is_exact: bool = False

    @property
    def num_bytes(self) -> int:
        """Of one decoded picture."""
        return self.channels * self.side * self.side

    def of_masks(self) -> Form:
        """The form of the masks that belong to these pictures."""
        return Form(self.side, channels=1, is_exact=True)


def decode(picture: bytes, form: Form) -> Pixels:
    """One picture of a record as [C, S, S]."""
    with opened(picture) as image:
        if not form.is_exact:
            image.draft(None, (2 * form.side, 2 * form.side))
        width, height = image.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        square = image.convert("RGB" if form.channels == 3 else "L").resize(
            (form.side, form.side),
            Image.Resampling.NEAREST if form.is_exact else Image.Resampling.BICUBIC,
            box=(left, top, left + short, top + short),
        )
    values = np.asarray(square, np.uint8).reshape(form.side, form.side, form.channels)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def decode_all(records: pa.Table, form: Form) -> Pixels:
    """Pictures of records with `id` and `picture` as [N, C, S, S].

    Raises:
        InputError: one cannot be decoded; names its id.
    """
    pixels = np.empty((records.num_rows, form.channels, form.side, form.side), np.uint8)
    for row, (name, picture) in enumerate(
        zip(records["id"].to_pylist(), records["picture"].to_pylist(), strict=True)
    ):
        try:
            pixels[row] = decode(picture, form)
        except (OSError, ValueError, SyntaxError, TypeError) as error:
            raise InputError(
                f"record {name!r}: its picture cannot be decoded ({error}); run ingest again, or take the "
                "record out of the corpus."
            ) from None
    return pixels


def whole(records: pa.Table, form: Form) -> Pixels:
    """All pictures of a table at once, [N, C, S, S]."""
    pixels = np.empty((records.num_rows, form.channels, form.side, form.side), np.uint8)
    pieces = (records.slice(start, 256) for start in range(0, records.num_rows, 256))
    for number, piece in enumerate(stream(pieces, form, records.num_rows)):
        pixels[256 * number :][: len(piece)] = piece
    return pixels


def stream(tables: Iterable[pa.Table], form: Form, num_pictures: int) -> Iterator[Pixels]:
    """The pictures of each table in turn, decoded ahead on all cores; memory stays bounded."""
    num_processes = len(os.sched_getaffinity(0))
    if num_pictures < FEW or num_processes == 1:
        for records in tables:
            yield decode_all(records, form)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=_end_with_parent) as pool:
        running: deque[Future[Pixels]] = deque()
        try:
            for records in tables:
                running.append(pool.submit(decode_all, records, form))
                if len(running) > 2 * num_processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for waiting in running:
                waiting.cancel()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait forever for work."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
