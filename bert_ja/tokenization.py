"""SentencePiece model -> the files of a tokenizer folder, and what other stages need to know of a tokenizer.

The truth is SentencePiece's own encoding. `transformers` reads a tokenizer.json built by hand from the model's pieces;
parity.py compares the two line by line.
"""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bert_ja import draws, files
from bert_ja.cli import StageError

PAD, UNK, CLS, SEP, MASK = PIECES = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")  # with ids 0 to 4
ROLES = ("pad", "unk", "cls", "sep", "mask")  # what PIECES stand for, in their order
NEEDED_ROLES = ("cls", "sep", "mask", "pad")
SPACE = "▁"  # U+2581, SentencePiece's space
MAX_LINE_BYTES = 4192  # SentencePiece skips longer lines in training, silently
RESERVED = ("▅", "\0")  # it skips lines that hold U+2585 too, and counts zero bytes as broken text
SCORE_STEP = 2.0**-10  # sums of up to 1,000 pieces stay exact in float32 and float64 alike, so ties are ties in both
TRAINING_THREADS = 16  # fixed on every machine: the scores depend on it
DROPPED = r"\x01-\x08\x0b\x0e-\x1f\x7f\x{8f}\x{9f}"  # control characters that nmt_nfkc takes away; in Oniguruma's words
MODEL_FILE, JSON_FILE, CONFIG_FILE = FOLDER_FILES = ("spm.model", "tokenizer.json", "tokenizer_config.json")
MAP_FILE = "special_tokens_map.json"
PUBLISHED_FILES = (MODEL_FILE, CONFIG_FILE, MAP_FILE)
FAST, DEBERTA = "PreTrainedTokenizerFast", "DebertaV2Tokenizer"  # tokenizer_class of a folder: ours, the published one
DEBERTA_WARNING = (
    "transformers 5 mis-tokenizes every line with such a folder, and so does transformers 4 unless AutoTokenizer is "
    "called with use_fast=False"
)
MADE_BY = "run train_tokenizer.py first"
SHOWN_IDS, SHOWN_TEXT = 40, 200  # ids and characters that an error shows
BATCH = 1000  # lines that AutoTokenizer gets at once


# Sentences to train on


@dataclasses.dataclass
class LineCounts:
    """Lines of a text by what training makes of them."""

    eligible: int = 0
    blank: int = 0
    too_long: int = 0  # over 4,192 bytes
    reserved: int = 0  # with a character that SentencePiece keeps for itself


def read_lines(path: Path | str) -> Iterator[str]:
    """The lines of a UTF-8 text without their line ends. Raises StageError that names the first broken line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise StageError(
                    f"{path} line {number:,} is not UTF-8: repair the text or leave the line out"
                ) from None


def _kind(line: str) -> str:
    if not line.strip():
        return "blank"
    if len(line) * 3 > MAX_LINE_BYTES and len(line.encode()) > MAX_LINE_BYTES:  # a character has 1 to 4 bytes
        return "too_long"
    if any(character in line for character in RESERVED):
        return "reserved"
    return "eligible"


def count_lines(path: Path | str) -> LineCounts:
    """One pass over a text."""
    return LineCounts(**Counter(map(_kind, read_lines(path))))


def draw_lines(path: Path | str, eligible: int, size: int, seed: int, purpose: str) -> Iterator[str]:
    """Yield `size` of the `eligible` lines of a text, drawn without replacement, in the text's order.

    All of them when there are no more. Holds 8 bytes a drawn line, whatever the length of the text.
    """
    lines = (line for line in read_lines(path) if _kind(line) == "eligible")
    if size >= eligible:
        yield from lines
        return
    chosen = np.sort(draws.permutation(draws.key(seed, purpose), np.arange(size), eligible))
    previous = -1
    for number in map(int, chosen):
        yield next(itertools.islice(lines, number - previous - 1, None))
        previous = number


# Training


@contextlib.contextmanager
def _interrupt_ends_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process inside SentencePiece, which does not look at Python's signals for minutes.

    Not where a background job or a caller handles it otherwise.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _training_error(error: RuntimeError, vocab_size: int) -> StageError | None:
    message = str(error)
    if found := re.search(r"too high \(\d+\).*<= (\d+)", message):
        return StageError(
            f"the text supports no more than {int(found[1]):,} pieces, {vocab_size:,} are asked for: "
            f"pass --vocab_size {found[1]} or less, or train on more text"
        )
    if found := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return StageError(
            f"a vocabulary of {vocab_size:,} pieces is smaller than the {int(found[1]):,} that the text's characters "
            f"need: pass --vocab_size {found[1]} or more, or a lower --character_coverage"
        )
    if "!sentences_.empty()" in message or "all_chars_count" in message:
        return StageError("the text has no line to train on: every line is blank, over 4,192 bytes or not text")
    return None


def train_sentencepiece(lines: Iterable[str], vocab_size: int, character_coverage: float = 0.9995) -> bytes:
    """A unigram model with the published settings, as the bytes of sp.model; equal lines give equal bytes.

    Raises StageError when the lines cannot support the vocabulary, with the size that they can.
    """
    import sentencepiece

    model = io.BytesIO()
    with _interrupt_ends_at_once():
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size,
                character_coverage=character_coverage,
                add_dummy_prefix=False,
                shuffle_input_sentence=True,
                max_sentence_length=MAX_LINE_BYTES,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece=PAD,
                unk_piece=UNK,
                bos_piece=CLS,
                eos_piece=SEP,
                user_defined_symbols=[MASK],  # not [CLS], [SEP]: they would be found in text, and bos_id() be -1
                required_chars=SPACE,  # else a text without spaces gives a vocabulary without it
                num_threads=TRAINING_THREADS,
                minloglevel=2,  # errors only
            )
        except RuntimeError as error:
            known = _training_error(error, vocab_size)
            if known is None:
                raise
            raise known from None
    return _settle(model.getvalue())


def _settle(model: bytes) -> bytes:
    """Round the scores of NORMAL pieces and blank the paths, so that libraries agree on ties and runs on bytes."""
    proto = parse_model(model)
    for piece in proto.pieces:
        if piece.type == piece.NORMAL:
            piece.score = round(piece.score / SCORE_STEP) * SCORE_STEP
    proto.trainer_spec.ClearField("input")
    proto.trainer_spec.ClearField("model_prefix")
    return proto.SerializeToString(deterministic=True)


def parse_model(model: bytes):
    """The ModelProto of a sp.model's bytes. Raises ValueError when they are none."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    except DecodeError:
        raise ValueError("not a SentencePiece model") from None
    if not proto.pieces:
        raise ValueError("not a SentencePiece model")
    return proto


def vocab_text(model: bytes) -> str:
    """The sp.vocab of a model in spm_train's own layout: a piece and its score a line, in six digits as C++ has it."""
    return "".join(f"{piece.piece}\t{piece.score:g}\n" for piece in parse_model(model).pieces)


# Tokenizer files


def _added_token(number: int, piece: str) -> dict:
    return {
        "id": number,
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": piece not in (PAD, UNK),  # ［ＭＡＳＫ］ is a mask to SentencePiece too
        "special": True,
    }


def _template(*parts: tuple[str, str, int]) -> list[dict]:
    """(kind, id, type_id) as TemplateProcessing writes them."""
    return [{kind: {"id": name, "type_id": type_id}} for kind, name, type_id in parts]


def _post_processor() -> dict:
    cls, a, sep = ("SpecialToken", CLS, 0), ("Sequence", "A", 0), ("SpecialToken", SEP, 0)
    b, end = ("Sequence", "B", 1), ("SpecialToken", SEP, 1)
    return {
        "type": "TemplateProcessing",
        "single": _template(cls, a, sep),
        "pair": _template(cls, a, sep, b, end),
        "special_tokens": {
            piece: {"id": piece, "ids": [PIECES.index(piece)], "tokens": [piece]} for piece in (CLS, SEP)
        },
    }


def _normalizer(charsmap: bytes) -> dict:
    """SentencePiece's nmt_nfkc in the steps of `tokenizers`.

    Its Precompiled leaves か + U+3099 apart, so NFC follows (NFKC before it would break ～); its Strip also eats the
    spaces beside [MASK], so a regex takes the outer ones off.
    """
    steps = [
        {"type": "Replace", "pattern": {"Regex": f"[{DROPPED}]"}, "content": ""},
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": "(?<= ) +"}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""},
    ]
    return {"type": "Sequence", "normalizers": steps}


def _require_convertible(proto) -> None:
    """Refuse a model whose settings the tokenizer.json of this module does not express."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    wrong = {
        "it is not a unigram model": trainer.model_type != trainer.UNIGRAM,
        "add_dummy_prefix is on": normalizer.add_dummy_prefix,
        "byte_fallback is on": trainer.byte_fallback,
        "remove_extra_whitespaces is off": not normalizer.remove_extra_whitespaces,
        "escape_whitespaces is off": not normalizer.escape_whitespaces,
        "it has no normalizer": not normalizer.precompiled_charsmap,
    }
    found = [reason for reason, holds in wrong.items() if holds]
    names = [piece.piece for piece in proto.pieces[: len(PIECES)]]
    if names != list(PIECES):
        found.append(f"its first pieces are {' '.join(names)} and not {' '.join(PIECES)}")
    if found:
        raise StageError(
            f"this SentencePiece model cannot be used ({', '.join(found)}): train one with train_tokenizer.py"
        )


def tokenizer_json(model: bytes) -> str:
    """The text of tokenizer.json for a SentencePiece model; raises StageError for one that is not of our kind."""
    proto = parse_model(model)
    _require_convertible(proto)
    # Readers before tokenizers 0.19 ask for add_prefix_space in both places.
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "add_prefix_space": False,
        "prepend_scheme": "never",
        "split": True,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(number, piece) for number, piece in enumerate(PIECES)],
        "normalizer": _normalizer(proto.normalizer_spec.precompiled_charsmap),
        "pre_tokenizer": metaspace,
        "post_processor": _post_processor(),
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": PIECES.index(UNK),
            "vocab": [[piece.piece, piece.score] for piece in proto.pieces],
            "byte_fallback": False,
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def tokenizer_config_json(model_max_length: int = 512) -> str:
    """The text of tokenizer_config.json, which transformers 4.57 and 5 read alike."""
    content = {
        "tokenizer_class": FAST,
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "pad_token": PAD,
        "unk_token": UNK,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def folder_files(model: bytes, model_max_length: int = 512) -> dict[str, bytes]:
    """The files of a tokenizer folder by name."""
    contents = (model, tokenizer_json(model).encode(), tokenizer_config_json(model_max_length).encode())
    return dict(zip(FOLDER_FILES, contents, strict=True))


def _published_piece(piece: str) -> dict:
    flags = {"content": piece, "lstrip": False, "normalized": piece == UNK, "rstrip": False, "single_word": False}
    return {**flags, "special": True}


def published_files(model: bytes, model_max_length: int = 512) -> dict[str, bytes]:
    """The files of the published model's layout by name, as DebertaV2Tokenizer of transformers 4.57 saves them.

    Only that slow tokenizer reads them rightly, see DEBERTA_WARNING. Raises StageError as tokenizer_json does.
    """
    _require_convertible(parse_model(model))
    names = {
        "cls_token": CLS,
        "sep_token": SEP,
        "pad_token": PAD,
        "mask_token": MASK,
        "bos_token": CLS,
        "eos_token": SEP,
    }
    config = {
        "added_tokens_decoder": {str(number): _published_piece(piece) for number, piece in enumerate(PIECES)},
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
        "extra_special_tokens": {},
        "model_max_length": model_max_length,
        "sp_model_kwargs": {},
        "split_by_punct": False,
        "tokenizer_class": DEBERTA,
        "unk_token": UNK,
        **names,
    }
    unknown = {name: value for name, value in _published_piece(UNK).items() if name != "special"}
    contents = {CONFIG_FILE: config, MAP_FILE: names | {"unk_token": unknown}}
    written = {
        name: json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) for name, content in contents.items()
    }
    return {MODEL_FILE: model} | {name: (text + "\n").encode() for name, text in written.items()}


def folder_bytes(vocab_size: int) -> int:
    """About how many bytes a tokenizer folder takes at most: 250 kB of normalizer in each form, and the pieces."""
    return files.MEGABYTE + 150 * vocab_size  # 0.7 MB were measured with 3,000 pieces


def write_tokenizer_folder(model: bytes, folder: Path | str, model_max_length: int = 512) -> None:
    """Write spm.model, tokenizer.json and tokenizer_config.json into `folder`, each whole or not at all."""
    for name, content in folder_files(model, model_max_length).items():
        files.write_bytes(Path(folder) / name, content)


# Reading


def model_path(path: Path | str) -> Path:
    """The SentencePiece model of a tokenizer folder (its spm.model), or the .model file itself."""
    path = Path(path)
    if not path.is_dir():
        return files.require_file(path, MADE_BY)
    if not (path / MODEL_FILE).is_file():
        raise StageError(
            f"{path} has no {MODEL_FILE}: name a folder that train_tokenizer.py wrote, such as output/model"
        )
    return path / MODEL_FILE


def record_folder(path: Path | str) -> Path:
    """The folder whose record speaks of a tokenizer: the tokenizer folder, or that in which a .model file lies."""
    return Path(path) if Path(path).is_dir() else model_path(path).parent


def tokenizer_class(folder: Path | str) -> str | None:
    """The tokenizer_class that the files of a folder name; None where they name none."""
    file = Path(folder) / CONFIG_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class") if file.is_file() else None
    except (ValueError, AttributeError):
        return None


def read_model(path: Path | str, any_kind: bool = False) -> bytes:
    """The bytes of a SentencePiece model, of our kind unless `any_kind`, from a tokenizer folder or a .model file."""
    file = model_path(path)
    model = file.read_bytes()
    try:
        proto = parse_model(model)
        if not any_kind:
            _require_convertible(proto)
    except ValueError:
        raise StageError(f"{file} is not a SentencePiece model, or is damaged: {MADE_BY}") from None
    except StageError as error:
        raise StageError(f"{file}: {error}") from None
    return model


def load_model(model: bytes):
    """A SentencePieceProcessor from the bytes of a model."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)


def load_sentencepiece(path: Path | str, any_kind: bool = False):
    """The SentencePieceProcessor of a tokenizer folder (output/model) or a .model file; see `read_model`."""
    try:
        return load_model(read_model(path, any_kind))
    except RuntimeError:
        raise StageError(f"{model_path(path)} is not a SentencePiece model, or is damaged: {MADE_BY}") from None


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What samples, masks and models need to know of a tokenizer."""

    size: int
    sha256: str  # of spm.model; of all its files where it has none
    pad: int
    unk: int  # -1 where there is none
    cls: int
    sep: int
    mask: int
    others: tuple[int, ...] = ()  # further ids that stand for no text

    @functools.cached_property
    def ordinary_ids(self) -> np.ndarray:
        """All ids but the special ones, (size - 5,) as a rule: what a random replacement is drawn from."""
        special = [self.pad, self.unk, self.cls, self.sep, self.mask, *self.others]
        return np.setdiff1d(np.arange(self.size), special)

    def facts(self) -> dict:
        """What records hold and later stages compare: {"sha256": ..., "vocab_size": 32000}."""
        return {"sha256": self.sha256, "vocab_size": self.size}


def has_sentencepiece(path: Path | str) -> bool:
    """Whether ids come from SentencePiece: a folder with spm.model, or a .model file."""
    return not Path(path).is_dir() or (Path(path) / MODEL_FILE).is_file()


def special_pieces(folder: Path | str) -> dict[str, str]:
    """The special pieces by role (pad, unk, cls, sep, mask) as the files of a folder name them, else ours."""
    pieces = dict(zip(ROLES, PIECES, strict=True))
    for file in (Path(folder) / MAP_FILE, Path(folder) / CONFIG_FILE):
        try:
            named = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            found = {role: named.get(f"{role}_token") for role in ROLES}
        except (ValueError, AttributeError):
            raise StageError(f"{file} is damaged (not a JSON object): name another tokenizer") from None
        texts = {role: piece.get("content") if isinstance(piece, dict) else piece for role, piece in found.items()}
        pieces |= {role: piece for role, piece in texts.items() if isinstance(piece, str)}
    return pieces


def _require_roles(path: Path | str, missing: list[str]) -> None:
    if missing:
        raise StageError(
            f"{path} has no {' and no '.join(missing)} token: name a tokenizer with cls, sep, mask and pad, such as "
            "output/model of train_tokenizer.py"
        )


def _added_ids(folder: Path | str) -> dict[str, int]:
    """The ids of pieces that the files of a folder add to its spm.model, as DeBERTa's [MASK]."""
    added: dict[str, int] = {}
    for name in ("added_tokens.json", CONFIG_FILE):
        file = Path(folder) / name
        try:
            content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if name == CONFIG_FILE:
                content = {piece["content"]: int(number) for number, piece in content["added_tokens_decoder"].items()}
            added |= {str(piece): int(number) for piece, number in content.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # special_pieces has refused what is no JSON
    return added


def _sentencepiece_vocabulary(path: Path | str) -> Vocabulary:
    model, folder = read_model(path, any_kind=True), record_folder(path)
    spm = load_sentencepiece(path, any_kind=True)
    pieces, added = special_pieces(folder), _added_ids(folder)
    ids = {role: spm.piece_to_id(piece) for role, piece in pieces.items()} | {"unk": spm.unk_id()}
    absent = [role for role in NEEDED_ROLES if spm.id_to_piece(ids[role]) != pieces[role]]
    _require_roles(path, [role for role in absent if pieces[role] not in added])
    ids |= {role: added[pieces[role]] for role in absent}
    size = max(spm.get_piece_size(), *(number + 1 for number in ids.values()))
    others = [piece for piece in range(spm.get_piece_size()) if spm.is_control(piece) or spm.is_unused(piece)]
    others = tuple(sorted(set(others) - set(ids.values())))
    return Vocabulary(size, hashlib.sha256(model).hexdigest(), *(ids[role] for role in ROLES), others=others)


# What tokenizers of transformers are made of, beside our FOLDER_FILES.
OTHER_FILES = (MAP_FILE, "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt")
OTHER_FILES += ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def tokenizer_files(path: Path | str) -> list[Path]:
    """The files that make the tokenizer of a folder, by name."""
    return [file for file in sorted(Path(path).iterdir()) if file.name in FOLDER_FILES + OTHER_FILES]


def is_convertible(path: Path | str) -> bool:
    """Whether the spm.model of a folder is one that our tokenizer files can be made of."""
    try:
        read_model(path)
    except StageError:
        return False
    return True


def load_tokenizer(folder: Path | str, private: bool = False, slow: bool = False):
    """AutoTokenizer of a folder with its defaults, or with use_fast=False. Raises StageError when it does not load.

    The reason may quote a piece of the vocabulary, so that of a `private` one is left out.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), **({"use_fast": False} if slow else {}))
    except Exception as error:  # transformers raises whatever its parsers raise
        reason = str(error).strip().split("\n")[0][:200]
        raise StageError(f"AutoTokenizer cannot load {folder}: {files.shown(reason, private)}") from None


def transformers_tokenizer(path: Path | str, private: bool = False):
    """The tokenizer that AutoTokenizer makes of a folder without spm.model, after a look for the vocabulary in it.

    The vocabulary of a `private` one is not quoted in errors.
    transformers 5 makes a tokenizer of some folders that knows nothing but its special tokens, without a word.
    """
    if not any((Path(path) / name).is_file() for name in (CONFIG_FILE, JSON_FILE, "vocab.txt")):
        model_path(path)  # says what is missing
    tokenizer = load_tokenizer(path, private)
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    _require_roles(path, [role for role in NEEDED_ROLES if ids[role] is None])
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_ids)):
        raise StageError(
            f"AutoTokenizer finds no vocabulary in {path}, only special tokens: name a folder that train_tokenizer.py "
            "wrote, or one whose tokenizer works with this version of transformers"
        )
    return tokenizer


def pieces_by_id(tokenizer) -> list[str | None]:
    """All pieces of a tokenizer of transformers, None where an id has none."""
    vocabulary = tokenizer.get_vocab()
    pieces: list[str | None] = [None] * (1 + max(vocabulary.values()))
    for piece, number in vocabulary.items():
        pieces[number] = piece
    return pieces


def transformers_vocabulary(path: Path | str, tokenizer) -> Vocabulary:
    """The vocabulary of a `transformers_tokenizer`."""
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    described = [files.describe(file) for file in tokenizer_files(path)]
    digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    others = tuple(sorted(set(tokenizer.all_special_ids) - set(ids.values())))
    given = (-1 if ids[role] is None else ids[role] for role in ROLES)
    return Vocabulary(1 + max(tokenizer.get_vocab().values()), digest, *given, others=others)


def vocabulary(path: Path | str, private: bool = False) -> Vocabulary:
    """The vocabulary of a tokenizer folder or a .model file; special ids are those that its files name.

    That of a `private` one is not quoted in errors.
    Raises StageError when it cannot be read, or lacks cls, sep, mask or pad.
    """
    if has_sentencepiece(path):
        return _sentencepiece_vocabulary(path)
    return transformers_vocabulary(path, transformers_tokenizer(path, private))


def tokenizer_facts(path: Path | str) -> dict:
    """{"sha256": of spm.model, "vocab_size": 32000} of a tokenizer folder or a .model file."""
    return vocabulary(path).facts()
