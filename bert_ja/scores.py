"""Scores of predictions, as JGLUE computes them: correlations, accuracy, exact match and F1 of characters.

Correlations come from scipy, accuracy and Matthews' coefficient from scikit-learn. Each is a number from -1 or 0 to 1.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np


def _correlation(compute, predictions: np.ndarray, labels: np.ndarray) -> float:
    """A correlation; 0 where either side is constant, for which none is defined: it tells nothing of the other."""
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(compute(predictions, labels).statistic)


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of two (n,) arrays."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation of two (n,) arrays; equal values share the mean of their ranks."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal classes of two (n,) arrays."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def mcc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation coefficient of classes; 0 where either side is constant."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def normalised_answer(text: str) -> str:
    """An answer as JGLUE compares it: lower case, without 。 at its end, white space as single spaces.

    (Its fine-tuning/patch in place of SQuAD's, which takes off punctuation and English articles.)
    """
    return " ".join(text.lower().rstrip("。").split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where a prediction equals one of the answers, as `normalised_answer`."""
    return float(normalised_answer(prediction) in map(normalised_answer, answers))


def _character_f1(prediction: str, answer: str) -> float:
    found, expected = normalised_answer(prediction), normalised_answer(answer)
    if not found or not expected:
        return float(found == expected)
    common = sum((Counter(found) & Counter(expected)).values())
    return 2 * common / (len(found) + len(expected))


def character_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of a prediction's characters, as a bag, to those of the answer that fits best.

    "東京都" beside "東京" -> precision 2/3, recall 1, F1 0.8.
    """
    return max(_character_f1(prediction, answer) for answer in answers)


CLASSES = {"accuracy": accuracy, "mcc": mcc}
DEGREES = {"pearson": pearson, "spearman": spearman}
SPANS = {"exact_match": exact_match, "f1": character_f1}


def of_degrees(predictions: np.ndarray, labels: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
    """DEGREES of numbers (n,). Raises ValueError where a prediction is not finite."""
    if not np.isfinite(predictions).all():
        raise ValueError("the model predicts numbers that are not finite")
    return {metric: DEGREES[metric](predictions, labels) for metric in metrics}


def of_classes(logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
    """CLASSES of the likeliest classes by logits (n, classes), the first of equal ones. ValueError as above."""
    if not np.isfinite(logits).all():
        raise ValueError("the model predicts numbers that are not finite")
    return {metric: CLASSES[metric](logits.argmax(-1), labels) for metric in metrics}


def of_spans(predictions: Sequence[str], answers: Sequence[Sequence[str]], metrics: Sequence[str]) -> dict[str, float]:
    """SPANS as means over questions."""
    pairs = list(zip(predictions, answers, strict=True))
    return {metric: statistics.fmean(SPANS[metric](*pair) for pair in pairs) for metric in metrics}


def summary(values: Sequence[float]) -> dict:
    """Mean and sample standard deviation of a score over seeds; None for the deviation of one value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread, "values": list(values)}


def shown(summarised: dict | None, digits: int = 3) -> str:
    """ "0.812 ± 0.004" of a `summary`, "0.812" of one value, "-" where there is none."""
    if summarised is None or not math.isfinite(summarised["mean"]):
        return "-"
    spread = "" if summarised["sd"] is None else f" ± {summarised['sd']:.{digits}f}"
    return f"{summarised['mean']:.{digits}f}{spread}"
