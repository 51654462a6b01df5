"""The pipeline as fixtures, top to bottom: each is made once a session, by calling the stage as a user would."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import scripts
from texts import LETTERS, write_tokenizer
from wiki import write_layouts

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data" / "sample" / "jawiki-sample-pages-articles.xml"
SHARED = ROOT.parent / "shared"
VOCAB_SIZE = 3000
TIMEOUT = 280  # seconds of a stage
CONFIG = ROOT / "configs" / "tiny.yaml"
SHORT_RUN = (
    *("--trainer.max_epochs", 2, "--trainer.check_val_every_n_epoch", 1, "--trainer.limit_train_batches", 20),
    *("--model.num_warmup_steps", 5),
)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children


def shared(*parts: str) -> Path:
    """A file of the real data that lies beside a developer's checkout; skips the test on a user's machine."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{Path('..', 'shared', *parts)} is not on this machine")
    return path


def stage(
    script: str,
    *arguments,
    cwd: Path,
    stdout: Path | None = None,
    check: bool = True,
    env: dict | None = None,
    prefix: list[str] = (),
):
    """Run a script of the repository in `cwd`; `stdout` stands for `> FILE`, else it is a pipe.

    With `env` or `prefix` the interpreter is a new one, as a user's is; without, see scripts.py.
    """
    path, arguments = ROOT / script, list(map(str, arguments))
    with (
        tempfile.TemporaryFile() as errors,
        open(stdout or os.devnull, "wb") as file,
        open(os.devnull, "rb") as nothing,
    ):
        if path.suffix == ".py" and env is None and not prefix:
            code, output = forked(path, arguments, cwd, nothing, file if stdout else None, errors)
        else:
            interpreter = "bash" if path.suffix == ".sh" else sys.executable
            done = subprocess.run(
                [*prefix, interpreter, str(path), *arguments],
                cwd=cwd,
                env={**os.environ, "PYTHON": sys.executable, **(env or {})},
                stdin=nothing,
                stdout=file if stdout else subprocess.PIPE,
                stderr=errors,
                timeout=TIMEOUT,
            )
            code, output = done.returncode, done.stdout or b""
        errors.seek(0)
        result = subprocess.CompletedProcess([script, *arguments], code, output.decode(), errors.read().decode())
    if check:
        assert result.returncode == 0, f"{script} {arguments}: {result.stderr[-3000:]}"
    return result


def forked(script: Path, arguments: list[str], cwd: Path, stdin, stdout, stderr) -> tuple[int, bytes]:
    """(exit code, what it wrote into a pipe where `stdout` is None) of a script, see scripts.py."""
    output, piped = os.pipe()
    target = piped if stdout is None else stdout.fileno()
    process = scripts.start(script, arguments, cwd, [stdin.fileno(), target, stderr.fileno()])
    os.close(piped)
    with open(output, "rb") as pipe:
        content = pipe.read()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        pytest.fail(f"{script.name} {arguments} ran for more than {TIMEOUT} s")
    return process.exitcode, content


def refusal(script: str, *arguments, cwd: Path, **options) -> str:
    """The one sentence with which a stage refuses to work; fails unless it is one line and exit code 2."""
    result = stage(script, *arguments, cwd=cwd, check=False, **options)
    lines = result.stderr.splitlines()
    assert result.returncode == 2, f"exit code {result.returncode}: {result.stderr}"
    assert "Traceback" not in result.stderr
    assert sum(" error: " in line for line in lines) == 1, result.stderr
    return lines[-1].partition(" error: ")[2]


def _without_network() -> list[str]:
    """What puts a command into a network namespace of its own, where the kernel lets us."""
    command = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else []


NO_NETWORK = _without_network()


@pytest.fixture(scope="session")
def network_log(tmp_path_factory) -> Path:
    """Where every attempt of the pipeline to reach another machine is written down."""
    log = tmp_path_factory.mktemp("network") / "attempts"
    log.touch()
    return log


@pytest.fixture(scope="session")
def offline_stage(network_log):
    """`stage` without a network: in a namespace where the kernel allows it, under a guard that refuses everywhere."""
    guard = {"PYTHONPATH": str(ROOT / "tests" / "no_network"), "NETWORK_LOG": str(network_log)}

    def run(script: str, *arguments, **options):
        return stage(script, *arguments, prefix=NO_NETWORK, env=guard, **options)

    return run


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    """The folder in which the whole pipeline runs with its default paths; tests read it and never change it."""
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="session")
def texts(work, offline_stage) -> Path:
    """data/train.txt, valid.txt and test.txt of the sample dump."""
    parts = ("--valid_sentences", 150, "--test_sentences", 150)
    origin = ("--name", "bert-ja sample", "--license", "CC0-1.0", "--source", "written for bert-ja")
    offline_stage("get_jawiki.sh", SAMPLE, *parts, *origin, cwd=work)
    return work / "data"


@pytest.fixture(scope="session")
def tokenizer(work, texts, offline_stage) -> Path:
    """output/spm and output/model; the latter is returned."""
    offline_stage("train_tokenizer.py", "--train_file", "data/train.txt", "--vocab_size", VOCAB_SIZE, cwd=work)
    return work / "output" / "model"


@pytest.fixture(scope="session")
def samples(work, tokenizer, offline_stage) -> Path:
    """data/train.jsonl, valid.jsonl and test.jsonl, made with the published commands."""
    for part, raw in (("train", "False"), ("valid", "True"), ("test", "True")):
        offline_stage(
            "prepare_train_data.py",
            *("--filename", f"data/{part}.txt", "--buffer_size", 10000, "--tokenizer_model", "output/model"),
            *("--max_seq_len", 512, "--seed", 1000, "--get_raw", raw),
            cwd=work,
            stdout=work / "data" / f"{part}.jsonl",
        )
    return work / "data"


@pytest.fixture(scope="session")
def run(work, samples, offline_stage) -> Path:
    """lightning_logs/version_0 of two short epochs with configs/tiny.yaml."""
    offline_stage("trainer.py", "--config", CONFIG, *SHORT_RUN, cwd=work)
    return work / "lightning_logs" / "version_0"


@pytest.fixture(scope="session")
def result(work, run, offline_stage) -> Path:
    """test_result.json of the run's best checkpoint."""
    offline_stage("test.py", "--config", CONFIG, "--ckpt_path", "best", cwd=work, stdout=work / "test_result.json")
    return work / "test_result.json"


@pytest.fixture(scope="session")
def model(work, run, offline_stage) -> Path:
    """model/, exported and with its tokenizer verified."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    offline_stage(
        "export_model.py", "--ckpt_path", checkpoint, "--config", run / "config.yaml", "--output_dir", "model", cwd=work
    )
    offline_stage("convert_tokenizer.py", "--spm_model", "output/spm/sp.model", "--output_dir", "model", cwd=work)
    return work / "model"


@pytest.fixture(scope="session")
def release(work, model, result, offline_stage) -> Path:
    """release/bert-tiny-ja."""
    offline_stage("release_model.py", "--name", "bert-tiny-ja", cwd=work)
    return work / "release" / "bert-tiny-ja"


@pytest.fixture(scope="session")
def letters(tmp_path_factory) -> Path:
    """A tokenizer whose pieces are letters: 5 あ, 6 い, 7 。, 8 う, 9 え, 10 ▁, 11 お."""
    return write_tokenizer(tmp_path_factory.mktemp("letters"), LETTERS, 12)


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """A tokenizer of the sentences that texts.py makes."""
    return write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture
def layouts(tmp_path) -> dict[str, list[Path]]:
    """A small wiki in each layout that dumps come in: its files by the layout's name."""
    return write_layouts(tmp_path)


@pytest.fixture
def copy(tmp_path, work):
    """A function that copies files or folders of the pipeline into a folder of the test's own."""

    def copy_into(*names: str) -> Path:
        for name in names:
            source, target = work / name, tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)
                record = source.with_name(source.name + ".meta.json")
                if record.exists():
                    shutil.copy2(record, target.with_name(record.name))
        return tmp_path

    return copy_into


@pytest.fixture
def disk(tmp_path):
    """A function that makes a folder on a disk of its own, of so many bytes; skips where mounting is not permitted."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def small_disk(disk) -> Path:
    """A disk of 300 kB."""
    return disk(300_000)
