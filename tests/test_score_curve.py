"""Scores over steps: the table of rows written here by hand, and the picture, whose bytes follow from them alone."""

import io

import pytest
from PIL import Image
from test_loss_curve import chunks, colours

from bert_ja import score_curve
from bert_ja.score_curve import Row

PEARSON = "JSTS Pearson correlation"
ROWS = [
    Row("version_0 step 3,000", 3000, 49_152_000, {PEARSON: (0.62, 0.01), "bits": (3.9, None)}),
    Row("peer|b", None, None, {PEARSON: (0.9, 0.002)}),
    Row("version_0 step 1,500", 1500, 24_576_000, {PEARSON: (0.5, 0.02)}),
    Row("model, random weights", None, None, {"bits": (9.0, None)}),
]
TABLE = """\
| Model | Steps | Tokens | JSTS Pearson correlation | bits |
| --- | ---: | ---: | ---: | ---: |
| version_0 step 1,500 | 1,500 | 24,576,000 | 0.500 ± 0.020 | - |
| version_0 step 3,000 | 3,000 | 49,152,000 | 0.620 ± 0.010 | 3.900 |
| peer\\|b | - | - | 0.900 ± 0.002 | - |
| model, random weights | - | - | - | 9.000 |
"""
BLUE, ORANGE, GREEN = (31, 119, 180), (255, 127, 14), (44, 160, 44)


def test_the_table_goes_by_steps_and_models_of_unknown_steps_come_last():
    assert score_curve.table(ROWS) == TABLE


@pytest.mark.parametrize(
    ("name", "steps", "series"),
    [
        ("version_0 step 1,500", 1500, "version_0"),
        ("model-1500", 1500, "model"),
        ("model", 1500, "model"),
        ("bert_step_1500", 1500, "bert"),
        ("bert step 1,500", 500, "bert step 1,500"),
        ("1500", 1500, "1500"),
        ("bert-21500", 500, "bert-21500"),
        ("version_0 step 1,500", None, "version_0 step 1,500"),
    ],
)
def test_models_of_one_run_share_what_is_before_their_steps(name, steps, series):
    assert Row(name, steps, None).series == series


def test_tokens_are_short_on_their_axis():
    numbers = (999, 4480, 24_576_000, 3_118_080_000)
    assert list(map(score_curve.short_count, numbers)) == ["999", "4.48 k", "24.6 M", "3.12 B"]


def test_the_picture_has_a_panel_a_score_and_a_colour_a_run_or_model():
    picture = score_curve.draw(ROWS)
    assert Image.open(io.BytesIO(picture)).size == (900, 432)  # 2 panels side by side, 2 lines of legend
    assert {BLUE, ORANGE, GREEN} <= colours(picture)
    assert set(chunks(picture)) == {"IHDR", "pHYs", "IDAT", "IEND"}  # no tEXt with a program, no tIME
    alone = score_curve.draw(ROWS[:1])
    assert BLUE in colours(alone) and not {ORANGE, GREEN} & colours(alone)


def test_a_point_lies_where_its_score_is():
    """The line of the only score rises where the later model is better, and falls where it is worse."""

    def heights(last: float) -> tuple[float, float]:
        rows = [Row("r step 1", 1, None, {"s": (0.5, None)}), Row("r step 2", 2, None, {"s": (last, None)})]
        picture = Image.open(io.BytesIO(score_curve.draw(rows))).convert("RGB")
        width, height = picture.size
        lines = range(round(height * 0.85))  # above the legend
        blue = [(x, y) for x in range(width) for y in lines if picture.getpixel((x, y)) == BLUE]
        return min(blue)[1], max(blue)[1]

    (first, last), (falling_first, falling_last) = heights(0.9), heights(0.1)
    assert first > last  # pixels are counted from the top
    assert falling_first < falling_last


def test_a_run_and_another_model_of_one_name_have_both():
    rows = [Row("model", 5, 10, {"s": (0.5, None)}), *(Row("model", None, None, {"s": (x, None)}) for x in (0.2, 0.9))]
    one = score_curve.draw(rows[:2])
    assert score_curve.draw(rows) != one != score_curve.draw(rows[:1])


def test_equal_rows_are_equal_bytes_whatever_the_settings_of_the_user(capfd):
    import matplotlib

    odd = [Row("_a$b$c_", 5, 10, {"$x_1$": (0.5, 0.1)})]
    before = score_curve.draw(odd)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        assert score_curve.draw(odd) == before
    assert capfd.readouterr().err == ""
