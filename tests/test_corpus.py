"""The split of a corpus."""

import array
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_ja import corpus, documents
from bert_ja.cli import StageError

TEXT = "朝が来た。\n鳥が鳴く。\n\n\n \n昼になった。\n\n夜は静かだ。\n星が出る。\n"


def read(path: Path) -> list[tuple[dict, list[str]]]:
    return [(row, list(sentences)) for row, sentences in documents.documents(path)]


def write_index(text: Path, *rows: dict) -> None:
    documents.index_path(text).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# Split


def parts_of(sizes: list[int], seed: int = 1, valid: int | None = None, test: int | None = None) -> list[int]:
    from bert_ja import draws

    keys = array.array("Q", [int(draws.key(seed, "split", number)) for number in range(len(sizes))])
    return corpus.split(keys, array.array("q", sizes), valid, test).tolist()


def test_the_split_worked_by_hand():
    keys = array.array("Q", [50, 10, 40, 20, 30, 60])
    counts = array.array("q", [5, 2, 9, 2, 7, 4])
    # in order of keys: 2 2 7 9 5 4; test takes 2 + 2 >= 3 from the front, valid 4 + 5 >= 6 from the back
    assert corpus.split(keys, counts, 6, 3).tolist() == [1, 2, 0, 2, 0, 1]


@pytest.mark.parametrize(
    "total, share", [(1, 1), (100, 1), (101, 2), (9_999_999, 100_000), (10_000_000, 500_000), (20_000_000, 500_000)]
)
def test_the_default_share_is_as_published_or_one_percent(total, share):
    assert corpus.default_share(total) == share


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=3, max_size=200), st.integers(0, 5))
def test_each_part_has_a_document_and_its_share_where_the_corpus_can_give_it(sizes, seed):
    parts = np.array(parts_of(sizes, seed))
    assert set(parts.tolist()) == {corpus.TRAIN, corpus.VALID, corpus.TEST}
    held = [int(np.array(sizes)[parts == part].sum()) for part in (corpus.VALID, corpus.TEST)]
    if len(sizes) > 20:
        assert min(held) >= corpus.default_share(sum(sizes))


def test_documents_that_come_later_leave_the_others_where_they_were():
    sizes = [3] * 2000
    before, after = parts_of(sizes), parts_of(sizes + [3] * 20)
    assert sum(a != b for a, b in zip(before, after[:2000], strict=True)) <= 4


def test_another_seed_gives_another_split():
    assert parts_of([3] * 500, seed=1) == parts_of([3] * 500, seed=1) != parts_of([3] * 500, seed=2)


@pytest.mark.parametrize("number, word", [(0, "0 documents"), (1, "1 document"), (2, "2 documents")])
def test_fewer_than_three_documents_are_refused(number, word):
    with pytest.raises(StageError, match=f"^the corpus has {word}, but train, valid and test need one each: put a"):
        parts_of([4] * number)


def test_more_than_the_corpus_can_give_is_refused():
    with pytest.raises(
        StageError, match=r"^--test_sentences 90 is too much for 30 sentences in 10 documents \(24 could"
    ):
        parts_of([3] * 10, test=90)
    with pytest.raises(
        StageError, match=r"^--valid_sentences 28 is too much for 30 sentences in 10 documents \(24 could"
    ):
        parts_of([3] * 10, valid=28)
