"""Several recipes in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import compare
from tasks.errors import InputError


def finished(root: Path, recipe: str, accuracy: float) -> None:
    """What the stages of a recipe leave that the table reads."""
    run = root / "runs" / recipe
    for stage in ("pretrain", "finetune"):
        (run / stage).mkdir(parents=True)
    row = {"task": "letter", "kind": "classification", "budget": "50", "metric": "accuracy", "seeds": 5}
    rows = [
        {**row, "arm": "pretrained", "method": "probe", "mean": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1},
        {**row, "arm": "majority", "method": "floor", "mean": 0.04, "low": 0.04, "high": 0.04},
    ]  # fmt: skip
    (run / "finetune" / "summary.json").write_text(json.dumps(rows))
    record = {"units_per_second": 1234.5, "unit": "images", "seconds": 61.2}
    (run / "pretrain.record.json").write_text(json.dumps(record))
    health = [{"step": 1, "effective_rank": 0.2}, {"step": 50, "effective_rank": 0.75}]
    (run / "pretrain" / "losses.json").write_text(json.dumps({"train": [], "health": health}))


def test_scores_cost_and_health_stand_in_a_line_and_floors_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path, "one", 0.5)
    finished(tmp_path, "two", 0.6)
    table = compare.lines(["one", "two"])
    assert [row[0] for row in table] == ["recipe", "one", "", "two"]
    assert table[1][3:] == ["linear probe", "50.0 [40.0–60.0]", "1,234 images", "61", "0.75"]
    assert compare.text(table).count("majority class") == 1


def test_a_recipe_without_a_result_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="dvc repro report@three"):
        compare.lines(["three"])
