"""A run that was ended and gone on with: the steps that follow are those of a run that was not, bit for bit."""

import csv
import errno
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIG
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import trainer
from bert_ja import callbacks, cli, files, resuming, training
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining

COMMON = (
    *("--trainer.limit_val_batches", 2, "--trainer.log_every_n_steps", 1, "--trainer.enable_progress_bar", "false"),
    *("--data.batch_size", 8, "--trainer.accumulate_grad_batches", 2, "--model.num_warmup_steps", 5),
    *("--model.hidden_size", 32, "--model.num_hidden_layers", 1),
)
# 7 optimizer steps an epoch of 2 x 8 samples, two epochs; validation and checkpoint after every 3 of an epoch's steps.
OPTIONS = (
    *("--trainer.max_epochs", 2, "--trainer.limit_train_batches", 14, "--trainer.val_check_interval", 6),
    *("--trainer.check_val_every_n_epoch", 1, *COMMON),
)
LAST_STEP = 14


def in_child(function: Callable[[], None]) -> int:
    """Run a function in a process of its own; its exit code, or the signal that ended it as a negative number."""
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        torch.set_num_threads(1)  # the threads of the parent are not there
        with cli.one_line_errors("trainer.py"):
            function()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 71
    finally:
        sys.stderr.flush()
        os._exit(code)


def end_at(owner, name: str, call: int, number: int) -> None:
    """Send this process a signal when it calls a function for the `call`-th time, before the function runs."""
    function, calls = getattr(owner, name), []

    def watched(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(owner, name, watched)


def end_in_the_middle_of_a_write(call: int) -> None:
    """Kill this process when half of the `call`-th checkpoint is written."""
    save, calls = torch.save, []

    def half(content, file):
        calls.append(None)
        if len(calls) < call:
            return save(content, file)
        save(content, file)
        file.file.truncate(file.file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    callbacks.torch.save = half


def train(folder: Path, *options, prepare: Callable[[], None] = lambda: None) -> int:
    """A run of trainer.py in `folder`, in a process of its own that `prepare` is called in first."""

    def run() -> None:
        os.chdir(folder)
        prepare()
        trainer.main(list(map(str, options)))

    return in_child(run)


def curves(run: Path) -> dict[str, dict[int, float]]:
    """{metric: {step: value}} of a run as TensorBoard shows it; as the event files have them, float32."""
    events = EventAccumulator(str(run)).Reload()
    return {
        name: {point.step: point.value for point in events.Scalars(name)}
        for name in events.Tags()["scalars"]
        if name.startswith(("train_", "val_", "gradient_norm"))
    }


def table(run: Path) -> list[list[str]]:
    """metrics.csv but for what is measured from one logged step to the next."""
    measured = ("samples_per_second", "tokens_per_second", "padding_waste")
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [[value for name, value in row.items() if name not in measured] for row in rows]


def steps_of(run: Path) -> list[int]:
    return sorted(training.load_checkpoint(path)["global_step"] for path in (run / "checkpoints").glob("*.ckpt"))


def seconds_of(run: Path) -> list[float]:
    """How long a run had taken at each checkpoint; all of it on one machine."""
    found = [training.load_checkpoint(path)["hardware"] for path in (run / "checkpoints").glob("*.ckpt")]
    return [part["seconds"] for (part,) in found]


@pytest.fixture(scope="module")
def place(samples, tokenizer, tmp_path_factory) -> Path:
    """A folder with the data and an uninterrupted run, version_0."""
    folder = tmp_path_factory.mktemp("resuming")
    (folder / "data").symlink_to(samples)
    (folder / "output").mkdir()
    (folder / "output" / "model").symlink_to(tokenizer)
    config = yaml.safe_load(CONFIG.read_text())
    saved = {"monitor": "val_loss", "save_top_k": 2, "save_last": True}
    config["trainer"]["callbacks"] = [{"class_path": "bert_ja.callbacks.ModelCheckpoint", "init_args": saved}]
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    del config["trainer"]["check_val_every_n_epoch"]
    (folder / "own-steps.yaml").write_text(yaml.safe_dump(config))
    assert train(folder, "--config", "own.yaml", *OPTIONS) == 0
    assert sorted(curves(folder / "lightning_logs" / "version_0")["train_loss"]) == list(range(LAST_STEP))
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    """A folder of its own with the same data."""
    for name in ("data", "output", "own.yaml", "own-steps.yaml"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ENDS = {
    "between_steps": lambda: end_at(BertPretraining, "training_step", 6, signal.SIGKILL),
    "in_the_middle_of_an_accumulation": lambda: end_at(
        BertPretraining, "forward", 2 + 2 * 2 + 2 * 4 + 6, signal.SIGKILL
    ),
    "in_a_validation": lambda: end_at(BertPretraining, "validation_step", 2 * 3, signal.SIGKILL),
    "in_the_write_of_a_checkpoint": lambda: end_in_the_middle_of_a_write(4),
    "in_the_second_epoch": lambda: end_at(BertPretraining, "_update", 12, signal.SIGKILL),
}


AS_IT_WAS, OTHER_WORKERS = (), ("--data.num_workers", 2)
QUICK = [("between_steps", OTHER_WORKERS), ("in_the_write_of_a_checkpoint", AS_IT_WAS)]


@pytest.mark.parametrize(
    "end, others",
    [
        pytest.param(end, others, marks=[pytest.mark.full] * ((end, others) not in QUICK))
        for others in (OTHER_WORKERS, AS_IT_WAS)
        for end in ENDS
    ],
)
def test_after_a_kill_a_run_goes_on_as_if_nothing_had_been(place, here, end, others):
    assert train(here, "--config", "own.yaml", *OPTIONS, prepare=ENDS[end]) == -signal.SIGKILL
    run = here / "lightning_logs" / "version_0"
    assert 0 < max(steps_of(run)) < LAST_STEP
    seconds = max(seconds_of(run))
    assert train(here, "--resume", *others) == 0
    assert seconds < max(seconds_of(run)) < seconds + 200  # of both parts
    assert curves(run) == curves(place / "lightning_logs" / "version_0")
    assert table(run) == table(place / "lightning_logs" / "version_0")
    assert [path.name for path in (here / "lightning_logs").iterdir()] == ["version_0"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == sorted(
        path.name for path in (place / "lightning_logs" / "version_0" / "checkpoints").iterdir()
    )
    ours, whole = (
        training.load_checkpoint(folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
        for folder in (here, place)
    )
    assert all(torch.equal(ours["state_dict"][name], tensor) for name, tensor in whole["state_dict"].items())


@pytest.mark.parametrize(
    "where, number, code",
    [
        ("in_a_step", signal.SIGINT, 130),
        ("in_the_validation_behind_an_epoch", signal.SIGTERM, 143),
        pytest.param("in_a_step", signal.SIGTERM, 143, marks=pytest.mark.full),
        pytest.param("in_a_validation", signal.SIGTERM, 143, marks=pytest.mark.full),
        pytest.param("in_a_validation", signal.SIGINT, 130, marks=pytest.mark.full),
        pytest.param("in_the_validation_behind_an_epoch", signal.SIGINT, 130, marks=pytest.mark.full),
    ],
)
def test_a_signal_saves_the_step_under_way_and_the_run_goes_on_behind_it(place, here, capfd, where, number, code):
    def prepare() -> None:
        if where == "in_a_step":
            end_at(BertPretraining, "_update", 5, number)
        else:
            end_at(BertPretraining, "validation_step", 6 if where == "in_a_validation" else 4, number)

    epochs = ("--trainer.val_check_interval", 14) if where == "in_the_validation_behind_an_epoch" else ()
    if epochs:
        assert train(place, "--config", "own.yaml", *OPTIONS, *epochs, "--trainer.default_root_dir", "whole") == 0
    whole = place / ("whole" if epochs else ".") / "lightning_logs" / "version_0"
    assert train(here, "--config", "own.yaml", *OPTIONS, *epochs, prepare=prepare) == code
    said = capfd.readouterr().err
    assert f"ended by {number.name}: trainer.py --resume lightning_logs/version_0 goes on\n" in said
    assert "Traceback" not in said
    run = here / "lightning_logs" / "version_0"
    ended = {"in_a_step": 5, "in_a_validation": 6, "in_the_validation_behind_an_epoch": 7}[where]
    assert max(steps_of(run)) == ended
    assert train(here, "--resume") == 0
    assert curves(run) == curves(whole)
    if epochs:
        shutil.rmtree(place / "whole")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(("--trainer.max_steps", 10), id="steps"),
        pytest.param(("--trainer.max_epochs", 1), id="epochs", marks=pytest.mark.full),
    ],
)
def test_the_validation_behind_the_last_step_is_done_when_the_run_goes_on(here, capfd, end):
    """A signal in the second of two validations; its step is among the best checkpoints then, as without the signal."""
    config = yaml.safe_load((here / "own-steps.yaml").read_text())
    config["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 5
    (here / "saved.yaml").write_text(yaml.safe_dump(config))
    options = ("--config", "saved.yaml", *COMMON, *end, "--trainer.limit_train_batches", 20)
    options += ("--val_every_n_steps", 5, "--model.lr_schedule", "linear")
    assert train(here, *options, "--trainer.default_root_dir", "whole") == 0
    prepare = {"prepare": lambda: end_at(BertPretraining, "validation_step", 2 + 2 + 1, signal.SIGTERM)}
    assert train(here, *options, **prepare) == 143
    for _ in range(2):  # a second time when the validation has begun anew
        end = {"prepare": lambda: end_at(BertPretraining, "validation_step", 1, signal.SIGTERM)}
        assert train(here, "--resume", **end) == 143
    assert train(here, "--resume") == 0
    assert "step 10, epoch 0, 10 steps of it done, the validation behind it is to be done" in capfd.readouterr().err
    run, whole = (here / folder / "lightning_logs" / "version_0" for folder in (".", "whole"))
    assert curves(run) == curves(whole)
    assert sorted(curves(run)["val_loss"]) == [4, 9]
    assert table(run) == table(whole)
    assert steps_of(run) == steps_of(whole) == [5, 10, 10]
    assert "optimizer steps already" in refused("--resume")


@pytest.mark.parametrize(
    "others",
    [
        ("--val_every_n_steps", 4),
        pytest.param(("--trainer.max_time", "00:00:00:00"), marks=pytest.mark.full),
    ],
)
def test_options_that_leave_out_the_validation_behind_the_last_step_are_refused(place, here, capfd, others):
    """And no step is taken beyond the last one."""
    options = ("--config", "own-steps.yaml", *COMMON, "--trainer.max_steps", 6, "--val_every_n_steps", 6)
    end = {"prepare": lambda: end_at(BertPretraining, "validation_step", 2 + 1, signal.SIGTERM)}
    assert train(here, *options, **end) == 143
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*.ckpt")}
    assert train(here, "--resume", *others) == 2
    assert "the run has its 6 optimizer steps already, and these options leave out the" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*.ckpt")} == before
    assert train(here, "--resume") == 0
    assert sorted(curves(here / "lightning_logs" / "version_0")["val_loss"]) == [5]


def fill_the_disk_at(call: int) -> None:
    """Let the `call`-th checkpoint meet a full disk, and a thread beside it, as TensorBoard's does."""
    save, calls = torch.save, []

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(content, file):
        calls.append(None)
        if len(calls) < call:
            return save(content, file)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        fail()

    callbacks.torch.save = full


@pytest.mark.parametrize(
    "call, way",
    [pytest.param(1, "free some space and run the same command again", marks=pytest.mark.full), (4, None)],
)
def test_a_full_disk_ends_a_run_in_one_sentence_that_says_how_it_goes_on(place, here, capfd, call, way):
    assert train(here, "--config", "own.yaml", *OPTIONS, prepare=lambda: fill_the_disk_at(call)) == 2
    way = way or "free some space, then trainer.py --resume lightning_logs/version_0 goes on"
    said = capfd.readouterr().err
    assert said.endswith(f"trainer.py: error: the disk is full: {way}\n")
    assert "Traceback" not in said
    if call > 1:
        assert train(here, "--resume") == 0
        assert table(here / "lightning_logs" / "version_0") == table(place / "lightning_logs" / "version_0")


def test_a_run_in_steps_validates_at_them_and_goes_on_so(here):
    """17 steps of an epoch of 110, validation every 5, over a kill in step 12 and in the first step after it."""
    steps = ("--trainer.max_steps", 17, "--val_every_n_steps", 5, *COMMON)
    assert train(here, "--config", "own-steps.yaml", *steps, "--trainer.default_root_dir", "whole") == 0
    whole = curves(here / "whole" / "lightning_logs" / "version_0")
    assert sorted(whole["val_loss"]) == [4, 9, 14]
    kill = {"prepare": lambda: end_at(BertPretraining, "_update", 12, signal.SIGKILL)}
    assert train(here, "--config", "own-steps.yaml", *steps, **kill) == -signal.SIGKILL
    kill = {"prepare": lambda: end_at(BertPretraining, "_update", 1, signal.SIGKILL)}
    assert train(here, "--resume", **kill) == -signal.SIGKILL
    assert train(here, "--resume") == 0
    assert curves(here / "lightning_logs" / "version_0") == whole
    assert steps_of(here / "lightning_logs" / "version_0") == [10, 15, 17]


def test_a_falling_masking_rate_and_muon_go_on_as_if_nothing_had_been(here):
    """Over a kill in the second epoch: the rate of each step, and the momenta and moments of both optimizers."""
    options = ("--config", "own.yaml", *OPTIONS, "--data.mlm_probability", 0.5, "--data.mlm_probability_end", 0.05)
    options += ("--model.optimizer", "muon", "--model.lr_schedule", "linear")
    assert train(here, *options, "--trainer.default_root_dir", "whole") == 0
    kill = {"prepare": lambda: end_at(BertPretraining, "_update", 12, signal.SIGKILL)}
    assert train(here, *options, **kill) == -signal.SIGKILL
    assert train(here, "--resume", *OTHER_WORKERS) == 0
    run, whole = (here / folder / "lightning_logs" / "version_0" for folder in (".", "whole"))
    assert curves(run) == curves(whole)
    ours, uninterrupted = (training.load_checkpoint(each / "checkpoints" / "last.ckpt") for each in (run, whole))
    for name, tensor in uninterrupted["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name
    (state,) = uninterrupted["optimizer_states"]
    kinds = [group["muon"] for group in state["param_groups"]]
    assert kinds == [True, False, False]
    found = [set(state["state"][group["params"][0]]) for group in state["param_groups"]]
    assert found == [{"momentum_buffer"}, *[{"step", "exp_avg", "exp_avg_sq"}] * 2]
    settings = uninterrupted["provenance"]["settings"]
    assert (settings["mlm_probability"], settings["mlm_probability_end"]) == (0.5, 0.05)
    assert "data.mlm_probability_end was 0.05 and is None" in refused(
        "--resume", "--data.mlm_probability_end", "null", "--trainer.max_epochs", 3
    )


def test_micro_batches_may_be_cut_in_another_way(place, here):
    """16 x 1 instead of 8 x 2: the same samples a step, and losses that differ by rounding only."""
    shutil.copytree(place / "lightning_logs", here / "lightning_logs")
    run = here / "lightning_logs" / "version_0"
    for path in (run / "checkpoints").iterdir():
        if training.load_checkpoint(path)["global_step"] > 10:
            path.unlink()
    others = ("--data.batch_size", 16, "--trainer.accumulate_grad_batches", 1, "--trainer.limit_train_batches", 7)
    assert train(here, "--resume", *others, "--trainer.val_check_interval", 3, "--model.hidden_dropout_prob", 0.1) == 0
    found, whole = curves(run), curves(place / "lightning_logs" / "version_0")
    assert found["train_loss"].keys() == whole["train_loss"].keys()
    assert found["train_loss"][13] == pytest.approx(whole["train_loss"][13], abs=0.2)  # of other dropout


def refused(*arguments) -> str:
    with pytest.raises(StageError) as error:
        trainer.main(list(map(str, arguments)))
    return str(error.value)


def test_what_would_make_another_run_of_it_is_refused_by_name(place, here):
    shutil.copytree(place / "lightning_logs", here / "lightning_logs")
    run = here / "lightning_logs" / "version_0"
    for name in ("last.ckpt", *(path.name for path in (run / "checkpoints").glob("*13*"))):
        (run / "checkpoints" / name).unlink()
    before = sorted(here.rglob("*"))
    changed = ("--model.lr", 0.5, "--data.batch_size", 4, "--trainer.gradient_clip_val", 2.5, "--data.seed", 7)
    assert refused("--resume", run, *changed, "--data.train_file", "data/valid.jsonl") == (
        f"{run} cannot go on with other options (model.lr was 0.002 and is 0.5; "
        "data.batch_size x trainer.accumulate_grad_batches x devices was 16 and is 8; "
        "trainer.gradient_clip_val was 1.0 and is 2.5; data.seed was 1000 and is 7; data.train_file holds other "
        "samples): leave them as they were, or start a new run without --resume"
    )
    assert sorted(here.rglob("*")) == before


def test_a_run_without_a_checkpoint_is_refused_and_never_started_afresh(here):
    assert refused("--resume").startswith("there is no run under lightning_logs: train one with trainer.py, or name")
    (here / "lightning_logs" / "version_3" / "checkpoints").mkdir(parents=True)
    assert refused("--resume") == (
        "lightning_logs/version_3 holds no checkpoint to go on from: start again without --resume, or name another run"
    )
    assert refused("--resume", "nothing.ckpt").startswith(
        "nothing.ckpt not found: name a checkpoint file, a run folder"
    )


def test_a_damaged_checkpoint_is_passed_over(place, here, capsys):
    shutil.copytree(place / "lightning_logs", here / "lightning_logs")
    folder = here / "lightning_logs" / "version_0" / "checkpoints"
    whole = sorted(folder.iterdir())
    damaged = folder / "epoch=1-step=99.ckpt"
    damaged.write_bytes(whole[0].read_bytes()[:1000])
    found = resuming.find("")
    assert found.steps == LAST_STEP
    assert re.match(f"passed over: .*{damaged.name} cannot be read as a checkpoint", capsys.readouterr().err)
    assert resuming.find(str(folder.parent)).path.samefile(found.path)
    damaged.unlink()
    assert resuming.find("last").path.name == "last.ckpt"
    assert resuming.find("best").path.name.startswith("epoch=")


def test_a_run_that_is_done_says_how_it_goes_on(place, here):
    shutil.copytree(place / "lightning_logs", here / "lightning_logs")
    assert refused("--resume").endswith(
        "version_0 has its 14 optimizer steps already: raise trainer.max_steps or trainer.max_epochs to go on"
    )
    assert train(here, "--resume", "--trainer.max_epochs", 3) == 0
    run = here / "lightning_logs" / "version_0"
    longer, whole = curves(run), curves(place / "lightning_logs" / "version_0")
    assert sorted(longer["train_loss"]) == list(range(21))
    assert {step: longer["train_loss"][step] for step in range(14)} == whole["train_loss"]


def test_checkpoints_behind_the_one_that_is_gone_on_from_are_moved_aside(place, here):
    shutil.copytree(place / "lightning_logs", here / "lightning_logs")
    run = here / "lightning_logs" / "version_0"
    first = min((run / "checkpoints").glob("epoch*"), key=lambda path: training.load_checkpoint(path)["global_step"])
    left = {path.name for path in (run / "checkpoints").iterdir()} - {first.name}
    assert train(here, "--resume", first) == 0
    assert {path.name for path in (run / "checkpoints" / resuming.ABANDONED).iterdir()} == left
    assert curves(run) == curves(place / "lightning_logs" / "version_0")


def test_a_run_that_another_process_writes_to_is_refused(place, here):
    shutil.copytree(place / "lightning_logs", here / "lightning_logs")
    run = here / "lightning_logs" / "version_0"
    with files.locked(run):
        assert refused("--resume", "--trainer.max_epochs", 3).startswith("another run is writing ")


def test_the_option_is_read_in_every_way_that_it_is_written():
    assert resuming.take_option(["--data.seed", "1"]) == (["--data.seed", "1"], None)
    assert resuming.take_option(["--resume"]) == ([], "")
    assert resuming.take_option(["--resume", "--data.seed", "1"]) == (["--data.seed", "1"], "")
    assert resuming.take_option(["--a", "1", "--resume", "run", "--b"]) == (["--a", "1", "--b"], "run")
    assert resuming.take_option(["--resume=best", "x"]) == (["x"], "best")
