"""AutoTokenizer beside SentencePiece: all that it gives for a line, for the line with [MASK] in it, and for a pair.

SentencePiece is the truth for ids, offsets and decoded text, arithmetic for what follows from them. What is known to
differ is recognised by its cause and counted. The same code runs on transformers 4.57 and 5, see compat.py.
"""

import dataclasses
import hashlib
import itertools
import marshal
import re
import typing
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bert_ja import draws, files, tokenization
from bert_ja.cli import StageError
from bert_ja.tokenization import CLS, MASK, PAD, PIECES, SEP, UNK

BATCH = 1000  # lines, an even number, that AutoTokenizer gets at once
SHARE = 10  # of so many lines and pairs, one is also truncated and padded, and tokenized in a call of its own
LENGTHS = (8, 16, 32, 64, 512)  # tokens to truncate to, one after the other a batch
SHOWN_IDS, SHOWN_TEXT = 40, 200  # ids and characters that an error shows
PAD_ID, CLS_ID, SEP_ID = map(PIECES.index, (PAD, CLS, SEP))


Sample = tuple[str, ...]  # a line, or two as a pair
Mend = Callable[[str, Callable[[str], str]], str]  # of a line and SentencePiece's normalisation


@dataclasses.dataclass
class Parity:
    """What a comparison of AutoTokenizer with SentencePiece found."""

    lines: int = 0
    masked: int = 0  # of these again with [MASK] put in
    pairs: int = 0  # of two neighbouring lines, each of which is in one pair
    truncated: int = 0  # lines and pairs again, truncated and padded
    alone: int = 0  # lines again, each in a call of its own, and by `tokenizers` alone
    known: Counter = dataclasses.field(default_factory=Counter)  # differences by known cause
    differences: int = 0  # all others
    first: str | None = None  # the first of these, in words

    def __add__(self, other: "Parity") -> "Parity":
        names = [field.name for field in dataclasses.fields(self) if field.name != "first"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Parity(**sums, first=self.first or other.first)

    def compared(self) -> int:
        """How many comparisons there were."""
        return self.lines + self.masked + self.pairs + self.truncated + self.alone

    def record(self) -> dict:
        """The counts, as records hold them."""
        return {
            "lines": self.lines,
            "with_mask": self.masked,
            "pairs": self.pairs,
            "truncated": self.truncated,
            "alone": self.alone,
            "differences": self.differences,
            "known_differences": dict(sorted(self.known.items())),
        }


# Known differences


LITERAL = re.compile("|".join(map(re.escape, (PAD, UNK, CLS, SEP))))


def _without_literals(text: str, normalize: Callable[[str], str]) -> str:
    """Take literal special pieces out, also those that normalisation makes (＜ｕｎｋ＞)."""
    text = LITERAL.sub("", text)
    normalized = normalize(text)
    return LITERAL.sub("", normalized) if LITERAL.search(normalized) else text


HALF_WIDTH_MARKS = "ﾞﾟ"  # NFKC makes combining marks of them
JOINERS = "\u200c\u200d\u0e33\u0eb3"  # no marks to Unicode, but of one grapheme with the letter before them
FINAL_JAMO = range(0x11A8, 0x11C3)  # Hangul letters that end a syllable, as marks do


def _is_mark(character: str) -> bool:
    others = character in HALF_WIDTH_MARKS + JOINERS or ord(character) in FINAL_JAMO
    return others or unicodedata.category(character).startswith("M")


def _composes(base: str, mark: str) -> bool:
    """Whether SentencePiece makes one letter of two: か + U+3099, ｶ + ﾞ; but not Ａ or ê + U+0301, 。 + U+3099."""
    if mark in HALF_WIDTH_MARKS:
        kana = "ぁ" <= base <= "ヿ" or "ｦ" <= base <= "ﾝ"
        return kana and len(unicodedata.normalize("NFKC", base + mark)) == 1
    plain = unicodedata.normalize("NFKD", base + mark) == base + mark
    return plain and not _is_mark(base) and len(unicodedata.normalize("NFC", base + mark)) == 1


def _without_marks(text: str, normalize: Callable[[str], str]) -> str:
    """Take the combining marks off that do not simply compose: on a compatibility character, several, or stray.

    `tokenizers` drops some of them (its Precompiled, within a grapheme below 6 bytes) and composes or reorders others
    (NFC); SentencePiece leaves them where they are.
    """
    return "".join(
        here
        for base, here, after in zip(" " + text, text, text[1:] + " ", strict=False)
        if not _is_mark(here) or (_composes(base, here) and not _is_mark(after))
    )


def _without_spaces_at_masks(text: str, normalize: Callable[[str], str]) -> str:
    """Take the spaces beside [MASK] away, which slow tokenizers drop; the rest in SentencePiece's form."""
    return re.sub(rf" *{re.escape(MASK)} *", MASK, normalize(text).replace(tokenization.SPACE, " "))


# Why a line may differ -> the line without the cause. A difference is of that class only if the rest agrees.
LITERALS, MARKS = "literal special piece in the text", "combining mark or joiner that does not simply compose"
KNOWN_CAUSES = {LITERALS: _without_literals, MARKS: _without_marks}
SPACES = "space beside [MASK], which slow tokenizers drop"
SLOW_CAUSES = {LITERALS: _without_literals, SPACES: _without_spaces_at_masks}
TIE = "equal scores in a line of thousands of pieces"


# Truth


class Segment(typing.NamedTuple):
    """What SentencePiece makes of a text."""

    line: str
    ids: list[int]
    pieces: list[str]  # an unknown one as it stands in the normalised text
    offsets: list[tuple[int, int]]  # characters of the line
    text: str  # decoded, without unknown pieces and [MASK]


class Encoding(typing.NamedTuple):
    """What a tokenizer gives for a text or a pair; descriptions of differences use these names."""

    ids: list[int]
    token_type_ids: list[int]
    attention_mask: list[int]
    special_tokens_mask: list[int]  # 1 at [CLS], [SEP] and padding that the tokenizer has put there
    offsets: list[tuple[int, int]]  # (0, 0) at these
    text: str  # decoded, without special pieces


def _text(ids: list[int], pieces: list[str]) -> str:
    """SentencePiece's decoding, but that spaces at the beginning stay: one may stand behind [MASK]."""
    said = (piece for number, piece in zip(ids, pieces, strict=True) if number >= len(PIECES))
    return "".join(said).replace(tokenization.SPACE, " ")


def read_segments(spm, lines: list[str]) -> list[Segment]:
    """SentencePiece's segments of lines."""
    found = (tuple(each.values()) for each in spm.encode(lines, return_type="offset_mapping"))  # ids, pieces, offsets
    return [
        Segment(line, ids, pieces, offsets, _text(ids, pieces))
        for line, (ids, pieces, offsets) in zip(lines, found, strict=True)
    ]


def encoding_of(segments: list[Segment], length: int = 0) -> Encoding:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], padded to `length` tokens."""
    ids, types, special, offsets = [CLS_ID], [0], [1], [(0, 0)]
    for type_id, segment in enumerate(segments):
        ids += [*segment.ids, SEP_ID]
        types += [type_id] * (len(segment.ids) + 1)
        special += [0] * len(segment.ids) + [1]
        offsets += [*segment.offsets, (0, 0)]
    padding = max(0, length - len(ids))
    attention = [1] * len(ids) + [0] * padding
    ids, types, special = ids + [PAD_ID] * padding, types + [0] * padding, special + [1] * padding
    return Encoding(ids, types, attention, special, offsets + [(0, 0)] * padding, "".join(s.text for s in segments))


def cut_lengths(lengths: list[int], budget: int) -> list[int]:
    """Lengths of one segment or two cut to `budget` tokens, the longer first: [5, 2] at 6 -> [4, 2], [5, 5] -> [3, 3].

    What is odd goes to the longer one, and to the second of two equal ones, as `tokenizers` has it (longest_first).
    """
    if len(lengths) == 1 or sum(lengths) <= budget:
        return [min(length, budget) for length in lengths]
    shorter = min(*lengths, budget // 2)
    return [shorter, budget - shorter] if lengths[0] <= lengths[1] else [budget - shorter, shorter]


def _sources(line: str, spm) -> list[tuple[int, int]]:
    """For each character of the normalised line, from where to where in the line it comes."""
    _, starts = spm.normalize(line, with_offsets=True)
    sources = []
    for start, run in itertools.groupby(starts[:-1]):
        count = len(list(run))
        sources += [(start, starts[len(sources) + count])] * count
    return sources


def offsets_agree(segment: Segment, found: list[tuple[int, int]], spm) -> bool:
    """Whether offsets are the characters that SentencePiece made the pieces of.

    Where normalisation joins characters (か + U+3099, a run of spaces), `tokenizers` names one or some of them,
    SentencePiece all. Where one character becomes several pieces, `tokenizers` names it for each, SentencePiece for the
    last.
    """
    sources, place = _sources(segment.line, spm), 0
    for piece, (start, end) in zip(segment.pieces, found, strict=True):
        first, last = sources[place], sources[place + len(piece) - 1]
        place += len(piece)
        if not (first[0] <= start < min(end, first[1]) and max(start, last[0]) < end <= last[1]):
            return False
        if piece == MASK and spm.normalize(segment.line[start:end]) != MASK:
            return False
    return place == len(sources)


# Comparison


def _quoted(lines: Sample) -> str:
    return " + ".join(repr(line if len(line) <= SHOWN_TEXT else line[:SHOWN_TEXT] + "...") for line in lines)


def _excerpts(name: str, ours: Encoding, theirs: Encoding) -> tuple[str, str]:
    """What differs, in words, from shortly before the first difference: ("ids [2, 7, 3]", "[2, 8, 3]")."""
    ours, theirs = getattr(ours, name), getattr(theirs, name)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    start = max(0, same - 2) if max(len(ours), len(theirs)) > SHOWN_IDS else 0
    where = f" from position {start}" if start else ""
    return f"{name}{where} {ours[start : start + SHOWN_IDS]!r}", repr(theirs[start : start + SHOWN_IDS])


def _cut(segments: list[Segment], budget: int) -> list[Segment]:
    """The segments without what truncation to `budget` tokens cuts off; pieces and text are left as they are."""
    lengths = cut_lengths([len(segment.ids) for segment in segments], budget)
    return [
        segment._replace(ids=segment.ids[:length], offsets=segment.offsets[:length])
        for segment, length in zip(segments, lengths, strict=True)
    ]


def digest(given: list | tuple) -> str:
    """16 hexadecimal digits of what a tokenizer gave."""
    return hashlib.blake2b(marshal.dumps(given, 2), digest_size=8).hexdigest()  # version 2: no references


def _require_json(folder: Path | str) -> Path:
    path = Path(folder) / tokenization.JSON_FILE
    if not path.is_file():
        raise StageError(f"{folder} has no {tokenization.JSON_FILE}: build it with convert_tokenizer.py")
    return path


class Comparison:
    """AutoTokenizer of a folder beside SentencePiece; `slow` is AutoTokenizer with use_fast=False.

    `written`, where given, is called with a line of text for each encoding: what was encoded, and a digest of all that
    AutoTokenizer gave for it. Two environments that agree write the same lines.
    """

    def __init__(
        self,
        folder: Path | str,
        spm,
        source: str = "the text",
        private: bool = False,
        slow: bool = False,
        written: Callable[[str], None] | None = None,
    ):
        from tokenizers import Tokenizer

        plain = None if slow else _require_json(folder)
        self.tokenizer, self.spm = tokenization.load_tokenizer(folder, private, slow), spm
        if "token_type_ids" not in self.tokenizer.model_input_names:
            raise StageError(
                f"AutoTokenizer of {folder} gives no token_type_ids, its {tokenization.CONFIG_FILE} is missing or "
                "another's: build it again with convert_tokenizer.py"
            )
        self.source, self.private, self.written = source, private, written
        self.names = Encoding._fields[:3] if slow else Encoding._fields  # slow ones know no offsets
        self.causes = SLOW_CAUSES if slow else KNOWN_CAUSES
        self.plain = plain and Tokenizer.from_file(str(plain))  # the library alone; slow tokenizers have none
        self.found = Parity()

    def tested(self, texts: list[str], pairs: list[str] | None = None, **options) -> list[Encoding]:
        """What AutoTokenizer gives for a batch."""
        if not texts:
            return []
        options |= {"return_special_tokens_mask": True, "return_offsets_mapping": self.plain is not None}
        batch = self.tokenizer(texts, pairs, verbose=False, **options)
        ids = batch["input_ids"]
        columns = [batch[name] for name in ("token_type_ids", "attention_mask", "special_tokens_mask")]
        offsets = batch["offset_mapping"] if self.plain else [[]] * len(ids)
        said = self.tokenizer.batch_decode(ids, skip_special_tokens=True) if self.plain else [""] * len(ids)
        return list(map(Encoding, ids, *columns, offsets, said))

    def difference(self, tested: Encoding, segments: list[Segment]) -> str | None:
        """The name of the first field that differs from SentencePiece; None when all agree."""
        truth = encoding_of(segments)
        differing = (name for name in self.names if getattr(tested, name) != getattr(truth, name))
        return next(
            (name for name in differing if name != "offsets" or not self.same_characters(tested, segments)), None
        )

    def same_characters(self, tested: Encoding, segments: list[Segment]) -> bool:
        """Whether offsets that are not equal name the same characters all the same, see `offsets_agree`."""
        place, ends = 1, [tested.offsets[0]]
        for segment in segments:
            end = place + len(segment.ids)
            if not offsets_agree(segment, tested.offsets[place:end], self.spm):
                return False
            place = end + 1
            ends.append(tested.offsets[end])
        return set(ends) == {(0, 0)}

    def agreeing(self, samples: list[Sample]) -> list[bool]:
        """Whether each of some samples, all lines or all pairs, agrees."""
        columns = list(map(list, zip(*samples, strict=True)))
        segments = zip(*(read_segments(self.spm, column) for column in columns), strict=True)
        tested = self.tested(*columns)
        return [self.difference(one, list(parts)) is None for one, parts in zip(tested, segments, strict=True)]

    def is_tie(self, line: str) -> bool:
        """Whether a line is so long that float32, in which SentencePiece adds, no longer tells the two ways apart."""
        ours, theirs = self.tested([line])[0].ids[1:-1], self.spm.encode(line)
        if max(ours, default=0) >= self.spm.get_piece_size():  # another vocabulary altogether
            return False
        scores = [[self.spm.get_score(piece) for piece in ids] for ids in (ours, theirs)]
        resolution = float(np.spacing(np.float32(min(map(sum, scores)))))  # negative: the sums are
        if -resolution <= tokenization.SCORE_STEP or self.spm.decode(ours) != self.spm.decode(theirs):
            return False
        apart = (Counter(ours) - Counter(theirs)) + (Counter(theirs) - Counter(ours))
        return abs(sum(scores[0]) - sum(scores[1])) <= -resolution * apart.total()

    def without(self, sample: Sample, mends: list[Mend]) -> Sample:
        """A sample without what may be the cause of its difference."""
        for mend in mends:
            sample = tuple(mend(line, self.spm.normalize) for line in sample)
        return sample

    def cause(self, samples: list[Sample]) -> list[str | None]:
        """The known class of each difference: without its cause the sample agrees. None for any other difference."""
        mends, found = list(self.causes.values()), [None] * len(samples)
        attempts = {name: [mend] for name, mend in self.causes.items()}
        attempts[" and ".join(self.causes)] = mends + mends  # taking a mark from ［Ｓ + mark + ＥＰ］ leaves a literal
        for name, mends in attempts.items():
            rest = {place: self.without(samples[place], mends) for place, known in enumerate(found) if known is None}
            rest = {place: sample for place, sample in rest.items() if sample != samples[place]}
            for place, agrees in zip(rest, self.agreeing(list(rest.values())) if rest else (), strict=True):
                found[place] = name if agrees else None
        return [name or (TIE if self.is_tied(sample) else None) for name, sample in zip(found, samples, strict=True)]

    def is_tied(self, sample: Sample) -> bool:
        """Whether all lines of a sample that differ do so by a tie."""
        differing = [line for line in sample if self.agreeing([(line,)]) == [False]]
        return bool(differing) and all(map(self.is_tie, differing))

    def differs(self, where: str, lines: Sample, ours: str, theirs: str) -> None:
        """Count a difference that has no known cause, and keep the first in words."""
        self.found.differences += 1
        if self.found.first is None:
            said = files.shown(f"{_quoted(lines)}: {ours}, {theirs}", self.private)
            self.found.first = f"{where} of {self.source}, {said}"

    def expect(self, number: int, sample: list[Segment], tested: Encoding, expected: Encoding, how: str) -> None:
        """Add to what was found how an encoding differs from what AutoTokenizer's own encodings of its lines imply."""
        differing = (name for name in self.names if getattr(tested, name) != getattr(expected, name))
        if name := next(differing, None):
            where = f"{'the pair ending in ' * (len(sample) - 1)}line {number:,}"
            ours, theirs = _excerpts(name, tested, expected)
            self.differs(where, tuple(part.line for part in sample), f"{ours} {how}", f"{theirs} by what it gives else")

    def check_truncation(self, numbers: list[int], lines: list[Segment], length: int) -> None:
        """Truncate lines to `length` tokens, padded to it, and pairs of neighbours, padded to the longest of them."""
        texts = [line.line for line in lines]
        tested = self.tested(texts, truncation=True, max_length=length, padding="max_length")
        tested += self.tested(texts[:-1], texts[1:], truncation=True, max_length=length, padding=True)
        samples = [_cut([line], length - 2) for line in lines]
        pairs = [_cut(list(pair), length - 3) for pair in itertools.pairwise(lines)]
        longest = max((len(encoding_of(pair).ids) for pair in pairs), default=0)
        expected = [encoding_of(sample, length) for sample in samples] + [encoding_of(pair, longest) for pair in pairs]
        self.found.truncated += len(tested)
        for number, sample, ours, theirs in zip(numbers + numbers[1:], samples + pairs, tested, expected, strict=True):
            self.expect(number, sample, ours, theirs._replace(text=ours.text), f"truncated to {length} tokens")

    def check_alone(self, numbers: list[int], lines: list[Segment], batch: list[Encoding]) -> None:
        """Tokenize lines in a call of their own, and by `tokenizers` alone: as they were in a batch."""
        self.found.alone += len(lines)
        for number, line, expected in zip(numbers, lines, batch, strict=True):
            ids = self.tokenizer(line.line, verbose=False)["input_ids"]
            self.expect(number, [line], expected._replace(ids=ids), expected, "in a call of its own")
            found = self.plain.encode(line.line)
            masks = (found.attention_mask, found.special_tokens_mask)
            ours = Encoding(found.ids, found.type_ids, *masks, found.offsets, self.plain.decode(found.ids))
            self.expect(number, [line], ours, expected, "by tokenizers alone")

    def check(self, numbers: list[int], lines: list[str], length: int) -> None:
        """Compare a batch of lines: each alone and with [MASK] put in, then two by two, and a share in other ways."""
        segments, tested = read_segments(self.spm, lines), self.tested(lines)
        self.run("line {:,}", numbers, [[segment] for segment in segments], tested)
        masked = [_with_mask(line, number) for number, line in zip(numbers, lines, strict=True)]
        samples = [[segment] for segment in read_segments(self.spm, masked)]
        self.run("line {:,} with [MASK]", numbers, samples, self.tested(masked))
        pairs = list(map(list, zip(segments[::2], segments[1::2], strict=False)))
        ours = self.tested(lines[::2][: len(pairs)], lines[1::2])
        self.run("the pair ending in line {:,}", numbers[1::2], pairs, ours)
        self.found += Parity(lines=len(lines), masked=len(masked), pairs=len(pairs))
        if self.plain is None:  # slow ones truncate pairs otherwise
            return
        own = [_as_segment(line, encoding) for line, encoding in zip(lines[::SHARE], tested[::SHARE], strict=True)]
        self.check_truncation(numbers[::SHARE], own, length)
        self.check_alone(numbers[::SHARE], own, tested[::SHARE])

    def run(self, where: str, numbers: list[int], samples: list[list[Segment]], tested: list[Encoding]) -> None:
        """Add to what was found how encodings differ from SentencePiece's; `where` has a place for a line's number."""
        rows = list(zip(map(where.format, numbers), samples, tested, strict=True))
        if self.written:
            for place, _, encoding in rows:
                self.written(f"{place} of {self.source}: {digest(tuple(encoding))}")
        differing = [(row, name) for row in rows if (name := self.difference(row[2], row[1]))]
        lines = [tuple(segment.line for segment in segments) for (_, segments, _), _ in differing]
        for ((place, segments, encoding), name), sample, cause in zip(differing, lines, self.cause(lines), strict=True):
            if cause:
                self.found.known[cause] += 1
                continue
            ours, theirs = _excerpts(name, encoding, encoding_of(segments))
            self.differs(place, sample, f"{ours} by AutoTokenizer", f"{theirs} by SentencePiece")


def _as_segment(line: str, encoding: Encoding) -> Segment:
    """AutoTokenizer's own encoding of a line without what stands around it, as the truth for what follows from it."""
    return Segment(line, encoding.ids[1:-1], [], encoding.offsets[1:-1], encoding.text)


def _with_mask(line: str, number: int) -> str:
    """Put [MASK] into a line: between two characters that the line's number chooses, or with spaces on its sides."""
    place = int(draws.integers(draws.key("parity"), np.uint64(number), len(line) + 1))
    left, right = (("", ""), ("", ""), (" ", " "), ("", " "), (" ", ""))[number % 5]
    return f"{line[:place]}{left}{MASK}{right}{line[place:]}"


def check_parity(
    folder: Path | str,
    lines: Iterable[str],
    spm,
    source: str = "the text",
    private: bool = False,
    slow: bool = False,
    written: Callable[[str], None] | None = None,
) -> Parity:
    """Compare AutoTokenizer of `folder` with SentencePiece on every line: alone, with [MASK] in it, and two by two.

    Streams. `source` says what the lines are, for the description of the first difference; `private` keeps the text and
    its ids out of that, and its vocabulary out of errors. For `slow` and `written` see Comparison.
    """
    comparison = Comparison(folder, spm, source, private, slow, written)
    numbered, lengths = enumerate(lines, start=1), itertools.cycle(LENGTHS)
    while batch := list(itertools.islice(numbered, BATCH)):
        numbers, texts = map(list, zip(*batch, strict=True))
        comparison.check(numbers, texts, next(lengths))
    return comparison.found


def require_parity(found: Parity, folder: Path | str) -> None:
    """Raise StageError with the first differing line."""
    if found.differences:
        raise StageError(
            f"{folder} does not tokenize as its SentencePiece model does ({found.differences:,} of "
            f"{found.compared():,} comparisons): {found.first}"
        )


# Filling masks

PROMPTS = ("専門として[MASK]を専攻しています", "日本の [MASK] は、古い。", "[MASK]と山", "今日は ［ＭＡＳＫ］")
GUESSES, LARGEST_DIFFERENCE = 5, 1e-5  # of a pipeline; between its scores and the model's


def _guesses(model, spm, prompt: str) -> list[dict]:
    """What pipeline("fill-mask") has to say of a prompt, from SentencePiece's ids and the model's own logits."""
    import torch

    segment = read_segments(spm, [prompt])[0]
    ids, types = encoding_of([segment])[:2]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0]
    place = segment.ids.index(PIECES.index(MASK))
    scores, numbers = logits[place + 1].softmax(-1).topk(GUESSES)
    guesses = []
    for score, number in zip(scores.tolist(), numbers.tolist(), strict=True):
        piece = spm.id_to_piece(number)
        filled = [
            [*column[:place], new, *column[place + 1 :]]
            for column, new in ((segment.ids, number), (segment.pieces, piece))
        ]
        text = piece.replace(tokenization.SPACE, " ")
        guesses.append({"score": score, "token": number, "token_str": text, "sequence": _text(*filled)})
    return guesses


def check_fill_mask(
    folder: Path | str, spm, private: bool = False, written: Callable[[str], None] | None = None
) -> int:
    """Compare pipeline("fill-mask") of a model folder with its model on SentencePiece's ids, on so many prompts.

    Raises StageError with the first difference. `written` is called with a line for each prompt.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        pipeline = transformers.pipeline("fill-mask", str(folder), device="cpu")
    except Exception as error:  # transformers raises whatever its parsers raise
        reason = files.shown(str(error).strip().split("\n")[0][:200], private)
        raise StageError(f"pipeline('fill-mask') cannot load {folder}: {reason}") from None
    for prompt in PROMPTS:
        found, expected = pipeline(prompt, top_k=GUESSES), _guesses(pipeline.model, spm, prompt)
        apart = max(abs(one.pop("score") - other.pop("score")) for one, other in zip(found, expected, strict=True))
        if found != expected or not apart <= LARGEST_DIFFERENCE:
            said = files.shown(f"{found}, the model {expected} on SentencePiece's ids", private)
            raise StageError(f"pipeline('fill-mask') of {folder} predicts for {prompt}, {apart:.0e} apart: {said}")
        if written:
            written(f"fill-mask of {prompt}: {digest(found)}")
    return len(PROMPTS)
