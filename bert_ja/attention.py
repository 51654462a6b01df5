"""Attention over packed samples, registered with transformers: every token attends to its own sample only.

A packed batch is one row (1, tokens) of samples end to end. Restarting the positions alone would isolate nothing in a
bidirectional model; the attention itself is bounded, in one of two ways:

    varlen   FlashAttention for samples of any length, in fp16 or bf16 on an Ampere card or newer
    rows     scaled_dot_product_attention on a few rows with several samples each and a mask: any device, any precision
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FLASH_CAPABILITY = (8, 0)  # Ampere; older cards have no such kernels
PREFIX = "bert_ja_"  # of the names under which transformers knows them


def _tokens_first(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(1, heads, tokens, head_dim) -> (tokens, heads, head_dim)."""
    return tuple(each[0].transpose(0, 1) for each in states)


class _Spread(torch.autograd.Function):
    """Put values (tokens, width) at their `places` of (size, width), zeros elsewhere.

    One copy in each direction: the gradient of an index would be added up over a tensor of zeros.
    """

    @staticmethod
    def forward(ctx, values: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
        ctx.save_for_backward(places)
        return values.new_zeros(size, values.shape[1]).index_copy_(0, places, values)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        return gradient.index_select(0, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """The values (tokens, width) that stand at `places` of (size, width): the reverse of _Spread."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(values)
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        return gradient.new_zeros(ctx.size, gradient.shape[1]).index_copy_(0, *ctx.saved_tensors, gradient), None


@dataclass(frozen=True, eq=False)
class Rows:
    """Where tokens stand in rows, and who may attend to whom there; for all layers of a micro-batch.

    `places` (tokens,) are those of dataset.attention_rows; `masks` (rows, 1, length, length), one for each length of
    rows, hold 0 where two tokens are of one sample and minus infinity elsewhere.
    """

    places: torch.Tensor
    masks: list[torch.Tensor]


@torch.compiler.disable  # the lengths of rows are others in every batch; the layers around it are compiled
def rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    rows: Rows,
    **_,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, (1, heads, tokens, head_dim) -> (1, tokens, heads, head_dim)."""
    _, heads, _, head_dim = query.shape
    sizes = [mask.shape[0] * mask.shape[-1] for mask in rows.masks]
    spread = [_Spread.apply(each.flatten(1), rows.places, sum(sizes)) for each in _tokens_first(query, key, value)]
    outputs = []
    for mask, *states in zip(rows.masks, *(each.split(sizes) for each in spread), strict=True):
        shape = mask.shape[0], mask.shape[-1], heads, head_dim
        states = (each.view(shape).transpose(1, 2) for each in states)  # (rows, heads, length, head_dim)
        mask = mask.to(query.dtype)  # which it has, unless the weights themselves are of half the precision
        output = scaled_dot_product_attention(*states, attn_mask=mask, dropout_p=dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1).flatten(1))  # (its places, width)
    return _Collect.apply(torch.cat(outputs), rows.places).view(1, -1, heads, head_dim), None


def varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    cu_seqlens: torch.Tensor,
    longest: int,
    **_,
) -> tuple[torch.Tensor, None]:
    """The same by FlashAttention: `cu_seqlens` int32 (samples + 1,), `longest` tokens of a sample at most.

    The operator behind torch.nn.attention.varlen, called by itself: the public function has no dropout and takes half
    as long again to launch; nested tensors, which have dropout, took five times as long (bench/results/training.json).
    """
    states = _tokens_first(query, key, value)
    lengths = cu_seqlens, cu_seqlens, longest, longest
    output = torch.ops.aten._flash_attention_forward(*states, *lengths, dropout, False, False, scale=scaling)[0]
    return output.unsqueeze(0), None


BACKENDS = {"varlen": varlen, "rows": rows}
for _name, _function in BACKENDS.items():
    AttentionInterface.register(PREFIX + _name, _function)


def prepare(backend: str, batch: dict) -> dict:
    """The keyword arguments of a backend for a micro-batch of dataset.Step, once for all layers."""
    if backend != "rows":
        return {"cu_seqlens": batch["cu_seqlens"].int(), "longest": batch["longest"]}
    device = batch["places"].device
    mixed = torch.is_autocast_enabled(device.type)
    dtype, masks = torch.get_autocast_dtype(device.type) if mixed else torch.float32, []
    for samples in batch["rows"]:  # (rows, length): padding keeps to itself
        apart = samples[:, :, None] != samples[:, None, :]
        masks.append(torch.zeros(apart.shape, dtype=dtype, device=device).masked_fill_(apart, -torch.inf).unsqueeze(1))
    return {"rows": Rows(batch["places"], masks)}


def trial(backend: str, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype, dropout: float) -> None:
    """Run a backend forward and backward once; raises what it cannot do."""
    lengths = torch.tensor([0, 7, 8, 72], dtype=torch.int32, device=device)  # samples of 7, 1 and 64 tokens
    states = [torch.randn(1, heads, 72, head_dim, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    output, _ = BACKENDS[backend](None, *states, None, head_dim**-0.5, dropout, cu_seqlens=lengths, longest=64)
    output.sum().backward()
    if not all(torch.isfinite(each.grad).all() for each in states):
        raise RuntimeError("its gradient is not finite")


def choose(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, dropout: float) -> tuple[str, str]:
    """(backend, why) for a device, the type that attention is computed in, and the dropout of its weights."""
    if device.type != "cuda":
        return "rows", f"FlashAttention needs CUDA, this is {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return "rows", f"FlashAttention needs fp16 or bf16, this is {str(dtype).removeprefix('torch.')}"
    capability = torch.cuda.get_device_capability(device)
    if capability < FLASH_CAPABILITY:
        return "rows", f"FlashAttention needs compute capability 8.0, this card has {'.'.join(map(str, capability))}"
    try:
        trial("varlen", heads, head_dim, device, dtype, dropout)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return "rows", f"varlen was tried and failed: {reason[0][:200]}"
    return "varlen", "FlashAttention with dropout" if dropout else "FlashAttention, no dropout of attention weights"
