"""What a stage says is written once, whole and without secrets, whatever happens to its process."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import delivery, spool, tracking
from tasks.journal import Run, flat, masked


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "spool"


Opened = Callable[[str], spool.Spool]


@pytest.fixture
def opened(where: Path) -> Iterator[Opened]:
    """Opens a run's file by its key, as a stage does; closes it when the test is over."""
    files: list[spool.Spool] = []

    def opened(key: str) -> spool.Spool:
        files.append(spool.Spool(where, key))
        return files[-1]

    yield opened
    for file in files:
        file.close()


def lines(file: spool.Spool) -> list[spool.Line]:
    return [line for line, _ in spool.read(file.path)]


def logged(file: spool.Spool) -> list[tuple[int, float]]:
    return [(line["s"], line["m"]["loss"]) for line in lines(file) if "m" in line]


def test_resumed_run_leaves_out_the_steps_it_has_said(opened: Opened) -> None:
    first = opened("pretrain@r-key")
    for step in (10, 20, 30):
        Run(first).log({"loss": 1.0}, step)
    first.close()
    second = opened("pretrain@r-key")
    for step in (20, 30, 40):
        Run(second).log({"loss": 2.0}, step)
    assert second.path == first.path
    assert logged(second) == [(10, 1.0), (20, 1.0), (30, 1.0), (40, 2.0)]


def test_finished_run_is_not_gone_on_with(opened: Opened) -> None:
    first = opened("k")
    Run(first).end("FINISHED")
    assert opened("k").path != first.path


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_run_that_did_not_finish_is_gone_on_with(opened: Opened, status: str) -> None:
    first = opened("k")
    Run(first).end(status)
    assert opened("k").path == first.path


def test_two_processes_with_the_same_work_write_two_files(opened: Opened) -> None:
    assert opened("k").path != opened("k").path


def test_line_torn_by_a_power_cut_costs_that_line_alone(opened: Opened) -> None:
    first = opened("k")
    Run(first).log({"loss": 1.0}, 1)
    Run(first).log({"loss": 1.0}, 2)
    first.close()
    first.path.write_bytes(first.path.read_bytes()[:-9])
    second = opened("k")
    Run(second).log({"loss": 3.0}, 2)
    assert logged(second) == [(1, 1.0), (2, 3.0)]


def test_reader_goes_on_where_it_stopped_and_leaves_half_a_line(opened: Opened) -> None:
    file = opened("k")
    file.append({"a": 1})
    ((_, end),) = spool.read(file.path)
    with file.path.open("ab") as raw:
        raw.write(b'{"b":')
    assert list(spool.read(file.path, end)) == []
    with file.path.open("ab") as raw:
        raw.write(b"2}\n")
    assert [line for line, _ in spool.read(file.path, end)] == [{"b": 2}]


def test_file_that_the_sender_has_put_away_is_sent(opened: Opened) -> None:
    file = opened("pretrain@r-key")
    Run(file).log({"loss": 1.0}, 1)
    file.close()
    assert delivery.is_unsent(file.path)
    file.path.unlink()
    assert not delivery.is_unsent(file.path)


def test_full_disk_delays_metrics_and_does_not_stop_training(opened: Opened) -> None:
    file = opened("k")
    run = Run(file)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        run.log({"loss": 1.0}, 0)
        with pytest.warns(UserWarning, match="metrics wait in memory"):
            run.log({"loss": 1.0, "filler " + 100 * "x": 0.0}, 1)
        for step in range(2, 20):
            run.log({"loss": 1.0}, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run.log({"loss": 1.0}, 20)
    assert [step for step, _ in logged(file)] == list(range(21))


def test_metric_whose_steps_go_back_is_named_once(opened: Opened) -> None:
    run = Run(opened("k"))
    run.log({"accuracy": 0.5}, 100)
    with pytest.warns(UserWarning, match="'accuracy': step 0 comes after step 100"):
        run.log({"accuracy": 0.6}, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log({"accuracy": 0.6}, 1)


def test_artifact_is_kept_as_it_was_when_it_was_named(where: Path, opened: Opened, tmp_path: Path) -> None:
    file = opened("k")
    page = tmp_path / "report.html"
    page.write_text("then")
    Run(file).artifact(page)
    page.write_text("later")
    (line,) = lines(file)
    assert (where / line["artifact"]["copy"]).read_text() == "then"


def test_settings_arrive_flat_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hf_abcdefgh")
    from tasks import journal

    journal._secrets.cache_clear()
    assert flat({"pretrain": {"lr": 1e-3, "betas": [0.9, 0.98]}, "from": None}) == {
        "pretrain.lr": "0.001",
        "pretrain.betas": "[0.9, 0.98]",
        "from": "null",
    }
    assert masked("https://me:pass@host/x?sig=abc&v=1") == "https://***@host/x?sig=***&v=1"
    assert masked("s3://bucket/hf_abcdefgh/x") == "s3://bucket/***/x"
    journal._secrets.cache_clear()


def test_logging_a_step_costs_microseconds(opened: Opened) -> None:
    run = Run(opened("k"))
    metrics = {"loss": 1.0, "lr": 1e-3, "gradient_norm": 1.0, "tokens_per_second": 1e5}
    seconds = []
    for step in range(2000):
        began = time.perf_counter()
        run.log(metrics, step)
        seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[1000] < 100e-6


def test_switched_off_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("UNMASK_TRACKING", "off")
    with tracking.stage_run("pretrain", "r", {"lr": 1}, "key") as run:
        run.log({"loss": 1.0}, 1)
        run.artifact(Path(__file__))
        assert run.id() is None
    assert not (tmp_path / "scratch").exists()


def test_stages_do_not_import_mlflow() -> None:
    program = "import sys; from tasks import tracking; assert not {'mlflow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])
