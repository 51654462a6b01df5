"""The baseline of training by hand, what the benchmark computes from, and the benchmark once on tiny models."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from texts import text

from bench import baseline_training, bench_training, fits, flops, gpu_suite, training_parts, training_samples
from bert_ja import tokenization
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns

BASE = flops.Sizes(layers=12, width=768, pieces=32_000)
VOCABULARY = training_samples.made_up_vocabulary(100)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One thread, as models of this size gain nothing from more, and short naps and warm-ups."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(training_parts, "NAP", 0.001)
    monkeypatch.setattr(training_parts, "SAMPLES", 16)
    monkeypatch.setattr(training_parts, "THREAD_WARM_UP", 2)
    monkeypatch.setattr(gpu_suite, "WARM_UP", 2)
    yield
    torch.set_num_threads(before)


def made_up(count: int = 24, mean: int = 20, longest: int = 64) -> Columns:
    return training_samples.made_up(count, mean, longest, VOCABULARY, np.random.default_rng(1))


@pytest.fixture(scope="module")
def columns(tmp_path_factory, words) -> Columns:
    """Samples of a text of our own, made by prepare_train_data.py."""
    folder = tmp_path_factory.mktemp("columns")
    (folder / "a.txt").write_text(text(1200, seed=5), encoding="utf-8")
    return training_samples.make(folder, [folder / "a.txt"], str(words))


# FLOPs


def test_flops_of_bert_base_by_hand():
    """12 layers x 12 x 768^2 = 85 M weights; 6 for each, as forward is 2 and backward twice that."""
    assert flops.matrices(BASE) == 6 * 84_934_656
    assert flops.attention(BASE, 60) == 6 * 12 * 2 * 768 * 60
    assert flops.mlm_head(BASE) == 6 * (768 * 768 + 768 * 32_000)
    a_token = flops.packed(BASE, np.full(256, 60), 256 * 9) / (256 * 60)
    assert a_token == pytest.approx(539e6, rel=0.002)
    assert flops.padded(BASE, 8, 512) / (8 * 60) == pytest.approx(6.1e9, rel=0.01)


def test_a_sample_attends_to_itself_only():
    sizes = flops.Sizes(1, 2, 10)
    apart = flops.packed(sizes, np.array([3]), 0) + flops.packed(sizes, np.array([5]), 0)
    assert flops.packed(sizes, np.array([3, 5]), 0) == apart


# The baseline


def test_samples_are_padded_by_hand():
    drawn = {
        "input_ids": np.array([2, 9, 3, 4, 3, 2, 8, 3, 7, 3]),
        "token_type_ids": np.array([0, 0, 0, 1, 1, 0, 0, 0, 1, 1]),
        "cu_seqlens": np.array([0, 5, 10], dtype=np.int32),
        "mlm_positions": np.array([3, 6]),
        "mlm_labels": np.array([7, 8]),
        "next_sentence_labels": np.array([1, 0]),
    }
    rows = {name: values.tolist() for name, values in baseline_training.pad(drawn, 6).items()}
    assert rows == {
        "input_ids": [[2, 9, 3, 4, 3, 0], [2, 8, 3, 7, 3, 0]],
        "token_type_ids": [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0]],
        "attention_mask": [[1] * 5 + [0]] * 2,
        "labels": [[-100, -100, -100, 7, -100, -100], [-100, 8] + [-100] * 4],
        "next_sentence_label": [1, 0],
    }


def test_micro_batches_are_eight_rows_of_512_and_the_rest():
    drawn = Batches(made_up(19), VOCABULARY, 19, 1, False).draw(0, 0)
    batches = baseline_training.micro_batches(drawn)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(8, 512), (8, 512), (3, 512)]
    assert sum(int((batch["labels"] != -100).sum()) for batch in batches) == len(drawn["mlm_labels"])


def test_a_published_step_follows_the_mean_of_micro_batch_means_clipped():
    drawn = Batches(made_up(4), VOCABULARY, 4, 1, False).draw(0, 0)
    batches = baseline_training.micro_batches(drawn, size=3)
    model = fits.plain(fits.new_model(1, 8, 100)).eval()
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    loss = sum(model(**batch).loss for batch in batches) / 2
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])
    baseline_training.step(model, torch.optim.SGD(model.parameters(), lr=1.0), batches, "cpu", "fp32")
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert gradient.norm() > 1
    assert torch.allclose(after - before, -gradient / gradient.norm(), atol=1e-5)


# Samples


def test_samples_are_chosen_to_a_mean_and_the_same_each_time():
    lengths = np.random.default_rng(2).integers(8, 90, 5000)
    for mean in (30, 48, 60):
        first, again = (training_samples.choose(lengths, 64, mean, np.random.default_rng(7)) for _ in range(2))
        assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
        assert len(first) == 64 and abs(lengths[first].mean() - mean) <= 1
        assert lengths[first].std() > 15  # they are not all alike


@pytest.mark.parametrize(("lengths", "count"), [([10] * 500, 64), ([48] * 63, 64)])
def test_a_mean_that_cannot_be_reached_is_told(lengths, count):
    with pytest.raises(StageError, match=r"too few to choose 64 of 48 from: name more text, or another --mean_tokens"):
        training_samples.choose(np.array(lengths), count, 48, np.random.default_rng(1))


def test_a_subset_holds_the_samples_themselves(columns):
    chosen = np.array([0, 7, 2000])
    part = training_samples.subset(columns, chosen)
    starts = [columns.ends[number - 1] if number else 0 for number in chosen]
    spans = zip(starts, columns.ends[chosen], strict=True)
    expected = [columns.ids[start:end].tolist() for start, end in spans]
    assert np.split(part.ids, part.ends[:-1])[1].tolist() == expected[1]
    assert part.ids.tolist() == sum(expected, [])
    assert part.first_lengths.tolist() == columns.first_lengths[chosen].tolist()
    assert part.next_sentence_labels.tolist() == columns.next_sentence_labels[chosen].tolist()


def test_masks_that_stay_are_those_of_a_draw(words):
    vocabulary = tokenization.vocabulary(words)
    plain = training_samples.made_up(12, 20, 64, vocabulary, np.random.default_rng(1))
    kept = training_samples.masked(plain, vocabulary)
    first, again = (Batches(kept, vocabulary, 12, 5, False).draw(epoch, 0) for epoch in (0, 3))
    drawn = Batches(plain, vocabulary, 12, training_samples.SEED, False).draw(0, 0)
    for name in ("input_ids", "mlm_positions", "mlm_labels"):
        assert first[name].tolist() == again[name].tolist() == drawn[name].tolist()


def test_what_is_held_out_is_masked_and_not_trained_on(columns, words):
    train, valid = training_samples.hold_out(columns, 40, tokenization.vocabulary(words))
    assert len(valid) == 40 and valid.masked and not train.masked
    out = sum(number // 100 % 50 == 25 for number in range(len(columns)))
    assert len(train) == len(columns) - out
    with pytest.raises(StageError, match="none is held out: name more text, over 2,500"):
        training_samples.hold_out(training_samples.subset(columns, np.arange(900)), 40, VOCABULARY)


def test_made_up_samples_are_pairs_of_the_mean_length():
    found = training_samples.made_up(4000, 60, 512, VOCABULARY, np.random.default_rng(3))
    lengths = training_samples.lengths_of(found)
    assert 59 < lengths.mean() < 61 and lengths.min() >= 8 and 20 < lengths.std() < 35
    for ids, first in zip(np.split(found.ids, found.ends[:-1])[:50], found.first_lengths[:50], strict=True):
        assert [ids[0], ids[first - 1], ids[-1]] == [2, 3, 3]
        assert np.count_nonzero(ids < 5) == 3
    assert training_samples.lengths_of(made_up(5, 512, 512)).tolist() == [512] * 5


# Our own step


def test_the_clock_counts_the_steps_after_the_warm_up():
    step = Batches(made_up(8), VOCABULARY, 8, 1, False).step(0, 0)
    clock = fits.Clock(warm_up=2)
    trainer = fits.new_trainer("cpu", "fp32", [clock], max_epochs=1)
    model = fits.new_model(1, 8, 100)
    fits.make_ready(model, trainer)
    fits.time_steps(model, trainer, [step] * 5)
    assert (clock.steps, trainer.global_step, model.gradient_clip_val) == (3, 5, 1.0)
    assert clock.thread_seconds > 0 and clock.seconds > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ours_and_the_published_losses_agree(precision):
    batches = Batches(made_up(19), VOCABULARY, 19, 1, False)
    ours = fits.new_model(2, 64, 100)
    fits.make_ready(ours, fits.new_trainer("cpu", precision))
    plain = fits.plain(fits.new_model(2, 64, 100))
    found = fits.losses(ours, batches.step(0, 0), "cpu", precision)
    rows = baseline_training.micro_batches(batches.draw(0, 0))
    expected = baseline_training.losses(plain, rows, "cpu", precision)
    assert training_parts.agree("2x64", precision, found, expected)["difference"] < training_parts.TOLERANCE[precision]
    assert plain.training and ours.training


@pytest.mark.parametrize("other", [10.0002, float("nan")])
def test_losses_that_differ_are_an_error(other):
    with pytest.raises(StageError, match=r"^12x768, fp32: losses differ by .* nats"):
        training_parts.agree("12x768", "fp32", (10.0, 0.7), (other, 0.7))


def test_speed_is_measured_in_both_precisions_of_the_first_model_only(columns, words):
    options = {"mean_tokens": 24, "models": "1x8,1x16", "rounds": 2, "steps": 1}
    found = training_parts.measure_speed(columns, tokenization.vocabulary(words), True, options)
    assert abs(found["tokens_per_sample"] - 24) <= 1
    assert list(found["models"]["1x8"]["runs"]) == ["published_fp32", "ours_fp32", "published_bf16", "ours_bf16"]
    assert list(found["models"]["1x16"]["runs"]) == ["published_fp32", "ours_fp32"]
    names = ["ours_fp32_to_published_fp32", "ours_bf16_to_published_bf16", "ours_bf16_to_published_fp32"]
    assert list(found["models"]["1x8"]["ratios"]) == names
    for model in found["models"].values():
        for run in model["runs"].values():
            rate = found["tokens_per_sample"] * 16 / run["each"][0]["seconds_a_step"]
            assert run["each"][0]["tokens_per_second"] == pytest.approx(rate, rel=0.05)


def test_the_main_thread_is_measured_without_its_model():
    found = training_parts.measure_thread(10, 2)
    assert (found["steps"], found["samples_per_step"]) == (10, 256)
    assert 59 < found["tokens_per_sample"] < 61 and found["plain_milliseconds"] >= found["nap_milliseconds"]
    assert len(found["each"]) == 2
    for one in found["each"]:
        own = one["run_milliseconds"] - one["plain_milliseconds"]
        assert one["wall_milliseconds"] == pytest.approx(own, abs=0.002)
    own = sum(one["wall_milliseconds"] for one in found["each"]) / 2
    assert found["wall_milliseconds"] == pytest.approx(own, abs=0.002)
    assert 0 < found["cpu_milliseconds"] < 200 and found["run_milliseconds"] < 2000


def test_ours_trains_until_the_published_loss(columns, words, monkeypatch):
    for name, value in (("LOSS_STEP", 8), ("LOSS_VALID", 16), ("LOSS_LR", 0.01)):
        monkeypatch.setattr(training_parts, name, value)
    ticks = itertools.count()  # a clock that goes on by an eighth of a second whenever it is looked at
    monkeypatch.setattr(training_parts, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 8))
    found = training_parts.measure_loss(columns, tokenization.vocabulary(words), "1x8", 0.02)
    assert found["published"] == {"steps": 9, "seconds": 1.25}
    assert found["loss"] < found["loss_at_first"] and found["validation_samples"] == 16
    assert found["ours"] == found["history"][-1]
    assert found["reached"] == (found["ours"]["loss"] <= found["loss"])
    assert all(row["loss"] > found["loss"] for row in found["history"][:-1])
    assert found["ratio"] == pytest.approx(found["ours"]["seconds"] / found["published"]["seconds"], rel=0.01)


# The suite


@pytest.fixture
def setting() -> gpu_suite.Setting:
    return gpu_suite.Setting("cpu", "fp32", flops.Sizes(1, 64, 100), samples=8, steps=2)


def test_a_variant_keeps_its_shares_with_fewer_samples(setting):
    scaled = [gpu_suite.scaled(variant, setting) for variant in gpu_suite.VARIANTS]
    assert {(variant.step, variant.parts) for variant in scaled if variant.kind == "published"} == {(8, 8)}
    assert {variant.step for variant in scaled if variant.length == 512} == {1, 2}
    whole = gpu_suite.Setting("cpu", "fp32", BASE, 256, 2)
    assert [gpu_suite.scaled(variant, whole) for variant in gpu_suite.VARIANTS] == list(gpu_suite.VARIANTS)


def test_a_micro_batch_of_a_variant_has_its_part_of_the_step():
    whole = gpu_suite.Setting("cpu", "fp32", flops.Sizes(1, 8, 100), 256, 2)
    batches = gpu_suite.batches_of(gpu_suite.Variant(parts=8), made_up(300), whole, in_rows=True)
    assert (batches.batch_size, batches.accumulate, gpu_suite.step_size(batches)) == (32, 8, 256)


def test_a_variant_that_fails_is_said_and_the_suite_goes_on(setting, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(gpu_suite, "measure", fail)
    rows = list(gpu_suite.run(setting, 1e9, 60))
    assert len(rows) == len(gpu_suite.VARIANTS)
    assert rows[0]["skipped"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert "dropout 0.1: OutOfMemoryError" in gpu_suite.line(rows[0])
    late = list(gpu_suite.run(setting, 1e9, -1))
    assert late[0]["skipped"] == "the -1 seconds were over"


# What follows from the figures


def test_a_target_is_met_or_not_or_there_was_nothing_to_measure():
    names = ("ours_fp32_to_published_fp32", "ours_bf16_to_published_bf16")
    ratios = {name: {"median": median} for name, median in zip(names, (13.0, 10.9), strict=True)}
    row = {"length": 60, "kind": "packed", "dropout": 0.1, "mfu": 0.41, "published_run_minutes": 88.0}
    found = bench_training.targets(
        {
            "speed": {"models": {"12x768": {"ratios": ratios}}},
            "thread": {"wall_milliseconds": 1.4},
            "loss": {"ratio": 0.05, "reached": False},
            "suite": [row, row | {"kind": "padded", "mfu": 0.9, "published_run_minutes": 1.0}, {"length": 60}],
        }
    )
    assert [(each["value"], each["met"]) for each in found] == [
        *((13.0, True), (10.9, False), (None, None), (None, None)),
        *((1.4, True), (1.0, False), (0.41, False), (88.0, True)),
    ]
    assert bench_training.targets({"suite": []}) == []


# The command


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ((), {}, "name at least one text of one sentence a line, or ask for --parts thread or --suite"),
        (("a.txt",), {"suite": True}, "--suite takes no texts, its samples are made up"),
        (
            (),
            {"device": "cuda", "parts": "thread"},
            "--device cuda goes with --suite, the other figures are of the CPU",
        ),
        ((), {"device": "tpu", "suite": True}, "--device must be cpu or cuda, got tpu"),
        ((), {"parts": "thread,los"}, "--parts must be some of speed,thread,loss, got thread,los"),
        (("a.txt",), {"rounds": 0, "minutes": 0}, "--rounds must be 1 or more, got 0; --minutes must be 0.001 or more"),
        (("a.txt",), {"models": "12x768,6x"}, "--models must be layers x width, as 12x768 (from 128 on a multiple of"),
        (("a.txt",), {"loss_model": "1x129"}, "--loss_model must be layers x width"),
        (("a.txt",), {"output_file": "."}, ". is a folder, the name of a file is needed"),
        (("a.txt",), {"tokenizer_model": "none"}, "none not found: run train_tokenizer.py first"),
    ],
)
def test_wrong_options_are_refused_before_the_work(names, options, said):
    with pytest.raises(StageError) as refused:
        bench_training.main(*names, **options)
    assert said in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(StageError, match="torch finds no CUDA device here"):
        bench_training.main(device="cuda", suite=True)


def test_an_output_that_is_no_list_of_runs_is_refused(tmp_path):
    for content in ("{}", "[1,"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(StageError, match="a.json is no list of runs: name another --output_file"):
            bench_training.earlier_runs(str(tmp_path / "a.json"))


@pytest.mark.full
def test_every_run_is_appended_with_its_device_and_its_figures(tmp_path, words, monkeypatch, capsys):
    """The suite on the CPU with every variant that it has, then all parts but the suite."""
    for name, value in (("LOSS_STEP", 8), ("LOSS_VALID", 16)):
        monkeypatch.setattr(training_parts, name, value)
    monkeypatch.setattr("sys.argv", ["bench_training.py", "--suite"])
    (tmp_path / "a.txt").write_text(text(1200, seed=5), encoding="utf-8")
    output = str(tmp_path / "training.json")
    tiny = {"suite_model": "1x64", "suite_pieces": 100, "suite_samples": 8, "suite_steps": 1, "suite_product": 16}
    bench_training.main(suite=True, output_file=output, **tiny)
    assert "of a matrix product" in capsys.readouterr().out
    options = {"models": "1x8", "loss_model": "1x8", "mean_tokens": 24, "rounds": 1, "steps": 1}
    options |= {"minutes": 0.01, "thread_steps": 10, "tokenizer_model": str(words), "output_file": output}
    bench_training.main(str(tmp_path / "a.txt"), **options)
    said = capsys.readouterr().out
    assert "no GPU was measured: run it with --device cuda --suite where there is one" in said
    assert "ms of the main thread's own work" in said and "time to loss, 1x8: published from" in said
    suite, parts = json.loads(Path(output).read_text())
    assert {run["machine"]["device"] for run in (suite, parts)} == {"cpu"}
    assert [row.get("skipped") for row in suite["suite"] if not row["compile"]] == [None] * 19
    assert all(row["tokens_per_second"] > 0 for row in suite["suite"] if not row["compile"])
    assert {"speed", "thread", "loss", "text", "tokenizer"} <= set(parts) and parts["suite"] == []
