"""Lines, documents, indexes and the split of a text, and texts that come into place together."""

import array
import bz2
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_ja import corpus, files
from bert_ja.cli import StageError

TEXT = "朝が来た。\n鳥が鳴く。\n\n\n \n昼になった。\n\n夜は静かだ。\n星が出る。\n"


def read(path: Path) -> list[tuple[dict, list[str]]]:
    return [(row, list(sentences)) for row, sentences in corpus.documents(path)]


def write_index(text: Path, *rows: dict) -> None:
    corpus.index_path(text).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


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
    assert corpus.tidy(line) == tidied


@given(st.text())
def test_tidying_twice_changes_nothing_more(line):
    tidied = corpus.tidy(line)
    assert corpus.tidy(tidied) == tidied
    assert len(tidied.splitlines()) <= 1


@pytest.mark.parametrize("pack, suffix", [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_a_compressed_text_reads_like_the_plain_one(text, pack, suffix):
    packed = text.parent / f"notes.txt{suffix}"
    packed.write_bytes(pack(text.read_bytes()))
    assert read(packed) == read(text)
    assert (corpus.is_compressed(packed), corpus.is_compressed(text)) == (True, False)
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
    corpus.index_path(text).write_text('{"id": 1, "first_line": 0, "lines": 2}\n' + row + "\n")
    with pytest.raises(StageError, match=r"notes.index.jsonl is damaged in line 2: make it again"):
        read(text)


# Split


def parts_of(sizes: list[int], seed: int = 1, valid: int | None = None, test: int | None = None) -> list[int]:
    from bert_ja import draws

    keys = array.array("Q", [int(draws.key(seed, "split", number)) for number in range(len(sizes))])
    return corpus.split(keys, array.array("q", sizes), valid, test).tolist()


def test_the_split_worked_by_hand():
    keys = array.array("Q", [50, 10, 40, 20, 30, 60])
    counts = array.array("q", [5, 2, 9, 2, 7, 4])
    # in order of keys: 2 2 7 9 5 4; test takes 2 + 2 >= 3 from the front, valid 4 + 5 >= 6 from the back
    assert corpus.split(keys, counts, 6, 3).tolist() == [1, 2, 0, 2, 0, 1]


@pytest.mark.parametrize(
    "total, share", [(1, 1), (100, 1), (101, 2), (9_999_999, 100_000), (10_000_000, 500_000), (20_000_000, 500_000)]
)
def test_the_default_share_is_as_published_or_one_percent(total, share):
    assert corpus.default_share(total) == share


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=3, max_size=200), st.integers(0, 5))
def test_each_part_has_a_document_and_its_share_where_the_corpus_can_give_it(sizes, seed):
    parts = np.array(parts_of(sizes, seed))
    assert set(parts.tolist()) == {corpus.TRAIN, corpus.VALID, corpus.TEST}
    held = [int(np.array(sizes)[parts == part].sum()) for part in (corpus.VALID, corpus.TEST)]
    if len(sizes) > 20:
        assert min(held) >= corpus.default_share(sum(sizes))


def test_documents_that_come_later_leave_the_others_where_they_were():
    sizes = [3] * 2000
    before, after = parts_of(sizes), parts_of(sizes + [3] * 20)
    assert sum(a != b for a, b in zip(before, after[:2000], strict=True)) <= 4


def test_another_seed_gives_another_split():
    assert parts_of([3] * 500, seed=1) == parts_of([3] * 500, seed=1) != parts_of([3] * 500, seed=2)


@pytest.mark.parametrize("number, word", [(0, "0 documents"), (1, "1 document"), (2, "2 documents")])
def test_fewer_than_three_documents_are_refused(number, word):
    with pytest.raises(StageError, match=f"^the corpus has {word}, but train, valid and test need one each: put a"):
        parts_of([4] * number)


def test_more_than_the_corpus_can_give_is_refused():
    with pytest.raises(
        StageError, match=r"^--test_sentences 90 is too much for 30 sentences in 10 documents \(24 could"
    ):
        parts_of([3] * 10, test=90)
    with pytest.raises(
        StageError, match=r"^--valid_sentences 28 is too much for 30 sentences in 10 documents \(24 could"
    ):
        parts_of([3] * 10, valid=28)


# Writing


def test_a_writer_keeps_text_and_index_in_step(tmp_path):
    text = tmp_path / "a.txt"
    with corpus.writers((text, corpus.index_path(text))) as (writer,):
        writer.write({"id": 4, "title": "雨"}, ["雨が降る。", "傘をさす。"])
        writer.write({"id": 6, "title": "虹"}, iter(["虹。"]))
    assert text.read_text(encoding="utf-8") == "雨が降る。\n傘をさす。\n\n虹。\n\n"
    assert corpus.index_path(text).read_text(encoding="utf-8") == (
        '{"id": 4, "title": "雨", "first_line": 0, "lines": 2}\n{"id": 6, "title": "虹", "first_line": 3, "lines": 1}\n'
    )
    assert writer.counts() == {"documents": 2, "sentences": 3, "characters": 12}
    assert writer.length_histogram() == {"2-3": 1, "4-7": 2}
    assert writer.outputs() == [files.describe(text), files.describe(corpus.index_path(text))]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.text(min_size=1).map(corpus.tidy).filter(bool), min_size=1), min_size=1))
def test_what_is_written_reads_back(tmp_path_factory, written):
    text = tmp_path_factory.getbasetemp() / "round.txt"
    with corpus.writers((text, corpus.index_path(text))) as (writer,):
        for number, sentences in enumerate(written):
            writer.write({"id": number}, sentences)
    assert [sentences for _, sentences in read(text)] == written


def test_an_error_leaves_the_earlier_texts_and_nothing_else(tmp_path):
    old = {}
    for name in ("a.txt", "a.index.jsonl", "b.txt", "b.index.jsonl"):
        (tmp_path / name).write_text("old")
        old[name] = "old"
    pairs = [(tmp_path / f"{name}.txt", tmp_path / f"{name}.index.jsonl") for name in "ab"]
    with pytest.raises(ZeroDivisionError), corpus.writers(*pairs) as (first, _):
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
    with pytest.raises(KeyboardInterrupt), corpus.writers(*pairs) as both:
        for writer in both:
            writer.write({"id": 1}, ["新しい。"])
    assert renamed == ["a.index.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.index.jsonl"]
