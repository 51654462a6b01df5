"""Lines, documents and indexes of a text, and texts that come into place together."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_ja import corpus, documents, files
from bert_ja.cli import StageError

TEXT = "朝が来た。\n鳥が鳴く。\n\n\n \n昼になった。\n\n夜は静かだ。\n星が出る。\n"


def read(path: Path) -> list[tuple[dict, list[str]]]:
    return [(row, list(sentences)) for row, sentences in documents.documents(path)]


def write_index(text: Path, *rows: dict) -> None:
    documents.index_path(text).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# Lines


@pytest.mark.parametrize(
    "line, tidied",
    [
        ("\ufeff東京は晴れ。\r\n", "東京は晴れ。"),
        ("\u3000\u3000字下げの行。 \t\n", "字下げの行。"),
        ("甲\t乙\x0c丙\x00丁\n", "甲 乙 丙 丁"),
        ("一\u2028二\u0085三", "一 二 三"),
        ("中\ufeffほど\u3000の字", "中ほど\u3000の字"),
        (" \u3000\x1f\ufeff\n", ""),
        ("ｶﾞ㌔①は直さない", "ｶﾞ㌔①は直さない"),
    ],
)
def test_a_tidied_line_is_one_line_without_control_characters(line, tidied):
    assert documents.tidy(line) == tidied


@given(st.text())
def test_tidying_twice_changes_nothing_more(line):
    tidied = documents.tidy(line)
    assert documents.tidy(tidied) == tidied
    assert len(tidied.splitlines()) <= 1


@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_a_compressed_text_reads_like_the_plain_one(text, pack, suffix):
    packed = text.parent / f"notes.txt{suffix}"
    packed.write_bytes(pack(text.read_bytes()))
    assert read(packed) == read(text)
    assert (documents.is_compressed(packed), documents.is_compressed(text)) == (True, False)
    data = packed.read_bytes()
    for broken in (data[: len(data) // 2], data[:12] + bytes(8) + data[20:]):
        packed.write_bytes(broken)
        with pytest.raises(StageError, match=r"notes.txt.* is damaged .*make it or download it again$"):
            read(packed)


def test_a_line_that_is_not_utf8_is_named(text):
    text.write_bytes("一行目。\n".encode() + "二行目。\n".encode("shift_jis"))
    with pytest.raises(StageError, match=r"notes.txt is not UTF-8 in line 2: convert it to UTF-8$"):
        read(text)


# Documents


def test_runs_of_blank_lines_end_one_document(text):
    assert read(text) == [
        ({"id": "notes.txt:0"}, ["朝が来た。", "鳥が鳴く。"]),
        ({"id": "notes.txt:1"}, ["昼になった。"]),
        ({"id": "notes.txt:2"}, ["夜は静かだ。", "星が出る。"]),
    ]


def test_a_text_without_blank_lines_is_one_document(text):
    text.write_text("一。\n二。\n三。", encoding="utf-8")
    assert read(text) == [({"id": "notes.txt:0"}, ["一。", "二。", "三。"])]


def test_blank_lines_at_both_ends_are_no_documents(text):
    text.write_text("\n\n一。\n\n\n", encoding="utf-8")
    assert read(text) == [({"id": "notes.txt:0"}, ["一。"])]


def test_an_index_names_the_documents(text):
    rows = [
        {"id": 7, "title": "朝", "first_line": 0, "lines": 2},
        {"id": 8, "title": "昼", "first_line": 5, "lines": 1},
        {"id": 9, "title": "夜", "first_line": 7, "lines": 2},
    ]
    write_index(text, *rows)
    assert [row for row, _ in read(text)] == rows


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 2), (5, 1)],
        [(0, 2), (5, 1), (7, 2), (10, 1)],
        [(0, 2), (4, 1), (7, 2)],
        [(0, 2), (5, 2), (7, 2)],
    ],
    ids=["too short", "too long", "wrong place", "wrong number of lines"],
)
def test_an_index_that_does_not_fit_is_refused(text, rows):
    write_index(text, *({"id": n, "first_line": first, "lines": count} for n, (first, count) in enumerate(rows)))
    with pytest.raises(StageError, match=r"notes.index.jsonl does not fit .*notes.txt: make both again, or move"):
        corpus.take_inventory([text], seed=1)


@pytest.mark.parametrize("row", ["{", "[]", '{"id": 1, "lines": 2}', '{"id": null, "first_line": 0, "lines": 2}'])
def test_a_damaged_index_row_is_named(text, row):
    documents.index_path(text).write_text('{"id": 1, "first_line": 0, "lines": 2}\n' + row + "\n")
    with pytest.raises(StageError, match=r"notes.index.jsonl is damaged in line 2: make it again"):
        read(text)


# Writing


def test_a_writer_keeps_text_and_index_in_step(tmp_path):
    text = tmp_path / "a.txt"
    with documents.writers((text, documents.index_path(text))) as (writer,):
        writer.write({"id": 4, "title": "雨"}, ["雨が降る。", "傘をさす。"])
        writer.write({"id": 6, "title": "虹"}, iter(["虹。"]))
    assert text.read_text(encoding="utf-8") == "雨が降る。\n傘をさす。\n\n虹。\n\n"
    assert documents.index_path(text).read_text(encoding="utf-8") == (
        '{"id": 4, "title": "雨", "first_line": 0, "lines": 2}\n{"id": 6, "title": "虹", "first_line": 3, "lines": 1}\n'
    )
    assert writer.counts() == {"documents": 2, "sentences": 3, "characters": 12}
    assert writer.length_histogram() == {"2-3": 1, "4-7": 2}
    assert writer.outputs() == [files.describe(text), files.describe(documents.index_path(text))]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.text(min_size=1).map(documents.tidy).filter(bool), min_size=1), min_size=1))
def test_what_is_written_reads_back(tmp_path_factory, written):
    text = tmp_path_factory.getbasetemp() / "round.txt"
    with documents.writers((text, documents.index_path(text))) as (writer,):
        for number, sentences in enumerate(written):
            writer.write({"id": number}, sentences)
    assert [sentences for _, sentences in read(text)] == written


def test_an_error_leaves_the_earlier_texts_and_nothing_else(tmp_path):
    old = {}
    for name in ("a.txt", "a.index.jsonl", "b.txt", "b.index.jsonl"):
        (tmp_path / name).write_text("old")
        old[name] = "old"
    pairs = [(tmp_path / f"{name}.txt", tmp_path / f"{name}.index.jsonl") for name in "ab"]
    with pytest.raises(ZeroDivisionError), documents.writers(*pairs) as (first, _):
        first.write({"id": 1}, ["新しい。"])
        raise ZeroDivisionError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == old


def test_new_texts_never_stand_beside_old_ones_or_their_records(tmp_path, monkeypatch):
    """A kill after the first rename, here by a rename that fails."""
    pairs = [(tmp_path / f"{name}.txt", tmp_path / f"{name}.index.jsonl") for name in "ab"]
    for path in [path for pair in pairs for path in pair]:
        path.write_text("old")
        files.record_path(path).write_text("{}")
    renamed, rename = [], files.os.replace

    def replace_once(source, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(target.name)
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace_once)
    with pytest.raises(KeyboardInterrupt), documents.writers(*pairs) as both:
        for writer in both:
            writer.write({"id": 1}, ["新しい。"])
    assert renamed == ["a.index.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.index.jsonl"]
