"""Contestants of a speed comparison take turns in one process, so that a noisy machine is noisy for all.

Each contestant is a training loop of its own in a thread of its own. It calls `Turn.step()` after
every optimizer step; after a lap of steps the baton goes to the next contestant. The median over
laps is quoted, with ratios per wall second and per CPU second.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Finished(Exception):
    """Raised into a contestant's loop when all laps are run."""


@dataclass
class Turn:
    """One contestant's place in the queue."""

    steps_per_lap: int
    num_laps: int
    warmup_laps: int
    mine: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    steps: int = 0
    error: BaseException | None = None

    def begin(self) -> None:
        """Wait for the first turn."""
        self.mine.acquire()
        self._start()

    def step(self) -> None:
        """Count a step; at the end of a lap hand the baton on and wait."""
        self.steps += 1
        if self.steps % self.steps_per_lap:
            return
        self.wall.append(time.perf_counter() - self.wall_start)
        self.cpu.append(time.process_time() - self.cpu_start)
        if len(self.wall) == self.num_laps + self.warmup_laps:
            raise Finished
        self.done.release()
        self.mine.acquire()
        self._start()

    def _start(self) -> None:
        self.wall_start, self.cpu_start = time.perf_counter(), time.process_time()


def race(contestants: Mapping[str, Callable[[Turn], None]], *, units_per_step: float, unit: str) -> None:
    """Run all contestants in turns and print the table; the first one is ours."""
    parser = argparse.ArgumentParser(description="Speed comparison, interleaved in one process.")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps per lap")
    parser.add_argument("--laps", type=int, default=7, help="counted laps")
    parser.add_argument("--warmup", type=int, default=2, help="laps that are not counted")
    arguments = parser.parse_args()
    turns = {name: Turn(arguments.steps, arguments.laps, arguments.warmup) for name in contestants}
    threads = [
        threading.Thread(target=_run, args=(loop, turns[name]), daemon=True)
        for name, loop in contestants.items()
    ]
    for thread in threads:
        thread.start()
    for lap in range(arguments.laps + arguments.warmup):
        for name, turn in turns.items():
            turn.mine.release()
            turn.done.acquire()
            if turn.error:
                raise RuntimeError(f"{name} failed") from turn.error
            print(f"\rlap {lap + 1}: {name:<40}", end="", flush=True)
    print()
    _table(turns, arguments.warmup, units_per_step * arguments.steps, unit)


def _run(loop: Callable[[Turn], None], turn: Turn) -> None:
    turn.begin()
    try:
        loop(turn)
    except Finished:
        pass
    except BaseException as error:
        turn.error = error
    turn.done.release()


def _table(turns: Mapping[str, Turn], warmup: int, units: float, unit: str) -> None:
    ours = next(iter(turns.values()))
    print(f"{'':40} {unit + '/s':>12} {'ours: x wall':>13} {'x CPU':>8}")
    for name, turn in turns.items():
        pairs = [
            (t / o, tc / oc) for t, o, tc, oc in zip(turn.wall, ours.wall, turn.cpu, ours.cpu, strict=True)
        ]
        wall, cpu = (statistics.median(values) for values in zip(*pairs[warmup:], strict=True))
        rate = units / statistics.median(turn.wall[warmup:])
        print(f"{name:40} {rate:12,.0f} {wall:13.2f} {cpu:8.2f}")
