"""Documents of a corpus, read from any form and written in ours: one sentence a line, a blank line after each document.

A corpus is a text, with or without an index beside it; a folder of files, a document each; or JSONL, a document a row;
plain or compressed. Reading goes block by block, so that nothing here holds more than a block, a row of JSONL or the
names in a folder. Writing keeps text and index in step and puts both into place together. No error quotes the text.
"""

import bz2
import codecs
import collections
import contextlib
import hashlib
import io
import itertools
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bert_ja import files
from bert_ja.cli import StageError
from bert_ja.sentences import cut, split

BLOCK = 1 << 20  # bytes of a plain file read at once
PACKED_BLOCK = 1 << 14  # of a compressed one
ZSTD_BLOCK = 1 << 10  # which may hold 32 MB
LONGEST_LINE = 1 << 26  # bytes of a line, or of a row of JSONL, which is held as a whole
CHUNK = 1000  # sentences written at once
HEAD = 1 << 12  # bytes by which the kind of a file is told
TEXT_PER_PACKED_BYTE = 8  # at most, of text as people write it
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
JSONL = (".jsonl", ".ndjson")
INDEX = ".index.jsonl"
SHOWN = 12  # fields of a row that an error names
CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]+")
BYTE_ORDER_MARK = "\ufeff"
JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\{\s*["}]|\[\s*[{"])')  # an object, or a list of objects or strings


class Reading(NamedTuple):
    """How to read a corpus, where its files do not say."""

    text_field: str = "text"  # JSONL: the field that holds the text
    id_field: str | None = None  # JSONL: the field that holds the document's id; None: file name and row number
    split_sentences: bool = False  # lines are prose: split with bert_ja.sentences.split and .cut
    private: bool = False  # errors do not name the fields of JSONL, which may be people's names


PLAIN = Reading()


def _ignore(size: int) -> None:
    """Nobody wants to know how far the reading is."""


# Bytes, unpacked

GZIP, BZ2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame without content, with which pzstd begins its files


def _packing(head: bytes) -> bytes | None:
    """GZIP, BZ2, XZ, ZSTD or None, by the first bytes of a file."""
    if SKIPPABLE.match(head):
        return ZSTD
    return next((magic for magic in (GZIP, BZ2, XZ, ZSTD) if head.startswith(magic)), None)


def is_compressed(path: Path | str) -> bool:
    with open(path, "rb") as file:
        return _packing(file.read(6)) is not None


def _zstandard(path: Path | str):
    try:
        import zstandard
    except ImportError:
        raise StageError(f"{path} needs the package zstandard: python3 -m pip install zstandard") from None
    return zstandard


def _decompressor(packing: bytes, path: Path | str) -> tuple[Callable, type[Exception]]:
    """What makes a decompressor for one stream, and the error it raises for damage.

    Streams are unpacked one by one and not by gzip.open and its like: those of bz2 and xz take a damaged second
    stream for the end of the file, that of zstandard takes the end of a file for that of its stream.
    """
    if packing == GZIP:
        return lambda: zlib.decompressobj(wbits=31), zlib.error
    if packing == BZ2:
        return bz2.BZ2Decompressor, OSError
    if packing == XZ:
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), lzma.LZMAError
    zstandard = _zstandard(path)
    frames = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # as `zstd --long=31` asks for
    return frames.decompressobj, zstandard.ZstdError


def _contents(stream, packed: bytes, packing: bytes) -> Iterator[bytes]:
    """What a stream makes of packed bytes, at most BLOCK bytes at once; of zstd, which has no bound, all of it."""
    if packing in (BZ2, XZ):
        yield stream.decompress(packed, BLOCK)
        while not (stream.eof or stream.needs_input):
            yield stream.decompress(b"", BLOCK)
    elif packing == GZIP:  # it may still hold content when it has read all
        content = b""
        while not stream.eof and (packed or len(content) == BLOCK):  # zlib keeps the tail of a stream that has ended
            yield (content := stream.decompress(packed, BLOCK))
            packed = stream.unconsumed_tail
    else:
        content = stream.decompress(packed)
        yield from (content[start : start + BLOCK] for start in range(0, len(content), BLOCK))


def _unpacked(stored: Iterable[bytes], packing: bytes, path: Path | str) -> Iterator[bytes]:
    new_stream, error = _decompressor(packing, path)
    damaged = StageError(f"{path} is damaged or cut short: make it or download it again")
    stream = None
    for block in stored:
        while block := block if stream else block.lstrip(b"\0"):  # between streams there may be padding
            stream = stream or new_stream()
            try:
                yield from _contents(stream, block, packing)
            except error:
                raise damaged from None
            block, stream = (stream.unused_data, None) if stream.eof else (b"", stream)
    if stream:
        raise damaged


def _stored(file, size: int, advance: Callable[[int], object]) -> Iterator[bytes]:
    while block := file.read(size):
        advance(len(block))
        yield block


def _blocks(path: Path | str, advance: Callable[[int], object] = _ignore) -> Iterator[bytes]:
    """The content of a file, unpacked. Raises StageError where a compressed one is damaged or cut short."""
    with open(path, "rb") as file:
        packing = _packing(file.peek(6))
        if packing is None:
            yield from _stored(file, BLOCK, advance)
        else:
            size = ZSTD_BLOCK if packing == ZSTD else PACKED_BLOCK
            yield from _unpacked(_stored(file, size, advance), packing, path)


def _head(path: Path | str) -> io.BytesIO:
    """The first bytes of a file's content, to be read like a file."""
    head = b""
    for block in _blocks(path):  # streams may be short
        head += block
        if len(head) >= HEAD:
            break
    return io.BytesIO(head[:HEAD])


# Lines


def tidy(line: str) -> str:
    """A line without outer space, byte order marks, control characters: "a\\x0cb" and tabs become a space."""
    if not line.isprintable():  # false for ideographic spaces too; quick for all other lines
        line = CONTROL.sub(" ", line.replace(BYTE_ORDER_MARK, ""))
    return line.strip()


def _tidy_lines(text: str) -> list[str]:
    """The lines of a text, each tidied. Lines end at line feeds and nowhere else."""
    lines = list(map(str.strip, text.removesuffix("\n").split("\n")))
    if "".join(lines).replace("\u3000", "").isprintable():  # all at once: twice as quick as line by line
        return lines
    return list(map(tidy, lines))


def _whole_lines(blocks: Iterable[bytes], path: Path | str) -> Iterator[bytes]:
    """The same bytes, cut behind line feeds only. Raises StageError for a line that is too long to be held."""
    held: list[bytes] = []
    for block in blocks:
        if sum(map(len, held)) > LONGEST_LINE:
            raise StageError(
                f"{path} has a line of over {LONGEST_LINE >> 20} MB: put a line feed behind each sentence or "
                "paragraph, or less into a row of JSONL"
            )
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*held, block[:end]])
            held = []
        held.append(block[end:])
    if rest := b"".join(held):
        yield rest


def _line_blocks(path: Path | str, advance: Callable[[int], object]) -> Iterator[list[str]]:
    """The lines of a text, tidied, some thousands at a time. Raises StageError where it is not UTF-8."""
    before = 0
    for block in _whole_lines(_blocks(path, advance), path):
        try:
            yield _tidy_lines(block.decode())
        except UnicodeDecodeError as error:
            number = before + block.count(b"\n", 0, error.start) + 1
            raise StageError(f"{path} is not UTF-8 in line {number}: convert it to UTF-8") from None
        before += block.count(b"\n")


# Kinds of a corpus


def plain_path(text: Path | str) -> Path:
    """data/train.txt and data/train.txt.xz -> data/train.txt."""
    text = Path(text)
    return text.with_suffix("") if text.suffix in COMPRESSED else text


def index_path(text: Path | str) -> Path:
    """data/train.txt and data/train.txt.xz -> data/train.index.jsonl."""
    return plain_path(text).with_suffix(INDEX)


def is_jsonl(path: Path | str) -> bool:
    return plain_path(path).suffix in JSONL


def with_index(path: Path) -> list[Path]:
    """What is read of a corpus: the path itself, and the index beside a text that has one."""
    indexed = path.is_file() and not is_jsonl(path) and index_path(path).is_file()
    return [path, index_path(path)] if indexed else [path]


# A document is read as its row and its lines, some thousands at a time and none of them blank.
Chunks = Iterator[list[str]]


def _filled(chunks: Iterable[list[str]]) -> Chunks:
    return (list(filter(None, lines)) for lines in chunks)


# A text and its index


def read_index(path: Path | str) -> Iterator[dict]:
    """The rows of an index: id, first_line and lines at least. Raises StageError for a row that lacks one."""
    import orjson

    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = orjson.loads(line)
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


class _Run(NamedTuple):
    """Lines of one block with no blank line between them."""

    first_line: int
    lines: list[str]
    goes_on: bool  # up to the end of the block, so that the next run may belong to the same document


def _runs(blocks: Iterable[list[str]]) -> Iterator[_Run]:
    """The lines in their order; between two blank lines stands an empty run."""
    before = 0
    for lines in blocks:
        blank = [number for number, line in enumerate(lines) if not line]
        for start, end in itertools.pairwise([-1, *blank, len(lines)]):
            yield _Run(before + start + 1, lines[start + 1 : end], end == len(lines))
        before += len(lines)


def _carried_on(run: _Run, runs: Iterator[_Run], count: int | None, text: Path) -> Chunks:
    """The lines of the document that begins with `run`. Raises StageError unless they are as many as its row says."""
    yield run.lines
    found = len(run.lines)
    while run.goes_on:
        run = next(runs, _Run(0, [], False))
        yield run.lines
        found += len(run.lines)
    if found != (count or found):
        raise misfit(text)


def _in_text(path: Path, reading: Reading, advance: Callable[[int], object]) -> Iterator[tuple[dict, Chunks]]:
    indexed = index_path(path).is_file()
    rows = read_index(index_path(path)) if indexed else _own_rows(plain_path(path).name)
    runs = _runs(_line_blocks(path, advance))
    for run in runs:
        if not run.lines:
            continue
        row = next(rows, None)
        if row is None or row.get("first_line", run.first_line) != run.first_line:
            raise misfit(path)
        yield row, _carried_on(run, runs, row.get("lines"), path)
    if indexed and next(rows, None) is not None:
        raise misfit(path)


# JSONL


def _parse(line: bytes, number: int, path: Path) -> dict:
    import orjson  # strict, in UTF-8 and surrogates too; 10 times the speed of json

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise StageError(
            f"{path} is not JSON in line {number}, column {error.colno} ({error.msg}): mend the line or take it out"
        ) from None
    if not isinstance(row, dict):
        raise StageError(f"{path} holds no object in line {number}: JSONL has one object a line, like {{'text': ...}}")
    return row


def _rows(path: Path, advance: Callable[[int], object]) -> Iterator[tuple[int, dict]]:
    """Each row with its line's number, from 1; blank lines are passed over."""
    blocks = _whole_lines(_blocks(path, advance), path)
    lines = (line for block in blocks for line in block.removesuffix(b"\n").split(b"\n"))
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line and not line.isspace():
            yield number, _parse(line, number, path)


def _unfit_field(row: dict, field: str, number: int, path: Path, needed: str, option: str, private: bool) -> StageError:
    """Says which fields a row has, unless the corpus is private, and never what is in them."""
    names = ", ".join([*list(row)[:SHOWN], *(["..."] if len(row) > SHOWN else [])]) or "none"
    kind = f"has no field {field}" if field not in row else f"has no {needed} in its field {field}"
    there = files.shown(names, private)
    return StageError(
        f"{path} {kind} in line {number} (fields there: {there}): name the right one with {option}, or mend the line"
    )


def _text_of(row: dict, reading: Reading, number: int, path: Path) -> str:
    text = row.get(reading.text_field)
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        raise _unfit_field(row, reading.text_field, number, path, "text", "--text_field", reading.private)
    return text


def _id_of(row: dict, reading: Reading, number: int, path: Path) -> int | str:
    found = row.get(reading.id_field)
    if not isinstance(found, int | str) or isinstance(found, bool):
        raise _unfit_field(row, reading.id_field, number, path, "whole number or text", "--id_field", reading.private)
    return found


def _in_jsonl(path: Path, reading: Reading, advance: Callable[[int], object]) -> Iterator[tuple[dict, Chunks]]:
    own_rows = _own_rows(plain_path(path).name)
    for own, (number, row) in zip(own_rows, _rows(path, advance), strict=False):
        text = _text_of(row, reading, number, path)
        row = own if reading.id_field is None else {"id": _id_of(row, reading, number, path)}
        yield row, _filled([_tidy_lines(text)])


# A folder


def _plain_name(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix in COMPRESSED else name


def _is_passed_over(name: str) -> bool:
    """Hidden files, and records and indexes of our own stages."""
    return name.startswith(".") or name == "meta.json" or name.endswith((".meta.json", INDEX))


def leads_back(link: Path) -> bool:
    """Whether a link to a folder means one that it stands in."""
    return link.is_symlink() and any(os.path.samefile(link, parent) for parent in link.absolute().parents)


def _entry_name(entry: os.DirEntry) -> str | None:
    """The name of a file, that of a folder with a slash behind it, None for what is passed over."""
    if _is_passed_over(entry.name):
        return None
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise StageError(f"{ascii(entry.path)} is not text, and names its document: rename it") from None
    if entry.is_dir():
        return None if leads_back(Path(entry.path)) else entry.name + "/"
    if not entry.is_file():
        raise StageError(f"{entry.path} is neither a file nor a folder: move it away")
    return entry.name


def _names(folder: Path) -> list[str]:
    """What stands in a folder, sorted as whole paths are."""
    with os.scandir(folder) as entries:
        names = sorted(filter(None, map(_entry_name, entries)))
    ids = sorted(map(_plain_name, names))
    for name in (one for one, other in itertools.pairwise(ids) if one == other):
        raise StageError(f"{folder / name} stands there twice, once compressed: move one of the two away")
    return names


def _files_in(folder: Path) -> Iterator[str]:
    """The paths of the documents in a folder and the folders in it, seen from it, in sorted order."""
    waiting = [""]
    while waiting:
        place = waiting.pop()
        if place == "" or place.endswith("/"):
            waiting += [place + name for name in reversed(_names(folder / place))]
        else:
            yield place


def _in_folder(path: Path, reading: Reading, advance: Callable[[int], object]) -> Iterator[tuple[dict, Chunks]]:
    for name in _files_in(path):
        yield {"id": _plain_name(name)}, _filled(_line_blocks(path / name, advance))


# Any of them


def documents(
    path: Path | str, reading: Reading = PLAIN, advance: Callable[[int], object] = _ignore
) -> Iterator[tuple[dict, Iterator[str]]]:
    """Each document that has a line, as its row and its sentences, which must be read before the next is asked for.

    A row has an `id`: of an index, whose rows come whole, of a field of JSONL, or made of names: "notes.txt:17" for
    the 18th document of a text or row of JSONL, "sub/a.txt" for a file of a folder; compressed files count as what is
    in them. Blank lines end a document of a text, and mean nothing elsewhere. `advance` is told of each number of
    bytes read from the disk. Raises StageError for what is damaged or not UTF-8, for rows of JSONL without the fields
    asked for, and where index and text disagree on where a document begins or ends.
    """
    path = Path(path)
    read = _in_folder if path.is_dir() else _in_jsonl if is_jsonl(path) else _in_text
    for row, chunks in read(path, reading, advance):
        filled = filter(None, chunks)
        first = next(filled, None)
        if first is None:
            continue
        lines = itertools.chain(first, itertools.chain.from_iterable(filled))
        if reading.split_sentences:  # the index counts lines, of which there will be more
            row = {key: value for key, value in row.items() if key not in ("first_line", "lines")}
            yield row, (piece for line in lines for sentence in split(line) for piece in cut(sentence))
        else:
            yield row, lines
        collections.deque(lines, maxlen=0)  # what the caller left


def _require_plain_text(path: Path, made_by: str) -> None:
    head = _head(path)
    if JSON.match(head.getvalue()):
        raise StageError(
            f"{path} is JSON: name it {plain_path(path).stem}.jsonl if each line of it is an object with a text, "
            "and prepare it by itself; convert it to text otherwise"
        )
    files.require_text(path, made_by, opener=lambda _: head)


def require_documents(path: Path | str, reading: Reading, made_by: str) -> None:
    """Refuse before the work a corpus that cannot be read; `made_by` says where one comes from, for the error.

    Looks at the beginning of each file: raises StageError for what is missing, empty or no regular file, for JSON,
    XML and binary files, and for JSONL whose first row lacks the fields asked for.
    """
    path = Path(path)
    if path.is_dir():
        filled = [name for name in _files_in(path) if (path / name).stat().st_size]
        for name in filled:
            _require_plain_text(path / name, made_by)
        if not filled:
            raise StageError(f"{path} is a folder without a text in it: {made_by}")
        return
    files.require_file(path, made_by)
    if not path.is_file():
        raise StageError(f"{path} is not a regular file, and a corpus is read twice: save it to a file first")
    if not is_jsonl(path):
        _require_plain_text(path, made_by)
    elif next(_in_jsonl(path, reading, _ignore), None) is None:
        raise StageError(f"{path} holds no document: {made_by}")


def files_of(path: Path | str) -> Iterator[Path]:
    """The files that a corpus is."""
    path = Path(path)
    return (path / name for name in _files_in(path)) if path.is_dir() else iter([path])


def describe(path: Path | str) -> dict:
    """`files.describe` of a file; of a folder, name, size and number of the files that are its documents.

    The sha256 of a folder is that of its list, as `sha256sum` prints it for the sorted relative paths.
    """
    path = Path(path)
    if not path.is_dir():
        return files.describe(path)
    digest, size, count = hashlib.sha256(), 0, 0
    for name in _files_in(path):
        part = files.describe(path / name)
        digest.update(f"{part['sha256']}  {name}\n".encode())
        size, count = size + part["size"], count + 1
    return {"name": Path(os.path.abspath(path)).name, "size": size, "sha256": digest.hexdigest(), "files": count}


def size(path: Path | str) -> int:
    """Bytes on the disk, of all documents of a folder together."""
    return sum(part.stat().st_size for part in files_of(path))


def unpacked_size(path: Path | str) -> int:
    """About how many bytes of text a corpus holds."""
    return sum(part.stat().st_size * (TEXT_PER_PACKED_BYTE if is_compressed(part) else 1) for part in files_of(path))


# Writing


class Lines(NamedTuple):
    """The sentences of a document as they stand in a text."""

    data: bytes
    count: int
    characters: int

    @classmethod
    def of(cls, sentences: list[str]) -> "Lines":
        return cls("".join(f"{line}\n" for line in sentences).encode(), len(sentences), sum(map(len, sentences)))


class Writer:
    """A text and its index, written document by document, with what the report counts."""

    def __init__(self, text: files.Output, index: files.Output):
        self.text, self.index = text, index
        self.documents = self.sentences = self.characters = self._line = 0
        self._lengths: collections.Counter[int] = collections.Counter()  # bits of a sentence's length -> sentences

    def write(self, row: dict, sentences: Iterable[str]) -> None:
        """Append a document; its place goes into the row."""
        first_line, sentences = self._line, iter(sentences)
        while chunk := list(itertools.islice(sentences, CHUNK)):
            self.text.write(("\n".join(chunk) + "\n").encode())
            lengths = list(map(len, chunk))
            self._lengths.update(map(int.bit_length, lengths))
            self.characters += sum(lengths)
            self._line += len(chunk)
        self._end(row, first_line)

    def write_lines(self, row: dict, lines: Lines) -> None:
        """The same for a document that a worker has put together; it is not part of the histogram."""
        first_line = self._line
        self.text.write(lines.data)
        self.characters += lines.characters
        self._line += lines.count
        self._end(row, first_line)

    def _end(self, row: dict, first_line: int) -> None:
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

    def sync(self) -> None:
        """Bring all that was written to the disk."""
        for output in (self.text, self.index):
            output.file.flush()
            os.fsync(output.file.fileno())

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
        writers = [Writer(text, index) for text, index in pairs]
        yield writers
        for writer in writers:
            writer.sync()
        outputs = [output for pair in pairs for output in pair]
        for output in outputs:
            files.record_path(output.path).unlink(missing_ok=True)
        for output in outputs:
            output.path.unlink(missing_ok=True)
