"""Training a tokenizer of each kind; the same text gives the same bytes (see `alphabet`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tasks.errors import InputError
from tasks.modalities.text.tensors.alphabet import (
    Texts,
    assemble,
    count_alphabet,
    count_segments,
    no_text,
    recounted,
)

if TYPE_CHECKING:
    from tasks.modalities.text.tensors import TokenizerSettings

FRAMED = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ALBERT = {**FRAMED, "pad_token": "<pad>", "unk_token": "<unk>"}
STREAMED = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "mask_token": "<|mask|>"}


def build(settings: TokenizerSettings, texts: Texts) -> tuple[Any, dict[str, str]]:
    """A trained `tokenizers.Tokenizer`, and its special tokens by their role in transformers' words.

    Raises:
        InputError: there is no text, or the vocabulary is smaller than the alphabet.
    """
    kinds = {"wordpiece": _wordpiece, "byte_bpe": _byte_bpe, "unigram": _unigram, "character": _character}
    return kinds[settings.kind](settings, texts)


def _wordpiece(settings: TokenizerSettings, texts: Texts) -> tuple[Any, dict[str, str]]:
    special = list(FRAMED.values())
    parts: dict[str, Any] = {
        "normalizer": normalizers.BertNormalizer(lowercase=settings.lowercase),
        "pre_tokenizer": pre_tokenizers.BertPreTokenizer(),
    }
    draft = assemble(models.WordPiece(unk_token="[UNK]"), **parts)
    alphabet = count_alphabet(draft, count_segments(draft, texts), settings.limit_alphabet)
    pieces = [f"##{character}" for character in alphabet.inner]
    _check_size(settings, special, len(alphabet.characters) + len(pieces))
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocabulary_size,
        special_tokens=special + pieces,  # listed, they are numbered in this order and not by hash
        initial_alphabet=list(alphabet.characters),
        limit_alphabet=len(alphabet.characters),
        show_progress=False,
    )
    draft.train_from_iterator(_lists(texts), trainer)
    vocabulary = json.loads(draft.to_str())["model"]["vocab"]
    tokenizer = assemble(models.WordPiece(vocabulary, unk_token="[UNK]"), **parts)
    return _framed(tokenizer, special, decoders.WordPiece()), FRAMED


def _byte_bpe(settings: TokenizerSettings, texts: Texts) -> tuple[Any, dict[str, str]]:
    special = list(STREAMED.values())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size(settings, special, len(letters))
    tokenizer = assemble(models.BPE(), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False))
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        special_tokens=special,
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lists(texts), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer, {**STREAMED, "bos_token": STREAMED["eos_token"]}


def _unigram(settings: TokenizerSettings, texts: Texts) -> tuple[Any, dict[str, str]]:
    special = list(ALBERT.values())
    parts: dict[str, Any] = {"normalizer": normalizers.NFKC(), "pre_tokenizer": pre_tokenizers.Metaspace()}
    draft = assemble(models.Unigram(), **parts)
    counted = count_segments(draft, texts)
    alphabet = count_alphabet(draft, counted, settings.limit_alphabet)
    _check_size(settings, special, len(alphabet.characters))
    trainer = trainers.UnigramTrainer(
        vocab_size=settings.vocabulary_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    draft.train_from_iterator(_without(alphabet.rare, texts), trainer)
    found = json.loads(draft.to_str())["model"]["vocab"]
    pieces = recounted(found, special, counted, parts, settings.vocabulary_size)
    tokenizer = assemble(models.Unigram(pieces, unk_id=special.index("<unk>")), **parts)
    return _framed(tokenizer, special, decoders.Metaspace()), ALBERT


def _character(settings: TokenizerSettings, texts: Texts) -> tuple[Any, dict[str, str]]:
    names = {**STREAMED, "unk_token": "<|unk|>"}
    special = list(names.values())
    splitter = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    draft = assemble(models.WordLevel({}, unk_token="<|unk|>"), pre_tokenizer=splitter)
    alphabet = count_alphabet(draft, count_segments(draft, texts), settings.limit_alphabet)
    _check_size(settings, special, len(alphabet.characters))
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet.characters])}
    tokenizer = assemble(models.WordLevel(vocabulary, unk_token="<|unk|>"), pre_tokenizer=splitter)
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.Fuse()
    return tokenizer, {**names, "bos_token": STREAMED["eos_token"]}


def _framed(tokenizer: Any, special: Sequence[str], decoder: Any) -> Any:
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoder
    return tokenizer


def _check_size(settings: TokenizerSettings, special: Sequence[str], num_characters: int) -> None:
    smallest = len(special) + num_characters
    if settings.vocabulary_size < smallest:
        raise InputError(
            f"prepare.tokenizer.vocabulary_size: {settings.vocabulary_size} is smaller than the alphabet: "
            f"{num_characters} single characters and {len(special)} special tokens; the smallest size that "
            f"works is {smallest}. Raise it, or lower prepare.tokenizer.limit_alphabet (now "
            f"{settings.limit_alphabet}; byte_bpe always needs its 256 bytes)."
        )


def _lists(texts: Texts) -> Iterator[list[str]]:
    """The text as Python strings.

    Raises:
        InputError: there is none.
    """
    num_bytes = 0
    for documents in texts():
        num_bytes += documents.nbytes
        yield documents.to_pylist()
    if not num_bytes:
        raise no_text()


def _without(rare: Sequence[str], texts: Texts) -> Iterator[list[str]]:
    if not rare:
        yield from _lists(texts)
        return
    normal = normalizers.NFKC()
    blank = {ord(character): " " for character in rare}
    for documents in _lists(texts):
        yield [normal.normalize_str(document).translate(blank) for document in documents]
