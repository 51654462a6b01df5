"""A masked language model that is asked: its answers are those of transformers, whatever the batch."""

import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertForPreTraining, RobertaConfig, RobertaForMaskedLM

from bert_ja import model_folder, scoring, tokenization
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining
from bert_ja.scoring import MaskedModel, Row

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 24}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory) -> Path:
    """A model folder with weights far from those that a model begins with."""
    torch.manual_seed(3)
    module = BertPretraining(tokenization.vocabulary(words).size, **SHAPE)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    folder = tmp_path_factory.mktemp("scored") / "model"
    folder.mkdir()
    model_folder.write_model(module.model, tokenization.vocabulary(words), folder)
    model_folder.write_tokenizer(words, folder, SHAPE["max_position_embeddings"])
    return folder


@pytest.fixture
def changed(folder, tmp_path):
    """A function that gives a copy of the folder with other weights or another record."""

    def change(weights=lambda weights: weights, **record) -> Path:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        kept = weights(load_file(copy / "model.safetensors"))
        save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
        (copy / "meta.json").write_text(json.dumps(record))
        return copy

    return change


def loaded(folder: Path, **options) -> MaskedModel:
    with model_folder.opened(str(folder)) as measured:
        return MaskedModel(measured, CPU, **options)


def refused(folder: Path) -> str:
    with pytest.raises(StageError) as error:
        loaded(folder)
    return str(error.value)


def rows_of(model: MaskedModel, count: int = 12) -> list[Row]:
    rng = np.random.default_rng(4)
    rows = []
    for number in range(count):
        ids = model.row(rng.integers(5, 100, 2 + number))
        places = np.sort(rng.choice(np.arange(1, len(ids) - 1), 1 + number % 2, replace=False))
        truths = ids[places]
        ids[places] = model.mask
        rows.append(Row(ids, places, truths))
    return rows


def plain(folder: Path, row: Row) -> torch.Tensor:
    """Log-probabilities at the places of a row by transformers, float32 (masked, vocabulary)."""
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained(folder)(torch.from_numpy(row.ids)[None]).logits[0]
    return logits[torch.from_numpy(row.places)].log_softmax(-1)


def test_log_probabilities_and_guesses_are_those_of_transformers_for_any_batch(folder):
    model = loaded(folder)
    assert model.no_second_task is None and model.longest == 24
    rows = rows_of(model)
    for batch_tokens in (1, 30, 4096):
        model.batch_tokens = batch_tokens
        found, guesses = model.log_probabilities(rows), model.guesses(rows, 5)
        for row, values, guess in zip(rows, found, guesses, strict=True):
            expected = plain(folder, row)
            truths = expected[torch.arange(len(row.truths)), torch.from_numpy(row.truths)]
            np.testing.assert_allclose(values, truths, atol=1e-5)
            best, ids = expected.topk(5)
            assert guess.ids.tolist() == ids.tolist()
            np.testing.assert_allclose(guess.log_probabilities, best, atol=1e-5)
    assert model.log_probabilities([]) == model.guesses([], 5) == []


def test_follows_is_the_next_sentence_head_of_transformers(folder):
    model, bert = loaded(folder), BertForPreTraining.from_pretrained(folder).eval()
    rng = np.random.default_rng(1)
    pairs = [(rng.integers(5, 100, 3 + n % 7).tolist(), rng.integers(5, 100, 2 + n % 11).tolist()) for n in range(20)]
    pairs.append(([7] * 30, [8, 9]))  # too long: cut from its longer part to 24 - 3 tokens
    expected = []
    for first, second in pairs:
        first = first[: 24 - 3 - len(second)]
        ids = torch.tensor([[*model.before, *first, *model.behind, *second, *model.behind]])
        types = torch.tensor([[0] * (len(first) + 2) + [1] * (len(second) + 1)])
        with torch.no_grad():
            logits = bert(input_ids=ids, token_type_ids=types).seq_relationship_logits[0]
        expected.append(bool(logits[0] > logits[1]))
    assert model.follows(pairs).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_a_model_of_another_family_is_asked_too(words, tmp_path):
    """RoBERTa, whose positions begin behind padding, has no next-sentence head."""
    size = tokenization.vocabulary(words).size
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = RobertaConfig(vocab_size=size, **shape, max_position_embeddings=26, pad_token_id=0, type_vocab_size=1)
    torch.manual_seed(0)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    model_folder.write_tokenizer(words, tmp_path / "roberta", 512)
    model = loaded(tmp_path / "roberta")
    assert (model.longest, model.no_second_task) == (25, "roberta has no next-sentence head")
    assert model.batch_tokens == 1024
    for row, values in zip(rows := rows_of(model), model.log_probabilities(rows), strict=True):
        expected = plain(tmp_path / "roberta", row)[torch.arange(len(row.truths)), torch.from_numpy(row.truths)]
        np.testing.assert_allclose(values, expected, atol=1e-5)
    longest = model.row([9] * 23)
    assert np.isfinite(model.log_probabilities([Row(longest, np.array([3]), np.array([9]))])[0]).all()


def test_a_folder_without_a_masked_head_is_refused(changed):
    folder = changed(lambda weights: {name: weights[name] for name in weights if not name.startswith("cls.")})
    assert refused(folder) == (
        f"{folder} has no whole masked-LM head, cls.predictions.bias is missing: name a model that was trained as a "
        "masked language model, such as export_model.py writes"
    )


def test_a_folder_without_a_next_sentence_head_says_so(changed):
    folder = changed(lambda weights: {name: weights[name] for name in weights if "seq_relationship" not in name})
    assert loaded(folder).no_second_task == "copy has no next-sentence head"


@pytest.mark.parametrize("objective", ["none", "sop"])
def test_a_head_that_was_not_taught_next_sentences_is_not_asked(changed, objective):
    folder = changed(training={"options": {"objective": objective}})
    assert loaded(folder).no_second_task == f"copy was trained with objective {objective}"


def test_logits_that_are_not_finite_are_refused(changed):
    folder = changed(lambda weights: weights | {"cls.predictions.bias": weights["cls.predictions.bias"] * torch.nan})
    model = loaded(folder)
    with pytest.raises(StageError, match="copy gives logits that are not finite: the run diverged or the weights are"):
        model.log_probabilities(rows_of(model))


def test_another_kind_of_model_is_refused(changed):
    folder = changed()
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(folder).startswith(f"{folder} does not load as a masked language model (")


def test_a_tokenizer_without_a_mask_is_refused(changed):
    folder = changed()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({name: settings[name] for name in settings if name != "mask_token"}))
    assert refused(folder).startswith(f"the tokenizer of {folder} has no mask token: name a model")


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused(changed):
    def smaller(weights):
        return {name: part[:150] if len(part) == 200 else part for name, part in weights.items()}

    folder = changed(smaller)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 150}
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(folder) == (
        f"the tokenizer of {folder} has 200 pieces, its model 150: copy the tokenizer that the model was trained with"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_device_is_the_cpu_where_there_is_nothing_else():
    assert scoring.choose_device("auto", "fp32") == scoring.choose_device("cpu", "fp32") == CPU
    with pytest.raises(StageError, match="--accelerator cuda: torch can use no card here .*: leave it out"):
        scoring.choose_device("cuda", "fp32")
    with pytest.raises(StageError, match="--precision fp16 is for a GPU, and this is done on the CPU: leave it out"):
        scoring.choose_device("auto", "fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("flags, refused", [({"avx2"}, True), ({"avx2", "avx512_bf16"}, False), (set(), False)])
def test_bf16_is_refused_on_a_cpu_that_would_emulate_it(monkeypatch, flags, refused):
    facts = dataclasses.replace(scoring.devices.read_facts(False), flags=frozenset(flags))
    monkeypatch.setattr(scoring.devices, "read_facts", lambda with_cards: facts)
    with pytest.raises(StageError, match="--precision bf16 is slow on this CPU") if refused else nullcontext():
        assert scoring.choose_device("cpu", "bf16") == CPU


def test_bf16_rounds_and_no_more(folder):
    model = loaded(folder)
    half = loaded(folder, precision="bf16")
    rows = rows_of(model)
    for one, other in zip(model.log_probabilities(rows), half.log_probabilities(rows), strict=True):
        np.testing.assert_allclose(one, other, atol=0.5)
        assert (one != other).any()


def test_wrong_devices_and_precisions_are_named_at_once():
    with pytest.raises(StageError) as error:
        scoring.choose_device("tpu", "int8")
    assert str(error.value) == (
        "--accelerator must be auto, cpu or cuda, got tpu; --precision must be fp32, bf16 or fp16, got int8"
    )
