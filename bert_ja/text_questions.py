"""What a text asks of every model alike: sentences, a word of each to be filled in, and pairs of lines.

All is drawn by numbers of lines and by the morphological analyser, never by a tokenizer: so models with other
tokenizers are asked the same. The text is read a few times, and memory holds what is drawn and a number a document.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_ja import alignment, draws, tokenization
from bert_ja.cli import StageError
from bert_ja.encoding import Analyser

CONTENT = ("名詞", "動詞", "形容詞", "形状詞", "副詞")  # UniDic's: nouns, verbs, adjectives (two kinds), adverbs
NOT_ASKED = ("補助記号", "空白", "")  # punctuation, spaces, and what the analyser cannot read
LONGEST_SENTENCE = 8192  # characters; no model here reads more


@dataclass(frozen=True)
class Word:
    """A word of the analyser."""

    start: int  # characters of the sentence
    end: int
    kind: str  # its part of speech

    @property
    def is_content(self) -> bool:
        return self.kind in CONTENT


@dataclass(frozen=True)
class Sentence:
    """A line of a text without the spaces at its ends."""

    text: str
    words: tuple[Word, ...]  # none where it is longer than LONGEST_SENTENCE
    asked: Word | None = None  # that which is to be filled in; None where there are but marks


@dataclass(frozen=True)
class Pair:
    """Two lines of a text."""

    first: str
    second: str
    label: int  # 0: the second follows the first; 1: it does not


# The lines of a text


def document_starts(path: Path | str) -> np.ndarray:
    """The number of each document's first sentence, int64 (documents + 1,); the last is the number of sentences.

    A sentence is a line that is not blank; blank lines part documents. Raises StageError when there is none.
    """
    starts, sentences, begins = [], 0, True
    for line in tokenization.read_lines(path):
        blank = not line.strip()
        if not blank:
            starts += [sentences] if begins else []
            sentences += 1
        begins = blank
    if not sentences:
        raise StageError(f"{path} holds no sentence, only blank lines: name a text with one sentence a line")
    return np.array([*starts, sentences], dtype=np.int64)


def read(path: Path | str, numbers: Iterable[int]) -> dict[int, str]:
    """The sentences of a text that have these numbers, without spaces at their ends."""
    wanted = set(map(int, numbers))
    lines = (line.strip() for line in tokenization.read_lines(path))
    return {number: line for number, line in enumerate(filter(None, lines)) if number in wanted}


# Sentences and their words


def words_of(analyser: Analyser, text: str) -> tuple[Word, ...]:
    """The analyser's words of a text in NFKC, by the characters of the text itself."""
    normal, sources = alignment.normalised(text)
    normal = "".join(" " if character.isspace() else character for character in normal)
    words, at = [], 0
    for surface, kind in analyser.morphemes(normal):
        start = normal.index(surface, at)
        at = start + len(surface)
        words.append(Word(sources[start][0], sources[at - 1][1], kind))
    return tuple(words)


def _sentence(analyser: Analyser, text: str, number: int, seed: int) -> Sentence:
    if len(text) > LONGEST_SENTENCE:
        return Sentence(text, ())
    words = words_of(analyser, text)
    asked = [word for word in words if word.kind not in NOT_ASKED]
    place = int(draws.integers(draws.key(seed, "fill-mask"), np.uint64(number), len(asked))) if asked else 0
    return Sentence(text, words, asked[place] if asked else None)


def draw_sentences(
    path: Path | str, starts: np.ndarray, size: int | None, seed: int, analyser: Analyser
) -> list[Sentence]:
    """`size` sentences of a text, drawn without replacement, in the text's order; all where there are no more.

    `starts` is `document_starts` of the text. The word that is asked for is one of each sentence's words but its marks,
    all alike likely.
    """
    total = int(starts[-1])
    numbers = np.arange(total)
    if size is not None and size < total:
        numbers = np.sort(draws.permutation(draws.key(seed, "sentences"), np.arange(size), total))
    texts = read(path, numbers)
    return [_sentence(analyser, texts[number], number, seed) for number in map(int, numbers)]


# Pairs


def draw_pairs(path: Path | str, starts: np.ndarray, size: int | None, seed: int) -> list[Pair]:
    """`size` pairs of lines, a half with the next line of the document (label 0) and a half with another (label 1).

    The other line is a random one of another document, or where there is but one document any that does not follow the
    first. Empty where no document has two lines, or where there is no other line.
    """
    total, lengths = int(starts[-1]), np.diff(starts)
    population = total - len(lengths)  # every line but the last of its document has a next one
    if population == 0 or (len(lengths) == 1 and total < 3):
        return []
    drawn = np.arange(population if size is None else min(size, population))
    places = draws.permutation(draws.key(seed, "pairs"), drawn, population)
    documents = np.searchsorted(np.cumsum(lengths - 1), places, side="right")
    firsts = places + documents
    seconds = np.where(drawn % 2, _others(firsts, documents, starts, draws.key(seed, "other lines")), firsts + 1)
    texts = read(path, np.concatenate([firsts, seconds]))
    rows = zip(firsts.tolist(), seconds.tolist(), (drawn % 2).tolist(), strict=True)
    return [Pair(texts[first], texts[second], label) for first, second, label in rows]


def _others(firsts: np.ndarray, documents: np.ndarray, starts: np.ndarray, stream: np.uint64) -> np.ndarray:
    """For each first line a random line outside its document; of the only document, one but itself and its next."""
    if len(starts) > 2:
        before, behind = starts[documents], starts[documents + 1]
    else:
        before, behind = firsts, firsts + 2
    left = starts[-1] - (behind - before)
    other = draws.integers(stream, firsts, left)
    return np.where(other < before, other, other + (behind - before))
