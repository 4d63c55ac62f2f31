"""Tokenizers, packing, batches and inputs of text, against the plain library."""

from __future__ import annotations

import json
import logging
import pydoc_data.topics
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertConfig, GPT2Config

from models.text.token_masks import mask_tokens
from tasks.errors import InputError
from tasks.modalities.text import tensors
from tasks.modalities.text.tensors import PrepareSettings, TokenizerSettings, packing
from tasks.modalities.text.tensors.alphabet import recounted
from tasks.modalities.text.tensors.rows import PADDING, Stream
from tasks.modalities.text.tensors.segments import Segments, count_words

KINDS = ("wordpiece", "byte_bpe", "unigram", "character")
AWKWARD = [
    "",
    " ",
    "\n",
    "  two  spaces   and\ttabs \n\n  lines\r\n",
    "trailing space ",
    "\n    ",
    "Ends in white space\n        ",
    "[CLS] literal [SEP] tokens <|endoftext|><|mask|> [MASK]x",
    "it's 'tis ''s'' can't I'LL 5's they'd've",
    "x\u00a0y \u2003 z\u0301 !\u0338 <\u0338 \u212a\u037e",
    "日本語のテキスト。Chinese漢字mixed, naïve café ﬁne Ⅷ",
    "null\x00byte \x1cab\x85c\x0bd\x7f\ufffd \ufeffbom \u200b zero",
    "👩‍👩‍👧 emoji 🇩🇪!! \U0010ffff",
    "a_b-c.d(e)[f]{g}<h>@i#j$k%l^m&n*o+p=q|r\\s/t~u`v",
    "x" * 300,
]
TOPICS = [topic for topic in pydoc_data.topics.topics.values() if len(topic) < 6000][:60]


def write_corpus(folder: Path, texts: list[str], heldout: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["heldout" if i < heldout else "train" for i in range(len(texts))]
    ids = [f"d{i}" for i in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts, "split": splits}), folder / "records-00000.parquet")
    return folder


def prepare(
    tmp_path: Path, corpora: dict[str, Path], excluded: Any = None, **options: Any
) -> tuple[Path, Any, Any]:
    recipe: Any = SimpleNamespace(modality="text", prepare=PrepareSettings(**options))
    out = tmp_path / "prepared"
    out.mkdir()
    return out, recipe, tensors.prepare(recipe, corpora, excluded or {}, out, seed=0)


def stream_of(folder: Path) -> list[list[int]]:
    stream = Stream(folder)
    ids = stream.tokens(np.array([0]), stream.num_tokens)[0]
    return [part.tolist() for part in np.split(ids, stream.starts[1:])] if len(stream.starts) else []


@pytest.mark.parametrize("kind", KINDS)
def test_packed_ids_equal_the_library_on_every_document(tmp_path: Path, kind: Any) -> None:
    texts = [*TOPICS[:30], *AWKWARD]
    corpora = {"general": write_corpus(tmp_path / "general", texts)}
    tokenizer = TokenizerSettings(kind=kind, vocabulary_size=1200, lowercase=False)
    out, _, manifest = prepare(tmp_path, corpora, tokenizer=tokenizer, sequence_length=64)
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    end = [] if loaded("")["input_ids"] else [loaded.eos_token_id]
    expected = [loaded(text)["input_ids"] + end for text in texts]
    assert stream_of(out / "general/train") == expected[3:]
    assert stream_of(out / "general/heldout") == expected[:3]
    counts = manifest["slots"]["general"]["train"]
    assert counts["tokens"] == sum(map(len, expected[3:]))
    assert counts["documents"] == len(texts) - 3
    assert counts["rows"] == -(-counts["tokens"] // 64)


def pipelines() -> dict[str, Any]:
    """Tokenizers of every kind whose cuts are known, trained on a little text."""
    made: dict[str, Any] = {}
    trainer: Any
    for name, lowercase in (("bert-uncased", True), ("bert-cased", False)):
        made[name] = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made[name].normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        made[name].pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=900, special_tokens=["[UNK]", "[SEP]"], show_progress=False
        )
        made[name].train_from_iterator(TOPICS, trainer)
    for name, normalizer in (("gpt2", None), ("gpt2-nfc", normalizers.NFC())):
        made[name] = Tokenizer(models.BPE())
        made[name].normalizer = normalizer
        made[name].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=letters, show_progress=False)
        made[name].train_from_iterator(TOPICS, trainer)
    made["metaspace"] = Tokenizer(models.BPE(unk_token="<unk>"))
    made["metaspace"].normalizer = normalizers.NFKC()
    made["metaspace"].pre_tokenizer = pre_tokenizers.Metaspace()
    made["metaspace"].train_from_iterator(
        TOPICS, trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>"], show_progress=False)
    )
    characters = {character: i for i, character in enumerate(["?", *"abcdefgh \n."])}
    made["character"] = Tokenizer(models.WordLevel(characters, unk_token="?"))
    made["character"].pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return made


PIPELINES = pipelines()
ALPHABET = "aZé0 9\n\t'’s.,(-_\u00a0\u2003\u0301\u0338漢ßİ\x00\x0b\x1c\x85\u200b👩🏽\ufeff[SEP]"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6
    )
)
@pytest.mark.parametrize("name", PIPELINES)
def test_segments_equal_the_library_on_any_text(name: str, texts: list[str]) -> None:
    segments = Segments(PIPELINES[name])
    assert segments.is_known
    ids, lengths = segments.encode(pa.array(texts))
    encodings = PIPELINES[name].encode_batch(texts, add_special_tokens=False)
    assert [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] == [e.ids for e in encodings]


@pytest.mark.parametrize("name", PIPELINES)
def test_segments_equal_the_library_on_awkward_and_sliced_columns(name: str) -> None:
    segments = Segments(PIPELINES[name])
    texts = [*AWKWARD, *TOPICS[:10]]
    for column in (
        pa.array(texts),
        pa.array(["skipped", *texts, "cut"], pa.large_string()).slice(1, len(texts)),
    ):
        ids, lengths = segments.encode(column)
        encodings = PIPELINES[name].encode_batch(texts, add_special_tokens=False)
        assert [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] == [
            e.ids for e in encodings
        ]


def test_segments_are_forgotten_when_they_grow_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.modalities.text.tensors.segments.MAX_CACHED_SEGMENTS", 50)
    segments = Segments(PIPELINES["gpt2"])
    for text in TOPICS[:10]:
        ids, _ = segments.encode(pa.array([text]))
        assert ids.tolist() == PIPELINES["gpt2"].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Split(Regex(r"\w+"), "isolated"),
        pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits()]),
    ],
)
def test_unknown_pre_tokenisers_take_the_library_path(pre_tokenizer: Any) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    assert not Segments(tokenizer).is_known


def test_disagreement_falls_back_to_the_library_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(data: Any, starts: Any) -> Any:
        return np.ones(len(data), np.bool_), None

    monkeypatch.setattr("tasks.modalities.text.tensors.segments.cuts_gpt2", wrong)
    texts = [f"plain ascii text number {i}" for i in range(40)]
    corpora = {"general": write_corpus(tmp_path / "general", texts)}
    with caplog.at_level(logging.WARNING):
        out, _, _ = prepare(
            tmp_path, corpora, tokenizer=TokenizerSettings(kind="byte_bpe", vocabulary_size=300)
        )
    assert "one by one" in caplog.text
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert stream_of(out / "general/train") == [
        loaded(t)["input_ids"] + [loaded.eos_token_id] for t in texts[3:]
    ]


def test_training_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, pydoc_data.topics as t, pyarrow as pa\n"
        "from tasks.modalities.text.tensors import TokenizerSettings\n"
        "from tasks.modalities.text.tensors.tokenizers import train, save\n"
        "texts = [x for x in t.topics.values() if len(x) < 4000][:80] + ['seldom: äöü€漢字ø']\n"
        "for kind in sys.argv[2:]:\n"
        "    settings = TokenizerSettings(kind=kind, vocabulary_size=700)\n"
        "    made = train(settings, lambda: iter([pa.array(texts)]), 64)\n"
        "    save(made, pathlib.Path(sys.argv[1]) / kind)\n"
    )
    for run in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / run), *KINDS], check=True)
    files = sorted((tmp_path / "a").rglob("*.json"))
    assert len(files) == 2 * len(KINDS)
    for path in files:
        name = path.relative_to(tmp_path / "a")
        assert path.read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_unigram_pieces_do_not_depend_on_the_trainers_noise() -> None:
    special = ["<pad>", "<unk>"]
    parts = {"normalizer": normalizers.NFKC(), "pre_tokenizer": pre_tokenizers.Metaspace()}
    counted = {" abab": 5, "ab": 3, " ü": 1, " é": 1}
    first = [
        ("<unk>", 0.0),
        ("▁", -2.0),
        ("ab", -1.5),
        ("▁ab", -1.6),
        ("é", -9.0001),
        ("ü", -9.0),
        ("a", -5.0),
    ]
    second = [("<unk>", 0.0), ("ü", -9.0001), ("é", -7.5), ("▁ab", -1.6), ("▁", -2.0), ("ab", -1.5 - 1e-13)]
    first.append(("b", -5.0))
    second += [("b", -5.0), ("a", -5.0)]
    made = recounted(first, special, counted, parts, 32)
    assert made == recounted(second, special, counted, parts, 32)
    # " abab" is ▁ab ab (5), "ab" is ▁ab (3), " ü" and " é" are ▁ and the letter.
    assert dict(made)["▁ab"] == pytest.approx(np.log(8 / 17), abs=1e-6)
    assert "ab" not in dict(recounted(first, special, counted, parts, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_below_the_alphabet_names_the_smallest_that_works(tmp_path: Path, kind: Any) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    with pytest.raises(InputError, match="smallest size that works is") as raised:
        prepare(tmp_path, corpora, tokenizer=TokenizerSettings(kind=kind, vocabulary_size=40))
    smallest = int(str(raised.value).split("works is ")[1].split(".")[0])
    (tmp_path / "prepared").rename(tmp_path / "failed")
    with pytest.raises(InputError):
        prepare(tmp_path, corpora, tokenizer=TokenizerSettings(kind=kind, vocabulary_size=smallest - 1))
    (tmp_path / "prepared").rename(tmp_path / "failed as well")
    _, _, manifest = prepare(
        tmp_path, corpora, tokenizer=TokenizerSettings(kind=kind, vocabulary_size=smallest)
    )
    assert manifest["vocabulary_size"] == smallest
    assert manifest["unknown_rate"]["general"] < 0.01


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "character"])
def test_rare_characters_become_unknown_and_are_counted(tmp_path: Path, kind: Any) -> None:
    texts = ["abc abc cab"] * 20 + ["abc 漢 字 abc"] * 4
    corpora = {"general": write_corpus(tmp_path / "general", texts, heldout=0)}
    tokenizer = TokenizerSettings(kind=kind, vocabulary_size=32, limit_alphabet=4)
    out, _, manifest = prepare(tmp_path, corpora, tokenizer=tokenizer)
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert "漢" not in loaded.get_vocab()
    ids = [token for document in stream_of(out / "general/train") for token in document]
    num_unknown = ids.count(loaded.unk_token_id)
    assert num_unknown > 0
    num_special = sum(
        token in (loaded.cls_token_id, loaded.sep_token_id, loaded.eos_token_id) for token in ids
    )
    assert manifest["unknown_rate"]["general"] == pytest.approx(
        num_unknown / (len(ids) - num_special), abs=1e-6
    )
    assert manifest["fertility"]["general"] == pytest.approx((len(ids) - num_special) / 76, abs=1e-6)


def test_saved_tokenizer_opens_beside_any_config(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    out, _, _ = prepare(
        tmp_path, corpora, tokenizer=TokenizerSettings(vocabulary_size=800), sequence_length=32
    )
    names = {}
    for config in (BertConfig(), GPT2Config()):
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        tensors.finish(out, folder)
        loaded: Any = AutoTokenizer.from_pretrained(folder)
        encoded = loaded("The class statement.", "Second one")
        assert loaded.convert_ids_to_tokens(encoded["input_ids"])[0] == "[CLS]"
        assert encoded["input_ids"].count(loaded.sep_token_id) == 2
        assert loaded.model_max_length == 128
        assert loaded.mask_token == "[MASK]"
        assert loaded.decode(loaded("the class statement")["input_ids"], skip_special_tokens=True) == (
            "the class statement"
        )
        names[config.model_type] = loaded.model_input_names
    assert "token_type_ids" in names["bert"]
    assert "token_type_ids" not in names["gpt2"]
    written = json.loads((tmp_path / "bert/tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert str(tmp_path) not in json.dumps(written)


def test_reused_tokenizer_keeps_its_ids_and_an_unknown_one_says_what_to_do(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    first, _, _ = prepare(tmp_path, corpora, tokenizer=TokenizerSettings(vocabulary_size=800))
    (tmp_path / "again").mkdir()
    reused = TokenizerSettings(source=str(first / "tokenizer"))
    second, _, _ = prepare(tmp_path / "again", corpora, tokenizer=reused)
    assert stream_of(first / "general/train") == stream_of(second / "general/train")
    (tmp_path / "third").mkdir()
    with pytest.raises(
        InputError, match=r"prepare\.tokenizer\.from: 'nobody/nothing' cannot be loaded.*hf download"
    ):
        prepare(tmp_path / "third", corpora, tokenizer=TokenizerSettings(source="nobody/nothing"))


def test_corpora_without_text_say_so(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", ["", ""], heldout=0)}
    with pytest.raises(InputError, match=r"hold no text.*tokenizer\.from"):
        prepare(tmp_path, corpora)


def test_excluded_ids_are_not_prepared(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS), "tasks": tmp_path / "tasks"}
    for split in ("train", "validation", "test"):
        (tmp_path / "tasks/tasks/kind").mkdir(parents=True, exist_ok=True)
        texts = [f"{split} example {i}" for i in range(5)]
        table = pa.table({"id": [f"{split}{i}" for i in range(5)], "text": texts, "label": ["a"] * 5})
        pq.write_table(table, tmp_path / f"tasks/tasks/kind/{split}.parquet")
    excluded = {
        "general": {"d0", "d9", "absent"},
        "tasks/kind/train": {"train1"},
        "tasks/kind/train/text": {"train2"},
    }
    out, _, manifest = prepare(tmp_path, corpora, excluded, tokenizer=TokenizerSettings(vocabulary_size=800))
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    kept = [i for i in range(3, len(TOPICS)) if i != 9]
    assert stream_of(out / "general/train") == [loaded(TOPICS[i])["input_ids"] for i in kept]
    assert manifest["slots"]["general"]["heldout"]["documents"] == 2
    assert stream_of(out / "tasks/train") == [loaded(f"train example {i}")["input_ids"] for i in (0, 3, 4)]
    assert manifest["slots"]["tasks"]["heldout"]["documents"] == 5


def test_text_over_the_limit_is_thinned_for_training_alone(tmp_path: Path) -> None:
    many = TOPICS * 12
    corpora = {"general": write_corpus(tmp_path / "general", many)}
    tokenizer = TokenizerSettings(vocabulary_size=2000, training_megabytes=1)
    _, _, manifest = prepare(tmp_path, corpora, tokenizer=tokenizer)
    assert manifest["slots"]["general"]["train"]["documents"] == len(many) - 3


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    tmp_path = tmp_path_factory.mktemp("packed")
    chance = random.Random(0)
    words = ["the", "class", "of", "a", "statement", "is", "bound", "to", "names", "in", "scope"]
    texts = [" ".join(chance.choices(words, k=chance.randint(1, 90))) for _ in range(120)]
    corpora = {"general": write_corpus(tmp_path / "general", texts, heldout=20)}
    out, recipe, _ = prepare(
        tmp_path, corpora, tokenizer=TokenizerSettings(vocabulary_size=64), sequence_length=48, span_length=16
    )
    return out, recipe


def test_an_epoch_holds_every_row_once_and_documents_are_told_apart(packed: tuple[Path, Any]) -> None:
    out, recipe = packed
    batches = tensors.batches(out, "general", "train", recipe, ("rows",), seed=3)
    batch = batches.batch(range(batches.num_samples))
    stream = Stream(out / "general/train")
    whole = stream.tokens(np.array([0]), stream.num_rows * 48).reshape(-1, 48)
    assert sorted(batch["input_ids"].tolist()) == sorted(whole.tolist())
    document = np.searchsorted(stream.starts, np.arange(whole.size), side="right") - 1
    document[stream.num_tokens :] = PADDING
    slow = {
        tuple(ids): [n - numbers[0] if n >= 0 else PADDING for n in numbers.tolist()]
        for ids, numbers in zip(whole.tolist(), document.reshape(-1, 48), strict=True)
    }
    for ids, numbers in zip(batch["input_ids"].tolist(), batch["document_ids"].tolist(), strict=True):
        assert numbers == slow[tuple(ids)]
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(batch, torch.int64)
    assert batch["key"].unique().numel() == batches.num_samples
    assert batches.units_per_sample == 48


def test_batches_are_pure_functions_of_seed_and_position(packed: tuple[Path, Any]) -> None:
    out, recipe = packed
    for reads in (("rows",), ("spans",)):
        first = tensors.batches(out, "general", "train", recipe, reads, seed=3)
        whole = first.batch([5, 400, 17, 5])
        again = tensors.batches(out, "general", "train", recipe, reads, seed=3)
        again.batch([1, 2, 3])
        parts = [again.batch([position]) for position in (5, 400, 17, 5)]
        for key, value in whole.items():
            assert torch.equal(value, torch.cat([part[key] for part in parts])), key
        other = tensors.batches(out, "general", "train", recipe, reads, seed=4).batch([5, 400, 17, 5])
        assert not torch.equal(other["key"], whole["key"])


def test_rows_of_several_shards_are_the_same_as_of_one(
    packed: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Stream(packed[0] / "general/train")
    ids = one.tokens(np.array([0]), one.num_tokens)[0]
    lengths = one.lengths()
    monkeypatch.setattr(packing, "SHARD_TOKENS", 480)
    packer = packing.Packer(tmp_path, sequence_length=48, vocabulary_size=1 << 17, pad_id=0)
    for part in np.array_split(np.arange(len(lengths)), 7):
        begin, end = one.starts[part[0]], one.starts[part[-1]] + lengths[part[-1]]
        packer.add(ids[begin:end], lengths[part])
    assert packer.close() == one.num_rows
    many = Stream(tmp_path)
    assert len(list(tmp_path.glob("rows-*.arrow"))) > 3
    rows = np.arange(one.num_rows)[::-1]
    assert np.array_equal(many.tokens(rows * 48, 48), one.tokens(rows * 48, 48))
    assert np.array_equal(many.document_ids(rows), one.document_ids(rows))
    assert pa.ipc.open_file(str(tmp_path / "rows-00000.arrow")).schema.field(0).type.value_type == pa.uint32()


def test_joined_documents_share_one_number_and_padding_keeps_its_own(packed: tuple[Path, Any]) -> None:
    out, recipe = packed
    joined = SimpleNamespace(prepare=PrepareSettings(sequence_length=48, cross_document_attention=True))
    apart = tensors.batches(out, "general", "train", recipe, ("rows",), seed=0)
    together = tensors.batches(out, "general", "train", joined, ("rows",), seed=0)  # type: ignore[arg-type]
    positions = range(apart.num_samples)
    a, b = apart.batch(positions)["document_ids"], together.batch(positions)["document_ids"]
    assert a.max() > 0
    assert torch.equal(b, torch.where(a == PADDING, PADDING, 0))
    assert (b == PADDING).any()


def test_spans_are_disjoint_pieces_of_one_document(packed: tuple[Path, Any]) -> None:
    out, recipe = packed
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    documents = [document[1:-1] for document in stream_of(out / "general/train")]
    batches = tensors.batches(out, "general", "train", recipe, ("spans",), seed=1)
    assert batches.num_samples == sum(len(document) >= 14 for document in documents)
    anchor_is_first: list[bool] = []
    batch = batches.batch(range(3 * batches.num_samples))
    for anchor, positive in zip(batch["anchor_ids"].tolist(), batch["positive_ids"].tolist(), strict=True):
        spans = []
        for ids in (anchor, positive):
            assert len(ids) == 16
            end = ids.index(loaded.sep_token_id)
            assert ids[0] == loaded.cls_token_id
            assert set(ids[end + 1 :]) <= {loaded.pad_token_id}
            spans.append(ids[1:end])
        assert len(spans[0]) == len(spans[1]) >= 7
        homes = [document for document in documents if disjoint(document, *spans) is not None]
        assert homes, (anchor, positive)
        anchor_is_first.append(bool(disjoint(homes[0], *spans)))
    assert 0.3 < np.mean(anchor_is_first) < 0.7


def disjoint(document: list[int], a: list[int], b: list[int]) -> bool | None:
    """Whether a comes first, where both stand in the document without overlap; None where they do not."""
    places = [
        [i for i in range(len(document) - len(span) + 1) if document[i : i + len(span)] == span]
        for span in (a, b)
    ]
    pairs = [(i, j) for i in places[0] for j in places[1] if abs(i - j) >= len(a)]
    return None if not pairs else pairs[0][0] < pairs[0][1]


def test_documents_too_short_for_spans_say_what_to_lower(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", ["a few words"] * 9)}
    out, recipe, _ = prepare(tmp_path, corpora, tokenizer=TokenizerSettings(vocabulary_size=64))
    with pytest.raises(InputError, match=r"lower prepare\.span_length"):
        tensors.batches(out, "general", "train", recipe, ("spans",), seed=0)


def test_slots_that_hold_nothing_say_so(packed: tuple[Path, Any], tmp_path: Path) -> None:
    out, recipe = packed
    with pytest.raises(InputError, match="corpus `domain` is none"):
        tensors.batches(out, "domain", "train", recipe, ("rows",), seed=0)
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS, heldout=0)}
    empty, recipe, _ = prepare(tmp_path, corpora, tokenizer=TokenizerSettings(vocabulary_size=800))
    with pytest.raises(InputError, match="heldout_fraction"):
        tensors.batches(empty, "general", "heldout", recipe, ("rows",), seed=0)
    with pytest.raises(KeyError, match="known: rows, spans"):
        tensors.batches(out, "general", "train", packed[1], ("pixels",), seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_knows_special_ids_and_whole_words(tmp_path: Path, kind: Any) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    out, _, _ = prepare(tmp_path, corpora, tokenizer=TokenizerSettings(kind=kind, vocabulary_size=700))
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    known = tensors.vocabulary(out)
    assert known.is_special.nonzero().flatten().tolist() == sorted(loaded.all_special_ids)
    assert known.pad_id == loaded.pad_token_id
    assert known.require_mask_id() == loaded.mask_token_id
    ids = torch.tensor(loaded("a statement unforeseeable", add_special_tokens=False)["input_ids"])
    starts = ~known.continues_word[ids]
    has_no_space_first = kind in ("byte_bpe", "character")  # so that nothing marks the first word
    assert starts.sum() == 3 - has_no_space_first
    rows = torch.full((1, 40), known.pad_id)
    rows[0, : min(40, len(ids))] = ids[:40]
    masked = mask_tokens(
        rows, ~known.is_special[rows], torch.tensor([1]), probability=0.15,
        mask_id=known.require_mask_id(), vocabulary_size=len(known.is_special),
    )  # fmt: skip
    assert (masked.labels >= 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_word_ids_tell_which_word_each_token_belongs_to(tmp_path: Path, kind: Any) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    out, recipe, _ = prepare(
        tmp_path, corpora, tokenizer=TokenizerSettings(kind=kind, vocabulary_size=700), task_length=60
    )
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    sentences = [["The", "unforeseeable", "statement's", "scope", "."], ["x"] * 100, ["one"]]
    records = pa.table({"id": ["0", "1", "2"], "tokens": sentences})
    got = tensors.inputs(records, "token_classification", out, recipe)
    assert got["input_ids"].shape == got["word_ids"].shape == got["attention_mask"].shape
    assert got["input_ids"].shape[1] == 60
    assert (got["word_ids"][got["attention_mask"] == 0] == -1).all()
    first = got["word_ids"][0].tolist()
    for number, word in enumerate(sentences[0]):
        ids = [token for token, of in zip(got["input_ids"][0].tolist(), first, strict=True) if of == number]
        assert loaded.decode(ids).strip().lower().replace(" ", "") == word.lower()
    if kind == "wordpiece":
        split = loaded([sentences[0]], is_split_into_words=True)
        assert got["input_ids"][0, : len(split["input_ids"][0])].tolist() == split["input_ids"][0]
        assert [-1 if w is None else w for w in split.word_ids(0)] == first[: len(split["input_ids"][0])]


def test_questions_come_with_the_characters_of_their_context(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    out, recipe, _ = prepare(
        tmp_path, corpora, tokenizer=TokenizerSettings(vocabulary_size=700), task_length=50
    )
    context = "Names are bound by statements.  The class statement binds one name."
    questions = ["What binds names?", "why " * 80]
    got = tensors.inputs(
        pa.table({"question": questions, "text": [context, context]}), "question_answering", out, recipe
    )
    assert got["input_ids"].shape[1] <= 50
    assert "token_type_ids" in got
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    for row in range(2):
        inside = got["context_mask"][row]
        assert inside.sum() >= 10
        assert (got["offsets"][row][~inside] == 0).all()
        assert (got["token_type_ids"][row][inside] == 1).all()
        for (begin, end), token in zip(
            got["offsets"][row][inside].tolist(), got["input_ids"][row][inside], strict=True
        ):
            assert context[begin:end].lower() == loaded.convert_ids_to_tokens(int(token)).removeprefix("##")


def test_classification_is_cut_and_padded(tmp_path: Path) -> None:
    corpora = {"general": write_corpus(tmp_path / "general", TOPICS)}
    out, recipe, _ = prepare(
        tmp_path, corpora, tokenizer=TokenizerSettings(kind="byte_bpe", vocabulary_size=700), task_length=24
    )
    got = tensors.inputs(pa.table({"text": ["short", TOPICS[0]]}), "classification", out, recipe)
    assert set(got) == {"input_ids", "attention_mask"}
    assert got["attention_mask"].sum(1).tolist()[1] == 24
    loaded: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    assert got["input_ids"][1].tolist() == loaded(TOPICS[0])["input_ids"][:24]
    with pytest.raises(KeyError, match="known: classification"):
        tensors.inputs(pa.table({"text": ["a"]}), "regression", out, recipe)


def test_words_are_counted_as_split_counts_them() -> None:
    texts = ["two words", "", "  padded\n\ttext ", "one", "é à\r\nü"]
    assert count_words(pa.array(texts)) == sum(len(text.split()) for text in texts)
    assert count_words(pa.array([], pa.string())) == 0
