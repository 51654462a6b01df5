"""A corpus of documents and its split into train, valid and test.

What is kept of a document is a hash of its id, its number of sentences and the part it goes to, 17 bytes in all.
"""

import array
from collections.abc import Callable, Iterable
from pathlib import Path

from bert_ja.cli import StageError
from bert_ja.documents import documents, misfit

PARTS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(len(PARTS))
PUBLISHED_SENTENCES = 500_000  # in valid and in test of the published run
LARGE_CORPUS = 20 * PUBLISHED_SENTENCES  # sentences; from here on that is 5 % each or less


def take_inventory(
    paths: Iterable[Path | str], seed: int, advance: Callable[[int], object] = lambda documents: None
) -> tuple[array.array, array.array]:
    """Read a corpus once: for each document a hash of (seed, id), uint64, and its number of sentences, int64.

    `advance` is told of each document. Raises StageError where index and text disagree.
    """
    from bert_ja import draws  # numpy, which extraction does without

    keys, counts = array.array("Q"), array.array("q")
    for path in paths:
        for row, sentences in documents(path):
            count = sum(1 for _ in sentences)
            if row.get("lines", count) != count:
                raise misfit(path)
            keys.append(int(draws.key(seed, "split", row["id"])))
            counts.append(count)
            advance(1)
    return keys, counts


# Split


def default_share(sentences: int) -> int:
    """Sentences of valid and of test: 500,000 as published from 10 million on, else 1 %, rounded up."""
    return PUBLISHED_SENTENCES if sentences >= LARGE_CORPUS else -(-sentences // 100)


def _take(order, counts, asked: int) -> int:
    """How many documents from the start of `order` hold `asked` sentences together."""
    import numpy

    return int(numpy.searchsorted(numpy.cumsum(counts[order]), asked)) + 1


def split(keys: array.array, counts: array.array, valid_sentences: int | None, test_sentences: int | None):
    """The part of each document, uint8 (documents,): TRAIN, VALID or TEST.

    Documents are ordered by their key; test takes from one end and valid from the other until they hold the asked
    sentences (None: default_share), so that between two dumps only documents at the edges change sides. One document
    at least is left to each part. Raises StageError where the corpus cannot give what was asked.
    """
    import numpy

    keys, counts = numpy.frombuffer(keys, numpy.uint64), numpy.frombuffer(counts, numpy.int64)
    total, documents = int(counts.sum()), len(counts)
    if documents < len(PARTS):
        raise StageError(
            f"the corpus has {documents} document{'s' * (documents != 1)}, but train, valid and test need one each: "
            "put a blank line after each document, or add more files"
        )
    share = default_share(total)
    order = numpy.argsort(keys, kind="stable")
    in_test = min(_take(order, counts, test_sentences or share), documents - 2)
    in_valid = min(_take(order[::-1], counts, valid_sentences or share), documents - 1 - in_test)
    parts = numpy.full(documents, TRAIN, numpy.uint8)
    parts[order[:in_test]] = TEST
    parts[order[documents - in_valid :]] = VALID
    for name, part, asked in (("valid", VALID, valid_sentences), ("test", TEST, test_sentences)):
        held = int(counts[parts == part].sum())
        if asked and held < asked:
            raise StageError(
                f"--{name}_sentences {asked} is too much for {total:,} sentences in {documents:,} documents "
                f"({held:,} could go to {name}): ask for fewer"
            )
    return parts
