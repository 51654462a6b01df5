"""Random numbers keyed by what they are for, never by who comes first.

Every draw is a pure function of (seed, purpose, number): SplitMix64 (Steele, Lea, Flood 2014), whose n-th output can be
computed directly. So blocks, workers, restarts and batch sizes cannot change what is drawn.
"""

import hashlib
import math

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64 values of any shape."""
    values = np.asarray(values, dtype=np.uint64)
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key(*parts) -> np.uint64:
    """A stream's key from its parts: key(seed, "mask", epoch)."""
    plain = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)  # np.int64(3) is 3
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def numbers(stream: np.uint64 | np.ndarray, index: np.ndarray) -> np.ndarray:
    """The index-th uint64 of each stream; `stream` and `index` broadcast."""
    with np.errstate(over="ignore"):
        return mix(np.asarray(stream, np.uint64) + (np.asarray(index).astype(np.uint64) + np.uint64(1)) * GOLDEN)


def uniform(stream: np.uint64 | np.ndarray, index: np.ndarray) -> np.ndarray:
    """The same as float64 in [0, 1), 53 bits."""
    return (numbers(stream, index) >> np.uint64(11)) * 2.0**-53


def integers(stream: np.uint64 | np.ndarray, index: np.ndarray, high: int | np.ndarray) -> np.ndarray:
    """int64 in [0, high): the bias of the multiplication is below high / 2**53."""
    return np.floor(uniform(stream, index) * high).astype(np.int64)


def permutation(stream: np.uint64, index: np.ndarray, size: int, rounds: int = 6) -> np.ndarray:
    """Where a permutation of range(size) sends each index, without ever holding the permutation.

    A Feistel network over the smallest near-square grid that holds `size`, its halves added to modulo the grid's sides
    and not XORed, walked until it lands inside (cycle walking; Black and Rogaway 2002). The grid is larger than `size`
    by less than one side, so a walk is rare. O(1) memory; any part of the order can be asked for.
    """
    width = np.uint64(max(1, math.isqrt(size - 1) + 1)) if size > 0 else np.uint64(1)
    height = np.uint64(max(1, -(-size // int(width))))
    keys = numbers(stream, np.arange(rounds))
    places = np.atleast_1d(np.asarray(index).astype(np.uint64))
    outside = np.arange(places.size)
    while outside.size:
        row, column = np.divmod(places[outside], width)
        for turn in range(0, rounds, 2):
            row = (row + numbers(keys[turn], column) % height) % height
            column = (column + numbers(keys[turn + 1], row) % width) % width
        places[outside] = row * width + column
        outside = outside[places[outside] >= np.uint64(size)]
    return places.astype(np.int64).reshape(np.shape(index))
