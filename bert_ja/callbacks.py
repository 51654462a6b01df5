"""Callbacks and plugins of the training loop: checkpoints that are whole, saved under the metric of their own step, the
state of Lightning's loops that a run goes on from, the end that several processes agree on, and the bar of progress.
"""

import datetime
import os
import signal
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from bert_ja import files
from bert_ja.cli import StageError, say

SHOWN_EVERY, LOGGED_EVERY = 1.0, 60.0  # seconds from one look of the progress bar to the next: on a terminal, in a file


class ProgressBar(pl.callbacks.TQDMProgressBar):
    """Lightning's bar, drawn anew now and then: after each step it would cost the main thread milliseconds."""

    _shown = -LOGGED_EVERY

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.train_progress_bar.n = batch_idx + 1  # or a validation would draw an older number
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _should_update(self, current: int, total: int | float) -> bool:
        now = time.monotonic()
        every = SHOWN_EVERY if sys.stdout.isatty() else LOGGED_EVERY
        if not self.is_enabled or (now - self._shown < every and current != total):
            return False
        self._shown = now
        return True


class ModelCheckpoint(pl.callbacks.ModelCheckpoint):
    """Lightning's ModelCheckpoint, but a step's checkpoint waits for the next validation.

    With `monitor: val_loss` and `every_n_train_steps`, Lightning saves before the validation of the step, under the
    val_loss of an earlier one. Here the first validation at or behind each multiple of `every_n_train_steps` saves.
    (Validation counts batches from the beginning of an epoch, so that the two meet exactly in the first one only.)
    """

    _last_candidate: int | None = None  # the newest one's step, whether it was among the best or not; of all parts

    def require_possible(self, monitored: tuple[str, ...], steps: float) -> None:
        """Refuse a monitor that is not among what is measured, and an interval longer than a run of so many steps."""
        if self.monitor not in (None, *monitored):
            names = ", ".join(monitored)
            raise StageError(f"the checkpoints' monitor {self.monitor!r} is not measured: name one of {names}")
        every = self._every_n_train_steps
        if self.monitor is not None and every > steps:
            raise StageError(
                f"the checkpoints' every_n_train_steps is {every:,}, the run has {steps:,} optimizer steps and would "
                "leave none: lower it"
            )

    def state_dict(self) -> dict:
        return super().state_dict() | {"last_candidate": self._last_candidate}

    def load_state_dict(self, state_dict: dict) -> None:
        """Goes on in the folder where the run stands now, should it have been moved, and with its `last.ckpt`."""
        moved = {
            name: os.path.join(self.dirpath, os.path.basename(path)) if path else path
            for name, path in state_dict.items()
            if name in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        best = {
            os.path.join(self.dirpath, os.path.basename(path)): score
            for path, score in state_dict.get("best_k_models", {}).items()
        }
        super().load_state_dict(state_dict | moved | {"dirpath": self.dirpath, "best_k_models": best})
        self._enable_version_counter = False  # or a second last.ckpt would stand beside the first
        self._last_candidate = state_dict.get("last_candidate")

    def on_train_start(self, trainer, pl_module) -> None:
        super().on_train_start(trainer, pl_module)
        if self._last_candidate is None:  # of a run that begins, or that goes on with other options of this callback
            self._last_candidate = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.monitor is None or self._every_n_train_steps < 1:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer, pl_module) -> None:
        if self.monitor is None or self._every_n_train_steps < 1:
            super().on_validation_end(trainer, pl_module)
        elif not self._should_skip_saving_checkpoint(trainer) and (
            self._multiples(trainer.global_step) > self._multiples(self._last_candidate)
        ):
            self._last_candidate = trainer.global_step
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)

    def on_train_end(self, trainer, pl_module) -> None:
        """The steps behind the last validation are not lost."""
        if self.save_last and self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _should_remove_checkpoint(self, trainer, previous: str, current: str) -> bool:
        """Lightning keeps the one that a run goes on from for ever."""
        return previous != current

    @property
    def kept(self) -> int:
        """How many checkpoints stand on the disk at once, the one that is being written among them."""
        return max(self.save_top_k, 1) + bool(self.save_last) + 1

    def _multiples(self, step: int) -> int:
        return step // self._every_n_train_steps


class Resumption(pl.Callback):
    """Makes of every run one that can be gone on with, between two optimizer steps.

    SIGTERM saves `last.ckpt`: Lightning lets it end a run there only. A run that goes on begins where its data stands,
    or with the validation that was ended: also behind its last step, where Lightning has nothing left to do.
    """

    _behind_last = False  # whether a validation behind the last step is to be done

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        pl_module.consumed, due = checkpoint["consumed_samples"], checkpoint["validation_due"]
        epoch, done = trainer.datamodule.place(due)
        between_steps(checkpoint["loops"], checkpoint["global_step"], epoch, done, due)
        self._behind_last = due and checkpoint["global_step"] >= trainer.max_steps >= 0

    def on_fit_start(self, trainer, pl_module) -> None:
        """Let Lightning enter its loop once more; the schedule has been made, for the true number of steps."""
        self._steps = trainer.max_steps
        if self._behind_last:
            trainer.fit_loop.epoch_loop.max_steps = -1

    def on_validation_end(self, trainer, pl_module) -> None:
        if self._behind_last:
            trainer.fit_loop.epoch_loop.max_steps, self._behind_last = self._steps, False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Refuse to train on where Lightning finds no validation to be done; at the end of a run too."""
        if self._behind_last:
            raise StageError(
                f"the run has its {trainer.global_step:,} optimizer steps already, and these options leave out the "
                "validation behind them that was ended: give val_every_n_steps, trainer.val_check_interval, "
                "trainer.limit_val_batches and trainer.max_time as they were"
            )

    def on_fit_end(self, trainer, pl_module) -> None:
        self.on_train_batch_start(trainer, pl_module, None, 0)

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and trainer.checkpoint_callback and trainer.global_step:
            pl_module.validation_due = trainer.validating
            folder = trainer.checkpoint_callback.dirpath or os.path.join(trainer.log_dir, "checkpoints")
            trainer.save_checkpoint(os.path.join(folder, "last.ckpt"))


class EndTogether(pl.Callback):
    """Ends a run of several processes between the same two steps of all when SIGTERM has reached one of them.

    Lightning exchanges tensors in the handler of the signal, in the middle of whatever the process was exchanging, and
    waits for the device before each step. Here the signal is noted, and before each step and each batch of a validation
    the processes agree, on their CPUs.
    """

    def __init__(self):
        self._noted, self._group = False, None

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.world_size == 1:
            return
        self._group = self._group or torch.distributed.new_group(backend="gloo")
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # Lightning's way of agreeing
        launcher = trainer.strategy.launcher

        def note(number: int, frame: object) -> None:
            if not self._noted and launcher is not None:
                launcher.kill(number)  # the processes that this one has started
            self._noted = True

        signal.signal(signal.SIGTERM, note)  # Lightning puts the handler of before back when the run ends

    on_sanity_check_start = on_train_start

    def _agree(self) -> None:
        if self._group is not None:
            noted = torch.tensor(int(self._noted))
            torch.distributed.all_reduce(noted, torch.distributed.ReduceOp.MAX, self._group)
            if noted:
                raise SIGTERMException

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._agree()

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._agree()


class ExpectedEnd(pl.Callback):
    """Says once, after some steps, how long one takes and when the run will have had all of them.

    Args:
        steps: Optimizer steps of the whole run, None where it has no end.
    """

    FIRST, LAST = 10, 50  # steps of this part of the run that are timed, behind those that warm up

    def __init__(self, steps: int | None):
        self.steps, self._taken, self._started, self._validated = steps, 0, 0.0, 0.0

    def on_validation_start(self, trainer, pl_module) -> None:
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer, pl_module) -> None:
        self._validated += time.monotonic() - self._validation_started

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._taken += 1
        if self._taken == self.FIRST:
            self._started, self._validated = time.monotonic(), 0.0
        if self._taken == self.LAST and self.steps is not None:
            each = (time.monotonic() - self._started - self._validated) / (self.LAST - self.FIRST)
            left = datetime.timedelta(seconds=round(each * (self.steps - trainer.global_step)))
            end = datetime.datetime.now() + left
            say(
                f"step {trainer.global_step:,} of {self.steps:,}: {each:.3f} s a step, {left} left without validation, "
                f"until {end:%Y-%m-%d %H:%M}"
            )


def between_steps(loops: dict, steps: int, epoch: int, done: int, validation_due: bool) -> None:
    """Set the state of Lightning's loops, in place, to that after the `done`-th step of an epoch, before the next.

    Lightning writes down where in its own hooks a checkpoint was saved, and goes on differently from each. Here every
    checkpoint is of one kind: in an epoch that has begun, all counters at the step (or at none), with the validation
    behind it done, or to be done anew.
    """
    fit = loops["fit_loop"]

    def counted(number: int, completed: int) -> dict:
        return {"ready": number, "started": number, "processed": number, "completed": completed}

    # What Lightning takes for a step whose end it has not counted yet (RESTARTED_ON_TRAIN_BATCH_END): it counts that
    # and goes on. With a validation to be done, all is counted (RESTARTED_ON_LAST) and the validation is half-way.
    last = 0 if validation_due else 1
    fit["epoch_loop.batch_progress"] = {
        "total": counted(steps, steps - last),
        "current": counted(done, done - last),
        "is_last_batch": False,
    }
    fit["epoch_loop.state_dict"] = {"_batches_that_stepped": steps - 1}
    half_way = {"ready": 1, "started": 1, "processed": 0, "completed": 0} if validation_due else counted(0, 0)
    fit["epoch_loop.val_loop.batch_progress"] = {"total": half_way, "current": dict(half_way), "is_last_batch": False}
    epochs = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    fit["epoch_progress"] = {"total": epochs, "current": dict(epochs)}


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its name and renames it once it is on the disk: a kill never leaves half a one."""

    seconds = 0.0  # that all of this run took, so that a measured speed can leave them out

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        started = time.perf_counter()
        with files.output(Path(os.fspath(path))) as output:
            torch.save(checkpoint, output)
        self.seconds += time.perf_counter() - started
