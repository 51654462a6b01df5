"""Which results may be compared, and the rows that they make; results are written here by hand."""

import copy
from pathlib import Path

import evaluations
import pytest

from bert_ja import comparison, results
from bert_ja.cli import StageError

PEARSON, SPEARMAN = "JSTS Pearson correlation, validation", "JSTS Spearman correlation, validation"


def result(content: dict, path: str = "a.json") -> results.Result:
    stage = results.JGLUE if "tasks" in content else results.TEXT
    return results.Result(Path(path), stage, content, {"stage": stage, "outputs": []}, "")


def jglue(sha256: str, name: str = "m", steps: int | None = None, path: str = "a.json", **changes) -> results.Result:
    return result(evaluations.jglue(evaluations.model(sha256, name, steps, steps and steps * 100), **changes), path)


def text(sha256: str, name: str = "m", steps: int | None = None, path: str = "t.json", **changes) -> results.Result:
    return result(evaluations.text(evaluations.model(sha256, name, steps, None), **changes), path)


def refusal(*found: results.Result, part: str | None = None) -> str:
    with pytest.raises(StageError) as raised:
        comparison.require_comparable(list(found)) if part is None else comparison.rows(list(found), part)
    return str(raised.value)


def test_results_of_the_same_weights_are_one_row_in_the_order_of_steps():
    later, peer = jglue("bb", "r step 30", 30, pearson=(0.5, 0.7)), jglue("cc", "peer", pearson=(0.9, 0.9))
    earlier, random = (
        text("aa", "r step 10", 10),
        jglue("bb", "r, random weights", 30, random_weights=True, pearson=(0.1, 0.1)),
    )
    found = [later, peer, earlier, text("bb", "another name", 30, nsp_accuracy=None), random]
    comparison.require_comparable(found)
    rows = comparison.rows(found, "valid")
    assert [(row.name, row.steps, row.tokens) for row in rows] == [
        ("r step 10", 10, None),
        ("r step 30", 30, 3000),
        ("peer", None, None),
        ("r, random weights", None, None),
    ]
    measures = {name: (evaluations.MEASURES[key], None) for key, name in comparison.OF_A_TEXT.items()}
    assert {name: score for name, score in rows[0].scores.items() if score} == measures
    assert [list(row.scores) for row in rows] == [list(rows[0].scores)] * 4
    assert rows[1].scores[PEARSON] == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert list(rows[1].scores)[:2] == [PEARSON, SPEARMAN]
    assert list(rows[1].scores)[-4:] == list(measures)
    assert [rows[1].scores[name] for name in measures] == [*list(measures.values())[:3], None]
    assert rows[3].scores[PEARSON] == (pytest.approx(0.1), 0)


def test_the_other_part_has_scores_of_its_own():
    (row,) = comparison.rows([jglue("aa", pearson=(0.5,))], "test")
    assert row.scores == {"JSTS Pearson correlation, test": (pytest.approx(0.49), None)}


def test_tasks_that_were_measured_apart_are_one_row():
    whole = evaluations.jglue(evaluations.model("aa"))
    parts = [result(whole | {"tasks": {task: whole["tasks"][task]}}) for task in ("jsquad", "jsts")]
    (row,) = comparison.rows(parts, "valid")
    assert row.scores == comparison.rows([result(whole)], "valid")[0].scores


def test_a_score_that_two_results_have_of_the_same_weights_is_refused():
    said = f"a.json and b.json both have {PEARSON} of the same weights (sha256 aa): name one of them"
    assert refusal(jglue("aa"), jglue("aa", path="b.json"), part="valid") == said


def test_results_that_are_not_of_the_same_thing_are_refused():
    first = jglue("aa")
    comparison.require_comparable([first, text("aa"), jglue("bb"), text("bb")])
    assert refusal(first, text("aa"), jglue("bb", path="b.json", train_split="test")) == (
        "b.json is of fine-tuning on test, and a.json train: compare results of one part"
    )
    other = copy.deepcopy(first.content)
    other["tasks"]["jsquad"]["version"] = "v1.1"
    assert refusal(first, result(other, "b.json")) == (
        "b.json is of jsquad v1.1, and a.json v1.3: compare results of one version"
    )
    del other["tasks"]["jsquad"]
    comparison.require_comparable([first, result(other)])
    described = evaluations.TEXT_FILE | evaluations.DRAWN
    drawn = "1,236 sentences, less 2 too long, of the text with sha256 7e7e7e7e7e7e, drawn by seed 1000"
    assert refusal(text("aa"), first, text("bb", path="u.json", text=described | {"sha256": "5e" * 32})) == (
        f"u.json measures {drawn.replace('7e', '5e')}, and t.json {drawn}: compare results on one text and draw"
    )
    fewer = text("bb", path="u.json", text=described | {"drawn_sentences": 100, "seed": 1})
    assert refusal(text("aa"), fewer).startswith(
        "u.json measures 100 sentences, less 2 too long, of the text with sha256 7e7e7e7e7e7e, "
    )


def test_other_weights_of_the_same_name_are_told_apart_by_their_sum():
    rows = comparison.rows(
        [jglue("aa" * 32, "model", 10), jglue("bb" * 32, "model", 20), jglue("cc" * 32, "peer")], "valid"
    )
    assert [row.name for row in rows] == [f"model ({results.short(sha * 32)})" for sha in ("aa", "bb")] + ["peer"]


def test_results_that_were_not_found_alike_are_named():
    one = jglue("aa")
    other = result(copy.deepcopy(one.content) | {"seeds": 1, "precision": "bf16-mixed"})
    assert comparison.doubts([one, one]) == []
    assert comparison.doubts([one, other]) == ["seeds differ: 3, 1", "precision differ: 32-true, bf16-mixed"]


def test_texts_of_which_a_model_could_not_read_as_much_are_not_compared():
    assert "less 5 too long" in refusal(text("aa", too_long=0), text("bb", too_long=5))
