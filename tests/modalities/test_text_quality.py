"""Metrics of texts equal a slow count of the same thing, and thresholds name what breaks them."""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.modalities.text import quality
from tasks.modalities.text.quality import hashed_words

ENGLISH = "The committee met on Tuesday and decided that the bridge would be closed for repairs until spring."
GERMAN = (
    "Der Ausschuss traf sich am Dienstag und beschloss, dass die Brücke bis zum Frühjahr gesperrt bleibt."
)


def table(texts: Sequence[str | None]) -> pa.Table:
    names = [f"r{row}" for row in range(len(texts))]
    return pa.table({"id": names, "text": pa.array(texts, pa.string())})


def described(texts: Sequence[str | None]) -> list[dict[str, Any]]:
    return list(quality.describe(table(texts)).to_pylist())


def slow_words(text: str) -> list[str]:
    """Runs of letters, marks and digits, one character at a time; ideographs alone."""
    found, run = [], ""
    for character in text.casefold() + " ":
        is_alone = any(start <= ord(character) < end for start, end in hashed_words.WITHOUT_SPACES)
        is_letter = unicodedata.category(character)[0] in "LM"
        if (is_letter and not is_alone) or unicodedata.category(character)[0] == "N":
            run += character
            continue
        found += [run] * bool(run) + [character] * (is_letter and is_alone)
        run = ""
    return found


texts = st.lists(st.text(st.sampled_from("aAbß12 .\n\t-é\u0301東京の\ufffd\x00\u200d😀")), max_size=12)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_metrics_equal_a_count_one_character_at_a_time(texts: list[str]) -> None:
    for text, row in zip(texts, described(texts), strict=True):
        length = max(len(text), 1)
        found = slow_words(text)
        assert row["characters"] == len(text)
        assert row["words"] == len(found)
        most = max(Counter(found).values(), default=0)
        assert row["top_word_share"] == pytest.approx(most / max(len(found), 1))
        category = [unicodedata.category(character)[0] for character in text]
        assert row["letter_share"] == pytest.approx(sum(c in "LM" for c in category) / length)
        assert row["digit_share"] == pytest.approx(category.count("N") / length)
        assert row["replacement_share"] == pytest.approx(text.count("\ufffd") / length)
        assert row["control_share"] == pytest.approx(text.count("\x00") / length)
        assert row["space_share"] == pytest.approx(sum(c.isspace() for c in text) / length)


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(1, 4))
def test_hashes_of_word_sequences_are_equal_exactly_where_the_words_are(
    texts: list[str], length: int
) -> None:
    hashes, starts = hashed_words.sequences(*hashed_words.words(texts), length=length)
    meaning: dict[int, tuple[str, ...]] = {}
    for row, text in enumerate(texts):
        found = slow_words(text)
        expected = [tuple(found[start : start + length]) for start in range(len(found) - length + 1)]
        own = hashes[starts[row] : starts[row + 1]].tolist()
        assert len(own) == len(expected)
        for number, sequence in zip(own, expected, strict=True):
            assert meaning.setdefault(number, sequence) == sequence
    assert len(meaning) == len(set(meaning.values()))


def test_metrics_do_not_depend_on_how_the_table_is_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str | None] = [None, "", GERMAN * 5]
    texts += [ENGLISH[:length] for length in range(0, len(ENGLISH), 7)]
    whole, pieces = quality.describe(table(texts)), quality.pieces(table(texts))
    monkeypatch.setattr(hashed_words, "BLOCK_CHARACTERS", 100)
    assert quality.describe(table(texts)).equals(whole)
    assert quality.pieces(table(texts)).equals(pieces)


def test_repetition_is_the_share_of_word_sequences_that_stood_before() -> None:
    once = " ".join(f"word{number}" for number in range(30))
    rows = described([once, f"{once} {once}", "short text"])
    assert [row["repetition"] for row in rows] == pytest.approx([0.0, 27 / 57, None])


def test_repeated_lines_duplicates_and_compression_are_seen() -> None:
    rows = described(["one\ntwo\none\n\none", ENGLISH, "a" * 3000, ENGLISH.replace(" ", "\n ")])
    assert rows[0]["lines"] == 4
    assert rows[0]["repeated_line_share"] == pytest.approx(0.5)
    assert [row["duplicate"] for row in rows] == [False, False, False, True]
    assert rows[2]["compression_ratio"] == len(zlib.compress(b"a" * 2048, 1)) / 2048


def test_languages_are_guessed_where_there_is_enough_text() -> None:
    rows = described([ENGLISH, GERMAN, "short", ENGLISH + " again", None])
    assert [row["language"] for row in rows] == ["en", "de", None, "en", None]
    assert [row["in_main_language"] for row in rows] == [True, False, None, True, None]


def test_of_many_records_a_sample_is_guessed_that_does_not_depend_on_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality, "LANGUAGE_RECORDS", 10)
    records = table([ENGLISH] * 100)
    guesses = quality.describe(records)["language"].to_pylist()
    back = quality.describe(records.take(list(range(99, -1, -1))))["language"].to_pylist()
    assert 2 < 100 - guesses.count(None) < 25
    assert back[::-1] == guesses


def test_overlap_is_the_share_of_frequent_words_in_common() -> None:
    a, b = table(["red red green blue"]), table(["Red, yellow!", "yellow yellow"])
    measured = quality.compare(a, b)
    assert measured == pytest.approx(
        {"vocabulary_overlap": 1 / 2, "unknown_share": 3 / 4, "unknown_share_back": 2 / 4}
    )
    assert quality.compare(a, a)["vocabulary_overlap"] == 1
    assert quality.compare(a, table([]))["vocabulary_overlap"] == 0


def test_only_the_most_frequent_words_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "VOCABULARY_WORDS", 2)
    a, b = table(["x x x y y z"]), table(["z z z y y x"])
    assert quality.compare(a, b) == pytest.approx(
        {"vocabulary_overlap": 1 / 2, "unknown_share": 3 / 6, "unknown_share_back": 3 / 6}
    )


def test_languages_that_are_named_make_the_check_hard() -> None:
    def hard(settings: quality.ValidateSettings) -> set[str]:
        expectations = quality.expectations(settings)
        return {expected.column for expected in expectations if expected.severity.value == "critical"}  # type: ignore[attr-defined]

    always = {"characters", "replacement_share", "control_share"}
    assert hard(quality.ValidateSettings()) == always
    assert hard(quality.ValidateSettings(languages=("en",))) == {*always, "language"}
