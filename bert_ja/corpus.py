"""A corpus of documents, split into train, valid and test, with a report on it.

Two passes: the inventory reads, `plan` says what becomes of each document, `write` reads again and writes. All work
goes document by document or block by block, so that memory does not grow with the corpus.
"""

import collections
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_ja import draws, files, inventory
from bert_ja.cli import StageError
from bert_ja.documents import INDEX, Writer, files_of, index_path, leads_back, plain_path
from bert_ja.filters import DOCUMENT_FILTERS, Filters, Removed
from bert_ja.inventory import Inventory

PARTS = ("train", "valid", "test")
BECOMES = PARTS + DOCUMENT_FILTERS  # of a document: its part, or the filter that removes it
TRAIN, VALID, TEST, NEAR_EMPTY, REPEATED = range(len(BECOMES))
PUBLISHED_SENTENCES = 500_000  # in valid and in test of the published run
LARGE_CORPUS = 20 * PUBLISHED_SENTENCES  # sentences; from here on that is 5 % each or less
BUCKET_BITS = 16  # of a key: one document in 65,536 is sorted
SHOWN_SENTENCES = 10  # in the report


# What is read


def _names_of(path: Path) -> Iterator[Path]:
    """A file, the one that a link means, and what each was before it was compressed, or the text of an index."""
    for name in (path, Path(os.path.realpath(path))):
        yield name
        yield (plain := plain_path(name))
        if plain.name.endswith(INDEX):
            yield plain.with_name(plain.name.removesuffix(INDEX) + ".txt")


def _recorded(path: Path) -> Iterator[Path]:
    """Whatever may have a record of an input, or of what is in a folder, behind links too."""
    yield from _names_of(path)
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not leads_back(Path(folder, name))]
        if "meta.json" in names:
            yield Path(folder)
        for name in names:
            record = name.removeprefix(".").removesuffix(".partial")  # as a run that was killed leaves one
            if record.endswith(".meta.json"):
                yield Path(folder, record.removesuffix(".meta.json"))
            elif plain_path(name).name.endswith(INDEX) or Path(folder, name).is_symlink():
                yield from _names_of(Path(folder, name))


def is_private(paths: list[Path], asked: bool | None) -> bool:
    """Whether --private_corpus or the record of anything that is read says that the corpus is private."""
    return files.is_private(*(found for path in paths for found in _recorded(path)), asked=asked)


def origin(paths: list[Path], name: str, license: str | None, source: str | None, private: bool) -> dict:
    """What later stages say of the corpus: options first, then what the records of the inputs say.

    Where texts of several origins are read, `sources` lists those: what their records say first, then the options.
    """
    known = [files.corpus_of(path) if path.is_file() else files.corpus_facts(None) for path in paths]
    given = {"name": name, "license": license, "source": source, "dump": None}

    def carried(key: str) -> str | None:
        return "; ".join(dict.fromkeys(facts[key] for facts in known if facts[key])) or None

    texts = [{key: text.get(key) or given[key] for key in files.ORIGIN} for facts in known for text in _texts(facts)]
    several = files.distinct_sources(texts)
    return {
        "name": name,
        "license": license or carried("license"),
        "source": source or carried("source"),
        "dump": next((facts["dump"] for facts in known if facts["dump"]), None),
        "private": private,
    } | ({"sources": several} if len(several) > 1 else {})


def _texts(facts: dict) -> list[dict]:
    """The texts of a corpus, one of unknown origin where nothing is known of it."""
    return files.sources(facts) or [dict.fromkeys(files.ORIGIN)]


def state(paths: list[Path]) -> str:
    """A hash of the size and the time of the last change of every file that is read."""
    digest = hashlib.sha256()
    for path in paths:
        for file in filter(Path.is_file, itertools.chain(files_of(path), [index_path(path)])):
            facts = file.stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns} {file}\n".encode())
    return digest.hexdigest()


def changed() -> StageError:
    return StageError("the texts changed while they were read: run the command again when nothing writes to them")


# Split


def default_share(sentences: int) -> int:
    """Sentences of valid and of test: 500,000 as published from 10 million on, else 1 %, rounded up."""
    return PUBLISHED_SENTENCES if sentences >= LARGE_CORPUS else -(-sentences // 100)


class Candidates(NamedTuple):
    """Documents that passed the filters, to be ordered by (key, number); each array (documents,)."""

    keys: np.ndarray  # uint64
    numbers: np.ndarray  # int64
    sentences: np.ndarray  # int64

    def buckets(self) -> np.ndarray:
        """The first bits of the keys, int64."""
        return (self.keys >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)

    def only(self, which: np.ndarray) -> "Candidates":
        return Candidates(*(column[which] for column in self))

    def backwards(self) -> "Candidates":
        """The same, to be ordered the other way round."""
        return Candidates(~self.keys, -self.numbers, self.sentences)

    def until(self, last: "Edge") -> np.ndarray:
        """Which of them come before `last`, or are it."""
        return (self.keys < last.key) | ((self.keys == last.key) & (self.numbers <= last.number))


class Edge(NamedTuple):
    """The last document that a part takes in the order of (key, number), and how many it takes."""

    key: np.uint64
    number: int
    documents: int


def becomes(rows: np.ndarray, filters: Filters) -> np.ndarray:
    """What the filters make of documents, uint8: NEAR_EMPTY, REPEATED, or for now TRAIN."""
    found = np.full(len(rows), TRAIN, np.uint8)
    found[rows["repeated"] > filters.max_repeated * rows["sentences"]] = REPEATED
    found[rows["sentences"] < filters.min_sentences] = NEAR_EMPTY
    return found


def _candidates(rows: np.ndarray, filters: Filters) -> Iterator[Candidates]:
    """The documents that pass the filters, block by block."""
    for start in range(0, len(rows), inventory.BLOCK):
        block = rows[start : start + inventory.BLOCK]
        passed = np.flatnonzero(becomes(block, filters) == TRAIN)
        yield Candidates(block["key"][passed], start + passed, block["sentences"][passed].astype(np.int64))


def _take(candidates: Callable[[], Iterable[Candidates]], sentences: int, most: int) -> Edge:
    """The document in order at which `sentences` are held, or `most` documents; there must be as many.

    The first reading counts by the first bits of the key, the second sorts only the documents of the bucket at the
    edge.
    """
    held = np.zeros((2, 1 << BUCKET_BITS), np.int64)  # sentences, documents
    for block in candidates():
        np.add.at(held[0], block.buckets(), block.sentences)
        np.add.at(held[1], block.buckets(), 1)
    until = held.cumsum(axis=1)
    bucket = int(np.argmax((until[0] >= sentences) | (until[1] >= most)))
    before = until[:, bucket] - held[:, bucket]

    found = [block.only(block.buckets() == bucket) for block in candidates()]
    found = Candidates(*map(np.concatenate, zip(*found, strict=True)))
    found = found.only(np.lexsort((found.numbers, found.keys)))
    documents = before[1] + 1 + np.arange(len(found.keys))
    place = int(np.argmax((before[0] + found.sentences.cumsum() >= sentences) | (documents >= most)))
    return Edge(found.keys[place], int(found.numbers[place]), int(documents[place]))


def _counts(rows: np.ndarray, filters: Filters) -> tuple[np.ndarray, np.ndarray]:
    """Documents, and sentences, by what the filters make of them: each int64 (len(BECOMES),)."""
    documents, sentences = np.zeros((2, len(BECOMES)), np.int64)
    for start in range(0, len(rows), inventory.BLOCK):
        block = rows[start : start + inventory.BLOCK]
        found = becomes(block, filters)
        np.add.at(documents, found, 1)
        np.add.at(sentences, found, block["sentences"])
    return documents, sentences


def _require_documents(documents: np.ndarray, filters: Filters) -> None:
    """Refuse a corpus that cannot be split."""
    left, total = int(documents[TRAIN]), int(documents.sum())
    if left >= len(PARTS):
        return
    if total < len(PARTS):
        raise StageError(
            f"the corpus has {total} document{'s' * (total != 1)}, but train, valid and test need one each: "
            "put a blank line after each document, or add more files"
        )
    raise StageError(
        f"the filters leave {left} of {total:,} documents ({documents[NEAR_EMPTY]:,} had fewer than "
        f"{filters.min_sentences} lines, {documents[REPEATED]:,} repeated others), but train, valid and test need one "
        "each: put a blank line after documents only, lower --min_sentences, or pass --filters none"
    )


def plan(found: Inventory, filters: Filters, valid_sentences: int | None, test_sentences: int | None) -> None:
    """Write into an inventory whose repeats are counted what becomes of each document.

    Documents that pass the filters are ordered by their key; test takes from one end and valid from the other until
    they hold the asked sentences (None: default_share), so that between two dumps only documents at the edges change
    sides. One document at least is left to each part. Raises StageError where the corpus cannot give what was asked.
    """
    rows = found.rows()
    counts = _counts(rows, filters)
    _require_documents(counts[0], filters)
    documents, sentences = (int(count[TRAIN]) for count in counts)
    share = default_share(sentences)
    test = _take(lambda: _candidates(rows, filters), test_sentences or share, documents - 2)
    valid = _take(
        lambda: (block.backwards() for block in _candidates(rows, filters)),
        valid_sentences or share,
        documents - 1 - test.documents,
    )
    found.write_parts(_parts(rows, filters, valid, test))
    for part, asked in ((VALID, valid_sentences), (TEST, test_sentences)):
        held = _held(found, part)
        if asked and held < asked:
            raise StageError(
                f"--{PARTS[part]}_sentences {asked} is too much for {sentences:,} sentences in {documents:,} documents "
                f"({held:,} could go to {PARTS[part]}): ask for fewer"
            )


def _parts(rows: np.ndarray, filters: Filters, valid: Edge, test: Edge) -> Iterator[np.ndarray]:
    """What becomes of the documents, block by block."""
    for number, block in enumerate(_candidates(rows, filters)):
        start = number * inventory.BLOCK
        parts = becomes(rows[start : start + inventory.BLOCK], filters)
        passed = block.numbers - start
        parts[passed[block.until(test)]] = TEST
        parts[passed[block.backwards().until(valid)]] = VALID
        yield parts


def _held(found: Inventory, part: int) -> int:
    """Sentences in a part."""
    parts, rows = found.parts(), found.rows()
    starts = range(0, len(rows), inventory.BLOCK)
    blocks = (slice(start, start + inventory.BLOCK) for start in starts)
    return sum(int(rows["sentences"][block][parts[block] == part].sum(dtype=np.int64)) for block in blocks)


# Writing


class Drawn:
    """Sentences of a stream whose numbers, from 0, were drawn; found as the stream passes."""

    def __init__(self, found: Inventory, seed: int, size: int = SHOWN_SENTENCES):
        total = sum(_held(found, part) for part in (TRAIN, VALID, TEST))
        numbers = draws.permutation(draws.key(seed, "report"), np.arange(min(size, total)), total)
        self.sentences: list[str] = []
        self._wanted = collections.deque(sorted(numbers.tolist()))
        self._passed = 0

    def watch(self, sentences: Iterable[str], count: int) -> Iterable[str]:
        """The same sentences, `count` of them; those that were drawn are kept while they are read."""
        start, self._passed = self._passed, self._passed + count
        if not self._wanted or self._wanted[0] >= self._passed:
            return sentences
        return self._note(sentences, start)

    def _note(self, sentences: Iterable[str], start: int) -> Iterator[str]:
        for number, sentence in enumerate(sentences, start):
            if self._wanted and number == self._wanted[0]:
                self._wanted.popleft()
                self.sentences.append(sentence)
            yield sentence


def write(
    documents: Iterable[tuple[dict, Iterator[str]]],
    found: Inventory,
    filters: Filters,
    writers: list[Writer],
    drawn: Drawn | None = None,
) -> Removed:
    """Write each document to its part, in the order of the corpus; what was removed.

    Raises StageError where the documents are no longer those of the inventory.
    """
    removed = Removed()
    expected = zip(found.parts(), found.rows()["sentences"], strict=True)
    for document, expectation in itertools.zip_longest(documents, expected):
        if document is None or expectation is None:
            raise changed()
        (row, sentences), (part, count) = document, expectation
        left = filters.sift(sentences, removed)
        if part >= len(PARTS):
            read = removed.add_document(BECOMES[part], left)
        else:
            writer, before = writers[part], writers[part].sentences
            writer.write(row, drawn.watch(left, int(count)) if drawn else left)
            read = writer.sentences - before
        if read != count:
            raise changed()
    return removed


# Report


def report(
    writers: list[Writer], removed: Removed, filters: Filters, found: Inventory, drawn: Drawn | None = None
) -> dict:
    """The figures of a corpus as its record has them."""
    shared = dict(zip(PARTS[VALID:], found.count_shared(TRAIN, (VALID, TEST)), strict=True))
    parts = {}
    for name, writer in zip(PARTS, writers, strict=True):
        parts[name] = writer.counts() | {"sentences_by_characters": writer.length_histogram()}
        if name in shared:
            parts[name]["sentences_also_in_train"] = shared[name]
    removals = {name: {"value": getattr(filters, name)} | counts for name, counts in removed.counts.items()}
    return {"parts": parts, "filters": removals} | ({"random_sentences": drawn.sentences} if drawn else {})


def _table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table of Markdown; the first column is text, the others are figures."""
    ruler = ["---", *("---:" for _ in header[1:])]
    cells = [[f"{cell:,}" if type(cell) is int else str(cell) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ruler, *cells))


def _lengths_table(parts: dict) -> str:
    histograms = [part["sentences_by_characters"] for part in parts.values()]
    names = sorted({name for histogram in histograms for name in histogram}, key=lambda name: int(name.split("-")[0]))
    return _table(("characters", *parts), ((name, *(h.get(name, 0) for h in histograms)) for name in names))


def summary(record: dict) -> str:
    """The record of a corpus for people to read, in Markdown."""
    about, parts = record["corpus"], record["parts"]
    origin = [f"{key}: {' '.join(about[key].split())}\n" for key in ("source", "license") if about[key]]
    figures = ("documents", "sentences", "characters")
    shares = (
        (name, *(part[key] for key in figures), part.get("sentences_also_in_train", "")) for name, part in parts.items()
    )
    removed = ((name, row["value"], *(row[key] for key in figures)) for name, row in record["filters"].items())
    shown = "".join(f"    {sentence}\n" for sentence in record.get("random_sentences", ()))
    return "\n".join(
        [
            f"# Corpus {' '.join(about['name'].split())}\n",
            *origin,
            "## Parts\n",
            _table(("part", *figures, "sentences also in train"), shares),
            "## Removed by the filters\n",
            _table(("filter", "value", *figures), removed),
            "## Sentences by their characters\n",
            _lengths_table(parts),
            "## Random sentences\n",
            shown or "Left out, the corpus is private.\n",
        ]
    )
