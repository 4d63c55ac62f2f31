"""Several recipes in one table and as runs that can be compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tasks import compare, spool, tracking
from tasks.errors import InputError

PARAMS = """
corpora: {none: {modality: text}}
encoders: {small: {architecture: bert}}
recipes:
"""
RECIPE = """
  NAME: {modality: text, general: none, domain: none, tasks: none, encoder: small, validate: {}, prepare: {},
    pretrain: {steps: 0, lr: LR, objective: {name: masked_lm}}, adapt: {steps: 0}, finetune: {}, report: {}}
"""


def finished(root: Path, recipe: str, accuracy: float, decisions: list[dict[str, Any]] | None = None) -> None:
    """What the stages of a recipe leave that the table reads."""
    run = root / "runs" / recipe
    for stage in ("pretrain", "finetune"):
        (run / stage).mkdir(parents=True)
    row = {"task": "letter", "kind": "classification", "metric": "accuracy", "seeds": 5}
    rows = [
        {
            **row, "arm": arm, "method": method, "budget": budget, "mean": value, "low": value - width,
            "high": value + width,
        }
        for arm, method, budget, value, width in (
            ("pretrained", "probe", "50", accuracy, 0.1),
            ("pretrained", "knn", "50", accuracy - 0.2, 0.1),
            ("pretrained", "finetune", "50", accuracy + 0.1, 0.1),
            ("pretrained", "probe", "200", accuracy + 0.2, 0.1),
            ("scratch", "finetune", "50", 0.3, 0.1),
            ("majority", "floor", "50", 0.04, 0.0),
        )
    ]  # fmt: skip
    (run / "finetune" / "summary.json").write_text(json.dumps(rows))
    record = {"units": 75_000, "units_per_second": 1234.5, "unit": "images", "seconds": 61.2}
    (run / "pretrain.record.json").write_text(json.dumps(record))
    health = [{"step": 1, "effective_rank": 0.2}, {"step": 50, "effective_rank": 0.75}]
    losses = {"train": [], "health": health, "decisions": decisions or []}
    (run / "pretrain" / "losses.json").write_text(json.dumps(losses))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_SCRATCH", str(tmp_path / "scratch"))
    recipes = [
        RECIPE.replace("NAME", name).replace("LR", lr) for name, lr in (("one", "1e-3"), ("two", "2e-3"))
    ]
    (tmp_path / "params.yaml").write_text(PARAMS + "".join(recipes))
    return tmp_path


def test_recipes_stand_together_at_each_budget_with_scores_cost_and_health(project: Path) -> None:
    finished(project, "one", 0.5)
    finished(project, "two", 0.6, [{"step": 40, "decision": "roll_back", "sentence": "bad"}])
    header, *rows = compare.lines(compare.read(["one", "two"]))
    assert header[1:] == [
        "labels", "method", "k-NN", "linear probe", "fine-tuned", "images/s", "wall seconds", "health",
    ]  # fmt: skip
    assert [row[1:3] for row in rows] == [
        ["50", "one, scratch"], ["50", "one"], ["50", "two, scratch"], ["50", "two"], ["200", "one"],
        ["200", "two"],
    ]  # fmt: skip
    assert rows[1] == [
        "letter (accuracy)", "50", "one", "30.0 [20.0–40.0]", "50.0 [40.0–60.0]", "60.0 [50.0–70.0]",
        "1,234", "61", "healthy, rank 0.75",
    ]  # fmt: skip
    assert rows[0][3:] == ["", "", "30.0 [20.0–40.0]", "", "", ""]
    assert rows[3][-1] == "rolled back at step 40, rank 0.75"


def test_floors_stand_below_once(project: Path) -> None:
    finished(project, "one", 0.5)
    finished(project, "two", 0.6)
    assert compare.floors(compare.read(["one", "two"])) == [
        ["task", "floor", "50 labels", "200 labels"], ["letter (accuracy)", "majority class", "4.0", ""],
    ]  # fmt: skip


def test_page_says_what_the_intervals_tell_and_draws_each_number_of_labels(project: Path) -> None:
    finished(project, "one", 0.5)
    finished(project, "two", 0.9)
    page = compare.write(compare.read(["one", "two"]))
    text = re.sub(r"</?span[^>]*>", "", page.read_text())
    assert "letter, fine-tuned with 50 labels: two reaches 100.0 %, above all others." in text.replace(
        "\u00a0", " "
    )
    assert text.count("<svg") == 2
    assert "60.0 [50.0–70.0]" in text
    assert (page.with_suffix(".plots") / "comparison-letter-50.png").exists()
    assert "| two " in page.with_suffix(".md").read_text()


def test_every_recipe_is_a_run_with_the_same_names_of_metrics(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.delivery.ensure_sender", lambda *_: None)
    monkeypatch.setenv("UNMASK_TRACKING", "on")
    finished(project, "one", 0.5)
    finished(project, "two", 0.6)
    results = compare.read(["one", "two"])
    shared = compare.track(results, compare.write(results))
    told: dict[str, dict[str, Any]] = {}
    files: list[str] = []
    for path in spool.folder(tracking.tracking_uri()).glob("*.jsonl"):
        said: dict[str, Any] = {}
        for line, _ in spool.read(path):
            files += [Path(line["artifact"]["copy"]).name] if "artifact" in line else []
            for part in ("params", "tags", "m"):
                said.setdefault(part, {}).update(line.get(part, {}))
        told[said["tags"]["name"]] = said
    assert {said["tags"]["comparison"] for said in told.values()} == {shared}
    assert sorted(files) == ["comparison.html", "comparison.html", "comparison.plots", "comparison.plots"]
    assert told["one"]["params"]["pretrain.lr"] == "0.001"
    assert told["one"]["m"].keys() == told["two"]["m"].keys()
    expected = {
        "letter.pretrained.knn.50.accuracy": 0.4, "letter.pretrained.knn.50.accuracy.low": 0.3,
        "letter.scratch.finetune.50.accuracy": 0.3, "letter.majority.floor.50.accuracy": 0.04,
        "images_per_second": 1234.5, "wall_seconds": 61.2, "health.effective_rank": 0.75,
        "health.num_decisions": 0.0,
    }  # fmt: skip
    assert {name: told["two"]["m"][name] for name in expected} == pytest.approx(expected)


def test_sets_of_one_name_from_two_corpora_are_not_compared(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    other = text.replace("corpora: {", "corpora: {mine: {modality: text}, ").replace(
        "tasks: none", "tasks: mine", 1
    )
    (project / "params.yaml").write_text(other)
    finished(project, "one", 0.5)
    finished(project, "two", 0.6)
    with pytest.raises(InputError, match="task letter is of corpus mine in one and of none in two"):
        compare.read(["one", "two"])


def test_a_recipe_without_a_result_is_refused_with_the_command(project: Path) -> None:
    with pytest.raises(InputError, match="dvc repro report@three"):
        compare.read(["three"])
