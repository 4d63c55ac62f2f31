"""Labelled examples as inputs of a `transformers` model.

All kinds give `input_ids` and `attention_mask` [N, L], and `token_type_ids` where the tokenizer's
model has segments; padded on the right to the longest example, `max_length` tokens at most.

    classification         the text
    token_classification   the words joined by spaces; `word_ids` [N, L]: which word a token belongs to, −1
                           for special tokens and padding. Words behind the cut have no token.
    question_answering     question and context; `offsets` [N, L, 2]: the characters of the context that a
                           token covers, (0, 0) outside; `context_mask` [N, L]: whether it is of the context.
                           One row per question: a context that is too long is cut at its end, and
                           answers behind the cut cannot be found, so choose `task_length` by the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tasks.errors import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KINDS = ("classification", "token_classification", "question_answering")


def inputs(
    records: pa.Table, kind: str, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> dict[str, Tensor]:
    """The examples as tensors; see the module's text for the keys.

    Raises:
        KeyError: no such kind.
    """
    if kind not in KINDS:
        raise KeyError(unknown("kind of task", kind, KINDS))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if kind == "classification":
        encoded = _encode(tokenizer, max_length, records["text"].to_pylist())
        return _tensors(encoded)
    if kind == "token_classification":
        return _words(records["tokens"].to_pylist(), tokenizer, max_length)
    return _questions(records, tokenizer, max_length)


def _encode(tokenizer: PreTrainedTokenizerFast, max_length: int, *texts: list[str], **options: Any) -> Any:
    truncation = "only_second" if len(texts) > 1 else True
    return tokenizer(
        *texts,
        truncation=truncation,
        max_length=max_length,
        padding=True,
        return_attention_mask=True,
        **options,
    )


def _tensors(encoded: Any) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.tensor(encoded[name], dtype=torch.int64) for name in names if name in encoded}


def _words(
    sentences: list[list[str]], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> dict[str, Tensor]:
    texts = [" ".join(words) for words in sentences]
    encoded = _encode(
        tokenizer, max_length, texts, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    offsets = np.array(encoded["offset_mapping"], np.int64)
    is_special = np.array(encoded["special_tokens_mask"], np.bool_)
    word_ids = np.full(is_special.shape, -1, np.int64)
    for row, words in enumerate(sentences):
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        last = offsets[row, :, 1] - 1  # a token may begin with the space before its word, never end behind it
        number = np.searchsorted(ends, last, side="right")
        inside = (offsets[row, :, 1] > offsets[row, :, 0]) & ~is_special[row] & ~np.isin(last, ends)
        word_ids[row, inside] = number[inside]
    return {**_tensors(encoded), "word_ids": torch.from_numpy(word_ids)}


def _questions(records: pa.Table, tokenizer: PreTrainedTokenizerFast, max_length: int) -> dict[str, Tensor]:
    questions, contexts = records["question"].to_pylist(), records["text"].to_pylist()
    # a question takes half of the room at most, so that there is always some context
    short = tokenizer(
        questions, truncation=True, max_length=max(1, max_length // 2), return_offsets_mapping=True
    )
    questions = [
        question[: max((end for _, end in offsets), default=0)]
        for question, offsets in zip(questions, short["offset_mapping"], strict=True)
    ]
    encoded = _encode(tokenizer, max_length, questions, contexts, return_offsets_mapping=True)
    offsets = torch.tensor(encoded["offset_mapping"], dtype=torch.int64)
    context = torch.tensor(
        [[part == 1 for part in encoded.sequence_ids(row)] for row in range(len(questions))]
    ).reshape(offsets.shape[:2])
    offsets[~context] = 0
    return {**_tensors(encoded), "offsets": offsets, "context_mask": context}
