from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.downstream import floors, kind, protocol
from tasks.downstream.rows import Rows
from tests.downstream.supervised_sets import classified

CLASSIFICATION = kind("classification")


def test_tfidf_learns_which_words_belong_to_a_class() -> None:
    train, test = classified(80, seed=0), classified(60, seed=1)
    chosen, _ = protocol.choose(CLASSIFICATION, floors.tfidf(train, []), train)
    assert protocol.read_test(CLASSIFICATION, chosen, test)[1]["accuracy"] > 0.75


def test_every_floor_survives_a_draw_of_one_class() -> None:
    rows = classified(10, seed=0).take([0, 2, 4])
    for name, candidates in floors.of("text", "classification", CLASSIFICATION).items():
        chosen, _ = protocol.choose(CLASSIFICATION, candidates(rows, []), rows)
        assert chosen(rows) == ["low"] * 3, name


def test_a_modality_without_a_floor_of_its_own_has_the_majority() -> None:
    assert list(floors.of("speech", "token_classification", CLASSIFICATION)) == ["majority"]


def tokens(words: list[list[str]], tags: list[list[str]]) -> Rows:
    ids = [str(row) for row in range(len(words))]
    return Rows(pa.table({"id": ids, "tokens": words, "tags": tags}), {})


def test_words_get_the_tag_that_they_had_most_often() -> None:
    train = tokens([["Ataxia", "and", "ataxia"], ["ataxia", "and"]], [["B-D", "O", "B-D"], ["O", "O"]])
    (predict,) = floors.word_tags(train, [])
    assert predict(tokens([["ATAXIA", "unseen"]], [["O", "O"]])) == ["B-D O"]


def test_features_of_words_generalise_to_unseen_ones() -> None:
    names = ["Carcinoma", "Melanoma", "Lymphoma", "Adenoma"]
    train = tokens([["a", name, "was", "seen"] for name in names] * 3, [["O", "B-D", "O", "O"]] * 12)
    test = tokens([["a", "Glioma", "was", "seen"]], [["O", "B-D", "O", "O"]])
    *_, weakest = floors.word_features(train, [])
    assert weakest(test) == ["O B-D O O"]


def question(text: str, asked: str) -> Rows:
    return Rows(pa.table({"id": ["q"], "text": [text], "question": [asked]}), {})


def test_the_first_sentence_is_an_answer() -> None:
    (predict,) = floors.first_sentence(question("", ""), [])
    assert predict(question("It rained. Then it stopped.", "Why?")) == ["It rained."]


def test_the_window_lies_beside_the_questions_words() -> None:
    rows = question(
        "Ann lives far away in the north of the land. Bob built bridges in Rome.",
        "Where has Bob built bridges?",
    )
    answers = [predict(rows)[0] for predict in floors.sliding_window(rows, [])]
    assert any("Rome" in answer for answer in answers)
    assert all("bridges" not in answer for answer in answers)


def test_an_empty_context_has_an_empty_answer() -> None:
    rows = question("", "What?")
    assert {predict(rows)[0] for predict in floors.sliding_window(rows, [])} == {""}


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("task", "majority", "accuracy", "macro_f1"),
    [("citation_intent", 0.511, 0.748, 0.607), ("sci-cite", 0.536, 0.826, 0.808)],
)
def test_the_published_floors_are_reproduced(
    mirror: Path, task: str, majority: float, accuracy: float, macro_f1: float
) -> None:
    def rows(split: str) -> Rows:
        path = mirror / "scibert_tasks" / "text_classification" / task / f"{split}.txt"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = {name: [record[name] for record in records] for name in ("text", "label")}
        return Rows(pa.table({"id": [f"{split}{row}" for row in range(len(records))], **columns}), {})

    train, validation, test = rows("train"), rows("dev"), rows("test")
    scores = {}
    for name, candidates in floors.of("text", "classification", CLASSIFICATION).items():
        chosen, _ = protocol.choose(CLASSIFICATION, candidates(train, []), validation)
        _, scores[name] = protocol.read_test(CLASSIFICATION, chosen, test)
    assert scores["majority"]["accuracy"] == pytest.approx(majority, abs=5e-4)
    assert scores["tfidf"]["accuracy"] == pytest.approx(accuracy, abs=0.005)
    assert scores["tfidf"]["macro_f1"] == pytest.approx(macro_f1, abs=0.005)
