"""What can be known before a long run: that its files, tokenizer, options and device are right, and that it learns.

`examine` makes the checks of a run, by the same code, and those that take too long for every start: each file is read
whole and compared with its record and with its columns, AutoTokenizer is compared with SentencePiece, and the model
learns a few samples by heart on the run's device, in its precision and with its attention. No run is left behind.
"""

import contextlib
import dataclasses
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from tqdm import tqdm

from bert_ja import encoding, files, hard_lines, memory, monitoring, parity, resuming, tokenization, training
from bert_ja.cli import StageError, say
from bert_ja.dataset import Batches, Columns
from bert_ja.pretraining import BertPretraining

OPTION = "--doctor"
AGAIN = "make it again with prepare_train_data.py"
# Of trainer: what decides on how a step is computed, and nothing else.
DEVICE = ("accelerator", "devices", "precision", "plugins", "deterministic", "benchmark")
QUIET = {
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"num_sanity_val_steps": 0, "limit_val_batches": 0, "use_distributed_sampler": False, "log_every_n_steps": 1},
}
MOST_SAMPLES, MOST_TOKENS = 8, 512  # learned by heart: a step of BERT base takes five seconds on one core
MOST_STEPS, MOST_SECONDS = 120, 600  # models from 16 to 768 wide needed 70 to 16
RATE_BY_WIDTH, WARM_UP = 0.1, 10  # learning rate: 1.3e-4 for a width of 768, 3e-3 for 32; steps
LEAST = 0.1  # nats; an MLM loss below it is learned, however little there was to learn


def take_option(arguments: list[str]) -> tuple[list[str], bool]:
    """(the other arguments, whether --doctor is among them)."""
    return [argument for argument in arguments if argument != OPTION], OPTION in arguments


class Findings:
    """One line a check on standard output, as soon as it is made, and what is wrong, for the end."""

    def __init__(self):
        self.good = self.left_out = 0
        self.problems: list[str] = []

    def ok(self, line: str) -> None:
        self.good += 1
        print(f"ok {line}", flush=True)

    def not_checked(self, line: str) -> None:
        self.left_out += 1
        print(f"not checked {line}", flush=True)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Take a StageError of the body down, once, and go on behind it."""
        try:
            yield
        except StageError as error:
            if str(error) not in self.problems:  # two checks may meet the same fault
                self.problems.append(str(error))
                print(f"wrong {error}", flush=True)


# Files


@contextlib.contextmanager
def hashing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A progress bar over a file, moved on by its blocks."""
    total = path.stat().st_size if path.is_file() else 0
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"hashing {path.name}", delay=1, leave=False) as bar:
        yield lambda block: bar.update(len(block))


def require_whole_samples(path: Path) -> int:
    """The samples of a JSONL whose every byte is as recorded. Raises StageError."""
    record = files.require_record(path, "prepare_train_data.py", training.OVERRIDE)
    outputs, recorded = record.get("outputs"), (record.get("counts") or {}).get("samples")
    if not outputs or recorded is None:
        raise StageError(f"{files.record_path(path)} is damaged (it lacks outputs or counts): {AGAIN}")
    by_name = {file["name"]: file for file in outputs}
    described = by_name.get(files.behind_link(path).name, outputs[0])  # renamed with its record
    lines = 0
    with hashing(path) as move:

        def count(block: bytes) -> None:
            nonlocal lines
            lines += block.count(b"\n")
            move(block)

        files.require_recorded(path, described, AGAIN, count)
    if lines != recorded:
        raise StageError(f"{path} has {lines:,} samples, its record says {recorded:,}: {AGAIN}")
    return lines


def check_samples(data: training.PretrainingData, findings: Findings) -> set[str]:
    """Compare each file of samples with its record, byte for byte; those that may be read on."""
    right = set()
    for part in ("train", "valid"):
        for path in data.shares[part]:
            with findings.collected():
                files.require_file(path, f"make it with prepare_train_data.py, or mend data.{part}_file")
                if data.ignore_records:
                    findings.not_checked(f"{path}: sha256 and number of samples (data.ignore_records is true)")
                else:
                    findings.ok(f"{path}: {require_whole_samples(Path(path)):,} samples, sha256 as recorded")
                right.add(path)
    return right


def check_folder(folder: Path, findings: Findings) -> None:
    """Compare every file of a folder that a record in it names, byte for byte; the tokenizer's record is the newer."""
    described = None
    with findings.collected():
        records = [files.read_record(folder), files.read_record(folder, files.TOKENIZER_RECORD)]
        described = {file["name"]: file for record in filter(None, records) for file in record.get("outputs", [])}
    if not described:
        if described is not None:
            findings.not_checked(f"{folder}: sha256 of its files (it has no record of them)")
        return
    before = len(findings.problems)
    for name, file in described.items():
        with findings.collected(), hashing(folder / name) as move:
            files.require_recorded(folder / name, file, "run the stage that wrote it again, or copy it again", move)
    if len(findings.problems) == before:
        findings.ok(f"{folder}: {', '.join(described)}, sha256 as recorded")


def check_columns(path: str, columns: Columns, findings: Findings) -> None:
    """Compare the columns that a run draws from with the file that they were made of, sample for sample."""
    with findings.collected():
        if line := columns.first_difference(path):
            raise StageError(
                f"{Columns.folder(path)} does not hold the samples of {path}, from about line {line:,} on: remove "
                "that folder, and the next run reads the file again"
            )
        findings.ok(f"{path}: its columns hold the same {len(columns):,} samples")


# Tokenizer


def check_tokenizer(data: training.PretrainingData, private: bool, findings: Findings) -> None:
    """Its special ids, and AutoTokenizer beside SentencePiece where the folder is ours."""
    path, vocabulary = data.tokenizer_model, data.vocabulary
    ids = {role: getattr(vocabulary, role) for role in tokenization.ROLES}
    known = [number for number in ids.values() if number >= 0]
    with findings.collected():
        if len(set(known)) < len(known) or max(known) >= vocabulary.size:
            told = ", ".join(f"{role} {number}" for role, number in ids.items())
            raise StageError(f"{path} has special pieces that are one or none ({told}): train it again")
        findings.ok(f"{path}: {vocabulary.size:,} pieces, " + ", ".join(f"{role} {ids[role]}" for role in ids))
    if not has_tokenizer_json(path):
        findings.not_checked(f"{path}: AutoTokenizer beside SentencePiece (not a folder of train_tokenizer.py)")
        return
    with findings.collected():
        spm = tokenization.load_sentencepiece(path)
        found = parity.check_parity(path, hard_lines.ADVERSARIAL_LINES, spm, "our own list", private)
        parity.require_parity(found, path)
        findings.ok(f"{path}: AutoTokenizer gives the ids of SentencePiece on {found.lines:,} difficult lines")


def has_tokenizer_json(path: str) -> bool:
    """Whether a folder has one, beside a SentencePiece model that it can be compared with."""
    return (Path(path) / tokenization.JSON_FILE).is_file() and tokenization.is_convertible(path)


# Learning


def label_entropy(labels: torch.Tensor) -> float:
    """Entropy of the labels of a batch, nats: the MLM loss of a model that knows how frequent they are in it."""
    share = labels.unique(return_counts=True)[1] / max(1, len(labels))
    return float(-(share * share.log()).sum())


def without_dropout(model: BertPretraining) -> None:
    """The attention of the run stays as it was chosen."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


class ByHeart(pl.Callback):
    """Ends a fit on one batch when its MLM loss is half of what it was and of `chance`, or after MOST_SECONDS."""

    def __init__(self, chance: float, what: str):
        self.chance, self.target, self.losses = chance, 0.0, []
        self._bar = tqdm(total=MOST_STEPS, unit=" steps", desc=f"learning {what} by heart", delay=1, leave=False)

    def on_train_start(self, trainer, pl_module) -> None:
        without_dropout(pl_module)  # behind MemoryTrial, which counts it

    @property
    def learned(self) -> bool:
        return bool(self.losses) and self.losses[-1] <= self.target

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = float(trainer.callback_metrics["train_mlm_loss"])
        if not self.losses:
            self.target, self._started = max(LEAST, min(self.chance, loss) / 2), time.monotonic()  # compiling is over
        self.losses.append(loss)
        self._bar.set_postfix_str(f"MLM loss {loss:.3f}, to be {self.target:.3f}", refresh=False)
        self._bar.update()
        trainer.should_stop = self.learned or time.monotonic() - self._started > MOST_SECONDS

    def teardown(self, trainer, pl_module, stage: str) -> None:
        self._bar.close()


def few(batches: Batches) -> Batches:
    """The first samples of the run, as many as MOST_SAMPLES and MOST_TOKENS allow, one at least, as one batch."""
    size = min(MOST_SAMPLES, batches.batch_size)
    drawn = dataclasses.replace(batches, batch_size=size, accumulate=1).draw(0, 0)
    fitting = int(np.count_nonzero(drawn["cu_seqlens"][1:] <= MOST_TOKENS))
    return dataclasses.replace(batches, batch_size=max(1, min(size, fitting)), accumulate=1)


@contextlib.contextmanager
def interruptions() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the doctor as they end any stage; out of a fit they come as SystemExit, also of 0."""
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit:
        raise KeyboardInterrupt from None


def learn(command: training.TrainingCLI, batches: Batches) -> ByHeart:
    """Fit the model of a run on a few samples, by its own step and optimizer; its weights are not those of a run after.

    The learning rate is one of ours: that of a run may rise for thousands of steps.
    """
    model, step = command.model, few(batches).step(0, 0)
    options = {"lr": RATE_BY_WIDTH / model.hparams.hidden_size, "num_warmup_steps": WARM_UP, "lr_schedule": "constant"}
    model.hparams.update(options | {"max_nonfinite_steps": MOST_STEPS + 1})
    labels = torch.cat([batch["mlm_labels"] for batch in step.micro_batches()])
    watch = ByHeart(label_entropy(labels), f"{step.counts.samples:,} samples")
    asked = command.config_init.trainer
    callbacks = [memory.MemoryTrial(batches), watch]
    trainer = pl.Trainer(**{name: asked[name] for name in DEVICE}, **QUIET, max_steps=MOST_STEPS, callbacks=callbacks)
    with training.one_line_failures(), interruptions(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
        trainer.fit(model, torch.utils.data.DataLoader([step] * MOST_STEPS, batch_size=None))
    return watch


def check_learning(command: training.TrainingCLI, batches: Batches, entropy: float, findings: Findings) -> None:
    with findings.collected():
        started, device = time.monotonic(), command.trainer.strategy.root_device
        watch, samples = learn(command, batches), few(batches).batch_size
        seconds, losses = time.monotonic() - started, watch.losses
        found = (
            f"{samples:,} samples on {device}: MLM loss {losses[0]:.3f} at first, {losses[-1]:.3f} after "
            f"{len(losses):,} steps in {seconds:.0f} s (without context {watch.chance:.3f} on these, {entropy:.3f} on "
            "all)"
        )
        if watch.learned:
            findings.ok(f"learns by heart, {found}")
        elif len(losses) < MOST_STEPS:
            findings.not_checked(f"learning: this device is too slow for it, {found}")
        else:
            raise StageError(
                f"the model does not learn by heart, {found}; {watch.target:.3f} were asked for, at a learning rate "
                "that is not the run's: most likely its precision or device computes wrongly (try --trainer.precision "
                "32-true, then --trainer.accelerator cpu), the labels are not those of the samples, or it is too small"
            )


# All of it


def require_one_device(trainer: pl.Trainer) -> None:
    if trainer.world_size > 1:
        raise StageError(
            f"{OPTION} checks one device, the run has {trainer.world_size:,}: pass --trainer.devices 1 "
            "--trainer.num_nodes 1, and start it without torchrun or srun"
        )


def check_run(command: training.TrainingCLI, before, ready: tuple, right: set[str], findings: Findings) -> None:
    """What needs all that `prepare` makes ready: plan, attention, columns, a sample to be read, and learning."""
    (plan, entropy, attention), model, data = ready, command.model, command.datamodule
    for line in (*plan.lines(), attention):
        findings.ok(line)
    for part in ("train", "valid"):
        for path, columns in zip(
            data.shares[part], data.columns(part, model.hparams.max_position_embeddings), strict=True
        ):
            if path in right:
                check_columns(path, columns, findings)
    command.trainer.strategy.connect(model)  # as Lightning does, later
    batches = data.batches()
    if not files.corpus_facts(model.provenance)["private"]:
        say(monitoring.first_sample(batches, (0, 0, 0), encoding.open_encoder(data.tokenizer_model)))
    if before:
        training.load_weights(model, before.path, before.content)
    check_learning(command, batches, entropy, findings)


def examine(
    command: training.TrainingCLI,
    before: resuming.Checkpoint | None,
    prepare: Callable[[training.TrainingCLI, resuming.Checkpoint | None], tuple],
) -> None:
    """Make all checks of a run, `prepare` those that it makes itself; `before` is what it would go on from.

    Raises StageError that names all that is wrong.
    """
    started, findings, data = time.monotonic(), Findings(), command.datamodule
    require_one_device(command.trainer)
    right = check_samples(data, findings)
    folders = [tokenization.record_folder(data.tokenizer_model), command.model.from_pretrained]
    for folder in dict.fromkeys(Path(folder) for folder in folders if folder is not None):
        check_folder(folder, findings)
    with findings.collected():
        check_tokenizer(data, data.is_private(), findings)
    ready = None
    with findings.collected():
        ready = prepare(command, before)
    if ready:
        with findings.collected():
            check_run(command, before, ready, right, findings)
    else:
        findings.not_checked("learning: what is wrong comes first")
    if findings.problems:
        raise StageError("; ".join(findings.problems))
    left_out = f", {findings.left_out:,} could not be made" if findings.left_out else ""
    print(f"all is well: {findings.good:,} checks{left_out}, in {time.monotonic() - started:.0f} s", flush=True)
