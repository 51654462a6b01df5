"""Samples of every objective and unit: some worked by hand, any text against a slow checker that knows the rules."""

import json
import lzma
import random
import tempfile
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from texts import text, write_tokenizer

from bert_ja import draws, encoding, files, samples, tokenization
from bert_ja.cli import StageError
from bert_ja.masking import MaskingRule

PLAIN = MaskingRule()


def make(
    content: bytes, tokenizer: Path, num_workers: int = 1, copies: int = 1, whole_words: bool = False, **options
) -> tuple[bytes, dict]:
    """The samples of a text as JSON lines, and what was counted."""
    defaults = {"max_seq_len": 512, "buffer_size": 10_000, "seed": 1000, "masked": False, "masking": PLAIN}
    rule = samples.SampleRule(**defaults | options)
    encoder = encoding.open_encoder(tokenizer, whole_words)
    with tempfile.TemporaryDirectory() as folder:
        path, journal = Path(folder, "a.txt"), files.Journal(Path(folder), None)
        path.write_bytes(content)
        done = []
        counts, text = encoding.encode_text(
            path, encoder, journal, rule.max_seq_len, whole_words, num_workers, done.append
        )
        assert (text, sum(done)) == (files.describe(path), len(content))
        tasks = samples.block_tasks(counts["sentences"], copies, rule)
        with open(Path(folder, "output"), "w+b") as file:
            total, lengths = samples.write_samples(
                files.Output(file, None), journal, tasks, rule, encoder.vocabulary, num_workers, lambda *numbers: None
            )
            file.seek(0)
            lines = file.read()
    longest = int(np.flatnonzero(lengths).max(initial=0))
    assert lengths.sum() == total["samples"]
    return lines, counts | {name: total[name] for name in samples.COUNTS} | {"longest": longest}


def read(lines: bytes) -> list[dict]:
    return [json.loads(line) for line in lines.splitlines()]


# By hand


HAND = """あいう。
えお。
あ。

い
うえ。

お。
"""


def test_samples_worked_by_hand(letters):
    """Six sentences of three documents; A is each but the last of a document, at most 9 - 3 = 6 tokens of A and B."""
    lines, counts = make(HAND.encode(), letters, max_seq_len=9, buffer_size=2, seed=287)
    assert read(lines) == [
        # あいう。 and えお。, seven letters: 。 of the longer side goes
        {"input_ids": [2, 5, 6, 8, 3, 9, 11, 7, 3], "token_type_ids": [0] * 5 + [1] * 4, "next_sentence_label": 0},
        # えお。 and a random one: of the lines within 2, only い is of another document
        {"input_ids": [2, 9, 11, 7, 3, 6, 3], "token_type_ids": [0] * 5 + [1] * 2, "next_sentence_label": 1},
        # い and うえ。
        {"input_ids": [2, 6, 3, 8, 9, 7, 3], "token_type_ids": [0] * 3 + [1] * 4, "next_sentence_label": 0},
    ]
    assert counts == {
        "sentences": 6,
        "documents": 3,
        "cut_sentences": 0,
        "lines_without_tokens": 0,
        "samples": 3,
        "tokens": 23,
        "unknown_tokens": 0,
        "exchanged": 1,
        "cut_samples": 1,
        "masked_tokens": 0,
        "longest": 9,
    }


def test_masks_worked_by_hand(letters):
    """The same samples; of 6, 4 and 4 candidates round(0.9), round(0.6) and round(0.6) are selected: one each."""
    lines, counts = make(HAND.encode(), letters, max_seq_len=9, buffer_size=2, seed=287, masked=True)
    assert read(lines) == [
        {  # お becomes [MASK]
            "input_ids": [2, 5, 6, 8, 3, 9, 4, 7, 3],
            "token_type_ids": [0] * 5 + [1] * 4,
            "next_sentence_label": 0,
            "labels": [-100, -100, -100, -100, -100, -100, 11, -100, -100],
        },
        {  # え becomes あ
            "input_ids": [2, 5, 11, 7, 3, 6, 3],
            "token_type_ids": [0] * 5 + [1] * 2,
            "next_sentence_label": 1,
            "labels": [-100, 9, -100, -100, -100, -100, -100],
        },
        {  # え stays as it is
            "input_ids": [2, 6, 3, 8, 9, 7, 3],
            "token_type_ids": [0] * 3 + [1] * 4,
            "next_sentence_label": 0,
            "labels": [-100, -100, -100, -100, 9, -100, -100],
        },
    ]
    assert counts["masked_tokens"] == 3


def test_packed_sentences_worked_by_hand(letters):
    """At most 9 - 2 = 7 tokens: あいう。 and えお。 fill a sample, the others have their own."""
    lines, counts = make(HAND.encode(), letters, max_seq_len=9, objective="none")
    expected = [[2, 5, 6, 8, 7, 9, 11, 7, 3], [2, 5, 7, 3], [2, 6, 8, 9, 7, 3], [2, 11, 7, 3]]
    assert [sample["input_ids"] for sample in read(lines)] == expected
    assert all(sorted(sample) == ["input_ids", "token_type_ids"] for sample in read(lines))
    assert all(set(sample["token_type_ids"]) == {0} for sample in read(lines))
    assert (counts["samples"], counts["exchanged"], counts["cut_samples"]) == (4, 0, 0)


def test_segments_worked_by_hand(letters):
    """One document of six sentences of two tokens; A and B have 4 sentences at most, two at least."""
    content = "".join(f"{letter}。\n" for letter in "あいうえあい").encode()
    lines, _ = make(content, letters, max_seq_len=11, objective="sop", unit="segment", short_seq_prob=0.0, seed=0)
    assert read(lines) == [
        {  # four sentences fit; parted in the middle, exchanged
            "input_ids": [2, 8, 7, 9, 7, 3, 5, 7, 6, 7, 3],
            "token_type_ids": [0] * 6 + [1] * 5,
            "next_sentence_label": 1,
        },
        {"input_ids": [2, 5, 7, 3, 6, 7, 3], "token_type_ids": [0] * 4 + [1] * 3, "next_sentence_label": 0},
    ]


# The slow checker: the rules of the samples, in lists and loops


def slow_documents(content: bytes, spm) -> list[list[list[int]]]:
    """Sentences as ids, by document: blank lines end a document, lines without a token are nothing at all."""
    documents, current = [], []
    for line in content.decode().split("\n"):
        if line.strip() == "":
            documents.append(current)
            current = []
        elif ids := spm.encode(line[:-1] if line.endswith("\r") else line):
            current.append(ids)
    return [document for document in [*documents, current] if document]


def slow_cut(first: list[int], second: list[int], budget: int) -> tuple[list[int], list[int]]:
    """Take the last token off the longer side until the pair fits; off B when both are as long."""
    first, second = list(first), list(second)
    while len(first) + len(second) > budget:
        (first if len(first) > len(second) else second).pop()
    return first, second


class Checker:
    """What any sample of a text has to fulfil."""

    def __init__(self, content: bytes, tokenizer: Path, max_seq_len: int, buffer_size: int):
        documents = slow_documents(content, tokenization.load_sentencepiece(tokenizer))
        self.budget, self.buffer_size = max_seq_len - 3, buffer_size
        self.sentences = [sentence for document in documents for sentence in document]
        self.document = [number for number, document in enumerate(documents) for _ in document]
        self.spans, start = [], 0
        for document in documents:
            self.spans.append((start, start + len(document)))
            start += len(document)
        self.firsts = [at for begin, end in self.spans for at in range(begin, end - 1)]
        self.places = defaultdict(list)
        for place, sentence in enumerate(self.sentences):
            self.places[tuple(sentence)].append(place)

    def permits(self, at: int, other: int) -> bool:
        """Whether a random B of sentence `at` may be sentence `other`."""
        if len(self.spans) == 1:
            return other not in (at, at + 1)
        begin, end = self.spans[self.document[at]]
        if at - self.buffer_size < begin and begin > 0 or at + self.buffer_size >= end and end < len(self.sentences):
            return self.document[other] != self.document[at] and abs(other - at) <= self.buffer_size
        return other in (begin - 1, end)

    def near(self, at: int) -> list[int]:
        """Sentences among which are all that are permitted."""
        if len(self.spans) == 1:
            return list(range(len(self.sentences)))
        begin, end = self.spans[self.document[at]]
        window = range(max(0, at - self.buffer_size), min(len(self.sentences), at + self.buffer_size + 1))
        return [*window, *(other for other in (begin - 1, end) if 0 <= other < len(self.sentences))]

    def is_random(self, at: int, first: list[int], second: list[int]) -> bool:
        """Whether (first, second) is A with a B that is permitted, found by its tokens: all, or the first when cut."""
        places = self.places[tuple(second)]
        if len(first) + len(second) == self.budget:
            places = [other for other in self.near(at) if self.sentences[other][: len(second)] == second]
        pairs = (slow_cut(self.sentences[at], self.sentences[other], self.budget) for other in places)
        return any(
            pair == (first, second) and self.permits(at, other) for pair, other in zip(pairs, places, strict=True)
        )

    def check_pair(self, at: int, sample: dict) -> None:
        ids, types = sample["input_ids"], sample["token_type_ids"]
        assert sorted(sample) == ["input_ids", "next_sentence_label", "token_type_ids"]
        half = len(types) - sum(types)
        first, second = ids[1 : half - 1], ids[half:-1]
        assert ids == [2, *first, 3, *second, 3]
        assert types == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert first
        assert second
        assert len(ids) <= self.budget + 3
        if sample["next_sentence_label"] == 0:
            assert (first, second) == slow_cut(self.sentences[at], self.sentences[at + 1], self.budget)
        else:
            assert sample["next_sentence_label"] == 1
            assert self.is_random(at, first, second)

    def check(self, lines: bytes, counts: dict) -> list[dict]:
        found = read(lines)
        assert len(found) == len(self.firsts) == counts["samples"] if found else not self.firsts
        assert (counts["sentences"], counts["documents"]) == (len(self.sentences), len(self.spans))
        for at, sample in zip(self.firsts, found, strict=True):
            self.check_pair(at, sample)
        if found:
            lengths = [len(sample["input_ids"]) for sample in found]
            assert (counts["tokens"], counts["longest"]) == (sum(lengths), max(lengths))
            assert counts["exchanged"] == sum(sample["next_sentence_label"] for sample in found)
        return found


class SegmentChecker:
    """What segments of a text have to fulfil when none aims at fewer tokens than fit (short_seq_prob 0)."""

    def __init__(self, content: bytes, tokenizer: Path, max_seq_len: int, buffer_size: int, objective: str):
        self.documents = slow_documents(content, tokenization.load_sentencepiece(tokenizer))
        self.sentences = sum(self.documents, [])
        self.budget, self.buffer_size, self.objective = max_seq_len - 3, buffer_size, objective
        self.starts = [0]
        for document in self.documents:
            self.starts.append(self.starts[-1] + len(document))
        self.lasts = {end - 1 for end in self.starts[1:]}
        self.begins = defaultdict(list)  # first tokens -> sentences that begin so
        for number, sentence in enumerate(self.sentences):
            self.begins[sentence[0]].append(number)

    def text(self, begin: int, end: int) -> list[int]:
        return sum(self.sentences[begin:end], [])

    def fitting(self, begin: int, last: int) -> int:
        """The end of the sentences from `begin` on that go into one sample."""
        end = begin + 2
        while end < last and len(self.text(begin, end + 1)) <= self.budget:
            end += 1
        return end - 1 if end == last - 1 and end - begin > 2 else end

    def splits(self, begin: int, end: int, first: list[int]) -> list[int]:
        """Where A, which begins at `begin`, may end."""
        return [split for split in range(begin + 1, end) if self.text(begin, split)[: len(first)] == first]

    def random_end(self, number: int, begin: int, left: int) -> int:
        """The end of a random B that begins at a sentence: what fits beside A, one sentence at least."""
        last = self.starts[bisect_right(self.starts, number)]
        if len(self.documents) == 1 and number < begin:
            last = begin
        end = number + 1
        while end < last and len(self.text(number, end + 1)) <= left:
            end += 1
        return end

    def permits(self, begin: int, split: int, number: int) -> bool:
        """Whether a random B of A = [begin, split) may begin at a sentence."""
        total = len(self.sentences)
        low, high = begin, min(split + 1, total)
        if len(self.documents) > 1:
            document = bisect_right(self.starts, begin)
            low, high = self.starts[document - 1], self.starts[document]
        window = range(max(0, begin - self.buffer_size), min(total, begin + self.buffer_size + 1))
        window = [n for n in window if not low <= n < high] or [n for n in (low - 1, high) if 0 <= n < total]
        return number in window

    def next_begins(self, begin: int, last: int, sample: dict) -> set[int]:
        """Where the next sample may begin behind one that begins at a sentence; empty where that cannot be."""
        ids, half = sample["input_ids"], sample["token_type_ids"].index(1)
        first, second = ids[1 : half - 1], ids[half:-1]
        assert ids == [2, *first, 3, *second, 3]
        assert len(ids) <= self.budget + 3
        end, label, found = self.fitting(begin, last), sample["next_sentence_label"], set()
        if self.objective == "sop" and label == 1:
            first, second = second, first
        for split in self.splits(begin, end, first):
            if label == 0 or self.objective == "sop":
                if slow_cut(self.text(begin, split), self.text(split, end), self.budget) == (first, second):
                    found.add(end)
            elif self.is_random(begin, split, first, second):
                found.add(split)
        return found

    def is_random(self, begin: int, split: int, first: list[int], second: list[int]) -> bool:
        """Whether a sample is A = [begin, split) with a random B that is permitted."""
        left = self.budget - len(self.text(begin, split))
        for number in self.begins[second[0]]:
            other = self.text(number, self.random_end(number, begin, left))
            fits = slow_cut(self.text(begin, split), other, self.budget) == (first, second)
            if fits and self.permits(begin, split, number):
                return True
        return False

    def settled(self, begin: int) -> int:
        """Where a sample begins at the earliest: not at the last sentence of a document."""
        while begin in self.lasts:
            begin += 1
        return begin

    def check(self, found: list[dict]) -> None:
        """Every sample, in order; what stands behind the last of a document is at most one sentence.

        Equal sentences can make it unclear where a sample ended: all places that are possible are followed.
        """
        begins = {self.settled(0)}
        for sample in found:
            lasts = {
                begin: self.starts[bisect_right(self.starts, begin)] for begin in begins if begin < self.starts[-1]
            }
            possible = (self.next_begins(begin, last, sample) for begin, last in lasts.items())
            begins = set(map(self.settled, set().union(*possible)))
            assert begins, sample
        assert len(self.sentences) in begins


def slow_packed(content: bytes, tokenizer: Path, max_seq_len: int) -> list[list[int]]:
    """The ids of samples of objective none: whole sentences of one document while they fit, one sentence at least."""
    found = []
    for document in slow_documents(content, tokenization.load_sentencepiece(tokenizer)):
        ids = []
        for sentence in document:
            if ids and len(ids) + len(sentence) > max_seq_len - 2:
                found.append(ids)
                ids = []
            ids = ids + sentence
        found.append(ids)
    return [[2, *ids[: max_seq_len - 2], 3] for ids in found]


def slow_ordered(content: bytes, tokenizer: Path, max_seq_len: int) -> list[tuple[list[int], list[int]]]:
    """(A, B) of each two neighbours of a document."""
    documents = slow_documents(content, tokenization.load_sentencepiece(tokenizer))
    pairs = (pair for document in documents for pair in zip(document, document[1:], strict=False))
    return [slow_cut(*pair, max_seq_len - 3) for pair in pairs]


def check_ordered(content: bytes, tokenizer: Path, max_seq_len: int, found: list[dict]) -> None:
    """Samples of objective sop and unit sentence."""
    for (first, second), sample in zip(slow_ordered(content, tokenizer, max_seq_len), found, strict=True):
        if sample["next_sentence_label"] == 1:
            first, second = second, first
        assert sample == {
            "input_ids": [2, *first, 3, *second, 3],
            "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
            "next_sentence_label": sample["next_sentence_label"],
        }


def check_masks(plain: list[dict], masked: list[dict], rule: MaskingRule = PLAIN) -> None:
    """Masked samples are the plain ones but for max(1, round(0.15 n)) positions, whose ids are the labels."""
    assert len(plain) == len(masked)
    for before, after in zip(plain, masked, strict=True):
        ids, labels = before["input_ids"], after["labels"]
        assert [now if label == -100 else label for now, label in zip(after["input_ids"], labels, strict=True)] == ids
        candidates = [at for at, token in enumerate(ids) if token not in (0, 2, 3)]
        chosen = [at for at, label in enumerate(labels) if label != -100]
        assert set(chosen) <= set(candidates)
        assert len(chosen) == max(1, round(rule.mlm_probability * len(candidates)))
        assert {after["input_ids"][at] for at in chosen} & {0, 1, 2, 3} <= {ids[at] for at in chosen}
        assert (after["token_type_ids"], after.get("next_sentence_label")) == (
            before["token_type_ids"],
            before.get("next_sentence_label"),
        )


# Texts of any shape


def numbered(number: int) -> str:
    """A sentence of its own for each number, 2 to 12 letters."""
    letters = ""
    while number:
        number, digit = divmod(number, 5)
        letters += "あいうえお"[digit]
    return letters * (1 + len(letters) % 3) + "。"


KINDS = st.sampled_from(["sentence"] * 8 + ["", "", " ", "　", "\t \x0b", "\r", "\u200b", "[MASK]", "犬", "い う"])


@st.composite
def contents(draw) -> bytes:
    """Texts with blank lines, lines of spaces, CRLF, lines without tokens, with or without a newline at the end."""
    kinds = draw(st.lists(KINDS, max_size=40))
    lines = [numbered(number + 1) if kind == "sentence" else kind for number, kind in enumerate(kinds)]
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    return (newline.join(lines) + draw(st.sampled_from(["", newline, newline * 2]))).encode()


@given(contents(), st.integers(8, 40), st.sampled_from([1, 2, 3, 5, 1000]), st.integers(0, 99))
@examples(150)
def test_samples_of_any_text_keep_every_rule(letters, content, max_seq_len, buffer_size, seed):
    options = {"max_seq_len": max_seq_len, "buffer_size": buffer_size, "seed": seed}
    plain = Checker(content, letters, max_seq_len, buffer_size).check(*make(content, letters, **options))
    masked, _ = make(content, letters, masked=True, **options)
    check_masks(plain, read(masked))


@given(
    contents(), st.integers(8, 40), st.sampled_from([1, 3, 1000]), st.integers(0, 99), st.sampled_from(["nsp", "sop"])
)
@examples(150)
def test_segments_of_any_text_keep_every_rule(letters, content, max_seq_len, buffer_size, seed, objective):
    options = {"max_seq_len": max_seq_len, "buffer_size": buffer_size, "seed": seed, "objective": objective}
    lines, _ = make(content, letters, unit="segment", short_seq_prob=0.0, **options)
    SegmentChecker(content, letters, max_seq_len, buffer_size, objective).check(read(lines))
    masked, _ = make(content, letters, unit="segment", short_seq_prob=0.0, masked=True, **options)
    check_masks(read(lines), read(masked))


@given(contents(), st.integers(8, 40), st.integers(0, 99))
@examples(100)
def test_packed_sentences_and_ordered_pairs_of_any_text_keep_every_rule(letters, content, max_seq_len, seed):
    options = {"max_seq_len": max_seq_len, "seed": seed}
    packed = read(make(content, letters, objective="none", **options)[0])
    expected = slow_packed(content, letters, max_seq_len)
    assert packed == [{"input_ids": ids, "token_type_ids": [0] * len(ids)} for ids in expected]
    check_masks(packed, read(make(content, letters, objective="none", masked=True, **options)[0]))
    check_ordered(content, letters, max_seq_len, read(make(content, letters, objective="sop", **options)[0]))


KINDS_OF_SAMPLES = [
    {"objective": objective, "unit": unit}
    for objective, unit in (("nsp", "sentence"), ("nsp", "segment"), ("sop", "sentence"), ("sop", "segment"))
] + [{"objective": "none"}]


@given(contents(), st.integers(1, 60), st.integers(1, 9), st.sampled_from(KINDS_OF_SAMPLES), st.sampled_from([1, 64]))
@examples(200)
def test_blocks_of_any_size_give_the_same_bytes(letters, content, text_block, sample_block, kind, stretch):
    options = {"max_seq_len": 12, "buffer_size": 3, "masked": True, "copies": 2} | kind
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "STRETCH", stretch)
        expected = make(content, letters, **options)
        patch.setattr(encoding, "TEXT_BLOCK", text_block)
        patch.setattr(samples, "SAMPLE_BLOCK", sample_block)
        patch.setattr(samples, "CHUNK_TOKENS", 10 * sample_block)
        assert make(content, letters, **options) == expected


def test_a_document_end_is_kept_over_a_block_without_a_token(letters, monkeypatch):
    content = "あ。\nい。\n\n\n\u200b\nう。\nえ。\n".encode()
    expected = make(content, letters)
    assert expected[1]["documents"] == 2
    monkeypatch.setattr(encoding, "TEXT_BLOCK", 1)
    assert make(content, letters) == expected


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id="-".join(kind.values()), marks=[pytest.mark.full] * (0 < number < 4))
        for number, kind in enumerate(KINDS_OF_SAMPLES)
    ],
)
def test_any_number_of_workers_gives_the_same_bytes(words, monkeypatch, kind):
    content = text(120, seed=7).encode()
    expected = make(content, words, masked=True, **kind)
    monkeypatch.setattr(encoding, "TEXT_BLOCK", 1000)
    monkeypatch.setattr(samples, "SAMPLE_BLOCK", 20)
    for num_workers in (1, 2, 3, 7):
        assert make(content, words, num_workers, masked=True, **kind) == expected, num_workers


@pytest.mark.parametrize("kind", KINDS_OF_SAMPLES, ids=lambda kind: "-".join(kind.values()))
def test_copies_of_a_corpus_follow_each_other_and_differ(words, kind):
    content = text(60, seed=8).encode()
    once, twice = (read(make(content, words, copies=copies, masked=True, **kind)[0]) for copies in (1, 2))
    assert twice[: len(once)] == once
    second = twice[len(once) :]
    assert second != once
    if kind["objective"] == "none":
        check_masks([unmasked(sample) for sample in once], second)
    else:
        labels = [[sample["next_sentence_label"] for sample in copy] for copy in (once, second)]
        assert labels[0] != labels[1]


def unmasked(sample: dict) -> dict:
    """A sample as it was before it was masked."""
    pairs = zip(sample["input_ids"], sample["labels"], strict=True)
    ids = [now if label == -100 else label for now, label in pairs]
    return {name: value for name, value in sample.items() if name != "labels"} | {"input_ids": ids}


def test_short_segments_are_as_frequent_as_asked(words):
    """Of samples that aim at a length drawn from 2 to 253 tokens, more than half end below 150."""
    content = text(30, seed=9, most_sentences=400).encode()
    shares = []
    for probability in (0.0, 0.5, 1.0):
        lines, _ = make(content, words, objective="sop", unit="segment", max_seq_len=256, short_seq_prob=probability)
        lengths = [len(sample["input_ids"]) for sample in read(lines)]
        shares.append(sum(length < 200 for length in lengths) / len(lengths))
    assert shares[0] < 0.1 < 0.25 < shares[1] < 0.6 < shares[2] < 0.95


def test_a_long_document_is_cut_into_stretches_without_a_loss(letters, monkeypatch):
    """Stretches of 3 x 11 tokens: every sentence is in a sample, and no sample reaches into the next stretch."""
    monkeypatch.setattr(samples, "STRETCH", 3)
    content = "".join(numbered(number) + "\n" for number in range(1, 80)).encode()
    spm = tokenization.load_sentencepiece(letters)
    expected = [token for number in range(1, 80) for token in spm.encode(numbered(number))]
    packed = read(make(content, letters, objective="none", max_seq_len=11)[0])
    assert [token for sample in packed for token in sample["input_ids"][1:-1]] == [
        token for number in range(1, 80) for token in spm.encode(numbered(number))[:9]
    ]
    assert len(expected) > 300
    borders = set()
    place = 0
    for number in range(1, 80):
        size = len(spm.encode(numbered(number)))
        if (place % 33) > ((place + size) % 33) or size >= 33:
            borders.add(number + 1)
        place += size
    first_sentences = {tuple(sample["input_ids"][1:3]) for sample in packed}
    assert {tuple(spm.encode(numbered(number))[:2]) for number in borders if number < 80} <= first_sentences


def test_a_seed_gives_the_same_bytes_again_and_another_seed_others(words):
    content = text(40).encode()
    assert make(content, words, masked=True) == make(content, words, masked=True)
    assert make(content, words, masked=True)[0] != make(content, words, masked=True, seed=1001)[0]
    plain, other = (read(make(content, words, seed=seed)[0]) for seed in (1000, 1001))
    assert [s["next_sentence_label"] for s in plain] != [s["next_sentence_label"] for s in other]


# Edges of a text


@pytest.mark.parametrize("content", ["", "\n", "\n\n \n", "あ。", "あ。\n\nい。\n\n\nう。", "\u200b\n\u200b\n"])
def test_a_text_without_two_lines_together_has_no_sample(content, letters):
    lines, counts = make(content.encode(), letters)
    assert lines == b""
    assert counts["sentences"] == counts["documents"]


def test_two_lines_of_one_document_have_no_random_pair(letters):
    for seed in range(20):
        lines, _ = make("あい。\nうえ。\n".encode(), letters, seed=seed)
        sample = {"input_ids": [2, 5, 6, 7, 3, 8, 9, 7, 3], "token_type_ids": [0] * 5 + [1] * 4}
        assert read(lines) == [sample | {"next_sentence_label": 0}]


@pytest.mark.parametrize(
    "buffer_size", [pytest.param(1, marks=pytest.mark.full), 3, pytest.param(100, marks=pytest.mark.full)]
)
def test_in_one_document_a_random_b_is_in_the_window_but_for_a_and_the_true_next(letters, buffer_size):
    content = "".join(numbered(number) + "\n" for number in range(1, 9)).encode()
    seen = defaultdict(set)
    spm = tokenization.load_sentencepiece(letters)
    place = {tuple(spm.encode(numbered(number))): number - 1 for number in range(1, 9)}
    for seed in range(150):
        for at, sample in enumerate(read(make(content, letters, seed=seed, buffer_size=buffer_size)[0])):
            second = sample["input_ids"][sample["token_type_ids"].index(1) : -1]
            if sample["next_sentence_label"]:
                seen[at].add(place[tuple(second)])
    windows = {at: set(range(max(0, at - buffer_size), min(8, at + buffer_size + 1))) for at in range(7)}
    expected = {at: window - {at, at + 1} for at, window in windows.items()}
    if buffer_size == 1:
        expected[0] = {2}  # where a window holds A and the true next only, it widens
    assert seen == expected


def test_a_window_reaches_its_whole_width_and_no_further(letters):
    """Documents of 2, 3 and 4 lines; every A sees all lines of other documents within 3 lines, over many seeds."""
    sizes, numbers = (2, 3, 4), iter(range(1, 10))
    content = "\n".join("".join(numbered(next(numbers)) + "\n" for _ in range(size)) for size in sizes).encode()
    spm = tokenization.load_sentencepiece(letters)
    place = {tuple(spm.encode(numbered(number))): number - 1 for number in range(1, 10)}
    seen = defaultdict(set)
    for seed in range(100):
        for at, sample in zip(
            (0, 2, 3, 5, 6, 7), read(make(content, letters, seed=seed, buffer_size=3)[0]), strict=True
        ):
            if sample["next_sentence_label"]:
                seen[at].add(place[tuple(sample["input_ids"][sample["token_type_ids"].index(1) : -1])])
    # Sentence 7 has its own document on both sides of a window of 3 but for sentence 4.
    assert seen == {0: {2, 3}, 2: {0, 1, 5}, 3: {0, 1, 5, 6}, 5: {2, 3, 4}, 6: {3, 4}, 7: {4}}


def test_a_window_inside_a_long_document_widens_to_the_nearest_lines_of_others(letters):
    numbers = iter(range(1, 30))
    content = "\n".join("".join(numbered(next(numbers)) + "\n" for _ in range(size)) for size in (3, 15, 3)).encode()
    spm = tokenization.load_sentencepiece(letters)
    place = {tuple(spm.encode(numbered(number))): number - 1 for number in range(1, 22)}
    seen = set()
    for seed in range(60):
        samples_of = read(make(content, letters, seed=seed, buffer_size=2)[0])
        sample = samples_of[2 + 7]  # A is sentence 10, in the middle of 3 to 17
        if sample["next_sentence_label"]:
            seen.add(place[tuple(sample["input_ids"][sample["token_type_ids"].index(1) : -1])])
    assert seen == {2, 18}


def test_a_window_larger_than_any_number_is_the_whole_text(letters):
    content = HAND.encode()
    assert make(content, letters, buffer_size=10**30) == make(content, letters, buffer_size=1000)
    assert make(content, letters, buffer_size=2**63 - 1) == make(content, letters, buffer_size=1000)


def test_literal_special_pieces_in_a_text_are_text(letters):
    lines, _ = make("[SEP]あ\n[CLS]い<pad>\n[MASK]う\n".encode(), letters)
    for sample in read(lines):
        half = sample["token_type_ids"].index(1)
        assert (sample["input_ids"].count(2), sample["input_ids"].count(3), sample["input_ids"].count(0)) == (1, 2, 0)
        assert (sample["input_ids"][0], sample["input_ids"][half - 1], sample["input_ids"][-1]) == (2, 3, 3)


def test_a_line_of_a_million_tokens_is_cut_and_counted(letters):
    content = ("あ" * 1_000_000 + "\nい。\n\nう。\n").encode()
    lines, counts = make(content, letters, max_seq_len=16)
    assert (counts["cut_sentences"], counts["cut_samples"], counts["samples"]) == (1, 1, 1)
    assert len(read(lines)[0]["input_ids"]) == 16


def test_broken_utf_8_is_named_with_its_place_in_the_file(letters, monkeypatch):
    monkeypatch.setattr(encoding, "TEXT_BLOCK", 8)
    content = "あい。\n".encode() * 5 + b"\xe3\x81\n" + "あい。\n".encode() * 5
    for num_workers in (1, 2):
        with pytest.raises(StageError) as error:
            make(content, letters, num_workers)
        assert str(error.value).endswith(
            "a.txt is not UTF-8 at byte 50: repair it (iconv -c -f UTF-8 -t UTF-8), run again"
        )


# Cutting


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 70))
@examples(300)
def test_a_pair_is_cut_as_token_by_token(first, second, budget):
    expected = tuple(map(len, slow_cut([0] * first, [0] * second, budget)))
    assert tuple(side.item() for side in samples.cut_pair(np.array([first]), np.array([second]), budget)) == expected


def test_pairs_of_all_lengths_are_cut_at_once():
    first, second = (side.ravel() for side in np.meshgrid(np.arange(1, 20), np.arange(1, 20)))
    for budget in range(5, 40):
        expected = [tuple(map(len, slow_cut([0] * a, [0] * b, budget))) for a, b in zip(first, second, strict=True)]
        assert list(zip(*map(np.ndarray.tolist, samples.cut_pair(first, second, budget)), strict=True)) == expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=8))
def test_gather_concatenates_spans(spans):
    values = np.arange(100, 160)
    starts, lengths = (np.array([span[side] for span in spans], dtype=np.int64) for side in (0, 1))
    expected = [value for start, length in spans for value in range(100 + start, 100 + start + length)]
    assert samples.gather(values, starts, lengths).tolist() == expected


# Real text


def balanced(labels: list[int]) -> bool:
    return abs(sum(labels) - len(labels) / 2) < 3 * (len(labels) / 4) ** 0.5


def test_labels_are_balanced_and_independent(words):
    labels = [sample["next_sentence_label"] for sample in read(make(text(1500, seed=3).encode(), words)[0])]
    assert len(labels) > 5000
    assert balanced(labels)
    assert balanced([before ^ after for before, after in zip(labels, labels[1:], strict=False)])


@pytest.fixture(scope="module")
def real() -> bytes:
    """All of wac and the first 1.2 MB of wikinews."""
    wac, wikinews = (lzma.open(shared("data", "text", f"{name}.txt.xz")) for name in ("wac", "wikinews"))
    return wac.read() + b"\n" + wikinews.read(1_200_000) + wikinews.readline()


@pytest.fixture(scope="module")
def real_tokenizer(real, tmp_path_factory) -> Path:
    lines = [line for line in real.decode().split("\n") if line.strip()]
    return write_tokenizer(tmp_path_factory.mktemp("real"), random.Random(0).sample(lines, 4000), 4000)


@pytest.mark.parametrize(("max_seq_len", "buffer_size"), [pytest.param(512, 10_000, marks=pytest.mark.full), (32, 4)])
def test_samples_of_real_text_keep_every_rule(real, real_tokenizer, max_seq_len, buffer_size):
    options = {"max_seq_len": max_seq_len, "buffer_size": buffer_size}
    lines, counts = make(real, real_tokenizer, **options)
    found = Checker(real, real_tokenizer, max_seq_len, buffer_size).check(lines, counts)
    assert balanced([sample["next_sentence_label"] for sample in found])
    check_masks(found, read(make(real, real_tokenizer, masked=True, **options)[0]))


@pytest.mark.parametrize(
    "max_seq_len, buffer_size, objective",
    [
        (64, 4, "nsp"),
        pytest.param(64, 4, "sop", marks=pytest.mark.full),
        pytest.param(512, 2_000, "nsp", marks=pytest.mark.full),
        pytest.param(512, 2_000, "sop", marks=pytest.mark.full),
    ],
)
def test_segments_of_real_text_keep_every_rule(real, real_tokenizer, max_seq_len, buffer_size, objective):
    options = {"max_seq_len": max_seq_len, "buffer_size": buffer_size, "objective": objective, "unit": "segment"}
    found = read(make(real, real_tokenizer, short_seq_prob=0.0, **options)[0])
    SegmentChecker(real, real_tokenizer, max_seq_len, buffer_size, objective).check(found)
    usual = read(make(real, real_tokenizer, **options)[0])
    for checked in (found, usual):
        assert balanced([sample["next_sentence_label"] for sample in checked])
    check_masks(usual, read(make(real, real_tokenizer, masked=True, **options)[0]))


def test_packed_sentences_and_ordered_pairs_of_real_text_keep_every_rule(real, real_tokenizer):
    packed = read(make(real, real_tokenizer, objective="none", max_seq_len=256)[0])
    assert [sample["input_ids"] for sample in packed] == slow_packed(real, real_tokenizer, 256)
    ordered = read(make(real, real_tokenizer, objective="sop", max_seq_len=64)[0])
    check_ordered(real, real_tokenizer, 64, ordered)
    assert balanced([sample["next_sentence_label"] for sample in ordered])


def test_draws_of_labels_partners_and_masks_have_streams_of_their_own():
    """What decides the label, the random B and the masks of a sample must not be one number."""
    stream, first = draws.key(1000, "pairs", 0), np.arange(50_000)
    of_pairs = [draws.uniform(stream, 8 * first + place) for place in range(5)]
    of_masks = draws.uniform(draws.numbers(draws.key(1000, "mask", 0), first), np.int64(0))
    other_copy = draws.uniform(draws.key(1000, "pairs", 1), 8 * first)
    found = np.corrcoef([*of_pairs, of_masks, other_copy])
    assert np.abs(found - np.eye(7)).max() < 5 / 50_000**0.5
