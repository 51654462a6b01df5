"""The published way to make and to draw samples, which bench_samples.py compares with: one at a time, in Python lists.

A is a line, B the one after it or a random one of the shuffle buffer, 50:50. The tokenizer of transformers makes
[CLS] A [SEP] B [SEP] of the two, padded to 512; the module random masks the padded lists, the module json writes them.
A drawn row is masked again, and becomes tensors that DataLoader's default collate stacks.

`lean` is the quickest of what is still one sample at a time in lists: raw SentencePiece, each line once; masks before
padding; one numpy array a batch. Imports and the loading of the tokenizer are never counted.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from bert_ja import tokenization
from bert_ja.tokenization import Vocabulary

LENGTH = 512  # tokens that a sample is padded to
BUFFER = 10_000  # lines
BATCH = 8  # samples drawn at once
SEED = 1000
NOT_MASKED = -100
SELECTED, MASKED, REPLACED = 0.15, 0.8, 0.1  # shares: of the tokens; of the selected ones


def cost(started: float, cpu: float) -> dict:
    """Seconds, wall and CPU, since readings of perf_counter and process_time."""
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3)}


# One sample


def cut(first: list[int], second: list[int], most: int) -> tuple[list[int], list[int]]:
    """A pair in `most` tokens at most, token by token off the end of its longer side."""
    first, second = list(first), list(second)
    while len(first) + len(second) > most:
        (first if len(first) > len(second) else second).pop()
    return first, second


def join(first: list[int], second: list[int], label: int, vocabulary: Vocabulary, length: int = LENGTH) -> dict:
    """[CLS] A [SEP] B [SEP] in `length` tokens at most, not padded."""
    first, second = cut(first, second, length - 3)
    return {
        "input_ids": [vocabulary.cls, *first, vocabulary.sep, *second, vocabulary.sep],
        "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
        "next_sentence_label": label,
    }


def mask(sample: dict, rng: random.Random, vocabulary: Vocabulary, ordinary: list[int]) -> dict:
    """15 % of the positions that are not special, 80/10/10; a random token is one of the `ordinary` ids."""
    ids, special = list(sample["input_ids"]), (vocabulary.cls, vocabulary.sep, vocabulary.pad)
    labels = [NOT_MASKED] * len(ids)
    candidates = [place for place, token in enumerate(ids) if token not in special]
    for place in rng.sample(candidates, min(len(candidates), max(1, round(SELECTED * len(candidates))))):
        labels[place] = ids[place]
        fate = rng.random()
        if fate < MASKED:
            ids[place] = vocabulary.mask
        elif fate < MASKED + REPLACED:
            ids[place] = rng.choice(ordinary)
    return sample | {"input_ids": ids, "labels": labels}


def pad(sample: dict, vocabulary: Vocabulary, length: int = LENGTH) -> dict:
    """A sample filled up to `length` tokens, with the attention mask that says where it ends."""
    tokens = len(sample["input_ids"])
    fill = length - tokens
    padded = {
        "input_ids": sample["input_ids"] + [vocabulary.pad] * fill,
        "token_type_ids": sample["token_type_ids"] + [0] * fill,
        "attention_mask": [1] * tokens + [0] * fill,
        "next_sentence_label": sample["next_sentence_label"],
    }
    if "labels" in sample:
        padded["labels"] = sample["labels"] + [NOT_MASKED] * fill
    return padded


def to_row(sample: dict, vocabulary: Vocabulary, length: int = LENGTH) -> str:
    """A sample as a line of JSON, padded."""
    return json.dumps(pad(sample, vocabulary, length)) + "\n"


def from_row(row: str) -> dict:
    """The sample of a line of JSON, without its padding."""
    sample = json.loads(row)
    tokens = sum(sample.pop("attention_mask"))
    return {name: values[:tokens] if isinstance(values, list) else values for name, values in sample.items()}


# Text -> rows


def make_pairs(lines: Iterable, rng: random.Random, size: int = BUFFER) -> Iterator[tuple]:
    """(A, B, label) for each line but the last, as a shuffle buffer of `size` lines gives them out.

    B is the line after A (0) or a random one of the buffer (1), which may be A itself or the line after it.
    """
    incoming = itertools.pairwise(lines)
    buffer = list(itertools.islice(incoming, size))
    while buffer:
        place = rng.randrange(len(buffer))
        first, following = buffer[place]
        if rng.random() < 0.5:
            yield first, following, 0
        else:
            yield first, buffer[rng.randrange(len(buffer))][0], 1
        if more := next(incoming, None):
            buffer[place] = more
        else:
            buffer[place] = buffer[-1]
            buffer.pop()


def tokenize(tokenizer, first: str, second: str, label: int) -> dict:
    """A pair of lines as lists of LENGTH numbers, by a tokenizer of transformers."""
    lists = tokenizer(first, second, truncation="longest_first", max_length=LENGTH, padding="max_length")
    return {**lists, "next_sentence_label": label}


# Each gives a function that makes the rows: the tokenizer is loaded before the clock starts


def published_rows(lines: Iterable[str], tokenizer_model: str, masked: bool) -> Callable[[], Iterator[dict]]:
    tokenizer, vocabulary = tokenization.load_tokenizer(tokenizer_model), tokenization.vocabulary(tokenizer_model)
    rng, ordinary = random.Random(SEED), vocabulary.ordinary_ids.tolist()
    samples = (tokenize(tokenizer, *pair) for pair in make_pairs(lines, rng))
    return lambda: (mask(sample, rng, vocabulary, ordinary) if masked else sample for sample in samples)


def lean_rows(lines: Iterable[str], tokenizer_model: str, masked: bool) -> Callable[[], Iterator[dict]]:
    spm, vocabulary = tokenization.load_sentencepiece(tokenizer_model), tokenization.vocabulary(tokenizer_model)
    rng, ordinary = random.Random(SEED), vocabulary.ordinary_ids.tolist()
    samples = (join(*pair, vocabulary) for pair in make_pairs(map(spm.encode, lines), rng))
    made = (mask(sample, rng, vocabulary, ordinary) if masked else sample for sample in samples)
    return lambda: (pad(sample, vocabulary) for sample in made)


def prepare(text: str, tokenizer_model: str, masked: bool, rows_file: str, lean: bool = False) -> dict:
    """Write the samples of a text as padded rows, masked or not; what it cost."""
    samples = tokens = 0
    with open(text, encoding="utf-8", newline="\n") as lines, open(rows_file, "w") as rows:
        filled = (line.rstrip("\n") for line in lines if line.strip())
        make = (lean_rows if lean else published_rows)(filled, tokenizer_model, masked)
        started, cpu = time.perf_counter(), time.process_time()
        for sample in make():
            samples, tokens = samples + 1, tokens + sample["attention_mask"].count(1)
            rows.write(json.dumps(sample) + "\n")
        found = cost(started, cpu)
    return found | {"samples": samples, "tokens": tokens}


# Rows -> batches


def published_batch(rows: list[str], rng: random.Random, vocabulary: Vocabulary, ordinary: list[int]) -> dict:
    import torch

    masked = [mask(json.loads(row), rng, vocabulary, ordinary) for row in rows]
    tensors = [{name: torch.tensor(values) for name, values in sample.items()} for sample in masked]
    return torch.utils.data.default_collate(tensors)


def lean_batch(rows: list[str], rng: random.Random, vocabulary: Vocabulary, ordinary: list[int]) -> dict:
    masked = [pad(mask(from_row(row), rng, vocabulary, ordinary), vocabulary) for row in rows]
    return {name: np.array([sample[name] for sample in masked], dtype=np.int64) for name in masked[0]}


def draw(rows_file: str, tokenizer_model: str, lean: bool = False) -> dict:
    """Draw each row of a file once, masked anew, in int64 batches of BATCH samples by LENGTH; what it cost."""
    import torch

    torch.set_num_threads(1)
    vocabulary, make = tokenization.vocabulary(tokenizer_model), lean_batch if lean else published_batch
    rng, ordinary = random.Random(SEED), vocabulary.ordinary_ids.tolist()
    samples = 0
    started, cpu = time.perf_counter(), time.process_time()
    with open(rows_file) as rows:
        while batch := list(itertools.islice(rows, BATCH)):
            samples += len(make(batch, rng, vocabulary, ordinary)["input_ids"])
    return cost(started, cpu) | {"samples": samples}
