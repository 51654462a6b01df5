"""Attention over packed samples: every backend against one sample after another."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bert_ja import attention
from bert_ja.dataset import Step, attention_rows

HEADS, HEAD_DIM = 2, 16
LENGTHS = ([1], [5, 1, 1, 9], [3] * 8, list(range(1, 40)), [512, 1, 511, 2, 60])


def batch_of(lengths: list[int]) -> dict:
    """What a micro-batch tells attention of samples of these lengths."""
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    places, rows = attention_rows(np.array(lengths))
    numbers = {"cu_seqlens": cu_seqlens.numpy(), "places": places, "rows": rows, "longest": max(lengths)}
    (batch,) = Step.of([numbers]).micro_batches()
    return batch


def states_of(tokens: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, HEADS, tokens, HEAD_DIM, generator=generator, requires_grad=True, dtype=torch.float64)
        for _ in range(3)
    ]


def one_by_one(states: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    parts = [each.split(lengths, dim=2) for each in states]
    outputs = [scaled_dot_product_attention(*sample) for sample in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=2).transpose(1, 2)


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} samples")
def test_every_sample_gets_the_attention_that_it_has_alone(lengths):
    states = states_of(sum(lengths))
    arguments = attention.prepare("rows", batch_of(lengths))
    found, _ = attention.rows(None, *states, None, HEAD_DIM**-0.5, **arguments)
    expected = one_by_one(states, lengths)
    assert found.shape == (1, sum(lengths), HEADS, HEAD_DIM)
    assert torch.allclose(found, expected, atol=1e-12)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    ours, theirs = (torch.autograd.grad((output * weight).sum(), states) for output in (found, expected))
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(ours, theirs, strict=True))


DEVICES = [
    ("rows", "cpu", torch.float64),
    pytest.param(
        *("varlen", "cuda", torch.bfloat16),
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    ),
]


@pytest.mark.parametrize(("backend", "device", "dtype"), DEVICES)
def test_attention_dropout_is_applied(backend, device, dtype):
    """With values of 1 an output is the sum of a token's weights: 1, and with dropout 1 on average only."""
    lengths = [60, 30, 4]
    states = [each.detach().to(device, dtype) for each in states_of(sum(lengths))]
    states[2] = torch.ones_like(states[2])
    batch = {name: part.to(device) if torch.is_tensor(part) else part for name, part in batch_of(lengths).items()}
    arguments = attention.prepare(backend, batch)
    torch.manual_seed(0)
    plain, dropped = (
        attention.BACKENDS[backend](None, *states, None, HEAD_DIM**-0.5, rate, **arguments)[0].float()
        for rate in (0.0, 0.2)
    )
    assert torch.allclose(plain, torch.ones_like(plain), atol=0.01)
    assert dropped.std() > 0.05
    assert abs(dropped.mean() - 1) < 0.1


def test_a_cpu_gets_rows_and_is_told_why():
    backend, reason = attention.choose(torch.device("cpu"), torch.bfloat16, 12, 64, 0.1)
    assert (backend, reason) == ("rows", "FlashAttention needs CUDA, this is cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_flash_attention_agrees_with_rows():
    """Outputs and gradients; both round to bf16, in another order."""
    lengths = LENGTHS[-1]
    states = [each.detach().to("cuda", torch.bfloat16).repeat(1, 1, 1, 4) for each in states_of(sum(lengths))]
    states = [each.requires_grad_() for each in states]
    batch = {name: part.cuda() if torch.is_tensor(part) else part for name, part in batch_of(lengths).items()}
    batch["rows"] = [part.cuda() for part in batch["rows"]]
    weight, results = torch.randn(1, sum(lengths), HEADS, 64, device="cuda"), {}
    for backend in attention.BACKENDS:
        arguments = attention.prepare(backend, batch)
        output = attention.BACKENDS[backend](None, *states, None, 64**-0.5, **arguments)[0].float()
        results[backend] = [output, *torch.autograd.grad((output * weight).sum(), states)]
    for found, expected in zip(results["varlen"], results["rows"], strict=True):
        assert (found - expected).norm() < 0.01 * expected.norm()
    for dropout in (0.0, 0.1):
        assert attention.choose(torch.device("cuda", 0), torch.bfloat16, 12, 64, dropout)[0] == "varlen"
