"""What an encoder is worth on JGLUE: fine-tuned for each task, several seeds, beside published scores.

Reads model folders or checkpoints and JGLUE's own files; writes jglue.json, jglue.md and their record into a folder.
Ended at any moment, the same command goes on with the fine-tuning that it was at:

    python3 evaluate_jglue.py model --data_dir JGLUE/datasets
"""

import contextlib
import json
import sys
from pathlib import Path

from bert_ja import cli, files, jglue

STAGE = "evaluate_jglue.py"
RESULT, REPORT, RUNS = "jglue.json", "jglue.md", "runs"
TRAINING_TEXT = Path("data/train.txt")
TRAIN_SPLITS = ("train", "valid")
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


def training_text(given: str | None) -> Path | None:
    """The text to look for sentences of the evaluation in; None where there is none to be found."""
    if given is not None:
        return files.require_text(given, "name the text that the model was trained on with --training_text")
    if TRAINING_TEXT.is_file():
        return TRAINING_TEXT
    cli.say(f"the overlap with the training text is not known: there is no {TRAINING_TEXT}, pass --training_text")
    return None


def is_training_text(text: Path, record: dict) -> bool | None:
    """Whether a model's records name a text as that of its samples; None where they say nothing."""
    made = [each for each in record.get("history") or [] if each.get("stage") == "prepare_train_data.py"]
    sums = {file.get("sha256") for each in made for file in each.get("inputs") or []}
    return files.sha256(text) in sums if sums - {None} else None


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


def overlap_with(text: Path, splits: dict[str, dict[str, list]]) -> dict[str, dict[str, dict]]:
    from bert_ja import evaluation

    wanted = {
        name: {split: jglue.sentences_of(jglue.TASKS[name], examples) for split, examples in parts.items()}
        for name, parts in splits.items()
    }
    return evaluation.overlaps(text, wanted)


def result_of(subject, found: dict, splits: dict, recipe, folder: Path, text: Path | None) -> dict:
    """What is found of a model on all tasks, its fine-tunings kept in a folder."""
    from bert_ja import evaluation, tokenization, training

    measured, results = subject.measured, {}
    tokenizer = tokenization.load_tokenizer(measured.folder, measured.private)
    with training.one_line_failures(), contextlib.redirect_stdout(sys.stderr):
        for name, task_files in found.items():
            task = evaluation.Evaluation(jglue.TASKS[name], subject, tokenizer, splits[name])
            facts = evaluation.fixed_facts(jglue.TASKS[name], subject, task_files, recipe, task.longest)
            runs = evaluation.Runs(folder / RUNS / name, facts)
            results[name] = evaluation.evaluate(task, runs, recipe, task_files)
    overlap = overlap_with(text, splits) if text else {}
    return {
        "model": subject.facts(),
        "random_weights": subject.random_weights,
        "train_split": recipe.train_split,
        "seeds": recipe.seeds,
        "precision": subject.device.precision,
        "training_text": is_training_text(text, measured.record) if text else None,
        "tasks": {name: result | {"overlap": overlap.get(name)} for name, result in results.items()},
    }


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


def write(folder: Path, result: dict, record: dict) -> str:
    """Write a result and its report, and last the record of both; the report."""
    from bert_ja import evaluation

    report = evaluation.report(result, evaluation.read_published())
    files.record_path(folder).unlink(missing_ok=True)
    files.write_bytes(folder / RESULT, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
    files.write_bytes(folder / REPORT, report.encode())
    files.write_record(folder, record | {"outputs": [files.describe(folder / name) for name in (RESULT, REPORT)]})
    return report


def main(
    *models: str,
    data_dir: str = "JGLUE/datasets",
    output_dir: str = "evaluation",
    tasks: str = ",".join(jglue.DEFAULT_TASKS),
    quick: bool = False,
    seeds: int = 5,
    learning_rates: str = "2e-5,3e-5,5e-5",
    epochs: str = "3,4",
    batch_size: int = 32,
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.0,
    train_split: str = "train",
    random_weights: bool = False,
    training_text_file: str | None = None,
    accelerator: str = "auto",
    precision: str | None = None,
) -> None:
    """Fine-tune and score encoders on the tasks of JGLUE; `model` where none is named.

    A model is a folder (of export_model.py, or of any encoder of the Hub), a checkpoint file, a run folder, best or
    last. What several models give goes into a folder for each in output_dir.

    Args:
        data_dir: Folder with jsts-v1.3 and so on, as in the JGLUE repository; of several versions the newest is taken.
        output_dir: Folder to write to. What its folder runs holds of this model is not done again.
        tasks: Some of jsts, jnli, jsquad, jcommonsenseqa, jcola and marc_ja, parted by commas.
        quick: One learning rate (the last one), one number of epochs (the first one) and one seed.
        seeds: Fine-tunings with the chosen setting, each with another head and order of the examples.
        learning_rates: Peaks of the learning rate to choose from on the validation set, parted by commas.
        epochs: Numbers of epochs to choose from, parted by commas.
        batch_size: Examples an optimizer step.
        warmup_ratio: Share of the optimizer steps over which the learning rate rises; then it falls to 0 linearly.
        weight_decay: Weight decay of AdamW, which spares biases and LayerNorm.
        train_split: train, or valid where there is no training set, whose tenth part is then held out for the choice.
        random_weights: True measures the same architecture without pre-training, to compare with.
        training_text_file: Text that the model was trained on, for the overlap; data/train.txt when not given.
        accelerator: auto, cpu or gpu.
        precision: 32-true, bf16-mixed or 16-mixed; when not given, mixed on a GPU and 32-true on a CPU.
    """
    models = models or ("model",)
    wanted = named_tasks(tasks)
    rates, counts = numbers("learning_rates", learning_rates, float), numbers("epochs", epochs, int)
    cli.require(
        {
            f"--seeds must be 1 or more, got {seeds}": seeds >= 1,
            f"--batch_size must be 1 or more, got {batch_size}": batch_size >= 1,
            f"--warmup_ratio must be from 0 to below 1, got {warmup_ratio}": 0 <= warmup_ratio < 1,
            f"--weight_decay must be 0 or more, got {weight_decay}": weight_decay >= 0,
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
    if quick:
        rates, counts, seeds = rates[-1:], counts[:1], 1
    recipe = evaluation.Recipe(rates, counts, seeds, batch_size, warmup_ratio, weight_decay, train_split)
    splits = {task.name: evaluation.read_splits(task, found[task.name], train_split) for task in wanted}
    text = None if random_weights else training_text(training_text_file)
    folders = output_folders(models, Path(output_dir))
    device = choose_device(accelerator, precision)

    for model, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder), model_folder.opened(model) as measured:
            subject = evaluation.Subject(measured, random_weights, device)
            result = result_of(subject, found, splits, recipe, folder, text)
            run = {"run": files.run_facts(model=model, data_dir=data_dir)}
            print(write(folder, result, record_of(measured, found) | run), end="", flush=True)
        cli.say(f"wrote {RESULT} and {REPORT} to {folder}")


if __name__ == "__main__":
    cli.run(main)
