"""evaluate_text.py, the stage: one JSON object and its record, for folders and checkpoints, and what it refuses."""

import json
import math
import shutil
import sys

import pytest
import torch
from conftest import refusal, stage
from test_private_corpus import pieces
from texts import text, write_wordpiece

from bert_ja import disclosure, files, model_folder, tokenization
from bert_ja.pretraining import BertPretraining

FEW = ("--max_sentences", 12)
MEASURES = [
    *("bits_per_character", "pseudo_perplexity_per_character", "bits_per_character_single_masks"),
    *("fill_mask_accuracy_at_1", "fill_mask_accuracy_at_5"),
    *("fill_mask_content_accuracy_at_1", "fill_mask_content_accuracy_at_5"),
    *("fill_mask_words", "fill_mask_content_words"),
    *("characters_per_token", "unknown_rate", "whole_word_rate", "word_border_rate"),
    *("sentences", "characters", "tokens", "too_long", "nsp_accuracy", "nsp_pairs"),
]


@pytest.fixture
def here(tmp_path):
    """A folder with a text, and links to nothing else."""
    (tmp_path / "a.txt").write_text(text(15, seed=8))
    return tmp_path


def write_model(tokenizer, folder):
    """A small model with a tokenizer folder's files, as anybody may have one: without a record."""
    torch.manual_seed(1)
    vocabulary = tokenization.vocabulary(tokenizer)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    folder.mkdir(exist_ok=True)
    model_folder.write_model(BertPretraining(vocabulary.size, **shape).model, vocabulary, folder)
    model_folder.write_tokenizer(tokenizer, folder, 64)
    return folder


@pytest.fixture
def mecab(here):
    """A model with a tokenizer of MeCab and WordPiece."""
    letters = sorted(set(text(150, seed=99)) - {"\n"})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return write_model(write_wordpiece(here / "tokenizer", pieces), here / "mecab")


def test_a_model_folder_is_measured_with_a_record_that_can_be_published(work, model, copy):
    folder = copy("model", "data/test.txt")
    said = stage("evaluate_text.py", *FEW, cwd=folder, stdout=folder / "text_result.json").stderr
    result = json.loads((folder / "text_result.json").read_text())
    assert list(result) == ["model", "text", *MEASURES]
    steps = files.read_record(folder / "model")["steps"]
    assert (result["model"]["name"], result["model"]["steps"]) == ("model", steps)
    described = files.describe(folder / "data" / "test.txt")
    assert result["text"] == described | {
        **{"corpus": "bert-ja sample", "private": False},
        **{"drawn_sentences": 12, "seed": 1000},
    }
    assert result["sentences"] + result["too_long"] == result["nsp_pairs"] == 12
    assert result["pseudo_perplexity_per_character"] == pytest.approx(2 ** result["bits_per_character"])
    assert 0 < result["bits_per_character"] < 16 and 0 <= result["nsp_accuracy"] <= 1
    record = files.require_record(folder / "text_result.json", "evaluate_text.py")
    assert record["inputs"] == [result["model"]["weights"], described]
    assert record["steps"] == steps and record["tokenizer"] == files.read_record(folder / "model")["tokenizer"]
    assert disclosure.undecided(record) == []
    assert disclosure.public(record)["options"] == {"max_sentences": 12, "precision": "fp32"}
    assert said.splitlines()[-1].startswith("measured 1 model on 12 of ")


def test_checkpoints_of_a_run_are_measured_in_one_call_on_the_same_text(work, run, mecab, here):
    """Twice the same gives the same; MeCab's model is asked for the same words."""
    last = run / "checkpoints" / "last.ckpt"
    said = stage("evaluate_text.py", last, mecab, last, *FEW, "--text_file", here / "a.txt", cwd=work)
    found = json.loads(said.stdout)["results"]
    assert [list(result) for result in found] == [["model", "text", *MEASURES]] * 3
    assert found[0] == found[2]
    assert found[0]["model"]["name"].startswith("version_0 step ") and found[0]["model"]["steps"] > 0
    assert found[1]["text"] == found[0]["text"]
    for name in ("fill_mask_words", "fill_mask_content_words", "characters", "nsp_pairs"):
        assert found[1][name] == found[0][name]
    assert found[1]["unknown_rate"] == 0 and found[1]["characters_per_token"] == 1
    assert math.isfinite(found[1]["bits_per_character"])


def test_batches_and_seeds(here, words):
    """The size of a batch rounds otherwise and no more; another seed draws other sentences."""
    write_model(words, here / "model")
    options = (*FEW, "--text_file", "a.txt")
    found = [
        json.loads(stage("evaluate_text.py", *options, *more, cwd=here).stdout)
        for more in ((), ("--batch_tokens", 1), ("--seed", 1))
    ]
    assert found[0] == {
        name: pytest.approx(value, rel=1e-5) if name in MEASURES else value for name, value in found[1].items()
    }
    assert found[2]["bits_per_character"] != found[0]["bits_per_character"]


def test_why_there_is_no_next_sentence_accuracy_is_said(here, words):
    write_model(words, here / "model")
    (here / "model" / "meta.json").write_text(json.dumps({"training": {"options": {"objective": "none"}}}))
    said = stage("evaluate_text.py", *FEW, "--text_file", "a.txt", cwd=here)
    assert json.loads(said.stdout)["nsp_accuracy"] is None
    assert said.stderr.count("nsp_accuracy is null: model was trained with objective none\n") == 1
    (here / "model" / "meta.json").unlink()
    (here / "one.txt").write_text("\n\n".join(text(5).split()))
    said = stage("evaluate_text.py", *FEW, "--text_file", "one.txt", cwd=here)
    assert json.loads(said.stdout)["nsp_pairs"] == 0
    assert "nsp_accuracy is null: the text has no lines that can be paired\n" in said.stderr


def test_nothing_of_a_private_text_is_said(here, words):
    files.write_record(here / "a.txt", {"outputs": [files.describe(here / "a.txt")], "corpus": {"private": True}})
    write_model(words, here / "model")
    said = stage("evaluate_text.py", *FEW, "--text_file", "a.txt", cwd=here, stdout=here / "result.json")
    assert json.loads((here / "result.json").read_text())["text"]["private"]
    record = files.read_record(here / "result.json")
    assert record["corpus"]["private"]
    every = said.stderr + json.dumps(record, ensure_ascii=False) + (here / "result.json").read_text()
    assert pieces(every) & pieces((here / "a.txt").read_text()) == set()


def write_wrong(here) -> None:
    (here / "empty.txt").touch()
    (here / "blank.txt").write_text("\n \n")
    (here / "samples.jsonl").write_text('{"input_ids": [2, 3]}\n')
    (here / "binary.txt").write_bytes(b"\0\1" * 100)
    (here / "broken.txt").write_bytes("文である。\n".encode() * 2000 + b"\xff\n")
    (here / "long.txt").write_text("猫が庭で赤い傘を見つけた、" * 30 + "\n")
    (here / "no-model").mkdir()


REFUSED = {
    "no text": (("--text_file", "none.txt"), "none.txt not found: make it with get_jawiki.sh or prepare_corpus.py, or"),
    "an empty text": (("--text_file", "empty.txt"), "empty.txt is empty: "),
    "a text of blank lines": (("--text_file", "blank.txt"), "blank.txt holds no sentence, only blank lines: "),
    "samples": (("--text_file", "samples.jsonl"), "samples.jsonl is JSON, text with one sentence a line is needed: "),
    "no text at all": (("--text_file", "binary.txt"), "binary.txt is not text (it holds zero bytes): "),
    "a broken line": (("--text_file", "broken.txt"), "broken.txt line 2,001 is not UTF-8: "),
    "sentences that are too long": (("--text_file", "long.txt"), "no sentence of the text can be read by model "),
    "no model": (("model", "none", "--text_file", "a.txt"), "none not found: name a model folder, a checkpoint file"),
    "a folder of nothing": (("no-model", "--text_file", "a.txt"), "no-model has no config.json: "),
    "no run": (("best", "--text_file", "a.txt"), "there is no run under lightning_logs: "),
    "a text for a checkpoint": (("a.txt", "--text_file", "a.txt"), "a.txt cannot be read as a checkpoint "),
    "no sentences": (
        ("--max_sentences", 0, "--batch_tokens", -1),
        "--max_sentences must be 1 or more, got 0; --batch_tokens must be 1 or more, got -1",
    ),
    "an unknown device": (("--text_file", "a.txt", "--accelerator", "tpu"), "--accelerator must be auto, cpu or cuda"),
    "a misspelt option": (("--sentences", 3), "--sentences is not an option of evaluate_text.py ("),
}


def test_whatever_is_wrong_is_one_sentence(here, words):
    write_model(words, here / "model")
    write_wrong(here)
    before = sorted(here.rglob("*"))
    for name, (arguments, expected) in REFUSED.items():
        assert refusal("evaluate_text.py", *arguments, cwd=here).startswith(expected), name
    assert sorted(here.rglob("*")) == before


def test_a_checkpoint_whose_tokenizer_is_gone_is_refused(copy, run):
    folder = copy("lightning_logs/version_0")
    (folder / "a.txt").write_text(text(3))
    checkpoint = "lightning_logs/version_0/checkpoints/last.ckpt"
    assert refusal("evaluate_text.py", checkpoint, "--text_file", "a.txt", cwd=folder) == (
        "output/model not found, which lightning_logs/version_0/config.yaml names as tokenizer: run it where the run "
        "was started"
    )


def test_a_missing_analyser_is_one_sentence(here, words, monkeypatch):
    import evaluate_text
    from bert_ja.cli import StageError

    write_model(words, here / "model")
    monkeypatch.chdir(here)
    monkeypatch.setitem(sys.modules, "fugashi", None)
    with pytest.raises(StageError, match="^evaluate_text.py needs a morphological analyser .fugashi is not installed"):
        evaluate_text.main(text_file="a.txt")


def test_an_error_leaves_an_empty_file_without_a_record(here, words):
    write_model(words, here / "model")
    weights = here / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copy(here / "a.txt", here / "b.txt")
    said = refusal("evaluate_text.py", "--text_file", "b.txt", cwd=here, stdout=here / "result.json")
    assert said.startswith("model does not load as a masked language model (")
    assert (here / "result.json").read_bytes() == b"" and not (here / "result.json.meta.json").exists()
