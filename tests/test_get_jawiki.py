"""The door of stage 1, as a user calls it: a date, `latest` or files, from any folder."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_dumps import Wikimedia
from test_workers import wait_until
from wiki import ROOT, SHARED_DUMP, multistream, wiki_pages, write_layouts

from bert_ja import files

SCRIPT = ROOT / "get_jawiki.sh"
NAME = "jawiki-20261101-pages-articles-multistream.xml.bz2"
TEXTS = ["train.txt", "valid.txt", "test.txt"]


def get(*arguments, cwd: Path, stdin=None, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        cwd=cwd,
        stdin=stdin,
        env=os.environ | {"PYTHON": sys.executable, "no_proxy": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def texts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "data" / name).read_bytes() for name in TEXTS}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, list[Path]]:
    return write_layouts(tmp_path_factory.mktemp("dump"))


@pytest.fixture(scope="module")
def expected(layouts, tmp_path_factory) -> dict[str, bytes]:
    """The texts from the plain dump."""
    folder = tmp_path_factory.mktemp("plain")
    done = get(*layouts["plain"], cwd=folder)
    assert done.returncode == 0, done.stderr
    return texts(folder)


@pytest.fixture
def server():
    with Wikimedia() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_the_texts_hold_all_articles(expected):
    together = b"".join(expected.values()).decode()
    assert (together.count("\n\n"), together.count("。\n")) == (6, 14)
    assert all(expected.values())


@pytest.mark.parametrize("layout", ["multistream", "content"])
def test_local_files_of_any_layout_give_the_same_texts(layouts, expected, tmp_path, layout):
    done = get(*layouts[layout], "--num-workers=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path) == expected
    record = files.require_record(tmp_path / "data" / "train.txt", "prepare_corpus.py")
    assert (record["corpus"]["name"], record["corpus"]["license"]) == ("jawiki", "CC BY-SA 4.0")
    assert record["corpus"]["dump"]["date"] == "20261101"


def test_latest_is_downloaded_verified_and_its_date_recorded(server, expected, tmp_path):
    server.add_classic("20261101", multistream(wiki_pages()))
    done = get("latest", "--mirror", server.url, "--num_workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path) == expected
    dump = files.read_record(tmp_path / "data" / "train.txt")["corpus"]["dump"]
    assert dump == files.read_record(tmp_path / "data" / "dump" / NAME)["dump"]
    assert sorted(dump) == ["date", "file", "sha1", "sha256"]


def test_a_download_with_wrong_bytes_leaves_no_texts(server, tmp_path):
    server.add_classic("20261101", multistream(wiki_pages()))
    server.contents[f"/jawiki/20261101/{NAME}"] += b"!"
    done = get("20261101", f"--mirror={server.url}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("nothing is kept, try again")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_real_dump_gives_real_texts(tmp_path):
    if not SHARED_DUMP.is_dir():
        pytest.skip(f"no real dump at {SHARED_DUMP}")
    done = get(*sorted(SHARED_DUMP.glob("*-p[0-9]*p[0-9]*.bz2")), "--num_workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sentences = {name: text.count(b"\n") for name, text in texts(tmp_path).items()}
    assert sentences["train.txt"] > 20 * sentences["valid.txt"] > 4000


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no dump is named: bash get_jawiki.sh DATE | latest | FILE... (see --help)"),
        (["20261"], "20261 is neither a date (YYYYMMDD), nor latest, nor a file"),
        (["none.xml.bz2"], "none.xml.bz2 is neither a date (YYYYMMDD), nor latest, nor a file"),
        (["--date", "20261101"], "--date is not an option of get_jawiki.sh (see bash get_jawiki.sh --help)"),
        (["latest", "--mirror"], "--mirror needs a value"),
        (["latest", "--num_workers", "none"], "--num_workers must be 1 or more, got none"),
        (["latest", "--num_workers=0"], "--num_workers must be 1 or more, got 0"),
        (["latest", "--valid-sentences", "1e6"], "--valid_sentences must be 1 or more, got 1e6"),
        (["latest", "--test_sentences=0"], "--test_sentences must be 1 or more, got 0"),
        (["latest", "--name", " "], "--name is empty: give the corpus a name"),
        (["x.txt"], "data/valid.txt is a folder, where a file is to go: move it away"),
        (["latest", "--filters", "some"], "--filters must be default or none, got some"),
        (
            ["x.txt", "--mirror", "http://127.0.0.1"],
            "--mirror has no use with local files: name a date, or leave it out",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(tmp_path, arguments, message):
    (tmp_path / "x.txt").write_text("x")
    if arguments == ["x.txt"]:
        (tmp_path / "data" / "valid.txt").mkdir(parents=True)
    done = get(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"get_jawiki.sh: error: {message}\n")


def test_standard_input_and_no_filters(layouts, tmp_path):
    with open(layouts["classic"][0], "rb") as dump:
        done = get("-", "--filters", "none", cwd=tmp_path, stdin=dump)
    assert done.returncode == 0, done.stderr
    record = files.require_record(tmp_path / "data" / "train.txt", "prepare_corpus.py")
    assert (record["options"]["min_sentences"], record["options"]["japanese_only"]) == (1, False)
    assert files.read_record(tmp_path / "data" / "jawiki.txt")["inputs"][0]["name"] == "standard input"


@pytest.mark.parametrize(
    "argument, message",
    [
        ("x.txt", "x.txt is not a MediaWiki dump (neither bz2 nor XML): get_jawiki.sh DATE downloads one"),
        ("cut.bz2", "cut.bz2 is cut short before its first page (its bz2 stream does not end): download it again"),
        ("20261399", "20261399 is no date of a dump: write YYYYMMDD, or latest"),
    ],
)
def test_bad_input_ends_with_the_sentence_of_the_stage_that_found_it(layouts, tmp_path, argument, message):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "cut.bz2").write_bytes(layouts["classic"][0].read_bytes()[:200])
    done = get(argument, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data" / "jawiki.txt").exists()


def fake_python(folder: Path, body: str) -> str:
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_missing_too_old_or_bare_is_told(layouts, tmp_path):
    old = fake_python(tmp_path, '[ "$1" = --version ] && echo "Python 3.8.6"\nexit 1')
    done = get(*layouts["plain"], cwd=tmp_path, PYTHON=old)
    assert (done.returncode, done.stderr) == (
        2,
        "get_jawiki.sh: error: Python 3.8.6 is too old: use Python 3.11 or newer, or name one with PYTHON=...\n",
    )
    bare = fake_python(tmp_path, f'exec {sys.executable} -S "$@"')
    done = get(*layouts["plain"], cwd=tmp_path, PYTHON=bare)
    assert done.returncode == 2
    assert done.stderr.startswith("get_jawiki.sh: error: the Python package tqdm is missing: run ")
    done = get(*layouts["plain"], cwd=tmp_path, PYTHON="no-such-python")
    assert (done.returncode, done.stderr) == (
        2,
        "get_jawiki.sh: error: no-such-python not found: install Python 3.11 or newer, or name one with PYTHON=...\n",
    )


def test_a_cdpath_does_not_mislead_it(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "here").symlink_to(ROOT)
    done = subprocess.run(
        ["bash", f"here/{SCRIPT.name}", str(tmp_path / "x.txt")],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable, "CDPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.stderr.startswith(f"extract_jawiki.py: error: {tmp_path}/x.txt is not a MediaWiki dump")


def test_help_explains_every_argument(tmp_path):
    done = get("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("DATE", "latest", "FILE...", "--mirror URL", "--num_workers N", "PYTHON"):
        assert word in done.stdout


def test_shellcheck_finds_nothing():
    tool = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if not tool:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([tool, str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def processes_of(folder: Path) -> list[int]:
    """Processes that work in a folder and have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == folder and (process / "stat").read_text().rpartition(")")[2][1] != "Z":
                found.append(int(process.name))
    return found


AS_FROM_A_TERMINAL = ["env", "--default-signal=HUP"]  # under nohup, children ignore it


@pytest.mark.parametrize(
    "stage, end",
    [
        *(("download", signal.SIGHUP), ("extraction", signal.SIGTERM), ("extraction", signal.SIGKILL)),
        *(pytest.param("download", end, marks=pytest.mark.full) for end in (signal.SIGTERM, signal.SIGKILL)),
        pytest.param("extraction", signal.SIGHUP, marks=pytest.mark.full),
    ],
)
def test_no_stage_runs_on_when_the_script_is_killed(tmp_path, server, stage, end):
    if stage == "download":
        server.hold = threading.Event()
        given = ["20261101", "--mirror", server.url]
        server.add_classic("20261101", bytes(2000))
        server.odd = [lambda handler, data, start: server.hold.wait(30)]
    else:
        os.mkfifo(tmp_path / "dump.xml")
        given = ["dump.xml"]
    environment = os.environ | {"PYTHON": sys.executable, "no_proxy": "127.0.0.1"}
    script = subprocess.Popen(
        [*AS_FROM_A_TERMINAL, "bash", str(SCRIPT), *given, "--num_workers", "2"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: any(server.log) if stage == "download" else (tmp_path / "data").exists())
    wait_until(lambda: len(processes_of(tmp_path)) > 1)
    script.send_signal(end)
    script.wait()
    wait_until(lambda: not processes_of(tmp_path))
    if stage == "download":
        server.hold.set()
