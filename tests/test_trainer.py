import json
import re
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from conftest import CONFIG, refusal, stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from texts import write_wordpiece

from bert_ja import files, tokenization, training
from bert_ja.dataset import Batches, Columns
from bert_ja.pretraining import BertPretraining

FEW_STEPS = (
    *("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 4, "--trainer.limit_val_batches", 1),
    *("--trainer.check_val_every_n_epoch", 1, "--model.num_warmup_steps", 1),
)


def test_a_run_leaves_its_configuration_events_and_checkpoints(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["hidden_size"] == 128
    assert config["trainer"]["max_epochs"] == 2
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    steps = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] // 2
    assert names == [f"epoch=0-step={steps}.ckpt", f"epoch=1-step={2 * steps}.ckpt", "last.ckpt"]
    events = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    assert {"val_loss", "val_mlm_loss", "val_nsp_accuracy", "train_mlm_loss", "lr-AdamW/pg1"} <= set(events)


def test_training_lowers_the_validation_loss(run):
    losses = [point.value for point in EventAccumulator(str(run)).Reload().Scalars("val_mlm_loss")]
    assert len(losses) == 2
    assert losses[1] < losses[0] < 8.0  # ln 3,000 = 8.006 is the loss of a model that knows nothing


def test_a_checkpoint_says_where_it_comes_from(work, run):
    provenance = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["provenance"]
    assert provenance["tokenizer"] == tokenization.tokenizer_facts(work / "output" / "model")
    assert provenance["samples"]["train"] == files.describe(work / "data" / "train.jsonl")
    assert provenance["corpus"]["license"] == "CC0-1.0"
    assert provenance["settings"] == {
        "samples_per_step": 32,
        "gradient_clip_val": 1.0,
        "precision": "32-true",
        "seed": 1000,
        "data_seed": 1000,
        "mlm_probability": 0.15,
        "mlm_probability_end": None,
        "mask_replace_prob": 0.8,
        "random_replace_prob": 0.1,
    }
    stages = [record["stage"] for record in provenance["history"]]
    assert stages[:4] == ["extract_jawiki.py", "prepare_corpus.py", "train_tokenizer.py", "prepare_train_data.py"]
    outputs = [output for record in provenance["history"] for output in record["outputs"]]
    for name in ("data/jawiki.txt", "data/valid.txt", "output/model/spm.model", "data/train.jsonl", "data/valid.jsonl"):
        assert files.describe(work / name) in outputs
    assert str(work) not in json.dumps(provenance)


def test_the_checkpoint_monitors_the_loss_of_its_own_step(run):
    """best_model_score of the callback equals the loss that its checkpoint has when it is measured again."""
    (state,) = (
        state
        for name, state in training.load_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"].items()
        if name.startswith("ModelCheckpoint")
    )
    measured = [point.value for point in EventAccumulator(str(run)).Reload().Scalars("val_loss")]
    assert float(state["best_model_score"]) == pytest.approx(min(measured), abs=1e-6)


@pytest.mark.full
def test_two_runs_give_the_same_weights_whatever_the_workers(work, samples, tmp_path):
    weights = []
    for workers, env in ((0, None), (2, {})):  # and a new interpreter, whose sets have another order
        folder = tmp_path / str(workers)
        stage(
            *("trainer.py", "--config", CONFIG, *FEW_STEPS, "--data.num_workers", workers),
            *("--trainer.default_root_dir", folder, "--trainer.limit_val_batches", 1),
            cwd=work,
            env=env,
        )
        path = folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
        weights.append(training.load_checkpoint(path)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validation_runs_and_saves_at_the_steps_asked_for(work, samples, tmp_path):
    """every_n_train_steps with a monitor: each checkpoint is saved after the validation of its own step."""
    config = yaml.safe_load(CONFIG.read_text())
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 8, "val_check_interval": 2, "limit_val_batches": 1}
    config["trainer"]["check_val_every_n_epoch"] = 1
    config["trainer"]["callbacks"] = [
        {
            "class_path": "bert_ja.callbacks.ModelCheckpoint",
            "init_args": {
                **{"monitor": "val_loss", "save_top_k": -1, "every_n_train_steps": 4},
                **{"filename": "{step}-{val_loss:.6f}", "save_last": True},
            },
        }
    ]
    config["model"]["num_warmup_steps"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    stage("trainer.py", "--config", tmp_path / "config.yaml", "--trainer.default_root_dir", tmp_path, cwd=work)
    run = tmp_path / "lightning_logs" / "version_0"
    measured = {point.step + 1: point.value for point in EventAccumulator(str(run)).Reload().Scalars("val_loss")}
    assert sorted(measured) == [2, 4, 6, 8]
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["last.ckpt", *(f"step={step}-val_loss={measured[step]:.6f}.ckpt" for step in (4, 8))]


def test_checkpoints_go_on_in_the_second_epoch_whose_length_the_interval_does_not_divide(work, samples, tmp_path):
    """5 batches an epoch, validation and checkpoint every 2: steps 2, 4, then 5 + 2 and 5 + 4."""
    config = yaml.safe_load(CONFIG.read_text())
    config["trainer"] |= {"max_epochs": 2, "limit_train_batches": 5, "val_check_interval": 2, "limit_val_batches": 1}
    config["trainer"]["check_val_every_n_epoch"] = 1
    arguments = {"monitor": "val_loss", "save_top_k": -1, "every_n_train_steps": 2, "filename": "{step}"}
    config["trainer"]["callbacks"] = [{"class_path": "bert_ja.callbacks.ModelCheckpoint", "init_args": arguments}]
    config["model"]["num_warmup_steps"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    stage("trainer.py", "--config", tmp_path / "config.yaml", "--trainer.default_root_dir", tmp_path, cwd=work)
    run = tmp_path / "lightning_logs" / "version_0"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step={n}.ckpt" for n in (2, 4, 7, 9)]


def test_the_published_command_line_refuses_in_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text("trainer:\n  gpus: 1\n")
    assert refusal("trainer.py", "--config", "config.yaml", cwd=tmp_path) == (
        "config.yaml is written for an older pytorch-lightning or layout; change "
        "trainer.gpus: now trainer.accelerator: gpu and trainer.devices: N"
    )


def test_help_explains_every_option_of_model_and_data(tmp_path):
    shown = stage("trainer.py", "--help", cwd=tmp_path).stdout
    for explained in (
        "Samples a batch",
        "Longest sample in tokens",
        "Optimizer steps over which",
        "Share of a sample",
        "--resume [RUN]",
    ):
        assert explained in shown


@pytest.mark.full
def test_several_files_of_whole_words_without_a_second_task_and_a_wordpiece_tokenizer(texts, tmp_path):
    """From text to exported model by another way: WordPiece, segments of one part, two files with shares."""
    (tmp_path / "data").mkdir()
    for part in ("train", "valid"):
        (tmp_path / "data" / f"{part}.txt").write_bytes((texts / f"{part}.txt").read_bytes())
    letters = sorted(set((texts / "train.txt").read_text()) - {"\n"})
    folder = write_wordpiece(
        tmp_path / "tokenizer", ["[UNK]", "[SEP]", *letters, *(f"##{x}" for x in letters), "[MASK]", "[PAD]", "[CLS]"]
    )
    common = ("--tokenizer_model", folder, "--objective", "none", "--whole_word_mask", "True", "--max_seq_len", 128)
    for name, text, raw in (("a", "train", False), ("b", "valid", False), ("valid", "valid", True)):
        options = ("--filename", f"data/{text}.txt", "--output_file", f"data/{name}.jsonl", "--get_raw", raw)
        stage("prepare_train_data.py", *options, *common, cwd=tmp_path)
    files_of = ("--data.train_file", "{data/a.jsonl: 0.7, data/b.jsonl: 0.3}", "--data.valid_file", "data/valid.jsonl")
    trained = stage(
        *("trainer.py", "--config", CONFIG, *FEW_STEPS, *files_of, "--data.tokenizer_model", "tokenizer"), cwd=tmp_path
    )
    (validation,) = re.findall(r"^validation: .*", trained.stderr, re.MULTILINE)
    assert "NSP" not in validation
    last = Path("lightning_logs", "version_0", "checkpoints", "last.ckpt")
    provenance = training.load_checkpoint(tmp_path / last)["provenance"]
    records = [files.read_record(tmp_path / "data" / f"{name}.jsonl") for name in "ab"]
    assert provenance["shares"] == [0.7, 0.3]
    assert provenance["samples"]["train"] == [record["outputs"][0] for record in records]
    assert provenance["counts"]["samples"] == sum(record["counts"]["samples"] for record in records)
    tested = stage("test.py", "--ckpt_path", last, "--test_file", "data/valid.jsonl", cwd=tmp_path)
    metrics = json.loads(tested.stdout)
    assert (metrics["nsp_loss"], metrics["nsp_accuracy"]) == (None, None)
    assert metrics["test_loss"] == metrics["mlm_loss"]
    stage("export_model.py", "--ckpt_path", last, "--output_dir", "model", cwd=tmp_path)
    for name in ("vocab.txt", "tokenizer_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / name).read_bytes()
    line = (texts / "valid.txt").read_text().split("\n")[0]
    ours, exported = (transformers.AutoTokenizer.from_pretrained(path)(line) for path in (folder, tmp_path / "model"))
    assert exported["input_ids"] == ours["input_ids"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    special = [config[f"{role}_token_id"] for role in ("pad", "cls", "sep", "mask")]
    assert special == [2 * len(letters) + place for place in (3, 4)] + [1, 2 * len(letters) + 2]


@pytest.mark.full
def test_one_batch_is_learned_by_heart(work, samples, tokenizer):
    """The step, its loss and its gradient hang together: both losses of a batch seen 300 times go to nearly nothing."""
    torch.manual_seed(0)
    vocabulary = tokenization.vocabulary(tokenizer)
    columns = Columns.open(samples / "valid.jsonl", files.read_record(samples / "valid.jsonl"))
    (batch,) = Batches(columns, vocabulary, 8, 1, shuffle=False).step(0, 0).micro_batches()
    model = BertPretraining(vocabulary.size, 64, 2, 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(300):
        totals = model.totals(batch)
        mlm, nsp = totals["mlm_loss"] / totals["masked_tokens"], totals["nsp_loss"] / totals["samples"]
        optimizer.zero_grad()
        (mlm + nsp).backward()
        optimizer.step()
    assert mlm < 0.1
    assert nsp < 0.1
