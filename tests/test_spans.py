"""Answers in a context: characters to tokens and windows, and back to characters."""

import numpy as np
import pytest
from conftest import shared
from texts import SPECIAL, write_tokenizer, write_wordpiece

from bert_ja import jglue, spans, tokenization
from bert_ja.jglue import Answer, Example

# Tokens of "東京都は首都": 東京都 | は | 首都
BORDERS = np.array([(0, 3), (3, 4), (4, 6)])
CONTEXT = "東京都は首都"


@pytest.mark.parametrize(
    ("answer", "tokens", "reachable"),
    [
        (Answer("首都", 4), (2, 2), True),
        (Answer("東京都は", 0), (0, 1), True),
        (Answer("東京", 0), (0, 0), False),
        (Answer("都は首", 2), (0, 2), False),
    ],
)
def test_an_answer_is_reached_where_tokens_begin_and_end_with_it(answer, tokens, reachable):
    assert spans.covering(BORDERS, answer.start, answer.start + len(answer.text)) == tokens
    assert spans.is_reachable(CONTEXT, BORDERS, answer) is reachable


def test_an_answer_is_reached_where_scores_see_no_difference():
    """A token "東京。" gives 東京, as scores leave 。 at an end out."""
    assert spans.is_reachable("東京。", np.array([(0, 3)]), Answer("東京", 0))


def test_an_answer_in_what_no_token_shows_is_not_reached():
    assert not spans.is_reachable("東 京", np.array([(0, 1), (2, 3)]), Answer(" ", 1))


def test_the_likeliest_span_ends_where_it_begins_or_later_and_is_not_too_long():
    starts, ends = np.array([0.0, 5.0, 1.0, 0.0]), np.array([9.0, 0.0, 0.0, 3.0])
    assert spans.likeliest(starts, ends) == (9.0, 0, 0)  # and not 14 from 1 back to 0
    assert spans.likeliest(starts, np.array([0.0, 0.0, 0.0, 3.0])) == (8.0, 1, 3)
    assert spans.likeliest(starts, np.array([0.0, 0.0, 0.0, 3.0]), longest=2) == (5.0, 1, 1)
    assert spans.likeliest(np.zeros(3), np.zeros(3)) == (0.0, 0, 0)


def windows_of(*borders) -> list[spans.Window]:
    return [spans.Window(0, 2, np.array(each).reshape(-1, 2)) for each in borders]


EXAMPLE = Example(("首都は？", CONTEXT), (Answer("東京都", 0),))


def test_the_answer_is_the_text_of_the_best_window():
    logits = [
        (np.array([9.0, 9, 1, 0, 0, 9]), np.array([9.0, 9, 0, 2, 0, 9]))
    ]  # [CLS], [SEP] and what is behind do not count
    assert spans.answers([EXAMPLE], windows_of(BORDERS), logits) == ["東京都は"]
    better = np.array([0.0, 0, 0, 5]), np.array([0.0, 0, 0, 5])
    assert spans.answers([EXAMPLE], windows_of(BORDERS, BORDERS[1:]), [*logits, better]) == ["首都"]


def test_a_window_without_tokens_of_the_context_gives_an_empty_answer():
    assert spans.answers([EXAMPLE, EXAMPLE], windows_of([]), [(np.zeros(3), np.zeros(3))]) == ["", ""]


def test_logits_that_are_not_finite_give_no_answer():
    with pytest.raises(ValueError, match="not finite"):
        spans.answers([EXAMPLE], windows_of(BORDERS), [(np.array([0.0, 0, np.nan, 0, 0]), np.zeros(5))])


@pytest.fixture(scope="module", params=["sentencepiece", "mecab"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / request.param
    if request.param == "mecab":
        pytest.importorskip("fugashi")
        pieces = [
            *SPECIAL,
            "東京",
            "##都",
            "都",
            "は",
            "首都",
            "？",
            "日本",
            "の",
            "。",
        ]
        write_wordpiece(folder, pieces)
    else:
        write_tokenizer(folder, ["東京都は日本の首都。", "首都は？", "日本の東京"] * 20, 20)
    return tokenization.load_tokenizer(folder)


LONG = "東京は日本の首都。" * 40 + "日本の都は東京。"


def test_windows_show_all_of_a_context_and_overlap(tokenizer):
    reader = spans.Reader(tokenizer, 2, 64)
    example = Example(("首都は？", LONG), (Answer("都は東京", LONG.index("都は東京")),))
    found = reader.windows(3, example)
    ids, borders = reader.context(LONG)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    question = tokenizer("首都は？", add_special_tokens=False)["input_ids"]
    for row, window in found:
        assert len(row["input_ids"]) <= 64
        assert len(set(map(len, (row["input_ids"], row["token_type_ids"], row["attention_mask"])))) == 1
        assert row["input_ids"][: window.before] == [cls, *question, sep]
        assert row["input_ids"][-1] == sep
        assert row["token_type_ids"] == [0] * window.before + [1] * (len(window.borders) + 1)
        shown = row["input_ids"][window.before : -1]
        first = next(at for at in range(len(ids)) if tuple(borders[at]) == tuple(window.borders[0]))
        assert shown == ids[first : first + len(shown)]
    places = [window.borders[0, 0] for _, window in found]
    ends = [window.borders[-1, 1] for _, window in found]
    assert places[0] == 0 and ends[-1] == len(LONG)
    assert all(start < end for start, end in zip(places[1:], ends[:-1], strict=True))  # they overlap


def test_the_target_of_a_window_is_the_answer_or_cls(tokenizer):
    reader = spans.Reader(tokenizer, 2, 64)
    answer = Answer("都は東京", LONG.index("都は東京"))
    found = reader.windows(0, Example(("首都は？", LONG), (answer,)))
    assert (found[0][0]["start_positions"], found[0][0]["end_positions"]) == (0, 0)
    row, window = found[-1]
    first, last = (row[name] - window.before for name in ("start_positions", "end_positions"))
    assert LONG[window.borders[first, 0] : window.borders[last, 1]] == "都は東京"


def test_what_is_predicted_from_perfect_logits_is_the_answer(tokenizer):
    reader = spans.Reader(tokenizer, 2, 64)
    borders = reader.context(LONG)[1]
    start, end = borders[-4, 0], borders[-2, 1]  # three tokens near the end
    example = Example(("首都は？", LONG), (Answer(LONG[start:end], start),))
    found = reader.windows(0, example)
    logits = []
    for row, _ in found:
        starts, ends = np.zeros(64), np.zeros(64)
        starts[row["start_positions"]], ends[row["end_positions"]] = 1, 1
        logits.append((starts, ends))
    assert spans.answers([example], [window for _, window in found], logits) == [LONG[start:end]]


def test_a_question_too_long_leaves_half_of_the_room_to_the_context(tokenizer):
    found = spans.Reader(tokenizer, 2, 32).windows(0, Example(("首都は？" * 40, LONG), (Answer("東京", 0),)))
    row, window = found[0]
    assert len(row["input_ids"]) == 32
    assert window.before == 16
    assert row["input_ids"][window.before - 1] == tokenizer.sep_token_id


def test_compatibility_characters_are_reached_in_the_text_as_it_stands(tokenizer):
    """NFKC makes ㈱ three characters: what is predicted is still the one that stands there."""
    text = "東京は㈱都。"
    reader = spans.Reader(tokenizer, 2, 64)
    example = Example(("首都は？", text), (Answer("東京", 0),))
    ((row, window),) = reader.windows(0, example)
    assert text[window.borders[row["start_positions"] - window.before, 0] :].startswith("東京")
    assert all(0 <= start <= end <= len(text) for start, end in window.borders)


@pytest.mark.full
def test_real_answers_come_back_from_their_own_tokens(tmp_path):
    """All of JSQuAD's valid set: perfect logits score 1 but for answers that are unreachable or too long."""
    path = shared("data", "jglue", "jsquad-v1.3", "valid-v1.3.json")
    examples = jglue.read(jglue.TASKS["jsquad"], path)
    lines = list({example.texts[1] for example in examples})
    tokenizer = tokenization.load_tokenizer(write_tokenizer(tmp_path / "model", lines, 4000))
    reader = spans.Reader(tokenizer, 2, 384)
    found = [each for number, example in enumerate(examples) for each in reader.windows(number, example)]
    logits = []
    for row, _ in found:
        starts, ends = np.zeros(len(row["input_ids"])), np.zeros(len(row["input_ids"]))
        starts[row["start_positions"]], ends[row["end_positions"]] = 1, 1
        logits.append((starts, ends))
    said = spans.answers(examples, [window for _, window in found], logits)
    first = [text for text, example in zip(said, examples, strict=True) if example.label[0].text != text]
    unreachable = sum(not spans.is_reachable(e.texts[1], reader.context(e.texts[1])[1], e.label[0]) for e in examples)
    assert 0 < unreachable < 0.5 * len(examples)
    assert unreachable * 0.9 <= len(first) <= unreachable + 100  # more than 30 tokens, or an equal text elsewhere
