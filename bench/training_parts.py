"""The three figures of training on a CPU: speed beside the published step, the main thread's work, time to a loss."""

import contextlib
import os
import re
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from bench import baseline_training, fits, runs, training_samples
from bert_ja import cli, monitoring
from bert_ja.callbacks import EndTogether, ExpectedEnd, ModelCheckpoint, ProgressBar, Resumption
from bert_ja.dataset import Batches, Columns, Step
from bert_ja.pretraining import MEASURED, BertPretraining
from bert_ja.tokenization import Vocabulary

SAMPLES = 64  # of an optimizer step whose speed is measured
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-3}  # nats by which the losses of ours and of the baseline may differ
IDLE = (12, 8)  # layers and width of the idle model: as many modules and parameters as BERT base, only small
NAP = 0.017  # seconds that the idle model's step takes: a step of BERT base on an H100 at 50 % MFU
THREAD_SAMPLES, THREAD_TOKENS, THREAD_WARM_UP = 256, 60, 20  # of a step; of a sample; steps
PIECES = 32_000  # of a made-up vocabulary
LOSS_STEP, LOSS_VALID, LOSS_LR = 32, 512, 5e-4  # samples of an optimizer step; of the validation; learning rate
LOOKS = 25  # validations of ours in as many steps as the baseline took


# Speed


def our_speed(model: BertPretraining, step: Step, precision: str, steps: int, tokens: int) -> dict:
    """`steps` optimizer steps of ours after one that is not counted."""
    clock = fits.Clock(warm_up=1)
    trainer = fits.new_trainer("cpu", precision, [clock], max_epochs=1)
    fits.make_ready(model, trainer)
    fits.time_steps(model, trainer, [step] * (steps + 1))
    return speed(clock.seconds, steps, tokens)


def published_speed(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict], precision: str, tokens: int
) -> dict:
    """One optimizer step of the baseline."""
    started = time.perf_counter()
    baseline_training.step(model, optimizer, batches, "cpu", precision)
    return speed(time.perf_counter() - started, 1, tokens)


def speed(seconds: float, steps: int, tokens: int) -> dict:
    return {
        "seconds": round(seconds, 3),
        "seconds_a_step": round(seconds / steps, 4),
        "tokens_per_second": round(tokens * steps / seconds, 1),
    }


def agree(name: str, precision: str, ours: tuple[float, float], theirs: tuple[float, float]) -> dict:
    """The losses of both beside each other. A speed counts only if both do the same work."""
    found = {
        part: {"ours": round(one, 6), "published": round(other, 6)}
        for part, one, other in zip(("mlm", "nsp"), ours, theirs, strict=True)
    }
    off = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    if not off <= TOLERANCE[precision]:
        raise cli.StageError(f"{name}, {precision}: losses differ by {off:.6f} nats, {found}: mend that first")
    return found | {"difference": round(off, 8), "tolerance": TOLERANCE[precision]}


def chosen_step(columns: Columns, vocabulary: Vocabulary, mean: float) -> tuple[Step, dict[str, np.ndarray], int]:
    """SAMPLES samples as our step and as they were drawn, masked alike; their tokens."""
    rng = np.random.default_rng(training_samples.SEED)
    chosen = training_samples.choose(training_samples.lengths_of(columns), SAMPLES, mean, rng)
    batches = Batches(training_samples.subset(columns, chosen), vocabulary, SAMPLES, fits.SEED, shuffle=False)
    return batches.step(0, 0), batches.draw(0, 0), len(batches.sources[0].ids)


def size_of(name: str) -> tuple[int, int]:
    """12x768 -> (12, 768): layers, width."""
    layers, width = map(int, name.split("x"))
    return layers, width


def is_model(name: str) -> bool:
    """Whether this is layers x width, as 12x768, with heads that share the width."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", name):
        return False
    _, width = size_of(name)
    return width % fits.heads_of(width) == 0


def compare(
    name: str, precision: str, ours: BertPretraining, plain: torch.nn.Module, step: Step, batches: list[dict]
) -> dict:
    """`agree` of two models with the same weights."""
    cli.say(f"{name}, {precision}: comparing losses")
    fits.make_ready(ours, fits.new_trainer("cpu", precision))
    own = fits.losses(ours, step, "cpu", precision)
    return agree(name, precision, own, baseline_training.losses(plain, batches, "cpu", precision))


def measure_model(
    name: str, drawn: tuple[Step, dict, int], pieces: int, precisions: list[str], options: dict
) -> dict[str, dict]:
    """A model's runs in turn, after its losses were compared."""
    step, samples, tokens = drawn
    batches, measures = baseline_training.micro_batches(samples), {}
    ours, plain = fits.new_model(*size_of(name), pieces), fits.plain(fits.new_model(*size_of(name), pieces))
    losses = {precision: compare(name, precision, ours, plain, step, batches) for precision in precisions}
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    for precision in precisions:
        baseline_training.step(plain, optimizer, batches[:1], "cpu", precision)  # warms up, and makes Adam's moments
        measures[f"published_{precision}"] = partial(published_speed, plain, optimizer, batches, precision, tokens)
        measures[f"ours_{precision}"] = partial(our_speed, ours, step, precision, options["steps"], tokens)
    each = runs.in_turn(measures, options["rounds"], warm_up=False)
    return {
        "losses": losses,
        "runs": {run: {"median": runs.medians(found), "each": found} for run, found in each.items()},
        "ratios": speed_ratios(each),
    }


def speed_ratios(each: dict[str, list[dict]]) -> dict:
    """{"ours_bf16_to_published_fp32": ...}: ours to the baseline in the same precision, and bf16 to fp32."""
    return {
        f"ours_{one}_to_published_{other}": runs.ratio(
            each[f"ours_{one}"], each[f"published_{other}"], "tokens_per_second"
        )
        for one, other in (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))
        if f"ours_{one}" in each
    }


def measure_speed(columns: Columns, vocabulary: Vocabulary, fast_bf16: bool, options: dict) -> dict:
    """Real tokens a second of each model, ours and published; of the first one in bf16 too where that is fast."""
    drawn, found = chosen_step(columns, vocabulary, options["mean_tokens"]), {}
    for number, name in enumerate(options["models"].split(",")):
        precisions = ["fp32", "bf16"] if fast_bf16 and number == 0 else ["fp32"]
        found[name] = measure_model(name, drawn, vocabulary.size, precisions, options)
    return {
        "samples": SAMPLES,
        "tokens_per_sample": round(drawn[2] / SAMPLES, 2),
        "padded_to": baseline_training.LENGTH,
        "bf16": "measured" if fast_bf16 else "not measured: /proc/cpuinfo has no amx_bf16",
        "models": found,
    }


# The main thread


class Idle(BertPretraining):
    """The module of a run but for its network: forward and backward cost next to nothing, and last NAP seconds."""

    def measures(self, batch: dict) -> dict[str, torch.Tensor]:
        time.sleep(NAP)
        loss = self.model.bert.pooler.dense.bias.sum()
        return dict.fromkeys(MEASURED, torch.ones(())) | {"mlm_loss": loss, "nsp_loss": loss}

    def training_measures(self, batch: dict) -> dict[str, torch.Tensor]:
        """Without the masks of attention, which are of the network."""
        return self.measures(batch)


def plain_seconds(model: Idle, steps: int) -> float:
    """Seconds of so many optimizer steps of the idle model in a plain loop: forward, backward, clipping, optimizer."""
    optimizer, started = model.new_optimizer(), time.perf_counter()
    for _ in range(steps):
        losses = model.measures({})
        (losses["mlm_loss"] + losses["nsp_loss"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), baseline_training.CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def timed_run(model: Idle, columns: Columns, vocabulary: Vocabulary, steps: int) -> fits.Clock:
    """The clock of so many optimizer steps of the idle model with everything that a run has, behind its warm-up.

    A run: the data module's loader with a worker, Lightning with the callbacks and loggers of trainer.py and of
    configs/tiny.yaml, but for those that are idle between a start and a validation (Examples, MemoryTrial).
    """
    clock, taken = fits.Clock(THREAD_WARM_UP), steps + THREAD_WARM_UP
    with tempfile.TemporaryDirectory(prefix="bert-ja-bench-") as folder, open(os.devnull, "w") as nowhere:
        table = monitoring.MetricsFile(Path(folder) / "metrics.csv")
        table.go_on(0)
        options = {"logger": [pl.loggers.TensorBoardLogger(folder), table], "enable_progress_bar": True}
        options |= {"limit_train_batches": taken, "limit_val_batches": 0, "max_epochs": 1}
        options |= {"enable_checkpointing": True}
        saved = pl.callbacks.LambdaCallback(on_train_batch_end=monitoring.save_logs)
        measured = monitoring.Throughput(), monitoring.Health(9.0, lr=1e-4, warmup=10_000), saved
        guards = Resumption(), EndTogether(), ExpectedEnd(taken), ModelCheckpoint(monitor="val_loss")
        looks = pl.callbacks.LearningRateMonitor(), ProgressBar()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            trainer = fits.new_trainer("cpu", "fp32", [clock, *measured, *looks, *guards], **options)
            fits.make_ready(model, trainer)
            trainer.fit(model, datamodule=fits.SampleData(vocabulary, THREAD_SAMPLES, columns))
    return clock


def thread_round(model: Idle, columns: Columns, vocabulary: Vocabulary, steps: int) -> dict:
    """Milliseconds a step of a run, of a plain loop before and behind it, and what the run takes more than the loop."""
    plain = plain_seconds(model, steps // 2)
    clock = timed_run(model, columns, vocabulary, steps)
    plain += plain_seconds(model, steps - steps // 2)
    found = {"run": clock.seconds, "plain": plain, "wall": clock.seconds - plain, "cpu": clock.thread_seconds}
    milliseconds = {f"{name}_milliseconds": round(1000 * seconds / steps, 3) for name, seconds in found.items()}
    return {"seconds": clock.seconds + plain} | milliseconds


def measure_thread(steps: int, rounds: int) -> dict:
    """Milliseconds that a run adds to an optimizer step of the idle model: medians over rounds, each with its own mean.

    cpu_milliseconds are of the run's main thread, its optimizer's among them.
    """
    vocabulary, rng = training_samples.made_up_vocabulary(PIECES), np.random.default_rng(fits.SEED)
    count = (steps + THREAD_WARM_UP) * THREAD_SAMPLES
    columns = training_samples.made_up(count, THREAD_TOKENS, 512, vocabulary, rng)
    model = fits.new_model(*IDLE, PIECES, Idle)
    plain_seconds(model, THREAD_WARM_UP)
    measure = {"the main thread": partial(thread_round, model, columns, vocabulary, steps)}
    (each,) = runs.in_turn(measure, rounds, warm_up=False).values()
    each = [{name: value for name, value in found.items() if name != "seconds"} for found in each]
    return {
        "steps": steps,
        "samples_per_step": THREAD_SAMPLES,
        "tokens_per_sample": round(len(columns.ids) / len(columns), 2),
        "nap_milliseconds": round(1000 * NAP, 3),
        **runs.medians(each),
        "each": each,
    }


# Time to loss


class UntilLoss(pl.Callback):
    """Ends a run at the first validation whose loss is `wanted` or less, or after `most` seconds of training.

    Its clock starts with the first batch that is asked for, and stands still while the run validates.
    """

    def __init__(self, wanted: float, most: float):
        self.wanted, self.most, self.seconds, self.history = wanted, most, 0.0, []

    def on_train_start(self, trainer, pl_module) -> None:
        self.since = time.perf_counter()

    def on_validation_start(self, trainer, pl_module) -> None:
        self.seconds += time.perf_counter() - self.since

    def on_validation_end(self, trainer, pl_module) -> None:
        loss = pl_module.metrics()["loss"]
        self.history.append({"step": trainer.global_step, "seconds": round(self.seconds, 3), "loss": round(loss, 5)})
        trainer.should_stop = loss <= self.wanted or self.seconds >= self.most
        self.since = time.perf_counter()


def loss_model(name: str, pieces: int) -> BertPretraining:
    return fits.new_model(*size_of(name), pieces, lr=LOSS_LR)


def publish(model: BertPretraining, train: Columns, vocabulary: Vocabulary, seconds: float) -> tuple[int, float]:
    """Train by the published loop for so many seconds, to the end of a step: (optimizer steps, seconds)."""
    plain = fits.plain(model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=LOSS_LR)
    batches = Batches(train, vocabulary, LOSS_STEP, fits.SEED, shuffle=True)
    number, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        drawn = batches.draw(*divmod(number, len(batches)))
        baseline_training.step(plain, optimizer, baseline_training.micro_batches(drawn), "cpu", "fp32")
        number += 1
    return number, passed


def validate(model: BertPretraining, data: fits.SampleData) -> float:
    """The loss of a model in nats, on the samples that are held out."""
    trainer = fits.new_trainer("cpu", "fp32")
    fits.make_ready(model, trainer)
    (metrics,) = trainer.validate(model, datamodule=data, verbose=False)
    return metrics["val_loss"]


def measure_loss(columns: Columns, vocabulary: Vocabulary, name: str, minutes: float) -> dict:
    """How long ours takes to the loss that the published loop reaches in `minutes`, both from the same start."""
    train, valid = training_samples.hold_out(columns, LOSS_VALID, vocabulary)
    data = fits.SampleData(vocabulary, LOSS_STEP, train, valid)
    model = loss_model(name, vocabulary.size)
    at_first = validate(model, data)
    cli.say(f"time to loss: the published loop, {minutes:g} min from a loss of {at_first:.4f}")
    steps, seconds = publish(model, train, vocabulary, 60 * minutes)
    wanted = validate(model, data)
    cli.say(f"time to loss: ours, to {wanted:.4f}, which the published loop reached in {steps:,} steps")
    model, until = loss_model(name, vocabulary.size), UntilLoss(wanted, seconds)
    often = {"val_check_interval": max(1, steps // LOOKS), "check_val_every_n_epoch": None}
    trainer = fits.new_trainer("cpu", "fp32", [until], **often)
    fits.make_ready(model, trainer)
    trainer.fit(model, datamodule=data)
    return {
        "model": name,
        "samples_per_step": LOSS_STEP,
        "lr": LOSS_LR,
        "validation_samples": len(valid),
        "loss_at_first": round(at_first, 5),
        "loss": round(wanted, 5),
        "published": {"steps": steps, "seconds": round(seconds, 2)},
        "ours": until.history[-1],
        "reached": until.history[-1]["loss"] <= round(wanted, 5),
        "ratio": round(until.history[-1]["seconds"] / seconds, 4),
        "history": until.history,
    }
