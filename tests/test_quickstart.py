"""The way of a new user: what the fixtures ran stands here for `make quickstart`, which runs the same stages longer."""

import json
import shlex
import subprocess
import sys

import pytest
from conftest import NO_NETWORK, ROOT, stage

import quickstart
from bert_ja import files


def test_every_stage_of_the_quick_start_has_run_in_the_fixtures(release, result, work):
    """All its scripts, in its order, below its default paths."""
    scripts = [shlex.split(command)[1].removeprefix("../") for command in quickstart.STAGES]
    assert list(dict.fromkeys(scripts)) == [
        *("get_jawiki.sh", "train_tokenizer.py", "prepare_train_data.py", "trainer.py", "test.py"),
        *("export_model.py", "convert_tokenizer.py", "release_model.py"),
    ]
    for name in ("data/train.txt", "output/spm/sp.model", "output/model/tokenizer.json", "model/model.safetensors"):
        assert (work / name).is_file()
    assert release == work / "release" / "bert-tiny-ja"


def test_no_stage_asks_for_the_network(release, result, network_log):
    """Every stage of the fixtures ran without a network, under a guard that writes down each attempt."""
    assert network_log.read_text() == ""


def test_the_guard_against_the_network_works(tmp_path):
    log = tmp_path / "attempts"
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    env = {"PYTHONPATH": str(ROOT / "tests" / "no_network"), "NETWORK_LOG": str(log)}
    ended = subprocess.run([*NO_NETWORK, sys.executable, "-c", code], env=env, capture_output=True)
    assert ended.returncode != 0
    assert log.read_text() == "getaddrinfo ('127.0.0.1', 9)\n"


def test_the_report_ends_with_predictions(work, release, result, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "WORK", work)
    (work / "valid_result.json").write_text(result.read_text())
    quickstart.report(release)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("validation MLM loss ")
    assert lines[1].startswith("mean rank of the hidden word in 50 training sentences, of 3,000: ")
    for line in lines[-5:]:
        token, probability = line.rsplit(" ", 1)
        assert token
        assert 0 < float(probability) < 1


def test_a_failing_stage_ends_the_quick_start(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "WORK", tmp_path)
    with pytest.raises(quickstart.cli.StageError, match="exit code 2"):
        quickstart.run_stage(f"python3 {ROOT}/train_tokenizer.py --train_file none.txt")


def test_the_released_folder_passes_the_check_for_users(release, work):
    done = stage(
        *("convert_tokenizer.py", "--check_only", True, "--output_dir", release, "--text_file", "data/valid.txt"),
        cwd=work,
    )
    report = json.loads(done.stdout)
    assert report["differences"] == 0
    assert report["lines"] > 150


def test_records_of_all_stages_agree(work, release, result):
    """The tokenizer's hash goes from stage to stage, and the dump's from the first to the last."""
    records = [
        files.read_record(work / name)
        for name in ("output/spm", "output/model", "data/train.jsonl", "data/test.jsonl", "model", "test_result.json")
    ]
    assert len({json.dumps(record["tokenizer"], sort_keys=True) for record in records}) == 1
    corpora = [files.read_record(work / "data" / "train.txt")["corpus"], records[2]["corpus"]]
    corpora.append(records[4]["training"]["corpus"])
    assert corpora[0] == corpora[1] == corpora[2]
    assert corpora[0]["dump"]["file"] == "jawiki-sample-pages-articles.xml"
