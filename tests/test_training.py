"""What trainer.py refuses and finds, called in this process: importing Lightning for each case would take minutes."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import CONFIG, ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trainer
from bert_ja import callbacks, files, memory, monitoring, tokenization, training
from bert_ja.callbacks import WholeCheckpointIO
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns, EpochSampler, StepDataset
from bert_ja.pretraining import BertPretraining, NonfiniteSteps

PUBLISHED = {
    "seed_everything": 1000,
    "trainer": {
        "gradient_clip_val": 1.0,
        "gpus": 1,
        "accelerator": None,
        "tpu_cores": None,
        "progress_bar_refresh_rate": 1,
        "weights_summary": "top",
        "truncated_bptt_steps": None,
        "accumulate_grad_batches": 32,
        "callbacks": [
            {"class_path": "pytorch_lightning.callbacks.LearningRateMonitor"},
            {"class_path": "pytorch_lightning.callbacks.GPUStatsMonitor"},
            {
                "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                "init_args": {"monitor": "val_loss", "mode": "min", "every_n_train_steps": 10000, "save_top_k": 3},
            },
        ],
    },
    "model": {
        "tokenizer_model": "output/model",
        "train_file": "data/train.jsonl",
        "batch_size": 8,
        "shuffle_buffer_size": 10000,
        "num_warmup_steps": 10000,
    },
}


def refused(*arguments) -> str:
    """The sentence with which trainer.py refuses these arguments."""
    with pytest.raises(StageError) as error:
        trainer.main([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def here(samples, copy, monkeypatch) -> Path:
    """A folder of the test's own with samples and tokenizer at their default paths, which is the current folder."""
    folder = copy("data/train.jsonl", "data/valid.jsonl", "data/test.jsonl", "output/model")
    monkeypatch.chdir(folder)
    return folder


# Configurations


def test_a_published_configuration_is_told_every_key_to_change():
    assert training.outdated_keys(PUBLISHED) == [
        "trainer.gpus: now trainer.accelerator: gpu and trainer.devices: N",
        "trainer.accelerator: null is no longer a value, now cpu, gpu or auto",
        "trainer.tpu_cores: now trainer.accelerator: tpu and trainer.devices: N",
        "trainer.progress_bar_refresh_rate: now trainer.enable_progress_bar",
        "trainer.weights_summary: now trainer.enable_model_summary",
        "trainer.truncated_bptt_steps: remove it, it no longer exists",
        "model.tokenizer_model: now data.tokenizer_model",
        "model.train_file: now data.train_file",
        "model.batch_size: now data.batch_size",
        "model.shuffle_buffer_size: remove it, every epoch shuffles the whole file",
        "callback GPUStatsMonitor: now pytorch_lightning.callbacks.DeviceStatsMonitor",
        "callback pytorch_lightning.callbacks.ModelCheckpoint with monitor and every_n_train_steps (saves under an "
        "earlier step's metric): now bert_ja.callbacks.ModelCheckpoint",
    ]


def test_a_published_configuration_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(PUBLISHED))
    message = refused("--config", tmp_path / "config.yaml")
    assert message.startswith(
        f"{tmp_path / 'config.yaml'} is written for an older pytorch-lightning or layout; change "
    )
    assert message.count(": now ") + message.count(": remove it") + message.count(", now ") == 12


CONFIGURATIONS = sorted(set((ROOT / "configs").glob("*.yaml")) - {ROOT / "configs" / "jglue_scores.yaml"})


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_shipped_configuration_is_parsed_by_the_real_command_line(path, capsys):
    with pytest.raises(SystemExit) as exit_:
        trainer.main(["--config", str(path), "--print_config"])
    assert exit_.value.code == 0
    printed, shipped = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    for section in ("model", "data"):
        assert {name: printed[section][name] for name in shipped[section]} == shipped[section]
    assert path.read_text().startswith("# ")


def test_base_v1_is_the_published_run_number_for_number():
    config = yaml.safe_load((ROOT / "configs" / "base-v1.yaml").read_text())
    checkpoint = config["trainer"]["callbacks"][2]["init_args"]
    assert config["seed_everything"] == 1000
    assert {k: v for k, v in config["trainer"].items() if k != "callbacks"} == {
        "accelerator": "gpu",
        "devices": 1,
        "precision": "16-mixed",
        "max_epochs": 13,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": 1.0,
        "deterministic": False,
    }
    assert config["val_every_n_steps"] == 10000  # and so the checkpoints, which wait for a validation
    assert checkpoint == {"monitor": "val_loss", "mode": "min", "save_top_k": 3, "save_last": True}
    assert config["model"] == {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "lr": 0.0001,
        "num_warmup_steps": 10000,
        "compile": True,  # not published: the same step, sooner
    }
    assert config["data"]["batch_size"] == 256


def test_the_default_configuration_can_be_read_again(capsys, tmp_path):
    with pytest.raises(SystemExit):
        trainer.main(["--print_config"])
    default = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(default)
    assert yaml.safe_load(default)["model"]["hidden_size"] == 768
    assert refused("--config", tmp_path / "config.yaml") == (
        "data.tokenizer_model is not set: name the folder that train_tokenizer.py wrote"
    )


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "CONFIG is empty: make one with python3 trainer.py --print_config > config.yaml"),
        ("trainer: [", "CONFIG is not YAML, line 1: mend it, or start from trainer.py --print_config"),
        ("- 1\n", "CONFIG is not a configuration (sections trainer, model, data): start from --print_config"),
        (
            "model:\ntrainer: [1]\n",
            "CONFIG: trainer, model must hold options, one a line: start from --print_config",
        ),
    ],
)
def test_a_broken_configuration_is_refused(content, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert refused("--config", path).replace(str(path), "CONFIG") == message


def test_a_missing_configuration_is_refused(tmp_path):
    assert refused("--config", tmp_path / "none.yaml") == (
        f"{tmp_path / 'none.yaml'} not found: make one with python3 trainer.py --print_config > config.yaml"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model.optimizer", "sgd"], "model.optimizer must be one of adam, adamw, muon, got 'sgd'"),
        (["--model.lr", 0], "model.lr must be above 0, got 0.0"),
        (
            ["--model.hidden_size", 100, "--model.num_attention_heads", 3],
            "model.hidden_size (100) must be a multiple of model.num_attention_heads (3)",
        ),
        (
            ["--model.hidden_dropout_prob", 1, "--model.num_hidden_layers", 0],
            "model.num_hidden_layers must be 1 or more, got 0; "
            "model.hidden_dropout_prob must be 0 or more and below 1, got 1.0",
        ),
        (
            ["--model.intermediate_size", -1, "--model.weight_decay", -1, "--model.num_warmup_steps", -5],
            "model.intermediate_size must be 1 or more, got -1; model.num_warmup_steps must be 0 or more, got -5; "
            "model.weight_decay must be 0 or more, got -1.0",
        ),
        (["--trainer.accumulate_grad_batches", 0], "trainer.accumulate_grad_batches must be 1 or more, got 0"),
        (
            ["--trainer.logger", "false"],
            "trainer.logger is false, but a run stands in the logger's folder: leave that key out",
        ),
        (
            ["--trainer.fast_dev_run", "true"],
            "trainer.fast_dev_run leaves no run to look at: set trainer.max_steps: 5 instead",
        ),
        (
            ["--data.mlm_probability", 15],
            "data.mlm_probability must lie between 0 and 1, got 15.0",
        ),
        (
            ["--data.mlm_probability", 0, "--data.mlm_probability_end", 30],
            "data.mlm_probability must lie between 0 and 1, got 0.0; "
            "data.mlm_probability_end must lie between 0 and 1, got 30.0",
        ),
        (
            ["--data.mlm_probability_end", 0.1, "--trainer.max_epochs", -1, "--model.lr_schedule", "constant"],
            "data.mlm_probability_end needs a last step: set trainer.max_steps or trainer.max_epochs",
        ),
        (
            ["--data.mlm_probability_end", 0.1, "--data.train_file", "data/valid.jsonl"],
            "data/valid.jsonl is masked once and for all, so data.mlm_probability_end would change nothing: make it "
            "with --get_raw False, or leave that key out",
        ),
        (
            ["--data.random_replace_prob", 0.5],
            "data.mask_replace_prob and data.random_replace_prob must be 0 or more and 1 or less together, "
            "got 0.8 and 0.5",
        ),
    ],
)
def test_options_that_cannot_work_are_named_all_at_once(options, message, here):
    assert refused("--config", CONFIG, *options) == message


def test_no_arguments_at_all_are_the_default_configuration():
    assert refused().startswith("data.tokenizer_model is not set")


def test_an_unknown_option_is_refused():
    assert "hiden_size" in refused("--config", CONFIG, "--model.hiden_size", 1)


def test_a_wrong_type_is_refused():
    assert "num_hidden_layers" in refused("--config", CONFIG, "--model.num_hidden_layers", "two")


def test_the_masking_rate_of_a_run_falls_from_its_first_step_to_its_last(here):
    """Over two epochs of 20 steps, and of no step of a validation."""
    limits = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "20", "--model.num_warmup_steps", "5"]
    rates = ["--data.mlm_probability", "0.4", "--data.mlm_probability_end", "0.1"]
    every = ["--trainer.check_val_every_n_epoch", "1"]
    command = training.TrainingCLI(["--config", str(CONFIG), *limits, *every, *rates])
    trainer.prepare(command, None)
    command.trainer.strategy.connect(command.model)
    batches, found = command.datamodule.batches(), []
    for step in ((0, 0), (0, 19), (1, 0), (1, 19)):
        counts = batches.step(*step).counts
        found.append(counts.predicted / (counts.tokens - 3 * counts.samples))
    assert found == pytest.approx([0.4, 0.4 - 0.3 * 19 / 39, 0.4 - 0.3 * 20 / 39, 0.1], abs=0.01)
    (valid,) = command.datamodule.val_dataloader()
    assert valid.dataset.batches.falling is None
    assert command.model.provenance["settings"]["mlm_probability_end"] == 0.1


# Agreement between files


def test_samples_longer_than_the_model_are_refused_with_both_numbers(here):
    longest = json.loads((here / "data/train.jsonl.meta.json").read_text())["longest_sample"]
    assert refused("--config", CONFIG, "--model.max_position_embeddings", 64) == (
        f"data/train.jsonl holds a sample of {longest} tokens, the model reads 64 (model.max_position_embeddings): "
        "raise that, or make the samples with a smaller --max_seq_len"
    )


@pytest.fixture
def other_tokenizer(here) -> Path:
    """A second tokenizer folder: the first 2,500 pieces of the first."""
    proto = tokenization.parse_model((here / "output/model/spm.model").read_bytes())
    del proto.pieces[2500:]
    tokenization.write_tokenizer_folder(proto.SerializeToString(), here / "other")
    return here / "other"


def test_samples_of_another_tokenizer_are_refused_with_both_numbers(here, other_tokenizer):
    ours, other = (tokenization.vocabulary(folder).sha256[:12] for folder in ("output/model", "other"))
    assert refused("--config", CONFIG, "--data.tokenizer_model", "other") == (
        f"data/train.jsonl was made with another tokenizer (vocabulary 3,000, sha256 {ours}) than other (vocabulary "
        f"2,500, sha256 {other}): make the samples again, or mend data.tokenizer_model"
    )


def test_without_records_a_vocabulary_that_does_not_fit_is_still_refused(here, other_tokenizer):
    message = refused("--config", CONFIG, "--data.tokenizer_model", "other", "--data.ignore_records", "true")
    assert message.startswith("data/train.jsonl holds token id 2,999, the vocabulary of other has 2,500")


def test_a_jsonl_with_a_cut_last_line_is_refused(here):
    path = here / "data" / "train.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    size = path.stat().st_size
    assert refused("--config", CONFIG) == (
        f"data/train.jsonl has {size:,} bytes, its record says {size + 20:,}: make it again with "
        "prepare_train_data.py, or pass --data.ignore_records true"
    )
    lines = path.read_bytes().count(b"\n") + 1
    assert refused("--config", CONFIG, "--data.ignore_records", "true") == (
        f"data/train.jsonl, line {lines:,} is not a sample (cut short, or of another format): "
        "make the file again with prepare_train_data.py"
    )


def test_a_jsonl_without_a_record_is_refused(here):
    (here / "data" / "valid.jsonl.meta.json").unlink()
    assert refused("--config", CONFIG) == (
        "data/valid.jsonl has no record (valid.jsonl.meta.json), so it may be cut short: make it again with "
        "prepare_train_data.py, or pass --data.ignore_records true"
    )


def test_validation_samples_without_labels_are_refused(here):
    for override in ((), ("--data.ignore_records", "true")):
        assert refused("--config", CONFIG, "--data.valid_file", "data/train.jsonl", *override) == (
            "data/train.jsonl has no labels, so its loss would change with every pass: make it with --get_raw True"
        )


def test_several_files_need_shares_and_one_objective(here):
    for shares in ("{data/train.jsonl: 0.7, data/valid.jsonl: 0}", "{data/train.jsonl: -1}", "{}"):
        assert refused("--config", CONFIG, "--data.train_file", shares) == (
            "data.train_file must be a file, or files with shares above 0 ({a.jsonl: 0.7, b.jsonl: 0.3})"
        )
    path = here / "data" / "valid.jsonl.meta.json"
    record = json.loads(path.read_text())
    record["options"]["objective"] = "sop"
    path.write_text(json.dumps(record))
    assert refused("--config", CONFIG, "--data.train_file", "{data/train.jsonl: 1, data/valid.jsonl: 2}") == (
        "samples of one run must have one --objective: data/train.jsonl with nsp, data/valid.jsonl with sop"
    )
    assert refused("--config", CONFIG) == (
        "samples of one run must have one --objective: data/train.jsonl with nsp, data/valid.jsonl with sop"
    )
    without = [json.loads(line) for line in (here / "data" / "valid.jsonl").read_text().splitlines()]
    lines = [json.dumps({"input_ids": s["input_ids"], "token_type_ids": s["token_type_ids"]}) for s in without]
    (here / "data" / "none.jsonl").write_text("\n".join(lines) + "\n")
    mixed = ("--data.train_file", "{data/train.jsonl: 1, data/none.jsonl: 2}", "--data.ignore_records", "true")
    assert refused("--config", CONFIG, *mixed) == (
        "data.train_file: data/train.jsonl and data/none.jsonl were made with and without --objective none: make all "
        "of them one way"
    )


@pytest.mark.parametrize(
    "given, named",
    [
        (None, {}),
        ("data/valid.jsonl", {"valid": "data/valid.jsonl"}),
        (["data/valid.jsonl", "b/heldout.v2.jsonl"], {"valid": "data/valid.jsonl", "heldout.v2": "b/heldout.v2.jsonl"}),
        ({"病院": "b/valid.jsonl", 2024: "a/valid.jsonl"}, {"病院": "b/valid.jsonl", "2024": "a/valid.jsonl"}),
    ],
)
def test_files_of_the_validation_have_names(given, named):
    assert training.named_files("data.valid_file", given) == named


def test_validation_files_need_a_name_of_their_own_each(here):
    plain = "data.valid_file must be a file, a list of files, or files by their names ({a: a.jsonl})"
    twice = "data.valid_file has data/valid.jsonl twice: name each file once"
    for given, message in (
        ("[]", plain),
        ("['']", plain),
        ("{'': data/valid.jsonl}", plain),
        ("[data/valid.jsonl, data/valid.jsonl]", twice),
        ("{a: data/valid.jsonl, b: data/../data/valid.jsonl}", twice),
        (
            "[data/valid.jsonl, more/valid.jsonl]",
            "data.valid_file: data/valid.jsonl and more/valid.jsonl would both be called valid: give them names "
            "({one: data/valid.jsonl, other: ...})",
        ),
        (
            "{a: data/valid.jsonl, a: data/test.jsonl}",
            "{a: data/valid.jsonl, a: data/test.jsonl} has a twice, and only the last would count: remove one",
        ),
        ("[data/valid.jsonl, none.jsonl]", "none.jsonl not found: make it with prepare_train_data.py, or mend "),
    ):
        assert refused("--config", CONFIG, "--data.valid_file", given).startswith(message)
    (here / "twice.yaml").write_text(CONFIG.read_text().replace("data/valid.jsonl", "{a: b.jsonl, a: c.jsonl}"))
    assert refused("--config", "twice.yaml") == (
        "twice.yaml has a twice in one place, and only the last would count: remove one"
    )


def test_validation_measures_several_files_together_and_each(here, capsys):
    """The totals are means over all masked tokens and samples, so those of one file that holds both."""
    both = (here / "data" / "valid.jsonl").read_text() + (here / "data" / "test.jsonl").read_text()
    (here / "data" / "both.jsonl").write_text(both)
    few = ("--config", CONFIG, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2)
    few = (*few, "--trainer.check_val_every_n_epoch", 1, "--model.num_warmup_steps", 1, "--data.ignore_records", "true")
    names = {"data/both.jsonl": [], "{a: data/valid.jsonl, b/c: data/test.jsonl}": ["a", "b/c"]}
    measured = []
    for number, given in enumerate(names):
        trainer.main(list(map(str, (*few, "--data.valid_file", given))))
        events = EventAccumulator(f"lightning_logs/version_{number}").Reload()
        found = {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"] if name.startswith("val_")}
        assert set(found) == {
            f"{name}{file}"
            for name in BertPretraining.MONITORED
            for file in ["", *(f"/{file}" for file in names[given])]
        }
        measured.append((found, re.findall(r"^validation: .*", capsys.readouterr().err, re.MULTILINE)[-1]))
    (whole, line), (found, longer) = measured
    for name, value in whole.items():
        assert found[name] == pytest.approx(value, abs=1e-6)
    assert longer == line + "".join(
        f"; {name}: loss {found[f'val_loss/{name}']:.4f}, MLM loss {found[f'val_mlm_loss/{name}']:.4f}"
        for name in ("a", "b/c")
    )
    samples = [len(Columns.open(here / "data" / f"{part}.jsonl")) for part in ("valid", "test")]
    mean = (samples[0] * found["val_nsp_loss/a"] + samples[1] * found["val_nsp_loss/b/c"]) / sum(samples)
    assert found["val_nsp_loss"] == pytest.approx(mean, abs=1e-6)
    assert found["val_nsp_loss/a"] != found["val_nsp_loss/b/c"]


def test_a_run_on_several_texts_records_each_with_its_share(here):
    record = files.read_record("data/train.jsonl")
    record["outputs"] = [files.describe("data/train.jsonl") | {"name": "other.jsonl"}]
    shutil.copy("data/train.jsonl", "data/other.jsonl")
    hospital = {"name": "hospital", "license": "in-house", "source": "our reports", "dump": None}
    files.write_record("data/other.jsonl", record | {"corpus": hospital})
    shares = {"data/train.jsonl": 7, "data/other.jsonl": 3}
    data = training.PretrainingData("output/model", shares, "data/valid.jsonl")
    data.require("train", 512)
    found = training.data_facts(data)["corpus"]
    sample = record["corpus"]
    assert found["sources"] == [
        {name: sample[name] for name in files.ORIGIN} | {"share": 0.7},
        hospital | {"share": 0.3},
    ]
    assert found["license"] == "CC0-1.0; in-house"


def test_the_loss_of_one_file_can_be_what_checkpoints_are_kept_by(here):
    given = ("--data.valid_file", "{a: data/valid.jsonl, b: data/test.jsonl}")
    few = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--trainer.check_val_every_n_epoch", 1)
    few = (*few, "--trainer.limit_val_batches", 1, "--model.num_warmup_steps", 1)
    config = with_callback(here, "bert_ja.callbacks.ModelCheckpoint", monitor="val_loss/b")
    trainer.main(list(map(str, ("--config", config, *few, *given))))
    best = training.find_checkpoint("best")
    provenance = training.load_checkpoint(best)["provenance"]
    assert provenance["samples"]["valid"] == [files.describe(f"data/{part}.jsonl") for part in ("valid", "test")]
    config = with_callback(here, "bert_ja.callbacks.ModelCheckpoint", monitor="val_loss/c")
    assert refused("--config", config, *few, *given).endswith(
        "val_nsp_accuracy, val_loss/a, val_mlm_loss/a, val_mlm_accuracy/a, val_nsp_loss/a, val_nsp_accuracy/a, "
        "val_loss/b, val_mlm_loss/b, val_mlm_accuracy/b, val_nsp_loss/b, val_nsp_accuracy/b"
    )


def test_checkpoints_by_a_metric_that_there_is_not_are_refused_before_the_work(here):
    config = yaml.safe_load(CONFIG.read_text())
    (checkpoints,) = (c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("ModelCheckpoint"))
    for name in ("val_nsp_loss", "val_nsp_loss/a", "val_loss/nsp"):
        checkpoints["init_args"]["monitor"] = name
        (here / f"{name.replace('/', '-')}.yaml").write_text(yaml.safe_dump(config))
    for part in ("train", "valid"):
        found = [json.loads(line) for line in (here / "data" / f"{part}.jsonl").read_text().splitlines()]
        for sample in found:
            del sample["next_sentence_label"]
        (here / "data" / f"{part}.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in found))
    for name in ("val_nsp_loss", "val_nsp_loss/a"):
        assert refused("--config", f"{name.replace('/', '-')}.yaml", "--data.ignore_records", "true") == (
            "the checkpoints monitor val_nsp_loss, which samples of --objective none do not have: monitor val_loss"
        )
    assert "is not measured" in refused("--config", "val_loss-nsp.yaml", "--data.ignore_records", "true")


def test_a_missing_file_of_samples_is_refused(here):
    assert refused("--config", CONFIG, "--data.train_file", "data/none.jsonl") == (
        "data/none.jsonl not found: make it with prepare_train_data.py, or mend data.train_file"
    )


def test_the_text_instead_of_its_samples_is_refused(here, texts):
    shutil.copy2(texts / "train.txt", here / "data" / "train.txt")
    shutil.copy2(texts / "train.txt.meta.json", here / "data" / "train.txt.meta.json")
    assert refused("--config", CONFIG, "--data.train_file", "data/train.txt") == (
        "data/train.txt was written by prepare_corpus.py, an output of prepare_train_data.py is needed"
    )


PLACES = {
    "the training samples": "data/train.jsonl.meta.json",
    "the validation samples": "data/valid.jsonl.meta.json",
    "the tokenizer": "output/model/meta.json",
}


@pytest.mark.parametrize("ignore_records", [False, True])
@pytest.mark.parametrize("says", [*PLACES, "the user", "nobody"])
def test_a_run_is_private_when_anything_that_it_reads_is(here, says, ignore_records):
    if says in PLACES:
        record = json.loads((here / PLACES[says]).read_text())
        record["corpus"]["private"] = True
        (here / PLACES[says]).write_text(json.dumps(record))
    parts = {f"{part}_file": f"data/{part}.jsonl" for part in ("train", "valid", "test")}
    options = {"ignore_records": ignore_records, "private_corpus": says == "the user" or None}
    data = training.PretrainingData("output/model", **parts, **options)
    for part in ("train", "valid"):
        data.require(part, 512)
    found = training.data_facts(data)
    origin = dict.fromkeys(files.ORIGIN)
    if not ignore_records:
        origin = origin | {"name": "bert-ja sample", "license": "CC0-1.0", "source": "written for bert-ja"}
        origin["dump"] = found["corpus"]["dump"]
    assert found["corpus"] == origin | {"private": says != "nobody"}
    assert data.corpus("train", private=True) == origin | {"private": True}  # as test.py says of a private checkpoint


@pytest.mark.parametrize("place", PLACES.values())
def test_what_a_record_calls_private_is_not_made_public_by_the_configuration(here, place):
    record = json.loads((here / place).read_text())
    record["corpus"]["private"] = True
    (here / place).write_text(json.dumps(record))
    name = place.removesuffix(".meta.json").removesuffix("/meta.json")
    assert refused("--config", CONFIG, "--data.private_corpus", "false") == (
        f"{name} is of a private corpus, as its record says, and so is all that is made from it: "
        "leave private_corpus out, or name another input"
    )


def test_more_warm_up_than_steps_is_refused(here):
    assert refused("--config", CONFIG, "--trainer.max_epochs", 1, "--model.num_warmup_steps", 5000).startswith(
        "model.num_warmup_steps is 5,000, the run has "
    )


def test_a_linear_schedule_without_an_end_is_refused(here):
    assert refused("--config", CONFIG, "--trainer.max_epochs", -1) == (
        "model.lr_schedule linear needs a last step: set trainer.max_steps or trainer.max_epochs"
    )


def test_a_validation_that_would_never_come_is_refused(here):
    few = ("--trainer.limit_train_batches", 7, "--trainer.val_check_interval", 8)
    assert refused("--config", CONFIG, *few) == (
        "trainer.val_check_interval is 8 optimizer steps of an epoch, which has 7: set val_every_n_steps instead, "
        "which counts over epochs, or lower it"
    )
    few = ("--trainer.limit_train_batches", 14, "--trainer.val_check_interval", 16)
    assert refused("--config", CONFIG, *few, "--trainer.accumulate_grad_batches", 2).startswith(
        "trainer.val_check_interval is 8 optimizer steps of an epoch, which has 7: "
    )


def test_an_interval_in_batches_that_is_no_whole_number_of_steps_is_refused(here):
    accumulated = ("--trainer.accumulate_grad_batches", 4, "--trainer.val_check_interval", 6)
    assert refused("--config", CONFIG, *accumulated) == (
        "trainer.val_check_interval is 6 batches, an optimizer step has 4 (trainer.accumulate_grad_batches): give a "
        "multiple of that"
    )
    assert refused("--config", CONFIG, "--trainer.gradient_clip_algorithm", "value") == (
        "trainer.gradient_clip_algorithm must be norm, got value: leave that key out"
    )


def with_callback(folder: Path, name: str, **arguments) -> Path:
    config = yaml.safe_load(CONFIG.read_text())
    config["trainer"]["callbacks"] = [{"class_path": name, "init_args": arguments}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def test_a_run_that_would_leave_no_checkpoint_is_refused(here):
    config = with_callback(here, "bert_ja.callbacks.ModelCheckpoint", monitor="val_loss", every_n_train_steps=10_000)
    few = ("--trainer.max_epochs", 2, "--trainer.limit_train_batches", 2, "--model.num_warmup_steps", 1)
    assert refused("--config", config, *few) == (
        "the first validation would come after step 10, the run has 4: lower val_every_n_steps (or "
        "trainer.check_val_every_n_epoch)"
    )
    few = (*few, "--trainer.check_val_every_n_epoch", 1)
    assert refused("--config", config, *few) == (
        "the checkpoints' every_n_train_steps is 10,000, the run has 4 optimizer steps and would leave none: lower it"
    )


def test_a_worse_checkpoint_is_not_made_up_for_before_the_next_multiple(here, monkeypatch):
    """Validation after every step, a checkpoint every 2; with a falling loss and mode max, only the first is kept."""
    arguments = {"monitor": "val_loss", "mode": "max", "save_top_k": 1, "every_n_train_steps": 2}
    config = with_callback(here, "bert_ja.callbacks.ModelCheckpoint", **arguments)
    few = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 6, "--trainer.limit_val_batches", 1)
    few = (*few, "--trainer.val_check_interval", 1, "--trainer.check_val_every_n_epoch", 1)
    candidates, save = [], callbacks.ModelCheckpoint._save_topk_checkpoint
    monkeypatch.setattr(
        callbacks.ModelCheckpoint,
        "_save_topk_checkpoint",
        lambda self, trainer, metrics: (candidates.append(trainer.global_step), save(self, trainer, metrics)),
    )
    trainer.main(list(map(str, ("--config", config, *few, "--model.num_warmup_steps", 1))))
    assert candidates == [2, 4, 6]


def test_a_metric_that_does_not_exist_is_one_sentence(here):
    config = with_callback(here, "bert_ja.callbacks.ModelCheckpoint", monitor="val_los")
    few = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1, "--model.num_warmup_steps", 0)
    few = (*few, "--trainer.check_val_every_n_epoch", 1)
    assert refused("--config", config, *few) == (
        "the checkpoints' monitor 'val_los' is not measured: name one of val_loss, val_mlm_loss, val_mlm_accuracy, "
        "val_nsp_loss, val_nsp_accuracy"
    )


def test_too_little_room_for_the_checkpoints_is_refused(here, disk):
    """Two of the best, the last and the next, 12 bytes for each of 883,130 parameters: 42 MB."""
    small = disk(4_000_000)
    assert refused("--config", CONFIG, "--trainer.default_root_dir", small) == (
        f"the set of checkpoints needs about 42 MB on the disk of {small}, but only 4 MB are free: "
        "free some space or write elsewhere"
    )


def test_a_disk_that_fills_up_leaves_no_half_checkpoint(disk):
    small = disk(300_000)
    with pytest.raises(OSError, match="No space left"), training.one_line_failures():
        WholeCheckpointIO().save_checkpoint({"weights": torch.zeros(1_000_000)}, small / "checkpoints" / "last.ckpt")
    assert list((small / "checkpoints").iterdir()) == []


# Checkpoints


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    path = tmp_path / "some.ckpt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(StageError, match="cannot be read as a checkpoint"):
        training.load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(StageError, match="is not a checkpoint of trainer.py"):
        training.load_checkpoint(path)


def test_a_cut_checkpoint_is_refused(run, tmp_path):
    path = tmp_path / "cut.ckpt"
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match="cannot be read as a checkpoint"):
        training.load_checkpoint(path)


def test_best_last_a_run_and_a_file_name_a_checkpoint(work, run, monkeypatch):
    monkeypatch.chdir(work)
    last = training.find_checkpoint("last")
    best = training.find_checkpoint("best")
    assert last == Path("lightning_logs/version_0/checkpoints/last.ckpt")
    assert training.find_checkpoint(str(run)).name == best.name != "last.ckpt"
    assert training.find_checkpoint(str(best)) == best
    assert training.find_config(None, best) == Path("lightning_logs/version_0/config.yaml")


def test_the_best_of_a_copied_run_is_the_same_whatever_the_times_of_its_files(work, run, copy):
    folder = copy(str(run.relative_to(work))) / run.relative_to(work)
    first = min((folder / "checkpoints").glob("epoch=*"))
    os.utime(first, (2e9, 2e9))
    assert training.find_checkpoint(str(folder)).name == training.find_checkpoint(str(run)).name != first.name


def test_the_best_is_that_of_the_callback_with_a_metric(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    states = {"every": {"monitor": None, "best_model_path": "every.ckpt"}, "lr": {}}
    states["best"] = {"monitor": "val_loss", "best_model_path": "gone/best.ckpt"}
    content = {"state_dict": {}, "hyper_parameters": {}, "provenance": {}, "global_step": 3, "callbacks": states}
    for name in ("every", "best"):
        torch.save(content, tmp_path / "checkpoints" / f"{name}.ckpt")
    assert training.find_checkpoint(str(tmp_path)).name == "best.ckpt"


def test_the_newest_run_is_the_one_with_the_highest_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("version_9", "version_10", "version_2_old", "version_x"):
        (tmp_path / "lightning_logs" / name).mkdir(parents=True)
    assert training.newest_run() == Path("lightning_logs/version_10")


def test_without_a_run_best_and_last_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("best", "last"):
        with pytest.raises(StageError, match="there is no run under lightning_logs"):
            training.find_checkpoint(name)


def test_a_checkpoint_of_another_vocabulary_is_refused_with_both_numbers(work, run, monkeypatch):
    monkeypatch.chdir(work)
    checkpoint = training.load_checkpoint(training.find_checkpoint("last"))
    other = tokenization.Vocabulary(500, "f" * 64, 0, 1, 2, 3, 4)
    with pytest.raises(StageError, match=r"vocabulary 3,000.*vocabulary 500"):
        training.require_same_vocabulary(Path("last.ckpt"), checkpoint, other)


def test_weights_of_another_shape_are_named(run):
    path = run / "checkpoints" / "last.ckpt"
    with pytest.raises(StageError, match=r"is \(3000, 128\) in the checkpoint and \(3000, 64\) in the model"):
        training.load_weights(
            BertPretraining(3000, hidden_size=64, num_hidden_layers=1, num_attention_heads=1),
            path,
            training.load_checkpoint(path),
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_hidden_layers": 3, "num_attention_heads": 2}, "absent in the checkpoint and (128, 128) in the model"),
        ({"num_attention_heads": 4}, "it has 2 attention heads, model.num_attention_heads is 4"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(run, options, message):
    path = run / "checkpoints" / "last.ckpt"
    model = BertPretraining(3000, **{"hidden_size": 128, "num_hidden_layers": 2} | options)
    with pytest.raises(StageError, match=re.escape(message)):
        training.load_weights(model, path, training.load_checkpoint(path))


def test_a_refusal_keeps_its_sentence_whatever_it_came_from():
    with pytest.raises(StageError, match="another run is writing"), training.one_line_failures():
        try:
            raise BlockingIOError(11, "busy")
        except BlockingIOError:
            raise StageError("another run is writing") from None


# The optimizer step


@pytest.mark.parametrize("batch_size, accumulate", [(8, 4), (32, 1), (5, 7)])
def test_accumulation_gives_the_gradient_of_the_whole_step(samples, tokenizer, batch_size, accumulate):
    """8 x 4, 32 x 1: one gradient; a last, shorter step too. The reference is one batch of the same samples."""
    vocabulary = tokenization.vocabulary(tokenizer)
    columns = Columns.open(samples / "train.jsonl", files.read_record(samples / "train.jsonl"))
    model = small_model(vocabulary.size)
    batches = Batches(columns, vocabulary, batch_size, 1, True, accumulate)
    size = batch_size * accumulate
    whole = Batches(columns, vocabulary, size, 1, True)
    assert batches.steps() == whole.steps() == -(-len(columns) // size)
    for step in (0, batches.steps() - 1):
        expected = gradient(model, whole.step(0, step).micro_batches())
        assert torch.allclose(gradient(model, batches.step(0, step).micro_batches()), expected, atol=1e-6)


def small_model(vocab_size: int, **options) -> BertPretraining:
    torch.manual_seed(0)
    options |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertPretraining(vocab_size, 32, 1, 2, max_position_embeddings=512, **options)


@pytest.fixture
def batches(samples, tokenizer) -> Batches:
    """Steps of 4 times 8 samples."""
    columns = Columns.open(samples / "train.jsonl", files.read_record(samples / "train.jsonl"))
    return Batches(columns, tokenization.vocabulary(tokenizer), 8, 1, True, accumulate=4)


@pytest.fixture
def fit(batches, tmp_path):
    """A function that trains a model for `limit_train_batches` of these steps in this process."""
    loader = torch.utils.data.DataLoader(StepDataset(batches), batch_size=None, sampler=EpochSampler(batches))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}

    def run(model: BertPretraining, clip: float | None = None, **options) -> BertPretraining:
        options = {"logger": False, "max_epochs": 1} | quiet | options
        model.gradient_clip_val = clip
        pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **options).fit(model, loader)
        return model

    return run


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained_by_hand(model: BertPretraining, batches: Batches, steps: int, clip: float, scale: float) -> torch.Tensor:
    """The textbook's loop: a plain optimizer, torch's clipping, and under fp16 torch's GradScaler; its weights."""
    optimizers = plain_optimizers(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale > 0)
    for number in range(steps):
        model.zero_grad()
        for batch in batches.step(0, number).micro_batches():
            with torch.autocast("cpu", torch.float16, enabled=scale > 0):
                totals = model.totals(batch)
            loss = totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]
            scaler.scale(loss).backward()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    return weights(model)


def plain_optimizers(model: BertPretraining) -> list[torch.optim.Optimizer]:
    """Those of torch that a model's optimizer stands for."""
    kind = {"adam": torch.optim.Adam}.get(model.hparams.optimizer, torch.optim.AdamW)
    decayed, spared = model._parameter_groups()
    if model.hparams.optimizer != "muon":
        return [kind([decayed, spared], lr=model.hparams.lr, fused=False)]
    decay, names = {"weight_decay": decayed["weight_decay"]}, dict(model.model.named_parameters())
    matrices = [p for name, p in names.items() if "encoder.layer" in name and p.ndim == 2]
    others = [p for name, p in names.items() if "encoder.layer" not in name and p.ndim == 2]
    assert len(matrices) == 6 * model.hparams.num_hidden_layers
    muon = torch.optim.Muon(matrices, lr=model.hparams.lr, adjust_lr_fn="match_rms_adamw", **decay)
    return [muon, torch.optim.AdamW([{"params": others} | decay, spared], lr=model.hparams.lr, fused=False)]


@pytest.mark.parametrize(
    "precision, optimizer",
    [
        *(("32-true", "adamw"), ("16-mixed", "adam"), ("16-mixed", "muon")),
        *(pytest.param("32-true", name, marks=pytest.mark.full) for name in ("adam", "muon")),
        pytest.param("16-mixed", "adamw", marks=pytest.mark.full),
    ],
)
def test_a_step_gives_the_weights_of_the_textbooks_loop(fit, batches, optimizer, precision):
    """Micro-batches, fp16's loss scale, clipping and the fused update, against the plain order of the four."""
    options = {"optimizer": optimizer, "lr": 0.01, "weight_decay": 0.1 * (optimizer != "adam")}
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    half = {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)]} if precision == "16-mixed" else {}
    found = weights(fit(small_model(3000, **options), clip=0.1, limit_train_batches=3, **half))
    expected = trained_by_hand(small_model(3000, **options), batches, 3, 0.1, 1024.0 if half else 0.0)
    assert not torch.equal(found, weights(small_model(3000)))
    # Muon makes the directions of a matrix equally large, those of rounding too, in bfloat16; test_muon.py is exact.
    moved = (expected - weights(small_model(3000))).norm()
    assert (found - expected).norm() / moved < (0.01 if optimizer == "muon" else 1e-4)
    # Adam goes by the sign of a gradient at first, and next to zero rounding decides it.
    assert optimizer == "muon" or ((found - expected).abs() > 1e-5).float().mean() < 0.01


def test_micro_batches_of_any_size_train_the_same_model(fit, batches):
    """8 x 4, 32 x 1 and 3 x 11: the same losses and weights after five steps, the last one of an epoch among them."""
    found = []
    for size, accumulate in ((8, 4), (32, 1), (1, 32)):
        cut = Batches(batches.sources, batches.vocabulary, size, 1, True, accumulate)
        sampler = EpochSampler(cut)
        sampler.go_on(len(cut.order) - 4 * 32 - 5)
        loader = torch.utils.data.DataLoader(StepDataset(cut), batch_size=None, sampler=sampler)
        model = small_model(3000, lr=0.01)
        trainer = pl.Trainer(
            **{"accelerator": "cpu", "logger": False, "max_epochs": 1, "enable_progress_bar": False},
            **{"enable_model_summary": False, "enable_checkpointing": False},
        )
        trainer.fit(model, loader)
        assert trainer.global_step == 5
        found.append(weights(model))
    for other in found[1:]:
        assert ((found[0] - other).abs() > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize(
    "compiler", ["eager", pytest.param("inductor", marks=[pytest.mark.full, pytest.mark.timeout(1200)])]
)
def test_a_compiled_step_is_compiled_once_for_all_shapes(batches, compiler, monkeypatch):
    """Twelve batches of twelve shapes: after the first nothing is compiled again, and the gradients are the same."""
    torch._dynamo.reset()
    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_with(function, backend=compiler, **options)
    )
    compiled, eager = small_model(3000, compile=True), small_model(3000)
    graphs, shapes = [], set()
    for number in range(12):
        step = batches.step(0, number).micro_batches()[:1]
        shapes.add(tuple(len(step[0][name]) for name in ("input_ids", "mlm_labels")))
        found = gradient(compiled, step, compiled.training_measures)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert torch.allclose(found, gradient(eager, step), atol=1e-6)
    assert len(shapes) == 12
    assert graphs == [graphs[0]] * 12
    assert graphs[0] > 0


@pytest.mark.full
def test_a_step_is_not_compiled_again_for_longer_rows_of_attention(batches, monkeypatch):
    torch._dynamo.reset()
    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_with(function, backend="eager", **options)
    )
    model, graphs, rows = small_model(3000, compile=True), [], set()
    for longer in ([], [200], [200, 300], [500, 500], [500, 300, 200, 100], [400, 140], []):
        (batch,) = memory.step_of(np.array([*longer, *[60] * 8]), batches).micro_batches()
        model.training_measures(batch)["mlm_loss"].backward()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        rows.add(tuple(part.shape[1] for part in batch["rows"]))
    assert len(rows) == 6
    assert graphs == [graphs[0]] * 7


def with_bad_steps(model: BertPretraining, bad: set[int]) -> BertPretraining:
    """The model with a loss that is not a number in these optimizer steps."""
    measures = model.measures

    def spoiled(batch: dict) -> dict:
        found = measures(batch)
        return found | {"mlm_loss": found["mlm_loss"] * float("nan")} if model.global_step in bad else found

    model.training_measures = spoiled
    return model


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_is_not_finite_is_skipped_and_counted(fit, clip):
    model = fit(with_bad_steps(small_model(3000, lr=0.01), {1}), clip, limit_train_batches=2)
    assert model.nonfinite.counts() == (1, 1, 1)
    assert torch.equal(weights(model), weights(fit(small_model(3000, lr=0.01), clip, limit_train_batches=1)))
    model = fit(with_bad_steps(small_model(3000, lr=0.01), {1, 3, 4}), clip, limit_train_batches=6)
    assert model.nonfinite.counts() == (0, 2, 3)
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize("bad", [0, 1])
def test_a_step_that_is_not_finite_changes_nothing_of_muon_either(fit, bad):
    """Nor of its momentum, in the first step of all too."""
    options = {"lr": 0.01, "optimizer": "muon", "weight_decay": 0.1}
    spoiled = fit(with_bad_steps(small_model(3000, **options), {bad}), 1.0, limit_train_batches=bad + 1)
    whole = small_model(3000, **options)
    assert torch.equal(weights(spoiled), weights(fit(whole, 1.0, limit_train_batches=1) if bad else whole))
    momenta = [state["momentum_buffer"] for state in spoiled.optimizers().state.values() if "momentum_buffer" in state]
    assert len(momenta) == 6
    assert all(torch.isfinite(momentum).all() for momentum in momenta)
    assert all(momentum.any() == bool(bad) for momentum in momenta)


def test_training_ends_after_too_many_steps_in_a_row_that_were_not_finite(fit):
    model = with_bad_steps(small_model(3000, max_nonfinite_steps=3), {1, 2, 4, 5, 6})
    with pytest.raises(StageError, match="of 3 optimizer steps in a row was not finite .each was skipped.: lower "):
        fit(model, limit_train_batches=20, log_every_n_steps=2)
    assert model.global_step == 8
    assert float(model.trainer.callback_metrics["nonfinite_steps"]) == 5


def test_a_run_that_never_logs_ends_after_such_steps_too(fit, monkeypatch):
    monkeypatch.setattr(NonfiniteSteps, "LOOK_EVERY", 5)
    model = with_bad_steps(small_model(3000, max_nonfinite_steps=3), {1, 2, 6, 7, 8})
    with pytest.raises(StageError, match="of 3 optimizer steps in a row was not finite"):
        fit(model, limit_train_batches=20, log_every_n_steps=0)
    assert model.global_step == 10


class Synchronisations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operations for which a GPU's host has to wait: reading a number, and results of unknown size."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        boolean = name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        if name in self.WAITS or boolean:
            self.found.append(name)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_does_not_log_never_waits_for_the_device(fit, monkeypatch, clip):
    """With log_every_n_steps 4, of eight steps the fourth and the eighth log and wait, in a run's callbacks too."""
    waits = []

    def watch(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def watched(*arguments):
            with Synchronisations() as mode:
                function(*arguments)
            waits.append((owner.__name__, arguments[-1] + 1, len(mode.found)))

        monkeypatch.setattr(owner, name, watched)

    added = [monitoring.Throughput(), monitoring.Health(7.0, 1e-4, 0)]
    watch(BertPretraining, "training_step")
    for callback in added:
        watch(type(callback), "on_train_batch_start")
        watch(type(callback), "on_train_batch_end")
    fit(small_model(3000), clip, limit_train_batches=8, log_every_n_steps=4, callbacks=added)
    assert len(waits) == 8 * 5
    found = {(owner, number) for owner, number, count in waits if count}
    assert found == {(owner, number) for owner in ("BertPretraining", "Health") for number in (4, 8)}


def test_training_losses_are_logged_at_the_step_that_they_are_of(fit, tmp_path):
    logged = {}
    for every in (1, 3):
        fit(
            small_model(3000, lr=0.01),
            limit_train_batches=7,
            log_every_n_steps=every,
            logger=pl.loggers.CSVLogger(tmp_path, version=every),
        )
        rows = csv.DictReader(open(tmp_path / "lightning_logs" / f"version_{every}" / "metrics.csv"))
        logged[every] = {int(row["step"]): float(row["train_mlm_loss"]) for row in rows}
    assert list(logged[1]) == list(range(7))
    assert len(set(logged[1].values())) == 7
    assert logged[3] == {step: logged[1][step] for step in (2, 5)}


def test_no_logging_at_all_is_possible(fit):
    assert fit(small_model(3000), limit_train_batches=1, log_every_n_steps=0).trainer.global_step == 1


def gradient(model: BertPretraining, micro_batches: list[dict], totals_of=None) -> torch.Tensor:
    model.zero_grad()
    for batch in micro_batches:
        totals = (totals_of or model.totals)(batch)
        (totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_padded_step_has_the_totals_and_gradients_of_a_packed_one(batches):
    """model.packed false is the published step: every sample padded, all positions through the head."""
    packed, padded = small_model(3000), small_model(3000, packed=False)
    for model in (packed, padded):
        model.choose_attention(torch.device("cpu"), torch.float32)
    assert (packed.backend, padded.backend) == ("rows", "padded")
    for batch in batches.step(0, 0).micro_batches():
        one, other = (model.totals(batch) for model in (packed, padded))
        for name in one:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5), name
    step = batches.step(0, 1).micro_batches()
    assert torch.allclose(gradient(packed, step), gradient(padded, step), atol=1e-6)


def test_a_backend_can_be_named():
    model = small_model(3000, attention_backend="varlen")
    said = model.choose_attention(torch.device("cpu"), torch.float32)
    assert said == "attention: varlen, as model.attention_backend says"


def test_the_type_that_attention_is_computed_in_follows_the_precision():
    for precision, dtype in (("16-mixed", "float16"), ("bf16-mixed", "bfloat16"), ("bf16-true", "bfloat16")):
        trainer = pl.Trainer(accelerator="cpu", precision="32-true", logger=False, enable_checkpointing=False)
        trainer._accelerator_connector.precision_plugin.precision = precision
        assert training.attention_dtype(trainer) == getattr(torch, dtype)


# The bar


def test_the_bar_is_drawn_once_a_minute_in_a_file_and_at_its_end(monkeypatch):
    bar, clock = callbacks.ProgressBar(), iter(range(0, 1000, 7))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    assert [n for n in range(30) if bar._should_update(n, 29)] == [0, 9, 18, 27, 29]
    bar.disable()
    assert not bar._should_update(29, 29)


def test_a_run_has_our_bar_unless_its_configuration_has_another_or_wants_none():
    own, other = pl.callbacks.RichProgressBar(), pl.callbacks.LearningRateMonitor()
    for given, options, expected in (
        (None, {}, [callbacks.ProgressBar]),
        (other, {"enable_progress_bar": True}, [pl.callbacks.LearningRateMonitor, callbacks.ProgressBar]),
        ([other], {"enable_progress_bar": False}, [pl.callbacks.LearningRateMonitor]),
        ([own], {}, [pl.callbacks.RichProgressBar]),
    ):
        assert [type(each) for each in training.with_progress_bar(given, options)] == expected
