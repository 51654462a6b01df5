"""The trial of the largest micro-batch: how large it is made, that it runs, and what is said where it does not fit."""

import dataclasses

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from bert_ja import files, memory, tokenization
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns, Step
from bert_ja.masking import FallingRate, MaskingRule
from bert_ja.pretraining import BertPretraining


@pytest.fixture(scope="module")
def batches(samples, tokenizer) -> Batches:
    columns = Columns.open(samples / "train.jsonl", files.read_record(samples / "train.jsonl"))
    return Batches(columns, tokenization.vocabulary(tokenizer), 24, 1, True, accumulate=2)


@pytest.mark.parametrize("size", [1, 2, 24, 400])
def test_the_largest_micro_batch_is_larger_than_those_that_are_drawn(batches, size):
    lengths = memory.largest_lengths(batches.sources, size)
    longest = batches.sources[0].longest
    assert len(lengths) == size
    assert lengths[0] == longest == lengths.max()
    cut = Batches(batches.sources, batches.vocabulary, size, 1, True)
    drawn = [len(cut.draw(epoch, 0)["input_ids"]) for epoch in range(200)]
    assert max(drawn) <= lengths.sum() <= size * longest
    if size == 400:
        assert lengths.sum() < 1.5 * max(drawn)  # and not by much, or what fits would be refused


def test_lengths_are_counted_over_all_files(batches):
    (columns,) = batches.sources
    assert np.array_equal(memory.largest_lengths([columns, columns], 24), memory.largest_lengths([columns], 24))


def test_a_trial_trains_on_it_and_changes_nothing(batches):
    torch.manual_seed(0)
    model = BertPretraining(batches.vocabulary.size, 32, 1, 2)
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = memory.step_of(memory.largest_lengths(batches.sources, 24), batches)
    assert memory.trial(model, step)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    (batch,) = step.micro_batches()
    usual = batches.step(0, 0).micro_batches()[0]
    assert len(batch["mlm_labels"]) / len(batch["input_ids"]) > len(usual["mlm_labels"]) / len(usual["input_ids"])
    assert set(usual) - set(batch) == {"step_predicted", "step_samples", "consumed"}


def test_the_trial_is_made_at_the_highest_rate_that_a_run_will_mask_at(batches):
    lengths = memory.largest_lengths(batches.sources, 24)
    for first, last in ((0.4, 0.1), (0.1, 0.4)):
        falling = dataclasses.replace(batches, falling=FallingRate(first, last, 10, 10))
        constant = dataclasses.replace(batches, rule=MaskingRule(0.4))
        assert len(memory.step_of(lengths, falling).numbers) == len(memory.step_of(lengths, constant).numbers)
        assert len(memory.step_of(lengths, falling).numbers) > len(memory.step_of(lengths, batches).numbers)


def room_for(samples: int):
    """Stands for a card: whether a step has at most so many samples."""

    def fits(step: Step) -> bool:
        (batch,) = step.micro_batches()
        return len(batch["cu_seqlens"]) - 1 <= samples

    return fits


def test_what_does_not_fit_is_refused_with_what_trains_the_same_and_fits(batches):
    memory.require_fits(batches, room_for(24), "NVIDIA X")
    with pytest.raises(StageError) as error:
        memory.require_fits(batches, room_for(11), "NVIDIA X")
    assert str(error.value) == (
        "data.batch_size 24 does not fit into the memory of NVIDIA X: data.batch_size 8 and "
        "trainer.accumulate_grad_batches 6 train the same, and fit"
    )
    with pytest.raises(StageError, match="nor does a single sample: make shorter samples"):
        memory.require_fits(batches, room_for(0), "NVIDIA X")
    assert list(memory.smaller(6, 1)) == [(3, 2), (2, 3), (1, 6)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_card_says_that_it_is_full(batches):
    model = BertPretraining(batches.vocabulary.size, 768, 12, 12).cuda()
    model.trainer = pl.Trainer(accelerator="gpu", logger=False, enable_checkpointing=False, precision="bf16-mixed")
    step = memory.step_of(memory.largest_lengths(batches.sources, 24), batches)
    assert memory.trial(model, step)
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        assert not memory.trial(model, step)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
