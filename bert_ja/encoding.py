"""Text -> columns of token ids, by SentencePiece or by any tokenizer that transformers loads; and where words begin.

Every line of a text is encoded once, into memory maps that samples are gathered from.

A special piece that is spelled out in a text is text: an id that stands for the structure of a sample (cls, sep, pad)
never comes out of a line. Word starts are where a token begins and a word of the morphological analyser too, so that no
word is ever masked in part (whole-word masking; google-research/bert, 2019-05-31).
"""

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_ja import files, tokenization
from bert_ja.cli import StageError, say
from bert_ja.files import Journal
from bert_ja.workers import ordered_map

ANALYSER = "fugashi", "unidic-lite"
DICTIONARIES = {"fugashi": "fugashi", "unidic-lite": "unidic_lite", "unidic": "unidic", "ipadic": "ipadic"}  # modules
SPACE = tokenization.SPACE
TEXT_BLOCK = 1 << 19  # bytes of text encoded at once
LINES_AT_ONCE = 512  # that the encoder gets
LONGEST_LINE = 16_000_000  # bytes; a block is held in memory with its last line
CHARACTERS = 16  # of a line that are looked at for each token that is kept: SentencePiece's longest piece
COLUMNS = {
    "ids": np.uint32,  # (tokens,)
    "word_starts": np.bool_,  # (tokens,), empty unless whole words were asked for
    "ends": np.int64,  # (sentences,): where each ends in ids
    "documents": np.int32,  # (sentences,): number of the document, from 0
    "document_starts": np.int64,  # (documents + 1,): its first sentence; the last entry is the number of sentences
}
COUNTS = ("sentences", "documents", "cut_sentences", "lines_without_tokens")


# The analyser


class Analyser:
    """MeCab with UniDic: a text to its words. Raises StageError where it is not installed, `asked_by` says for what."""

    def __init__(self, asked_by: str = "--whole_word_mask"):
        try:
            import fugashi
            import unidic_lite
        except ImportError as error:
            raise StageError(
                f"{asked_by} needs a morphological analyser ({error.name} is not installed): "
                f"pip install {' '.join(ANALYSER)}"
            ) from None
        mecabrc = os.path.join(unidic_lite.DICDIR, "mecabrc")
        self._tagger = fugashi.GenericTagger(f'-r "{mecabrc}" -d "{unidic_lite.DICDIR}" -Owakati')

    def words(self, text: str) -> list[str]:
        """The words of a text without its spaces; each character is a word where the analyser cannot read it."""
        words, letters = self._tagger.parse(text).rstrip("\n").split(" "), text.replace(" ", "")
        return [word for word in words if word] if "".join(words) == letters else list(letters)

    def morphemes(self, text: str) -> list[tuple[str, str]]:
        """(word, UniDic's part of speech: 名詞, 助詞) of a text, "" for each character where it cannot be read."""
        found = [(node.surface, node.feature[0]) for node in self._tagger(text)]
        letters = text.replace(" ", "")
        return found if "".join(word for word, _ in found) == letters else [(letter, "") for letter in letters]


def starts_of_words(pieces: list[str], words: list[str]) -> list[bool]:
    """Whether a word begins at each piece: both must begin there; spaces (\u2581) before a word belong to it.

    ["\u2581東", "京都", "の", "人"] and ["東京", "都", "の", "人"] -> [True, False, True, True]
    """
    begins, last = set(itertools.accumulate(map(len, words), initial=0)), -1
    starts, at = [], 0
    for piece in pieces:
        starts.append(at in begins and at != last)
        last, at = at, at + len(piece) - piece.count(SPACE)
    return starts


# Encoders: `encode(lines)` gives the ids of each line, `encode_words(lines, longest)` with them where words begin


def as_text(ids: list[int], structure: set[int], unknown: int) -> list[int]:
    """Ids without those that a spelled-out [SEP] gave: unknown tokens, or none where there is no such (-1)."""
    if structure.isdisjoint(ids):
        return ids
    plain = [unknown if token in structure else token for token in ids]
    return [token for token in plain if token >= 0]


class SentencePieceEncoder:
    """Raw SentencePiece, the truth for models of train_tokenizer.py."""

    said = None

    def __init__(self, path: Path | str, whole_words: bool):
        self.vocabulary = tokenization.vocabulary(path)
        self.packages = ("sentencepiece", *(ANALYSER if whole_words else ()))  # that ids and words depend on
        self._spm = tokenization.load_sentencepiece(path, any_kind=True)
        structure = {self.vocabulary.cls, self.vocabulary.sep, self.vocabulary.pad}
        size = self._spm.get_piece_size()
        self._spelled = {token for token in structure if token < size and not self._spm.is_control(token)}
        if whole_words and any(self._spm.is_byte(token) for token in range(size)):
            raise StageError(f"--whole_word_mask cannot tell where words begin in the bytes of {path} (byte_fallback)")
        self._analyser = Analyser() if whole_words else None

    def encode(self, lines: list[str]) -> list[list[int]]:
        found = self._spm.encode(lines, num_threads=1)  # workers are processes
        return [as_text(ids, self._spelled, self.vocabulary.unk) for ids in found] if self._spelled else found

    def encode_words(self, lines: list[str], longest: int) -> Iterator[tuple[list[int], list[bool]]]:
        """(ids, starts of words) of each line, cut to `longest` tokens."""
        for ids, pieces in zip(self.encode(lines), self._spm.encode(lines, out_type=str, num_threads=1), strict=True):
            pieces = pieces[:longest]
            yield ids[:longest], starts_of_words(pieces, self._analyser.words("".join(pieces).replace(SPACE, " ")))

    def shown(self, ids: list[int]) -> list[str]:
        """Pieces of a sample, to be looked at."""
        return [self._spm.id_to_piece(token).replace(SPACE, " ").strip() or SPACE for token in ids]

    def pieces(self) -> list[str]:
        """All pieces by their ids."""
        return self._spm.id_to_piece(list(range(self._spm.get_piece_size())))


def words_of(tokenizer, line: str, tokens: int) -> list[tuple[str, int]] | None:
    """(word, its tokens) of a line by the analyser that a tokenizer of transformers has, such as MeCab.

    None where it has none, or where that gives other than `tokens` tokens.
    """
    special, found = tokenizer.all_special_tokens, []
    with contextlib.suppress(AttributeError):
        for part in re.split(f"({'|'.join(map(re.escape, special))})", line):  # as the tokenizer does at first
            words = [part] if part in special else tokenizer.word_tokenizer.tokenize(part)
            found += [
                (word, 1 if word in special else len(tokenizer.subword_tokenizer.tokenize(word))) for word in words
            ]
        return found if sum(length for _, length in found) == tokens else None
    return None


class TransformersEncoder:
    """The tokenizer of a folder without spm.model, such as MeCab and WordPiece."""

    def __init__(self, path: Path | str, whole_words: bool, private: bool):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # our workers are forked, and `tokenizers` warns of that
        self._tokenizer = tokenization.transformers_tokenizer(path, private)
        analysed = hasattr(self._tokenizer, "word_tokenizer")
        installed = [
            package for package in DICTIONARIES if analysed and importlib.util.find_spec(DICTIONARIES[package])
        ]
        self.packages = ("transformers", "tokenizers", *installed)  # that ids and words depend on
        kind = type(self._tokenizer).__name__
        self.said = f"{path} has no {tokenization.MODEL_FILE}: ids come from its {kind}"
        self.vocabulary = tokenization.transformers_vocabulary(path, self._tokenizer)
        self._structure = {self.vocabulary.cls, self.vocabulary.sep, self.vocabulary.pad}
        if whole_words and not self._knows_words():
            raise StageError(
                f"--whole_word_mask cannot tell where words begin in the tokens of {path} ({kind}): it can for "
                "SentencePiece (spm.model) and for WordPiece (##)"
            )

    def _knows_words(self) -> bool:
        words = hasattr(self._tokenizer, "word_tokenizer") and hasattr(self._tokenizer, "subword_tokenizer")
        return words or any(piece.startswith("##") for piece in self._tokenizer.get_vocab())

    def encode(self, lines: list[str]) -> list[list[int]]:
        found = self._tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"] if lines else []
        return [as_text(ids, self._structure, self.vocabulary.unk) for ids in found]

    def encode_words(self, lines: list[str], longest: int) -> Iterator[tuple[list[int], list[bool]]]:
        """(ids, starts of words) of each line, cut to `longest` tokens."""
        for line, ids in zip(lines, self.encode(lines), strict=True):
            pieces = self._tokenizer.convert_ids_to_tokens(ids)
            starts = self._starts(line, len(ids)) or [not piece.startswith("##") for piece in pieces]
            yield ids[:longest], starts[:longest]

    def _starts(self, line: str, tokens: int) -> list[bool] | None:
        """Where words begin by the tokenizer's own analyser, if it has one: its pieces may be characters."""
        words = words_of(self._tokenizer, line, tokens)
        return words and [place == 0 for _, length in words for place in range(length)]

    def shown(self, ids: list[int]) -> list[str]:
        """Pieces of a sample, to be looked at."""
        return [str(piece) for piece in self._tokenizer.convert_ids_to_tokens(ids)]

    def pieces(self) -> list[str | None]:
        """All pieces by their ids, None where an id has none."""
        return tokenization.pieces_by_id(self._tokenizer)


Encoder = SentencePieceEncoder | TransformersEncoder


def open_encoder(path: Path | str, whole_words: bool = False, private: bool = False) -> Encoder:
    """The encoder of a tokenizer folder: SentencePiece where it has spm.model, else its own tokenizer.

    The vocabulary of a `private` one is not quoted in errors.
    Raises StageError when the folder cannot be read, or when `whole_words` are asked for and cannot be found.
    """
    files.require_finished(path)
    if tokenization.has_sentencepiece(path):
        return SentencePieceEncoder(path, whole_words)
    return TransformersEncoder(path, whole_words, private)


# Text -> columns


@dataclass
class EncodedBlock:
    """The lines of one block of text that hold at least one token."""

    ids: np.ndarray  # token ids of all lines, (tokens,)
    word_starts: np.ndarray  # whether a word begins there, bool (tokens,) or (0,)
    lengths: np.ndarray  # tokens of each line, int32 (lines,)
    begins: np.ndarray  # whether a line is the first after a blank one, bool (lines,)
    ends_blank: bool  # whether a blank line follows the last of them
    cut: int  # lines cut to the longest a sample can hold
    without_tokens: int  # lines that are not blank, but that the tokenizer finds nothing in


class TextBlocks:
    """Whole lines of about TEXT_BLOCK bytes, from a place in a text on; what was read up to each block's end."""

    def __init__(self, path: Path, offset: int = 0):
        self.path, self.offset, self._hash = path, offset, hashlib.sha256()
        with open(path, "rb") as file:
            while file.tell() < offset and (block := file.read(min(TEXT_BLOCK, offset - file.tell()))):
                self._hash.update(block)
        self.digest = self._hash.hexdigest()  # of the text up to `offset`, or of all where it is shorter
        self._read: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(offset, lines)."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            while block := file.read(TEXT_BLOCK):
                begin = file.tell() - len(block)
                block += (rest := file.readline(LONGEST_LINE))
                if len(rest) == LONGEST_LINE:
                    raise StageError(
                        f"{self.path} has a line of over {LONGEST_LINE / files.MEGABYTE:,.0f} MB from byte {begin:,} "
                        "on: part it into sentences, with prepare_corpus.py --split_sentences True"
                    )
                self._hash.update(block)
                self._read.append((file.tell(), self._hash.hexdigest()))
                yield begin, block

    def done(self) -> int:
        """Count the oldest block under way as done; its bytes."""
        before = self.offset
        self.offset, self.digest = self._read.popleft()
        return self.offset - before


def _lines_of(name: str, offset: int, block: bytes) -> list[str]:
    try:
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise StageError(
            f"{name} is not UTF-8 at byte {offset + error.start:,}: repair it (iconv -c -f UTF-8 -t UTF-8), run again"
        ) from None
    return lines[:-1] if lines[-1] == "" else lines


def _encode_lines(
    encoder: Encoder, texts: list[str], longest: int, whole_words: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(ids, word_starts, tokens of each line before it is cut) of LINES_AT_ONCE lines after another.

    So few that their lists of Python numbers stay in a core's own cache: a quarter faster, on two cores too.
    """
    for at in range(0, len(texts), LINES_AT_ONCE):
        some, starts = texts[at : at + LINES_AT_ONCE], np.zeros(0, dtype=bool)
        if whole_words:
            ids, flags = zip(*encoder.encode_words(some, longest + 1), strict=True)
            starts = np.fromiter(itertools.chain.from_iterable(line[:longest] for line in flags), dtype=bool)
        else:
            ids = encoder.encode(some)
        lengths = np.fromiter(map(len, ids), dtype=np.int32, count=len(ids))
        if lengths.max() > longest:
            ids = [line[:longest] for line in ids]
        tokens = itertools.chain.from_iterable(ids)
        yield np.fromiter(tokens, np.uint32, int(np.minimum(lengths, longest).sum())), starts, lengths


def encode_block(encoder: Encoder, name: str, longest: int, whole_words: bool, task: tuple[int, bytes]) -> EncodedBlock:
    """Encode the lines of one block; a line is cut to `longest` tokens, more never fit into a sample."""
    lines = _lines_of(name, *task)
    filled = [index for index, line in enumerate(lines) if line and not line.isspace()]
    texts = [lines[index].rstrip("\r")[: CHARACTERS * (longest + 1)] for index in filled]
    none = (np.zeros(0, np.uint32), np.zeros(0, bool), np.zeros(0, np.int32))
    parts = zip(none, *_encode_lines(encoder, texts, longest, whole_words), strict=True)
    ids, starts, lengths = map(np.concatenate, parts)
    blanks = np.cumsum(np.diff(filled, prepend=-1) > 1)  # places of blank lines before each line
    kept = np.flatnonzero(lengths)
    last = filled[-1] if filled else -1
    return EncodedBlock(
        ids=ids,
        word_starts=starts,
        lengths=np.minimum(lengths[kept], longest),
        begins=np.diff(blanks[kept], prepend=0) > 0,
        ends_blank=last < len(lines) - 1 or bool(blanks[-1:].sum() > blanks[kept[-1:]].sum()),
        cut=int(np.count_nonzero(lengths > longest)),
        without_tokens=len(lengths) - len(kept),
    )


def memory_map(path: Path, dtype) -> np.ndarray:
    """A file of numbers, to be read; an empty one too, which cannot be mapped."""
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


@dataclass
class Sentences:
    """All sentences of a corpus as memory maps, named as in COLUMNS; i has ids[ends[i - 1] : ends[i]]."""

    ids: np.ndarray
    word_starts: np.ndarray
    ends: np.ndarray
    documents: np.ndarray
    document_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def is_one_document(self) -> bool:
        return len(self.document_starts) <= 2

    def starts(self, sentences: np.ndarray) -> np.ndarray:
        """Where sentences begin in ids; that of the one behind the last is the end."""
        return np.where(sentences > 0, self.ends[np.maximum(sentences - 1, 0)], 0)

    @classmethod
    def open(cls, folder: Path) -> "Sentences":
        return cls(**{name: memory_map(folder / name, dtype) for name, dtype in COLUMNS.items()})


def _have_rows(folder: Path, state: dict, finished: bool) -> bool:
    """Whether the columns of a folder have the rows that a writer's state says, or more where it was not `finished`."""
    with contextlib.suppress(OSError, KeyError, TypeError):
        sizes = {name: (folder / name).stat().st_size for name in COLUMNS}
        wanted = {name: _ColumnWriter.bytes_of(name, state) for name in COLUMNS}
        if finished:
            wanted["document_starts"] += np.dtype(COLUMNS["document_starts"]).itemsize
            return sizes == wanted
        return all(sizes[name] >= wanted[name] for name in COLUMNS)
    return False


class _ColumnWriter:
    """Appends encoded blocks to the columns of a folder, from a state on; `state` says how far it is."""

    ROWS = ("tokens", "word_starts", "sentences", "documents", "cut_sentences", "lines_without_tokens")
    NEW = dict.fromkeys(ROWS, 0) | {"break_pending": True}  # the first sentence begins a document

    def __init__(self, folder: Path, state: dict | None):
        self.state = dict(state or self.NEW)
        self.files = {name: open(folder / name, "ab") for name in COLUMNS}
        for name, file in self.files.items():
            file.truncate(self.bytes_of(name, self.state))

    @staticmethod
    def bytes_of(name: str, state: dict) -> int:
        """How long a column is at a state."""
        rows = {"ids": "tokens", "word_starts": "word_starts", "document_starts": "documents"}
        return state[rows.get(name, "sentences")] * np.dtype(COLUMNS[name]).itemsize

    def add(self, block: EncodedBlock) -> None:
        state = self.state
        state["cut_sentences"] += block.cut
        state["lines_without_tokens"] += block.without_tokens
        if len(block.lengths):
            block.begins[0] |= state["break_pending"]
            ends = state["tokens"] + np.cumsum(block.lengths, dtype=np.int64)
            documents = state["documents"] - 1 + np.cumsum(block.begins, dtype=np.int32)
            starts = state["sentences"] + np.flatnonzero(block.begins)
            self._write(
                ids=block.ids, word_starts=block.word_starts, ends=ends, documents=documents, document_starts=starts
            )
            state["tokens"], state["documents"] = int(ends[-1]), int(documents[-1]) + 1
            state["sentences"] += len(ends)
            state["word_starts"] += len(block.word_starts)
        state["break_pending"] = block.ends_blank or (state["break_pending"] and not len(block.lengths))

    def _write(self, **columns: np.ndarray) -> None:
        for name, values in columns.items():
            self.files[name].write(values.astype(COLUMNS[name]).tobytes())

    def finish(self) -> None:
        self._write(document_starts=np.array([self.state["sentences"]]))

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def _columns(
    text: TextBlocks, encode: Callable, journal: Journal, state: dict | None, num_workers: int, on_bytes
) -> tuple[dict, dict]:
    """Encode what is left of a text; see `encode_text`."""
    columns = _ColumnWriter(journal.folder, state)
    results = ordered_map(encode, text, num_workers)
    try:
        for block in results:
            columns.add(block)
            on_bytes(text.done())
            if journal.is_due():
                where = {"offset": text.offset, "sha256": text.digest, "columns": columns.state}
                journal.save({"encoding": where}, columns.files.values())
        columns.finish()
        counts = {name: columns.state[name] for name in COUNTS}
        described = {"name": text.path.name, "size": text.offset, "sha256": text.digest}
        encoded = {"counts": counts, "text": described, "columns": columns.state}
        journal.save({"encoded": encoded}, columns.files.values())
    finally:
        results.close()
        try:
            journal.wait()
        finally:
            columns.close()
    return counts, described


def _same_text(path: Path, text: dict) -> bool:
    """Whether a file is the text that a description (name, size, sha256) is of."""
    return path.stat().st_size == text["size"] and files.sha256(path) == text["sha256"]


def encode_text(
    path: Path, encoder: Encoder, journal: Journal, longest: int, whole_words: bool, num_workers: int, on_bytes
) -> tuple[dict[str, int], dict]:
    """Encode a text file (one sentence a line, blank lines between documents) into columns in the journal's folder.

    Returns (COUNTS by name, the text's name, size and sha256). `on_bytes(n)` hears how many more bytes are done, at
    first how many an earlier run did. Goes on where the journal says that run was, if the text is the same up to there.
    Memory does not grow with the text.
    """
    encoded, encoding = journal.state.get("encoded"), journal.state.get("encoding")
    if encoded and _have_rows(journal.folder, encoded["columns"], True) and _same_text(path, encoded["text"]):
        on_bytes(encoded["text"]["size"])
        return encoded["counts"], encoded["text"]
    if encoding and not _have_rows(journal.folder, encoding["columns"], False):
        encoding = None
    text = TextBlocks(path, encoding["offset"] if encoding else 0)
    if encoding and text.digest != encoding["sha256"]:
        encoding, text = None, TextBlocks(path)
    if journal.state and not encoding:
        say(f"{path} or what was kept of it was changed since: starting over")
        journal.clear()
    on_bytes(text.offset)
    encode = functools.partial(encode_block, encoder, str(path), longest, whole_words)
    return _columns(text, encode, journal, encoding and encoding["columns"], num_workers, on_bytes)
