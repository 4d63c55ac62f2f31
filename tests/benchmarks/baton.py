"""Contestants of a speed comparison take turns, so that a noisy machine is noisy for all.

Each contestant is a training loop of its own in a process of its own, as a user would run it. It
calls `Turn.step()` after every optimizer step; after a lap of steps the baton goes to the next
contestant, and it sleeps, with the workers that it may have started. The median over laps is quoted,
with ratios per wall second and per CPU second, its workers' included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import psutil

ENDLESS = 100_000  # steps; the race ends before


@dataclass
class Turn:
    """One contestant's side of the baton."""

    steps_per_lap: int
    baton: Connection
    steps: int = 0

    def begin(self) -> None:
        """Wait for the first turn."""
        self.baton.recv()
        workers = _workers()
        self.wall_start, self.cpu_start = time.perf_counter(), _cpu_seconds(workers)
        for worker in workers:
            worker.resume()

    def step(self) -> None:
        """Count a step; at the end of a lap hand the baton on, with the lap's seconds, and wait."""
        self.steps += 1
        if self.steps % self.steps_per_lap:
            return
        wall = time.perf_counter() - self.wall_start
        workers = _workers()
        for worker in workers:
            worker.suspend()
        self.baton.send((wall, _cpu_seconds(workers) - self.cpu_start))
        self.begin()


Loop = Callable[[Turn], None]


@dataclass
class Contestant:
    """One contestant as the race sees it."""

    process: multiprocessing.process.BaseProcess
    baton: Connection
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def options() -> argparse.ArgumentParser:
    """The command line of every comparison."""
    parser = argparse.ArgumentParser(description="Speed comparison, interleaved.")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps per lap")
    parser.add_argument("--laps", type=int, default=7, help="counted laps")
    parser.add_argument("--warmup", type=int, default=2, help="laps that are not counted")
    return parser


def race(
    contestants: Mapping[str, Loop],
    *,
    units_per_step: float,
    unit: str,
    arguments: argparse.Namespace | None = None,
) -> None:
    """Run all contestants in turns and print the table; the first one is ours."""
    arguments = arguments or options().parse_args()
    running = {name: _start(loop, arguments.steps) for name, loop in contestants.items()}
    try:
        for lap in range(arguments.laps + arguments.warmup):
            for name, contestant in running.items():
                print(f"\rlap {lap + 1}: {name:<40}", end="", flush=True)
                contestant.baton.send("yours")
                said = contestant.baton.recv()
                if isinstance(said, str):
                    raise RuntimeError(f"{name} failed:\n{said}")
                contestant.wall.append(said[0])
                contestant.cpu.append(said[1])
    finally:
        for contestant in running.values():
            _end(contestant.process)
    print()
    _table(running, arguments.warmup, units_per_step * arguments.steps, unit)


def _start(loop: Loop, steps_per_lap: int) -> Contestant:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(loop, Turn(steps_per_lap, theirs)))
    process.start()
    return Contestant(process, ours)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    workers = _workers(process.pid)
    process.kill()
    for worker in workers:
        worker.kill()


def _workers(pid: int | None = None) -> list[psutil.Process]:
    """The processes that a contestant, by default this one, has started."""
    return psutil.Process(pid).children(recursive=True)


def _cpu_seconds(workers: list[psutil.Process]) -> float:
    return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in workers)


def _run(loop: Loop, turn: Turn) -> None:
    turn.begin()
    try:
        loop(turn)
    except BaseException:
        turn.baton.send(traceback.format_exc())


def _table(contestants: Mapping[str, Contestant], warmup: int, units: float, unit: str) -> None:
    ours = next(iter(contestants.values()))
    print(f"{'':40} {unit + '/s':>12} {'ours: x wall':>13} {'x CPU':>8}")
    for name, contestant in contestants.items():
        pairs = [
            (wall / our_wall, cpu / our_cpu)
            for wall, cpu, our_wall, our_cpu in zip(
                contestant.wall, contestant.cpu, ours.wall, ours.cpu, strict=True
            )
        ]
        wall, cpu = (statistics.median(values) for values in zip(*pairs[warmup:], strict=True))
        rate = units / statistics.median(contestant.wall[warmup:])
        print(f"{name:40} {rate:12,.0f} {wall:13.2f} {cpu:8.2f}")
