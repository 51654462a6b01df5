"""JSONL to columns to packed batches: nothing lost, nothing drawn twice, and the same numbers as a padded batch."""

import json
import math
import os
import random
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForPreTraining

from bert_ja import dataset, files
from bert_ja.cli import StageError
from bert_ja.dataset import BatchDataset, Batches, Columns, EpochSampler
from bert_ja.masking import MaskingRule
from bert_ja.pretraining import BertPretraining
from bert_ja.tokenization import Vocabulary

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = Vocabulary(size=400, sha256="", pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK)
LONGEST = 40
AGAIN = "make the file again with prepare_train_data.py"


def sample(first: list[int], second: list[int], label: int, chosen: tuple[int, ...] = ()) -> dict:
    """[CLS] A [SEP] B [SEP]; `chosen` positions are [MASK], their ids the labels."""
    ids = [CLS, *first, SEP, *second, SEP]
    made = {
        "input_ids": [MASK if at in chosen else token for at, token in enumerate(ids)],
        "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
        "next_sentence_label": label,
    }
    return made | ({"labels": [t if at in chosen else -100 for at, t in enumerate(ids)]} if chosen else {})


def ragged(number: int, seed: int, masked: bool) -> list[dict]:
    """Samples of all lengths; sample i holds the id 5 + i. One-token segments and full length are among them."""
    rng, made = random.Random(seed), []
    for index in range(number):
        first, second = rng.choice(
            [(1, 1), (1, LONGEST - 4), (LONGEST - 4, 1), (rng.randint(1, 18), rng.randint(1, 18))]
        )
        ids = [[5 + index, *(rng.randint(5, 399) for _ in range(length - 1))] for length in (first, second)]
        places = [at for at in range(1, first + second + 2) if at != first + 1]
        chosen = rng.sample(places, max(1, round(0.15 * len(places)))) if masked else ()
        made.append(sample(*ids, rng.randint(0, 1), tuple(chosen)))
    return made


def write(path: Path, samples: list[dict]) -> Path:
    path.write_text("".join(json.dumps(made) + "\n" for made in samples))
    return path


def batches(path: Path, **options) -> Batches:
    return Batches(Columns.open(path), VOCABULARY, **{"batch_size": 4, "seed": 1000, "shuffle": True} | options)


def unpacked(batch: dict) -> list[dict]:
    """A batch as a list of samples: ids as they stood before the mask, as they are, types, label, {place: label}."""
    ends, made = batch["cu_seqlens"].tolist(), []
    labels = dict(zip(batch["mlm_positions"].tolist(), batch["mlm_labels"].tolist(), strict=True))
    ids, types = batch["input_ids"].tolist(), batch["token_type_ids"].tolist()
    for number, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        assert batch["position_ids"][begin:end].tolist() == list(range(end - begin))
        made.append(
            {
                "before": [labels.get(at, ids[at]) for at in range(begin, end)],
                "input_ids": ids[begin:end],
                "token_type_ids": types[begin:end],
                "next_sentence_label": batch["next_sentence_labels"][number].item(),
                "labels": [labels.get(at, -100) for at in range(begin, end)],
            }
        )
    return made


def epoch_of(drawn: Batches, epoch: int) -> list[dict]:
    return [made for number in range(len(drawn)) for made in unpacked(drawn.batch(epoch, number))]


def same(first: dict, second: dict) -> bool:
    """Whether two batches hold the same tensors of the same types."""
    if first.keys() != second.keys() or len(first["groups"]) != len(second["groups"]):
        return False
    pairs = [(first[name], second[name]) for name in first if name != "groups"]
    for one, other in zip(first["groups"], second["groups"], strict=True):
        pairs += [(one[name], other[name]) for name in one]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


# Columns


@pytest.mark.parametrize("masked", [False, True])
def test_samples_come_back_from_the_columns_as_they_were(tmp_path, masked, monkeypatch):
    monkeypatch.setattr(dataset, "LINES_AT_ONCE", 7)
    made = ragged(30, 0, masked)
    columns = Columns.open(write(tmp_path / "a.jsonl", made))
    assert (len(columns), columns.masked) == (30, masked)
    assert columns.longest == max(len(one["input_ids"]) for one in made)
    shown = [one["input_ids"] + [label for label in one.get("labels", []) if label >= 0] for one in made]
    assert columns.largest_id == max(max(ids) for ids in shown)
    found = epoch_of(batches(tmp_path / "a.jsonl", shuffle=False), 0)
    names = ["input_ids", "token_type_ids", "next_sentence_label", "labels"] if masked else list(made[0])[1:]
    assert [{name: one[name] for name in names} for one in found] == [
        {name: one[name] for name in names} for one in made
    ]
    if not masked:
        assert [one["before"] for one in found] == [one["input_ids"] for one in made]


def test_columns_by_hand(tmp_path):
    path = write(tmp_path / "a.jsonl", [sample([5], [6, 7], 1, (1, 4)), sample([8, 9], [10], 0, (2,))])
    columns = Columns.open(path)
    assert columns.ids.tolist() == [CLS, MASK, SEP, 6, MASK, SEP, CLS, 8, MASK, SEP, 10, SEP]
    assert columns.ends.tolist() == [6, 12]
    assert columns.first_lengths.tolist() == [3, 4]
    assert columns.next_sentence_labels.tolist() == [1, 0]
    assert columns.label_positions.tolist() == [1, 4, 2]
    assert columns.label_ids.tolist() == [5, 7, 9]
    assert columns.label_ends.tolist() == [2, 3]
    assert (columns.longest, columns.largest_id, columns.masked) == (6, 10, True)


def test_columns_are_built_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    path, build, built = write(tmp_path / "a.jsonl", ragged(5, 0, False)), dataset.build_columns, []
    monkeypatch.setattr(dataset, "build_columns", lambda *arguments: (built.append(1), build(*arguments)))
    other_record = {"outputs": [{"name": "a.jsonl", "sha256": "0" * 64}]}
    assert len(Columns.open(path)) == 5
    Columns.open(path)
    assert len(built) == 1
    write(path, ragged(6, 0, False))
    assert len(Columns.open(path)) == 6
    assert len(built) == 2
    os.utime(path, ns=(1, 1))  # the same size, another time
    Columns.open(path)
    assert len(built) == 3
    Columns.open(path, other_record)
    Columns.open(path, other_record)
    assert len(built) == 4
    monkeypatch.setattr(dataset, "FORMAT", 99)
    Columns.open(path, other_record)
    assert len(built) == 5
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_columns_that_lost_bytes_are_built_anew(tmp_path):
    path = write(tmp_path / "a.jsonl", ragged(5, 0, False))
    whole = Columns.open(path).ids.tolist()
    os.truncate(tmp_path / ".a.jsonl.columns" / "ids", 8)
    assert Columns.open(path).ids.tolist() == whole
    (tmp_path / ".a.jsonl.columns" / "ends").unlink()
    assert Columns.open(path).ids.tolist() == whole


def test_kill_9_while_columns_are_built_leaves_none(tmp_path):
    path = write(tmp_path / "a.jsonl", ragged(600, 0, True))
    parse, calls = dataset._parse, []

    def killing(*arguments):
        calls.append(1)
        if len(calls) == 590:
            os.kill(os.getpid(), signal.SIGKILL)
        return parse(*arguments)

    child = os.fork()
    if child == 0:
        dataset.LINES_AT_ONCE, dataset._parse = 4, killing
        Columns.open(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == ["..a.jsonl.columns.partial", "a.jsonl"]
    assert (tmp_path / "..a.jsonl.columns.partial" / "ids").stat().st_size > 0
    assert len(Columns.open(path)) == 600
    assert sorted(os.listdir(tmp_path)) == [".a.jsonl.columns", "a.jsonl"]


def test_columns_that_another_process_builds_are_left_to_it(tmp_path):
    path = write(tmp_path / "a.jsonl", ragged(3, 0, False))
    with files.output_folder(tmp_path / ".a.jsonl.columns", "dataset") as partial:
        (partial / "ids").write_bytes(b"half")
        with pytest.raises(StageError, match="another run is writing .*.a.jsonl.columns now: wait for it, or end it"):
            Columns.open(path)
        (partial / "ids").unlink()
    assert len(Columns.open(path)) == 3


GOOD = sample([5, 6], [7], 0)
BROKEN = {
    "": "is not a sample (cut short, or of another format)",
    '{"input_ids": [2, 5, 3': "is not a sample (cut short, or of another format)",
    "一つの文。": "is not a sample (cut short, or of another format)",
    "[2, 5, 3]": "is not a sample (cut short, or of another format)",
    "5": "is not a sample (cut short, or of another format)",
    '{"input_ids": [2]}': "is not a sample (cut short, or of another format)",
    json.dumps(GOOD | {"input_ids": []}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": "253673"}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": 6}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": None}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": [2, 5, 6, 3, -7, 3]}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": [2, 5, 6, 3, 7.5, 3]}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": [2, 5, 6, 3, "7", 3]}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"input_ids": [2, 5, 6, 3, 1 << 32, 3]}): ": input_ids must be a list of token ids",
    json.dumps(GOOD | {"token_type_ids": [0, 0, 0, 0, 1]}): ": token_type_ids must be as long as input_ids, zeros and",
    json.dumps(GOOD | {"token_type_ids": [0, 0, 1, 0, 1, 1]}): ": token_type_ids must be as long as input_ids, zeros",
    json.dumps(GOOD | {"token_type_ids": [0, 0, 0, 0, 1, 2]}): ": token_type_ids must be as long as input_ids, zeros",
    json.dumps(GOOD | {"token_type_ids": 0}): ": token_type_ids must be as long as input_ids, zeros and then ones",
    json.dumps(
        GOOD | {"next_sentence_label": 2}
    ): ": next_sentence_label must be 0 or 1, and labels as long as input_ids",
    json.dumps(GOOD | {"next_sentence_label": None}): ": next_sentence_label must be 0 or 1, and labels as long as",
    json.dumps(GOOD | {"labels": [5]}): ": next_sentence_label must be 0 or 1, and labels as long as input_ids",
    json.dumps(GOOD | {"labels": [-5] * 6}): ": next_sentence_label must be 0 or 1, and labels as long as input_ids",
    json.dumps(GOOD | {"labels": [-100] * 6}): ": some samples have labels and some have none",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_named_and_leaves_nothing(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(StageError) as error:
        Columns.open(path)
    gap = " " if BROKEN[line].startswith("is") else ""
    assert str(error.value).startswith(f"{path}, line 3{gap}{BROKEN[line]}")
    assert str(error.value).endswith(AGAIN)
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_last_line_without_its_newline_is_a_sample(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}")
    assert len(Columns.open(path)) == 2


# Order


@pytest.mark.parametrize("number", [1, 3, 4, 21])
def test_every_sample_is_drawn_exactly_once_an_epoch_in_another_order(tmp_path, number):
    made = ragged(number, 1, False)
    drawn = batches(write(tmp_path / "a.jsonl", made))
    orders = []
    for epoch in range(3):
        found = [one["before"] for one in epoch_of(drawn, epoch)]
        orders.append([one[1] - 5 for one in found])
        assert sorted(orders[-1]) == list(range(number))
        assert found == [made[at]["input_ids"] for at in orders[-1]]
    if number == 21:
        assert len(set(map(tuple, orders))) == 3
        assert orders[0] != list(range(21))
    assert len(drawn) == math.ceil(number / 4)


def test_an_order_is_the_same_for_any_batch_size_and_the_masks_too(tmp_path):
    path = write(tmp_path / "a.jsonl", ragged(21, 2, False))
    assert epoch_of(batches(path, batch_size=1), 2) == epoch_of(batches(path, batch_size=100), 2)


def test_batches_are_the_same_after_a_restart(tmp_path):
    path = write(tmp_path / "a.jsonl", ragged(21, 2, False))
    first = [batches(path).batch(3, number) for number in range(6)]
    for name in os.listdir(tmp_path / ".a.jsonl.columns"):
        (tmp_path / ".a.jsonl.columns" / name).unlink()
    again = batches(path)
    assert all(same(again.batch(3, number), first[number]) for number in reversed(range(6)))
    assert not any(same(again.batch(4, number), first[number]) for number in range(6))
    assert not any(same(batches(path, seed=1001).batch(3, number), first[number]) for number in range(6))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_loader_processes_change_nothing(tmp_path, num_workers):
    drawn = batches(write(tmp_path / "a.jsonl", ragged(21, 2, False)))
    sampler = EpochSampler(drawn)
    sampler.set_epoch(5)
    loader = torch.utils.data.DataLoader(BatchDataset(drawn), batch_size=None, sampler=sampler, num_workers=num_workers)
    found = list(loader)
    assert len(found) == len(loader) == 6
    assert all(same(batch, drawn.batch(5, number)) for number, batch in enumerate(found))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_the_batches_out(tmp_path, world_size):
    drawn = batches(write(tmp_path / "a.jsonl", ragged(21, 2, False)))
    samplers = [EpochSampler(drawn, rank, world_size) for rank in range(world_size)]
    assert sorted(key for sampler in samplers for key in sampler) == [(0, number) for number in range(6)]
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


# Masks


def test_samples_without_labels_are_masked_anew_each_epoch(tmp_path):
    made = ragged(21, 3, False)
    drawn = batches(write(tmp_path / "a.jsonl", made), shuffle=False)
    first, second = epoch_of(drawn, 0), epoch_of(drawn, 1)
    assert [one["before"] for one in first] == [one["before"] for one in second] == [one["input_ids"] for one in made]
    assert [one["labels"] for one in first] != [one["labels"] for one in second]
    for one in first + second:
        candidates = len(one["before"]) - 3
        assert sum(label != -100 for label in one["labels"]) == max(1, round(0.15 * candidates))


def test_samples_with_labels_keep_them_in_every_epoch(tmp_path):
    made = ragged(21, 3, True)
    drawn = batches(write(tmp_path / "a.jsonl", made), rule=MaskingRule(0.9, 0.0, 1.0))
    expected = sorted((one["input_ids"], one["labels"]) for one in made)
    for epoch in range(2):
        assert sorted((one["input_ids"], one["labels"]) for one in epoch_of(drawn, epoch)) == expected


# Optimizer steps


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("number", "accumulate"), [(22, 3), (26, 3), (24, 2), (9, 5), (8, 1)])
def test_every_batch_knows_the_totals_of_its_whole_optimizer_step(tmp_path, number, accumulate, masked):
    drawn = batches(write(tmp_path / "a.jsonl", ragged(number, 4, masked)), accumulate=accumulate)
    for epoch in range(2):
        epochs = [drawn.batch(epoch, at) for at in range(len(drawn))]
        for start in range(0, len(epochs), accumulate):
            window = epochs[start : start + accumulate]
            predicted = sum(len(batch["mlm_labels"]) for batch in window)
            samples = sum(len(batch["next_sentence_labels"]) for batch in window)
            assert [batch["step_predicted"].item() for batch in window] == [predicted] * len(window)
            assert [batch["step_samples"].item() for batch in window] == [samples] * len(window)


# Entropy


def test_unigram_entropy_by_hand(tmp_path):
    """5 stands there twice, 6 and 7 once; special ids and [MASK] do not count: ln 2 / 2 + 2 ln 4 / 4 = 1.5 ln 2."""
    path = write(tmp_path / "a.jsonl", [sample([5, 6], [5], 0), sample([7], [1], 0)])
    assert dataset.unigram_entropy(Columns.open(path), VOCABULARY) == pytest.approx(1.5 * math.log(2))


def test_unigram_entropy_of_a_sample_of_the_tokens_is_near_that_of_all(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.5, 2_000_000) % 395 + 5
    ids.astype(np.uint32).tofile(tmp_path / "ids")
    columns = Columns(np.memmap(tmp_path / "ids", np.uint32, mode="r"), *[np.zeros(0)] * 6, 0, 0, False)
    whole = dataset.unigram_entropy(columns, VOCABULARY)
    share = np.bincount(ids) / len(ids)
    share = share[share > 0]
    assert whole == pytest.approx(-(share * np.log(share)).sum())
    assert dataset.unigram_entropy(columns, VOCABULARY, 500_000) == pytest.approx(whole, abs=0.02)


# Groups and attention


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_groups_hold_every_token_once_with_its_own_sample(lengths, most_groups):
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    groups, order = dataset.length_groups(cu_seqlens, most_groups)
    assert len(groups) <= most_groups
    placed = []
    for group in groups:
        index, mask = group["index"], group["mask"]
        assert mask.shape == (len(index), 1, 1, index.shape[1])
        assert group["filled"].tolist() == np.flatnonzero(mask[:, 0, 0]).tolist()
        assert mask.any(axis=0).all()  # no wider than its longest sample
        for row, filled in zip(index.tolist(), mask[:, 0, 0].tolist(), strict=True):
            number = cu_seqlens.tolist().index(row[0])
            own = list(range(cu_seqlens[number], cu_seqlens[number + 1]))
            assert [at for at, holds in zip(row, filled, strict=True) if holds] == own
            assert {at for at, holds in zip(row, filled, strict=True) if not holds} <= set(own)
        placed += index.ravel()[group["filled"]].tolist()
    assert sorted(placed) == list(range(cu_seqlens[-1]))
    assert [placed[at] for at in order] == list(range(cu_seqlens[-1]))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads cost more than they bring to a model this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models() -> tuple[BertPretraining, BertForPreTraining]:
    """A packed model of ours and transformers' own with the same weights, large enough for the losses to tell."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"vocab_size": 400, "max_position_embeddings": LONGEST}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    packed = BertPretraining(**sizes)
    for parameter in packed.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    padded = BertForPreTraining(BertConfig(**sizes, attn_implementation="eager"))
    padded.load_state_dict(packed.model.state_dict())
    return packed.train(), padded.train()


def padded_inputs(samples: list[dict]) -> dict[str, torch.Tensor]:
    def column(name: str, filling: int) -> torch.Tensor:
        return torch.tensor([one[name] + [filling] * (LONGEST - len(one[name])) for one in samples])

    return {
        "input_ids": column("input_ids", PAD),
        "token_type_ids": column("token_type_ids", 0),
        "attention_mask": torch.tensor([[1] * len(o["labels"]) + [0] * (LONGEST - len(o["labels"])) for o in samples]),
        "labels": column("labels", -100),
        "next_sentence_label": torch.tensor([one["next_sentence_label"] for one in samples]),
    }


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("number", [1, 2, 5, 33])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_of_a_packed_batch_are_those_of_a_padded_one(tmp_path, models, number, masked):
    packed_model, padded_model = models
    for seed in range(2):
        path = write(tmp_path / f"{seed}.jsonl", ragged(number, seed, masked))
        batch = batches(path, batch_size=number).batch(seed, 0)
        totals = packed_model.totals(batch)
        loss = totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]
        ours = gradients(packed_model.model, loss)
        inputs = padded_inputs(unpacked(batch))
        output = padded_model(**inputs)
        theirs = gradients(padded_model, output.loss)
        assert abs(loss.item() - output.loss.item()) < 1e-5 * max(1, loss.item())
        assert ours.keys() == theirs.keys()
        for name in theirs:
            largest = theirs[name].abs().max().item()
            assert (ours[name] - theirs[name]).abs().max().item() < 1e-5 * max(1.0, largest), name
        chosen = inputs["labels"] != -100
        right = output.prediction_logits[chosen].argmax(-1) == inputs["labels"][chosen]
        assert totals["mlm_correct"] == right.sum()
        assert totals["masked_tokens"] == chosen.sum()
        assert totals["samples"] == number
        assert totals["tokens"] == inputs["attention_mask"].sum()


def test_a_sample_is_not_touched_by_its_neighbours(tmp_path, models):
    """Another sample's tokens change nothing, not even by rounding that grows with the batch."""
    made = ragged(8, 0, True)
    with torch.no_grad():
        whole = models[0](batches(write(tmp_path / "a.jsonl", made), batch_size=8, shuffle=False).batch(0, 0))
        alone = [
            models[0](batches(write(tmp_path / f"{at}.jsonl", [one]), batch_size=1, shuffle=False).batch(0, 0))
            for at, one in enumerate(made)
        ]
    for side in (0, 1):
        assert torch.allclose(whole[side], torch.cat([logits[side] for logits in alone]), atol=1e-5)


def test_accumulated_gradients_of_uneven_batches_are_those_of_one_step(tmp_path, models):
    """10 samples in batches of 4, 4 and 2, with different numbers of masked tokens, against one batch of 10."""
    path = write(tmp_path / "a.jsonl", ragged(10, 9, False))
    model = models[0]

    def loss(batch: dict) -> torch.Tensor:
        totals = model.totals(batch)
        return totals["mlm_loss"] / batch["step_predicted"] + totals["nsp_loss"] / batch["step_samples"]

    small = batches(path, batch_size=4, accumulate=3)
    parts = gradients(model, sum(loss(small.batch(0, number)) for number in range(3)))
    parts = {name: gradient.clone() for name, gradient in parts.items()}
    whole = gradients(model, loss(batches(path, batch_size=10).batch(0, 0)))
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, atol=1e-5), name


# Size


def test_a_batch_of_twenty_million_samples_takes_a_few_megabytes(tmp_path):
    """20 million samples of 9 tokens, as sparse files of 0.8 GB; the last batch and one in the middle of an epoch."""
    number, length = 20_000_000, 9

    class Ends:
        """ends[i] = 9 (i + 1)."""

        def __len__(self):
            return number

        def __getitem__(self, index):
            return (index + 1) * length

    def zeros(dtype, size: int) -> np.ndarray:
        return np.memmap(tmp_path / f"{size}-{np.dtype(dtype)}", dtype, mode="w+", shape=size)

    ids, firsts, labels = zeros(np.uint32, number * length), zeros(np.int32, number), zeros(np.int8, number)
    nothing = np.zeros(0, np.int64)
    columns = Columns(ids, Ends(), firsts, labels, nothing, nothing, nothing, 9, 0, False)
    drawn = Batches(columns, VOCABULARY, 300, 1, shuffle=True, accumulate=32)
    tracemalloc.start()
    last = drawn.batch(7, len(drawn) - 1)
    drawn.batch(7, 40_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(last["next_sentence_labels"]) == number % 300
    assert peak < 20_000_000
