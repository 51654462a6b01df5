"""Whether a micro-batch fits into the memory of a GPU: found by a step at the largest shapes, before a run begins.

Samples are ragged, so a run meets its largest micro-batch at any hour. Here one is made up that is larger than nearly
all that it will draw, and trained on without an update; where it does not fit, the sizes that do are tried and named.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytorch_lightning as pl
import torch

from bert_ja import files
from bert_ja.cli import StageError, say
from bert_ja.dataset import Batches, Columns, Step
from bert_ja.plan import MOMENTS

DEVIATIONS = 7  # of the tokens of a micro-batch, above their mean: a normal one is larger once in 10**12
BLOCK = 1 << 20  # samples whose lengths are looked at at once


def _moments(columns: Columns) -> tuple[int, int, int]:
    """(samples, sum of their lengths, sum of the squares of their lengths)."""
    tokens = squares = 0
    for start in range(0, len(columns), BLOCK):
        number = np.arange(start, min(start + BLOCK, len(columns)))
        lengths = columns.ends[number] - columns.starts(number)
        tokens, squares = tokens + int(lengths.sum()), squares + int((lengths**2).sum())
    return len(columns), tokens, squares


def largest_lengths(sources: list[Columns], batch_size: int) -> np.ndarray:
    """Lengths of a micro-batch of so many samples that is larger than any that is likely to be drawn, int64.

    One sample is the longest of all, the others share what DEVIATIONS above the mean leaves: from half their mean to
    one and a half, since equal ones might fill no row.
    """
    samples, tokens, squares = (sum(each) for each in zip(*map(_moments, sources), strict=True))
    mean, longest = tokens / samples, max(columns.longest for columns in sources)
    deviation = max(0.0, squares / samples - mean**2) ** 0.5
    others = batch_size - 1
    most = min(others * longest, round(others * mean + DEVIATIONS * deviation * others**0.5))
    spread = min(0.5, longest * others / max(most, 1) - 1)
    weights = np.linspace(1 - spread, 1 + spread, others)
    ends = np.rint(most * np.cumsum(weights) / weights.sum()).astype(np.int64)
    return np.concatenate([[longest], np.minimum(np.diff(ends, prepend=0), longest)])


def step_of(lengths: np.ndarray, batches: Batches) -> Step:
    """An optimizer step of one micro-batch of samples of these lengths, of [MASK] alone.

    It predicts an eighth more of them than usual, and one for each sample, as short samples do.
    """
    vocabulary, rate = batches.vocabulary, batches.highest_rate
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    tokens = int(cu_seqlens[-1])
    predicted = np.arange(min(tokens, round(1.125 * rate * tokens) + len(lengths)))
    batch = {
        "input_ids": np.full(tokens, vocabulary.mask),
        "token_type_ids": np.zeros(tokens, dtype=np.int64),
        "position_ids": np.arange(tokens) - np.repeat(cu_seqlens[:-1], lengths),
        "mlm_positions": predicted,
        "mlm_labels": np.full(len(predicted), vocabulary.mask),
        "cu_seqlens": cu_seqlens,
    }
    if batches.sources[0].paired:
        batch["next_sentence_labels"] = np.zeros(len(lengths), dtype=np.int64)
    return Step.of([batches.for_attention(batch)])


def smaller(batch_size: int, accumulate: int) -> Iterator[tuple[int, int]]:
    """(batch_size, accumulate) of the same samples a step in ever smaller micro-batches: (6, 1) -> (3, 2), (2, 3)."""
    samples = batch_size * accumulate
    for size in range(batch_size - 1, 0, -1):
        if samples % size == 0:
            yield size, samples // size


def trial(module: pl.LightningModule, step: Step) -> bool:
    """Whether forward and backward of a step and an optimizer's moments fit; nothing of the module is changed."""
    try:
        # The optimizer has no state before its first step.
        moments = [torch.empty_like(parameter) for parameter in module.parameters() for _ in range(MOMENTS)]
        with module.trainer.precision_plugin.forward_context():
            for batch in step.to(module.device).micro_batches():
                totals = module.totals(batch)
                (totals["mlm_loss"] + totals["nsp_loss"]).backward()
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        totals = moments = None  # noqa: F841
        module.zero_grad()


def require_fits(batches: Batches, fits: Callable[[Step], bool], device: str) -> None:
    """Refuse a batch_size whose largest micro-batch does not fit; names the largest one that does and trains alike."""

    def works(batch_size: int) -> bool:
        return fits(step_of(largest_lengths(batches.sources, batch_size), batches))

    if works(batches.batch_size):
        return
    asked = f"data.batch_size {batches.batch_size} does not fit into the memory of {device}"
    for size, accumulate in smaller(batches.batch_size, batches.accumulate):
        if works(size):
            raise StageError(
                f"{asked}: data.batch_size {size} and trainer.accumulate_grad_batches {accumulate} train the same, and "
                "fit"
            )
    raise StageError(f"{asked}, nor does a single sample: make shorter samples (--max_seq_len), or a smaller model")


class MemoryTrial(pl.Callback):
    """Tries the largest micro-batch on a GPU when a run begins. A CPU swaps instead, and takes long for a step.

    Args:
        batches: Those of the run; the data module's when not given.
    """

    def __init__(self, batches: Batches | None = None):
        self.batches, self.largest = batches, None

    def on_fit_start(self, trainer, pl_module) -> None:
        if pl_module.device.type != "cuda":
            return
        batches = self.batches or trainer.datamodule.batches()
        card = torch.cuda.get_device_properties(pl_module.device)
        pl_module.train()
        require_fits(batches, lambda step: trial(pl_module, step), card.name)
        self.largest = step_of(largest_lengths(batches.sources, batches.batch_size), batches)
        peak, whole = (size / files.MEGABYTE for size in (torch.cuda.max_memory_allocated(), card.total_memory))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        say(f"memory: {peak:,.0f} of {whole:,.0f} MB at the largest micro-batch")

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        """Let graphs begin with the largest micro-batch: their memory then suffices for all."""
        if self.largest is not None and pl_module.graphs is not None:
            with trainer.precision_plugin.forward_context():
                for batch in self.largest.to(pl_module.device).micro_batches():
                    pl_module.graphs.prepare(batch)
        self.largest = None
