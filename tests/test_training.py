"""What trainer.py refuses and finds, called in this process: importing Lightning for each case would take minutes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG, ROOT, stage

import trainer
from bert_ja import files, tokenization, training
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns
from bert_ja.pretraining import BertPretraining

PUBLISHED = {
    "seed_everything": 1000,
    "trainer": {
        "gradient_clip_val": 1.0,
        "gpus": 1,
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
    assert message.count(": now ") + message.count(": remove it") == 11


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
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
        "val_check_interval": 10000,
        "gradient_clip_val": 1.0,
        "deterministic": False,
    }
    assert {k: checkpoint[k] for k in ("monitor", "mode", "every_n_train_steps", "save_top_k")} == {
        "monitor": "val_loss",
        "mode": "min",
        "every_n_train_steps": 10000,
        "save_top_k": 3,
    }
    assert config["model"] == {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "lr": 0.0001,
        "num_warmup_steps": 10000,
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
        (["--model.optimizer", "sgd"], "model.optimizer must be one of adam, adamw, got 'sgd'"),
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
    ],
)
def test_options_that_cannot_work_are_named_all_at_once(options, message):
    assert refused("--config", CONFIG, *options) == message


def test_an_unknown_option_is_refused():
    assert "hiden_size" in refused("--config", CONFIG, "--model.hiden_size", 1)


def test_a_wrong_type_is_refused():
    assert "num_hidden_layers" in refused("--config", CONFIG, "--model.num_hidden_layers", "two")


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
    assert refused("--config", CONFIG, "--data.valid_file", "data/train.jsonl") == (
        "data/train.jsonl has no labels, so its loss would change with every pass: make it with --get_raw True"
    )


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


def test_more_warm_up_than_steps_is_refused(here):
    assert refused("--config", CONFIG, "--trainer.max_epochs", 1, "--model.num_warmup_steps", 5000).startswith(
        "model.num_warmup_steps is 5,000, the run has "
    )


def test_two_devices_are_refused(here):
    assert refused("--config", CONFIG, "--trainer.devices", 2).startswith("trainer.devices asks for 2 devices")


def test_a_full_disk_during_training_is_one_sentence_and_leaves_no_half_checkpoint(here, disk):
    """A checkpoint of this model is 10 MB, the disk has 4."""
    small = disk(4_000_000)
    steps = (
        *("--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1, "--trainer.limit_train_batches", 2),
        *("--model.num_warmup_steps", 1, "--trainer.default_root_dir", small),
    )
    ended = stage("trainer.py", "--config", CONFIG, *steps, cwd=here, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("trainer.py: error: the disk is full")
    assert "Traceback" not in ended.stderr
    assert not [file for file in small.rglob("*") if "ckpt" in file.name]


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
    last_step = (len(columns) - 1) // size
    for step in (0, last_step):
        expected = gradient(model, [whole.batch(0, step)])
        numbers = range(step * accumulate, min((step + 1) * accumulate, len(batches)))
        assert torch.allclose(gradient(model, [batches.batch(0, n) for n in numbers]), expected, atol=1e-6)


def small_model(vocab_size: int) -> BertPretraining:
    torch.manual_seed(0)
    return BertPretraining(
        vocab_size, 32, 1, 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=512
    )


def gradient(model: BertPretraining, micro_batches: list[dict]) -> torch.Tensor:
    model.zero_grad()
    for batch in micro_batches:
        totals = model.totals(batch)
        (totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
