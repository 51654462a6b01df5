"""The plan of a run, in optimizer steps: what Lightning does is what was said before."""

import dataclasses

import pytest
import pytorch_lightning as pl

from bert_ja import plan
from bert_ja.cli import StageError
from bert_ja.plan import Plan

PUBLISHED = Plan(
    samples=20_113_542,
    tokens=1_154_000_000,
    samples_per_step=256,
    steps_per_epoch=78_569,
    steps=1_021_397,
    validation_every=10_000,
    first_validation=10_000,
    parameters=111_207_170,
    checkpoints=5,
)


def trainer(**options) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **options)


def test_the_published_run_as_it_is_said():
    assert list(PUBLISHED.lines()) == [
        "plan: 20,113,542 samples and 1,154,000,000 tokens an epoch (57.4 a sample), 256 samples a step, 78,569 steps "
        "an epoch, 1,021,397 steps in all",
        "plan: validation every 10,000 steps, 5 checkpoints of 1,334 MB at most; 111,207,170 parameters, 1,779 MB with "
        "gradients and optimizer, and what a batch takes",
    ]
    endless = dataclasses.replace(PUBLISHED, steps=None, validation_every=None)
    assert [line.rpartition(", ")[2] for line in endless.lines()][0] == "without an end"
    assert list(endless.lines())[1].startswith("plan: no validation, 5 checkpoints")


@pytest.mark.parametrize(
    "options, steps, validation",
    [
        ({"max_epochs": 13}, 1300, (100, 100)),
        ({"max_epochs": 13, "max_steps": 250}, 250, (100, 100)),
        ({"max_epochs": -1, "max_steps": 250, "check_val_every_n_epoch": 3}, 250, (300, 300)),
        ({"max_epochs": -1}, None, (100, 100)),
        ({"max_epochs": 5, "val_check_interval": 0.25}, 500, (25, 25)),
        ({"max_epochs": 5, "val_check_interval": 30, "check_val_every_n_epoch": 2}, 500, (200, 130)),
        ({"max_epochs": 5, "val_check_interval": 70, "check_val_every_n_epoch": None}, 500, (70, 70)),
        ({"max_epochs": 5, "limit_val_batches": 0}, 500, (None, None)),
    ],
)
def test_steps_and_validations_by_lightnings_options(options, steps, validation):
    assert plan.total_steps(trainer(**options), 100) == steps
    assert plan.validation_steps(trainer(**options), 100) == validation


def refused(found: Plan, **options) -> str:
    with pytest.raises(StageError) as error:
        plan.require_possible(found, trainer(**options), 10_000)
    return str(error.value)


def test_a_plan_that_cannot_work_is_refused_with_every_reason():
    plan.require_possible(PUBLISHED, trainer(), 10_000)
    assert refused(dataclasses.replace(PUBLISHED, steps=9_000), enable_checkpointing=False) == (
        "model.num_warmup_steps is 10,000, the run has 9,000 optimizer steps: lower it, or raise trainer.max_steps; "
        "the first validation would come after step 10,000, the run has 9,000: lower val_every_n_steps (or "
        "trainer.check_val_every_n_epoch); the run would leave no checkpoint: leave out trainer.enable_checkpointing"
    )
    assert refused(dataclasses.replace(PUBLISHED, steps_per_epoch=0)).startswith(
        "trainer.limit_train_batches leaves no"
    )
    callback = pl.callbacks.ModelCheckpoint(monitor="val_loss")
    unseen = dataclasses.replace(PUBLISHED, validation_every=None, first_validation=None)
    assert refused(unseen, callbacks=[callback]) == (
        "the checkpoints monitor val_loss, and trainer.limit_val_batches leaves no validation: leave that key out"
    )
