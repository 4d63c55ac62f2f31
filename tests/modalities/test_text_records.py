from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import sources
from tasks.config import Columns
from tasks.errors import InputError
from tasks.modalities import Rejected
from tasks.modalities.text import records
from tasks.modalities.text.records import CorpusSettings


def read(
    path: Path, kind: str | None = None, format: str = "auto", columns: Columns | None = None, **rules: Any
) -> list[dict[str, Any]]:
    corpus = CorpusSettings(**rules)
    (file,) = sources.files(str(path))
    return [
        piece
        for raw in records.read(file, format, columns or Columns(), kind, corpus)
        for piece in records.normalise(raw, corpus, kind)
    ]


def texts(path: Path, **rules: Any) -> list[str]:
    return [record["text"] for record in read(path, **rules)]


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", ["= A =\none\ntwo\n\nthree\n\n\n = B = \n\n = = Sub = = \n\nfour"]),
        ("paragraph", ["= A =\none\ntwo", "three", "= B =", "= = Sub = =", "four"]),
        ("line", ["= A =", "one", "two", "three", "= B =", "= = Sub = =", "four"]),
        ("heading", ["= A =\none\ntwo\n\nthree", "= B = \n\n = = Sub = = \n\nfour"]),
    ],
)
def test_what_a_document_is_can_be_chosen(tmp_path: Path, documents: str, expected: list[str]) -> None:
    path = write(tmp_path, "a.txt", " = A =\none\ntwo\n\nthree\n\n\n = B = \n\n = = Sub = = \n\nfour\n")
    assert texts(path, documents=documents) == expected


def test_markdown_headings_begin_documents_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.md", "# One\n\ntext\n\n## Part\n\n# Two\n")
    assert texts(path, documents="heading") == ["# One\n\ntext\n\n## Part", "# Two"]


@pytest.mark.parametrize("documents", ["file", "paragraph", "heading"])
def test_over_long_documents_are_cut_split_or_left_out(tmp_path: Path, documents: str) -> None:
    words = " ".join(f"word{number}" for number in range(100))
    path = write(tmp_path, "a.txt", words)
    rules = {"max_characters": 100, "documents": documents}
    parts = texts(path, over_long="split", **rules)
    assert " ".join(parts) == words
    assert max(map(len, parts)) <= 100
    assert texts(path, over_long="cut", **rules) == parts[:1]
    with pytest.raises(Rejected, match="over_long"):
        texts(path, over_long="drop", **rules)


def test_the_document_after_an_over_long_one_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "long line\n" * 100 + "\nshort one\n")
    assert texts(path, documents="paragraph", max_characters=50, over_long="cut")[-1] == "short one"


def test_html_is_read_as_its_visible_text(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.html", "<title>T</title><script>x()</script><p>One <b>two</b></p><style>p{}</style>"
    )
    assert texts(path) == ["T\nOne\ntwo"]


def test_tables_give_the_same_records_in_every_format(tmp_path: Path) -> None:
    rows = [
        {"body": "one, two", "kind": "a", "key": "1"},
        {"body": 'three "four"\nfive', "kind": "b", "key": "2"},
    ]
    columns = Columns(text="body", label="kind", id="key")
    write(tmp_path, "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    write(tmp_path, "a.json", json.dumps(rows))
    write(tmp_path, "a.csv", 'body,kind,key\n"one, two",a,1\n"three ""four""\nfive",b,2\n')
    write(tmp_path, "a.tsv", 'body\tkind\tkey\none, two\ta\t1\n"three ""four""\nfive"\tb\t2\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write(tmp_path, "b.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        found = [
            (row["text"], row["label"], row["id"]) for row in read(path, "classification", columns=columns)
        ]
        assert found == [("one, two", "a", "1"), ('three "four"\nfive', "b", "2")], path


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_running_text_beside_tables_needs_no_ids_and_is_refused_where_groups_must_hold(
    tmp_path: Path, name: str
) -> None:
    path = write(tmp_path, name, "one")
    (record,) = read(path, columns=Columns(id="name", license="terms"))
    assert (record["text"], record["id"], record["license"]) == ("one", None, None)
    with pytest.raises(InputError, match=r"has no field 'patient'; leave `columns.group`"):
        read(path, columns=Columns(group="patient"))


def test_files_in_a_tar_or_zip_give_the_same_records_as_beside_it(tmp_path: Path) -> None:
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["five"]}), table)
    contents = {
        "a.txt": b"one",
        "b.jsonl.gz": gzip.compress(b'{"text": "two"}'),
        "c.csv": b"text\nthree\n",
        "d.html": b"<p>four</p>",
        "e.parquet": table.getvalue().to_pybytes(),
        "f.json": b'[{"text": "six"}]',
    }
    with (
        tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar,
        zipfile.ZipFile(tmp_path / "y.zip", "w") as zipped,
    ):
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            zipped.writestr(name, content)
    corpus = CorpusSettings()
    for archive in ("x.tar.gz", "y.zip"):
        members = sources.files(str(tmp_path / archive))
        found = [
            raw["text"] for file in members for raw in records.read(file, "auto", Columns(), None, corpus)
        ]
        assert [text.strip() for text in found] == ["one", "two", "three", "four", "five", "six"]


def test_squad_nesting_and_flat_questions_give_the_same_records(tmp_path: Path) -> None:
    context = "The cafe\u0301 is in Paris."
    at = context.index("Paris")
    answer = {"text": "Paris", "answer_start": at}
    nested = {
        "data": [{"paragraphs": [{"context": context, "qas": [{"question": "Where?", "answers": [answer]}]}]}]
    }
    flat = {"context": context, "question": "Where?", "answers": {"text": ["Paris"], "answer_start": [16]}}
    first = read(write(tmp_path, "a.json", json.dumps(nested)), "question_answering")
    path = write(tmp_path, "a.jsonl", json.dumps(flat))
    second = read(path, "question_answering", columns=Columns(text="context"))
    for (record,) in (first, second):
        assert record["text"] == unicodedata.normalize("NFC", context)
        (start,), (words,) = record["answer_starts"], record["answer_texts"]
        assert record["text"][start : start + len(words)] == words == "Paris"
        assert start == at - 1, "NFC made the text before it shorter"


def test_an_answer_that_does_not_stand_in_the_text_is_refused(tmp_path: Path) -> None:
    row = {"text": "in Paris", "question": "Where?", "answers": {"text": ["Rome"], "answer_start": [3]}}
    with pytest.raises(InputError, match=r"a.jsonl, row 1: the answer 'Rome' does not stand at character 3"):
        read(write(tmp_path, "a.jsonl", json.dumps(row)), "question_answering")


@pytest.mark.parametrize(
    ("given_tags", "expected"),
    [
        ("I-X I-X O I-Y", "B-X I-X O B-Y"),  # IOB1: B- only between neighbours
        ("I-X B-X I-X", "B-X B-X I-X"),
        ("I-X I-Y", "B-X B-Y"),
        ("B-X I-X O B-X", "B-X I-X O B-X"),  # IOB2 stays
        ("S-X B-X I-X E-X I-X", "B-X B-X I-X I-X B-X"),  # IOBES
        ("U-X B-Y L-Y O", "B-X B-Y I-Y O"),  # BILOU
    ],
)
def test_tags_become_iob2(tmp_path: Path, given_tags: str, expected: str) -> None:
    lines = [f"word{number} NN O {tag}" for number, tag in enumerate(given_tags.split())]
    path = write(tmp_path, "a.conll", "-DOCSTART- (1)\n\n" + "\n".join(lines) + "\n\nnext NN O O\n")
    first, second = read(path, "token_classification")
    assert first["tags"] == expected.split()
    assert first["text"] == " ".join(first["tokens"])
    assert second["tokens"] == ["next"]


def test_impossible_tags_are_refused_with_file_and_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "one X\n")
    with pytest.raises(InputError, match=r"a.conll, row 1: tag 'X' is not O, B-"):
        read(path, "token_classification")
    path = write(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}')
    with pytest.raises(InputError, match="2 tokens and 1 tags"):
        read(path, "token_classification")


def test_bytes_that_are_not_in_the_encoding_are_replaced_and_flagged(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"caf\xe9 au lait\n\nplain\n")
    first, second = read(path, documents="paragraph")
    assert (first["text"], first["damaged"]) == ("caf\ufffd au lait", True)
    assert (second["text"], second["damaged"]) == ("plain", False)
    assert texts(path, encoding="latin-1")[0].startswith("café")
    with pytest.raises(Rejected, match="undecodable"):
        texts(path, undecodable="drop")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood(tmp_path: Path, encoding: str) -> None:
    assert texts(write(tmp_path, "a.txt", "naïve text".encode(encoding))) == ["naïve text"]


def test_text_is_composed_and_free_of_control_characters(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.txt", "cafe\u0301\r\nto\x07day\x7f\n")) == ["café\nto day"]


def test_a_binary_file_is_refused_or_left_out_by_rule(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"\x89PNG\r\n\x1a\n" + os.urandom(500))
    with pytest.raises(InputError, match=r"a.txt: is binary, not text"):
        texts(path)
    with pytest.raises(Rejected, match="binary"):
        texts(path, binary="drop")


def test_an_unknown_ending_is_left_out_and_an_unknown_format_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.docx", "text")
    with pytest.raises(Rejected, match="unknown_format"):
        texts(path)
    assert texts(path, format="txt") == ["text"]
    with pytest.raises(InputError, match="did you mean 'jsonl'"):
        texts(path, format="jsonlines")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt.gz", gzip.compress(os.urandom(9000))[:5000], "cannot be read to its end"),
        ("a.parquet", b"PAR1" + b"\0" * 100, "cannot be read to its end"),
        ("a.jsonl", '{"text": "fine"}\n{"text": "bro', r"row 2: is not JSON"),
        ("a.jsonl", '["text"]', r"row 1: must be an object"),
        ("a.jsonl", '{"txt": "x", "y": 1}', r"row 1: has no field 'text'; its fields: txt, y"),
        ("a.csv", "words,y\nx,1\n", r"row 2: has no field 'text'; its fields: words, y"),
        ("a.csv", "text,y\nx,1,2\n", r"row 2: has more fields than the header"),
        ("a.jsonl", '{"text": 5}', "the text is int 5, not text"),
        ("a.json", '{"rows": 1}', "must hold a list of objects"),
    ],
)
def test_damaged_files_and_wrong_columns_give_one_clear_message(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        texts(write(tmp_path, name, content))


def test_a_truncated_parquet_file_is_called_damaged(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * 1000] * 100}), tmp_path / "whole.parquet")
    path = write(tmp_path, "a.parquet", (tmp_path / "whole.parquet").read_bytes()[:300])
    with pytest.raises(InputError, match="damaged"):
        texts(path)


@pytest.mark.parametrize("label", ["null", '""', '"  "', "NaN"])
def test_a_missing_label_names_file_and_row(tmp_path: Path, label: str) -> None:
    path = write(tmp_path, "a.jsonl", f'{{"text": "x", "label": "a"}}\n{{"text": "y", "label": {label}}}\n')
    with pytest.raises(InputError, match=r"a.jsonl, row 2: the label is missing"):
        read(path, "classification")


@given(st.lists(st.text(alphabet="ab \n", max_size=20)), st.integers(1, 12))
def test_pieces_lose_nothing_and_keep_the_limit(parts: list[str], limit: int) -> None:
    from tasks.modalities.text.records.formats import pieces

    text = "".join(parts)
    found = pieces(text, limit)
    assert "".join(found) == text
    assert max(map(len, found)) <= limit


def similarity(a: list[str], b: list[str]) -> float:
    left, right = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a, b))
    return len(left & right) / len(left | right)


def test_signatures_find_near_duplicates_as_often_as_the_s_curve_says() -> None:
    draw = random.Random(0)
    corpus = CorpusSettings()
    found: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(150):
        words = [f"w{draw.randrange(10_000)}" for _ in range(200)]
        for num_changed in (1, 8):
            other = list(words)
            for at in draw.sample(range(200), num_changed):
                other[at] = "changed"
            is_near = similarity(words, other) > 0.9
            assert is_near or similarity(words, other) < 0.8
            a, b = records.signatures([{"text": " ".join(words)}, {"text": " ".join(other).upper()}], corpus)
            found[is_near].append(not set(a.tolist()).isdisjoint(b.tolist()))
    assert sum(found[True]) / len(found[True]) > 0.95
    assert sum(found[False]) / len(found[False]) < 0.35


def test_short_texts_have_no_signature_and_scripts_without_spaces_have_one() -> None:
    corpus = CorpusSettings()
    texts = [{"text": "only four words here"}, {"text": "五つ以上の文字がある日本語の文"}]
    assert [len(signature) > 0 for signature in records.signatures(texts, corpus)] == [False, True]


def test_content_ignores_case_and_spacing_and_tells_questions_apart() -> None:
    assert records.content({"text": "A  b\nc"}) == records.content({"text": "a b c"})
    assert records.content({"text": "a", "question": "x"}) != records.content({"text": "a", "question": "y"})
