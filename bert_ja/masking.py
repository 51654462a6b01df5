"""Masked-LM corruption of a whole batch of samples at once (Devlin et al. 2019, section 3.1), in numpy.

max(1, round(mlm_probability * n)) of a sample's n candidates are selected, candidates being all positions but [CLS],
[SEP] and <pad> (<unk> counts). A selected token becomes [MASK] with probability mask_replace_prob, an ordinary token
drawn uniformly with probability random_replace_prob, and stays as it is otherwise, decided for each position by itself.

Where it is known at which tokens words begin, words are selected whole, in random order: one that would exceed the
number above is passed over (google-research/bert, create_pretraining_data.py, --do_whole_word_mask), and a sample of
which no word is short enough loses its shortest one.
"""

from dataclasses import dataclass

import numpy as np

from bert_ja import draws
from bert_ja.tokenization import Vocabulary

PLACE_BITS, OWNER_BITS = 16, 24  # of a sort key: positions in a sample, samples in a batch; the rest is random


@dataclass(frozen=True)
class MaskingRule:
    """How many tokens are selected and what becomes of them; the names are those of transformers' data collator."""

    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1

    def problems(self, prefix: str) -> dict[str, bool]:
        """What a user may have set wrong -> whether it is right, the options named `prefix` + name."""
        masked, random = self.mask_replace_prob, self.random_replace_prob
        return {
            f"{prefix}mlm_probability must lie between 0 and 1, got {self.mlm_probability}": (
                0 < self.mlm_probability < 1
            ),
            f"{prefix}mask_replace_prob and {prefix}random_replace_prob must be 0 or more and 1 or less together, "
            f"got {masked} and {random}": min(masked, random) >= 0 and masked + random <= 1 + 1e-9,
        }


@dataclass(frozen=True)
class FallingRate:
    """mlm_probability of each optimizer step: linear from `first` at the first one to `last` at the last one.

    Many masks at first and fewer at the end: Yang et al. 2023, "Learning better masking for better language model
    pre-training"; Ankner et al. 2023, "Dynamic masking rate schedules for MLM pretraining".
    """

    first: float
    last: float
    steps: int  # optimizer steps of the run
    steps_per_epoch: int

    def at(self, epoch: int, step: int) -> float:
        """Of a step of an epoch, both counted from 0; 0.3 to 0.15 in 4 steps: 0.3, 0.25, 0.2, 0.15."""
        number = min(epoch * self.steps_per_epoch + step, self.steps - 1)
        return self.first + (self.last - self.first) * number / max(1, self.steps - 1)


@dataclass(frozen=True)
class MaskedBatch:
    """A packed batch after corruption. `positions` index the packed row and increase."""

    input_ids: np.ndarray  # int64 (tokens,)
    positions: np.ndarray  # int64 (selected,)
    labels: np.ndarray  # int64 (selected,), the ids that stood there


def sample_of_each_token(cu_seqlens: np.ndarray) -> np.ndarray:
    """[0, 3, 5] -> [0, 0, 0, 1, 1]: which sample a token of the packed row belongs to."""
    return np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))


def selected_count(candidates: np.ndarray, mlm_probability: float) -> np.ndarray:
    """How many positions of samples with that many candidates are selected: 40 -> 6, 5 -> 1, 0 -> 0."""
    return np.minimum(candidates, np.maximum(1, np.rint(mlm_probability * candidates))).astype(np.int64)


def candidate_positions(input_ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Which positions may be selected, bool (tokens,)."""
    return (input_ids != vocabulary.cls) & (input_ids != vocabulary.sep) & (input_ids != vocabulary.pad)


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All positions of [start, start + length), span after span: one expression, no loop."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def shuffled(owner: np.ndarray, place: np.ndarray, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(owner, place) sorted by owner and, within each, in the random order of its stream.

    One sort of 64-bit keys (owner, 24 random bits, place), so that no two are equal and the order is the same on every
    machine.
    """
    random = draws.numbers(streams[owner], 4 * place) >> np.uint64(PLACE_BITS + OWNER_BITS)
    keys = (owner.astype(np.uint64) << np.uint64(64 - OWNER_BITS)) | (random << np.uint64(PLACE_BITS))
    keys = np.sort(keys | place.astype(np.uint64))
    place = keys & np.uint64((1 << PLACE_BITS) - 1)
    return (keys >> np.uint64(64 - OWNER_BITS)).astype(np.int64), place.astype(np.int64)


def _within(owner: np.ndarray, lengths: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Whether each word and those of its sample before it have no more tokens than the sample's budget, bool."""
    total = np.cumsum(lengths)
    before = np.zeros(len(budget) + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, weights=lengths, minlength=len(budget)).astype(np.int64), out=before[1:])
    return total - before[owner] <= budget[owner]


def _choose_words(owner: np.ndarray, lengths: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Which words are selected when each sample's are taken in this order, one that does not fit passed over."""
    chosen = np.zeros(len(owner), dtype=bool)
    left, remaining = np.arange(len(owner)), budget.copy()
    while len(left := left[lengths[left] <= remaining[owner[left]]]):
        fits = _within(owner[left], lengths[left], remaining)
        taken, left = left[fits], left[~fits]  # the first of each sample that is left is too long from here on
        chosen[taken] = True
        remaining -= np.bincount(owner[taken], weights=lengths[taken], minlength=len(budget)).astype(np.int64)
    none = np.bincount(owner[chosen], minlength=len(budget)) == 0
    without = np.flatnonzero(none[owner])
    shortest = without[np.lexsort((lengths[without], owner[without]))]
    chosen[shortest[np.unique(owner[shortest], return_index=True)[1]]] = True
    return chosen


def select(
    input_ids: np.ndarray,
    cu_seqlens: np.ndarray,
    streams: np.ndarray,
    vocabulary: Vocabulary,
    mlm_probability: float,
    word_starts: np.ndarray | None = None,
) -> np.ndarray:
    """The positions of a packed row that are to be predicted, int64, increasing; arguments as of `mask`."""
    candidate = candidate_positions(input_ids, vocabulary)
    sample = sample_of_each_token(cu_seqlens)
    samples = len(cu_seqlens) - 1
    positions = np.flatnonzero(candidate)
    budget = selected_count(np.bincount(sample[positions], minlength=samples), mlm_probability)
    if word_starts is None:
        owner = sample[positions]
        owner, place = shuffled(owner, positions - cu_seqlens[owner], streams)
        chosen = _within(owner, np.ones(len(owner), dtype=np.int64), budget)
        return np.sort((cu_seqlens[owner] + place)[chosen])
    follows = np.concatenate([[False], candidate[:-1] & (sample[1:] == sample[:-1])])  # another candidate of its sample
    begins = candidate & (word_starts | ~follows)
    word_of = np.cumsum(begins) - 1  # of each candidate
    starts, lengths = np.flatnonzero(begins), np.bincount(word_of[positions], minlength=int(begins.sum()))
    owner = sample[starts]
    owner, place = shuffled(owner, starts - cu_seqlens[owner], streams)
    words = word_of[cu_seqlens[owner] + place]
    chosen = words[_choose_words(owner, lengths[words], budget)]
    return np.sort(spans(starts[chosen], lengths[chosen]))


def mask(
    input_ids: np.ndarray,
    cu_seqlens: np.ndarray,
    streams: np.ndarray,
    vocabulary: Vocabulary,
    rule: MaskingRule,
    word_starts: np.ndarray | None = None,
) -> MaskedBatch:
    """Corrupt a packed batch; what is drawn for a sample depends on its stream and its tokens only.

    Args:
        input_ids: packed ids, (tokens,).
        cu_seqlens: where each sample begins and the last one ends, (samples + 1,).
        streams: a key of `draws` for each sample, uint64 (samples,).
        word_starts: whether a word begins at each token, bool (tokens,); every token is a word when not given.
    """
    positions = select(input_ids, cu_seqlens, streams, vocabulary, rule.mlm_probability, word_starts)
    owner = np.searchsorted(cu_seqlens, positions, side="right") - 1
    place, labels, ordinary = positions - cu_seqlens[owner], input_ids[positions], vocabulary.ordinary_ids
    fate = draws.uniform(streams[owner], 4 * place + 1)
    random_ids = ordinary[draws.integers(streams[owner], 4 * place + 2, len(ordinary))]
    replaced = np.where(fate < rule.mask_replace_prob + rule.random_replace_prob, random_ids, labels)
    replaced = np.where(fate < rule.mask_replace_prob, vocabulary.mask, replaced)
    corrupted = input_ids.copy()
    corrupted[positions] = replaced
    return MaskedBatch(corrupted, positions, labels)
