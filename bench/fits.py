"""Our own training step, timed as it runs in production: the real Trainer, module, data module and loader."""

import time

import pytorch_lightning as pl
import torch
from transformers import BertForPreTraining

from bench import baseline_training, runs
from bert_ja import masking, training
from bert_ja.dataset import Columns, Step
from bert_ja.pretraining import BertPretraining
from bert_ja.tokenization import Vocabulary

SEED = 1000
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
HEAD_WIDTH = 64  # of an attention head, as in BERT
QUIET = {
    "max_epochs": -1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # as in training.TrainingCLI
}


class SampleData(training.PretrainingData):
    """The data module of a run, its loader with a worker and all, on columns at hand: no tokenizer, no records."""

    def __init__(self, vocabulary: Vocabulary, batch_size: int, train: Columns, valid: Columns | None = None):
        pl.LightningDataModule.__init__(self)
        self.vocabulary, self.batch_size, self.seed, self.num_workers = vocabulary, batch_size, SEED, 1
        self.accumulate, self.consumed, self.rule, self.mlm_probability_end = 1, 0, masking.MaskingRule(), None
        self._columns = {"train": [train]} | ({"valid": [valid]} if valid else {})
        self.shares = {part: {part: 1.0} for part in self._columns}


def machine(device: str) -> dict:
    """runs.machine() with the device that trains, its memory, and the threads of torch."""
    on = runs.machine()
    if device == "cpu":
        return on | {"device": "cpu", "threads": torch.get_num_threads()}
    card = torch.cuda.get_device_properties(0)
    return on | {
        "device": card.name,
        "gpu_gigabytes": round(card.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def wait_for(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock(pl.Callback):
    """Times a run from the end of its optimizer step `warm_up` to the end of the last one, the device waited for."""

    def __init__(self, warm_up: int):
        self.warm_up, self.steps = warm_up, 0
        self.seconds = self.thread_seconds = 0.0  # wall; CPU of this thread alone

    def _read(self, device: torch.device) -> None:
        """At first what the clocks say, then what has passed since."""
        wait_for(device)
        self.seconds = time.perf_counter() - self.seconds
        self.thread_seconds = time.thread_time() - self.thread_seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps = batch_idx + 1 - self.warm_up
        if self.steps == 0:
            self._read(pl_module.device)

    def on_train_end(self, trainer, pl_module) -> None:
        self._read(pl_module.device)


def heads_of(width: int) -> int:
    return max(1, width // HEAD_WIDTH)


def new_model(layers: int, width: int, pieces: int, kind: type = BertPretraining, **options) -> BertPretraining:
    """A model of this size, the same each time; the published dropout of 0.1 unless `options` say otherwise."""
    torch.manual_seed(SEED)
    return kind(pieces, width, layers, heads_of(width), **options)


def plain(model: BertPretraining) -> BertForPreTraining:
    """The unmodified model inside, with the attention that transformers takes by itself, in training mode."""
    model.model.set_attn_implementation("sdpa")
    return model.model.train()


def new_trainer(device: str, precision: str, callbacks: list[pl.Callback] | None = None, **options) -> pl.Trainer:
    accelerator = {"accelerator": "gpu" if device == "cuda" else "cpu", "devices": 1}
    return pl.Trainer(**accelerator, precision=PRECISIONS[precision], callbacks=callbacks, **(QUIET | options))


def make_ready(model: BertPretraining, trainer: pl.Trainer) -> None:
    """What trainer.py sets before a run: clipping, and the attention for device and precision."""
    model.gradient_clip_val = baseline_training.CLIP
    model.choose_attention(trainer.strategy.root_device, training.attention_dtype(trainer))


def time_steps(model: BertPretraining, trainer: pl.Trainer, steps: list[Step]) -> None:
    """Take these optimizer steps, which are built already; one of the trainer's callbacks is a Clock."""
    trainer.fit(model, torch.utils.data.DataLoader(steps, batch_size=None))


@torch.no_grad()
def losses(model: BertPretraining, step: Step, device: str, precision: str) -> tuple[float, float]:
    """(MLM, NSP) in nats: means over all predicted tokens and all samples of a step, without dropout."""
    model.eval()
    mlm, nsp, predicted, samples = 0.0, 0.0, 0.0, 0.0
    for batch in step.to(device).micro_batches():
        with baseline_training.autocast(device, precision):
            totals = model.totals(batch)
        mlm, nsp = mlm + float(totals["mlm_loss"]), nsp + float(totals["nsp_loss"])
        predicted, samples = predicted + float(totals["masked_tokens"]), samples + float(totals["nsp_samples"])
    model.train()
    return mlm / predicted, nsp / samples
