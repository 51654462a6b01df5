"""Texts to train, valid and test: whole documents in their order, complete together or not at all."""

import bz2
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_dumps import ROOT

import prepare_corpus
from bert_ja import corpus, documents, files
from bert_ja.cli import StageError

NAMES = [f"{part}.{kind}" for part in corpus.PARTS for kind in ("txt", "index.jsonl", "txt.meta.json")]


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "prepare_corpus.py"), *map(str, arguments)]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, **options)


def write_text(path: Path, documents: int, sentences: int = 3) -> Path:
    """A text of `documents`, each of another length."""
    path.write_text(
        "".join(
            "".join(f"{path.stem}の話{n}の{m}番目の文である。\n" for m in range(1 + n % sentences)) + "\n"
            for n in range(documents)
        ),
        encoding="utf-8",
    )
    return path


def prepare(*paths: Path, folder: Path, **options) -> dict[str, list[list[str]]]:
    """The documents of each part."""
    prepare_corpus.main(*map(str, paths), output_dir=str(folder), **{"name": "mini"} | options)
    return {part: read(folder / f"{part}.txt") for part in corpus.PARTS}


def read(path: Path) -> list[list[str]]:
    return [list(sentences) for _, sentences in documents.documents(path)]


@pytest.fixture
def text(tmp_path) -> Path:
    return write_text(tmp_path / "story.txt", 300)


def test_every_document_goes_whole_to_one_part_and_order_is_kept(text, tmp_path):
    parts = prepare(text, folder=tmp_path / "out", valid_sentences=20, test_sentences=30)
    documents = read(text)
    assert sorted(documents) == sorted(parts["train"] + parts["valid"] + parts["test"])
    for found in parts.values():
        assert found == [document for document in documents if document in found]
    sentences = {part: sum(map(len, found)) for part, found in parts.items()}
    assert (20 <= sentences["valid"] <= 22, 30 <= sentences["test"] <= 32) == (True, True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*NAMES, "corpus.meta.json"])


def test_without_options_valid_and_test_take_one_percent(text, tmp_path):
    parts = prepare(text, folder=tmp_path / "out")  # 600 sentences
    assert all(6 <= sum(map(len, parts[part])) <= 8 for part in ("valid", "test"))  # the last document may have 3


def test_three_documents_give_one_each(tmp_path):
    parts = prepare(write_text(tmp_path / "three.txt", 3), folder=tmp_path / "out")
    assert [len(parts[part]) for part in corpus.PARTS] == [1, 1, 1]


def test_index_and_record_say_where_a_document_came_from(text, tmp_path):
    prepare(text, folder=tmp_path / "out")
    for part in corpus.PARTS:
        for row, sentences in documents.documents(tmp_path / "out" / f"{part}.txt"):
            number = int(row["id"].removeprefix("story.txt:"))
            assert list(row) == ["id", "first_line", "lines"]
            assert list(sentences)[0].startswith(f"storyの話{number}の0番目")
        record = files.require_record(tmp_path / "out" / f"{part}.txt", "prepare_corpus.py")
        assert record["outputs"][0] == files.describe(tmp_path / "out" / f"{part}.txt")
        assert record["inputs"] == [files.describe(text)]
        assert record["corpus"] == {"name": "mini", "license": None, "source": None, "dump": None}


def test_several_files_make_one_corpus_that_says_the_source(text, tmp_path):
    packed = tmp_path / "news.txt.bz2"
    packed.write_bytes(bz2.compress(write_text(tmp_path / "news.txt", 40).read_bytes()))
    parts = prepare(text, packed, folder=tmp_path / "out")
    assert sum(map(len, parts.values())) == 340
    rows = [row for part in corpus.PARTS for row, _ in documents.documents(tmp_path / "out" / f"{part}.txt")]
    assert {(row["source"], row["id"].partition(":")[0]) for row in rows} == {
        ("story.txt", "story.txt"),
        ("news.txt.bz2", "news.txt"),
    }


def test_an_index_beside_the_text_and_the_dump_of_its_record_are_carried_on(tmp_path):
    text = tmp_path / "jawiki.txt"
    dump = {"date": "20261101", "file": "jawiki-20261101.xml.bz2", "sha256": "ab"}
    with documents.writers((text, documents.index_path(text))) as (writer,):
        for number in range(5):
            writer.write({"id": 100 + number, "title": f"題{number}", "revision": 7}, ["文。", "文二。"])
    about = {"name": None, "license": "CC BY-SA 4.0", "source": None, "dump": dump}
    files.write_record(text, {"outputs": writer.outputs(), "corpus": about})
    prepare(text, folder=tmp_path / "out", source="どこか")
    rows = [row for part in corpus.PARTS for row, _ in documents.documents(tmp_path / "out" / f"{part}.txt")]
    assert sorted(row["id"] for row in rows) == [100, 101, 102, 103, 104]
    assert list(rows[0]) == ["id", "title", "revision", "first_line", "lines"]
    for path in (tmp_path / "out" / "train.txt.meta.json", tmp_path / "out" / "corpus.meta.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["corpus"] == about | {"name": "mini", "source": "どこか"}


def test_the_report_counts_documents_sentences_characters_and_lengths(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("雨。\n\n" * 2 + "長い長い雨が降り続いた。\n雨。\n\n", encoding="utf-8")
    prepare(text, folder=tmp_path / "out")
    report = json.loads((tmp_path / "out" / "corpus.meta.json").read_text(encoding="utf-8"))
    parts = report["parts"].values()
    assert sum(part["documents"] for part in parts) == 3
    assert sum(part["sentences"] for part in parts) == 4
    assert sum(part["characters"] for part in parts) == 18
    assert {"8-15": 1, "2-3": 1} in [part["sentences_by_characters"] for part in parts]
    assert [described["name"] for described in report["outputs"]][:2] == ["train.txt", "train.index.jsonl"]


def test_equal_runs_give_equal_bytes_and_another_seed_another_split(text, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare(text, folder=tmp_path / name, seed=seed)
    a, b, c = ([(tmp_path / name / file).read_bytes() for file in NAMES[:8] if "meta" not in file] for name in "abc")
    assert a == b != c


def test_only_documents_at_the_edges_change_sides_when_the_corpus_grows(text, tmp_path):
    before = prepare(text, folder=tmp_path / "a")
    after = prepare(write_text(text, 303), folder=tmp_path / "b")
    moved = [document for part in corpus.PARTS for document in before[part] if document not in after[part]]
    assert len(moved) <= 4


def test_byte_order_marks_control_characters_and_crlf_are_mended(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes("\ufeff一行目。\r\n二\t行\x01目。\r\n\r\n\r\n".encode() + "三。\n\n四。".encode())
    parts = prepare(text, folder=tmp_path / "out")
    assert sorted(sum(parts.values(), [])) == [["一行目。", "二 行 目。"], ["三。"], ["四。"]]


def test_a_kill_leaves_the_earlier_corpus_or_none_and_a_rerun_gives_the_same_bytes(tmp_path):
    text = write_text(tmp_path / "long.txt", 15_000)
    arguments = [text, "--name", "mini", "--output_dir", tmp_path / "out"]
    partial = files.partial_path(tmp_path / "out" / "train.txt")
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL)
    while not (partial.exists() and partial.stat().st_size > 100_000):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert all(path.name.endswith(".partial") for path in (tmp_path / "out").iterdir())
    assert run(*arguments).returncode == 0
    assert run(*arguments[:-1], tmp_path / "other").returncode == 0
    for name in NAMES:
        if not name.endswith("meta.json"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, small_disk):
    text = tmp_path / "a.txt.bz2"
    text.write_bytes(bz2.compress(write_text(tmp_path / "a.txt", 10_000).read_bytes()))
    assert text.stat().st_size * prepare_corpus.TEXT_PER_PACKED_BYTE < 300_000
    done = run(text, "--name", "mini", "--output_dir", small_disk)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("prepare_corpus.py: error: the disk is full")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--name", "x"], "no text is named: prepare_corpus.py FILE... --name NAME"),
        (["story.txt"], "--name is required"),
        (["none.txt", "--name", "x"], f"none.txt not found: {prepare_corpus.NAME_A_TEXT}"),
        (["empty.txt", "--name", "x"], f"empty.txt is empty: {prepare_corpus.NAME_A_TEXT}"),
        (["story.txt", "--name", "x", "--seed", "one"], "--seed must be a whole number, got 'one'"),
        (
            ["story.txt", "--name", "x", "--valid_sentences", "0", "--test_sentences", "-1"],
            "--valid_sentences must be 1 or more, got 0; --test_sentences must be 1 or more, got -1",
        ),
        (
            ["story.txt", "sub/story.txt", "--name", "x"],
            "two files are called story.txt, and documents are named after their file: rename one",
        ),
        (
            ["sub/train.txt", "--name", "x", "--output_dir", "sub"],
            "sub/train.txt would be overwritten by sub: name another",
        ),
        (
            ["blank.txt", "--name", "x"],
            "the corpus has 0 documents, but train, valid and test need one each: "
            "put a blank line after each document, or add more files",
        ),
        (
            ["one.txt", "--name", "x"],
            "the corpus has 1 document, but train, valid and test need one each: put a blank ",
        ),
        (["dump.xml", "--name", "x"], "dump.xml is XML, text with one sentence a line is needed: "),
        (["dump.xml.bz2", "--name", "x"], "dump.xml.bz2 is XML, text with one sentence a line is needed: "),
        (["rows.jsonl", "--name", "x"], "rows.jsonl is JSON, text with one sentence a line is needed: "),
        (["sjis.txt", "--name", "x"], "sjis.txt is not UTF-8 text (byte 0): "),
        (
            ["/dev/null", "--name", "x"],
            "/dev/null is not a regular file, and a corpus is read twice: save it to a file",
        ),
        (["sub", "--name", "x"], "sub is a folder, a file is needed: "),
        (
            ["story.txt", "--name", "x", "--valid_sentences", "9000"],
            "--valid_sentences 9000 is too much for 600 sentences in 300 documents (",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(text, tmp_path, arguments, message):
    (tmp_path / "sub").mkdir()
    for name, data in {
        "empty.txt": b"",
        "blank.txt": b"\n\n",
        "one.txt": "一。\n二。\n".encode(),
        "dump.xml": b"<mediawiki></mediawiki>",
        "dump.xml.bz2": bz2.compress(b"<mediawiki></mediawiki>"),
        "rows.jsonl": b'{"text": "a"}\n',
        "sjis.txt": "日本語の文。".encode("shift_jis"),
        "sub/story.txt": b"a\n",
        "sub/train.txt": b"a\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"prepare_corpus.py: error: {message}")
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert left in ([], [tmp_path / "data"])


def test_an_index_that_does_not_fit_is_refused(text, tmp_path):
    documents.index_path(text).write_text('{"id": 1, "first_line": 0, "lines": 1}\n')
    with pytest.raises(StageError, match="story.index.jsonl does not fit .*story.txt: make both again"):
        prepare(text, folder=tmp_path / "out")
