import json
import shutil
from copy import deepcopy as copy_of

import pytest
import torch
import yaml
from conftest import refusal, stage
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining, pipeline

import export_model
from bert_ja import files, loss_curve, model_card, model_folder, training
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining

EXPORTED = ["config.json", "meta.json", "model.safetensors", "spm.model", "tokenizer.json", "tokenizer.meta.json"]


def test_the_folder_holds_a_model_and_its_tokenizer(model):
    assert sorted(path.name for path in model.iterdir()) == [*EXPORTED, "tokenizer_config.json"]
    config = json.loads((model / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    assert config["vocab_size"] == 3000
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 2, 3)


def test_weights_and_logits_are_those_of_the_checkpoint(model, run):
    checkpoint = training.load_checkpoint(run / "checkpoints" / "last.ckpt")
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    trained = BertPretraining(**options)
    trained.load_state_dict(checkpoint["state_dict"])
    trained.model.set_attn_implementation("sdpa")
    ids = torch.randint(5, 3000, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trained.model.eval()(ids)
        exported = BertForPreTraining.from_pretrained(model).eval()(ids)
        masked_lm = AutoModelForMaskedLM.from_pretrained(model).eval()(ids)
    assert torch.equal(exported.prediction_logits, expected.prediction_logits)
    assert torch.equal(exported.seq_relationship_logits, expected.seq_relationship_logits)
    assert torch.equal(masked_lm.logits, expected.prediction_logits)


def test_a_pipeline_fills_masks(model):
    predictions = pipeline("fill-mask", str(model))("日本の[MASK]は美しい。")
    assert len(predictions) == 5
    assert all(prediction["token"] >= 5 or prediction["token"] == 1 for prediction in predictions)
    assert AutoTokenizer.from_pretrained(model).model_max_length == 512


@pytest.mark.full
def test_exporting_again_replaces_the_folder_with_the_same_bytes(work, model, run, copy):
    """Whatever the configuration says of the training and of its device: the record has it from the checkpoint."""
    folder = copy("model")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["devices"], config["model"]["lr"] = [0], 0.5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    before = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    stage(
        *("export_model.py", "--ckpt_path", run / "checkpoints" / "last.ckpt"),
        *("--config", folder / "config.yaml", "--output_dir", folder / "model"),
        cwd=work,
    )
    after = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    assert sorted(after) == [name for name in sorted(before) if name != "tokenizer.meta.json"]
    assert all(after[name] == before[name] for name in after if name != "meta.json")
    records = [json.loads(content["meta.json"]) for content in (before, after)]
    assert [record.pop("run") is not None for record in records] == [True, True]
    assert records[0] == records[1]


def test_a_fresh_process_compares_samples_of_the_run_and_the_record_says_what_it_answered(model, run, work):
    gate_record = files.read_record(model)["gate"]
    assert gate_record["samples"] > 10
    assert 512 < gate_record["tokens"] <= 1024
    assert max(gate_record["largest_difference"].values()) <= 1e-5
    assert [each["prompt"] for each in gate_record["fill_mask"]] == list(model_card.PROMPTS)
    guesses = pipeline("fill-mask", str(model), device="cpu")(model_card.PROMPTS[0])
    assert [token for token, _ in gate_record["fill_mask"][0]["guesses"]] == [guess["token"] for guess in guesses]


def test_a_fault_in_what_is_written_leaves_no_folder_and_is_named(run, work, tmp_path, monkeypatch):
    """As when a version of transformers wrote weights of half precision."""
    write_model = model_folder.write_model
    monkeypatch.chdir(work)
    monkeypatch.setattr(model_folder, "write_model", lambda model, *rest: write_model(copy_of(model).half(), *rest))
    with pytest.raises(StageError) as error:
        export_model.main(str(run / "checkpoints" / "last.ckpt"), output_dir=str(tmp_path / "model"))
    start = (
        "the exported model is not the trained one, nothing was written: its weights are F16, in training they were "
    )
    assert str(error.value).startswith(f"{start}F32; it fills {model_card.PROMPTS[0]} otherwise than in training (")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_foreign_files_is_left_alone(work, run, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    message = refusal("export_model.py", "--ckpt_path", run, "--output_dir", tmp_path / "model", cwd=work)
    assert message == (
        f"{tmp_path / 'model'} holds thesis.txt, which this stage did not write: move it away or name another folder"
    )
    assert (tmp_path / "model" / "thesis.txt").read_text() == "mine"


def test_another_stages_file_is_no_checkpoint(work, run, tmp_path):
    name = "data/train.jsonl"
    message = refusal("export_model.py", "--ckpt_path", name, "--output_dir", tmp_path / "model", cwd=work)
    assert message.startswith(f"{name} cannot be read as a checkpoint")
    assert not (tmp_path / "model").exists()


def test_too_little_room_is_refused_before_the_work(work, run, disk):
    small = disk(1_000_000)
    last = run / "checkpoints" / "last.ckpt"
    message = refusal("export_model.py", "--ckpt_path", last, "--output_dir", small / "model", cwd=work)
    assert message.startswith(f"the exported model needs about 4 MB on the disk of {small}, but only 1 MB are free")


def test_a_disk_that_fills_up_leaves_no_folder(work, run, disk):
    small = disk(4_000_000)  # enough for the weights, not for the tokenizer behind them
    last = run / "checkpoints" / "last.ckpt"
    message = refusal("export_model.py", "--ckpt_path", last, "--output_dir", small / "model", cwd=work)
    assert message.startswith("the disk is full")
    assert list(small.iterdir()) == []


def test_records_name_the_checkpoint(model, run):
    record = files.require_record(model, "export_model.py")
    assert record["inputs"] == [files.describe(run / "checkpoints" / "last.ckpt")]
    provenance = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["provenance"]
    assert record["history"] == provenance.pop("history")
    assert record["training"] == provenance


def test_the_record_has_what_the_run_was(model, run):
    record, checkpoint = files.read_record(model), training.load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert record["seen"] == checkpoint["callbacks"]["Throughput"]
    assert record["hardware"] == checkpoint["hardware"] != []
    assert record["curve"] == loss_curve.read(run, 40)
    assert [at for at, _ in record["curve"]["val_mlm_loss"]] == [20, 40]


def test_a_checkpoint_that_stands_alone_has_no_curve_which_is_said(run, tmp_path, capsys):
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "copy.ckpt")
    content = training.load_checkpoint(tmp_path / "copy.ckpt")
    found = training.run_history(tmp_path / "copy.ckpt", content)
    assert found == {"seen": content["callbacks"]["Throughput"], "hardware": content["hardware"], "curve": None}
    said = f"{tmp_path.parent} holds no events of the run: the model card will have no loss curve\n"
    assert capsys.readouterr().err == said
    for name in ("hardware", "callbacks"):  # as in earlier versions
        del content[name]
    expected = {"seen": None, "hardware": None, "curve": loss_curve.read(run, 40)}
    assert training.run_history(run / "checkpoints" / "last.ckpt", content) == expected


def test_the_origin_of_the_text_is_in_the_record_and_private_is_what_any_input_calls_so(model, run, copy, monkeypatch):
    corpus = files.read_record(model)["training"]["corpus"]
    assert corpus["name"] == "bert-ja sample"
    assert files.read_record(model)["corpus"] == corpus | {"private": False}
    monkeypatch.chdir(copy("output/model"))
    files.write_record("output/model", files.read_record("output/model") | {"corpus": {"private": True}})
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["provenance"]["history"]  # as earlier versions wrote it
    torch.save(checkpoint, "earlier.ckpt")
    export_model.main("earlier.ckpt", config=str(run / "config.yaml"))
    assert files.read_record("model")["corpus"] == corpus | {"private": True}
    assert files.read_record("model")["history"] == []
