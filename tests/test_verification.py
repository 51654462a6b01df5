"""Whether a release is verified when it is what its records say, and each tampering is named when it is not."""

import contextlib
import copy
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import evaluations
import pytest
from conftest import CONFIG, ROOT, SAMPLE, shared, stage
from texts import text

import release_model
from bert_ja import files, model_card, results, verification
from bert_ja.cli import StageError

STAGES = [
    *("release", "data", "extract_jawiki.py", "prepare_corpus.py", "train_tokenizer.py", "prepare_train_data.py"),
    *("prepare_train_data.py", "prepare_train_data.py", "trainer.py", "export_model.py", "convert_tokenizer.py"),
    *("test.py", "training and test"),
]
OTHER = "0" * 64  # a hash of nothing
SCRIPT = "release_model.py"


@pytest.fixture(scope="session")
def made(once, work, release) -> Path:
    """The work folder of a verification of the pipeline's release, as a user would start it; tests copy it."""
    options = ("--verify", release.relative_to(work), "--data", SAMPLE.parent, "--work_dir", "verification")
    return once("verification", SCRIPT, *options, stdout=work / "verification.json")


@pytest.fixture
def place(made, release, tmp_path) -> Path:
    """A folder with a release and a work folder in which all stages were run; no stage has to run again."""
    shutil.copytree(made, tmp_path / "work", symlinks=True)
    shutil.copytree(release, tmp_path / "release")
    return tmp_path


def record_of(record: dict, name: str) -> dict:
    """The record in a history of the stage that wrote a file."""
    return next(each for each in record["history"] if name in [file["name"] for file in each["outputs"]])


def change(release: Path, edit: Callable) -> None:
    record = json.loads((release / "meta.json").read_text())
    edit(record)
    (release / "meta.json").write_text(json.dumps(record))


def verify(place: Path, data: Path = SAMPLE.parent) -> str:
    """The sentence with which the verification of a place's release ends."""
    with pytest.raises(StageError) as ended:
        verification.verify(place / "release", data, place / "work")
    return str(ended.value).removeprefix(f"{place / 'release'} ")


def test_a_release_is_verified_and_every_stage_has_a_line(made, place, work, capsys):
    checks = json.loads((work / "verification.json").read_text())
    assert checks["verified"] is True
    assert [check["stage"] for check in checks["checks"]] == STAGES
    assert [check["result"] for check in checks["checks"]] == ["ok"] * 12 + ["not checked"]
    again = verification.verify(place / "release", SAMPLE.parent, place / "work")
    said = capsys.readouterr()
    assert json.loads(said.out) == checks | {"release": "release"}
    assert said.err.splitlines()[:-1] == [check.line() for check in again]  # no stage has run again
    assert said.err.splitlines()[2:4] == [
        "ok extract_jawiki.py: jawiki.txt, jawiki.index.jsonl made again, the same bytes",
        "ok prepare_corpus.py: train.txt, train.index.jsonl, valid.txt, valid.index.jsonl, test.txt, test.index.jsonl "
        "made again, the same bytes",
    ]
    assert said.err.splitlines()[-2:] == [
        "not checked training and test: not repeated: nothing here proves that the weights come from the samples, and "
        "the losses from them",
        f"verified {place / 'release'}: 12 checks; training and test were not repeated",
    ]


def test_what_a_run_wrote_is_compared_anew_each_time(place):
    (written,) = place.glob("work/*/out/jawiki.txt")
    written.write_bytes(written.read_bytes()[:-1] + b"x")
    assert verify(place).startswith("is not verified: differs extract_jawiki.py: jawiki.txt: sha256 is ")


def test_a_release_has_every_record_once_and_none_of_a_private_corpus(release):
    record = files.read_record(release)
    assert [each["stage"] for each in record["history"]] == [
        *("extract_jawiki.py", "prepare_corpus.py", "train_tokenizer.py", "prepare_train_data.py"),
        *("prepare_corpus.py", "prepare_train_data.py", "train_tokenizer.py", "prepare_corpus.py"),
        "prepare_train_data.py",
    ]
    assert {key for each in record["history"] for key in each} <= set(files.CARRIED)
    assert not any("history" in each for each in record["records"].values())
    one, other = {"stage": "a", "corpus": {"private": True}}, {"stage": "b", "corpus": {"private": False}}
    behind = {"history": [one, other]}, {"history": [other]}, None
    assert verification.history_of(model_card.public, *behind) == {"history": [other]}
    assert verification.history_of(model_card.public, {"history": [one]}, {}) == {}


# Tampering


def _seed(record):
    record_of(record, "train.jsonl")["seed"] = 1001


def _output_hash(name):
    def edit(record):
        next(file for file in record_of(record, name)["outputs"] if file["name"] == name)["sha256"] = OTHER

    return edit


def _dump_hash(record):
    record_of(record, "jawiki.txt")["inputs"][0]["sha256"] = OTHER


def _dump_hash_in_the_card(record):
    record["records"]["export_model.py"]["training"]["corpus"]["dump"]["sha256"] = OTHER


def _count(record):
    record_of(record, "jawiki.txt")["counts"]["articles"] += 1


def _filter(record):
    record_of(record, "train.txt")["options"]["min_characters"] = 12


def _trained_samples(record):
    record["records"]["export_model.py"]["training"]["samples"]["train"]["sha256"] = OTHER


def _tokenizer(record):
    record["tokenizer"]["sha256"] = OTHER


def _tokenizer_of_samples(record):
    record_of(record, "test.jsonl")["tokenizer"]["sha256"] = OTHER


def _without(name):
    return lambda record: record["history"].remove(record_of(record, name))


def _foreign_input(record):
    for name in ("train.txt", "valid.txt", "test.txt"):
        record_of(record, name)["inputs"][0]["sha256"] = OTHER


def _checkpoint(record):
    record["records"]["test.py"]["inputs"][0]["sha256"] = OTHER


def _test_samples(record):
    record["records"]["test.py"]["inputs"][1]["sha256"] = OTHER


def _max_seq_len(record):
    record["records"]["export_model.py"]["training"]["options"]["max_seq_len"] = 256


def _samples_counted(record):
    record["records"]["export_model.py"]["training"]["counts"]["samples"] += 1


def _license(record):
    record["records"]["export_model.py"]["training"]["corpus"]["license"] = "MIT"


def _license_of_samples(record):
    record_of(record, "train.jsonl")["corpus"]["license"] = "MIT"


def _result(record):
    record["result"]["mlm_loss"] -= 1


def _no_export(record):
    del record["records"]["export_model.py"]


def _no_conversion(record):
    del record["records"]["convert_tokenizer.py"]


def _no_test(record):
    del record["records"]["test.py"]


def _option(record):
    record_of(record, "train.txt")["options"]["output_dir"] = "/tmp/elsewhere"


def _version(record):
    _output_hash("spm.model")(record)
    record_of(record, "spm.model")["versions"]["sentencepiece"] = "0.1.99"


def _download(record):
    dump = dict(record_of(record, "jawiki.txt")["inputs"][0], sha256=OTHER)
    record["history"].insert(0, {"stage": "get_jawiki.sh", "inputs": [], "outputs": [dump]})


RECORDED = "is not verified: differs"
TAMPERED = {
    _seed: f"{RECORDED} prepare_train_data.py: train.jsonl: s",
    _output_hash("train.txt"): f"{RECORDED} prepare_corpus.py: train.txt: sha256 is ",
    _output_hash("spm.model"): f"{RECORDED} train_tokenizer.py: spm.model: sha256 is ",
    _output_hash("valid.jsonl"): f"{RECORDED} prepare_train_data.py: valid.jsonl: sha256 is ",
    _dump_hash: f"{RECORDED} data: {SAMPLE.name}: sha256 is {files.sha256(SAMPLE)[:12]}, the record says 000000000000",
    _dump_hash_in_the_card: f"{RECORDED} trainer.py: training: corpus.dump.sha256 is 000000000000, the record says ",
    _count: f"{RECORDED} extract_jawiki.py: jawiki.txt: counts.articles is 54, the record says 55",
    _filter: f"{RECORDED} prepare_corpus.py: train.txt: size is ",
    _trained_samples: f"{RECORDED} trainer.py: train samples: sha256 is 000000000000, the record says ",
    _tokenizer: f"{RECORDED} export_model.py: release: tokenizer.sha256 is 000000000000, the record says ",
    _tokenizer_of_samples: "is not verified: not checked prepare_train_data.py: test.jsonl: its tokenizer (sha256 "
    "000000000000) is neither made by a recorded stage nor in the release",
    _without("train.txt"): f"is not verified: not checked data: train.txt is not in {SAMPLE.parent}, and no recorded ",
    _without("jawiki.txt"): f"{SAMPLE.parent} has none of the files that ",
    _without("valid.jsonl"): f"{RECORDED} trainer.py: valid samples: sha256 is ",
    _without("test.jsonl"): f"{RECORDED} test.py: test.jsonl: sha256 is ",
    _foreign_input: f"{RECORDED} prepare_corpus.py: train.txt, train.index.jsonl, valid.txt, valid.index.jsonl, "
    "test.txt, test.index.jsonl: its input jawiki.txt (sha256 000000000000) is not what extract_jawiki.py wrote ",
    _checkpoint: f"{RECORDED} test.py: checkpoint of the result: sha256 is 000000000000, the record says ",
    _test_samples: f"{RECORDED} test.py: test.jsonl: sha256 is 000000000000, the record says no such samples",
    _max_seq_len: f"{RECORDED} trainer.py: training: options.max_seq_len is 256, the record says 512",
    _samples_counted: f"{RECORDED} trainer.py: training: counts.samples is 1,747, the record says 1,746",
    _license: f"{RECORDED} trainer.py: training: corpus.license is MIT, the record says CC0-1.0",
    _license_of_samples: f"{RECORDED} prepare_train_data.py: train.jsonl: corpus.license is MIT, the record says CC0-",
    _result: f"{RECORDED} test.py: result: sha256 is ",
    _no_export: f"{RECORDED} export_model.py: the release has no record of it",
    _no_conversion: "is not verified: not checked convert_tokenizer.py: the release has no record of it",
    _no_test: f"{RECORDED} test.py: the release has a result and no record of it",
    _option: "is not verified: not checked prepare_corpus.py: train.txt, train.index.jsonl: its record has the option "
    "output_dir, which this version does not know",
    _download: f"{RECORDED} data: {SAMPLE.name}: sha256 as downloaded is 000000000000, the record says ",
}


@pytest.mark.parametrize(("edit", "ends"), TAMPERED.items(), ids=range(len(TAMPERED)))
def test_a_tampered_record_is_caught_by_name(place, edit, ends):
    change(place / "release", edit)
    assert verify(place).startswith(ends)


def test_another_version_is_named_as_the_likely_reason(place):
    change(place / "release", _version)
    assert (
        f"(likely because: made with sentencepiece 0.1.99, here {verification.installed('sentencepiece')})"
        in verify(place)
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("spm.model", "spm.model: sha256 is "),
        ("model.safetensors", "model.safetensors: sha256 is "),
        ("README.md", "README.md: sha256 is "),
        ("modeling.py", "modeling.py: file is there, the record says nothing of it"),
        ("onnx/other.onnx", "onnx/other.onnx: file is there, the record says nothing of it"),
    ],
)
def test_a_swapped_or_added_file_is_caught_by_name(place, name, says):
    (place / "release" / name).parent.mkdir(exist_ok=True)
    content = (place / "release" / name).read_bytes() if (place / "release" / name).exists() else b"x"
    (place / "release" / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert verify(place).startswith(f"{RECORDED} release: {says}")


@pytest.mark.full
def test_another_tokenizer_with_records_to_fit_is_caught(place, words):
    """Whoever changes spm.model, and its hash wherever the release has it, still contradicts the text."""
    release = place / "release"
    before = files.sha256(release / "spm.model")
    shutil.copy(words / "spm.model", release / "spm.model")
    after, size = files.sha256(release / "spm.model"), (release / "spm.model").stat().st_size

    def edit(record):
        for file in [*record["outputs"], *(file for each in record["records"].values() for file in each["outputs"])]:
            if file["name"] == "spm.model":
                file["size"] = size

    change(release, edit)
    content = (release / "meta.json").read_text()
    assert content.count(before) > 5
    (release / "meta.json").write_text(content.replace(before, after))
    assert verify(place).startswith(f"{RECORDED} train_tokenizer.py: spm.model: s")


# What a checker has


def test_without_the_dump_nothing_is_run(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError) as refused:
        verification.verify(place / "release", tmp_path / "empty", tmp_path / "other")
    assert str(refused.value) == (
        f"{tmp_path / 'empty'} has none of the files that {place / 'release'} was made from ({SAMPLE.name}, 336,078 "
        "bytes): name the folder that has them with --data"
    )
    assert list((tmp_path / "other").iterdir()) == []


def test_a_dump_that_is_cut_short_is_named_and_nothing_is_made_of_it(place, tmp_path, capsys):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / SAMPLE.name).write_bytes(SAMPLE.read_bytes()[:-100])
    said = f"{RECORDED} data: {SAMPLE.name}: size is 335,978, the record says 336,078 (and "
    assert verify(place, tmp_path / "cut").startswith(said)
    said = capsys.readouterr().err
    assert "not checked extract_jawiki.py: jawiki.txt, jawiki.index.jsonl: its input " in said
    assert said.count("\nok ") == 4  # of the records, and the tokenizer of the release


def test_a_dump_below_the_folder_and_under_another_name_is_found(place, tmp_path, capsys):
    (tmp_path / "data" / "dump").mkdir(parents=True)
    shutil.copy(SAMPLE, tmp_path / "data" / "dump" / "mine.xml")
    verification.verify(place / "release", tmp_path / "data", place / "work")
    assert f"ok data: {SAMPLE.name}\n" in capsys.readouterr().err


def test_a_text_that_could_not_be_made_again_may_be_the_checkers_own_which_is_said(place, work, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for name in ("jawiki.txt", "jawiki.index.jsonl"):
        shutil.copy(work / "data" / name, tmp_path / "data" / name)
    change(place / "release", _without("jawiki.txt"))
    verification.verify(place / "release", tmp_path / "data", place / "work")
    assert "ok data: jawiki.txt, jawiki.index.jsonl\n" in capsys.readouterr().err
    shutil.copytree(work / "release" / "bert-tiny-ja", place / "release", dirs_exist_ok=True)
    says = f"{SAMPLE.name} is not in {tmp_path / 'data'}, and no recorded stage makes it (and 1 more, above)"
    assert verify(place, tmp_path / "data") == f"is not verified: not checked data: {says}"
    assert f" made again, the same bytes (from jawiki.txt, jawiki.index.jsonl as it stands in {tmp_path / 'data'})" in (
        capsys.readouterr().err
    )


def test_a_release_without_the_records_of_its_stages_is_not_verified(place):
    change(place / "release", lambda record: record.pop("history"))
    says = "is not verified: not checked text, tokenizer and samples: the release does not hold their records ("
    assert verify(place) == says + "it was made without them) (and 1 more, above)"
    change(place / "release", lambda record: record["corpus"].update(private=True))
    assert verify(place) == says + "its corpus is private) (and 1 more, above)"


def test_a_release_of_a_private_corpus_is_checked_as_far_as_it_goes(place, capsys):
    def edit(record):
        record["records"] = {stage: model_card.public(each, True) for stage, each in record["records"].items()}
        record["corpus"]["private"] = True
        record["result"] = {name: value for name, value in record["result"].items() if name not in model_card.COUNTS}
        del record["history"]

    change(place / "release", edit)
    says = "not checked text, tokenizer and samples: the release does not hold their records (its corpus is private)"
    assert verify(place) == f"is not verified: {says} (and 1 more, above)"
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        *("ok release", "not checked text, tokenizer and samples", "not checked trainer.py", "ok export_model.py"),
        *("ok convert_tokenizer.py", "ok test.py", "not checked training and test"),
    ]


def test_wrong_folders_and_options_are_refused(place, model, tmp_path, monkeypatch):
    def asked(*options: str) -> str:
        with pytest.raises(StageError) as refused:
            release_model.main(**dict(zip(("verify", "data", "work_dir"), options, strict=False)))
        return str(refused.value)

    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    data, again = str(SAMPLE.parent), "name the folder of a release with --verify"
    assert asked("release") == "--verify needs --data, the folder of the dump or text that the release was made from"
    assert asked(None, data) == asked(None, None, "x") == "--data and --work_dir go with --verify RELEASE"
    assert asked("no", data) == f"no is not a folder: {again}"
    assert asked("empty", data) == f"empty has no meta.json: {again}"
    assert asked(str(model), data) == f"{model} was written by export_model.py: {again}"
    assert asked("release", "no") == "no is not a folder: name the folder of the dump, or of the text, with --data"
    assert asked("release", data, "file") == "--work_dir file is a file: name a folder"
    assert asked("release", data, "release/work") == (
        "--work_dir release/work and release must be two folders, neither inside the other"
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["outputs"][0].update(name="../../file"),
        lambda record: record_of(record, "train.txt")["outputs"][0].update(name="/tmp/file"),
        lambda record: record_of(record, "train.jsonl").update(options=[1]),
        lambda record: record_of(record, "train.jsonl")["inputs"][0].update(sha256=None),
        lambda record: record.update(records=[]),
        lambda record: record.update(history={}),
        lambda record: record["records"].update({"test.py": {}}),
    ],
)
def test_a_record_that_is_none_is_refused(place, edit):
    change(place / "release", edit)
    with pytest.raises(
        StageError, match=r"meta\.json is damaged \(not the records of stages\): fetch the release again"
    ):
        verification.verify(place / "release", SAMPLE.parent, place / "work")


def test_too_little_room_is_refused_before_the_work(place, small_disk):
    with pytest.raises(StageError, match=r"making text, tokenizer and samples again needs about \d MB on the disk of"):
        verification.verify(place / "release", SAMPLE.parent, small_disk / "work")
    assert list((small_disk / "work").iterdir()) == []


def test_what_is_made_already_needs_no_more_room(place, disk):
    size = sum(path.stat().st_size + 4096 for path in (place / "work").rglob("*"))
    full = disk(size + 100_000)
    shutil.copytree(place / "work", full / "work", symlinks=True)
    assert verification.verify(place / "release", SAMPLE.parent, full / "work")[-1].possible is False


def test_a_second_verification_in_the_same_folder_is_held_off(place):
    with files.locked(place / "work"):
        assert verify(place).endswith("work now: wait for it, or end it first")


# Scores of the evaluations


def add_scores(release: Path, edit: Callable = lambda record: None) -> None:
    """Give a release the results that release_model.py would have written into its record."""
    sha256 = files.sha256(release / "model.safetensors")
    contents = {
        results.JGLUE: evaluations.jglue(evaluations.model(sha256)),
        results.TEXT: evaluations.text(evaluations.model(sha256)),
    }

    def add(record):
        record["scores"] = {name: {"result": content, "whole": True} for name, content in contents.items()}
        for name, content in contents.items():
            described = {"name": "result.json", "size": 1, "sha256": results.sums(content)[1]}
            record["records"][name] = {"stage": name, "inputs": [], "outputs": [described]}
        edit(record)

    change(release, add)


def test_scores_are_of_the_released_weights_and_were_not_measured_again(place, capsys):
    add_scores(place / "release")
    checks = verification.verify(place / "release", SAMPLE.parent, place / "work")
    said = "the result is of the released weights, or of the checkpoint that they are from"
    assert [check.line() for check in checks[12:]] == [
        f"ok evaluate_jglue.py: {said}",
        f"ok evaluate_text.py: {said}",
        "not checked training and test: not repeated: nothing here proves that the weights come from the samples, and "
        "the losses from them",
        "not checked evaluations: not repeated: that the weights have these scores was found when they were measured",
    ]
    assert capsys.readouterr().err.endswith(": 14 checks; training, test and evaluations were not repeated\n")


def _score(name: str) -> Callable:
    return lambda record: record["scores"][name]["result"]


def _other_weights(record):
    for name in results.CHECKS:
        _score(name)(record)["model"]["weights"]["sha256"] = OTHER


def _mean(record):
    _score(results.JGLUE)(record)["tasks"]["jsts"]["scores"]["pearson"]["test"]["mean"] = 0.99
    record["scores"][results.JGLUE]["whole"] = False


def _measure(record):
    _score(results.TEXT)(record)["bits_per_character"] = 1.5


def _no_record_of_scores(record):
    del record["records"][results.JGLUE]


def _no_scores(record):
    del record["scores"][results.TEXT]


SCORES_TAMPERED = {
    _other_weights: "evaluate_jglue.py: weights of the result: sha256 is 000000000000, the record says ",
    _mean: "evaluate_jglue.py: result: jsts.pearson.test.mean is 0.99, the record says 0.87",
    _measure: "evaluate_text.py: result: sha256 is ",
    _no_record_of_scores: "evaluate_jglue.py: the release has a result and no record of it",
    _no_scores: "evaluate_text.py: the release has a record of a result and no result",
}


@pytest.mark.parametrize(("edit", "says"), SCORES_TAMPERED.items(), ids=range(len(SCORES_TAMPERED)))
def test_tampered_scores_are_caught_by_name(place, edit, says):
    add_scores(place / "release", edit)
    assert verify(place).startswith(f"{RECORDED} {says}")


def test_scores_that_are_none_are_refused(place):
    add_scores(place / "release", lambda record: _score(results.TEXT)(record).update(bits_per_character="few"))
    with pytest.raises(StageError, match=r"meta\.json is damaged \(not the records of stages\)"):
        verification.verify(place / "release", SAMPLE.parent, place / "work")


# What takes longer


def start(place: Path, *options) -> subprocess.Popen:
    command = [sys.executable, ROOT / SCRIPT, "--verify", "release", "--data", SAMPLE.parent, "--work_dir", "work"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *options], cwd=place, text=True, **streams)


def descendants(process: int) -> list[str]:
    """The processes that were started by one, and by those."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return children + [each for child in children for each in descendants(int(child))]


@pytest.mark.full
def test_killed_at_any_moment_it_leaves_no_process_behind_and_goes_on(place):
    shutil.rmtree(place / "work")
    for stage_begun in ("extract_jawiki.py", "train_tokenizer.py", "convert_tokenizer.py"):
        process = start(place)
        lines = []
        while f"running {stage_begun}" not in "".join(lines[-1:]):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        time.sleep(0.5)
        left = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        while any(Path("/proc", each, "cmdline").is_file() and _runs(each) for each in left):
            time.sleep(0.01)  # pytest's own limit ends it
    process = start(place)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert [line for line in said.splitlines() if line.startswith("running ")] == [
        "running convert_tokenizer.py for spm.model, tokenizer.json, tokenizer_config.json"
    ]


def _runs(process: str) -> bool:
    return "Z" not in Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.full
def test_another_vocabulary_size_is_caught_with_all_that_follows_from_it(place):
    def edit(record):
        for each in record["history"]:
            if each["stage"] == "train_tokenizer.py":
                each["options"]["vocab_size"] = 2900

    change(place / "release", edit)
    assert verify(place).startswith(f"{RECORDED} train_tokenizer.py: spm.model: size is ")


def release_of(folder: Path, vocab_size: int, *options, texts: tuple = ("--filters", "none")) -> None:
    """A release of a text that lies in `folder`, or of data/*.txt there, by every stage."""
    if options:
        parts = ("--valid_sentences", 150, "--test_sentences", 150)
        stage("prepare_corpus.py", *options, *parts, *texts, cwd=folder)
    stage("train_tokenizer.py", "--train_file", "data/train.txt", "--vocab_size", vocab_size, cwd=folder)
    for part in ("train", "valid", "test"):
        made = folder / "data" / f"{part}.jsonl"
        stage(
            *("prepare_train_data.py", "--filename", f"data/{part}.txt", "--get_raw", part != "train"),
            *("--unit", "segment", "--max_seq_len", 64, "--seed", 7),
            cwd=folder,
            stdout=made,
        )
    few = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 3, "--trainer.check_val_every_n_epoch", 1)
    stage("trainer.py", "--config", CONFIG, *few, "--model.num_warmup_steps", 1, cwd=folder)
    stage("test.py", "--ckpt_path", "last", cwd=folder, stdout=folder / "test_result.json")
    stage("export_model.py", "--ckpt_path", "last", cwd=folder)
    stage("convert_tokenizer.py", cwd=folder)
    stage(SCRIPT, "--license", "cc-by-sa-4.0", cwd=folder)


@pytest.mark.full
def test_a_release_of_ones_own_text_is_verified_from_it(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    rows = [json.dumps({"n": at, "body": each}, ensure_ascii=False) for at, each in enumerate(text(300).split("\n\n"))]
    (tmp_path / "own" / "reports.jsonl").write_text("\n".join(rows[:-1]) + "\n")  # behind the last one is nothing
    fields = ("--text_field", "body", "--id_field", "n", "--license", "in-house", "--source", "reports, 1 & 2")
    release_of(tmp_path, 300, "own/reports.jsonl", "--name", "our reports", *fields)
    release = tmp_path / "release" / "bert-base-ja"
    checks = verification.verify(release, tmp_path / "own", None)
    assert [check.result for check in checks] == ["ok"] * 11 + ["not checked"]
    content = (tmp_path / "own" / "reports.jsonl").read_text()
    (tmp_path / "own" / "reports.jsonl").write_text(content.replace("赤い傘", "青い傘", 1))
    with pytest.raises(StageError, match=f"{RECORDED} data: reports.jsonl: sha256 is "):
        verification.verify(release, tmp_path / "own", None)


@pytest.mark.full
def test_a_release_of_a_real_dump_is_verified_from_it(tmp_path, capsys):
    dump = shared("data", "dump", "jawiki-mini-pages-articles-multistream.xml.bz2")
    stage("get_jawiki.sh", dump, "--valid_sentences", 300, "--test_sentences", 300, cwd=tmp_path)
    release_of(tmp_path, 4000)
    checks = verification.verify(tmp_path / "release" / "bert-base-ja", dump.parent, tmp_path / "verification")
    assert [check.result for check in checks] == ["ok"] * 12 + ["not checked"]


def nodes(value, path: tuple = ()):
    """The way to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from nodes(each, (*path, key))


@pytest.mark.full
def test_whatever_stands_in_a_record_ends_in_one_sentence(place):
    """Values of the wrong kind at many places: never a traceback."""
    rng, original = random.Random(0), json.loads((place / "release" / "meta.json").read_text())
    ways = [way for way in nodes(original) if not {"options", "versions", "settings", "model", "parity"} & set(way)]
    for way in rng.sample(ways, 60):
        record = inner = copy.deepcopy(original)
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = rng.choice([each for each in (None, [], {}, "x", -1, [1], {"x": 1}) if each != inner[way[-1]]])
        (place / "release" / "meta.json").write_text(json.dumps(record))
        with contextlib.suppress(StageError):
            verification.verify(place / "release", SAMPLE.parent, place / "work")
