"""Attention over packed samples, registered with transformers: every token attends to its own sample only.

A packed batch is one row (1, tokens) of samples end to end. Restarting the positions alone would isolate nothing in a
bidirectional model; the attention itself is bounded, in one of three ways:

    varlen   FlashAttention for samples of any length, torch.nn.attention.varlen; no dropout
    nested   the same kernels behind nested jagged tensors, which apply dropout
    groups   scaled_dot_product_attention on groups of samples of similar length: any device, any precision
"""

import functools

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FLASH_CAPABILITY = (8, 0)  # Ampere; older cards have no such kernels
PREFIX = "bert_ja_"  # of the names under which transformers knows them


def _tokens_first(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(1, heads, tokens, head_dim) -> (tokens, heads, head_dim)."""
    return tuple(each[0].transpose(0, 1) for each in states)


@torch.compiler.disable  # the number of groups is another in every batch; the layers around it are compiled
def groups(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    groups: list[dict[str, torch.Tensor]],
    order: torch.Tensor,
    **_,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, (1, heads, tokens, head_dim) -> (1, tokens, heads, head_dim).

    `groups` and `order` are those of dataset.length_groups, with `mask` (samples, 1, 1, longest) beside `index`.
    """
    states, outputs = _tokens_first(query, key, value), []
    for group in groups:
        rows = (each[group["index"]].transpose(1, 2) for each in states)  # (samples, heads, longest, head_dim)
        output = scaled_dot_product_attention(*rows, attn_mask=group["mask"], dropout_p=dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1)[group["filled"]])  # (its tokens, heads, head_dim)
    return torch.cat(outputs)[order].unsqueeze(0), None


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
    """The same by FlashAttention, in fp16 or bf16: `cu_seqlens` int32 (samples + 1,), `longest` tokens of a sample.

    Its scale is head_dim ** -0.5, as BERT's; only its first seven arguments are the same in every version of torch.
    """
    from torch.nn.attention.varlen import varlen_attn

    states = _tokens_first(query, key, value)
    return varlen_attn(*states, cu_seqlens, cu_seqlens, longest, longest).unsqueeze(0), None


@torch.compiler.disable
def nested(
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
    """The same with dropout of the attention weights; arguments as of `varlen`."""
    jagged = functools.partial(
        torch.nested.nested_tensor_from_jagged, offsets=cu_seqlens, min_seqlen=1, max_seqlen=longest
    )  # lengths that are given need not be fetched from the device
    rows = (jagged(each.contiguous()).transpose(1, 2) for each in _tokens_first(query, key, value))
    output = scaled_dot_product_attention(*rows, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).values().unsqueeze(0), None


BACKENDS = {"varlen": varlen, "nested": nested, "groups": groups}
for _name, _function in BACKENDS.items():
    AttentionInterface.register(PREFIX + _name, _function)


def prepare(backend: str, batch: dict) -> dict:
    """The keyword arguments of a backend for a micro-batch of dataset.Step, once for all layers."""
    if backend != "groups":
        return {"cu_seqlens": batch["cu_seqlens"].int(), "longest": batch["longest"]}
    masked = []
    for group in batch["groups"]:
        column = torch.arange(group["index"].shape[1], device=group["index"].device)
        mask = (column < group["lengths"][:, None])[:, None, None, :]  # True where a sample has a token
        masked.append(group | {"mask": mask})
    return {"groups": masked, "order": batch["order"]}


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
        return "groups", f"FlashAttention needs CUDA, this is {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return "groups", f"FlashAttention needs fp16 or bf16, this is {str(dtype).removeprefix('torch.')}"
    capability = torch.cuda.get_device_capability(device)
    if capability < FLASH_CAPABILITY:
        return "groups", f"FlashAttention needs compute capability 8.0, this card has {'.'.join(map(str, capability))}"
    backend = "nested" if dropout else "varlen"
    try:
        trial(backend, heads, head_dim, device, dtype, dropout)
    except (RuntimeError, ImportError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return "groups", f"{backend} was tried and failed: {reason[0][:200]}"
    return backend, "FlashAttention with dropout" if dropout else "FlashAttention, no dropout of attention weights"
