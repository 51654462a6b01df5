"""make compat: the same tokenizer in two environments, and each difference between them named."""

import inspect
import subprocess
import sys

import pytest
from conftest import ROOT, refusal
from test_parity import COMPAT, READY, lower_a_score, tampered, write_bert
from test_tokenization import made_up_lines, small_model

import compat
from bert_ja import hard_lines, tokenization
from bert_ja.cli import StageError


def test_a_missing_environment_is_told(tmp_path):
    said = refusal("compat.py", "--other_python", "none/bin/python", cwd=tmp_path)
    assert said == f"{tmp_path}/none/bin/python not found: run make .venv-compat first, or pass --other_python"


def test_the_text_is_that_of_the_sample_dump_where_no_other_is(tmp_path, monkeypatch):
    monkeypatch.setattr(compat, "SHARED", tmp_path / "absent")
    text = compat.find_text(None, tmp_path)
    assert tokenization.count_lines(text).eligible > 1000
    options = inspect.signature(compat.main).parameters
    model = tokenization.train_sentencepiece(
        filter(str.strip, tokenization.read_lines(text)), options["vocab_size"].default, compat.COVERAGE
    )
    assert len(tokenization.parse_model(model).pieces) == 3000


def test_a_text_of_the_users_is_taken(tmp_path):
    (tmp_path / "a.txt").write_text("文。\n", encoding="utf-8")
    assert compat.find_text(str(tmp_path / "a.txt"), tmp_path) == tmp_path / "a.txt"
    with pytest.raises(StageError, match="none.txt not found: pass --text_file with a text of one sentence a line"):
        compat.find_text("none.txt", tmp_path)


def test_the_first_encoding_that_is_not_the_same_in_both_is_named(tmp_path):
    rows = ["line 1 of a: b.txt: 0123", "line 2 of a: b.txt: 4567", "fill-mask of [MASK]と: 89ab"]
    for name, changes in (("here", {}), ("there", {}), ("other", {1: "line 2 of a: b.txt: 4568"})):
        (tmp_path / f"{name}.txt").write_text("\n".join(changes.get(i, row) for i, row in enumerate(rows)) + "\n")
    here, there, other = (tmp_path / f"{name}.txt" for name in ("here", "there", "other"))
    assert compat.require_equal(here, there) == 3
    with pytest.raises(StageError, match="^here and other differ first at line 2 of a: b.txt$"):
        compat.require_equal(here, other)


@pytest.mark.full
def test_a_comparison_reports_or_stops_at_a_difference(tmp_path, capsys):
    model = write_bert(tmp_path / "model")
    tokenization.write_tokenizer_folder(small_model(), model)
    text = compat.write_lines(tmp_path / "lines.txt", made_up_lines(60))
    report = compat.check(sys.executable, model, text, tmp_path / "here.txt")
    assert (report["text"]["lines"], report["fill_mask"]) == (60, 4)
    said = capsys.readouterr().err
    assert said.endswith(
        "60 lines, 60 with_mask, 30 pairs, 11 truncated, 6 alone, 4 fill-mask: 0 differences, known ones: none\n"
    )
    own = len(hard_lines.ADVERSARIAL_LINES)
    assert compat.require_equal(tmp_path / "here.txt", tmp_path / "here.txt") == own + own + own // 2 + 60 + 60 + 30 + 4
    tampered(model, model, lower_a_score)
    with pytest.raises(StageError, match="^there: convert_tokenizer.py: error: .* does not tokenize as its "):
        compat.check(sys.executable, model, text, tmp_path / "there.txt")


@pytest.mark.full
def test_both_environments_agree(tmp_path):
    if not READY.is_file():
        pytest.skip(".venv-compat is not built: make .venv-compat")
    command = [sys.executable, ROOT / "compat.py", "--other_python", COMPAT, "--lines", "3000", "--odd_lines", "2000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert " encodings and predictions in both environments, in " in done.stderr.splitlines()[-1]
