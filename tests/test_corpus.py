"""What becomes of each document of a corpus, and the report on it."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from bert_ja import corpus, draws, files, inventory
from bert_ja.cli import StageError
from bert_ja.corpus import NEAR_EMPTY, REPEATED, TEST, TRAIN, VALID
from bert_ja.documents import Writer
from bert_ja.filters import NONE, Filters
from bert_ja.inventory import Inventory

Document = tuple[int | str, list[str]]  # id, lines


def stream(documents: list[Document]):
    return (({"id": name}, iter(lines)) for name, lines in documents)


@contextlib.contextmanager
def planned(documents: list[Document], filters: Filters = NONE, valid=None, test=None, seed: int = 1):
    """The inventory of a corpus, and what becomes of its documents."""
    with tempfile.TemporaryDirectory() as folder:
        found = Inventory(Path(folder))
        found.take(stream(documents), filters, seed)
        found.count_repeats(filters.min_sentences)
        corpus.plan(found, filters, valid, test)
        yield found


def of_sizes(sizes: list[int]) -> list[Document]:
    return [(number, [f"{number}の話の{line}番目。" for line in range(size)]) for number, size in enumerate(sizes)]


def parts_of(documents: list[Document], *arguments, **options) -> list[int]:
    with planned(documents, *arguments, **options) as found:
        return found.parts().tolist()


# Split


def test_the_split_worked_by_hand(tmp_path):
    found = Inventory(tmp_path)
    rows = [(50, 5, 0), (10, 2, 0), (40, 9, 0), (20, 2, 0), (30, 7, 0), (60, 4, 0), (5, 1, 0), (70, 9, 8)]
    found._rows.write_bytes(np.array(rows, inventory.ROW).tobytes())
    # Without the near-empty and the repeated one, in order of keys: 2 2 7 9 5 4.
    # Test takes 2 + 2 >= 3 from the front, valid 4 + 5 >= 6 from the back.
    corpus.plan(found, Filters(min_sentences=2, max_repeated=0.5), 6, 3)
    assert found.parts().tolist() == [VALID, TEST, TRAIN, TEST, TRAIN, VALID, NEAR_EMPTY, REPEATED]


@pytest.mark.parametrize(
    "total, share", [(1, 1), (100, 1), (101, 2), (9_999_999, 100_000), (10_000_000, 500_000), (20_000_000, 500_000)]
)
def test_the_default_share_is_as_published_or_one_percent(total, share):
    assert corpus.default_share(total) == share


@examples(20)
@given(st.lists(st.integers(1, 20), min_size=3, max_size=100), st.integers(0, 5))
def test_each_part_has_a_document_and_its_share_where_the_corpus_can_give_it(sizes, seed):
    parts = np.array(parts_of(of_sizes(sizes), seed=seed))
    assert set(parts.tolist()) == {TRAIN, VALID, TEST}
    held = [int(np.array(sizes)[parts == part].sum()) for part in (VALID, TEST)]
    if len(sizes) > 20:
        assert min(held) >= corpus.default_share(sum(sizes))


def test_documents_that_come_later_leave_the_others_where_they_were():
    sizes = [3] * 2000
    before, after = parts_of(of_sizes(sizes)), parts_of(of_sizes(sizes + [3] * 20))
    assert sum(a != b for a, b in zip(before, after[:2000], strict=True)) <= 4


def test_another_seed_gives_another_split():
    documents = of_sizes([3] * 500)
    assert parts_of(documents, seed=1) == parts_of(documents, seed=1) != parts_of(documents, seed=2)


@pytest.mark.parametrize("number, word", [(0, "0 documents"), (1, "1 document"), (2, "2 documents")])
def test_fewer_than_three_documents_are_refused(number, word):
    with pytest.raises(StageError, match=f"^the corpus has {word}, but train, valid and test need one each: put a"):
        parts_of(of_sizes([4] * number))


def test_fewer_than_three_that_the_filters_leave_are_refused():
    with pytest.raises(StageError) as error:
        parts_of(of_sizes([4, 1, 1, 1, 4]), Filters())
    assert str(error.value) == (
        "the filters leave 2 of 5 documents (3 had fewer than 2 lines, 0 repeated others), but train, valid and test "
        "need one each: put a blank line after documents only, lower --min_sentences, or pass --filters none"
    )


def test_more_than_the_corpus_can_give_is_refused():
    with pytest.raises(
        StageError, match=r"^--test_sentences 90 is too much for 30 sentences in 10 documents \(24 could"
    ):
        parts_of(of_sizes([3] * 10), test=90)
    with pytest.raises(
        StageError, match=r"^--valid_sentences 28 is too much for 30 sentences in 10 documents \(24 could"
    ):
        parts_of(of_sizes([3] * 10), valid=28)


# Against the same in memory


def naive(documents: list[Document], filters: Filters, valid: int, test: int, seed: int):
    """The part of each document, the sentences of valid and of test that train has too, and what both hold."""
    left = [[line for line in lines if filters.fault(line) is None] for _, lines in documents]
    parts, earlier = [], set()
    for lines in left:
        repeated = sum(line in earlier for line in lines)
        if len(lines) < filters.min_sentences:
            parts.append(NEAR_EMPTY)
            continue
        parts.append(REPEATED if repeated > filters.max_repeated * len(lines) else TRAIN)
        earlier.update(lines)
    order = sorted(
        (number for number, part in enumerate(parts) if part == TRAIN),
        key=lambda number: (int(draws.key(seed, "split", documents[number][0])), number),
    )
    held = {TEST: 0, VALID: 0}
    for part, asked, spare in ((TEST, test, 2), (VALID, valid, 1)):
        while held[part] < asked and len(order) > spare:
            number = order.pop(0 if part == TEST else -1)
            parts[number] = part
            held[part] += len(left[number])
    train = {line for lines, part in zip(left, parts, strict=True) if part == TRAIN for line in lines}
    shared = [
        sum(line in train for lines, part in zip(left, parts, strict=True) if part == other for line in lines)
        for other in (VALID, TEST)
    ]
    return parts, shared, held


LINE = st.sampled_from(
    ["はい。", "いいえ。", "雨。", "風が吹く。", "雪が積もる。", "x", "S → 1", "日が照る。", "月。。"]
)
DOCUMENTS = st.lists(st.tuples(st.integers(0, 9), st.lists(LINE, min_size=1, max_size=6)), min_size=3, max_size=30)
FILTERS = st.builds(
    Filters, st.integers(1, 5), st.booleans(), st.integers(1, 3), st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.9, 1.0])
)


EVERYTHING = given(
    DOCUMENTS, FILTERS, st.integers(1, 2), st.integers(1, 2), st.sampled_from([1, 2, 5, 1 << 18]), st.integers(1, 9)
)


def compare(documents, filters, valid, test, block, bits):
    parts, shared, held = naive(documents, filters, valid, test, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory, "BLOCK", block)
        patch.setattr(corpus, "BUCKET_BITS", bits)
        if sum(part in (TRAIN, VALID, TEST) for part in parts) < 3 or held[TEST] < test or held[VALID] < valid:
            with pytest.raises(StageError, match="need one each|is too much for"):
                parts_of(documents, filters, valid, test, seed=3)
            return
        with planned(documents, filters, valid, test, seed=3) as found:
            assert found.parts().tolist() == parts
            assert found.count_shared(TRAIN, (VALID, TEST)) == shared


@examples(40)
@EVERYTHING
def test_it_is_what_a_program_finds_that_holds_all_in_memory(documents, filters, valid, test, block, bits):
    compare(documents, filters, valid, test, block, bits)


@pytest.mark.full
@examples(2000)
@EVERYTHING
def test_it_is_so_for_many_more_corpora(documents, filters, valid, test, block, bits):
    compare(documents, filters, valid, test, block, bits)


# Writing and the report


def memory_writers() -> list[Writer]:
    return [
        Writer(*(files.Output(io.BytesIO(), Path(part + end)) for end in (".txt", ".index.jsonl")))
        for part in corpus.PARTS
    ]


def text_of(writer: Writer) -> str:
    return writer.text.file.getvalue().decode()


STORY = [
    ("a", ["昔、男がいた。", "え？", "山に住んでいた。"]),
    ("b", ["S → 1", "空。"]),
    ("c", ["昔、男がいた。", "山に住んでいた。", "川で釣りをした。"]),
    ("d", ["海は青い。", "昔、男がいた。"]),
    ("e", ["鳥が鳴いた。", "森は静かだ。", "It rains."]),
    ("f", ["舟が出た。", "昔、男がいた。"]),
]


def test_what_is_written_and_the_report_on_it_by_hand():
    with planned(STORY, Filters(), 2, 2) as found:
        parts, writers, drawn = found.parts().tolist(), memory_writers(), corpus.Drawn(found, seed=1, size=4)
        removed = corpus.write(stream(STORY), found, Filters(), writers, drawn)
        report = corpus.report(writers, removed, Filters(), found, drawn)
    kept = {
        "a": "昔、男がいた。\n山に住んでいた。\n\n",
        "d": "海は青い。\n昔、男がいた。\n\n",
        "e": "鳥が鳴いた。\n森は静かだ。\n\n",
        "f": "舟が出た。\n昔、男がいた。\n\n",
    }
    assert [parts[1], parts[2]] == [NEAR_EMPTY, REPEATED]
    expected = [
        "".join(kept[name] for (name, _), p in zip(STORY, parts, strict=True) if p == part) for part in range(3)
    ]
    assert list(map(text_of, writers)) == expected
    assert report["filters"] == {
        "min_characters": {"value": 3, "documents": 0, "sentences": 2, "characters": 4},
        "japanese_only": {"value": True, "documents": 0, "sentences": 2, "characters": 14},
        "min_sentences": {"value": 2, "documents": 1, "sentences": 0, "characters": 0},
        "max_repeated": {"value": 0.5, "documents": 1, "sentences": 3, "characters": 23},
    }
    assert sum(part["documents"] for part in report["parts"].values()) == 4
    assert sum(part["sentences"] for part in report["parts"].values()) == 8
    assert sum(part["characters"] for part in report["parts"].values()) == 51
    first = {name for (name, _), part in zip(STORY, parts, strict=True) if part == TRAIN} & {"a", "d", "f"}
    for part in (VALID, TEST):
        has = "昔、男がいた。" in text_of(writers[part])
        assert report["parts"][corpus.PARTS[part]]["sentences_also_in_train"] == int(has and bool(first))
    lines = [line for lines in kept.values() for line in lines.split("\n") if line]
    assert len(report["random_sentences"]) == 4
    assert report["random_sentences"] == [
        line for number, line in enumerate(lines) if number in set(drawn_numbers(8, 4))
    ]


def drawn_numbers(total: int, size: int) -> list[int]:
    return draws.permutation(draws.key(1, "report"), np.arange(size), total).tolist()


def test_the_summary_by_hand():
    counts = {"documents": 1, "sentences": 1200, "characters": 9}
    record = {
        "corpus": {"name": "日記\n# x", "source": "机の\n上", "license": None, "dump": None, "private": False},
        "parts": {
            "train": counts | {"sentences_by_characters": {"4-7": 2, "128-255": 1}},
            "valid": counts | {"sentences_by_characters": {"16-31": 3}, "sentences_also_in_train": 5},
        },
        "filters": {"max_repeated": {"value": 0.5, "documents": 7, "sentences": 8, "characters": 1000}},
        "random_sentences": ["雨が降る。", "# 風が|吹く。"],
    }
    assert (
        corpus.summary(record)
        == """# Corpus 日記 # x

source: 机の 上

## Parts

| part | documents | sentences | characters | sentences also in train |
| --- | ---: | ---: | ---: | ---: |
| train | 1 | 1,200 | 9 |  |
| valid | 1 | 1,200 | 9 | 5 |

## Removed by the filters

| filter | value | documents | sentences | characters |
| --- | ---: | ---: | ---: | ---: |
| max_repeated | 0.5 | 7 | 8 | 1,000 |

## Sentences by their characters

| characters | train | valid |
| --- | ---: | ---: |
| 4-7 | 2 | 0 |
| 16-31 | 0 | 3 |
| 128-255 | 1 | 0 |

## Random sentences

    雨が降る。
    # 風が|吹く。
"""
    )
    del record["random_sentences"]
    assert corpus.summary(record).endswith("## Random sentences\n\nLeft out, the corpus is private.\n")


@pytest.mark.parametrize(
    "now",
    [
        STORY[:-1],
        [*STORY, ("g", ["月が出た。", "星も出た。"])],
        [*STORY[:-1], ("f", ["舟が出た。"])],
        [*STORY[:1], ("b", ["S → 1", "空は青い。"]), *STORY[2:]],
    ],
    ids=["a document less", "one more", "a sentence less", "a sentence more in one that goes"],
)
def test_texts_that_change_between_the_passes_are_refused(now):
    with (
        planned(STORY, Filters(), 2, 2) as found,
        pytest.raises(StageError, match="^the texts changed while they were read: run the command again"),
    ):
        corpus.write(stream(now), found, Filters(), memory_writers())


def test_a_document_of_any_length_goes_through_in_pieces(monkeypatch):
    """Neither the hashes nor the drawn sentences need a whole document at once."""
    monkeypatch.setattr(inventory, "BLOCK", 4)
    documents = of_sizes([50, 3, 3])
    with planned(documents) as found:
        assert found.rows()["sentences"].tolist() == [50, 3, 3]
        drawn, writers = corpus.Drawn(found, seed=1, size=56), memory_writers()
        corpus.write(stream(documents), found, NONE, writers, drawn)
    assert drawn.sentences == [line for _, lines in documents for line in lines]
