from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from tasks.downstream import classification, probe, question_answering, token_classification
from tasks.downstream.rows import Rows
from tests.downstream.supervised_sets import asked, classified, tagged


def test_accuracy_and_macro_f1_are_scikit_learns() -> None:
    rows = classified(40, seed=0)
    given = list(np.random.default_rng(1).choice(["low", "high", "never"], 40))
    right = classification.truth(rows.records)
    scores = classification.score(rows, given)
    assert scores["accuracy"] == pytest.approx(accuracy_score(right, given))
    assert scores["macro_f1"] == pytest.approx(f1_score(right, given, average="macro"))


def test_a_label_never_predicted_and_never_learnt_is_simply_wrong() -> None:
    rows = Rows(pa.table({"id": ["a", "b"], "label": ["known", "new"]}), {})
    assert classification.score(rows, ["known", "known"])["accuracy"] == 0.5


def test_decoded_logits_are_class_names() -> None:
    rows = classified(2, seed=0)
    outputs = [{"logits": torch.tensor([0.0, 2.0])}, {"logits": torch.tensor([3.0, 2.0])}]
    assert classification.decode(outputs, rows, ["high", "low"]) == ["low", "high"]


def tagged_rows(tags: list[list[str]], word_ids: list[list[int]]) -> Rows:
    records = pa.table({"id": [str(n) for n in range(len(tags))], "tags": tags})
    return Rows(records, {"word_ids": torch.tensor(word_ids)})


def test_entity_f1_counts_whole_entities() -> None:
    rows = tagged_rows([["B-X", "I-X", "O", "B-Y"]], [[0, 1, 2, 3]])
    scores = token_classification.score(rows, ["B-X I-X O O"])
    assert scores == pytest.approx({"entity_f1": 2 / 3, "entity_precision": 1.0, "entity_recall": 0.5})
    assert token_classification.score(rows, ["B-X O O B-Y"])["entity_f1"] == pytest.approx(0.5)


def test_no_entity_found_scores_zero_without_a_warning() -> None:
    rows = tagged_rows([["B-X"]], [[0]])
    assert token_classification.score(rows, ["O"])["entity_f1"] == 0


def test_a_tag_is_learnt_at_the_first_position_of_its_word_alone() -> None:
    rows = tagged_rows([["B-X", "O", "B-X"]], [[-1, 0, 0, 1, 2, 2, -1]])
    labels = token_classification.targets(rows, ["O", "B-X"])["labels"]
    assert labels.tolist() == [[-100, 1, -100, 0, 1, -100, -100]]


def test_words_that_the_tokenizer_drops_or_cuts_off_are_outside() -> None:
    rows = tagged_rows([["B-X", "B-X", "B-X", "B-X"]], [[-1, 0, 2, -1]])
    logits = torch.tensor([[0.0, 9.0]] * 4)
    decoded = token_classification.decode([{"logits": logits}], rows, ["O", "B-X"])
    assert decoded == ["B-X O B-X O"]


def test_probing_words_keeps_vectors_and_tags_together_where_a_word_is_dropped() -> None:
    rows = tagged_rows([["B-X", "O", "O"], ["B-X", "O", "B-X"]], [[0, 2, -1], [0, 1, 2]])
    vectors = [torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-1.0], [1.0]])]
    train = rows.with_features(vectors)
    *_, weakest = token_classification.probes(train, ["O", "B-X"])
    assert weakest(train) == ["B-X O O", "B-X O B-X"]


def test_answers_outside_the_inputs_are_not_learnt_from() -> None:
    rows = asked(6, seed=0)
    targets = question_answering.targets(rows, [])
    assert question_answering.learnable(targets).all()
    cut = Rows(rows.records, {**rows.inputs, "context_mask": rows.inputs["context_mask"] * 0})
    assert not question_answering.learnable(question_answering.targets(cut, [])).any()


def test_a_perfect_head_decodes_to_the_answers_text() -> None:
    rows = asked(6, seed=0)
    targets = question_answering.targets(rows, [])
    one_hot = torch.nn.functional.one_hot
    outputs = [
        {"start_logits": one_hot(start, 12) * 9.0, "end_logits": one_hot(end, 12) * 9.0}
        for start, end in zip(targets["start_positions"], targets["end_positions"], strict=True)
    ]
    decoded = question_answering.decode(outputs, rows, [])
    assert decoded == question_answering.truth(rows.records)
    assert question_answering.score(rows, decoded) == {"f1": 1.0, "exact_match": 1.0}


def test_the_best_span_is_the_best_of_all_allowed_spans() -> None:
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 12, generator=generator)
    context = torch.tensor([False] * 2 + [True] * 9 + [False])
    start[0] = end[0] = -9
    pairs = [(i, j) for i in range(2, 11) for j in range(i, 11)]
    expected = max(pairs, key=lambda pair: float(start[pair[0]] + end[pair[1]]))
    assert question_answering.best_span(start, end, context) == expected


def test_a_question_without_answers_is_answered_with_nothing() -> None:
    rows = asked(1, seed=0)
    records = rows.records.set_column(3, "answer_texts", pa.array([[]], pa.list_(pa.string())))
    rows = Rows(records, rows.inputs)
    targets = question_answering.targets(rows, [])
    assert (int(targets["start_positions"][0]), int(targets["end_positions"][0])) == (0, 0)
    logits = torch.zeros(12)
    logits[0] = 5
    decoded = question_answering.decode([{"start_logits": logits, "end_logits": logits}], rows, [])
    assert decoded == [""]
    assert question_answering.score(rows, decoded)["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("right", "given", "f1"),
    [("the Cat", "cat!", 1.0), ("a red car", "red bus", 0.5), ("", "", 1.0), ("", "word", 0.0)],
)
def test_answers_overlap_as_squad_counts_it(right: str, given: str, f1: float) -> None:
    assert question_answering.overlap(right, given) == pytest.approx(f1)


def test_pooling_reads_real_positions_only() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    pooled = {how: float(probe.pooled(hidden, mask, how)) for how in ("mean", "first", "last")}
    assert pooled == {"mean": 2.0, "first": 1.0, "last": 3.0}


def test_a_draw_of_one_class_gives_the_constant_answer() -> None:
    models = list(probe.regressions(np.zeros((3, 2)), ["only"] * 3))
    assert [list(model.predict(np.ones((2, 2)))) for model in models] == [["only", "only"]]


def test_the_majority_is_that_of_the_training_rows() -> None:
    rows = tagged(4, seed=0)
    assert set(" ".join(token_classification.majority(rows, [])(rows)).split()) == {"O"}
    few = classified(3, seed=0)
    assert classification.majority(few, [])(few) == ["low"] * 3
