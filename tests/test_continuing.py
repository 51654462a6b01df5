"""Models of folders, made here with transformers, and what a run makes of them."""

import contextlib
import dataclasses
import io
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG, stage
from safetensors.torch import load_file, save_file
from texts import text, write_wordpiece
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    pipeline,
)

import convert_tokenizer
import export_model
import release_model
import trainer
from bert_ja import continuing, files, tokenization, training
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns
from bert_ja.pretraining import BertPretraining

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 300,
    "type_vocab_size": 3,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
}
FEW_STEPS = (
    *("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 2),
    *("--trainer.check_val_every_n_epoch", 1, "--trainer.enable_progress_bar", "false"),
)
LAST = "lightning_logs/version_0/checkpoints/last.ckpt"
# A configuration of one's own as it begins: nothing of the architecture in it.
OWN = {
    "seed_everything": 1,
    "trainer": {"accelerator": "cpu", "callbacks": [{"class_path": "bert_ja.callbacks.ModelCheckpoint"}]},
    "model": {"lr": 1e-9, "optimizer": "adamw"},
    "data": {"batch_size": 8, "num_workers": 0},
}
OWN["trainer"]["callbacks"][0]["init_args"] = {"monitor": "val_loss", "save_last": True}


def save(folder: Path, kind=BertForPreTraining, vocab_size: int = 200, **options) -> Path:
    """A folder with a random model of transformers, weights far from those that a model begins with."""
    torch.manual_seed(7)
    model = kind(BertConfig(vocab_size=vocab_size, initializer_range=0.3, **SHAPE | options))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder)
    return folder


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change) -> None:
    """Rewrite model.safetensors by `change`, which makes other tensors by name of it."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def module_of(folder: Path, vocab_size: int = 200, **options) -> BertPretraining:
    """The module that a run of the folder has before its weights are loaded."""
    torch.manual_seed(0)
    return BertPretraining(vocab_size, **continuing.architecture(folder), **options)


def refusal_of(function, *arguments) -> str:
    with pytest.raises(StageError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def run_trainer(*arguments) -> None:
    trainer.main([str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path) -> Path:
    return save(tmp_path / "source")


@pytest.fixture(autouse=True)
def quiet():
    """As in a run: no progress bars and no warnings of transformers among what we say."""
    training.quiet_loading()


# The folder


def test_the_architecture_is_that_of_the_folder(source):
    assert continuing.architecture(source) == SHAPE | {"embedding_rows": 200}


def test_an_old_config_says_less_and_the_rest_is_berts_own(source):
    old = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 4000}  # without model_type and architectures
    (source / "config.json").write_text(json.dumps(old))
    assert continuing.architecture(source) == {
        "embedding_rows": 4000,
        "hidden_size": 64,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }


def test_what_is_no_folder_is_refused_with_the_way_to_one(tmp_path):
    assert refusal_of(continuing.architecture, "tohoku-nlp/bert-base-japanese-v3") == (
        "model.from_pretrained: tohoku-nlp/bert-base-japanese-v3 is not a folder: name one with config.json and "
        "weights (of the Hub: hf download NAME --local-dir FOLDER)"
    )
    assert refusal_of(continuing.architecture, tmp_path) == (
        f"{tmp_path} has no config.json: name the folder of a model as model.from_pretrained"
    )


@pytest.mark.parametrize("content", ['{"model_type": "be', "[]", "\udcff"])
def test_a_config_that_is_cut_short_is_refused(source, content):
    (source / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert refusal_of(continuing.architecture, source) == (
        f"{source}/config.json is damaged (not a JSON object): copy the folder again"
    )


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model_type": "roberta"}, "is no BERT, its model_type is 'roberta': name a folder of a BERT"),
        (
            {"is_decoder": True, "tie_word_embeddings": False},
            "is a BERT of a kind that is not trained here (is_decoder True, tie_word_embeddings False): name another",
        ),
        (
            {"position_embedding_type": "relative_key"},
            "is a BERT of a kind that is not trained here (position_embedding_type 'relative_key'): name another",
        ),
    ],
)
def test_another_kind_of_model_is_refused(source, values, message):
    change_config(source, **values)
    assert refusal_of(continuing.architecture, source) == f"{source} {message}"


@pytest.mark.parametrize(
    "values, problems",
    [
        (
            {"vocab_size": 0, "hidden_size": "32", "num_hidden_layers": None, "type_vocab_size": True},
            "vocab_size 0, hidden_size '32', num_hidden_layers None, type_vocab_size True",
        ),
        ({"hidden_act": "magic", "layer_norm_eps": "1e-12"}, "hidden_act 'magic', layer_norm_eps '1e-12'"),
        ({"hidden_act": ["gelu"], "layer_norm_eps": 0}, "hidden_act ['gelu'], layer_norm_eps 0"),
        ({"num_attention_heads": 5}, "hidden_size 32 of 5 num_attention_heads"),
    ],
)
def test_values_that_cannot_be_are_refused(source, values, problems):
    change_config(source, **values)
    assert refusal_of(continuing.architecture, source) == (
        f"{source}/config.json cannot be right ({problems}): copy the folder again, or name another"
    )


def test_a_folder_without_weights_is_refused(source):
    (source / "model.safetensors").rename(source / "tf_model.h5")
    assert refusal_of(continuing.architecture, source) == (
        f"{source} has no weights (model.safetensors or pytorch_model.bin): copy them there, or name another folder"
    )
    (source / "model.safetensors").touch()
    assert refusal_of(continuing.architecture, source) == f"{source}/model.safetensors is empty: copy the folder again"


@pytest.fixture
def shards(tmp_path) -> Path:
    BertForPreTraining(BertConfig(vocab_size=200, **SHAPE)).save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    return tmp_path / "shards"


def test_weights_in_parts_are_all_needed(shards):
    index, *parts = continuing.weight_files(shards)
    assert index.name == "model.safetensors.index.json"
    assert parts == sorted(shards.glob("model-*.safetensors"))
    assert len(parts) > 2
    parts[1].unlink()
    assert refusal_of(continuing.architecture, shards) == f"{parts[1]} not found: copy the folder again"
    for content in ("{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        assert refusal_of(continuing.architecture, shards) == (
            f"{index} is damaged (it names no files of weights): copy the folder again"
        )
    index.write_text('{"weight_map"')
    assert refusal_of(continuing.architecture, shards).startswith(f"{index} is damaged (not a JSON object)")


# What is given and what the folder says


def options_of(**values) -> dict:
    """All options of the model with their defaults, as LightningCLI has them."""
    return {"from_pretrained": None, "hidden_size": 768, "num_hidden_layers": 12, "lr": 1e-4} | values


def test_the_options_take_the_folders_values(source):
    options = options_of(from_pretrained=str(source))
    continuing.settle(options, {"hidden_size": 32, "intermediate_size": None, "lr": 0.1}, None)
    assert options == {"from_pretrained": str(source), "lr": 1e-4, "embedding_rows": 200, **SHAPE}


def test_given_options_that_contradict_the_folder_are_named_with_both_values(source):
    given = {"hidden_size": 768, "num_hidden_layers": 3, "hidden_act": "gelu", "hidden_dropout_prob": 0.3}
    assert refusal_of(continuing.settle, options_of(from_pretrained=source), given, None) == (
        f"{source} does not fit the configuration: model.hidden_size 768 (the folder has 32), model.hidden_act 'gelu' "
        "(the folder has 'gelu_new'): leave out what the folder says"
    )


def test_without_a_folder_the_options_stay():
    options = options_of()
    continuing.settle(options, {"hidden_size": 768}, None)
    assert options == options_of()


def test_a_checkpoint_of_a_continued_run_has_its_own_architecture_and_no_folder_is_read():
    trained = SHAPE | {"embedding_rows": 256, "lr": 0.5}
    options = options_of(from_pretrained="gone", hidden_size=64)
    continuing.settle(options, {"hidden_size": 64}, {"provenance": {"continued_from": {}}, "hyper_parameters": trained})
    assert options == options_of(from_pretrained="gone", hidden_size=64)
    checkpoint = {"provenance": {"continued_from": {"name": "a"}}, "hyper_parameters": trained}
    continuing.settle(options, {"hidden_size": 64}, checkpoint)
    assert options == {"from_pretrained": "gone", "lr": 1e-4, "embedding_rows": 256, **SHAPE}


def test_rows_are_the_pieces_or_more(source):
    assert continuing.require_rows(None, 200, None) == 200
    assert continuing.require_rows(256, 200, "folder") == 256
    assert refusal_of(continuing.require_rows, 199, 200, None) == (
        "model.embedding_rows is 199, data.tokenizer_model has 200 pieces: raise it, or leave it out"
    )
    with pytest.raises(StageError) as error:
        module_of(source, vocab_size=3000, from_pretrained=str(source))
    assert str(error.value) == (
        f"{source} has 200 rows of embeddings, data.tokenizer_model has 3,000 pieces: name the tokenizer that it was "
        "trained with"
    )


# The tokenizer


def test_the_same_bytes_decide_without_a_look_at_the_lines(source, words, monkeypatch):
    shutil.copy(words / "spm.model", source)
    monkeypatch.setattr(continuing, "LINES", None)
    continuing.require_same_tokenizer(source, words)
    continuing.require_same_tokenizer(source, words / "spm.model")


def test_a_tokenizer_json_alone_is_compared_with_sentencepiece(source, words):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(words / name, source)
    continuing.require_same_tokenizer(source, words)


def test_a_folder_without_a_tokenizer_is_said_to_be_unchecked(source, words, capsys):
    (source / "tokenizer_config.json").write_text("{}")
    continuing.require_same_tokenizer(source, words)
    assert capsys.readouterr().err == (
        f"{source} has no tokenizer: that {words} is the one of its training could not be checked\n"
    )


def test_another_sentencepiece_model_is_refused_with_the_first_difference(source, words, letters):
    shutil.copy(letters / "spm.model", source)
    own, other = (tokenization.load_sentencepiece(folder).encode("日本語の文です。") for folder in (letters, words))
    place = next(number for number, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1])
    assert refusal_of(continuing.require_same_tokenizer, source, words) == (
        f"the tokenizer in {source} and {words} give different ids (token {place + 1} of 日本語の文です。 is "
        f"{own[place]} and {other[place]}): name the former as data.tokenizer_model, and make the samples with it"
    )


def test_lines_of_another_length_differ_in_their_last_token(source, words, monkeypatch):
    proto = tokenization.parse_model((words / "spm.model").read_bytes())
    long = max((piece for piece in proto.pieces if piece.type == piece.NORMAL), key=lambda piece: len(piece.piece))
    line, long.piece = long.piece, long.piece + "ー"
    tokenization.write_tokenizer_folder(proto.SerializeToString(), source)
    monkeypatch.setattr(continuing, "LINES", (line,))
    message = refusal_of(continuing.require_same_tokenizer, source, words)
    assert f"of {line} is " in message


def wordpieces() -> list[str]:
    """[PAD] and [UNK] not where BERT has them; letters of the texts, and some of the lines that are compared."""
    letters = sorted(set(text(150, seed=99) + "日本語の文です。abcTokyo") - {"\n"})
    return ["[UNK]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "[MASK]", "[PAD]", "[CLS]"]


def test_wordpiece_of_the_same_files_is_the_same(source, tmp_path):
    for folder in (source, tmp_path / "tokenizer"):
        write_wordpiece(folder, wordpieces())
    continuing.require_same_tokenizer(source, tmp_path / "tokenizer")
    (source / "tokenizer_config.json").unlink()  # as in old folders, for whose settings there is no witness then
    continuing.require_same_tokenizer(source, tmp_path / "tokenizer")
    (source / "vocab.txt").write_text("\n".join(wordpieces()[::-1]) + "\n")
    assert "give different ids (the pad token is " in refusal_of(
        continuing.require_same_tokenizer, source, tmp_path / "tokenizer"
    )


def test_settings_without_an_effect_are_the_same_and_others_are_refused(source, tmp_path):
    write_wordpiece(source, wordpieces())
    longer = write_wordpiece(tmp_path / "longer", wordpieces(), model_max_length=128)
    continuing.require_same_tokenizer(source, longer)
    lower = write_wordpiece(tmp_path / "lower", wordpieces(), do_lower_case=True)
    assert "of Tokyo 2020は延期された。 is " in refusal_of(continuing.require_same_tokenizer, source, lower)


def test_other_special_ids_are_refused(source, tmp_path):
    write_wordpiece(source, wordpieces())
    pieces = wordpieces()
    pieces[-1], pieces[-2] = pieces[-2:]
    other = write_wordpiece(tmp_path / "other", pieces)
    assert refusal_of(continuing.require_same_tokenizer, source, other) == (
        f"the tokenizer in {source} and {other} give different ids (the pad token is {len(pieces) - 2} and "
        f"{len(pieces) - 1}): name the former as data.tokenizer_model, and make the samples with it"
    )


def test_nothing_of_a_private_vocabulary_is_quoted(source, words):
    (source / "tokenizer.json").write_text('{"model": "secret"}')
    with pytest.raises(StageError, match="not shown, the corpus is private"):
        continuing.require_same_tokenizer(source, words, private=True)


# The weights


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(BertForPreTraining.from_pretrained(folder, dtype=torch.float32).state_dict())


def assert_same(one: dict, other: dict) -> None:
    assert set(one) == set(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_weights_of_all_heads_are_loaded_and_nothing_is_said(source, capsys):
    module = module_of(source)
    continuing.load_weights(module.model, source)
    assert_same(module.model.state_dict(), weights_of(source))
    assert module.model.cls.predictions.decoder.weight is module.model.bert.embeddings.word_embeddings.weight
    assert module.model.training  # else dropout would be off for the whole run
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "kind, heads, unused",
    [
        (BertForMaskedLM, ["next-sentence head", "pooler"], []),
        (BertModel, ["masked-LM head", "next-sentence head"], []),
        (
            BertForSequenceClassification,
            ["masked-LM head", "next-sentence head"],
            ["classifier.bias", "classifier.weight"],
        ),
    ],
)
def test_heads_that_the_folder_lacks_are_named_and_stay_as_the_seed_made_them(tmp_path, kind, heads, unused, capsys):
    folder = save(tmp_path / "source", kind)
    module, fresh = module_of(folder), module_of(folder).model.state_dict()
    continuing.load_weights(module.model, folder)
    said = [f"{folder} has no {' and no '.join(heads)}: training starts with fresh ones"]
    said += [f"{folder}: weights that are not used: {', '.join(unused)}"] if unused else []
    assert capsys.readouterr().err.splitlines()[-len(said) :] == said
    prefixes = tuple(continuing.HEADS[head] for head in heads)
    own = {name.removeprefix("bert."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    for name, tensor in module.model.state_dict().items():
        if name in continuing.TIED:
            continue
        is_fresh = name.startswith(prefixes)
        assert torch.equal(tensor, fresh[name] if is_fresh else own[name.removeprefix("bert.")]), name


def test_many_weights_that_are_not_used_are_counted(source, capsys):
    change_weights(source, lambda weights: weights | {f"extra.{n}": torch.zeros(1) for n in range(7)})
    continuing.load_weights(module_of(source).model, source)
    said = f"{source}: weights that are not used: extra.0, extra.1, extra.2, extra.3 and 3 more"
    assert capsys.readouterr().err.splitlines()[-1] == said


def to_bin(folder: Path, rename=lambda name: name) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save({rename(name): tensor for name, tensor in weights.items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_old_names_and_an_old_format_give_the_same_weights(source):
    expected = weights_of(source)
    to_bin(source, lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"))
    module = module_of(source)
    continuing.load_weights(module.model, source)
    assert_same(module.model.state_dict(), expected)


def test_weights_in_parts_and_in_half_precision_give_whole_ones(shards, source):
    module = module_of(shards)
    continuing.load_weights(module.model, shards)
    assert_same(module.model.state_dict(), weights_of(shards))
    change_weights(source, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    module = module_of(source)
    continuing.load_weights(module.model, source)
    assert {tensor.dtype for tensor in module.model.state_dict().values()} == {torch.float32}
    assert_same(module.model.state_dict(), weights_of(source))


def refused_weights(folder: Path) -> str:
    return refusal_of(continuing.load_weights, module_of(folder).model, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_cut_short_are_refused(source, name):
    if name == "pytorch_model.bin":
        to_bin(source)
    whole = (source / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"version https://git-lfs.github.com/spec/v1\n"):
        (source / name).write_bytes(content)
        message = refused_weights(source)
        assert message.startswith(f"the weights in {source} cannot be read (")
        assert message.endswith("): the file is cut short, damaged or a Git LFS pointer, copy it again")


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the code in a file of weights was run",))


@pytest.mark.parametrize("content", [{"bert": Code()}, [1, 2]])
def test_a_pickle_of_anything_but_tensors_is_refused_and_not_run(source, content):
    to_bin(source)
    torch.save(content, source / "pytorch_model.bin", pickle_module=pickle)
    message = refused_weights(source)
    assert message.startswith(f"the weights in {source} cannot be read (")
    assert isinstance(content, list) or "it is not a pickle of tensors alone" in message


@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.bias", "cls.predictions.bias"])
def test_a_missing_weight_is_named(source, name):
    change_weights(source, lambda weights: {other: w for other, w in weights.items() if other != name})
    assert refused_weights(source) == (
        f"the weights in {source} are no whole BERT, {name} is missing: name another folder"
    )


def test_weights_of_another_model_are_refused(source):
    change_weights(source, lambda weights: {name.replace("bert.", "roberta."): w for name, w in weights.items()})
    assert refused_weights(source) == (
        f"the weights in {source} are no whole BERT, bert.embeddings.LayerNorm.bias is missing: name another folder"
    )


def test_a_misshapen_weight_is_named_with_both_shapes(source):
    change_config(source, type_vocab_size=2)
    assert refused_weights(source) == (
        f"the weights in {source} do not fit its config.json: bert.embeddings.token_type_embeddings.weight is (3, 32), "
        "and would be (2, 32): copy the folder again, or name another"
    )


def test_an_output_layer_of_its_own_is_refused(source):
    output = "cls.predictions.decoder.weight"
    change_weights(source, lambda weights: weights | {output: torch.randn(200, 32)})
    assert refused_weights(source) == (
        f"{source} has a {output} of its own, which is not trained here: name another folder"
    )


# A run


def make_samples(folder: Path, tokenizer: Path, *options) -> Path:
    """data/train.jsonl and data/valid.jsonl of a folder, made with a tokenizer."""
    (folder / "data").mkdir(parents=True)
    for part, raw in (("train", False), ("valid", True)):
        (folder / "data" / f"{part}.txt").write_text(text(20, seed=len(part) + raw))
        stage(
            *("prepare_train_data.py", "--filename", f"data/{part}.txt", "--output_file", f"data/{part}.jsonl"),
            *("--tokenizer_model", tokenizer, "--max_seq_len", 128, "--get_raw", raw, *options),
            cwd=folder,
        )
    return folder


@pytest.fixture(scope="module")
def corpus(words, tmp_path_factory) -> Path:
    """Samples of the tokenizer `words`, which has 200 pieces."""
    return make_samples(tmp_path_factory.mktemp("corpus"), words)


@pytest.fixture
def here(corpus, words, tmp_path, monkeypatch) -> Path:
    """The current folder: samples, the tokenizer and own.yaml, a configuration without an architecture."""
    shutil.copytree(corpus / "data", tmp_path / "data")
    shutil.copytree(words, tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    write_own("own.yaml", "tokenizer")
    return tmp_path


def write_own(path: str, tokenizer: str) -> None:
    parts = {"train_file": "data/train.jsonl", "valid_file": "data/valid.jsonl", "test_file": "data/valid.jsonl"}
    data = OWN["data"] | parts | {"tokenizer_model": tokenizer}
    Path(path).write_text(yaml.safe_dump(OWN | {"data": data}))


def continued(source: Path | str, *options) -> dict:
    """The checkpoint of a short run that continues a folder, with a learning rate that changes next to nothing."""
    run_trainer("--config", "own.yaml", "--model.from_pretrained", source, *FEW_STEPS, *options)
    return training.load_checkpoint(Path(LAST))


def test_losses_before_the_first_step_are_those_of_the_source(source, here, words):
    """Packed, by our module; and a sample at a time, by transformers alone."""
    module = module_of(source).eval()
    continuing.load_weights(module.model, source)
    columns = Columns.open(here / "data/valid.jsonl", files.read_record(here / "data/valid.jsonl"))
    (batch,) = Batches(columns, tokenization.vocabulary(words), 16, 1, shuffle=False).step(0, 0).micro_batches()
    expected = dict.fromkeys(("mlm_loss", "nsp_loss"), 0.0)
    model = BertForPreTraining.from_pretrained(source).eval()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[batch["mlm_positions"]] = batch["mlm_labels"]
    with torch.no_grad():
        for number, (start, end) in enumerate(zip(batch["cu_seqlens"], batch["cu_seqlens"][1:], strict=False)):
            ids, types = (batch[name][start:end].unsqueeze(0) for name in ("input_ids", "token_type_ids"))
            found = model(input_ids=ids, token_type_ids=types)
            expected["mlm_loss"] += float(cross_entropy(found.prediction_logits[0], labels[start:end], reduction="sum"))
            following = batch["next_sentence_labels"][number : number + 1]
            expected["nsp_loss"] += float(cross_entropy(found.seq_relationship_logits, following))
        totals = module.totals(batch)
    assert {name: float(totals[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
    assert float(module_of(source).eval().totals(batch)["mlm_loss"]) != pytest.approx(expected["mlm_loss"], rel=0.01)


@dataclasses.dataclass
class Finished:
    """What a run has left; the folder that it continued is gone."""

    folder: Path
    said: list[str]
    checkpoint: dict
    weights: dict[str, torch.Tensor]  # of the source
    described: dict  # the file of these


@pytest.fixture(scope="module")
def finished(corpus, words, tmp_path_factory) -> Finished:
    """A run that continued models/hospital: BertForMaskedLM, rows to a multiple of 64, our tokenizer."""
    folder, talk = tmp_path_factory.mktemp("finished"), io.StringIO()
    shutil.copytree(corpus / "data", folder / "data")
    shutil.copytree(words, folder / "tokenizer")
    source = save(folder / "models" / "hospital", BertForMaskedLM, vocab_size=256)
    shutil.copy(words / "spm.model", source)
    (source / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n# Hospital\n")
    file = source / "model.safetensors"
    weights, described = load_file(file), files.describe(file)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(talk):
        patch.chdir(folder)
        write_own("own.yaml", "tokenizer")
        checkpoint = continued("models/hospital")
    shutil.rmtree(source)
    return Finished(folder, talk.getvalue().splitlines(), checkpoint, weights, described)


def test_a_run_says_what_it_continues(finished):
    assert finished.said[1:4] == [
        "continuing from models/hospital: 3 layers of 32",
        "models/hospital has 256 rows of embeddings, tokenizer 200 pieces: the rows stay, and the ids behind the "
        "pieces are never drawn",
        "models/hospital has no next-sentence head and no pooler: training starts with fresh ones",
    ]
    assert finished.checkpoint["provenance"]["continued_from"] == {
        "name": "hospital",
        "license": "cc-by-sa-4.0",
        "weights": [finished.described],
        "corpus": dict.fromkeys(files.ORIGIN) | {"private": False},
    }


@pytest.mark.parametrize(
    "card, expected",
    [
        ("---\nlicense: apache-2.0\ntags:\n- a\n---\ntext", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: our-own\n---\n", "our-own"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
        ("---\ntags: [a]\n---\nlicense: mit", None),
        ("---\na: [\n---\n", None),
        ("---\njust text\n---\n", None),
        ("# A card without front matter", None),
    ],
)
def test_the_licence_of_a_model_is_what_its_card_says(tmp_path, card, expected):
    (tmp_path / "README.md").write_text(card)
    assert continuing.license_of(tmp_path) == expected
    (tmp_path / "README.md").unlink()
    assert continuing.license_of(tmp_path) is None


def test_the_hyper_parameters_build_the_model_again_and_name_no_path(finished):
    parameters = {name: value for name, value in finished.checkpoint["hyper_parameters"].items() if name[0] != "_"}
    assert {name: parameters[name] for name in continuing.ARCHITECTURE} == SHAPE | {"embedding_rows": 256}
    assert (parameters["vocab_size"], parameters["pad_token_id"]) == (200, 0)
    assert "from_pretrained" not in parameters
    assert "models" not in json.dumps([finished.checkpoint["provenance"], parameters])
    BertPretraining(**parameters).load_state_dict(finished.checkpoint["state_dict"])
    loaded = BertPretraining.load_from_checkpoint(finished.folder / LAST, map_location="cpu")
    assert_same(loaded.state_dict(), finished.checkpoint["state_dict"])


def test_a_checkpoint_is_tested_without_the_folder(finished, monkeypatch):
    """With the run's configuration, which has all sizes in it, and with that of the user, which has none."""
    monkeypatch.chdir(finished.folder)
    saved = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())["model"]
    assert {name: saved[name] for name in continuing.ARCHITECTURE} == SHAPE | {"embedding_rows": 256}
    for config in (None, "own.yaml"):
        arguments = ["--config", str(training.find_config(config, Path(LAST))), "--trainer.logger=false"]
        command = training.TrainingCLI(arguments, finished.checkpoint, save_config_callback=None)
        training.load_weights(command.model, Path(LAST), finished.checkpoint)
        assert command.model.hparams == finished.checkpoint["hyper_parameters"]
    tested = stage("test.py", "--config", "own.yaml", "--ckpt_path", LAST, cwd=finished.folder)
    assert json.loads(tested.stdout)["nsp_accuracy"] is not None


def test_a_checkpoint_is_exported_without_the_folder_and_its_config_is_the_sources(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    export_model.main(LAST, "own.yaml")
    config = json.loads(Path("model/config.json").read_text())
    assert {name: config[name] for name in SHAPE} == SHAPE
    assert (config["vocab_size"], config["pad_token_id"], config["cls_token_id"]) == (256, 0, 2)
    exported = load_file("model/model.safetensors")
    for name, weight in finished.weights.items():  # the learning rate was next to nothing
        assert torch.allclose(exported[name], weight, atol=1e-6), name
    record = files.read_record("model")
    assert record["training"]["continued_from"]["weights"] == [finished.described]
    assert str(finished.folder) not in json.dumps({name: value for name, value in record.items() if name != "run"})


def test_an_exported_model_is_continued_with_its_own_tokenizer(here, capsys):
    """A second run begins with what the first one was exported to; there is nothing to say of it."""
    continued(save(here / "source"))
    export_model.main("last", "own.yaml")
    described = files.describe("model/model.safetensors")
    capsys.readouterr()
    run_trainer(
        *("--config", "own.yaml", "--model.from_pretrained", "model", "--data.tokenizer_model", "model", *FEW_STEPS),
        *("--model.hidden_dropout_prob", 0.0, "--model.hidden_size", 32),
    )
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "continuing from model: 3 layers of 32"
    assert said[2].startswith("training ")
    provenance = training.load_checkpoint(training.find_checkpoint("last"))["provenance"]
    assert provenance["continued_from"]["name"] == "model"
    assert provenance["continued_from"]["weights"] == [described]


@pytest.mark.full
def test_wordpiece_with_a_padding_of_another_id(tmp_path, monkeypatch):
    """A model of the Tohoku kind: its folder is also data.tokenizer_model."""
    pieces = wordpieces()
    folder = write_wordpiece(save(tmp_path / "tohoku", vocab_size=len(pieces), pad_token_id=4), pieces)
    make_samples(tmp_path / "work", folder)
    monkeypatch.chdir(tmp_path / "work")
    write_own("own.yaml", str(folder))
    checkpoint = continued(folder)
    assert checkpoint["hyper_parameters"]["pad_token_id"] == len(pieces) - 2
    export_model.main("last", "own.yaml")
    assert json.loads(Path("model/config.json").read_text())["pad_token_id"] == len(pieces) - 2
    assert [Path("model", name).read_bytes() for name in ("vocab.txt", "tokenizer_config.json")] == [
        (folder / name).read_bytes() for name in ("vocab.txt", "tokenizer_config.json")
    ]
    assert refusal_of(convert_tokenizer.main) == (
        "model has the tokenizer files of the model that it continues, and export_model.py compared them: "
        "convert_tokenizer.py is not needed, run release_model.py"
    )
    release_model.main(test_result=None, license="other")
    release = Path("release/bert-base-ja")
    for name in ("vocab.txt", "tokenizer_config.json", "config.json", "model.safetensors"):
        assert (release / name).read_bytes() == Path("model", name).read_bytes()
    fill_mask = pipeline("fill-mask", str(release), device="cpu")
    recorded = files.read_record("model")["gate"]["fill_mask"][0]
    assert [guess["token"] for guess in fill_mask(recorded["prompt"])] == [token for token, _ in recorded["guesses"]]
    line = "祖母は庭で古い時計を見つけた。"
    ids = [AutoTokenizer.from_pretrained(path)(line)["input_ids"] for path in (folder, "model")]
    assert ids[0] == ids[1]
    assert weights_of(Path("model"))["cls.predictions.bias"] == pytest.approx(
        weights_of(folder)["cls.predictions.bias"], abs=1e-6
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--config", CONFIG],
            "source does not fit the configuration: model.hidden_size 128 (the folder has 32), model.num_hidden_layers "
            "2 (the folder has 3), model.num_attention_heads 2 (the folder has 4): leave out what the folder says",
        ),
        (
            ["--config", "own.yaml", "--model.max_position_embeddings", 512],
            "source does not fit the configuration: model.max_position_embeddings 512 (the folder has 300): leave out "
            "what the folder says",
        ),
        (
            ["--config", "own.yaml", "--data.train_file", "none.jsonl"],
            "none.jsonl not found: make it with prepare_train_data.py, or mend data.train_file",
        ),
    ],
)
def test_what_contradicts_the_folder_is_refused_before_the_work(here, options, message):
    save(here / "source")
    assert refusal_of(run_trainer, "--model.from_pretrained", "source", *options) == message
    assert not Path("lightning_logs").exists()


def test_a_model_of_another_tokenizer_is_refused_before_the_work(here, letters):
    save(here / "source")
    shutil.copy(letters / "spm.model", "source")
    message = refusal_of(run_trainer, "--config", "own.yaml", "--model.from_pretrained", "source")
    assert message.startswith("the tokenizer in source and tokenizer give different ids (")
    assert list(Path("data").glob(".*")) == []  # the columns of the samples were not built


def test_pairs_are_refused_where_the_model_has_one_token_type(here):
    save(here / "source", type_vocab_size=1)
    assert refusal_of(continued, "source") == (
        "data/train.jsonl: pairs have two token types, the model has 1 (model.type_vocab_size): make the samples with "
        "--objective none"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--model.hidden_act", "magic", "--model.layer_norm_eps", 0, "--model.type_vocab_size", 0],
            "model.type_vocab_size must be 1 or more, got 0; model.hidden_act must be an activation of transformers, "
            "as gelu, got 'magic'; model.layer_norm_eps must be above 0, got 0.0",
        ),
        (
            ["--model.embedding_rows", 100],
            "model.embedding_rows is 100, data.tokenizer_model has 200 pieces: raise it, or leave it out",
        ),
    ],
)
def test_options_of_the_architecture_are_checked_without_a_folder_too(here, options, message):
    assert refusal_of(run_trainer, "--config", "own.yaml", *options) == message


def test_what_continues_a_private_model_is_private(here):
    save(here / "source")
    files.write_record("source", {"stage": "export_model.py", "corpus": {"name": "charts", "private": True}})
    assert refusal_of(continued, "source", "--data.private_corpus", "false") == (
        "source is of a private corpus, as its record says, and so is all that is made from it: leave private_corpus "
        "out, or name another input"
    )
    provenance = continued("source")["provenance"]
    assert provenance["corpus"]["private"]
    assert provenance["continued_from"]["corpus"]["name"] == "charts"
    export_model.main("last", "own.yaml")
    assert files.read_record("model")["corpus"]["private"]
