"""Training on several devices, as processes on this CPU: the run of one with as many samples, and none left over."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG, ROOT, refusal, stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import export_model
import trainer
from bert_ja import training

TWO = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
# 169 = 3 x 54 + 7: the last batch of an epoch is short. 55 = 54 + 1: one process has more of the last batch.
TRAIN, VALID, PAIR = 169, 55, 54
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def small(folder: Path) -> list:
    """A run of four short steps in two epochs, without dropout, on two validation files."""
    size = ("--model.hidden_size", 32, "--model.num_hidden_layers", 1, "--model.num_warmup_steps", 1)
    dropout = ("--model.hidden_dropout_prob", 0, "--model.attention_probs_dropout_prob", 0)
    steps = ("--trainer.max_epochs", 2, "--trainer.log_every_n_steps", 1, "--trainer.check_val_every_n_epoch", 1)
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", folder)
    valid = ("--data.valid_file", "{a: data/a.jsonl, b: data/b.jsonl}")
    data = ("--data.train_file", "data/train.jsonl", *valid, "--data.ignore_records", "true")
    return list(map(str, ("--config", CONFIG, *size, *dropout, *steps, *quiet, *data)))


def batches(size: int, accumulate: int) -> list[str]:
    return ["--data.batch_size", str(size), "--trainer.accumulate_grad_batches", str(accumulate)]


@pytest.fixture(scope="module")
def here(work, samples, tmp_path_factory) -> Path:
    """A folder with 169 samples for training and two files for validation."""
    folder = tmp_path_factory.mktemp("devices")
    (folder / "data").mkdir()
    (folder / "output").symlink_to(work / "output")
    for name, source, number in (("train", "train", TRAIN), ("a", "valid", VALID), ("b", "test", VALID - 4)):
        lines = (samples / f"{source}.jsonl").read_text().splitlines(keepends=True)[:number]
        (folder / "data" / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def alone(here) -> Path:
    """The run of one process: 54 samples a batch, two batches a step."""
    before = Path.cwd()
    os.chdir(here)
    try:
        trainer.main([*small(Path("alone")), *batches(PAIR, 2)])
    finally:
        os.chdir(before)
    return here / "alone" / "lightning_logs" / "version_0"


@pytest.fixture(scope="module")
def together(here):
    """The run of two processes, 27 samples a batch on each, and what it said."""
    done = stage("trainer.py", *small(Path("together")), *batches(PAIR // 2, 2), *TWO, cwd=here)
    return here / "together" / "lightning_logs" / "version_0", done.stderr


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run)).Reload()
    return {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if not name.startswith(("epoch", "lr", "hp", "samples_per", "tokens_per", "padding"))
    }


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses at every step and validation, and the same weights, but for rounding."""
    expected, found = scalars(one), scalars(other)
    assert set(found) == set(expected)
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], abs=1e-5), name
    checkpoints = [training.load_checkpoint(run / "checkpoints" / "last.ckpt") for run in (one, other)]
    weights = [torch.cat([tensor.flatten() for tensor in found["state_dict"].values()]) for found in checkpoints]
    # Adam goes by the sign of a gradient at first, and next to zero rounding decides it.
    assert ((weights[0] - weights[1]).abs() > 1e-5).float().mean() < 0.01
    assert checkpoints[0]["global_step"] == checkpoints[1]["global_step"]
    assert checkpoints[0]["provenance"] == checkpoints[1]["provenance"]


def test_two_processes_train_as_one_with_twice_the_batch(alone, together):
    run, _ = together
    assert_same_run(alone, run)
    measured = scalars(run)
    assert len(measured["train_mlm_loss"]) == 4
    assert len(measured["val_loss"]) == len(measured["val_nsp_loss/b"]) == 2
    assert (
        training.load_checkpoint(run / "checkpoints" / "last.ckpt")["provenance"]["settings"]["samples_per_step"] == 108
    )


def test_one_process_speaks_and_writes(alone, together):
    run, said = together
    starts = ("device: cpu", "training in ", "plan: ", "plan: ", "unigram entropy", "attention: ", "first sample ")
    starts += ("validation: ", "trained 4 ")
    lines = said.splitlines()
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * len(starts), said
    assert "108 samples a step, 2 steps an epoch" in lines[2]
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    names = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (alone, run)]
    assert names[0] == names[1]
    assert len(list(run.glob("events.*"))) == 1


def test_a_run_of_two_devices_is_tested_and_exported_on_one(here, together, monkeypatch):
    run, _ = together
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["devices"] == "2"
    monkeypatch.chdir(here)
    export_model.main(str(run / "checkpoints" / "last.ckpt"), output_dir="model")
    tested = stage("test.py", "--ckpt_path", run / "checkpoints" / "last.ckpt", "--test_file", "data/a.jsonl", cwd=here)
    assert yaml.safe_load(tested.stdout)["test_loss"] == pytest.approx(scalars(run)["val_loss/a"][-1][1], abs=1e-5)


# What is refused


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--trainer.strategy", "ddp_spawn"],
            "trainer.strategy must be auto or ddp: each device has the whole model, and steps are exact",
        ),
        (
            ["--data.valid_file", "[data/a.jsonl, data/few.jsonl]"],
            "data/few.jsonl has 1 samples, and 2 devices share them: name a larger file, or train on fewer devices",
        ),
    ],
)
def test_what_several_devices_cannot_do_is_refused_before_they_start(here, monkeypatch, options, message):
    monkeypatch.chdir(here)
    (here / "data" / "few.jsonl").write_text((here / "data" / "a.jsonl").read_text().split("\n")[0] + "\n")
    with pytest.raises(training.StageError, match=f"^{re.escape(message)}$"):
        trainer.main([*small(Path("refused")), "--trainer.devices", "2", *options])


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "0"},
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "0"},
    ],
)
def test_other_devices_than_processes_were_started_for_are_refused(here, monkeypatch, variables):
    """Each would run the whole training by itself, into one folder."""
    monkeypatch.chdir(here)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(training.StageError, match="^(torchrun|srun) started 4 processes, .* is 1: make the two equal$"):
        trainer.main(small(Path("refused")))


@pytest.mark.full
def test_one_device_is_tested_on(here, together):
    assert refusal("test.py", "--ckpt_path", together[0] / "checkpoints" / "last.ckpt", "--devices", 2, cwd=here) == (
        "--devices 2 is more than one: name the one to test on, 1 or [0] for the first"
    )


# Other ways to start, and to end

# trainer.py in which a step of some processes goes wrong: WRONG is "what, step, processes"; NUMBER is of a signal.
SPOILT = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import trainer
from bert_ja import cli
from bert_ja.pretraining import BertPretraining

what, when, who = os.environ["WRONG"].split(",")
number = int(os.environ.get("NUMBER", 0))
train, measure = BertPretraining.training_step, BertPretraining.measures

def now(model):
    return model.global_step == int(when) and str(model.global_rank) in who

def training_step(self, step, batch_idx):
    if now(self) and what == "refuse":
        raise cli.StageError("something is wrong")
    if now(self) and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if now(self) and what == "term":
        os.kill(os.getpid(), number)
    if now(self) and what == "all":
        os.killpg(0, number)
    return train(self, step, batch_idx)

def measures(self, batch):
    if now(self) and what == "validation" and self.trainer.validating:
        os.kill(os.getpid(), number)
    found = measure(self, batch)
    wrong = self.training and now(self) and what == "nan"
    return found | {{"nsp_loss": found["nsp_loss"] * float("nan")}} if wrong else found

BertPretraining.training_step, BertPretraining.measures = training_step, measures
with cli.one_line_errors("trainer.py"):
    trainer.main(sys.argv[1:])
"""


def launch(here: Path, *arguments, **environment) -> subprocess.Popen:
    """A process of Python with these arguments, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=here,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def spoilt(here: Path, name: str, wrong: str, *options) -> tuple[int, list[str]]:
    """The exit code of a spoilt run and the lines of its errors; fails where a process of it is left."""
    (here / "spoilt.py").write_text(SPOILT)
    process = launch(here, "spoilt.py", *small(Path(name)), *options, WRONG=wrong)
    _, said = process.communicate(timeout=120)
    left = subprocess.run(["ps", "-o", "args=", "-g", str(process.pid)], capture_output=True, text=True).stdout
    assert "spoilt.py" not in left
    return process.returncode, [line for line in said.splitlines() if "error" in line or "Error" in line]


@pytest.mark.full
@pytest.mark.parametrize("who", ["0 1", "0"])
def test_an_error_is_said_once_and_ends_all_processes(here, who):
    options = (*batches(PAIR // 2, 2), *TWO)
    assert spoilt(here, "refused", f"refuse,1,{who}", *options) == (2, ["trainer.py: error: something is wrong"])


LOST = r"trainer.py: error: the processes of the run lost each other \(.*onnection .*: one ended, for a "


@pytest.mark.full
def test_an_error_of_another_process_is_said_with_its_number(here):
    code, errors = spoilt(here, "refused", "refuse,1,1", *batches(PAIR // 2, 2), *TWO)
    assert code in (2, -9)  # Lightning ends the first process when another has failed, if it has not ended before
    assert errors[0] == "trainer.py: error: process 1 of the run: something is wrong"
    assert all(re.match(LOST, line) for line in errors[1:]) and len(errors) < 3


@pytest.mark.full
def test_no_process_outlives_another_that_was_killed(here):
    options = (*batches(PAIR // 2, 2), *TWO)
    assert spoilt(here, "killed", "kill,1,0", *options) == (-9, [])
    code, errors = spoilt(here, "killed", "kill,1,1", *options)
    assert code in (2, -9)
    assert all(re.match(LOST, line) for line in errors) and len(errors) < 2


@pytest.mark.full
def test_all_processes_skip_a_step_that_is_not_finite_on_one(here):
    runs = []
    for name, who, options in (("nan1", 0, batches(PAIR, 1)), ("nan2", 1, (*batches(PAIR // 2, 1), *TWO))):
        assert spoilt(here, name, f"nan,2,{who}", *options) == (0, [])
        runs.append(here / name / "lightning_logs" / "version_0")
    expected, found = map(scalars, runs)
    assert [value for _, value in found["nonfinite_steps"]] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert found["nonfinite_steps"] == expected["nonfinite_steps"]
    for name in ("val_loss", "train_mlm_loss"):
        values = [[value for _, value in run[name]] for run in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-5)


@pytest.mark.full
def test_torchrun_trains_the_same(here, alone):
    options = (*small(Path("torchrun")), *batches(PAIR // 2, 2), "--trainer.devices", 2)
    process = launch(here, *TORCHRUN, ROOT / "trainer.py", *options)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert ("\n" + said).count("\nvalidation: ") == ("\n" + said).count("\ndevice: ") == 1
    assert_same_run(alone, here / "torchrun" / "lightning_logs" / "version_0")


@pytest.mark.full
def test_samples_without_a_second_task_train_the_same(here):
    """DDP must not wait for the gradients of pooler and NSP head; and two processes build the columns together."""
    for name in ("train", "a", "b"):
        samples = [json.loads(line) for line in (here / "data" / f"{name}.jsonl").read_text().splitlines()]
        for sample in samples:
            del sample["next_sentence_label"]
        (here / "data" / f"none-{name}.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    for name, start, options in (
        ("none2", TORCHRUN, (*batches(PAIR // 2, 2), "--trainer.devices", 2)),
        ("none1", (), batches(PAIR, 2)),
    ):
        arguments = [word.replace("data/", "data/none-") for word in small(Path(name))]
        process = launch(here, *start, ROOT / "trainer.py", *arguments, *options)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    runs = [here / name / "lightning_logs" / "version_0" for name in ("none1", "none2")]
    assert_same_run(*runs)
    assert "train_nsp_loss" not in scalars(runs[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def srun(here: Path, script: Path, *options, **environment) -> list[subprocess.Popen]:
    """Two tasks of a job on one node, with the variables that srun sets."""
    common = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "bert", "SLURM_NODELIST": "127.0.0.1", "SLURM_NNODES": "1"}
    common |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
    common |= {"MASTER_PORT": str(free_port()), **environment}
    return [
        launch(here, script, *options, **common, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in (0, 1)
    ]


@pytest.mark.full
def test_tasks_of_slurm_are_the_processes_of_one_run(here, alone):
    """Not on a cluster."""
    options = (*small(Path("slurm")), *batches(PAIR // 2, 2), "--trainer.devices", 2)
    tasks = srun(here, ROOT / "trainer.py", *options)
    said = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert "validation: " in said[0]
    assert said[1] == ""
    assert_same_run(alone, here / "slurm" / "lightning_logs" / "version_4711")  # N is the number of the job


# Ended from outside


def gone_on(here: Path, name: str, run: str) -> Path:
    """The run of two processes, gone on with."""
    stage("trainer.py", "--resume", Path(name) / "lightning_logs" / run, *TWO, cwd=here)
    return here / name / "lightning_logs" / run


@pytest.mark.full
@pytest.mark.parametrize(
    "wrong, number, code",
    [
        ("term,1,0", signal.SIGTERM, 143),  # in the first process alone, as a scheduler may send it
        ("term,1,1", signal.SIGTERM, 143),
        ("all,1,0", signal.SIGTERM, 143),
        ("all,2,1", signal.SIGINT, 130),  # Ctrl-C reaches all of them
        ("validation,2,1", signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_all_processes_behind_the_same_step(here, alone, wrong, number, code):
    name = f"ended-{wrong}".replace(",", "-")
    options = (*batches(PAIR // 2, 2), *TWO)
    (here / "spoilt.py").write_text(SPOILT)
    process = launch(here, "spoilt.py", *small(Path(name)), *options, WRONG=wrong, NUMBER=str(int(number)))
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert f"ended by {number.name}: trainer.py --resume {name}/lightning_logs/version_0 goes on" in said
    assert_same_run(alone, gone_on(here, name, "version_0"))


@pytest.mark.full
def test_a_job_that_slurm_ends_goes_on_under_its_number(here, alone):
    options = (*small(Path("requeued")), *batches(PAIR // 2, 2), "--trainer.devices", 2)
    (here / "spoilt.py").write_text(SPOILT)
    tasks = srun(here, Path("spoilt.py"), *options, WRONG="term,1,1", NUMBER=str(int(signal.SIGTERM)))
    said = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [143, 0], said
    run = Path("requeued") / "lightning_logs" / "version_4711"
    for arguments, codes in ((options, [2, 2]), (("--resume", run), [0, 0])):
        tasks = srun(here, ROOT / "trainer.py", *arguments)
        said = [task.communicate(timeout=120)[1] for task in tasks]
        assert [task.returncode for task in tasks] == codes, said
        if codes == [2, 2]:
            assert said[0].endswith(f"error: {run} holds a run already: go on with it by --resume {run}\n")
    assert_same_run(alone, here / run)
