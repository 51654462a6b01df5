"""Going on with a run that was ended: which checkpoint, whether it is the same run, and where it stood.

A checkpoint is written between two optimizer steps, and what it says of the data is how many samples were drawn: so
micro-batches, worker processes and devices may be others, and the steps that follow are the same.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from bert_ja import files, training
from bert_ja.cli import StageError, rank, say

OPTION = "--resume"
ABANDONED = "abandoned"  # folder beside the checkpoints that a run no longer goes on from
# Options of the model that change neither what is learned nor from what.
FREE = {"attention_backend", "packed", "compile", "cuda_graphs", "max_nonfinite_steps"}
# What a checkpoint says of a run -> what the option is called.
SETTINGS = {
    "samples_per_step": "data.batch_size x trainer.accumulate_grad_batches x devices",
    "gradient_clip_val": "trainer.gradient_clip_val",
    "data_seed": "data.seed",
    "mlm_probability": "data.mlm_probability",
    "mlm_probability_end": "data.mlm_probability_end",
    "mask_replace_prob": "data.mask_replace_prob",
    "random_replace_prob": "data.random_replace_prob",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that a run goes on from."""

    path: Path
    content: dict

    @property
    def run(self) -> Path:
        return self.path.absolute().parent.parent

    @property
    def steps(self) -> int:
        return self.content["global_step"]


# Which checkpoint


def take_option(arguments: list[str]) -> tuple[list[str], str | None]:
    """(the other arguments, what --resume asks for): "" for the newest run, None where there is no --resume."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != OPTION:
            continue
        rest = arguments[at + 1 :]
        if not equals and rest and not rest[0].startswith("-"):
            value, rest = rest[0], rest[1:]
        return arguments[:at] + rest, value
    return arguments, None


def newest_checkpoint(run: Path) -> Path:
    """The checkpoint of a run with the most steps; one that cannot be read is named and passed over."""
    steps = {}
    for path in sorted((run / "checkpoints").glob("*.ckpt")):
        try:
            steps[path] = training.load_checkpoint(path)["global_step"]
        except StageError as error:
            say(f"passed over: {error}")
    if not steps:
        raise StageError(f"{run} holds no checkpoint to go on from: start again without {OPTION}, or name another run")
    return max(steps, key=steps.get)


def find(asked: str) -> Checkpoint:
    """The checkpoint that `--resume` means: a file, `best`, `last`, or the newest of a run's folder or of all runs."""
    if asked in ("best", "last"):
        path = training.find_checkpoint(asked)
    elif asked and not Path(asked).is_dir():
        path = files.require_file(asked, "name a checkpoint file, a run folder, best or last")
    else:
        path = newest_checkpoint(Path(asked) if asked else training.newest_run())
    content = training.load_checkpoint(path)
    if "consumed_samples" not in content:
        raise StageError(f"{path} does not say how many samples were drawn: it is of an older version, start a new run")
    if path.absolute().parent.name != "checkpoints":
        raise StageError(f"{path} stands in no run (RUN/checkpoints/...): a copy of it can be tested, not gone on from")
    return Checkpoint(path, content)


# Whether it is the same run


def _differences(checkpoint: dict, model: dict, facts: dict) -> Iterator[str]:
    trained = checkpoint["hyper_parameters"]
    for name in sorted(set(model) & set(trained) - FREE):
        if model[name] != trained[name]:
            yield f"model.{name} was {trained[name]!r} and is {model[name]!r}"
    before, now = {"mlm_probability_end": None} | checkpoint["provenance"].get("settings", {}), facts["settings"]
    for name, option in SETTINGS.items():
        if name in before and before[name] != now[name]:
            yield f"{option} was {before[name]!r} and is {now[name]!r}"
    before, now = checkpoint["provenance"].get("samples", {}), facts["samples"]
    for part in sorted({"train", "valid"} & set(before)):
        if before[part] != now.get(part):
            yield f"data.{part}_file holds other samples"
    if checkpoint["provenance"].get("shares") != facts["shares"]:
        yield "the shares of data.train_file are others"


def require_same_run(checkpoint: Checkpoint, model: pl.LightningModule, facts: dict) -> None:
    """Refuse, by name, what would make another run of it: an option of the model or of its schedule, other samples.

    Files are compared by what they hold and not by where they are. `facts` are the provenance of the run as it is now.
    """
    if found := list(_differences(checkpoint.content, dict(model.hparams), facts)):
        raise StageError(
            f"{checkpoint.run} cannot go on with other options ({'; '.join(found)}): leave them as they were, or start "
            f"a new run without {OPTION}"
        )


def command(checkpoint: Checkpoint, arguments: list[str]) -> training.TrainingCLI:
    """The command line of a run that goes on, in its folder, with its configuration unless the line names one."""
    if not training.config_paths(arguments):
        own = training.find_config(None, checkpoint.path.absolute())
        arguments = ["--config", str(own), *arguments]
    return training.TrainingCLI(
        arguments, checkpoint.content, save_config_callback=None, trainer_options={"logger": logger_of(checkpoint)}
    )


def put_newer_aside(checkpoint: Checkpoint) -> None:
    """Move the checkpoints of a run that have more steps than the one that it goes on from."""
    aside = checkpoint.path.parent / ABANDONED
    for path in sorted(checkpoint.path.parent.glob("*.ckpt")):
        with contextlib.suppress(StageError):
            if training.load_checkpoint(path)["global_step"] <= checkpoint.steps:
                continue
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / path.name)
            say(f"{path} is newer than {checkpoint.path.name}: moved to {aside}")


# Where it stood


def logger_of(checkpoint: Checkpoint) -> TensorBoardLogger:
    """The logger of the run's own folder; events behind the checkpoint, of steps that are taken anew, are dropped."""
    run = checkpoint.run
    return TensorBoardLogger(run.parent.parent, run.parent.name, run.name, purge_step=checkpoint.steps)


def go_on(
    checkpoint: Checkpoint, trainer: pl.Trainer, model: pl.LightningModule, data: training.PretrainingData
) -> None:
    """Make ready for `Trainer.fit` with the checkpoint: checks, and the place in the data; writes nothing."""
    require_same_run(checkpoint, model, model.provenance)
    data.go_on(checkpoint.content["consumed_samples"])
    due = checkpoint.content["validation_due"]
    epoch, done = data.place(due)
    if (checkpoint.steps >= trainer.max_steps >= 0 and not due) or epoch >= (trainer.max_epochs or -1) >= 0:
        raise StageError(
            f"{checkpoint.run} has its {checkpoint.steps:,} optimizer steps already: raise trainer.max_steps or "
            "trainer.max_epochs to go on"
        )
    at = f"step {checkpoint.steps:,}, epoch {epoch}, {done:,} steps of it done"
    say(f"going on from {checkpoint.path}: {at}{', the validation behind it is to be done' if due else ''}")


def require_new(run: Path | str) -> None:
    """Refuse to begin in the folder of a run, as a job does that Slurm starts again under its number."""
    if (Path(run) / "config.yaml").exists():
        saved = any((Path(run) / "checkpoints").glob("*.ckpt"))
        way = f"go on with it by {OPTION} {run}" if saved else "it has no checkpoint, remove that folder"
        raise StageError(f"{run} holds a run already: {way}")


# Ended from outside


@contextlib.contextmanager
def alone_in(trainer: pl.Trainer) -> Iterator[None]:
    """Refuse a second process that writes to the folder of a run; of several devices, the first one writes."""
    with contextlib.ExitStack() as held:
        if trainer.is_global_zero:
            Path(trainer.log_dir).mkdir(parents=True, exist_ok=True)
            held.enter_context(files.locked(Path(trainer.log_dir)))
        yield


@contextlib.contextmanager
def full_disks(run: Path | str) -> Iterator[None]:
    """Say of a disk that is full how the run goes on. TensorBoard's thread, which meets it first, says nothing."""

    def quiet(failure) -> None:
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    before, threading.excepthook = threading.excepthook, quiet
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and any((Path(run) / "checkpoints").glob("*.ckpt")):
            raise StageError(
                f"the disk is full: free some space, then trainer.py {OPTION} {os.path.relpath(run)} goes on"
            ) from None
        raise
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def interruptions(run: Path | str) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end a run after the step under way, with a checkpoint; a second Ctrl-C ends it at once.

    Exits with 143 or 130, as a shell says it of a process that these signals ended.
    """
    received = [signal.SIGTERM]

    def interrupt(number: int, frame: object) -> None:
        received.append(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("ending after this step with a checkpoint; Ctrl-C again ends at once, without one")
        os.kill(os.getpid(), signal.SIGTERM)  # which Lightning handles between two steps

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except SIGTERMException:
        say(f"ended by {received[-1].name}: trainer.py {OPTION} {os.path.relpath(run)} goes on")
        # Of several processes the first one says so; whoever started them must not end it before.
        raise SystemExit(0 if rank() else 128 + received[-1]) from None
    finally:
        signal.signal(signal.SIGINT, before)
