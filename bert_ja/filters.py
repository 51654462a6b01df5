"""What of a corpus is not worth training on: lines, then documents of what is left of them; each filter counted.

A line goes for what it is itself. Repetition costs whole documents only: next-sentence pairs need true neighbours, so
a document that stays never loses a sentence from its middle because it stood elsewhere before.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

KANA = "ぁ-ゖァ-ヺㇰ-ㇿｦ-ｯｱ-ﾝ"  # without ー and ｰ, which draw lines too
KANJI = "々〆\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA_OR_KANJI = re.compile(f"[{KANA}{KANJI}]")
LINE_FILTERS = ("min_characters", "japanese_only")
DOCUMENT_FILTERS = ("min_sentences", "max_repeated")


class Filters(NamedTuple):
    """What stays; the defaults are those of the command line."""

    min_characters: int = 3  # of a line: shorter ones are numbers, torn-off words and 「……」, but はい。 stays
    japanese_only: bool = True  # a line has a kana or a kanji: no formulas, rules, program code
    min_sentences: int = 2  # of a document: one alone has no next sentence
    max_repeated: float = 0.5  # share of a document's sentences that stood in earlier documents

    def fault(self, line: str) -> str | None:
        """The filter that removes a line, None for a line that stays."""
        if len(line) < self.min_characters:
            return "min_characters"
        if self.japanese_only and not KANA_OR_KANJI.search(line):
            return "japanese_only"
        return None

    def lines(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines that stay."""
        fault = self.fault
        return (line for line in lines if fault(line) is None)

    def sift(self, lines: Iterable[str], removed: "Removed") -> Iterator[str]:
        """The same, and what goes is counted."""
        for line in lines:
            fault = self.fault(line)
            if fault is None:
                yield line
            else:
                removed.add_line(fault, line)


NONE = Filters(min_characters=1, japanese_only=False, min_sentences=1, max_repeated=1.0)


class Removed:
    """What each filter removed: documents, sentences and characters.

    A line belongs to the first filter that it fails, a document to the first of its own, with the lines that were left.
    """

    def __init__(self):
        self.counts = {
            name: {"documents": 0, "sentences": 0, "characters": 0} for name in LINE_FILTERS + DOCUMENT_FILTERS
        }

    def add_line(self, name: str, line: str) -> None:
        self.counts[name]["sentences"] += 1
        self.counts[name]["characters"] += len(line)

    def add_document(self, name: str, lines: Iterable[str]) -> int:
        """Count a document; the number of its lines."""
        self.counts[name]["documents"] += 1
        before = self.counts[name]["sentences"]
        for line in lines:
            self.add_line(name, line)
        return self.counts[name]["sentences"] - before
