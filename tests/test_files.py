"""Files between stages: whole or absent, one writer at a time, and the records that later stages trust."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT

from bert_ja import files
from bert_ja.cli import StageError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
HASH = hashlib.sha256(b"new\n").hexdigest()
UNKNOWN = {"name": None, "license": None, "source": None, "dump": None, "private": False}  # of a corpus


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def start(program: str, cwd, **options) -> subprocess.Popen:
    """A process that runs `program` after the imports; it says `ready` when it has come so far."""
    lines = "import os, sys, time\nfrom pathlib import Path\nfrom bert_ja import cli, files\n"
    lines += "def ready():\n    print('ready', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", lines + program], cwd=cwd, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, **options
    )
    return process


def until_ready(process: subprocess.Popen) -> None:
    assert process.stderr.readline() == "ready\n"


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


# A file


def test_an_output_appears_whole_with_its_size_and_hash(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with files.output(path) as out:
        out.write(b"ne")
        assert not path.exists()
        out.write(b"w\n")
    assert path.read_bytes() == b"new\n"
    assert out.describe() == {"name": "a.txt", "size": 4, "sha256": HASH} == files.describe(path)
    assert names(path.parent) == ["a.txt"]


def test_a_link_to_a_file_stays_and_the_file_behind_it_gets_bytes_and_record(tmp_path):
    (tmp_path / "big").mkdir()
    link, real = tmp_path / "train.txt", tmp_path / "big" / "a.txt"
    link.symlink_to(real)
    for content in (b"old\n", b"new\n"):
        with files.output(link) as out:
            out.write(content)
        files.write_record(link, {"stage": "x", "outputs": [out.describe()], "corpus": {"name": "wiki"}})
    assert real.read_bytes() == link.read_bytes() == b"new\n"
    assert names(tmp_path) == ["big", "train.txt"]
    assert names(tmp_path / "big") == ["a.txt", "a.txt.meta.json"]
    assert files.corpus_of(link) == files.corpus_of(real) == UNKNOWN | {"name": "wiki"}
    assert files.require_record(link, "x") == files.require_record(real, "x")
    real.write_bytes(b"ne")
    with pytest.raises(StageError, match="train.txt has 2 bytes, its record says 4"):
        files.require_record(link, "x")


def test_an_error_in_the_middle_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "a.txt"
    for before in (None, b"old\n"):
        if before:
            path.write_bytes(before)
            files.write_record(path, {"stage": "x"})
        here = names(tmp_path)
        with pytest.raises(KeyError), files.output(path) as out:
            out.write(b"new\n")
            raise KeyError
        assert names(tmp_path) == here
    assert path.read_bytes() == b"old\n"
    assert files.read_record(path) == {"stage": "x"}


def test_a_new_output_takes_the_old_record_away(tmp_path):
    path = tmp_path / "a.txt"
    files.write_bytes(path, b"old\n")
    files.write_record(path, {"stage": "x"})
    files.write_bytes(path, b"new\n")
    assert names(tmp_path) == ["a.txt"]


def test_kill_9_in_the_middle_leaves_the_old_file_and_the_next_run_starts_over(tmp_path, capsys):
    path = tmp_path / "a.txt"
    files.write_bytes(path, b"old\n")
    process = start("with files.output('a.txt') as out:\n    out.write(b'half'); out.flush(); ready()", tmp_path)
    until_ready(process)
    kill(process)
    assert path.read_bytes() == b"old\n"
    assert names(tmp_path) == [".a.txt.partial", "a.txt"]
    capsys.readouterr()
    with files.output(path) as out:
        out.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert names(tmp_path) == ["a.txt"]
    assert capsys.readouterr().err == f"{path}: an earlier run did not finish, starting over\n"


def test_a_second_run_at_the_same_time_is_refused_and_the_first_goes_on(tmp_path, capsys):
    path = tmp_path / "a.txt"
    with files.output(path) as out:
        out.write(b"ne")
        with pytest.raises(StageError, match="another run is writing .*a.txt now: wait for it, or end it first"):
            files.write_bytes(path, b"other")
        out.write(b"w\n")
    assert path.read_bytes() == b"new\n"
    assert names(tmp_path) == ["a.txt"]
    assert capsys.readouterr().err == ""


def test_many_runs_at_once_leave_one_whole_file(tmp_path):
    path, ends = tmp_path / "a.txt", []

    def write(number: int) -> None:
        try:
            files.write_bytes(path, b"%d" % number * 100_000)
            ends.append("written")
        except StageError:
            ends.append("refused")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 8
    assert "written" in ends
    assert path.read_bytes() in [b"%d" % number * 100_000 for number in range(8)]
    assert names(tmp_path) == ["a.txt"]


def test_a_device_or_a_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "stdout"):
        with pytest.raises(StageError, match=f"{name} is a device or a pipe"), files.output(tmp_path / name):
            pass
    assert names(tmp_path) == ["pipe", "stdout"]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(StageError, match="is a folder, the name of a file to write is needed"):
        files.write_bytes(tmp_path, b"")


# A full disk


def test_a_full_disk_leaves_the_old_file_only(small_disk):
    path = small_disk / "a.txt"
    files.write_bytes(path, b"old\n")
    with pytest.raises(OSError) as error, files.output(path) as out:
        for _ in range(100):
            out.write(b"x" * 10_000)
    assert error.value.errno == errno.ENOSPC
    assert names(small_disk) == ["a.txt"]
    assert path.read_bytes() == b"old\n"


def test_a_disk_that_cannot_be_written_to_is_refused_before_the_work(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StageError, match="cannot be written to: check its permissions, or write elsewhere"):
        files.require_space(small_disk / "output" / "spm", 1, "this stage")


def test_a_full_disk_leaves_no_folder(small_disk):
    with pytest.raises(OSError) as error, files.output_folder(small_disk / "model", "x") as folder:
        (folder / "a").write_bytes(b"x" * 1_000_000)
    assert error.value.errno == errno.ENOSPC
    assert names(small_disk) == []


def test_a_full_disk_empties_the_file_behind_standard_output(small_disk):
    body = "with cli.one_line_errors('stage.py'), files.standard_output() as out:\n"
    body += "    for _ in range(100): out.write(b'x' * 10_000)"
    with open(small_disk / "a.jsonl", "wb") as file:
        process = start(body, small_disk, stdout=file)
        talk = process.communicate()[1]
    assert process.returncode == 2
    assert talk == "stage.py: error: the disk is full: free some space and run the same command again\n"
    assert (small_disk / "a.jsonl").stat().st_size == 0


def test_too_little_room_is_said_before_the_work(tmp_path):
    files.require_space(tmp_path / "not" / "yet", 1000, "this stage")
    with pytest.raises(StageError) as error:
        files.require_space(tmp_path / "not" / "yet", 10**18, "this stage")
    said = str(error.value)
    assert said.startswith(f"this stage needs about 1,000,000,000,000 MB on the disk of {tmp_path}, but only ")
    assert said.endswith(" MB are free: free some space or write elsewhere")


# A folder


def fill(folder, **contents: bytes) -> None:
    """A finished folder as a stage leaves it."""
    with files.output_folder(folder, "x") as partial:
        for name, content in contents.items():
            files.write_bytes(partial / name, content)
        files.write_record(partial, {"stage": "x", "outputs": files.describe_folder(partial)})


def test_a_folder_appears_whole_and_replaces_an_older_one_of_ours(tmp_path):
    model = tmp_path / "output" / "model"
    fill(model, a=b"old", b=b"old")
    fill(model, a=b"new\n")
    assert names(model) == ["a", "meta.json"]
    assert files.read_record(model) == {"stage": "x", "outputs": [{"name": "a", "size": 4, "sha256": HASH}]}
    assert names(model.parent) == ["model"]


def test_a_link_to_a_folder_stays_and_the_folder_behind_it_is_replaced(tmp_path):
    (tmp_path / "big" / "model").mkdir(parents=True)
    (tmp_path / "model").symlink_to(tmp_path / "big" / "model")
    for content in (b"old", b"older", b"new\n"):
        fill(tmp_path / "model", a=content)
        assert (tmp_path / "big" / "model" / "a").read_bytes() == content
    assert (tmp_path / "model").is_symlink()
    assert names(tmp_path) == ["big", "model"]
    assert names(tmp_path / "big") == ["model"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    fill(tmp_path / "model", a=b"")
    assert names(tmp_path / "model") == ["a", "meta.json"]


def test_a_folder_of_another_stage_is_never_replaced(tmp_path):
    with files.output_folder(tmp_path / "model", "export_model.py") as partial:
        files.write_record(partial, {"stage": "export_model.py", "outputs": []})
    with pytest.raises(StageError, match="was written by export_model.py: name another folder"):
        files.require_replaceable(tmp_path / "model", "train_tokenizer.py")


def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path):
    model = tmp_path / "model"
    fill(model, a=b"old")
    (model / "notes.txt").write_text("mine")
    with pytest.raises(StageError, match="model holds notes.txt, which this stage did not write: move it away or name"):
        fill(model, a=b"new\n")
    (model / "notes.txt").unlink()
    (model / "folder").mkdir()
    with pytest.raises(StageError, match="model holds folder, which this stage did not write"):
        fill(model, a=b"new\n")
    assert (model / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["model"]


def write_nested(folder: Path) -> None:
    """A folder of stage x with a file in a folder of its own."""
    with files.output_folder(folder, "x") as partial:
        (partial / "onnx").mkdir()
        (partial / "onnx" / "model.onnx").write_bytes(b"graph")
        (partial / "model.bin").write_bytes(b"weights")
        files.write_record(partial, {"stage": "x", "outputs": files.describe_folder(partial)})


def test_files_of_folders_in_a_folder_are_described_and_replaced(tmp_path):
    folder = tmp_path / "model"
    write_nested(folder)
    names = {file["name"]: file["size"] for file in files.read_record(folder)["outputs"]}
    assert names == {"model.bin": 7, "onnx/model.onnx": 5}
    write_nested(folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"gra")
    with pytest.raises(StageError, match="onnx/model.onnx has 3 bytes, its record says 5: make it again with x"):
        files.require_record(folder, "x")


@pytest.mark.parametrize("name", ["onnx/notes.txt", "empty/"])
def test_a_folder_with_anything_else_deeper_in_it_is_never_replaced(tmp_path, name):
    folder = tmp_path / "model"
    write_nested(folder)
    path = folder / name
    path.mkdir() if name.endswith("/") else path.write_text("mine")
    said = f"{folder} holds {name.rstrip('/')}, which this stage did not write: move it away or name another folder"
    with pytest.raises(StageError) as error:
        files.require_replaceable(folder, "x")
    assert str(error.value) == said


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(StageError, match="model is a file, the name of a folder to write is needed"):
        fill(tmp_path / "model", a=b"new\n")
    assert names(tmp_path) == ["model"]


def test_an_error_in_a_folder_leaves_the_old_one(tmp_path):
    model = tmp_path / "model"
    fill(model, a=b"old")
    with pytest.raises(KeyError), files.output_folder(model, "x") as partial:
        (partial / "a").write_bytes(b"new\n")
        raise KeyError
    assert names(tmp_path) == ["model"]
    assert (model / "a").read_bytes() == b"old"


def test_kill_9_leaves_the_old_folder_and_the_next_run_starts_over(tmp_path, capsys):
    model = tmp_path / "model"
    fill(model, a=b"old")
    body = "with files.output_folder('model', 'x') as folder:\n    (folder / 'b').write_bytes(b'half'); ready()"
    process = start(body, tmp_path)
    until_ready(process)
    kill(process)
    assert (model / "a").read_bytes() == b"old"
    capsys.readouterr()
    fill(model, a=b"new\n")
    assert names(tmp_path) == ["model"]
    assert names(model) == ["a", "meta.json"]
    assert capsys.readouterr().err == f"{model}: an earlier run did not finish, starting over\n"


def test_a_second_run_never_touches_the_folder_that_another_fills(tmp_path, capsys):
    model = tmp_path / "model"
    with files.output_folder(model, "x") as partial:
        (partial / "a").write_bytes(b"new\n")
        with pytest.raises(StageError, match="another run is writing .*model now: wait for it, or end it first"):
            fill(model, a=b"other")
    assert (model / "a").read_bytes() == b"new\n"
    assert names(tmp_path) == ["model"]
    assert capsys.readouterr().err == ""


# A folder of intermediate files


def test_a_work_folder_is_gone_afterwards_with_and_without_an_error(tmp_path):
    with files.work_folder(tmp_path / "a.jsonl") as folder:
        (folder / "ids").write_bytes(b"1")
        assert names(tmp_path) == [".a.jsonl.work"]
    assert names(tmp_path) == []
    with pytest.raises(KeyError), files.work_folder(tmp_path / "a.jsonl") as folder:
        (folder / "ids").write_bytes(b"1")
        raise KeyError
    assert names(tmp_path) == []


def test_a_work_folder_of_a_pipe_lies_with_the_systems_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with files.work_folder(None) as folder:
        assert folder.parent == tmp_path
    assert names(tmp_path) == []


def test_a_work_folder_is_emptied_of_what_a_killed_run_left(tmp_path):
    body = "with files.work_folder(Path('a.jsonl')) as folder:\n"
    process = start(body + "    (folder / 'ids').write_bytes(b'half'); (folder / 'sub').mkdir(); ready()", tmp_path)
    until_ready(process)
    with (
        pytest.raises(StageError, match="another run is writing .*a.jsonl now"),
        files.work_folder(tmp_path / "a.jsonl"),
    ):
        pass
    kill(process)
    assert names(tmp_path / ".a.jsonl.work") == ["ids", "sub"]
    with files.work_folder(tmp_path / "a.jsonl") as folder:
        assert names(folder) == []
    assert names(tmp_path) == []


# Standard output

WRITE = """
with cli.one_line_errors("stage.py"):
    with files.standard_output() as out:
        out.write(b"new\\n")
    if out.path is not None:
        files.write_record(out.path, {"outputs": [out.describe()]})
"""


def test_standard_output_into_a_file_gets_its_record_beside_it(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_bytes(path, b"old\n")
    files.write_record(path, {"stage": "x"})
    with open(path, "wb") as file:
        process = start(WRITE, tmp_path, stdout=file)
        assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert path.read_bytes() == b"new\n"
    assert names(tmp_path) == ["a.jsonl", "a.jsonl.meta.json"]
    assert files.read_record(path) == {"outputs": [{"name": "a.jsonl", "size": 4, "sha256": HASH}]}


def test_the_old_record_is_gone_before_the_first_byte_of_the_new_file(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_bytes(path, b"old\n")
    files.write_record(path, {"stage": "x"})
    with open(path, "wb") as file:
        process = start(
            "with files.standard_output() as out:\n    out.write(b'n'); out.flush(); ready()", tmp_path, stdout=file
        )
        until_ready(process)
        kill(process)
    assert names(tmp_path) == ["a.jsonl"]
    assert path.read_bytes() == b"n"
    with pytest.raises(
        StageError, match=r"a.jsonl has no record \(a.jsonl.meta.json\), so it may be cut short: make it"
    ):
        files.require_record(path, "stage.py")


def test_an_error_empties_the_file_behind_standard_output(tmp_path):
    body = "with files.standard_output() as out:\n    out.write(b'half'); out.flush(); raise KeyError"
    with open(tmp_path / "a.jsonl", "wb") as file:
        start(body, tmp_path, stdout=file).communicate()
    assert names(tmp_path) == ["a.jsonl"]
    assert (tmp_path / "a.jsonl").read_bytes() == b""


def test_appending_is_refused_and_loses_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_bytes(path, b"old\n")
    files.write_record(path, {"stage": "x"})
    with open(path, "ab") as file:
        process = start(WRITE, tmp_path, stdout=file)
        talk = process.communicate()[1]
    assert process.returncode == 2
    assert talk == f"stage.py: error: {path} already holds 4 bytes: write with > and not >>\n"
    assert path.read_bytes() == b"old\n"
    assert names(tmp_path) == ["a.jsonl", "a.jsonl.meta.json"]


def test_a_file_that_another_run_empties_is_never_called_finished(tmp_path):
    body = (
        "with cli.one_line_errors('stage.py'), files.standard_output() as out:\n"
        "    out.write(b'first'); out.flush(); open('a.jsonl', 'wb'); out.write(b'second')"
    )
    path = tmp_path / "a.jsonl"
    for program in (body, body.replace("; out.write(b'second')", "")):
        with open(path, "wb") as file:
            process = start(program, tmp_path, stdout=file)
            talk = process.communicate()[1]
        assert process.returncode == 2
        assert talk == (
            f"stage.py: error: another run wrote to {path} meanwhile: run one at a time, each to its own file\n"
        )
        assert path.read_bytes() == b""
        assert names(tmp_path) == ["a.jsonl"]


def test_a_pipe_gets_the_bytes_and_no_record(tmp_path):
    process = start(WRITE, tmp_path, stdout=subprocess.PIPE)
    assert process.communicate()[:2] == ("new\n", "")
    assert process.returncode == 0
    assert names(tmp_path) == []


def test_a_device_gets_no_record(tmp_path):
    process = start(WRITE, tmp_path, stdout=subprocess.DEVNULL)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert names(tmp_path) == []


# Inputs


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "a.txt is empty: NAME ANOTHER"),
        (b"<mediawiki xmlns=", "a.txt is XML, text with one sentence a line is needed: NAME ANOTHER"),
        (b'\n<?xml version="1.0"?>', "a.txt is XML, text with one sentence a line is needed: NAME ANOTHER"),
        (b'{"input_ids": [2]}\n', "a.txt is JSON, text with one sentence a line is needed: NAME ANOTHER"),
        ("茶".encode("cp932") * 9, "a.txt is not UTF-8 text (byte 0): NAME ANOTHER"),
        (b"BZh91AY&SY\x00\xff\xfe\x80\x80\x80", "a.txt is not UTF-8 text (byte 11): NAME ANOTHER"),
        (b"abc\0def\n", "a.txt is not text (it holds zero bytes): NAME ANOTHER"),
    ],
)
def test_what_is_no_text_of_sentences_is_refused(content, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(StageError) as error:
        files.require_text("a.txt", "NAME ANOTHER")
    assert str(error.value) == sentence


def test_a_missing_text_or_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="^a.txt not found: NAME ANOTHER$"):
        files.require_text("a.txt", "NAME ANOTHER")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(StageError, match="^a.txt is a folder, a file is needed: NAME ANOTHER$"):
        files.require_text("a.txt", "NAME ANOTHER")


@pytest.mark.parametrize("length", range(4090, 4100))
def test_a_character_cut_by_the_end_of_the_block_is_text(length, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * (length % 4) + "茶𠮷".encode() * 700)
    assert files.require_text(tmp_path / "a.txt", "") == tmp_path / "a.txt"


# Records


def finished(folder, content: bytes = b"new\n", stage: str = "prepare_train_data.py"):
    path = folder / "a.jsonl"
    files.write_bytes(path, content)
    files.write_record(path, {"stage": stage, "outputs": [files.describe(path)]})
    return path


def test_a_record_stands_beside_a_file_and_inside_a_folder(tmp_path):
    path = finished(tmp_path)
    assert names(tmp_path) == ["a.jsonl", "a.jsonl.meta.json"]
    record = {"stage": "prepare_train_data.py", "outputs": [{"name": "a.jsonl", "size": 4, "sha256": HASH}]}
    assert files.require_record(path, "prepare_train_data.py") == record
    assert json.loads((tmp_path / "a.jsonl.meta.json").read_text()) == record
    files.write_record(tmp_path, {"stage": "y"})
    files.write_record(tmp_path, {"stage": "z"}, "tokenizer.meta.json")
    assert files.read_record(tmp_path) == {"stage": "y"}
    assert files.read_record(tmp_path, "tokenizer.meta.json") == {"stage": "z"}
    assert files.read_record(tmp_path / "b.jsonl") is None


def refusal(path, **options) -> str:
    with pytest.raises(StageError) as error:
        files.require_record(path, "prepare_train_data.py", **options)
    return str(error.value)


def test_a_file_without_a_record_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"new\n")
    assert refusal("a.jsonl", override="--data.ignore_records true") == (
        "a.jsonl has no record (a.jsonl.meta.json), so it may be cut short: make it again with prepare_train_data.py, "
        "or pass --data.ignore_records true"
    )


def test_a_file_of_another_size_than_its_record_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = finished(tmp_path, b"x" * 1234)
    path.write_bytes(b"x" * 1000)
    assert refusal("a.jsonl") == (
        "a.jsonl has 1,000 bytes, its record says 1,234: make it again with prepare_train_data.py"
    )


def test_another_stages_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path, stage="extract_jawiki.py")
    assert refusal("a.jsonl") == (
        "a.jsonl was written by extract_jawiki.py, an output of prepare_train_data.py is needed"
    )


@pytest.mark.parametrize("outputs", ["5", "[5]", '[{"name": "a"}]', "null"])
def test_a_record_whose_outputs_are_none_is_refused(tmp_path, outputs):
    (tmp_path / "a.jsonl.meta.json").write_text(f'{{"outputs": {outputs}}}')
    with pytest.raises(StageError, match="is damaged .its outputs are no list of files.: run the stage that"):
        files.read_record(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"a"', b"\xff", b"null"])
def test_a_damaged_record_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path)
    (tmp_path / "a.jsonl.meta.json").write_bytes(content)
    assert refusal("a.jsonl") == ("a.jsonl.meta.json is damaged (not a JSON object): run the stage that wrote it again")


def test_a_folder_that_lost_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with files.output_folder("model", "x") as folder:
        files.write_bytes(folder / "a", b"new\n")
        files.write_record(folder, {"stage": "prepare_train_data.py", "outputs": files.describe_folder(folder)})
    assert files.require_record("model", "prepare_train_data.py")["outputs"][0]["name"] == "a"
    (tmp_path / "model" / "a").unlink()
    assert refusal("model") == "model/a has 0 bytes, its record says 4: make it again with prepare_train_data.py"


def test_the_origin_of_a_text_is_known_until_the_text_is_edited(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"new\n")
    assert files.corpus_of(path) == UNKNOWN
    files.write_record(path, {"outputs": [files.describe(path)], "corpus": {"license": "CC BY-SA 4.0"}})
    assert files.corpus_of(path) == UNKNOWN | {"license": "CC BY-SA 4.0"}
    assert capsys.readouterr().err == ""
    path.write_bytes(b"newer\n")
    assert files.corpus_of(path) == UNKNOWN
    assert capsys.readouterr().err == (
        f"warning: {path} was changed after its record was written: its origin and licence count as unknown\n"
    )


def test_a_history_has_the_records_behind_all_inputs_once_and_in_order(tmp_path):
    text, tokenizer, own = tmp_path / "train.txt", tmp_path / "model", tmp_path / "own.txt"
    for path in (text, own):
        path.write_text("雨。\n")
    tokenizer.mkdir()
    (tokenizer / "spm.model").write_bytes(b"model")
    first = {"stage": "a", "options": {}, "outputs": [{"name": "wiki.txt", "size": 1}]}
    second = {"stage": "b", "seed": 1, "outputs": [files.describe(text)], "counts": {"documents": 1}}
    third = {"stage": "c", "outputs": files.describe_folder(tokenizer)}
    files.write_record(text, second | {"history": [first], "run": files.run_facts(), "token_lengths": [1, 2]})
    files.write_record(tokenizer, third | {"history": [first, second]})
    assert files.history(text, tokenizer, own) == [first, second, third]
    assert files.history(tokenizer) == [first, second, third]
    assert files.history(own) == files.history() == []


def test_what_was_changed_since_its_record_was_written_has_no_history(tmp_path):
    text, tokenizer = tmp_path / "train.txt", tmp_path / "model"
    text.write_text("雨。\n")
    tokenizer.mkdir()
    (tokenizer / "spm.model").write_bytes(b"model")
    files.write_record(text, {"stage": "a", "outputs": [files.describe(text)], "history": [{"stage": "b"}]})
    files.write_record(tokenizer, {"stage": "c", "outputs": files.describe_folder(tokenizer)})
    assert [record["stage"] for record in files.history(text, tokenizer)] == ["b", "a", "c"]
    text.write_text("雨と風。\n")
    assert [record["stage"] for record in files.history(text, tokenizer)] == ["c"]
    (tokenizer / "spm.model").unlink()
    assert files.history(text, tokenizer) == []


def test_a_private_text_stays_private_when_it_is_edited(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"new\n")
    files.write_record(path, {"outputs": [files.describe(path)], "corpus": {"name": "ours", "private": True}})
    assert files.corpus_of(path) == UNKNOWN | {"name": "ours", "private": True}
    path.write_bytes(b"newer\n")
    assert files.corpus_of(path) == UNKNOWN | {"private": True}


def test_an_output_whose_record_was_not_put_into_place_is_refused(tmp_path):
    path = tmp_path / "train.txt"
    with files.record_around(path, {"corpus": {"private": True}}):
        files.write_bytes(path, "雨。\n".encode())
        with pytest.raises(StageError) as error:
            files.corpus_of(path)
    assert str(error.value) == (
        f"{path} is not finished, .train.txt.meta.json.partial stands beside it: run the stage that writes it again, "
        "or remove that file if you put your own text there since"
    )
    assert files.is_private(path) is True
    with pytest.raises(OSError), files.record_around(path, {}):
        assert files.is_private(path) is True  # what stood there until then counts until then
        raise OSError
    assert files.is_private(path) is True
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.txt", "train.txt.meta.json"]


def test_a_text_of_the_users_own_that_was_not_replaced_stays_theirs(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("雨。\n")
    with pytest.raises(OSError), files.record_around(path, {}):
        raise OSError
    assert [file.name for file in tmp_path.iterdir()] == ["own.txt"]
    (tmp_path / ".gone.txt.meta.json.partial").touch()  # of a text that never came
    assert files.is_private(path, tmp_path / "gone.txt") is False
    (tmp_path / ".own.txt.partial").write_text("雨。\n")
    with pytest.raises(StageError, match=r"\.own\.txt\.partial is what a run left that did not finish: run the stage"):
        files.corpus_of(tmp_path / ".own.txt.partial")


def test_a_text_that_lost_its_record_and_was_not_replaced_is_not_finished(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("雨。\n")
    files.write_record(path, {"corpus": {"private": True}})
    with pytest.raises(OSError), files.record_around(path, {"corpus": {"private": True}}):
        files.record_path(path).unlink()
        raise OSError
    with pytest.raises(StageError, match=r"train\.txt is not finished"):
        files.is_private(path)


def test_what_one_input_is_or_the_user_says_makes_the_output_private(tmp_path):
    path, folder, model = tmp_path / "a.txt", tmp_path / "output", tmp_path / "model"
    path.write_bytes(b"new\n")
    for place, name, private in ((folder, None, True), (model, None, False), (model, "tokenizer.meta.json", True)):
        place.mkdir(exist_ok=True)
        files.write_record(place, {"corpus": {"private": private}}, name)
    assert [files.is_private(path, asked=asked) for asked in (None, False, True)] == [False, False, True]
    assert [files.is_private(path, place) for place in (folder, model)] == [True, True]
    assert [files.is_private(path, place, asked=True) for place in (folder, model)] == [True, True]
    assert files.corpus_of(path, private=True) == files.corpus_of(path, folder) == UNKNOWN | {"private": True}
    for place in (folder, model):
        with pytest.raises(StageError) as error:
            files.corpus_of(path, place, private=False)
        assert str(error.value) == (
            f"{place} is of a private corpus, as its record says, and so is all that is made from it: "
            "leave private_corpus out, or name another input"
        )


@pytest.mark.parametrize("record", [None, {}, {"corpus": None}, {"corpus": "ours"}, {"corpus": {"name": "ours"}}])
def test_a_record_that_does_not_say_private_is_not(record):
    assert files.corpus_facts(record)["private"] is False
    assert files.corpus_facts(record, private=True)["private"] is True


def test_a_lock_ends_with_its_process(tmp_path):
    process = start("with files.output('a.txt') as out:\n    ready()", tmp_path)
    until_ready(process)
    with open(tmp_path / ".a.txt.partial", "rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kill(process)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# A journal


def test_a_journal_that_cannot_be_saved_fails_in_the_work_itself(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    journal = files.Journal(tmp_path / "work", {"a": 1})
    with open(tmp_path / "work" / "growing", "wb") as growing:
        growing.write(b"1")
        journal.save({"work": {"done": 1}}, [growing])
        journal.wait()
        assert files.Journal(tmp_path / "work", {"a": 1}).state == {"work": {"done": 1}}
        monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
        journal.save({"work": {"done": 2}}, [growing])
        with pytest.raises(OSError, match="No space left"):
            journal.wait()
        journal.wait()  # once is enough
    assert files.Journal(tmp_path / "work", {"a": 1}).state == {"work": {"done": 1}}
    assert files.Journal(tmp_path / "work", {"a": 2}).state == {}
    assert list((tmp_path / "work").iterdir()) == []


def test_a_journal_without_a_key_saves_nothing(tmp_path):
    journal = files.Journal(tmp_path, None)
    journal.save({"work": {"done": 1}}, [])
    assert (journal.is_due(), journal.state, list(tmp_path.iterdir())) == (False, {}, [])


def test_work_that_is_ended_after_a_save_is_kept_and_work_that_is_done_is_not(tmp_path, capsys):
    output = tmp_path / "a.jsonl"
    for ends, kept in ((KeyboardInterrupt, True), (StageError, True), (None, False)):
        with contextlib.suppress(KeyboardInterrupt, StageError), files.journal(output, {"a": 1}) as journal:
            journal.save({"work": {"done": 1}}, [])
            if ends:
                raise ends("ended")
        assert (tmp_path / ".a.jsonl.work").exists() == kept
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"what is done of {output} is kept in .a.jsonl.work: run the same command again to go on",
        f"{output}: an earlier run did not finish, going on",
        f"what is done of {output} is kept in .a.jsonl.work: run the same command again to go on",
        f"{output}: an earlier run did not finish, going on",
    ]
    with contextlib.suppress(KeyboardInterrupt), files.journal(output, {"a": 1}):
        raise KeyboardInterrupt
    assert not (tmp_path / ".a.jsonl.work").exists()


def test_nobody_goes_on_with_a_folder_that_was_removed_in_part(tmp_path, monkeypatch):
    """A kill while the folder is removed: what is left is without its journal."""
    monkeypatch.setattr(files.shutil, "rmtree", lambda folder, **options: None)
    with files.journal(tmp_path / "a.jsonl", {"a": 1}) as journal:
        (journal.folder / "ids").write_bytes(b"1234")
        journal.save({"work": {"done": 1}}, [])
    assert [path.name for path in (tmp_path / ".a.jsonl.work").iterdir()] == ["ids"]


def test_a_journal_is_of_one_run_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    with files.journal(path, {"a": 1}), pytest.raises(files.InUse) as error, files.journal(path, {"a": 1}):
        pass
    assert str(error.value) == f"another run is writing {tmp_path}/a.jsonl now: wait for it, or end it first"


# Several texts


WIKI = {"name": "wiki", "license": "CC BY-SA 4.0", "source": "Wikipedia", "dump": {"date": "2026-11-01"}}
OURS = {"name": "ours", "license": "in-house", "source": None, "dump": None}


def test_several_corpora_are_one_that_lists_its_texts_with_their_shares():
    corpora = [WIKI | {"private": False}, OURS | {"private": True}, WIKI | {"private": False}]
    merged = files.merged_corpora(corpora, [3, 5, 2])
    assert merged["sources"] == [WIKI | {"share": 0.5}, OURS | {"share": 0.5}]
    assert (merged["name"], merged["license"], merged["private"]) == ("wiki; ours", "CC BY-SA 4.0; in-house", True)
    assert (merged["source"], merged["dump"]) == (None, None)
    assert files.sources(merged) == merged["sources"]


def test_texts_of_texts_are_listed_without_shares_that_nobody_knows():
    both = files.merged_corpora([WIKI | {"private": False}, OURS | {"private": False}])
    assert both["sources"] == [WIKI | {"share": None}, OURS | {"share": None}]
    books = {"name": "books", "license": "CC0", "source": None, "dump": None, "private": False}
    merged = files.merged_corpora([both, books], [0.7, 0.3])
    assert [(text["name"], text["share"]) for text in merged["sources"]] == [
        *(("wiki", None), ("ours", None), ("books", 0.3))
    ]


def test_an_unknown_text_is_listed_beside_others_and_one_corpus_lists_nothing():
    unknown = files.corpus_facts(None)
    merged = files.merged_corpora([WIKI | {"private": False}, unknown], [1, 1])
    assert merged["sources"] == [WIKI | {"share": 0.5}, dict.fromkeys(files.ORIGIN) | {"share": 0.5}]
    assert files.merged_corpora([WIKI | {"private": False}] * 2, [1, 1]) == WIKI | {"private": False}
    assert files.merged_corpora([unknown]) == unknown


def test_records_of_earlier_versions_have_one_text():
    earlier = {"name": "wiki; ours", "license": "CC BY-SA 4.0; in-house", "source": None, "dump": None}
    assert files.sources(earlier) == [earlier]
    assert files.sources({}) == files.sources(None) == files.sources(dict.fromkeys(files.ORIGIN)) == []
