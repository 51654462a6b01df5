"""Sentences -> next-sentence samples (Devlin et al. 2019, section 3.1 and A.2), as lines of JSON.

Every line of the text is encoded once, into columns on disk; samples are then gathered from the columns block by block.
A sample is a pure function of (columns, seed, line number), so neither blocks nor workers can change it.
"""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from bert_ja import draws, masking, tokenization
from bert_ja.cli import StageError
from bert_ja.workers import ordered_map

TEXT_BLOCK = 1 << 20  # bytes of text encoded at once
SAMPLE_BLOCK = 2048  # lines whose samples are made at once: 0.7 GB a worker with 8192 of 512 masked tokens
NOT_MASKED = -100  # the label of a position that is not predicted (PyTorch's ignore_index)


# Text -> columns


@dataclass
class EncodedBlock:
    """The lines of one block of text that hold at least one token."""

    ids: np.ndarray  # token ids of all lines, (tokens,)
    lengths: np.ndarray  # tokens of each line, int32 (lines,)
    begins: np.ndarray  # whether a line is the first after a blank one, bool (lines,)
    ends_blank: bool  # whether a blank line follows the last of them
    cut: int  # lines cut to the longest a sample can hold
    without_tokens: int  # lines that are not blank, but that the tokenizer finds nothing in


def text_blocks(path: Path, on_bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines of about TEXT_BLOCK bytes); `on_bytes(data)` sees every byte once, in order."""
    with open(path, "rb") as file:
        offset = 0
        while block := file.read(TEXT_BLOCK):
            block += file.readline()
            on_bytes(block)
            yield offset, block
            offset += len(block)


def encode_block(processor, name: str, longest: int, task: tuple[int, bytes]) -> EncodedBlock:
    """Encode the lines of one block; a line is cut to `longest` tokens, more never fit into a sample."""
    offset, block = task
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StageError(
            f"{name} is not UTF-8 at byte {offset + error.start:,}: repair it (iconv -c -f UTF-8 -t UTF-8), run again"
        ) from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    filled = [index for index, line in enumerate(lines) if not line.isspace() and line]
    encoded = processor.encode([lines[index].rstrip("\r") for index in filled])
    blank_before = np.diff(np.array([-1, *filled])) > 1
    kept = [(ids, bool(blank)) for ids, blank in zip(encoded, blank_before, strict=True)]
    ids, lengths, begins, pending = [], [], [], False
    for line, blank in kept:
        pending |= blank
        if not line:
            continue
        ids.extend(line[:longest])
        lengths.append(min(len(line), longest))
        begins.append(pending)
        pending = False
    return EncodedBlock(
        ids=np.array(ids, dtype=np.uint32),
        lengths=np.array(lengths, dtype=np.int32),
        begins=np.array(begins, dtype=bool),
        ends_blank=pending or (bool(lines) and (not filled or filled[-1] < len(lines) - 1)),
        cut=sum(len(line) > longest for line, _ in kept),
        without_tokens=sum(not line for line, _ in kept),
    )


@dataclass
class Sentences:
    """All sentences of a corpus as columns (memory maps); sentence i has ids[ends[i] - lengths[i] : ends[i]]."""

    ids: np.ndarray  # (tokens,)
    ends: np.ndarray  # int64 (sentences,)
    documents: np.ndarray  # int32 (sentences,): number of the document, from 0
    document_starts: np.ndarray  # int64 (documents + 1,): its first sentence; the last entry is the number of sentences

    def __len__(self) -> int:
        return len(self.ends)

    def starts(self, sentences: np.ndarray) -> np.ndarray:
        return np.where(sentences > 0, self.ends[np.maximum(sentences - 1, 0)], 0)

    @classmethod
    def open(cls, folder: Path) -> "Sentences":
        def column(name, dtype):
            path = folder / name
            return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)

        return cls(
            ids=column("ids", np.uint32),
            ends=column("ends", np.int64),
            documents=column("documents", np.int32),
            document_starts=column("document_starts", np.int64),
        )


def encode_text(
    path: Path, tokenizer_model: str, folder: Path, longest: int, num_workers: int, on_bytes
) -> dict[str, int]:
    """Encode a text file (one sentence a line, blank lines between documents) into columns in `folder`.

    Returns counts: sentences, documents, cut_sentences, lines_without_tokens. Memory does not grow with the text.
    """
    encode = functools.partial(encode_block, tokenization.load_sentencepiece(tokenizer_model), str(path), longest)
    blocks = ordered_map(encode, text_blocks(path, on_bytes), num_workers)
    counts = {"sentences": 0, "documents": 0, "cut_sentences": 0, "lines_without_tokens": 0}
    tokens, break_pending = 0, True  # the first sentence begins a document
    names = ("ids", "ends", "documents", "document_starts")
    ids_file, ends_file, documents_file, starts_file = files = [open(folder / name, "wb") for name in names]
    try:
        for block in blocks:
            counts["cut_sentences"] += block.cut
            counts["lines_without_tokens"] += block.without_tokens
            if len(block.lengths):
                block.begins[0] |= break_pending
                break_pending = False
                ends = tokens + np.cumsum(block.lengths, dtype=np.int64)
                documents = counts["documents"] - 1 + np.cumsum(block.begins, dtype=np.int32)
                ids_file.write(block.ids.tobytes())
                ends_file.write(ends.tobytes())
                documents_file.write(documents.astype(np.int32).tobytes())
                starts_file.write((counts["sentences"] + np.flatnonzero(block.begins)).astype(np.int64).tobytes())
                tokens = int(ends[-1])
                counts["sentences"] += len(ends)
                counts["documents"] = int(documents[-1]) + 1
            break_pending |= block.ends_blank
        starts_file.write(np.int64(counts["sentences"]).tobytes())
    finally:
        blocks.close()
        for file in files:
            file.close()
    return counts


# Columns -> pairs


def gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate values[start : start + length] of all spans: one gather, no loop."""
    before = np.cumsum(lengths) - lengths
    return values[np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))]


def cut_pair(first: np.ndarray, second: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of a pair cut to `budget` tokens, token by token from its longer side: (5, 2) at 6 -> (4, 2)."""
    half = budget // 2
    over = first + second > budget
    both_long = over & (first > half) & (second > half)
    cut_first = np.where(both_long, budget - half, np.where(over & (second <= half), budget - second, first))
    cut_second = np.where(both_long, half, np.where(over & (first <= half), budget - first, second))
    return cut_first, cut_second


def first_sentences(sentences: Sentences, start: int, stop: int) -> np.ndarray:
    """The sentences of [start, stop) that another of the same document follows: each is the A of one pair."""
    here = np.arange(start, min(stop, len(sentences) - 1))
    return here[sentences.documents[here] == sentences.documents[here + 1]]


def random_second(sentences: Sentences, first: np.ndarray, buffer_size: int, stream: np.uint64) -> np.ndarray:
    """For each A, a random sentence of another document, at most `buffer_size` sentences away from A.

    Where that window holds A's own document only, it widens to the nearest sentence on both sides. In a corpus of one
    document, any sentence but A itself and the true next; where there is none (-1), no random pair can be made.
    """
    own = sentences.documents[first]
    begin, end = sentences.document_starts[own], sentences.document_starts[own + 1]
    buffer_size = min(buffer_size, len(sentences))  # a larger one would overflow
    before = np.maximum(0, begin - np.maximum(0, first - buffer_size))
    after = np.maximum(0, np.minimum(len(sentences), first + buffer_size + 1) - end)
    enclosed = before + after == 0
    before = np.where(enclosed & (begin > 0), 1, before)
    after = np.where(enclosed & (end < len(sentences)), 1, after)
    drawn = draws.integers(stream, 2 * first + 1, np.maximum(before + after, 1))
    chosen = np.where(drawn < before, begin - before + drawn, end + drawn - before)
    if len(sentences.document_starts) > 2:
        return chosen
    others = np.maximum(len(sentences) - 2, 0)
    drawn = draws.integers(stream, 2 * first + 1, np.maximum(others, 1))
    return np.where(others > 0, np.where(drawn < first, drawn, drawn + 2), -1)


@dataclass(frozen=True)
class PairRule:
    """What `prepare_train_data.py` was asked for."""

    max_seq_len: int  # tokens of a sample, [CLS] and two [SEP] included
    buffer_size: int  # sentences
    seed: int
    masked: bool  # mask once and for all, with labels
    vocabulary: tokenization.Vocabulary
    masking: masking.MaskingRule


@dataclass
class Pairs:
    """A block of samples [CLS] A [SEP] B [SEP], packed into one row."""

    input_ids: np.ndarray  # int64 (tokens,)
    cu_seqlens: np.ndarray  # int64 (samples + 1,)
    first_lengths: np.ndarray  # int64 (samples,): tokens of type 0, i.e. [CLS] A [SEP]
    next_sentence_labels: np.ndarray  # int64 (samples,): 0 B follows A, 1 B is random
    first: np.ndarray  # int64 (samples,): the number of sentence A
    cut: int  # pairs that were cut to max_seq_len


def make_pairs(sentences: Sentences, start: int, stop: int, rule: PairRule) -> Pairs:
    """The samples whose A is in [start, stop): one for each sentence but the last of its document."""
    stream = draws.key(rule.seed, "pairs")
    first = first_sentences(sentences, start, stop)
    random = random_second(sentences, first, rule.buffer_size, stream)
    labels = ((draws.uniform(stream, 2 * first) < 0.5) & (random >= 0)).astype(np.int64)
    second = np.where(labels == 1, random, first + 1)

    first_start, second_start = sentences.starts(first), sentences.starts(second)
    whole_first, whole_second = sentences.ends[first] - first_start, sentences.ends[second] - second_start
    first_length, second_length = cut_pair(whole_first, whole_second, rule.max_seq_len - 3)
    cu_seqlens = np.concatenate([[0], np.cumsum(first_length + second_length + 3)]).astype(np.int64)

    row = np.full(int(cu_seqlens[-1]), rule.vocabulary.sep, dtype=np.int64)
    begin = cu_seqlens[:-1]
    row[begin] = rule.vocabulary.cls
    for offset, starts, lengths in (
        (begin + 1, first_start, first_length),
        (begin + 2 + first_length, second_start, second_length),
    ):
        row[gather(np.arange(len(row)), offset, lengths)] = gather(sentences.ids, starts, lengths)
    cut = int(np.count_nonzero((first_length < whole_first) | (second_length < whole_second)))
    return Pairs(row, cu_seqlens, first_length + 2, labels, first, cut)


# Pairs -> JSON lines


@dataclass
class SampleBlock:
    """Finished lines and what is to be counted of them."""

    lines: bytes
    counts: dict[str, int]
    longest: int


def to_json(pairs: Pairs, input_ids: np.ndarray, labels: np.ndarray | None) -> bytes:
    """One JSON object a sample (data/README.md), each ended by a newline."""
    ids, nsp = input_ids.tolist(), pairs.next_sentence_labels.tolist()
    label_list = None if labels is None else labels.tolist()
    ends, firsts = pairs.cu_seqlens.tolist(), pairs.first_lengths.tolist()
    lines = []
    for number, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        sample = {
            "input_ids": ids[begin:end],
            "token_type_ids": [0] * firsts[number] + [1] * (end - begin - firsts[number]),
            "next_sentence_label": nsp[number],
        }
        if label_list is not None:
            sample["labels"] = label_list[begin:end]
        lines.append(orjson.dumps(sample, option=orjson.OPT_APPEND_NEWLINE))
    return b"".join(lines)


def make_block(task: tuple[str, int, int, PairRule]) -> SampleBlock:
    """The samples whose A is in one range of sentences, as bytes: a pure function of its task."""
    folder, start, stop, rule = task
    pairs = make_pairs(Sentences.open(Path(folder)), start, stop, rule)
    input_ids, labels = pairs.input_ids, None
    if rule.masked:
        streams = draws.numbers(draws.key(rule.seed, "mask"), pairs.first)
        masked = masking.mask(input_ids, pairs.cu_seqlens, streams, rule.vocabulary, rule.masking)
        labels = np.full(len(input_ids), NOT_MASKED, dtype=np.int64)
        labels[masked.positions] = masked.labels
        input_ids = masked.input_ids
    counts = {
        "samples": len(pairs.first),
        "tokens": len(input_ids),
        "unknown_tokens": int(np.count_nonzero(pairs.input_ids == rule.vocabulary.unk)),
        "random_pairs": int(pairs.next_sentence_labels.sum()),
        "cut_pairs": pairs.cut,
        "masked_tokens": 0 if labels is None else int(np.count_nonzero(labels != NOT_MASKED)),
    }
    longest = int(np.diff(pairs.cu_seqlens).max(initial=0))
    return SampleBlock(to_json(pairs, input_ids, labels), counts, longest)


def sample_blocks(folder: Path, sentences: int, rule: PairRule, num_workers: int) -> Iterator[SampleBlock]:
    """All blocks of samples, in the order of the text, for any number of workers the same."""
    tasks = (
        (os.fspath(folder), start, min(start + SAMPLE_BLOCK, sentences), rule)
        for start in range(0, sentences, SAMPLE_BLOCK)
    )
    return ordered_map(make_block, tasks, num_workers)
