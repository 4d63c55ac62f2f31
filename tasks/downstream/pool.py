"""Jobs in processes of one thread each.

Every process has a pipe of its own and no lock is shared, so that one that is killed at any moment
blocks no other. A process whose parent is gone ends at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from tasks.downstream.jobs import PROCESSES, Job, execute
from tasks.engine.interrupt import Interrupted, termination
from tasks.errors import InputError

GIB = 1 << 30
# Weights, gradients, two moments, the best copy, and room for activations.
WEIGHTS_PER_PROCESS = 8
SECONDS_TO_SAVE = 20.0
MENDABLE = (InputError, OSError, ArithmeticError)


def run_all(jobs: Sequence[Job], num_processes: int) -> Iterator[Job]:
    """Do what is not done yet; give each job when it is.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; finished jobs are stored, unfinished ones left checkpoints.
    """
    finished = [job for job in jobs if job.done.exists()]
    yield from finished
    open_jobs = [job for job in jobs if not job.done.exists()]
    if num_processes < 2 or len(open_jobs) < 2:
        for job in open_jobs:
            execute(job)
            yield job
        return
    with termination() as asked_to_stop, _processes(min(num_processes, len(open_jobs))) as idle:
        left = list(reversed(open_jobs))
        running: dict[Connection, Job] = {}
        while left or running:
            while left and idle:
                pipe = idle.pop()
                pipe.send(left[-1])
                running[pipe] = left.pop()
            ready = wait(list(running), timeout=0.2)
            for pipe in [pipe for pipe in running if pipe in ready]:
                _answer(pipe)
                idle.append(pipe)
                yield running.pop(pipe)
            if asked_to_stop():
                raise Interrupted(len(jobs) - len(left) - len(running))


def _answer(pipe: Connection) -> None:
    """Take a process's word that its job is done, or raise what it raised."""
    try:
        error = pipe.recv()
    except (EOFError, ConnectionError):
        raise InputError(
            "a process of the stage was killed, most likely for want of memory. Start again with "
            f"{PROCESSES}=1 (finished runs are kept), or lower finetune.batch_size (all runs start anew)."
        ) from None
    if error is not None:
        raise error


@contextmanager
def _processes(count: int) -> Iterator[list[Connection]]:
    """Pipes to processes that wait for jobs; all processes are gone when the block is left."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for _ in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        yield list(pipes)
    finally:
        for process in processes:
            process.terminate()  # a training loop notes it, writes a checkpoint and leaves
        for process in processes:
            process.join(SECONDS_TO_SAVE)
            process.kill()
            process.join()
            process.close()
        for pipe in pipes:
            pipe.close()


def _serve(pipe: Connection) -> None:
    """Do jobs until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            execute(job)
        except Interrupted:
            return
        except MENDABLE as error:
            pipe.send(error)
        except Exception:
            pipe.send(RuntimeError(f"{job.title} failed:\n{traceback.format_exc()}"))
        else:
            pipe.send(None)


def _end_with_parent() -> None:
    """A process whose parent was killed would go on computing for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def num_processes(jobs: Sequence[Job]) -> int:
    """As many as there are cores and as memory holds; one where a GPU does the work.

    The environment variable UNMASK_PROCESSES overrides it. Results do not depend on it.
    """
    import psutil
    import torch

    if given := os.environ.get(PROCESSES):
        if not given.isdecimal() or not int(given):
            raise InputError(
                f"{PROCESSES}={given!r} is not a number of processes; give 1 or more, or unset it."
            )
        return int(given)
    if torch.cuda.is_available():
        return 1
    weights = max((_size(job.arm.source) for job in jobs if job.arm), default=0)
    rows = max((_size(job.task.folder) for job in jobs), default=0)
    fitting = psutil.virtual_memory().available // (GIB + WEIGHTS_PER_PROCESS * weights + rows)
    return max(1, min(len(os.sched_getaffinity(0)), fitting, len(jobs)))


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
