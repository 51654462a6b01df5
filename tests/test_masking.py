"""Masked-LM corruption: the rule of Devlin et al. 2019, section 3.1, in plain Python and over a million tokens."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from bert_ja import draws, masking
from bert_ja.masking import MaskingRule
from bert_ja.tokenization import Vocabulary

PLAIN = MaskingRule()
PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = Vocabulary(size=1000, sha256="", pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK)
WORD = (1 << 64) - 1


def masked(samples: list[list[int]], streams, rule: MaskingRule = PLAIN, vocabulary: Vocabulary = VOCABULARY):
    """(masked ids, {position: label}) of each sample, from one call of `mask` on all."""
    row = np.array(sum(samples, []), dtype=np.int64)
    cu_seqlens = np.cumsum([0, *map(len, samples)])
    batch = masking.mask(row, cu_seqlens, np.array(streams, dtype=np.uint64), vocabulary, rule)
    assert row.tolist() == sum(samples, [])  # the ids that were given stay as they are
    assert (np.diff(batch.positions) > 0).all()
    labels = dict(zip(batch.positions.tolist(), batch.labels.tolist(), strict=True))
    spans = zip(cu_seqlens.tolist(), cu_seqlens[1:].tolist(), strict=False)
    return [
        (batch.input_ids[a:b].tolist(), {at - a: label for at, label in labels.items() if a <= at < b})
        for a, b in spans
    ]


# The same rule in plain Python


def number(stream: int, index: int) -> int:
    """The index-th output of SplitMix64 (Steele, Lea, Flood 2014)."""
    state = (stream + (index + 1) * 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def plainly_masked(sample: list[int], stream: int, rule: MaskingRule) -> tuple[list[int], dict[int, int]]:
    """One sample, one token at a time; draws 4 p, 4 p + 1 and 4 p + 2 of its stream belong to position p."""
    candidates = [at for at, token in enumerate(sample) if token not in (CLS, SEP, PAD)]
    wanted = min(len(candidates), max(1, round(rule.mlm_probability * len(candidates))))
    chosen = sorted(candidates, key=lambda at: number(stream, 4 * at))[:wanted]
    corrupted = list(sample)
    for at in chosen:
        fate = (number(stream, 4 * at + 1) >> 11) / 2**53
        if fate < rule.mask_replace_prob:
            corrupted[at] = MASK
        elif fate < rule.mask_replace_prob + rule.random_replace_prob:
            corrupted[at] = 5 + int((number(stream, 4 * at + 2) >> 11) / 2**53 * 995)
    return corrupted, {at: sample[at] for at in sorted(chosen)}


def test_a_sample_worked_by_hand():
    """20 candidates: 3 are selected, those with the lowest draws."""
    first, second = list(range(100, 110)), list(range(200, 210))
    stream = int.from_bytes(hashlib.blake2b(b"(1, 'test')", digest_size=8).digest(), "little")
    sample = [CLS, *first, SEP, *second, SEP]
    expected = plainly_masked(sample, stream, MaskingRule())
    assert masked([sample], [stream]) == [expected]
    assert masked([sample], [draws.key(1, "test")]) == [expected]
    assert len(expected[1]) == 3


SAMPLES = st.lists(
    st.lists(st.sampled_from([PAD, UNK, CLS, SEP, MASK, 5, 6, 999]) | st.integers(5, 999), min_size=1, max_size=60),
    min_size=1,
    max_size=12,
)
RULES = st.builds(MaskingRule, st.sampled_from([0.01, 0.15, 0.5, 0.99]), st.sampled_from([0, 0.8, 1]), st.just(0))
RULES |= st.builds(MaskingRule, st.floats(0.01, 0.99), st.floats(0, 0.6), st.floats(0, 0.4))


@given(SAMPLES, st.integers(0, WORD), RULES)
@examples(100)
def test_any_batch_is_masked_as_the_plain_loop_does(samples, seed, rule):
    streams = [number(seed, index) for index in range(len(samples))]
    expected = [plainly_masked(sample, stream, rule) for sample, stream in zip(samples, streams, strict=True)]
    assert masked(samples, streams, rule) == expected


@given(SAMPLES, st.integers(0, WORD), st.data())
@examples(50)
def test_a_sample_is_masked_alone_as_in_any_batch(samples, seed, data):
    streams = [number(seed, index) for index in range(len(samples))]
    together = masked(samples, streams)
    order = data.draw(st.permutations(range(len(samples))))
    assert masked([samples[at] for at in order], [streams[at] for at in order]) == [together[at] for at in order]
    assert [masked([sample], [stream])[0] for sample, stream in zip(samples, streams, strict=True)] == together


# Whole words


def plain_words(sample: list[int], starts: set[int]) -> list[list[int]]:
    """The words of a sample as positions: a special token ends one, a start or what follows a special begins one."""
    words, last = [], None
    for at, token in enumerate(sample):
        if token in (CLS, SEP, PAD):
            continue
        if at in starts or last != at - 1:
            words.append([])
        words[-1].append(at)
        last = at
    return words


def plainly_selected(sample: list[int], starts: set[int], stream: int, probability: float) -> list[int]:
    """One word at a time in the order of draw 4 p of its first position p; a word that does not fit is passed over."""
    words = plain_words(sample, starts)
    candidates = sum(map(len, words))
    budget = min(candidates, max(1, round(probability * candidates)))
    chosen = []
    for word in sorted(words, key=lambda word: number(stream, 4 * word[0])):
        if len(chosen) + len(word) <= budget:
            chosen += word
    if not chosen and words:
        chosen = min(sorted(words, key=lambda word: number(stream, 4 * word[0])), key=len)
    return sorted(chosen)


@given(SAMPLES, st.integers(0, WORD), st.sampled_from([0.01, 0.15, 0.5, 0.99]), st.data())
@examples(150)
def test_any_batch_of_words_is_selected_as_the_plain_loop_does(samples, seed, probability, data):
    streams = [number(seed, index) for index in range(len(samples))]
    starts = [data.draw(st.sets(st.sampled_from(range(len(sample))))) for sample in samples]
    cu_seqlens = np.cumsum([0, *map(len, samples)])
    flags = np.array([at in here for sample, here in zip(samples, starts, strict=True) for at in range(len(sample))])
    found = masking.select(
        np.array(sum(samples, [])), cu_seqlens, np.array(streams, dtype=np.uint64), VOCABULARY, probability, flags
    )
    expected = [
        begin + at
        for begin, sample, here, stream in zip(cu_seqlens.tolist(), samples, starts, streams, strict=False)
        for at in plainly_selected(sample, here, stream, probability)
    ]
    assert found.tolist() == expected


def test_words_of_one_token_are_selected_as_tokens_are():
    row = np.array([CLS, *range(10, 60), SEP, *range(70, 90), SEP, CLS, *range(10, 17), SEP])
    arguments = (row, np.array([0, 73, 82]), draws.numbers(draws.key(1), np.arange(2)), VOCABULARY, 0.15)
    assert np.array_equal(masking.select(*arguments), masking.select(*arguments, np.ones(len(row), dtype=bool)))


def test_a_whole_word_of_three_tokens_worked_by_hand():
    """12 candidates, 2 to select: the word of three never fits beside others; alone, it goes whole."""
    row = np.array([CLS, *range(10, 22), SEP, CLS, 30, 31, 32, SEP])
    starts = np.isin(row, [10, *range(13, 22), 30])
    seen = set()
    for seed in range(50):
        streams = draws.numbers(draws.key(seed), np.arange(2))
        positions = masking.select(row, np.array([0, 14, 19]), streams, VOCABULARY, 0.15, starts).tolist()
        assert positions[2:] == [15, 16, 17]
        seen |= set(positions[:2])
    assert seen == set(range(4, 13))


def test_whole_words_keep_the_share_and_the_fates_over_a_million_tokens():
    rng = np.random.default_rng(1)
    cu_seqlens = np.arange(0, 1_000_001, 100)
    row = rng.integers(5, 1000, cu_seqlens[-1])
    starts = rng.random(len(row)) < 0.7
    streams = draws.numbers(draws.key(1000, "words"), np.arange(len(cu_seqlens) - 1))
    batch = masking.mask(row, cu_seqlens, streams, VOCABULARY, MaskingRule(), starts)
    selected = np.zeros(len(row), dtype=bool)
    selected[batch.positions] = True
    begins = starts | (np.arange(len(row)) % 100 == 0)
    words = np.cumsum(begins) - 1
    share = np.bincount(words, weights=selected) / np.bincount(words)
    assert set(share.tolist()) == {0.0, 1.0}  # no word in part
    found = np.bincount(batch.positions // 100)
    assert found.max() == 15
    assert found.mean() > 14.99
    now = batch.input_ids[batch.positions]
    assert within_3_sigma(np.count_nonzero(now == MASK), len(now), 0.8)
    assert within_3_sigma(np.count_nonzero(now == batch.labels), len(now), 0.1 + 0.1 / 995)


# Counts


@pytest.mark.parametrize("probability", [0.15, 0.15000000000000002, 0.4, 0.5, 0.01, 0.99])
def test_the_selected_count_is_that_of_the_definition(probability):
    counts = masking.selected_count(np.arange(600), probability).tolist()
    assert counts == [0] + [max(1, round(probability * n)) for n in range(1, 600)]


def test_a_sample_without_a_candidate_is_left_alone():
    assert masked([[CLS, SEP, SEP], [CLS, 7, SEP, 8, SEP], [PAD]], [1, 2, 3])[::2] == [
        ([CLS, SEP, SEP], {}),
        ([PAD], {}),
    ]


def test_an_empty_batch_is_masked():
    assert masked([], []) == []


@pytest.fixture(scope="module")
def million():
    """Samples of 8 to 200 tokens, 1,000,000 candidates and more: (samples, cu_seqlens, row, masked batch)."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 200, 10_400)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    row = rng.integers(5, 1000, cu_seqlens[-1])
    row[rng.random(len(row)) < 0.01] = UNK
    row[cu_seqlens[:-1]] = CLS
    row[cu_seqlens[1:] - 1] = SEP
    row[cu_seqlens[:-1] + lengths // 2] = SEP
    streams = draws.numbers(draws.key(1000, "mask"), np.arange(len(lengths)))
    return row, cu_seqlens, masking.mask(row, cu_seqlens, streams, VOCABULARY, MaskingRule())


def within_3_sigma(found: int, trials: int, probability: float) -> bool:
    return abs(found - trials * probability) < 3 * (trials * probability * (1 - probability)) ** 0.5


def test_each_sample_has_exactly_its_number_of_labels(million):
    row, cu_seqlens, batch = million
    candidates = np.diff(cu_seqlens) - 3
    assert candidates.sum() > 1_000_000
    found = np.bincount(np.searchsorted(cu_seqlens, batch.positions, side="right") - 1, minlength=len(candidates))
    assert found.tolist() == [max(1, round(0.15 * n)) for n in candidates.tolist()]
    assert abs(len(batch.positions) / candidates.sum() - 0.15) < 0.0005


def test_special_tokens_are_never_selected_and_nothing_else_changes(million):
    row, _, batch = million
    assert not np.isin(batch.labels, [CLS, SEP, PAD]).any()
    assert np.array_equal(batch.labels, row[batch.positions])
    untouched = np.ones(len(row), dtype=bool)
    untouched[batch.positions] = False
    assert np.array_equal(batch.input_ids[untouched], row[untouched])


def test_unknown_tokens_are_selected_as_often_as_others(million):
    row, _, batch = million
    assert within_3_sigma(np.count_nonzero(batch.labels == UNK), np.count_nonzero(row == UNK), 0.15)


def test_fates_are_80_10_10_over_a_million_tokens(million):
    row, _, batch = million
    now, selected = batch.input_ids[batch.positions], len(batch.positions)
    assert within_3_sigma(np.count_nonzero(now == MASK), selected, 0.8)
    # A random id is by chance the one that stood there in 1 of 995 cases (never for <unk>, which is left out here).
    ordinary = batch.labels >= 5
    kept = np.count_nonzero((now == batch.labels) & ordinary)
    assert within_3_sigma(kept, np.count_nonzero(ordinary), 0.1 + 0.1 / 995)
    changed = np.count_nonzero((now != MASK) & (now != batch.labels) & ordinary)
    assert within_3_sigma(changed, np.count_nonzero(ordinary), 0.1 - 0.1 / 995)


def test_random_ids_are_uniform_over_the_ordinary_ids(million):
    _, _, batch = million
    now = batch.input_ids[batch.positions]
    random = now[(now != MASK) & (now != batch.labels)]
    assert random.min() == 5
    assert random.max() == 999
    counts = np.bincount(random, minlength=1000)[5:]
    expected = len(random) / 995
    assert abs(((counts - expected) ** 2 / expected).sum() - 994) < 3 * (2 * 994) ** 0.5


def test_every_place_of_a_sample_is_selected_equally_often():
    length, samples = 40, 30_000
    row = np.tile(np.arange(5, 5 + length), samples)
    streams = draws.numbers(draws.key(0, "mask"), np.arange(samples))
    batch = masking.mask(row, np.arange(0, len(row) + 1, length), streams, VOCABULARY, MaskingRule())
    counts = np.bincount(batch.positions % length, minlength=length)
    assert counts.sum() == samples * 6
    # Without replacement the counts of 40 places vary by a factor (1 - 6 / 40) less: chi-square of 39 times that.
    expected = samples * 6 / length
    value = ((counts - expected) ** 2 / expected).sum() / (1 - 6 / length)
    assert abs(value - 39) < 4 * (2 * 39) ** 0.5


def test_special_ids_come_from_the_vocabulary_and_random_ids_leave_them_out():
    vocabulary = Vocabulary(size=12, sha256="", pad=11, unk=10, cls=3, sep=7, mask=0)
    samples = [[3, *[5] * 40, 7, *[10] * 20, 7, 11]] * 500
    found = masked(samples, range(500), MaskingRule(0.5, 0.0, 1.0), vocabulary)
    assert {at for _, labels in found for at in labels} == set(range(1, 41)) | set(range(42, 62))
    new = {ids[at] for ids, labels in found for at in labels}
    assert new == {1, 2, 4, 5, 6, 8, 9}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (MaskingRule(0.15, 1.0, 0.0), {MASK}),
        (MaskingRule(0.15, 0.0, 0.0), {50}),
        (MaskingRule(0.99, 0.5, 0.0), {MASK, 50}),
    ],
)
def test_shares_of_one_and_zero_leave_no_exception(rule, expected):
    found = masked([[CLS, *[50] * 100, SEP]] * 100, range(100), rule)
    assert {ids[at] for ids, labels in found for at in labels} == expected
