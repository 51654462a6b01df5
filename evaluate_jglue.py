"""What an encoder is worth on JGLUE: fine-tuned for each task, several seeds, beside published scores.

Reads model folders or checkpoints and JGLUE's own files; writes jglue.json, jglue.md and their record into a folder.
Ended at any moment, the same command goes on with the fine-tuning that it was at:

    python3 evaluate_jglue.py model --data_dir JGLUE/datasets
"""

import contextlib
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bert_ja import cli, files, jglue

STAGE = "evaluate_jglue.py"
RESULT, REPORT, RUNS = "jglue.json", "jglue.md", "runs"
TRAINING_TEXT = Path("data/train.txt")
TRAIN_SPLITS = ("train", "valid")
USUAL = {"learning_rates": (2e-5, 3e-5, 5e-5), "epochs": (3, 4), "seeds": 5}  # JGLUE's own search, and seeds
QUICK = {"learning_rates": (5e-5,), "epochs": (3,), "seeds": 1}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def numbers(option: str, text: str, kind: type) -> tuple:
    """("learning_rates", "2e-5,3e-5", float) -> (2e-5, 3e-5). Raises StageError for what is no number above 0."""
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < each < float("inf") for each in found):
        what = "whole numbers" if kind is int else "numbers"
        raise cli.StageError(f"--{option} must be {what} above 0 parted by commas, got {text!r}")
    return tuple(dict.fromkeys(found))


def named_tasks(text: str) -> list[jglue.Task]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in jglue.TASKS]
    cli.require({f"--tasks must be some of {', '.join(jglue.TASKS)}, got {', '.join(unknown)!r}": not unknown})
    return [jglue.TASKS[name] for name in names]


class TrainingText:
    """The text in which sentences of the evaluation are looked for, read once for all models."""

    def __init__(self, given: str | None, splits: dict[str, dict[str, list]]):
        self.given, self.path, self.splits = given is not None, Path(given or TRAINING_TEXT), splits
        if given is not None:
            files.require_text(self.path, "name the text that the model was trained on with --training_text_file")

    def is_of(self, record: dict) -> bool | None:
        """Whether a model's records name it as the text of its samples; None where they say nothing."""
        made = [each for each in record.get("history") or [] if each.get("stage") == "prepare_train_data.py"]
        sums = {file.get("sha256") for each in made for file in each.get("inputs") or []} - {None}
        return self.sha256 in sums if sums and self.path.is_file() else None

    def overlap(self, model) -> dict[str, dict[str, dict]] | None:
        """What of each task and split stands in it; None where nobody says that it is the model's."""
        if self.given or self.is_of(model.record):
            return self.found
        cli.say(
            f"{model.name}: its records do not name {self.path} as its text, pass --training_text_file for an overlap"
        )
        return None

    @functools.cached_property
    def sha256(self) -> str:
        return files.sha256(self.path)

    @functools.cached_property
    def found(self) -> dict[str, dict[str, dict]]:
        from bert_ja import evaluation

        wanted = {
            name: {split: jglue.sentences_of(jglue.TASKS[name], examples) for split, examples in parts.items()}
            for name, parts in self.splits.items()
        }
        return evaluation.overlaps(self.path, wanted)


def choose_device(accelerator: str, precision: str | None):
    """The device and, where none is asked for, the precision that is fast and safe there."""
    import torch

    from bert_ja.finetuning import Device

    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if gpu and not torch.cuda.is_available():
        raise cli.StageError("--accelerator gpu: torch sees no GPU here, pass --accelerator cpu")
    fast = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return Device("gpu" if gpu else "cpu", precision or (fast if gpu else "32-true"))


def output_folders(models: tuple[str, ...], output_dir: Path) -> dict[str, Path]:
    """Where the results of each model go: into `output_dir` itself, or of several into a folder for each."""
    from bert_ja import model_folder

    for model in models:
        model_folder.require(model)
    if len(models) == 1:
        return {models[0]: output_dir}
    folders = {model: output_dir / model_folder.file_name(model) for model in models}
    if len(set(folders.values())) < len(models):
        raise cli.StageError("two of the models have one name, and would write to one folder: name them in two calls")
    return folders


def result_of(subject, found: dict, splits: dict, recipe, folder: Path, text: TrainingText) -> dict:
    """What is found of a model on all tasks, its fine-tunings kept in a folder."""
    from bert_ja import evaluation, tokenization, training

    measured, results = subject.measured, {}
    overlap = None if subject.random_weights else text.overlap(measured)
    tokenizer = tokenization.load_tokenizer(measured.folder, measured.private)
    with training.one_line_failures(), contextlib.redirect_stdout(sys.stderr):
        for name, task_files in found.items():
            task = evaluation.Evaluation(jglue.TASKS[name], subject, tokenizer, splits[name])
            runs = evaluation.Runs(folder / RUNS / name, evaluation.fixed_facts(task, task_files, recipe))
            results[name] = evaluation.evaluate(task, runs, recipe, task_files)
    return {
        "model": subject.facts(),
        "random_weights": subject.random_weights,
        "train_split": recipe.train_split,
        "seeds": recipe.seeds,
        "precision": subject.device.precision,
        "training_text": text.is_of(measured.record) if overlap else None,
        "tasks": {name: result | {"overlap": overlap and overlap[name]} for name, result in results.items()},
    }


def require_replaceable(folder: Path, subject, recipe, tasks: Sequence[str]) -> None:
    """Refuse a folder whose results this call would replace by those of another model, or by fewer."""
    path = folder / RESULT
    if not path.is_file():
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        same = earlier["model"]["weights"]["sha256"] == subject.measured.weights["sha256"]
        same &= (earlier["random_weights"], earlier["train_split"]) == (subject.random_weights, recipe.train_split)
        lost = [name for name in earlier["tasks"] if name not in tasks]
    except (ValueError, KeyError, TypeError):
        raise cli.StageError(f"{path} is not a result of {STAGE}: move it away, or name another --output_dir") from None
    if not same:
        raise cli.StageError(
            f"{path} is of {earlier['model'].get('name')}, fine-tuned on {earlier['train_split']}, and would be "
            "replaced: name another --output_dir"
        )
    if lost:
        names = ",".join(dict.fromkeys([*earlier["tasks"], *tasks]))
        raise cli.StageError(
            f"{path} would lose {', '.join(lost)}: pass --tasks {names}, where what is done is not done again, or name "
            "another --output_dir"
        )


def record_of(measured, found: dict) -> dict:
    """The record of a result, but for its outputs."""
    scored = [files.describe(path) for each in found.values() for path in each.paths.values()]
    return {
        "stage": STAGE,
        "inputs": [measured.weights, *scored],
        "tokenizer": measured.record.get("tokenizer"),
        "corpus": measured.record.get("corpus"),
        "steps": measured.steps,
        "versions": files.versions("torch", "transformers", "pytorch-lightning", "scipy", "scikit-learn"),
    }


def write(folder: Path, result: dict, report: str, record: dict) -> None:
    """Write a result and its report, and last the record of both."""
    files.record_path(folder).unlink(missing_ok=True)
    files.write_bytes(folder / RESULT, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
    files.write_bytes(folder / REPORT, report.encode())
    files.write_record(folder, record | {"outputs": [files.describe(folder / name) for name in (RESULT, REPORT)]})


def main(
    *models: str,
    data_dir: str = "JGLUE/datasets",
    output_dir: str = "evaluation",
    tasks: str = ",".join(jglue.DEFAULT_TASKS),
    quick: bool = False,
    seeds: int | None = None,
    learning_rates: str | None = None,
    epochs: str | None = None,
    batch_size: int = 32,
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.0,
    dropout: float = 0.1,
    train_split: str = "train",
    random_weights: bool = False,
    training_text_file: str | None = None,
    accelerator: str = "auto",
    precision: str | None = None,
) -> None:
    """Fine-tune and score encoders on the tasks of JGLUE.

    Args:
        models: Model folders (of export_model.py, or of any encoder of the Hub), checkpoint files, run folders, best or
            last; the folder model where none is named. Several get a folder each in output_dir.
        data_dir: Folder with jsts-v1.3 and so on, as in the JGLUE repository; of several versions the newest is taken.
        output_dir: Folder to write to. What its folder runs holds of this model is not done again.
        tasks: Some of jsts, jnli, jsquad, jcommonsenseqa, jcola and marc_ja, parted by commas.
        quick: One fine-tuning a task unless more are asked for, with a learning rate of 5e-5 and 3 epochs.
        seeds: Fine-tunings with the chosen setting, each with another head and order of the examples; 5 when not given.
        learning_rates: Peaks of the learning rate to choose from on the validation set, parted by commas; 2e-5, 3e-5
            and 5e-5 when not given.
        epochs: Numbers of epochs to choose from, parted by commas; 3 and 4 when not given.
        batch_size: Examples an optimizer step.
        warmup_ratio: Share of the optimizer steps over which the learning rate rises; then it falls to 0 linearly.
        weight_decay: Weight decay of AdamW, which spares biases and LayerNorm.
        dropout: Dropout while fine-tuning, whatever it was in pre-training, 0 to below 1; an architecture that does not
            name it as BERT does keeps its own.
        train_split: train, or valid where there is no training set; a tenth of it is then held out for the choice.
        random_weights: True measures the same architecture without pre-training, to compare with.
        training_text_file: Text that the model was trained on, for the overlap; data/train.txt when not given, where
            the model's records name it.
        accelerator: auto, cpu or gpu.
        precision: 32-true, bf16-mixed or 16-mixed; when not given, mixed on a GPU and 32-true on a CPU.
    """
    models = models or ("model",)
    wanted = named_tasks(tasks)
    usual = QUICK if quick else USUAL
    rates = numbers("learning_rates", learning_rates, float) if learning_rates is not None else usual["learning_rates"]
    counts = numbers("epochs", epochs, int) if epochs is not None else usual["epochs"]
    seeds = usual["seeds"] if seeds is None else seeds
    cli.require(
        {
            f"--seeds must be 1 or more, got {seeds}": seeds >= 1,
            f"--batch_size must be 1 or more, got {batch_size}": batch_size >= 1,
            f"--warmup_ratio must be from 0 to below 1, got {warmup_ratio}": 0 <= warmup_ratio < 1,
            f"--weight_decay must be 0 or more, got {weight_decay}": weight_decay >= 0,
            f"--dropout must be from 0 to below 1, got {dropout}": 0 <= dropout < 1,
            f"--train_split must be train or valid, got {train_split}": train_split in TRAIN_SPLITS,
            f"--accelerator must be auto, cpu or gpu, got {accelerator}": accelerator in ("auto", "cpu", "gpu", "cuda"),
            f"--precision must be {', '.join(PRECISIONS)}, got {precision}": precision in (*PRECISIONS, None),
        }
    )
    if not Path(data_dir).is_dir():
        raise cli.StageError(f"{data_dir} not found, the folder of JGLUE's files: {jglue.GET}")
    found = {task.name: jglue.find_files(task, Path(data_dir)) for task in wanted}

    from bert_ja import evaluation, model_folder, training

    training.quiet_start()
    training.quiet_loading()
    recipe = evaluation.Recipe(rates, counts, seeds, batch_size, warmup_ratio, weight_decay, dropout, train_split)
    splits = {task.name: evaluation.read_splits(task, found[task.name], train_split) for task in wanted}
    text, published = TrainingText(training_text_file, splits), evaluation.read_published()
    folders = output_folders(models, Path(output_dir))
    device = choose_device(accelerator, precision)

    for model, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder), model_folder.opened(model) as measured:
            subject = evaluation.Subject(measured, random_weights, device)
            require_replaceable(folder, subject, recipe, list(found))
            result = result_of(subject, found, splits, recipe, folder, text)
            report, run = evaluation.report(result, published), files.run_facts(model=model, data_dir=data_dir)
            write(folder, result, report, record_of(measured, found) | {"run": run})
        print(report, end="", flush=True)
        cli.say(f"wrote {RESULT} and {REPORT} to {folder}")


if __name__ == "__main__":
    cli.run(main)
