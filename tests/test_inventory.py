"""The first pass: what is kept of documents and sentences, and where sentences stand twice."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bert_ja import draws, inventory
from bert_ja.filters import NONE, Filters
from bert_ja.inventory import Inventory

RAIN, WIND, SNOW, SUN = "雨が降る。", "風が吹く。", "雪が積もる。", "日が照る。"
CORPUS = [
    [RAIN, WIND, RAIN],  # RAIN twice in one document is no repetition
    [WIND, SNOW],
    [SUN],  # too short, so that it repeats nothing and nothing repeats it
    [SUN, RAIN, RAIN, SNOW],
    [RAIN, SUN],
]


def take(folder: Path, documents: list[list[str]], filters: Filters) -> Inventory:
    found = Inventory(folder)
    found.take((({"id": number}, iter(lines)) for number, lines in enumerate(documents)), filters, seed=1)
    return found


def test_sentences_that_stood_in_an_earlier_document_are_counted(tmp_path):
    found = take(tmp_path, CORPUS, Filters())
    found.count_repeats(min_sentences=2)
    assert found.rows()["sentences"].tolist() == [3, 2, 1, 4, 2]
    assert found.rows()["repeated"].tolist() == [0, 1, 0, 3, 2]
    assert found.rows()["key"].tolist() == [int(draws.key(1, "split", number)) for number in range(5)]


def test_lines_that_a_filter_removes_count_nowhere(tmp_path):
    found = take(tmp_path, [["S → 1", RAIN], ["S → 1", "え？", "え？"], ["え？", RAIN]], Filters())
    found.count_repeats(min_sentences=1)
    assert found.rows()["sentences"].tolist() == [1, 0, 1]
    assert found.rows()["repeated"].tolist() == [0, 0, 1]


def test_sentences_of_other_parts_that_one_part_has_too_are_counted(tmp_path):
    found = take(tmp_path, CORPUS, Filters())
    found.write_parts([np.array([0, 1], np.uint8), np.array([9, 2, 1], np.uint8)])
    # part 0 has RAIN and WIND; part 1 WIND, SNOW, RAIN, SUN; part 2 SUN, RAIN, RAIN, SNOW
    assert found.count_shared(0, (1, 2)) == [2, 2]
    assert found.count_shared(1, (0, 2)) == [3, 4]


def test_an_empty_corpus_has_no_rows(tmp_path):
    found = take(tmp_path, [], NONE)
    found.count_repeats(min_sentences=1)
    assert len(found.rows()) == 0
    assert list(found.partitions()) == []


@pytest.mark.parametrize("partitions, block", [(1, 1), (256, 1), (4, 3), (1, 1 << 18)])
def test_neither_partitions_nor_blocks_change_what_is_found(tmp_path, monkeypatch, partitions, block):
    lines = [f"{number % 37}番目の文である。" for number in range(400)]
    documents = [lines[start : start + 1 + start % 11] for start in range(0, 380, 3)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = take(tmp_path / "a", documents, NONE)
    expected.count_repeats(min_sentences=2)
    monkeypatch.setattr(inventory, "PARTITIONS", partitions)
    monkeypatch.setattr(inventory, "BLOCK", block)
    found = take(tmp_path / "b", documents, NONE)
    found.count_repeats(min_sentences=2)
    assert found.rows().tolist() == expected.rows().tolist()
    assert (tmp_path / "a" / "documents").read_bytes() == (tmp_path / "b" / "documents").read_bytes()
    assert sum(found.rows()["repeated"]) > 100
    for one in (expected, found):
        one.write_parts([(np.arange(len(documents)) % 3).astype(np.uint8)])
    assert found.count_shared(0, (1, 2)) == expected.count_shared(0, (1, 2))


def test_memory_does_not_grow_with_a_sentence_that_stands_there_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "BLOCK", 1 << 12)
    documents = 20_000
    found = take(tmp_path, [[RAIN] * 10] * documents, NONE)  # all in one partition: 200,000 entries, 2.4 MB
    found.write_parts([(np.arange(documents) % 3).astype(np.uint8)])
    tracemalloc.start()
    found.count_repeats(min_sentences=1)
    assert found.count_shared(0, (1, 2)) == [66_670, 66_660]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rows()["repeated"].tolist() == [0] + [10] * (documents - 1)
    assert peak < 1_000_000
