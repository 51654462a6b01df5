"""JSONL samples -> memory-mapped columns -> packed batches.

A JSONL file is parsed once, into numpy columns beside it, and again whenever it changes. A batch is gathered from the
columns at once, masked, and handed on as one packed row; which samples it holds is a pure function of (seed, how many
were drawn before), so worker processes, ranks and restarts cannot change it.
"""

import bisect
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import torch
from tqdm import tqdm

from bert_ja import draws, files, masking
from bert_ja.cli import StageError, say
from bert_ja.encoding import memory_map
from bert_ja.handover import Handover, Slot
from bert_ja.masking import FallingRate, MaskingRule
from bert_ja.samples import NOT_MASKED, gather
from bert_ja.tokenization import Vocabulary
from bert_ja.workers import available_cores, ordered_map

FORMAT = 2  # of the columns; another number makes them be built anew
BLOCK = 1 << 22  # bytes of JSON lines parsed at once
COLUMNS = {
    "ids": np.uint32,  # (tokens,)
    "ends": np.int64,  # (samples,): where each sample ends in ids
    "first_lengths": np.int32,  # (samples,): tokens of type 0
    "next_sentence_labels": np.int8,  # (samples,): 0 next, 1 random; empty where samples have no second task
    "word_starts": np.bool_,  # (tokens,): whether a word begins there; empty where that is not known
    "label_positions": np.int32,  # (labels,): positions within the sample
    "label_ids": np.uint32,  # (labels,)
    "label_ends": np.int64,  # (samples,): where each sample ends in label_*; empty when samples are not masked yet
}
KINDS = {"labels": "label_ends", "next_sentence_label": "next_sentence_labels", "word_starts": "word_starts"}
LONGEST = 1 << masking.PLACE_BITS  # tokens of a sample
ROW = 64  # tokens of a row that attention.rows takes, at least: a usual sample
NUMBERS_A_TOKEN = 8  # of a step, at most where samples are of usual lengths
MOST_PERIOD = 10_000  # samples after which shares of several files have been kept exactly


# JSONL -> columns


def _are_whole_numbers(values, most: int) -> bool:
    """Whether `values` is a list of whole numbers from 0 to `most`, empty or not."""
    fit = isinstance(values, list) and set(map(type, values)) <= {int}
    return fit and (not values or (min(values) >= 0 and max(values) <= most))


def _are_labels(values, length: int) -> bool:
    """Whether `values` is a list of `length` token ids or NOT_MASKED."""
    if not isinstance(values, list) or len(values) != length:
        return False
    return _are_whole_numbers([value for value in values if value != NOT_MASKED], (1 << 32) - 1)


def _are_word_starts(values, length: int) -> bool:
    return _are_whole_numbers(values, length - 1) and all(map(int.__lt__, values, values[1:]))


def _parse(line: bytes, where: str) -> tuple[dict, int]:
    """(a sample, its tokens of type 0) of one line, checked."""
    again = "make the file again with prepare_train_data.py"
    try:
        sample = orjson.loads(line)
        ids, types = sample["input_ids"], sample["token_type_ids"]
        label, labels, words = (sample.get(name) for name in ("next_sentence_label", "labels", "word_starts"))
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise StageError(f"{where} is not a sample (cut short, or of another format): {again}") from None
    if not ids or not _are_whole_numbers(ids, (1 << 32) - 1) or len(ids) > LONGEST:
        raise StageError(f"{where}: input_ids must be a list of token ids, {LONGEST:,} at most: {again}")
    first = types.index(1) if isinstance(types, list) and 1 in types else len(ids)
    if types != [0] * first + [1] * (len(ids) - first):
        raise StageError(f"{where}: token_type_ids must be as long as input_ids, zeros and then ones: {again}")
    if label not in (0, 1, None) or (labels is not None and not _are_labels(labels, len(ids))):
        raise StageError(f"{where}: next_sentence_label must be 0 or 1, and labels as long as input_ids: {again}")
    if words is not None and not _are_word_starts(words, len(ids)):
        raise StageError(f"{where}: word_starts must be positions in input_ids, each above the one before: {again}")
    return sample, first


def _require_one_kind(has: dict[str, bool], expected: dict[str, bool] | None, where: str) -> None:
    """Refuse samples of which some have a field and some do not."""
    for name, here in has.items():
        if expected is not None and expected[name] != here:
            raise StageError(
                f"{where}: some samples have {name} and some have none: make the file again with prepare_train_data.py"
            )


@dataclass
class _ParsedBlock:
    """Some samples as columns of their own, `ends` and `label_ends` counted from the block's beginning."""

    columns: dict[str, np.ndarray]
    has: dict[str, bool]  # which of KINDS the samples have
    size: int  # bytes of JSON
    first_line: int


def _parse_block(name: str, task: tuple[int, bytes]) -> _ParsedBlock:
    """Parse and check the lines of one block: (number of its first line, bytes) -> columns."""
    first_line, block = task
    lists: dict[str, list[int]] = {name: [] for name in COLUMNS}
    has, tokens = None, 0
    lines = block.split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=first_line):
        sample, first = _parse(line, f"{name}, line {number:,}")
        here = {field: sample.get(field) is not None for field in KINDS}
        if here != has:
            _require_one_kind(here, has, f"{name}, line {number:,}")
            has = here
        ids = sample["input_ids"]
        lists["ids"] += ids
        lists["first_lengths"].append(first)
        if here["next_sentence_label"]:
            lists["next_sentence_labels"].append(sample["next_sentence_label"])
        if here["labels"]:
            chosen = [(place, label) for place, label in enumerate(sample["labels"]) if label != NOT_MASKED]
            lists["label_positions"] += [place for place, _ in chosen]
            lists["label_ids"] += [label for _, label in chosen]
            lists["label_ends"].append(len(lists["label_ids"]))
        if here["word_starts"]:
            lists["word_starts"] += [tokens + place for place in sample["word_starts"]]
        tokens += len(ids)
        lists["ends"].append(tokens)
    columns = {name: np.array(values, dtype=np.int64).astype(COLUMNS[name]) for name, values in lists.items()}
    begins = np.zeros(tokens if has["word_starts"] else 0, dtype=bool)
    begins[lists["word_starts"]] = True
    return _ParsedBlock(columns | {"word_starts": begins}, has, len(block), first_line)


def _line_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines of about BLOCK bytes)."""
    number = 1
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            block += file.readline()
            yield number, block
            number += block.count(b"\n")


def _parsed_blocks(path: Path, num_workers: int) -> Iterator[_ParsedBlock]:
    """All samples of a JSONL in its order, `ends` and `label_ends` counted from its beginning; with progress."""
    has, tokens, labels = None, 0, 0
    blocks = ordered_map(functools.partial(_parse_block, str(path)), _line_blocks(path), num_workers)
    progress = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"reading {path.name}", delay=1)
    with contextlib.closing(blocks), progress:
        for block in blocks:
            _require_one_kind(block.has, has, f"{path}, line {block.first_line:,}")
            has = block.has
            block.columns["ends"] += tokens
            block.columns["label_ends"] += labels
            yield block
            tokens += len(block.columns["ids"])
            labels += len(block.columns["label_ids"])
            progress.update(block.size)


def _write_columns(path: Path, folder: Path, num_workers: int) -> dict:
    """Write the column files of a JSONL; its counts."""
    counts = {"samples": 0, "tokens": 0, "labels": 0, "longest": 0, "largest_id": 0}
    has = None
    with contextlib.closing(_parsed_blocks(path, num_workers)) as blocks, contextlib.ExitStack() as stack:
        growing = {name: stack.enter_context(open(folder / name, "wb")) for name in COLUMNS}
        for block in blocks:
            has, columns = block.has, block.columns
            for name, values in columns.items():
                growing[name].write(values.tobytes())
            lengths = np.diff(columns["ends"], prepend=counts["tokens"])
            counts["samples"] += len(lengths)
            counts["tokens"] += len(columns["ids"])
            counts["labels"] += len(columns["label_ids"])
            counts["longest"] = max(counts["longest"], int(lengths.max()))
            largest = (int(columns[name].max(initial=0)) for name in ("ids", "label_ids"))
            counts["largest_id"] = max(counts["largest_id"], *largest)
    return counts | {"has": has or dict.fromkeys(KINDS, False)}


def _columns_key(path: Path, record: dict | None) -> dict:
    stat, name = path.stat(), files.behind_link(path).name
    digests = {file["name"]: file["sha256"] for file in (record or {}).get("outputs", [])}
    return {"format": FORMAT, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digests.get(name)}


def _built(folder: Path, key: dict) -> dict | None:
    """The record of columns that are whole and of this file; None where there are none, or they are to be built."""
    try:
        record = files.read_record(folder) if folder.is_dir() else None
    except StageError:
        return None
    if record is None or record.get("key") != key:
        return None
    sizes = {file["name"]: file["size"] for file in record.get("outputs", [])}
    whole = (
        "counts" in record
        and set(sizes) == set(COLUMNS)
        and all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
    )
    return record if whole else None


def _processes(jsonl: Path) -> int:
    """How many a JSONL is read with: one where it is a block."""
    return 1 if jsonl.stat().st_size <= BLOCK else available_cores()


def build_columns(path: Path, folder: Path, key: dict, num_workers: int) -> None:
    """Parse a JSONL file into columns in `folder`, whole or not at all. Raises InUse while another process does."""
    with files.output_folder(folder, None) as partial:
        if _built(folder, key):  # by another process, between our look and our lock
            raise files.InUse(f"another run has just read {path}")
        # Columns, four or five bytes a token, take less room than the JSON that they are made from.
        files.require_space(folder.parent, path.stat().st_size, f"the columns of {path}")
        counts = _write_columns(path, partial, num_workers)
        outputs = [{"name": name, "size": (partial / name).stat().st_size} for name in COLUMNS]
        files.write_record(partial, {"stage": "dataset", "key": key, "counts": counts, "outputs": outputs})


@dataclass
class Columns:
    """All samples of one JSONL file, as memory maps named as in COLUMNS."""

    ids: np.ndarray
    ends: np.ndarray
    first_lengths: np.ndarray
    next_sentence_labels: np.ndarray
    word_starts: np.ndarray
    label_positions: np.ndarray
    label_ids: np.ndarray
    label_ends: np.ndarray
    longest: int  # tokens of the longest sample
    largest_id: int
    masked: bool  # whether the samples carry their labels
    paired: bool  # whether they carry a next_sentence_label
    whole_words: bool  # whether they say where words begin

    def __len__(self) -> int:
        return len(self.ends)

    @staticmethod
    def folder(jsonl: Path | str) -> Path:
        """data/train.jsonl -> data/.train.jsonl.columns"""
        return Path(jsonl).with_name(f".{Path(jsonl).name}.columns")

    @classmethod
    def open(cls, jsonl: Path | str, record: dict | None = None, num_workers: int | None = None) -> "Columns":
        """The columns of a JSONL file, built first where there are none or the file has changed since.

        One process builds them, others that want them meanwhile (ranks of one run) wait for it.
        """
        jsonl, folder = Path(jsonl), cls.folder(jsonl)
        key = _columns_key(jsonl, record)
        while (built := _built(folder, key)) is None:
            try:
                build_columns(jsonl, folder, key, num_workers or _processes(jsonl))
            except files.InUse:
                if not _built(folder, key):
                    say(f"another process is reading {jsonl}: waiting for it")
                    files.wait_for(folder)
        maps = {name: memory_map(folder / name, dtype) for name, dtype in COLUMNS.items()}
        counts = built["counts"]
        masked, paired, words = (counts["has"][field] for field in KINDS)
        numbers = {name: counts[name] for name in ("longest", "largest_id")}
        return cls(**maps, **numbers, masked=masked, paired=paired, whole_words=words)

    def first_difference(self, jsonl: Path | str) -> int | None:
        """A line of the JSONL at or shortly before which it begins to differ, None where all samples are the same.

        Reads all of the file, BLOCK bytes of lines at a time, on all cores.
        """
        jsonl, line, at = Path(jsonl), 1, dict.fromkeys(COLUMNS, 0)
        with contextlib.closing(_parsed_blocks(jsonl, _processes(jsonl))) as blocks:
            for block in blocks:
                for name, values in block.columns.items():
                    if not np.array_equal(getattr(self, name)[at[name] : at[name] + len(values)], values):
                        return block.first_line
                    at[name] += len(values)
                line = block.first_line
        return None if all(at[name] == len(getattr(self, name)) for name in COLUMNS) else line

    def starts(self, samples: np.ndarray) -> np.ndarray:
        return np.where(samples > 0, self.ends[np.maximum(samples - 1, 0)], 0)

    def labelled(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the labels of each sample begin in label_*, and how many there are."""
        starts = np.where(samples > 0, self.label_ends[np.maximum(samples - 1, 0)], 0)
        return starts, self.label_ends[samples] - starts


# Columns -> packed batches


def attention_rows(lengths: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Samples of these lengths in rows of ROW tokens, or 2, 3, ... times that for longer ones: (places, rows).

    `places` (tokens,) says where each token of the packed row stands in all these rows, one after another; `rows` has,
    for each length of rows, the number of the sample that stands at each place, (rows, length), -1 for padding. The
    longest sample comes first, each into the row with the least room that suffices (best fit, decreasing).
    """
    rooms: list[tuple[int, int]] = []  # (tokens, row), increasing
    rows: list[int] = []  # the length of each
    at = np.empty((len(lengths), 2), dtype=np.int64)  # (row, place in it) of each sample
    for sample in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sample])
        best = bisect.bisect_left(rooms, (length, -1))
        if best == len(rooms):
            rooms.append((ROW * -(-length // ROW), len(rows)))
            rows.append(rooms[best][0])
        room, row = rooms.pop(best)
        at[sample] = row, rows[row] - room
        bisect.insort(rooms, (room - length, row))
    ends = np.cumsum([0] + rows)
    begins = ends[at[:, 0]] + at[:, 1]
    places = np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    samples = np.full(ends[-1], -1)
    samples[places] = np.repeat(np.arange(len(lengths)), lengths)
    parts = [(length, rows.count(length)) for length in sorted(set(rows), reverse=True)]
    cuts = np.cumsum([length * count for length, count in parts])[:-1]
    return places, [part.reshape(-1, length) for (length, _), part in zip(parts, np.split(samples, cuts), strict=True)]


def _mapped(value, function: Callable):
    """A function of everything that dicts and lists in each other hold, in as many of them.

    (A function inside another one that calls itself holds what that one holds until the garbage collector comes by:
    here the memory of a step, in which the next one should arrive.)
    """
    if isinstance(value, dict):
        return {name: _mapped(part, function) for name, part in value.items()}
    return [_mapped(part, function) for part in value] if isinstance(value, list) else function(value)


class Span(tuple):
    """The shape of a tensor whose numbers stand in those of a step, behind those of the one before."""


class Counts(NamedTuple):
    """How much work an optimizer step is, in plain numbers, so that no device has to be asked."""

    step_samples: int  # on all ranks together
    step_tokens: int
    tokens: int  # on this rank, as all that follow
    samples: int
    predicted: int  # positions that go through the vocabulary-sized head
    pairs: int  # of tokens of one sample, which attention compares: the sum of the squares of the lengths
    places: int  # that attention has for the tokens, those of its padding among them

    @classmethod
    def of(cls, batches: list[dict], step_samples: int, step_tokens: int) -> "Counts":
        lengths = np.concatenate([np.diff(batch["cu_seqlens"]) for batch in batches]).astype(np.int64)
        tokens, predicted = int(lengths.sum()), sum(len(batch["mlm_positions"]) for batch in batches)
        padded = [rows.size for batch in batches for rows in batch.get("rows", [])]
        pairs = int((lengths * lengths).sum())
        return cls(step_samples, step_tokens, tokens, len(lengths), predicted, pairs, sum(padded) or tokens)


@dataclass
class Step:
    """The micro-batches of one optimizer step on this rank, all their numbers in one tensor.

    Beside the tensors of `Batches.draw` each has `longest` (tokens of a sample), `step_predicted` and `step_samples`
    (of the whole step, on all ranks), and `consumed`, samples of the order up to the step's end, over all epochs.

    A process hands on one tensor, and a device receives one, in a fraction of the time that thirty small ones take.
    """

    numbers: torch.Tensor  # int64, so that nothing is converted on arrival, in the thread that has no time for it
    layout: list  # of micro-batches: dicts and lists of spans, and plain values
    sizes: list[int]  # numbers of each span, in the order of the layout
    counts: Counts | None = None
    slot: Slot | None = None  # of the memory in which a process hands it over

    @classmethod
    def of(cls, batches: list[dict], counts: Counts | None = None) -> "Step":
        arrays: list[np.ndarray] = []

        def place(value):
            if not isinstance(value, np.ndarray):
                return value
            arrays.append(value.ravel())
            return Span(value.shape)

        layout, sizes = _mapped(batches, place), [array.size for array in arrays]
        numbers = np.empty(sum(sizes), dtype=np.int64)
        np.concatenate(arrays, out=numbers)
        return cls(torch.from_numpy(numbers), layout, sizes, counts)

    def __reduce__(self) -> tuple:
        """What is sent from a process to another: without the numbers where they stand in a slot."""
        rest = self.layout, self.sizes, self.counts
        if self.slot is None:
            return Step, (self.numbers, *rest)
        return Step.received, (self.slot, None if self.slot.size else self.numbers, *rest)

    @classmethod
    def received(cls, slot: Slot, numbers: torch.Tensor | None, *rest) -> "Step":
        """A step that was sent with its numbers or, where these are None, with what stands in the slot."""
        taken = Handover.of(slot).take(slot)
        return cls(taken if numbers is None else numbers, *rest)

    def pin_memory(self) -> "Step":
        return replace(self, numbers=self.numbers.pin_memory())

    def to(self, device: torch.device | str) -> "Step":
        return replace(self, numbers=self.numbers.to(device, non_blocking=True))

    def micro_batches(self) -> list[dict]:
        """Each as a dict of int64 tensors on the step's device, and plain values."""
        parts = iter(self.numbers.split(self.sizes))

        def view(value):
            if not isinstance(value, Span):
                return value
            part = next(parts)
            return part.view(value) if len(value) > 1 else part

        return _mapped(self.layout, view)


@dataclass(frozen=True)
class Drawn:
    """Samples of one source and one pass over it, and where in a batch they stand."""

    source: int
    epoch: int  # of the source: how many times it has been drawn whole before
    samples: np.ndarray  # int64
    places: np.ndarray  # int64, in the batch


class Order:
    """Which sample stands at each place of an endless draw from one file or several, as a pure function.

    Each file is drawn whole, in a new permutation, before it begins again. Of several files, every place is given to
    one by its share, spread evenly, in a pattern that repeats after about MOST_PERIOD places at most and keeps the
    shares exactly (shares that need a longer one are rounded).
    """

    def __init__(self, sizes: list[int], shares: list[float], seed: int, shuffle: bool):
        self.sizes, self.seed, self.shuffle = sizes, seed, shuffle
        counts = _period(shares)
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        sources = np.repeat(np.arange(len(counts)), counts)
        self._sources = sources[np.lexsort((sources, times))]  # of each place of the period
        self._counts = np.array(counts)
        ranks = np.zeros(len(self._sources), dtype=np.int64)
        for source in range(len(counts)):
            here = self._sources == source
            ranks[here] = np.arange(np.count_nonzero(here))
        self._ranks = ranks  # how many places before, in the period, are of the same source

    def __len__(self) -> int:
        """Places of an epoch: as many as all files have samples."""
        return sum(self.sizes)

    def draw(self, places: np.ndarray) -> list[Drawn]:
        """The samples at these places, by source and pass."""
        period, within = np.divmod(places, len(self._sources))
        sources = self._sources[within]
        numbers = period * self._counts[sources] + self._ranks[within]
        passes, samples = np.divmod(numbers, np.array(self.sizes)[sources])
        drawn = []
        for source, epoch in np.unique(np.stack([sources, passes]), axis=1).T.tolist():
            here = np.flatnonzero((sources == source) & (passes == epoch))
            chosen = samples[here]
            if self.shuffle:
                chosen = draws.permutation(draws.key(self.seed, "order", source, epoch), chosen, self.sizes[source])
            drawn.append(Drawn(source, epoch, chosen, here))
        return drawn


def _period(shares: list[float]) -> list[int]:
    """How many places each share has in the shortest pattern that keeps them all: [0.7, 0.3] -> [7, 3]."""
    exact = [Fraction(str(share)) for share in shares]
    exact = [share / sum(exact) for share in exact]
    length = min(np.lcm.reduce([share.denominator for share in exact], dtype=object), MOST_PERIOD)
    counts = [max(1, int(share * length)) for share in exact]
    while sum(counts) < length:  # the largest remainder first
        short = [share * length - count for share, count in zip(exact, counts, strict=True)]
        counts[short.index(max(short))] += 1
    return counts


@dataclass
class Batches:
    """The optimizer steps of one epoch after another: `step(epoch, number)` is a pure function.

    A file whose samples carry labels keeps them; else each pass masks anew, whole words where the samples say where
    they begin. A (micro-)batch is one packed row: input_ids, token_type_ids, the positions of it to predict with
    their ids, cu_seqlens, and by how much the losses of the optimizer step that it belongs to are divided (`accumulate`
    batches on each of `world_size` ranks share one). Ranks take equal parts of the same places of the order. `skipped`
    samples of an epoch, drawn before a restart, are left out; its batches and steps are counted from there.
    """

    sources: Columns | list[Columns]
    vocabulary: Vocabulary
    batch_size: int  # samples, on each rank
    seed: int
    shuffle: bool
    accumulate: int = 1  # batches an optimizer step
    rule: MaskingRule = MaskingRule()
    shares: list[float] | None = None  # of the sources; as their sizes when not given
    rank: int = 0
    world_size: int = 1
    in_rows: bool = True  # whether batches have what attention.rows needs
    falling: FallingRate | None = None  # of the run, in place of the rule's mlm_probability

    def __post_init__(self):
        self.sources = [self.sources] if isinstance(self.sources, Columns) else list(self.sources)
        sizes = [len(columns) for columns in self.sources]
        if sum(sizes) < self.world_size:
            raise StageError(
                f"there are {sum(sizes):,} samples and {self.world_size:,} devices that share them: train on "
                "fewer devices, or on more text"
            )
        self.order = Order(sizes, self.shares or [float(size) for size in sizes], self.seed, self.shuffle)
        # Of the last optimizer step asked for: its places, its rate, and what is predicted of them.
        self._predicted: tuple[range, float, int] = range(0), 0.0, 0

    def __len__(self) -> int:
        return self.count()

    def count(self, skipped: int = 0) -> int:
        """Batches of an epoch on each rank. The last one takes what is left, also less than one more for each rank."""
        whole, rest = divmod(len(self.order) - skipped, self.batch_size * self.world_size)
        return whole + (rest >= self.world_size)

    def steps(self, skipped: int = 0) -> int:
        """Optimizer steps of an epoch; the last one may have fewer batches."""
        return -(-self.count(skipped) // self.accumulate)

    def _places(self, epoch: int, first: int, last: int, skipped: int) -> range:
        """Places of the order that batches [first, last) of an epoch have on all ranks together."""
        begin, size = epoch * len(self.order), self.batch_size * self.world_size
        end = skipped + last * size if last < self.count(skipped) else len(self.order)
        return range(begin + skipped + first * size, begin + end)

    @property
    def step_size(self) -> int:
        """Samples of an optimizer step, on all ranks together."""
        return self.batch_size * self.accumulate * self.world_size

    @property
    def highest_rate(self) -> float:
        """The largest mlm_probability that a step may have."""
        return max(self.falling.first, self.falling.last) if self.falling else self.rule.mlm_probability

    def rule_of(self, epoch: int, number: int, skipped: int = 0) -> MaskingRule:
        """How an optimizer step is masked: a rate that falls is that of its number in the run."""
        if self.falling is None:
            return self.rule
        done = -(-max(0, skipped) // self.step_size)
        return replace(self.rule, mlm_probability=self.falling.at(epoch, done + number))

    def draw(self, epoch: int, number: int, skipped: int = 0) -> dict[str, np.ndarray | int]:
        """A batch but for what attention needs."""
        first = number - number % self.accumulate
        rule = self.rule_of(epoch, number // self.accumulate, skipped)
        packed, places = self._draw(epoch, number, skipped, rule), self._places(epoch, number, number + 1, skipped)
        step = self._places(epoch, first, first + self.accumulate, skipped)
        alone = self.world_size == 1 and step == places
        predicted = len(packed["mlm_positions"]) if alone else self._step_predicted(step, rule.mlm_probability)
        return packed | {"step_predicted": predicted, "step_samples": len(step)}

    def step(self, epoch: int, number: int, skipped: int = 0) -> Step:
        """An optimizer step, as tensors."""
        first = number * self.accumulate
        last = min(first + self.accumulate, self.count(skipped))
        rule = self.rule_of(epoch, number, skipped)
        drawn = [self._draw(epoch, batch, skipped, rule) for batch in range(first, last)]
        places = self._places(epoch, first, last, skipped)
        alone = self.world_size == 1
        own = sum(len(batch["mlm_positions"]) for batch in drawn)
        predicted = own if alone else self._step_predicted(places, rule.mlm_probability)
        facts = {"step_predicted": predicted, "step_samples": len(places), "consumed": places.stop}
        batches = [self.for_attention(batch) | facts for batch in drawn]
        tokens = sum(len(batch["input_ids"]) for batch in drawn) if alone else self._step_tokens(places)
        return Step.of(batches, Counts.of(batches, len(places), tokens))

    def _draw(self, epoch: int, number: int, skipped: int, rule: MaskingRule) -> dict[str, np.ndarray]:
        """What this rank has of a batch."""
        places = self._places(epoch, number, number + 1, skipped)
        parts = [len(places) * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        return self._pack(self.order.draw(np.arange(places.start + parts[0], places.start + parts[1])), rule)

    def for_attention(self, batch: dict[str, np.ndarray]) -> dict:
        """A batch with what attention needs of its samples."""
        lengths = np.diff(batch["cu_seqlens"])
        batch = batch | {"longest": int(lengths.max())}
        if self.in_rows:
            batch["places"], batch["rows"] = attention_rows(lengths.astype(np.int64))
        return batch

    def _pack(self, drawn: list[Drawn], rule: MaskingRule) -> dict[str, np.ndarray]:
        """The samples of a batch, masked, in one row; those of one file and pass stand together."""
        parts = [self._part(part, rule) for part in drawn]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else {}
        whole = joined or parts[0]
        lengths = whole.pop("lengths")
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        before = np.cumsum([0] + [len(part["input_ids"]) for part in parts[:-1]])
        shift = np.repeat(before, [len(part["mlm_positions"]) for part in parts])
        return whole | {
            "cu_seqlens": cu_seqlens.astype(np.int32),  # (samples + 1,)
            "mlm_positions": whole["mlm_positions"] + shift,  # (predicted,)
        }

    def _part(self, drawn: Drawn, rule: MaskingRule) -> dict[str, np.ndarray]:
        """Samples of one file, masked."""
        columns, samples = self.sources[drawn.source], drawn.samples
        starts = columns.starts(samples)
        lengths = columns.ends[samples] - starts
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        ids = gather(columns.ids, starts, lengths).astype(np.int64)
        masked = self._mask(drawn, ids, starts, lengths, cu_seqlens, rule)
        place = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
        arrays = {
            "lengths": lengths,  # (samples,)
            "input_ids": masked.input_ids,  # (tokens,)
            "token_type_ids": (place >= np.repeat(columns.first_lengths[samples], lengths)).astype(np.int64),
            "position_ids": place,  # (tokens,), from 0 in each sample
            "mlm_positions": masked.positions,  # (predicted,)
            "mlm_labels": masked.labels,  # (predicted,)
        }
        if columns.paired:
            arrays["next_sentence_labels"] = columns.next_sentence_labels[samples].astype(np.int64)  # (samples,)
        return arrays

    def _streams(self, drawn: Drawn) -> np.ndarray:
        return draws.numbers(draws.key(self.seed, "mask", drawn.source, drawn.epoch), drawn.samples)

    def _mask(
        self,
        drawn: Drawn,
        ids: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        cu_seqlens: np.ndarray,
        rule: MaskingRule,
    ) -> masking.MaskedBatch:
        columns = self.sources[drawn.source]
        if not columns.masked:
            words = gather(columns.word_starts, starts, lengths) if columns.whole_words else None
            return masking.mask(ids, cu_seqlens, self._streams(drawn), self.vocabulary, rule, words)
        begins, counts = columns.labelled(drawn.samples)
        positions = gather(columns.label_positions, begins, counts) + np.repeat(cu_seqlens[:-1], counts)
        return masking.MaskedBatch(ids, positions, gather(columns.label_ids, begins, counts).astype(np.int64))

    def _step_predicted(self, places: range, rate: float) -> int:
        """Predicted positions of an optimizer step on all ranks; the last one asked for is remembered."""
        if self._predicted[:2] != (places, rate):
            drawn = self.order.draw(np.arange(places.start, places.stop))
            self._predicted = places, rate, sum(self._count_predicted(part, rate) for part in drawn)
        return self._predicted[2]

    def _step_tokens(self, places: range) -> int:
        """Tokens of an optimizer step on all ranks."""
        drawn = self.order.draw(np.arange(places.start, places.stop))
        sources = ((self.sources[part.source], part.samples) for part in drawn)
        return int(sum((columns.ends[samples] - columns.starts(samples)).sum() for columns, samples in sources))

    def _count_predicted(self, drawn: Drawn, rate: float) -> int:
        """How many positions of these samples are predicted."""
        columns, samples = self.sources[drawn.source], drawn.samples
        if columns.masked:
            return int(columns.labelled(samples)[1].sum())
        starts = columns.starts(samples)
        lengths = columns.ends[samples] - starts
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        ids = gather(columns.ids, starts, lengths)
        if columns.whole_words:
            words = gather(columns.word_starts, starts, lengths)
            return len(masking.select(ids, cu_seqlens, self._streams(drawn), self.vocabulary, rate, words))
        candidates = np.add.reduceat(masking.candidate_positions(ids, self.vocabulary), cu_seqlens[:-1], dtype=np.int64)
        return int(masking.selected_count(candidates, rate).sum())


class StepDataset(torch.utils.data.Dataset):
    """Optimizer steps by the keys of an EpochSampler: for a DataLoader without batch_size."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.handover: Handover | None = None  # that worker processes hand steps over in

    def __len__(self) -> int:
        return self.batches.steps()

    def __getitem__(self, key: tuple[int, int, int, Slot | None]) -> Step:
        *place, slot = key
        step = self.batches.step(*place)
        if slot:
            step.slot = self.handover.put(slot, step.numbers)
        return step

    def new_handover(self, slots: int) -> Handover | None:
        """Memory for so many steps, of which pages are taken as they are needed; None where the system has none."""
        accumulate = self.batches.accumulate
        samples = min(self.batches.batch_size * accumulate, len(self.batches.order))
        longest = max(columns.longest for columns in self.batches.sources)
        try:
            return Handover(slots, NUMBERS_A_TOKEN * samples * longest + ROW * accumulate)
        except OSError:
            return None


class EpochSampler(torch.utils.data.Sampler):
    """The keys of one epoch's optimizer steps; Lightning calls set_epoch.

    After `go_on(consumed)` the epoch in which that many samples, of all epochs and ranks together, had been drawn
    begins behind them; in O(1), whatever the batch size and the number of ranks were before. Where that leaves fewer
    samples than ranks, the next epoch begins with them.
    """

    def __init__(self, batches: Batches):
        self.batches, self.epoch, self._place = batches, 0, (0, 0)
        self.handover: Handover | None = None  # that slots are of

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def go_on(self, consumed: int) -> None:
        epoch, skipped = divmod(consumed, len(self.batches.order))
        left = len(self.batches.order) - skipped
        self._place = (epoch, skipped) if left >= self.batches.world_size else (epoch + 1, -left)
        self.epoch = self._place[0]

    @property
    def skipped(self) -> int:
        return self._place[1] if self.epoch == self._place[0] else 0

    @property
    def done(self) -> int:
        """Optimizer steps of the epoch that were done before."""
        return -(-max(0, self.skipped) // self.batches.step_size)

    def __len__(self) -> int:
        return self.batches.steps(self.skipped)

    def keys(self) -> Iterator[tuple[int, int, int]]:
        """The epoch's steps, as Batches.step takes them."""
        for number in range(len(self)):
            yield self.epoch, number, self.skipped

    def __iter__(self) -> Iterator[tuple[int, int, int, Slot | None]]:
        """Each of them with a slot to hand it over in, where there is one."""
        handover = self.handover  # whoever asks next may have another one
        for key in self.keys():
            yield *key, handover and handover.reserve()


# What a model without context would reach


def unigram_entropy(columns: Columns | list[Columns], vocabulary: Vocabulary, most_tokens: int = 20_000_000) -> float:
    """Entropy of the tokens, in nats a token: the MLM loss of a model that only knows how frequent each of them is.

    Counted over at most `most_tokens` tokens of each file, evenly spread blocks of it; special ids are left out.
    """
    counts = np.zeros(vocabulary.size, dtype=np.int64)
    for ids in [columns.ids] if isinstance(columns, Columns) else [each.ids for each in columns]:
        step = max(1, -(-len(ids) // most_tokens))
        for start in range(0, len(ids), step * 65_536):
            counts += np.bincount(ids[start : start + 65_536], minlength=vocabulary.size)
    share = counts[vocabulary.ordinary_ids]
    share = share[share > 0] / share.sum()
    return float(-(share * np.log(share)).sum())
