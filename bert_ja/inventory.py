"""What a first pass over a corpus finds out, in files of a work folder, so that memory does not grow with the corpus.

A row a document (16 bytes) and an entry a sentence (12 bytes: a 64-bit hash and the document's number), the latter in
partitions by hash: equal sentences stand in the same one, so that each can be looked through alone, with its distinct
hashes in memory. Two different sentences of Japanese Wikipedia share a hash with a probability of 1 in 40,000.
"""

import functools
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from bert_ja import draws
from bert_ja.filters import Filters

ROW = np.dtype([("key", "<u8"), ("sentences", "<u4"), ("repeated", "<u4")])  # key: hash of (seed, id)
ENTRY = np.dtype([("hash", "<u8"), ("document", "<u4")])
HASH_BYTES = 8
PARTITIONS = 256  # a power of two, 256 at most
BLOCK = 1 << 18  # sentences or documents that are held at once


def sentence_hash(sentence: str) -> bytes:
    return hashlib.blake2b(sentence.encode(), digest_size=HASH_BYTES).digest()


class Inventory:
    """Documents and sentences of a corpus in `folder`, numbered in their order from 0."""

    def __init__(self, folder: Path):
        self._rows, self._parts = folder / "documents", folder / "parts"
        self._partitions = [folder / f"sentences-{number:03}" for number in range(PARTITIONS)]

    def rows(self, mode: str = "r") -> np.ndarray:
        """The documents, ROW (documents,); with mode "r+" what is assigned to them is kept."""
        return np.memmap(self._rows, ROW, mode) if self._rows.stat().st_size else np.empty(0, ROW)

    def partitions(self) -> Iterator[Callable[[], Iterator[np.ndarray]]]:
        """What reads a partition: the sentences that passed the line filters, ENTRY, in the order of the corpus."""
        return (functools.partial(_blocks, path) for path in self._partitions if path.exists())

    def write_parts(self, blocks: Iterable[np.ndarray]) -> None:
        """Keep what becomes of each document, uint8."""
        with open(self._parts, "wb") as file:
            for block in blocks:
                file.write(block.tobytes())

    def parts(self) -> np.ndarray:
        """What becomes of each document, uint8 (documents,)."""
        return np.memmap(self._parts, np.uint8, "r")

    def take(self, documents: Iterable[tuple[dict, Iterator[str]]], filters: Filters, seed: int) -> None:
        """Read a corpus: rows with an id, and sentences, of which those that fail a line filter do not count."""
        entries = _Entries(self._partitions)
        with open(self._rows, "wb") as file:
            for number, (row, sentences) in enumerate(documents):
                hashes, count = map(sentence_hash, filters.lines(sentences)), 0
                while block := b"".join(islice(hashes, BLOCK)):
                    entries.add(number, block)
                    count += len(block) // HASH_BYTES
                file.write(struct.pack("<QII", int(draws.key(seed, "split", row["id"])), count, 0))
        entries.flush()

    def count_repeats(self, min_sentences: int) -> None:
        """Count for each document its sentences that also stand in an earlier one.

        Earlier is any document that comes before and has `min_sentences`, whether it stays or not.
        """
        rows = self.rows("r+")
        for blocks in self.partitions():
            first_places = _FirstPlaces()
            for entries in blocks():
                entries = entries[rows["sentences"][entries["document"]] >= min_sentences]
                later = entries["document"] > first_places.of(entries)
                documents, times = np.unique(entries["document"][later], return_counts=True)
                rows["repeated"][documents] += times.astype(np.uint32)

    def count_shared(self, part: int, others: tuple[int, ...]) -> list[int]:
        """How many sentences of each other part also stand in `part`."""
        parts, shared = self.parts(), np.zeros(len(others), np.int64)

        def of(number: int, entries: np.ndarray) -> np.ndarray:
            return entries["hash"][parts[entries["document"]] == number]

        for blocks in self.partitions():
            hashes = np.empty(0, "<u8")
            for entries in blocks():
                hashes = np.union1d(hashes, of(part, entries))
            for entries in blocks():
                shared += [np.isin(of(other, entries), hashes).sum() for other in others]
        return shared.tolist()


def _blocks(partition: Path) -> Iterator[np.ndarray]:
    with open(partition, "rb") as file:
        while len(entries := np.fromfile(file, ENTRY, BLOCK)):
            yield entries


class _FirstPlaces:
    """The document in which each sentence of a partition stood first, as far as it was read."""

    def __init__(self):
        self._known = np.empty(0, ENTRY)  # ordered by hash, each once

    def of(self, entries: np.ndarray) -> np.ndarray:
        """Those of sentences that come next in the order of the corpus, uint32 (sentences,)."""
        hashes, first, which = np.unique(entries["hash"], return_index=True, return_inverse=True)
        documents = entries["document"][first]
        places = np.searchsorted(self._known["hash"], hashes)
        known = np.zeros(len(hashes), bool)
        within = places < len(self._known)
        known[within] = self._known["hash"][places[within]] == hashes[within]
        documents[known] = self._known["document"][places[known]]
        self._known = np.insert(self._known, places[~known], entries[first[~known]])
        return documents[which]


class _Entries:
    """Sentences on their way to the partitions."""

    def __init__(self, paths: list[Path]):
        self._paths = paths
        self._hashes, self._documents, self._counts = bytearray(), [], []

    def add(self, document: int, hashes: bytes) -> None:
        self._hashes += hashes
        self._documents.append(document)
        self._counts.append(len(hashes) // HASH_BYTES)
        if len(self._hashes) >= BLOCK * HASH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append what is held to its partitions."""
        hashes = np.frombuffer(bytes(self._hashes), "<u8")
        entries = np.empty(len(hashes), ENTRY)
        entries["hash"] = hashes
        entries["document"] = np.repeat(np.array(self._documents, np.uint32), self._counts)
        partition = hashes.astype(np.uint8) & np.uint8(len(self._paths) - 1)  # the hash's last byte
        entries = entries[np.argsort(partition, kind="stable")]
        ends = np.cumsum(np.bincount(partition, minlength=len(self._paths)))
        for path, start, end in zip(self._paths, [0, *ends], ends, strict=False):
            if start < end:
                with open(path, "ab") as file:  # not tofile(), whose error on a full disk does not say so
                    file.write(entries[start:end].tobytes())
        self._hashes, self._documents, self._counts = bytearray(), [], []
