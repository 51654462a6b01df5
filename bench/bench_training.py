"""How fast does a model train, beside the published step (baseline_training.py)?

On real texts: real tokens a second of both, in turn, on the same samples; the time to the loss that the published loop
reaches; and, without texts, what the main thread adds to a step. On a GPU, --suite measures every way to train. Each
run is appended to --output_file:

    python3 bench/bench_training.py data/train.txt --output_file bench/results/training.json
    python3 bench/bench_training.py --device cuda --suite --output_file bench/results/training.json
"""

import datetime
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_ja import cli  # before torch, which reads what it sets in the environment

# isort: split
import torch

from bench import fits, flops, gpu_suite, runs, training_parts, training_samples
from bert_ja import files, tokenization, training

PARTS, READING = ("speed", "thread", "loss"), {"speed", "loss"}  # what is measured; what of it reads texts
BOUNDS = {  # model, run, baseline -> at least so many times its real tokens a second
    ("12x768", "ours_fp32", "published_fp32"): 13,
    ("12x768", "ours_bf16", "published_bf16"): 11,
    ("12x768", "ours_bf16", "published_fp32"): 30,
    ("6x384", "ours_fp32", "published_fp32"): 20,
}
LEAST = {"rounds": 1, "steps": 1, "minutes": 0.001, "thread_steps": 10, "mean_tokens": 8}
LEAST |= {"suite_pieces": 100, "suite_samples": 8, "suite_steps": 1, "suite_seconds": 1, "suite_product": 16}


# What follows from the figures


def targets(result: dict) -> list[dict]:
    """The figures that training is held to, of the parts that were measured."""
    found = [*speed_targets(result["speed"])] if "speed" in result else []
    if "thread" in result:
        own = result["thread"]["wall_milliseconds"]
        found.append(runs.target("ms of the main thread's own work an optimizer step", own, at_most=1.5))
    if "loss" in result:
        ratio = result["loss"]["ratio"] if result["loss"]["reached"] else 1.0
        found.append(runs.target("time to the published loop's loss, ours / published", ratio, at_most=0.125))
    return found + ([*suite_targets(result["suite"])] if result["suite"] else [])


def speed_targets(measured: dict) -> Iterator[dict]:
    for (model, ours, published), bound in BOUNDS.items():
        ratios = measured["models"].get(model, {}).get("ratios", {})
        value = ratios.get(f"{ours}_to_{published}", {}).get("median")
        yield runs.target(f"real tokens a second, {model}, {ours} / {published}", value, at_least=bound)


def suite_targets(rows: list[dict]) -> Iterator[dict]:
    """The best of the packed variants of 60 tokens; those with the published settings for the projection."""
    short = [row for row in rows if row["length"] == gpu_suite.SHORT and "mfu" in row]
    packed = [row for row in short if row["kind"] in ("packed", "loader")]
    published = [row["published_run_minutes"] for row in packed if row["dropout"] == 0.1]
    minutes = min(filter(None, published), default=None)
    best = max((row["mfu"] for row in packed), default=None)
    yield runs.target("MFU on real tokens, the best of 60-token samples", best, at_least=0.5)
    yield runs.target("minutes of the published run, projected, dropout 0.1", minutes, at_most=90)


# The table

ABOUT = (
    "baseline: the published step written plainly, micro-batches of 8 padded to 512, all positions through the head, "
    "clipping, torch.optim.Adam; attention as transformers 5 has it by itself (SDPA with a mask)",
    "ours: training_step in the real Trainer, all 64 samples in one micro-batch, the fused Adam, Lightning included, "
    "after one step that is not counted; both with the published dropout of 0.1, and the same masked samples",
    "real tokens a second: tokens of samples, padding not counted; ratios are of runs in the same round",
    "losses: means over the same masked tokens and samples without dropout, before the first step",
    "main thread: wall time of a run's optimizer step less that of a plain loop (forward, backward, clipping, fused "
    "Adam), both of a model with as many modules as BERT base that only sleeps "
    f"{training_parts.NAP * 1000:g} ms; the run has the callbacks and loggers of trainer.py and configs/tiny.yaml "
    "(metrics every 50 steps), and a worker that builds batches ahead; CPU time is time.thread_time of that thread, "
    "the optimizer's too; medians over the rounds, each a mean over all steps",
    "time to loss: the same initial weights, order, masks, learning rate and clipping; validations, on samples that "
    "neither trains on, are not counted; ours validates "
    f"{training_parts.LOOKS} times in as many steps as the baseline took",
    "MFU: FLOPs that the real tokens need without padding (flops.py: matrices, attention, masked-only head; three "
    f"times forward), of {gpu_suite.PEAK / 1e12:.0f} TFLOP/s and of a matrix product measured beside them",
)


def speed_lines(measured: dict) -> Iterator[str]:
    yield (
        f"{measured['samples']} samples of {measured['tokens_per_sample']} tokens, the baseline's padded to "
        f"{measured['padded_to']} ({measured['padded_to'] / measured['tokens_per_sample']:.1f} times as many); bf16: "
        f"{measured['bf16']}"
    )
    yield "tokens/s    s a step".rjust(24)
    for model, found in measured["models"].items():
        for name, run in found["runs"].items():
            median = run["median"]
            yield f"{median['tokens_per_second']:12,.1f}{median['seconds_a_step']:12.3f}  {model}, {name}"
        for name, ratio in found["ratios"].items():
            yield f"{ratio['median']:12.2f}  {model}, {name} (from {ratio['least']:.2f} to {ratio['most']:.2f})"
        for precision, losses in found["losses"].items():
            yield f"{losses['difference']:12.1e}  nats between the losses of both, {model}, {precision}"


def thread_lines(found: dict) -> Iterator[str]:
    what = f"{found['samples_per_step']} samples of {found['tokens_per_sample']} tokens, {found['steps']:,} steps"
    each = [one["wall_milliseconds"] for one in found["each"]]
    between = f"from {min(each):.3f} to {max(each):.3f}"
    yield f"{found['wall_milliseconds']:12.3f}  ms of the main thread's own work an optimizer step, {what} ({between})"
    yield f"{found['run_milliseconds']:12.3f}  ms a step of the run, {found['plain_milliseconds']:.3f} of a plain loop"
    yield f"{found['cpu_milliseconds']:12.3f}  ms of CPU time of the run's main thread, the plain loop's too"


def loss_lines(found: dict) -> Iterator[str]:
    published, ours = found["published"], found["ours"]
    reached = f"to {ours['loss']:.4f}" if found["reached"] else f"and did not reach it ({ours['loss']:.4f})"
    yield (
        f"time to loss, {found['model']}: published from {found['loss_at_first']:.4f} to {found['loss']:.4f} in "
        f"{published['seconds']:.1f} s ({published['steps']:,} steps), ours {reached} in {ours['seconds']:.1f} s "
        f"({ours['step']:,} steps), {found['ratio']:.4f} of the time"
    )


def suite_lines(result: dict) -> Iterator[str]:
    if not result["suite"]:
        yield "no GPU was measured: run it with --device cuda --suite where there is one"
        return
    yield f"{result['product_teraflops']:12.1f}  TFLOP/s of a matrix product; then real tokens a second:"
    yield from map(gpu_suite.line, result["suite"])


def table(result: dict) -> Iterator[str]:
    """The result as lines to read."""
    on = result["machine"]
    yield f"{on['device']}; {on['cpu']} ({' '.join(on['flags'])}), {on['cores']} cores, {on['threads']} threads"
    yield f"load {on['load_before']}, {result['date']}, " + ", ".join(
        f"{name} {version}" for name, version in result["versions"].items()
    )
    for part, lines in (("speed", speed_lines), ("thread", thread_lines), ("loss", loss_lines)):
        if part in result:
            yield from ("", *lines(result[part]))
    yield from ("", *suite_lines(result), "")
    words = {True: "met", False: "MISSED", None: "nothing to measure"}
    for judged in result["targets"]:
        yield f"{words[judged['met']]}: {judged['figure']} {judged['value']}, target {judged['bound']}"


# The command


def check(paths: list[Path], device: str, suite: bool, tokenizer_model: str, output_file: str | None, options: dict):
    """Refuse what cannot work, before any work."""
    parts = options["parts"].split(",")
    reads = not suite and not READING.isdisjoint(parts)
    to_folder = output_file is not None and Path(output_file).is_dir()
    wrong = {
        f"--device must be cpu or cuda, got {device}": device in ("cpu", "cuda"),
        "--device cuda goes with --suite, the other figures are of the CPU": device != "cuda" or suite,
        f"--parts must be some of {','.join(PARTS)}, got {options['parts']}": set(parts) <= set(PARTS),
        "name at least one text of one sentence a line, or ask for --parts thread or --suite": bool(paths) or not reads,
        "--suite takes no texts, its samples are made up": not (suite and paths),
        f"{output_file} is a folder, the name of a file is needed": not to_folder,
    }
    for name, least in LEAST.items():
        wrong[f"--{name} must be {least} or more, got {options[name]}"] = options[name] >= least
    for name in ("models", "loss_model", "suite_model"):
        names = options[name].split(",") if name == "models" else [options[name]]
        said = f"--{name} must be layers x width, as 12x768 (from 128 on a multiple of 64), got {options[name]}"
        wrong[said] = all(map(training_parts.is_model, names))
    cli.require(wrong)
    if device == "cuda" and not torch.cuda.is_available():
        raise cli.StageError("torch finds no CUDA device here: leave --device out to measure the CPU")
    if reads and not tokenization.has_sentencepiece(tokenizer_model):
        raise cli.StageError(f"{tokenizer_model} has no {tokenization.MODEL_FILE}: name a folder of train_tokenizer.py")
    if reads:
        tokenization.load_sentencepiece(tokenizer_model)
    for path in paths:
        files.require_file(path, "name texts of one sentence a line")


def earlier_runs(output_file: str | None) -> list[dict]:
    """What the file holds already: each run is appended."""
    if output_file is None or not Path(output_file).exists():
        return []
    try:
        earlier = json.loads(Path(output_file).read_bytes())
    except ValueError:
        earlier = None
    if not isinstance(earlier, list):
        raise cli.StageError(f"{output_file} is no list of runs: name another --output_file")
    return earlier


def measure_suite(device: str, on: dict, options: dict, keep: Callable[[dict], None]) -> dict:
    """The suite on a device, kept after each of its rows: a lent machine may be gone at any time."""
    precision = "bf16" if device == "cuda" or "amx_bf16" in on["flags"] else "fp32"
    product = gpu_suite.matrix_product(device, precision, options["suite_product"])
    sizes = flops.Sizes(*training_parts.size_of(options["suite_model"]), options["suite_pieces"])
    setting = gpu_suite.Setting(device, precision, sizes, options["suite_samples"], options["suite_steps"])
    found = {"product_teraflops": round(product / 1e12, 3), "suite": []}
    for row in gpu_suite.run(setting, product, options["suite_seconds"]):
        found["suite"].append(row)
        keep(found)
    return found


def measure_parts(
    paths: list[Path], tokenizer_model: str, on: dict, options: dict, keep: Callable[[dict], None]
) -> dict:
    """The parts that were asked for, kept after each; without a GPU the suite's rows stay empty."""
    parts, found = options["parts"].split(","), {"suite": []}
    if "thread" in parts:
        cli.say(f"the main thread's work in {options['thread_steps']:,} steps")
        found["thread"] = training_parts.measure_thread(options["thread_steps"], options["rounds"])
        keep(found)
    if READING.isdisjoint(parts):
        return found
    with tempfile.TemporaryDirectory(prefix="bert-ja-bench-") as folder:
        cli.say("making samples")
        vocabulary = tokenization.vocabulary(tokenizer_model)
        columns = training_samples.make(Path(folder), paths, tokenizer_model)
        found["text"] = {"samples": len(columns), "inputs": list(map(files.describe, paths))}
        found["tokenizer"] = tokenization.tokenizer_facts(tokenizer_model)
        if "speed" in parts:
            fast = "amx_bf16" in on["flags"]
            found["speed"] = training_parts.measure_speed(columns, vocabulary, fast, options)
            keep(found)
        if "loss" in parts:
            found["loss"] = training_parts.measure_loss(columns, vocabulary, options["loss_model"], options["minutes"])
    return found


def keeper(run: dict, output_file: str | None) -> Callable[[dict], dict]:
    """A function that gives a run with what was found so far, and puts it behind the earlier ones of the file."""
    earlier = earlier_runs(output_file)

    def keep(found: dict) -> dict:
        result = run | found
        result["targets"] = targets(result)
        if output_file is not None:
            content = json.dumps([*earlier, result], ensure_ascii=False, indent=1) + "\n"
            files.write_bytes(output_file, content.encode())
        return result

    return keep


def main(
    *text_files: str,
    device: str = "cpu",
    suite: bool = False,
    tokenizer_model: str = "output/model",
    output_file: str | None = None,
    parts: str = "speed,thread,loss",
    rounds: int = 3,
    steps: int = 3,
    mean_tokens: float = 48,
    models: str = "12x768,6x384",
    thread_steps: int = 1000,
    minutes: float = 10,
    loss_model: str = "4x256",
    suite_model: str = "12x768",
    suite_pieces: int = 32_000,
    suite_samples: int = 256,
    suite_steps: int = 32,
    suite_seconds: float = 360,
    suite_product: int = 8192,
) -> None:
    """Measure how fast models train, beside the published step.

    Args:
        text_files: Texts of one sentence a line, a blank line after each document, also as .xz; none for --suite.
        device: Device of the suite, cpu or cuda; all other parts are figures of the CPU.
        suite: True measures every way to train a model on the device, and nothing else.
        tokenizer_model: Folder of the tokenizer, one of train_tokenizer.py.
        output_file: JSON to append the run to, with every measurement; when not given, the table is all.
        parts: What to measure, with commas: speed, thread (the main thread's own work), loss (time to a loss).
        rounds: Rounds in which ours and the baseline, or a run and a plain loop, take turns; medians are over these.
        steps: Optimizer steps of ours in a round; the baseline takes one.
        mean_tokens: Mean length of the samples whose speed is measured, in tokens.
        models: Models of speed, layers x width, with commas; the first is measured in bf16 too, where the CPU can.
        thread_steps: Optimizer steps over which the main thread's work is measured.
        minutes: Minutes that the published loop trains for the time to loss.
        loss_model: Model of the time to loss.
        suite_model: Model of the suite.
        suite_pieces: Size of the suite's vocabulary.
        suite_samples: Samples of an optimizer step of the suite's variants; those of other sizes go with it.
        suite_steps: Optimizer steps that are timed of each variant.
        suite_seconds: Seconds after which no variant of the suite is begun.
        suite_product: Rows and columns of the matrices whose product is timed beside the suite.
    """
    options = {"parts": parts, "rounds": rounds, "steps": steps, "mean_tokens": mean_tokens, "models": models}
    options |= {"thread_steps": thread_steps, "minutes": minutes, "loss_model": loss_model}
    options |= {"suite_model": suite_model, "suite_pieces": suite_pieces, "suite_samples": suite_samples}
    options |= {"suite_steps": suite_steps, "suite_seconds": suite_seconds, "suite_product": suite_product}
    paths = list(map(Path, text_files))
    check(paths, device, suite, tokenizer_model, output_file, options)
    training.quiet_start()
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
    on = fits.machine(device)
    run = {
        "command": runs.as_typed(["python3", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": on,
        "versions": files.versions("numpy", "pytorch-lightning", "torch", "transformers"),
        "about": ABOUT,
        "options": options,
    }
    keep = keeper(run, output_file)
    if suite:
        found = measure_suite(device, on, options, keep)
    else:
        found = measure_parts(paths, tokenizer_model, on, options, keep)
    print("\n".join(table(keep(found))))


if __name__ == "__main__":
    cli.run(main)
