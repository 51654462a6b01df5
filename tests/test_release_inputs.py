"""Results of the evaluations that a release may not take; what it takes is in test_release_model.py."""

import copy
from pathlib import Path

import evaluations
import pytest

from bert_ja import files, release_inputs, results
from bert_ja.cli import StageError

WEIGHTS, CHECKPOINT = "5a" * 32, "c0" * 32
MODEL = {"outputs": [{"name": "model.safetensors", "sha256": WEIGHTS}], "inputs": [{"sha256": CHECKPOINT}]}
AGAIN = "make it with evaluate_jglue.py, or leave --jglue_result out"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(jglue: str | None = None, text: str | None = None) -> dict:
    return release_inputs.read_scores({results.JGLUE: jglue, results.TEXT: text}, MODEL, Path("model"))


def error(*named) -> str:
    with pytest.raises(StageError) as raised:
        read(*named)
    return str(raised.value)


def evaluated(content: dict | None = None, **changes) -> Path:
    return evaluations.write_jglue(
        Path("evaluation"), content or evaluations.jglue(evaluations.model(WEIGHTS)), **changes
    )


def short(path: str | Path) -> str:
    return f"sha256 {files.sha256(path)[:12]}"


def test_the_result_of_the_weights_or_of_their_checkpoint_is_taken():
    evaluated()
    other, ours = evaluations.text(evaluations.model("ab" * 32)), evaluations.text(evaluations.model(CHECKPOINT))
    evaluations.write_text(Path("t.json"), other, ours)
    found = read("evaluation", "t.json")
    assert {stage: each.weights for stage, each in found.items()} == {results.JGLUE: WEIGHTS, results.TEXT: CHECKPOINT}
    assert found[results.TEXT].content == ours
    assert read("evaluation/jglue.json") == read("evaluation")
    assert read() == {}


def test_what_is_not_there_or_of_another_stage_is_refused():
    assert error("x.json") == f"x.json not found: {AGAIN}"
    assert error(None, "y.json") == "y.json not found: make it with evaluate_text.py, or leave --text_result out"
    evaluations.write_text(Path("t.json"), evaluations.text(evaluations.model(WEIGHTS)))
    assert error("t.json") == "t.json was written by evaluate_text.py, an output of evaluate_jglue.py is needed"


def test_a_result_without_its_record_or_with_other_bytes_is_refused():
    path = evaluated()
    was = short(path)
    path.write_text(path.read_text().replace("0.875", "0.975"))
    assert error("evaluation") == (
        f"{path} was changed after evaluate_jglue.py wrote it ({short(path)}, its record says {was}): {AGAIN}"
    )
    Path("evaluation/meta.json").unlink()
    cut = "so it may be cut short: make it again with evaluate_jglue.py"
    assert error("evaluation") == f"evaluation has no record (meta.json), {cut}"


def test_results_of_other_or_of_random_weights_are_refused():
    evaluated(evaluations.jglue(evaluations.model("ab" * 32)))
    assert error("evaluation") == (
        "evaluation/jglue.json measures other weights (sha256 abababababab) than those in model (sha256 5a5a5a5a5a5a): "
        "run evaluate_jglue.py with model, or leave --jglue_result out"
    )
    evaluations.write_text(Path("t.json"), *(evaluations.text(evaluations.model(each * 32)) for each in ("ab", "cd")))
    assert error(None, "t.json").startswith("t.json measures other weights (sha256 abababababab, sha256 cdcdcdcdcdcd) ")
    evaluated(evaluations.jglue(evaluations.model(WEIGHTS), random_weights=True))
    assert error("evaluation") == (
        "evaluation/jglue.json measures random weights of their shape instead of those in model: run evaluate_jglue.py "
        "with those, or leave --jglue_result out"
    )


def at(content: dict, place: str, value) -> dict:
    """The content with another value at "tasks.jsts.version"."""
    *way, last = place.split(".")
    inner = content = copy.deepcopy(content)
    for key in way:
        inner = inner[key]
    inner[last] = value
    return content


SCORE = "tasks.jsts.scores.pearson.test"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("model", [], "model is no JSON object"),
        ("model.weights", {}, "model.weights.sha256 is missing"),
        ("model.weights.sha256", 1, "model.weights.sha256 is no text"),
        ("model.name", 1, "model.name is no text"),
        ("model.steps", -1, "model.steps is -1"),
        ("random_weights", "no", "random_weights is no"),
        ("train_split", "a\nb", "train_split is a\nb"),
        ("seeds", 0, "seeds is 0"),
        ("seeds", 2, "tasks.jsts.scores.pearson.valid.values are not 2"),
        ("tasks", {}, "tasks is empty"),
        ("tasks.jsts", {"title": "JSTS"}, "tasks.jsts.version is missing"),
        ("tasks.jsts.title", None, "tasks.jsts.title is no text"),
        ("tasks.jsts.setting.epochs", float("inf"), "tasks.jsts.setting.epochs is inf"),
        ("tasks.jsts.tried", {}, "tasks.jsts.tried is no list"),
        ("tasks.jsts.cut.train", "3", "tasks.jsts.cut.train is 3"),
        ("tasks.jsts.overlap.train", {"sentences": 1}, "tasks.jsts.overlap.train.in_training_text is missing"),
        ("tasks.jsts.overlap.train.sentences", None, "tasks.jsts.overlap.train.sentences is None"),
        ("tasks.jsts.scores", {}, "tasks.jsts.scores is empty"),
        ("tasks.jsts.scores.bleu", {}, "tasks.jsts.scores.bleu is no score that is known here"),
        ("tasks.jsts.scores.pearson.train", {}, "tasks.jsts.scores.pearson is of valid, test, train"),
        (SCORE, {"mean": 1}, f"{SCORE}.sd is missing"),
        (f"{SCORE}.mean", float("nan"), f"{SCORE}.mean is nan"),
        (f"{SCORE}.sd", True, f"{SCORE}.sd is True"),
        (f"{SCORE}.values", [1, 2, None], f"{SCORE}.values is None"),
    ],
)
def test_what_is_no_result_of_jglue_is_refused(place, value, reason):
    evaluated(at(evaluations.jglue(evaluations.model(WEIGHTS)), place, value))
    assert error("evaluation") == f"evaluation/jglue.json is not a result of evaluate_jglue.py ({reason}): {AGAIN}"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("bits_per_character", None, "bits_per_character is None"),
        ("unknown_rate", float("nan"), "unknown_rate is nan"),
        ("tokens", 1.5, "tokens is 1.5"),
        ("text", "test.txt", "text is no JSON object"),
    ],
)
def test_what_is_no_result_on_a_text_is_refused(place, value, reason):
    evaluations.write_text(Path("t.json"), at(evaluations.text(evaluations.model(WEIGHTS)), place, value))
    assert error(None, "t.json").startswith(f"t.json is not a result of evaluate_text.py ({reason}): ")


def test_files_that_hold_something_else_are_refused():
    evaluations.write_text(Path("t.json"), {"results": []})
    assert "(results is no list of results)" in error(None, "t.json")
    evaluations.write_text(Path("t.json"), [])
    assert "(it is no JSON object)" in error(None, "t.json")
    content = evaluations.text(evaluations.model(WEIGHTS))
    evaluations.write_text(Path("t.json"), {key: content[key] for key in content if key != "whole_word_rate"})
    assert "(whole_word_rate is missing)" in error(None, "t.json")
    files.write_bytes("t.json", b"bits 3.5")
    files.write_record("t.json", {"stage": results.TEXT, "outputs": [files.describe("t.json")]})
    assert "(Expecting value: line 1 column 1 (char 0))" in error(None, "t.json")


def test_what_may_be_missing_is_null():
    content = evaluations.text(evaluations.model(WEIGHTS, steps=None, tokens=None), nsp_accuracy=None, nsp_pairs=None)
    evaluations.write_text(Path("t.json"), content)
    assert read(None, "t.json")[results.TEXT].content == content


def test_means_that_are_not_those_of_their_values_are_found():
    content = evaluations.jglue(evaluations.model(WEIGHTS))
    assert results.wrong_means(content) == []
    content["tasks"]["jsts"]["scores"]["pearson"]["valid"] |= {"mean": 0.9, "sd": None}
    assert [(name, said) for name, _, said in results.wrong_means(content)] == [
        ("jsts.pearson.valid.mean", 0.9),
        ("jsts.pearson.valid.sd", None),
    ]
    one = evaluations.jglue(evaluations.model(WEIGHTS), pearson=(0.5,))
    assert results.wrong_means(one) == []
    assert one["tasks"]["jsts"]["scores"]["pearson"]["valid"]["sd"] is None
