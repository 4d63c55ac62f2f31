"""Tokenizers: the same to the byte from the same text, or reused; saved so that `AutoTokenizer` opens them.

    wordpiece   BERT (Devlin et al. 2019): [PAD] [UNK] [CLS] [SEP] [MASK], examples as [CLS] A [SEP] B [SEP]
    unigram     Kudo 2018, with ALBERT's special tokens: the same frame around examples
    byte_bpe    GPT-2 (Radford et al. 2019): <|endoftext|> ends a document, nothing is added to examples
    character   one token per character, special tokens as for byte_bpe

Differs from GPT-2: <|pad|> and <|mask|> are in the vocabulary, so that padding is not a text's end
and masked language modelling is possible.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from tasks.errors import InputError
from tasks.modalities.text.tensors.alphabet import Texts
from tasks.modalities.text.tensors.training import build

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tasks.modalities.text.tensors import TokenizerSettings


def train(settings: TokenizerSettings, texts: Texts, max_length: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of that kind.

    Args:
        settings: kind, size, limits.
        texts: gives the training text anew at every call.
        max_length: what the tokenizer's users are told as the model's length, in tokens.

    Raises:
        InputError: there is no text, or the vocabulary is smaller than the alphabet.
    """
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    tokenizer, special = build(settings, texts)
    names = ["input_ids", "attention_mask"]
    if settings.kind == "wordpiece":
        names.insert(1, "token_type_ids")
    wrapped: PreTrainedTokenizerFast = wrap(
        tokenizer_object=tokenizer, model_max_length=max_length, model_input_names=names, **special
    )
    return wrapped


def reuse(source: str) -> PreTrainedTokenizerFast:
    """A tokenizer from a folder, or by its name on the hub: from the local cache, else the network.

    Raises:
        InputError: it is in neither place, cannot be read, or has no `tokenizer.json`.
    """
    at = f"prepare.tokenizer.from: {source!r}"
    try:
        tokenizer = _open(source)
    except Exception as error:  # the hub's client raises more kinds than it documents
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{at} cannot be loaded ({reason}). Give a folder that holds tokenizer.json, or a name on the "
            f"hub while there is a network; `hf download {source}` fetches it for later use without one. "
            "Leave `from` out to train a tokenizer on the corpora."
        ) from None
    if not tokenizer.is_fast:
        raise InputError(
            f"{at} has no tokenizer.json; choose one that has, or leave `from` out to train one."
        )
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    loaded: PreTrainedTokenizerFast = tokenizer
    return loaded


def _open(source: str) -> Any:
    from huggingface_hub import constants
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        if Path(source).is_dir() or constants.HF_HUB_OFFLINE:
            raise
    if not getproxies():  # behind a proxy, names need not resolve here
        # The hub's client tries ten times over a minute; a name that does not resolve is reason enough.
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    return AutoTokenizer.from_pretrained(source)


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer for `AutoTokenizer.from_pretrained`, free of the place where it came from."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "is_local", "local_files_only"):
        config.pop(key, None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that transformers 4 knows as well
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def frame(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The ids that stand before and after every document: what the tokenizer adds, else the end of text.

    Tokenizers that add nothing (GPT-2's) get their end-of-text token after each document, as in
    nanoGPT's data preparation; those that have none get nothing.
    """
    body = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer("a", verbose=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
    before, after = whole[:start], whole[start + len(body) :]
    if not before and not after and tokenizer.eos_token_id is not None:
        after = [tokenizer.eos_token_id]
    return before, after


def continues_word(tokenizer: PreTrainedTokenizerFast) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Per id, whether the token belongs to the same word as the token before it."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if pipeline["model"]["type"] == "WordPiece":
        prefix = pipeline["model"]["continuing_subword_prefix"]
        flags = [str(token).startswith(prefix) for token in tokens]
    else:  # a word starts with white space, which byte-level vocabularies write as Ġ, Ċ, ĉ
        flags = [not str(token).startswith(("▁", "Ġ", "Ċ", "ĉ", " ", "\n", "\t")) for token in tokens]
    special = set(tokenizer.all_special_ids)
    return np.array([flag and number not in special for number, flag in enumerate(flags)])
