"""What is not worth training on: each filter by hand."""

import pytest

from bert_ja.filters import NONE, Filters, Removed


@pytest.mark.parametrize(
    "line", ["はい。", "「え」", "東京都", "第1条", "ｱｲｳ", "AのB", "〆切り", "𠮟るx", "1月1", "々々々", "ㇰㇻx"]
)
def test_a_line_of_three_characters_with_kana_or_kanji_stays(line):
    assert Filters().fault(line) is None


@pytest.mark.parametrize("line", ["え？", "十九", "県", "――", "SI"])
def test_a_shorter_line_goes(line):
    assert Filters().fault(line) == "min_characters"


@pytest.mark.parametrize(
    "line",
    [
        "……………",
        "＊　　＊　　＊",
        "S → 1 + S",
        "It rains.",
        "１２３。",
        "ーーー",
        "・・・",
        "김치가 있다",
        "Дождь.",
        "「……」",
        "ﾞﾟｰ",
    ],
)
def test_a_line_without_kana_or_kanji_goes(line):
    assert Filters().fault(line) == "japanese_only"


def test_each_value_moves_its_border():
    assert Filters(min_characters=5).fault("はい。。") == "min_characters"
    assert Filters(min_characters=4).fault("はい。。") is None
    assert Filters(japanese_only=False).fault("abc") is None
    assert [NONE.fault(line) for line in ("a", "。", "え？")] == [None] * 3


LINES = ["雨が降る。", "え？", "It rains.", "風が吹く。", "S → 1"]


def test_lines_that_stay_are_the_same_counted_or_not():
    removed = Removed()
    assert list(Filters().lines(LINES)) == list(Filters().sift(LINES, removed)) == ["雨が降る。", "風が吹く。"]
    assert removed.counts == {
        "min_characters": {"documents": 0, "sentences": 1, "characters": 2},
        "japanese_only": {"documents": 0, "sentences": 2, "characters": 14},
        "min_sentences": {"documents": 0, "sentences": 0, "characters": 0},
        "max_repeated": {"documents": 0, "sentences": 0, "characters": 0},
    }


def test_a_document_goes_with_the_lines_that_were_left_of_it():
    removed = Removed()
    assert removed.add_document("max_repeated", Filters().sift(LINES, removed)) == 2
    assert removed.add_document("min_sentences", []) == 0
    assert removed.counts["max_repeated"] == {"documents": 1, "sentences": 2, "characters": 10}
    assert removed.counts["min_sentences"] == {"documents": 1, "sentences": 0, "characters": 0}
    assert removed.counts["japanese_only"]["sentences"] == 2
