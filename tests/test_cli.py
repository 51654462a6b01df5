"""The strict command line, its help, and errors of one sentence."""

import errno
import inspect
import os
import re
import runpy
import signal
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT, TIMEOUT, stage

from bert_ja import cli

SCRIPTS = sorted(
    path.name for path in ROOT.glob("*.py") if re.search(r"^ *cli\.run\(main\)", path.read_text(), re.MULTILINE)
)


def make(
    train_file: str,
    size: int = 5,
    rate: float = 0.5,
    token: str = "[MASK]",
    get_raw: bool = False,
    max_seq_len: int | None = None,
    output_file: str | None = None,
) -> None:
    pass


def gather(*files: str, output_file: str, quiet: bool = False) -> None:
    pass


def count(number: int, name: str = "x") -> None:
    pass


def options(*argv: str, main=make) -> tuple[list, dict]:
    return cli.parse(main, list(argv), "make.py")


def problem(*argv: str, main=make) -> str:
    with pytest.raises(cli.StageError) as error:
        options(*argv, main=main)
    return str(error.value)


# Values


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("False", bool, False),
        ("no", bool, False),
        ("0", bool, False),
        ("TRUE", bool, True),
        ("1", bool, True),
        ("12", int, 12),
        ("-3", int, -3),
        ("1e-4", float, 1e-4),
        ("12", float, 12.0),
        ("None", int | None, None),
        ("null", str | None, None),
        ("7", int | None, 7),
        ("none", str, "none"),
        ("[MASK]", str, "[MASK]"),
        ("20210620", str, "20210620"),
        ("True", str, "True"),
        ("{'a': 1}", str, "{'a': 1}"),
        ("", str, ""),
    ],
)
def test_text_becomes_a_value_of_the_annotated_type(text, annotation, value):
    converted = cli.convert(text, annotation)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [("1e3", int, "a whole number"), ("", int, "a whole number"), ("ten", float, "a number"), ("2", bool, "True or")],
)
def test_text_of_another_type_is_refused_with_the_form_that_is_expected(text, annotation, expected):
    with pytest.raises(ValueError, match=expected):
        cli.convert(text, annotation)


def test_flags_are_read_with_a_space_or_an_equals_sign_and_with_dashes_or_underscores():
    expected = ([], {"train_file": "a=b.txt", "max_seq_len": 8, "get_raw": True, "output_file": "-o"})
    assert options("--train-file", "a=b.txt", "--max-seq-len=8", "--get_raw", "True", "--output_file=-o") == expected
    assert options("--train_file=a=b.txt", "--max_seq_len", "8", "--get-raw=yes", "--output-file", "-o") == expected


def test_a_bare_flag_of_a_bool_is_true_and_its_no_form_false():
    assert options("--train_file", "a", "--get_raw") == ([], {"train_file": "a", "get_raw": True})
    assert options("--noget_raw", "a") == ([], {"train_file": "a", "get_raw": False})
    assert options("--get_raw", "--size", "3", "a") == ([], {"train_file": "a", "get_raw": True, "size": 3})


def test_a_bool_before_files_takes_only_a_bool_as_its_value():
    assert options("--quiet", "x.txt", "y.txt", "--output_file", "o", main=gather) == (
        ["x.txt", "y.txt"],
        {"quiet": True, "output_file": "o"},
    )
    assert options("--quiet", "False", "x.txt", "--output_file", "o", main=gather) == (
        ["x.txt"],
        {"quiet": False, "output_file": "o"},
    )


def test_a_negative_number_is_a_value():
    assert options("--train_file", "a", "--size", "-3") == ([], {"train_file": "a", "size": -3})


def test_required_options_may_stand_without_their_names():
    assert options("a.txt", "--size", "3") == ([], {"train_file": "a.txt", "size": 3})
    assert options("3", main=count) == ([], {"number": 3})


def test_the_short_flags_that_the_help_offers_are_understood():
    assert problem("-t", "a").startswith("'a' is not expected")  # -t: two options begin with t
    assert options("a", "-s", "3", "-g") == ([], {"train_file": "a", "size": 3, "get_raw": True})


# Refusals


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["a", "--sise", "3"], "--sise is not an option of make.py (did you mean --size?)"),
        (["a", "--max-seq-length=3"], "--max_seq_length is not an option of make.py (did you mean --max_seq_len?)"),
        (["a", "--xyz"], "--xyz is not an option of make.py (see python3 make.py --help)"),
        (["a", "--nosize"], "--nosize is not an option of make.py (did you mean --size?)"),
        (["a", "--size"], "--size needs a value"),
        (["a", "--size", "--get_raw"], "--size needs a value"),
        (["a", "--size="], "--size must be a whole number, got ''"),
        (["a", "--size", "1.5"], "--size must be a whole number, got '1.5'"),
        (["a", "--rate", "[1]"], "--rate must be a number, got '[1]'"),
        (["a", "--get_raw=Flase"], "--get_raw must be True or False, got 'Flase'"),
        (["a", "--get_raw", "Flase"], "--get_raw must be True or False, got 'Flase'"),
        (["a", "--size", "1", "--size", "2"], "--size is given twice"),
        (["a", "--train_file", "b"], "'a' is not expected (options are written --name value)"),
        (["a", "-x"], "'-x' is not expected (options are written --name value)"),
        ([], "--train_file is required"),
        (["--size", "3"], "--train_file is required"),
    ],
)
def test_a_wrong_command_line_is_refused_in_words(argv, sentence):
    assert problem(*argv) == sentence


def test_a_wrong_value_without_its_name_is_refused_in_words():
    assert problem("three", main=count) == "--number must be a whole number, got 'three'"


def test_all_problems_are_said_at_once():
    assert problem("--sise", "3", "--rate", "fast", "--get_raw=maybe", "--max_seq_len") == (
        "--sise is not an option of make.py (did you mean --size?); --max_seq_len needs a value; "
        "--train_file is required; --rate must be a number, got 'fast'; --get_raw must be True or False, got 'maybe'"
    )


def test_require_says_every_sentence_that_does_not_hold():
    cli.require({"wrong": True})
    with pytest.raises(cli.StageError, match="^first; third$"):
        cli.require({"first": False, "second": True, "third": False})


# Scripts


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option(script, tmp_path):
    result = stage(script, "--help", cwd=tmp_path)
    shown = re.sub(r"\s+", " ", result.stdout + result.stderr)
    main = runpy.run_path(str(ROOT / script))["main"]
    arguments = inspect.getdoc(main).partition("Args:\n")[2].split("\n\n")[0] + "\n"
    described = dict(re.findall(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", arguments, re.MULTILINE | re.DOTALL))
    assert sorted(described) == sorted(inspect.signature(main).parameters)
    for name, words in described.items():
        assert name in shown or name.upper() in shown
        assert re.sub(r"\s+", " ", words).strip() in shown, name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_misspelt_flag_stops_every_script_before_any_work(script, tmp_path):
    result = stage(script, "--no_such_thing=1", cwd=tmp_path, check=False)
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines), result.stdout) == (2, 1, ""), result.stderr
    assert lines[0].startswith(f"{script}: error: --no_such_thing is not an option of {script} (see python3 {script}")
    assert list(tmp_path.iterdir()) == []


def test_scripts_were_found():
    assert {"prepare_train_data.py", "train_tokenizer.py", "extract_jawiki.py"} <= set(SCRIPTS)


# Ends


def end_of(body: str, tmp_path, *argv: str, **run_options) -> tuple[int, str]:
    """Exit code and stderr of a stage whose main has this body."""
    script = tmp_path / "stage.py"
    script.write_text(
        "import errno, os, sys, time\nfrom bert_ja import cli\n\n\n"
        f"def main(size: int = 1) -> None:\n{textwrap.indent(body, '    ')}\n\n\ncli.run(main)\n"
    )
    result = subprocess.run(
        [sys.executable, script, *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        **run_options,
    )
    return result.returncode, result.stderr


def test_what_the_user_can_mend_is_one_line_and_exit_code_2(tmp_path):
    body = "raise cli.StageError('a.txt not found:\\n  name another')"
    assert end_of(body, tmp_path) == (2, "stage.py: error: a.txt not found: name another\n")


def test_a_bug_of_ours_keeps_its_traceback(tmp_path):
    code, talk = end_of("{}['a']", tmp_path)
    assert code == 1
    assert talk.startswith("Traceback")
    assert talk.endswith("KeyError: 'a'\n")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full (a.txt): free some space and run the same command again"),
        (errno.EDQUOT, "the disk is full (a.txt): free some space and run the same command again"),
        (errno.EACCES, "Permission denied (a.txt): check the path and its permissions"),
        (errno.EROFS, "Read-only file system (a.txt): check the path and its permissions"),
        (errno.EEXIST, "File exists (a.txt): check the path and its permissions"),
        (errno.EFBIG, "File too large (a.txt): check the path and its permissions"),
        (errno.ENAMETOOLONG, "File name too long (a.txt): check the path and its permissions"),
    ],
)
def test_an_error_of_the_system_is_one_line(number, sentence, capsys):
    with pytest.raises(SystemExit) as end, cli.one_line_errors("stage.py"):
        raise OSError(number, os.strerror(number), "a.txt")
    assert (end.value.code, capsys.readouterr().err) == (2, f"stage.py: error: {sentence}\n")


def test_another_error_of_the_system_is_a_bug_of_ours():
    with pytest.raises(OSError), cli.one_line_errors("stage.py"):
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path):
    script = tmp_path / "stage.py"
    script.write_text(
        "import time\nfrom bert_ja import cli\n\n\ndef main() -> None:\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n\n\ncli.run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 130
    assert talk == "stage.py: error: interrupted: nothing half-written is left; run the same command again\n"


def test_a_reader_that_goes_away_is_one_line_and_exit_code_141(tmp_path):
    read, write = os.pipe()
    os.close(read)
    body = "sys.stdout.write('x' * 100_000)\nsys.stdout.flush()"
    code, talk = end_of(body, tmp_path, stdout=write)
    os.close(write)
    assert (code, talk) == (141, "stage.py: error: the reader of standard output went away\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_closed_stream_never_gets_into_an_output(closed, tmp_path):
    body = "file = open('out', 'wb')\ncli.say('talk')\nprint('result')\nfile.write(b'data')"
    end_of(body, tmp_path, cwd=tmp_path, preexec_fn=lambda: [os.close(number) for number in closed])
    assert (tmp_path / "out").read_bytes() == b"data"


def test_a_closed_standard_input_is_empty(tmp_path):
    code, talk = end_of("cli.say(repr(sys.stdin.read()))", tmp_path, preexec_fn=lambda: os.close(0))
    assert (code, talk) == (0, "''\n")


def test_memory_that_runs_out_is_one_line(capsys):
    with pytest.raises(SystemExit) as end, cli.one_line_errors("stage.py"):
        raise MemoryError
    expected = "out of memory: close other programs, or run it with fewer --num_workers where it has them"
    assert (end.value.code, capsys.readouterr().err) == (2, f"stage.py: error: {expected}\n")


def test_talk_never_goes_to_standard_output_when_stderr_is_closed(tmp_path):
    with open(tmp_path / "out", "wb") as file:
        code, _ = end_of("cli.say('talk')\nprint('result')", tmp_path, stdout=file, preexec_fn=lambda: os.close(2))
    assert (code, (tmp_path / "out").read_bytes()) == (0, b"result\n")


def test_a_name_that_is_no_text_is_refused_before_the_work(tmp_path):
    code, talk = end_of("os._exit(9)", tmp_path, b"\xa4\xa2.xml")
    assert code == 2
    assert talk.startswith(r"stage.py: error: '\udca4\udca2.xml' is not text in this locale: rename it, or")


def test_help_does_not_run_the_stage(tmp_path):
    code, _ = end_of("os._exit(9)", tmp_path, "--size", "x", "--help", stdout=subprocess.DEVNULL)
    assert code == 0


def test_nothing_phones_home_by_default(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    shown = subprocess.run(
        [sys.executable, "-c", "import os, bert_ja.cli; print(os.environ['HF_HUB_OFFLINE'])"],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "1\n"
