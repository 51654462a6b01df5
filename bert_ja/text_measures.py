"""How well a masked language model knows a text: bits per character, words filled in, lines that follow, its tokens.

Bits per character compare models with other tokenizers. Each token is masked and its probability taken (Salazar et al.
2020, "Masked Language Model Scoring"), the later tokens of its word masked with it (Kauf and Ivanova 2023, "A Better
Way to Do Masked Language Model Scoring"): else the rest of a word gives each of its pieces away, and a tokenizer that
cuts words into more pieces looks better. The sum over the tokens is divided by the characters of the text.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bert_ja import alignment
from bert_ja.cli import StageError
from bert_ja.scoring import Guesses, MaskedModel, Row
from bert_ja.text_questions import LONGEST_SENTENCE, Pair, Sentence, Word

AT_ONCE = 100  # sentences whose masked copies are made at once: enough of each length for a batch
GUESSES = 5
# What a character costs that no token tells: to name one of the 154,998 of Unicode 16.0 with no knowledge at all.
UNSEEN_BITS = math.log2(154_998)


# A sentence in the tokens of a model


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A sentence as a tokenizer cuts it."""

    ids: np.ndarray  # int64 (tokens,)
    starts: np.ndarray  # int64 (tokens,), characters of the sentence, without spaces around the token
    ends: np.ndarray
    unknown: np.ndarray  # bool (tokens,)
    hidden: int  # characters, but spaces, that stand in unknown tokens or in none

    def of(self, words: Sequence[Word]) -> np.ndarray:
        """Whether a token holds a character of a word, bool (tokens, words)."""
        starts, ends = (np.array([getattr(word, name) for word in words], dtype=np.int64) for name in ("start", "end"))
        return (self.starts[:, None] < ends) & (self.ends[:, None] > starts)

    def later(self, words: Sequence[Word]) -> np.ndarray:
        """Whether j is a later token of a word of i's, bool (tokens i, tokens j); a token may be of several words."""
        of = self.of(words).astype(np.int64)
        return np.triu(of @ of.T > 0, 1)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the characters at its ends that are not seen."""
    while start < end and not alignment.is_seen(text[start]):
        start += 1
    while end > start and not alignment.is_seen(text[end - 1]):
        end -= 1
    return start, end


def _hidden(text: str, spans: Sequence[tuple[int, int]], unknown: Sequence[bool]) -> int:
    """Characters that are seen and stand in no known token, nor in one letter with what does (か + U+3099)."""
    told = {place for span, hides in zip(spans, unknown, strict=True) if not hides for place in range(*span)}
    for start, end in dict.fromkeys(alignment.normalised(text)[1]):
        if not told.isdisjoint(range(start, end)):
            told.update(range(start, end))
    return sum(place not in told and alignment.is_seen(letter) for place, letter in enumerate(text))


def tokens_of(tokenizer, text: str) -> Tokens:
    """The tokens of a text. A special piece that is spelled out in it counts as unknown."""
    ids, spans = alignment.offsets(tokenizer, text)
    special = set(tokenizer.all_special_ids)
    unknown = [token in special for token in ids]
    if tokenizer.unk_token_id is not None:
        ids = [tokenizer.unk_token_id if hides else token for token, hides in zip(ids, unknown, strict=True)]
    places = np.array([_trimmed(text, *span) for span in spans], dtype=np.int64).reshape(-1, 2)
    hidden = _hidden(text, spans, unknown)
    return Tokens(np.array(ids, dtype=np.int64), places[:, 0], places[:, 1], np.array(unknown, dtype=bool), hidden)


# Masked copies


def _masked(model: MaskedModel, tokens: Tokens, places: np.ndarray, targets: np.ndarray) -> Row:
    """A row with masks at `places` of the sentence, of which `targets` are asked for."""
    ids = model.row(tokens.ids)
    ids[places + len(model.before)] = model.mask
    return Row(ids, targets + len(model.before), tokens.ids[targets])


def _copies(model: MaskedModel, tokens: Tokens, words: Sequence[Word]) -> Iterator[tuple[bool, bool, Row]]:
    """(counts for the measure with words, for that of single masks; row) of each token, both in one where they agree.

    A word of three tokens a b c: M M M, a M M, a b M for a, b, c; and M b c, a M c for single masks.
    """
    later = tokens.later(words)
    for place in range(len(tokens.ids)):
        target, rest = np.array([place]), np.flatnonzero(later[place])
        yield True, not len(rest), _masked(model, tokens, np.concatenate([target, rest]), target)
        if len(rest):
            yield False, True, _masked(model, tokens, target, target)


def _bits(model: MaskedModel, sentences: Sequence[tuple[Tokens, Sentence]]) -> tuple[float, float]:
    """(bits of all tokens with the later ones of their words masked, with single masks); without hidden characters."""
    copies = [copy for tokens, sentence in sentences for copy in _copies(model, tokens, sentence.words)]
    found = model.log_probabilities([row for _, _, row in copies]) if copies else []
    bits = [-float(values[0]) / math.log(2) for values in found]
    return (
        math.fsum(bit for bit, (with_words, _, _) in zip(bits, copies, strict=True) if with_words),
        math.fsum(bit for bit, (_, single, _) in zip(bits, copies, strict=True) if single),
    )


# Words to be filled in


def fillings(guesses: Guesses, k: int) -> list[tuple[int, ...]]:
    """The k likeliest fillings of several places, each place by itself: the largest products of probabilities."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for values, ids in zip(guesses.log_probabilities.tolist(), guesses.ids.tolist(), strict=True):
        longer = [
            (whole + value, (*filled, token))
            for (whole, filled), (value, token) in itertools.product(best, zip(values, ids, strict=True))
        ]
        best = sorted(longer, key=lambda each: -each[0])[:k]
    return [filled for _, filled in best]


def _filled_in(model: MaskedModel, sentences: Sequence[tuple[Tokens, Sentence]]) -> Counter:
    """How many words were asked for, found first, and found among GUESSES; of content words with content_ before."""
    asked = []
    for tokens, sentence in sentences:
        places = np.flatnonzero(tokens.of([sentence.asked])[:, 0]) if sentence.asked else np.zeros(0, np.int64)
        if sentence.asked:
            asked.append((sentence.asked, tokens, places))
    known = [(len(places) and not tokens.unknown[places].any()) for _, tokens, places in asked]
    rows = [
        _masked(model, tokens, places, places) for (_, tokens, places), fits in zip(asked, known, strict=True) if fits
    ]
    answers = iter(model.guesses(rows, GUESSES) if rows else [])
    counts: Counter = Counter()
    for (word, tokens, places), fits in zip(asked, known, strict=True):
        found = fillings(next(answers), GUESSES) if fits else []  # what a tokenizer cannot say is not found
        truth = tuple(tokens.ids[places].tolist())
        for kind in ("", "content_") if word.is_content else ("",):
            counts[f"{kind}words"] += 1
            counts[f"{kind}at_1"] += found[:1] == [truth]
            counts[f"{kind}at_5"] += truth in found
    return counts


# Lines that follow


def next_sentence_accuracy(model: MaskedModel, pairs: Sequence[Pair]) -> float:
    """The share of pairs of which a model says rightly whether the second line follows the first."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    ids = {text: tokens_of(model.tokenizer, text[:LONGEST_SENTENCE]).ids.tolist() for text in texts}
    found = model.follows([(ids[pair.first], ids[pair.second]) for pair in pairs])
    return float(np.mean(found == np.array([pair.label == 0 for pair in pairs])))


# The tokenizer


def _cuts(tokens: Tokens, words: Sequence[Word]) -> Counter:
    """How many words are exactly one known token, and how many begin and end where tokens do."""
    rows = zip(tokens.starts.tolist(), tokens.ends.tolist(), tokens.unknown.tolist(), strict=True)
    whole = {(start, end) for start, end, unknown in rows if not unknown}
    starts, ends = set(tokens.starts.tolist()), set(tokens.ends.tolist())
    return Counter(
        words=len(words),
        whole=sum((word.start, word.end) in whole for word in words),
        bordered=sum(word.start in starts and word.end in ends for word in words),
    )


# All of it


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _read(model: MaskedModel, sentences: Sequence[Sentence]) -> list[tuple[Tokens, Sentence]]:
    """The sentences that the model can read, in its tokens."""
    short = [sentence for sentence in sentences if len(sentence.text) <= LONGEST_SENTENCE]
    read = [(tokens_of(model.tokenizer, sentence.text), sentence) for sentence in short]
    return [(tokens, sentence) for tokens, sentence in read if len(model.row(tokens.ids)) <= model.longest]


def measure(
    model: MaskedModel,
    sentences: Sequence[Sentence],
    pairs: Sequence[Pair],
    on_sentences: Callable[[int], None] = lambda done: None,
) -> dict:
    """The measures of a model on sentences and pairs of a text, by name; shares are from 0 to 1, None where of nothing.

    bits_per_character: bits that the model needs for a character, see above; and for each that is hidden in an unknown
        token or in none UNSEEN_BITS more, lest a tokenizer win by not knowing characters (spaces cost nothing more).
    pseudo_perplexity_per_character: 2 to that power.
    bits_per_character_single_masks: the same with each token masked alone (Salazar et al. 2020); not for comparing
        tokenizers.
    fill_mask_accuracy_at_1, _at_5: share of `fill_mask_words` (one a sentence) whose masked tokens are all right, in
        the likeliest filling and among the five likeliest, each token by itself; a word with an unknown token is wrong.
        With content_: of nouns, verbs, adjectives and adverbs.
    nsp_accuracy: share of `nsp_pairs`, half of which follow, that are told right; None for a model that was not taught.
    characters_per_token, unknown_rate (share of tokens), whole_word_rate (share of the analyser's words that are one
        known token), word_border_rate (share of words that begin and end where tokens do): the tokenizer alone.
    sentences, characters, tokens: what was measured; too_long: sentences that the model cannot read, left out.

    `on_sentences` hears how many more are done. Raises StageError when the model can read none.
    """
    counts: Counter = Counter()
    bits, single = [], []
    for at in range(0, len(sentences), AT_ONCE):
        some = sentences[at : at + AT_ONCE]
        read = _read(model, some)
        for sums, value in zip((bits, single), _bits(model, read), strict=True):
            sums.append(value)
        counts.update({f"fill_{name}": count for name, count in _filled_in(model, read).items()})
        for tokens, sentence in read:
            counts.update(_cuts(tokens, sentence.words))
            counts.update(
                sentences=1,
                characters=len(sentence.text),
                tokens=len(tokens.ids),
                unknown=int(tokens.unknown.sum()),
                hidden=tokens.hidden,
            )
        on_sentences(len(some))
    if not counts["tokens"]:
        raise StageError(
            f"no sentence of the text can be read by {model.name} (at most {model.longest} tokens): part the text into "
            "sentences, one a line"
        )
    nsp = next_sentence_accuracy(model, pairs) if pairs and model.no_second_task is None else None
    return _result(counts, math.fsum(bits), math.fsum(single), len(sentences)) | {
        "nsp_accuracy": nsp,
        "nsp_pairs": 0 if nsp is None else len(pairs),
    }


def _result(counts: Counter, bits: float, single: float, asked: int) -> dict:
    hidden, characters = counts["hidden"] * UNSEEN_BITS, counts["characters"]
    per_character = (bits + hidden) / characters
    fill = {
        f"fill_mask_{kind}accuracy_at_{k}": _ratio(counts[f"fill_{kind}at_{k}"], counts[f"fill_{kind}words"])
        for kind in ("", "content_")
        for k in (1, GUESSES)
    }
    return {
        "bits_per_character": per_character,
        "pseudo_perplexity_per_character": 2**per_character,
        "bits_per_character_single_masks": (single + hidden) / characters,
        **fill,
        "fill_mask_words": counts["fill_words"],
        "fill_mask_content_words": counts["fill_content_words"],
        "characters_per_token": characters / counts["tokens"],
        "unknown_rate": counts["unknown"] / counts["tokens"],
        "whole_word_rate": _ratio(counts["whole"], counts["words"]),
        "word_border_rate": _ratio(counts["bordered"], counts["words"]),
        "sentences": counts["sentences"],
        "characters": characters,
        "tokens": counts["tokens"],
        "too_long": asked - counts["sentences"],
    }
