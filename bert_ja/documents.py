"""Documents of a text: one sentence a line, a blank line after each document; and the index beside it.

Reading goes line by line, through compression where there is one; writing keeps text and index in step and puts both
into place together. Nothing here holds more than one line of a text.
"""

import bz2
import collections
import contextlib
import gzip
import itertools
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from bert_ja import files
from bert_ja.cli import StageError

OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # by a file's first bytes
COMPRESSED = (".gz", ".bz2", ".xz")
CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]+")
BYTE_ORDER_MARK = "\ufeff"


# Lines


def tidy(line: str) -> str:
    """A line without outer space, byte order marks, control characters: "a\\x0cb" and tabs become a space."""
    if not line.isprintable():  # false for ideographic spaces too; quick for all other lines
        line = CONTROL.sub(" ", line.replace(BYTE_ORDER_MARK, ""))
    return line.strip()


def _opener(path: Path | str):
    with open(path, "rb") as file:
        head = file.read(6)
    return next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), open)


def is_compressed(path: Path | str) -> bool:
    return _opener(path) is not open


@contextlib.contextmanager
def readable(path: Path | str) -> Iterator:
    """A text opened for reading its bytes, through gzip, bz2 or xz where its first bytes say so.

    Raises StageError where a compressed file is damaged or cut short.
    """
    try:
        with _opener(path)(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError):
        raise StageError(f"{path} is damaged or cut short: make it or download it again") from None
    except OSError as error:
        if error.errno is not None:  # the disk's fault and not the decompressor's
            raise
        raise StageError(f"{path} is damaged ({error}): make it or download it again") from None


def require_text(path: Path | str, made_by: str) -> None:
    """`files.require_text`, which looks into a compressed file as well."""
    files.require_text(path, made_by, opener=readable)


def lines(path: Path | str) -> Iterator[str]:
    """The lines of a text, tidied; an empty one ends a document. Raises StageError where it is not UTF-8."""
    with readable(path) as file:
        for number, line in enumerate(file, start=1):  # bytes: a line ends at a line feed and nowhere else
            try:
                yield tidy(line.decode())
            except UnicodeDecodeError:
                raise StageError(f"{path} is not UTF-8 in line {number}: convert it to UTF-8") from None


# Documents


def plain_path(text: Path | str) -> Path:
    """data/train.txt and data/train.txt.xz -> data/train.txt."""
    text = Path(text)
    return text.with_suffix("") if text.suffix in COMPRESSED else text


def index_path(text: Path | str) -> Path:
    """data/train.txt and data/train.txt.xz -> data/train.index.jsonl."""
    return plain_path(text).with_suffix(".index.jsonl")


def read_index(path: Path | str) -> Iterator[dict]:
    """The rows of an index: id, first_line and lines at least. Raises StageError for a row that lacks one."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                complete = isinstance(row["id"], int | str) and row["first_line"] >= 0 and row["lines"] >= 1
            except (ValueError, TypeError, KeyError):
                complete = False
            if not complete:
                raise StageError(f"{path} is damaged in line {number}: make it again with its text, or move it away")
            yield row


def _own_rows(name: str) -> Iterator[dict]:
    return ({"id": f"{name}:{number}"} for number in itertools.count())


def misfit(text: Path | str) -> StageError:
    return StageError(f"{index_path(text)} does not fit {text}: make both again, or move the index away")


def _peek(items: Iterator) -> tuple:
    """The first of the items, and all of them."""
    first = next(items)
    return first, itertools.chain([first], items)


def documents(path: Path | str) -> Iterator[tuple[dict, Iterator[str]]]:
    """Each document of a text as its row and its sentences, which must be read before the next is asked for.

    Without an index beside the text a row holds an id only, the file's name and the document's number: notes.txt:17.
    Runs of blank lines count as one. Raises StageError where index and text disagree on where a document begins.
    """
    path = Path(path)
    indexed = index_path(path).is_file()
    rows = read_index(index_path(path)) if indexed else _own_rows(plain_path(path).name)
    for filled, group in itertools.groupby(enumerate(lines(path)), key=lambda pair: pair[1] != ""):
        if not filled:
            continue
        (first_line, _), numbered = _peek(group)
        row = next(rows, None)
        if row is None or row.get("first_line", first_line) != first_line:
            raise misfit(path)
        yield row, (line for _, line in numbered)
    if indexed and next(rows, None) is not None:
        raise misfit(path)


# Writing


class Writer:
    """A text and its index, written document by document, with what the report counts."""

    def __init__(self, text: files.Output, index: files.Output):
        self.text, self.index = text, index
        self.documents = self.sentences = self.characters = self._line = 0
        self._lengths: collections.Counter[int] = collections.Counter()  # bits of a sentence's length -> sentences

    def write(self, row: dict, sentences: Iterable[str]) -> None:
        """Append a document; its place goes into the row."""
        first_line = self._line
        for sentence in sentences:
            self.text.write(sentence.encode() + b"\n")
            self._lengths[len(sentence).bit_length()] += 1
            self.characters += len(sentence)
            self._line += 1
        count = self._line - first_line
        self.text.write(b"\n")
        self._line += 1
        row = row | {"first_line": first_line, "lines": count}
        self.index.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.documents += 1
        self.sentences += count

    def counts(self) -> dict:
        return {"documents": self.documents, "sentences": self.sentences, "characters": self.characters}

    def length_histogram(self) -> dict[str, int]:
        """Sentences by their characters, in powers of two: {"16-31": 120, "32-63": 310}."""
        return {f"{1 << bits >> 1}-{(1 << bits) - 1}": self._lengths[bits] for bits in sorted(self._lengths)}

    def outputs(self) -> list[dict]:
        return [self.text.describe(), self.index.describe()]


@contextlib.contextmanager
def writers(*texts: tuple[Path | str, Path | str]) -> Iterator[list[Writer]]:
    """A Writer for each (text, index), put into place together once all are complete and on the disk.

    What stood there goes away just before, records first, so that a kill between two renames never leaves new
    beside old; each index comes before its text, so that a text never stands without its own.
    """
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(files.output(path)) for path in pair] for pair in reversed(texts)][::-1]
        yield [Writer(text, index) for text, index in pairs]
        outputs = [output for pair in pairs for output in pair]
        for output in outputs:
            output.file.flush()
            os.fsync(output.file.fileno())
        for output in outputs:
            files.record_path(output.path).unlink(missing_ok=True)
        for output in outputs:
            output.path.unlink(missing_ok=True)
