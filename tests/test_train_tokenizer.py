"""Training a tokenizer: whole and verified folders, the same bytes every time, errors that say the number."""

import bz2
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from test_tokenization import made_up_lines

import train_tokenizer
from bert_ja import files, hard_lines, tokenization
from bert_ja.cli import StageError

OPTIONS = {"input_sentence_size": 1500, "vocab_size": 300}
FILES = {"spm": ["meta.json", "sp.model", "sp.vocab"], "model": ["meta.json", *tokenization.FOLDER_FILES]}


def write_text(folder: Path, lines: list[str]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / "train.txt"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """More lines than OPTIONS draw."""
    return [line for number, made_up in enumerate(made_up_lines(3000)) for line in (made_up, "")[: 1 + number % 2]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lines) -> Path:
    """A folder in which the stage ran once."""
    folder = tmp_path_factory.mktemp("trained")
    write_text(folder, lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_tokenizer.main("data/train.txt", **OPTIONS)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file below output/ but what records say of their run."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "output").glob("*/*")}
    for name in [name for name in contents if name.endswith("meta.json")]:
        record = json.loads(contents[name])
        del record["run"]
        contents[name] = json.dumps(record).encode()
    return contents


def run(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train_tokenizer.py"), *arguments], cwd=folder, stderr=subprocess.PIPE, text=True
    )


COMMAND = ("--train_file", "data/train.txt", "--input_sentence_size", "1500", "--vocab_size", "300")


# What it writes


def test_both_folders_are_complete(trained):
    for name, expected in FILES.items():
        assert sorted(path.name for path in (trained / "output" / name).iterdir()) == sorted(expected)
    model = (trained / "output/spm/sp.model").read_bytes()
    assert (trained / "output/model/spm.model").read_bytes() == model
    assert (trained / "output/spm/sp.vocab").read_text(encoding="utf-8").startswith("<pad>\t0\n<unk>\t0\n[CLS]\t0\n")
    assert sorted(path.name for path in trained.iterdir()) == ["data", "output"]


def test_the_record_says_what_later_stages_compare(trained, lines):
    record = files.require_record(trained / "output" / "model", "train_tokenizer.py")
    facts = {"sha256": files.sha256(trained / "output/spm/sp.model"), "vocab_size": 300}
    assert record["tokenizer"] == facts == tokenization.tokenizer_facts(trained / "output/model")
    assert record["options"] == {"input_sentence_size": 1500, "vocab_size": 300, "character_coverage": 0.9995}
    assert record["inputs"] == [files.describe(trained / "data/train.txt")]
    assert record["counts"] == {"drawn": 1500, "eligible": 3000, "blank": 1500, "too_long": 0, "reserved": 0}
    expected = {"lines": 3000 + len(hard_lines.ADVERSARIAL_LINES), "differences": 0}
    assert {name: record["parity"][name] for name in expected} == expected
    assert record["outputs"] == files.describe_folder(trained / "output/model")
    assert record["corpus"] == files.corpus_facts(None)
    for name, content in outputs(trained).items():
        assert str(trained).encode() not in content, name


@pytest.mark.full
def test_another_process_on_one_core_gives_the_same_bytes(trained, lines, tmp_path):
    write_text(tmp_path, lines)
    process = run(tmp_path, *COMMAND)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    talk = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 0, talk
    assert talk[0] == "training 300 pieces on 1,500 of 3,000 sentences"
    assert talk[-1].startswith(
        "wrote 300 pieces from 1,500 sentences to output/spm and output/model, same ids by AutoTo"
    )
    assert outputs(tmp_path) == outputs(trained)


def test_another_seed_draws_other_sentences(trained, lines, place):
    write_text(place, lines)
    train_tokenizer.main("data/train.txt", **OPTIONS, seed=7)
    assert outputs(place)["output/spm/sp.model"] != outputs(trained)["output/spm/sp.model"]


@pytest.mark.full
def test_a_second_run_replaces_the_first(lines, place):
    write_text(place, lines)
    train_tokenizer.main("data/train.txt", vocab_size=250)
    train_tokenizer.main("data/train.txt", **OPTIONS)
    assert tokenization.tokenizer_facts("output/model")["vocab_size"] == 300
    assert sorted(path.name for path in (place / "output").iterdir()) == ["model", "spm"]


def test_what_is_known_of_the_corpus_is_carried_on(lines, place):
    text = write_text(place, lines)
    dump = {"date": "20261101"}
    corpus = {"name": "jawiki", "license": "CC BY-SA 4.0", "source": None, "dump": dump, "private": True}
    files.write_record(text, {"outputs": [files.describe(text)], "corpus": corpus})
    train_tokenizer.main("data/train.txt", **OPTIONS)
    for folder in ("output/spm", "output/model"):
        assert files.read_record(folder)["corpus"] == corpus


def test_lines_that_cannot_be_drawn_are_told(lines, place, capsys):
    write_text(place, [*lines, "文" * 1500, "表▅"])
    train_tokenizer.main("data/train.txt", **OPTIONS)
    talk = capsys.readouterr().err.splitlines()
    assert talk[:2] == [
        "warning: 1 lines are over 4,192 bytes: not drawn from",
        "warning: 1 lines hold U+2585 or a zero byte, reserved by SentencePiece: not drawn from",
    ]


# A private corpus

MARKER = "珊瑚色の鍵穴が"


def difference(lines: list[str], folder: Path, **options) -> str:
    """The error of a text whose first line AutoTokenizer gets wrong."""
    write_text(folder, [MARKER, *lines[:150]])
    right = tokenization.tokenizer_json
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StageError) as error:
        patch.setattr(tokenization, "tokenizer_json", lambda model: right(model).replace('"NFC"', '"NFD"'))
        patch.setattr(hard_lines, "ADVERSARIAL_LINES", ())
        train_tokenizer.main("data/train.txt", vocab_size=200, **options)
    return str(error.value)


@pytest.mark.parametrize("private", [None, True])
def test_the_first_differing_line_of_a_private_corpus_is_not_shown(lines, place, capsys, private):
    text = difference(lines, place, private_corpus=private)
    said = text + "".join(capsys.readouterr())
    where = "line 1 of the sample of data/train.txt, "
    assert re.search(r" \([\d,]+ of [\d,]+ comparisons\): " + where, text)
    if private:
        assert text.endswith(where + "not shown, the corpus is private")
        assert [part for part in (MARKER, "珊瑚", "鍵穴", " ids ") if part in said] == []
    else:
        assert MARKER in said


def test_what_a_record_calls_private_cannot_be_made_public(lines, place):
    text = write_text(place, lines)
    files.write_record(text, {"outputs": [files.describe(text)], "corpus": {"private": True}})
    with pytest.raises(StageError, match="^data/train.txt is of a private corpus, as its record says, and so is all"):
        train_tokenizer.main("data/train.txt", private_corpus=False)
    assert not (place / "output").exists()


def test_a_private_text_without_a_record_makes_a_private_tokenizer(lines, place, capsys):
    write_text(place, [MARKER, *lines[:150]])
    train_tokenizer.main("data/train.txt", vocab_size=200, private_corpus=True)
    for folder in ("output/spm", "output/model"):
        assert files.read_record(folder)["corpus"] == files.corpus_facts(None, private=True)
        assert MARKER not in Path(folder, "meta.json").read_text(encoding="utf-8")
    assert MARKER not in "".join(capsys.readouterr())


# What goes wrong


KILLED = """
import os, signal, sys
import train_tokenizer
from bert_ja import cli, tokenization
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "training":
    tokenization.train_sentencepiece = kill
else:
    train_tokenizer.verify = kill
cli.run(train_tokenizer.main)
"""


@pytest.mark.parametrize("moment", ["training", "verifying"])
def test_killed_at_any_moment_it_leaves_nothing_and_starts_over(trained, lines, tmp_path, moment):
    write_text(tmp_path, lines)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *COMMAND],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "output/.model.partial/tokenizer_config.json").exists() == (moment == "verifying")
    assert not (tmp_path / "output/spm").exists()
    assert not (tmp_path / "output/model").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        train_tokenizer.main("data/train.txt", **OPTIONS)
    assert outputs(tmp_path) == outputs(trained)
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["model", "spm"]


def test_a_tokenizer_that_differs_never_gets_into_place(lines, place, monkeypatch):
    write_text(place, lines)
    monkeypatch.setattr(hard_lines, "ADVERSARIAL_LINES", hard_lines.ADVERSARIAL_LINES[:40])
    right = tokenization.tokenizer_json
    monkeypatch.setattr(
        tokenization, "tokenizer_json", lambda model: right(model).replace('"type": "NFC"', '"type": "NFD"')
    )
    with pytest.raises(
        StageError, match="does not tokenize as its SentencePiece model does .*: line .* of our own list, "
    ):
        train_tokenizer.main("data/train.txt", **OPTIONS)
    assert list((place / "output").iterdir()) == []


@pytest.mark.parametrize("wrong", [32000, 30])
def test_an_impossible_vocabulary_leaves_nothing(lines, place, wrong):
    write_text(place, lines)
    with pytest.raises(StageError, match="pass --vocab_size [0-9]+ or (more|less)"):
        train_tokenizer.main("data/train.txt", vocab_size=wrong)
    assert not (place / "output").exists()


HINT = "run get_jawiki.sh first, or pass --train_file with a text of one sentence a line"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("no.txt", None, "no.txt not found: "),
        ("empty.txt", b"", "empty.txt is empty: "),
        ("dump.xml.bz2", bz2.compress("文です。\n".encode() * 999), "dump.xml.bz2 is not UTF-8 text (byte "),
        ("train.jsonl", b'{"input_ids": [2, 3]}\n', "train.jsonl is JSON, text with one sentence a line is needed: "),
        ("dump.xml", b"<mediawiki>", "dump.xml is XML, text with one sentence a line is needed: "),
        ("blank.txt", b"\n \n\n", "blank.txt has no line to train on, all are blank or too long: "),
        ("long.txt", b"a" * 5000 + b"\n", "long.txt has no line to train on, all are blank or too long: "),
    ],
)
def test_a_wrong_input_is_refused_in_one_sentence(place, name, content, message):
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(StageError) as error:
        train_tokenizer.main(name, vocab_size=300)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(HINT)
    assert not (place / "output").exists()


def test_a_text_that_breaks_off_later_is_refused(place):
    Path("cut.txt").write_bytes("文です。\n".encode() * 1000 + b"\xe3\x81")
    with pytest.raises(StageError, match="cut.txt line 1,001 is not UTF-8"):
        train_tokenizer.main("cut.txt")


def test_wrong_options_are_said_together(lines, place):
    write_text(place, lines)
    with pytest.raises(StageError) as error:
        train_tokenizer.main("data/train.txt", 0, 5, "output", "output/model", character_coverage=95)
    assert str(error.value) == (
        "--input_sentence_size must be 1 or more, got 0; --vocab_size must be 7 or more, got 5; "
        "--character_coverage must be from 0.98 to 1, got 95; "
        "--spm_model_dir output and --model_dir output/model must be two folders, neither inside the other"
    )


def test_a_folder_with_other_files_is_not_replaced(lines, place):
    write_text(place, lines)
    (place / "output/model").mkdir(parents=True)
    (place / "output/model/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(StageError, match="output/model holds pytorch_model.bin, which this stage did not write"):
        train_tokenizer.main("data/train.txt")
    assert (place / "output/model/pytorch_model.bin").read_bytes() == b"x"


def test_a_disk_that_is_too_small_is_refused_before_the_work(lines, place, monkeypatch):
    write_text(place, lines)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    with pytest.raises(StageError, match="the tokenizer needs about 12 MB on the disk of .*, but only 3 MB are free"):
        train_tokenizer.main("data/train.txt")
    assert not (place / "output").exists()


def test_a_stream_is_refused(place):
    os.mkfifo("pipe.txt")
    with pytest.raises(StageError, match="pipe.txt is not a regular file"):
        train_tokenizer.check("pipe.txt", 1, 100, "a", "b", 1.0)
