"""The measures by hand: a model whose probabilities are known, under tokenizers that cut the same text differently."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from texts import text, write_tokenizer, write_wordpiece

from bert_ja import encoding, model_folder, text_measures, text_questions, tokenization
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining
from bert_ja.scoring import Guesses, MaskedModel
from bert_ja.text_measures import UNSEEN_BITS, fillings, measure, tokens_of
from bert_ja.text_questions import Pair, Sentence

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = sorted(set("東京都に行く。猫たちが静かに歩いた"))
FINE, COARSE = "letters", "words"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict:
    """MeCab's words in letters, and in few pieces."""
    folder = tmp_path_factory.mktemp("tokenizers")
    fine = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    coarse = [*SPECIAL, "東京", "都", "に", "行く", "。", "猫", "たち", "が", "静", "##か", "歩い", "た"]
    folders = {FINE: write_wordpiece(folder / FINE, fine), COARSE: write_wordpiece(folder / COARSE, coarse)}
    return {name: tokenization.load_tokenizer(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def analyser():
    return encoding.Analyser()


def sentence(analyser, line: str, asked: str | None = None) -> Sentence:
    words = text_questions.words_of(analyser, line)
    found = next((word for word in words if line[word.start : word.end] == asked), None)
    return Sentence(line, words, found)


class Known:
    """In the place of a model: `bits(row, place)` of each truth; `likely` at every place that is to be guessed."""

    name, no_second_task, before, behind, mask, longest = "known", "known has no head", [2], [3], 4, 100

    def __init__(self, tokenizer, bits, likely=()):
        self.tokenizer, self.bits, self.likely, self.rows = tokenizer, bits, list(likely), []

    def row(self, ids):
        return np.array([*self.before, *ids, *self.behind])

    def log_probabilities(self, rows):
        self.rows += rows
        return [np.array([-self.bits(row, place) * math.log(2) for place in row.places]) for row in rows]

    def guesses(self, rows, k):
        ids = self.tokenizer.convert_tokens_to_ids(self.likely)[:k]
        falling = -np.arange(1, len(ids) + 1, dtype=np.float64)
        return [Guesses(np.tile(falling, (len(row.places), 1)), np.tile(ids, (len(row.places), 1))) for row in rows]


def masks(row, place) -> int:
    return int((row.ids == 4).sum())


def shown(known: Known, row) -> str:
    pieces = known.tokenizer.convert_ids_to_tokens(row.ids[1:-1].tolist())
    pieces = ["_" if piece == "[MASK]" else piece.removeprefix("##") for piece in pieces]
    pieces[row.places[0] - 1] = "?"
    return "".join(pieces)


def test_the_later_tokens_of_a_word_are_masked_with_each(tokenizers, analyser):
    """静か is one word of two letters, 行く and 東京 too; of a word's first letter the second is hidden."""
    known = Known(tokenizers[FINE], masks)
    found = measure(known, [sentence(analyser, "東京都に行く。")], [])
    assert [shown(known, row) for row in known.rows] == [
        *("?_都に行く。", "?京都に行く。", "東?都に行く。", "東京?に行く。", "東京都?行く。"),
        *("東京都に?_。", "東京都に?く。", "東京都に行?。", "東京都に行く?"),
    ]
    assert found["bits_per_character"] == pytest.approx((7 + 2) / 7)  # a bit a mask
    assert found["bits_per_character_single_masks"] == pytest.approx(1)
    assert found["pseudo_perplexity_per_character"] == pytest.approx(2 ** (9 / 7))
    assert [found[name] for name in ("sentences", "characters", "tokens", "too_long")] == [1, 7, 7, 0]


def test_a_token_of_two_words_hides_the_later_tokens_of_both(analyser, tmp_path):
    """行く|。 is one token here: with く。the whole of both words is asked for."""
    tokens = text_measures.Tokens(
        np.array([5, 6, 7]), np.array([0, 1, 3]), np.array([1, 3, 4]), np.zeros(3, dtype=bool), 0
    )
    words = [text_questions.Word(0, 2, "動詞"), text_questions.Word(2, 4, "助詞")]
    assert tokens.later(words).tolist() == [[False, True, False], [False, False, True], [False, False, False]]


def test_a_word_in_more_pieces_gains_nothing_where_its_letters_give_each_other_away(tokenizers, analyser):
    """A model that knows a word's letters once it has seen one of them, and needs ten bits for a word before."""
    line = "東京都に静かに行く。"
    words = text_questions.words_of(analyser, line)

    def bits(row, place):
        at = int(place) - 1
        word = next(word for word in words if word.start <= at < word.end)
        seen = [row.ids[1 + letter] != 4 for letter in range(word.start, word.end)]
        return 0 if any(seen) else 10

    found = measure(Known(tokenizers[FINE], bits), [sentence(analyser, line)], [])
    coarse = measure(Known(tokenizers[COARSE], lambda row, place: 10), [sentence(analyser, "東京に行く。")], [])
    assert found["bits_per_character"] == pytest.approx(10 * len(words) / len(line))
    assert coarse["bits_per_character"] == pytest.approx(10 * 4 / 6)
    single = found["bits_per_character_single_masks"]  # which takes words of several letters for known
    assert single == pytest.approx(10 * sum(word.end - word.start == 1 for word in words) / len(line))


def test_equal_knowledge_is_equal_whatever_the_tokenizer(tokenizers, analyser):
    """A letter costs three bits; a piece of two six. Bits a token differ, bits a character do not."""
    lines = [sentence(analyser, line) for line in ("東京都に行く。", "猫たちが歩いた。", "静かに行く。")]
    found = {}
    for name, tokenizer in tokenizers.items():
        lengths = {number: 3 * len(piece.removeprefix("##")) for piece, number in tokenizer.get_vocab().items()}
        known = Known(tokenizer, lambda row, place, lengths=lengths: lengths[row.truths[0]])
        found[name] = measure(known, lines, [])
    assert found[FINE]["tokens"] > found[COARSE]["tokens"]
    assert found[FINE]["bits_per_character"] == pytest.approx(found[COARSE]["bits_per_character"]) == pytest.approx(3)
    assert found[FINE]["characters_per_token"] == 1
    assert found[COARSE]["characters_per_token"] == 21 / found[COARSE]["tokens"]


def test_a_character_that_no_token_tells_costs_more_than_any_that_is_told(tokenizers, analyser):
    """山 and 鷹 are unknown: their tokens cost what the model says, and their characters the rest; a space nothing."""
    known = Known(tokenizers[COARSE], lambda row, place: 1)
    found = measure(known, [sentence(analyser, "山鷹に 行く。")], [])
    tokens = found["tokens"]
    assert found["bits_per_character"] == pytest.approx((tokens + 2 * UNSEEN_BITS) / 7)
    assert found["bits_per_character_single_masks"] == found["bits_per_character"]
    assert found["unknown_rate"] == (tokens - 3) / tokens
    assert UNSEEN_BITS > 17


def test_a_special_piece_in_a_text_counts_as_unknown(tokenizers):
    tokens = tokens_of(tokenizers[COARSE], "東京[SEP]に")
    assert (tokens.ids.tolist(), tokens.unknown.tolist()) == ([5, 1, 7], [False, True, False])
    assert tokens.hidden == len("[SEP]")


def test_letters_of_marks_that_join_are_not_hidden(words):
    tokenizer = tokenization.load_tokenizer(words)
    tokens = tokens_of(tokenizer, "か\u3099")
    assert (tokenizer.convert_ids_to_tokens(tokens.ids.tolist()), tokens.hidden) == (["が"], 0)
    assert tokens_of(tokenizer, "  ").hidden == 0


def test_words_are_right_where_all_their_tokens_are(tokenizers, analyser):
    """行 is the first guess at both places of 行く, く the second: 行行 is likeliest, then 行く and く行."""
    fine = tokenizers[FINE]
    asked = [sentence(analyser, "東京に行く。", word) for word in ("行く", "に", "東京")]
    found = measure(Known(fine, masks, ["行", "##く", "に"]), asked, [])
    assert found["fill_mask_words"] == 3 and found["fill_mask_content_words"] == 2
    assert (found["fill_mask_accuracy_at_1"], found["fill_mask_accuracy_at_5"]) == (0, 2 / 3)
    assert found["fill_mask_content_accuracy_at_5"] == 1 / 2
    found = measure(Known(fine, masks, ["に"]), asked, [])
    assert (found["fill_mask_accuracy_at_1"], found["fill_mask_content_accuracy_at_1"]) == (1 / 3, 0)


def test_a_word_that_a_tokenizer_cannot_say_is_never_right(tokenizers, analyser):
    asked = [sentence(analyser, "山に行く。", "山")]
    found = measure(Known(tokenizers[COARSE], masks, ["[UNK]"]), asked, [])
    assert (found["fill_mask_words"], found["fill_mask_accuracy_at_5"]) == (1, 0)


def test_the_same_words_are_asked_for_under_every_tokenizer(tokenizers, analyser, tmp_path):
    (tmp_path / "a.txt").write_text(text(30, seed=3))
    starts = text_questions.document_starts(tmp_path / "a.txt")
    drawn = text_questions.draw_sentences(tmp_path / "a.txt", starts, 30, 0, analyser)
    counts = [measure(Known(each, masks), drawn, [])["fill_mask_content_words"] for each in tokenizers.values()]
    assert counts[0] == counts[1] == sum(sentence.asked.is_content for sentence in drawn) > 0


@examples(60)
@given(st.lists(st.lists(st.floats(-20, 0), min_size=5, max_size=5, unique=True), min_size=1, max_size=3))
def test_fillings_are_the_best_of_all_combinations(values):
    falling = [sorted(place, reverse=True) for place in values]
    guesses = Guesses(np.array(falling), np.arange(5 * len(falling)).reshape(-1, 5))
    every = [sum(place[k] for place, k in zip(falling, choice, strict=True)) for choice in _choices(len(falling))]
    found = [sum(falling[number // 5][number % 5] for number in filling) for filling in fillings(guesses, 5)]
    assert found == pytest.approx(sorted(every, reverse=True)[:5])


def _choices(places: int):
    return itertools.product(range(5), repeat=places)


def test_the_tokenizer_is_measured_by_its_cuts(tokenizers, analyser):
    """東京|都|に|行く|。: each is a piece of the coarse one; of the fine one, three are."""
    found = {
        name: measure(Known(tokenizer, masks), [sentence(analyser, "東京都に行く。")], [])
        for name, tokenizer in tokenizers.items()
    }
    assert (found[COARSE]["whole_word_rate"], found[COARSE]["word_border_rate"]) == (1, 1)
    assert (found[FINE]["whole_word_rate"], found[FINE]["word_border_rate"]) == (3 / 5, 1)


def test_sentences_that_a_model_cannot_read_are_left_out_and_counted(tokenizers, analyser):
    known = Known(tokenizers[COARSE], masks)
    known.longest = 7
    lines = ["東京に行く。", "東京都に行く。", "東京都に静かに行く。", "猫" * 9000]
    found = measure(known, [sentence(analyser, line) for line in lines], [])
    assert (found["sentences"], found["too_long"], found["characters"]) == (2, 2, 13)
    known.longest = 3
    with pytest.raises(StageError, match="no sentence of the text can be read by known .at most 3 tokens."):
        measure(known, [sentence(analyser, lines[0])], [])


def uniform(tmp_path, vocab_size: int) -> tuple[MaskedModel, int]:
    """A model that knows nothing: all pieces are alike likely everywhere."""
    tokenizer = write_tokenizer(tmp_path / f"tokenizer-{vocab_size}", vocab_size=vocab_size)
    vocabulary = tokenization.vocabulary(tokenizer)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    module = BertPretraining(vocabulary.size, **shape)
    torch.nn.init.zeros_(module.model.bert.embeddings.word_embeddings.weight)
    torch.nn.init.zeros_(module.model.cls.predictions.bias)
    torch.nn.init.zeros_(module.model.cls.seq_relationship.weight)
    module.model.cls.seq_relationship.bias.data = torch.tensor([1.0, 0.0])  # it takes all pairs for neighbours
    folder = tmp_path / f"model-{vocab_size}"
    folder.mkdir()
    model_folder.write_model(module.model, vocabulary, folder)
    model_folder.write_tokenizer(tokenizer, folder, 64)
    with model_folder.opened(str(folder)) as measured:
        return MaskedModel(measured, torch.device("cpu")), vocabulary.size


@pytest.mark.parametrize("vocab_size", [120, 200])
def test_a_model_that_knows_nothing_needs_the_bits_of_its_vocabulary_for_each_token(tmp_path, analyser, vocab_size):
    (tmp_path / "a.txt").write_text(text(12, seed=5))
    starts = text_questions.document_starts(tmp_path / "a.txt")
    drawn = text_questions.draw_sentences(tmp_path / "a.txt", starts, None, 0, analyser)
    pairs = text_questions.draw_pairs(tmp_path / "a.txt", starts, None, 0)
    model, size = uniform(tmp_path, vocab_size)
    heard = []
    found = measure(model, drawn, pairs, heard.append)
    assert found["unknown_rate"] == 0
    expected = math.log2(size) / found["characters_per_token"]
    assert found["bits_per_character"] == pytest.approx(expected, rel=1e-6)
    assert found["bits_per_character_single_masks"] == pytest.approx(expected, rel=1e-6)
    assert (found["nsp_pairs"], found["nsp_accuracy"]) == (len(pairs), pytest.approx(0.5, abs=1 / len(pairs)))
    for label, share in ((0, 1), (1, 0)):
        some = [pair for pair in pairs if pair.label == label]
        assert measure(model, drawn[:1], some)["nsp_accuracy"] == share
    assert sum(heard) == len(drawn) == found["sentences"]


def test_pairs_are_not_asked_of_a_model_that_was_not_taught(tokenizers, analyser):
    found = measure(Known(tokenizers[FINE], masks), [sentence(analyser, "猫が行く。")], [Pair("猫が", "行く。", 0)])
    assert (found["nsp_accuracy"], found["nsp_pairs"]) == (None, 0)
