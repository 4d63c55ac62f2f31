"""When a new model may take the old one's place: gains beyond chance, on the same unseen rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks import judging
from tasks.judging import Decision, Exam

NUM_ROWS = 400


def records(groups: list[str | None] | None = None) -> pa.Table:
    labels = [str(row % 4) for row in range(NUM_ROWS)]
    columns: dict[str, Any] = {"id": [f"r{row}" for row in range(NUM_ROWS)], "label": labels, "text": labels}
    return pa.table(columns | ({"group": groups} if groups else {}))


def exam(share_right: float, seed: int, table: pa.Table | None = None) -> Exam:
    table = table or records()
    is_right = np.random.default_rng(seed).random(NUM_ROWS) < share_right
    labels = table.column("label").to_pylist()
    answers = [label if right else "wrong" for label, right in zip(labels, is_right, strict=True)]
    return Exam("classification", table, answers)


def content(row: dict[str, Any]) -> bytes:
    return str(row["text"]).encode()


def test_difference_and_interval_are_those_of_a_loop_written_plainly() -> None:
    first, second = exam(0.8, 1), exam(0.7, 2)
    labels = first.records.column("label").to_pylist()
    right = np.array(
        [[a == label, b == label] for a, b, label in zip(first.answers, second.answers, labels, strict=True)],
        float,
    )
    draw = np.random.default_rng(5)
    drawn = [right[draw.integers(NUM_ROWS, size=NUM_ROWS)].mean(0) for _ in range(judging.DRAWS)]
    expected = np.percentile([a - b for a, b in drawn], [2.5, 97.5])
    found = judging.difference(first, second, "accuracy", seed=5)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.mean == pytest.approx(right[:, 0].mean() - right[:, 1].mean())


def test_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Of 60 pairs whose true difference is 0.1, about 57 intervals hold it (binomial: 52 to 60)."""
    found = [
        judging.difference(exam(0.8, seed), exam(0.7, 1000 + seed), "accuracy", seed=0, draws=200)
        for seed in range(60)
    ]
    assert 52 <= sum(each.low <= 0.1 <= each.high for each in found) <= 60
    assert all(each.high - each.low < 0.15 for each in found), "and are no wider than they must be"


def test_rows_of_a_group_are_drawn_together() -> None:
    """Where all rows of a group stand and fall together, ten groups say as little as ten rows."""
    alone, together = records(), records([f"g{row // 40}" for row in range(NUM_ROWS)])
    answers = [str(row % 4) if (row // 40) % 2 else "wrong" for row in range(NUM_ROWS)]
    nothing = ["wrong"] * NUM_ROWS

    def width(table: pa.Table) -> float:
        first, second = (Exam("classification", table, given) for given in (answers, nothing))
        found = judging.difference(first, second, "accuracy", seed=0)
        return found.high - found.low

    assert width(together) > 4 * width(alone)


@pytest.mark.parametrize(
    ("challenger", "champion", "result"),
    [(0.85, 0.6, "promote"), (0.6, 0.85, "refuse"), (0.7, 0.7, "refuse")],
)
def test_better_is_promoted_worse_and_equal_are_not(challenger: float, champion: float, result: str) -> None:
    found = judging.difference(exam(challenger, 1), exam(champion, 2), "accuracy", seed=0)
    decision = Decision((judging.better(found, "accuracy", 0.0),))
    assert decision.result == result
    assert "points" in decision.sentence


def test_the_same_model_is_no_gain() -> None:
    one = exam(0.8, 1)
    found = judging.difference(one, one, "accuracy", seed=0)
    assert (found.low, found.high) == (0, 0)
    assert judging.better(found, "accuracy", 0.0).outcome == "failed"


def test_gain_must_be_as_large_as_was_asked_for() -> None:
    found = judging.difference(exam(0.85, 1), exam(0.6, 2), "accuracy", seed=0)
    assert judging.better(found, "accuracy", 0.0).outcome == "passed"
    assert judging.better(found, "accuracy", 0.5).outcome == "failed"
    assert "above 50" in judging.better(found, "accuracy", 0.5).sentence


def test_slice_that_loses_refuses_though_the_whole_gains() -> None:
    table = records()
    labels = table.column("label").to_pylist()
    good = [label if label != "0" else "wrong" for label in labels]
    old = [label if label == "0" else "wrong" for label in labels]
    new, champion = Exam("classification", table, good), Exam("classification", table, old)
    rows = np.array([row for row, label in enumerate(labels) if label == "0"])
    whole = judging.better(judging.difference(new, champion, "accuracy", seed=0), "accuracy", 0.0)
    part = judging.not_worse(
        "label=0", judging.difference(new, champion, "accuracy", seed=0, rows=rows), "accuracy"
    )
    assert (whole.outcome, part.outcome) == ("passed", "failed")
    assert Decision((whole, part)).result == "refuse"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda prints: prints.pop("r3"), "1 gone (such as r3)"),
        (lambda prints: prints.update(extra="1"), "1 new (such as extra)"),
        (lambda prints: prints.update(r7="other"), "1 changed (such as r7)"),
    ],
)
def test_another_test_set_blocks(change: Any, said: str) -> None:
    champion = judging.fingerprints(records(), content)
    assert judging.same_rows(champion, dict(champion)).outcome == "passed"
    changed = dict(champion)
    change(changed)
    check = judging.same_rows(changed, champion)
    assert check.outcome == "blocked"
    assert said in check.sentence
    assert Decision((check, judging.Check("gain", "failed", ""))).result == "blocked"


def test_fingerprint_sees_content_and_label_and_not_where_a_row_came_from() -> None:
    table = records()
    moved = table.append_column("source", pa.array(["elsewhere"] * NUM_ROWS))
    assert judging.fingerprints(moved, content) == judging.fingerprints(table, content)
    for column in ("text", "label"):
        values = table.column(column).to_pylist()
        values[5] = "other"
        other = table.set_column(table.column_names.index(column), column, pa.array(values))
        prints = judging.fingerprints(other, content)
        assert {
            name for name, value in judging.fingerprints(table, content).items() if prints[name] != value
        } == {"r5"}
        assert judging.digest(prints) != judging.digest(judging.fingerprints(table, content))


def test_leak_blocks_when_it_is_more_than_is_allowed() -> None:
    leak = {"task": "urgency", "split": "test", "found_in": "general", "rows": 5, "of": 100, "removed": 3}
    assert judging.unseen([], "urgency", 0.05).outcome == "passed"
    assert judging.unseen([leak, leak | {"found_in": "domain"}], "urgency", 0.05).outcome == "passed"
    assert judging.unseen([leak | {"rows": 50, "task": "other"}], "urgency", 0.05).outcome == "passed"
    check = judging.unseen([leak, leak | {"rows": 1}], "urgency", 0.05)
    assert check.outcome == "blocked"
    assert "6 of 100 test rows of urgency stood in general" in check.sentence


def test_few_groups_say_nothing() -> None:
    table = records([f"g{row % 3}" for row in range(NUM_ROWS)])
    found = judging.difference(exam(0.9, 1, table), exam(0.5, 2, table), "accuracy", seed=0)
    check = judging.better(found, "accuracy", 0.0)
    assert (check.outcome, found.units) == ("blocked", 3)
    assert "too few" in check.sentence
    assert judging.not_worse("group=g1", found, "accuracy").outcome == "passed"


def test_later_looks_need_more() -> None:
    first, second = exam(0.76, 1), exam(0.7, 2)
    one, tenth = (judging.difference(first, second, "accuracy", seed=0, looks=looks) for looks in (1, 10))
    assert tenth.low < one.low < one.high < tenth.high
    assert "look number 10" in judging.better(tenth, "accuracy", -1.0).sentence


def test_answers_that_differ_in_service_block() -> None:
    assert [judging.as_served(num, 30).outcome for num in (0, 3, 4)] == ["passed", "passed", "blocked"]


def test_forgetting_health_validation_and_speed() -> None:
    gap = {"forgetting": 0.7, "budget": 0.5, "within_budget": False}
    assert judging.remembers(gap).outcome == "failed"
    assert judging.remembers(gap | {"forgetting": 0.2, "within_budget": True}).outcome == "passed"
    assert judging.remembers({}).outcome == "passed"
    entry = {"step": 40, "decision": "lower_lr", "sentence": "The deviation is low."}
    assert judging.healthy({"pretrain": [], "adapt": []}).outcome == "passed"
    assert "adapt at step 40 (lower_lr)" in judging.healthy({"pretrain": [], "adapt": [entry]}).sentence
    broken = {"slot": "general", "column": "rows", "passed": False, "severity": "critical"}
    assert judging.valid([broken]).outcome == "failed"
    assert judging.valid([broken | {"severity": "warning"}]).outcome == "passed"
    assert "general.rows" in judging.valid([broken | {"severity": "warning"}]).sentence
    assert [judging.fast_enough(factor, 1.5).outcome for factor in (1.4, 1.6)] == ["passed", "failed"]


def test_decision_is_written_with_its_numbers() -> None:
    found = judging.difference(exam(0.85, 1), exam(0.6, 2), "accuracy", seed=0)
    plain = json.loads(json.dumps(Decision((judging.better(found, "accuracy", 0.0),)).plain()))
    assert plain["checks"][0]["numbers"]["low"] == pytest.approx(found.low, abs=1e-6)
    assert "| gain | passed |" in Decision((judging.better(found, "accuracy", 0.0),)).markdown()
