"""The pipeline as fixtures, top to bottom: each is made once a session, by calling the stage as a user would."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
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

# Else each of some hundred processes compiles the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the pipeline first: of two workers one runs it, while the other does not wait for it."""
    items.sort(key=lambda item: "work" not in item.fixturenames)


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
    limit = threading.Timer(TIMEOUT, process.kill)
    limit.start()
    try:
        with open(output, "rb") as pipe:
            content = pipe.read()
        process.join()
    finally:
        limit.cancel()
        if process.is_alive():  # the test was ended
            process.kill()
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
def session(tmp_path_factory) -> Path:
    """A folder that all processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def network_log(session) -> Path:
    """Where every attempt of the pipeline to reach another machine is written down."""
    log = session / "network-attempts"
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
def work(session) -> Path:
    """The folder in which the whole pipeline runs with its default paths; tests read it and never change it."""
    folder = session / "pipeline"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def once(work, offline_stage):
    """`offline_stage` in that folder, for what is not there yet, whichever process comes first."""

    def run(made: str, script: str, *arguments, **options) -> Path:
        with open(work.parent / f"{work.name}-{made.replace('/', '-')}", "a+") as state:
            fcntl.flock(state, fcntl.LOCK_EX)
            state.seek(0)
            said = state.read()
            if said == "begun":
                pytest.fail(f"{script}, which makes {made}, failed in another test")
            if not said:
                state.write("begun")
                state.flush()
                offline_stage(script, *arguments, cwd=work, **options)
                state.write(" and made")
        return work / made

    return run


@pytest.fixture(scope="session")
def texts(once) -> Path:
    """data/train.txt, valid.txt and test.txt of the sample dump."""
    parts = ("--valid_sentences", 150, "--test_sentences", 150)
    origin = ("--name", "bert-ja sample", "--license", "CC0-1.0", "--source", "written for bert-ja")
    return once("data", "get_jawiki.sh", SAMPLE, *parts, *origin)


@pytest.fixture(scope="session")
def tokenizer(once, texts) -> Path:
    """output/spm and output/model; the latter is returned."""
    return once("output/model", "train_tokenizer.py", "--train_file", "data/train.txt", "--vocab_size", VOCAB_SIZE)


@pytest.fixture(scope="session")
def samples(once, work, texts, tokenizer) -> Path:
    """data/train.jsonl, valid.jsonl and test.jsonl, made with the published commands."""
    for part, raw in (("train", "False"), ("valid", "True"), ("test", "True")):
        options = ("--filename", f"data/{part}.txt", "--buffer_size", 10000, "--tokenizer_model", "output/model")
        options += ("--max_seq_len", 512, "--seed", 1000, "--get_raw", raw)
        name = f"data/{part}.jsonl"
        once(name, "prepare_train_data.py", *options, stdout=work / name)
    return texts


@pytest.fixture(scope="session")
def run(once, samples) -> Path:
    """lightning_logs/version_0 of two short epochs with configs/tiny.yaml."""
    return once("lightning_logs/version_0", "trainer.py", "--config", CONFIG, *SHORT_RUN)


@pytest.fixture(scope="session")
def result(once, work, run) -> Path:
    """test_result.json of the run's best checkpoint."""
    name = "test_result.json"
    return once(name, "test.py", "--config", CONFIG, "--ckpt_path", "best", stdout=work / name)


@pytest.fixture(scope="session")
def model(once, run) -> Path:
    """model/, exported and with its tokenizer verified."""
    checkpoint, config = run / "checkpoints" / "last.ckpt", run / "config.yaml"
    model = once("model", "export_model.py", "--ckpt_path", checkpoint, "--config", config, "--output_dir", "model")
    once("model/tokenizer.json", "convert_tokenizer.py", "--spm_model", "output/spm/sp.model", "--output_dir", "model")
    return model


@pytest.fixture(scope="session")
def release(once, model, result) -> Path:
    """release/bert-tiny-ja."""
    return once("release/bert-tiny-ja", "release_model.py", "--name", "bert-tiny-ja")


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
