"""Muon and AdamW as one optimizer: the same numbers as torch's two, and the state of both over a checkpoint."""

import copy
import io

import pytest
import torch

from bert_ja.muon import MATRICES, Muon, orthogonalized

LR = 0.01


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8))


def one_optimizer(model: torch.nn.Sequential) -> Muon:
    """The first layer's matrix is Muon's; decay on both matrices, none on biases."""
    biases = {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0, MATRICES: False}
    first = {"params": [model[0].weight], "weight_decay": 0.1, MATRICES: True}
    return Muon([first, {"params": [model[2].weight], "weight_decay": 0.1, MATRICES: False}, biases], lr=LR)


def two_optimizers(model: torch.nn.Sequential) -> list[torch.optim.Optimizer]:
    muon = torch.optim.Muon([model[0].weight], lr=LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    biases = {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0}
    return [muon, torch.optim.AdamW([{"params": [model[2].weight], "weight_decay": 0.1}, biases], lr=LR)]


def backward(model: torch.nn.Sequential, step: int) -> None:
    model.zero_grad()
    torch.manual_seed(step)
    model(torch.randn(16, 32)).square().sum().backward()


def difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def take(optimizer: Muon, **given: float) -> None:
    """A step with `grad_scale` and `found_inf` as a fused optimizer gets them."""
    for name, value in given.items():
        setattr(optimizer, name, torch.tensor(value))
    optimizer.step()
    for name in given:
        delattr(optimizer, name)


def test_it_takes_the_steps_of_torchs_two_optimizers():
    """With the gradient divided in the second step, and another learning rate in the third."""
    ours, theirs = network(), network()
    one, two = one_optimizer(ours), two_optimizers(theirs)
    for step in range(4):
        backward(ours, step)
        backward(theirs, step)
        if step == 2:
            for group in [*one.param_groups, *two[0].param_groups, *two[1].param_groups]:
                group["lr"] = LR / 4
        if step == 1:
            for parameter in theirs.parameters():
                parameter.grad /= 2
        take(one, **({"grad_scale": 2.0} if step == 1 else {}), **({"found_inf": 0.0} if step % 2 else {}))
        for optimizer in two:
            optimizer.step()
        assert difference(ours, theirs) < 3e-3  # torch's Muon rounds to bf16
        if step == 0:
            assert difference(ours[2], theirs[2]) < 1e-6
    assert difference(ours, network()) > 0.02


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_an_orthogonal_update_keeps_directions_and_has_singular_values_near_one(shape):
    torch.manual_seed(0)
    given = torch.randn(3, *shape, dtype=torch.float64)
    found = orthogonalized(given, {"ns_coefficients": (3.4445, -4.775, 2.0315), "ns_steps": 5, "eps": 1e-7})
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    inner = left.mT @ found @ right.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.5
    assert float((inner - torch.diag_embed(values)).abs().max()) < 1e-9


@pytest.mark.parametrize("taken", [0, 2])
def test_a_step_that_is_skipped_leaves_everything_as_it_was(taken):
    model = network()
    optimizer = one_optimizer(model)
    for step in range(taken):
        backward(model, step)
        take(optimizer)
    before, kept = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict()["state"])
    backward(model, taken)
    model[0].weight.grad[3, 3] = float("nan")
    take(optimizer, found_inf=1.0)
    assert difference(model, before) == 0.0
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, kept.get(number, {}).get(name, torch.zeros_like(value))), (number, name)


def test_a_checkpoint_holds_the_state_of_both():
    whole, ended = network(), network()
    first, second = one_optimizer(whole), one_optimizer(ended)
    for step in range(2):
        for model, optimizer in ((whole, first), (ended, second)):
            backward(model, step)
            take(optimizer)
    file = io.BytesIO()
    torch.save({"model": ended.state_dict(), "optimizer": second.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    later = network()
    again = one_optimizer(later)
    later.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    for step in (2, 3):
        for model, optimizer in ((whole, first), (later, again)):
            backward(model, step)
            take(optimizer)
    assert difference(whole, later) == 0.0


def test_a_schedule_reaches_both():
    optimizer = one_optimizer(network())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [LR / 2] * 3


@pytest.mark.parametrize(
    ("device", "rounding"),
    [
        ("cpu", 5e-4),  # torch rounds to bf16 there too
        pytest.param("cuda", 1e-4, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
    ],
)
def test_matrices_of_one_shape_go_together_as_each_would_alone(device, rounding):
    """Wide, tall and square ones, one of a frozen layer, and others' momentum beside a zero gradient."""
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 16), (8, 8), (16, 8), (16, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
    theirs, before = ([torch.nn.Parameter(matrix.detach().clone()) for matrix in ours] for _ in range(2))
    one = Muon([{"params": ours, "weight_decay": 0.1, MATRICES: True}, {"params": [], MATRICES: False}], lr=LR)
    two = torch.optim.Muon(theirs, lr=LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
            mine.grad = torch.randn(mine.shape, device=device) * (step != 1)
            other.grad = mine.grad.clone()
        one.step()
        two.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=rounding)
    moved = [float((mine - old).detach().abs().max()) for mine, old in zip(ours, before, strict=True)]
    assert moved[-1] == 0
    assert min(moved[:-1]) > 0.005
