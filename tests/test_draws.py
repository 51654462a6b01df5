"""Keyed random numbers: the published SplitMix64, permutations without memory, and their uniformity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from bert_ja import draws

WORD = (1 << 64) - 1


def split_mix(state: int) -> int:
    """SplitMix64 as published, in whole numbers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def chi_square(counts) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def assert_uniform(counts) -> None:
    """Within 5 sigma of a chi-square with len(counts) - 1 degrees of freedom, mean k and variance 2 k."""
    freedom = len(counts) - 1
    assert abs(chi_square(np.asarray(counts)) - freedom) < 5 * (2 * freedom) ** 0.5 + 5


# Numbers


def test_the_numbers_are_those_of_splitmix64():
    """The first outputs of the reference implementation for the seed 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert draws.numbers(np.uint64(1234567), np.arange(5)).tolist() == expected


@given(st.integers(0, WORD), st.integers(0, 1 << 40))
@examples(50)
def test_any_number_can_be_asked_for_alone(stream, index):
    expected = split_mix((stream + (index + 1) * 0x9E3779B97F4A7C15) & WORD)
    assert int(draws.numbers(np.uint64(stream), np.array([index]))[0]) == expected
    assert draws.uniform(np.uint64(stream), np.array([index]))[0] == (expected >> 11) / 2**53


def test_streams_and_indices_broadcast():
    streams, index = np.arange(3, dtype=np.uint64)[:, None], np.arange(4)
    table = draws.numbers(streams, index)
    assert table.tolist() == [[int(draws.numbers(np.uint64(s), np.array(i))) for i in range(4)] for s in range(3)]


def test_keys_depend_on_every_part():
    keys = {
        int(draws.key(*parts)) for parts in [(1,), (2,), (1, "mask"), ("mask", 1), (1, "mask", 0), ("1", "mask"), ()]
    }
    assert len(keys) == 7
    assert draws.key(7, "mask", 3) == draws.key(7, "mask", 3)


def test_a_key_does_not_depend_on_the_type_of_a_whole_number():
    assert draws.key(7, "mask", np.int64(3)) == draws.key(7, "mask", 3) == draws.key(np.uint32(7), "mask", 3)


def test_uniform_numbers_are_uniform_and_below_one():
    for seed in range(3):
        values = draws.uniform(draws.key(seed, "test"), np.arange(200_000))
        assert values.min() >= 0
        assert values.max() < 1
        assert_uniform(np.bincount((values * 100).astype(int), minlength=100))


@pytest.mark.parametrize("high", [1, 2, 7, 100, 31_995])
def test_whole_numbers_are_uniform_below_the_bound(high):
    values = draws.integers(draws.key(0, "test", high), np.arange(320_000), high)
    assert values.dtype == np.int64
    counts = np.bincount(values, minlength=high)
    assert len(counts) == high
    if high > 1:
        assert_uniform(counts)


def test_each_index_may_have_its_own_bound():
    high = np.arange(1, 2001)
    values = draws.integers(draws.key(1), np.arange(2000), high)
    assert ((values >= 0) & (values < high)).all()


def test_neighbouring_streams_and_indices_are_not_correlated():
    first = draws.uniform(draws.key(1, "mask"), np.arange(100_000))
    for second in (
        draws.uniform(draws.key(2, "mask"), np.arange(100_000)),
        draws.uniform(draws.key(1, "order"), np.arange(100_000)),
        draws.uniform(draws.key(1, "mask"), np.arange(1, 100_001)),
        draws.uniform(draws.numbers(draws.key(1, "mask"), np.arange(100_000)), np.int64(0)),
    ):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 100_000**0.5


# Permutations


@pytest.mark.parametrize("seed", [0, 1])
def test_every_size_from_1_to_300_is_permuted(seed):
    for size in range(1, 301):
        order = draws.permutation(draws.key(seed, size), np.arange(size), size)
        assert sorted(order.tolist()) == list(range(size)), size


@given(st.integers(1, 200_000), st.integers(0, WORD))
@examples(25)
def test_any_size_is_permuted(size, stream):
    order = draws.permutation(np.uint64(stream), np.arange(size), size)
    assert np.array_equal(np.sort(order), np.arange(size))


@pytest.mark.parametrize("bits", [2, 8, 9, 16, 17])
def test_sizes_around_powers_of_two_are_permuted(bits):
    for size in ((1 << bits) - 1, 1 << bits, (1 << bits) + 1):
        order = draws.permutation(draws.key(bits), np.arange(size), size)
        assert np.array_equal(np.sort(order), np.arange(size))


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, WORD))
@examples(50)
def test_any_part_of_an_order_can_be_asked_for(size, start, length, stream):
    part = np.arange(size)[start : start + length]
    whole = draws.permutation(np.uint64(stream), np.arange(size), size)
    assert np.array_equal(draws.permutation(np.uint64(stream), part, size), whole[part])
    assert np.array_equal(draws.permutation(np.uint64(stream), part[::-1], size), whole[part[::-1]])


def test_parts_of_a_huge_order_come_without_the_rest_and_without_collisions():
    size = 10**12 + 7
    places = np.concatenate([np.arange(50_000), np.arange(size - 50_000, size)])
    order = draws.permutation(draws.key("huge"), places, size)
    assert ((order >= 0) & (order < size)).all()
    assert len(np.unique(order)) == len(order)
    assert_uniform(np.bincount(order * 50 // size, minlength=50))


def test_each_place_goes_everywhere_over_many_keys():
    """Place by tenth of the file, 100 x 10, over 1,000 keys: 9 degrees of freedom a place, 900 together.

    Only orders of fewer than about 20 samples are measurably uneven (four Feistel rounds on halves of 2 bits).
    """
    size, table = 100, np.zeros((100, 10))
    for seed in range(1000):
        table[np.arange(size), draws.permutation(draws.key(seed, "order"), np.arange(size), size) // 10] += 1
    values = np.array([chi_square(row) for row in table])
    assert abs(values.mean() - 9) < 5 * (18 / size) ** 0.5
    assert values.max() < 45


def test_two_neighbours_do_not_stay_together():
    """Differences of neighbours are spread over all 2 n - 2 values as for a random order."""
    size = 100_000
    order = draws.permutation(draws.key(5, "order", 0), np.arange(size), size)
    near = np.count_nonzero(np.abs(np.diff(order)) < 1000)
    expected = size * 2 * 1000 / size
    assert abs(near - expected) < 5 * expected**0.5


def test_blocks_of_an_order_are_spread_over_the_whole_file():
    """Steps of 256 samples against the tenths of the file: 9 degrees of freedom each."""
    size, step = 256 * 400, 256
    order = draws.permutation(draws.key(1000, "order", 3), np.arange(size), size)
    tenths = (order * 10 // size).reshape(-1, step)
    values = np.array([chi_square(np.bincount(block, minlength=10)) for block in tenths])
    assert abs(values.mean() - 9) < 5 * (18 / len(values)) ** 0.5
    assert values.max() < 45


def test_two_epochs_have_orders_of_their_own():
    size = 50_000
    first, second = (draws.permutation(draws.key(1, "order", epoch), np.arange(size), size) for epoch in (0, 1))
    assert np.count_nonzero(first == second) < 10  # 1 is expected
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / size**0.5
