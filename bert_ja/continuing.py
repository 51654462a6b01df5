"""Continuing the model of a folder: its architecture, its weights, and whether the tokenizer is that of its training.

`model.from_pretrained` names the folder of a BertForPreTraining, BertForMaskedLM or BertModel, as transformers or
export_model.py wrote it. It is read when a run starts and never again: a checkpoint holds all weights, and its
hyper-parameters all that the model is rebuilt from.
"""

import copy
import itertools
import json
import os
import pickle
import re
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from pathlib import Path

import torch
import yaml
from transformers import BertConfig, BertForPreTraining
from transformers.activations import ACT2FN

from bert_ja import encoding, files, tokenization
from bert_ja.cli import StageError, say

CONFIG_FILE = "config.json"
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SIZES += ("max_position_embeddings", "type_vocab_size")
# Option of the model -> its name in config.json. Dropout is not among them: it has no weights, so a run may choose it.
ARCHITECTURE = {"embedding_rows": "vocab_size", **{name: name for name in (*SIZES, "hidden_act", "layer_norm_eps")}}
# What makes of a BERT something else than we train -> the value that does not.
USUAL = {
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "position_embedding_type": "absolute",
    "quantization_config": None,
}
# Weights by their first file, in the order in which transformers looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
HEADS = {
    "masked-LM head": "cls.predictions.",
    "next-sentence head": "cls.seq_relationship.",
    "pooler": "bert.pooler.",
}
OUTPUT = "cls.predictions.decoder.weight"
TIED = {OUTPUT: "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.bias": "cls.predictions.bias"}
# Files that describe a tokenizer, but are none without its vocabulary.
DESCRIPTIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
SHOWN_NAMES = 4
FRONT_MATTER = re.compile(r"---\s*\n(.*?\n)---\s*\n", re.DOTALL)  # YAML at the head of a model card
# What two tokenizers are compared on: prose of several fields, and what their settings treat differently. None of what
# `tokenizers` and SentencePiece are known to treat differently (parity.KNOWN_CAUSES).
LINES = (
    "日本語の文です。",
    "東京都に住んでいます。",
    "吾輩は猫である。名前はまだ無い。",
    "患者は六十七歳の男性で、三日前から発熱と咳嗽が続き、胸部Ｘ線写真で右下葉に浸潤影を認めた。",
    "血清クレアチニン値は1.24 mg/dL、eGFRは48.6 mL/min/1.73m2であった。",
    "アセトアミノフェン五百ミリグラムを一日三回、毎食後に内服するよう指示した。",
    "甲は、乙が本契約に違反したときは、何らの催告を要せず、直ちに本契約を解除することができる。",
    "原判決を破棄し、本件を高等裁判所に差し戻す。",
    "民法第七百九条により、故意又は過失によって他人の権利を侵害した者は損害を賠償する責任を負う。",
    "Tokyo 2020は延期された。",
    "The quick brown fox jumps over the lazy dog.",
    "iPhoneとWindows、NASAとJAXA、PyTorch 2.11。",
    "ＡＢＣａｂｃ０１２３４５、！？（）［］",
    "ｱｲｳｴｵ、ｶﾞｷﾞｸﾞ、ﾊﾟﾋﾟﾌﾟ。",
    "㈱東京商会と㍿大阪、㌔と㎡、①②③、Ⅳ世。",
    "京都～大阪〜神戸、３〜５、1-2、1—2。",
    "café naïve Ångström ß",
    "  行頭と  行中と   行末の空白   ",
    "　全角の　空白　",
    "1234567890、3.14159、1,000,000円、2026年12月31日、午前9時05分。",
    "https://www.example.com/?q=a&r=1#x foo_bar@example.co.jp",
    "「『【《〈（｢｣）〉》】』」、。，．・…‥―",
    "ウィキペディアはインターネット百科事典である。",
    "コンピューターとコンピュータ、ヴァイオリンとバイオリン。",
    "すもももももももものうち",
    "裏庭には二羽庭には二羽鶏がいる。",
    "外国人参政権について議論した。",
    "食べられなかったようでした。行こうとしていたのに。",
    "々〆ヶヵゝゞヽヾ〇ー一二三",
    "𠮷野家と髙島屋、辻と神と龍。",
    "龘靐齉爨麤鱻、彁暃椦。",
    "絵文字😀と👍🏽と🇯🇵。",
    "한국어와 English、русский и ελληνικά。",
    "x² + y² = r²、H₂O、½、℃、™、©。",
    "あああああああああああああああああああああああああああああああああ",
    "ﾃｽﾄTEST試験てすとテスト",
)


# The folder


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise StageError(f"{path} is damaged (not a JSON object): copy the folder again")
    return content


def _read_config(folder: Path) -> dict:
    """config.json of a BERT that we can train; a model_type that is absent, as before 2020, counts as bert."""
    if not folder.is_dir():
        raise StageError(
            f"model.from_pretrained: {folder} is not a folder: name one with config.json and weights (of the Hub: "
            "hf download NAME --local-dir FOLDER)"
        )
    if not (folder / CONFIG_FILE).is_file():
        raise StageError(f"{folder} has no {CONFIG_FILE}: name the folder of a model as model.from_pretrained")
    config = _read_object(folder / CONFIG_FILE)
    if config.get("model_type", "bert") != "bert":
        raise StageError(f"{folder} is no BERT, its model_type is {config['model_type']!r}: name a folder of a BERT")
    if unusual := [f"{name} {config[name]!r}" for name, usual in USUAL.items() if config.get(name, usual) != usual]:
        raise StageError(f"{folder} is a BERT of a kind that is not trained here ({', '.join(unusual)}): name another")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads a folder's weights from. Raises StageError when one is missing or empty."""
    first = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if first is None:
        raise StageError(
            f"{folder} has no weights (model.safetensors or pytorch_model.bin): copy them there, or name another folder"
        )
    found = [first]
    if first.suffix == ".json":
        parts = _read_object(first).get("weight_map")
        if not isinstance(parts, dict) or not parts or not all(isinstance(name, str) for name in parts.values()):
            raise StageError(f"{first} is damaged (it names no files of weights): copy the folder again")
        found += [folder / name for name in sorted(set(parts.values()))]
    return [files.require_file(path, "copy the folder again") for path in found]


def _problems(found: dict) -> list[str]:
    """What cannot be in the architecture of a config.json."""
    sizes = ("embedding_rows", *SIZES)
    problems = [
        f"{ARCHITECTURE[name]} {found[name]!r}" for name in sizes if type(found[name]) is not int or found[name] < 1
    ]
    if not isinstance(found["hidden_act"], str) or found["hidden_act"] not in ACT2FN:
        problems.append(f"hidden_act {found['hidden_act']!r}")
    if type(found["layer_norm_eps"]) not in (int, float) or found["layer_norm_eps"] <= 0:
        problems.append(f"layer_norm_eps {found['layer_norm_eps']!r}")
    if not problems and found["hidden_size"] % found["num_attention_heads"]:
        problems.append(f"hidden_size {found['hidden_size']} of {found['num_attention_heads']} num_attention_heads")
    return problems


def architecture(folder: Path | str) -> dict:
    """The options of the model that fit a folder, as named in ARCHITECTURE; what config.json leaves out, BERT's own.

    Raises StageError when the folder is none, holds no BERT of our kind, or has no weights.
    """
    folder, usual = Path(folder), BertConfig()
    config = _read_config(folder)
    found = {option: config.get(name, getattr(usual, name)) for option, name in ARCHITECTURE.items()}
    if problems := _problems(found):
        raise StageError(
            f"{folder / CONFIG_FILE} cannot be right ({', '.join(problems)}): copy the folder again, or name another"
        )
    weight_files(folder)
    return found


def settle(options: MutableMapping, given: Mapping, checkpoint: dict | None) -> None:
    """Give `options` of the model the architecture that they stand for: the checkpoint's, else that of from_pretrained.

    Args:
        options: All options of the model, changed in place.
        given: Those of them that stand in a configuration or on the command line, None where they leave it open.
        checkpoint: What is to be tested, exported or resumed; with it no folder is read.

    Raises StageError that names every given option which contradicts the folder.
    """
    if checkpoint is not None:
        continued = checkpoint["provenance"].get("continued_from")
        found = {name: checkpoint["hyper_parameters"][name] for name in ARCHITECTURE} if continued else {}
    else:
        found = architecture(options["from_pretrained"]) if options["from_pretrained"] is not None else {}
        wrong = [name for name in found if given.get(name) not in (None, found[name])]
        if wrong:
            told = ", ".join(f"model.{name} {given[name]!r} (the folder has {found[name]!r})" for name in wrong)
            raise StageError(
                f"{options['from_pretrained']} does not fit the configuration: {told}: leave out what the folder says"
            )
    for name, value in found.items():
        options[name] = value


def require_rows(rows: int | None, vocab_size: int, folder: str | None) -> int:
    """The rows of the word embeddings: `rows`, those of `folder` or model.embedding_rows, or a row for each piece."""
    if rows is not None and rows < vocab_size:
        what = f"{folder} has {rows:,} rows of embeddings" if folder else f"model.embedding_rows is {rows:,}"
        mend = "name the tokenizer that it was trained with" if folder else "raise it, or leave it out"
        raise StageError(f"{what}, data.tokenizer_model has {vocab_size:,} pieces: {mend}")
    return vocab_size if rows is None else rows


# The tokenizer


def _contents(path: Path) -> set[tuple[str, bytes]]:
    """The files that decide on a tokenizer's ids: spm.model alone where there is one, as for our encoders."""
    if tokenization.has_sentencepiece(path):
        return {("", tokenization.model_path(path).read_bytes())}
    return {(file.name, file.read_bytes()) for file in tokenization.tokenizer_files(path)}


def _first_difference(own: encoding.Encoder, other: encoding.Encoder) -> str | None:
    """What two encoders make differently, in words, special ids before lines; None where they agree."""
    for role in tokenization.ROLES:
        ids = getattr(own.vocabulary, role), getattr(other.vocabulary, role)
        if ids[0] != ids[1]:
            return f"the {role} token is {ids[0]} and {ids[1]}"
    for line, ids, others in zip(LINES, own.encode(list(LINES)), other.encode(list(LINES)), strict=True):
        for place, (one, another) in enumerate(itertools.zip_longest(ids, others, fillvalue="none"), start=1):
            if one != another:
                return f"token {place} of {line} is {one} and {another}"
    return None


def require_same_tokenizer(folder: Path | str, tokenizer: Path | str, private: bool = False) -> None:
    """Refuse a tokenizer that gives other ids than the one in the folder of the model, with the first difference.

    Says so where the folder has none. Nothing of the vocabulary of a `private` one is quoted, and the lines are ours.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    if all(file.name in DESCRIPTIONS for file in tokenization.tokenizer_files(folder)):
        say(f"{folder} has no tokenizer: that {tokenizer} is the one of its training could not be checked")
        return
    if _contents(folder) <= _contents(tokenizer):  # old folders have vocab.txt alone, and nothing of its settings
        return
    own, given = (encoding.open_encoder(path, private=private) for path in (folder, tokenizer))
    if difference := _first_difference(own, given):
        raise StageError(
            f"the tokenizer in {folder} and {tokenizer} give different ids ({difference}): name the former as "
            "data.tokenizer_model, and make the samples with it"
        )


# The weights


def _load(folder: Path, config: BertConfig) -> tuple[BertForPreTraining, dict]:
    """What transformers makes of a folder in float32, and its report of what was missing, left over or misshapen."""
    try:
        return BertForPreTraining.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            local_files_only=True,
            weights_only=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # each format has its own, OSError among them
        unpickling = isinstance(error, pickle.UnpicklingError)  # torch then says how to load it none the less
        reason = "it is not a pickle of tensors alone" if unpickling else " ".join(str(error).split())[:80]
        raise StageError(
            f"the weights in {folder} cannot be read ({reason}): the file is cut short, damaged or a Git LFS pointer, "
            "copy it again"
        ) from None


def _missing_heads(folder: Path, missing: set[str], names: Collection[str]) -> list[str]:
    """The heads of which every weight is missing; refuses a folder that lacks anything else."""
    heads, others = [], set(missing)
    for head, prefix in HEADS.items():
        own = {name for name in names if name.startswith(prefix)} - {OUTPUT}
        if own <= missing:
            heads.append(head)
            others -= own
    if others:
        raise StageError(f"the weights in {folder} are no whole BERT, {min(others)} is missing: name another folder")
    return heads


def _require_shapes(folder: Path, misshapen: Iterable[tuple]) -> None:
    """Refuse weights of other shapes than config.json says; (name, shape in the file, shape by config.json) of each."""
    for name, found, expected in sorted(misshapen)[:1]:
        raise StageError(
            f"the weights in {folder} do not fit its {CONFIG_FILE}: {name} is {tuple(found)}, and would be "
            f"{tuple(expected)}: copy the folder again, or name another"
        )


def _require_tied(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Refuse an output layer that is not the word embeddings: ours are one, and would have the last that is loaded."""
    for output, source in TIED.items():
        if not torch.equal(weights[output], weights[source]):
            raise StageError(f"{folder} has a {output} of its own, which is not trained here: name another folder")


def _shown(names: list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def load_weights(model: BertForPreTraining, folder: Path | str) -> None:
    """Put the weights of a folder into a model of its architecture; heads that the folder lacks stay as they are.

    Says which heads those are, and which weights of the folder are not used.
    """
    loaded, report = _load(Path(folder), model.config)
    weights, missing = loaded.state_dict(), set(report["missing_keys"])
    _require_shapes(folder, report["mismatched_keys"])
    heads = _missing_heads(folder, missing, weights)
    _require_tied(folder, weights)
    model.load_state_dict({name: w for name, w in weights.items() if name not in missing}, strict=False)
    if heads:
        say(f"{folder} has no {' and no '.join(heads)}: training starts with fresh ones")
    if left := sorted(report["unexpected_keys"]):
        say(f"{folder}: weights that are not used: {_shown(left)}")


def license_of(folder: Path) -> str | None:
    """The licence of a folder's model as the front matter of its model card (README.md) has it, None where it has none.

    {"license": "other", "license_name": "x"} is x.
    """
    card = folder / "README.md"
    found = FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    try:
        said = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        said = None
    said = said if isinstance(said, dict) else {}
    named = said.get("license_name") or said.get("license")
    return ", ".join(map(str, named)) if isinstance(named, list) else named and str(named)


# A run


def begin(
    model: BertForPreTraining,
    folder: Path | str,
    tokenizer: Path | str,
    vocabulary: tokenization.Vocabulary,
    private: bool = False,
) -> dict:
    """Give the model of a new run the weights of a folder, after the check of the tokenizer; the facts for its records.

    {"name": "bert-base-japanese-v3", "license": what its model card says, "weights": [name, size and sha256 of each
    file], "corpus": what its record says}
    """
    folder, config = Path(folder), model.config
    say(f"continuing from {folder}: {config.num_hidden_layers} layers of {config.hidden_size}")
    require_same_tokenizer(folder, tokenizer, private)
    if config.vocab_size > vocabulary.size:
        say(
            f"{folder} has {config.vocab_size:,} rows of embeddings, {tokenizer} {vocabulary.size:,} pieces: the rows "
            "stay, and the ids behind the pieces are never drawn"
        )
    load_weights(model, folder)
    return {
        "name": Path(os.path.abspath(folder)).name,  # the one that its user sees, not where a link leads
        "license": license_of(folder),
        "weights": [files.describe(path) for path in weight_files(folder)],
        "corpus": files.corpus_facts(files.read_record(folder), files.is_private(folder)),
    }
