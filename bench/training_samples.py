"""Samples to measure training with: those of real texts, chosen to a mean length, and made-up ones of any length."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench import runs
from bert_ja import cli, files
from bert_ja.dataset import Batches, Columns
from bert_ja.samples import gather
from bert_ja.tokenization import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
SEED = 1000
STRETCH, EVERY = 100, 50  # samples that stand together are held out, a stretch of every so many
SHAPE, SHORTEST = 4.0, 8  # of the gamma distribution of made-up lengths; tokens
WITHIN = 1.0  # tokens by which the mean of chosen samples may differ from what was asked for


# Samples of texts


def make(folder: Path, texts: list[Path], tokenizer_model: str) -> Columns:
    """The samples of texts, unmasked, made by prepare_train_data.py in `folder`."""
    text, samples = folder / "text.txt", folder / "samples.jsonl"
    text.write_bytes(b"".join(map(runs.content, texts)))
    command = [sys.executable, str(ROOT / "prepare_train_data.py"), "--filename", str(text)]
    command += ["--tokenizer_model", tokenizer_model, "--get_raw", "False", "--output_file", str(samples)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise cli.StageError(f"{runs.as_typed(command)} ended with {runs.last_line(done.stderr)}")
    return Columns.open(samples, files.read_record(samples))


def lengths_of(columns: Columns) -> np.ndarray:
    """Tokens of each sample, int64 (samples,)."""
    return np.diff(columns.ends, prepend=0)


def choose(lengths: np.ndarray, count: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """`count` samples drawn at random whose mean length is `mean`, WITHIN a token: their numbers, increasing.

    Of the first draw, one after another is exchanged for the next of the order where that brings the mean nearer.
    """
    order = rng.permutation(len(lengths))
    chosen, rest = order[:count].copy(), order[count:]
    off = int(lengths[chosen].sum()) - mean * count
    for place, other in zip(itertools.cycle(range(count)), rest):  # noqa: B905 (a cycle has no end)
        if abs(off) <= WITHIN * count / 2:
            break
        change = int(lengths[other]) - int(lengths[chosen[place]])
        if abs(off + change) < abs(off):
            chosen[place], off = other, off + change
    if len(chosen) < count or abs(off) > WITHIN * count:
        raise cli.StageError(
            f"the texts give {len(lengths):,} samples of {lengths.mean():.1f} tokens, too few to choose {count} of "
            f"{mean:g} from: name more text, or another --mean_tokens"
        )
    return np.sort(chosen)


def subset(columns: Columns, samples: np.ndarray) -> Columns:
    """Some of the samples, in memory; unmasked ones as `make` gives them."""
    starts = columns.starts(samples)
    lengths = columns.ends[samples] - starts
    return in_memory(
        gather(columns.ids, starts, lengths),
        lengths,
        columns.first_lengths[samples],
        columns.next_sentence_labels[samples],
    )


def in_memory(ids: np.ndarray, lengths: np.ndarray, first_lengths: np.ndarray, labels: np.ndarray) -> Columns:
    """Columns of unmasked pairs that are in no file."""
    empty = np.zeros(0, dtype=np.int64)
    return Columns(
        ids=ids.astype(np.uint32),
        ends=np.cumsum(lengths),
        first_lengths=first_lengths.astype(np.int32),
        next_sentence_labels=labels.astype(np.int8),
        word_starts=empty.astype(bool),
        label_positions=empty.astype(np.int32),
        label_ids=empty.astype(np.uint32),
        label_ends=empty,
        longest=int(lengths.max()),
        largest_id=int(ids.max()),
        masked=False,
        paired=True,
        whole_words=False,
    )


def masked(columns: Columns, vocabulary: Vocabulary) -> Columns:
    """The samples with masks that stay, as a validation needs them."""
    drawn = Batches(columns, vocabulary, len(columns), SEED, shuffle=False).draw(0, 0)
    positions = drawn["mlm_positions"]
    ends = np.searchsorted(positions, columns.ends)
    columns = in_memory(drawn["input_ids"], lengths_of(columns), columns.first_lengths, columns.next_sentence_labels)
    sample = np.searchsorted(columns.ends, positions, side="right")
    columns.label_positions = (positions - columns.starts(sample)).astype(np.int32)
    columns.label_ids, columns.label_ends, columns.masked = drawn["mlm_labels"].astype(np.uint32), ends, True
    return columns


def hold_out(columns: Columns, count: int, vocabulary: Vocabulary) -> tuple[Columns, Columns]:
    """(samples to train on, at most `count` masked ones to validate with), the latter in stretches from all over."""
    out = np.arange(len(columns)) // STRETCH % EVERY == EVERY // 2
    found = np.flatnonzero(out)
    if not len(found):
        least = STRETCH * (EVERY // 2)
        raise cli.StageError(
            f"the texts give {len(columns):,} samples, of which none is held out: name more text, over {least:,}"
        )
    step = max(1, len(found) // count)
    return subset(columns, np.flatnonzero(~out)), masked(subset(columns, found[::step][:count]), vocabulary)


# Made-up samples


def made_up_vocabulary(pieces: int) -> Vocabulary:
    """One of which no tokenizer is at hand, with the published ids of the special pieces."""
    return Vocabulary(size=pieces, sha256="", pad=0, unk=1, cls=2, sep=3, mask=4)


def made_up(count: int, mean: int, longest: int, vocabulary: Vocabulary, rng: np.random.Generator) -> Columns:
    """Pairs of random pieces, as frequent as pieces are (one over their rank), `mean` tokens on average.

    Their lengths spread as those of real pairs, a gamma distribution, up to `longest`; all are equal where that is the
    mean.
    """
    lengths = np.full(count, mean)
    if mean < longest:
        drawn = rng.gamma(SHAPE, (mean - SHORTEST) / SHAPE, count) + SHORTEST
        lengths = np.minimum(np.rint(drawn).astype(np.int64), longest)
    ends, first = np.cumsum(lengths), np.maximum(lengths // 2, 2)
    ordinary = vocabulary.ordinary_ids
    ids = ordinary[np.floor(len(ordinary) ** rng.random(int(ends[-1]))).astype(np.int64) - 1]
    begins = ends - lengths
    ids[begins], ids[begins + first - 1], ids[ends - 1] = vocabulary.cls, vocabulary.sep, vocabulary.sep
    return in_memory(ids, lengths, first, rng.integers(0, 2, count))
