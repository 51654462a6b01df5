"""Fine-tuning an encoder for a task and predicting with it: heads of transformers, steps of Lightning.

Examples become features once: token ids without padding. A batch is padded to its longest one and has features of about
the same length: of JSTS 2 % of the positions are padding then, and not 37 % (of JCommonsenseQA 4 and not 50 %).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import transformers
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from bert_ja import callbacks
from bert_ja.cli import StageError, say
from bert_ja.jglue import Example, Task

HEADS = {
    "regression": transformers.AutoModelForSequenceClassification,
    "classification": transformers.AutoModelForSequenceClassification,
    "choice": transformers.AutoModelForMultipleChoice,
    "spans": transformers.AutoModelForQuestionAnswering,
}
PADDED = ("input_ids", "token_type_ids", "attention_mask")  # of what a tokenizer gives: one number a token
TARGETS = ("labels", "start_positions", "end_positions")  # of a batch: what is learned
GRADIENT_NORM = 1.0  # clipped at it, as the Trainer of transformers does
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")  # as BERT and its descendants name them
NO_DECAY = ("bias", "LayerNorm.weight", "layer_norm.weight", "norm.weight")


@dataclass(frozen=True)
class Setting:
    """How a model is fine-tuned once, but for the seed."""

    learning_rate: float
    epochs: int
    batch_size: int = 32
    warmup_ratio: float = 0.1  # of all optimizer steps; then linearly to zero
    weight_decay: float = 0.0
    dropout: float = 0.1  # in place of the model's own, see `load_model`


@dataclass(frozen=True)
class Device:
    """Where a model runs, as Lightning names it."""

    accelerator: str = "auto"  # cpu, gpu
    precision: str = "32-true"  # 16-mixed, bf16-mixed


# Features


def encode(tokenizer, types: int, *texts, **options):
    """What a tokenizer makes of texts, with token types where the model has several: some give them only when asked."""
    return tokenizer(*texts, return_token_type_ids=types > 1, return_attention_mask=True, verbose=False, **options)


def _rows(tokenizer, types: int, longest: int, firsts: list[str], seconds: list[str] | None) -> tuple[list[dict], int]:
    """(ids and token types of each text or pair, how many were cut to `longest` tokens, the longer side first)."""
    encoded = encode(tokenizer, types, firsts, *([seconds] if seconds else []))
    names = [name for name in PADDED if name in encoded]
    rows, cut = [], 0
    for number, first in enumerate(firsts):
        row = {name: encoded[name][number] for name in names}
        if len(row["input_ids"]) > longest:
            pair = [first, *([seconds[number]] if seconds else [])]
            row, cut = dict(encode(tokenizer, types, *pair, truncation=True, max_length=longest)), cut + 1
        rows.append(row)
    return rows, cut


def features(task: Task, tokenizer, types: int, longest: int, examples: Sequence[Example]) -> tuple[list, int]:
    """(what a model reads of each example, how many were cut to `longest` tokens): [{"input_ids": ..., "labels": ...}].

    That of a choice has a row for each choice. `types` is how many token types the model has. For answers in a context
    see spans.py.
    """
    labels = [example.label for example in examples]
    if task.kind != "choice":
        pairs = list(zip(*(example.texts for example in examples), strict=True))
        rows, cut = _rows(tokenizer, types, longest, list(pairs[0]), list(pairs[1]) if len(pairs) > 1 else None)
        return [row | {"labels": label} for row, label in zip(rows, labels, strict=True)], cut
    width = len(examples[0].texts) - 1
    questions = [example.texts[0] for example in examples for _ in range(width)]
    rows, cut = _rows(
        tokenizer, types, longest, questions, [text for example in examples for text in example.texts[1:]]
    )
    grouped = [rows[start : start + width] for start in range(0, len(rows), width)]
    return [{"choices": group, "labels": label} for group, label in zip(grouped, labels, strict=True)], cut


def length(feature: dict) -> int:
    """Tokens of a feature; of a choice, of its longest row."""
    return max(len(row["input_ids"]) for row in feature.get("choices", [feature]))


class Collation:
    """Features to a batch, padded to its longest row: tensors (rows, longest); choices (examples, choices, longest)."""

    def __init__(self, tokenizer, kind: str):
        self.tokenizer, self.kind = tokenizer, kind

    def __call__(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        rows = [row for feature in batch for row in feature.get("choices", [feature])]
        names = [name for name in PADDED if name in rows[0]]
        tensors = dict(self.tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt"))
        if self.kind == "choice":
            tensors = {name: value.view(len(batch), -1, value.shape[-1]) for name, value in tensors.items()}
        dtype = torch.float32 if self.kind == "regression" else torch.long
        targets = [name for name in TARGETS if name in batch[0]]
        return tensors | {name: torch.tensor([feature[name] for feature in batch], dtype=dtype) for name in targets}


class Batches(torch.utils.data.Sampler):
    """Numbers of features, a list a batch: drawn anew each epoch, of about the same length, in a random order."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.order = LengthGroupedSampler(batch_size, lengths=lengths, generator=self.generator)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        for at in torch.randperm(len(batches), generator=self.generator).tolist():  # else from long to short
            yield batches[at]


# The model


def _require_encoder(folder: Path, model, missing: Sequence[str]) -> None:
    """Refuse a folder that lacks weights of the encoder: they would be drawn at random, without a word."""
    prefix = model.base_model_prefix + "."
    encoder = [name for name in missing if name.startswith(prefix)]
    if lost := [name for name in encoder if ".pooler." not in name]:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise StageError(f"{folder} has no weights of {lost[0]}{more}: name the folder of a whole encoder")
    if encoder:
        say(f"{folder} has no pooler: it starts at random, like the head of the task")


def load_model(task: Task, folder: Path, random_weights: bool, dropout: float = 0.1):
    """The encoder of a folder under the task's head, whose weights are drawn by torch's generator, as all are of an
    encoder with `random_weights`.

    `dropout` takes the place of that of pre-training, where the architecture names it as BERT does: who pre-trains
    without any fine-tunes with it all the same (Geiping, Goldstein 2023).
    """
    head = HEADS[task.kind]
    config = transformers.AutoConfig.from_pretrained(folder)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    if task.kind in ("regression", "classification"):
        config.num_labels = task.classes
        config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"
    try:
        if random_weights:
            return head.from_config(config, dtype=torch.float32).train()
        model, report = head.from_pretrained(folder, config=config, output_loading_info=True, dtype=torch.float32)
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise StageError(f"{folder} does not load for {task.title}: {reason}") from None
    _require_encoder(folder, model, sorted(report["missing_keys"]))
    return model.train()  # it comes without dropout, and Lightning leaves that so


def _groups(model: torch.nn.Module, decay: float) -> list[dict]:
    """Parameters with weight decay, and those that it spares: biases and LayerNorms."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for name, p in named if not name.endswith(NO_DECAY)], "weight_decay": decay},
        {"params": [p for name, p in named if name.endswith(NO_DECAY)], "weight_decay": 0.0},
    ]


class FineTuning(pl.LightningModule):
    """A model of transformers that is fine-tuned: AdamW, the learning rate up and down linearly."""

    def __init__(self, model: torch.nn.Module, setting: Setting, steps: int):
        super().__init__()
        self.model, self.setting, self.steps = model, setting, steps

    def training_step(self, batch: dict, number: int) -> torch.Tensor:
        return self.model(**batch).loss

    def predict_step(self, batch: dict, number: int) -> list[np.ndarray]:
        """Logits: (examples, classes), or of spans two of (windows, longest), for starts and ends."""
        output = self.model(**{name: value for name, value in batch.items() if name not in TARGETS})
        logits = [output.logits] if "logits" in output else [output.start_logits, output.end_logits]
        return [each.float().cpu().numpy() for each in logits]

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(_groups(self.model, self.setting.weight_decay), lr=self.setting.learning_rate)
        warmup = math.ceil(self.setting.warmup_ratio * self.steps)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Bar(callbacks.ProgressBar):
    """The trainer's bar, under the name of a fine-tuning; predicting takes too little time for one."""

    def __init__(self, title: str):
        super().__init__(leave=False)
        self.title = title

    def init_train_tqdm(self):
        bar = super().init_train_tqdm()
        bar.set_description(self.title)
        return bar

    def init_predict_tqdm(self):
        return pl.callbacks.progress.tqdm_progress.Tqdm(disable=True)


def _trainer(device: Device, epochs: int, title: str) -> pl.Trainer:
    return pl.Trainer(
        accelerator=device.accelerator,
        devices=1,
        precision=device.precision,
        max_epochs=epochs,
        gradient_clip_val=GRADIENT_NORM,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[Bar(title)],
    )


def train(
    model: torch.nn.Module,
    collate: Collation,
    examples: Sequence[dict],
    setting: Setting,
    device: Device,
    seed: int,
    title: str,
) -> tuple[pl.Trainer, FineTuning]:
    """Fine-tune on features, shuffled by the seed; what predicts afterwards."""
    order = Batches([length(example) for example in examples], setting.batch_size, seed)
    batches = DataLoader(examples, batch_sampler=order, collate_fn=collate)
    module = FineTuning(model, setting, setting.epochs * len(batches))
    trainer = _trainer(device, setting.epochs, title)
    trainer.fit(module, batches)
    return trainer, module


def _in_order(found: Iterator[list[np.ndarray]], order: np.ndarray) -> list[list[np.ndarray]]:
    """Rows of predicted batches, put back from `order` into that of the features."""
    rows = [row for batch in found for row in zip(*batch, strict=True)]
    placed: list = [None] * len(rows)
    for place, row in zip(order, rows, strict=True):
        placed[place] = list(row)
    return placed


def predict(
    trainer: pl.Trainer, module: FineTuning, collate: Collation, features: Sequence[dict], batch_size: int
) -> list:
    """Logits of each feature, in their order; longest first through the model."""
    order = np.argsort([-length(feature) for feature in features], kind="stable")
    batches = DataLoader([features[at] for at in order], batch_size, collate_fn=collate)
    return _in_order(trainer.predict(module, batches), order)
