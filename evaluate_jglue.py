"""What an encoder is worth on JGLUE: fine-tuned for each task, several seeds, beside published scores.

Reads a model folder or a checkpoint and JGLUE's own files; writes jglue.json, jglue.md and their record into a folder.
Ended at any moment, the same command goes on with the fine-tuning that it was at:

    python3 evaluate_jglue.py --model model --data_dir JGLUE/datasets
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


def evaluate_model(subject, tasks, found, splits, recipe, output_dir: Path) -> dict:
    """The results of all tasks, by name."""
    from bert_ja import evaluation, tokenization

    tokenizer = tokenization.load_tokenizer(subject.measured.folder, subject.measured.private)
    results = {}
    for task in tasks:
        work = evaluation.Evaluation(task, subject, tokenizer, splits[task.name])
        facts = evaluation.fixed_facts(task, subject, found[task.name], recipe, work.longest)
        runs = evaluation.Runs(output_dir / RUNS / task.name, facts)
        results[task.name] = evaluation.evaluate(work, runs, recipe, found[task.name])
    return results


def overlap_with(text: Path, splits: dict[str, dict[str, list]]) -> dict[str, dict[str, dict]]:
    from bert_ja import evaluation

    wanted = {
        name: {split: jglue.sentences_of(jglue.TASKS[name], examples) for split, examples in parts.items()}
        for name, parts in splits.items()
    }
    return evaluation.overlaps(text, wanted)


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
    model: str = "model",
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
    """Fine-tune and score an encoder on the tasks of JGLUE.

    Args:
        model: Model folder (of export_model.py, or any encoder of the Hub), checkpoint file, run folder, best or last.
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
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)

    with files.locked(folder), model_folder.opened(model) as measured:
        subject = evaluation.Subject(measured, random_weights, choose_device(accelerator, precision))
        with training.one_line_failures(), contextlib.redirect_stdout(sys.stderr):
            tasks_found = evaluate_model(subject, wanted, found, splits, recipe, folder)
        overlap = overlap_with(text, splits) if text else {}
        result = {
            **{"model": subject.facts(), "random_weights": random_weights, "train_split": train_split, "seeds": seeds},
            "precision": subject.device.precision,
            "training_text": is_training_text(text, measured.record) if text else None,
            "tasks": {name: task | {"overlap": overlap.get(name)} for name, task in tasks_found.items()},
        }
        report = write(
            folder, result, record_of(measured, found) | {"run": files.run_facts(model=model, data=data_dir)}
        )
    print(report, end="")
    cli.say(f"wrote {RESULT} and {REPORT} to {folder}")


if __name__ == "__main__":
    cli.run(main)
