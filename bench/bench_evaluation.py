"""What is pre-training worth? A model and its twin with random weights on JGLUE, several seeds each.

Fine-tunes both with evaluate_jglue.py by the recipes below, which suit a model as small as a CPU can pre-train; on its
validation set where a task has no training set here. Every fine-tuning is kept in --work_dir, so a comparison that was
ended goes on; the file is written anew as each task ends:

    python3 bench/bench_evaluation.py --model model --jglue_dir JGLUE/datasets
"""

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import runs
from bert_ja import cli, files, jglue, results, scores

ROOT = Path(__file__).resolve().parents[1]
STAGE = "evaluate_jglue.py"
WEIGHTS = {"pre-trained": False, "random": True}  # name: --random_weights
RECIPES = {  # options of evaluate_jglue.py; several learning rates are chosen from on the validation set
    "jsts": {"learning_rates": "1e-4,3e-4", "epochs": 3, "seeds": 5},
    "jnli": {"learning_rates": "5e-5,1e-4,2e-4", "epochs": 10, "batch_size": 16, "seeds": 5},
    "jcommonsenseqa": {"learning_rates": "1e-4", "epochs": 3, "seeds": 3},
    "jsquad": {"learning_rates": "2e-4", "epochs": 3, "seeds": 2},
}
TRAINED_ON = {"train": "training", "valid": "validation"}  # split: its name
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def folder_of(work_dir: Path, weights: str, task: str) -> Path:
    """Where evaluate_jglue.py leaves what it finds of a task."""
    return work_dir / weights / task


def options_of(task: str, weights: str, given: dict) -> dict:
    """The options of evaluate_jglue.py for a task."""
    found = jglue.find_files(jglue.TASKS[task], Path(given["jglue_dir"]))
    options = {"data_dir": Path(given["jglue_dir"]).absolute(), "tasks": task, **RECIPES[task]}
    options |= {"random_weights": WEIGHTS[weights], "train_split": "train" if "train" in found.paths else "valid"}
    options |= {"accelerator": given["accelerator"], "precision": given["precision"]}
    if given["training_text_file"] is not None:
        options |= {"training_text_file": Path(given["training_text_file"]).absolute()}
    return options | {"output_dir": folder_of(Path(given["work_dir"]).absolute(), weights, task)}


def collect(work_dir: Path, sha256: str) -> Iterator[tuple[str, str, dict]]:
    """(task, weights, what was found) of all that is done; of other weights than these nothing is taken."""
    for task in RECIPES:
        for weights, random in WEIGHTS.items():
            folder = folder_of(work_dir, weights, task)
            if not files.record_path(folder).exists():
                continue
            (result,) = results.read(folder, "remove it, and run this again")
            if (result.weights, result.is_random) != (sha256, random):
                raise cli.StageError(f"{folder} is of another model: name another --work_dir")
            yield task, weights, result.content


def compared(work_dir: Path, model: Path) -> dict:
    """{"model": ..., "tasks": {task: {"title", "version", "train_split", "examples", weights: {"scores", ...}}}}."""
    weights_file, config = files.describe(model / "model.safetensors"), json.loads((model / "config.json").read_bytes())
    found: dict[str, dict] = {}
    for task, weights, content in collect(work_dir, weights_file["sha256"]):
        of_task = content["tasks"][task]
        shared = {name: of_task[name] for name in ("title", "version", "examples")}
        found.setdefault(task, shared | {"train_split": content["train_split"]})
        own = {name: of_task[name] for name in ("setting", "tried", "scores", "overlap")}
        found[task][weights] = own | {"precision": content["precision"]}
    record = files.read_record(model) or {}
    facts = {"sha256": weights_file["sha256"], "steps": record.get("steps")} | {name: config[name] for name in SIZES}
    return {"model": facts, "tasks": found}


def table(content: dict) -> Iterator[str]:
    """A comparison as a Markdown table: means and sample standard deviations over seeds."""
    yield "| task | measure | fine-tuned on | pre-trained | random weights |"
    yield "|---|---|---|---:|---:|"
    for task in content["tasks"].values():
        of = {weights: task[weights]["scores"] for weights in WEIGHTS if weights in task}
        measured = next(iter(of.values()))
        number = f"{task['examples']['train']:,} of {TRAINED_ON[task['train_split']]}"
        for metric, by_part in measured.items():
            part = "test" if "test" in by_part else "valid"
            cells = [scores.shown(of.get(weights, {}).get(metric, {}).get(part)) for weights in WEIGHTS]
            name = f"{results.JGLUE_METRICS[metric][1]}, {results.PARTS[part]}"
            yield f"| {' | '.join([task['title'], name, number, *cells])} |"


def main(
    model: str = "model",
    jglue_dir: str = "JGLUE/datasets",
    tasks: str = ",".join(RECIPES),
    weights: str = ",".join(WEIGHTS),
    training_text_file: str | None = None,
    threads: int = 1,
    accelerator: str = "auto",
    precision: str = "32-true",
    output_file: str = "bench/results/evaluation.json",
    work_dir: str = "evaluation_bench",
) -> None:
    """Compare a model on JGLUE with its twin with random weights.

    Args:
        model: Folder of export_model.py.
        jglue_dir: Folder with jsts-v1.3 and so on.
        tasks: Tasks to fine-tune for, with commas; what stands in the work folder of others is shown too.
        weights: pre-trained, random, or both with a comma.
        training_text_file: Text that the model was trained on, in which sentences of the tasks are looked for.
        threads: Threads of a fine-tuning.
        accelerator: auto, cpu or gpu.
        precision: 32-true, bf16-mixed or 16-mixed.
        output_file: JSON with all that is found.
        work_dir: Folder for the results of evaluate_jglue.py.
    """
    given, names, sides = dict(locals()), tasks.split(","), weights.split(",")
    cli.require(
        {
            f"--tasks must be some of {', '.join(RECIPES)}, got {tasks}": set(names) <= set(RECIPES),
            f"--weights must be some of {', '.join(WEIGHTS)}, got {weights}": set(sides) <= set(WEIGHTS),
            f"--threads must be 1 or more, got {threads}": threads >= 1,
            f"{model} has no model.safetensors: name a folder of export_model.py": (
                Path(model) / "model.safetensors"
            ).is_file(),
            f"{jglue_dir} is not a folder: name that of JGLUE with --jglue_dir": Path(jglue_dir).is_dir(),
            f"{output_file} is a folder, the name of a file is needed": not Path(output_file).is_dir(),
        }
    )
    facts = {
        "command": runs.as_typed(["python3", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": runs.machine(),
        "versions": files.versions("torch", "transformers", "pytorch-lightning", "scipy", "scikit-learn"),
    }
    content = compared(Path(work_dir), Path(model))  # refuses results of another model before any work
    for task in names:
        for side in sides:
            options = options_of(task, side, given)
            options["output_dir"].mkdir(parents=True, exist_ok=True)
            cli.say(f"{task}, {side} weights")
            command = [str(ROOT / STAGE), str(Path(model).absolute()), *runs.options_of(options)]
            runs.run_stage(command, options["output_dir"].parent, threads)
            content = compared(Path(work_dir), Path(model))
            files.write_bytes(
                Path(output_file), (json.dumps(facts | content, ensure_ascii=False, indent=1) + "\n").encode()
            )
    print("\n".join(table(content)))


if __name__ == "__main__":
    cli.run(main)
