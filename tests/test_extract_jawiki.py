"""Dumps to text and index: one worked example, the same bytes whatever the way, and faults that leave nothing."""

import bz2
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TIMEOUT, shared
from wiki import ROOT, SHARED_DUMP, page_xml, plain, wiki_pages

import extract_jawiki
from bert_ja import files
from bert_ja.cli import StageError

TEXT = """竹とんぼは、竹を削って作る玩具である。
軸を両手ではさみ、強く回して飛ばす。

水時計は水の流れで時を計る。
古い都では、鐘の音が時を知らせた。
夜も使えた。

干潟は潮が引くと現れる。
渡り鳥が休む場所でもある。

和紙は楮などから作る。
薄くて強い。

寺へ続く石段は百段ある。
毎朝、僧が掃き清める。

踏切では、まず止まる。
左右を見て、音を聞く。
それから渡る。

"""
INDEX = [
    {"id": 10, "title": "竹とんぼ", "revision": 910, "first_line": 0, "lines": 2},
    {"id": 20, "title": "水時計", "revision": 920, "first_line": 3, "lines": 3},
    {"id": 30, "title": "干潟", "revision": 930, "first_line": 7, "lines": 2},
    {"id": 40, "title": "和紙", "revision": 940, "first_line": 10, "lines": 2},
    {"id": 50, "title": "石段", "revision": 950, "first_line": 13, "lines": 2},
    {"id": 60, "title": "踏切", "revision": 960, "first_line": 16, "lines": 3},
]


def command(*arguments) -> list[str]:
    return [sys.executable, str(ROOT / "extract_jawiki.py"), *map(str, arguments)]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIMEOUT, **options)


def long_dump(path: Path, pages: int) -> Path:
    """A dump that takes a while: small as bz2, large as text."""
    prose = "".join(f"第{n}の橋は石でできている。川の水は澄み、魚が泳ぐ。\n\n" for n in range(100))
    path.write_bytes(bz2.compress(plain([page_xml(n, f"橋{n}", prose) for n in range(1, pages + 1)])))
    return path


def extract(paths: list[Path], folder: Path, **options) -> tuple[str, list[dict]]:
    """The text and the index that the stage writes."""
    text = folder / "out" / "jawiki.txt"
    extract_jawiki.main(*map(str, paths), output_file=str(text), **options)
    rows = (folder / "out" / "jawiki.index.jsonl").read_text(encoding="utf-8").splitlines()
    return text.read_text(encoding="utf-8"), [json.loads(row) for row in rows]


@pytest.mark.parametrize("layout", ["plain", "classic", "multistream", "content"])
def test_every_layout_gives_the_same_sentences_and_index(layouts, tmp_path, layout):
    assert extract(layouts[layout], tmp_path) == (TEXT, INDEX)


def test_the_record_counts_what_was_kept_and_what_was_not(layouts, tmp_path, capsys):
    extract(layouts["content"], tmp_path)
    text = tmp_path / "out" / "jawiki.txt"
    record = files.read_record(text)
    assert record["counts"] == {
        "pages": 10,
        "articles": 6,
        "redirects": 1,
        "other_namespaces": 2,
        "empty": 1,
        "failed": 0,
        "sentences": 14,
        "characters": len(TEXT.replace("\n", "")),
    }
    assert record["outputs"] == [files.describe(text), files.describe(tmp_path / "out" / "jawiki.index.jsonl")]
    assert [part["name"] for part in record["inputs"]] == [
        "jawiki-2026-11-01-p1p36.xml.bz2",
        "jawiki-2026-11-01-p40p70.xml.bz2",
    ]
    assert record["corpus"]["dump"]["date"] == "20261101"
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(
            f"wrote 14 sentences of 6 articles to {text} (10 pages; left out: 2 of other namespaces, 1 redirects, "
            "1 without a sentence, 0 failed) in "
        )
    )


def test_the_number_of_workers_changes_no_byte(tmp_path):
    dump = long_dump(tmp_path / "wiki.xml.bz2", 200)
    for count in (1, 3):
        done = run(dump, "--output_file", tmp_path / str(count) / "a.txt", "--num_workers", count)
        assert done.returncode == 0, done.stderr
    for name in ("a.txt", "a.index.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    records = [files.read_record(tmp_path / count / "a.txt") for count in "13"]
    assert records[0] | {"run": 0} == records[1] | {"run": 0}


@pytest.mark.full
def test_real_pages_are_the_same_in_every_layout(tmp_path):
    if not SHARED_DUMP.is_dir():
        pytest.skip(f"no real dump at {SHARED_DUMP}")
    found = []
    for pattern in ("*pages-articles.xml.bz2", "*multistream*.bz2", "*-p[0-9]*p[0-9]*.bz2"):
        folder = tmp_path / str(len(found))
        done = run(*sorted(SHARED_DUMP.glob(pattern)), "--output_file", folder / "a.txt", "--num_workers", 2)
        assert done.returncode == 0, done.stderr
        found.append([(folder / name).read_bytes() for name in ("a.txt", "a.index.jsonl")])
    assert found[0] == found[1] == found[2]
    assert found[0][1].count(b"\n") > 290  # articles


def test_a_page_that_fails_is_skipped_counted_and_named(layouts, tmp_path, monkeypatch, capsys):
    clean = extract_jawiki.wikitext.clean

    def fail_once(text: str) -> list[str]:
        if "干潟" in text:
            raise RecursionError("too deep")
        return clean(text)

    monkeypatch.setattr(extract_jawiki.wikitext, "clean", fail_once)
    text, index = extract(layouts["plain"], tmp_path, num_workers=2)
    assert text == TEXT.replace("干潟は潮が引くと現れる。\n渡り鳥が休む場所でもある。\n\n", "")
    assert [row["id"] for row in index] == [10, 20, 40, 50, 60]
    record = files.read_record(tmp_path / "out" / "jawiki.txt")
    assert record["counts"]["failed"] == 1
    assert record["failed_pages"] == [{"id": 30, "title": "干潟", "revision": 930, "error": "RecursionError: too deep"}]
    assert "skipped page 30 干潟: RecursionError: too deep" in capsys.readouterr().err


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_page_that_takes_too_long_is_skipped_counted_and_named(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(extract_jawiki, "PAGE_SECONDS", 0.05)
    long = "[[橋]]は{{lang|en|bridge}}という。" * 100_000  # half a second
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain([page_xml(1, "前", "前の頁。"), page_xml(2, "長い", long), page_xml(3, "後", "後の頁。")]))
    assert extract([path], tmp_path, num_workers=num_workers)[0] == "前の頁。\n\n後の頁。\n\n"
    record = files.read_record(tmp_path / "out" / "jawiki.txt")
    assert (record["counts"]["failed"], record["failed_pages"]) == (
        1,
        [{"id": 2, "title": "長い", "revision": 902, "error": "TimeoutError: over 0.05 CPU seconds"}],
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_memory_that_runs_out_costs_the_run_and_not_a_page(layouts, tmp_path, monkeypatch, num_workers):
    """Or the text would depend on the machine."""

    def too_much(text: str) -> list[str]:
        raise MemoryError

    monkeypatch.setattr(extract_jawiki.wikitext, "clean", too_much)
    with pytest.raises(MemoryError):
        extract(layouts["plain"], tmp_path, num_workers=num_workers)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_line_without_a_word_is_no_sentence(tmp_path):
    path = tmp_path / "wiki.xml"
    path.write_bytes(plain([page_xml(1, "前", "前の頁。――。後の行。")]))
    assert extract([path], tmp_path)[0] == "前の頁。\n後の行。\n\n"


def test_a_worker_that_dies_is_an_error_and_leaves_nothing(layouts, tmp_path, monkeypatch):
    def die(text: str) -> list[str]:
        os._exit(9)

    monkeypatch.setattr(extract_jawiki.wikitext, "clean", die)
    with pytest.raises(StageError, match=r"^a worker process died \(out of memory\?\): run the command again"):
        extract(layouts["plain"], tmp_path, num_workers=2)
    assert list((tmp_path / "out").iterdir()) == []


KILLED = """
import itertools, os, signal
import extract_jawiki
from bert_ja import cli, documents
write, articles = documents.Writer.write_lines, itertools.count(1)

def write_or_kill(writer, *arguments):
    if next(articles) == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    write(writer, *arguments)

documents.Writer.write_lines = write_or_kill
cli.run(extract_jawiki.main)
"""


def wait_for_workers(partial: Path) -> None:
    """Until the processes of a killed run are dead too, which hold the lock of what it wrote."""
    with contextlib.suppress(FileNotFoundError), open(partial) as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_a_kill_leaves_nothing_that_looks_finished_and_a_rerun_gives_the_same_bytes(tmp_path):
    dump = long_dump(tmp_path / "wiki.xml.bz2", 500)
    text, partial = tmp_path / "a.txt", files.partial_path(tmp_path / "a.txt")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, dump, "--output_file", text, "--num_workers", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert partial.stat().st_size > 10_000
    wait_for_workers(partial)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.index.jsonl.partial", ".a.txt.partial", dump.name]
    again = run(dump, "--output_file", text, "--num_workers", 2)
    assert (again.returncode, "an earlier run did not finish, starting over" in again.stderr) == (0, True)
    assert run(dump, "--output_file", tmp_path / "b.txt").returncode == 0
    assert text.read_bytes() == (tmp_path / "b.txt").read_bytes()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, small_disk):
    done = run(long_dump(tmp_path / "wiki.xml.bz2", 200), "--output_file", small_disk / "a.txt")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("extract_jawiki.py: error: the disk is full")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path, small_disk):
    dump = tmp_path / "wiki.xml"
    dump.write_bytes(plain([page_xml(1, "頁", "文である。" * 100_000)]))
    done = run(dump, "--output_file", small_disk / "a.txt")
    assert done.returncode == 2
    assert "the extracted text needs about 1 MB on the disk of" in done.stderr


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
def test_a_truncated_dump_leaves_no_output_and_the_earlier_one_untouched(layouts, tmp_path, cut):
    (path,) = layouts["classic"]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "jawiki.txt").write_text("earlier")
    with pytest.raises(StageError, match="is cut short"):
        extract([path], tmp_path, num_workers=2)
    assert [(p.name, p.read_text()) for p in (tmp_path / "out").iterdir()] == [("jawiki.txt", "earlier")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no dump is named: extract_jawiki.py FILE... (- is standard input)"),
        (["none.xml.bz2"], "none.xml.bz2 not found: get_jawiki.sh DATE downloads one"),
        (["plain.xml", "--num_workers", "0"], "--num_workers must be 1 or more, got 0"),
        (["plain.xml", "--num_workers", "two"], "--num_workers must be a whole number, got 'two'"),
        (
            ["plain.xml", "--workers", "2"],
            "--workers is not an option of extract_jawiki.py (did you mean --num_workers?)",
        ),
        (["plain.xml", "--output_file", "plain.xml"], "plain.xml is both input and output: name another --output_file"),
        (
            ["plain.xml", "--output_file", "a.txt", "--index_file", "a.txt"],
            "--index_file and --output_file are both a.txt: give the index another name",
        ),
        (["plain.xml", "--output_file", "."], ". is a folder, --output_file must name a file"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(layouts, tmp_path, arguments, message):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"extract_jawiki.py: error: {message}"
    assert not list(tmp_path.glob("*.txt")) and not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("layout", ["plain", "classic", "multistream"])
def test_standard_input_gives_the_same_text_as_the_file(layouts, tmp_path, layout):
    path = layouts[layout][0]
    with open(path, "rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        done = run("-", "--output_file", tmp_path / "a.txt", "--num_workers", 2, stdin=cat.stdout)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == TEXT
    assert files.read_record(tmp_path / "a.txt")["inputs"] == [files.describe(path) | {"name": "standard input"}]


def test_a_named_pipe_gives_the_same_text_as_the_file(layouts, tmp_path):
    os.mkfifo(tmp_path / "pipe.xml")
    with subprocess.Popen(["cp", layouts["plain"][0], tmp_path / "pipe.xml"]):
        assert extract([tmp_path / "pipe.xml"], tmp_path) == (TEXT, INDEX)


def test_an_empty_standard_input_is_refused(tmp_path):
    done = run("-", "--output_file", tmp_path / "a.txt", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "extract_jawiki.py: error: standard input is empty: get_jawiki.sh DATE downloads one"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dump_without_an_article_is_refused(tmp_path):
    (tmp_path / "wiki.xml").write_bytes(plain(wiki_pages()[:1]))
    with pytest.raises(
        StageError, match=r"has no article with a sentence \(1 pages, 0 failed\): name a pages-articles"
    ):
        extract([tmp_path / "wiki.xml"], tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_help_explains_every_option():
    shown = subprocess.run(
        command("--help"), capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | {"PAGER": "cat"}
    )
    for option in ("output_file", "index_file", "num_workers", "DUMP_FILES"):
        assert option in shown.stdout + shown.stderr


# Faults of real dumps, which take a while

REAL = ("jawiki-mini-pages-articles.xml.bz2", "jawiki-mini-pages-articles-multistream.xml.bz2")


@pytest.mark.full
@pytest.mark.parametrize("name", REAL)
def test_a_real_dump_cut_at_twenty_places_is_refused(tmp_path, name):
    data = shared("data", "dump", name).read_bytes()
    for part in range(20):
        (tmp_path / name).write_bytes(data[: 7 + len(data) * part // 20])
        with pytest.raises(StageError, match=r"is cut short (after page \d+|before its first page)"):
            extract([tmp_path / name], tmp_path, num_workers=2)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.full
@pytest.mark.parametrize("name", REAL)
def test_a_byte_flipped_at_twenty_places_of_a_real_dump_is_refused_or_changes_nothing(tmp_path, name):
    data = shared("data", "dump", name).read_bytes()
    (tmp_path / name).write_bytes(data)
    whole = extract([tmp_path / name], tmp_path, num_workers=2)
    refused = 0
    for part in range(20):
        place = 3 + len(data) * part // 20
        (tmp_path / name).write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
        try:
            assert extract([tmp_path / name], tmp_path, num_workers=2) == whole
        except StageError as error:
            refused += 1
            assert "is damaged" in str(error) or "is cut short" in str(error)
    assert refused >= 19  # what is left may be a bit that says nothing, such as the block size of the first stream


@pytest.mark.full
@pytest.mark.parametrize("num_workers", [1, 10])
def test_twenty_kills_of_a_real_extraction_leave_nothing_and_the_rerun_gives_the_same_bytes(tmp_path, num_workers):
    dump = shared("data", "dump", REAL[1])
    text, index = tmp_path / "a.txt", tmp_path / "a.index.jsonl"
    options = (dump, "--output_file", text, "--num_workers", num_workers)
    started = time.monotonic()
    assert run(*options).returncode == 0
    seconds, whole = time.monotonic() - started, (text.read_bytes(), index.read_bytes())
    finished = 0
    for moment in range(20):
        for path in tmp_path.iterdir():
            path.unlink()
        with subprocess.Popen(command(*options), stderr=subprocess.DEVNULL) as process:
            time.sleep(seconds * (moment + 0.5) / 20)
            process.kill()
        wait_for_workers(files.partial_path(text))
        finished += files.record_path(text).exists()
        assert not files.record_path(text).exists() or (text.read_bytes(), index.read_bytes()) == whole
        assert run(*options).returncode == 0
        assert (text.read_bytes(), index.read_bytes()) == whole
    assert finished < 20  # a kill came before the end


@pytest.mark.full
def test_a_disk_that_fills_at_any_moment_leaves_nothing(tmp_path, disk):
    dump = shared("data", "dump", REAL[0])
    for size in (100_000, 1_000_000, 3_000_000, 5_000_000):
        folder = disk(size)
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises((OSError, StageError), match="No space left|needs about"),
        ):
            patch.setattr(extract_jawiki.files, "require_space", lambda *given: None)  # the check before the work
            extract_jawiki.main(str(dump), output_file=str(folder / "a.txt"), num_workers=2)
        assert list(folder.iterdir()) == []
