"""A private corpus keeps its text for itself: no line of it in what a stage prints, records, logs or releases."""

import json
import re
from pathlib import Path

import pytest
from conftest import CONFIG, stage
from test_parity import tampered
from texts import text

import convert_tokenizer
import export_model
import release_model
import trainer
from bert_ja import files, hard_lines

NAME = "森の診療所"  # of the corpus, which may be said
MARKER = "珊瑚色の鍵穴"
VOCABULARY = {"sp.model", "sp.vocab", "spm.model", "tokenizer.json"}  # hold pieces of the text, as they must
WINDOW = 6  # characters in a row, which only a piece of the text has
FEW = (
    *("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1),
    *("--trainer.check_val_every_n_epoch", 1, "--trainer.log_every_n_steps", 1, "--model.num_warmup_steps", 1),
)


def pieces(content: str) -> set[str]:
    """Every WINDOW kana and kanji in a row, JSON's \\u3042 read as あ."""
    plain = re.sub(r"\\u([0-9a-f]{4})", lambda escape: chr(int(escape[1], 16)), content)
    runs = re.findall(rf"[\u3041-\u30ff\u4e00-\u9fff]{{{WINDOW},}}", plain)
    return {run[start : start + WINDOW] for run in runs for start in range(len(run) - WINDOW + 1)}


def leaks(folder: Path, talk: str, private: str) -> dict[str, set[str]]:
    """Pieces of a private text in what was said, and in every file below `folder` but texts and vocabularies."""
    found = {"what was said": talk}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".txt" and path.name not in VOCABULARY:
            found[str(path.relative_to(folder))] = path.read_bytes().decode("utf-8", errors="replace")
    text_pieces = pieces(private)
    return {name: both for name, said in found.items() if (both := pieces(said) & text_pieces)}


def private_records(folder: Path) -> dict[str, bool]:
    """What the record of each output below `folder` says."""
    return {
        str(path.relative_to(folder)): files.corpus_facts(json.loads(path.read_text()))["private"]
        for path in sorted(folder.rglob("*meta.json"))
        if not path.parent.name.endswith(".columns")
    }


def unlikely_piece(content) -> None:
    """A fault in tokenizer.json: the likeliest piece of three characters that is not in our own list."""
    own = "".join(hard_lines.ADVERSARIAL_LINES)
    next(entry for entry in content["model"]["vocab"][5:] if len(entry[0]) > 2 and entry[0] not in own)[1] -= 30


def test_what_is_made_of_private_samples_is_private_and_shows_no_text(samples, copy, monkeypatch, capsys):
    folder = copy("data/train.txt", "data/train.jsonl", "data/valid.jsonl", "output")
    monkeypatch.chdir(folder)
    record = files.read_record("data/train.jsonl")
    files.write_record("data/train.jsonl", record | {"corpus": {"name": NAME, "private": True}})
    trainer.main(["--config", str(CONFIG), *map(str, FEW)])
    export_model.main("last")
    convert_tokenizer.main()
    release_model.main(test_result=None, license="other")
    talk = "".join(capsys.readouterr())
    made = ("data/train.jsonl.meta.json", "model/meta.json", "model/tokenizer.meta.json")
    release = "release/bert-base-ja"
    assert [name for name, private in private_records(folder).items() if private] == [*made, f"{release}/meta.json"]
    assert leaks(folder, talk, Path("data/train.txt").read_text()) == {}
    assert files.read_record("model")["history"] != []
    assert "history" not in files.read_record(release)
    assert talk.count("warning: the corpus is private, and the vocabulary ") == 1
    assert f"- Text: {NAME}\n" in Path(release, "README.md").read_text()


@pytest.mark.full
def test_every_stage_keeps_a_private_text_for_itself(tmp_path):
    """From text to release; then a tokenizer that differs: a text without a record shows there, this one does not."""
    content = text(300, seed=4) + f"{MARKER}を見つけた。\n隣の猫が{MARKER}に触れた。\n\n" * 20
    (tmp_path / "mine.txt").write_text(content)
    talk = []

    def run(script: str, *arguments, **options) -> int:
        ended = stage(script, *arguments, cwd=tmp_path, check=False, **options)
        talk.append(ended.stdout + ended.stderr)
        return ended.returncode

    parts = ("--valid_sentences", 150, "--test_sentences", 150, "--filters", "none")
    codes = [run("prepare_corpus.py", "mine.txt", "--name", NAME, "--private_corpus", "True", *parts)]
    codes.append(run("train_tokenizer.py", "--train_file", "data/train.txt", "--vocab_size", 300))
    for part in ("train", "valid", "test"):
        command = ("--filename", f"data/{part}.txt", "--get_raw", part != "train")
        codes.append(run("prepare_train_data.py", *command, stdout=tmp_path / "data" / f"{part}.jsonl"))
    codes.append(run("trainer.py", "--config", CONFIG, *FEW))
    codes.append(run("test.py", "--ckpt_path", "last", stdout=tmp_path / "test_result.json"))
    codes.append(run("export_model.py", "--ckpt_path", "last"))
    codes += [run("convert_tokenizer.py"), run("release_model.py", "--license", "other")]
    assert codes == [0] * 10, talk
    records = private_records(tmp_path)
    assert len(records) == 13
    assert all(records.values()), records
    assert leaks(tmp_path, "".join(talk), content) == {}

    tampered(tmp_path / "model", tmp_path / "wrong", unlikely_piece)
    check = ("convert_tokenizer.py", "--check_only", "True", "--output_dir", "wrong", "--text_file")
    assert [run(*check, "mine.txt"), run(*check, "data/train.txt")] == [2, 2]
    assert [pieces(said) & pieces(content) != set() for said in talk[-2:]] == [True, False]
