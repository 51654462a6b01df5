"""Faults that are planted into an exported folder, and what the gate says of each, in one process for all."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from properties import every
from safetensors.torch import load_file, save_file
from texts import text, write_tokenizer, write_wordpiece
from transformers import BertConfig

from bert_ja import continuing, gate, model_card, model_folder, tokenization
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
PROMPTS = model_card.PROMPTS


def write_folder(module: BertPretraining, tokenizer: Path, folder: Path) -> Path:
    """A folder as export_model.py writes it."""
    folder.mkdir(exist_ok=True)
    model_folder.write_model(module.model, tokenization.vocabulary(tokenizer), folder)
    model_folder.write_tokenizer(tokenizer, folder, SHAPE["max_position_embeddings"])
    return folder


@pytest.fixture(scope="module")
def module(words) -> BertPretraining:
    """What was trained: weights far from those that a model begins with."""
    torch.manual_seed(3)
    trained = BertPretraining(tokenization.vocabulary(words).size, **SHAPE)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return trained


@pytest.fixture(scope="module")
def expected(module, words) -> gate.Expected:
    return gate.expect(module, words, continuing.LINES, PROMPTS, private=False)


@pytest.fixture(scope="module")
def exported(module, words, expected, tmp_path_factory) -> Path:
    """Tests read it and never change it."""
    module.model.set_attn_implementation("sdpa")
    return write_folder(module, words, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="module")
def process():
    with gate.FreshProcess() as fresh:
        yield fresh


@pytest.fixture
def examine(process, module, expected):
    """A function that gives the faults of a folder, and the largest differences of its logits."""
    config = module.model.config
    vocabulary = tokenization.Vocabulary(200, "", **expected.facts["special_ids"])
    samples = gate.draw_samples(config, vocabulary, expected.line_ids, [])

    def examined(folder: Path, beside: gate.Expected = expected):
        return gate.examine(process, folder, beside, module.model, samples)

    return examined


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


# Faults


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content, ensure_ascii=False))


def config(**values):
    return lambda folder: change_json(folder / "config.json", lambda content: content | values)


def tokenizer_config(**values):
    return lambda folder: change_json(folder / "tokenizer_config.json", lambda content: content | values)


def tokenizer(change):
    return lambda folder: change_json(folder / "tokenizer.json", change)


def weights(change):
    """A fault of model.safetensors: `change` alters the tensors by name, or makes others of them."""

    def planted(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors = change(tensors) or tensors
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return planted


def without(*prefixes: str):
    return weights(lambda tensors: {name: each for name, each in tensors.items() if not name.startswith(prefixes)})


def cut_short(name: str):
    def planted(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return planted


def other_tokenizer(folder: Path) -> None:
    write_tokenizer(folder, text(150, seed=98).split(), 190)
    change_json(folder / "tokenizer_config.json", lambda content: content | {"model_max_length": 64})


def stale_tokenizer_json(folder: Path) -> None:
    write_tokenizer(folder.parent / "other", text(150, seed=98).split(), 190)
    shutil.copy(folder.parent / "other" / "tokenizer.json", folder)


def swap_pieces(content: dict) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary[7], vocabulary[8] = vocabulary[8], vocabulary[7]


def prepend_spaces(content: dict) -> None:
    for part in ("pre_tokenizer", "decoder"):
        content[part] |= {"prepend_scheme": "always", "add_prefix_space": True}


def unknown_type(content: dict) -> None:
    content["post_processor"]["pair"][3]["Sequence"]["type_id"] = 0


def spoil(tensors: dict, value: float) -> None:
    tensors["bert.encoder.layer.1.output.dense.bias"][3] += value


def roll(tensors: dict) -> None:
    tensors[gate.WORDS] = tensors[gate.WORDS].roll(1, 0)


def swapped_labels(tensors: dict) -> None:
    for name in ("cls.seq_relationship.weight", "cls.seq_relationship.bias"):
        tensors[name] = tensors[name].flip(0)


def swapped_types(tensors: dict) -> None:
    name = "bert.embeddings.token_type_embeddings.weight"
    tensors[name] = tensors[name].flip(0)


def overflow(tensors: dict) -> dict:
    tensors["bert.pooler.dense.weight"][0, 0] = 70_000.0
    return {name: each.half() for name, each in tensors.items()}


ANOTHER = "its tokenizer has another vocabulary (piece 10: 'て', in training 'っ')"
PAIR = "its tokenizer does not make [CLS] A [SEP] B [SEP] of a pair, with token types 0 and 1"
UNTIED = "cls.predictions.decoder.weight is not the word embeddings, which it was in training"
FILLS = "it fills 専門として[MASK]を専攻しています otherwise than in training (guess "
FAULTS = {
    "another tokenizer": (other_tokenizer, ANOTHER),
    "a stale tokenizer.json": (stale_tokenizer_json, ANOTHER),
    "a permuted vocabulary": (
        tokenizer(swap_pieces),
        "its tokenizer has another vocabulary (piece 7: 'つ', in training 'い')",
    ),
    "a tokenizer.json without normalizer": (
        tokenizer(lambda content: content | {"normalizer": None}),
        "AutoTokenizer gives other ids (token 1 of   行頭と  行中と   行末の空白    is 140, in training 1)",
    ),
    "a space put before every text": (
        tokenizer(prepend_spaces),
        "AutoTokenizer gives other ids (token 1 of 日本語の文です。 is 140, in training 1)",
    ),
    "no [CLS] and [SEP]": (tokenizer(lambda content: content | {"post_processor": None}), PAIR),
    "one token type for both parts": (tokenizer(unknown_type), PAIR),
    "a tokenizer.json that is cut short": (cut_short("tokenizer.json"), "AutoTokenizer does not load it ("),
    "another mask token": (
        tokenizer_config(mask_token="<unk>"),
        "the mask token of its tokenizer is 1, in training it was 4",
    ),
    "a tokenizer without a padding token": (
        tokenizer_config(pad_token=None),
        "the pad token of its tokenizer is None, in training it was 0",
    ),
    "another longest text": (
        tokenizer_config(model_max_length=512),
        "its tokenizer has model_max_length 512, the model 64 positions",
    ),
    "token types that are not given": (tokenizer_config(model_input_names=["input_ids", "attention_mask"]), PAIR),
    "an untied decoder": (weights(lambda all: all | {gate.DECODER: all[gate.WORDS] + 0.1}), UNTIED),
    "a decoder untied by config.json": (
        config(tie_word_embeddings=False),
        "BertForPreTraining finds no cls.predictions.decoder.bias and 1 more in it",
    ),
    "a dropped pooler": (
        without("bert.pooler."),
        "BertForPreTraining finds no bert.pooler.dense.bias and 1 more in it",
    ),
    "a dropped next-sentence head": (
        without("cls.seq_relationship."),
        "BertForPreTraining finds no cls.seq_relationship.bias and 1 more in it",
    ),
    "a dropped masked-LM head": (
        without("cls.predictions.transform.dense."),
        "BertForPreTraining finds no cls.predictions.transform.dense.bias and 1 more in it",
    ),
    "a dropped bias of the decoder": (
        without("cls.predictions.bias"),
        "BertForPreTraining finds no cls.predictions.bias and 1 more in it",
    ),
    "a weight too many": (
        weights(lambda all: all | {"extra.weight": torch.zeros(1)}),
        "BertForPreTraining does not use extra.weight of it",
    ),
    "weights that are cut short": (cut_short("model.safetensors"), "BertForPreTraining does not load it ("),
    "fp16 overflow": (
        weights(overflow),
        "its weights are F16, in training they were F32; bert.pooler.dense.weight is not finite",
    ),
    "weights in half precision": (
        weights(lambda all: {name: each.half() for name, each in all.items()}),
        "its weights are F16, in training they were F32",
    ),
    "a weight that is nan": (
        weights(lambda all: spoil(all, torch.nan)),
        "bert.encoder.layer.1.output.dense.bias is not finite",
    ),
    "a weight that is another": (weights(lambda all: spoil(all, 1e-3)), FILLS),
    "embeddings shifted by one id": (weights(roll), FILLS),
    "labels of the second task exchanged": (weights(swapped_labels), "NSP logits differ from the checkpoint's by "),
    "token types exchanged": (weights(swapped_types), FILLS),
    "shifted special ids": (
        config(pad_token_id=1, cls_token_id=3, sep_token_id=4, mask_token_id=5),
        "pad_token_id is 1 in config.json, in training it was 0; cls_token_id is 3 in config.json, in ",
    ),
    "a wrong class name": (
        config(architectures=["BertModel"]),
        "architectures is ['BertModel'] in config.json and has to be ['BertForMaskedLM']",
    ),
    "a wrong model_type": (config(model_type="roberta"), "RobertaForMaskedLM finds no lm_head.bias and 43 more in it"),
    "a vocabulary size of another model": (
        config(vocab_size=192),
        "BertForPreTraining finds another shape in it than config.json says, ",
    ),
    "fewer positions": (
        config(max_position_embeddings=32),
        "BertForPreTraining finds another shape in it than config.json says, ",
    ),
    "a layer less": (
        config(num_hidden_layers=1),
        "BertForPreTraining does not use bert.encoder.layer.1.attention.output.LayerNorm.bias and 15 more of it",
    ),
    "a layer more": (
        config(num_hidden_layers=3),
        "BertForPreTraining finds no bert.encoder.layer.2.attention.output.LayerNorm.bias and 15 more in it",
    ),
    "other attention heads": (config(num_attention_heads=2), FILLS),
    "another activation": (config(hidden_act="relu"), FILLS),
    "another layer_norm_eps": (config(layer_norm_eps=1e-3), FILLS),
    "a decoder's attention": (config(is_decoder=True), FILLS),
    "a config.json that is cut short": (cut_short("config.json"), "AutoTokenizer does not load it ("),
}


@pytest.mark.parametrize("name", every(3, FAULTS))
def test_a_planted_fault_is_named(name, folder, examine):
    plant, message = FAULTS[name]
    plant(folder)
    faults, _ = examine(folder)
    assert gate.sentence(faults).startswith(message)


def pieces_of_wordpiece() -> list[str]:
    letters = sorted(set("".join(continuing.LINES[:9]) + text(150, seed=99)) - set(" \n"))
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]


@pytest.fixture(scope="module")
def mecab(tmp_path_factory) -> Path:
    """A tokenizer folder of MeCab and WordPiece."""
    return write_wordpiece(tmp_path_factory.mktemp("mecab"), pieces_of_wordpiece())


def swap_lines(folder: Path) -> None:
    pieces = pieces_of_wordpiece()
    pieces[7], pieces[8] = pieces[8], pieces[7]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


def without_settings(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


MECAB_FAULTS = {
    "a permuted vocab.txt": (swap_lines, "its tokenizer has another vocabulary (piece 7: "),
    "letters made small": (tokenizer_config(do_lower_case=True), "AutoTokenizer gives other ids (token "),
    "no MeCab": (tokenizer_config(word_tokenizer_type="basic"), "AutoTokenizer gives other ids (token "),
    "letters for words": (
        tokenizer_config(subword_tokenizer_type="character"),
        "AutoTokenizer gives other ids (token ",
    ),
    "no settings of the tokenizer": (without_settings, "AutoTokenizer gives other ids (token "),
}


def test_mecab_and_wordpiece_go_through_the_gate_with_their_faults(mecab, process, tmp_path):
    """A model that was continued: its tokenizer is copied, and the ids are those of the source's folder."""
    torch.manual_seed(4)
    trained = BertPretraining(len(pieces_of_wordpiece()), **SHAPE)
    expected = gate.expect(trained, mecab, continuing.LINES, PROMPTS, private=False)
    assert expected.facts["copied_tokenizer"]
    trained.model.set_attn_implementation("sdpa")
    whole = write_folder(trained, mecab, tmp_path / "whole")
    gate.require_same_files(mecab, whole)
    assert gate.examine(process, whole, expected)[0] == []
    for name, (plant, message) in MECAB_FAULTS.items():
        folder = Path(shutil.copytree(whole, tmp_path / name))
        plant(folder)
        with pytest.raises(StageError, match=f"{folder}/.* is not the file of {mecab}: please report this"):
            gate.require_same_files(mecab, folder)
        assert gate.sentence(gate.examine(process, folder, expected)[0]).startswith(message), name


def test_a_whole_folder_has_no_fault(folder, examine):
    faults, differences = examine(folder)
    assert faults == []
    assert max(differences.mlm, differences.nsp, differences.classes) < gate.TOLERANCE


def test_a_difference_of_logits_that_no_prompt_shows_is_named(folder, examine, expected):
    weights(lambda tensors: spoil(tensors, 2e-4))(folder)
    faults, differences = examine(folder, dataclasses.replace(expected, facts=expected.facts | {"fill_mask": []}))
    assert faults[0] == f"MLM logits differ from the checkpoint's by {differences.mlm:.1e} (at most 1e-05)"


def test_what_was_recorded_tells_another_tokenizer_too(folder, process, expected):
    """As when a release is made: neither lines nor vocabulary nor weights of training are there."""
    recorded = gate.Expected(json.loads(json.dumps(expected.facts)), continuing.LINES)
    assert gate.examine(process, folder, recorded)[0] == []
    other_tokenizer(folder)
    assert gate.examine(process, folder, recorded)[0][:2] == [
        "its tokenizer has another vocabulary",
        "AutoTokenizer gives other ids than in training",
    ]


def test_nothing_of_a_private_vocabulary_is_said_or_kept(module, words, folder, process):
    module.model.set_attn_implementation("bert_ja_rows")
    private = gate.expect(module, words, continuing.LINES, PROMPTS, private=True)
    module.model.set_attn_implementation("sdpa")
    assert [each["ids"] for each in private.facts["fill_mask"]] == [None] * 4
    assert {token for each in private.facts["fill_mask"] for token, _ in each["guesses"]} == {None}
    tokenizer(swap_pieces)(folder)
    faults, _ = gate.examine(process, folder, private)
    assert faults[0] == "its tokenizer has another vocabulary (piece 7: not shown, the corpus is private)"
    cut_short("tokenizer.json")(folder)
    faults, _ = gate.examine(process, folder, private)
    assert faults == ["AutoTokenizer does not load it (not shown, the corpus is private)"]


def test_logits_are_compared_on_the_longest_sample_of_a_file_and_on_our_own_lines(tmp_path):
    lengths = [5, 60, 9, 300, 31]  # of these 300 does not fit the model, and 31 not the tokens that are compared
    rows = [{"input_ids": [7] * length, "token_type_ids": [0] * length} for length in lengths]
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"input_ids": [999]}, 3]))
    config = BertConfig(vocab_size=200, max_position_embeddings=64)
    vocabulary = tokenization.Vocabulary(200, "", 0, 1, 2, 3, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "POSITIONS", 200)
        drawn = gate.draw_samples(config, vocabulary, [[5] * 9, [6] * 9, [7] * 90], [tmp_path / "valid.jsonl"])
    assert [len(ids) for ids, _ in drawn] == [60, 5, 9, 21, 64]
    assert drawn[3] == ([2, *[5] * 9, 3, *[6] * 9, 3], [0] * 11 + [1] * 10)


def test_guesses_that_are_equally_likely_may_change_places():
    trained = [(5, 0.3), (6, 0.2), (7, 0.2), (8, 0.1), (9, 0.05)]
    assert gate._other_guess(trained, [(5, 0.3), (7, 0.2), (6, 0.2), (8, 0.1), (11, 0.05)]) is None
    assert gate._other_guess(trained, [(6, 0.3), (5, 0.2), *trained[2:]]) == "guess 1 is id 6, and was 5"
    found = [(5, 0.3001), *trained[1:]]
    assert gate._other_guess(trained, found) == "guess 1 has probability 0.300100, and had 0.300000"


def test_a_process_that_dies_is_an_error_and_no_hang(exported):
    with gate.FreshProcess() as fresh:
        fresh._process.kill()
        with pytest.raises(StageError, match=f"the process that loaded {exported} ended .exit code -9.: look whether"):
            gate.examine(fresh, exported, gate.Expected({"fill_mask": []}, ()))


def test_guesses_of_a_model_that_is_sure_are_compared_too():
    """Their probabilities are next to nothing, and rounded otherwise by the attention of training."""
    trained = [[5, 0.99999], [6, 3.1e-6], [7, 4e-9]]
    assert gate._other_guess(trained, [(5, 0.999991), (6, 3.2e-6), (7, 3e-9)]) is None
    assert gate._other_guess(trained, [(5, 0.999991), (7, 3.2e-6), (6, 3e-9)]) == "guess 2 is id 7, and was 6"
    assert gate._other_guess(trained, [(5, 0.9), (6, 3.2e-6), (7, 3e-9)]) is not None


def test_a_tokenizer_of_ours_is_built_anew_whatever_tokenizer_json_lies_beside_it(words, module, tmp_path):
    """As one of an earlier version, or one whose pieces were exchanged."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    shutil.copytree(words, source)
    folder.mkdir()
    change_json(source / "tokenizer.json", swap_pieces)
    model_folder.write_tokenizer(source, folder, 64)
    built = tokenization.folder_files((words / "spm.model").read_bytes(), 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == built
    expected = gate.expect(module, source, continuing.LINES, model_card.PROMPTS, private=False)
    assert not expected.facts["copied_tokenizer"] and expected.facts["vocabulary"]
