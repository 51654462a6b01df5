"""The baseline of samples by hand, what the benchmark computes from, and the benchmark once on a tiny text."""

import json
import lzma
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal, stage
from texts import text, write_tokenizer

from bench import baseline_samples, bench_samples, runs
from bert_ja import tokenization
from bert_ja.cli import StageError
from bert_ja.tokenization import Vocabulary

VOCABULARY = Vocabulary(size=9, sha256="", pad=0, unk=1, cls=2, sep=3, mask=4)


class Scripted(random.Random):
    """Draws what it is told to: numbers for random() in turn, else the first of what there is."""

    def __init__(self, *numbers: float):
        super().__init__()
        self.numbers = iter(numbers)

    def random(self) -> float:
        return next(self.numbers)

    def randrange(self, stop: int) -> int:
        return 0

    def sample(self, population: list, k: int) -> list:
        return population[:k]

    def choice(self, population: list):
        return population[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "model"))


# The baseline


def test_a_buffer_of_two_lines_gives_them_out_with_the_next_or_another():
    rng = Scripted(0.49, 0.5, 0.0)
    pairs = list(baseline_samples.make_pairs(["a", "b", "c", "d"], rng, size=2))
    assert pairs == [("a", "b", 0), ("c", "c", 1), ("b", "c", 0)]


def test_every_line_but_the_last_is_an_a_once():
    lines = [f"{number}" for number in range(3000)]
    pairs = list(baseline_samples.make_pairs(lines, random.Random(1), size=100))
    assert sorted(int(first) for first, _, _ in pairs) == list(range(2999))
    assert all(int(second) == int(first) + 1 for first, second, label in pairs if label == 0)
    far = [abs(int(second) - int(first)) for first, second, label in pairs if label == 1]
    assert 0.45 < len(far) / 2999 < 0.55 and np.median(far) < 200


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [((5, 2), 6, (4, 2)), ((5, 2), 7, (5, 2)), ((5, 5), 5, (3, 2)), ((1, 9), 4, (1, 3)), ((0, 3), 2, (0, 2))],
)
def test_a_pair_is_cut_on_its_longer_side(lengths, most, expected):
    first, second = [5] * lengths[0], [6] * lengths[1]
    cut = baseline_samples.cut(first, second, most)
    assert tuple(map(len, cut)) == expected
    assert (len(first), len(second)) == lengths


def test_a_sample_by_hand_joined_masked_and_padded():
    sample = baseline_samples.join([5, 6, 7, 8, 5, 6, 7, 8], [6, 5, 8, 7, 6, 5, 8, 7, 6, 5], 1, VOCABULARY, 18)
    assert sample == {
        "input_ids": [2, 5, 6, 7, 8, 5, 6, 7, 8, 3, 6, 5, 8, 7, 6, 5, 8, 3],
        "token_type_ids": [0] * 10 + [1] * 8,
        "next_sentence_label": 1,
    }
    masked = baseline_samples.mask(sample, Scripted(0.79, 0.89), VOCABULARY, [8, 5, 6, 7])
    assert masked["input_ids"] == [2, 4, 8, *sample["input_ids"][3:]]
    assert masked["labels"] == [-100, 5, 6] + [-100] * 15
    assert baseline_samples.pad(masked, VOCABULARY, 20) == {
        "input_ids": [2, 4, 8, 7, 8, 5, 6, 7, 8, 3, 6, 5, 8, 7, 6, 5, 8, 3, 0, 0],
        "token_type_ids": [0] * 10 + [1] * 8 + [0, 0],
        "attention_mask": [1] * 18 + [0, 0],
        "next_sentence_label": 1,
        "labels": [-100, 5, 6] + [-100] * 17,
    }
    kept = baseline_samples.mask(sample, Scripted(0.9, 0.99), VOCABULARY, [8])
    assert (kept["input_ids"], kept["labels"]) == (sample["input_ids"], masked["labels"])


def test_masks_fall_on_fifteen_percent_of_what_is_not_special():
    sample = baseline_samples.join([5] * 40, [6] * 60, 0, VOCABULARY)
    rng = random.Random(3)
    masked = [baseline_samples.mask(sample, rng, VOCABULARY, [7]) for _ in range(400)]
    places = [[place for place, label in enumerate(one["labels"]) if label != -100] for one in masked]
    assert {len(found) for found in places} == {15}
    assert {place for found in places for place in found} == set(range(1, 102)) - {41}
    now = [one["input_ids"][place] for one, found in zip(masked, places, strict=True) for place in found]
    assert 0.77 < now.count(4) / 6000 < 0.83 and 0.08 < now.count(7) / 6000 < 0.12


def test_a_row_gives_its_sample_back_without_padding():
    sample = baseline_samples.join([5, 6], [7], 0, VOCABULARY)
    row = baseline_samples.to_row(sample, VOCABULARY)
    assert [len(values) for values in json.loads(row).values() if isinstance(values, list)] == [512] * 3
    assert baseline_samples.from_row(row) == sample


@pytest.mark.parametrize("lean", [False, True])
def test_the_baseline_makes_a_sample_of_each_line_but_the_last_and_draws_all(tmp_path, model, lean):
    (tmp_path / "a.txt").write_text(text(5, seed=4), encoding="utf-8")
    lines = text(5, seed=4).split()
    spm = tokenization.load_sentencepiece(model)
    for masked in (True, False):
        rows_file = str(tmp_path / f"{masked}.jsonl")
        cost = baseline_samples.prepare(str(tmp_path / "a.txt"), model, masked, rows_file, lean)
        rows = list(map(json.loads, open(rows_file)))
        assert cost["samples"] == len(rows) == len(lines) - 1
        assert cost["tokens"] == sum(sum(row["attention_mask"]) for row in rows)
        assert all(("labels" in row) == masked for row in rows)
        assert {len(values) for row in rows for values in row.values() if isinstance(values, list)} == {512}
    firsts = [row["input_ids"][1 : row["input_ids"].index(3)] for row in rows]
    assert sorted(firsts) == sorted(spm.encode(lines[:-1]))
    assert baseline_samples.draw(str(tmp_path / "False.jsonl"), model, lean)["samples"] == len(rows)


def test_both_baselines_make_batches_of_the_same_form(tmp_path, model):
    vocabulary = tokenization.vocabulary(model)
    sample = baseline_samples.join([5, 6, 7, 8], [6, 7], 1, vocabulary)
    rows = [baseline_samples.to_row(sample, vocabulary)] * 3
    for make in (baseline_samples.published_batch, baseline_samples.lean_batch):
        batch = make(rows, random.Random(1), vocabulary, [9])
        shapes = {
            name: (tuple(values.shape), str(values.dtype).removeprefix("torch.")) for name, values in batch.items()
        }
        assert shapes == {
            "next_sentence_label": ((3,), "int64"),
            **dict.fromkeys(("input_ids", "token_type_ids", "attention_mask", "labels"), ((3, 512), "int64")),
        }
        assert (batch["labels"] != -100).sum() == 3
        assert batch["next_sentence_label"].tolist() == [1, 1, 1]


# Texts


def test_texts_are_read_whole_whether_compressed_or_not(tmp_path):
    (tmp_path / "a.txt").write_text("一。\n\n二。", encoding="utf-8")
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress("一。\n\n二。\n\n\n".encode()))
    for name in ("a.txt", "a.txt.xz"):
        assert runs.content(tmp_path / name).decode() == "一。\n\n二。\n\n"


@pytest.mark.parametrize("data", ["一。\n".encode(), lzma.compress("一。\n".encode() * 9000)[:-30]])
def test_a_damaged_text_is_told(tmp_path, data):
    (tmp_path / "a.txt.xz").write_bytes(data)
    with pytest.raises(StageError, match="a.txt.xz is no .xz, or is cut short"):
        runs.content(tmp_path / "a.txt.xz")


def test_texts_are_repeated_in_another_order_up_to_a_whole_line():
    texts = [b"a\n\n", b"bb\ncc\n\n"]
    assert b"".join(bench_samples.repeated(texts, 2)) == b"a\n\n"[:2]
    assert b"".join(bench_samples.repeated(texts, 19)) == b"a\n\n" + b"bb\ncc\n\n" + b"bb\ncc\n\n" + b"a\n"
    assert b"".join(bench_samples.repeated(texts, 12)) == b"a\n\n" + b"bb\ncc\n\n" + b"bb\n"


def test_the_baseline_gets_lines_from_all_over_the_text(tmp_path):
    lines = [b"%05d\n" % number for number in range(4000)]
    wanted = [line for line in lines if int(line) // 100 % 8 == 0]
    assert list(bench_samples.spread(lines, 8)) == wanted
    sizes = bench_samples.write_texts(tmp_path, [b"".join(lines)], 24_000, 500)
    assert (tmp_path / "part.txt").read_bytes() == b"".join(wanted)
    assert sizes == {"text_bytes": 24_000, "part_bytes": 3000, "head_bytes": 24_000}


# Processes


def test_a_function_runs_in_a_fresh_process():
    assert bench_samples.in_child(os.getpid) != os.getpid()


def test_a_process_that_dies_is_told():
    with pytest.raises(StageError, match=r"^the process of _exit died \(out of memory\?\)"):
        bench_samples.in_child(os._exit, 3)


def test_memory_is_that_of_a_process_and_none_when_it_has_ended():
    assert {name: size > 10 for name, size in bench_samples.memory(os.getpid()).items()} == {
        "VmHWM": True,
        "VmData": True,
        "RssAnon": True,
    }
    assert bench_samples.memory("4194305") == {}


def test_the_memory_of_workers_is_told_from_that_of_their_parent(tmp_path, monkeypatch):
    memory, seen = bench_samples.memory, tmp_path / "seen"

    def memory_of(process: int | str) -> dict[str, float]:
        found = memory(process)
        if found.get("RssAnon", 0) > 60:
            seen.touch()
        return found

    monkeypatch.setattr(bench_samples, "memory", memory_of)
    worker = f"import os; held = b'x' * 60_000_000\nwhile not os.path.exists({str(seen)!r}): pass"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"]
    peaks = bench_samples.peak_memory(command, tmp_path / "out")
    assert peaks["worker"]["VmHWM"] > 60 > peaks["parent"]["VmHWM"] > 5
    assert peaks["worker"]["RssAnon"] > 60 > peaks["parent"]["RssAnon"]


def test_a_run_that_fails_while_it_is_watched_is_told(tmp_path):
    with pytest.raises(StageError, match=r"^bash -c 'exit 3' ended with exit code 3: run it by hand$"):
        bench_samples.peak_memory(["/bin/bash", "-c", "exit 3"], tmp_path / "out")


def test_measures_take_turns_without_a_warm_up_where_none_is_wanted():
    called = []
    measures = {name: lambda name=name: called.append(name) or {"seconds": len(called)} for name in "ab"}
    assert runs.in_turn(measures, 2, warm_up=False) == {
        "a": [{"seconds": 1}, {"seconds": 3}],
        "b": [{"seconds": 2}, {"seconds": 4}],
    }


# Figures


def test_start_up_is_subtracted_from_the_run_of_the_same_round():
    each, heads = ([{"cpu_seconds": seconds} for seconds in row] for row in ((3.0, 5.0, 1.0), (1.0, 0.0, 2.0)))
    rates = [run["per_cpu_second"] for run in bench_samples.without_start(each, heads, 100)]
    assert rates == [50, 20, 100_000]
    assert bench_samples.rated([{"cpu_seconds": 2.0, "lines": 10}], "lines")[0]["per_cpu_second"] == 5


def test_samples_of_different_workers_that_differ_are_an_error(tmp_path):
    for name, digest in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        output = {"name": "samples.jsonl", "size": 0, "sha256": digest}
        (tmp_path / name / "samples.jsonl.meta.json").write_text(json.dumps({"outputs": [output]}))
    bench_samples.require_same_samples([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(StageError, match="different samples with 1 and 2 workers"):
        bench_samples.require_same_samples([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


def test_a_file_to_draw_from_holds_the_samples_over_and_over(tmp_path):
    (tmp_path / "samples.jsonl").write_text("{}\n" * 5)
    bench_samples.repeat(tmp_path / "samples.jsonl", tmp_path / "draw.jsonl", 31)
    assert (tmp_path / "draw.jsonl").read_text() == "{}\n" * 15
    assert json.loads((tmp_path / "draw.jsonl.meta.json").read_text())["outputs"][0]["size"] == 45


@pytest.fixture
def judged() -> dict[str, bool | None]:
    """Figures that meet half of the targets, judged; there are too few samples for the first batch."""
    ratios = {"masked_to_baseline": 20, "plain_to_encode": 0.3}
    ratios |= {"masked_speedup_of_2_workers": 1.8, "plain_speedup_of_2_workers": 1.79}
    making = {"ratios": {name: {"median": median} for name, median in ratios.items()}}
    drawn = {"draw_256_to_baseline": {"median": 60}, "draw_256_to_lean_baseline": {"median": 20}}
    ours = {"median": {"first_batch_seconds": 0.1}}
    drawing = {"ratios": drawn, "built": {"samples": 999_999}, "runs": {"ours": ours}}
    peaks = {"masked": {"worker": {"VmHWM": 500.0}}, "plain": {"worker": {}}}
    found = bench_samples.targets(making, peaks, {"ratio": 0.41}, drawing)
    return {each["figure"]: each["met"] for each in found}


def test_a_target_is_met_or_not_or_there_was_nothing_to_measure(judged):
    assert judged == {
        "samples per CPU s, --get_raw True / baseline": True,
        "samples per CPU s, --get_raw False / lines, encode(list)": False,
        "wall time of 1 worker / 2 workers, --get_raw True": True,
        "wall time of 1 worker / 2 workers, --get_raw False": False,
        "samples drawn per CPU s, draw of 256 / baseline": True,
        "seconds to the first batch of 1,000,000 samples or more": None,
        "bytes of a sample, --get_raw True / baseline": False,
        "MB of a worker at its peak, --get_raw True": True,
        "MB of a worker at its peak, --get_raw False": None,
    }


# The command


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ((), {}, "name at least one text of one sentence a line"),
        (("a.txt",), {"rounds": 0}, "--rounds must be 1 or more, got 0"),
        (("a.txt",), {"megabytes": 0.01}, "--megabytes must be 0.1 or more, got 0.01"),
        (("a.txt",), {"draw_gigabytes": 0.0}, "--draw_gigabytes must be 0.001 or more, got 0.0"),
        (("a.txt",), {"draw_samples": 9}, "--draw_samples must be 1024 or more, got 9"),
        (("a.txt",), {"baseline_samples": 9}, "--baseline_samples must be 100 or more, got 9"),
        (("a.txt",), {"output_file": "."}, ". is a folder, the name of a file is needed"),
        (("a.txt",), {"tokenizer_model": "."}, ". has no spm.model: name a folder of train_tokenizer.py"),
    ],
)
def test_wrong_options_are_told_before_any_work(names, options, said):
    with pytest.raises(StageError) as error:
        bench_samples.main(*names, **options)
    assert str(error.value) == said


def test_a_text_that_is_not_there_is_told_in_a_sentence(tmp_path, model):
    said = refusal("bench/bench_samples.py", "no.txt", "--tokenizer_model", model, cwd=tmp_path)
    assert said == "no.txt not found: name texts of one sentence a line"


@pytest.mark.full
def test_a_tiny_text_gives_every_figure(tmp_path, model, judged):
    (tmp_path / "a.txt").write_text(text(300, seed=1), encoding="utf-8")
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(text(300, seed=2).encode()))
    sizes = ("--megabytes", 0.3, "--draw_gigabytes", 0.002, "--draw_samples", 2048, "--baseline_samples", 200)
    options = ("--tokenizer_model", model, "--output_file", "samples.json", "--rounds", 1, *sizes)
    ran = stage("bench/bench_samples.py", "a.txt", "b.txt.xz", *options, cwd=tmp_path, stdout=tmp_path / "table")
    result = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))
    assert [each["figure"] for each in result["targets"]] == list(judged)
    assert all(each["met"] in (True, False, None) for each in result["targets"])
    assert [each["name"] for each in result["text"]["inputs"]] == ["a.txt", "b.txt.xz"]
    lines = (tmp_path / "table").read_text(encoding="utf-8").splitlines()
    assert len(lines[-9:]) == sum(": " in line and ", target " in line for line in lines)
    assert "round 1: masked_2_workers" in ran.stderr
    making, drawing = result["making"], result["drawing"]
    assert all(len(run["each"]) == 1 for measured in (making, drawing) for run in measured["runs"].values())
    assert making["runs"]["masked_1_worker"]["run"] == (
        f"{Path(sys.executable).name} prepare_train_data.py --filename text.txt --tokenizer_model model "
        "--get_raw True --num_workers 1 --output_file samples.jsonl"
    )
    assert drawing["built"]["samples"] % making["samples"] == 0
    assert drawing["built"]["bytes"] >= 2_000_000
    assert 0 < result["disk"]["ratio"] < 1
    assert not list(tmp_path.glob("bert-ja-bench-*"))
