"""Checkpoints for resume: staged in memory and written by a thread, committed by a rename.

Weights and optimizer stay as they are until the next optimizer step, so the thread copies them while
the training is already at the next batch; `settle` waits for the rest of the copy.

A checkpoint is `step-<n>.safetensors` (tensors) and `step-<n>.json` (step, scalars, checksum). The
JSON file is renamed into place last and is what makes a checkpoint exist, so a kill at any moment
leaves either the old state or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

Scalars = dict[str, Any]


class Checkpoints:
    """The newest `keep` checkpoints of one run in one folder, and those that it is told to keep."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._staged: dict[str, Tensor] = {}
        self._writer: threading.Thread | None = None
        self._is_staged = threading.Event()
        self._is_staged.set()
        self._failure: BaseException | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        scalars: Scalars,
        *,
        settled: Container[str] = (),
        keep: Collection[int] = (),
    ) -> None:
        """Begin a checkpoint and return; a thread goes on. Waits for the one before.

        Args:
            step: optimizer steps done.
            tensors: what changes with training.
            scalars: everything else, as JSON values.
            settled: names of the tensors that stay as they are until `settle` is called; the others
                are copied at once.
            keep: steps of older checkpoints that must stay.

        Raises:
            OSError: the write before this one failed (disk full, folder gone).
        """
        self.wait()
        if self._staged.keys() != tensors.keys():
            self._allocate(tensors)
        later = {name: value for name, value in tensors.items() if name in settled}
        self._stage({name: value for name, value in tensors.items() if name not in later})
        self._is_staged.clear()
        self._writer = threading.Thread(
            target=self._finish, args=(step, later, scalars, keep), name="checkpoint"
        )
        self._writer.start()

    def settle(self) -> None:
        """Until the last checkpoint is copied and its tensors may change."""
        self._is_staged.wait()

    def wait(self) -> None:
        """Until the last write is on disk; raises what it raised."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def newest(self) -> tuple[dict[str, Tensor], Scalars] | None:
        """The newest checkpoint that is whole; damaged ones are skipped with a warning."""
        for path in sorted(self.folder.glob("step-*.json"), reverse=True):
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("checkpoint %s is damaged and skipped (%s)", path, error)
        return None

    def rewind(self, step: int, scalars: Scalars) -> None:
        """Make the checkpoint of that step the newest, with some of its scalars replaced.

        Newer ones go first, so that a kill in between leaves a run that comes here again.
        """
        self.wait()
        for path in sorted(self.folder.glob("step-*.json"), reverse=True):
            if _step(path) > step:
                _drop(path)
            elif _step(path) == step:
                committed = json.loads(path.read_text())
                _commit(path, {**committed, "scalars": {**committed["scalars"], **scalars}})

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the staging buffers in a thread, so that no checkpoint pays for fresh memory."""
        self.wait()
        self._writer = threading.Thread(target=self._allocate, args=(dict(tensors),), name="checkpoint")
        self._writer.start()

    def _allocate(self, tensors: Mapping[str, Tensor]) -> None:
        self._staged = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in tensors.items()}

    def _stage(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            self._staged[name].copy_(value.detach())

    def _finish(
        self, step: int, tensors: Mapping[str, Tensor], scalars: Scalars, keep: Collection[int]
    ) -> None:
        try:
            self._stage(tensors)
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._is_staged.set()
        self._write(step, scalars, keep)

    def _write(self, step: int, scalars: Scalars, keep: Collection[int]) -> None:
        try:
            data = self.folder / f"step-{step:09d}.safetensors"
            partial = data.with_suffix(".partial")
            try:
                save_file(self._staged, partial)
            except SafetensorError as error:
                raise OSError(f"cannot write checkpoint {partial}: {error}") from error
            committed = {"step": step, "scalars": scalars, "crc32": _crc32(partial)}
            _durable_rename(partial, data)
            _commit(data.with_suffix(".json"), committed)
            self._drop_old(keep)
        except BaseException as error:
            self._failure = error

    def _drop_old(self, keep: Collection[int]) -> None:
        for path in sorted(self.folder.glob("step-*.json"))[: -self.keep]:
            if _step(path) not in keep:
                _drop(path)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _drop(path: Path) -> None:
    path.unlink()
    path.with_suffix(".safetensors").unlink(missing_ok=True)


def _commit(path: Path, committed: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(committed))
    _durable_rename(partial, path)


def _read(path: Path) -> tuple[dict[str, Tensor], Scalars]:
    committed = json.loads(path.read_text())
    data = path.with_suffix(".safetensors")
    if _crc32(data) != committed["crc32"]:
        raise ValueError("checksum differs")
    return load_file(data), committed["scalars"]


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _durable_rename(source: Path, target: Path) -> None:
    """Rename that survives a power cut: contents first, then the name."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
