"""The guard: when it speaks, what follows, and that a killed run decides as one left in peace."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.objectives import Batch, Health, Objective, Step
from tasks import training
from tasks.engine.events import Event
from tasks.engine.guard import LOWERED, PATIENCE, Collapsed, Guard, NonFiniteLoss
from tasks.engine.loop import train
from tasks.engine.settings import TrainSettings
from tasks.engine.state import History
from tasks.journal import Run
from tasks.spool import Spool, read
from tests.tiny import Numbers

GOOD = Health({"effective_rank": 0.5, "deviation": 0.9})
FLAT = Health({"effective_rank": 0.5, "deviation": 0.001})
SETTINGS = TrainSettings(
    steps=60, batch_size=4, lr=1e-2, log_every=6, checkpoint_every=5, health_every=4, warmup_fraction=0.1,
    keep_checkpoints=1, precision="float32",
)  # fmt: skip
ROLL_BACK = dataclasses.replace(SETTINGS, on_collapse="roll_back")

Script = Callable[["Toy"], Health]


class Toy(Objective):
    """A regression with dropout whose health is read off a script; it counts its own steps."""

    num_steps: Tensor

    def __init__(self, script: Script) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.script = script
        self.positions: list[int] = []
        self.lost_at: set[int] = set()

    def forward(self, batch: Batch) -> Step:
        self.positions += batch["key"].tolist()
        loss = (self.layers(batch["x"]).squeeze(1) - batch["x"].sum(1)).square().mean()
        if self.batch_start(batch) in self.lost_at:
            loss = loss * math.nan
        return Step(loss, {}, len(batch["key"]))

    @staticmethod
    def batch_start(batch: Batch) -> int:
        return int(batch["key"][0])

    def after_step(self, progress: float) -> None:
        self.num_steps += 1

    def health(self) -> Health:
        return self.script(self)


class Sames:
    """One sample over and over; its labels may differ."""

    num_samples = 32
    unit = "rows"
    units_per_sample = 1.0

    def __init__(self, *, differs: bool = False) -> None:
        self.differs = differs

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        key = torch.tensor(list(positions))
        return {"key": key, "x": torch.ones(len(key), 3), "label": key if self.differs else key * 0}


def flat_between(first: int, last: int) -> Script:
    return lambda toy: FLAT if first <= int(toy.num_steps) <= last else GOOD


def seen_samples(toy: Toy) -> bool:
    """Whether the run still reads the samples that it began with."""
    return toy.positions[-1] < SETTINGS.steps * SETTINGS.batch_size


def flat_in_first_life(toy: Toy) -> Health:
    return FLAT if int(toy.num_steps) > 20 and seen_samples(toy) else GOOD


def always_flat(toy: Toy) -> Health:
    return FLAT if int(toy.num_steps) > 20 else GOOD


def run(
    script: Script, settings: TrainSettings, folder: Path | None = None, **more: Any
) -> tuple[Toy, History]:
    toy = Toy(script)
    return toy, train(toy, Numbers(), settings, seed=3, checkpoints=folder, **more)


def test_stop_ends_the_run_with_the_sentence_and_the_step() -> None:
    told: list[Event] = []
    with pytest.raises(Collapsed, match=r"step 32: the deviation is 0\.001 after 0\.9 at best: all samples"):
        run(always_flat, SETTINGS, callbacks=[lambda event: told.append(event)])
    assert told[-1].decision == "stop"
    assert told[-1].step == 32


def test_warn_speaks_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        toy, history = run(always_flat, dataclasses.replace(SETTINGS, on_collapse="warn"))
    assert int(toy.num_steps) == 60
    assert [(entry["step"], entry["decision"]) for entry in history.decisions] == [(32, "warn")]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "step 24, warning", "step 32, warn",
    ]  # fmt: skip


def test_lower_lr_lowers_the_rate_and_stops_when_that_does_not_help() -> None:
    settings = dataclasses.replace(
        SETTINGS, on_collapse="lower_lr", schedule="constant", log_every=1, max_roll_backs=2
    )
    told: list[Event] = []
    with pytest.raises(Collapsed, match="step 56"):
        run(always_flat, settings, callbacks=[lambda event: told.append(event)])
    rates = {event.step: event.metrics["lr"] for event in told if "lr" in event.metrics}
    assert rates[32] == 1e-2
    assert rates[33] == pytest.approx(1e-2 * LOWERED)
    assert rates[45] == pytest.approx(1e-2 * LOWERED**2)


def test_roll_back_goes_on_from_the_last_healthy_checkpoint_with_other_samples(tmp_path: Path) -> None:
    toy, history = run(flat_in_first_life, ROLL_BACK, tmp_path)
    assert [(entry["step"], entry["decision"]) for entry in history.decisions] == [(32, "roll_back")]
    assert int(toy.num_steps) == 60
    again = [position for position in toy.positions if position >= 60 * 4]
    assert again[0] == 256 + 15 * 4  # epochs that were not reached; 20 had no good reading after it
    assert [entry["step"] for entry in history.health] == [1, *range(4, 61, 4)]
    assert history.train[-1]["lr"] == 0.0 or history.train[-2]["lr"] < 0.5 * SETTINGS.lr * LOWERED


def test_roll_backs_are_counted_across_lives(tmp_path: Path) -> None:
    with pytest.raises(Collapsed):
        run(always_flat, ROLL_BACK, tmp_path)
    toy = Toy(always_flat)
    told: list[Event] = []
    with pytest.raises(Collapsed):
        train(
            toy,
            Numbers(),
            ROLL_BACK,
            seed=3,
            checkpoints=tmp_path,
            callbacks=[lambda event: told.append(event)],
        )
    assert [event.decision for event in told if event.decision] == ["stop"]


def test_a_lost_number_is_a_failure_that_can_be_rolled_back(tmp_path: Path) -> None:
    def lost(settings: TrainSettings, folder: Path) -> tuple[Toy, History]:
        toy = Toy(lambda toy: GOOD)
        toy.lost_at = {4 * 22}
        return toy, train(toy, Numbers(), settings, seed=3, checkpoints=folder)

    with pytest.raises(NonFiniteLoss, match="step 23"):
        lost(SETTINGS, tmp_path / "stop")
    toy, history = lost(ROLL_BACK, tmp_path / "back")
    assert [(entry["step"], entry["decision"]) for entry in history.decisions] == [(22, "roll_back")]
    assert int(toy.num_steps) == 60


def test_a_checkpoint_that_was_taken_back_is_not_gone_back_to(tmp_path: Path) -> None:
    toy = Toy(lambda toy: GOOD)
    toy.lost_at = {4 * 22, 60 * 4 + 4 * 18}
    settings = dataclasses.replace(ROLL_BACK, checkpoint_every=10, health_every=4)
    history = train(toy, Numbers(), settings, seed=3, checkpoints=tmp_path)
    assert [entry["decision"] for entry in history.decisions] == ["roll_back", "roll_back"]
    assert int(toy.num_steps) == 60


class Killed(Exception):
    pass


def state(toy: Toy) -> list[Tensor]:
    return [value.clone() for value in toy.state_dict().values()]


@pytest.mark.parametrize("on_collapse", ["warn", "lower_lr", "roll_back"])
@pytest.mark.parametrize("kill_after", [3, 22, 31, 33, 41, 59])
def test_killed_run_ends_bit_equal_across_what_the_guard_does(
    on_collapse: Any, kill_after: int, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, on_collapse=on_collapse, log_every=1, max_roll_backs=5)
    script = flat_in_first_life if on_collapse == "roll_back" else flat_between(20, 40)
    whole, expected = run(script, settings, tmp_path / "whole")

    killed_at = []

    def kill(event: Event) -> None:
        if event.steps_done == kill_after:
            killed_at.append(event.step)
            raise Killed

    for _ in range(2):
        with contextlib.suppress(Killed):
            run(script, settings, tmp_path / "killed", callbacks=[kill])
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
    assert killed_at
    resumed, history = run(script, settings, tmp_path / "killed")
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(resumed), strict=True))


@pytest.mark.parametrize("call", ["_drop", "_commit", "restore"])
def test_kill_in_the_midst_of_a_roll_back_changes_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = run(flat_in_first_life, ROLL_BACK, tmp_path / "whole")

    def die(*_: object) -> None:
        raise Killed

    def kill(event: Event) -> None:
        if event.decision == "roll_back":
            where = "tasks.engine.state.State" if call == "restore" else "tasks.engine.checkpoint"
            monkeypatch.setattr(f"{where}.{call}", die)

    with pytest.raises(Killed):
        run(flat_in_first_life, ROLL_BACK, tmp_path / "killed", callbacks=[kill])
    monkeypatch.undo()
    resumed, history = run(flat_in_first_life, ROLL_BACK, tmp_path / "killed")
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(resumed), strict=True))


def test_healthy_checkpoints_outlive_newer_ones(tmp_path: Path) -> None:
    settings = dataclasses.replace(ROLL_BACK, checkpoint_every=2, health_every=4)

    def look(event: Event) -> None:
        if event.verdict and event.verdict.state == "failed":
            steps.extend(sorted(int(path.stem[5:]) for path in tmp_path.glob("step-*.json")))

    steps: list[int] = []
    run(flat_in_first_life, settings, tmp_path, callbacks=[look])
    assert steps[0] == 18
    assert steps[1:] in ([28], [28, 30], [30])  # the newest, which a thread may still be writing


def test_lost_healthy_checkpoint_ends_the_run(tmp_path: Path) -> None:
    def lose(event: Event) -> None:
        if event.decision:
            (tmp_path / "step-000000015.safetensors").write_bytes(b"")

    with pytest.raises(Collapsed, match="step 15, the last healthy one, is lost"):
        run(flat_in_first_life, ROLL_BACK, tmp_path, callbacks=[lose])


def test_roll_back_without_checkpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a folder for checkpoints"):
        run(always_flat, ROLL_BACK)


def states(values: list[dict[str, float]], every: int = 10, signature: str = "") -> list[str]:
    guard = Guard(TrainSettings(steps=every * len(values), health_every=every, warmup_fraction=0.1))
    readings = [Health(measures, signature) for measures in values]
    return [guard.judge(reading, every * (n + 1)).state for n, reading in enumerate(readings)]


@pytest.mark.parametrize(
    "values",
    [
        [{"effective_rank": value, "deviation": 0.3} for value in (0.02, 0.03, 0.08, 0.2, 0.5, 0.6)],
        [{"effective_rank": value, "deviation": 0.3} for value in (0.3, 0.2, 0.1, 0.06, 0.055, 0.051)],
        [{"effective_rank": 0.013, "deviation": 0.02}] * 12,
        [{"effective_rank": 0.9, "deviation": value} for value in (1.0, 0.6, 0.3, 0.15, 0.11, 0.11)],
        [{"teacher_entropy": value} for value in (1.0, 0.1, 0.0, 0.0, 0.0, 0.0)],
    ],
    ids=["SimCLR begins low", "rank falls to its level", "low by nature", "spread shrinks", "other measures"],
)
def test_healthy_courses_raise_no_alarm(values: list[dict[str, float]]) -> None:
    assert set(states(values)) == {"healthy"}


@pytest.mark.parametrize(
    "values",
    [
        [{"effective_rank": 0.4}, *[{"effective_rank": 0.03}] * 9],
        [{"deviation": 1.0}, *[{"deviation": 0.09}] * 9],
        [{"deviation": 0.02}, *[{"deviation": 0.002}] * 9],
        [{"deviation": 0.9}, *[{"deviation": math.nan}] * 9],
        [{"deviation": 0.001}] * 10,
    ],
    ids=["rank", "deviation", "low and then lower", "no number", "from the start"],
)
def test_collapse_is_a_warning_first_and_a_failure_after_some_readings(
    values: list[dict[str, float]],
) -> None:
    assert states(values) == ["healthy", *["warning"] * (PATIENCE - 1), *["failed"] * (10 - PATIENCE)]


def test_one_bad_reading_passes() -> None:
    good, bad = {"deviation": 0.9}, {"deviation": 0.01}
    assert "failed" not in states([good, bad, bad, good, bad, bad, good])


def test_signature_fails_with_its_own_sentence_and_not_in_the_beginning() -> None:
    assert states([{}] * 6, signature="The teacher sleeps.")[:PATIENCE] == ["healthy", "warning", "warning"]
    guard = Guard(TrainSettings(steps=100, health_every=2, warmup_fraction=0.1))
    verdicts = [guard.judge(Health({}, "The teacher sleeps."), step) for step in range(2, 24, 2)]
    assert [verdict.state for verdict in verdicts] == ["healthy", *["warning"] * 9, "failed"]
    assert verdicts[-1].sentence == "The teacher sleeps."


def test_objective_without_measures_is_left_alone() -> None:
    told: list[Event] = []
    _, history = run(lambda toy: Health(), SETTINGS, callbacks=[lambda event: told.append(event)])
    assert history.health == []
    assert all(event.verdict is None for event in told)


def test_health_is_logged_at_its_own_steps() -> None:
    told: list[Event] = []
    _, history = run(lambda toy: GOOD, SETTINGS, callbacks=[lambda event: told.append(event)])
    readings = [event for event in told if event.verdict]
    assert [event.step for event in readings] == [1, *range(4, 61, 4)]
    assert dict(readings[3].metrics) == {"health.effective_rank": 0.5, "health.deviation": 0.9}
    assert history.health[3] == {"step": 12, **GOOD.measures}


def test_tracker_gets_measures_verdict_and_no_step_twice(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    journal = Run(Spool(tmp_path / "spool", "toy"))
    training.run(
        "toy", Toy(flat_in_first_life), Numbers(), ROLL_BACK, lambda objective, step: {},  # type: ignore[arg-type]
        seed=3, scratch=tmp_path / "loop", journal=journal,
    )  # fmt: skip
    journal.end("FINISHED")
    lines = [line for line, _ in read(next((tmp_path / "spool").glob("*.jsonl")))]
    steps = [line["s"] for line in lines if "health.deviation" in line.get("m", {})]
    assert steps == [1, *range(4, 61, 4)]
    tags = [line["tags"]["health"] for line in lines if "tags" in line]
    assert tags[-1].startswith("step 32, roll_back: the deviation is 0.001")
    assert not recwarn.list


def test_memory_survives_json() -> None:
    guard, other = Guard(ROLL_BACK), Guard(ROLL_BACK)
    for step in range(1, 30):
        guard.saving(step)
        guard.judge(GOOD if step % 5 else FLAT, step)
    other.restore(json.loads(json.dumps(guard.scalars())))
    assert other.memory == guard.memory


def test_a_corpus_of_one_sample_over_and_over_is_told(tmp_path: Path) -> None:
    with pytest.raises(Collapsed, match="all samples of the batch are the same"):
        train(Toy(lambda _: GOOD), Sames(), SETTINGS, seed=0, checkpoints=tmp_path)
    train(Toy(lambda _: GOOD), Sames(differs=True), SETTINGS, seed=0)
