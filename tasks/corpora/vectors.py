"""Vectors of the files of a folder, whatever medium they hold; who has none is told why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from tasks.corpora.media import Medium
from tasks.errors import InputError
from tasks.modalities import Embedded, Rejected
from tasks.sources import File, folders

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64
Decoded = TypeVar("Decoded")


def of_folder(
    folder: Path,
    medium: Medium,
    decode: Callable[[bytes], Decoded],
    vectors: Callable[[Sequence[Decoded]], Tensor],
) -> Embedded:
    """Vectors of all files of a medium below a folder.

    Args:
        folder: with the files.
        medium: what its files are called.
        decode: a file's bytes to what `vectors` reads; raises `Rejected` where they cannot be.
        vectors: of several files, [B, D].

    Raises:
        InputError: the folder holds no such file, or none that can be decoded.
    """
    import torch

    files = [file for file in folders.files(str(folder)) if file.suffix in medium.suffixes]
    if not files:
        raise InputError(
            f"{folder} holds no {medium.name}s (files that end in {', '.join(medium.suffixes)}); "
            "name another folder."
        )
    paths: list[str] = []
    parts: list[Tensor] = []
    left_out: dict[str, str] = {}
    for batch in _batches(files, medium, decode, left_out, len(str(folder).rstrip("/")) + 1):
        with torch.inference_mode():
            parts.append(vectors(list(batch.values())).float().cpu())
        paths += batch
    if not paths:
        told = ", ".join(f"{path} ({reason})" for path, reason in list(left_out.items())[:5])
        raise InputError(f"{folder}: none of {len(files)} {medium.name}s can be decoded: {told}.")
    return Embedded(paths, torch.cat(parts).numpy(), left_out)


def _batches(
    files: Sequence[File],
    medium: Medium,
    decode: Callable[[bytes], Decoded],
    left_out: dict[str, str],
    skipped: int,
) -> Iterator[dict[str, Decoded]]:
    """What was decoded by path below the folder, `BATCH` at a time; why others were not to `left_out`."""
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    with threads, tqdm(total=len(files), desc="embed", unit=f"{medium.name}s", disable=None) as bar:
        for start in range(0, len(files), BATCH):
            some = files[start : start + BATCH]
            decoded = {}
            for file, (found, reason) in zip(
                some, threads.map(lambda one: _opened(one, decode), some), strict=True
            ):
                path = file.location[skipped:]
                if found is None:
                    left_out[path] = reason
                else:
                    decoded[path] = found
            bar.update(len(some))
            if decoded:
                yield decoded


def _opened(file: File, decode: Callable[[bytes], Decoded]) -> tuple[Decoded | None, str]:
    """What a file holds, or why nothing can be made of it."""
    try:
        with file.open() as stream:
            content = stream.read()
        return decode(content), ""
    except Rejected as verdict:
        return None, verdict.reason.replace("_", " ")
    except InputError:
        return None, "a link that leads nowhere, or round in a circle"
    except OSError as error:
        return None, (error.strerror or str(error)).lower()
