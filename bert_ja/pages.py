"""A MediaWiki dump file -> its pages, in blocks that worker processes take.

The reader cuts a file without looking into it: multistream bz2 between streams, so that each worker unpacks its own; a
single stream, which only one process can unpack, and plain XML anywhere. A page that two blocks share is put together
where their results meet, so that no block size, number of workers or layout changes what is found.
"""

import array
import bz2
import contextlib
import functools
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar
from xml.parsers import expat

from bert_ja import workers
from bert_ja.cli import StageError

Result = TypeVar("Result")

GET_A_DUMP = "get_jawiki.sh DATE downloads one"
GET_IT_AGAIN = "download it again and compare its checksum"
STANDARD_INPUT = Path("-")

PACKED = 1 << 18  # bytes of bz2 in a block; a stream of jawiki's multistream dump, 100 pages, has about as much
LONGEST_STREAM = 1 << 22  # bytes of bz2; a longer stream is unpacked by the reader
UNPACKED = 1 << 20  # bytes of XML in a block
LONGEST_PAGE = 1 << 26  # bytes of XML; MediaWiki takes 2 MB of wikitext

STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")  # how a bz2 stream begins, an empty one too
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PAGE, PAGE_END, ROOT, ROOT_END = b"<page>", b"</page>", b"<mediawiki>", b"</mediawiki>"
FIRST_ELEMENT = re.compile(rb"(?:\s+|<[?!][^>]*>)*+<([^\s>/?!]+)[^>]*>")  # linear: no second way to match a comment


class Page(NamedTuple):
    id: int
    namespace: int
    title: str
    revision: int
    redirect: bool  # has a <redirect> element; Content File Exports have none, so look at the text too
    text: str  # wikitext of the last revision, empty where it was deleted


class Damage(Exception):
    """What is wrong with a dump file, and the last whole page before that place where it is known."""

    def __init__(self, fault: str, page: int | None = None):
        super().__init__(fault, page)
        self.fault, self.page = fault, page


ROOT_NOT_ENDED = "no </mediawiki>"
STREAM_NOT_ENDED = "its bz2 stream does not end"


# The reader: a file -> blocks


class DumpFile:
    """A dump file opened for its one pass, or standard input: counts and hashes what is read of it."""

    def __init__(self, path: Path, advance: Callable[[int], object] = lambda size: None):
        self.path = path
        self.name = "standard input" if path == STANDARD_INPUT else str(path)
        self._file = sys.stdin.buffer if path == STANDARD_INPUT else open(path, "rb")
        self._advance = advance
        self._size, self._hash = 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end only."""
        data = self._file.read(size)
        self._size += len(data)
        self._hash.update(data)
        self._advance(len(data))
        return data

    def close(self) -> None:
        if self.path != STANDARD_INPUT:
            self._file.close()

    def describe(self) -> dict:
        """What `files.describe` says of a file, of what was read."""
        name = self.name if self.path == STANDARD_INPUT else self.path.name
        return {"name": name, "size": self._size, "sha256": self._hash.hexdigest()}


class Block(NamedTuple):
    """A stretch of a dump file."""

    data: bytes
    packed: bool  # whole bz2 streams; else XML, cut anywhere


def _unpack(data: bytes, more: Callable[[], bytes] = bytes) -> Iterator[bytes]:
    """XML of the bz2 stream that `data` begins and `more` goes on with; returns the bytes that came behind it."""
    stream = bz2.BZ2Decompressor()
    while not stream.eof:
        if stream.needs_input and not data and not (data := more()):
            raise Damage(STREAM_NOT_ENDED)
        try:
            xml = stream.decompress(data, UNPACKED)
        except OSError as error:
            raise Damage(f"bz2: {error}") from None
        data = b""
        if xml:
            yield xml
    return stream.unused_data


def _packed_blocks(data: bytes, read: Callable[[int], bytes]) -> Iterator[Block]:
    """bz2 data cut between streams; a stream that is too long for one worker comes as XML."""
    while piece := read(PACKED):
        data += piece
        starts = [found.start() for found in STREAM.finditer(data, 1)]
        if starts:
            yield Block(data[: starts[-1]], True)
            data = data[starts[-1] :]
        elif len(data) > LONGEST_STREAM:
            unpacked = _unpack(data, lambda: read(PACKED))
            data = yield from _marked(unpacked)
    if data:
        yield Block(data, True)


def _marked(unpacked: Iterator[bytes]) -> Iterator[Block]:
    """Blocks of XML; returns what the iterator of their bytes returns."""
    while True:
        try:
            yield Block(next(unpacked), False)
        except StopIteration as end:
            return end.value


def blocks(dump: DumpFile) -> Iterator[Block]:
    """A dump file in blocks. Raises StageError where it is neither bz2 nor XML, told by its first bytes."""
    head = dump.read(PACKED)
    if head.startswith(b"BZh"):
        yield from _packed_blocks(head, dump.read)
    elif head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"<"):
        while head:
            yield Block(head, False)
            head = dump.read(UNPACKED)
    else:
        wrong = "is not a MediaWiki dump (neither bz2 nor XML)" if head else "is empty"
        raise StageError(f"{dump.name} {wrong}: {GET_A_DUMP}")


# XML -> pages


class _Collector:
    """Collects the pages of an XML document from the events of its parser."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.text: list[str] = []
        self._path: list[str] = []
        self._fields: dict[tuple[str, str], str] = {}  # (parent, element) -> text, of one page

    def last_page(self) -> int | None:
        return self.pages[-1].id if self.pages else None

    def start(self, name: str, attributes: dict) -> None:
        if len(self._path) == 1:
            if "".join(self.text).strip():
                raise Damage("text between two pages, as where files were joined", self.last_page())
            self._fields = {}
        self.text.clear()
        self._path.append(name)

    def end(self, name: str) -> None:
        self._path.pop()
        if self._path:
            self._fields[self._path[-1], name] = "".join(self.text)
        if self._path[1:] == [] and name == "page":
            self.pages.append(self._page())
        self.text.clear()

    def _page(self) -> Page:
        field = self._fields.get
        try:
            number = int(field(("page", "id")) or "")
            if not 0 <= number < 1 << 63:
                raise ValueError
            return Page(
                id=number,
                namespace=int(field(("page", "ns")) or 0),
                title=field(("page", "title")) or "",
                revision=int(field(("revision", "id")) or number),
                redirect=("page", "redirect") in self._fields,
                text=field(("revision", "text")) or "",  # of several revisions the last one
            )
        except ValueError:
            raise Damage("a page without a number", self.last_page()) from None


def _parse(*xml: bytes) -> list[Page]:
    """The pages of an XML document."""
    collector, parser = _Collector(), expat.ParserCreate()
    parser.buffer_text, parser.buffer_size = True, UNPACKED
    parser.StartElementHandler, parser.EndElementHandler = collector.start, collector.end
    parser.CharacterDataHandler = collector.text.append
    try:
        for part in xml:
            parser.Parse(part)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
            raise MemoryError from None
        raise Damage(f"XML: {expat.ErrorString(error.code)}", collector.last_page()) from None
    return collector.pages


def _whole_pages(xml: bytes) -> tuple[int, int]:
    """Where the first <page> begins and the last </page> ends; the end of `xml` twice where no page is in it."""
    begin, end = xml.find(PAGE), xml.rfind(PAGE_END)
    return (begin, end + len(PAGE_END)) if 0 <= begin < end else (len(xml), len(xml))


def _check_length(xml: bytes) -> bytes:
    if len(xml) > LONGEST_PAGE:
        raise Damage(f"no page ends within {LONGEST_PAGE >> 20} MB")
    return xml


class _Cut:
    """The whole pages of a block; `head` and `tail` are what its neighbours have to complete."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.head = self.tail = b""

    def _xml(self) -> Iterator[bytes]:
        data = self.block.data
        if not self.block.packed:
            yield data
            return
        while data:
            data = yield from _unpack(data)

    def pages(self) -> Iterator[Page]:
        """The pages that begin and end in the block. Without one, `head` is all of it."""
        begun, rest = False, b""
        for xml in self._xml():
            rest = _check_length(rest + xml)
            begin, end = _whole_pages(rest)
            if begin == end:
                continue
            if not begun:
                self.head, begun = rest[:begin], True
            elif rest[:begin].strip():
                raise Damage("text between two pages, as where files were joined")
            yield from _parse(ROOT, rest[begin:end], ROOT_END)
            rest = rest[end:]
        self.head, self.tail = (self.head, rest) if begun else (rest, b"")


class _Seams:
    """What lies between the whole pages of blocks: the head of the file, pages that blocks share, the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""
        self._outside: list[bytes] = []  # XML outside of pages: the head, at last the end

    def put(self, xml: bytes) -> list[Page]:
        """The pages that become whole with more of the file."""
        self._rest = _check_length(self._rest + xml)
        begin, end = _whole_pages(self._rest)
        if begin == end:
            return []
        self._put_outside(self._rest[:begin])
        xml, self._rest = self._rest[begin:end], self._rest[end:]
        return _parse(ROOT, xml, ROOT_END)

    def settle(self, at_end: bool = False) -> None:
        """Check what is left where a page begins, or the file ends. Raises Damage, or StageError for another format."""
        rest, self._rest = self._rest, b""
        self._put_outside(rest, at_end)

    def _put_outside(self, xml: bytes, at_end: bool = False) -> None:
        text = xml.removeprefix(BYTE_ORDER_MARK).strip()
        if text and self._outside and not at_end:
            raise Damage("text between two pages, as where files were joined")
        if text and not self._outside:
            self._check_first(text)
        self._outside += [text] if text else []

    def _check_first(self, text: bytes) -> None:
        element = FIRST_ELEMENT.match(text)
        if not text.startswith(b"<") or (element and element[1] != ROOT[1:-1]):
            what = f"its first element is <{element[1].decode(errors='replace')}>" if element else "no XML in it"
            raise StageError(f"{self._name} is not a MediaWiki dump ({what}): {GET_A_DUMP}")

    def close(self) -> None:
        """Check that the file has a head and an end, and nothing else outside of pages."""
        if not self._outside or not self._outside[-1].endswith(ROOT_END):
            raise Damage(ROOT_NOT_ENDED)
        if self._outside[1:] not in ([], [ROOT_END]):
            raise Damage("text between two pages, as where files were joined")
        _parse(*self._outside)


# Files -> results of a function of pages, over processes


class Seen:
    """The page ids met so far, a bit each: 0.6 MB for all of Japanese Wikipedia; and the last one of a file."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}
        self.last: int | None = None

    def add(self, number: int) -> bool:
        """Add an id; False when it was there already."""
        self.last = number
        block = self._blocks.setdefault(number >> 16, bytearray(8192))
        place, bit = (number & 0xFFFF) >> 3, 1 << (number & 7)
        new = not block[place] & bit
        block[place] |= bit
        return new

    def add_all(self, numbers: Iterable[int], name: str) -> None:
        """Raises StageError for a page that stands twice."""
        for number in numbers:
            if not self.add(number):
                raise StageError(f"page {number} of {name} was read before: name the files of one dump, each once")


def _note_ids(pages: Iterable[Page], ids: array.array) -> Iterator[Page]:
    for page in pages:
        ids.append(page.id)
        yield page


def _map_block(function: Callable[[Iterable[Page]], Result], block: Block) -> tuple[bytes, array.array, Result, bytes]:
    """(head, ids of the whole pages, function of them, tail); what a worker does."""
    cut, ids = _Cut(block), array.array("q")
    try:
        result = function(_note_ids(cut.pages(), ids))
    except Damage as damage:
        raise Damage(damage.fault, damage.page or (ids[-1] if ids else None)) from None
    return cut.head, ids, result, cut.tail


def _until_damage(found: Iterator[Block], damages: list[Damage]) -> Iterator[Block]:
    """The blocks before a damage, which is told when their results are there."""
    try:
        yield from found
    except Damage as damage:
        damages.append(damage)


def _map_file(
    function: Callable[[Iterable[Page]], Result], dump: DumpFile, num_workers: int, seen: Seen
) -> Iterator[Result]:
    damages: list[Damage] = []
    seams = _Seams(dump.name)

    def shared(xml: bytes) -> Iterator[Result]:
        if pages := seams.put(xml):
            seen.add_all((page.id for page in pages), dump.name)
            yield function(pages)

    work = functools.partial(_map_block, function)
    found = workers.ordered_map(work, _until_damage(blocks(dump), damages), num_workers)
    with contextlib.closing(found):  # here, and not by whoever collects garbage
        for head, ids, result, tail in found:
            yield from shared(head)
            if ids:
                seams.settle()
                seen.add_all(ids, dump.name)
                yield result
                yield from shared(tail)
    if damages:
        raise damages[0]
    seams.settle(at_end=True)
    seams.close()


def map_pages(
    function: Callable[[Iterable[Page]], Result], dump: DumpFile, num_workers: int = 1, seen: Seen | None = None
) -> Iterator[Result]:
    """Results of a function of pages that together saw all pages of a file, in page order.

    `function` is called in worker processes with the pages of a block, all of which it has to read, and must not
    depend on where blocks end. `seen` tells pages that stand in several files. Raises StageError where the file is no
    dump, damaged or cut short, and says after which page.
    """
    seen = seen or Seen()
    seen.last = None
    try:
        with contextlib.closing(_map_file(function, dump, num_workers, seen)) as found:
            yield from found
    except Damage as damage:
        page = damage.page or seen.last
        where = f"after page {page}" if page is not None else "before its first page"
        state = "cut short" if damage.fault in (ROOT_NOT_ENDED, STREAM_NOT_ENDED) else "damaged"
        raise StageError(f"{dump.name} is {state} {where} ({damage.fault}): {GET_IT_AGAIN}") from None
