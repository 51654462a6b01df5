"""The training command line: data module, LightningCLI, checks of agreement, and where checkpoints are found.

Everything that the files of a run must agree on (tokenizer, vocabulary, longest sample) is read from their records and
checked here, before a model is built.
"""

import argparse
import contextlib
import errno
import inspect
import logging
import math
import os
import re
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from transformers.activations import ACT2FN

from bert_ja import cli, continuing, devices, files, loss_curve, monitoring, samples, tokenization
from bert_ja.callbacks import EndTogether, ModelCheckpoint, ProgressBar, Resumption, WholeCheckpointIO
from bert_ja.cli import StageError
from bert_ja.dataset import Batches, Columns, EpochSampler, StepDataset
from bert_ja.masking import FallingRate, MaskingRule
from bert_ja.pretraining import ATTENTION, OPTIMIZERS, SCHEDULES, BertPretraining

RUNS = Path("lightning_logs")
HELD = 4  # optimizer steps at once that a run holds: under way, looked ahead at, on a device and before it
OVERRIDE = "--data.ignore_records true"
DESCRIPTION = (
    "Train BERT: masked LM and next sentence. trainer.py --resume [RUN] goes on with a run (the newest, or its folder, "
    "a checkpoint file, best or last) in that run's folder, with that run's configuration unless --config is given. "
    "trainer.py --doctor, with the options of a run, makes all its checks and some that take longer, learns a few "
    "samples by heart, and writes no run."
)


# Data


class PretrainingData(pl.LightningDataModule):
    """Samples of prepare_train_data.py, as packed batches.

    Args:
        tokenizer_model: Folder of the tokenizer that the samples were made with.
        train_file: Samples to train on, JSON lines, masked anew in each epoch. Several files with the shares that are
            drawn from each: {data/train.jsonl: 0.7, data/hospital/train.jsonl: 0.3}.
        valid_file: Samples of the validation, with labels (--get_raw True). Several files are measured together and
            each under its name, {wikipedia: data/valid.jsonl, hospital: data/hospital/valid.jsonl}; in a list, that
            is the file's own without suffix.
        test_file: Samples of test.py, with labels (--get_raw True).
        batch_size: Samples a batch on each device; times trainer.accumulate_grad_batches and the devices, samples an
            optimizer step.
        num_workers: Processes that build batches ahead; 0 builds them in the training process.
        seed: Number that fixes the order of the samples and their masks.
        mlm_probability: Share of a sample's tokens that are selected.
        mlm_probability_end: That share at the last optimizer step, where it changes from step to step, linearly, from
            mlm_probability at the first one; the same all along when not given.
        mask_replace_prob: Share of the selected tokens that become [MASK].
        random_replace_prob: Share of the selected tokens that become a random token; the others stay.
        ignore_records: True takes samples without a record, or of another size than it says.
        private_corpus: True keeps every piece of the text out of what this and all later stages print and record;
            when not given, what the records of the samples and of the tokenizer say.
        prompts: Sentences with one [MASK] each, whose five likeliest fillings TensorBoard shows at each validation.
    """

    def __init__(
        self,
        tokenizer_model: str | None = None,
        train_file: str | dict[str, float] | None = None,
        valid_file: str | list[str] | dict[str, str] | None = None,
        test_file: str | None = None,
        batch_size: int = 32,
        num_workers: int = 1,
        seed: int = 1000,
        mlm_probability: float = 0.15,
        mlm_probability_end: float | None = None,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        ignore_records: bool = False,
        private_corpus: bool | None = None,
        prompts: list[str] = monitoring.PROMPTS,
    ):
        super().__init__()
        self.tokenizer_model, self.batch_size, self.num_workers, self.seed = (
            tokenizer_model,
            batch_size,
            num_workers,
            seed,
        )
        self.valid_names = named_files("data.valid_file", valid_file)
        self.shares = {
            "train": files_with_shares("data.train_file", train_file),
            "valid": dict.fromkeys(self.valid_names.values(), 1.0),
            "test": files_with_shares("data.test_file", test_file),
        }
        self.ignore_records, self.private_corpus = ignore_records, private_corpus
        self.accumulate = 1  # batches an optimizer step, trainer.accumulate_grad_batches
        self.consumed = 0  # samples that an earlier part of the run trained on
        self.rule = MaskingRule(mlm_probability, mask_replace_prob, random_replace_prob)
        self.mlm_probability_end = mlm_probability_end
        self.steps: int | None = None  # optimizer steps of the run; see `plan_masks`
        if tokenizer_model is None:
            raise StageError("data.tokenizer_model is not set: name the folder that train_tokenizer.py wrote")
        if batch_size < 1 or num_workers < 0:
            raise StageError(
                f"data.batch_size must be 1 or more and data.num_workers 0 or more, got {batch_size} and {num_workers}"
            )
        problems = self.rule.problems("data.") | {
            f"data.mlm_probability_end must lie between 0 and 1, got {mlm_probability_end}": (
                mlm_probability_end is None or 0 < mlm_probability_end < 1
            )
        }
        if wrong := [problem for problem, right in problems.items() if not right]:
            raise StageError("; ".join(wrong))
        self.prompts = prompts
        monitoring.require_prompts(prompts)
        self.vocabulary = tokenization.vocabulary(tokenizer_model, self.is_private())
        self._columns: dict[str, list[Columns]] = {}
        self.records: dict[str, list[dict | None]] = {}

    def require(self, part: str, longest: int) -> list[Path]:
        """The files of a part (train, valid, test) after all checks that need no reading of samples."""
        if not self.shares[part]:
            raise StageError(f"data.{part}_file is not set: name the JSONL that prepare_train_data.py wrote")
        mend = f"make it with prepare_train_data.py, or mend data.{part}_file"
        paths = [files.require_file(path, mend) for path in self.shares[part]]
        self.is_private(*paths)  # refuses a contradiction
        self.records[part] = [self._require_record(path, part, longest) for path in paths]
        self._require_one_objective()
        return paths

    def _require_one_objective(self) -> None:
        """Refuse files whose labels mean different things."""
        objectives = {
            path: record["options"].get("objective", "nsp")
            for part, records in self.records.items()
            for path, record in zip(self.shares[part], records, strict=True)
            if record
        }
        if len(set(objectives.values())) > 1:
            made = ", ".join(f"{path} with {objective}" for path, objective in objectives.items())
            raise StageError(f"samples of one run must have one --objective: {made}")

    def _require_record(self, path: Path, part: str, longest: int) -> dict | None:
        if self.ignore_records:
            return None
        record = files.require_record(path, "prepare_train_data.py", OVERRIDE)
        made_with = record["tokenizer"]
        if made_with["sha256"] != self.vocabulary.sha256:
            raise StageError(
                f"{path} was made with another tokenizer (vocabulary {made_with['vocab_size']:,}, sha256 "
                f"{made_with['sha256'][:12]}) than {self.tokenizer_model} (vocabulary {self.vocabulary.size:,}, sha256 "
                f"{self.vocabulary.sha256[:12]}): make the samples again, or mend data.tokenizer_model"
            )
        require_fits(path, record["longest_sample"], longest)
        require_labels(path, part, record["options"]["get_raw"])
        return record

    def is_private(self, *samples: Path | str) -> bool:
        """Whether the tokenizer or one of these files is of a private corpus, as a record or data.private_corpus says.

        Raises StageError where the two disagree.
        """
        tokenizer = tokenization.record_folder(self.tokenizer_model)
        return files.is_private(tokenizer, *samples, asked=self.private_corpus)

    def corpus(self, part: str, private: bool = False) -> dict:
        """What is known of the texts of a part; private when `private`, or when any part that was required is."""
        private = private or self.is_private(*(path for name in self.records for path in self.shares[name]))
        found = [files.corpus_facts(record, private) for record in self.records[part]]
        return files.merged_corpora(found, list(self.shares[part].values()))

    def history(self) -> list[dict]:
        """The records of all that the tokenizer and the samples of the parts that were required were made from."""
        read = [path for part in sorted(self.records) for path in self.shares[part]]
        return files.history(*read, tokenization.record_folder(self.tokenizer_model))

    def columns(self, part: str, longest: int) -> list[Columns]:
        """The columns of each file of a part, built where they do not exist yet."""
        if part not in self._columns:
            paths = self.require(part, longest)
            opened = [Columns.open(path, record) for path, record in zip(paths, self.records[part], strict=True)]
            for path, columns in zip(paths, opened, strict=True):
                self._require_columns(path, part, columns, longest)
            for option, kinds in (
                ("--objective none", {columns.paired for columns in opened}),
                ("--whole_word_mask", {columns.whole_words for columns in opened}),
            ):
                if len(kinds) > 1:
                    raise StageError(
                        f"data.{part}_file: {' and '.join(map(str, paths))} were made with and without {option}: make "
                        "all of them one way"
                    )
            self._columns[part] = opened
        return self._columns[part]

    def _require_columns(self, path: Path, part: str, columns: Columns, longest: int) -> None:
        require_fits(path, columns.longest, longest)
        require_labels(path, part, columns.masked)
        if columns.largest_id >= self.vocabulary.size:
            raise StageError(
                f"{path} holds token id {columns.largest_id:,}, the vocabulary of {self.tokenizer_model} has "
                f"{self.vocabulary.size:,}: it was made with another tokenizer, make it again"
            )

    def _samples(self, part: str) -> list[Columns]:
        options = self.trainer.lightning_module.hparams
        columns = self.columns(part, options.max_position_embeddings)
        require_types(list(self.shares[part]), columns, options.type_vocab_size)
        return columns

    def plan_masks(self, steps: int | None) -> None:
        """Take the optimizer steps of the run (None: without an end) for a masking rate that changes with them.

        Raises StageError where it cannot change: in a run without an end, in samples that are masked already.
        """
        self.steps = steps
        if self.mlm_probability_end is None:
            return
        if steps is None:
            raise StageError("data.mlm_probability_end needs a last step: set trainer.max_steps or trainer.max_epochs")
        for path, columns in zip(self.shares["train"], self._columns["train"], strict=True):
            if columns.masked:
                raise StageError(
                    f"{path} is masked once and for all, so data.mlm_probability_end would change nothing: make it "
                    "with --get_raw False, or leave that key out"
                )

    def falling_rate(self) -> FallingRate | None:
        """The masking rate of a run whose steps are known, None where it stays the same."""
        if self.mlm_probability_end is None:
            return None
        return FallingRate(self.rule.mlm_probability, self.mlm_probability_end, self.steps, self.steps_per_epoch())

    def batches(self) -> Batches:
        """The training batches."""
        return self._loader(self._samples("train"), list(self.shares["train"].values()), shuffle=True).dataset.batches

    def _loader(self, columns: list[Columns], shares: list[float], shuffle: bool) -> torch.utils.data.DataLoader:
        batches = Batches(
            columns,
            self.vocabulary,
            self.batch_size,
            self.seed,
            shuffle,
            self.accumulate if shuffle else 1,
            self.rule,
            shares=shares,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            in_rows=self.trainer.lightning_module.backend == "rows",
            falling=self.falling_rate() if shuffle else None,
        )
        sampler = EpochSampler(batches)
        if shuffle:
            sampler.go_on(self.consumed)
        return StepLoader(
            StepDataset(batches),
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0 and shuffle,
            generator=torch.Generator(),  # or it takes a number from the one of the model
            worker_init_fn=outlive_signals,
            # The columns go to a forked worker as they are, mapped; from Python 3.14 on, the default copies them.
            multiprocessing_context="fork" if self.num_workers else None,
        )

    def size(self, part: str) -> tuple[int, int]:
        """(samples, tokens) of a part whose columns are open, all files together."""
        columns = self._columns[part]
        return sum(map(len, columns)), sum(len(each.ids) for each in columns)

    def samples_per_step(self) -> int:
        """Samples of an optimizer step, on all ranks together."""
        return self.batch_size * self.accumulate * self.trainer.world_size

    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, as Batches counts them, or what trainer.limit_train_batches leaves of them."""
        limit, ranks = self.trainer.limit_train_batches, self.trainer.world_size
        whole, rest = divmod(self.size("train")[0], self.batch_size * ranks)
        steps = -(-(whole + (rest >= ranks)) // self.accumulate)
        return min(steps, limit) if isinstance(limit, int) else int(steps * limit)

    def go_on(self, consumed: int) -> None:
        """Let training begin behind so many samples, counted over all epochs; the columns are there already."""
        samples = self.size("train")[0]
        epoch, within = divmod(consumed, samples)
        if within >= self.steps_per_epoch() * self.samples_per_step():  # trainer.limit_train_batches ended the epoch
            epoch, within = epoch + 1, 0
        self.consumed = epoch * samples + within

    def place(self, before: bool = False) -> tuple[int, int]:
        """(epoch, optimizer steps done in it) where training begins; between two epochs, `before` means the earlier."""
        epoch, within = divmod(self.consumed, self.size("train")[0])
        if before and not within:
            return epoch - 1, self.steps_per_epoch()
        return epoch, -(-within // self.samples_per_step())

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return self._loader(self._samples("train"), list(self.shares["train"].values()), shuffle=True)

    def val_dataloader(self) -> list[torch.utils.data.DataLoader]:
        return [self._loader([columns], [1.0], shuffle=False) for columns in self._samples("valid")]

    def test_dataloader(self) -> torch.utils.data.DataLoader:
        return self._loader(self._samples("test"), [1.0], shuffle=False)


class StepLoader(torch.utils.data.DataLoader):
    """A loader of optimizer steps whose length is that of a whole epoch, also where it goes on in the middle of one."""

    def __len__(self) -> int:
        return self.sampler.done + super().__len__()

    def __iter__(self):
        """Steps of an epoch; its processes, where new ones begin, hand them over in memory of their own."""
        if not self.num_workers or (self.persistent_workers and self._iterator is not None):
            return super().__iter__()
        on_the_way = self.num_workers * self.prefetch_factor
        handover = self.dataset.handover = self.sampler.handover = self.dataset.new_handover(on_the_way + HELD)
        steps = super().__iter__()
        steps.handover = handover  # as long as steps may arrive
        return steps


def outlive_signals(worker: int) -> None:
    """A process that builds batches lives on when SIGTERM or Ctrl-C reaches all of a run: the step under way needs it.

    It ends with the loader, or a minute later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(60))


def files_with_shares(name: str, given: str | dict[str, float] | None) -> dict[str, float]:
    """The files of an option with their shares: one file has them all, none is {}."""
    if given is None:
        return {}
    if isinstance(given, str):
        return {given: 1.0}
    if not given or not all(0 < share < math.inf for share in given.values()):
        raise StageError(f"{name} must be a file, or files with shares above 0 ({{a.jsonl: 0.7, b.jsonl: 0.3}})")
    return given


def named_files(option: str, given: str | list[str] | dict[str, str] | None) -> dict[str, str]:
    """The files of an option by their names: ["data/valid.jsonl"] -> {"valid": "data/valid.jsonl"}; none is {}.

    Raises StageError where two have one name, or one file has two.
    """
    if given is None:
        return {}
    files_given = [given] if isinstance(given, str) else given
    named = list(files_given.items()) if isinstance(given, dict) else [(Path(file).stem, file) for file in files_given]
    names, paths = [str(name) for name, _ in named], [path for _, path in named]
    if not paths or not all(names) or not all(paths):
        raise StageError(f"{option} must be a file, a list of files, or files by their names ({{a: a.jsonl}})")
    if twice := [path for path in paths if list(map(os.path.realpath, paths)).count(os.path.realpath(path)) > 1]:
        raise StageError(f"{option} has {twice[0]} twice: name each file once")
    if twice := [name for name in names if names.count(name) > 1]:
        same = " and ".join(path for name, path in zip(names, paths, strict=True) if name == twice[0])
        raise StageError(
            f"{option}: {same} would both be called {twice[0]}: give them names ({{one: {paths[0]}, other: ...}})"
        )
    return dict(zip(names, paths, strict=True))


def require_fits(path: Path, longest_sample: int, positions: int) -> None:
    if longest_sample > positions:
        raise StageError(
            f"{path} holds a sample of {longest_sample:,} tokens, the model reads {positions:,} "
            "(model.max_position_embeddings): raise that, or make the samples with a smaller --max_seq_len"
        )


def require_types(paths: list[str], columns: list[Columns], types: int) -> None:
    if types < 2 and columns[0].paired:
        raise StageError(
            f"{' and '.join(paths)}: pairs have two token types, the model has {types} (model.type_vocab_size): "
            "make the samples with --objective none"
        )


def require_labels(path: Path, part: str, masked: bool) -> None:
    if part != "train" and not masked:
        raise StageError(f"{path} has no labels, so its loss would change with every pass: make it with --get_raw True")


def require_shareable(trainer: pl.Trainer, paths: list[str], columns: list[Columns]) -> None:
    """Refuse a validation file that leaves a device without samples."""
    for path, count in zip(paths, map(len, columns), strict=True):
        if count < trainer.world_size:
            raise StageError(
                f"{path} has {count:,} samples, and {trainer.world_size:,} devices share them: name a larger file, "
                "or train on fewer devices"
            )


def require_monitor(trainer: pl.Trainer, columns: list[Columns]) -> None:
    """Refuse checkpoints by a metric that samples without a second task do not have."""
    for callback in trainer.checkpoint_callbacks:
        monitor = (getattr(callback, "monitor", None) or "").partition("/")[0]  # "/" and a name: of one file
        if "nsp" in monitor and not columns[0].paired:
            raise StageError(
                f"the checkpoints monitor {monitor}, which samples of --objective none do not have: monitor val_loss"
            )


def require_steps(trainer: pl.Trainer, model: BertPretraining, steps: int | None) -> None:
    """Refuse a schedule, and checkpoints, that a run of so many optimizer steps (None: without an end) cannot have."""
    most = math.inf if steps is None else steps
    model.require_schedule(most)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.require_possible(model.monitored, most)


def kept_checkpoints(trainer: pl.Trainer) -> int:
    """How many checkpoints of a run stand on the disk at once."""
    return sum(getattr(callback, "kept", 2) for callback in trainer.checkpoint_callbacks)


# Configurations of the published kind

RENAMED = {
    "trainer.gpus": "trainer.accelerator: gpu and trainer.devices: N",
    "trainer.tpu_cores": "trainer.accelerator: tpu and trainer.devices: N",
    "trainer.num_processes": "trainer.devices",
    "trainer.auto_select_gpus": None,
    "trainer.checkpoint_callback": "trainer.enable_checkpointing",
    "trainer.progress_bar_refresh_rate": "trainer.enable_progress_bar",
    "trainer.weights_summary": "trainer.enable_model_summary",
    "trainer.resume_from_checkpoint": None,
    "trainer.replace_sampler_ddp": "trainer.use_distributed_sampler",
    "trainer.reload_dataloaders_every_epoch": "trainer.reload_dataloaders_every_n_epochs",
    "trainer.weights_save_path": "trainer.default_root_dir",
    "trainer.stochastic_weight_avg": None,
    "trainer.terminate_on_nan": "trainer.detect_anomaly",
    "model.shuffle_buffer_size": None,
    "data.shuffle_buffer_size": None,
}
MOVED = ("tokenizer_model", "train_file", "valid_file", "test_file", "batch_size", "num_workers")
WHOLE_FILE = "remove it, every epoch shuffles the whole file"


def _options(function) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def _sentence(key: str, new: str | None) -> str:
    if key.endswith("shuffle_buffer_size"):
        return f"{key}: {WHOLE_FILE}"
    return f"{key}: now {new}" if new else f"{key}: remove it, it no longer exists"


def _callback_changes(callbacks) -> list[str]:
    changes = []
    for callback in callbacks if isinstance(callbacks, list) else []:
        name = callback.get("class_path", "") if isinstance(callback, dict) else str(callback)
        arguments = callback.get("init_args") or {} if isinstance(callback, dict) else {}
        if name.endswith("GPUStatsMonitor"):
            changes.append("callback GPUStatsMonitor: now pytorch_lightning.callbacks.DeviceStatsMonitor")
        if name == "pytorch_lightning.callbacks.ModelCheckpoint" and (
            arguments.get("monitor") and arguments.get("every_n_train_steps")
        ):
            changes.append(
                "callback pytorch_lightning.callbacks.ModelCheckpoint with monitor and every_n_train_steps (saves "
                "under an earlier step's metric): now bert_ja.callbacks.ModelCheckpoint"
            )
    return changes


def outdated_keys(config: dict) -> list[str]:
    """What has to change in a configuration of the published kind, one phrase a key: `trainer.gpus: now ...`."""
    options, changes = _options(pl.Trainer.__init__), []
    for section in ("trainer", "model", "data"):
        values = config.get(section)
        for name in values if isinstance(values, dict) else []:
            key = f"{section}.{name}"
            if key == "trainer.accelerator" and values[name] is None:
                changes.append(f"{key}: null is no longer a value, now cpu, gpu or auto")
            if section == "model" and name in MOVED:
                changes.append(f"{key}: now data.{name}")
            elif key in RENAMED or (section == "trainer" and name not in options):
                changes.append(_sentence(key, RENAMED.get(key)))
    return changes + _callback_changes((config.get("trainer") or {}).get("callbacks"))


def repeated_key(text: str) -> str | None:
    """A key that a mapping in this YAML has twice, where the last one would win silently: "{a: 1, a: 2}" -> "a"."""
    try:
        nodes = [yaml.compose(text, yaml.SafeLoader)]
    except yaml.YAMLError:
        return None
    for node in nodes:  # which grows
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            return twice[0]
        nodes += [value for _, value in pairs]
        nodes += node.value if isinstance(node, yaml.SequenceNode) else []
    return None


def read_config(path: str | Path) -> dict:
    """A YAML configuration as a dict. Raises StageError when it is missing, broken or of the published kind."""
    path = files.require_file(path, "make one with python3 trainer.py --print_config > config.yaml")
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise StageError(f"{path} is not YAML{where}: mend it, or start from trainer.py --print_config") from None
    if not isinstance(config, dict):
        raise StageError(f"{path} is not a configuration (sections trainer, model, data): start from --print_config")
    if key := repeated_key(text):
        raise StageError(f"{path} has {key} twice in one place, and only the last would count: remove one")
    empty = [name for name in ("trainer", "model", "data") if not isinstance(config.get(name, {}), dict)]
    if empty:
        raise StageError(f"{path}: {', '.join(empty)} must hold options, one a line: start from --print_config")
    if changes := outdated_keys(config):
        raise StageError(f"{path} is written for an older pytorch-lightning or layout; change " + "; ".join(changes))
    return config


def config_paths(argv: list[str]) -> list[str]:
    """The files that `--config FILE`, `--config=FILE` or `-c FILE` name on a command line."""
    pairs = zip(argv, [*argv, ""][1:], strict=True)
    apart = [value for flag, value in pairs if flag in ("--config", "-c")]
    return apart + [flag.partition("=")[2] for flag in argv if flag.startswith("--config=")]


# Command line


class TrainingCLI(LightningCLI):
    """LightningCLI for pre-training: `model:`, `data:`, `trainer:`, errors of one sentence, whole checkpoints.

    With a `checkpoint` that is to be tested, exported or resumed, the folder of model.from_pretrained is not read.
    """

    def __init__(self, args: list[str], checkpoint: dict | None = None, trainer_options: dict | None = None, **options):
        self.checkpoint, self.trainer_options = checkpoint, trainer_options or {}
        for path in config_paths(args):
            read_config(path)
        for word in args:
            if "{" in word and (key := repeated_key(word.partition("=")[2] if word.startswith("--") else word)):
                raise StageError(f"{word} has {key} twice, and only the last would count: remove one")
        try:
            super().__init__(
                BertPretraining,
                PretrainingData,
                args=args,
                run=False,
                auto_configure_optimizers=False,
                trainer_defaults={"use_distributed_sampler": False, "callbacks": [Resumption(), EndTogether()]},
                parser_kwargs={"exit_on_error": False, "description": DESCRIPTION},
                **options,
            )
        except argparse.ArgumentError as error:
            raise StageError(one_sentence(str(error))) from None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--val_every_n_steps",
            type=int | None,
            default=None,
            help="Optimizer steps from one validation to the next, over all epochs; each saves a checkpoint. Instead "
            "of trainer.val_check_interval and trainer.check_val_every_n_epoch.",
        )
        parser.link_arguments("data.vocabulary", "model.vocab_size", lambda v: v.size, apply_on="instantiate")
        parser.link_arguments("data.vocabulary", "model.pad_token_id", lambda v: v.pad, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        super().parse_arguments(parser, args)
        continues = self.config.model.from_pretrained is not None
        self.given = parser.parse_args(args, defaults=False).model if continues else {}  # what stands in args alone

    def before_instantiate_classes(self) -> None:
        model = self.config.model
        continuing.settle(model, self.given, self.checkpoint)
        problems = []
        choices = {"optimizer": OPTIMIZERS, "lr_schedule": SCHEDULES, "attention_backend": ATTENTION}
        for name, allowed in choices.items():
            if model[name] not in allowed:
                problems.append(f"model.{name} must be one of {', '.join(allowed)}, got {model[name]!r}")
        for name in (*continuing.SIZES, "max_nonfinite_steps"):
            if model[name] is not None and model[name] < 1:
                problems.append(f"model.{name} must be 1 or more, got {model[name]}")
        if model.hidden_act not in ACT2FN:
            problems.append(
                f"model.hidden_act must be an activation of transformers, as gelu, got {model.hidden_act!r}"
            )
        if model.layer_norm_eps <= 0:
            problems.append(f"model.layer_norm_eps must be above 0, got {model.layer_norm_eps}")
        for name in ("num_warmup_steps", "weight_decay"):
            if model[name] < 0:
                problems.append(f"model.{name} must be 0 or more, got {model[name]}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= model[name] < 1:
                problems.append(f"model.{name} must be 0 or more and below 1, got {model[name]}")
        if model.lr <= 0:
            problems.append(f"model.lr must be above 0, got {model.lr}")
        if self.config.trainer.accumulate_grad_batches < 1:
            problems.append(
                f"trainer.accumulate_grad_batches must be 1 or more, got {self.config.trainer.accumulate_grad_batches}"
            )
        if not problems and model.hidden_size % model.num_attention_heads:
            problems.append(
                f"model.hidden_size ({model.hidden_size}) must be a multiple of model.num_attention_heads "
                f"({model.num_attention_heads})"
            )
        if problems:
            raise StageError("; ".join(problems))
        asked = self.config.trainer
        devices.require_device(asked.accelerator, asked.devices, asked.precision)

    def instantiate_trainer(self, **options) -> pl.Trainer:
        given = self.config_init.trainer
        plugins = given.get("plugins") or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpointIO()]
        self.datamodule.accumulate = given.accumulate_grad_batches
        self.model.gradient_clip_val, self.model.seed = given.gradient_clip_val, self.datamodule.seed
        names = list(self.datamodule.valid_names)
        self.model.valid_names = names if len(names) > 1 else []
        try:
            options |= in_steps(given, self.config.val_every_n_steps) | self.trainer_options
            options["callbacks"] = with_progress_bar(given.callbacks, {**given, **options})
            trainer = super().instantiate_trainer(plugins=plugins, **options)
            require_processes(trainer)
            environment = trainer._accelerator_connector.cluster_environment
            if isinstance(environment, SLURMEnvironment):
                environment.auto_requeue = False  # Lightning's checkpoints for that do not know what was drawn
        except (pl.utilities.exceptions.MisconfigurationException, ValueError, RuntimeError) as error:
            raise StageError(f"trainer: {one_sentence(str(error))}") from None
        os.environ[cli.RANK] = str(trainer.global_rank)
        if trainer.world_size > 1:
            os.environ[cli.PARENT] = str(os.getpid())  # of the processes that Lightning starts, see join_run
        return trainer


def with_progress_bar(callbacks, options: dict) -> list[pl.Callback]:
    """The callbacks of a configuration (None, one or several) and our bar, where it has none and asks for one."""
    given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    own = any(isinstance(each, pl.callbacks.ProgressBar) for each in given)
    return [*given] if own or options.get("enable_progress_bar") is False else [*given, ProgressBar()]


def require_processes(trainer: pl.Trainer) -> None:
    """Refuse strategies that a step is not made for, and other devices than torchrun or srun started processes for.

    Raises StageError, or ValueError in the words of Lightning.
    """
    strategy, wanted = trainer.strategy, trainer.num_devices * trainer.num_nodes
    by_script = isinstance(strategy, DDPStrategy) and isinstance(strategy.launcher, _SubprocessScriptLauncher)
    if not by_script and not isinstance(strategy, SingleDeviceStrategy):
        raise StageError("trainer.strategy must be auto or ddp: each device has the whole model, and steps are exact")
    for launcher, environment, count in (
        ("torchrun", TorchElasticEnvironment, "WORLD_SIZE"),
        ("srun", SLURMEnvironment, "SLURM_STEP_NUM_TASKS"),
    ):
        started = int(os.environ.get(count, wanted)) if environment.detect() else wanted
        if started != wanted:  # each would train by itself where one device is asked for
            raise StageError(
                f"{launcher} started {started} processes, trainer.devices x trainer.num_nodes is {wanted}: make the "
                "two equal"
            )
    if by_script:
        strategy.cluster_environment.validate_settings(trainer.num_devices, trainer.num_nodes)


def in_steps(trainer, val_every_n_steps: int | None) -> dict:
    """Options of `trainer:` for batches that are optimizer steps: what counts micro-batches there, counted in steps.

    The model clips and accumulates. Raises StageError where an interval is no whole number of steps, or set twice.
    """
    accumulate, counted = trainer.accumulate_grad_batches, {}
    if val_every_n_steps is not None:
        if val_every_n_steps < 1:
            raise StageError(f"val_every_n_steps must be 1 or more, got {val_every_n_steps}")
        if trainer.val_check_interval is not None or trainer.check_val_every_n_epoch not in (None, 1):
            raise StageError(
                "val_every_n_steps says when to validate: leave out trainer.val_check_interval and "
                "trainer.check_val_every_n_epoch"
            )
    for name in ("val_check_interval", "limit_train_batches"):
        batches = trainer[name]
        if isinstance(batches, int) and batches % accumulate:
            raise StageError(
                f"trainer.{name} is {batches:,} batches, an optimizer step has {accumulate:,} "
                "(trainer.accumulate_grad_batches): give a multiple of that"
            )
        counted[name] = batches // accumulate if isinstance(batches, int) else batches
    if val_every_n_steps is not None:
        counted |= {"val_check_interval": val_every_n_steps, "check_val_every_n_epoch": None}
    if trainer.gradient_clip_algorithm not in (None, "norm"):
        raise StageError(
            f"trainer.gradient_clip_algorithm must be norm, got {trainer.gradient_clip_algorithm}: leave that key out"
        )
    return counted | {"accumulate_grad_batches": 1, "gradient_clip_val": None}


def one_sentence(message: str, longest: int = 400) -> str:
    """A library's message on one line, cut at `longest` characters."""
    line = re.sub(r"\s+", " ", message).strip()
    return line if len(line) <= longest else line[:longest] + " ..."


# Checkpoints


def newest_run() -> Path:
    """The run under lightning_logs with the highest version number."""
    runs = [run for run in RUNS.glob("version_*") if run.name.removeprefix("version_").isdecimal()]
    if not runs:
        raise StageError(f"there is no run under {RUNS}: train one with trainer.py, or name a checkpoint file")
    return max(runs, key=lambda run: int(run.name.removeprefix("version_")))


def load_checkpoint(path: Path) -> dict:
    """A checkpoint's content on the CPU. Raises StageError when it is cut short or no checkpoint of ours."""
    path = files.require_file(path, "train a model with trainer.py, or mend --ckpt_path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise StageError(
            f"{path} cannot be read as a checkpoint ({one_sentence(str(error), 80)}): name a .ckpt file of trainer.py"
        ) from None
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters", "provenance"} <= set(checkpoint):
        raise StageError(f"{path} is not a checkpoint of trainer.py: name a file under lightning_logs/*/checkpoints")
    return checkpoint


def _best_of(run: Path) -> Path:
    """The best checkpoint of a run, as its newest one remembers it."""
    saved = [load_checkpoint(file) for file in sorted((run / "checkpoints").glob("*.ckpt"))]
    if not saved:
        raise StageError(f"{run} holds no checkpoint: train longer, or name another run")
    newest = max(saved, key=lambda checkpoint: checkpoint["global_step"])  # a copied run has other file times
    states = newest.get("callbacks", {}).values()
    for state in sorted(states, key=lambda state: state.get("monitor") is None):  # a checkpoint of every so often, last
        best = run / "checkpoints" / Path(state.get("best_model_path") or "-").name
        if best.is_file():
            return best
    raise StageError(f"{run} does not say which checkpoint is best: name the file, or `last`")


def find_checkpoint(ckpt_path: str) -> Path:
    """The file that a file name, a run folder, `best` or `last` (both of the newest run) stands for."""
    if ckpt_path == "best":
        return _best_of(newest_run())
    if ckpt_path == "last":
        ckpt_path = str(newest_run() / "checkpoints" / "last.ckpt")
    path = Path(ckpt_path)
    if path.is_dir():
        return _best_of(path)
    return files.require_file(path, "name a checkpoint file, a run folder, best or last")


def find_config(config: str | None, checkpoint: Path) -> Path:
    """The configuration asked for, or that of the run which wrote the checkpoint."""
    if config is not None:
        return files.require_file(config, "name the config.yaml of the run")
    own = checkpoint.parent.parent / "config.yaml"
    return files.require_file(own, "pass --config, the run's own configuration is not where the checkpoint is")


def require_same_vocabulary(path: Path, checkpoint: dict, vocabulary: tokenization.Vocabulary) -> None:
    """Refuse a checkpoint that was trained with another tokenizer, with both numbers."""
    trained = checkpoint["provenance"].get("tokenizer", {})
    if trained.get("sha256") != vocabulary.sha256:
        raise StageError(
            f"{path} was trained with another tokenizer (vocabulary {trained.get('vocab_size', 0):,}, sha256 "
            f"{str(trained.get('sha256'))[:12]}) than data.tokenizer_model (vocabulary {vocabulary.size:,}, sha256 "
            f"{vocabulary.sha256[:12]}): name the tokenizer of that run"
        )


def load_weights(model: BertPretraining, path: Path, checkpoint: dict) -> None:
    """Put a checkpoint's weights into the model; shapes that differ are named."""
    own = model.state_dict()
    for name, tensor in checkpoint["state_dict"].items():
        if name not in own or own[name].shape != tensor.shape:
            raise StageError(
                f"{path} does not fit the configuration: {name} is {tuple(tensor.shape)} in the checkpoint and "
                f"{tuple(own[name].shape) if name in own else 'absent'} in the model: pass that run's own --config"
            )
    if missing := [name for name in own if name not in checkpoint["state_dict"]]:
        raise StageError(
            f"{path} does not fit the configuration: {missing[0]} is absent in the checkpoint and "
            f"{tuple(own[missing[0]].shape)} in the model: pass that run's own --config"
        )
    heads, trained = model.hparams.num_attention_heads, checkpoint["hyper_parameters"]["num_attention_heads"]
    if heads != trained:  # which no shape tells
        raise StageError(
            f"{path} does not fit the configuration: it has {trained} attention heads, model.num_attention_heads is "
            f"{heads}: pass that run's own --config"
        )
    model.load_state_dict(checkpoint["state_dict"])


def data_facts(data: PretrainingData, continued_from: dict | None = None) -> dict:
    """What a checkpoint says of where it comes from: no paths, no text. Of several training files, sums and lists.

    `continued_from` is what `continuing.begin` says of a model: what was private there is so here.
    """
    records = [record for record in data.records["train"] if record]
    described = {
        part: [(record or {}).get("outputs", [None])[0] for record in found] for part, found in data.records.items()
    }
    shares = list(data.shares["train"].values())
    return {
        "tokenizer": data.vocabulary.facts(),
        "samples": {part: found[0] if len(found) == 1 else found for part, found in sorted(described.items())},
        "shares": shares if len(shares) > 1 else None,
        **samples.merged(records),
        "longest_sample": max((record["longest_sample"] for record in records), default=None),
        "corpus": data.corpus("train", files.corpus_facts(continued_from)["private"]),
        "continued_from": continued_from,
        "versions": files.versions("torch", "transformers", "pytorch-lightning", "numpy"),
        "history": data.history(),
    }


def run_history(path: Path, checkpoint: dict) -> dict:
    """What the record of an exported model says of the run up to a checkpoint, for the model card.

    `seen`: samples and tokens; `hardware`: see monitoring.Hardware; `curve`: see loss_curve.read. None where unknown:
    in checkpoints of earlier versions, and the curve where no events stand in the folder of the run.
    """
    seen = checkpoint.get("callbacks", {}).get("Throughput")
    curve = loss_curve.read(path.absolute().parent.parent, checkpoint["global_step"])
    if curve is None:
        cli.say(f"{path.absolute().parent.parent} holds no events of the run: the model card will have no loss curve")
    return {"seen": seen, "hardware": checkpoint.get("hardware"), "curve": curve}


def attention_dtype(trainer: pl.Trainer) -> torch.dtype:
    """The type that attention is computed in under trainer.precision."""
    precision = str(trainer.precision)
    return torch.bfloat16 if "bf16" in precision else torch.float16 if "16" in precision else torch.float32


def settings(config, trainer: pl.Trainer) -> dict:
    """How a run trains, apart from the model's hyper-parameters."""
    return {
        "samples_per_step": config.data.batch_size * config.trainer.accumulate_grad_batches * trainer.world_size,
        "gradient_clip_val": config.trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "seed": config.seed_everything,
        "data_seed": config.data.seed,
        **{name: config.data[name] for name in ("mlm_probability", "mlm_probability_end")},
        **{name: config.data[name] for name in ("mask_replace_prob", "random_replace_prob")},
    }


def join_run() -> None:
    """Number this process among those of its run: the first speaks, and those that it starts itself end with it."""
    os.environ[cli.RANK] = str(rank_zero_only.rank)  # from what torchrun, Slurm or the first process set
    if cli.rank() == 0:
        return
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if os.environ.get(cli.PARENT) == str(os.getppid()):
        cli.end_with_parent(os.getppid(), signal.SIGKILL)  # a process that waits for the others hears nothing else


def quiet_start() -> None:
    """Silence what libraries say at every start and what a user can do nothing about."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")  # Lightning cannot see that ours is
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*`training_step` with `on_step=False`.*")
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")  # they are sums
    for name in ("utilities.rank_zero", "utilities.seed", "utilities.distributed"):
        logging.getLogger(f"lightning_fabric.{name}").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)


def quiet_loading() -> None:
    """No progress bars of milliseconds, and no report that one head is left out where it is left out on purpose."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@contextlib.contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn what can end a training run from outside, a full disk or too little memory, into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise StageError(
            "the device has too little memory for this batch: halve data.batch_size and double "
            "trainer.accumulate_grad_batches, which trains the same"
        ) from None
    except StageError:
        raise
    except (pl.utilities.exceptions.MisconfigurationException, ModuleNotFoundError) as error:  # of a callback
        raise StageError(f"trainer: {one_sentence(str(error))}") from None
    except Exception as error:
        if isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error):  # as gloo names its source file
            cause = one_sentence(re.sub(r"\[\S+/gloo/\S+\] ", "", str(error)), 120)
            raise StageError(
                f"the processes of the run lost each other ({cause}): one ended, for a reason that it gave or killed "
                "by the system, or the network failed; mend that and run the same command again"
            ) from None
        if "No space left on device" in str(error):  # as safetensors says it
            raise OSError(errno.ENOSPC, "No space left on device") from None
        cause = error
        while cause is not None:
            if isinstance(cause, OSError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise
