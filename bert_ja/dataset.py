"""JSONL samples -> memory-mapped columns -> packed batches.

A JSONL file is parsed once, into numpy columns beside it, and rebuilt whenever it changes. A batch is gathered from the
columns at once, masked, and handed on as one packed row; which samples it holds is a pure function of (seed, epoch,
batch number), so worker processes and restarts cannot change it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import torch
from tqdm import tqdm

from bert_ja import draws, files, masking
from bert_ja.cli import StageError
from bert_ja.masking import MaskingRule
from bert_ja.samples import NOT_MASKED, gather
from bert_ja.tokenization import Vocabulary

FORMAT = 1  # of the columns; another number makes them be built anew
LINES_AT_ONCE = 8192
COLUMNS = {
    "ids": np.uint32,  # (tokens,)
    "ends": np.int64,  # (samples,): where each sample ends in ids
    "first_lengths": np.int32,  # (samples,): tokens of type 0
    "next_sentence_labels": np.int8,  # (samples,): 0 next, 1 random
    "label_positions": np.int32,  # (labels,): positions within the sample
    "label_ids": np.uint32,  # (labels,)
    "label_ends": np.int64,  # (samples,): where each sample ends in label_*; empty when samples are not masked yet
}


# JSONL -> columns


def _are_ids(values) -> bool:
    """Whether `values` is a list of whole numbers that fit into a column, one or more."""
    fit = isinstance(values, list) and set(map(type, values)) == {int}
    return fit and min(values) >= 0 and max(values) < 1 << 32


def _are_labels(values, length: int) -> bool:
    """Whether `values` is a list of `length` token ids or NOT_MASKED."""
    if not isinstance(values, list) or len(values) != length:
        return False
    predicted = [value for value in values if value != NOT_MASKED]
    return not predicted or _are_ids(predicted)


def _parse(line: bytes, where: str, masked: bool | None) -> tuple[list[int], int, int, list[int] | None]:
    """(input_ids, tokens of type 0, next_sentence_label, labels) of one line, checked."""
    again = "make the file again with prepare_train_data.py"
    try:
        sample = orjson.loads(line)
        ids, types = sample["input_ids"], sample["token_type_ids"]
        label, labels = sample["next_sentence_label"], sample.get("labels")
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise StageError(f"{where} is not a sample (cut short, or of another format): {again}") from None
    if not _are_ids(ids):
        raise StageError(f"{where}: input_ids must be a list of token ids: {again}")
    first = types.index(1) if isinstance(types, list) and 1 in types else len(ids)
    if types != [0] * first + [1] * (len(ids) - first):
        raise StageError(f"{where}: token_type_ids must be as long as input_ids, zeros and then ones: {again}")
    if label not in (0, 1) or (labels is not None and not _are_labels(labels, len(ids))):
        raise StageError(f"{where}: next_sentence_label must be 0 or 1, and labels as long as input_ids: {again}")
    if masked is not None and masked != (labels is not None):
        raise StageError(f"{where}: some samples have labels and some have none: {again}")
    return ids, first, label, labels


class _ColumnWriter:
    """Appends samples to column files, LINES_AT_ONCE at a time."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.files = {name: stack.enter_context(open(folder / name, "wb")) for name in COLUMNS}
        self.lists: dict[str, list[int]] = {name: [] for name in COLUMNS}
        self.samples = self.tokens = self.labels = self.longest = self.largest_id = 0
        self.masked: bool | None = None

    def add(self, ids: list[int], first: int, label: int, labels: list[int] | None) -> None:
        lists = self.lists
        self.tokens += len(ids)
        self.longest = max(self.longest, len(ids))
        self.samples += 1
        self.masked = labels is not None
        lists["ids"] += ids
        lists["ends"].append(self.tokens)
        lists["first_lengths"].append(first)
        lists["next_sentence_labels"].append(label)
        if labels is not None:
            chosen = [(position, label) for position, label in enumerate(labels) if label != NOT_MASKED]
            lists["label_positions"] += [position for position, _ in chosen]
            lists["label_ids"] += [label for _, label in chosen]
            self.labels += len(chosen)
            lists["label_ends"].append(self.labels)

    def flush(self) -> None:
        for name, values in self.lists.items():
            column = np.array(values, dtype=COLUMNS[name])
            if name in ("ids", "label_ids"):
                self.largest_id = max(self.largest_id, int(column.max(initial=0)))
            self.files[name].write(column.tobytes())
            values.clear()


def _columns_key(path: Path, record: dict | None) -> dict:
    stat = path.stat()
    digests = {file["name"]: file["sha256"] for file in (record or {}).get("outputs", [])}
    return {"format": FORMAT, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digests.get(path.name)}


def _built(folder: Path) -> dict | None:
    """The record of finished columns, None where there are none or it is damaged."""
    try:
        return files.read_record(folder) if folder.is_dir() else None
    except StageError:
        return None


def build_columns(path: Path, folder: Path, key: dict) -> None:
    """Parse a JSONL file into column files in `folder`, whole or not at all."""
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(files.output_folder(folder, "dataset"))
        progress = stack.enter_context(
            tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"reading {path.name}", delay=1)
        )
        with contextlib.ExitStack() as open_files, open(path, "rb") as lines:
            columns = _ColumnWriter(partial, open_files)
            for number, line in enumerate(lines, start=1):
                columns.add(*_parse(line, f"{path}, line {number:,}", columns.masked))
                progress.update(len(line))
                if number % LINES_AT_ONCE == 0:
                    columns.flush()
            columns.flush()
        names = ("samples", "tokens", "labels", "longest", "largest_id", "masked")
        counts = {name: getattr(columns, name) for name in names}
        outputs = [{"name": name, "size": (partial / name).stat().st_size} for name in COLUMNS]
        files.write_record(partial, {"stage": "dataset", "key": key, "counts": counts, "outputs": outputs})


def _are_whole(folder: Path, record: dict) -> bool:
    """Whether the column files have the sizes that were recorded when they were finished."""
    sizes = {file["name"]: file["size"] for file in record["outputs"]}
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


@dataclass
class Columns:
    """All samples of one JSONL file, as memory maps named as in COLUMNS."""

    ids: np.ndarray
    ends: np.ndarray
    first_lengths: np.ndarray
    next_sentence_labels: np.ndarray
    label_positions: np.ndarray
    label_ids: np.ndarray
    label_ends: np.ndarray
    longest: int  # tokens of the longest sample
    largest_id: int
    masked: bool  # whether the samples carry their labels

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def open(cls, jsonl: Path | str, record: dict | None = None) -> "Columns":
        """The columns of a JSONL file, built first where there are none or the file has changed since."""
        jsonl = Path(jsonl)
        folder = jsonl.with_name(f".{jsonl.name}.columns")
        key = _columns_key(jsonl, record)
        built = _built(folder)
        if built is None or built.get("key") != key or not _are_whole(folder, built):
            # Columns, four bytes a token, take less room than the JSON that they are made from.
            files.require_space(folder.parent, jsonl.stat().st_size, f"the columns of {jsonl}")
            build_columns(jsonl, folder, key)
            built = files.read_record(folder)
        maps = {
            name: np.memmap(folder / name, dtype, mode="r") if (folder / name).stat().st_size else np.zeros(0, dtype)
            for name, dtype in COLUMNS.items()
        }
        counts = built["counts"]
        return cls(**maps, **{name: counts[name] for name in ("longest", "largest_id")}, masked=bool(counts["masked"]))

    def starts(self, samples: np.ndarray) -> np.ndarray:
        return np.where(samples > 0, self.ends[np.maximum(samples - 1, 0)], 0)

    def labelled(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the labels of each sample begin in label_*, and how many there are."""
        starts = np.where(samples > 0, self.label_ends[np.maximum(samples - 1, 0)], 0)
        return starts, self.label_ends[samples] - starts


# Columns -> packed batches


def length_groups(cu_seqlens: np.ndarray, most_groups: int = 8) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """The samples of a packed row in groups of similar length, as packed_attention takes them: (groups, order)."""
    lengths = np.diff(cu_seqlens)
    by_length = np.argsort(lengths, kind="stable")
    groups, filled_tokens = [], []
    for members in np.array_split(by_length, min(most_groups, -(-len(lengths) // 4))):
        column = np.arange(lengths[members].max())
        filled = column < lengths[members, None]  # (samples, longest)
        index = np.where(filled, cu_seqlens[members, None] + column, cu_seqlens[members, None])
        groups.append({"index": index, "mask": filled[:, None, None, :], "filled": np.flatnonzero(filled)})
        filled_tokens.append(index[filled])
    order = np.empty(int(cu_seqlens[-1]), dtype=np.int64)
    order[np.concatenate(filled_tokens)] = np.arange(len(order))
    return groups, order


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


@dataclass
class Batches:
    """All batches of one epoch after another: `batch(epoch, number)` is a pure function.

    A file whose samples carry labels keeps them; else each epoch masks anew. A batch is a dict of tensors, one packed
    row: input_ids, token_type_ids, positions of the packed row to predict with their ids, cu_seqlens, and by how much
    the losses of the optimizer step that it belongs to are divided (`accumulate` batches share one).
    """

    columns: Columns
    vocabulary: Vocabulary
    batch_size: int  # samples
    seed: int
    shuffle: bool
    accumulate: int = 1  # batches an optimizer step
    rule: MaskingRule = MaskingRule()

    def __len__(self) -> int:
        return -(-len(self.columns) // self.batch_size)

    def samples(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The samples that stand at [start, stop) in the order of an epoch."""
        places = np.arange(start, min(stop, len(self.columns)))
        if not self.shuffle:
            return places
        return draws.permutation(draws.key(self.seed, "order", epoch), places, len(self.columns))

    def masked_count(self, samples: np.ndarray) -> np.ndarray:
        """How many positions of each sample are predicted, known from its length alone."""
        if self.columns.masked:
            return self.columns.labelled(samples)[1]
        lengths = self.columns.ends[samples] - self.columns.starts(samples)
        return masking.selected_count(lengths - 3, self.rule.mlm_probability)

    def batch(self, epoch: int, number: int) -> dict[str, torch.Tensor]:
        start = number * self.batch_size
        samples = self.samples(epoch, start, start + self.batch_size)
        first_of_step = number - number % self.accumulate
        step = self.samples(epoch, first_of_step * self.batch_size, (first_of_step + self.accumulate) * self.batch_size)
        starts = self.columns.starts(samples)
        lengths = self.columns.ends[samples] - starts
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        masked = self._mask(epoch, samples, gather(self.columns.ids, starts, lengths).astype(np.int64), cu_seqlens)
        place = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)
        first_lengths = np.repeat(self.columns.first_lengths[samples], lengths)
        arrays = {
            "input_ids": masked.input_ids,  # (tokens,)
            "token_type_ids": (place >= first_lengths).astype(np.int64),  # (tokens,)
            "position_ids": place,  # (tokens,), from 0 in each sample
            "cu_seqlens": cu_seqlens.astype(np.int32),  # (samples + 1,)
            "mlm_positions": masked.positions,  # (predicted,)
            "mlm_labels": masked.labels,  # (predicted,)
            "next_sentence_labels": self.columns.next_sentence_labels[samples].astype(np.int64),  # (samples,)
            "step_predicted": np.array(self.masked_count(step).sum()),  # of the whole optimizer step
            "step_samples": np.array(len(step)),
        }
        groups, arrays["order"] = length_groups(cu_seqlens)
        return _tensors(arrays) | {"groups": [_tensors(group) for group in groups]}

    def _mask(self, epoch: int, samples: np.ndarray, ids: np.ndarray, cu_seqlens: np.ndarray) -> masking.MaskedBatch:
        if not self.columns.masked:
            streams = draws.numbers(draws.key(self.seed, "mask", epoch), samples)
            return masking.mask(ids, cu_seqlens, streams, self.vocabulary, self.rule)
        starts, counts = self.columns.labelled(samples)
        positions = gather(self.columns.label_positions, starts, counts) + np.repeat(cu_seqlens[:-1], counts)
        return masking.MaskedBatch(ids, positions, gather(self.columns.label_ids, starts, counts).astype(np.int64))


class BatchDataset(torch.utils.data.Dataset):
    """Batches by (epoch, number), for a DataLoader with batch_size=None whose sampler yields such keys."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        return self.batches.batch(*key)


class EpochSampler(torch.utils.data.Sampler):
    """The keys of one epoch's batches; Lightning calls set_epoch. Ranks share the batches out, none draws one twice."""

    def __init__(self, batches: Batches, rank: int = 0, world_size: int = 1):
        self.batches, self.rank, self.world_size, self.epoch = batches, rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.world_size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for number in range(self.rank, len(self.batches), self.world_size):
            yield self.epoch, number


# What a model without context would reach


def unigram_entropy(columns: Columns, vocabulary: Vocabulary, most_tokens: int = 20_000_000) -> float:
    """Entropy of the tokens, in nats a token: the MLM loss of a model that only knows how frequent each of them is.

    Counted over at most `most_tokens` tokens, evenly spread blocks of the file; special ids are left out.
    """
    total = len(columns.ids)
    step = max(1, -(-total // most_tokens))
    counts = np.zeros(vocabulary.size, dtype=np.int64)
    for start in range(0, total, step * 65_536):
        counts += np.bincount(columns.ids[start : start + 65_536], minlength=vocabulary.size)
    share = counts[vocabulary.ordinary_ids]
    share = share[share > 0] / share.sum()
    return float(-(share * np.log(share)).sum())
