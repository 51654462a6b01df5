"""The table and the picture of results in files, as a user makes them; see test_comparison.py too."""

from pathlib import Path

import evaluations
import pytest
from conftest import refusal, stage

import compare_scores
from bert_ja import files, score_curve
from bert_ja.cli import StageError

SCRIPT = "compare_scores.py"
TABLE = """\
| Model | Steps | Tokens | JSTS Pearson correlation, test | bits a character | masked words, first guess | \
content words, first guess | next sentences |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| run step 1,500 | 1,500 | 24,576,000 | 0.490 ± 0.100 | 3.500 | 0.250 | 0.125 | 0.750 |
| run step 3,000 | 3,000 | 49,152,000 | 0.590 ± 0.100 | 3.500 | 0.250 | 0.125 | 0.750 |
| peer | - | - | - | 3.000 | 0.250 | 0.125 | - |
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """step-1500/, step-3000/ and text_result.json, the last of three models."""
    monkeypatch.chdir(tmp_path)
    steps = {1500: evaluations.model("aa", "run step 1,500", 1500, 24_576_000)}
    steps[3000] = evaluations.model("bb", "run step 3,000", 3000, 49_152_000)
    for (step, measured), best in zip(steps.items(), (0.6, 0.7), strict=True):
        values = (best - 0.2, best - 0.1, best)
        evaluations.write_jglue(tmp_path / f"step-{step}", evaluations.jglue(measured, pearson=values))
    peer = evaluations.text(evaluations.model("cc", "peer", None, None), bits_per_character=3.0, nsp_accuracy=None)
    evaluations.write_text(tmp_path / "text_result.json", peer, *map(evaluations.text, steps.values()))
    return tmp_path


def error(*named: str, **options) -> str:
    with pytest.raises(StageError) as raised:
        compare_scores.main(*named, **options)
    assert not Path("scores").exists()
    return str(raised.value)


def test_results_become_a_table_a_picture_and_a_record(here):
    named = ("step-3000/jglue.json", "text_result.json", "step-1500")
    ended = stage(SCRIPT, *named, "--part", "test", cwd=here)
    assert ended.stdout == TABLE == Path("scores/scores.md").read_text()
    assert ended.stderr.splitlines()[-1] == "wrote the scores of 3 models to scores/scores.md and scores.png"
    assert sorted(path.name for path in Path("scores").iterdir()) == ["meta.json", "scores.md", "scores.png"]
    record = files.require_record("scores", SCRIPT)
    assert record["options"] == {"part": "test"}
    assert record["inputs"] == [files.describe(path) for path in (*named[:2], "step-1500/jglue.json")]
    assert record["outputs"] == files.describe_folder("scores")
    assert record["corpus"] == {"private": False}


def test_the_same_results_are_the_same_bytes_and_replace_the_earlier_ones(here, capsys):
    compare_scores.main("step-1500", "text_result.json")
    before = files.describe_folder("scores")
    compare_scores.main("step-1500", "text_result.json", output_dir="again")
    assert files.describe_folder("again") == before
    compare_scores.main("step-3000", "step-1500", part="test")
    assert files.describe_folder("scores") != before
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_what_is_made_of_a_private_result_is_private(here, capsys):
    evaluations.write_jglue(here / "p", evaluations.jglue(evaluations.model("dd")), corpus={"private": True})
    compare_scores.main("step-1500", "p")
    assert files.read_record("scores")["corpus"] == {"private": True}


def test_what_cannot_work_is_refused_before_anything_is_written(here):
    again = "name results of evaluate_jglue.py or evaluate_text.py"
    assert refusal(SCRIPT, "--part", "x", cwd=here) == (
        f"no result is named: {again}; --part must be valid or test, got 'x'"
    )
    assert error("none.json") == f"none.json not found: {again}"
    Path("mine.json").write_text("{}")
    assert error("mine.json") == (
        "mine.json has no record (mine.json.meta.json), so it may be cut short: make it again with evaluate_jglue.py "
        "or evaluate_text.py"
    )
    files.write_record("mine.json", {"stage": "test.py", "outputs": [files.describe("mine.json")]})
    needed = "an output of evaluate_jglue.py or evaluate_text.py is needed"
    assert error("step-1500", "mine.json") == f"mine.json was written by test.py, {needed}"
    assert error("step-1500", "step-1500/jglue.json").startswith("step-1500/jglue.json and step-1500/jglue.json both ")
    content = evaluations.jglue(evaluations.model("dd"), train_split="valid")
    evaluations.write_jglue(here / "other", content)
    assert error("step-1500", "other") == (
        "other/jglue.json is of fine-tuning on valid, and step-1500/jglue.json train: compare results of one part"
    )
    del content["tasks"]["jsts"]
    evaluations.write_jglue(here / "other", content)
    assert error("other", part="test") == "no result has scores on the test part: name another --part"


def test_a_folder_of_somebody_else_stays(here):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    with pytest.raises(StageError, match="mine holds thesis.txt, which this stage did not write"):
        compare_scores.main("step-1500", output_dir="mine")


def test_a_failure_leaves_nothing(here, monkeypatch):
    monkeypatch.setattr(score_curve, "draw", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare_scores.main("step-1500")
    assert sorted(path.name for path in here.iterdir()) == [
        *("step-1500", "step-3000", "text_result.json", "text_result.json.meta.json")
    ]


def test_help_explains_every_option(here):
    ended = stage(SCRIPT, "--help", cwd=here)
    said = ended.stdout + ended.stderr
    assert [word for word in ("RESULT_FILES", "--output_dir", "--part") if word not in said] == []
