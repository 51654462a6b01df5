"""test.py, the stage: one JSON object of means over the whole set, whatever the batch size."""

import json
import math

import pytest
import torch
from conftest import CONFIG, refusal, stage
from transformers import BertForPreTraining

from bert_ja import files, training

KEYS = ["test_loss", "mlm_loss", "mlm_accuracy", "perplexity", "nsp_loss", "nsp_accuracy", "samples", "tokens"]


@pytest.fixture(scope="module")
def jsonl(samples) -> list[dict]:
    return [json.loads(line) for line in (samples / "test.jsonl").read_text().splitlines()]


def test_the_result_is_one_json_object_with_its_record(work, result, run, jsonl):
    metrics = json.loads(result.read_text())
    assert list(metrics) == KEYS
    assert metrics["samples"] == len(jsonl)
    assert metrics["tokens"] == sum(len(sample["input_ids"]) for sample in jsonl)
    assert metrics["test_loss"] == pytest.approx(metrics["mlm_loss"] + metrics["nsp_loss"])
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["mlm_loss"]))
    record = files.require_record(result, "test.py")
    best = files.describe(training._best_of(run))
    assert record["inputs"] == [best, files.describe(work / "data" / "test.jsonl")]
    assert files.history(work / "data" / "test.jsonl", work / "output" / "model") == record["history"]


def test_the_losses_are_those_of_the_plain_padded_model_over_the_whole_set(result, model, jsonl):
    """An independent measurement: one sample after another through transformers, sums divided at the end.

    The exported model is the last checkpoint's and the result the best one's: with a falling loss, the same.
    """
    bert = BertForPreTraining.from_pretrained(model).eval()
    mlm, masked, nsp = 0.0, 0, 0.0
    for sample in jsonl:
        inputs = {name: torch.tensor([sample[name]]) for name in ("input_ids", "token_type_ids")}
        with torch.no_grad():
            output = bert(**inputs)
        labels = torch.tensor(sample["labels"])
        mlm += float(torch.nn.functional.cross_entropy(output.prediction_logits[0], labels, reduction="sum"))
        masked += int((labels != -100).sum())
        target = torch.tensor([sample["next_sentence_label"]])
        nsp += float(torch.nn.functional.cross_entropy(output.seq_relationship_logits, target))
    metrics = json.loads(result.read_text())
    assert metrics["mlm_loss"] == pytest.approx(mlm / masked, abs=1e-5)
    assert metrics["nsp_loss"] == pytest.approx(nsp / len(jsonl), abs=1e-5)


def test_test_repeats_the_validation_loss_for_any_batch_size(work, run):
    """On the validation samples, with the callbacks left in the configuration (the published run crashed there)."""
    last = run / "checkpoints" / "last.ckpt"
    measured = [
        json.loads(
            stage(
                *("test.py", "--config", run / "config.yaml", "--ckpt_path", last),
                *("--test_file", "data/valid.jsonl", "--batch_size", batch_size),
                cwd=work,
            ).stdout
        )
        for batch_size in (7, 150)
    ]
    assert "ModelCheckpoint" in (run / "config.yaml").read_text()
    for name in KEYS:
        assert measured[0][name] == pytest.approx(measured[1][name], abs=1e-6, rel=1e-6)
    callbacks = training.load_checkpoint(last)["callbacks"]
    (state,) = (state for name, state in callbacks.items() if name.startswith("ModelCheckpoint"))
    assert measured[0]["test_loss"] == pytest.approx(float(state["current_score"]), abs=1e-5)


def test_a_missing_checkpoint_is_refused(work, run):
    assert refusal("test.py", "--config", CONFIG, "--ckpt_path", "none.ckpt", cwd=work) == (
        "none.ckpt not found: name a checkpoint file, a run folder, best or last"
    )


def test_a_batch_of_no_samples_is_refused(work, run):
    assert refusal("test.py", "--ckpt_path", run, "--batch_size", 0, cwd=work).startswith(
        "data.batch_size must be 1 or more"
    )


def test_a_misspelt_option_is_refused_before_any_work(tmp_path):
    assert refusal("test.py", "--checkpoint", "best", cwd=tmp_path) == (
        "--checkpoint is not an option of test.py (see python3 test.py --help)"
    )
