"""One at a time, in the order of asking, and what the dead held is free."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import turns
from tests.flows.conftest import wait_until

ALONE = """
import sys
from pathlib import Path
from flows import turns
with turns.alone(Path(sys.argv[1]), "the first", "works here", print):
    print("mine", flush=True)
    sys.stdin.read()
"""
PLACE = """
import sys
from pathlib import Path
from flows import turns
def say(line):
    print(line, flush=True)
with turns.place(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3], say) as name:
    print("place", name, flush=True)
    sys.stdin.read()
"""


class Waiter:
    """A process that asks for a turn, and lets go when told to."""

    def __init__(self, program: str, *words: str) -> None:
        command = [sys.executable, "-c", program, *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate("", timeout=20)


Ask = Callable[..., Waiter]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    waiters: list[Waiter] = []

    def one(who: str, names: str = "0") -> Waiter:
        waiters.append(Waiter(PLACE, str(tmp_path), names, who))
        return waiters[-1]

    yield one
    for waiter in waiters:
        waiter.process.kill()
        waiter.process.communicate()


def test_second_waits_for_the_first_is_told_so_and_outlives_it(tmp_path: Path) -> None:
    first = Waiter(ALONE, str(tmp_path / "lock"))
    assert first.says() == "mine"
    told: list[str] = []

    def tell(message: str) -> None:
        told.append(message)
        first.process.kill()

    with turns.alone(tmp_path / "lock", "the second", "works here", tell):
        pass
    first.process.communicate()
    assert told == ["waiting for the first, which works here"]


def test_places_are_given_in_the_order_of_asking(ask: Ask, tmp_path: Path) -> None:
    first = ask("A")
    assert first.says() == "place 0"
    second = ask("B")
    assert second.says() == "waiting for a place to compute; at work: A; this one is next"
    third = ask("C")
    assert third.says() == "waiting for a place to compute; at work: A; before this one: B"
    first.leave()
    assert second.says() == "place 0"
    assert third.says() == "waiting for a place to compute; at work: B; this one is next"
    second.leave()
    assert third.says() == "place 0"
    third.leave()
    assert not list(tmp_path.glob("*.ticket"))


def test_each_place_has_one_holder_and_all_are_used(ask: Ask) -> None:
    held = [ask(who, "0,1") for who in ("A", "B")]
    assert sorted(waiter.says() for waiter in held) == ["place 0", "place 1"]
    third = ask("C", "0,1")
    assert third.says().startswith("waiting for a place to compute; at work: ")
    held[1].leave()
    assert third.says().startswith("place ")


def test_the_dead_keep_neither_a_place_nor_a_turn(ask: Ask, tmp_path: Path) -> None:
    first, second = ask("A"), ask("B")
    names = {first.says(), second.says()}
    assert "place 0" in names
    third = ask("C")
    assert "before this one: " in third.says()
    second.process.kill()
    first.process.kill()
    wait_until(lambda: third.says() == "place 0", 20)
    third.leave()
    assert not list(tmp_path.glob("*.ticket"))


@pytest.mark.parametrize(
    ("named", "seen", "expected"),
    [
        ("2,3", None, ("2", "3")),
        (None, "1", ("1",)),
        (None, "GPU-ab,GPU-cd", ("GPU-ab", "GPU-cd")),
        (None, "", ("processor",)),
        ("left,right", "0", ("left", "right")),
        (None, None, ("processor",)),
    ],
)
def test_places_of_the_machine(
    named: str | None, seen: str | None, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (("UNMASK_PLACES", named), ("CUDA_VISIBLE_DEVICES", seen)):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    if seen is None and expected == ("processor",) and Path("/proc/driver/nvidia/gpus").exists():
        pytest.skip("this machine has GPUs")
    assert turns.machine_places() == expected
