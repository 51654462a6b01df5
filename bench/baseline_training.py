"""The published training step, which bench_training.py compares with, in plain PyTorch.

Micro-batches of 8 samples, all padded to 512 tokens, go through an unmodified BertForPreTraining with all positions
through its vocabulary-sized head; the loss is the mean of micro-batch means; then clipping, and Adam as torch has it.
Attention is what transformers takes by itself today (scaled_dot_product_attention with a mask), which is faster than
what the published run had.
"""

import contextlib

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import BertForPreTraining

from bert_ja.samples import NOT_MASKED

LENGTH = 512  # tokens that a sample is padded to
BATCH = 8  # samples of a micro-batch
CLIP = 1.0  # largest norm of a step's gradient


def pad(drawn: dict[str, np.ndarray], length: int = LENGTH) -> dict[str, torch.Tensor]:
    """Masked samples of Batches.draw, each in a row of `length`: what BertForPreTraining takes, (samples, length)."""
    begins, lengths = drawn["cu_seqlens"][:-1], np.diff(drawn["cu_seqlens"])
    sample = np.repeat(np.arange(len(lengths)), lengths)  # of each token
    place = np.arange(len(sample)) - begins[sample]
    rows = {
        name: np.zeros((len(lengths), length), dtype=np.int64)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    rows["input_ids"][sample, place] = drawn["input_ids"]
    rows["token_type_ids"][sample, place] = drawn["token_type_ids"]
    rows["attention_mask"][sample, place] = 1
    rows["labels"] = np.full((len(lengths), length), NOT_MASKED)
    predicted = drawn["mlm_positions"]
    rows["labels"][sample[predicted], place[predicted]] = drawn["mlm_labels"]
    rows["next_sentence_label"] = drawn["next_sentence_labels"]
    return {name: torch.from_numpy(np.array(values, dtype=np.int64)) for name, values in rows.items()}


def micro_batches(drawn: dict[str, np.ndarray], device: str = "cpu", size: int = BATCH) -> list[dict]:
    """The samples of one optimizer step, padded, `size` at a time."""
    rows = pad(drawn)
    parts = {name: values.to(device).split(size) for name, values in rows.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    """bf16 as torch mixes it with fp32, or fp32 alone."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def step(
    model: BertForPreTraining, optimizer: torch.optim.Optimizer, batches: list[dict], device: str, precision: str
) -> None:
    """One optimizer step."""
    for batch in batches:
        with autocast(device, precision):
            loss = model(**batch).loss / len(batches)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def losses(model: BertForPreTraining, batches: list[dict], device: str, precision: str) -> tuple[float, float]:
    """(MLM, NSP) in nats: means over all predicted tokens and all samples of the batches, without dropout."""
    model.eval()
    mlm, nsp, predicted, samples = 0.0, 0.0, 0, 0
    for batch in batches:
        with autocast(device, precision):
            output = model(**batch)
        labels, pairs = batch["labels"].flatten(), batch["next_sentence_label"]
        logits = output.prediction_logits.flatten(0, 1).float()
        mlm += float(cross_entropy(logits, labels, ignore_index=NOT_MASKED, reduction="sum"))
        nsp += float(cross_entropy(output.seq_relationship_logits.float(), pairs, reduction="sum"))
        predicted, samples = predicted + int((labels != NOT_MASKED).sum()), samples + len(pairs)
    model.train()
    return mlm / predicted, nsp / samples
