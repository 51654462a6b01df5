"""trainer.py --doctor: what only a whole read finds, faults together, a model that does not learn, and no trace."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIG
from test_private_corpus import pieces
from test_resuming import end_at, in_child

import trainer
from bert_ja import cli, doctor, files
from bert_ja.cli import StageError
from bert_ja.dataset import Columns
from bert_ja.pretraining import BertPretraining

SMALL = ("--config", CONFIG, "--model.hidden_size", 64, "--model.num_hidden_layers", 1)
STEPS = 80  # in which such a model learns, so that one that does not need not take more


@pytest.fixture
def here(samples, copy, monkeypatch) -> Path:
    """A folder of the test's own with samples and tokenizer at their default paths, which is the current folder."""
    folder = copy("data/train.jsonl", "data/valid.jsonl", "output/model")
    monkeypatch.chdir(folder)
    return folder


def examine(*options) -> None:
    trainer.main(["--doctor", *map(str, options)])


def refused(*options) -> str:
    """The sentence with which the doctor ends, which is no more than a line."""
    with pytest.raises(StageError) as error:
        examine(*options)
    assert "\n" not in str(error.value)
    return str(error.value)


def left(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and its time, but for the columns of samples."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.parent.name.endswith(".columns"))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def change_byte(path: Path, old: bytes, new: bytes) -> None:
    """Put other bytes of the same number where the first `old` stands; size and times stay."""
    times, content = path.stat(), path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def hurried(monkeypatch) -> None:
    """For tests of what comes before: one step of learning, which decides nothing."""
    monkeypatch.setattr(doctor, "MOST_SECONDS", 0)


def test_a_sound_run_passes_every_check_and_leaves_no_trace(here, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "MOST_STEPS", STEPS)
    before = left(here)
    examine(*SMALL)
    assert left(here) == before
    said = capsys.readouterr()
    numbers = re.sub(r"\d[\d,.]*", "N", said.out).splitlines()
    assert [line for line in numbers if "plan: " not in line] == [
        "ok data/train.jsonl: N samples, shaN as recorded",
        "ok data/valid.jsonl: N samples, shaN as recorded",
        "ok output/model: spm.model, tokenizer.json, tokenizer_config.json, shaN as recorded",
        "ok output/model: N pieces, pad N unk N cls N sep N mask N",
        "ok output/model: AutoTokenizer gives the ids of SentencePiece on N difficult lines",
        "ok attention: rows, FlashAttention needs CUDA, this is cpu",
        "ok data/train.jsonl: its columns hold the same N samples",
        "ok data/valid.jsonl: its columns hold the same N samples",
        "ok learns by heart, N samples on cpu: MLM loss N at first, N after N steps in N s (without context N on "
        "these, N on all)",
        "all is well: N checks, in N s",
    ]
    assert re.search(r"^device: cpu, ", said.err, re.MULTILINE)
    assert re.search(r"^first sample \(next_sentence_label", said.err, re.MULTILINE)
    assert "warning" not in said.err.lower()


def test_all_that_only_a_whole_read_finds_is_named_at_once(here, hurried, capsys):
    """A byte of the samples, a space of the tokenizer's description, a token of the columns: sizes and times stay."""
    for name in ("train", "valid"):
        Columns.open(f"data/{name}.jsonl", files.read_record(f"data/{name}.jsonl"))
    change_byte(here / "data" / "train.jsonl", b'"next_sentence_label":0', b'"next_sentence_label":1')
    change_byte(here / "output" / "model" / "tokenizer_config.json", b"\n", b" ")
    ids = np.fromfile("data/.valid.jsonl.columns/ids", dtype=np.uint32)
    change_byte(here / "data" / ".valid.jsonl.columns" / "ids", ids[:9].tobytes(), (ids[:9] + 1).tobytes())
    found = refused(*SMALL)
    hashes = r"\(sha256 [0-9a-f]{12} instead of [0-9a-f]{12}\)"
    train, tokenizer, columns = found.split("; ")
    assert re.fullmatch(
        rf"data/train.jsonl holds other bytes than its record says {hashes}: make it again with prepare_train_data.py",
        train,
    )
    assert re.fullmatch(
        rf"output/model/tokenizer_config.json holds other bytes than its record says {hashes}: run the stage that "
        "wrote it again, or copy it again",
        tokenizer,
    )
    assert columns == (
        "data/.valid.jsonl.columns does not hold the samples of data/valid.jsonl, from about line 1 on: remove that "
        "folder, and the next run reads the file again"
    )
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("wrong ")] == [
        f"wrong {problem}" for problem in (train, tokenizer, columns)
    ]
    assert "\nnot checked learning: this device" in said  # one fault does not hide another
    assert "all is well" not in said


def test_a_cut_file_is_named_once_and_beside_another(here, capsys):
    content = (here / "data" / "train.jsonl").read_bytes()
    (here / "data" / "train.jsonl").write_bytes(content[:-10])
    (here / "output" / "model" / "tokenizer_config.json").unlink()
    found = refused(*SMALL).split("; ")
    assert found[0].startswith(f"data/train.jsonl has {len(content) - 10:,} bytes, its record says {len(content):,}: ")
    assert found[1].startswith("output/model/tokenizer_config.json is missing, its record says ")
    assert found[2:] == [
        "AutoTokenizer of output/model gives no token_type_ids, its tokenizer_config.json is missing or another's: "
        "build it again with convert_tokenizer.py"
    ]
    assert capsys.readouterr().out.endswith("\nnot checked learning: what is wrong comes first\n")


def test_a_record_of_other_counts_is_refused(here):
    record = files.read_record("data/train.jsonl")
    real = record["counts"]["samples"]
    files.write_record("data/train.jsonl", record | {"counts": record["counts"] | {"samples": 7}})
    with pytest.raises(StageError, match=rf"^data/train.jsonl has {real:,} samples, its record says 7: make it again"):
        doctor.require_whole_samples(Path("data/train.jsonl"))


def test_a_plan_that_cannot_work_is_refused_as_the_run_refuses_it(here, capsys):
    wrong = (*SMALL, "--model.num_warmup_steps", 100_000)
    found = refused(*wrong)
    assert found.startswith("model.num_warmup_steps is 100,000, the run has ")
    with pytest.raises(StageError) as of_the_run:
        trainer.main(list(map(str, wrong)))
    assert found == str(of_the_run.value)
    assert "ok data/train.jsonl: " in capsys.readouterr().out


def test_labels_of_other_places_are_not_learned(here, monkeypatch, capsys):
    """The labels of a batch in another order at each step: as frequent as before, and nothing to learn them by."""
    monkeypatch.setattr(doctor, "MOST_STEPS", STEPS)
    measures = BertPretraining.measures

    def shuffled(self, batch):
        labels = batch["mlm_labels"]
        return measures(self, batch | {"mlm_labels": labels[torch.randperm(len(labels))]})

    monkeypatch.setattr(BertPretraining, "measures", shuffled)
    found = refused(*SMALL)
    assert re.match(
        r"the model does not learn by heart, 8 samples on cpu: MLM loss [\d.]+ at first, [\d.]+ after 80 ", found
    )
    assert found.endswith(
        "most likely its precision or device computes wrongly (try --trainer.precision 32-true, then "
        "--trainer.accelerator cpu), the labels are not those of the samples, or it is too small"
    )


def test_too_few_steps_in_the_time_that_there_is_say_nothing(here, hurried, capsys):
    examine(*SMALL)
    said = capsys.readouterr().out
    assert "\nnot checked learning: this device is too slow for it, 8 samples on cpu: " in said
    assert re.search(r"^all is well: \d+ checks, 1 could not be made, in \d+ s$", said, re.MULTILINE)


def test_without_records_it_says_what_was_not_checked(here, hurried, capsys):
    for path in ("data/train.jsonl", "data/valid.jsonl", "output/model"):
        files.record_path(path).unlink()
    examine(*SMALL, "--data.ignore_records", "true")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not checked ")]
    assert lines[:-1] == [
        "not checked data/train.jsonl: sha256 and number of samples (data.ignore_records is true)",
        "not checked data/valid.jsonl: sha256 and number of samples (data.ignore_records is true)",
        "not checked output/model: sha256 of its files (it has no record of them)",
    ]


def test_a_private_corpus_is_checked_and_not_shown(here, texts, hurried, capsys):
    record = files.read_record("data/train.jsonl")
    files.write_record("data/train.jsonl", record | {"corpus": {"private": True}})
    examine(*SMALL)
    said = "".join(capsys.readouterr())
    assert "all is well" in said
    assert pieces(said) & pieces((texts / "train.txt").read_text()) == set()


def test_a_run_that_would_go_on_is_checked_and_left_as_it_is(run, here, copy, hurried, capsys):
    copy("lightning_logs")
    own = here / "lightning_logs" / "version_0"
    first = min((own / "checkpoints").glob("epoch*"), key=lambda path: int(re.findall(r"step=(\d+)", path.name)[0]))
    before = left(here)
    examine("--resume", first)
    assert left(here) == before
    said = capsys.readouterr()
    assert "\nall is well: " in said.out
    assert f"going on from {first}: step " in said.err


def test_several_devices_are_refused(here, monkeypatch):
    for name in (cli.PARENT, cli.RANK):
        monkeypatch.setenv(name, "0")
    assert refused(*SMALL, "--trainer.devices", 2) == (
        "--doctor checks one device, the run has 2: pass --trainer.devices 1 --trainer.num_nodes 1, and start it "
        "without torchrun or srun"
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_as_a_shell_expects(here, capfd, number, code):
    def run() -> None:
        end_at(BertPretraining, "_update", 2, number)
        examine(*SMALL)

    assert in_child(run) == code
    said = capfd.readouterr()
    assert "all is well" not in said.out
    assert "Traceback" not in said.err


@pytest.mark.full
def test_a_model_that_is_continued_learns_from_where_it_stands(model, here, copy, capsys):
    copy("model")
    few = ("--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1, "--model.num_warmup_steps", 1)
    data = ("--data.tokenizer_model", "model", "--data.train_file", "data/train.jsonl")
    examine("--model.from_pretrained", "model", *data, "--data.valid_file", "data/valid.jsonl", *few)
    said = capsys.readouterr().out
    assert re.search(r"^ok model: .*model.safetensors.*, sha256 as recorded$", said, re.MULTILINE)
    weights = here / "model" / "model.safetensors"
    change_byte(weights, weights.read_bytes()[-64:], bytes(64))
    assert refused("--model.from_pretrained", "model", *data, "--data.valid_file", "data/valid.jsonl", *few).startswith(
        "model/model.safetensors holds other bytes than its record says "
    )


def test_columns_that_end_early_or_late_are_found(here):
    columns = Columns.open("data/valid.jsonl")
    assert columns.first_difference("data/valid.jsonl") is None
    lines = (here / "data" / "valid.jsonl").read_bytes().splitlines(keepends=True)
    for other in (lines[:-1], [*lines, lines[0]]):
        (here / "data" / "other.jsonl").write_bytes(b"".join(other))
        assert columns.first_difference("data/other.jsonl") == 1  # both are one block
