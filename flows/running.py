"""Services as processes: started, started again where they end, and stopped in order."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flows.services import Service
from tasks.errors import InputError

START_SECONDS = 180
STOP_SECONDS = 15
RESTARTS, LATELY_SECONDS = 10, 600.0  # a worker that finds no server ends every hundred seconds


@dataclass
class Running:
    """Services that are kept running.

    Attributes:
        wanted: the services.
        processes: theirs by name; a service that is started again has another.
        ends: when each ended lately.
    """

    wanted: list[Service]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ends: dict[str, list[float]] = field(default_factory=dict)

    def keep(self) -> list[str]:
        """Start services again that have ended; what there is to tell of it.

        Raises:
            InputError: one keeps ending; the message has the end of its log.
        """
        told = []
        for service in self.wanted:
            code = self.processes[service.name].poll()
            if code is None:
                continue
            now = time.monotonic()
            lately = [when for when in self.ends.get(service.name, []) if now - when < LATELY_SECONDS]
            self.ends[service.name] = [*lately, now]
            if len(lately) >= RESTARTS:
                times = f"{len(lately) + 1} times within {now - lately[0]:.0f} s, last with code {code}"
                raise InputError(f"{service.name} ended {times}; {_end(service.log)}")
            self.processes[service.name] = _start(service)
            told.append(f"{service.name} ended with code {code} and was started again; see {service.log}")
        return told

    def stop(self) -> None:
        """End all, the last one first: the worker tells its server that it leaves."""
        for process in reversed(list(self.processes.values())):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS + 10)


@contextlib.contextmanager
def running(wanted: list[Service]) -> Iterator[Running]:
    """Start services and wait until all do their work; stop them at the end.

    Raises:
        InputError: one does not start; the message has the end of its log.
    """
    kept = Running(wanted)
    try:
        for service in wanted:
            kept.processes[service.name] = _start(service)
        for service in wanted:
            say(f"{service.name} is up after {_await(service, kept.processes[service.name]):.0f} s")
        yield kept
    finally:
        kept.stop()


def until_told(*all_of_them: Running) -> None:
    """Keep services running until this process gets Ctrl-C or SIGTERM.

    Raises:
        InputError: one keeps ending; the message has the end of its log.
    """
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    while not stop:
        for line in (line for kept in all_of_them for line in kept.keep()):
            print(line, file=sys.stderr, flush=True)
        time.sleep(0.3)


def exit_code(serve: Callable[[], None]) -> int:
    """Serve until told to stop; 0, or 1 where that cannot be, or 130 after Ctrl-C before all is up."""
    try:
        serve()
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def say(line: str) -> None:
    """Tell the person at the terminal at once."""
    print(line, flush=True)


def _start(service: Service) -> subprocess.Popen[bytes]:
    supervisor = [sys.executable, "-S", str(Path(__file__).with_name("supervise.py"))]
    with service.log.open("ab") as log:
        return subprocess.Popen(
            [*supervisor, "--grace", str(STOP_SECONDS), "--", *service.command],
            env=service.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we stop them in order
        )  # fmt: skip


def _await(service: Service, process: subprocess.Popen[bytes]) -> float:
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS:
        if process.poll() is not None:
            raise InputError(f"{service.name} ended with code {process.returncode}; {_end(service.log)}")
        if service.is_ready():
            return time.monotonic() - began
        time.sleep(0.2)
    raise InputError(f"{service.name} does not answer after {START_SECONDS} s; {_end(service.log)}")


def _end(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join([f"{log} ends with:", *lines])
