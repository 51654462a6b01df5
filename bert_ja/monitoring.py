"""What a run shows of itself while it trains: metrics.csv, speed, predictions, warnings of what usually goes wrong.

`attach` adds all of it to a trainer, whatever its configuration says. A step that does not log costs a few microseconds
and never waits for the device: what is counted comes with the step, as plain numbers.
"""

import math
import re
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from bert_ja import devices, encoding, files, masking
from bert_ja.cli import StageError, say
from bert_ja.dataset import Batches, Counts, Step, attention_rows
from bert_ja.samples import describe_sample

MASK = "[MASK]"  # in a prompt, whatever the tokenizer calls its own
PROMPTS = ["日本の首都は[MASK]である。", "朝ご飯に[MASK]を食べた。", "この小説は[MASK]年に出版された。"]
LIKELIEST = 5  # predictions of a prompt
PLOTS = {  # of the tab Custom Scalars: what belongs into one plot, as patterns of names
    "MLM": {
        "loss": ["Multiline", ["train_mlm_loss", "val_mlm_loss", "unigram_entropy"]],
        "accuracy": ["Multiline", ["train_mlm_accuracy", "val_mlm_accuracy"]],
    },
    "NSP": {
        "loss": ["Multiline", ["train_nsp_loss", "val_nsp_loss"]],
        "accuracy": ["Multiline", ["train_nsp_accuracy", "val_nsp_accuracy"]],
    },
}
COLUMNS = (
    *("train_loss", "train_mlm_loss", "train_mlm_accuracy", "train_nsp_loss", "train_nsp_accuracy"),
    *("val_loss", "val_mlm_loss", "val_mlm_accuracy", "val_nsp_loss", "val_nsp_accuracy", "unigram_entropy"),
    *("lr", "gradient_norm", "nonfinite_steps", "samples_seen", "tokens_seen", "samples_per_second"),
    *("tokens_per_second", "padding_waste", "mfu", "gpu_memory_gb"),
)


def logs_now(trainer: pl.Trainer) -> bool:
    """Whether Lightning hands on the metrics of the step that has just ended."""
    every = trainer.log_every_n_steps  # 0: never
    return bool(every) and trainer.global_step % every == 0


def log(trainer: pl.Trainer, metrics: dict[str, float]) -> None:
    """Hand metrics of the step that has just ended to all loggers, in a fraction of the time that Lightning takes."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, trainer.global_step - 1)  # Lightning counts steps from 0


def save_logs(trainer: pl.Trainer, *_) -> None:
    """Put on the disk what the step that has just ended has logged, for a checkpoint may be saved next; a hook."""
    if logs_now(trainer):
        for logger in trainer.loggers:
            logger.save()


def tensorboards(trainer: pl.Trainer) -> list:
    """The writers of a run's TensorBoard events; on other ranks than 0 they do nothing."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, pl.loggers.TensorBoardLogger)]


# The table


def as_text(value: float) -> str:
    """A number in a CSV: 8 digits, whole ones as they are."""
    return str(value) if isinstance(value, int) else f"{value:.8g}"


class MetricsFile(pl.loggers.Logger):
    """A CSV with a row for each step that logs and one for each validation; empty fields were not measured there.

    The columns are those of the file's first line. A row is written whole, as soon as all of it has been handed on.
    Steps are counted from 0, as in TensorBoard.
    """

    name = "metrics"

    def __init__(self, path: Path, version: str | int | None = None, columns: tuple[str, ...] = COLUMNS):
        super().__init__()
        self.path, self.columns = path, ("step", "epoch", *columns)
        self._version = version
        self._row: dict[str, float] = {}  # of one step, not written yet

    @property
    def version(self) -> str | int | None:
        """That of the run, which the progress bar shows."""
        return self._version

    def log_hyperparams(self, params, *args, **options) -> None:
        """They stand in config.yaml."""

    @rank_zero_only
    def go_on(self, step: int) -> None:
        """Begin the file, or drop from it what a run that goes on from `step` optimizer steps measures anew.

        A last row that a kill has cut is dropped too.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            file.seek(0)
            header = file.readline()
            if not header.endswith(b"\n"):
                file.truncate(0)
                file.write(",".join(self.columns).encode() + b"\n")
                return
            self.columns, end = tuple(header.decode().strip().split(",")), file.tell()
            for row in file:
                if not row.endswith(b"\n") or int(row.partition(b",")[0]) >= step:
                    break
                end += len(row)
            file.truncate(end)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._row and self._row["step"] != step:
            self.save()
        self._row |= {"step": step} | {name: value for name, value in metrics.items() if name in self.columns}

    @rank_zero_only
    def save(self) -> None:
        """Write the row, unless all its fields would be empty; behind the last metrics of a step or a validation."""
        row, self._row = self._row, {}
        if set(row) - {"step", "epoch"}:
            fields = (as_text(row[name]) if name in row else "" for name in self.columns)
            with open(self.path, "ab") as file:
                file.write(",".join(fields).encode() + b"\n")

    def finalize(self, status: str) -> None:
        self.save()


# Speed


def useful_flops(options, counts: Counts) -> int:
    """Floating-point operations that a step needs, forward and backward; those of padding are not among them.

    Two for each token and weight of a matrix, two for each pair of tokens and hidden unit in both of attention's
    products, and twice as many backward; the head at predicted positions only. What is no matrix product is left out,
    and the pooler.
    """
    hidden, layers = options.hidden_size, options.num_hidden_layers
    inner = options.intermediate_size or 4 * hidden
    matrices = layers * (4 * hidden * hidden + 2 * hidden * inner) * counts.tokens
    products = layers * 2 * hidden * counts.pairs
    head = hidden * (hidden + (options.embedding_rows or options.vocab_size)) * counts.predicted
    return 3 * 2 * (matrices + products + head)


class Throughput(pl.Callback):
    """Logs what a run has seen and how fast, between steps that log, without the time of validation and checkpoints.

    samples_seen and tokens_seen count from the beginning, over restarts (they stand in the checkpoint); rates are of
    real tokens on all devices. The first step, which warms up, is not timed. padding_waste is the share of attention's
    rows that hold no token, mfu the share of the device's peak that useful_flops are, in fp16 or bf16.
    """

    def __init__(self):
        self.samples = self.tokens = 0
        self._since: float | None = None  # perf_counter at which this interval would have begun without its pauses
        self._saved = 0.0  # seconds of checkpoints up to its beginning
        self._paused_at = 0.0
        self._work = Counts(*[0] * len(Counts._fields))  # of this interval

    def state_dict(self) -> dict[str, int]:
        return {"samples": self.samples, "tokens": self.tokens}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.samples, self.tokens = state["samples"], state["tokens"]

    def on_train_start(self, trainer, pl_module) -> None:
        device = trainer.strategy.root_device
        self._on_gpu, self._device = device.type == "cuda", device
        name = torch.cuda.get_device_name(device) if self._on_gpu else "cpu"
        self._peak = devices.peak_flops(name) if "16" in str(trainer.precision) else None  # that of fp16 and bf16

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # at the step's end it is that of the next one

    def on_validation_start(self, trainer, pl_module) -> None:
        if self._since is not None:
            if self._on_gpu:
                torch.cuda.synchronize(self._device)  # steps that are still under way are training
            self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer, pl_module) -> None:
        if self._since is not None:
            self._since += time.perf_counter() - self._paused_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch: Step, batch_idx: int) -> None:
        counts = batch.counts
        self.samples, self.tokens = self.samples + counts.step_samples, self.tokens + counts.step_tokens
        if self._since is None:
            self._begin(trainer)
        else:
            self._work = Counts(*map(int.__add__, self._work, counts))
        if logs_now(trainer):  # so the model has waited for the device, and the time is that of whole steps
            log(trainer, self._measured(trainer, pl_module))
            self._begin(trainer)

    def _begin(self, trainer) -> None:
        self._saved = getattr(trainer.strategy.checkpoint_io, "seconds", 0.0)
        self._work, self._since = Counts(*[0] * len(Counts._fields)), time.perf_counter()

    def _measured(self, trainer, pl_module) -> dict[str, float]:
        work, options = self._work, pl_module.hparams
        metrics = {"lr": self._lr, "samples_seen": self.samples, "tokens_seen": self.tokens}
        if self._on_gpu:
            metrics["gpu_memory_gb"] = torch.cuda.max_memory_reserved(self._device) / 1e9
        if not work.samples:
            return metrics
        seconds = time.perf_counter() - self._since
        seconds -= getattr(trainer.strategy.checkpoint_io, "seconds", 0.0) - self._saved
        places = {"rows": work.places, "padded": work.samples * options.max_position_embeddings}
        metrics |= {
            "samples_per_second": work.step_samples / seconds,
            "tokens_per_second": work.step_tokens / seconds,
            "padding_waste": 1 - work.tokens / places.get(pl_module.backend, work.tokens),
        }
        return metrics | ({"mfu": useful_flops(options, work) / seconds / self._peak} if self._peak else {})


class Hardware(pl.Callback):
    """Says in each checkpoint what the run was trained on and for how long, validation included, over all its parts.

    {"device": "NVIDIA H100 80GB HBM3", "devices": 8, "seconds": 4711.2} of each part; parts on the same are one.
    Checkpoints of one step say the same: they are one to test.py and release_model.py.
    """

    def __init__(self):
        self._before: list[dict] = []
        self._since: float | None = None
        self._said: tuple[int, list[dict]] | None = None  # step and parts of the newest checkpoint

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        self._before = checkpoint.get("hardware") or []

    def on_train_start(self, trainer, pl_module) -> None:
        self._own = {"device": devices.name_of(trainer.strategy.root_device), "devices": trainer.world_size}
        self._since = time.monotonic()

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        if self._said is None or self._said[0] != trainer.global_step:
            self._said = trainer.global_step, self.parts()
        checkpoint["hardware"] = self._said[1]

    def parts(self) -> list[dict]:
        """Those of the run up to now."""
        if self._since is None:
            return self._before
        before, seconds = list(self._before), time.monotonic() - self._since
        if before and {name: before[-1][name] for name in self._own} == self._own:
            seconds += before.pop()["seconds"]
        return [*before, self._own | {"seconds": round(seconds, 1)}]


# Health


class Recent:
    """The mean of a metric over the last steps that logged: as few as hold `evidence` samples, `fewest` at least."""

    def __init__(self, evidence: int = 5_000, fewest: int = 10):
        self.evidence, self.fewest = evidence, fewest
        self._values: deque[tuple[float, int]] = deque()
        self._samples = 0

    def add(self, value: float, samples: int) -> None:
        self._values.append((value, samples))
        self._samples += samples
        while len(self._values) > self.fewest and self._samples - self._values[0][1] >= self.evidence:
            self._samples -= self._values.popleft()[1]

    @property
    def mean(self) -> float | None:
        """None while there are too few."""
        if len(self._values) < self.fewest or self._samples < self.evidence:
            return None
        return sum(value for value, _ in self._values) / len(self._values)


class Health(pl.Callback):
    """Warns, once each, when a loss stays where a model that learns has left it long ago, and names the likely cause.

    A healthy BERT stays near the unigram entropy, with NSP at chance, for some thousand steps, so nothing is said of
    that before the warm-up is over twice, nor before LONG steps and samples. The entropy is logged beside the losses.

    Args:
        entropy: Unigram entropy of the training tokens, nats.
        lr: Learning rate after the warm-up.
        warmup: Steps of the warm-up.
        objective: Second task of the samples, "nsp" or "sop".
    """

    LONG_STEPS, LONG_SAMPLES = 5_000, 500_000
    AT_ENTROPY = 0.95  # of it; positions alone, without words, bring a model a few hundredths below
    AT_CHANCE, SOLVED, SOLVED_TOO = 0.55, 0.995, 0.99  # NSP accuracies; the last one in validation
    LOW_RATE = 2e-5

    def __init__(self, entropy: float, lr: float, warmup: int, objective: str = "nsp"):
        self.entropy, self.lr, self.warmup, self.objective = entropy, lr, warmup, objective
        self._mlm, self._nsp = Recent(), Recent()
        self._validated = 0.0  # the newest val_nsp_accuracy
        self._said: set[str] = set()

    def on_train_start(self, trainer, pl_module) -> None:
        for board in tensorboards(trainer):
            board.add_custom_scalars(PLOTS)

    def on_validation_end(self, trainer, pl_module) -> None:
        self._validated = float(trainer.callback_metrics.get("val_nsp_accuracy", 0.0))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch: Step, batch_idx: int) -> None:
        if not logs_now(trainer):
            return
        log(trainer, {"unigram_entropy": self.entropy})
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train_")}
        for warning in self.judge(trainer.global_step, trainer.current_epoch, batch.counts.step_samples, metrics):
            if trainer.is_global_zero:
                say(f"warning: {warning}")

    def judge(self, step: int, epoch: int, samples: int, metrics: dict[str, float]) -> list[str]:
        """What is to be warned of for the first time after `step` steps of `samples`; `metrics` are of that step."""
        for name, recent in (("train_mlm_loss", self._mlm), ("train_nsp_accuracy", self._nsp)):
            if math.isfinite(value := metrics.get(name, math.nan)):
                recent.add(value, samples)
        long = step >= self.warmup + max(self.warmup, self.LONG_STEPS) and step * samples >= self.LONG_SAMPLES
        mlm, nsp = self._mlm.mean, self._nsp.mean
        solved = nsp is not None and nsp >= self.SOLVED and (epoch == 0 or self._validated >= self.SOLVED_TOO)
        found = {
            "mlm": long and mlm is not None and mlm > self.AT_ENTROPY * self.entropy,
            "chance": long and nsp is not None and nsp < self.AT_CHANCE,
            "solved": solved and step > self.warmup,
        }
        new = [name for name, here in found.items() if here and name not in self._said]
        self._said.update(new)
        sentences = {"mlm": self._at_entropy, "chance": self._at_chance, "solved": self._solved}
        return [sentences[name](step, samples) for name in new]

    def _at_entropy(self, step: int, samples: int) -> str:
        rate = f"model.lr {self.lr:g} is too low: start again with 1e-4"
        if self.lr > self.LOW_RATE:
            rate = (
                f"model.lr {self.lr:g} is too high for {samples:,} samples a step, or reached too fast: start again "
                f"with {self.lr / 3:.1g}, or with more than the {self.warmup:,} model.num_warmup_steps"
            )
        return (
            f"after {step:,} steps the MLM loss is {self._mlm.mean:.3f}, still at the unigram entropy of "
            f"{self.entropy:.3f}: the model knows how frequent tokens are and nothing of their context. Most likely "
            f"{rate}; if that does not help, look whether the samples read like text"
        )

    def _at_chance(self, step: int, samples: int) -> str:
        task = {"sop": "A and B in order look like A and B exchanged", "nsp": "a true B looks like a random one"}
        return (
            f"after {step:,} steps the NSP accuracy is {self._nsp.mean:.3f}, still that of chance: "
            f"{task[self.objective]}. Most likely the lines of the text do not stand in the order of a document "
            "(shuffled, or lines removed one by one): look at the text, or make the samples with --objective none"
        )

    def _solved(self, step: int, samples: int) -> str:
        task = {
            "nsp": "a random B gives itself away, as by another source, language or format than A's: make the samples "
            "with a smaller --buffer_size, which takes it from nearby, or with --objective sop",
            "sop": "the first part gives itself away, as by a headline: take those lines out of the text, or make the "
            "samples with --objective none",
        }
        return (
            f"after {step:,} steps the NSP accuracy is {self._nsp.mean:.3f} on samples that the model has not seen: "
            f"the task teaches nothing. Most likely {task[self.objective]}"
        )


# Examples


def first_sample(batches: Batches, key: tuple[int, int, int], encoder: encoding.Encoder) -> str:
    """The first sample of an optimizer step in words, with its masks; `key` as of EpochSampler.keys."""
    epoch, number, skipped = key
    drawn = batches.draw(epoch, number * batches.accumulate, skipped)
    before = drawn["input_ids"].copy()
    before[drawn["mlm_positions"]] = drawn["mlm_labels"]
    masked = masking.MaskedBatch(drawn["input_ids"], drawn["mlm_positions"], drawn["mlm_labels"])
    label = f"next_sentence_label {drawn['next_sentence_labels'][0]}, " if "next_sentence_labels" in drawn else ""
    return f"first sample ({label}{{token→masked}}): {describe_sample(before, drawn['cu_seqlens'], masked, 0, encoder)}"


def encode_prompt(prompt: str, encoder: encoding.Encoder) -> tuple[list[int], int]:
    """[CLS] prompt [SEP] as ids, and the place of its mask."""
    before, after = encoder.encode(prompt.split(MASK))
    special = encoder.vocabulary
    return [special.cls, *before, special.mask, *after, special.sep], 1 + len(before)


def likeliest(model, ids: list[int], place: int) -> list[tuple[int, float]]:
    """(id, probability in %) of the LIKELIEST tokens at a place of a sample, best first."""
    ends = np.array([0, len(ids)])
    places, rows = attention_rows(np.diff(ends))
    sample = {
        **{"input_ids": np.array(ids), "token_type_ids": np.zeros_like(ids), "position_ids": np.arange(len(ids))},
        **{"cu_seqlens": ends, "longest": len(ids), "places": places, "rows": rows},
        "mlm_positions": np.array([place]),
    }
    (batch,) = Step.of([sample]).to(model.device).micro_batches()
    found = (100 * model(batch)[0][0].float().softmax(-1)).topk(LIKELIEST)
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, in a table too."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|>])", r"\\\1", text)


class Examples(pl.Callback):
    """What a reader can judge: a sample with its masks at the start, predictions for prompts at each validation.

    The predictions are a table in TensorBoard's text. Never part of a run on a private corpus.
    """

    def __init__(self, encoder: encoding.Encoder, prompts: list[str], positions: int):
        self.encoder, self.prompts = encoder, {prompt: encode_prompt(prompt, encoder) for prompt in prompts}
        for prompt, (ids, _) in self.prompts.items():
            if len(ids) > positions:
                raise StageError(
                    f"data.prompts: {prompt[:20]}... has {len(ids):,} tokens, the model reads {positions:,} "
                    "(model.max_position_embeddings): shorten it"
                )

    def on_train_start(self, trainer, pl_module) -> None:
        loader = trainer.train_dataloader
        key = next(loader.sampler.keys(), None)
        if key is not None and trainer.is_global_zero:
            say(first_sample(loader.dataset.batches, key, self.encoder))

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not self.prompts:
            return
        with trainer.precision_plugin.forward_context():
            table = self.table(pl_module)
        for board in tensorboards(trainer):
            board.add_text("fill_mask", table, trainer.global_step - 1)

    def table(self, model) -> str:
        """One row a prompt, in Markdown: | 朝ご飯に[MASK]を食べた。 | パン 31.2 % | ... |"""
        rows = [["prompt", *map(str, range(1, LIKELIEST + 1))], ["---"] * (LIKELIEST + 1)]
        for prompt, (ids, place) in self.prompts.items():
            found = likeliest(model, ids, place)
            pieces = map(escaped, self.encoder.shown([token for token, _ in found]))
            filled = (f"{piece} {share:.1f} %" for piece, (_, share) in zip(pieces, found, strict=True))
            rows.append([escaped(prompt), *filled])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def require_prompts(prompts: list[str]) -> None:
    """Raise StageError unless each has one mask."""
    if wrong := [prompt for prompt in prompts if prompt.count(MASK) != 1]:
        raise StageError(f"data.prompts: {', '.join(map(repr, wrong))} must have one {MASK} each")


# All of it


def attach(trainer: pl.Trainer, model, data, entropy: float) -> None:
    """Add what this module has to a trainer, in front of its own callbacks; before that, all of `data` is required."""
    options = model.hparams
    objective = ((data.records["train"][0] or {}).get("options") or {}).get("objective", "nsp")
    added = [Throughput(), Hardware(), Health(entropy, options.lr, options.num_warmup_steps, objective)]
    if files.corpus_facts(model.provenance)["private"]:
        say("a sample and predictions for data.prompts: not shown, the corpus is private")
    else:
        encoder = encoding.open_encoder(data.tokenizer_model)
        added.append(Examples(encoder, data.prompts, options.max_position_embeddings))
    if not trainer.fast_dev_run:
        columns = (*COLUMNS, *(name for name in model.monitored if name not in COLUMNS))
        table = MetricsFile(Path(trainer.log_dir) / "metrics.csv", trainer.logger.version, columns)
        added.append(pl.callbacks.LambdaCallback(on_train_start=lambda trainer, _: table.go_on(trainer.global_step)))
        trainer.loggers.append(table)
    added.append(pl.callbacks.LambdaCallback(on_train_batch_end=save_logs))
    trainer.callbacks[:0] = added
