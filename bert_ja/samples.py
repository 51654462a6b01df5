"""Sentences -> samples (Devlin et al. 2019, sections 3.1 and A.2; Liu et al. 2019; Lan et al. 2020), as lines of JSON.

Samples are gathered from the columns of an encoded text (encoding.py) block by block. One is a pure function of
(columns, seed, copy, number of its first sentence), so neither blocks nor workers nor restarts can change it.
"""

import contextlib
import functools
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from bert_ja import draws, masking
from bert_ja.cli import StageError
from bert_ja.encoding import Encoder, Sentences, encode_text
from bert_ja.files import Journal, Output
from bert_ja.masking import spans
from bert_ja.tokenization import Vocabulary
from bert_ja.workers import ordered_map

OBJECTIVES, UNITS = ("nsp", "sop", "none"), ("sentence", "segment")
MEANING = {
    "nsp": ("B follows A", "B is random"),
    "sop": ("in order", "exchanged"),
    "none": ("one segment",),
}  # of labels
EXCHANGED = {"nsp": "random_pairs", "sop": "swapped_pairs", "none": None}  # the name of samples of label 1
SHORTEST_SAMPLE, LONGEST_SAMPLE = 8, 65_536  # tokens: [CLS] A [SEP] B [SEP] with something in A and B
LOOK_BYTES, LOOK_SAMPLES, LOOK_TOKENS = 1 << 16, 3, 100  # of a text's beginning, to be looked at
SAMPLE_BLOCK = 4096  # sentences whose samples are made at once, fewer where max_seq_len is over 1,024
BLOCK_TOKENS = 1 << 22  # SAMPLE_BLOCK x 1,024: about 50 MB of JSON at most
CHUNK_TOKENS = 1 << 15  # tokens that are made into samples at once: their arrays stay in a core's own cache
STRETCH = 64  # times max_seq_len: tokens of a document that are cut into segments by themselves
NOT_MASKED = -100  # the label of a position that is not predicted (PyTorch's ignore_index)
LENGTH_BINS = 32  # of the histogram in the record, at most


# Columns -> samples


def gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate values[start : start + length] of all spans: one gather, no loop."""
    return values[spans(starts, lengths)]


def cut_pair(first: np.ndarray, second: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of a pair cut to `budget` tokens, token by token from its longer side: (5, 2) at 6 -> (4, 2)."""
    half = budget // 2
    over = first + second > budget
    both_long = over & (first > half) & (second > half)
    cut_first = np.where(both_long, budget - half, np.where(over & (second <= half), budget - second, first))
    cut_second = np.where(both_long, half, np.where(over & (first <= half), budget - first, second))
    return cut_first, cut_second


@dataclass(frozen=True)
class SampleRule:
    """What `prepare_train_data.py` was asked for."""

    max_seq_len: int  # tokens of a sample, [CLS] and [SEP] included
    buffer_size: int  # sentences
    seed: int
    masked: bool  # mask once and for all, with labels
    masking: masking.MaskingRule
    objective: str = "nsp"
    unit: str = "sentence"
    short_seq_prob: float = 0.1

    @property
    def budget(self) -> int:
        """Tokens that are left for text beside the special ones."""
        return self.max_seq_len - (2 if self.objective == "none" else 3)

    @property
    def sample_block(self) -> int:
        return max(1, min(SAMPLE_BLOCK, BLOCK_TOKENS // self.max_seq_len))

    def problems(self, copies: int) -> dict[str, bool]:
        """What a user may have set wrong -> whether it is right; `copies` is --dupe_factor."""
        longest, short = self.max_seq_len, self.short_seq_prob
        differ = copies <= 1 or self.objective != "none" or self.masked
        return {
            f"--objective must be one of {', '.join(OBJECTIVES)}, got {self.objective}": self.objective in OBJECTIVES,
            f"--unit must be one of {', '.join(UNITS)}, got {self.unit}": self.unit in UNITS,
            f"--max_seq_len must be from {SHORTEST_SAMPLE} to {LONGEST_SAMPLE:,}, got {longest}": (
                SHORTEST_SAMPLE <= longest <= LONGEST_SAMPLE
            ),
            f"--buffer_size must be 1 or more, got {self.buffer_size}": self.buffer_size >= 1,
            f"--short_seq_prob must be from 0 to 1, got {short}": 0 <= short <= 1,
            f"--dupe_factor must be 1 or more, got {copies}": copies >= 1,
            "--dupe_factor with --objective none needs --get_raw True, as its copies differ in masks only": differ,
            **self.masking.problems("--"),
        }

    def options(self, copies: int, whole_words: bool) -> dict:
        """What the samples of a text depend on beside seed and tokenizer, as the record says it."""
        names = ("objective", "unit", "max_seq_len", "buffer_size", "short_seq_prob")
        options = {name: getattr(self, name) for name in names}
        options |= {"dupe_factor": copies, "get_raw": self.masked, "whole_word_mask": whole_words}
        return options | (vars(self.masking) if self.masked else {})


@dataclass
class Plan:
    """Which sentences samples are made of, int64 (samples,) each: A is [begin, split), what follows it [split, end).

    Without a second part (objective none) split is end.
    """

    begin: np.ndarray
    split: np.ndarray
    end: np.ndarray
    swap: np.ndarray  # bool: not as they stand: another B (nsp), or the two exchanged (sop)
    target: np.ndarray  # tokens that A and B should have together


def _is_swapped(begin: np.ndarray, stream: np.uint64) -> np.ndarray:
    """The toss of a coin for samples that begin at these sentences, bool."""
    return draws.uniform(stream, 8 * begin) < 0.5


def sentence_plan(sentences: Sentences, start: int, stop: int, rule: SampleRule, stream: np.uint64) -> Plan:
    """A is each sentence of [start, stop) that another of its document follows; that is what follows."""
    here = np.arange(start, min(stop, len(sentences) - 1))
    begin = here[sentences.documents[here] == sentences.documents[here + 1]]
    other_exists = not sentences.is_one_document or len(sentences) > 2
    swap = _is_swapped(begin, stream) & (rule.objective == "sop" or other_exists)
    return Plan(begin, begin + 1, begin + 2, swap, np.full(len(begin), rule.budget))


def stretches(sentences: Sentences, start: int, stop: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The stretches of documents that begin at a sentence of [start, stop): (first sentences, ends).

    A document is one stretch, or several where it is longer than `tokens`, so that its parts are work of their own.
    """
    here = np.arange(start, min(stop, len(sentences)))
    documents = sentences.documents[here]
    first = sentences.document_starts[documents]
    part = (sentences.starts(here) - sentences.starts(first)) // tokens
    before = (sentences.starts(np.maximum(here - 1, 0)) - sentences.starts(first)) // tokens
    begin = here[(here == first) | (part != before)]
    document = sentences.documents[begin]
    # The next stretch of the document begins at the first sentence that starts at or behind the next multiple.
    offset = sentences.starts(sentences.document_starts[document])
    following = offset + ((sentences.starts(begin) - offset) // tokens + 1) * tokens
    end = np.searchsorted(sentences.ends, following, side="left") + 1
    return begin, np.minimum(end, sentences.document_starts[document + 1])


def _in_stretches(
    sentences: Sentences, start: int, stop: int, rule: SampleRule
) -> tuple[list[tuple[int, int]], np.ndarray, list[int], list[int]]:
    """The stretches of a block as (first sentence, end); from the first of them to the last, all sentences, and where
    their tokens begin and end.
    """
    firsts, lasts = (side.tolist() for side in stretches(sentences, start, stop, STRETCH * rule.max_seq_len))
    here = np.arange(firsts[0], lasts[-1]) if firsts else np.arange(0)
    return list(zip(firsts, lasts, strict=True)), here, sentences.starts(here).tolist(), sentences.ends[here].tolist()


def _plan_of(rows: list[tuple[int, int, int, bool, int]]) -> Plan:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    return Plan(columns[0], columns[1], columns[2], columns[3].astype(bool), columns[4])


def segment_plan(sentences: Sentences, start: int, stop: int, rule: SampleRule, stream: np.uint64) -> Plan:
    """Segments of whole sentences, as many as fit and two at least, parted at random (Devlin et al. 2019, A.2).

    With probability short_seq_prob a sample aims at fewer tokens than fit. After a random B, what would have followed A
    begins the next sample; so no text is lost but the last sentence of a stretch, where it stands alone.
    """
    bounds, here, starts, ends = _in_stretches(sentences, start, stop, rule)
    swaps = _is_swapped(here, stream).tolist()
    short = 2 + draws.integers(stream, 8 * here + 3, rule.budget - 1)
    is_short = draws.uniform(stream, 8 * here + 2) < rule.short_seq_prob
    targets = np.where(is_short, short, rule.budget).tolist()
    parts = draws.uniform(stream, 8 * here + 4).tolist()
    zero, rows = int(here[0]) if len(here) else 0, []
    for begin, last in bounds:
        while begin < last - 1:
            at = begin - zero
            end = min(max(begin + 2, zero + bisect_right(ends, starts[at] + targets[at])), last)
            if end == last - 1 and end - begin > 2:
                end -= 1  # so that the last sentence does not stand alone
            split = begin + 1 + int(parts[at] * (end - begin - 1))
            other_exists = not sentences.is_one_document or begin > 0 or split + 1 < len(sentences)
            swap = swaps[at] and (rule.objective == "sop" or other_exists)
            rows.append((begin, split, end, swap, targets[at]))
            begin = split if swap and rule.objective == "nsp" else end
    return _plan_of(rows)


def packed_plan(sentences: Sentences, start: int, stop: int, rule: SampleRule, stream: np.uint64) -> Plan:
    """As many whole sentences of one document as fit, one at least (DOC-SENTENCES of Liu et al. 2019)."""
    bounds, here, starts, ends = _in_stretches(sentences, start, stop, rule)
    zero, rows = int(here[0]) if len(here) else 0, []
    for begin, last in bounds:
        while begin < last:
            end = min(max(begin + 1, zero + bisect_right(ends, starts[begin - zero] + rule.budget)), last)
            rows.append((begin, end, end, False, rule.budget))
            begin = end
    return _plan_of(rows)


def random_sentence(
    sentences: Sentences, begin: np.ndarray, split: np.ndarray, buffer_size: int, stream: np.uint64
) -> np.ndarray:
    """For each A = [begin, split), a random sentence of another document, at most `buffer_size` away from its first.

    Where that window holds A's own document only, it widens to the nearest sentence on both sides. In a corpus of one
    document, any sentence of the window but A itself and the true next; where there is none at all, -1.
    """
    if sentences.is_one_document:
        low, high = begin, np.minimum(split + 1, len(sentences))
    else:
        own = sentences.documents[begin]
        low, high = sentences.document_starts[own], sentences.document_starts[own + 1]
    buffer_size = min(buffer_size, len(sentences))  # a larger one would overflow
    before = np.maximum(0, low - np.maximum(0, begin - buffer_size))
    after = np.maximum(0, np.minimum(len(sentences), begin + buffer_size + 1) - high)
    enclosed = before + after == 0
    before = np.where(enclosed & (low > 0), 1, before)
    after = np.where(enclosed & (high < len(sentences)), 1, after)
    drawn = draws.integers(stream, 8 * begin + 1, np.maximum(before + after, 1))
    chosen = np.where(drawn < before, low - before + drawn, high + drawn - before)
    return np.where(before + after > 0, chosen, -1)


def random_second(
    sentences: Sentences, plan: Plan, rule: SampleRule, stream: np.uint64
) -> tuple[np.ndarray, np.ndarray]:
    """A random B for each A of a plan, as sentences (begin, end): one of them, or in segments as many as fit."""
    begin = random_sentence(sentences, plan.begin, plan.split, rule.buffer_size, stream)
    if rule.unit == "sentence":
        return begin, begin + 1
    begin = np.maximum(begin, 0)
    left = plan.target - (sentences.starts(plan.split) - sentences.starts(plan.begin))
    fitting = np.searchsorted(sentences.ends, sentences.starts(begin) + left, side="right")
    last = sentences.document_starts[sentences.documents[begin] + 1]
    if sentences.is_one_document:
        last = np.where(begin < plan.begin, plan.begin, last)  # never into A itself
    return begin, np.minimum(np.maximum(fitting, begin + 1), last)


@dataclass
class Samples:
    """Samples [CLS] A [SEP] B [SEP], or [CLS] A [SEP] without a second part, packed into one row."""

    input_ids: np.ndarray  # int64 (tokens,)
    cu_seqlens: np.ndarray  # int64 (samples + 1,)
    first_lengths: np.ndarray  # int64 (samples,): tokens of type 0, i.e. [CLS] A [SEP]
    labels: np.ndarray  # int64 (samples,): 0 as they stand in the text, 1 random or swapped
    numbers: np.ndarray  # int64 (samples,): of the sentence that each begins with in the text
    word_starts: np.ndarray | None  # bool (tokens,)
    cut: int  # samples that were cut to max_seq_len


PLANS = {"sentence": sentence_plan, "segment": segment_plan}


def plan_samples(sentences: Sentences, start: int, stop: int, rule: SampleRule, stream: np.uint64) -> Plan:
    """The samples that belong to the sentences of [start, stop)."""
    plan = packed_plan if rule.objective == "none" else PLANS[rule.unit]
    return plan(sentences, start, stop, rule, stream)


@dataclass
class _Parts:
    """What samples are made of: two spans of ids each, cut to fit, int64 (samples,)."""

    numbers: np.ndarray
    labels: np.ndarray
    first_start: np.ndarray
    first_length: np.ndarray
    second_start: np.ndarray
    second_length: np.ndarray
    cut: np.ndarray  # bool

    def __getitem__(self, which: slice) -> "_Parts":
        return _Parts(**{name: values[which] for name, values in vars(self).items()})


def _parts(sentences: Sentences, plan: Plan, rule: SampleRule, stream: np.uint64) -> _Parts:
    second_begin, second_end = plan.split, plan.end
    if rule.objective == "nsp":
        random_begin, random_end = random_second(sentences, plan, rule, stream)
        second_begin = np.where(plan.swap, random_begin, second_begin)
        second_end = np.where(plan.swap, random_end, second_end)
    first_start, second_start = sentences.starts(plan.begin), sentences.starts(second_begin)
    first, second = sentences.starts(plan.split) - first_start, sentences.starts(second_end) - second_start
    if rule.objective == "none":
        first_length, second_length = np.minimum(first, rule.budget), second
    else:
        first_length, second_length = cut_pair(first, second, rule.budget)
    cut = (first_length < first) | (second_length < second)
    if rule.objective == "sop":
        first_start, second_start = (
            np.where(plan.swap, second_start, first_start),
            np.where(plan.swap, first_start, second_start),
        )
        first_length, second_length = (
            np.where(plan.swap, second_length, first_length),
            np.where(plan.swap, first_length, second_length),
        )
    labels = plan.swap.astype(np.int64)
    return _Parts(plan.begin, labels, first_start, first_length, second_start, second_length, cut)


def _pack(sentences: Sentences, parts: _Parts, rule: SampleRule, vocabulary: Vocabulary) -> Samples:
    paired = rule.objective != "none"
    lengths = parts.first_length + parts.second_length + (3 if paired else 2)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    row = np.full(int(cu_seqlens[-1]), vocabulary.sep, dtype=np.int64)
    words = np.zeros(len(row), dtype=bool) if len(sentences.word_starts) else None
    begin = cu_seqlens[:-1]
    row[begin] = vocabulary.cls
    sides = [(begin + 1, parts.first_start, parts.first_length)]
    if paired:
        sides.append((begin + 2 + parts.first_length, parts.second_start, parts.second_length))
    for offset, starts, length in sides:
        here, there = spans(offset, length), spans(starts, length)
        row[here] = sentences.ids[there]
        if words is not None:
            words[here] = sentences.word_starts[there]
    return Samples(
        row, cu_seqlens, parts.first_length + 2, parts.labels, parts.numbers, words, int(np.count_nonzero(parts.cut))
    )


def make_samples(
    sentences: Sentences, copy: int, start: int, stop: int, rule: SampleRule, vocabulary: Vocabulary
) -> Iterator[Samples]:
    """The samples that belong to the sentences of [start, stop), at most about CHUNK_TOKENS at once.

    Copies of a corpus (from 0) have other pairs. For sentences: one sample for each but the last of its document.
    """
    stream = draws.key(rule.seed, "pairs", copy)
    parts = _parts(sentences, plan_samples(sentences, start, stop, rule, stream), rule, stream)
    chunk = np.cumsum(parts.first_length + parts.second_length + 3) // CHUNK_TOKENS
    borders = np.flatnonzero(np.diff(chunk, prepend=-1, append=-1)).tolist()
    for begin, end in itertools.pairwise(borders):
        yield _pack(sentences, parts[begin:end], rule, vocabulary)


# Samples -> JSON lines

# exchanged: samples of label 1; cut: to max_seq_len
COUNTS = ("samples", "tokens", "unknown_tokens", "exchanged", "cut_samples", "masked_tokens")


@dataclass
class SampleBlock:
    """Finished lines and what is to be counted of them."""

    lines: np.ndarray  # their bytes; an array goes through shared memory where bytes go through a pipe
    counts: dict[str, int]
    lengths: np.ndarray  # int64: how many samples have 0, 1, 2 ... tokens


def mask_samples(made: Samples, copy: int, rule: SampleRule, vocabulary: Vocabulary) -> masking.MaskedBatch:
    """The samples masked once and for all."""
    streams = draws.numbers(draws.key(rule.seed, "mask", copy), made.numbers)
    return masking.mask(made.input_ids, made.cu_seqlens, streams, vocabulary, rule.masking, made.word_starts)


def to_json(made: Samples, masked: masking.MaskedBatch | None, paired: bool) -> bytes:
    """One JSON object a sample (data/README.md), each ended by a newline."""
    # orjson reads arrays of 32 bits several times as fast as lists of Python's numbers.
    ids = (made.input_ids if masked is None else masked.input_ids).astype(np.uint32)
    lengths = np.diff(made.cu_seqlens)
    types = np.repeat(np.array([0, 1], dtype=np.uint32), int(lengths.max(initial=0)))  # from which each takes its part
    half = len(types) // 2
    labels = words = word_ends = None
    if masked is not None:
        labels = np.full(len(ids), NOT_MASKED, dtype=np.int32)
        labels[masked.positions] = masked.labels
    if made.word_starts is not None:
        positions = np.flatnonzero(made.word_starts)
        word_ends = np.searchsorted(positions, made.cu_seqlens).tolist()
        words = (positions - np.repeat(made.cu_seqlens[:-1], np.diff(word_ends))).astype(np.uint32)
    rows = zip(
        made.cu_seqlens.tolist(), lengths.tolist(), made.first_lengths.tolist(), made.labels.tolist(), strict=False
    )
    lines = []
    for number, (begin, length, first, label) in enumerate(rows):
        end = begin + length
        sample = {"input_ids": ids[begin:end], "token_type_ids": types[half - first : half - first + length]}
        if paired:
            sample["next_sentence_label"] = label
        if labels is not None:
            sample["labels"] = labels[begin:end]
        if words is not None:
            sample["word_starts"] = words[word_ends[number] : word_ends[number + 1]]
        lines.append(orjson.dumps(sample, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY))
    return b"".join(lines)


def make_block(folder: Path, rule: SampleRule, vocabulary: Vocabulary, task: tuple[int, int, int]) -> SampleBlock:
    """The samples of one copy (task[0]) that belong to one range of sentences, as bytes: a pure function."""
    copy, start, stop = task
    lines, lengths = [], np.zeros(rule.max_seq_len + 1, dtype=np.int64)
    counts = dict.fromkeys(COUNTS, 0)
    for made in make_samples(Sentences.open(folder), copy, start, stop, rule, vocabulary):
        masked = mask_samples(made, copy, rule, vocabulary) if rule.masked else None
        lines.append(to_json(made, masked, rule.objective != "none"))
        lengths += np.bincount(np.diff(made.cu_seqlens), minlength=len(lengths))
        counts["samples"] += len(made.numbers)
        counts["tokens"] += len(made.input_ids)
        counts["unknown_tokens"] += int(np.count_nonzero(made.input_ids == vocabulary.unk))
        counts["exchanged"] += int(made.labels.sum())
        counts["cut_samples"] += made.cut
        counts["masked_tokens"] += 0 if masked is None else len(masked.positions)
    return SampleBlock(np.frombuffer(b"".join(lines), dtype=np.uint8), counts, lengths)


def block_tasks(sentences: int, copies: int, rule: SampleRule) -> list[tuple[int, int, int]]:
    """(copy, first sentence, end) of every block, in the order of the output."""
    size = rule.sample_block
    starts = range(0, sentences, size)
    return [(copy, start, min(start + size, sentences)) for copy in range(copies) for start in starts]


def write_samples(
    out: Output,
    journal: Journal,
    tasks: list[tuple[int, int, int]],
    rule: SampleRule,
    vocabulary: Vocabulary,
    num_workers: int,
    on_block: Callable[[int, int, int], None],
) -> tuple[Counter, np.ndarray]:
    """Write the samples of all tasks, in their order: (COUNTS by name, how many samples have 0, 1, 2 ... tokens).

    Goes on where the journal says that an earlier run was. `on_block(sentences, samples, samples of this run)` hears of
    every block: how many sentences more are done, and how many samples there are.
    """
    total, lengths, done = Counter(), np.zeros(rule.max_seq_len + 1, dtype=np.int64), 0
    written = journal.state.get("written")
    ends = [[copy, stop] for copy, _, stop in tasks]
    if written and written["end"] in ends and out.go_on(written["bytes"], written["sha256"]):
        total, lengths = Counter(written["counts"]), np.array(written["lengths"])
        done = ends.index(written["end"]) + 1
    elif journal.state:
        out.start_over()
    before = total["samples"]
    on_block(sum(stop - start for _, start, stop in tasks[:done]), before, 0)
    blocks = ordered_map(functools.partial(make_block, journal.folder, rule, vocabulary), tasks[done:], num_workers)
    with contextlib.closing(blocks):
        for number, block in enumerate(blocks, start=done):
            out.write(memoryview(block.lines))
            total.update(block.counts)
            lengths += block.lengths
            on_block(tasks[number][2] - tasks[number][1], total["samples"], total["samples"] - before)
            if journal.is_due():
                where = {
                    "end": ends[number],
                    "bytes": out.size,
                    "sha256": out.digest(),
                    "counts": total,
                    "lengths": lengths.tolist(),
                }
                journal.save(journal.state | {"written": where}, [out.file])
    journal.wait()
    return total, lengths


# Samples as a reader sees them


def describe_sample(
    ids: np.ndarray, cu_seqlens: np.ndarray, masked: masking.MaskedBatch, number: int, encoder: Encoder
) -> str:
    """One sample of a packed row in words, its first pieces: {what stood there→what stands there now} where masked.

    `ids` (tokens,) are those before masking.
    """
    begin, end = cu_seqlens[number : number + 2].tolist()
    before, now = encoder.shown(ids[begin:end].tolist()), encoder.shown(masked.input_ids[begin:end].tolist())
    for position in masked.positions[(masked.positions >= begin) & (masked.positions < end)].tolist():
        before[position - begin] = f"{{{before[position - begin]}→{now[position - begin]}}}"
    rest = [f"... ({end - begin:,} tokens)"] if end - begin > LOOK_TOKENS else []
    return " ".join(before[:LOOK_TOKENS] + rest)


def _chosen(labels: np.ndarray) -> list[int]:
    """LOOK_SAMPLES samples to look at, of both labels where there are both."""
    wanted = [*np.flatnonzero(labels == 0)[:2], *np.flatnonzero(labels == 1)[:1], *range(len(labels))]
    return sorted(list(dict.fromkeys(map(int, wanted)))[:LOOK_SAMPLES])


def first_samples(text: Path, encoder: Encoder, folder: Path, rule: SampleRule, whole_words: bool) -> Iterator[str]:
    """Samples of a text's beginning in words, with their masks, so that a mistake is seen before the long part.

    `folder` is an empty one for what is made on the way.
    """
    vocabulary = encoder.vocabulary
    # What is wrong with the text is said when it is read whole, under its own name.
    with contextlib.suppress(StageError), open(text, "rb") as file:
        head, journal = folder / "head", Journal(folder, None)
        begin = file.read(LOOK_BYTES)
        head.write_bytes(begin if len(begin) < LOOK_BYTES else begin[: begin.rfind(b"\n") + 1])
        counts, _ = encode_text(head, encoder, journal, rule.max_seq_len, whole_words, 1, lambda done: None)
        sentences = Sentences.open(folder)
        for made in itertools.islice(make_samples(sentences, 0, 0, counts["sentences"], rule, vocabulary), 1):
            masked = mask_samples(made, 0, rule, vocabulary)
            for number in _chosen(made.labels):
                said = describe_sample(made.input_ids, made.cu_seqlens, masked, number, encoder)
                yield f"sample ({MEANING[rule.objective][made.labels[number]]}, {{token→masked}}): {said}"


# What a record says of samples


def histogram(lengths: np.ndarray) -> list[dict[str, int]]:
    """How many samples have `from` to `to` tokens, in at most LENGTH_BINS bins of equal width."""
    longest = int(np.flatnonzero(lengths).max(initial=0))
    width = -(-longest // LENGTH_BINS) or 1
    return [
        {"from": first, "to": first + width - 1, "samples": int(lengths[first : first + width].sum())}
        for first in range(1, longest + 1, width)
    ]


def findings(rule: SampleRule, counts: dict, written: Counter, lengths: np.ndarray) -> dict:
    """What a record says of the samples that were made."""
    exchanged = EXCHANGED[rule.objective]
    named = {name: written[name] for name in COUNTS if name != "exchanged"}
    shares = {"unknown_tokens": written["unknown_tokens"] / written["tokens"]}
    shares["cut_samples"] = written["cut_samples"] / written["samples"]
    if exchanged:
        named[exchanged] = written["exchanged"]
        shares[exchanged] = written["exchanged"] / written["samples"]
    return {
        "counts": counts | dict(sorted(named.items())),
        "shares": {name: round(share, 6) for name, share in shares.items()},
        "token_lengths": histogram(lengths),
        "longest_sample": int(np.flatnonzero(lengths).max()),
    }


def merged(records: list[dict]) -> dict:
    """{"options", "counts"} of samples in several files, from their records: what differs as a list, sums of counts."""
    every = [record["options"] for record in records]
    options = [option for at, option in enumerate(every) if option not in every[:at]]
    counts = {
        name: sum(record["counts"][name] for record in records)
        for name in (records[0]["counts"] if records else {})
        if all(name in record["counts"] for record in records)
    }
    return {"options": options[0] if len(options) == 1 else options or None, "counts": counts or None}
