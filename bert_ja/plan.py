"""What a run will do, in the units that users think in, before it begins: samples, tokens, optimizer steps.

Lightning counts batches and epochs, and what it is told may never come: a validation behind the last step, a warm-up
longer than the run. Here such a plan is an error in one sentence.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytorch_lightning as pl

from bert_ja import files
from bert_ja.cli import StageError

MOMENTS = 2  # that Adam keeps of each parameter
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Plan:
    """The steps of a run; counted from its beginning, also where it goes on."""

    samples: int  # of an epoch
    tokens: int  # of an epoch, real ones
    samples_per_step: int  # on all devices together
    steps_per_epoch: int
    steps: int | None  # of the run; None where it has no end
    validation_every: int | None  # steps; None: never
    first_validation: int | None  # step
    parameters: int
    checkpoints: int  # that stand on the disk at once

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: weights and Adam's two moments."""
        return (1 + MOMENTS) * FLOAT * self.parameters

    @property
    def disk_bytes(self) -> int:
        return self.checkpoints * self.checkpoint_bytes

    @property
    def memory_bytes(self) -> int:
        """Of weights, gradients and the optimizer's moments; what a batch takes comes on top."""
        return (2 + MOMENTS) * FLOAT * self.parameters

    def lines(self) -> Iterator[str]:
        """The plan as the run says it at its start."""
        total = "without an end" if self.steps is None else f"{self.steps:,} steps in all"
        yield (
            f"plan: {self.samples:,} samples and {self.tokens:,} tokens an epoch ({self.tokens / self.samples:.1f} a "
            f"sample), {self.samples_per_step:,} samples a step, {self.steps_per_epoch:,} steps an epoch, {total}"
        )
        every = (
            "no validation" if self.validation_every is None else f"validation every {self.validation_every:,} steps"
        )
        yield (
            f"plan: {every}, {self.checkpoints:,} checkpoints of {self.checkpoint_bytes / files.MEGABYTE:,.0f} MB at "
            f"most; {self.parameters:,} parameters, {self.memory_bytes / files.MEGABYTE:,.0f} MB with gradients and "
            "optimizer, and what a batch takes"
        )


def total_steps(trainer: pl.Trainer, steps_per_epoch: int) -> int | None:
    """Optimizer steps until max_steps or max_epochs ends the run, None where neither does."""
    ends = [trainer.max_steps] if trainer.max_steps >= 0 else []
    ends += [trainer.max_epochs * steps_per_epoch] if (trainer.max_epochs or -1) >= 0 else []
    return min(ends, default=None)


def validation_steps(trainer: pl.Trainer, steps_per_epoch: int) -> tuple[int | None, int | None]:
    """(steps between two validations, the step of the first one); (None, None) where there is none."""
    if not trainer.limit_val_batches:
        return None, None
    interval, epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if epochs is None:  # over all epochs
        return interval, interval
    within = interval if isinstance(interval, int) else max(1, int(steps_per_epoch * interval))
    every = within if epochs == 1 else epochs * steps_per_epoch
    return every, (epochs - 1) * steps_per_epoch + within


def make_plan(trainer: pl.Trainer, data, model: pl.LightningModule, kept: int) -> Plan:
    """The plan of a run; `data` is a PretrainingData whose training columns are open, `kept` as of checkpoints."""
    samples, tokens = data.size("train")
    steps_per_epoch = data.steps_per_epoch()
    every, first = validation_steps(trainer, steps_per_epoch)
    return Plan(
        samples=samples,
        tokens=tokens,
        samples_per_step=data.samples_per_step(),
        steps_per_epoch=steps_per_epoch,
        steps=total_steps(trainer, steps_per_epoch),
        validation_every=every,
        first_validation=first,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        checkpoints=kept,
    )


def require_possible(plan: Plan, trainer: pl.Trainer, num_warmup_steps: int) -> None:
    """Refuse a plan that cannot work, in one sentence that names every such option."""
    steps = math.inf if plan.steps is None else plan.steps
    wrong = []
    if plan.steps_per_epoch < 1:
        wrong.append("trainer.limit_train_batches leaves no optimizer step: raise it")
    if 0 < steps <= num_warmup_steps:
        wrong.append(
            f"model.num_warmup_steps is {num_warmup_steps:,}, the run has {steps:,} optimizer steps: lower it, or "
            "raise trainer.max_steps"
        )
    interval = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is not None and isinstance(interval, int) and interval > plan.steps_per_epoch:
        wrong.append(
            f"trainer.val_check_interval is {interval:,} optimizer steps of an epoch, which has "
            f"{plan.steps_per_epoch:,}: set val_every_n_steps instead, which counts over epochs, or lower it"
        )
    elif plan.first_validation is not None and plan.first_validation > steps:
        wrong.append(
            f"the first validation would come after step {plan.first_validation:,}, the run has {steps:,}: lower "
            "val_every_n_steps (or trainer.check_val_every_n_epoch)"
        )
    if not trainer.checkpoint_callbacks:
        wrong.append("the run would leave no checkpoint: leave out trainer.enable_checkpointing")
    for callback in trainer.checkpoint_callbacks:
        if plan.validation_every is None and (getattr(callback, "monitor", None) or "").startswith("val_"):
            wrong.append(
                f"the checkpoints monitor {callback.monitor}, and trainer.limit_val_batches leaves no validation: "
                "leave that key out"
            )
    if wrong:
        raise StageError("; ".join(wrong))
