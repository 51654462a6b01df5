"""A model on a task of JGLUE: a setting is chosen on the validation set, then repeated with other seeds.

Each fine-tuning is a file of its own, named after all that it depends on, so that an evaluation that was ended goes on
with the one that it was at, and another model or setting never takes its place.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import transformers
import yaml
from tqdm import tqdm

from bert_ja import documents, files, finetuning, jglue, model_folder, scores, spans, tokenization
from bert_ja.cli import StageError, say
from bert_ja.finetuning import Device, Setting
from bert_ja.jglue import Example, Task, TaskFiles
from bert_ja.model_folder import Measured

PUBLISHED = Path(__file__).resolve().parents[1] / "configs" / "jglue_scores.yaml"
FIRST_SEED = 1
SCORED = ("valid", "test")
DRAWN_BY = 1000  # seed of what is held out, whatever the seed of a fine-tuning


@dataclass(frozen=True)
class Recipe:
    """What is tried, and how often: as JGLUE's authors did, with as many seeds as are asked for."""

    learning_rates: tuple[float, ...]
    epochs: tuple[int, ...]
    seeds: int
    batch_size: int = 32
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    dropout: float = 0.1
    train_split: str = "train"  # or valid, where there is no training set

    @property
    def settings(self) -> list[Setting]:
        rest = self.batch_size, self.warmup_ratio, self.weight_decay, self.dropout
        return [Setting(lr, epochs, *rest) for lr, epochs in itertools.product(self.learning_rates, self.epochs)]

    @property
    def runs(self) -> int:
        """Fine-tunings of a task."""
        return len(self.settings) + self.seeds - 1


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, or one of its architecture with `random_weights`."""

    measured: Measured
    random_weights: bool
    device: Device

    def facts(self) -> dict:
        """What a result says of it."""
        facts = self.measured.facts()
        return facts | ({"name": f"{facts['name']}, random weights"} if self.random_weights else {})


# Examples


def read_splits(task: Task, found: TaskFiles, train_split: str) -> dict[str, list[Example]]:
    """The examples of each split; trained on the validation set, a tenth of that is held out for the choice."""
    if train_split not in found.paths:
        other = "pass --train_split valid, or " if train_split == "train" and "valid" in found.paths else ""
        raise StageError(f"{task.title} has no {train_split} file of version {found.version}: {other}{task.get}")
    splits = {split: jglue.read(task, path) for split, path in found.paths.items()}
    if train_split == "valid":
        splits["train"], splits["valid"] = jglue.hold_out(task, splits["valid"], DRAWN_BY)
    if "valid" not in splits:
        raise StageError(
            f"{task.title} has no valid file of version {found.version} to choose a setting on: {task.get}"
        )
    return {split: splits[split] for split in jglue.SPLITS if split in splits}


def overlaps(text: Path, wanted: dict[str, dict[str, set[str]]]) -> dict[str, dict[str, dict]]:
    """How many of the sentences of each task and split stand in a training text, read once: exact after NFKC.

    {"jnli": {"valid": {"sentences": 4500, "in_training_text": 3}}}
    """
    every = {sentence for splits in wanted.values() for sentences in splits.values() for sentence in sentences}
    found: set[str] = set()
    with tqdm(total=documents.size(text), unit="B", unit_scale=True, desc=f"overlap with {text.name}", delay=1) as bar:
        for _, lines in documents.documents(text, advance=bar.update):
            found.update(every.intersection(map(jglue.normalised, lines)))
    return {
        name: {
            split: {"sentences": len(sentences), "in_training_text": len(sentences & found)}
            for split, sentences in splits.items()
        }
        for name, splits in wanted.items()
    }


# A task


class Evaluation:
    """A model on one task: features made once, a fine-tuning for each setting and seed."""

    def __init__(self, task: Task, subject: Subject, tokenizer, splits: dict[str, list[Example]]):
        self.task, self.subject, self.tokenizer, self.splits = task, subject, tokenizer, splits
        config = transformers.AutoConfig.from_pretrained(subject.measured.folder)
        self.longest = min(task.max_length, model_folder.longest_input(config, tokenizer))
        self.types = getattr(config, "type_vocab_size", 1)
        self.collate = finetuning.Collation(tokenizer, task.kind)
        if tokenizer.cls_token_id not in tokenizer("文")["input_ids"]:
            say(f"warning: the tokenizer of {subject.measured.name} puts no [CLS] before a text, which the heads read")
        self.cut: dict[str, int] = {}
        self.windows: dict[str, list[spans.Window]] = {}
        self.unreachable: dict[str, float] = {}
        self._features: dict[str, list[dict]] = {}

    def features(self, split: str) -> list[dict]:
        """What a model reads of a split; `cut`, `windows` and `unreachable` of it are known then."""
        if split not in self._features:
            make = self._span_features if self.task.kind == "spans" else self._row_features
            self._features[split] = make(split)
        return self._features[split]

    def _row_features(self, split: str) -> list[dict]:
        rows, self.cut[split] = finetuning.features(
            self.task, self.tokenizer, self.types, self.longest, self.splits[split]
        )
        return rows

    def _span_features(self, split: str) -> list[dict]:
        reader, examples = spans.Reader(self.tokenizer, self.types, self.longest), self.splits[split]
        shown = tqdm(examples, unit=" questions", desc=f"{self.task.title}, {split}", delay=1)
        laid_out = [reader.windows(number, example) for number, example in enumerate(shown)]
        self.windows[split] = [window for found in laid_out for _, window in found]
        self.unreachable[split] = reader.unreachable(examples)
        self.cut[split] = sum(len(found) > 1 for found in laid_out)  # read in several windows, nothing of them lost
        return [row for found in laid_out for row, _ in found]

    def score(self, split: str, logits: Sequence) -> dict[str, float]:
        """The task's metrics of what was predicted for the features of a split."""
        examples, metrics = self.splits[split], self.task.metrics
        if self.task.kind == "spans":
            predicted = spans.answers(examples, self.windows[split], logits)
            return scores.of_spans(predicted, [[each.text for each in e.label] for e in examples], metrics)
        labels = np.array([example.label for example in examples])
        rows = np.stack([row for (row,) in logits])
        if self.task.kind == "regression":
            return scores.of_degrees(rows[:, 0], labels, metrics)
        return scores.of_classes(rows, labels, metrics)

    def run(self, setting: Setting, seed: int) -> dict[str, dict[str, float]]:
        """Fine-tune once; the scores of the splits that are not trained on."""
        title = f"{self.task.title}, learning rate {setting.learning_rate:g}, {setting.epochs} epochs, seed {seed}"
        examples = self.features("train")
        pl.seed_everything(seed, verbose=False)
        folder, random_weights = self.subject.measured.folder, self.subject.random_weights
        model = finetuning.load_model(self.task, folder, random_weights, setting.dropout)
        found, scored = {}, [split for split in SCORED if split in self.splits]
        try:
            trainer, module = finetuning.train(model, self.collate, examples, setting, self.subject.device, seed, title)
            logits = {
                split: finetuning.predict(trainer, module, self.collate, self.features(split), setting.batch_size)
                for split in scored
            }
        except torch.OutOfMemoryError:
            raise StageError(
                f"{title}: the device has too little memory: pass --precision bf16-mixed or 16-mixed, or a smaller "
                "--batch_size, which is another recipe"
            ) from None
        for split in scored:
            try:
                found[split] = self.score(split, logits[split])
            except ValueError as error:
                raise StageError(
                    f"{title}: {error}: pass smaller --learning_rates, or --precision 32-true for an exact arithmetic"
                ) from None
        return found


class Runs:
    """The fine-tunings of an evaluation as files in a folder, each found again by what it depends on."""

    def __init__(self, folder: Path, fixed: dict):
        self.folder, self.fixed = folder, fixed

    def path(self, setting: Setting, seed: int) -> Path:
        key = json.dumps(self.fixed | asdict(setting) | {"seed": seed}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    def get(self, evaluation: Evaluation, setting: Setting, seed: int) -> dict[str, dict[str, float]]:
        """The scores of a fine-tuning, from its file if that is there."""
        path = self.path(setting, seed)
        if (kept := self._read(path)) is not None:
            return kept
        found = evaluation.run(setting, seed)
        said = self.fixed | {"setting": asdict(setting), "seed": seed, "scores": found}
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, (json.dumps(said, indent=1) + "\n").encode())
        best = ", ".join(f"{name} {value:.4f}" for name, value in found["valid"].items())
        say(f"{evaluation.task.title}, {setting.learning_rate:g}, {setting.epochs} epochs, seed {seed}: valid {best}")
        return found

    @staticmethod
    def _read(path: Path) -> dict | None:
        try:
            return json.loads(path.read_text(encoding="utf-8"))["scores"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise StageError(f"{path} is damaged: remove it, and run the same command again") from None


def fixed_facts(evaluation: Evaluation, found: TaskFiles, recipe: Recipe) -> dict:
    """What all fine-tunings of a model on a task have in common and depend on."""
    task, subject = evaluation.task, evaluation.subject
    return {
        "task": task.name,
        "version": found.version,
        "files": {split: files.sha256(path) for split, path in found.paths.items()},
        "weights": None if subject.random_weights else subject.measured.weights["sha256"],
        "tokenizer": tokenizer_digest(subject.measured.folder),
        "config": files.sha256(subject.measured.folder / "config.json"),
        "train_split": recipe.train_split,
        "examples": hashlib.sha256(repr(evaluation.splits).encode()).hexdigest(),  # which were held out, too
        "max_length": evaluation.longest,
        "precision": subject.device.precision,
    }


def tokenizer_digest(folder: Path) -> str:
    described = [files.describe(file) for file in tokenization.tokenizer_files(folder)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def choose(task: Task, tried: Iterable[tuple[Setting, dict]]) -> Setting:
    """The setting with the highest first metric on the validation set, the earlier of equal ones."""
    return max(tried, key=lambda each: each[1]["valid"][task.metrics[0]])[0]


def evaluate(evaluation: Evaluation, runs: Runs, recipe: Recipe, found: TaskFiles) -> dict:
    """All fine-tunings of a task, those that are still to be done; what a result says of them."""
    task = evaluation.task
    tried = [(setting, runs.get(evaluation, setting, FIRST_SEED)) for setting in recipe.settings]
    chosen = choose(task, tried)
    seeds = range(FIRST_SEED, FIRST_SEED + recipe.seeds)
    measured = [runs.get(evaluation, chosen, seed) for seed in seeds]
    for split in evaluation.splits:
        evaluation.features(split)  # for what is counted, where all fine-tunings had been done before
    scored = [split for split in SCORED if split in evaluation.splits]
    return {
        "title": task.title,
        "version": found.version,
        "setting": asdict(chosen) | {"max_length": evaluation.longest},
        "tried": [
            {"learning_rate": setting.learning_rate, "epochs": setting.epochs, "valid": each["valid"]}
            for setting, each in tried
        ],
        "examples": {split: len(examples) for split, examples in evaluation.splits.items()},
        "cut": evaluation.cut,
        **({"unreachable_answers": evaluation.unreachable} if evaluation.unreachable else {}),
        "scores": {
            metric: {split: scores.summary([each[split][metric] for each in measured]) for split in scored}
            for metric in task.metrics
        },
    }


# Tables


def read_published(path: Path = PUBLISHED) -> dict:
    """{"source": ..., "models": [{"name": ..., "valid": {"jsts": [0.909, 0.868]}, "test": ...}]}, by a task's metrics.

    Raises StageError where a model's scores are not those of its tasks, as users may add models.
    """
    try:
        published = yaml.safe_load(path.read_text(encoding="utf-8"))
        for model in published["models"]:
            for split in SCORED:
                for name, values in (model.get(split) or {}).items():
                    if len(values) != len(jglue.TASKS[name].metrics) or not all(0 <= value <= 1 for value in values):
                        raise ValueError(name)
        return published | {"source": published["source"]}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise StageError(f"{path} is not as its first model is ({error}): mend it, or get it back with git") from None


def _cells(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


def _own(task: dict, metric: str, split: str) -> str:
    return scores.shown(task["scores"][metric].get(split))


def _published(model: dict, task: Task, metric: str, split: str) -> str:
    found = (model.get(split) or {}).get(task.name)
    return f"{found[task.metrics.index(metric)]:.3f}" if found else "-"


def table(result: dict, split: str, published: dict) -> str:
    """A Markdown table of a split: the model's means and deviations over seeds, and published scores below."""
    columns = [(jglue.TASKS[name], metric) for name, task in result["tasks"].items() for metric in task["scores"]]
    heads = [f"{task.title} {metric.replace('_', ' ')}" for task, metric in columns]
    rows = [["model", *heads], ["---"] + ["---:"] * len(heads)]
    rows += [[result["model"]["name"], *(_own(result["tasks"][task.name], metric, split) for task, metric in columns)]]
    for model in published["models"]:
        cells = [_published(model, task, metric, split) for task, metric in columns]
        rows += [[model["name"], *cells]] if any(cell != "-" for cell in cells) else []
    return "\n".join(map(_cells, rows))


def _notes(result: dict, published: dict) -> Iterator[str]:
    trained, chosen_on = "the training set", "valid"
    if result["train_split"] == "valid":
        trained, chosen_on = "nine tenths of the validation set", "the other tenth, which is what valid means here"
    seeds = f"{result['seeds']} seeds" if result["seeds"] > 1 else "one seed"
    yield f"- Fine-tuned on {trained}; mean and sample standard deviation of {seeds}; setting chosen on {chosen_on}."
    if result["random_weights"]:
        yield "- The encoder's weights were drawn at random: it was not pre-trained."
    for task in result["tasks"].values():
        chosen, examples = task["setting"], ", ".join(f"{n:,} {split}" for split, n in task["examples"].items())
        yield (
            f"- {task['title']} {task['version']} ({examples}): learning rate {chosen['learning_rate']:g}, "
            f"{chosen['epochs']} epochs, batches of {chosen['batch_size']}, up to {chosen['max_length']} tokens."
        )
        if lost := task.get("unreachable_answers"):
            shares = ", ".join(f"{share:.2%} of {split}" for split, share in lost.items())
            yield f"  - Questions of whose answers none begins and ends where tokens do: {shares}."
        if overlap := task.get("overlap"):
            parts = (f"{n['in_training_text']:,} of {n['sentences']:,} in {split}" for split, n in overlap.items())
            what = "the training text" if result["training_text"] else "the text that was searched for them"
            yield f"  - Sentences that also stand in {what}: {', '.join(parts)}."
    yield f"- Published scores: {published['source']}; one seed, the best setting on valid."


def report(result: dict, published: dict) -> str:
    """A result as Markdown: a table of each split that was scored, beside published scores, and how it was done."""
    scored = [
        split
        for split in SCORED
        if any(split in values for task in result["tasks"].values() for values in task["scores"].values())
    ]
    kept = {"valid": published if result["train_split"] == "train" else published | {"models": []}, "test": published}
    tables = [f"## {split}\n\n{table(result, split, kept[split])}" for split in scored]
    notes = "\n".join(_notes(result, published))
    return "\n\n".join([f"# {result['model']['name']} on JGLUE", *tables, "## How", notes]) + "\n"
