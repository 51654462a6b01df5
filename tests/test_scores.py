"""Scores beside values that were worked out by hand, and beside another library's."""

import numpy as np
import pytest

from bert_ja import scores


def test_pearson_is_that_of_a_worked_example():
    """Means 2.5 and 3; products -1.5 x -2, -.5 x 0, .5 x -1, 1.5 x 3 = 3 + 0 - .5 + 4.5 = 7; squares 5 and 14."""
    assert scores.pearson(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 6])) == pytest.approx(7 / (5 * 14) ** 0.5)


def test_spearman_gives_ties_the_mean_of_their_ranks():
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, squares 4.5 and 5."""
    assert scores.spearman(np.array([1, 2, 2, 9]), np.array([0, 1, 2, 3])) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


@pytest.mark.filterwarnings("error")
def test_constant_predictions_correlate_with_nothing():
    degrees = scores.of_degrees(np.full(4, 2.5), np.array([0.0, 1.0, 2.0, 5.0]), ("pearson", "spearman"))
    assert degrees == {"pearson": 0.0, "spearman": 0.0}
    classes = scores.of_classes(np.tile([3.0, 1.0, 2.0], (4, 1)), np.array([0, 0, 1, 2]), ("accuracy", "mcc"))
    assert classes == {"accuracy": 0.5, "mcc": 0.0}


def test_constant_labels_correlate_with_nothing():
    assert scores.pearson(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0.0


def test_the_class_of_equal_logits_is_the_first():
    assert scores.of_classes(np.zeros((2, 3)), np.array([0, 1]), ("accuracy",)) == {"accuracy": 0.5}


def test_mcc_is_that_of_a_worked_example():
    """2 true positives, 1 true negative, 1 false positive, 1 false negative: (2 x 1 - 1 x 1) / sqrt(3 x 3 x 2 x 2)."""
    assert scores.mcc(np.array([1, 1, 0, 1, 0]), np.array([1, 1, 0, 0, 1])) == pytest.approx(1 / 6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_no_scores(broken):
    with pytest.raises(ValueError, match="not finite"):
        scores.of_degrees(np.array([1.0, broken]), np.array([0.0, 1.0]), ("pearson",))
    with pytest.raises(ValueError, match="not finite"):
        scores.of_classes(np.array([[1.0, broken]]), np.array([0]), ("accuracy",))


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("東京", ["東京"], 1.0, 1.0),
        ("東京都", ["東京"], 0.0, 0.8),  # precision 2/3, recall 1
        ("東京都。", ["東京都"], 1.0, 1.0),
        ("NHK", ["nhk"], 1.0, 1.0),
        ("5月 から  7月", ["5月 から 7月"], 1.0, 1.0),
        ("", ["東京"], 0.0, 0.0),
        ("。", ["東京"], 0.0, 0.0),
        ("京東", ["東京"], 0.0, 1.0),  # a bag of characters
        ("ああい", ["ああう", "い"], 0.0, 2 / 3),  # two of three; and 2 x 1 / 4 with the other
        ("大阪", ["東京", "大阪"], 1.0, 1.0),
    ],
)
def test_answers_are_scored_by_characters_and_the_one_that_fits_best(prediction, answers, exact, f1):
    assert scores.exact_match(prediction, answers) == exact
    assert scores.character_f1(prediction, answers) == pytest.approx(f1)


def test_characters_score_as_the_words_of_another_library():
    """torchmetrics counts words, after taking off punctuation: characters parted by spaces, without any of that."""
    from torchmetrics.functional.text import squad

    pairs = [("東京都", ["東京", "京都府"]), ("平成二十三年", ["平成二年", "昭和"]), ("犬", ["猫"]), ("雨季", ["雨季"])]
    found = squad(
        [{"prediction_text": " ".join(said), "id": str(at)} for at, (said, _) in enumerate(pairs)],
        [
            {"answers": {"text": [" ".join(each) for each in right], "answer_start": [0] * len(right)}, "id": str(at)}
            for at, (_, right) in enumerate(pairs)
        ],
    )
    ours = scores.of_spans([said for said, _ in pairs], [right for _, right in pairs], ("exact_match", "f1"))
    assert {name: 100 * value for name, value in ours.items()} == pytest.approx(
        {name: float(value) for name, value in found.items()}, abs=1e-4
    )


def test_a_summary_has_the_sample_standard_deviation_and_none_of_one_value():
    assert scores.summary([0.2, 0.4]) == {
        "mean": pytest.approx(0.3),
        "sd": pytest.approx(0.02**0.5),
        "values": [0.2, 0.4],
    }
    assert scores.summary([0.5]) == {"mean": 0.5, "sd": None, "values": [0.5]}
    assert scores.shown(scores.summary([0.2, 0.4])) == "0.300 ± 0.141"
    assert scores.shown(scores.summary([0.5])) == "0.500"
    assert scores.shown(None) == "-"
