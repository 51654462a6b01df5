"""What a run shows of itself: the table, TensorBoard over HTTP, speed, predictions, warnings on realistic curves."""

import contextlib
import csv
import html
import json
import math
import re
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import transformers
import yaml
from conftest import CONFIG
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from torch.utils.flop_counter import FlopCounterMode

import trainer
from bert_ja import callbacks, devices, encoding, files, monitoring, tokenization, training
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns, Counts, EpochSampler, StepDataset
from bert_ja.pretraining import BertPretraining

TRAINED = ("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")
LOGGED = (  # at each step that logs, on a CPU
    *(f"train_{name}" for name in TRAINED),
    *("gradient_norm", "nonfinite_steps", "unigram_entropy", "lr", "samples_seen", "tokens_seen", "padding_waste"),
    *("samples_per_second", "tokens_per_second"),
)
VALIDATED = tuple(f"val_{name}" for name in TRAINED)


def rows_of(path: Path) -> list[dict]:
    """The rows of a metrics.csv, fields that were not measured left out."""
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(open(path))]


def small_model(**options) -> BertPretraining:
    torch.manual_seed(0)
    options |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertPretraining(3000, 32, 1, 2, max_position_embeddings=512, **options)


@pytest.fixture
def batches(samples, tokenizer) -> Batches:
    """Steps of 32 samples."""
    columns = Columns.open(samples / "train.jsonl", files.read_record(samples / "train.jsonl"))
    return Batches(columns, tokenization.vocabulary(tokenizer), 32, 1, True)


@pytest.fixture
def fit(batches, samples, tmp_path):
    """A function that trains a small model for `limit_train_batches` steps, validating every `val_check_interval`."""
    valid = Batches(Columns.open(samples / "valid.jsonl"), batches.vocabulary, 32, 1, False)
    loaders = [
        torch.utils.data.DataLoader(StepDataset(part), batch_size=None, sampler=EpochSampler(part))
        for part in (batches, valid)
    ]

    def run(*added, plugins=(), **options) -> pl.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 1}
        options = {"max_epochs": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0} | quiet | options
        made = pl.Trainer(
            **options,
            accelerator="cpu",
            default_root_dir=tmp_path,
            plugins=list(plugins),
            callbacks=list(added),
        )
        made.fit(small_model(), *loaders)
        return made

    return run


# The table


def test_a_row_has_all_that_is_logged_of_its_step(tmp_path):
    table = monitoring.MetricsFile(tmp_path / "run" / "metrics.csv", columns=("loss", "lr", "seen"))
    table.go_on(0)
    table.log_metrics({"lr": 0.1, "unknown": 1.0}, 4)
    table.log_metrics({"loss": 7.123456789, "epoch": 0, "seen": 123_456_789_012}, 4)
    table.save()
    table.log_metrics({"unknown": 2.0, "epoch": 0}, 5)  # nothing of it has a column
    table.save()
    table.log_metrics({"loss": math.nan}, 9)
    table.log_metrics({"loss": 1e-9}, 14)
    table.finalize("success")
    assert (tmp_path / "run" / "metrics.csv").read_text() == (
        "step,epoch,loss,lr,seen\n4,0,7.1234568,0.1,123456789012\n9,,nan,,\n14,,1e-09,,\n"
    )


@pytest.mark.parametrize(
    "left, step, kept",
    [
        ("", 0, "step,epoch,loss\n"),
        ("step,epo", 7, "step,epoch,loss\n"),
        ("step,epoch,loss\n4,0,7.5\n9,0,7.0\n9,0,6.9\n14,0,6.5\n", 20, None),
        ("step,epoch,loss\n4,0,7.5\n9,0,7.0\n9,0,6.9\n14,0,6.5\n", 10, "step,epoch,loss\n4,0,7.5\n9,0,7.0\n9,0,6.9\n"),
        ("step,epoch,loss\n4,0,7.5\n9,0,7.0\n9,0,6.9\n14,0,6.5\n", 9, "step,epoch,loss\n4,0,7.5\n"),
        ("step,epoch,loss\n4,0,7.5\n9,0,7", 20, "step,epoch,loss\n4,0,7.5\n"),
        ("step,loss,epoch\n4,7.5,0\n", 20, None),
    ],
)
def test_a_run_that_goes_on_drops_what_it_measures_anew_and_cut_rows(tmp_path, left, step, kept):
    path = tmp_path / "metrics.csv"
    path.write_text(left)
    table = monitoring.MetricsFile(path, columns=("loss",))
    table.go_on(step)
    kept = left if kept is None else kept
    assert path.read_text() == kept
    table.log_metrics({"loss": 6.25, "epoch": 1}, step + 4)
    table.save()
    order = {"step": step + 4, "epoch": 1, "loss": 6.25}
    assert path.read_text() == kept + ",".join(str(order[name]) for name in kept.split("\n")[0].split(",")) + "\n"


def test_the_table_of_a_run_says_what_tensorboard_says(run):
    rows, events = rows_of(run / "metrics.csv"), EventAccumulator(str(run)).Reload()
    assert [(row["step"], row["epoch"]) for row in rows] == [(19, 0), (19, 0), (39, 1), (39, 1)]
    assert [set(row) - {"step", "epoch"} for row in rows] == [set(LOGGED), set(VALIDATED)] * 2
    for name in (*LOGGED, *VALIDATED):
        told = [(point.step, pytest.approx(point.value, rel=1e-5)) for point in events.Scalars(name)]
        assert [(row["step"], row[name]) for row in rows if name in row] == told, name


def test_what_is_counted_is_what_was_drawn(run):
    rows = [row for row in rows_of(run / "metrics.csv") if "lr" in row]
    state = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"]["Throughput"]
    assert [row["samples_seen"] for row in rows] == [20 * 32, 40 * 32]
    assert state == {"samples": 40 * 32, "tokens": rows[1]["tokens_seen"]}
    assert 30 < rows[0]["tokens_seen"] / rows[0]["samples_seen"] < 90
    assert all(0 < row["padding_waste"] < 0.2 for row in rows)
    ratios = [row["tokens_per_second"] / row["samples_per_second"] for row in rows]
    assert all(30 < ratio < 90 for ratio in ratios)


def test_the_learning_rate_is_that_of_the_step(run):
    """Linear to zero at step 40 after 5 steps of warm-up; LearningRateMonitor says the same at the same steps."""
    rates = [row["lr"] for row in rows_of(run / "metrics.csv") if "lr" in row]
    assert rates == pytest.approx([0.002 * (40 - 19) / 35, 0.002 * (40 - 39) / 35], rel=1e-6)
    events = EventAccumulator(str(run)).Reload()
    assert [point.value for point in events.Scalars("lr-AdamW/pg1")] == pytest.approx(rates, rel=1e-6)


# TensorBoard


@contextlib.contextmanager
def tensorboard(folder: Path):
    """The address of a TensorBoard of this folder, started as a user does."""
    command = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(folder)]
    command += ["--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        found = (re.search(r"at (http://127.0.0.1:\d+/)", line) for line in process.stderr)
        yield next(match[1] for match in found if match)
    finally:
        process.terminate()
        process.communicate()


def ask(address: str, path: str, is_all: Callable = bool):
    """What TensorBoard answers, as soon as that is all: it reads in the background."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:  # pytest's own limit ends it
        with opener.open(address + path) as answer:
            found = json.load(answer)
        if is_all(found):
            return found
        time.sleep(0.5)


def test_tensorboard_shows_all_metrics_of_a_run_over_http(run):
    with tensorboard(run.parent) as address:
        expected = {*LOGGED, *VALIDATED, "lr-AdamW/pg1"}
        ask(address, "data/plugin/scalars/tags", lambda found: expected <= set(found.get(run.name, ())))
        assert ask(address, "data/plugin/text/tags")[run.name] == ["fill_mask/text_summary"]
        text = f"data/plugin/text/text?run={run.name}&tag=fill_mask/text_summary"
        tables = ask(address, text, lambda found: len(found) > 1)
        assert [table["step"] for table in tables] == [19, 39]
        for prompt in monitoring.PROMPTS:
            assert f"<td>{prompt}</td>\n<td>" in tables[1]["text"]
        plots = ask(address, "data/plugin/custom_scalars/layout")["category"]
        assert plots[0]["chart"][0]["multiline"]["tag"] == ["train_mlm_loss", "val_mlm_loss", "unigram_entropy"]
        line = ask(address, f"data/plugin/custom_scalars/scalars?run={run.name}&tag=unigram_entropy")
        entropy = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["provenance"]["unigram_entropy"]
        points = [(step, value) for _, step, value in line["tag_to_events"]["unigram_entropy"]]
        assert points == [(19, pytest.approx(entropy)), (39, pytest.approx(entropy))]


# Speed


class Clock:
    """Stands still but for what a test lets pass."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for module in (monitoring, callbacks):
            stopped = types.SimpleNamespace(perf_counter=lambda: self.now, monotonic=time.monotonic)
            monkeypatch.setattr(module, "time", stopped)

    def taking(self, seconds: float, function):
        def timed(*arguments, **options):
            self.now += seconds
            return function(*arguments, **options)

        return timed


def test_speed_is_measured_without_validation_and_checkpoints(fit, batches, tmp_path, monkeypatch):
    """A step takes 2 s, a validation 100 s, a checkpoint 1,000 s; steps 2, 4 and 6 log, and the first one warms up."""
    clock = Clock(monkeypatch)
    for name, seconds in (("training_step", 2), ("validation_step", 100)):
        monkeypatch.setattr(BertPretraining, name, clock.taking(seconds, getattr(BertPretraining, name)))
    monkeypatch.setattr(callbacks.torch, "save", clock.taking(1000, torch.save))
    table = monitoring.MetricsFile(tmp_path / "metrics.csv")
    table.go_on(0)
    fit(
        monitoring.Throughput(),
        pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1),
        callbacks.ModelCheckpoint(tmp_path, filename="best-{step}", monitor="val_loss"),
        plugins=[callbacks.WholeCheckpointIO()],
        logger=table,
        **{"limit_train_batches": 6, "log_every_n_steps": 2, "val_check_interval": 3},
    )
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
    rows = [row for row in rows_of(tmp_path / "metrics.csv") if "lr" in row]
    tokens = [len(batches.draw(0, number)["input_ids"]) for number in range(6)]
    assert [row["tokens_seen"] for row in rows] == [sum(tokens[:2]), sum(tokens[:4]), sum(tokens)]
    rates = [tokens[1] / 2, sum(tokens[2:4]) / 4, sum(tokens[4:]) / 4]
    assert [row["tokens_per_second"] for row in rows] == pytest.approx(rates, rel=1e-6)
    assert [row["samples_per_second"] for row in rows] == [16, 16, 16]


def test_counts_go_on_after_a_restart(fit, tmp_path):
    fit(monitoring.Throughput(), limit_train_batches=3)
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    restored = monitoring.Throughput()
    restored.load_state_dict(content["callbacks"]["Throughput"])
    assert restored.samples == 3 * 32
    assert restored.state_dict() == content["callbacks"]["Throughput"]


def test_checkpoints_say_what_the_run_was_trained_on_and_for_how_long(run):
    """Those of one step the same, so that they are one file to whoever compares their sums."""
    checkpoints = [training.load_checkpoint(path) for path in sorted((run / "checkpoints").iterdir())]
    parts = [checkpoint["hardware"] for checkpoint in checkpoints]
    assert parts[1] == parts[2]
    assert [checkpoint["global_step"] for checkpoint in checkpoints] == [20, 40, 40]
    assert {tuple(part) for each in parts for part in each} == {("device", "devices", "seconds")}
    assert [each[0]["devices"] for each in parts] == [1, 1, 1]
    assert 0 < parts[0][0]["seconds"] < parts[1][0]["seconds"] < 200
    assert re.fullmatch(r"\S.*, \d+ threads?", parts[0][0]["device"])


def test_the_time_of_earlier_parts_of_a_run_is_kept(monkeypatch):
    own, other = ({"device": name, "devices": 1} for name in ("A", "B"))
    checkpoint = {"hardware": [own | {"seconds": 50.0}, other | {"seconds": 100.0}]}
    monkeypatch.setattr(monitoring, "time", types.SimpleNamespace(monotonic=lambda: 1000.0))
    hardware = monitoring.Hardware()
    hardware.on_load_checkpoint(None, None, checkpoint)
    assert hardware.parts() == checkpoint["hardware"]  # of a run that has not begun again
    hardware._own, hardware._since = other, 980.0
    assert hardware.parts() == [own | {"seconds": 50.0}, other | {"seconds": 120.0}]
    hardware._own = own
    assert hardware.parts() == [*checkpoint["hardware"], own | {"seconds": 20.0}]
    hardware.on_load_checkpoint(None, None, {})  # of an earlier version
    assert hardware.parts() == [own | {"seconds": 20.0}]


def test_padding_is_what_attention_computes_beside_the_tokens():
    throughput = monitoring.Throughput()
    throughput._work = Counts(8, 400, tokens=400, samples=8, predicted=60, pairs=25_000, places=500)
    throughput._lr, throughput._since, throughput._on_gpu, throughput._peak = 0.1, 0.0, False, None
    module = types.SimpleNamespace(hparams=small_model().hparams, backend="rows")
    trainer = types.SimpleNamespace(strategy=types.SimpleNamespace(checkpoint_io=None))
    for backend, waste in (("rows", 1 - 400 / 500), ("varlen", 0), ("padded", 1 - 400 / (8 * 512))):
        module.backend = backend
        assert throughput._measured(trainer, module)["padding_waste"] == pytest.approx(waste)


@pytest.mark.parametrize("lengths", [[60] * 8, [7, 60, 128]])
def test_the_operations_are_those_that_torch_counts(lengths):
    """One sample after another, so that nothing is padding; torch counts the pooler too."""
    model = BertPretraining(3000, 64, 2, 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.model.set_attn_implementation("eager")
    predicted, counted, pooler = 5, 0, 0
    for length in lengths:
        ids = torch.randint(5, 3000, (1, length))
        with FlopCounterMode(display=False) as counter:
            hidden = model.model.bert(input_ids=ids).last_hidden_state
            model.model.cls.predictions(hidden[0, :predicted]).sum().backward()
        counted += counter.get_total_flops()
        pooler += 2 * 64 * 64  # forward only: nothing flows back from there
    counts = Counts(0, 0, sum(lengths), len(lengths), predicted * len(lengths), sum(n * n for n in lengths), 0)
    assert monitoring.useful_flops(model.hparams, counts) == counted - pooler


def test_base_pays_539_million_operations_a_token():
    """510 M of matrices, 7 M of attention at 60 tokens a sample, 23 M of the head at 15 % of the positions."""
    options = types.SimpleNamespace(
        **{"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": None, "vocab_size": 32_000},
        embedding_rows=None,
    )
    counts = Counts(0, 0, 6000, 100, 900, 100 * 60 * 60, 0)
    assert monitoring.useful_flops(options, counts) / 6000 == pytest.approx(539e6, rel=0.002)


@pytest.mark.parametrize(
    "name, tera",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 3090", 71),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_drivers_names(name, tera):
    assert devices.peak_flops(name) == (tera and tera * 1e12)


@pytest.mark.parametrize("precision, logged", [("bf16-mixed", True), ("32-true", False)])
def test_mfu_is_logged_where_the_peak_is_known_and_meant(fit, tmp_path, monkeypatch, precision, logged):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(BertPretraining, "training_step", clock.taking(2, BertPretraining.training_step))
    monkeypatch.setattr(devices, "peak_flops", lambda name: 1e9)
    table = monitoring.MetricsFile(tmp_path / "metrics.csv")
    table.go_on(0)
    fit(monitoring.Throughput(), logger=table, precision=precision, limit_train_batches=2, enable_checkpointing=False)
    rows = rows_of(tmp_path / "metrics.csv")
    assert ["mfu" in row for row in rows if "lr" in row] == [False, logged]
    if logged:
        assert 0 < rows[1]["mfu"] < 1


# Predictions


@pytest.fixture
def encoder(tokenizer) -> encoding.Encoder:
    return encoding.open_encoder(tokenizer)


def test_a_prompt_is_encoded_as_transformers_encodes_it(encoder, tokenizer):
    ours = transformers.AutoTokenizer.from_pretrained(tokenizer)
    for prompt in (*monitoring.PROMPTS, "[MASK]は山である。", "これは[MASK]", "Ｔｏｋｙｏの[MASK]を見た"):
        ids, place = monitoring.encode_prompt(prompt, encoder)
        assert ids == ours(prompt)["input_ids"]
        assert ids[place] == ours.mask_token_id


@pytest.mark.parametrize("packed", [True, False])
def test_predictions_are_those_of_the_plain_model(encoder, packed):
    model = small_model(packed=packed).eval()
    model.choose_attention(torch.device("cpu"), torch.float32)
    ids, place = monitoring.encode_prompt(monitoring.PROMPTS[0], encoder)
    with torch.no_grad():
        found = monitoring.likeliest(model, ids, place)
        model.model.set_attn_implementation("eager")
        plain = model.model(torch.tensor([ids])).prediction_logits[0, place].softmax(-1)
    best = plain.topk(5)
    assert [token for token, _ in found] == best.indices.tolist()
    assert [share for _, share in found] == pytest.approx((100 * best.values).tolist(), rel=1e-4)


def test_any_piece_can_stand_in_the_table():
    for text in ("|", "\\", "`a`", "*b*", "<b>", "&lt;", "[x](y)", "_c_", "a|b", "#1", "~~d~~", "1. e", "+", "-", "!"):
        shown = markdown_to_safe_html(f"| a | b |\n| --- | --- |\n| {monitoring.escaped(text)} | 1 |")
        (cell, other) = re.findall(r"<td>(.*?)</td>", shown)
        assert (html.unescape(cell), other) == (text, "1")


def test_the_table_has_a_row_of_five_for_each_prompt(encoder):
    examples = monitoring.Examples(encoder, monitoring.PROMPTS, 512)
    rows = examples.table(small_model().eval()).split("\n")
    assert rows[:2] == ["| prompt | 1 | 2 | 3 | 4 | 5 |", "| --- | --- | --- | --- | --- | --- |"]
    for prompt, row in zip(monitoring.PROMPTS, rows[2:], strict=True):
        assert row.startswith(f"| {monitoring.escaped(prompt)} | ")
        assert len(re.findall(r" \d+\.\d % \|", row)) == 5


def test_prompts_without_one_mask_or_too_long_are_refused(encoder, tokenizer):
    with pytest.raises(StageError) as error:
        training.PretrainingData(str(tokenizer), prompts=["山", "[MASK]は[MASK]", "[MASK]"])
    assert str(error.value) == "data.prompts: '山', '[MASK]は[MASK]' must have one [MASK] each"
    with pytest.raises(StageError) as error:
        monitoring.Examples(encoder, ["[MASK]" + "山と川。" * 20], 16)
    assert re.fullmatch(
        r"data.prompts: \[MASK\]山と川。山と川。山と川。山と\.\.\. has \d\d tokens, the model reads 16 "
        r"\(model.max_position_embeddings\): shorten it",
        str(error.value),
    )


def test_the_first_sample_is_shown_as_training_sees_it(batches, encoder):
    batches.accumulate = 2
    said = monitoring.first_sample(batches, (1, 3, 5), encoder)
    drawn = batches.draw(1, 6, 5)
    label, text = re.fullmatch(r"first sample \(next_sentence_label (\d), \{token→masked\}\): (.*)", said).groups()
    length = int(drawn["cu_seqlens"][1])
    assert int(label) == drawn["next_sentence_labels"][0]
    now = [re.sub(r"\{.*→(.*)\}", r"\1", piece) for piece in text.split(" ")]
    assert now[:100] == encoder.shown(drawn["input_ids"][:length].tolist())[:100]
    masked = np.flatnonzero([piece.startswith("{") for piece in text.split(" ")])
    assert masked.tolist() == [place for place in drawn["mlm_positions"].tolist() if place < min(length, 100)]


# Attached to every run


@pytest.fixture
def here(samples, copy, monkeypatch) -> Path:
    """A folder of the test's own with samples and tokenizer at their default paths, which is the current folder."""
    folder = copy("data/train.jsonl", "data/valid.jsonl", "output/model")
    monkeypatch.chdir(folder)
    return folder


FEW = (
    *("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 3, "--trainer.limit_val_batches", 1),
    *("--trainer.check_val_every_n_epoch", 1, "--trainer.log_every_n_steps", 1, "--model.num_warmup_steps", 1),
)


def test_no_configuration_can_lose_them(here, capsys):
    trainer.main(["--config", str(CONFIG), "--trainer.callbacks", "null", *map(str, FEW)])
    run = here / "lightning_logs" / "version_0"
    rows = rows_of(run / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2, 2]
    assert "val_loss" in rows[-1]
    assert "fill_mask/text_summary" in EventAccumulator(str(run)).Reload().Tags()["tensors"]
    assert len(re.findall(r"^first sample \(next_sentence_label [01], ", capsys.readouterr().err, re.MULTILINE)) == 1


def test_a_run_that_goes_on_has_one_table_without_steps_twice(here):
    """Six steps, of which the checkpoint after the validation of step 4 knows four; two more follow from there."""
    checkpoints = {"monitor": "val_loss", "every_n_train_steps": 4, "save_top_k": -1, "filename": "{step}"}
    config = yaml.safe_load(CONFIG.read_text())
    made = {"class_path": "bert_ja.callbacks.ModelCheckpoint", "init_args": checkpoints}
    config["trainer"] |= {"callbacks": [made], "max_steps": 6, "max_epochs": None, "log_every_n_steps": 1}
    config["trainer"] |= {"check_val_every_n_epoch": None, "val_check_interval": 4, "limit_val_batches": 1}
    config["model"] |= {"lr_schedule": "constant", "num_warmup_steps": 2}
    (here / "own.yaml").write_text(yaml.safe_dump(config))
    trainer.main(["--config", "own.yaml"])
    run = here / "lightning_logs" / "version_0"
    before = rows_of(run / "metrics.csv")
    (checkpoint,) = (run / "checkpoints").glob("step=4.ckpt")
    with open(run / "metrics.csv", "a") as file:
        file.write("6,0,7.")  # as a kill leaves it
    trainer.main(["--resume", str(checkpoint)])
    after = rows_of(run / "metrics.csv")
    order = [(0, "lr"), (1, "lr"), (2, "lr"), (3, "lr"), (3, "val_loss"), (4, "lr"), (5, "lr")]
    assert [(row["step"], name) for row in before for name in ("lr", "val_loss") if name in row][:7] == order
    assert [(row["step"], name) for row in after for name in ("lr", "val_loss") if name in row][:7] == order
    timed = ("samples_per_second", "tokens_per_second", "padding_waste")
    for one, other in zip(before, after, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}


def test_of_a_private_corpus_no_sample_and_no_predictions_are_shown(here, capsys):
    prompts = ("--data.private_corpus", "true", "--data.prompts", '["この薬は[MASK]に効く。"]')
    trainer.main(["--config", str(CONFIG), *prompts, *map(str, FEW)])
    said = capsys.readouterr().err
    assert "first sample" not in said
    assert said.count("a sample and predictions for data.prompts: not shown, the corpus is private\n") == 1
    run = here / "lightning_logs" / "version_0"
    assert len(rows_of(run / "metrics.csv")) == 4
    (events,) = run.glob("events.*")
    assert b"fill_mask" not in events.read_bytes()


# Health

ENTROPY = 7.02  # of the published run, about
LOG_EVERY, SAMPLES = 50, 256


def falling(step: int) -> float:
    """BERT base on Wikipedia: quickly to the unigram entropy, a plateau there, and on from step 8,000."""
    plateau = 7.0 + 3.4 * math.exp(-step / 400)
    return plateau if step < 8_000 else 2.4 + 4.6 / (1 + (step - 8_000) / 6_000)


def learning(step: int) -> float:
    """NSP of the same: chance, then up to 0.93."""
    return 0.5 if step < 3_000 else 0.5 + 0.43 * (1 - math.exp(-(step - 3_000) / 4_000))


def warnings_of(
    mlm=falling, nsp=learning, steps: int = 60_000, epoch_steps: int = 80_000, warmup: int = 10_000, **options
) -> list[tuple[int, str]]:
    """(step, warning) of a run with these curves, and the noise of a step."""
    validated = options.pop("validated", 0.0)
    health = monitoring.Health(ENTROPY, options.pop("lr", 1e-4), warmup, **options)
    health._validated, rng, found = validated, np.random.default_rng(0), []
    for step in range(LOG_EVERY, steps + 1, LOG_EVERY):
        right = rng.binomial(SAMPLES, nsp(step)) / SAMPLES if nsp else None
        metrics = {"train_mlm_loss": mlm(step) + rng.normal(0, 0.07)} | ({"train_nsp_accuracy": right} if nsp else {})
        found += [(step, said) for said in health.judge(step, step // epoch_steps, SAMPLES, metrics)]
    return found


def test_a_healthy_run_gets_no_warning():
    assert warnings_of() == []
    assert warnings_of(nsp=None) == []
    assert warnings_of(nsp=lambda step: min(0.985, learning(step) + 0.06)) == []  # as English BERT gets
    assert warnings_of(warmup=0, mlm=lambda step: falling(4 * step), nsp=lambda step: learning(4 * step)) == []


def test_a_real_short_run_gets_no_warning(run):
    """The quick start's few steps end above the entropy and at chance, as they must."""
    health = monitoring.Health(6.57, 2e-3, 5)
    rows = [row for row in rows_of(run / "metrics.csv") if "lr" in row]
    assert [health.judge(int(row["step"]) + 1, int(row["epoch"]), 32, row) for row in rows * 30] == [[]] * 60


def test_nothing_is_said_in_the_first_steps_and_in_the_warm_up():
    for nsp in (lambda step: 0.5, lambda step: 1.0):
        assert warnings_of(mlm=lambda step: 7.0, nsp=nsp, steps=10_000) == []
    assert [step for step, _ in warnings_of(mlm=lambda step: 7.0, nsp=None, warmup=100)] == [5_100]


def test_a_loss_that_stays_at_the_unigram_entropy_names_the_learning_rate():
    ((step, said),) = warnings_of(mlm=lambda step: 6.95 + 3.4 * math.exp(-step / 400))
    assert step == 20_000
    assert re.fullmatch(
        r"after 20,000 steps the MLM loss is 6\.9\d\d, still at the unigram entropy of 7\.020: the model knows how "
        r"frequent tokens are and nothing of their context\. Most likely model\.lr 0\.0001 is too high for 256 samples "
        r"a step, or reached too fast: start again with 3e-05, or with more than the 10,000 model\.num_warmup_steps; "
        r"if that does not help, look whether the samples read like text",
        said,
    )
    ((_, said),) = warnings_of(mlm=lambda step: 6.95, lr=1e-6)
    assert "Most likely model.lr 1e-06 is too low: start again with 1e-4; if" in said


def test_a_second_task_that_stays_at_chance_names_the_order_of_the_lines():
    ((step, said),) = warnings_of(nsp=lambda step: 0.505)
    assert step == 20_000
    assert re.fullmatch(
        r"after 20,000 steps the NSP accuracy is 0\.[45]\d\d, still that of chance: a true B looks like a random one\. "
        r"Most likely the lines of the text do not stand in the order of a document \(shuffled, or lines removed one "
        r"by one\): look at the text, or make the samples with --objective none",
        said,
    )
    ((_, said),) = warnings_of(nsp=lambda step: 0.505, objective="sop")
    assert ": A and B in order look like A and B exchanged. Most likely the lines" in said


def test_a_second_task_that_jumps_to_one_names_what_gives_it_away():
    def solved(step: int) -> float:
        return 0.5 if step < 12_000 else 0.999

    ((step, said),) = warnings_of(nsp=solved)
    assert 12_000 < step < 14_000
    assert re.fullmatch(
        r"after 1\d,\d\d\d steps the NSP accuracy is (?:0\.99\d|1\.000) on samples that the model has not seen: the "
        r"task teaches nothing\. Most likely a random B gives itself away, as by another source, language or format "
        r"than A's: make the samples with a smaller --buffer_size, which takes it from nearby, or with --objective sop",
        said,
    )
    ((_, said),) = warnings_of(nsp=solved, objective="sop")
    assert said.endswith(
        "Most likely the first part gives itself away, as by a headline: take those lines out of the text, or make the "
        "samples with --objective none"
    )


def test_samples_learned_by_heart_are_no_leak_but_those_of_the_validation_are():
    def by_heart(step: int) -> float:
        return learning(step) if step < 30_000 else 0.999

    assert warnings_of(nsp=by_heart, epoch_steps=1_000, validated=0.93) == []
    assert len(warnings_of(nsp=by_heart, epoch_steps=1_000, validated=0.999)) == 1


def test_a_step_that_was_not_finite_does_not_count():
    assert len(warnings_of(mlm=lambda step: math.nan if step % 1000 == 0 else 7.0)) == 1


def test_a_warning_is_said_once_on_the_run(fit, capsys, monkeypatch):
    monkeypatch.setattr(monitoring.Health, "LONG_STEPS", 3)
    monkeypatch.setattr(monitoring.Health, "LONG_SAMPLES", 0)
    health = monitoring.Health(5.0, 1e-4, 0)
    health._mlm = monitoring.Recent(evidence=64, fewest=2)
    fit(health, limit_train_batches=6, enable_checkpointing=False, logger=False)
    said = re.findall(r"^warning: after (\d) steps the MLM loss is", capsys.readouterr().err, re.MULTILINE)
    assert said == ["3"]
