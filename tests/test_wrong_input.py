"""The wrong-input table: whatever a stage is given, it answers with one sentence, exit code 2, and no trace."""

import bz2
import shutil
from pathlib import Path

import pytest
from conftest import CONFIG, SAMPLE, refusal, stage

TEXT = "最初の文である。\n次の文である。\n\n"


def prepare(folder: Path, work: Path) -> None:
    """Every wrong file that the table names, beside a few right ones of the pipeline."""
    (folder / "data").mkdir()
    (folder / "output").mkdir()
    shutil.copytree(work / "output" / "model", folder / "output" / "model")
    for name in ("valid.txt", "valid.jsonl", "valid.jsonl.meta.json"):
        shutil.copy2(work / "data" / name, folder / "data" / name)
    packed = bz2.compress(SAMPLE.read_bytes())
    contents = {
        "empty": b"",
        "text.txt": TEXT.encode() * 50,
        "one-line.txt": "一文だけである。\n".encode(),
        "broken.txt": TEXT.encode() * 500 + b"\xff\xfe\n" + TEXT.encode() * 500,
        "dump.xml.bz2": packed,
        "cut.xml.bz2": packed[: len(packed) // 2],
        "corrupt.xml.bz2": packed[:5000] + bytes(64) + packed[5064:],
        "cut.xml": SAMPLE.read_bytes()[:200_000],
        "page.html": b"<html><body>not a dump</body></html>",
        "corrupt.model": (work / "output" / "spm" / "sp.model").read_bytes()[:1000],
        "no.ckpt": b"PK\x03\x04 no checkpoint",
        "published.yaml": b"trainer:\n  gpus: 1\nmodel:\n  batch_size: 8\n  shuffle_buffer_size: 10000\n",
        "broken.yaml": b"trainer: [1,\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


DUMP, CORPUS = ("extract_jawiki.py",), ("prepare_corpus.py", "--name", "x")
SAMPLES = ("prepare_train_data.py", "--output_file", "data/new.jsonl", "--filename")
TOKENIZER, TRAINER = ("train_tokenizer.py", "--vocab_size", 300, "--train_file"), ("trainer.py", "--config")
TABLE = {
    "no dump at all": (("get_jawiki.sh",), "no dump is named"),
    "a dump that is not there": (("get_jawiki.sh", "none.xml.bz2"), "none.xml.bz2 is neither a date (YYYYMMDD)"),
    "no such day": (("get_jawiki.sh", "20261399"), "20261399 is no date of a dump: write YYYYMMDD"),
    "a misspelt option of the shell script": (("get_jawiki.sh", "latest", "--miror", "x"), "--miror is not an option"),
    "a bz2 cut in half": (("get_jawiki.sh", "cut.xml.bz2"), "cut.xml.bz2"),
    "a corrupt bz2": ((*DUMP, "corrupt.xml.bz2"), "corrupt.xml.bz2"),
    "an empty dump": ((*DUMP, "empty"), "empty is empty"),
    "an XML without its end": ((*DUMP, "cut.xml"), "cut.xml is cut short"),
    "a page of the web for a dump": ((*DUMP, "page.html"), "page.html is not a"),
    "a text for a dump": ((*DUMP, "text.txt"), "text.txt is not a"),
    "no workers": ((*DUMP, "dump.xml.bz2", "--num_workers", 0), "--num_workers must be 1 or more, got 0"),
    "a corpus too small to split": ((*CORPUS, "one-line.txt"), "train, valid and test need one each"),
    "a dump for a text": ((*CORPUS, "dump.xml.bz2"), "dump.xml.bz2"),
    "a negative number of sentences": ((*CORPUS, "text.txt", "--valid_sentences", -1), "--valid_sentences"),
    "a text that is not there": ((*TOKENIZER, "none.txt"), "none.txt not found: "),
    "an empty text": ((*TOKENIZER, "empty"), "empty is empty: "),
    "samples for a text": ((*TOKENIZER, "data/valid.jsonl"), "data/valid.jsonl is JSON"),
    "a compressed text": ((*TOKENIZER, "dump.xml.bz2"), "dump.xml.bz2 is not"),
    "a vocabulary larger than the text supports": (
        ("train_tokenizer.py", "--train_file", "data/valid.txt", "--vocab_size", 90000),
        "the text supports no more than",
    ),
    "a text that is not UTF-8 in the middle": ((*SAMPLES, "broken.txt"), "broken.txt is not UTF-8 at byte"),
    "documents of one sentence": ((*SAMPLES, "one-line.txt"), "has no document of two sentences or more"),
    "a wrong type": ((*SAMPLES, "text.txt", "--seed", "one"), "--seed must be a whole number, got 'one'"),
    "several wrong options": (
        (*SAMPLES, "text.txt", "--max_seq_len", 3, "--buffer_size", 0),
        "--max_seq_len must be from 8 to 65,536, got 3; --buffer_size must be 1 or more, got 0",
    ),
    "a misspelt option": (
        (*SAMPLES, "text.txt", "--max_len", 5),
        "--max_len is not an option of prepare_train_data.py",
    ),
    "no tokenizer": ((*SAMPLES, "text.txt", "--tokenizer_model", "none"), "none not found: "),
    "a folder for a text": ((*SAMPLES, "data"), "data is a folder, a file is needed"),
    "a corrupt SentencePiece model": (
        ("convert_tokenizer.py", "--spm_model", "corrupt.model"),
        "corrupt.model is not a SentencePiece model, or is damaged",
    ),
    "a text for a SentencePiece model": (("convert_tokenizer.py", "--spm_model", "text.txt"), "text.txt is not a Sent"),
    "a configuration of the published kind": ((*TRAINER, "published.yaml"), "trainer.gpus: now trainer.accelerator"),
    "a broken configuration": ((*TRAINER, "broken.yaml"), "broken.yaml is not YAML, line 2"),
    "no samples": ((*TRAINER, CONFIG), "data/train.jsonl not found: make it with prepare_train_data.py"),
    "a file that is no checkpoint": (
        ("export_model.py", "--ckpt_path", "no.ckpt", "--config", CONFIG),
        "no.ckpt cannot be read as a checkpoint",
    ),
    "no run to test": (("test.py", "--ckpt_path", "best"), "there is no run under lightning_logs"),
    "nothing to release": (("release_model.py", "--name", "x"), "model"),
    "a name that the Hub refuses": (("release_model.py", "--name", "a/b c"), "a/b c"),
}


@pytest.mark.parametrize("row", TABLE, ids=[name.replace(" ", "-") for name in TABLE])
def test_wrong_input_gets_one_sentence_and_leaves_nothing(row, work, samples, tmp_path):
    prepare(tmp_path, work)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    command, expected = TABLE[row]
    assert expected in refusal(*command, cwd=tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_the_table_is_long_enough():
    assert len(TABLE) >= 25


@pytest.mark.parametrize(
    "script", ["prepare_train_data.py", pytest.param("trainer.py", marks=pytest.mark.full), "release_model.py"]
)
def test_a_new_interpreter_says_nothing_beside_its_sentence(tmp_path, script):
    """Neither its libraries, when they are imported, nor what runs when it ends."""
    refused = stage(script, "--nonsense", "1", cwd=tmp_path, check=False, env={})
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
