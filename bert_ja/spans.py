"""Answers in a context (SQuAD, Rajpurkar et al. 2016): characters to tokens, windows over long contexts, and back.

Where tokens lie in a text comes from alignment.py, which knows what NFKC does to it: an answer is given in characters
of the context as it stands, and so is what is predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bert_ja import alignment
from bert_ja.cli import StageError
from bert_ja.finetuning import PADDED, encode
from bert_ja.jglue import Answer, Example
from bert_ja.scores import normalised_answer

STRIDE = 128  # tokens by which windows over a long context overlap
LONGEST_ANSWER = 30  # tokens that are predicted at most, as in the SQuAD scripts of BERT and transformers
NOWHERE = 0  # the target where a window does not hold the answer: [CLS]


@dataclass(frozen=True)
class Window:
    """A part of a context behind its question, as a model reads it."""

    question: int  # the number of its example
    before: int  # tokens in front of the context's
    borders: np.ndarray  # int (context tokens, 2): first character and the one behind the last of each


def covering(borders: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """(first, last) of the tokens that characters [start, end) touch; None where none does."""
    touched = np.flatnonzero((borders[:, 0] < end) & (borders[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if touched.size else None


def is_reachable(context: str, borders: np.ndarray, answer: Answer) -> bool:
    """Whether tokens begin and end where an answer does, as far as scores can tell."""
    tokens = covering(borders, answer.start, answer.start + len(answer.text))
    if tokens is None:
        return False
    found = context[borders[tokens[0], 0] : borders[tokens[1], 1]]
    return normalised_answer(found) == normalised_answer(answer.text)


class Reader:
    """A tokenizer that lays questions and contexts out in windows of at most `longest` tokens."""

    def __init__(self, tokenizer, types: int, longest: int):
        self.tokenizer, self.types, self.longest = tokenizer, types, longest
        self._contexts: dict[str, tuple[list[int], np.ndarray]] = {}

    def context(self, text: str) -> tuple[list[int], np.ndarray]:
        """(ids, borders) of a context; several questions stand on each."""
        if text not in self._contexts:
            ids, offsets = alignment.offsets(self.tokenizer, text)
            self._contexts[text] = ids, np.array(offsets, np.int64).reshape(-1, 2)
        return self._contexts[text]

    def _layout(self, question: str, context: str) -> tuple[dict, int, int]:
        """(what the tokenizer makes of both, uncut; where the context begins in it, and where it ends)."""
        encoded = encode(self.tokenizer, self.types, question, context)
        whole, (ids, _) = encoded["input_ids"], self.context(context)
        for behind in range(self.tokenizer.num_special_tokens_to_add(pair=True) + 1):
            start = len(whole) - behind - len(ids)
            if start >= 0 and whole[start : start + len(ids)] == ids:
                return encoded, start, start + len(ids)
        raise StageError(
            "the tokenizer reads a context otherwise behind a question than alone: leave jsquad out of --tasks"
        )

    def windows(self, number: int, example: Example) -> list[tuple[dict, Window]]:
        """An example as windows: rows of ids and token types with targets, and what they show.

        A question that leaves no room for the context is cut.
        """
        encoded, start, end = self._layout(*example.texts)
        names = [name for name in PADDED if name in encoded]
        behind, borders = len(encoded["input_ids"]) - end, self.context(example.texts[1])[1]
        specials = self.tokenizer.num_special_tokens_to_add(pair=True)
        before = min(start, max(self.longest // 2, specials))
        room = self.longest - before - behind
        found = []
        for first in range(0, max(1, end - start), max(1, room - min(STRIDE, room // 2))):
            part = borders[first : first + room]
            places = [*range(before), *range(start + first, start + first + len(part)), *range(end, end + behind)]
            if before < start:  # the mark between the two stays
                places[before - 1] = start - 1
            row = {name: [encoded[name][place] for place in places] for name in names}
            target = self._target(example.label[0], part, before)
            found.append((row | dict(zip(("start_positions", "end_positions"), target, strict=True)), part))
            if first + room >= end - start:
                break
        return [(row, Window(number, before, part)) for row, part in found]

    @staticmethod
    def _target(answer: Answer, borders: np.ndarray, before: int) -> tuple[int, int]:
        """The first and the last position of an answer in a window; [CLS] unless all of it is there."""
        start, end = answer.start, answer.start + len(answer.text)
        tokens = covering(borders, start, end)
        if tokens is None or borders[tokens[0], 0] > start or borders[tokens[1], 1] < end:
            return NOWHERE, NOWHERE
        return before + tokens[0], before + tokens[1]

    def unreachable(self, examples: Sequence[Example]) -> float:
        """Share of examples of whose answers none begins and ends where tokens do."""
        lost = sum(
            not any(
                is_reachable(example.texts[1], self.context(example.texts[1])[1], answer) for answer in example.label
            )
            for example in examples
        )
        return lost / len(examples)


def likeliest(starts: np.ndarray, ends: np.ndarray, longest: int = LONGEST_ANSWER) -> tuple[float, int, int]:
    """(score, first, last) of the best span of at most `longest` tokens, by two (tokens,) arrays; first of equals."""
    totals = starts[:, None] + ends[None, :]
    places = np.arange(len(starts))
    distance = places[None, :] - places[:, None]
    totals = np.where((distance >= 0) & (distance < longest), totals, -np.inf)
    first, last = divmod(int(totals.argmax()), len(starts))
    return float(totals[first, last]), first, last


def answers(examples: Sequence[Example], windows: Sequence[Window], logits: Sequence) -> list[str]:
    """The text that is predicted for each example, from its best window; "" where its windows show no token.

    `logits` are two (longest,) arrays a window. Raises ValueError where one is not finite.
    """
    best: dict[int, tuple[float, str]] = {}
    for window, (starts, ends) in zip(windows, logits, strict=True):
        shown = slice(window.before, window.before + len(window.borders))
        if not len(window.borders):
            continue
        if not (np.isfinite(starts[shown]).all() and np.isfinite(ends[shown]).all()):
            raise ValueError("the model predicts numbers that are not finite")
        score, first, last = likeliest(starts[shown], ends[shown])
        if score > best.get(window.question, (-np.inf, ""))[0]:
            text = examples[window.question].texts[1][window.borders[first, 0] : window.borders[last, 1]]
            best[window.question] = score, text
    return [best.get(number, (0.0, ""))[1] for number in range(len(examples))]
