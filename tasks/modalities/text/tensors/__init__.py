"""Text as packed token rows: tokenizer, packing, batches, inputs of labelled examples.

Settings and the four functions that every modality has; the work is done in `tokenizers`,
`segments`, `packing`, `rows` and `examples` beside this file, which are loaded when they are needed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from models.settings import Settings, setting
from tasks.errors import InputError, unknown

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from models.text.vocabulary import Vocabulary
    from tasks.config import Recipe
    from tasks.engine.loader import Batches
    from tasks.modalities.text.tensors.packing import Encoder

log = logging.getLogger(__name__)

UNIT = "tokens"
OFFERS = ("rows", "spans")
READS = ("rows",)
BULKY = ()  # a tokenizer's ids are no shorter than the text, which is shown as well
GO_WITH_WEIGHTS = ("tokenizer.from",)


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(Settings):
    """A tokenizer to train, or to take as it is."""

    kind: Literal["wordpiece", "byte_bpe", "unigram", "character"] = setting(
        "wordpiece", "Algorithm: WordPiece (BERT), byte-level BPE (GPT-2), Unigram, or single characters."
    )
    source: str | None = setting(
        None, "Tokenizer to reuse: a name on the hub or a folder; overrides `kind`.", alias="from"
    )
    vocabulary_size: int = setting(8192, "Entries at most, special tokens included.", ge=32)
    limit_alphabet: int = setting(
        1000, "Most single characters kept, byte_bpe apart; rarer ones become the unknown token.", ge=1
    )
    lowercase: bool = setting(True, "WordPiece: fold case and accents as uncased BERT does.")
    corpora: tuple[Literal["general", "domain", "tasks"], ...] = setting(
        ("general", "domain"), "Slots whose training text the tokenizer is trained on."
    )
    training_megabytes: int = setting(
        200, "About how much text it is trained on; of more, every n-th document is taken.", ge=1
    )


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """Tokenizer and packing of text."""

    tokenizer: TokenizerSettings = setting(TokenizerSettings(), "A tokenizer to train or to reuse.")
    sequence_length: int = setting(128, "Tokens per packed row.", ge=8)
    cross_document_attention: bool = setting(
        False, "Let attention cross the border between documents packed into one row."
    )
    span_length: int = setting(64, "Objective declutr: tokens per span, special tokens included.", ge=8)
    task_length: int = setting(128, "Most tokens of a labelled example; the rest is cut off.", ge=8)


def prepare(
    recipe: Recipe, corpora: Mapping[str, Path], excluded: Mapping[str, set[str]], out: Path, seed: int
) -> dict[str, Any]:
    """Train or load the tokenizer, pack every slot; answer the statistics for the manifest.

    Raises:
        InputError: no text, a vocabulary smaller than the alphabet, a tokenizer that cannot be loaded.
    """
    from tasks.corpora.parts import parts as parts_of
    from tasks.modalities.text.tensors import documents, tokenizers
    from tasks.modalities.text.tensors.packing import Encoder, SegmentsDisagree

    settings = cast("PrepareSettings", recipe.prepare)
    parts = parts_of(corpora, excluded)
    tokenizer = (
        tokenizers.reuse(settings.tokenizer.source)
        if settings.tokenizer.source is not None
        else tokenizers.train(
            settings.tokenizer,
            lambda: documents.training_text(parts, settings.tokenizer),
            max(settings.sequence_length, settings.task_length),
        )
    )
    tokenizers.save(tokenizer, out / "tokenizer")
    encoder = Encoder(_load(out))
    try:
        return _pack(parts, encoder, settings, out)
    except SegmentsDisagree as wrong:
        log.warning(
            "encoding by segments gives other ids than this tokenizer for %.60r…; all documents are encoded "
            "one by one instead, which takes about seven times as long",
            str(wrong),
        )
    encoder.use_library()
    for slot in {slot for slot, _ in parts}:
        shutil.rmtree(out / slot, ignore_errors=True)
    return _pack(parts, encoder, settings, out)


def _pack(parts: Any, encoder: Encoder, settings: PrepareSettings, out: Path) -> dict[str, Any]:
    from tqdm import tqdm

    from tasks.modalities.text.tensors.documents import texts
    from tasks.modalities.text.tensors.packing import Packer, pack

    tokenizer = encoder.tokenizer
    frame_size = len(encoder.before) + len(encoder.after)
    slots: dict[str, dict[str, dict[str, int]]] = {}
    sums: dict[str, dict[str, int]] = {}
    for (slot, split), part in parts.items():
        folder = out / slot / split
        folder.mkdir(parents=True)
        packer = Packer(
            folder,
            sequence_length=settings.sequence_length,
            vocabulary_size=len(tokenizer),
            pad_id=_pad_id(tokenizer),
        )
        total = sums.setdefault(slot, {"tokens": 0, "words": 0, "unknown": 0})
        with tqdm(total=part.num_records, desc=f"tokenise {slot}/{split}", unit="docs", disable=None) as bar:
            for num_documents, num_words, num_unknown in pack(
                texts(part), encoder, packer, tokenizer.unk_token_id
            ):
                total["words"] += num_words
                total["unknown"] += num_unknown
                bar.update(num_documents)
        num_rows = packer.close()
        total["tokens"] += packer.num_tokens - frame_size * packer.num_documents
        counts = {"rows": num_rows, "tokens": packer.num_tokens, "documents": packer.num_documents}
        slots.setdefault(slot, {})[split] = counts
    return {
        "sequence_length": settings.sequence_length,
        "vocabulary_size": len(tokenizer),
        "slots": slots,
        "fertility": {slot: _share(total["tokens"], total["words"]) for slot, total in sums.items()},
        "unknown_rate": {slot: _share(total["unknown"], total["tokens"]) for slot, total in sums.items()},
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def batches(
    prepared: Path, slot: str, split: str, recipe: Recipe, reads: tuple[str, ...], seed: int
) -> Batches:
    """Packed rows, or pairs of spans where the objective reads `spans`.

    Raises:
        InputError: that slot and split hold nothing, or no document long enough for two spans.
    """
    from tasks.modalities.text.tensors.rows import PackedRows, SpanPairs, Stream

    settings = cast("PrepareSettings", recipe.prepare)
    folder = prepared / slot / split
    if not folder.is_dir():
        raise InputError(
            f"{folder} is missing: the recipe's corpus `{slot}` is none; name one, and prepare again."
        )
    stream = Stream(folder)
    if not stream.num_rows:
        raise InputError(f"{folder} holds no text; give the corpus more, or raise its heldout_fraction.")
    if "rows" in reads:
        return PackedRows(stream, seed, is_joined=settings.cross_document_attention)
    if "spans" not in reads:
        raise KeyError(unknown("kind of batch", ", ".join(reads), OFFERS))
    from tasks.modalities.text.tensors.tokenizers import frame

    tokenizer = _load(prepared)
    before, after = frame(tokenizer)
    spans = SpanPairs(
        stream, seed, span_length=settings.span_length, before=before, after=after, pad_id=_pad_id(tokenizer)
    )
    if not spans.num_samples:
        raise InputError(
            f"{folder}: no document is long enough for two spans; lower prepare.span_length "
            f"(now {settings.span_length} tokens), or choose an objective without spans."
        )
    return spans


def vectors(
    encoder: PreTrainedModel, batch: Mapping[str, Tensor], prepared: Path, weights: str | None = None
) -> Tensor:
    """The mean over the tokens of each packed row, [B, D]."""
    from models.heads import is_causal
    from models.text.tokens import encode_packed
    from tasks.downstream.probe import pooled
    from tasks.modalities.text.tensors.rows import PADDING

    document_ids_BL = batch["document_ids"]
    features_BLD = encode_packed(
        encoder, batch["input_ids"], document_ids_BL, is_causal=is_causal(encoder.config)
    )
    return pooled(features_BLD, document_ids_BL != PADDING, "mean")


def inputs(records: pa.Table, kind: str, prepared: Path, recipe: Recipe) -> dict[str, Tensor]:
    """Labelled records as `input_ids`, `attention_mask` and what else the kind needs.

    See `tasks.modalities.text.tensors.examples` for the keys of each kind.
    """
    from tasks.modalities.text.tensors import examples

    return examples.inputs(
        records, kind, _load(prepared), cast("PrepareSettings", recipe.prepare).task_length
    )


def reader(prepared: Path, recipe: Recipe, weights: str | None = None) -> None:
    """Nothing: models read token ids as they are."""


def finish(prepared: Path, folder: Path, weights: str | None = None) -> None:
    """Write the tokenizer beside saved weights, naming only inputs that their architecture takes."""
    from tasks.modalities.text.tensors.tokenizers import save

    tokenizer = _load(prepared)
    config = folder / "config.json"
    if config.exists() and "type_vocab_size" not in json.loads(config.read_text(encoding="utf-8")):
        tokenizer.model_input_names = [
            name for name in tokenizer.model_input_names if name != "token_type_ids"
        ]
    save(tokenizer, folder)


def encoder_config(prepared: Path) -> dict[str, Any]:
    """Size of the vocabulary and ids of the special tokens that the tokenizer has."""
    tokenizer = _load(prepared)
    named = {
        "pad_token_id": _pad_id(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return {"vocab_size": len(tokenizer), **named}


def check_encoder(config: PretrainedConfig, recipe: Recipe) -> None:
    """Refuse rows of more tokens than the encoder has positions for."""
    from models.text.tokens import check_lengths

    settings = cast("PrepareSettings", recipe.prepare)
    lengths = {"sequence_length": settings.sequence_length}
    if recipe.tasks != "none":
        lengths["task_length"] = settings.task_length
    check_lengths(config, lengths)


def constants(prepared: Path, weights: str | None = None) -> dict[str, Any]:
    """What objectives over text are constructed with."""
    return {"vocabulary": vocabulary(prepared)}


def vocabulary(prepared: Path) -> Vocabulary:
    """What objectives over tokens must know of the tokenizer."""
    import torch

    from models.text.vocabulary import Vocabulary
    from tasks.modalities.text.tensors.tokenizers import continues_word

    tokenizer = _load(prepared)
    is_special = torch.zeros(len(tokenizer), dtype=torch.bool)
    is_special[tokenizer.all_special_ids] = True
    return Vocabulary(
        is_special, torch.from_numpy(continues_word(tokenizer)), _pad_id(tokenizer), tokenizer.mask_token_id
    )


def _load(prepared: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    return cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(prepared / "tokenizer"))


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The padding token; in tokenizers that have none (GPT-2's), the end of text."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return 0 if pad_id is None else int(pad_id)
