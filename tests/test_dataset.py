"""JSONL to columns to packed batches: nothing lost, nothing drawn twice, and the same numbers as a padded batch."""

import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from properties import examples
from transformers import BertConfig, BertForPreTraining

from bert_ja import dataset, files
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns, Counts, EpochSampler, Order, Step, StepDataset
from bert_ja.masking import FallingRate, MaskingRule
from bert_ja.pretraining import BertPretraining
from bert_ja.tokenization import Vocabulary

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = Vocabulary(size=400, sha256="", pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK)
LONGEST = 40
AGAIN = "make the file again with prepare_train_data.py"
KINDS = {  # options of `ragged`
    "pairs": {},
    "pairs of words": {"words": True},
    "one segment": {"paired": False},
    "one segment of words": {"paired": False, "words": True},
    "labelled pairs": {"masked": True},
    "labelled words of one segment": {"masked": True, "paired": False, "words": True},
}


def sample(
    first: list[int],
    second: list[int] | None = None,
    label: int | None = None,
    chosen: tuple[int, ...] | None = None,
    starts: list[int] | None = None,
) -> dict:
    """[CLS] A [SEP] B [SEP], or [CLS] A [SEP]; `chosen` positions are [MASK], their ids the labels."""
    ids = [CLS, *first, SEP, *([] if second is None else [*second, SEP])]
    made = {
        "input_ids": [MASK if at in (chosen or ()) else token for at, token in enumerate(ids)],
        "token_type_ids": [0] * (len(first) + 2) + [1] * (len(ids) - len(first) - 2),
    }
    if label is not None:
        made["next_sentence_label"] = label
    if chosen is not None:
        made["labels"] = [token if at in chosen else -100 for at, token in enumerate(ids)]
    return made if starts is None else made | {"word_starts": starts}


def ragged(
    number: int, seed: int, masked: bool = False, paired: bool = True, words: bool = False, first_id: int = 5
) -> list[dict]:
    """Samples of all lengths; sample i holds the id first_id + i. One-token segments and full length are among them."""
    rng, made = random.Random(seed), []
    most = LONGEST - 4 if paired else LONGEST - 2
    for index in range(number):
        lengths = rng.choice([(1, 1), (1, most), (most, 1), (rng.randint(1, 18), rng.randint(1, 18))])
        segments = [[first_id + index, *(rng.randint(5, 399) for _ in range(length - 1))] for length in lengths]
        first, second = segments if paired else (segments[0], None)
        places = [at for at in range(1, len(first) + 1 + (len(second) + 1 if paired else 0)) if at != len(first) + 1]
        made.append(
            sample(
                first,
                second,
                rng.randint(0, 1) if paired else None,
                tuple(rng.sample(places, max(1, round(0.15 * len(places))))) if masked else None,
                sorted(rng.sample(places, rng.randint(0, len(places)))) if words else None,
            )
        )
    return made


def as_lines(samples: list[dict]) -> bytes:
    return "".join(json.dumps(made) + "\n" for made in samples).encode()


def write(path: Path, samples: list[dict]) -> Path:
    path.write_bytes(as_lines(samples))
    return path


def in_memory(samples: list[dict]) -> Columns:
    """The columns of samples, without a file."""
    block = dataset._parse_block("samples", (1, as_lines(samples)))
    longest = max(len(made["input_ids"]) for made in samples)
    has = {"masked": block.has["labels"], "paired": block.has["next_sentence_label"]}
    return Columns(**block.columns, longest=longest, largest_id=399, whole_words=block.has["word_starts"], **has)


def batches(source: Path | Columns | list[Columns], **options) -> Batches:
    columns = Columns.open(source) if isinstance(source, Path) else source
    return Batches(columns, VOCABULARY, **{"batch_size": 4, "seed": 1000, "shuffle": True} | options)


def ranks(sources: Columns | list[Columns], world_size: int, **options) -> list[Batches]:
    return [batches(sources, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


def samples_of(columns: Columns) -> list[dict]:
    """Columns as the samples that they were made from."""
    made, begin, labels_begin = [], 0, 0
    for number, end in enumerate(columns.ends.tolist()):
        first = int(columns.first_lengths[number])
        one = {
            "input_ids": columns.ids[begin:end].tolist(),
            "token_type_ids": [0] * first + [1] * (end - begin - first),
        }
        if columns.paired:
            one["next_sentence_label"] = int(columns.next_sentence_labels[number])
        if columns.masked:
            labels_end = int(columns.label_ends[number])
            one["labels"] = [-100] * (end - begin)
            for at in range(labels_begin, labels_end):
                one["labels"][int(columns.label_positions[at])] = int(columns.label_ids[at])
            labels_begin = labels_end
        if columns.whole_words:
            one["word_starts"] = np.flatnonzero(columns.word_starts[begin:end]).tolist()
        made.append(one)
        begin = end
    return made


def column_bytes(jsonl: Path) -> dict[str, bytes]:
    folder = jsonl.with_name(f".{jsonl.name}.columns")
    return {name: (folder / name).read_bytes() for name in dataset.COLUMNS}


def digest(columns: Columns) -> str:
    hashed = hashlib.sha256()
    for name in dataset.COLUMNS:
        hashed.update(getattr(columns, name).tobytes() + b"|")
    return hashed.hexdigest()


def unpacked(batch: dict) -> list[dict]:
    """A batch as a list of samples: ids as they stood before the mask, as they are, types, label, {place: label}."""
    ends, made = batch["cu_seqlens"].tolist(), []
    labels = dict(zip(batch["mlm_positions"].tolist(), batch["mlm_labels"].tolist(), strict=True))
    ids, types = batch["input_ids"].tolist(), batch["token_type_ids"].tolist()
    assert ends[-1] == len(ids) == len(types)
    second_task = batch["next_sentence_labels"].tolist() if "next_sentence_labels" in batch else None
    assert second_task is None or len(second_task) == len(ends) - 1
    for number, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        assert batch["position_ids"][begin:end].tolist() == list(range(end - begin))
        one = {
            "before": [labels.get(at, ids[at]) for at in range(begin, end)],
            "input_ids": ids[begin:end],
            "token_type_ids": types[begin:end],
            "labels": [labels.get(at, -100) for at in range(begin, end)],
        }
        made.append(one | ({"next_sentence_label": second_task[number]} if second_task is not None else {}))
    return made


def epoch_of(drawn: Batches, epoch: int) -> list[dict]:
    return [made for number in range(len(drawn)) for made in unpacked(drawn.draw(epoch, number))]


def marks(batch: dict) -> list[int]:
    """Which samples a batch holds: the id behind each [CLS], as `ragged` marks them, read through the mask."""
    ids = batch["input_ids"].copy()
    ids[batch["mlm_positions"]] = batch["mlm_labels"]
    return ids[batch["cu_seqlens"][:-1] + 1].tolist()


def same(first: Step, second: Step) -> bool:
    """Whether two steps hold the same numbers, and lay them out alike."""
    return torch.equal(first.numbers, second.numbers) and first.layout == second.layout


def one_batch(drawn: Batches, epoch: int, number: int) -> dict:
    """The only batch of an optimizer step."""
    (batch,) = drawn.step(epoch, number).micro_batches()
    return batch


# Columns


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_back_from_the_columns_as_they_were(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", 1000)
    made = ragged(30, 0, **KINDS[kind])
    columns = Columns.open(write(tmp_path / "a.jsonl", made))
    assert samples_of(columns) == made
    assert len(columns) == 30
    assert (columns.masked, columns.paired, columns.whole_words) == (
        "labels" in made[0],
        "next_sentence_label" in made[0],
        "word_starts" in made[0],
    )
    assert columns.longest == max(len(one["input_ids"]) for one in made)
    shown = [one["input_ids"] + [label for label in one.get("labels", []) if label >= 0] for one in made]
    assert columns.largest_id == max(max(ids) for ids in shown)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_out_of_the_batches_as_they_were(kind):
    made = ragged(30, 0, **KINDS[kind])
    found = epoch_of(batches(in_memory(made), shuffle=False), 0)
    names = [name for name in made[0] if name != "word_starts"]
    if "labels" not in names:
        assert [one["before"] for one in found] == [one["input_ids"] for one in made]
        names.remove("input_ids")
    assert [{name: one[name] for name in names} for one in found] == [
        {name: one[name] for name in names} for one in made
    ]
    assert ("next_sentence_label" in found[0]) == ("next_sentence_label" in made[0])


def test_columns_by_hand(tmp_path):
    made = [sample([5], [6, 7], 1, (1, 4), [1, 3]), sample([8, 9], [10], 0, (2,), [4])]
    columns = Columns.open(write(tmp_path / "a.jsonl", made))
    assert columns.ids.tolist() == [CLS, MASK, SEP, 6, MASK, SEP, CLS, 8, MASK, SEP, 10, SEP]
    assert columns.ends.tolist() == [6, 12]
    assert columns.first_lengths.tolist() == [3, 4]
    assert columns.next_sentence_labels.tolist() == [1, 0]
    assert columns.word_starts.nonzero()[0].tolist() == [1, 3, 10]
    assert columns.label_positions.tolist() == [1, 4, 2]
    assert columns.label_ids.tolist() == [5, 7, 9]
    assert columns.label_ends.tolist() == [2, 3]
    assert (columns.longest, columns.largest_id) == (6, 10)
    assert {name: getattr(columns, name).dtype for name in dataset.COLUMNS} == dataset.COLUMNS


LARGEST = (1 << 32) - 1
EXTREMES = {
    "one sample": [sample([5], [6], 0)],
    "one token": [{"input_ids": [0], "token_type_ids": [0]}],
    "the largest ids": [sample([LARGEST, 0], [LARGEST], 0, (1, 2, 4))],
    "a label at every position": [sample([5, 6], [7], 1, tuple(range(6))), sample([5], [7], 1, tuple(range(5)))],
    "no label at all": [sample([5, 6], [7], 1, ()), sample([5], [7], 1, (1,)), sample([8], [7], 1, ())],
    "no word that begins": [sample([5, 6], starts=[]), sample([7], starts=[])],
    "a word at every position": [sample([5, 6], starts=[0, 1, 2, 3]), sample([7], starts=[])],
    "a long sample": [sample([5] * 50_000, [6] * 15_533, 1, (1, 65_534), [1, 65_534])],
    "all of the second type": [{"input_ids": [2, 5, 3], "token_type_ids": [1, 1, 1]}],
}


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("case", EXTREMES)
def test_extreme_samples_come_back_too(tmp_path, case, block, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", block)
    columns = Columns.open(write(tmp_path / "a.jsonl", EXTREMES[case]), num_workers=1)
    assert samples_of(columns) == EXTREMES[case]
    labels = [label for one in EXTREMES[case] for label in one.get("labels", [])]
    assert columns.largest_id == max(max(one["input_ids"] + labels) for one in EXTREMES[case])


@pytest.mark.parametrize("kind", [pytest.param("pairs", marks=pytest.mark.full), "labelled words of one segment"])
def test_workers_and_blocks_change_no_byte_of_the_columns(tmp_path, kind, monkeypatch):
    path = write(tmp_path / "a.jsonl", ragged(60, 3, **KINDS[kind]))
    longest_line = max(map(len, path.read_bytes().splitlines()))
    built = []
    for block in (1, longest_line, 777, 5000, 1 << 22):
        for workers in (1, 2, 3, 7):
            monkeypatch.setattr(dataset, "BLOCK", block)
            shutil.rmtree(tmp_path / ".a.jsonl.columns", ignore_errors=True)
            columns = Columns.open(path, num_workers=workers)
            built.append((column_bytes(path), columns.longest, columns.largest_id))
    assert all(one == built[0] for one in built[1:])
    assert samples_of(columns) == ragged(60, 3, **KINDS[kind])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_may_end_with_crlf_and_the_last_one_with_nothing(tmp_path, newline, last, monkeypatch):
    made = ragged(9, 0, masked=True, words=True)
    for block in (1, 500, 1 << 22):
        monkeypatch.setattr(dataset, "BLOCK", block)
        path = tmp_path / f"{block}.jsonl"
        path.write_bytes(newline.join(as_lines(made).splitlines()) + (newline if last else b""))
        assert samples_of(Columns.open(path, num_workers=1)) == made


GOOD = sample([5, 6], [7], 0)
NOT_A_SAMPLE = " is not a sample (cut short, or of another format): "
IDS = ": input_ids must be a list of token ids, 65,536 at most: "
TYPES = ": token_type_ids must be as long as input_ids, zeros and then ones: "
LABELS = ": next_sentence_label must be 0 or 1, and labels as long as input_ids: "
STARTS = ": word_starts must be positions in input_ids, each above the one before: "
BROKEN = {
    "": NOT_A_SAMPLE,
    " ": NOT_A_SAMPLE,
    '{"input_ids": [2, 5, 3': NOT_A_SAMPLE,
    "一つの文。": NOT_A_SAMPLE,
    "[2, 5, 3]": NOT_A_SAMPLE,
    "5": NOT_A_SAMPLE,
    "null": NOT_A_SAMPLE,
    '"input_ids"': NOT_A_SAMPLE,
    f"{json.dumps(GOOD)} {json.dumps(GOOD)}": NOT_A_SAMPLE,
    "[" * 100_000: NOT_A_SAMPLE,
    '{"input_ids": [2]}': NOT_A_SAMPLE,
    '{"token_type_ids": [0]}': NOT_A_SAMPLE,
}
BROKEN |= {
    json.dumps(GOOD | {name: value}): error
    for name, error, values in (
        ("input_ids", IDS, ([], "253673", 6, None, {}, [[2]] * 6, [None] * 6, [True] * 6)),
        ("input_ids", IDS, ([2, 5, 6, 3, wrong, 3] for wrong in (-7, 7.5, 7.0, "7", 1 << 32, 1 << 63, 1 << 70))),
        ("token_type_ids", TYPES, ([0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 1, 2])),
        ("token_type_ids", TYPES, (0, None, "000011", [], [1, 0, 0, 0, 0, 0])),
        ("next_sentence_label", LABELS, (2, -1, "0", [], [0], 0.5)),
        ("labels", LABELS, ([5], [], 5, "", {}, [-5] * 6, [5.5] * 6, [1 << 32] * 6, [None] * 6, [-100] * 7)),
        ("word_starts", STARTS, ([6], [-1], [1, 1], [2, 1], [1.0], ["1"], [None], 1, "", {}, [[1]], [1, 2, 9])),
    )
    for value in values
}
BROKEN[json.dumps(GOOD | {"labels": [-100] * 6})] = ": some samples have labels and some have none: "
BROKEN[json.dumps(GOOD | {"word_starts": []})] = ": some samples have word_starts and some have none: "
BROKEN[json.dumps(sample([5]))] = ": some samples have next_sentence_label and some have none: "
BROKEN[json.dumps(GOOD | {"next_sentence_label": None})] = BROKEN[json.dumps(sample([5]))]


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_named_and_leaves_nothing(tmp_path, line, block, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", block)
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(StageError) as error:
        Columns.open(path, num_workers=1)
    assert str(error.value) == f"{path}, line 3{BROKEN[line]}{AGAIN}"
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_of_several_broken_lines_is_named(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", 1000)
    lines = as_lines(ragged(300, 0)).splitlines()
    lines[122] = lines[123] = lines[250] = b"{"
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(StageError, match="a.jsonl, line 123 is not a sample"):
        Columns.open(tmp_path / "a.jsonl", num_workers=workers)
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("field", ["labels", "next_sentence_label", "word_starts"])
def test_a_file_of_mixed_kinds_is_refused_within_a_block_and_between_two(tmp_path, field, workers, monkeypatch):
    whole = sample([5, 6], [7], 0, (1,), [1, 2])
    without = {name: value for name, value in whole.items() if name != field}
    for number, (first, other) in enumerate([(whole, without), (without, whole), (whole, whole | {field: None})]):
        for block in (1, 1 << 22):
            monkeypatch.setattr(dataset, "BLOCK", block)
            path = write(tmp_path / f"{number}-{block}.jsonl", [first] * 4 + [other] + [first] * 4)
            with pytest.raises(StageError) as error:
                Columns.open(path, num_workers=workers)
            assert str(error.value) == f"{path}, line 5: some samples have {field} and some have none: {AGAIN}"


# When columns are built


@pytest.fixture
def builds(monkeypatch) -> list:
    """One entry for each time that columns are written."""
    write_columns, built = dataset._write_columns, []
    monkeypatch.setattr(dataset, "_write_columns", lambda *given: (built.append(1), write_columns(*given))[1])
    return built


def test_columns_are_built_once_and_again_when_the_file_changes(tmp_path, builds, monkeypatch):
    path = write(tmp_path / "a.jsonl", ragged(5, 0))
    record = {"outputs": [{"name": "a.jsonl", "sha256": "0" * 64}]}
    assert len(Columns.open(path)) == 5
    Columns.open(path)
    assert len(builds) == 1
    write(path, ragged(6, 0))
    assert len(Columns.open(str(path))) == 6
    assert len(builds) == 2
    os.utime(path, ns=(1, 1))  # the same size, another time
    Columns.open(path)
    assert len(builds) == 3
    for other in (record, record, {"outputs": [{"name": "a.jsonl", "sha256": "1" * 64}]}):
        Columns.open(path, other)
    assert len(builds) == 5
    monkeypatch.setattr(dataset, "FORMAT", 99)
    Columns.open(path, other)
    assert len(builds) == 6
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_columns_of_a_link_follow_the_record_of_the_file_behind_it(tmp_path, builds):
    write(tmp_path / "real.jsonl", ragged(5, 0))
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    for sha256 in ("0" * 64, "0" * 64, "1" * 64):
        Columns.open(tmp_path / "link.jsonl", {"outputs": [{"name": "real.jsonl", "sha256": sha256}]})
    assert len(builds) == 2


def change_record(folder: Path, change: Callable[[dict], dict]) -> None:
    record = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(change(record)))


def without(name: str) -> Callable[[dict], dict]:
    return lambda record: {key: value for key, value in record.items() if key != name}


DAMAGE = {
    "a record cut short": lambda folder: os.truncate(folder / "meta.json", 100),
    "an empty record": lambda folder: os.truncate(folder / "meta.json", 0),
    "a record that is no JSON": lambda folder: (folder / "meta.json").write_bytes(b"\xff\xfe"),
    "a record that is no object": lambda folder: (folder / "meta.json").write_text("[]"),
    "a record of nothing": lambda folder: (folder / "meta.json").write_text("{}"),
    "no record": lambda folder: (folder / "meta.json").unlink(),
    "a record without key": lambda folder: change_record(folder, without("key")),
    "a record without outputs": lambda folder: change_record(folder, without("outputs")),
    "a record without counts": lambda folder: change_record(folder, without("counts")),
    "a record of other sizes": lambda folder: change_record(
        folder, lambda record: record | {"outputs": [file | {"size": 3} for file in record["outputs"]]}
    ),
    "a record of fewer columns": lambda folder: change_record(
        folder, lambda record: record | {"outputs": record["outputs"][1:]}
    ),
    "a column cut short": lambda folder: os.truncate(folder / "ids", 8),
    "a column that grew": lambda folder: os.truncate(folder / "label_ends", 8),
    "a lost column": lambda folder: (folder / "ends").unlink(),
    "a folder in a column's place": lambda folder: ((folder / "ends").unlink(), (folder / "ends").mkdir()),
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_columns_are_built_anew(tmp_path, damage, builds):
    made = ragged(5, 0)
    path = write(tmp_path / "a.jsonl", made)
    Columns.open(path)
    DAMAGE[damage](tmp_path / ".a.jsonl.columns")
    assert samples_of(Columns.open(path)) == made
    assert len(builds) == 2
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_columns_that_would_fill_the_disk_are_not_begun(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", ragged(5, 0))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(StageError, match="the columns of .*a.jsonl needs about"):
        Columns.open(path)
    assert os.listdir(tmp_path) == ["a.jsonl"]


# Several processes


def at_once(number: int, body: Callable[[int], object]) -> list:
    """body(0), body(1) ... in processes that start together: what each returns or raises, or the signal it died of."""
    fork = multiprocessing.get_context("fork")
    barrier, started = fork.Barrier(number), []

    def run(index: int, answer) -> None:
        barrier.wait()
        try:
            answer.send(body(index))
        except StageError as error:
            answer.send(error)

    for index in range(number):
        receiver, answer = fork.Pipe(duplex=False)
        process = fork.Process(target=run, args=(index, answer))
        process.start()
        answer.close()
        started.append((process, receiver))
    try:
        results = []
        for process, receiver in started:
            process.join(240)
            assert process.exitcode is not None, "a process hangs"
            results.append(receiver.recv() if process.exitcode == 0 else process.exitcode)
        return results
    finally:
        for process, _ in started:
            process.kill()
            process.join()


class Diary:
    """What processes write down, a line each: ("builds", process id) ..."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()

    def add(self, what: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def who(self, what: str) -> list[str]:
        return [line.split()[1] for line in self.path.read_text().splitlines() if line.startswith(what)]

    def wait_for(self, number: int, what: str) -> None:
        """Until so many processes have written it."""
        until = time.monotonic() + 240
        while len(set(self.who(what))) < number:
            assert time.monotonic() < until, self.path.read_text()
            time.sleep(0.005)


@pytest.fixture
def diary(tmp_path_factory, monkeypatch) -> Diary:
    """Which processes build, and which wait for another that does."""
    diary, write_columns = Diary(tmp_path_factory.mktemp("diary") / "diary"), dataset._write_columns
    monkeypatch.setattr(dataset, "say", lambda text: diary.add("waits") if "waiting for it" in text else None)
    monkeypatch.setattr(dataset, "_write_columns", lambda *given: (diary.add("builds"), write_columns(*given))[1])
    return diary


def test_of_several_processes_one_builds_and_all_get_its_columns(tmp_path, diary, monkeypatch):
    path, write_columns = write(tmp_path / "a.jsonl", ragged(50, 0, masked=True)), dataset._write_columns

    def slow(*given):
        counts = write_columns(*given)
        diary.wait_for(3, "waits")
        return counts

    monkeypatch.setattr(dataset, "_write_columns", slow)
    found = at_once(4, lambda _: digest(Columns.open(path)))
    assert found == [digest(in_memory(ragged(50, 0, masked=True)))] * 4
    assert len(diary.who("builds")) == 1
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_of_processes_that_come_whenever_they_like_one_builds(tmp_path, diary):
    for turn in range(6):
        path = write(tmp_path / f"{turn}.jsonl", ragged(20, turn))
        assert at_once(4, lambda _, path=path: digest(Columns.open(path))) == [digest(in_memory(ragged(20, turn)))] * 4
        assert len(diary.who("builds")) == turn + 1


def test_a_process_that_another_forestalls_builds_nothing(tmp_path, builds, monkeypatch):
    """The other one builds between our look and our lock."""
    path, build, late = write(tmp_path / "a.jsonl", ragged(5, 0)), dataset.build_columns, []

    def forestalled(*given):
        if not late:
            late.append(1)
            build(*given)
        build(*given)

    monkeypatch.setattr(dataset, "build_columns", forestalled)
    assert samples_of(Columns.open(path)) == ragged(5, 0)
    assert (len(builds), len(late)) == (1, 1)
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_when_the_builder_is_killed_one_of_those_that_wait_builds(tmp_path, diary, monkeypatch):
    path, write_columns = write(tmp_path / "a.jsonl", ragged(50, 0)), dataset._write_columns

    def deadly(jsonl: Path, folder: Path, num_workers: int):
        counts = write_columns(jsonl, folder, num_workers)
        if len(diary.who("builds")) == 1:
            diary.wait_for(3, "waits")
            os.kill(os.getpid(), signal.SIGKILL)
        return counts

    monkeypatch.setattr(dataset, "_write_columns", deadly)
    found = at_once(4, lambda _: digest(Columns.open(path)))
    assert Counter(found) == {-signal.SIGKILL: 1, digest(in_memory(ragged(50, 0))): 3}
    assert len(diary.who("builds")) == 2
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_processes_that_wait_for_a_broken_file_all_hear_of_it(tmp_path, diary):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines(ragged(50, 0)) + b"{")
    found = at_once(4, lambda _: len(Columns.open(path)))
    assert [str(error) for error in found] == [f"{path}, line 51{NOT_A_SAMPLE}{AGAIN}"] * 4
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_columns_wait_for_another_process_that_dies_over_them(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "a.jsonl", ragged(3, 0))
    (ready, its_ready), (waited_for, our_wait) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with files.output_folder(tmp_path / ".a.jsonl.columns", None) as partial:
            (partial / "ids").write_bytes(b"half")
            os.write(its_ready, b".")
            os.read(waited_for, 1)
            os.kill(os.getpid(), signal.SIGKILL)
    say = dataset.say
    monkeypatch.setattr(dataset, "say", lambda line: (say(line), os.write(our_wait, b".")))
    os.read(ready, 1)
    assert samples_of(Columns.open(path)) == ragged(3, 0)
    os.waitpid(child, 0)
    assert f"another process is reading {path}: waiting for it" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


@pytest.mark.parametrize("workers", [1, 3])
def test_kill_9_while_columns_are_built_leaves_none(tmp_path, workers):
    path = write(tmp_path / "a.jsonl", ragged(600, 0, masked=True))
    parse, last = dataset._parse, f"{path}, line 590"

    def killing(line: bytes, where: str):
        if where == last:
            os.kill(os.getppid() if workers > 1 else os.getpid(), signal.SIGKILL)
        return parse(line, where)

    child = os.fork()
    if child == 0:
        dataset.BLOCK, dataset._parse = 1000, killing
        Columns.open(path, num_workers=workers)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == ["..a.jsonl.columns.partial", "a.jsonl"]
    assert samples_of(Columns.open(path)) == ragged(600, 0, masked=True)
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


@pytest.mark.full
def test_processes_killed_at_any_moment_never_leave_wrong_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", 20_000)
    expected, rng = digest(in_memory(ragged(390, 0, masked=True))), random.Random(0)
    for turn in range(30):
        path = write(tmp_path / f"{turn}.jsonl", ragged(390, 0, masked=True))
        after = [rng.uniform(0, 0.06) for _ in range(3)] + [None]

        def body(index: int, path=path, after=after) -> str:
            if after[index]:
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                signal.setitimer(signal.ITIMER_REAL, after[index])
            found = digest(Columns.open(path, num_workers=1 + index % 2))
            signal.setitimer(signal.ITIMER_REAL, 0)
            return found

        found = at_once(4, body)
        assert found[3] == expected
        assert set(found) <= {expected, -signal.SIGKILL}
        assert digest(Columns.open(path)) == expected
        assert not (tmp_path / f"..{turn}.jsonl.columns.partial").exists()


# Order


def drawn_at(order: Order, places: np.ndarray) -> list[tuple[int, int, int]]:
    """(source, pass, sample) at each place."""
    return list(map(tuple, columns_drawn(order, places).T.tolist()))


def columns_drawn(order: Order, places: np.ndarray) -> np.ndarray:
    """The same as an array, (3, places)."""
    rows = np.full((3, len(places)), -1)
    for part in order.draw(places):
        rows[0, part.places], rows[1, part.places], rows[2, part.places] = part.source, part.epoch, part.samples
    assert (rows >= 0).all()
    return rows


@pytest.mark.parametrize("size", [1, 2, 3, 4, 21, 1000])
def test_every_sample_of_a_file_is_drawn_once_an_epoch_in_another_order(size):
    order = Order([size], [1.0], 7, shuffle=True)
    assert len(order) == size
    epochs = []
    for epoch in range(3):
        sources, passes, samples = zip(*drawn_at(order, epoch * size + np.arange(size)), strict=True)
        assert set(sources) == {0}
        assert set(passes) == {epoch}
        assert sorted(samples) == list(range(size))
        epochs.append(samples)
    if size > 20:
        assert len({*epochs, tuple(range(size))}) == 4
        assert drawn_at(order, np.arange(size)) != drawn_at(Order([size], [1.0], 8, True), np.arange(size))


def test_without_shuffling_samples_stand_as_in_their_files():
    assert drawn_at(Order([3], [1.0], 7, False), np.arange(7)) == [
        *((0, 0, 0), (0, 0, 1), (0, 0, 2)),
        *((0, 1, 0), (0, 1, 1), (0, 1, 2)),
        (0, 2, 0),
    ]
    assert drawn_at(Order([3, 2], [0.75, 0.25], 7, False), np.arange(8)) == [
        *((0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 0, 2)),
        *((0, 1, 0), (0, 1, 1), (1, 0, 1), (0, 1, 2)),
    ]


def test_files_of_one_size_are_not_drawn_in_one_order():
    rows = drawn_at(Order([50, 50], [0.5, 0.5], 7, True), np.arange(100))
    first, second = ([sample for source, _, sample in rows if source == which] for which in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@pytest.mark.parametrize(
    ("shares", "period"),
    [
        ([1], [1]),
        ([0.7, 0.3], [7, 3]),
        ([7, 3], [7, 3]),
        ([0.5, 0.5], [1, 1]),
        ([0.333, 0.667], [333, 667]),
        ([1 / 3, 2 / 3], [1, 2]),
        ([0.35, 0.15], [7, 3]),
        ([0.6, 0.3, 0.1], [6, 3, 1]),
        ([0.5, 0.25, 0.25], [2, 1, 1]),
        ([0.98, 0.01, 0.01], [98, 1, 1]),
        ([0.001, 0.999], [1, 999]),
        ([1e-4, 0.9999], [1, 9999]),
        ([200.0, 500.0, 300.0], [2, 5, 3]),
    ],
)
def test_shares_are_exact_over_a_period_and_within_one_sample_anywhere(shares, period):
    length, sizes = sum(period), [100_000, 3_000, 7_000][: len(shares)]
    sources = columns_drawn(Order(sizes, shares, 7, True), np.arange(3 * length))[0]
    assert sources.tolist() == sources[:length].tolist() * 3
    for source, count in enumerate(period):
        assert np.count_nonzero(sources[:length] == source) == count
        drawn = np.cumsum(sources == source) * length
        assert abs(drawn - count * np.arange(1, 3 * length + 1)).max() <= length


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=3))
@examples(50)
def test_any_shares_are_kept_as_well_as_ten_thousand_places_allow(shares):
    """A share that would round to nothing has one place."""
    number = dataset.MOST_PERIOD
    sources = columns_drawn(Order([10**6] * len(shares), shares, 7, False), np.arange(number))[0]
    for source, share in enumerate(shares):
        count = np.count_nonzero(sources == source)
        assert count >= 1
        assert abs(count - share / sum(shares) * number) <= len(shares)


@pytest.mark.parametrize(
    ("shares", "period"),
    [
        ([math.pi, 1], [7585, 2415]),  # pi / (pi + 1) = 0.758547
        ([20_113_542.0, 7.0], [9999, 1]),
        ([1.0, 1e-12], [9999, 1]),
        ([1e-12, 1e-12], [1, 1]),
        ([1.0, 1e-9, 1e-9], [9999, 1, 1]),
        ([0.123456, 0.4, 0.476544], [1235, 4000, 4765]),
    ],
)
def test_shares_that_need_a_longer_pattern_are_rounded_and_none_to_nothing(shares, period):
    assert dataset._period(shares) == period


@pytest.mark.parametrize(
    ("sizes", "shares"), [([21, 9], [0.7, 0.3]), ([5, 100], [0.5, 0.5]), ([1, 30, 7], [0.333, 0.5, 0.167])]
)
def test_each_file_is_drawn_whole_before_it_begins_again(sizes, shares):
    rows = drawn_at(Order(sizes, shares, 7, True), np.arange(1000))
    for source, size in enumerate(sizes):
        own = [(epoch, sample) for which, epoch, sample in rows if which == source]
        assert [epoch for epoch, _ in own] == [at // size for at in range(len(own))]
        whole = len(own) // size
        assert whole >= 2
        for epoch in range(whole):
            assert sorted(sample for _, sample in own[epoch * size : (epoch + 1) * size]) == list(range(size))


SOURCES = st.sampled_from([([1000, 7, 30], [0.333, 0.5, 0.167]), ([21], [1.0]), ([5, 100], [0.7, 0.3])])


@given(SOURCES, st.booleans(), st.integers(0, 10**12), st.lists(st.integers(0, 60), max_size=5), st.randoms())
@examples(60)
def test_places_are_drawn_alone_as_in_any_company(sources, shuffle, begin, cuts, rng):
    order, places = Order(*sources, 7, shuffle), begin + np.arange(60)
    rows = drawn_at(order, places)
    assert [row for part in np.split(places, sorted(cuts)) for row in drawn_at(order, part)] == rows
    mixed = rng.sample(range(60), 60)
    assert drawn_at(order, places[mixed]) == [rows[at] for at in mixed]


def test_a_place_far_out_is_drawn_like_the_first_ones():
    """Place 10 ** 12 and what follows, of files of 20 million, 333 and 7 samples with shares of 0.6, 0.3 and 0.1."""
    sizes, begin, number = [20_000_000, 333, 7], 10**12, 6660
    order, straight = (Order(sizes, [0.6, 0.3, 0.1], 7, shuffle) for shuffle in (True, False))
    pattern = [source for source, _, _ in drawn_at(straight, np.arange(10))]
    tracemalloc.start()
    rows = drawn_at(straight, begin + np.arange(number))
    shuffled = drawn_at(order, begin + np.arange(number))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    before = Counter({source: begin // 10 * count for source, count in Counter(pattern).items()})
    for at, (row, other) in enumerate(zip(rows, shuffled, strict=True)):
        source = pattern[(begin + at) % 10]
        assert row == (source, *divmod(before[source], sizes[source]))
        assert other[:2] == row[:2]
        before[source] += 1
    for source in (1, 2):  # each pass that lies within, in an order of its own
        passes = {}
        for which, epoch, sample in shuffled:
            if which == source:
                passes.setdefault(epoch, []).append(sample)
        whole = [tuple(samples) for samples in list(passes.values())[1:-1]]
        assert len(whole) >= 4
        assert all(sorted(samples) == list(range(sizes[source])) for samples in whole)
        assert len(set(whole)) > 1


# Batches


@pytest.mark.parametrize("number", [1, 3, 4, 21])
def test_batches_hold_every_sample_once_an_epoch_in_another_order(tmp_path, number):
    made = ragged(number, 1)
    drawn = batches(write(tmp_path / "a.jsonl", made))
    orders = []
    for epoch in range(3):
        found = [one["before"] for one in epoch_of(drawn, epoch)]
        orders.append([one[1] - 5 for one in found])
        assert sorted(orders[-1]) == list(range(number))
        assert found == [made[at]["input_ids"] for at in orders[-1]]
    if number == 21:
        assert len(set(map(tuple, orders))) == 3
        assert orders[0] != list(range(21))
    assert len(drawn) == math.ceil(number / 4)


def mixture(seed: int = 0, **kind) -> list[Columns]:
    """Three files of 40, 9 and 1 samples; sample i of file f has the mark 5 + 100 f + i."""
    return [in_memory(ragged(size, seed + at, first_id=5 + 100 * at, **kind)) for at, size in enumerate((40, 9, 1))]


SHARES = [0.7, 0.2, 0.1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_several_files_holds_the_samples_of_its_places_as_they_were(kind):
    sources = mixture(**KINDS[kind])
    made = {one["before"][1]: one for columns in sources for one in epoch_of(batches(columns, shuffle=False), 0)}
    drawn = batches(sources, batch_size=15, shares=SHARES)
    for number in range(len(drawn)):
        batch = drawn.draw(2, number)
        first = 2 * 50 + number * 15
        places = np.arange(first, min(first + 15, 3 * 50))
        expected = [5 + 100 * source + sample for source, _, sample in drawn_at(drawn.order, places)]
        assert sorted(marks(batch)) == sorted(expected)
        for one in unpacked(batch):
            twin = made[one["before"][1]]
            assert (one["before"], one["token_type_ids"]) == (twin["before"], twin["token_type_ids"])
            assert one.get("next_sentence_label") == twin.get("next_sentence_label")
            if sources[0].masked:
                assert (one["input_ids"], one["labels"]) == (twin["input_ids"], twin["labels"])


def test_an_epoch_of_several_files_has_as_many_places_as_they_have_samples():
    drawn = batches(mixture(), shares=SHARES)
    counts = Counter((mark - 5) // 100 for number in range(len(drawn)) for mark in marks(drawn.draw(0, number)))
    assert counts == {0: 35, 1: 10, 2: 5}


def test_files_are_drawn_by_their_sizes_where_no_shares_are_given():
    drawn = batches(mixture())
    assert sorted(mark for number in range(len(drawn)) for mark in marks(drawn.draw(0, number))) == sorted(
        5 + 100 * at + sample for at, size in enumerate((40, 9, 1)) for sample in range(size)
    )


@pytest.mark.parametrize("world_size", [1, *(pytest.param(size, marks=pytest.mark.full) for size in (2, 3))])
@pytest.mark.parametrize("kind", KINDS)
def test_what_becomes_of_a_sample_depends_on_its_file_and_pass_and_the_seed_only(kind, world_size):
    """Neither on the batch size nor on the ranks nor on what else is in the batch."""
    sources = mixture(**KINDS[kind])

    def found(batch_size: int, skipped: int = 0, **options) -> list:
        drawn = ranks(sources, world_size, batch_size=batch_size, shares=SHARES, **options)
        return sorted(
            json.dumps(one)
            for number in range(drawn[0].count(skipped))
            for rank in drawn
            for one in unpacked(rank.draw(2, number, skipped))
        )

    one_at_a_time = [batches(sources, batch_size=1, shares=SHARES).draw(2, number) for number in range(50)]
    expected = sorted(json.dumps(unpacked(batch)[0]) for batch in one_at_a_time)
    for batch_size in (1, 4, 7, 16, 100):
        assert found(batch_size) == expected
    assert found(100, shuffle=False) != expected
    if not sources[0].masked:
        assert found(100, seed=1001) != expected
    assert found(4, skipped=13) == sorted(json.dumps(unpacked(batch)[0]) for batch in one_at_a_time[13:])


def test_the_same_samples_are_masked_differently_in_another_file_pass_and_seed():
    made = ragged(30, 0)
    twins = [in_memory(made), in_memory(made)]
    drawn = batches(twins, batch_size=60, shares=[0.5, 0.5], shuffle=False)
    again = batches(twins, batch_size=60, shares=[0.5, 0.5], shuffle=False, seed=1001)
    found = [
        [one["labels"] for one in half]
        for batch in (drawn.draw(0, 0), drawn.draw(1, 0), again.draw(0, 0))
        for half in (unpacked(batch)[:30], unpacked(batch)[30:])
    ]
    assert all(one["before"] == made[at % 30]["input_ids"] for at, one in enumerate(unpacked(drawn.draw(0, 0))))
    assert all(one != other for at, one in enumerate(found) for other in found[:at])


def test_batches_are_the_same_after_a_restart(tmp_path):
    path = write(tmp_path / "a.jsonl", ragged(21, 2))
    first = [batches(path).step(3, number) for number in range(6)]
    for name in os.listdir(tmp_path / ".a.jsonl.columns"):
        (tmp_path / ".a.jsonl.columns" / name).unlink()
    again = batches(path)
    assert all(same(again.step(3, number), first[number]) for number in reversed(range(6)))
    assert not any(same(again.step(4, number), first[number]) for number in range(6))
    assert not any(same(batches(path, seed=1001).step(3, number), first[number]) for number in range(6))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_loader_processes_change_nothing(tmp_path, num_workers):
    paths = [write(tmp_path / f"{at}.jsonl", ragged(21, at, words=at == 1)) for at in range(2)]
    drawn = batches([Columns.open(path) for path in paths], shares=[0.7, 0.3], accumulate=3, rank=1, world_size=2)
    sampler = EpochSampler(drawn)
    sampler.go_on(5 * 42 + 7)
    loader = torch.utils.data.DataLoader(StepDataset(drawn), batch_size=None, sampler=sampler, num_workers=num_workers)
    found = list(loader)
    assert len(found) == len(loader) == 2  # 5 batches, 3 a step
    assert all(same(batch, drawn.step(5, number, 7)) for number, batch in enumerate(found))


# Ranks


@given(st.sampled_from([1, 2, 3, 7]), st.integers(0, 60), st.integers(1, 20), st.integers(0, 3))
@example(7, 0, 1, 0)  # one sample for each rank
@example(7, 0, 20, 0)
@example(7, 13, 1, 0)  # the last batches have one more, but for one rank
@example(3, 38, 20, 0)  # 41 = 3 x 13 + 2 samples, one short batch on each rank
@example(2, 39, 20, 1)  # 41 = 2 x 20 + 1: one batch of 20 and one of 21
@examples(120)
def test_ranks_have_equal_numbers_of_batches_and_every_sample_once(world_size, more, batch_size, epoch):
    size = world_size + more
    drawn = ranks(in_memory(ragged(size, 0)), world_size, batch_size=batch_size)
    numbers = len(drawn[0])
    assert [len(rank) for rank in drawn] == [numbers] * world_size
    assert numbers >= 1
    found = [[marks(rank.draw(epoch, number)) for number in range(numbers)] for rank in drawn]
    assert sorted(mark for rank in found for batch in rank for mark in batch) == [5 + at for at in range(size)]
    for number in range(numbers):
        sizes = [len(rank[number]) for rank in found]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size + (number == numbers - 1)
        assert min(sizes) == batch_size or number == numbers - 1


def test_ranks_take_their_parts_of_the_batch_that_one_device_would_have():
    columns = in_memory(ragged(50, 0))
    whole = batches(columns, batch_size=12)
    drawn = ranks(columns, 3, batch_size=4)
    assert len(whole) == 5
    assert [len(rank) for rank in drawn] == [4, 4, 4]  # 14 samples of the last batch, not 12 and 2
    for number in range(3):
        assert sum((marks(rank.draw(0, number)) for rank in drawn), []) == marks(whole.draw(0, number))


# Optimizer steps

STEPS = {kind: [ragged(53, 4, **options)] for kind, options in KINDS.items()}
STEPS |= {  # of several files
    f"{kind} and others": [ragged(20, 5), ragged(40, 6, **KINDS[kind]), ragged(1, 7)]
    for kind in ("pairs", "pairs of words", "labelled pairs")
}


@pytest.mark.parametrize("world_size", [1, *(pytest.param(size, marks=pytest.mark.full) for size in (2, 3, 7))])
@pytest.mark.parametrize("case", STEPS)
def test_every_batch_knows_the_totals_of_its_whole_optimizer_step(case, world_size):
    sources = [in_memory(made) for made in STEPS[case]]
    for batch_size, accumulate, skipped in ((4, 3, 0), (2, 5, 9), (1, 1, 0), (5, 2, 3), (30, 4, 0)):
        drawn = ranks(sources, world_size, batch_size=batch_size, accumulate=accumulate)
        for epoch in range(2):
            numbers = list(range(drawn[0].count(skipped)))
            found = {
                (rank, number): drawn[rank].draw(epoch, number, skipped)
                for number in reversed(numbers)  # what is remembered of a step is not handed to another
                for rank in range(world_size)
            }
            for start in range(0, len(numbers), accumulate):
                step = [
                    found[rank, number] for number in numbers[start : start + accumulate] for rank in range(world_size)
                ]
                predicted = sum(len(batch["mlm_labels"]) for batch in step)
                samples = sum(len(batch["cu_seqlens"]) - 1 for batch in step)
                assert {int(batch["step_predicted"]) for batch in step} == {predicted}
                assert {int(batch["step_samples"]) for batch in step} == {samples}


# A masking rate that falls


@pytest.mark.parametrize("kind", ["pairs", "pairs of words"])
def test_a_falling_rate_is_that_of_the_step_however_it_is_cut_and_wherever_it_begins(kind):
    """5 steps of 8 samples an epoch, of which the run takes 4, in two epochs and a half: 0.6 to 0.1 in 10 steps."""
    columns = in_memory(ragged(34, 8, **KINDS[kind]))
    rates = {(epoch, step): 0.6 - 0.5 * (4 * epoch + step) / 9 for epoch in range(3) for step in range(4)}
    falling = FallingRate(0.6, 0.1, 10, 4)
    for (epoch, step), rate in list(rates.items())[:10]:
        constant = batches(columns, batch_size=8, rule=MaskingRule(rate)).draw(epoch, step)
        whole = batches(columns, batch_size=8, falling=falling)
        drawn = whole.draw(epoch, step)
        assert {name: np.asarray(value).tolist() for name, value in drawn.items()} == {
            name: np.asarray(value).tolist() for name, value in constant.items()
        }
        for cut in (whole, batches(columns, batch_size=2, accumulate=4, falling=falling)):
            for key in ((epoch, step, 0), (epoch, 0, 8 * step)):
                parts = cut.step(*key).micro_batches()
                assert {part["step_predicted"] for part in parts} == {drawn["step_predicted"]}
                assert torch.cat([part["mlm_labels"] for part in parts]).tolist() == drawn["mlm_labels"].tolist()
        parts = [rank.draw(epoch, step) for rank in ranks(columns, 2, batch_size=4, falling=falling)]
        assert np.concatenate([part["mlm_labels"] for part in parts]).tolist() == drawn["mlm_labels"].tolist()
        assert {part["step_predicted"] for part in parts} == {drawn["step_predicted"]}
    assert falling.at(2, 3) == falling.at(2, 1) == pytest.approx(0.1)  # asked for behind the last step
    assert FallingRate(0.3, 0.15, 1, 1).at(0, 0) == 0.3


# Going on


def following(drawn: list[Batches], samplers: list[EpochSampler]) -> list[int]:
    """Marks of the samples of an epoch as they are drawn, batch by batch, over all ranks."""
    keys = [list(sampler.keys()) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(own) for own in keys]
    assert len({len(own) for own in keys}) == 1
    steps = zip(*keys, strict=True)
    return [mark for step in steps for rank, key in zip(drawn, step, strict=True) for mark in marks(rank.draw(*key))]


def uninterrupted(columns: Columns, first: int, last: int) -> list[int]:
    order = batches(columns).order
    return [5 + sample for _, _, sample in drawn_at(order, np.arange(first, last))]


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 9), st.sampled_from([1, 2, 3, 7]))
@example(10, 9, 3, 1)
@example(10, 10, 3, 1)  # between two epochs
@example(10, 20, 3, 2)
@example(10, 9, 3, 2)
@example(7, 1, 3, 7)
@examples(100)
def test_a_run_goes_on_with_the_samples_that_would_have_followed(size, consumed, batch_size, world_size):
    assume(size >= world_size)
    left = size - consumed % size
    epoch = consumed // size
    if left < world_size:  # too few for all ranks: the next epoch begins with them
        epoch, left = epoch + 1, left + size
    columns = in_memory(ragged(size, 0))
    drawn = ranks(columns, world_size, batch_size=batch_size)
    samplers = [EpochSampler(rank) for rank in drawn]
    for sampler in samplers:
        sampler.go_on(consumed)
    assert {sampler.epoch for sampler in samplers} == {epoch}
    assert following(drawn, samplers) == uninterrupted(columns, consumed, consumed + left)
    assert following(drawn, samplers) == uninterrupted(columns, consumed, consumed + left)  # asked for twice
    for _ in range(2):  # epochs after it are whole
        for sampler in samplers:
            sampler.set_epoch(sampler.epoch + 1)
        begin = samplers[0].epoch * size
        assert following(drawn, samplers) == uninterrupted(columns, begin, begin + size)


RUNS = st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 3, 7]), st.integers(1, 4)), min_size=2, max_size=5)


@given(RUNS)
@examples(60)
def test_runs_of_other_batch_sizes_and_ranks_draw_on_where_one_was_ended(runs):
    columns, consumed, found = in_memory(ragged(61, 0)), 0, []
    for batch_size, world_size, steps in runs:
        drawn = ranks(columns, world_size, batch_size=batch_size)
        samplers = [EpochSampler(rank) for rank in drawn]
        for sampler in samplers:
            sampler.go_on(consumed)
        for keys in list(zip(*(sampler.keys() for sampler in samplers), strict=True))[:steps]:
            step = [mark for rank, key in zip(drawn, keys, strict=True) for mark in marks(rank.draw(*key))]
            found += step
            consumed += len(step)
    assert found == uninterrupted(columns, 0, consumed)


def test_fewer_samples_than_ranks_are_refused():
    columns = in_memory(ragged(2, 0))
    assert len(ranks(columns, 2, batch_size=3)) == 2
    with pytest.raises(StageError) as error:
        ranks(columns, 3, batch_size=3)
    assert str(error.value) == (
        "there are 2 samples and 3 devices that share them: train on fewer devices, or on more text"
    )


@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_step_counts_its_own_work_and_what_all_ranks_see(world_size, in_rows):
    drawn = ranks(mixture(), world_size, batch_size=3, accumulate=2, shares=SHARES, in_rows=in_rows)
    for number in range(drawn[0].steps()):
        steps = [rank.step(1, number) for rank in drawn]
        lengths = [[batch["cu_seqlens"].diff() for batch in step.micro_batches()] for step in steps]
        everything = torch.cat(sum(lengths, []))
        for step, own in zip(steps, lengths, strict=True):
            batches_of_step, own = step.micro_batches(), torch.cat(own)
            places = sum(rows.numel() for batch in batches_of_step for rows in batch.get("rows", []))
            assert step.counts == Counts(
                step_samples=len(everything),
                step_tokens=int(everything.sum()),
                tokens=int(own.sum()),
                samples=len(own),
                predicted=sum(len(batch["mlm_positions"]) for batch in batches_of_step),
                pairs=int((own * own).sum()),
                places=places if in_rows else int(own.sum()),
            )
            assert step.to("cpu").counts == step.counts


def test_a_run_of_several_files_goes_on_in_the_middle_of_an_epoch():
    sources = mixture()
    whole = batches(sources, batch_size=1, shares=SHARES)
    drawn = batches(sources, batch_size=7, shares=SHARES)
    sampler = EpochSampler(drawn)
    sampler.go_on(3 * 50 + 11)
    assert len(sampler) == 6
    for at, key in enumerate(sampler.keys()):
        singles = [whole.draw(3, number) for number in range(11 + 7 * at, min(11 + 7 * at + 7, 50))]
        assert sorted(map(str, unpacked(drawn.draw(*key)))) == sorted(str(unpacked(one)[0]) for one in singles)


# Masks


def test_samples_without_labels_are_masked_anew_each_epoch(tmp_path):
    made = ragged(21, 3)
    drawn = batches(write(tmp_path / "a.jsonl", made), shuffle=False)
    first, second = epoch_of(drawn, 0), epoch_of(drawn, 1)
    assert [one["before"] for one in first] == [one["before"] for one in second] == [one["input_ids"] for one in made]
    assert [one["labels"] for one in first] != [one["labels"] for one in second]
    for one in first + second:
        candidates = len(one["before"]) - 3
        assert sum(label != -100 for label in one["labels"]) == max(1, round(0.15 * candidates))


@pytest.mark.parametrize("words", [False, True])
def test_samples_with_labels_keep_them_in_every_epoch(tmp_path, words):
    made = ragged(21, 3, masked=True, words=words)
    drawn = batches(write(tmp_path / "a.jsonl", made), rule=MaskingRule(0.9, 0.0, 1.0))
    expected = sorted((one["input_ids"], one["labels"]) for one in made)
    for epoch in range(2):
        assert sorted((one["input_ids"], one["labels"]) for one in epoch_of(drawn, epoch)) == expected


def words_of(made: dict) -> list[list[int]]:
    """The positions of each word of a sample: one begins at a start and behind [CLS] and [SEP]."""
    words = []
    for at, token in enumerate(made["input_ids"]):
        if token not in (CLS, SEP):
            if at in made["word_starts"] or made["input_ids"][at - 1] in (CLS, SEP):
                words.append([])
            words[-1].append(at)
    return words


@pytest.mark.parametrize("paired", [True, False])
def test_no_word_is_ever_masked_in_part(tmp_path, paired):
    made = ragged(60, 3, paired=paired, words=True)
    drawn, seen = batches(write(tmp_path / "a.jsonl", made), batch_size=16, shuffle=False), set()
    for epoch in range(20):
        for number, (one, its) in enumerate(zip(epoch_of(drawn, epoch), made, strict=True)):
            assert one["before"] == its["input_ids"]
            words = words_of(its)
            masked = {at for at, label in enumerate(one["labels"]) if label != -100}
            chosen = [word for word in words if masked.issuperset(word)]
            assert sorted(masked) == sorted(at for word in chosen for at in word)
            budget = max(1, round(0.15 * sum(map(len, words))))
            assert 1 <= len(masked) <= budget or [masked] == [set(word) for word in chosen]
            if len(masked) > budget:
                assert len(masked) == min(map(len, words))
            seen.add((number, tuple(sorted(masked))))
    assert len(seen) > 5 * 60  # other words in every epoch


def test_words_by_hand(tmp_path):
    """20 candidates, 3 to mask: one of the words of 2 and 3, of 2 and 1, or of 3 tokens, never the one of 14."""
    starts = [1, 15, 17, 20]  # words of 14, 2, 3 and 1 tokens
    path = write(tmp_path / "a.jsonl", [sample(list(range(10, 30)), starts=starts)])
    drawn = batches(path)
    found = {tuple(drawn.draw(epoch, 0)["mlm_positions"].tolist()) for epoch in range(200)}
    assert found == {(15, 16, 20), (17, 18, 19)}


# Entropy


def test_unigram_entropy_by_hand(tmp_path):
    """5 stands there twice, 6 and 7 once; special ids and [MASK] do not count: ln 2 / 2 + 2 ln 4 / 4 = 1.5 ln 2."""
    path = write(tmp_path / "a.jsonl", [sample([5, 6], [5], 0), sample([7], [1], 0)])
    assert dataset.unigram_entropy(Columns.open(path), VOCABULARY) == pytest.approx(1.5 * math.log(2))
    assert dataset.unigram_entropy([Columns.open(path)], VOCABULARY) == pytest.approx(1.5 * math.log(2))


def test_unigram_entropy_of_several_files_is_that_of_all_their_tokens():
    """5 twice in the first file, 5 and 6 and 7 x 4 in the others: 3, 1 and 4 of 8."""
    parts = [[sample([5], [5], 0)], [sample([5, 6], [1], 0)], [sample([7, 7], [7, 7], 0), sample([1], [1], 0)]]
    expected = sum(-share * math.log(share) for share in (3 / 8, 1 / 8, 4 / 8))
    assert dataset.unigram_entropy([in_memory(part) for part in parts], VOCABULARY) == pytest.approx(expected)
    assert dataset.unigram_entropy(in_memory(sum(parts, [])), VOCABULARY) == pytest.approx(expected)


def columns_of_arrays(**given) -> Columns:
    """Columns of these arrays, the others empty."""
    arrays = {name: np.zeros(0, dtype) for name, dtype in dataset.COLUMNS.items()}
    numbers = {"longest": 0, "largest_id": 0, "masked": False, "paired": False, "whole_words": False}
    return Columns(**arrays | numbers | given)


def test_unigram_entropy_of_a_sample_of_the_tokens_is_near_that_of_all(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.5, 2_000_000) % 395 + 5
    ids.astype(np.uint32).tofile(tmp_path / "ids")
    columns = columns_of_arrays(ids=np.memmap(tmp_path / "ids", np.uint32, mode="r"))
    whole = dataset.unigram_entropy(columns, VOCABULARY)
    share = np.bincount(ids) / len(ids)
    share = share[share > 0]
    assert whole == pytest.approx(-(share * np.log(share)).sum())
    assert dataset.unigram_entropy(columns, VOCABULARY, 500_000) == pytest.approx(whole, abs=0.02)
    assert dataset.unigram_entropy([columns, columns], VOCABULARY, 500_000) == pytest.approx(whole, abs=0.02)


# Rows and attention


@given(st.lists(st.integers(1, 130) | st.integers(1, 1000), min_size=1, max_size=40))
@examples(100)
def test_rows_hold_every_token_once_with_its_own_sample(lengths):
    lengths = np.array(lengths)
    places, rows = dataset.attention_rows(lengths)
    sizes = [len(row) for part in rows for row in part]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size % 64 == 0 and size - 64 < lengths.max() for size in sizes)
    standing = np.concatenate([part.ravel() for part in rows])
    assert standing[places].tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()
    assert np.count_nonzero(standing >= 0) == lengths.sum() == len(set(places.tolist()))
    ends = np.cumsum(sizes)
    for own in np.split(places, np.cumsum(lengths)[:-1]):  # a sample stands together, in one row
        assert own.tolist() == list(range(own[0], own[0] + len(own)))
        assert len(set(np.searchsorted(ends, own, side="right"))) == 1


def test_rows_are_as_full_as_samples_allow():
    rng = np.random.default_rng(1)
    lengths = np.rint(rng.gamma(4.0, 13.0, 256) + 8).astype(np.int64)  # 60 tokens on average
    _, rows = dataset.attention_rows(lengths)
    assert lengths.sum() / sum(part.size for part in rows) > 0.9
    shapes = [part.shape for part in dataset.attention_rows(np.array([64, 36, 28, 60, 300, 200]))[1]]
    assert shapes == [(1, 320), (1, 256), (3, 64)]  # 36 beside 200, 28 alone


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost more than they bring to a model this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models() -> tuple[BertPretraining, BertForPreTraining]:
    """A packed model of ours and transformers' own with the same weights, large enough for the losses to tell."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"vocab_size": 400, "max_position_embeddings": LONGEST}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    packed = BertPretraining(**sizes)
    for parameter in packed.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    padded = BertForPreTraining(BertConfig(**sizes, attn_implementation="eager"))
    padded.load_state_dict(packed.model.state_dict())
    return packed.train(), padded.train()


def padded_inputs(samples: list[dict]) -> dict[str, torch.Tensor]:
    def column(name: str, filling: int) -> torch.Tensor:
        return torch.tensor([one[name] + [filling] * (LONGEST - len(one[name])) for one in samples])

    return {
        "input_ids": column("input_ids", PAD),
        "token_type_ids": column("token_type_ids", 0),
        "attention_mask": torch.tensor([[1] * len(o["labels"]) + [0] * (LONGEST - len(o["labels"])) for o in samples]),
        "labels": column("labels", -100),
        "next_sentence_label": torch.tensor([one["next_sentence_label"] for one in samples]),
    }


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("number", [1, 2, 5, 33])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_of_a_packed_batch_are_those_of_a_padded_one(tmp_path, models, number, masked):
    packed_model, padded_model = models
    for seed in range(2):
        path = write(tmp_path / f"{seed}.jsonl", ragged(number, seed, masked))
        batch = one_batch(batches(path, batch_size=number), seed, 0)
        totals = packed_model.totals(batch)
        loss = totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]
        ours = gradients(packed_model.model, loss)
        inputs = padded_inputs(unpacked(batch))
        output = padded_model(**inputs)
        theirs = gradients(padded_model, output.loss)
        assert abs(loss.item() - output.loss.item()) < 1e-5 * max(1, loss.item())
        assert ours.keys() == theirs.keys()
        for name in theirs:
            largest = theirs[name].abs().max().item()
            assert (ours[name] - theirs[name]).abs().max().item() < 1e-5 * max(1.0, largest), name
        chosen = inputs["labels"] != -100
        right = output.prediction_logits[chosen].argmax(-1) == inputs["labels"][chosen]
        assert totals["mlm_correct"] == right.sum()
        assert totals["masked_tokens"] == chosen.sum()
        assert totals["samples"] == number
        assert totals["tokens"] == inputs["attention_mask"].sum()


def test_a_sample_is_not_touched_by_its_neighbours(tmp_path, models):
    """Another sample's tokens change nothing, not even by rounding that grows with the batch."""
    made = ragged(8, 0, masked=True)
    with torch.no_grad():
        whole = models[0](one_batch(batches(write(tmp_path / "a.jsonl", made), batch_size=8, shuffle=False), 0, 0))
        alone = [
            models[0](one_batch(batches(write(tmp_path / f"{at}.jsonl", [one]), batch_size=1, shuffle=False), 0, 0))
            for at, one in enumerate(made)
        ]
    for side in (0, 1):
        assert torch.allclose(whole[side], torch.cat([logits[side] for logits in alone]), atol=1e-5)


def test_accumulated_gradients_of_uneven_batches_are_those_of_one_step(tmp_path, models):
    """10 samples in batches of 4, 4 and 2, with different numbers of masked tokens, against one batch of 10."""
    path = write(tmp_path / "a.jsonl", ragged(10, 9))
    model = models[0]

    def loss(batch: dict) -> torch.Tensor:
        totals = model.totals(batch)
        return totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]

    small = batches(path, batch_size=4, accumulate=3)
    parts = gradients(model, sum(map(loss, small.step(0, 0).micro_batches())))
    parts = {name: gradient.clone() for name, gradient in parts.items()}
    whole = gradients(model, loss(one_batch(batches(path, batch_size=10), 0, 0)))
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, atol=1e-5), name


# Size


@pytest.mark.parametrize("words", [False, True])
def test_a_batch_of_twenty_million_samples_takes_a_few_megabytes(tmp_path, words):
    """20 million samples of 9 tokens, as sparse files of 1 GB; the last batch and one in the middle of an epoch."""
    number, length = 20_000_000, 9

    class Ends:
        """ends[i] = 9 (i + 1)."""

        def __len__(self):
            return number

        def __getitem__(self, index):
            return (index + 1) * length

    def zeros(name: str, size: int) -> np.ndarray:
        return np.memmap(tmp_path / name, dataset.COLUMNS[name], mode="w+", shape=size)

    arrays = {"ids": zeros("ids", number * length), "ends": Ends(), "first_lengths": zeros("first_lengths", number)}
    arrays["next_sentence_labels"] = zeros("next_sentence_labels", number)
    if words:
        arrays["word_starts"] = zeros("word_starts", number * length)
        arrays["word_starts"][:] = True
    columns = columns_of_arrays(**arrays, longest=9, paired=True, whole_words=words)
    vocabulary = Vocabulary(size=400, sha256="", pad=399, unk=UNK, cls=CLS, sep=SEP, mask=MASK)
    drawn = Batches(columns, vocabulary, 300, 1, shuffle=True, accumulate=32)
    tracemalloc.start()
    last = drawn.draw(7, len(drawn) - 1)
    drawn.step(7, 1_250)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(last["next_sentence_labels"]) == number % 300
    assert peak < 20_000_000
