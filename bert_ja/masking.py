"""Masked-LM corruption of a whole batch of samples at once (Devlin et al. 2019, section 3.1), in numpy.

max(1, round(mlm_probability * n)) of a sample's n candidates are selected, candidates being all positions but [CLS],
[SEP] and <pad> (<unk> counts). A selected token becomes [MASK] with probability mask_replace_prob, an ordinary token
drawn uniformly with probability random_replace_prob, and stays as it is otherwise, decided for each position by itself.
"""

from dataclasses import dataclass

import numpy as np

from bert_ja import draws
from bert_ja.tokenization import Vocabulary


@dataclass(frozen=True)
class MaskingRule:
    """How many tokens are selected and what becomes of them; the names are those of transformers' data collator."""

    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1


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


def mask(
    input_ids: np.ndarray, cu_seqlens: np.ndarray, streams: np.ndarray, vocabulary: Vocabulary, rule: MaskingRule
) -> MaskedBatch:
    """Corrupt a packed batch; what is drawn for a sample depends on its stream and its tokens only.

    Args:
        input_ids: packed ids, (tokens,).
        cu_seqlens: where each sample begins and the last one ends, (samples + 1,).
        streams: a key of `draws` for each sample, uint64 (samples,).
    """
    sample = sample_of_each_token(cu_seqlens)
    candidates = np.flatnonzero(candidate_positions(input_ids, vocabulary))
    owner = sample[candidates]
    place = candidates - cu_seqlens[owner]  # position within its sample
    per_sample = np.bincount(owner, minlength=len(cu_seqlens) - 1)
    # Sorting by (sample, draw) shuffles each sample's candidates; the first few of each are selected.
    shuffled = np.lexsort((draws.numbers(streams[owner], 4 * place), owner))
    rank = np.arange(len(shuffled)) - np.repeat(np.cumsum(per_sample) - per_sample, per_sample)
    chosen = shuffled[rank < selected_count(per_sample, rule.mlm_probability)[owner]]
    chosen.sort()
    positions, owner, place = candidates[chosen], owner[chosen], place[chosen]
    labels = input_ids[positions]

    fate = draws.uniform(streams[owner], 4 * place + 1)
    ordinary = vocabulary.ordinary_ids
    random_ids = ordinary[draws.integers(streams[owner], 4 * place + 2, len(ordinary))]
    replaced = np.where(fate < rule.mask_replace_prob + rule.random_replace_prob, random_ids, labels)
    replaced = np.where(fate < rule.mask_replace_prob, vocabulary.mask, replaced)
    corrupted = input_ids.copy()
    corrupted[positions] = replaced
    return MaskedBatch(corrupted, positions, labels)
