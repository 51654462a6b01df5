"""What of a record may leave the machine: an allow-list of fields, of which a private corpus has fewer.

A field that is not in FIELDS stays behind. LEFT_OUT names those that do so on purpose, so that a test can tell them
from new ones that nobody has decided on.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from bert_ja import files, results
from bert_ja.tokenization import parse_model

# A place on a machine: /home, ~/a, $HOME/a, -d/usr, file:, C:/a, \\server; but not https://, CC BY-SA 3.0/GFDL, </s>.
PATH = re.compile(
    r"(?<![\w/:.<\[])/\w|[<\[]/\w+/|(?<=:)/\w|(?:^|(?<=\W))-[A-Za-z]/\w|~\w*/|\$\w+[/\\]|\$\{\w+\}|\\\\\w"
    r"|\bfile:|\b[A-Za-z]:[\\/](?!/)"
)
ANY = "*"  # in FIELDS: every name, where our own code makes the names

# What FIELDS says of a field: its value (or each of its list) is kept where it is text or a number; or what it holds.
KEPT = None


def _kept(*names: str) -> dict[str, None]:
    return dict.fromkeys(names, KEPT)


FILE = _kept("name", "size", "sha256", "files")
DUMP = _kept("date", "file", "sha256", "sha1")
SOURCE = _kept("name", "license", "source", "share") | {"dump": DUMP}
CORPUS = SOURCE | _kept("private") | {"sources": SOURCE}
TOKENIZER = _kept("sha256", "vocab_size")
COUNTS = {ANY: KEPT}
VERSIONS = {ANY: KEPT}
CONTINUED = _kept("name", "license") | {"weights": FILE, "corpus": CORPUS}
CORPUS_OPTIONS = _kept(
    *("name", "valid_sentences", "test_sentences", "text_field", "id_field", "split_sentences", "private"),
    *("min_characters", "japanese_only", "min_sentences", "max_repeated"),
)
TOKENIZER_OPTIONS = _kept("input_sentence_size", "vocab_size", "character_coverage")
SAMPLE_OPTIONS = _kept(
    *("objective", "unit", "max_seq_len", "buffer_size", "short_seq_prob", "dupe_factor", "get_raw"),
    *("whole_word_mask", "mlm_probability", "mask_replace_prob", "random_replace_prob"),
)
TEXT_OPTIONS = _kept("max_sentences", "precision")  # of evaluate_text.py
MODEL = _kept(
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "lr", "num_warmup_steps", "lr_schedule", "optimizer"),
    *("weight_decay", "max_nonfinite_steps", "attention_backend", "compile", "cuda_graphs", "packed"),
    *("type_vocab_size", "hidden_act", "layer_norm_eps", "embedding_rows", "pad_token_id", "vocab_size"),
)
SETTINGS = _kept(
    *("samples_per_step", "gradient_clip_val", "precision", "seed", "data_seed"),
    *("mlm_probability", "mlm_probability_end", "mask_replace_prob", "random_replace_prob"),
)
PARITY = _kept("lines", "with_mask", "pairs", "truncated", "alone", "differences") | {"known_differences": COUNTS}
GATE = {  # what an export answered
    **_kept("rows", "positions", "dtype", "lines", "line_ids", "vocabulary", "model_max_length", "copied_tokenizer"),
    **_kept("token_types_by_default", "samples", "tokens"),
    **{"special_ids": COUNTS, "largest_difference": COUNTS, "fill_mask": _kept("prompt", "ids", "guesses")},
}
TRAINING = {  # what a checkpoint says of its run
    **{"tokenizer": TOKENIZER, "samples": {ANY: FILE}, "options": SAMPLE_OPTIONS, "counts": COUNTS},
    **{"corpus": CORPUS, "continued_from": CONTINUED, "versions": VERSIONS, "settings": SETTINGS},
    **_kept("shares", "longest_sample", "unigram_entropy"),
}
FIELDS = {  # of the records of all stages
    **_kept("stage", "seed", "steps", "longest_sample", "tokenizer_class", "warning"),
    **{"options": CORPUS_OPTIONS | TOKENIZER_OPTIONS | SAMPLE_OPTIONS | TEXT_OPTIONS, "versions": VERSIONS},
    **{"inputs": FILE, "outputs": FILE, "counts": COUNTS, "shares": COUNTS, "corpus": CORPUS},
    **{"tokenizer": TOKENIZER, "parity": PARITY, "model": MODEL, "training": TRAINING},
    **{"hardware": _kept("device", "devices", "seconds"), "seen": _kept("samples", "tokens")},
    **{"curve": {ANY: KEPT}, "dump": DUMP, "gate": GATE},
}
MEASURED = _kept("name", "steps", "tokens") | {"weights": FILE}
MEASURED_TEXT = FILE | _kept("corpus", "private", *results.DRAWN)
SCORES = {ANY: {ANY: _kept("mean", "sd", "values")}}
SETTING = {ANY: KEPT}
TASK = _kept("title", "version") | {
    **{"setting": SETTING, "tried": SETTING | {"valid": COUNTS}, "examples": COUNTS, "cut": COUNTS, "scores": SCORES},
    **{"unreachable_answers": COUNTS, "overlap": {ANY: _kept("sentences", "in_training_text")}},
}
RESULT = {  # of the evaluations
    **_kept("random_weights", "train_split", "seeds", "precision", "training_text"),
    **_kept(*results.TEXT_MEASURES, *results.TEXT_COUNTS),
    **{"model": MEASURED, "text": MEASURED_TEXT, "versions": VERSIONS, "tasks": {ANY: TASK}},
}
LEFT_OUT = {  # wherever they stand
    "run": "time, host, command and paths",
    "history": "records of earlier stages: a release has those once, each as public as its own",
    "random_sentences": "lines of the corpus",
    "failed_pages": "titles of pages, and errors that may quote them",
    "parts": "figures of the corpus for its owner",
    "filters": "figures of the corpus for its owner",
    "token_lengths": "figures of the samples for their owner",
    "_instantiator": "how Lightning builds the model, which is the same for all",
}
# What records say of a private text beyond its name, licence and source; and names that its owner chose.
OF_THE_TEXT = ("dump", "counts", "shares", "share", "samples", "seen", "unigram_entropy", "text_field", "id_field")
OF_THE_TEXT += ("overlap", "text", *results.TEXT_COUNTS)  # what an evaluation says of it
# Files that are released, or hold weights. What else a record describes, size and sum are the private text's own.
OF_THE_MODEL = re.compile(
    r"model\.safetensors|config\.json|spm?\.(model|vocab)|tokenizer(_config)?\.json|special_tokens_map\.json|"
    r"added_tokens\.json|vocab\.(txt|json)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|tokenizer\.model|"
    r"(onnx/)?model\.onnx|tf_model\.h5|loss_curve\.png|README\.md|\.gitattributes|"
    r"CHANGELOG\.md|(test|valid|text)_result\.json|jglue\.(json|md)|(last|epoch=\d+-step=\d+)(-v\d+)?\.ckpt"
)
OF_A_STAGE = re.compile(r"(train|valid|test)\.(txt|index\.jsonl|jsonl)|corpus\.md")  # names that no user chose


# Records


def has_path(text: str) -> bool:
    """Whether a text names a place on a machine: "my text, /home/taro/a.txt", but not "https://ja.wikipedia.org/"."""
    return PATH.search(text) is not None


def _allowed(value, fields, private: bool):
    """What of a value `fields` let through, strings that hold a path still among it."""
    if isinstance(value, list):
        return [_allowed(inner, fields, private) for inner in value]
    if not isinstance(value, dict):
        return value if fields is KEPT or value is None else None
    if fields is KEPT:
        return None
    if private and fields is FILE:
        return _private_file(value)
    value = {**value, "name": None} if private and fields is MEASURED else value  # of a folder, which a user chose
    left_out = OF_THE_TEXT if private else ()
    return {
        name: _allowed(inner, fields.get(name, fields.get(ANY)), private)
        for name, inner in value.items()
        if (name in fields or ANY in fields) and name not in LEFT_OUT and name not in left_out
    }


def _private_file(described: dict) -> dict:
    """A file in a record of a private corpus: whole if it is the model's, its name if no user chose that, else {}."""
    name = str(described.get("name"))
    if OF_THE_MODEL.fullmatch(name):
        return {field: inner for field, inner in described.items() if field in FILE}
    if name.endswith(".ckpt"):  # weights too, under a name of the user's own
        return {field: inner for field, inner in described.items() if field in ("size", "sha256")}
    return {"name": name} if OF_A_STAGE.fullmatch(name) else {}


def _without_paths(value):
    if isinstance(value, dict):
        return {name: _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return None if isinstance(value, str) and has_path(value) else value


def public(record: dict | None, private: bool = False) -> dict | None:
    """What of any stage's record may be published: the fields of FIELDS, with None where a string holds a path.

    That of a `private` corpus, as the record itself may say, is also without what is said of the text beyond name,
    licence and source: counts, dump, sizes and sums of files that are not the model's, names of a user's files.
    """
    private = private or files.corpus_facts(record)["private"]
    return None if record is None else _without_paths(_allowed(record, FIELDS, private))


def public_result(result: dict, private: bool = False) -> dict:
    """What of a result of an evaluation may be published: the fields of RESULT, of a private text without its figures.

    Private is the text that the model was trained on, or the one that it was measured on.
    """
    return _without_paths(_allowed(result, RESULT, private))


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def paths_in(record: dict | None, private: bool = False) -> list[str]:
    """The strings of a record that `public` leaves out because they hold a path."""
    return [text for text in _strings(_allowed(record or {}, FIELDS, private)) if has_path(text)]


def undecided(value, fields=FIELDS, place: str = "") -> list[str]:
    """The fields of a record that are neither in FIELDS nor in LEFT_OUT: "training.settings.new"."""
    if isinstance(value, list):
        return [found for inner in value for found in undecided(inner, fields, place)]
    if not isinstance(value, dict):
        return [] if fields is KEPT or value is None else [place]
    if fields is KEPT:
        return [place]
    found = []
    for name, inner in value.items():
        here = f"{place}.{name}".lstrip(".")
        if name in LEFT_OUT:
            continue
        known = name in fields or ANY in fields
        found += undecided(inner, fields.get(name, fields.get(ANY)), here) if known else [here]
    return sorted(set(found))


# Files of a model folder


def remove_paths(path: Path) -> list[str]:
    """Take entries that hold a path out of a JSON object in a file; their names.

    transformers writes name_or_path into a tokenizer_config.json, and it stays in a tokenizer that is carried on.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # which whoever loads the folder says
        return []
    kept, wrong = _without_entries(content)
    if wrong:
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return wrong


def _without_entries(value, place: str = "") -> tuple[object, list[str]]:
    """(a JSON value without entries of objects that hold a path, their names: "mecab_kwargs.mecab_option")."""
    if isinstance(value, list):
        parts = [_without_entries(inner, place) for inner in value]
        return [kept for kept, _ in parts], [name for _, names in parts for name in names]
    if not isinstance(value, dict):
        return value, []
    kept, wrong = {}, []
    for name, inner in value.items():
        here = f"{place}.{name}".lstrip(".")
        if isinstance(inner, str) and has_path(inner):
            wrong.append(here)
        else:
            kept[name], names = _without_entries(inner, here)
            wrong += names
    return kept, wrong


def remove_training_facts(path: Path) -> list[str]:
    """Take out of a SentencePiece model where and on what it was trained, which it works without; the fields' names.

    spm_train writes the paths of its text and of its model into it, and lines that it was tested on.
    """
    try:
        proto = parse_model(path.read_bytes())
    except ValueError:  # another kind of file
        return []
    found = [name for name in ("input", "model_prefix") if getattr(proto.trainer_spec, name)]
    for name in found:
        proto.trainer_spec.ClearField(name)
    size = proto.ByteSize()
    proto.DiscardUnknownFields()  # the lines are in none that Python's sentencepiece knows
    found += ["self_test_data"] if proto.ByteSize() < size else []
    if found:
        path.write_bytes(proto.SerializeToString(deterministic=True))
    return found
