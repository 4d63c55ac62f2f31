"""The span of the context that answers a question: exact match and F1 in SQuAD's words.

Inputs hold `offsets`, [B, L, 2]: the characters of the context that a position covers, and
`context_mask`, [B, L]: 1 where a position belongs to the context. A question without answers
(SQuAD 2.0) points at position 0, and is answered with nothing where position 0 outscores every span.
A context is read up to the cut; an answer beyond it is counted as missed.

Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250; 2018, https://arxiv.org/abs/1806.03822.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from tasks.downstream.protocol import Predict
from tasks.downstream.rows import Rows

HEADS = {"text": "AutoModelForQuestionAnswering"}
METRICS = ("f1", "exact_match")
FROZEN: tuple[str, ...] = ("probe",)
READABLE = True
MAX_ANSWER_POSITIONS = 30
OUT_OF_REACH = -1

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def labels(records: pa.Table) -> list[str]:
    """None: answers are free."""
    return []


def strata(records: pa.Table) -> list[str]:
    """Whether a question has an answer at all."""
    return [str(bool(texts)) for texts in records.column("answer_texts").to_pylist()]


def truth(records: pa.Table) -> list[str]:
    """The first answer of each record; nothing where there is none."""
    return [texts[0] if texts else "" for texts in records.column("answer_texts").to_pylist()]


def targets(rows: Rows, labels: Sequence[str]) -> dict[str, Tensor]:
    """`start_positions`, `end_positions` of the first answer; −1 where it lies beyond the cut."""
    starts, ends = [], []
    answers = zip(rows.column("answer_texts"), rows.column("answer_starts"), strict=True)
    for (texts, begins), offsets_L2, context_L in zip(
        answers, rows.inputs["offsets"], rows.inputs["context_mask"], strict=True
    ):
        start, end = (
            (0, 0) if not texts else _positions(begins[0], len(texts[0]), offsets_L2, context_L.bool())
        )
        starts.append(start)
        ends.append(end)
    return {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}


def _positions(begin: int, length: int, offsets_L2: Tensor, context_L: Tensor) -> tuple[int, int]:
    """First and last position that overlap characters begin to begin + length."""
    finish = begin + length
    touching = (context_L & (offsets_L2[:, 0] < finish) & (offsets_L2[:, 1] > begin)).nonzero().flatten()
    if not len(touching) or int(offsets_L2[touching[-1], 1]) < finish:
        return OUT_OF_REACH, OUT_OF_REACH
    return int(touching[0]), int(touching[-1])


def learnable(targets: Mapping[str, Tensor]) -> Tensor:
    """Rows whose answer lies before the cut."""
    return targets["start_positions"] != OUT_OF_REACH


def decode(outputs: Sequence[Mapping[str, Tensor]], rows: Rows, labels: Sequence[str]) -> list[str]:
    """The best span of at most 30 positions inside the context, or nothing."""
    texts = rows.column("text")
    spans = (
        best_span(
            output["start_logits"], output["end_logits"], context_L[: len(output["start_logits"])].bool()
        )
        for output, context_L in zip(outputs, rows.inputs["context_mask"], strict=True)
    )
    decoded = []
    for span, offsets_L2, text in zip(spans, rows.inputs["offsets"], texts, strict=True):
        decoded.append(
            "" if span is None else text[int(offsets_L2[span[0], 0]) : int(offsets_L2[span[1], 1])]
        )
    return decoded


def best_span(start_L: Tensor, end_L: Tensor, context_L: Tensor) -> tuple[int, int] | None:
    """First and last position of the span with the largest sum of logits; None where position 0 has more."""
    length = len(start_L)
    allowed_LL = context_L[:, None] & context_L[None, :]
    allowed_LL &= torch.ones(length, length, dtype=torch.bool).triu().tril(MAX_ANSWER_POSITIONS - 1)
    sums_LL = (start_L[:, None] + end_L[None, :]).float().masked_fill(~allowed_LL, -torch.inf)
    best = int(sums_LL.argmax())
    start, end = divmod(best, length)
    if not bool(allowed_LL[start, end]) or float(sums_LL[start, end]) < float(start_L[0] + end_L[0]):
        return None
    return start, end


def score(rows: Rows, predictions: Sequence[str]) -> dict[str, float]:
    """The better of each over the accepted answers, averaged over questions."""
    f1, exact = [], []
    for texts, prediction in zip(rows.column("answer_texts"), predictions, strict=True):
        accepted = texts or [""]
        f1.append(max(overlap(text, prediction) for text in accepted))
        exact.append(max(float(normalised(text) == normalised(prediction)) for text in accepted))
    count = max(len(predictions), 1)
    return {"f1": sum(f1) / count, "exact_match": sum(exact) / count}


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and doubled spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def overlap(right: str, given: str) -> float:
    """F1 over the words of two answers; two empty answers agree."""
    right_words, given_words = normalised(right).split(), normalised(given).split()
    if not right_words or not given_words:
        return float(right_words == given_words)
    shared = (Counter(right_words) & Counter(given_words)).total()
    return 2 * shared / (len(right_words) + len(given_words))


def gather(hidden_BLD: Tensor, batch: Mapping[str, Tensor], pooling: str) -> list[Tensor]:
    """Every position's vector, [L, D], without padding."""
    sizes = batch["attention_mask"].sum(1).tolist()
    return [row_LD[:size].float().cpu() for row_LD, size in zip(hidden_BLD, sizes, strict=True)]


def probes(train: Rows, labels: Sequence[str]) -> Iterator[Predict]:
    """Softmax over positions of a linear score for start and one for end, on standardised vectors."""
    answers = targets(train, labels)
    rows = train.take(learnable(answers).nonzero().flatten().tolist())
    if not len(rows):
        yield majority(train, labels)
        return
    answers = targets(rows, labels)
    stacked = torch.cat(list(rows.features))
    mean_D, scale_D = stacked.mean(0), stacked.std(0).clamp(min=1e-6)
    vectors_BLD = torch.nn.utils.rnn.pad_sequence([(row - mean_D) / scale_D for row in rows.features], True)
    real_BL = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows.features], True).bool()
    positions_B2 = torch.stack([answers["start_positions"], answers["end_positions"]], -1)
    for penalty in (1.0, 0.1, 0.01):
        weight_D2 = _fitted(vectors_BLD, real_BL, positions_B2, penalty)
        yield _prober(weight_D2, mean_D, scale_D)


def _fitted(vectors_BLD: Tensor, real_BL: Tensor, positions_B2: Tensor, penalty: float) -> Tensor:
    """The weights that minimise cross-entropy plus penalty · |w|², by L-BFGS."""
    weight_D2 = torch.zeros(vectors_BLD.shape[-1], 2, requires_grad=True)
    solver = torch.optim.LBFGS([weight_D2], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        logits_BL2 = (vectors_BLD @ weight_D2).masked_fill(~real_BL[..., None], -torch.inf)
        loss = (
            torch.nn.functional.cross_entropy(logits_BL2, positions_B2) + penalty * weight_D2.square().sum()
        )
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight_D2.detach()


def _prober(weight_D2: Tensor, mean_D: Tensor, scale_D: Tensor) -> Predict:
    def predict(rows: Rows) -> list[str]:
        logits = [((row - mean_D) / scale_D) @ weight_D2 for row in rows.features]
        outputs = [{"start_logits": row_L2[:, 0], "end_logits": row_L2[:, 1]} for row_L2 in logits]
        return decode(outputs, rows, [])

    return predict


def majority(train: Rows, labels: Sequence[str]) -> Predict:
    """No answer where most training questions have none, else the most frequent answer."""
    counts = Counter(truth(train.records))
    most = min(counts, key=lambda text: (-counts[text], text))
    return lambda rows: [most] * len(rows)
