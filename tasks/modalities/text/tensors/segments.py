"""Token ids of many documents, faster: every distinct segment of text is encoded once, the rest is gathered.

A tokenizer cuts text into pieces before its model sees them, and never merges across a cut. Where the
cuts of a pre-tokeniser are known, the ids of a document are the ids of its segments in a row, and
most segments have been seen before. The tables below hold cuts that are certain for each known
pre-tokeniser: fewer than it makes, never one that it does not make. Documents that hold a special
token's own text are one segment. Tokenizers that are in no table take the library's own path.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Ids = NDArray[np.int64]

MAX_CACHED_SEGMENTS = 2_000_000

_SPACE, _LETTER, _DIGIT, _PUNCTUATION, _OTHER = range(5)


def _ascii_classes() -> Bytes:
    table = np.full(256, _OTHER, np.uint8)  # control characters and every byte above ASCII
    for code in range(33, 127):
        character = chr(code)
        kind = _LETTER if character.isalpha() else _DIGIT if character.isdigit() else _PUNCTUATION
        table[code] = kind
    table[[9, 10, 13, 32]] = _SPACE
    return table


_CLASSES = _ascii_classes()


def cuts_bert(data: Bytes, starts: Ids) -> tuple[Flags, Flags | None]:
    """BertPreTokenizer: white space falls away, ASCII punctuation stands alone."""
    classes = _CLASSES[data]
    keep = classes != _SPACE
    alone = classes == _PUNCTUATION
    cut = alone.copy()
    cut[1:] |= (alone | ~keep)[:-1]
    return cut, keep


def cuts_gpt2(data: Bytes, starts: Ids) -> tuple[Flags, Flags | None]:
    r"""ByteLevel with GPT-2's pattern: ``'s|'t|… | ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+``.

    Cuts only between two ASCII characters: before white space, before the last white space of a
    run, and where letters, digits and punctuation meet. An apostrophe keeps what follows ('s, 't).
    """
    classes = _CLASSES[data]
    before, after = classes[:-1], classes[1:]
    space_before, space_after = before == _SPACE, after == _SPACE
    ascii_both = (before != _OTHER) & (after != _OTHER)
    cut = np.zeros(len(data), np.bool_)
    inner = cut[1:]
    inner |= ascii_both & ~space_before & (before != after) & (data[:-1] != ord("'"))
    last_of_run = np.zeros(len(inner), np.bool_)
    last_of_run[:-1] = (space_before & space_after)[:-1] & (after[1:] != _SPACE) & (after[1:] != _OTHER)
    last_of_run[starts[starts > 1] - 2] = False  # the run ends with its document, so all of it is one piece
    inner |= last_of_run
    return cut, None


def cuts_metaspace(data: Bytes, starts: Ids) -> tuple[Flags, Flags | None]:
    """Metaspace that marks the start: before the first space of a run between two ASCII characters."""
    classes = _CLASSES[data]
    cut = np.zeros(len(data), np.bool_)
    cut[1:] = (data[1:] == 32) & (classes[:-1] != _SPACE) & (classes[:-1] != _OTHER)
    return cut, None


def cuts_characters(data: Bytes, starts: Ids) -> tuple[Flags, Flags | None]:
    """Every character alone: before each byte that is not a continuation byte of UTF-8."""
    return (data & 0xC0) != 0x80, None


Cuts = Callable[[Bytes, Ids], tuple[Flags, Flags | None]]  # where segments start; what does not fall away


def cuts_for(pipeline: dict[str, Any]) -> Cuts | None:
    """The table for a tokenizer, or None where no cut is certain.

    Args:
        pipeline: `tokenizer.json` as a mapping.
    """
    normalizer = pipeline.get("normalizer")
    if normalizer and any(token["normalized"] for token in pipeline.get("added_tokens", [])):
        return None  # an added token may appear in the text after normalising only
    splitter = pipeline.get("pre_tokenizer") or {}
    kind, normal = splitter.get("type"), (normalizer or {}).get("type")
    if kind == "BertPreTokenizer" and normal in (None, "BertNormalizer"):
        return cuts_bert
    if kind == "ByteLevel" and not splitter["add_prefix_space"] and splitter.get("use_regex", True):
        return cuts_gpt2 if normal in (None, "NFC", "NFD", "NFKC", "NFKD") else None
    if kind == "Metaspace" and splitter.get("prepend_scheme") == "always" and splitter.get("split", True):
        return cuts_metaspace if normal in (None, "NFC", "NFD", "NFKC", "NFKD") else None
    if kind == "Split" and splitter["pattern"] == {"Regex": r"[\s\S]"} and normal is None:
        return cuts_characters if splitter["behavior"] == "Isolated" and not splitter["invert"] else None
    return None


@dataclass(frozen=True)
class _Table:
    """The ids of segment number n are `ids[starts[n] : starts[n + 1]]`."""

    ids: Ids
    starts: Ids


class Segments:
    """Encodes columns of documents with one `tokenizers.Tokenizer`, without automatic special tokens.

    Several threads may encode at once.

    Attributes:
        is_known: whether the tokenizer's cuts are known, so that segments are used at all.
    """

    def __init__(self, tokenizer: Any) -> None:
        pipeline = json.loads(tokenizer.to_str())
        self._tokenizer = tokenizer
        self._cuts = cuts_for(pipeline)
        self._added = [token["content"].encode() for token in pipeline.get("added_tokens", [])]
        self.is_known = self._cuts is not None
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._table = _Table(np.zeros(0, np.int64), np.zeros(1, np.int64))

    def encode(self, documents: pa.Array) -> tuple[Ids, Ids]:
        """Token ids of all documents in a row, and the number of tokens of each document.

        Args:
            documents: a string array without nulls, of less than 2 GiB.
        """
        strings, segments_per_document = self._cut(*_buffers(documents))
        numbers, table = self._numbers(strings.dictionary.to_pylist())
        segments = numbers[strings.indices.to_numpy()]
        lengths = np.diff(table.starts)[segments]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        source = np.repeat(table.starts[segments] - (ends - lengths), lengths) + np.arange(total)
        bounds = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(segments_per_document)])]
        return table.ids[source], np.diff(bounds)

    def count(self, documents: pa.Array) -> dict[str, int]:
        """How often each distinct segment occurs; needs no model."""
        strings, _ = self._cut(*_buffers(documents))
        counts = np.bincount(strings.indices.to_numpy(), minlength=len(strings.dictionary))
        return dict(zip(strings.dictionary.to_pylist(), counts.tolist(), strict=True))

    def _cut(self, data: Bytes, offsets: Ids) -> tuple[pa.DictionaryArray, Ids]:
        """The segments in order, and how many each document has."""
        assert self._cuts is not None
        starts = offsets[:-1][np.diff(offsets) > 0]
        cut, keep = self._cuts(data, starts)
        cut[starts] = True
        for document in self._literal(data, offsets):
            low, high = offsets[document], offsets[document + 1]
            cut[low:high] = False
            cut[low] = True
            if keep is not None:
                keep[low:high] = True
        if keep is None:
            kept, where = data, offsets
        else:
            kept = data[keep]
            kept_before = np.zeros(len(data) + 1, np.int64)
            np.cumsum(keep, out=kept_before[1:])
            where = kept_before[offsets]
            # White space that falls away may carry the cut of a document's start: the next byte inherits it.
            cut = np.append(cut[keep], False)
            cut[kept_before[starts]] = True
        first = np.flatnonzero(cut[: len(kept)])
        bounds = np.append(first, len(kept)).astype(np.int32)
        strings = pa.StringArray.from_buffers(len(first), pa.py_buffer(bounds), pa.py_buffer(kept))
        return strings.dictionary_encode(), np.diff(np.searchsorted(first, where))

    def _literal(self, data: Bytes, offsets: Ids) -> Ids:
        """Documents that hold an added token's own text, which the library treats apart."""
        text = data.tobytes()
        found = []
        for token in self._added:
            at = text.find(token)
            while at >= 0:
                document = int(np.searchsorted(offsets, at, side="right")) - 1
                found.append(document)
                at = text.find(token, int(offsets[document + 1]))
        return np.unique(np.array(found, np.int64))

    def _numbers(self, texts: list[str]) -> tuple[Ids, _Table]:
        """The number of each segment, and the table that knows them; new ones are encoded first."""
        with self._lock:
            if len(self._number) > MAX_CACHED_SEGMENTS:
                self._forget()
            number = self._number
            new = [text for text in texts if text not in number]
            if new:
                number.update(zip(new, range(len(number), len(number) + len(new)), strict=True))
                self._extend(new)
            return np.fromiter((number[text] for text in texts), np.int64, len(texts)), self._table

    def _extend(self, new: list[str]) -> None:
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum()))
        starts = self._table.starts
        self._table = _Table(
            np.concatenate([self._table.ids, flat]), np.concatenate([starts, starts[-1] + np.cumsum(lengths)])
        )


def count_words(documents: pa.Array) -> int:
    """Words of all documents, as white space tells them apart."""
    data, offsets = _buffers(documents)
    is_word = _CLASSES[data] != _SPACE
    starts = is_word.copy()
    starts[1:] &= ~is_word[:-1]
    inner = offsets[1:-1]
    inner = inner[(inner > 0) & (inner < len(data))]
    starts[inner] = is_word[inner]
    return int(starts.sum())


def _buffers(documents: pa.Array) -> tuple[Bytes, Ids]:
    """The bytes of a string array without copying, and where each document starts and the last ends."""
    width = np.int64 if pa.types.is_large_string(documents.type) else np.int32
    _, offsets, data = documents.buffers()
    where = np.frombuffer(offsets, width)[documents.offset : documents.offset + len(documents) + 1].astype(
        np.int64
    )
    size = int(where[-1] - where[0])
    content = np.frombuffer(data, np.uint8, size, int(where[0])) if size else np.zeros(0, np.uint8)
    return content, where - where[0]
