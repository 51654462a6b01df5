"""What a text asks of every model: drawn by line numbers and words, never by a tokenizer."""

from collections import Counter

import numpy as np
import pytest
from texts import text

from bert_ja import encoding, text_questions
from bert_ja.cli import StageError
from bert_ja.text_questions import document_starts, draw_pairs, draw_sentences, words_of


@pytest.fixture(scope="module")
def analyser():
    return encoding.Analyser()


def write(folder, content: str):
    path = folder / "a.txt"
    path.write_text(content)
    return path


def test_sentences_are_numbered_through_and_documents_by_their_first(tmp_path):
    path = write(tmp_path, "\n一\n 二 \n\n \n三\n\n四\n五")
    assert document_starts(path).tolist() == [0, 2, 3, 5]
    assert text_questions.read(path, [1, 4]) == {1: "二", 4: "五"}


def test_a_text_of_blank_lines_is_refused(tmp_path):
    path = write(tmp_path, "\n \n\u3000\n")
    with pytest.raises(StageError, match="holds no sentence, only blank lines: name a text"):
        document_starts(path)


def test_words_stand_where_they_do_in_the_text_that_was_not_normalised(analyser):
    line = "ｶﾞﾗｽは　東京㌔に、美しく割れた。"
    words = words_of(analyser, line)
    assert [(line[word.start : word.end], word.kind) for word in words] == [
        *(("ｶﾞﾗｽ", "名詞"), ("は", "助詞"), ("東京", "名詞"), ("㌔", "名詞"), ("に", "助詞"), ("、", "補助記号")),
        *(("美しく", "形容詞"), ("割れ", "動詞"), ("た", "助動詞"), ("。", "補助記号")),
    ]
    assert [word.is_content for word in words] == [True, False, True, True, False, False, True, True, False, False]


def test_drawn_sentences_are_the_same_each_time_and_others_for_another_seed(tmp_path, analyser):
    path = write(tmp_path, text(60, seed=1))
    starts = document_starts(path)
    every = draw_sentences(path, starts, None, 7, analyser)
    some = draw_sentences(path, starts, 40, 7, analyser)
    assert [sentence.text for sentence in every] == path.read_text().split()
    assert len(some) == 40
    assert some == [sentence for sentence in every if sentence in some]  # in order, asked for the same words
    assert some == draw_sentences(path, starts, 40, 7, analyser) != draw_sentences(path, starts, 40, 8, analyser)
    asked = [sentence.words.index(sentence.asked) for sentence in every]
    assert max(Counter(asked).values()) < len(asked) / 2  # not always the first word
    assert all(sentence.asked.kind != "補助記号" for sentence in every)


def test_a_line_of_marks_asks_for_nothing_and_a_huge_one_is_not_analysed(tmp_path, analyser):
    path = write(tmp_path, "。。！\n" + "あ" * 9000 + "\n")
    marks, huge = draw_sentences(path, document_starts(path), None, 0, analyser)
    assert (marks.asked, huge.words, len(huge.text)) == (None, (), 9000)


def test_half_of_the_pairs_follow_and_the_others_are_of_another_document(tmp_path):
    documents = [[f"文{document}の{line}" for line in range(1 + document % 4)] for document in range(40)]
    path = write(tmp_path, "\n\n".join("\n".join(lines) for lines in documents) + "\n")
    starts = document_starts(path)
    pairs = draw_pairs(path, starts, None, 5)
    following = {pair for lines in documents for pair in zip(lines, lines[1:], strict=False)}
    assert sorted(pair.first for pair in pairs) == sorted(first for first, _ in following)
    assert [pair.label for pair in pairs] == [0, 1] * (len(following) // 2)
    for pair in pairs:
        same = pair.first.partition("の")[0] == pair.second.partition("の")[0]
        assert ((pair.first, pair.second) in following) == same == (pair.label == 0)
    assert len({pair.second for pair in pairs if pair.label}) > len(following) / 4
    assert draw_pairs(path, starts, 6, 5) == pairs[:6] != draw_pairs(path, starts, 6, 6)


def test_the_others_of_a_single_document_are_lines_that_do_not_follow(tmp_path):
    path = write(tmp_path, "甲\n乙\n丙\n")
    starts, seconds = document_starts(path), set()
    for seed in range(30):
        first, other = draw_pairs(path, starts, None, seed)
        assert (first.first + first.second, first.label) in (("甲乙", 0), ("乙丙", 0))
        seconds.add((other.first, other.second, other.label))
    assert seconds == {("甲", "丙", 1), ("乙", "甲", 1)}


@pytest.mark.parametrize("content", ["甲\n\n乙\n\n丙\n", "甲\n乙\n"])
def test_a_text_that_has_no_pairs_of_both_kinds_gives_none(tmp_path, content):
    path = write(tmp_path, content)
    assert draw_pairs(path, document_starts(path), 10, 0) == []


def test_random_lines_are_all_others_alike_likely(tmp_path):
    starts = np.array([0, 3, 5, 9])
    firsts, documents = np.repeat([0, 3, 8], 3000), np.repeat([0, 1, 2], 3000)
    drawn = text_questions._others(firsts + 9 * np.arange(9000), documents, starts, np.uint64(4))
    for number, outside in enumerate(([3, 4, 5, 6, 7, 8], [0, 1, 2, 5, 6, 7, 8], [0, 1, 2, 3, 4])):
        counts = Counter(drawn[3000 * number : 3000 * (number + 1)].tolist())
        assert sorted(counts) == outside
        assert min(counts.values()) > 0.8 * 3000 / len(outside)
