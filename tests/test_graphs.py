"""CUDA graphs: a padded micro-batch trains as it does unpadded, and a replay as a launch."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from bench import training_samples
from bert_ja import attention, graphs
from bert_ja.dataset import Batches
from bert_ja.pretraining import MEASURED, BertPretraining
from bert_ja.samples import NOT_MASKED

PIECES = 200
ONE_BY_ONE = "test_one_by_one"
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def one_by_one(module, query, key, value, attention_mask, scaling, dropout=0.0, *, cu_seqlens, longest, **_):
    """Attention of each sample by itself, with what varlen asks for: all tokens, none beyond `longest`."""
    lengths = cu_seqlens.diff().tolist()
    assert sum(lengths) == query.shape[2] and max(lengths) <= longest
    parts = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(*states, scale=scaling) for states in parts if states[0].shape[2]]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(attention.PREFIX + ONE_BY_ONE, one_by_one)


def micro_batches(count: int, size: int, mean: int = 60, steps: int = 1) -> list[dict]:
    vocabulary, rng = training_samples.made_up_vocabulary(PIECES), np.random.default_rng(count)
    batches = Batches(training_samples.made_up(count, mean, 512, vocabulary, rng), vocabulary, size, 1000, True, 1)
    return [batches.step(0, number).micro_batches()[0] for number in range(steps)]


def new_model(backend: str, dropout: float = 0.0) -> BertPretraining:
    torch.manual_seed(1)
    options = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = BertPretraining(PIECES, 64, 2, 2, **options).train()
    model.backend = backend
    model.model.set_attn_implementation(attention.PREFIX + backend)
    return model


def padded(batch: dict) -> dict:
    static = graphs.empty(graphs.shape_of(batch), torch.device("cpu"))
    for part in static.values():
        if torch.is_tensor(part):
            part.fill_(1)  # what another micro-batch has left
    graphs.fill(static, batch)
    return static


def gradient(model: BertPretraining, batch: dict) -> tuple[list[float], torch.Tensor]:
    model.zero_grad()
    measures = model.training_measures(batch)
    (measures["mlm_loss"] + 0.5 * measures["nsp_loss"]).backward()
    values = [float(measures[name].detach()) for name in MEASURED]
    return values, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_lengths_are_rounded_up_by_a_thirty_second_at_most():
    for tokens, step in ((1, 128), (4096, 128), (8191, 128), (8192, 256), (15_360, 256), (32_768, 1024)):
        assert graphs.step_of(tokens) == step
    (batch,) = micro_batches(256, 256)
    shape = graphs.shape_of(batch)
    assert shape.tokens % 256 == 0 and 0 <= shape.tokens - len(batch["input_ids"]) < 256
    assert shape.predicted % 256 == 0 and 0 <= shape.predicted - len(batch["mlm_labels"]) < 256
    assert shape.samples == 256 and shape.paired
    assert shape.longest % 128 == 0 and shape.longest >= batch["longest"]


@pytest.mark.parametrize(("count", "mean"), [(256, 60), (40, 100), (1, 60), (3, 512)])
def test_padding_tokens_make_samples_of_their_own(count, mean):
    (batch,) = micro_batches(count, count, mean)
    static, tokens, samples = padded(batch), len(batch["input_ids"]), len(batch["cu_seqlens"]) - 1
    lengths = static["cu_seqlens"].diff()
    assert lengths[:samples].tolist() == batch["cu_seqlens"].diff().tolist()
    assert lengths[samples:].sum() == len(static["input_ids"]) - tokens
    assert lengths[samples:].min() >= 0 and lengths[samples:].max() <= graphs.LEAST <= static["longest"]
    assert torch.equal(static["first_tokens"], batch["cu_seqlens"][:-1])
    assert (static["mlm_labels"][len(batch["mlm_labels"]) :] == NOT_MASKED).all()
    assert not static["input_ids"][tokens:].any()


@pytest.mark.parametrize(("count", "mean"), [(256, 60), (40, 100), (1, 60), (3, 512)])
def test_a_padded_micro_batch_has_the_measures_and_gradients_of_the_unpadded_one(count, mean):
    (batch,) = micro_batches(count, count, mean)
    model = new_model(ONE_BY_ONE)
    (measures, expected), (others, found) = gradient(model, batch), gradient(model, padded(batch))
    assert others == pytest.approx(measures, rel=1e-5)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_samples_without_a_second_task_have_a_graph_of_their_own():
    (batch,) = micro_batches(8, 8)
    del batch["next_sentence_labels"]
    static = padded(batch)
    assert not graphs.shape_of(batch).paired and "next_sentence_labels" not in static
    measures = new_model(ONE_BY_ONE).training_measures(static)
    assert float(measures["mlm_loss"].detach()) > 0 and float(measures["nsp_loss"]) == 0


# On a GPU


def on_gpu(batches: list[dict]) -> list[dict]:
    return [{name: p.cuda() if torch.is_tensor(p) else p for name, p in batch.items()} for batch in batches]


def bf16() -> torch.autocast:
    return torch.autocast("cuda", dtype=torch.bfloat16)


@ON_GPU
def test_a_replay_has_the_measures_and_gradients_of_a_launch():
    """Twelve micro-batches of several shapes, twice each: the second time all of them are replays."""
    model, launched = new_model("varlen").cuda(), new_model("varlen").cuda()
    run, batches = (
        graphs.Graphs(model.training_measures, list(model.parameters())),
        on_gpu(micro_batches(3072, 256, 60, 12)),
    )
    for batch in batches * 2:
        run.zero()
        with bf16():
            measures = run.run(batch, 0.5, 1.0)
            expected = launched.training_measures(batch)
        launched.zero_grad()
        (expected["mlm_loss"] + 0.5 * expected["nsp_loss"]).backward()
        assert float(measures["mlm_loss"]) == pytest.approx(float(expected["mlm_loss"].detach()), rel=1e-3)
        found, wanted = (torch.cat([p.grad.flatten() for p in each.parameters()]) for each in (model, launched))
        assert (found - wanted).norm() < 0.02 * wanted.norm()
    assert 1 < len(run._captured) < 12


@ON_GPU
def test_a_replay_draws_the_dropout_of_its_seed_whether_it_was_captured_before_or_not():
    model = new_model("varlen", dropout=0.1).cuda()
    run, losses = graphs.Graphs(model.training_measures, list(model.parameters())), []
    (batch,) = on_gpu(micro_batches(256, 256))
    for seed in (1, 1, 2):
        torch.cuda.manual_seed(seed)
        with bf16():
            losses += [float(run.run(batch, 0.5, 1.0)["mlm_loss"]) for _ in range(2)]
    first, second, again, once_more, other, _ = losses
    assert (first, second) == (again, once_more) and len({first, second, other}) == 3


@ON_GPU
def test_a_loss_that_is_not_finite_leaves_no_gradient_that_is():
    model, (batch,) = new_model("varlen").cuda(), on_gpu(micro_batches(64, 64))
    run = graphs.Graphs(model.training_measures, list(model.parameters()))
    with torch.no_grad():
        model.model.cls.predictions.bias[7] = torch.inf
    with bf16():
        run.run(batch, 0.5, 1.0)
    assert all(not parameter.grad.isfinite().all() for parameter in model.parameters())


@ON_GPU
def test_beyond_the_most_graphs_a_shape_is_launched(monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 1)
    model, (one, other) = new_model("varlen").cuda(), on_gpu(micro_batches(64, 64) + micro_batches(8, 8))
    run = graphs.Graphs(model.training_measures, list(model.parameters()))
    with bf16():
        assert run.run(one, 0.5, 1.0) and run.run(other, 0.5, 1.0) is None and run.run(one, 0.5, 1.0)


@ON_GPU
def test_gradients_that_lightning_took_away_before_a_validation_are_there_again():
    model, (batch,) = new_model("varlen").cuda(), on_gpu(micro_batches(64, 64))
    run = graphs.Graphs(model.training_measures, list(model.parameters()))
    norms = []
    for _ in range(2):
        with bf16():
            run.run(batch, 0.5, 1.0)
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
        run.zero()
        model.on_validation_model_zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())
    assert norms[0] > 0 and norms == pytest.approx([norms[0]] * 2, rel=1e-3)


@ON_GPU
def test_graphs_share_the_memory_of_the_largest_one_which_comes_first():
    model, sizes = new_model("varlen").cuda(), (512, 460, 470, 480, 490, 500)
    batches = [on_gpu(micro_batches(size, size))[0] for size in sizes]
    run, reserved = graphs.Graphs(model.training_measures, list(model.parameters())), []
    with bf16():
        run.prepare(batches[0])
        assert not any(parameter.grad.any() for parameter in model.parameters())
        for batch in batches:
            run.run(batch, 0.5, 1.0)
            reserved.append(torch.cuda.memory_reserved())
    assert len(run._captured) == len(batches) and reserved[-1] < 1.5 * reserved[0]


@ON_GPU
def test_without_memory_for_graphs_everything_is_launched(monkeypatch):
    model, (batch,) = new_model("varlen").cuda(), on_gpu(micro_batches(64, 64))
    run = graphs.Graphs(model.training_measures, list(model.parameters()))

    def full(*_) -> None:
        raise torch.OutOfMemoryError("planted")

    with bf16():
        assert run.run(batch, 0.5, 1.0)
        monkeypatch.setattr(run, "_warm_up", full)
        assert run.run(on_gpu(micro_batches(8, 8))[0], 0.5, 1.0) is None
        assert run.run(batch, 0.5, 1.0) is None and not run._captured
