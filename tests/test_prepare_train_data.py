"""Stage 3 as a user calls it: standard output and --output_file, kills, and every sentence with which it refuses."""

import bz2
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, refusal, stage
from texts import text, write_tokenizer

import prepare_train_data
from bert_ja import files
from bert_ja.cli import StageError

SCRIPT = "prepare_train_data.py"
PUBLISHED = (
    *("--filename", "data/train.txt", "--buffer_size", 10000, "--tokenizer_model", "output/model"),
    *("--max_seq_len", 512, "--seed", 1000, "--get_raw"),
)
NAME_A_TEXT = "make it with get_jawiki.sh, or name your own text with --filename"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def here(tmp_path, tokenizer) -> Path:
    """A folder with data/train.txt, 60 documents, and output/model."""
    (tmp_path / "data").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "model").symlink_to(tokenizer)
    (tmp_path / "data" / "train.txt").write_text(text(60))
    return tmp_path


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def record_of(path: Path) -> dict:
    """A record without what may differ between equal runs."""
    record = files.require_record(path, SCRIPT)
    assert sorted(record.pop("run")) == ["command", "finished", "host", "num_workers", "paths", "seconds"]
    return record


@pytest.mark.parametrize("raw", ["False", "True"])
def test_the_published_command_and_output_file_give_the_same_bytes_and_records(here, raw):
    by_shell = stage(SCRIPT, *PUBLISHED, raw, cwd=here, stdout=here / "data" / "train.jsonl")
    (here / "other").mkdir()
    options = ("--output_file", "other/train.jsonl", "--num_workers", 1)
    by_option = stage(SCRIPT, "--filename=data/train.txt", f"--get_raw={raw}", *options, cwd=here)
    shell, option = here / "data" / "train.jsonl", here / "other" / "train.jsonl"
    assert shell.read_bytes() == option.read_bytes()
    assert record_of(shell) == record_of(option)
    assert names(here / "data") == ["train.jsonl", "train.jsonl.meta.json", "train.txt"]
    assert names(here / "other") == ["train.jsonl", "train.jsonl.meta.json"]
    samples, documents = shell.read_bytes().count(b"\n"), 60
    for result, path in ((by_shell, shell), (by_option, "other/train.jsonl")):
        assert result.stdout == ""
        assert re.fullmatch(
            rf"wrote {samples:,} samples, \d+\.\d tokens on average \({documents} documents, \d\d\.\d% random pairs, "
            rf"0 cut to 512\), to {path} in \d+ s",
            result.stderr.splitlines()[-1],
        )


def test_a_record_says_where_the_samples_come_from(here, tokenizer):
    about = {"name": "jawiki", "license": "CC BY-SA 4.0", "source": None, "dump": None, "private": False}
    source = here / "data" / "train.txt"
    files.write_record(source, {"outputs": [files.describe(source)], "corpus": about})
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    record = record_of(here / "a.jsonl")
    found = [json.loads(line) for line in (here / "a.jsonl").read_bytes().splitlines()]
    ids = [sample["input_ids"] for sample in found]
    lines = source.read_text().split("\n")
    assert record == {
        "stage": SCRIPT,
        "options": {
            "max_seq_len": 512,
            "buffer_size": 10000,
            "get_raw": True,
            "mlm_probability": 0.15,
            "mask_replace_prob": 0.8,
            "random_replace_prob": 0.1,
        },
        "seed": 1000,
        "versions": files.versions("sentencepiece", "numpy"),
        "inputs": [files.describe(source)],
        "outputs": [files.describe(here / "a.jsonl")],
        "counts": {
            "sentences": sum(map(bool, lines)),
            "documents": 60,
            "cut_sentences": 0,
            "lines_without_tokens": 0,
            "cut_pairs": 0,
            "longest_sample": max(map(len, ids)),
            "masked_tokens": sum(label != -100 for sample in found for label in sample["labels"]),
            "random_pairs": sum(sample["next_sentence_label"] for sample in found),
            "samples": sum(map(bool, lines)) - 60,
            "tokens": sum(map(len, ids)),
            "unknown_tokens": record["counts"]["unknown_tokens"],
        },
        "tokenizer": {"sha256": files.sha256(tokenizer / "spm.model"), "vocab_size": 200},
        "longest_sample": max(map(len, ids)),
        "corpus": about,
    }


def test_a_pipe_gets_the_samples_and_no_record(here):
    piped = stage(SCRIPT, *PUBLISHED, "False", cwd=here)
    stage(SCRIPT, *PUBLISHED, "False", "--output_file", "a.jsonl", cwd=here)
    assert piped.stdout == (here / "a.jsonl").read_text()
    assert names(here) == ["a.jsonl", "a.jsonl.meta.json", "data", "output"]
    assert names(here / "data") == ["train.txt"]
    assert ", to standard output in " in piped.stderr.splitlines()[-1]


def test_one_document_gets_a_warning(here):
    (here / "data" / "train.txt").write_text(text(1, seed=5, most_sentences=9))
    result = stage(SCRIPT, *PUBLISHED, "False", "--output_file=a.jsonl", cwd=here)
    said = (
        "warning: data/train.txt is one document (no blank lines): random sentences are drawn from the document itself"
    )
    assert said in result.stderr.splitlines()


# A private corpus

MARKER = "珊瑚色の鍵穴"


@pytest.mark.parametrize("says", ["the text", "an edited text", "the tokenizer", "the user", "nobody"])
def test_samples_of_a_private_text_or_tokenizer_are_private(here, tmp_path, monkeypatch, capsys, says):
    monkeypatch.chdir(here)
    source, asked = here / "data" / "train.txt", True if says == "the user" else None
    source.write_text(f"{MARKER}を見つけた。\n{MARKER}に触れた。\n\n" + source.read_text())
    model = shutil.copytree(here / "output" / "model", here / "copy")
    for path, private in ((source, says.endswith(" text")), (model, says == "the tokenizer")):
        outputs = [files.describe(path)] if path.is_file() else files.describe_folder(path)
        files.write_record(path, {"outputs": outputs, "corpus": {"name": "ours", "private": private}})
    if says == "an edited text":
        source.write_text(source.read_text() + "最後の文。\n")
    prepare_train_data.main("data/train.txt", tokenizer_model="copy", output_file="a.jsonl", private_corpus=asked)
    name = None if says == "an edited text" else "ours"
    expected = {"name": name, "license": None, "source": None, "dump": None, "private": says != "nobody"}
    assert record_of(here / "a.jsonl")["corpus"] == expected
    said = "".join(capsys.readouterr()) + Path("a.jsonl.meta.json").read_text()
    assert MARKER not in said and "鍵穴" not in said


def test_a_private_text_is_not_quoted_where_it_is_broken(here):
    (here / "data" / "train.txt").write_bytes((f"{MARKER}を見つけた。\n" * 500).encode() + MARKER.encode()[:-1] + b"\n")
    for workers in (1, 2):
        options = ("--output_file=a.jsonl", "--num_workers", workers, "--private_corpus", "True")
        found = refused(here, *PUBLISHED, "False", *options)
        assert found.startswith("data/train.txt is not UTF-8 at byte ")
        assert "鍵穴" not in found


def test_what_a_record_calls_private_cannot_be_made_public(here):
    files.write_record(here / "data" / "train.txt", {"outputs": [], "corpus": {"private": True}})
    assert refused(here, *PUBLISHED, "False", "--output_file=a.jsonl", "--private_corpus", "False") == (
        "data/train.txt is of a private corpus, as its record says, and so is all that is made from it: "
        "leave private_corpus out, or name another input"
    )


# Kills

KILLED = """
import os, runpy, signal, sys
from bert_ja import samples, tokenization
stage, calls = os.getpid(), 0
samples.TEXT_BLOCK, samples.SAMPLE_BLOCK = 1000, 20
load, write = tokenization.load_sentencepiece, samples.to_json

def third_call_kills():
    global calls
    calls += 1
    if calls == 3:
        os.kill(stage, signal.SIGKILL)

class Encoder:
    def __init__(self, *arguments):
        self.encoder = load(*arguments)
    def encode(self, lines):
        third_call_kills()
        return self.encoder.encode(lines)
    def __getattr__(self, name):
        return getattr(self.encoder, name)

def kill_while_writing(*arguments):
    third_call_kills()
    return write(*arguments)

if sys.argv.pop(1) == "encoding":
    tokenization.load_sentencepiece = Encoder
else:
    samples.to_json = kill_while_writing
sys.argv[0] = "prepare_train_data.py"
runpy.run_path(os.path.join(os.environ["PYTHONPATH"], sys.argv[0]), run_name="__main__")
"""


def run_killed(when: str, *arguments, cwd: Path, **options) -> None:
    """Run the stage until a worker, encoding or writing its third block, kills the whole stage with -9."""
    command = [sys.executable, "-c", KILLED, when, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, timeout=60, **options)
    assert result.returncode == -signal.SIGKILL, result.stderr


@pytest.mark.parametrize("when", ["encoding", "writing"])
def test_kill_9_and_a_second_run_give_the_same_bytes(here, when):
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=whole.jsonl", cwd=here)
    run_killed(when, *PUBLISHED, "True", "--output_file=a.jsonl", "--num_workers=2", cwd=here)
    assert not (here / "a.jsonl").exists()
    assert (here / ".a.jsonl.partial").exists()
    result = stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    assert result.stderr.splitlines()[0] == "a.jsonl: an earlier run did not finish, starting over"
    assert (here / "a.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert [name for name in names(here) if name.startswith(".")] == []


def test_what_kill_9_leaves_behind_standard_output_is_refused_and_a_second_run_is_whole(here):
    stage(SCRIPT, *PUBLISHED, "False", cwd=here, stdout=here / "a.jsonl")
    whole = (here / "a.jsonl").read_bytes()
    with open(here / "a.jsonl", "wb") as file:
        run_killed("writing", *PUBLISHED, "False", "--num_workers=1", cwd=here, stdout=file)
    with pytest.raises(StageError, match="has no record .* so it may be cut short: make it again with prepare_train"):
        files.require_record(here / "a.jsonl", SCRIPT)
    stage(SCRIPT, *PUBLISHED, "False", cwd=here, stdout=here / "a.jsonl")
    assert (here / "a.jsonl").read_bytes() == whole
    assert names(here) == ["a.jsonl", "a.jsonl.meta.json", "data", "output"]


# Refusals


def refused(here, *arguments, **options) -> str:
    """The sentence, after a check that nothing is left of the attempt."""
    before = sorted(path for path in here.rglob("*"))
    sentence = refusal(SCRIPT, *arguments, cwd=here, **options)
    assert sorted(path for path in here.rglob("*")) == before
    return sentence


def test_wrong_options_are_refused_all_at_once(here):
    wrong = ("--max_seq_len=7", "--buffer_size=0", "--num_workers=0", "--mlm_probability=1", "--mask_replace_prob=0.95")
    assert refused(here, "--filename=data/train.txt", *wrong) == (
        "--max_seq_len must be from 8 to 65,536, got 7; --buffer_size must be 1 or more, got 0; "
        "--num_workers must be 1 or more, got 0; --mlm_probability must lie between 0 and 1, got 1.0; "
        "--mask_replace_prob and --random_replace_prob must be 0 or more and 1 or less together, got 0.95 and 0.1"
    )
    assert refused(here, "--filename=data/train.txt", "--max_seq_len=70000", "--random_replace_prob=nan") == (
        "--max_seq_len must be from 8 to 65,536, got 70000; "
        "--mask_replace_prob and --random_replace_prob must be 0 or more and 1 or less together, got 0.8 and nan"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, f"data/a.txt not found: {NAME_A_TEXT}"),
        (b"", f"data/a.txt is empty: {NAME_A_TEXT}"),
        (b"\0\1\2\3" * 9, f"data/a.txt is not text (it holds zero bytes): {NAME_A_TEXT}"),
        (b'{"id": 1}\n', f"data/a.txt is JSON, text with one sentence a line is needed: {NAME_A_TEXT}"),
        (b"<mediawiki>\n", f"data/a.txt is XML, text with one sentence a line is needed: {NAME_A_TEXT}"),
        (bz2.compress(text(9).encode()), f"data/a.txt is not UTF-8 text (byte 10): {NAME_A_TEXT}"),
        (
            text(60).encode() + b"\xff\n" + text(60).encode(),
            f"data/a.txt is not UTF-8 at byte {len(text(60).encode()):,}: "
            "repair it (iconv -c -f UTF-8 -t UTF-8), run again",
        ),
        (
            "一つの文。\n\nもう一つの文。\n\n\n".encode(),
            "data/a.txt has no document of two sentences or more (2 sentences, 2 documents): "
            "a document's lines must stand together, with a blank line after them",
        ),
        (
            b"\n \n\n",
            "data/a.txt has no document of two sentences or more (0 sentences, 0 documents): "
            "a document's lines must stand together, with a blank line after them",
        ),
    ],
)
def test_what_is_no_text_of_documents_is_refused(here, content, sentence):
    if content is not None:
        (here / "data" / "a.txt").write_bytes(content)
    found = refused(here, "--filename=data/a.txt", "--output_file=data/a.jsonl", "--num_workers=2")
    assert re.sub(r"byte \d+\)", "byte 10)", found) == sentence


def test_a_broken_text_leaves_nothing_in_the_file_behind_standard_output(here):
    (here / "data" / "train.txt").write_bytes(text(60).encode() + b"\xff\n")
    found = refusal(SCRIPT, *PUBLISHED, "False", cwd=here, stdout=here / "a.jsonl")
    assert found.startswith("data/train.txt is not UTF-8 at byte ")
    assert (here / "a.jsonl").read_bytes() == b""
    assert names(here) == ["a.jsonl", "data", "output"]


def test_a_pipe_as_the_text_is_refused_before_it_is_read(here):
    os.mkfifo(here / "a.txt")
    assert refused(here, "--filename=a.txt", "--output_file=a.jsonl") == (
        "a.txt is not a regular file: save the text to a file first"
    )


def test_a_missing_or_damaged_tokenizer_is_refused(here):
    asked = ("--filename=data/train.txt", "--output_file=a.jsonl", "--tokenizer_model")
    assert refused(here, *asked, "output/other") == "output/other not found: run train_tokenizer.py first"
    assert refused(here, *asked, "data") == (
        "data has no spm.model: name a folder that train_tokenizer.py wrote, such as output/model"
    )
    (here / "data" / "spm.model").write_bytes(b"not a model")
    assert refused(here, *asked, "data") == (
        "data/spm.model is not a SentencePiece model, or is damaged: run train_tokenizer.py first"
    )


def test_outputs_that_cannot_be_written_are_refused(here):
    asked = ("--filename=data/train.txt", "--output_file")
    assert refused(here, *asked, "data") == "data is a folder, the name of a file to write is needed"
    assert refused(here, *asked, "data/../data/train.txt") == (
        "--output_file data/../data/train.txt is the text itself: name another file"
    )
    assert refused(here, *asked, "data/train.txt/a.jsonl").endswith(": check the path and its permissions")
    assert refused(here, *asked, "a" * 300).startswith("File name too long (")
    (here / "a.jsonl").write_text("mine\n")
    with open(here / "a.jsonl", "ab") as file:
        result = subprocess.run(
            [sys.executable, ROOT / SCRIPT, *map(str, PUBLISHED), "False"],
            cwd=here,
            stdout=file,
            stderr=subprocess.PIPE,
        )
    assert result.returncode == 2
    assert result.stderr.decode() == (
        f"{SCRIPT}: error: {here / 'a.jsonl'} already holds 5 bytes: write with > and not >>\n"
    )
    assert (here / "a.jsonl").read_text() == "mine\n"


def test_a_terminal_as_standard_output_is_refused(here):
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / SCRIPT), *map(str, PUBLISHED), "False"]
    result = subprocess.run(command, cwd=here, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.close(ours)
    assert result.returncode == 2
    assert result.stderr == (
        f"{SCRIPT}: error: samples would fill the terminal: add > data/train.jsonl, or pass --output_file\n"
    )


def test_a_disk_without_room_is_refused_before_the_work(here):
    disk = here / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    try:
        found = refusal(SCRIPT, *PUBLISHED, "False", "--output_file=disk/a.jsonl", cwd=here)
        assert names(disk) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert re.sub(r"about \d MB", "about 1 MB", found) == (
        f"this stage needs about 1 MB on the disk of {disk}, but only 0 MB are free: free some space or write elsewhere"
    )
