"""Steps that worker processes hand over in shared memory."""

import gc
import mmap
import pickle

import numpy as np
import pytest
import torch

from bench import fits, training_samples
from bert_ja.dataset import Step
from bert_ja.handover import Handover
from bert_ja.training import PretrainingData, StepLoader


def numbers(value: int, size: int = 6) -> torch.Tensor:
    return torch.full((size,), value)


def test_a_slot_is_free_again_when_nothing_holds_its_numbers():
    handover = Handover(slots=2, size=6)
    first, second = (handover.put(handover.reserve(), numbers(value)) for value in (1, 2))
    assert handover.reserve() is None
    taken = [handover.take(first), handover.take(second)]
    view = taken[0][2:4].view(2, 1)
    taken[0] = None
    gc.collect()
    assert handover.reserve() is None  # the view is of it
    assert view.tolist() == [[1], [1]]
    view = None
    gc.collect()
    again = handover.put(handover.reserve(), numbers(3))
    assert handover.take(again).tolist() == [3] * 6
    assert taken[1].tolist() == [2] * 6


def test_a_step_that_is_too_large_for_a_slot_is_sent_whole():
    handover = Handover(slots=1, size=5)
    step = Step(numbers(7), ["layout"], [6], None, handover.put(handover.reserve(), numbers(7)))
    assert handover.reserve() is None
    assert torch.equal(pickle.loads(pickle.dumps(step)).numbers, numbers(7))
    assert handover.reserve() is not None  # which it did not need


@pytest.fixture
def data(monkeypatch) -> PretrainingData:
    """60 steps of 3 to 200 tokens a sample, with two workers."""
    vocabulary = training_samples.made_up_vocabulary(300)
    columns = training_samples.made_up(60 * 8, 40, 200, vocabulary, np.random.default_rng(1))
    data = fits.SampleData(vocabulary, 8, columns)
    data.num_workers = 2
    monkeypatch.setattr(data, "trainer", fits.new_trainer("cpu", "fp32"), raising=False)
    monkeypatch.setattr(type(data.trainer), "lightning_module", fits.new_model(1, 8, 300))
    return data


def built(loader: StepLoader) -> list[list[int]]:
    return [loader.dataset.batches.step(*key).numbers.tolist() for key in loader.sampler.keys()]  # noqa: SIM118


def test_steps_of_workers_are_those_that_are_built_here_however_long_they_are_held(data):
    loader = data.train_dataloader()
    expected = built(loader)
    assert len(expected) == 60
    assert [step.numbers.tolist() for step in loader] == expected
    held = list(loader)  # more than there are slots
    assert [step.numbers.tolist() for step in held] == expected


def test_slots_are_used_over_and_over_in_epochs_that_end_early_too(data, monkeypatch):
    received = []
    monkeypatch.setattr(
        Handover, "take", lambda self, slot, take=Handover.take: received.append(slot) or take(self, slot)
    )
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        expected = built(loader)
        for number, step in enumerate(loader):
            assert step.numbers.tolist() == expected[number]
            if epoch == 1 and number == 30:
                break
    assert len(received) >= 60 + 31 + 60  # all of them, none went another way
    assert len({slot.number for slot in received}) <= 2 * 2 + 4
    step = number = None


def test_a_run_holds_no_step_longer_than_the_slots_allow(data, monkeypatch):
    """Nothing waits for the garbage collector: all steps of a run arrive in slots."""
    found = []
    monkeypatch.setattr(Handover, "take", lambda self, slot, take=Handover.take: found.append(slot) or take(self, slot))
    model, trainer = data.trainer.lightning_module, fits.new_trainer("cpu", "fp32", max_steps=60, limit_val_batches=0)
    fits.make_ready(model, trainer)
    gc.collect()
    gc.disable()
    try:
        trainer.fit(model, datamodule=data)
    finally:
        gc.enable()
    assert len(found) == 60
    assert all(slot.size for slot in found)


def test_a_validation_that_is_begun_anew_before_the_last_one_is_forgotten_gets_its_own_steps(data):
    loader = data._loader(data._samples("train"), [1.0], shuffle=False)
    expected = built(loader)
    one, other = iter(loader), iter(loader)
    for number in range(20):
        assert next(one).numbers.tolist() == expected[number]
        assert next(other).numbers.tolist() == expected[number]


def test_where_the_system_has_no_memory_to_share_steps_come_another_way(data, monkeypatch):
    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    loader = data.train_dataloader()
    assert [step.numbers.tolist() for step in loader] == built(loader)
    assert loader.dataset.handover is None


def test_a_slot_of_another_memory_is_not_written_to():
    one, other = Handover(1, 6), Handover(1, 6)
    with pytest.raises(ValueError, match="of another memory"):
        other.put(one.reserve(), numbers(1))
