"""Which choices of a recipe make the better model in the same time, beside the noise of several seeds?

Trains a small model by each of recipes.VARIANTS, as a user does, and measures bits per character of a held-out text
(evaluate_text.py) and JSTS (evaluate_jglue.py). Each run is added to --output_file as it ends; those that stand there
are not repeated, and one that was ended starts over, or with its measures where it was trained:

    python3 bench/bench_recipe.py --jglue_dir data/jglue --output_file bench/results/recipe.json

Equal wall time, exactly: on a shared machine a clock would give one variant more steps than another by chance. So the
time of an optimizer step is measured first, of all variants in turn, in one process, in several rounds; what counts is
the median of its ratio to its base's in the same round (see recipes.base_of). This is done once and kept with the
results. Each variant then trains for as many optimizer steps as take as long as the baseline's in --minutes, by these
ratios: so they are known before a run, as its schedule needs, a run can be repeated, several go on side by side, and
another machine can take some: it adds rounding to them and nothing else, and where each was taken stands in the
results. A step has equally many tokens in all variants but those that change just that. Making samples, drawing them
(which a process of its own does in a long run) and validation do not count.
"""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_ja import cli  # before torch, which reads what it sets in the environment

# isort: split
import torch
import yaml

from bench import fits, recipes, runs, training_parts
from bert_ja import files, tokenization, training
from bert_ja.dataset import Columns

ROOT = Path(__file__).resolve().parents[1]
LEAST = {"minutes": 0.01, "threads": 1, "max_sentences": 1, "max_seq_len": 16, "step_tokens": 64, "rounds": 1}
LEAST |= {"timed_steps": 1}
FEWEST = 4  # optimizer steps of a run
JGLUE = {"tasks": "jsts", "quick": True, "learning_rates": "3e-4", "epochs": 2}
MEASURES = {"bits_per_character": "bits/character", "jsts_spearman": "JSTS Spearman"}
ABOUT = (
    "steps: as many as take as long as the baseline's in the budget, by ratios: the median of a step's time beside "
    "that of the step it names (to) in the same round; all in turn in one process, the first step of each not counted",
    "on: where a time was measured or a run was taken; a run is its number of steps, whatever takes it",
    "runs: trainer.py, the seed is that of weights, dropout, order and masks; the samples are the same for all seeds",
    "bits/character: evaluate_text.py on the held-out text, less is better; JSTS Spearman: evaluate_jglue.py, a short "
    "fine-tuning, more is better",
    "difference: mean and standard deviation, over the seeds that both have, of a variant's run less that of its base "
    "with the same seed; the base of v2_... is v2, that of all others the baseline",
)


# What was measured before


class Results:
    """The comparisons of a file, of which one has the settings of this call; several processes may add to it."""

    def __init__(self, path: Path, settings: dict, facts: dict):
        self.path, self.settings, self.facts = path, settings, facts
        self.on = processor(facts["machine"])  # that of this process, of several machines that a comparison may have

    def _read(self) -> tuple[list[dict], dict]:
        """(all comparisons, the one with these settings, new where there is none)."""
        studies = read_studies(self.path)
        for study in studies:
            if study["settings"] == self.settings:
                return studies, study
        new = self.facts | {"settings": self.settings, "step": None, "runs": []}
        return [*studies, new], new

    @property
    def study(self) -> dict:
        return self._read()[1]

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict]:
        """The comparison, to be changed by one process at a time; written whole or not at all."""
        with alone(self.path.absolute().parent):
            studies, study = self._read()
            yield study
            files.write_bytes(self.path, (json.dumps(studies, ensure_ascii=False, indent=1) + "\n").encode())

    def has(self, name: str, seed: int) -> bool:
        """Whether a run of this very variant stands there."""
        return any((run["variant"], run["seed"]) == (name, seed) for run in current(self.study))


def read_studies(path: Path) -> list[dict]:
    """The comparisons of a file, [] where there is none. Raises StageError for a file of another kind."""
    if not path.exists():
        return []
    try:
        studies = json.loads(path.read_bytes())
    except ValueError:
        studies = None
    fields = {"settings", "step", "runs"}
    if not isinstance(studies, list) or not all(isinstance(study, dict) and fields <= set(study) for study in studies):
        raise cli.StageError(f"{path} holds no comparisons of recipes: name another --output_file")
    return studies


def current(study: dict) -> list[dict]:
    """The runs of variants that are still what they were."""
    known = {name: plain(variant.options()) for name, variant in recipes.VARIANTS.items()}
    return [run for run in study["runs"] if run["options"] == known.get(run["variant"])]


def processor(machine: dict) -> str:
    """What trains there, by its name: of fits.machine()."""
    return machine["cpu"] if machine["device"] == "cpu" else machine["device"]


def plain(value: dict) -> dict:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process of this bench is in such a block of this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# Stages


def is_made(samples: Path, part: str, settings: dict) -> bool:
    """Whether samples stand there, and are of the text, tokenizer and length of this comparison."""
    record = files.read_record(samples) or {"inputs": [], "tokenizer": None, "options": {"max_seq_len": None}}
    found = [file["sha256"] for file in record["inputs"]], record["tokenizer"], record["options"]["max_seq_len"]
    return found == ([settings["texts"][part]["sha256"]], settings["tokenizer"], settings["max_seq_len"])


def prepare_samples(
    variant: recipes.Variant, folder: Path, texts: dict[str, Path], given: dict, settings: dict
) -> None:
    """Make train.jsonl and valid.jsonl of a variant, in a folder of their own, where they do not stand there."""
    place = folder / "samples" / recipes.samples_name(variant)
    place.mkdir(parents=True, exist_ok=True)
    for part, raw in (("train", False), ("valid", True)):
        made = place / f"{part}.jsonl"
        options = {"filename": texts[part].absolute(), "tokenizer_model": Path(given["tokenizer_model"]).absolute()}
        options |= {"max_seq_len": given["max_seq_len"], "get_raw": raw, "output_file": made, **variant.samples}
        options |= {"num_workers": given["threads"]}
        if not is_made(made, part, settings):
            cli.say(f"making {made}")
            runs.run_stage([str(ROOT / "prepare_train_data.py"), *runs.options_of(options)], place, given["threads"])


def tokens_per_sample(samples: Path) -> float:
    counts = files.read_record(samples / "train.jsonl")["counts"]
    return counts["tokens"] / counts["samples"]


def is_trained(config: dict, run: Path, last: Path) -> bool:
    """Whether the run in this folder has all its steps, with this configuration and on these samples."""
    if not last.exists() or yaml.safe_load((run / "config.yaml").read_text()) != config:
        return False
    checkpoint, train_file = training.load_checkpoint(last), config["data"]["train_file"]
    same = checkpoint["provenance"]["samples"]["train"] == files.read_record(train_file)["outputs"][0]
    return same and checkpoint["global_step"] == config["trainer"]["max_steps"]


def train(config: dict, run: Path, threads: int) -> Path:
    """The last checkpoint of a run that is trained in a folder of its own, from the beginning unless it is there."""
    last = run / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    if is_trained(config, run, last):
        return last
    for name in ("lightning_logs", "jglue"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    runs.run_stage([str(ROOT / "trainer.py"), "--config", "config.yaml"], run, threads)
    return last


def measure_text(checkpoint: Path, text: Path, given: dict) -> float:
    """Bits per character of a held-out text, by evaluate_text.py."""
    folder = checkpoint.parents[3]
    options = {"text_file": text.absolute(), "max_sentences": given["max_sentences"], "accelerator": given["device"]}
    result, script = folder / "text_result.json", ROOT / "evaluate_text.py"
    runs.run_stage([str(script), str(checkpoint), *runs.options_of(options)], folder, given["threads"], result)
    return json.loads(result.read_bytes())["bits_per_character"]


def measure_jsts(checkpoint: Path, given: dict) -> float:
    """Spearman correlation of JSTS after a short fine-tuning, by evaluate_jglue.py."""
    folder = checkpoint.parents[3]
    options = {"data_dir": Path(given["jglue_dir"]).absolute(), **JGLUE, "precision": given["precision"]}
    options |= {"accelerator": given["device"], "output_dir": folder / "jglue"}
    command = [str(ROOT / "evaluate_jglue.py"), str(checkpoint), *runs.options_of(options)]
    runs.run_stage(command, folder, given["threads"])
    result = json.loads((folder / "jglue" / "jglue.json").read_bytes())
    return result["tasks"]["jsts"]["scores"]["spearman"]["valid"]["mean"]


# Time


def time_steps(names: list[str], scale: recipes.Scale, folder: Path, given: dict) -> dict:
    """{cost: its seconds a step and their ratio to those of its base in the same round}, in turn.

    `names` holds the base of each, see recipes.base_of. A ratio to the base is what counts where the two are compared,
    and holds where the base's ratio to the baseline was measured before, and on another machine.
    """
    vocabulary, measures, base_costs = tokenization.vocabulary(given["tokenizer_model"]), {}, {}
    for name in names:
        variant = recipes.VARIANTS[name]
        place = folder / "samples" / recipes.samples_name(variant)
        columns = Columns.open(place / "train.jsonl", files.read_record(place / "train.jsonl"))
        steps = recipes.built_steps(variant, scale, columns, vocabulary, given["timed_steps"] + 1)
        cost = recipes.cost_of(variant)
        measures.setdefault(cost, partial(recipes.time_of, variant, scale, steps, vocabulary))
        base_costs.setdefault(cost, recipes.cost_of(recipes.VARIANTS[recipes.base_of(name)]))
    each = runs.in_turn(measures, given["rounds"])
    return {
        cost: {"seconds": round(statistics.median(run["seconds"] for run in found), 4), "to": base_costs[cost]}
        | runs.ratio(found, each[base_costs[cost]], "seconds")
        for cost, found in each.items()
    }


def untimed(study: dict, names: list[str]) -> list[str]:
    """Variants, one for each cost, whose steps have no time yet."""
    known, found = set((study["step"] or {}).get("ratios", {})), {}
    for name in names:
        found.setdefault(recipes.cost_of(recipes.VARIANTS[name]), name)
    return [name for cost, name in found.items() if cost not in known]


def with_bases(names: list[str]) -> list[str]:
    """Each behind what it is compared with: v2_adamw -> baseline, v2, v2_adamw."""
    return list(dict.fromkeys([recipes.BASELINE, *map(recipes.base_of, names), *names]))


def ensure_times(results: Results, names: list[str], scale: recipes.Scale, folder: Path, given: dict) -> None:
    """Measure the steps of variants that have no time yet beside their base's; the baseline's in the budget once."""
    if missing := untimed(results.study, with_bases(names)):
        timed = with_bases(missing)
        cli.say(f"measuring the time of a step of {', '.join(timed)}")
        found = time_steps(timed, scale, folder, given)
        with results.changing() as study:
            base = found[recipes.cost_of(recipes.VARIANTS[recipes.BASELINE])]
            steps = max(FEWEST, round(60 * given["minutes"] / base["seconds"]))
            study["step"] = study["step"] or {"baseline_steps": steps, "ratios": {}}
            timed_here = {cost: time | {"on": results.on} for cost, time in found.items()}
            study["step"]["ratios"] = timed_here | study["step"]["ratios"]  # what is known stays


def ratio_of(study: dict, cost: str) -> float:
    """Time of a step beside the baseline's: 1.2 times that of a base which takes 1.1 times the baseline's -> 1.32."""
    time = study["step"]["ratios"][cost]
    return time["median"] * (1.0 if time["to"] == cost else ratio_of(study, time["to"]))


def steps_of(study: dict, variant: recipes.Variant) -> int:
    """Optimizer steps of a variant in the time of the baseline's: 600 at a ratio of 1.2 -> 500."""
    return max(FEWEST, round(study["step"]["baseline_steps"] / ratio_of(study, recipes.cost_of(variant))))


# One run


def take_run(name: str, seed: int, results: Results, scale: recipes.Scale, folder: Path, texts: dict, given: dict):
    """Train a variant with a seed, measure the model, and put the run into the results; its checkpoints go away."""
    variant, study = recipes.VARIANTS[name], results.study
    place, run = folder / "samples" / recipes.samples_name(variant), folder / "runs" / f"{name}-{seed}"
    steps = steps_of(study, variant)
    config = recipes.config(
        variant,
        scale,
        place.absolute(),
        Path(given["tokenizer_model"]).absolute(),
        tokens_per_sample(place),
        steps,
        seed,
    )
    cli.say(f"{name}, seed {seed}: {steps:,} optimizer steps")
    checkpoint = train(config, run, given["threads"]).absolute()
    content = training.load_checkpoint(checkpoint)
    (part,) = content["hardware"]
    found = {
        "variant": name,
        "seed": seed,
        "options": plain(variant.options()),
        "samples_per_step": config["data"]["batch_size"],
        "steps": steps,
        "seen": content["callbacks"]["Throughput"],
        "seconds": round(part["seconds"], 1),
        "on": results.on,
        "bits_per_character": measure_text(checkpoint, texts["test"], given),
        "jsts_spearman": measure_jsts(checkpoint, given),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    with results.changing() as study:
        study["runs"] = [old for old in study["runs"] if (old["variant"], old["seed"]) != (name, seed)] + [found]
    shutil.rmtree(run / "lightning_logs")
    cli.say(f"{name}, seed {seed}: " + ", ".join(f"{what} {found[key]:.4f}" for key, what in MEASURES.items()))


def take_runs(names: list[str], seeds: list[int], results: Results, *others) -> list[tuple[str, int]]:
    """All runs that do not stand in the results, seed by seed; those that another process is at are left to it."""
    left = []
    for seed in seeds:
        for name in names:
            run = others[1] / "runs" / f"{name}-{seed}"
            run.mkdir(parents=True, exist_ok=True)
            try:
                with files.locked(run):
                    if not results.has(name, seed):
                        take_run(name, seed, results, *others)
            except files.InUse:
                left.append((name, seed))
    return left


# The table


def mean_and_sd(values: list[float]) -> tuple[float, float | None]:
    """Of a sample; one value has no standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def by_variant(study: dict) -> dict[str, dict[int, dict]]:
    """{variant: {seed: run}}, in the order of the variants."""
    found: dict[str, dict[int, dict]] = {}
    for run in current(study):
        found.setdefault(run["variant"], {})[run["seed"]] = run
    return {name: found[name] for name in recipes.VARIANTS if name in found}


def summary(study: dict) -> dict[str, dict]:
    """{variant: runs, steps, and of each measure mean, sd, and mean and sd of the difference to its base}."""
    found, rows = by_variant(study), {}
    for name in found:
        by_seed, base = found[name], found.get(recipes.base_of(name), {})
        rows[name] = {"runs": len(by_seed), "steps": next(iter(by_seed.values()))["steps"]}
        for measure in MEASURES:
            mean, sd = mean_and_sd([run[measure] for run in by_seed.values()])
            differences = [by_seed[seed][measure] - base[seed][measure] for seed in by_seed if seed in base]
            to_base = mean_and_sd(differences) if differences and name != recipes.BASELINE else None
            rows[name][measure] = {"mean": mean, "sd": sd, "difference": to_base}
    return rows


def cell(mean: float, sd: float | None, sign: str = "") -> str:
    """(4.25, 0.08) -> "4.250 ± 0.080", (4.25, None) -> "4.250"."""
    return f"{mean:{sign}.3f}" + (f" ± {sd:.3f}" if sd is not None else "")


def elsewhere(study: dict) -> Iterator[str]:
    """For each other machine: "; 6 of 27 runs were taken, 2 of 9 times of steps measured on: Intel Xeon"."""
    runs = Counter(run["on"] for run in current(study))
    times = Counter(time["on"] for time in study["step"]["ratios"].values())
    for name in sorted({*runs, *times} - {processor(study["machine"])}):
        taken = [f"{runs[name]} of {runs.total()} runs were taken"] if runs[name] else []
        timed = [f"{times[name]} of {times.total()} times of steps measured"] if times[name] else []
        yield f"; {', '.join([*taken, *timed])} on: {name}"


def measured_on(study: dict) -> str:
    """What a comparison was made with, in words."""
    on, settings = study["machine"], study["settings"]
    cpu = f"{settings['threads']} of {on['cores']} cores of an {on['cpu']} ({', '.join(on['flags'])})"
    return (
        f"{settings['model'].replace('x', ' layers of width ')}, {settings['step_tokens']:,} tokens a step, "
        f"{settings['precision']}, {settings['minutes'] * 60:.0f} seconds of optimizer steps on "
        f"{cpu if settings['device'] == 'cpu' else 'one ' + on['device']}" + "".join(elsewhere(study))
    )


def table(study: dict) -> Iterator[str]:
    """A comparison as a Markdown table: means and sample standard deviations over seeds."""
    heads = [head for what in MEASURES.values() for head in (what, "difference")]
    yield f"| {' | '.join(['variant', 'seeds', 'steps', *heads])} |"
    yield "|---|" + "---:|" * (2 + len(heads))
    for name, row in summary(study).items():
        cells = [f"`{name}`: {recipes.VARIANTS[name].about}", f"{row['runs']}", f"{row['steps']:,}"]
        for measure in MEASURES:
            cells.append(cell(row[measure]["mean"], row[measure]["sd"]))
            cells.append(cell(*row[measure]["difference"], "+") if row[measure]["difference"] else "")
        yield f"| {' | '.join(cells)} |"


# The command


def check(given: dict, texts: dict[str, Path]) -> None:
    """Refuse what cannot work, before any work."""
    names, seeds, known = given["variants"].split(","), given["seeds"].split(","), ", ".join(recipes.VARIANTS)
    precisions = list(fits.PRECISIONS.values())
    wrong = {
        f"--variants must be some of {known}, got {given['variants']}": set(names) <= set(recipes.VARIANTS),
        f"--seeds must be whole numbers with commas, got {given['seeds']}": all(map(str.isdecimal, seeds)),
        f"--precision must be one of {', '.join(precisions)}, got {given['precision']}": (
            given["precision"] in precisions
        ),
        f"--lr must be above 0, got {given['lr']}": given["lr"] > 0,
    }
    for name, least in LEAST.items():
        wrong[f"--{name} must be {least} or more, got {given[name]}"] = given[name] >= least
    wrong[f"--device must be cpu or cuda, got {given['device']}"] = given["device"] in recipes.ACCELERATORS
    said = f"--model must be layers x width, as 4x256 (from 128 on a multiple of 64), got {given['model']}"
    cli.require(wrong | {said: training_parts.is_model(given["model"])})
    if given["device"] == "cuda" and not torch.cuda.is_available():
        raise cli.StageError("torch sees no GPU here: pass --device cpu")
    tokenization.vocabulary(given["tokenizer_model"])
    for part, path in texts.items():
        files.require_text(path, f"make it with get_jawiki.sh or prepare_corpus.py, or name another --{part}_file")
    if not Path(given["jglue_dir"]).is_dir():
        raise cli.StageError(f"{given['jglue_dir']} is not a folder: name that of JGLUE with --jglue_dir")
    if Path(given["output_file"]).is_dir():
        raise cli.StageError(f"{given['output_file']} is a folder, the name of a file is needed")
    read_studies(Path(given["output_file"]))


def settings_of(given: dict, texts: dict[str, Path]) -> dict:
    """What two runs must share to be compared: all but which variants and seeds are taken, and where files stand."""
    names = ("model", "max_seq_len", "step_tokens", "lr", "precision", "minutes", "device", "threads", "max_sentences")
    return plain(
        {name: given[name] for name in names}
        | {"texts": {part: files.describe(path) for part, path in texts.items()}}
        | {"tokenizer": tokenization.tokenizer_facts(given["tokenizer_model"]), "jglue": JGLUE}
    )


def main(
    train_file: str = "data/train.txt",
    valid_file: str = "data/valid.txt",
    test_file: str = "data/test.txt",
    tokenizer_model: str = "output/model",
    jglue_dir: str = "data/jglue",
    variants: str = ",".join(recipes.VARIANTS),
    seeds: str = "1,2,3",
    minutes: float = 5,
    threads: int = 1,
    precision: str = "32-true",
    device: str = "cpu",
    model: str = "4x256",
    max_seq_len: int = 128,
    step_tokens: int = 2048,
    lr: float = 1e-3,
    max_sentences: int = 300,
    timing_only: bool = False,
    timed_steps: int = 3,
    rounds: int = 5,
    output_file: str = "bench/results/recipe.json",
    work_dir: str = "recipe",
) -> None:
    """Compare choices of the recipe on a small model in equal time.

    Args:
        train_file: Text to train on, one sentence a line, a blank line after each document.
        valid_file: Text whose loss is shown at the end of a run; nothing is chosen by it.
        test_file: Held-out text of the bits per character.
        tokenizer_model: Folder of the tokenizer, one of train_tokenizer.py.
        jglue_dir: Folder of JGLUE, with jsts-v1.3 in it.
        variants: Variants to compare, with commas; with the baseline among them, or in the results already.
        seeds: Seeds of the runs, with commas; all variants with the first come first.
        minutes: Minutes in which the baseline takes its optimizer steps, as timed at first; the others as many; what
            measures a model comes on top.
        threads: Threads of a run; two runs go on side by side by calling this twice.
        precision: Precision of training and fine-tuning, 32-true or bf16-mixed; the latter is slow where the CPU has
            neither avx512_bf16 nor amx_bf16.
        device: Device to train and measure on, cpu or cuda; several runs may share a GPU, once the steps are timed.
        model: Model, layers x width.
        max_seq_len: Longest sample in tokens.
        step_tokens: Tokens of an optimizer step, about.
        lr: Learning rate of the baseline.
        max_sentences: Sentences of the held-out text that are measured.
        timing_only: Measure the time of the variants' optimizer steps, and train nothing.
        timed_steps: Optimizer steps of a variant that are timed in a round.
        rounds: Rounds in which the steps of all variants are timed.
        output_file: JSON that holds the results, and gets each run as it ends.
        work_dir: Folder for samples and runs; a run's checkpoints are removed when it is measured.
    """
    given = dict(locals())  # the options by their names
    texts = {"train": Path(train_file), "valid": Path(valid_file), "test": Path(test_file)}
    check(given, texts)
    training.quiet_start()
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
    torch.set_num_threads(threads)
    folder, names, on = Path(work_dir).absolute(), variants.split(","), fits.machine(device)
    facts = {
        "command": runs.as_typed(["python3", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": on,
        "versions": files.versions("numpy", "pytorch-lightning", "torch", "transformers"),
        "about": ABOUT,
    }
    results = Results(Path(output_file), settings_of(given, texts), facts)
    scale = recipes.Scale(*training_parts.size_of(model), max_seq_len, step_tokens, lr, precision, device)
    with alone(folder):
        for name in with_bases(names):
            prepare_samples(recipes.VARIANTS[name], folder, texts, given, results.settings)
        ensure_times(results, names, scale, folder, given)
    wanted = [] if timing_only else list(map(int, seeds.split(",")))
    left = take_runs(names, wanted, results, scale, folder, texts, given)
    if left:
        cli.say("left to another process: " + ", ".join(f"{name} with seed {seed}" for name, seed in left))
    print(f"{measured_on(results.study)}:\n")
    print("\n".join(table(results.study)))


if __name__ == "__main__":
    cli.run(main)
