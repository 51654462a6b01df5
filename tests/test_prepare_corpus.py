"""Texts to train, valid and test: whole documents in their order, complete together or not at all."""

import bz2
import contextlib
import errno
import itertools
import json
import lzma
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import texts
from conftest import ROOT, TIMEOUT, shared
from properties import every

import prepare_corpus
from bert_ja import cli, corpus, documents, files, inventory
from bert_ja.cli import StageError
from bert_ja.filters import Filters

NAMES = [f"{part}.{kind}" for part in corpus.PARTS for kind in ("txt", "index.jsonl", "txt.meta.json")]
REPORTS = ["corpus.md", "corpus.meta.json"]


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "prepare_corpus.py"), *map(str, arguments)]


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
    """The documents of each part; without filters unless they are asked for."""
    options = {"name": "mini", "filters": "none"} | options
    prepare_corpus.main(*map(str, paths), output_dir=str(folder), **options)
    return {part: read(folder / f"{part}.txt") for part in corpus.PARTS}


def together(parts: dict[str, list[list[str]]]) -> list[list[str]]:
    return sorted(sum(parts.values(), []))


def read(path: Path) -> list[list[str]]:
    return [list(sentences) for _, sentences in documents.documents(path)]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "corpus.meta.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes | dict]:
    """What stands in an output folder, records without their `run`, hidden files left out."""
    found = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    return {
        name: {key: value for key, value in json.loads(data).items() if key != "run"}
        if name.endswith("meta.json")
        else data
        for name, data in found.items()
    }


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".*")}


@pytest.fixture
def text(tmp_path) -> Path:
    return write_text(tmp_path / "story.txt", 300)


# What is written


def test_every_document_goes_whole_to_one_part_and_order_is_kept(text, tmp_path):
    parts = prepare(text, folder=tmp_path / "out", valid_sentences=20, test_sentences=30)
    documents = read(text)
    assert sorted(documents) == together(parts)
    for found in parts.values():
        assert found == [document for document in documents if document in found]
    sentences = {part: sum(map(len, found)) for part, found in parts.items()}
    assert (20 <= sentences["valid"] <= 22, 30 <= sentences["test"] <= 32) == (True, True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*NAMES, *REPORTS]
    )  # and nothing hidden


def test_without_options_valid_and_test_take_one_percent_of_what_the_filters_leave(text, tmp_path):
    parts = prepare(text, folder=tmp_path / "out", filters="default")  # 500 sentences in 200 documents
    assert all(5 <= sum(map(len, parts[part])) <= 7 for part in ("valid", "test"))  # the last document may have 3
    assert together(parts) == sorted(document for document in read(text) if len(document) > 1)


def test_three_documents_give_one_each(tmp_path):
    parts = prepare(write_text(tmp_path / "three.txt", 3), folder=tmp_path / "out")
    assert [len(parts[part]) for part in corpus.PARTS] == [1, 1, 1]


def test_index_and_record_say_where_a_document_came_from(text, tmp_path):
    prepare(text, folder=tmp_path / "out", filters="default", min_characters=4)
    for part in corpus.PARTS:
        for row, sentences in documents.documents(tmp_path / "out" / f"{part}.txt"):
            number = int(row["id"].removeprefix("story.txt:"))
            assert list(row) == ["id", "first_line", "lines"]
            assert list(sentences)[0].startswith(f"storyの話{number}の0番目")
        record = files.require_record(tmp_path / "out" / f"{part}.txt", "prepare_corpus.py")
        assert record["outputs"][0] == files.describe(tmp_path / "out" / f"{part}.txt")
        assert record["inputs"] == [files.describe(text)]
        assert record["corpus"] == {"name": "mini", "license": None, "source": None, "dump": None, "private": False}
        assert record["options"] == {
            **{"name": "mini", "valid_sentences": None, "test_sentences": None},
            **{"text_field": "text", "id_field": None, "split_sentences": False, "private": False},
            **{"min_characters": 4, "japanese_only": True, "min_sentences": 2, "max_repeated": 0.5},
        }


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


def write_extracted(text: Path, number: int = 5, **about) -> dict:
    """A text with an index and a record, as extract_jawiki.py leaves them; what the record says of the corpus."""
    with documents.writers((text, documents.index_path(text))) as (writer,):
        for n in range(number):
            writer.write({"id": 100 + n, "title": f"題名{n}", "revision": 7}, [f"{n}の文である。", f"{n}の次の文。"])
    about = {"name": None, "license": None, "source": None, "dump": None} | about
    files.write_record(text, {"outputs": writer.outputs(), "corpus": about})
    return about


def test_an_index_beside_the_text_and_the_dump_of_its_record_are_carried_on(tmp_path):
    dump = {"date": "20261101", "file": "jawiki-20261101.xml.bz2", "sha256": "ab"}
    about = write_extracted(tmp_path / "jawiki.txt", license="CC BY-SA 4.0", dump=dump)
    prepare(tmp_path / "jawiki.txt", folder=tmp_path / "out", source="どこか")
    rows = [row for part in corpus.PARTS for row, _ in documents.documents(tmp_path / "out" / f"{part}.txt")]
    assert sorted(row["id"] for row in rows) == [100, 101, 102, 103, 104]
    assert list(rows[0]) == ["id", "title", "revision", "first_line", "lines"]
    for path in (tmp_path / "out" / "train.txt.meta.json", tmp_path / "out" / "corpus.meta.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["corpus"] == about | {"name": "mini", "source": "どこか", "private": False}
        assert found["inputs"] == [files.describe(tmp_path / name) for name in ("jawiki.txt", "jawiki.index.jsonl")]
        assert found["history"] == [files.read_record(tmp_path / "jawiki.txt")]


def test_texts_of_several_origins_are_listed_with_their_own_licences(text, tmp_path):
    """Of the text without a record the options speak, of the others their records first."""
    dump = {"date": "20261101", "file": "jawiki-20261101.xml.bz2", "sha256": "ab"}
    write_extracted(tmp_path / "jawiki.txt", license="CC BY-SA 4.0", dump=dump)
    write_extracted(tmp_path / "jawiki2.txt", license="CC BY-SA 4.0", dump=dump)
    texts = (tmp_path / "jawiki.txt", text, tmp_path / "jawiki2.txt")
    prepare(*texts, folder=tmp_path / "out", license="in-house", source="報告書")
    found = json.loads((tmp_path / "out" / "train.txt.meta.json").read_text(encoding="utf-8"))["corpus"]
    assert (found["name"], found["license"], found["source"], found["dump"]) == ("mini", "in-house", "報告書", dump)
    assert found["sources"] == [
        {"name": "mini", "license": "CC BY-SA 4.0", "source": "報告書", "dump": dump, "share": None},
        {"name": "mini", "license": "in-house", "source": "報告書", "dump": None, "share": None},
    ]
    prepare(text, folder=tmp_path / "alone", license="in-house")
    assert "sources" not in json.loads((tmp_path / "alone" / "train.txt.meta.json").read_text())["corpus"]


def test_byte_order_marks_control_characters_and_crlf_are_mended(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes("\ufeff一行目。\r\n二\t行\x01目。\r\n\r\n\r\n".encode() + "三。\n\n四。".encode())
    assert together(prepare(text, folder=tmp_path / "out")) == [["一行目。", "二 行 目。"], ["三。"], ["四。"]]


# Any form of text


PROSE = [
    ["雨が降る。", "傘を差す。"],
    ["「行く。」と言った。", "夜である。"],
    ["山は高い。", "川は長い。"],
    ["春。", "花が咲く。"],
]


def test_prose_is_split_into_sentences(tmp_path):
    text = tmp_path / "prose.txt"
    text.write_text("\n\n".join("".join(sentences) for sentences in PROSE), encoding="utf-8")
    assert together(prepare(text, folder=tmp_path / "a", split_sentences=True)) == sorted(PROSE)
    assert together(prepare(text, folder=tmp_path / "b")) == sorted(["".join(sentences)] for sentences in PROSE)


def write_forms(folder: Path, found: list[tuple[dict, list[str]]]) -> tuple[Path, Path]:
    """The same documents as JSONL, with the ids they have, and as a folder of files in the same order."""
    rows = folder / "rows.jsonl"
    with open(rows, "w", encoding="utf-8") as file:
        for row, sentences in found:
            file.write(json.dumps({"number": row["id"], "body": "\n".join(sentences)}, ensure_ascii=False) + "\n")
    (folder / "texts").mkdir()
    for number, (_, sentences) in enumerate(found):
        (folder / "texts" / f"{number:06}.txt").write_text("\n".join(sentences), encoding="utf-8")
    return rows, folder / "texts"


def require_same_sentences(text: Path, tmp_path: Path) -> None:
    """Plain text, JSONL and a folder of files give the same; the same split where the ids are the same."""
    rows, folder = write_forms(tmp_path, [(row, list(lines)) for row, lines in documents.documents(text)])
    options = {"filters": "default", "min_sentences": 1}
    plain = prepare(text, folder=tmp_path / "a", **options)
    assert prepare(rows, folder=tmp_path / "b", text_field="body", id_field="number", **options) == plain
    assert together(prepare(folder, folder=tmp_path / "c", **options)) == together(plain)
    reports = [report_of(tmp_path / name) for name in "abc"]
    assert reports[0]["parts"] == reports[1]["parts"]
    assert reports[0]["filters"] == reports[1]["filters"] == reports[2]["filters"]


def test_text_jsonl_and_a_folder_of_files_give_the_same_sentences(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text(texts.text(60, seed=3), encoding="utf-8")
    require_same_sentences(text, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", ["aozora", "jawiki_articles", "jsquad", "ner_wikipedia", "ud_gsd", "wac", "wikinews"])
def test_they_do_for_real_texts(tmp_path, name):
    require_same_sentences(shared("data", "text", f"{name}.txt.xz"), tmp_path)


# The report


def test_the_report_counts_documents_sentences_characters_and_lengths(tmp_path, capsys):
    text = tmp_path / "a.txt"
    text.write_text("雨。\n\n" * 2 + "長い長い雨が降り続いた。\n雨。\n\n", encoding="utf-8")
    prepare(text, folder=tmp_path / "out")
    report = report_of(tmp_path / "out")
    parts = report["parts"].values()
    assert sum(part["documents"] for part in parts) == 3
    assert sum(part["sentences"] for part in parts) == 4
    assert sum(part["characters"] for part in parts) == 18
    assert {"8-15": 1, "2-3": 1} in [part["sentences_by_characters"] for part in parts]
    assert [part.get("sentences_also_in_train") for part in parts] == [None, 1, 1]
    assert sorted(report["random_sentences"]) == ["長い長い雨が降り続いた。", "雨。", "雨。", "雨。"]
    names = [described["name"] for described in report["outputs"]]
    assert names == [*(name for name in NAMES if "meta" not in name), "corpus.md"]
    summary = (tmp_path / "out" / "corpus.md").read_text(encoding="utf-8")
    assert report["outputs"][-1] == files.describe(tmp_path / "out" / "corpus.md")
    assert capsys.readouterr().out == summary == corpus.summary(report)


def test_what_the_filters_remove_is_counted(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text(
        "雨が降る。\nS → 1\n風が吹く。\n\n"
        "雨が降る。\n風が吹く。\n\n"
        "山は高い。\nえ？\n川は長い。\n\n"
        "一文だけ。\n\n"
        "夜である。\n朝になった。\n雨が降る。\n雨が降る。\n",
        encoding="utf-8",
    )
    parts = prepare(text, folder=tmp_path / "out", filters="default")
    assert together(parts) == sorted(
        [
            ["夜である。", "朝になった。", "雨が降る。", "雨が降る。"],  # half of it is not more than half
            ["山は高い。", "川は長い。"],
            ["雨が降る。", "風が吹く。"],
        ]
    )
    assert report_of(tmp_path / "out")["filters"] == {
        "min_characters": {"value": 3, "documents": 0, "sentences": 1, "characters": 2},
        "japanese_only": {"value": True, "documents": 0, "sentences": 1, "characters": 5},
        "min_sentences": {"value": 2, "documents": 1, "sentences": 1, "characters": 5},
        "max_repeated": {"value": 0.5, "documents": 1, "sentences": 2, "characters": 10},
    }


def test_each_filter_has_its_option(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text(
        "雨が降る。\nabc\n\nはい。\n\n雨が降る。\n夜である。\n昼である。\n\n春になる。\n秋になる。\n", encoding="utf-8"
    )
    options = {"min_characters": 5, "japanese_only": False, "min_sentences": 1, "max_repeated": 0.3}
    prepare(text, folder=tmp_path / "a", filters="default", **(options | {"min_characters": 1, "max_repeated": 1}))
    assert [row["documents"] for row in report_of(tmp_path / "a")["filters"].values()] == [0, 0, 0, 0]
    with pytest.raises(StageError, match="^the filters leave 2 of 4 documents"):
        prepare(text, folder=tmp_path / "b", filters="default", **options)
    text.write_text(text.read_text() + "\n冬になる。\n夏になる。\n")
    parts = prepare(text, folder=tmp_path / "c", filters="default", **options)
    assert together(parts) == [["冬になる。", "夏になる。"], ["春になる。", "秋になる。"], ["雨が降る。"]]


def test_the_help_says_the_values_of_the_filters():
    said = re.sub(r"\s+", " ", prepare_corpus.main.__doc__)
    for name, value in Filters()._asdict().items():
        assert re.search(rf" {name}: [^:]*\b{value} when not given", said), name


def test_equal_runs_give_equal_bytes_and_another_seed_another_split(text, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare(text, folder=tmp_path / name, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["test.txt"] != c["test.txt"]
    assert a["corpus.meta.json"]["random_sentences"] != c["corpus.meta.json"]["random_sentences"]


def test_neither_partitions_nor_blocks_change_a_byte(text, tmp_path, monkeypatch):
    prepare(text, folder=tmp_path / "a", filters="default")
    monkeypatch.setattr(inventory, "PARTITIONS", 2)
    monkeypatch.setattr(inventory, "BLOCK", 7)
    prepare(text, folder=tmp_path / "b", filters="default")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_documents_at_the_edges_change_sides_when_the_corpus_grows(text, tmp_path):
    before = prepare(text, folder=tmp_path / "a")
    after = prepare(write_text(text, 303), folder=tmp_path / "b")
    moved = [document for part in corpus.PARTS for document in before[part] if document not in after[part]]
    assert len(moved) <= 4


# A private corpus


def require_private(folder: Path, said: str) -> None:
    """Nothing of the text but in texts and indexes."""
    for name in (*NAMES[2::3], *REPORTS):
        found = (folder / name).read_text(encoding="utf-8")
        assert not re.search("の文|題名", found), name
        if name.endswith("json"):
            assert json.loads(found)["corpus"]["private"] is True
            assert "random_sentences" not in json.loads(found)
    assert not re.search("の文|題名", said)
    assert "Left out, the corpus is private." in said


def test_a_private_corpus_shows_nothing_of_the_text(tmp_path, capsys):
    write_extracted(tmp_path / "karte.txt")
    prepare(tmp_path / "karte.txt", folder=tmp_path / "out", private_corpus=True)
    require_private(tmp_path / "out", "".join(capsys.readouterr()))
    write_extracted(tmp_path / "open.txt")
    prepare(tmp_path / "open.txt", folder=tmp_path / "other")
    assert re.search("の文", "".join(capsys.readouterr()))  # what the test looks for would be there


@pytest.mark.parametrize("edited", [False, True])
def test_what_is_made_of_private_texts_is_private(tmp_path, capsys, edited):
    folder = tmp_path / "texts"
    folder.mkdir()
    write_extracted(folder / "karte.txt", private=True)
    if edited:
        with open(folder / "karte.txt", "a", encoding="utf-8") as file:
            file.write("足した文である。\n\n")
        documents.index_path(folder / "karte.txt").unlink()
    write_text(folder / "news.txt", 5)
    write_text(tmp_path / "more.txt", 5)
    prepare(folder / "karte.txt", tmp_path / "more.txt", folder=tmp_path / "a")
    require_private(tmp_path / "a", "".join(capsys.readouterr()))
    prepare(folder, tmp_path / "more.txt", folder=tmp_path / "b")
    require_private(tmp_path / "b", "".join(capsys.readouterr()))
    with pytest.raises(StageError, match="karte.txt is of a private corpus, as its record says"):
        prepare(folder, tmp_path / "more.txt", folder=tmp_path / "c", private_corpus=False)


@pytest.mark.parametrize("said", [True, None], ids=["by-the-option", "by-a-record"])
def test_the_fields_of_private_jsonl_are_not_named(tmp_path, said):
    path = tmp_path / "karte.jsonl"
    path.write_text('{"山田花子": "朝の文である。"}\n')
    if not said:
        files.write_record(path, {"corpus": {"private": True}})
    with pytest.raises(StageError) as error:
        prepare(path, folder=tmp_path / "out", private_corpus=said)
    assert str(error.value) == (
        f"{path} has no field text in line 1 (fields there: not shown, the corpus is private): "
        "name the right one with --text_field, or mend the line"
    )


# Killed, full, at the same time


def kill_self_at(owner, name: str, call: int) -> None:
    """Put a kill -9 of this process in front of the so many-th call of a function."""
    function, calls = getattr(owner, name), iter(range(1, call + 1))

    def replacement(*arguments, **options):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, replacement)


def run_until(point: tuple, *paths: Path, folder: Path, **options) -> bool:
    """Run the stage in a process of its own that is killed at a point; False when it ended before."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.fsync = lambda descriptor: None  # what is written survives a kill without
            kill_self_at(*point)
            prepare(*paths, folder=folder, **options)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


POINTS = {
    "before the first pass": (inventory.Inventory, "take", 1),
    "within the first pass": (inventory, "sentence_hash", 500),
    "when sentences are stored": (inventory.Inventory, "count_repeats", 1),
    "when the split is made": (corpus, "write", 1),
    "within the second pass": (documents.Writer, "write", 200),
    "when all is written": (corpus, "report", 1),
    "at the first rename": (os, "replace", 1),
    "between two texts": (os, "replace", 4),
    "before a record": (os, "replace", 7),
    "before the last record": (os, "replace", 9),
    "before the summary": (os, "replace", 10),
    "before the report": (os, "replace", 11),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A text, the corpus made of it, and one of another text: story.txt, whole/ and earlier/."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(write_text(folder / "story.txt", 300), folder=folder / "whole")
    prepare(write_text(folder / "old.txt", 9), folder=folder / "earlier")
    return folder


@pytest.mark.parametrize("point", every(3, POINTS))
def test_a_kill_leaves_the_earlier_corpus_or_none_and_a_rerun_gives_the_same_bytes(whole, tmp_path, point):
    out, earlier, expected = tmp_path / "out", contents(whole / "earlier"), contents(whole / "whole")
    shutil.copytree(whole / "earlier", out)
    assert run_until(POINTS[point], whole / "story.txt", folder=out)
    left = contents(out)
    if "corpus.meta.json" in left:
        assert left == earlier
    assert left.items() <= earlier.items() or left.items() <= expected.items()
    records = [f"{name}.meta.json" for name in NAMES]
    assert hidden(out) <= {".corpus.meta.json.work", *(f".{name}.partial" for name in [*NAMES, *REPORTS, *records])}
    prepare(whole / "story.txt", folder=out)
    assert contents(out) == expected
    assert hidden(out) == set()


def is_known_private(paths: list[Path]) -> bool:
    """Whether a later stage treats texts, or a folder of them, as private, or refuses them."""
    try:
        return corpus.is_private(paths, None)
    except StageError as error:
        unfinished = (
            r"is not finished, \..+\.txt\.meta\.json\.partial stands beside it: run the stage that writes it again"
        )
        return re.search(unfinished, str(error)) is not None


@pytest.mark.parametrize(
    "owner, name",
    [
        pytest.param(os, "replace", id="renames"),
        pytest.param(Path, "unlink", id="removals", marks=pytest.mark.full),
    ],
)
def test_a_kill_never_leaves_a_private_text_that_passes_for_a_public_one(whole, tmp_path, owner, name):
    """At every rename and removal of a run that replaces a private corpus by another."""
    prepare(whole / "old.txt", folder=tmp_path / "earlier", private_corpus=True)
    for call in itertools.count(1):
        out = shutil.copytree(tmp_path / "earlier", tmp_path / str(call))
        if not run_until((owner, name, call), whole / "story.txt", folder=out, private_corpus=True):
            break
        texts = sorted(out.glob("*.txt"))
        assert all(is_known_private([path]) for path in texts)
        assert not texts or is_known_private([out])
    assert call > 10


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(KeyboardInterrupt, id="ctrl-c", marks=pytest.mark.full),
        pytest.param(OSError, id="a-failing-disk"),
    ],
)
def test_an_error_never_leaves_a_private_text_that_passes_for_a_public_one(whole, tmp_path, monkeypatch, error):
    """At every rename; then again after another run that fails."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds, which take a slow disk minutes
    replace, out = os.replace, tmp_path / "out"
    for call in range(1, 10):
        shutil.rmtree(out, ignore_errors=True)
        for failing in (call, 1):
            numbers = itertools.count(1)

            def failing_replace(source, target, numbers=numbers, failing=failing):
                if next(numbers) == failing:
                    raise error
                replace(source, target)

            monkeypatch.setattr(os, "replace", failing_replace)
            with pytest.raises(error):
                prepare(whole / "story.txt", folder=out, private_corpus=True)
            texts = sorted(out.glob("*.txt"))
            assert all(is_known_private([path]) for path in texts)
            assert not texts or is_known_private([out])
        monkeypatch.setattr(os, "replace", replace)
    prepare(whole / "story.txt", folder=out, private_corpus=True)
    assert is_known_private([out / "train.txt"])
    assert hidden(out) == set()


def test_ctrl_c_waits_until_all_texts_and_records_are_in_their_place(whole, tmp_path, monkeypatch):
    replace = os.replace

    def interrupted_replace(source, target):
        if Path(target).name == "valid.txt":
            os.kill(os.getpid(), signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted_replace)
    with pytest.raises(KeyboardInterrupt):
        prepare(whole / "story.txt", folder=tmp_path / "out")
    expected = {name: content for name, content in contents(whole / "whole").items() if name in NAMES}
    assert contents(tmp_path / "out") == expected


def test_what_a_killed_run_left_is_no_input(whole, tmp_path):
    left = tmp_path / ".train.txt.partial"
    left.write_bytes((whole / "story.txt").read_bytes())
    with pytest.raises(StageError, match=r"\.train\.txt\.partial is what a run left that did not finish"):
        prepare(left, folder=tmp_path / "out")
    for name in ("train.txt", "corpus.md"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(StageError, match=f"{name} is a folder, where a file is to go: name another --output_dir"):
            prepare(whole / "story.txt", folder=tmp_path / name)


@pytest.mark.full
def test_twenty_kills_at_any_time_leave_nothing_half_written(tmp_path):
    text = tmp_path / "aozora.txt"
    text.write_bytes(lzma.decompress(shared("data", "text", "aozora.txt.xz").read_bytes()))
    started = time.time()
    subprocess.run(command(text, "--name", "mini", "--output_dir", tmp_path / "whole"), check=True)
    takes, whole = time.time() - started, contents(tmp_path / "whole")
    rng, arguments = random.Random(1), command(text, "--name", "mini", "--output_dir", tmp_path / "out")
    killed = 0
    for _ in range(20):
        process = subprocess.Popen(arguments)
        time.sleep(rng.uniform(0.3, takes))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        left = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
        assert left.items() <= whole.items()
    assert killed > 0
    subprocess.run(arguments, check=True)
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_is_told_at_any_size_and_leaves_what_was_there(whole, tmp_path, disk):
    packed, earlier = tmp_path / "a.txt.xz", contents(whole / "earlier")
    data = b"".join(f"{n % 9}番目の文である。\n".encode() * 8 + b"\n" for n in range(3000))  # 0.7 MB, hashes 0.3
    packed.write_bytes(lzma.compress(data))
    ends = []
    for size in (100_000, 300_000, 500_000, 700_000, 900_000, 1_000_000, 1_100_000, 2_000_000):
        folder = disk(size)
        shutil.copytree(whole / "earlier", folder, dirs_exist_ok=True)
        try:
            prepare(packed, folder=folder)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert (contents(folder), hidden(folder)) == (earlier, set())
            ends.append("full")
        else:
            assert sorted(path.name for path in folder.iterdir()) == sorted([*NAMES, *REPORTS])
            ends.append("done")
    assert ends[0] == "full"
    assert ends[-1] == "done"
    assert ends == sorted(ends, reverse=True)


def test_a_disk_that_is_too_small_is_told_before_the_work(text, small_disk):
    write_text(text, 20_000)
    with pytest.raises(StageError, match="^the split text needs about 3 MB on the disk of .*, but only 0 MB are free"):
        prepare(text, folder=small_disk)
    assert list(small_disk.iterdir()) == []


def test_a_second_run_at_the_same_time_is_refused(text, tmp_path):
    with (
        files.work_folder(tmp_path / "out" / "corpus.meta.json"),
        pytest.raises(StageError, match="^another run is writing .*corpus.meta.json now: wait for it"),
    ):
        prepare(text, folder=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_text_that_changes_between_the_passes_is_refused(text, tmp_path, monkeypatch):
    plan = corpus.plan

    def change_then_plan(*arguments):
        plan(*arguments)
        text.write_bytes(text.read_bytes().replace("文".encode(), "字".encode()))  # as many sentences, as many bytes

    monkeypatch.setattr(corpus, "plan", change_then_plan)
    with pytest.raises(StageError, match="^the texts changed while they were read"):
        prepare(text, folder=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.full
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    text, peaks = tmp_path / "a.txt", []
    for number in (10_000, 40_000):
        with open(text, "w", encoding="utf-8") as file:  # piece by piece: a child's peak begins with its parent's
            for n in range(number):
                file.writelines(f"第{n}話の{m}番目の文である。\n" for m in range(40))
                file.write("\n")
        process = subprocess.Popen(command(text, "--name", "x", "--output_dir", tmp_path / "out"))
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss)
    assert peaks[1] - peaks[0] < 6_000  # kB; the hashes alone of 1,200,000 more sentences would take 9,600


# Wrong input


def refusal(*arguments) -> str:
    """The sentence with which the stage refuses a command line."""
    with pytest.raises(StageError) as error:
        paths, options = cli.parse(prepare_corpus.main, list(map(str, arguments)), "prepare_corpus.py")
        prepare_corpus.main(*paths, **options)
    return " ".join(str(error.value).split())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--name", "x"], "no text is named: prepare_corpus.py FILE... --name NAME"),
        (["story.txt"], "--name is required"),
        (["story.txt", "--name", " "], "--name is empty: give the corpus a name"),
        (["none.txt", "--name", "x"], f"none.txt not found: {prepare_corpus.NAME_A_TEXT}"),
        (["empty.txt", "--name", "x"], f"empty.txt is empty: {prepare_corpus.NAME_A_TEXT}"),
        (["story.txt", "--name", "x", "--seed", "one"], "--seed must be a whole number, got 'one'"),
        (
            ["story.txt", "--name", "x", "--valid_sentences", "0", "--test_sentences", "-1", "--min_characters", "0"],
            "--valid_sentences must be 1 or more, got 0; --test_sentences must be 1 or more, got -1; "
            "--min_characters must be 1 or more, got 0",
        ),
        (
            ["story.txt", "--name", "x", "--min_sentences", "0", "--max_repeated", "50"],
            "--min_sentences must be 1 or more, got 0; --max_repeated must be from 0 to 1, got 50.0",
        ),
        (["story.txt", "--name", "x", "--max_repeated", "nan"], "--max_repeated must be from 0 to 1, got nan"),
        (["story.txt", "--name", "x", "--filters", "all"], "--filters must be default or none, got all"),
        (
            ["story.txt", "--name", "x", "--filters", "none", "--min_sentences", "3", "--japanese_only", "False"],
            "--filters none leaves nothing to --japanese_only, --min_sentences: leave one or the other out",
        ),
        (
            ["story.txt", "sub/story.txt", "--name", "x"],
            "two files are called story.txt, and documents are named after their file: rename one",
        ),
        (
            ["sub/train.txt", "--name", "x", "--output_dir", "sub"],
            "sub/train.txt would be overwritten by sub: name another",
        ),
        (["sub", "--name", "x", "--output_dir", "sub/data"], "sub/data lies in sub, which is read: name another --o"),
        (["sub", "--name", "x", "--output_dir", "sub"], "sub lies in sub, which is read: name another --output_dir"),
        (
            ["blank.txt", "--name", "x"],
            "the corpus has 0 documents, but train, valid and test need one each: "
            "put a blank line after each document, or add more files",
        ),
        (
            ["one.txt", "--name", "x"],
            "the corpus has 1 document, but train, valid and test need one each: put a blank ",
        ),
        (
            ["sub", "--name", "x"],
            "the filters leave 0 of 3 documents (3 had fewer than 2 lines, 0 repeated others), but train, valid and ",
        ),
        (["dump.xml", "--name", "x"], "dump.xml is XML, text with one sentence a line is needed: "),
        (["dump.xml.bz2", "--name", "x"], "dump.xml.bz2 is XML, text with one sentence a line is needed: "),
        (["rows.jsonl", "--name", "x", "--text_field", "body"], "rows.jsonl has no field body in line 1 (fields there"),
        (["sjis.txt", "--name", "x"], "sjis.txt is not UTF-8 text (byte 0): "),
        (["-", "--name", "x"], "standard input cannot be read twice, as a corpus is: save it to a file first"),
        (
            ["/dev/null", "--name", "x"],
            "/dev/null is not a regular file, and a corpus is read twice: save it to a file",
        ),
        (["fifo", "--name", "x"], "fifo is not a regular file, and a corpus is read twice: save it to a file first"),
        (
            ["story.txt", "--name", "x", "--valid_sentences", "9000"],
            "--valid_sentences 9000 is too much for 500 sentences in 200 documents (",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(text, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name, data in {
        "empty.txt": b"",
        "blank.txt": b"\n\n",
        "one.txt": "一。\n二。\n".encode(),
        "dump.xml": b"<mediawiki></mediawiki>",
        "dump.xml.bz2": bz2.compress(b"<mediawiki></mediawiki>"),
        "rows.jsonl": b'{"text": "a"}\n',
        "sjis.txt": "日本語の文。".encode("shift_jis"),
        "sub/other.txt": b"a\n",
        "sub/story.txt": b"a\n",
        "sub/train.txt": b"a\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    assert refusal(*arguments).startswith(message)
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert left in ([], [tmp_path / "data"])


def test_the_command_line_says_it_in_one_line_and_prints_the_report_alone(text, tmp_path):
    options = ("--name", "mini", "--output_dir", tmp_path / "out")
    done = subprocess.run(command(text, *options), capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "out" / "corpus.md").read_text(encoding="utf-8")
    assert done.stderr.splitlines()[-1].startswith(f"wrote sentences (documents) to {tmp_path / 'out'}: train.txt 4")
    done = subprocess.run(command(text, "--name", "x", "--filter", "none"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    expected = "--filter is not an option of prepare_corpus.py (did you mean --filters?)"
    assert done.stderr == f"prepare_corpus.py: error: {expected}\n"


def test_an_index_that_does_not_fit_is_refused(text, tmp_path):
    documents.index_path(text).write_text('{"id": 1, "first_line": 0, "lines": 1}\n')
    with pytest.raises(StageError, match="story.index.jsonl does not fit .*story.txt: make both again"):
        prepare(text, folder=tmp_path / "out")


def test_a_report_never_replaces_an_input_of_its_name(tmp_path):
    (tmp_path / "corpus.md").write_text("茶を飲む。\n木を見る。\n\n" * 5, encoding="utf-8")
    before = (tmp_path / "corpus.md").read_bytes()
    with pytest.raises(StageError, match="would be overwritten by"):
        prepare_corpus.main(str(tmp_path / "corpus.md"), name="mine", output_dir=str(tmp_path))
    assert (tmp_path / "corpus.md").read_bytes() == before


@pytest.mark.parametrize(
    "way", ["packed", "folder within", "linked folder", "folder of links", "link to packed", "index"]
)
def test_a_private_text_stays_private_however_it_is_named(text, tmp_path, way, capsys):
    """Packed beside its record, in a folder with one, behind links of any kind, or its index."""
    given, real = tmp_path / "in", tmp_path / "real"
    given.mkdir()
    real.mkdir()
    for number, (_, sentences) in enumerate(documents.documents(text)):
        (real / f"{number}.txt").write_text("\n".join(sentences), encoding="utf-8")
    if way == "packed":
        given = tmp_path / "story.txt.bz2"
        given.write_bytes(bz2.compress(text.read_bytes()))
        files.write_record(text, {"corpus": {"private": True}})
    elif way == "folder of links":
        for file in sorted(real.iterdir()):
            (given / file.name).symlink_to(file)
            files.write_record(file, {"corpus": {"private": file.name == "1.txt"}})
    elif way == "link to packed":
        (tmp_path / "story.txt.bz2").write_bytes(bz2.compress(text.read_bytes()))
        (given := tmp_path / "link.bz2").symlink_to(tmp_path / "story.txt.bz2")
        files.write_record(text, {"corpus": {"private": True}})
    elif way == "index":
        rows = [{"id": n, "text": f"{n}番目の文がある。"} for n in range(9)]
        index = tmp_path / "story.index.jsonl"
        index.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.write_record(index.with_name("story.txt"), {"corpus": {"private": True}})
        given = index
    elif way == "folder within":
        real = real.rename(given / "sub")
        files.write_record(real, {"corpus": {"private": True}})
    else:
        (given / "link").symlink_to(real)
        (given / "link" / "back").symlink_to(given)
        files.write_record(real / "1.txt", {"corpus": {"private": True}})
    prepare_corpus.main(str(given), name="mine", output_dir=str(tmp_path / "out"), filters="none")
    assert files.read_record(tmp_path / "out" / "train.txt")["corpus"]["private"] is True
    assert "番目の文" not in capsys.readouterr().out
