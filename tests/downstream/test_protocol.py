from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from tasks.downstream import kind, protocol
from tasks.downstream.protocol import Outcome
from tasks.downstream.rows import Rows
from tasks.errors import InputError
from tests.downstream.supervised_sets import classified

CLASSIFICATION = kind("classification")
IDS = [f"id{row}" for row in range(100)]
STRATA = ["rare" if row < 4 else "common" if row < 34 else "most" for row in range(100)]


def test_a_draw_keeps_the_shares_of_the_classes() -> None:
    counts = Counter(STRATA[row] for row in protocol.draw(IDS, STRATA, 50, seed=1))
    assert counts == {"rare": 2, "common": 15, "most": 33}


def test_a_draw_has_every_class_once_the_budget_allows_it() -> None:
    assert {STRATA[row] for row in protocol.draw(IDS, STRATA, 3, seed=0)} == set(STRATA)


def test_another_seed_draws_other_rows_and_the_same_seed_the_same() -> None:
    first = protocol.draw(IDS, STRATA, 20, seed=0)
    assert first == protocol.draw(IDS, STRATA, 20, seed=0)
    assert first != protocol.draw(IDS, STRATA, 20, seed=1)


def test_a_reordered_file_gives_the_same_draw() -> None:
    drawn = {IDS[row] for row in protocol.draw(IDS, STRATA, 20, seed=0)}
    turned = list(reversed(IDS)), list(reversed(STRATA))
    assert {turned[0][row] for row in protocol.draw(*turned, 20, seed=0)} == drawn


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("abcde"), min_size=2, max_size=60),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(0, 9),
)
def test_larger_budgets_contain_smaller_ones_and_have_their_size(
    strata: list[str], one: int, other: int, seed: int
) -> None:
    ids = [str(row) for row in range(len(strata))]
    small, large = (set(protocol.draw(ids, strata, budget, seed)) for budget in sorted((one, other)))
    assert small <= large
    assert len(large) == min(max(one, other), len(strata))


def test_a_budget_beyond_the_training_set_is_shown_as_all_and_told() -> None:
    points, told = protocol.budgets((50, 200, "all"), 150, "toy")
    assert points == [50, "all"]
    assert told == ["toy: a budget of 200 is all of its 150 training rows; shown as 'all'."]


@pytest.mark.parametrize(("wanted", "word"), [((50, 50), "twice"), ((1, 50), "too small")])
def test_impossible_budgets_are_refused(wanted: tuple[int, ...], word: str) -> None:
    with pytest.raises(InputError, match=f"label_budgets.*{word}"):
        protocol.budgets(wanted, 100, "toy")


def test_the_sample_of_validation_rows_does_not_depend_on_their_order() -> None:
    chosen = {IDS[row] for row in protocol.sample(IDS, 10)}
    turned = list(reversed(IDS))
    assert {turned[row] for row in protocol.sample(turned, 10)} == chosen
    assert len(chosen) == 10


def test_the_best_on_validation_is_chosen_and_the_first_of_equals() -> None:
    rows = classified(10, seed=0)
    right = CLASSIFICATION.truth(rows.records)
    asked: list[str] = []

    def answering(name: str, answers: Sequence[str]) -> protocol.Predict:
        def predict(given: Rows) -> list[str]:
            asked.append(name)
            return list(answers)

        return predict

    wrong = ["low"] * 10
    candidates = {"bad": wrong, "good": right, "as good": right}
    chosen, scores = protocol.choose(
        CLASSIFICATION, [answering(name, answers) for name, answers in candidates.items()], rows
    )
    asked.clear()
    predictions, _ = protocol.read_test(CLASSIFICATION, chosen, rows)
    assert asked == ["good"]
    assert scores["accuracy"] == 1.0
    assert predictions == right


def test_the_hash_of_weights_sees_one_changed_number() -> None:
    model = nn.Linear(3, 2)
    before = protocol.weights_hash(model)
    assert protocol.weights_hash(model) == before
    model.weight.data[0, 0] += 1e-3
    assert protocol.weights_hash(model) != before


def test_the_interval_is_students() -> None:
    values = [0.5, 0.6, 0.7, 0.65, 0.55]
    mean, low, high = protocol.interval(values)
    expected = stats.t.interval(0.95, 4, loc=0.6, scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((0.6, *expected))


def test_a_single_value_has_no_width() -> None:
    assert protocol.interval([0.25]) == (0.25, 0.25, 0.25)


def test_the_summary_joins_seeds_and_keeps_points_apart() -> None:
    outcomes = [
        Outcome("scratch", "probe", budget, seed, {"accuracy": 0.0}, {"accuracy": value}, [])
        for budget, seed, value in (("50", 0, 0.4), ("50", 1, 0.6), ("all", 0, 0.9))
    ]
    lines = protocol.summarise("toy", "classification", outcomes)
    assert [(line["budget"], line["mean"], line["seeds"]) for line in lines] == [
        ("50", 0.5, 2),
        ("all", 0.9, 1),
    ]
    assert math.isclose(lines[0]["mean"] - lines[0]["low"], lines[0]["high"] - lines[0]["mean"])
