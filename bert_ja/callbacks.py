"""Callbacks and plugins of the training loop: checkpoints that are whole, saved under the metric of their own step."""

import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from bert_ja import files
from bert_ja.cli import StageError


class ModelCheckpoint(pl.callbacks.ModelCheckpoint):
    """Lightning's ModelCheckpoint, but a step's checkpoint waits for the next validation.

    With `monitor: val_loss` and `every_n_train_steps`, Lightning saves before the validation of the step, under the
    val_loss of an earlier one. Here the first validation at or behind each multiple of `every_n_train_steps` saves.
    (Validation counts batches from the beginning of an epoch, so that the two meet exactly in the first one only.)
    """

    _last_candidate = 0  # the step of the newest one, whether it was among the best or not

    def on_fit_start(self, trainer, pl_module) -> None:
        super().on_fit_start(trainer, pl_module)
        if self.monitor not in (None, *pl_module.MONITORED):
            names = ", ".join(pl_module.MONITORED)
            raise StageError(f"the checkpoints' monitor {self.monitor!r} is not measured: name one of {names}")
        every, steps = self._every_n_train_steps, trainer.estimated_stepping_batches
        if self.monitor is not None and every > steps and not trainer.fast_dev_run:
            raise StageError(
                f"the checkpoints' every_n_train_steps is {every:,}, the run has {steps:,} optimizer steps and would "
                "leave none: lower it"
            )

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_candidate = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.monitor is None or self._every_n_train_steps < 1:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer, pl_module) -> None:
        if self.monitor is None or self._every_n_train_steps < 1:
            super().on_validation_end(trainer, pl_module)
        elif self._multiples(trainer.global_step) > self._multiples(self._last_candidate) and (
            not self._should_skip_saving_checkpoint(trainer)
        ):
            self._last_candidate = trainer.global_step
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)

    @property
    def kept(self) -> int:
        """How many checkpoints stand on the disk at once, the one that is being written among them."""
        return max(self.save_top_k, 1) + bool(self.save_last) + 1

    def _multiples(self, step: int) -> int:
        return step // self._every_n_train_steps


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name and renames it once it is on the disk: a kill never leaves half a one."""

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        with files.output(Path(os.fspath(path))) as output:
            torch.save(checkpoint, output)
