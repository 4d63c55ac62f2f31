"""What a sceptic would try first: no encoder, no training to speak of.

Every task has the majority. Beside it stands what its modality offers cheaply: a line of `FLOORS`
per modality and kind, with the name under which the tables show it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tasks.downstream import Kind, picture_floors, sound_floors
from tasks.downstream.probe import unconverged_is_fine
from tasks.downstream.protocol import Predict
from tasks.downstream.question_answering import normalised
from tasks.downstream.rows import Rows
from tasks.downstream.token_classification import OUTSIDE

Floor = Callable[[Rows, Sequence[str]], Iterator[Predict]]

PENALTIES = (1.0, 10.0, 100.0)
# From this many training rows on, words that occur in one row only cost time and gain nothing.
MANY_ROWS = 1000
MAX_ITERATIONS = 1000


def of(modality: str, kind: str, module: Kind) -> dict[str, Floor]:
    """The floors of a task by name: candidates from which validation chooses."""

    def majority(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
        yield module.majority(train, labels)

    return {"majority": majority, **FLOORS.get((modality, kind), {})}


def tfidf(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Logistic regressions on tf-idf of word 1- and 2-grams, one per penalty."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    answers = train.column("label")
    if len(set(answers)) < 2:
        yield lambda rows: [answers[0]] * len(rows)
        return
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= MANY_ROWS else 1
    )
    matrix = vectorizer.fit_transform(train.column("text"))
    transform = _once(lambda rows: vectorizer.transform(rows.column("text")))
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS)
        with unconverged_is_fine():
            model.fit(matrix, answers)
        yield lambda rows, model=model: [str(label) for label in model.predict(transform(rows))]  # type: ignore[misc]


def _once(function: Callable[[Rows], Any]) -> Callable[[Rows], Any]:
    """The function with a memory of its last argument: every candidate reads the same rows."""
    last: list[Any] = [None, None]

    def remembered(rows: Rows) -> Any:
        if last[0] is not rows:
            last[:] = [rows, function(rows)]
        return last[1]

    return remembered


def word_tags(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """The tag that each word had most often; `O` for words that were not seen."""
    counts: dict[str, Counter[str]] = {}
    for words, tags in zip(train.column("tokens"), train.column("tags"), strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts.setdefault(word.lower(), Counter())[tag] += 1
    known = {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in counts.items()}
    yield lambda rows: [
        " ".join(known.get(word.lower(), OUTSIDE) for word in words) for words in rows.column("tokens")
    ]


def word_features(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Logistic regressions on a word's form, ending, shape and neighbours, one per penalty."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    answers = [tag for tags in train.column("tags") for tag in tags]
    if len(set(answers)) < 2:
        yield lambda rows: [" ".join([answers[0]] * len(words)) for words in rows.column("tokens")]
        return
    vectorizer = DictVectorizer()
    matrix = vectorizer.fit_transform([f for words in train.column("tokens") for f in _described(words)])
    transform = _once(
        lambda rows: vectorizer.transform([f for words in rows.column("tokens") for f in _described(words)])
    )
    for penalty in (1.0, 10.0):
        model = LogisticRegression(C=penalty, max_iter=200)
        with unconverged_is_fine():
            model.fit(matrix, answers)
        yield lambda rows, model=model: _sentences(model.predict(transform(rows)), rows)  # type: ignore[misc]


def _sentences(tags: Sequence[str], rows: Rows) -> list[str]:
    flat = iter(tags)
    return [" ".join(str(next(flat)) for _ in words) for words in rows.column("tokens")]


def _described(words: Sequence[str]) -> Iterator[dict[str, float]]:
    """Features of each word of a sentence."""
    low = ["<", *(word.lower() for word in words), ">"]
    for place, word in enumerate(words, start=1):
        here = low[place]
        shape = re.sub(r"[a-z]+", "x", re.sub(r"[A-Z]+", "X", re.sub(r"\d+", "0", word)))
        names = (
            f"w={here}",
            f"3={here[-3:]}",
            f"p={here[:3]}",
            f"s={shape}",
            f"-={low[place - 1]}",
            f"+={low[place + 1]}",
        )
        yield dict.fromkeys(names, 1.0)


def _spans(text: str) -> list[str]:
    """Sentences, by a rule that needs no model."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text) if part] or [text]


def first_sentence(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """The first sentence of the context."""
    yield lambda rows: [_spans(text)[0] for text in rows.column("text")]


def sliding_window(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """The words nearest to the question's in the sentence that shares most with it, 1 to 8 words long.

    After the sliding window of Richardson et al. 2013, https://aclanthology.org/D13-1020
    """
    for length in (1, 2, 3, 5, 8):
        yield lambda rows, length=length: [  # type: ignore[misc]
            _window(text, question, length)
            for text, question in zip(rows.column("text"), rows.column("question"), strict=True)
        ]


def _window(text: str, question: str, length: int) -> str:
    """The run of words, none of them in the question, that lies nearest to words of the question."""
    asked = set(normalised(question).split())
    rarity = Counter(normalised(text).split())

    def shared(sentence: str) -> float:
        return sum(1 / rarity[word] for word in asked & set(normalised(sentence).split()))

    sentence = max(_spans(text), key=shared)
    spans = [match.span() for match in re.finditer(r"\S+", sentence)]
    if not spans:
        return ""
    hits = [place for place, (a, b) in enumerate(spans) if normalised(sentence[a:b]) in asked]
    if not hits or len(hits) == len(spans):
        return sentence
    while not (starts := _free(len(spans), length, hits)):
        length -= 1
    best = max(starts, key=lambda start: sum(1 / _distance(start, length, hit) for hit in hits))
    return sentence[spans[best][0] : spans[best + length - 1][1]]


def _free(num_words: int, length: int, hits: Sequence[int]) -> list[int]:
    """Where a run of that length holds no hit."""
    return [s for s in range(num_words - length + 1) if not any(s <= hit < s + length for hit in hits)]


def _distance(start: int, length: int, place: int) -> int:
    return max(start - place, place - start - length + 1, 1)


FLOORS: Mapping[tuple[str, str], dict[str, Floor]] = {
    ("text", "classification"): {"tfidf": tfidf},
    ("text", "token_classification"): {"word_tags": word_tags, "word_features": word_features},
    ("text", "question_answering"): {"first_sentence": first_sentence, "sliding_window": sliding_window},
    ("image", "classification"): {
        "pixel_knn": picture_floors.pixel_knn,
        "pixel_lr": picture_floors.pixel_lr,
        "hog": picture_floors.histograms,
    },
    ("image", "segmentation"): {"cell_colours": picture_floors.cell_colours},
    ("speech", "classification"): {"log_mel": sound_floors.said_class},
    ("speech", "transcription"): {"log_mel": sound_floors.said_whole},
}
