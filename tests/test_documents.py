"""Documents of every kind of corpus, their lines and indexes, and texts that come into place together."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from bert_ja import documents, files
from bert_ja.cli import StageError
from bert_ja.documents import Reading

TEXT = "朝が来た。\n鳥が鳴く。\n\n\n \n昼になった。\n\n夜は静かだ。\n星が出る。\n"
SENTENCES = [["朝が来た。", "鳥が鳴く。"], ["昼になった。"], ["夜は静かだ。", "星が出る。"]]
PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PROSE = Reading(split_sentences=True)


def read(path: Path, reading: Reading = documents.PLAIN) -> list[tuple[dict, list[str]]]:
    return [(row, list(sentences)) for row, sentences in documents.documents(path, reading)]


def require(path: Path, reading: Reading = documents.PLAIN) -> None:
    documents.require_documents(path, reading, "NAME ANOTHER")


def write_index(text: Path, *rows: dict) -> None:
    documents.index_path(text).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_jsonl(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_folder(folder: Path, contents: dict[str, str | bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


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


@given(st.text())
def test_lines_tidied_at_once_are_lines_tidied_one_by_one(text):
    assert documents._tidy_lines(text) == [documents.tidy(line) for line in text.removesuffix("\n").split("\n")]


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
        read(text)


PLACE = '"first_line": 3, "lines": 2'


@pytest.mark.parametrize(
    "row",
    [
        *("{", "[]", '{"id": 1, "lines": 2}', f'{{"id": null, {PLACE}}}', f'{{"id": {10**30}, {PLACE}}}'),
        *(f'{{"id": 1, {PLACE}, "title": "\\ud83d"}}', f'{{"id": 1, {PLACE}, "title": {"[" * 100_000}}}'),
    ],
    ids=range(7),
)
def test_a_damaged_index_row_is_named(text, row):
    documents.index_path(text).write_text('{"id": 1, "first_line": 0, "lines": 2}\n' + row + "\n")
    with pytest.raises(StageError, match=r"notes.index.jsonl is damaged in line 2: make it again"):
        read(text)


@pytest.mark.parametrize("size", [1, documents.BLOCK])
def test_sentences_that_the_caller_leaves_do_not_fall_to_the_next_document(text, monkeypatch, size):
    monkeypatch.setattr(documents, "BLOCK", size)
    assert [next(sentences) for _, sentences in documents.documents(text)] == [
        "朝が来た。",
        "昼になった。",
        "夜は静かだ。",
    ]
    assert [row["id"] for row, _ in documents.documents(text)] == ["notes.txt:0", "notes.txt:1", "notes.txt:2"]


@pytest.mark.parametrize("size", [1, 2, 7, 16, 17, 40])
def test_the_size_of_a_block_changes_nothing(text, tmp_path, monkeypatch, size):
    rows = [{"id": n, "first_line": first, "lines": n} for n, first in ((2, 0), (1, 5), (2, 7))]
    jsonl = write_jsonl(tmp_path / "notes.jsonl", *({"text": "\n".join(lines)} for lines in SENTENCES))
    monkeypatch.setattr(documents, "BLOCK", size)
    monkeypatch.setattr(documents, "PACKED_BLOCK", size)
    assert [lines for _, lines in read(text)] == [lines for _, lines in read(jsonl)] == SENTENCES
    for suffix, pack in PACK.items():
        packed = tmp_path / f"packed.txt{suffix}"
        packed.write_bytes(pack(text.read_bytes()))
        assert [lines for _, lines in read(packed)] == SENTENCES
    write_index(text, *rows)
    assert [row for row, _ in read(text)] == rows
    text.write_bytes(TEXT.encode() + b"\xe3\x81\n")
    with pytest.raises(StageError, match=r"notes.txt is not UTF-8 in line 10: convert it to UTF-8$"):
        read(text)


def test_prose_is_split_and_its_row_no_longer_counts_lines(text):
    text.write_text("「行く。」と言った。来た。\n" + "あ" * 1500 + "\n\n見た。\n", encoding="utf-8")
    write_index(
        text,
        {"id": 1, "title": "行", "first_line": 0, "lines": 2},
        {"id": 2, "title": "見", "first_line": 3, "lines": 1},
    )
    assert read(text, PROSE) == [
        ({"id": 1, "title": "行"}, ["「行く。」と言った。", "来た。", "あ" * 1397, "あ" * 103]),
        ({"id": 2, "title": "見"}, ["見た。"]),
    ]


# Compressed files


def streams() -> dict[str, bytes]:
    """TEXT, compressed in every way that it may come."""
    text = TEXT.encode()
    packed = {suffix: pack(text) for suffix, pack in PACK.items()}
    packed |= {f"two streams{suffix}": pack(text[:32]) + pack(text[32:]) for suffix, pack in PACK.items()}
    skippable = b"\x5a\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"left"
    packed["skippable frames.zst"] = skippable + packed["two streams.zst"] + skippable
    writer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    packed["size unknown.zst"] = writer.compress(text) + writer.flush()
    packed["padded.xz"] = packed[".xz"] + bytes(40_000) + lzma.compress(b"")
    return packed


@pytest.fixture(params=streams())
def packed(request, tmp_path) -> Path:
    path = tmp_path / "notes.txt.packed"
    path.write_bytes(streams()[request.param])
    return path


def test_a_compressed_text_reads_like_the_plain_one(text, packed):
    assert [lines for _, lines in read(packed)] == SENTENCES
    assert (documents.is_compressed(packed), documents.is_compressed(text)) == (True, False)


def test_a_compressed_text_that_is_cut_short_is_refused(packed):
    data, whole = packed.read_bytes(), set()
    for length in range(10, len(data), max(1, len(data) // 100)):
        packed.write_bytes(data[:length])
        try:
            whole.add(tuple(map(tuple, (lines for _, lines in read(packed)))))
        except StageError as error:
            assert str(error) == f"{packed} is damaged or cut short: make it or download it again"
    # Between two streams a cut cannot be seen, but never is a part of one taken for the whole.
    assert whole <= {tuple(map(tuple, SENTENCES)), (tuple(SENTENCES[0]),), ()}


def test_a_compressed_text_with_a_flipped_bit_is_refused_or_not_harmed(packed):
    data = packed.read_bytes()
    refused = 0
    for place in range(6, len(data), max(1, len(data) // 100)):
        packed.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            assert [lines for _, lines in read(packed)] == SENTENCES  # in a time stamp, for example
        except StageError as error:  # the checksum of gzip comes last, behind what is no text any more
            damaged = f"{packed} is damaged or cut short: make it or download it again"
            assert str(error) == damaged or str(error).startswith(f"{packed} is not UTF-8 in line ")
            refused += 1
    assert refused > 50


def test_what_follows_a_stream_and_is_none_is_damage(tmp_path):
    for suffix, pack in PACK.items():
        path = tmp_path / f"notes.txt{suffix}"
        path.write_bytes(pack(TEXT.encode()) + "夜が明けた。\n".encode())
        with pytest.raises(StageError, match=r"notes.txt.* is damaged or cut short: make it or download it again$"):
            read(path)


def test_without_the_package_for_zst_a_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt.zst"
    path.write_bytes(PACK[".zst"](TEXT.encode()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(StageError) as error:
        require(path)
    assert str(error.value) == f"{path} needs the package zstandard: python3 -m pip install zstandard"


# JSONL


def test_each_row_of_jsonl_is_a_document(tmp_path):
    path = tmp_path / "notes.jsonl"
    rows = [
        '{"text": "朝。\\n \\n\\n鳥。", "n": 1}',
        "",
        '{"text": ["昼。\\n雲。", "", "風。\\r"]}',
        '{"text": " \\n"}',
        " \r",
    ]
    path.write_bytes("\r\n".join([*rows, '{"text": "\\u591c\\u3002\\u0000\\u2028星。"}']).encode("utf-8-sig"))
    assert read(path) == [
        ({"id": "notes.jsonl:0"}, ["朝。", "鳥。"]),
        ({"id": "notes.jsonl:1"}, ["昼。", "雲。", "風。"]),
        ({"id": "notes.jsonl:3"}, ["夜。 星。"]),
    ]


def test_fields_of_jsonl_can_be_named(tmp_path):
    path = write_jsonl(
        tmp_path / "n.ndjson", {"no": 7, "body": "朝。来た。"}, {"no": "八", "body": ["昼。"], "text": 0}
    )
    assert read(path, Reading("body", "no", True)) == [({"id": 7}, ["朝。", "来た。"]), ({"id": "八"}, ["昼。"])]
    packed = tmp_path / "notes.jsonl.zst"
    packed.write_bytes(PACK[".zst"](path.read_bytes()))
    assert read(packed, Reading("body")) == [
        ({"id": "notes.jsonl:0"}, ["朝。来た。"]),
        ({"id": "notes.jsonl:1"}, ["昼。"]),
    ]


@pytest.mark.parametrize(
    "row, message",
    [
        ("秘密", "is not JSON in line 2, column 1 (unexpected character, expected a JSON value): mend the line or "),
        ('{"text": "秘密', "is not JSON in line 2, column 13 (unexpected end of data): mend the line or take it out"),
        ('{"text": "秘密"} {}', "is not JSON in line 2, column 16 ("),
        ('{"text": "\\ud83d"}', "is not JSON in line 2, column "),
        ('{"text": "秘密", "n": NaN}', "is not JSON in line 2, column 21 ("),
        ("[" * 100_000, "is not JSON in line 2, column "),
        ('["秘密"]', "holds no object in line 2: JSONL has one object a line, like {'text': ...}"),
        ("{}", "has no field text in line 2 (fields there: none): name the right one with --text_field"),
        ('{"body": "秘密", "no": 1}', "has no field text in line 2 (fields there: body, no): name the right one "),
        ('{"text": null}', "has no text in its field text in line 2 (fields there: text): name the right one "),
        ('{"text": ["秘密", 1]}', "has no text in its field text in line 2 (fields there: text): name the right one "),
        (json.dumps(dict.fromkeys("abcdefghijklmn")), "(fields there: a, b, c, d, e, f, g, h, i, j, k, l, ...): name "),
    ],
)
def test_a_row_of_jsonl_without_text_is_named_and_never_quoted(tmp_path, row, message):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "朝。"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(StageError) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "秘密" not in str(error.value)


def test_a_row_of_jsonl_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text": ""}\n' + '{"text": "昼。"}'.encode("shift_jis"))
    with pytest.raises(
        StageError, match=r"notes.jsonl is not JSON in line 2, column 1 \(.*valid UTF-8.*\): mend the li"
    ):
        read(path)


@pytest.mark.parametrize("found", [None, True, 1.5, ["a"], {}, 10**30])
def test_an_id_of_jsonl_is_text_or_a_whole_number(tmp_path, found):
    path = write_jsonl(tmp_path / "notes.jsonl", {"text": "朝。", "no": found})
    with pytest.raises(StageError) as error:
        read(path, Reading(id_field="no"))
    assert str(error.value) == (
        f"{path} has no whole number or text in its field no in line 1 (fields there: text, no): "
        "name the right one with --id_field, or mend the line"
    )


# A folder


def test_each_file_of_a_folder_is_a_document_in_the_order_of_their_paths(tmp_path):
    folder = write_folder(
        tmp_path / "notes",
        {
            "b.txt": "二。\n\n三。\n",
            "b/a.txt": "五。\n",
            "b-1.md": "\ufeff一。\r\n",
            "b/c/z.txt": "七。",
            "b/a/x": "四。\n",
            "b/c.txt.gz": gzip.compress("六。\n".encode(), mtime=0),
            "c.zst": PACK[".zst"]("八。\n".encode()),
            "blank.txt": "\n \n",
            "empty.txt": "",
            ".hidden.txt": "隠。\n",
            ".git/x.txt": "隠。\n",
            "b.txt.meta.json": "{}",
            "meta.json": "{}",
            "b/a.index.jsonl": "{}",
        },
    )
    require(folder)
    assert read(folder) == [
        ({"id": "b-1.md"}, ["一。"]),
        ({"id": "b.txt"}, ["二。", "三。"]),
        ({"id": "b/a.txt"}, ["五。"]),
        ({"id": "b/a/x"}, ["四。"]),
        ({"id": "b/c.txt"}, ["六。"]),
        ({"id": "b/c/z.txt"}, ["七。"]),
        ({"id": "c"}, ["八。"]),
    ]


def test_links_are_followed_but_not_into_a_loop(tmp_path):
    write_folder(tmp_path, {"notes/a.txt": "一。\n", "notes/b/c.txt": "二。\n", "far/d.txt": "三。\n"})
    for link, target in {"notes/b/back": "..", "notes/far": "../far", "far/near": "../notes", "notes/up": ".."}.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "notes" / "e.txt").symlink_to("a.txt")
    assert read(tmp_path / "notes") == [
        ({"id": "a.txt"}, ["一。"]),
        ({"id": "b/c.txt"}, ["二。"]),
        ({"id": "e.txt"}, ["一。"]),
        ({"id": "far/d.txt"}, ["三。"]),
    ]


def test_a_folder_describes_the_list_of_its_files(tmp_path):
    folder = write_folder(
        tmp_path / "notes", {"b.txt": "二。\n", "a/c.txt.gz": gzip.compress(b"x", mtime=0), ".x": "", "e": ""}
    )
    listed = subprocess.run(
        ["sha256sum", "a/c.txt.gz", "b.txt", "e"], cwd=folder, capture_output=True, check=True
    ).stdout
    size = 7 + (folder / "a" / "c.txt.gz").stat().st_size
    described = {"name": "notes", "size": size, "sha256": hashlib.sha256(listed).hexdigest(), "files": 3}
    assert documents.describe(folder) == documents.describe(f"{folder}/a/..") == described
    assert documents.describe(folder / "b.txt") == files.describe(folder / "b.txt")
    assert (documents.size(folder), documents.size(folder / "b.txt")) == (size, 7)
    assert documents.unpacked_size(folder) == 7 + 8 * (size - 7)


@pytest.mark.parametrize(
    "contents, message",
    [
        (
            {"sub/b.txt": '{"text": "秘密"}\n'},
            "sub/b.txt is JSON: name it b.jsonl if each line of it is an object with ",
        ),
        (
            {"sub/b.jsonl.gz": gzip.compress(b'{"text": ""}', mtime=0)},
            "sub/b.jsonl.gz is JSON: name it b.jsonl if each line of ",
        ),
        (
            {"b.json": '\ufeff [\n {"text": "秘密"}]'},
            "b.json is JSON: name it b.jsonl if each line of it is an object ",
        ),
        ({"b.xml": "<?xml version='1.0'?>"}, "b.xml is XML, text with one sentence a line is needed: NAME ANOTHER"),
        ({"b.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9}, "b.doc is not UTF-8 text (byte 0): NAME ANOTHER"),
        ({"b.bin": b"a\0b"}, "b.bin is not text (it holds zero bytes): NAME ANOTHER"),
        ({"b.txt.xz": lzma.compress(b"a\0b")}, "b.txt.xz is not text (it holds zero bytes): NAME ANOTHER"),
        (
            {"b.txt.gz": gzip.compress(b"abc", mtime=0)[:-4]},
            "b.txt.gz is damaged or cut short: make it or download it again",
        ),
        (
            {"a.txt.gz": gzip.compress(b"a", mtime=0)},
            "a.txt stands there twice, once compressed: move one of the two away",
        ),
    ],
)
def test_a_file_that_is_no_text_is_refused_by_its_name(tmp_path, contents, message):
    folder = write_folder(tmp_path / "notes", {"a.txt": "朝。\n"} | contents)
    with pytest.raises(StageError) as error:
        require(folder)
    assert str(error.value).startswith(f"{folder}/{message}")
    assert "秘密" not in str(error.value)


def test_a_pipe_a_lost_link_and_a_name_that_is_no_text_are_refused_in_a_folder(tmp_path):
    pipe, link = tmp_path / "a" / "pipe", tmp_path / "b" / "link"
    unnamed = tmp_path / "c" / os.fsdecode(b"\x93\xfa.txt")
    for path in (pipe, link, unnamed):
        path.parent.mkdir()
    os.mkfifo(pipe)
    link.symlink_to("nowhere")
    unnamed.write_bytes(b"a")
    for path, message in (
        (pipe, f"{pipe} is neither a file nor a folder: move it away"),
        (link, f"{link} is neither a file nor a folder: move it away"),
        (unnamed, f"{ascii(str(unnamed))} is not text, and names its document: rename it"),
    ):
        with pytest.raises(StageError) as error:
            require(path.parent)
        assert str(error.value) == message


def test_a_damaged_file_further_on_is_named_while_reading(tmp_path):
    folder = write_folder(tmp_path / "notes", {"a.txt": "朝。\n", "b.txt": "昼。\n".encode() * 2000 + b"\xff\n"})
    require(folder)
    with pytest.raises(StageError, match=r"notes/b.txt is not UTF-8 in line 2001: convert it to UTF-8$"):
        read(folder)


# Any kind of corpus

WRITTEN = st.lists(
    st.lists(
        st.text(max_size=12).map(lambda line: line.replace("\n", "")).filter(documents.tidy), min_size=1, max_size=4
    ),
    max_size=5,
)


@examples(60)
@given(WRITTEN, st.sampled_from(["", *PACK]), st.booleans())
def test_text_jsonl_and_folder_give_the_same_sentences(tmp_path_factory, written, suffix, prose):
    folder = tmp_path_factory.mktemp("forms")
    pack = PACK.get(suffix, bytes)
    text, jsonl, lists = (folder / f"{name}{suffix}" for name in ("a.txt", "b.jsonl", "c.jsonl"))
    text.write_bytes(pack("\n".join("\n".join([*lines, ""]) for lines in written).encode()))
    jsonl.write_bytes(pack("\n".join(json.dumps({"text": "\n\n".join(lines)}) for lines in written).encode()))
    lists.write_bytes(pack("\n".join(json.dumps({"text": lines}, ensure_ascii=False) for lines in written).encode()))
    each = {f"{number:03d}.txt{suffix}": pack("\n".join(lines).encode()) for number, lines in enumerate(written)}
    files_of = write_folder(folder / "files", {".keep": b""} | each)
    found = {}
    for path in (text, jsonl, lists, files_of):
        told: list[int] = []
        read = documents.documents(path, Reading(split_sentences=prose), told.append)
        found[path.name] = [list(sentences) for _, sentences in read]
        assert sum(told) == documents.size(path)
    expected = found[text.name] if prose else [[documents.tidy(line) for line in lines] for lines in written]
    assert found == dict.fromkeys(found, expected)
    assert all(0 < len(line.encode()) <= 4192 for lines in expected for line in lines)


@pytest.mark.parametrize("name", ["notes.txt", "notes.jsonl", "notes.txt.gz", "folder"])
def test_what_is_missing_or_empty_is_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(StageError) as error:
        require(path)
    assert str(error.value) == f"{path} not found: NAME ANOTHER"
    if name == "folder":
        write_folder(path, {"sub/.hidden": "隠。", "meta.json": "{}", "empty.txt": ""})
        message = f"{path} is a folder without a text in it: NAME ANOTHER"
    else:
        path.touch()
        message = f"{path} is empty: NAME ANOTHER"
    with pytest.raises(StageError) as error:
        require(path)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "name, content, message",
    [
        (
            "a.txt",
            '{"text": "秘密"}\n',
            " is JSON: name it a.jsonl if each line of it is an object with a text, and prepare ",
        ),
        (
            "a.json.gz",
            gzip.compress(b'[{"text": 1}]', mtime=0),
            " is JSON: name it a.jsonl if each line of it is an object with a ",
        ),
        ("a.txt", "<mediawiki>", " is XML, text with one sentence a line is needed: NAME ANOTHER"),
        ("a.txt", "朝。\n".encode("utf-16"), " is not UTF-8 text (byte 0): NAME ANOTHER"),
        ("a.txt.bz2", bz2.compress(b"\0" * 9), " is not text (it holds zero bytes): NAME ANOTHER"),
        ("a.jsonl", " \n\n", " holds no document: NAME ANOTHER"),
        ("a.jsonl", "朝。\n", " is not JSON in line 1, column 1 ("),
        (
            "train.jsonl",
            '{"input_ids": [2, 3], "token_type_ids": [0, 0], "next_sentence_label": 0}\n',
            " has no field text in line 1 (fields there: input_ids, token_type_ids, next_sentence_label): name ",
        ),
    ],
)
def test_what_is_no_corpus_is_refused_before_the_work(tmp_path, name, content, message):
    write_folder(tmp_path, {name: content})
    with pytest.raises(StageError) as error:
        require(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}{message}")
    assert "秘密" not in str(error.value)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(
        StageError, match=r"pipe.txt is not a regular file, and a corpus is read twice: save it to a fil"
    ):
        require(tmp_path / "pipe.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(text):
    text.chmod(0)
    with pytest.raises(PermissionError, match="notes.txt"):
        require(text)


@pytest.mark.full
def test_real_text_reads_the_same_as_jsonl_and_as_a_folder(tmp_path):
    for source in sorted(shared("data", "text").glob("*.txt.xz")):
        name = source.name.removesuffix(".txt.xz")
        expected = [lines for _, lines in read(source)]
        jsonl = write_jsonl(tmp_path / f"{name}.jsonl", *({"text": "\n".join(lines)} for lines in expected))
        each = {f"{number // 1000}/{number:06d}.txt": "\n".join(lines) for number, lines in enumerate(expected)}
        folder = write_folder(tmp_path / name, each)
        for path in (jsonl, folder):
            require(path)
            assert [lines for _, lines in read(path)] == expected


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


@examples(30)
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "size",
    [0, 1, 262_000, 1_048_577] + [pytest.param(size, marks=pytest.mark.full) for size in (1_048_576, 3_000_000)],
)
def test_packed_files_of_any_size_are_unpacked_whole(tmp_path, monkeypatch, size):
    """Sizes around those of blocks, of text that is packed well and of text that is not."""
    monkeypatch.setattr(documents, "BLOCK", 1 << 18)
    for content in (b"a" * size, random.Random(1).randbytes(size)):
        for suffix, pack in PACK.items():
            path = tmp_path / f"a.txt{suffix}"
            for packed, times in ((pack(content), 1), (pack(content) * 2, 2), (pack(content) + bytes(8), 1)):
                path.write_bytes(packed)
                blocks = list(documents._blocks(path))
                assert b"".join(blocks) == content * times
                assert max(map(len, blocks), default=0) <= documents.BLOCK


@pytest.mark.parametrize("suffix, megabytes", [(".gz", 80), (".bz2", 10), (".xz", 40), (".zst", 80)])
def test_memory_does_not_grow_with_what_a_packed_file_holds(tmp_path, suffix, megabytes):
    path, size = tmp_path / f"a.txt{suffix}", megabytes * 1_000_000
    path.write_bytes(PACK[suffix](bytes(size)))
    tracemalloc.start()
    assert sum(map(len, documents._blocks(path))) == size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 2


def test_a_line_that_is_too_long_to_be_held_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 1 << 10)
    monkeypatch.setattr(documents, "LONGEST_LINE", 1 << 20)
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(b"a" * 3_000_000)
        with pytest.raises(StageError, match=f"{name} has a line of over 1 MB: put a line feed behind each sentence"):
            read(tmp_path / name)
