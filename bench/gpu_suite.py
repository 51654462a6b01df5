"""Real tokens a second and MFU of a model on one device, for each way to train it; made for a GPU, in one short call.

Every variant is a model of its own, trained by the real Trainer on made-up samples (training_samples.made_up), so that
texts nor a tokenizer are needed. What fails or finds no time is said in its row, and the rest goes on.
"""

import gc
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from bench import baseline_training, fits, flops, training_samples
from bert_ja import cli
from bert_ja.dataset import Batches, Columns, Step
from bert_ja.pretraining import BertPretraining
from bert_ja.training import one_sentence

PEAK = 989e12  # FLOP/s of an H100 or H200 in bf16 without sparsity (NVIDIA's data sheet)
PUBLISHED_STEPS, SAMPLES = 210_000, 256  # optimizer steps of the published run, samples of each
SHORT, LONG = 60, 512  # tokens of a sample
BUILT = 8  # different steps, taken in turn
WARM_UP = 8  # optimizer steps
PRODUCTS = 20  # matrix products that are timed


class Variant(NamedTuple):
    """One way to train. `step`: samples an optimizer step, of SAMPLES; `parts`: micro-batches that it is cut into."""

    kind: str = "packed"  # or padded, published, loader: packed samples as the data loader brings them
    length: int = SHORT
    step: int = SAMPLES
    parts: int = 1
    dropout: float = 0.1  # of the attention weights; that of the layers is 0.1 always
    compile: bool = False
    graphs: bool = True  # kernels replayed from CUDA graphs, where our packed step can
    backend: str = "auto"


# The most important ones first, as time may end. 32 samples of 512 tokens are as many tokens as 256 of 60.
VARIANTS = (
    Variant(dropout=0.1),
    Variant(dropout=0.1, compile=True),
    Variant(dropout=0.1, graphs=False),
    Variant("published", parts=32),
    Variant("loader", compile=True),
    Variant(dropout=0.0),
    Variant("loader"),
    Variant("padded", parts=8),
    Variant(dropout=0.0, graphs=False),
    Variant(dropout=0.0, compile=True),
    Variant(length=LONG, step=32, dropout=0.1),
    Variant(length=LONG, step=32, dropout=0.0),
    Variant("padded", length=LONG, step=32, dropout=0.1),
    Variant("padded", parts=8, dropout=0.0),
    Variant(parts=2, dropout=0.0),
    Variant(parts=8, dropout=0.0),
    Variant(parts=32, dropout=0.0),
    Variant(step=512, dropout=0.0),
    Variant(step=1024, dropout=0.0),
    Variant(step=512, dropout=0.1),
    Variant(length=LONG, step=64, dropout=0.0),
    Variant(dropout=0.1, compile=True, graphs=False),
    Variant(dropout=0.1, backend="rows"),
    Variant(length=LONG, step=32, dropout=0.0, compile=True),
    Variant("padded", parts=8, compile=True),
)


class Setting(NamedTuple):
    """What all variants share; `samples` stands for SAMPLES, fewer in a test."""

    device: str
    precision: str
    sizes: flops.Sizes
    samples: int
    steps: int  # optimizer steps that are timed


def matrix_product(device: str, precision: str, size: int) -> float:
    """FLOP/s of size x size matrix products in this precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for number in range(2 * PRODUCTS):
        if number == PRODUCTS:
            fits.wait_for(left.device)
            started = time.perf_counter()
        torch.mm(left, right)
    fits.wait_for(left.device)
    return PRODUCTS * flops.MULTIPLY_ADD * size**3 / (time.perf_counter() - started)


# One variant


def scaled(variant: Variant, setting: Setting) -> Variant:
    """The variant for `setting.samples` instead of SAMPLES: the same shares, one sample at least in a micro-batch."""
    step = max(1, variant.step * setting.samples // SAMPLES)
    return variant._replace(step=step, parts=min(variant.parts, step))


def new_model(variant: Variant, setting: Setting) -> BertPretraining:
    options = {"attention_probs_dropout_prob": variant.dropout, "packed": variant.kind in ("packed", "loader")}
    options |= {"attention_backend": variant.backend, "compile": variant.compile, "cuda_graphs": variant.graphs}
    return fits.new_model(setting.sizes.layers, setting.sizes.width, setting.sizes.pieces, **options)


def batches_of(variant: Variant, columns: Columns, setting: Setting, in_rows: bool) -> Batches:
    vocabulary = training_samples.made_up_vocabulary(setting.sizes.pieces)
    size = -(-variant.step // variant.parts)
    return Batches(columns, vocabulary, size, fits.SEED, True, variant.parts, in_rows=in_rows)


def in_turn(built: list, count: int) -> list:
    """`count` of them, over and over: ([a, b], 3) -> [a, b, a]."""
    return (built * -(-count // len(built)))[:count]


def build(batches: Batches, pinned: bool) -> list[Step]:
    steps = [batches.step(0, number) for number in range(min(BUILT, len(batches.order) // step_size(batches)))]
    return [step.pin_memory() for step in steps] if pinned else steps


def step_size(batches: Batches) -> int:
    """Samples of an optimizer step."""
    return batches.batch_size * batches.accumulate


def time_ours(variant: Variant, columns: Columns, setting: Setting) -> tuple[float, str]:
    """(seconds an optimizer step, attention backend), of our step or of our padded one."""
    model, clock = new_model(variant, setting), fits.Clock(WARM_UP)
    limit = {"max_epochs": 1, "limit_train_batches": WARM_UP + setting.steps, "limit_val_batches": 0}
    trainer = fits.new_trainer(setting.device, setting.precision, [clock], **limit)
    fits.make_ready(model, trainer)
    if variant.kind == "loader":
        vocabulary = training_samples.made_up_vocabulary(setting.sizes.pieces)
        trainer.fit(model, datamodule=fits.SampleData(vocabulary, variant.step, columns))
    else:
        built = build(batches_of(variant, columns, setting, model.backend == "rows"), setting.device == "cuda")
        fits.time_steps(model, trainer, in_turn(built, WARM_UP + setting.steps))
    return clock.seconds / clock.steps, model.backend


def time_published(variant: Variant, columns: Columns, setting: Setting) -> tuple[float, str]:
    """The same of baseline_training.step."""
    model = fits.plain(new_model(variant, setting)).to(setting.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    whole = batches_of(variant._replace(parts=1), columns, setting, in_rows=False)
    batches = baseline_training.micro_batches(whole.draw(0, 0), setting.device, -(-variant.step // variant.parts))
    for number in range(1 + max(1, setting.steps // 4)):  # each takes as long as many of ours
        baseline_training.step(model, optimizer, batches, setting.device, setting.precision)
        if number == 0:
            fits.wait_for(model.device)
            started = time.perf_counter()
    fits.wait_for(model.device)
    return (time.perf_counter() - started) / number, "sdpa"


def cost(variant: Variant, columns: Columns, setting: Setting) -> tuple[float, float]:
    """(real tokens, FLOPs that they need) of an optimizer step, the mean of those that are taken.

    Padding needs none: so a padded variant has the MFU of its real tokens too.
    """
    whole = batches_of(variant._replace(parts=1), columns, setting, in_rows=False)
    taken = {"published": 1, "loader": WARM_UP + setting.steps}.get(variant.kind, BUILT)
    drawn = [whole.draw(0, number) for number in range(min(taken, len(whole.order) // whole.batch_size))]
    lengths = [np.diff(batch["cu_seqlens"]) for batch in drawn]
    needed = [
        flops.packed(setting.sizes, each, len(batch["mlm_positions"]))
        for each, batch in zip(lengths, drawn, strict=True)
    ]
    return float(np.mean([each.sum() for each in lengths])), float(np.mean(needed))


def measure(variant: Variant, columns: Columns, setting: Setting, product: float) -> dict:
    """What one variant reached."""
    if setting.device == "cuda":
        gc.collect()  # the module before and its Trainer, which hold each other
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timed = time_published if variant.kind == "published" else time_ours
    seconds, backend = timed(variant, columns, setting)
    tokens, needed = cost(variant, columns, setting)
    peak = torch.cuda.max_memory_allocated() / 1e9 if setting.device == "cuda" else None
    return {
        "attention": backend,
        "milliseconds": round(seconds * 1000, 3),
        "tokens_per_second": round(tokens / seconds),
        "mfu": round(needed / seconds / PEAK, 4),
        "of_product": round(needed / seconds / product, 4),
        "gpu_gigabytes": None if peak is None else round(peak, 2),
        "published_run_minutes": round(seconds * PUBLISHED_STEPS / 60, 1) if variant.step == setting.samples else None,
    }


# All of them


def all_columns(setting: Setting) -> dict[int, Columns]:
    """Made-up samples of each length, enough for every variant."""
    vocabulary = training_samples.made_up_vocabulary(setting.sizes.pieces)
    rng = np.random.default_rng(fits.SEED)
    counts = {
        SHORT: max(BUILT * 4, WARM_UP + setting.steps) * setting.samples,
        LONG: BUILT * max(4, setting.samples // 4),
    }
    return {
        length: training_samples.made_up(count, length, baseline_training.LENGTH, vocabulary, rng)
        for length, count in counts.items()
    }


def outcome(variant: Variant, columns: Columns, setting: Setting, product: float) -> dict:
    """`measure`, or why there is nothing of it: a suite on a lent GPU does not stop at one variant."""
    try:
        return measure(variant, columns, setting, product)
    except Exception as error:
        return {"skipped": f"{type(error).__name__}: {one_sentence(str(error), 200)}"}


def run(setting: Setting, product: float, seconds: float) -> Iterator[dict]:
    """A row of each variant, as soon as it is measured; none is begun after `seconds`."""
    started, columns = time.monotonic(), all_columns(setting)
    for named in VARIANTS:
        variant = scaled(named, setting)
        row = variant._asdict() | {"precision": setting.precision}
        if time.monotonic() - started > seconds:
            row["skipped"] = f"the {seconds:g} seconds were over"
        else:
            row |= outcome(variant, columns[variant.length], setting, product)
        cli.say(line(row))
        yield row


def replayed(row: dict) -> bool:
    """Whether nothing is to be said: of a packed step whose kernels are not replayed from graphs it is."""
    return row["kind"] not in ("packed", "loader") or row.get("graphs", False)


def line(row: dict) -> str:
    """A row to read."""
    compiled = (", compiled" if row["compile"] else "") + ("" if replayed(row) else ", launched one by one")
    cut = f"{row['step']} in {row['parts']}" if row["parts"] > 1 else f"{row['step']}"
    name = f"{row['kind']}, {row['length']} tokens, {cut} samples, dropout {row['dropout']}{compiled}"
    if "skipped" in row:
        return f"{'-':>12}  {name}: {row['skipped']}"
    minutes, memory = row["published_run_minutes"], row["gpu_gigabytes"]
    more = f", {memory} GB" if memory is not None else ""
    more += f", {minutes:,.0f} min for the published run" if minutes is not None else ""
    return (
        f"{row['tokens_per_second']:12,}  {name} ({row['attention']}): {row['milliseconds']:.1f} ms, "
        f"MFU {row['mfu']:.1%}, {row['of_product']:.1%} of a matrix product{more}"
    )
