"""Attention over packed samples, registered with transformers: every token attends to its own sample only.

A packed batch is one row (1, tokens) of samples end to end. Restarting the positions alone would isolate nothing in a
bidirectional model; the attention itself is bounded. Here: scaled_dot_product_attention on groups of samples of similar
length, which runs on any device, in any precision, and applies attention dropout.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "bert_ja_packed"


def packed_attention(
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

    Args:
        groups: for each group of samples `index` (samples, longest), where their tokens stand in the row (any token
            where a sample has ended), `mask` (samples, 1, 1, longest), True where it has not, and `filled`, the flat
            places of `index` that hold a token (dataset.length_groups).
        order: where each token of the row stands in the groups' outputs, one after another, (tokens,).
    """
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, head_dim)
    outputs = []
    for group in groups:
        index = group["index"]
        rows = (states[index].transpose(1, 2) for states in (query, key, value))  # (samples, heads, longest, head_dim)
        output = scaled_dot_product_attention(*rows, attn_mask=group["mask"], dropout_p=dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1)[group["filled"]])  # (its tokens, heads, head_dim)
    return torch.cat(outputs)[order].unsqueeze(0), None


AttentionInterface.register(NAME, packed_attention)
