"""Tokens to characters of the original text, for tokenizers with offsets and without."""

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from texts import SPECIAL, text, write_wordpiece

from bert_ja import alignment, continuing, tokenization
from bert_ja.alignment import normalised, offsets

PIECES = [
    *SPECIAL,
    "東京",
    "##都",
    "に",
    "の",
    "行く",
    "。",
    "abc",
    "##def",
    "cafe",
]
PIECES += ["カ", "##ラス", "キロ", "が", "か", "##き", "猫"]
MECAB = {
    "東京都に行く。": [("東京", 0, 2), ("[UNK]", 2, 3), ("に", 3, 4), ("行く", 4, 6), ("。", 6, 7)],
    "  東京　に　行く": [("東京", 2, 4), ("に", 5, 6), ("行く", 7, 9)],
    "ＡＢＣＤＥＦは㌔。": [("abc", 0, 3), ("##def", 3, 6), ("[UNK]", 6, 7), ("キロ", 7, 8), ("。", 8, 9)],
    "大いなる都の猫たち": [("[UNK]", 0, 4), ("[UNK]", 4, 5), ("の", 5, 6), ("猫", 6, 7), ("[UNK]", 7, 9)],
    "ｶﾗｽがか\u3099。": [("カ", 0, 1), ("##ラス", 1, 3), ("が", 3, 4), ("が", 4, 6), ("。", 6, 7)],
    "[UNK]に[MASK]に": [("[UNK]", 0, 5), ("に", 5, 6), ("[MASK]", 6, 12), ("に", 12, 13)],
    "": [],
    " \u200b": [("[UNK]", 2, 2)],
}


@pytest.fixture(scope="module")
def mecab(tmp_path_factory):
    """A tokenizer of the Tohoku kind that drops capitals."""
    folder = write_wordpiece(tmp_path_factory.mktemp("mecab"), PIECES, do_lower_case=True)
    return tokenization.load_tokenizer(folder)


@pytest.fixture(scope="module")
def fast(words):
    return tokenization.load_tokenizer(words)


class Accents:
    """A slow tokenizer without words of its own that strips accents and drops commas, as some of the Hub do."""

    is_fast, unk_token_id, all_special_tokens = False, 0, ["[UNK]"]
    pieces = ["[UNK]", "cafe", "は", "か", "!", "no", "##re"]

    def __call__(self, line, **options):
        return {"input_ids": [self.pieces.index(piece) for piece in self.cut[line]]}

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[number] for number in ids]

    cut = {
        "Caféはが!": ["cafe", "は", "か", "!"],
        "no,re 山山 café": ["no", "##re", "[UNK]", "cafe"],
        "山川": ["[UNK]", "[UNK]"],
        "山川岳": ["[UNK]", "[UNK]"],
    }


def named(tokenizer, line: str) -> list[tuple[str, int, int]]:
    ids, spans = offsets(tokenizer, line)
    return [(piece, *span) for piece, span in zip(tokenizer.convert_ids_to_tokens(ids), spans, strict=True)]


@pytest.mark.parametrize("line", MECAB)
def test_tokens_of_mecab_and_wordpiece_stand_where_their_letters_do(mecab, line):
    assert named(mecab, line) == MECAB[line]


def test_a_tokenizer_without_words_is_aligned_by_its_pieces_alone():
    assert named(Accents(), "Caféはが!") == [("cafe", 0, 4), ("は", 4, 5), ("か", 5, 6), ("!", 6, 7)]
    assert named(Accents(), "no,re 山山 café") == [("no", 0, 2), ("##re", 3, 5), ("[UNK]", 6, 8), ("cafe", 9, 13)]
    assert named(Accents(), "山川") == [("[UNK]", 0, 1), ("[UNK]", 1, 2)]
    assert named(Accents(), "山川岳") == [("[UNK]", 0, 3), ("[UNK]", 0, 3)]  # nothing tells which is which


def test_a_fast_tokenizer_says_it_itself(fast):
    line = "祖母は 庭で赤い傘を"
    ids, spans = offsets(fast, line)
    encoded = fast(line, add_special_tokens=False, return_offsets_mapping=True)
    assert (ids, spans) == (encoded["input_ids"], encoded["offset_mapping"])
    assert spans[0][0] == 0 and spans[-1][1] == len(line)


def test_normal_forms_know_where_their_characters_come_from():
    assert normalised("ｶﾞ㌔") == ("ガキロ", [(0, 2), (2, 3), (2, 3)])
    assert normalised("東京") == ("東京", [(0, 1), (1, 2)])
    assert normalised("は\u309ae\u0301①") == ("ぱé1", [(0, 2), (2, 4), (4, 5)])
    assert normalised("") == ("", [])


def test_slow_tokens_of_hard_lines_stand_in_order_and_cover_their_letters(mecab):
    """Every line: in order, within the line, and a known token's letters are those of its characters."""
    for line in continuing.LINES:
        ids, spans = offsets(mecab, line)
        for piece, (start, end) in zip(mecab.convert_ids_to_tokens(ids), spans, strict=True):
            letters = alignment._folded(line[start:end], True)[0]
            assert piece in ("[UNK]",) or alignment._literal(piece, True) in letters
        assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in itertools.pairwise(spans))
        covered = {place for span in spans for place in range(*span)}
        left = [line[place] for place in range(len(line)) if place not in covered and alignment.is_seen(line[place])]
        assert left == [], line


ALPHABET = "東京都に行く。 のａＢCabcdefカラスｶﾞ㌔がか\u3099\u309a 猫たち山café①\u3000[UNK]▁#"


@examples(150)
@given(line=st.text(ALPHABET, max_size=25))
def test_spans_are_in_order_and_within_any_line(mecab, fast, line):
    for tokenizer in (mecab, fast):
        ids, spans = offsets(tokenizer, line)
        assert len(ids) == len(spans)
        assert all(0 <= start <= end <= len(line) for start, end in spans)
        assert spans == sorted(spans)


@examples(200)
@given(line=st.text(st.one_of(st.sampled_from(ALPHABET), st.characters(codec="utf-8")), max_size=20))
def test_normal_forms_are_those_of_the_whole_text(line):
    normal, spans = normalised(line)
    assert normal == unicodedata.normalize("NFKC", line)
    assert len(normal) == len(spans)
    assert spans == sorted(spans)


def test_the_tokenizer_of_a_text_finds_the_same_letters_again(fast):
    for line in text(20).split():
        ids, spans = offsets(fast, line)
        assert [line[slice(*span)] for span in spans] == [fast.convert_ids_to_tokens(token) for token in ids]


def test_both_tokenizers_give_ids_without_special_tokens(mecab, fast):
    for tokenizer in (mecab, fast):
        ids, _ = offsets(tokenizer, "東京に行く。")
        assert not {tokenizer.cls_token_id, tokenizer.sep_token_id} & set(ids)
