"""Prose -> sentences; all Japanese here was written for these tests."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_ja import workers
from bert_ja.sentences import cut, split

LONG = "と" * 401

CASES = {
    # stops
    "a stop ends a sentence": ["茶は木である。", "葉を摘む。", "蒸す"],
    "several stops stay together": ["茶か。。。", "木だ。！", "葉だ！？", "根。"],
    "half-width stops end a sentence too": ["茶だ｡", "木だ｡"],
    "white space around sentences goes": ["茶。", "木。"],
    # quotations
    "stops in quotations end nothing": ["「飲む。摘む。」と言った。", "去った。"],
    "stops in parentheses end nothing": ["茶は木（葉は緑。花は白。）である。", "次。"],
    "brackets of other kinds count": ["『茶。木。』を“葉。根。”と【花。】と〈実。〉で読む。", "次。"],
    "brackets nest": ["「『茶。』は（木の。）本だ。」と言った。", "次。"],
    "a closing bracket stays behind its stop": ["茶だ（木だ。）。", "次。"],
    "a bracket that nobody opened stays behind its stop": ["茶だ。」", "木だ。）", "次。"],
    "a bracket that is never closed protects nothing": ["「茶だ。", "木だ。", "葉だ。"],
    "a bracket open for too long protects nothing": ["「茶だ。", f"{LONG}木だ。」", "葉だ。"],
    "a short quotation in a long one is still protected": ["（茶は「木。葉。」だ。", f"{LONG}。）", "次。"],
    "brackets that cross protect what they can": ["「茶（木。」葉。）", "次。"],
    "a remark in parentheses behind a stop stands alone": ["茶は木だ。", "（葉は緑だ。）", "花は白い。"],
    "a remark in parentheses ends before hiragana too": [
        "（葉は緑だ。）",
        "しかし花は白い。",
        "（木だ。）",
        "その茶。",
    ],
    "a remark that a particle follows goes on": ["（葉は緑だ。）と書く。", "(how are you?) を読む。"],
    "speech behind speech stands alone": ["「茶だ。」", "「木だ。」", "「葉だ。」と言う。"],
    "a run of quotations that a particle follows is one word": [
        "「茶だ。」「木だ。」などは短い。",
        "「葉だ。」「根だ。」の二つ。",
    ],
    # what parentheses add
    "what parentheses add belongs to what they follow": ["茶は木である。（2000年の調査による）", "草だ。（法三条）"],
    "a long addition too": ["茶は木である。（ただし、葉を摘まない年にはそうとは言えない）", "草もある。"],
    "who said it stands behind a quotation": ["「茶だ。」（太郎）", "「木だ。」（次郎）"],
    "what is short and no addition begins a sentence": ["飲む。", "（社団法人）茶会が開く。", "（左から）山田、田中。"],
    "a stop behind such parentheses too": ["茶は木である。（欠席四）。", "葉。"],
    "a label begins its sentence": [
        "順に述べる。",
        "（1）茶を摘む。",
        "（イ）葉を蒸す。",
        "(ii)飲む。",
        "（その3）終える。",
    ],
    "parentheses that begin a sentence stay there": [
        "葉。",
        "（）内は丘の名。",
        "（朝と同じく、）昼も飲む。",
    ],
    "a sentence in parentheses stands alone": ["茶は木である。", "（葉は緑である。）", "飲む。"],
    "a word of comparison begins a sentence": ["茶を飲む（三条）。", "より正確には、すする。"],
    # an ellipsis
    "an ellipsis behind a stop begins the next sentence": ["茶は木だ。", "……いや、草だ。"],
    "an ellipsis at the end, in a quotation and behind a mark stays": ["「茶だ。……」と言う。", "葉か！……", "根だ。……"],
    # question and exclamation marks
    "marks behind prose end a sentence": ["茶か？", "木だ！", "葉。"],
    "marks in names end nothing": ["ハイキュー!!を見る。", "Yahoo!ニュースを読む。", "サザンクロス！開幕。"],
    "a particle behind a mark goes on": ["らいおん！の歌と、なぜ？という本。"],
    "half-width marks need a space": ["茶か? ", "木だ!葉だ。"],
    "marks before a comma or a particle go on": ["えっ！、と驚く。", "茶だ！」と。", "茶だ！　と叫ぶ。"],
    "a mark before a word that begins like a particle ends a sentence": ["茶だ！　", "ところが木だ。"],
    "a closing bracket never begins a sentence": ["茶だ。 」", "木だ。　）」", "葉。"],
    # names with a stop
    "a particle behind a noun with a stop goes on": ["モーニング娘。の歌。", "娘。が歌う。", "娘。、踊る。"],
    "a known name goes on before anything": ["モーニング娘。OG会。", "ゲスの極み乙女。新曲。"],
    "a word that begins like a particle is a beginning": [
        "発表。",
        "のちに中止。",
        "開始。",
        "もともと無い。",
        "終了。",
        "とくに無い。",
    ],
    # dots
    "a full-width dot behind prose ends a sentence": ["茶である．", "木である．"],
    "numbers keep their dots": ["値は３．１４と3.14と八．五である。"],
    "addresses keep their dots": ["茶話.com と茶の間. jp を読む。"],
    "a dot before a particle goes on": ["Time (tea). と読む。"],
    "a western sentence ends before a capital": ["Tea is a plant.", "It grows. 茶。"],
    "abbreviations and initials end nothing": ["A. Sato et al. wrote, e.g. Tea, vol. 3. And so on."],
}
SPACES = {
    "white space around sentences goes": "\n　茶。 \t　木。 ",
    "a western sentence ends before a capital": "Tea is a plant. It grows. 茶。",
}


@pytest.mark.parametrize("name", CASES)
def test_split(name):
    assert split(SPACES.get(name, "".join(CASES[name]))) == [sentence.strip() for sentence in CASES[name]]


@pytest.mark.parametrize("text", ["", " ", "\n　\t"])
def test_nothing_has_no_sentences(text):
    assert split(text) == []


PIECES = ["茶", "る", "ハ", "a", "Z", "1", "。", "．", "！", "？", "!", "?", ".", "、", " ", "　", "の", "が", "と"]
PIECES += ["モーニング娘。", "ない。", "木" * 150, *"「」『』（）()〈〉“”〔〕[]｢｣"]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=80).map("".join)


def parted_only_by_space(pieces, text):
    """Tell whether `text` is these pieces in this order, with nothing but white space around them."""
    place = 0
    for piece in pieces:
        start = text.index(piece, place)
        if text[place:start].strip():
            return False
        place = start + len(piece)
    return not text[place:].strip()


@given(TEXTS)
def test_joined_sentences_are_the_paragraph(text):
    sentences = split(text)
    assert parted_only_by_space(sentences, text)
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


@given(TEXTS)
def test_no_sentence_begins_with_what_ends_one(text):
    for before, after in pairwise(split(text)):
        assert not re.match("[」』）)〉”〕]", after), (before, after)


@given(TEXTS)
def test_splitting_sentences_again_adds_no_space_and_loses_nothing(text):
    again = [part for sentence in split(text) for part in split(sentence)]
    assert parted_only_by_space(again, text)


PATHOLOGICAL = [
    "。（",
    "。（茶",
    "。（茶木葉）",
    "。…",
    "。 ",
    "「茶。」",
    "「",
    "」",
    "（「",
    "」。",
    "。",
    "。」",
    "「。」",
    "！",
    "!",
    "?茶",
    ".",
    "A. ",
    "あ. ",
    "abc. D",
    "娘。",
    "の。",
    "（あ。",
    " ",
    "あ",
]


@pytest.mark.parametrize("piece", PATHOLOGICAL)
def test_pathological_paragraphs_do_not_hang(piece):
    text = piece * 50_000
    with workers.cpu_limit(30):
        assert parted_only_by_space(split(text), text)
        assert parted_only_by_space(cut(text), text)


# ---------------------------------------------------------------- cut


def test_a_sentence_that_fits_is_not_cut():
    assert cut("茶、木、葉。", 18) == ["茶、木、葉。"]
    assert cut("a" * 4192) == ["a" * 4192]


@pytest.mark.parametrize(
    "sentence, pieces",
    [
        ("茶だ。木、葉だ。", ["茶だ。", "木、葉だ。"]),
        ("茶だ木；葉、根だ。", ["茶だ木；", "葉、根だ。"]),
        ("茶だ木、葉根だ。", ["茶だ木、", "葉根だ。"]),
        ("「茶木」葉根だよ。", ["「茶木」", "葉根だよ。"]),
        ("茶だ木 葉根だよ。", ["茶だ木", "葉根だよ。"]),
        ("茶木葉根花実種。", ["茶木葉根花", "実種。"]),
        ("茶木葉、」根花。", ["茶木葉、」", "根花。"]),
    ],
)
def test_a_sentence_is_cut_at_the_best_point(sentence, pieces):
    assert cut(sentence, 17) == pieces


def test_characters_of_four_bytes_are_never_cut():
    assert cut("𠮷𠮷茶", 5) == ["𠮷", "𠮷", "茶"]


def test_a_limit_below_one_character_is_refused():
    with pytest.raises(ValueError, match="max_bytes is 3; a character can need 4 bytes"):
        cut("茶", 3)


@given(TEXTS, st.integers(4, 60))
def test_pieces_fit_and_lose_nothing(text, max_bytes):
    pieces = cut(text, max_bytes)
    assert parted_only_by_space(pieces, text)
    assert all(0 < len(piece.encode()) <= max_bytes for piece in pieces)
