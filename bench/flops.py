"""How many floating-point operations BERT costs: counted, so that a rate becomes a share of what a device can do.

A multiplication with its addition is 2, and forward with backward is 3 times forward. What is no matrix product
(LayerNorm, activations, softmax, embeddings) is left out, as usual (Chowdhery et al. 2022, appendix B).
"""

from typing import NamedTuple

import numpy as np

MULTIPLY_ADD, FORWARD_BACKWARD = 2, 3


class Sizes(NamedTuple):
    """The sizes of a model that its cost depends on."""

    layers: int
    width: int  # of the hidden states; the feed-forward layers are 4 times as wide
    pieces: int  # of the vocabulary


def matrices(sizes: Sizes) -> int:
    """Of a token in the matrices of all layers: four of width x width in attention, two of width x 4 width."""
    return FORWARD_BACKWARD * MULTIPLY_ADD * sizes.layers * 12 * sizes.width**2


def attention(sizes: Sizes, length: int) -> int:
    """Of a token in attention among `length` tokens: its scores, and the sum of values that they weight."""
    return FORWARD_BACKWARD * MULTIPLY_ADD * sizes.layers * 2 * sizes.width * length


def mlm_head(sizes: Sizes) -> int:
    """Of a position that goes through the masked-LM head: one width x width, and the vocabulary."""
    return FORWARD_BACKWARD * MULTIPLY_ADD * (sizes.width**2 + sizes.width * sizes.pieces)


def nsp_head(sizes: Sizes) -> int:
    """Of a sample: the pooler and the next-sentence head."""
    return FORWARD_BACKWARD * MULTIPLY_ADD * (sizes.width**2 + 2 * sizes.width)


def packed(sizes: Sizes, lengths: np.ndarray, predicted: int) -> int:
    """Of samples of these lengths, (samples,), `predicted` of their tokens through the masked-LM head: no padding.

    BERT base, 60 tokens: 510 M matrices + 7 M attention + 23 M head = 539 M a token.
    """
    tokens, squares = int(lengths.sum()), int((lengths.astype(np.int64) ** 2).sum())
    inside = tokens * matrices(sizes) + squares * attention(sizes, 1)
    return inside + predicted * mlm_head(sizes) + len(lengths) * nsp_head(sizes)


def padded(sizes: Sizes, samples: int, length: int) -> int:
    """Of samples that are padded to `length`, all their positions through the masked-LM head: the published step."""
    position = matrices(sizes) + attention(sizes, length) + mlm_head(sizes)
    return samples * (length * position + nsp_head(sizes))
