"""Every sentence of README.md that can be checked: commands run or parse, files exist, numbers stand in their file."""

import inspect
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from statistics import mean

import pytest
from conftest import ROOT
from torch.distributed.run import get_args_parser

import trainer
from bench import bench_evaluation, bench_recipe, gpu_suite, recipes
from bert_ja import cli, resuming
from bert_ja.dataset import _parse

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```sh\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
REFERENCE = ROOT.parent / "shared" / "reference" / "train-bert-readme.md"


def parse_script(command: str) -> None:
    """Fail unless the script's own command line accepts this command."""
    words = shlex.split(command.partition(" >")[0])[1:]
    script, arguments = words[0], words[1:]
    if script == "trainer.py":
        return parse_trainer(arguments)
    module = {}
    source = (ROOT / script).read_text(encoding="utf-8").replace("cli.run(main)", "pass")
    exec(compile(source, script, "exec"), module)
    cli.parse(module["main"], arguments, script)


def parse_trainer(arguments: list[str]) -> None:
    arguments, _ = resuming.take_option(arguments)
    name = arguments[arguments.index("--config") + 1] if "--config" in arguments else "config.yaml"
    assert name == "config.yaml" or (ROOT / name).is_file()
    with pytest.raises(SystemExit) as ended:
        trainer.main([*arguments, "--print_config"] if "config.yaml" not in arguments else ["--print_config"])
    assert ended.value.code == 0


def options_of(words: list[str]) -> dict[str, str]:
    """{"--a": "1", "--b": "2"} of ["--a", "1", "--b=2"]."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return {flag: value for flag, value in zip(words, words[1:], strict=False) if flag.startswith("--")}


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("python3 ") and not c.startswith("python3 -m")]
)
def test_every_python_command_is_accepted_by_its_script(command):
    parse_script(command)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_command_is_known(command):
    target = shlex.split(command)[1]
    planned = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("torchrun ")])
def test_torchrun_starts_a_process_for_each_device(command):
    words = shlex.split(command)
    place = words.index("trainer.py")
    launched, asked = options_of(words[1:place]), options_of(words[place + 1 :])
    get_args_parser().parse_args(words[1:])
    parse_trainer(words[place + 1 :])
    assert asked["--trainer.devices"] == launched["--nproc_per_node"]
    assert asked.get("--trainer.num_nodes", "1") == launched.get("--nnodes", "1")
    assert samples_per_step(asked) == 256  # as the published run


def samples_per_step(asked: dict[str, str]) -> int:
    devices = int(asked["--trainer.devices"]) * int(asked.get("--trainer.num_nodes", 1))
    return devices * int(asked["--data.batch_size"])


def calls_of_srun(folder: Path) -> list[list[str]]:
    """The arguments of srun when job.sh is run twice as job 4711: srun ends by 143 with a checkpoint, then by 0."""
    for name, body in (
        ("srun", "mkdir -p lightning_logs/version_4711/checkpoints; [ $(wc -l < srun.txt) -eq 1 ] && exit 143; exit 0"),
        ("scontrol", "exit 0"),
    ):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {name}.txt\n{body}\n')
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    ended = [subprocess.run(["bash", "job.sh"], cwd=folder, env=environment).returncode for _ in range(2)]
    assert ended == [143, 0]  # or Slurm takes a run that is done for one that failed
    return [shlex.split(line) for line in (folder / "srun.txt").read_text().splitlines()]


def test_the_batch_script_asks_for_a_task_for_each_device(tmp_path):
    (script,) = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)
    granted = options_of(re.findall(r"^#SBATCH (.*)", script, re.MULTILINE))
    first, again = calls_of_srun(tmp_path)
    launched, arguments = first[: first.index("trainer.py")], first[first.index("trainer.py") + 1 :]
    assert launched == ["--kill-on-bad-exit=1", "--cpus-per-task=4", "python3"]
    asked = options_of(arguments)
    parse_trainer(arguments)
    assert again == [*launched, "trainer.py", "--resume", "lightning_logs/version_4711"]
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 4711\n"  # behind the first, which ended by SIGTERM
    assert granted == {
        "--signal": "TERM@120",
        "--nodes": asked["--trainer.num_nodes"],
        **dict.fromkeys(("--ntasks-per-node", "--gpus-per-node"), asked["--trainer.devices"]),
    }
    assert samples_per_step(asked) == 256


def test_no_other_command_stands_in_the_readme():
    others = [c for c in COMMANDS if not c.startswith(("python3 ", "make ", "torchrun "))]
    first = ["bash get_jawiki.sh latest --contact you@example.org", "tensorboard --logdir lightning_logs"]
    assert others[:2] == first
    assert [c.split()[0] for c in others[2:]] == ["git", "git", "cp", *["git"] * 4]  # test_hub.py runs them


@pytest.mark.skipif(not REFERENCE.exists(), reason="the published procedure is not on this machine")
def test_every_command_of_the_published_procedure_is_accepted():
    """But trainer.py --config config.yaml, whose keys have new names; test_training.py has its error."""
    published = re.findall(
        r"^\(container\)\$ (python3 \w+\.py .*)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE
    )
    scripts = [shlex.split(command)[1] for command in published]
    assert set(scripts) == {"train_tokenizer.py", "prepare_train_data.py", "trainer.py", "test.py", "export_model.py"}
    for command in published:
        parse_script(command.replace(" >", " > "))


def test_the_default_paths_are_the_published_ones():
    expected = {
        "train_tokenizer.py": {"spm_model_dir": "output/spm", "model_dir": "output/model", "vocab_size": 32000},
        "prepare_train_data.py": {"tokenizer_model": "output/model", "max_seq_len": 512, "buffer_size": 10000},
        "export_model.py": {"output_dir": "model"},
        "convert_tokenizer.py": {"spm_model": "output/spm/sp.model", "output_dir": "model"},
    }
    for script, defaults in expected.items():
        module = {}
        exec((ROOT / script).read_text(encoding="utf-8").replace("cli.run(main)", "pass"), module)
        parameters = inspect.signature(module["main"]).parameters
        shown = {name: parameters[name].default for name in defaults}
        if script == "convert_tokenizer.py":
            shown["spm_model"] = shown["spm_model"] or "output/spm/sp.model"
        assert shown == defaults


def test_the_tree_names_every_file():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tree = README[README.index("```text") :]
    for path in filter(None, tracked):
        folder = path.split("/")[0]
        if folder == "bert_ja" and path != "bert_ja/__init__.py" or "/" not in path and not path.startswith("."):
            assert f"\n{path} " in tree, path
    for name in re.findall(r"^([\w./-]+\.(?:py|sh|md|toml|txt)|Makefile|Dockerfile|LICENSE) ", tree, re.MULTILINE):
        assert (ROOT / name).is_file(), name


def test_the_costs_of_the_stages_are_the_measured_ones():
    """One row a stage of the table, against the file that quickstart.py --costs_file wrote."""
    measured = json.loads((ROOT / "bench" / "results" / "quickstart.json").read_text())["stages"]
    first = {}
    for cost in measured:
        first.setdefault(shlex.split(cost["command"])[1].removeprefix("../"), cost)
    rows = re.findall(r"^\| `(\w+\.\w+)` \|.*\| ([\d.]+) s \| ([\d,]+) MB \|$", README, re.MULTILINE)
    assert [row[0] for row in rows] == list(first)
    for script, seconds, megabytes in rows:
        assert float(seconds) == first[script]["seconds"]
        assert int(megabytes.replace(",", "")) == first[script]["peak_megabytes"]


def test_the_figures_of_extraction_are_the_measured_ones():
    measured = json.loads((ROOT / "bench" / "results" / "extract.json").read_text(encoding="utf-8"))
    runs, quality, projection, ratios = (measured[key] for key in ("runs", "quality", "projection", "ratios"))
    both = ("ours", "wikiextractor")
    rows = [["MB of XML per CPU second", *(f"{runs[t]['median']['megabytes_per_cpu_second']:.2f}" for t in both)]]
    for fault in ("（）", "「」", "formula_", "codice_"):
        counts = (quality[tool]["per_million_characters"][fault] for tool in both)
        rows.append([f"`{fault}` per million characters", *(f"{count:.2f}" for count in counts)])
    for name in ("lang", "仮リンク"):
        shares = (quality[tool]["text_kept"][name]["percent"] for tool in both)
        rows.append([f"text in `{{{{{name}}}}}` kept", *(f"{share:.2f} %" for share in shares)])
    for cores in (2, 16):
        found = projection[f"{cores}_cores"]
        rows.append([f"{cores} cores", f"{found['minutes']} min", found["arithmetic"]])
    for row in rows:
        assert f"| {' | '.join(row)} |\n" in README
    for name in ("rate_of_ours_to_wikiextractor", "speedup_of_2_workers"):
        assert f" {ratios[name]['median']:.2f} times as fast " in README


def test_the_figures_of_samples_are_the_measured_ones():
    measured = json.loads((ROOT / "bench" / "results" / "samples.json").read_text(encoding="utf-8"))
    making, drawing = measured["making"], measured["drawing"]
    names = ("masked_1_worker", "masked_baseline", "plain_1_worker", "plain_baseline")
    rates = {name: making["runs"][name]["median"]["per_cpu_second"] for name in names}
    drawn = drawing["runs"]["ours"]["median"]["draw_256"], drawing["runs"]["baseline"]["median"]["per_cpu_second"]
    rows = [
        ("made, `--get_raw True`", rates["masked_1_worker"], rates["masked_baseline"], making, "masked_to_baseline"),
        ("made, `--get_raw False`", rates["plain_1_worker"], rates["plain_baseline"], making, "plain_to_baseline"),
        ("drawn, masked and packed, 256 a batch", *drawn, drawing, "draw_256_to_baseline"),
    ]
    for what, ours, published, part, ratio in rows:
        assert f"| {what} | {ours:,.0f} | {published:,.0f} | {part['ratios'][ratio]['median']:.1f} |\n" in README
    ratios = {name: ratio["median"] for name, ratio in making["ratios"].items()}
    assert f"samples of {making['tokens_per_sample']} tokens" in README
    assert (
        f"{ratios['plain_to_encode']:.0%} of the rate at which SentencePiece alone encodes".replace("%", " %") in README
    )
    masked, plain = (ratios[f"{kind}_speedup_of_2_workers"] for kind in ("masked", "plain"))
    assert f"Two workers are {masked:.2f} and {plain:.2f} times as fast as one" in README
    assert f"takes {measured['disk']['bytes']:.0f} bytes instead of {measured['disk']['baseline_bytes']:,.0f}" in README
    a_second = making["samples"] / making["runs"]["plain_2_workers"]["median"]["seconds"]
    assert f"20 M samples at {a_second:,.0f} a second, with 2 workers: {20e6 / a_second / 60:.1f} min" in README


TRAINING = ROOT / "bench" / "results" / "training.json"
EVALUATION = ROOT / "bench" / "results" / "evaluation.json"
RECIPE = ROOT / "bench" / "results" / "recipe.json"
MODELS = {"12x768": "BERT base", "6x384": "6 layers, 384 wide"}


def newest(runs: list[dict], part: str) -> dict | None:
    """The newest run that measured a part; a CPU's suite is none of a GPU."""
    found = [run for run in runs if run.get(part) and (part != "suite" or run["machine"]["device"] != "cpu")]
    return found[-1] if found else None


def speed_lines(runs: list[dict]) -> list[str]:
    """Rows of the table: our tokens a second, the published step's, and their ratio, each of the newest run with it."""
    run = newest(runs, "speed")
    lines = [
        f"{run['speed']['samples']} samples of {run['speed']['tokens_per_sample']} tokens",
        f"on {run['machine']['cores']} cores of an {run['machine']['cpu']}",
        "| real tokens a second | ours | published | ratio |\n|---|---|---|---|",
    ]
    rows, measured = {}, [run for run in runs if run.get("speed")]
    for run in measured:
        for model, found in run["speed"]["models"].items():
            for ratio, value in found["ratios"].items():
                ours, published = ratio.split("_to_")
                rates = (f"{found['runs'][name]['median']['tokens_per_second']:,.0f}" for name in (ours, published))
                precision = f"{ours.removeprefix('ours_')} beside {published.removeprefix('published_')}"
                amx = ", AMX" if "bf16" in precision and "amx_bf16" in run["machine"]["flags"] else ""
                row = f"| {MODELS.get(model, model)}, {precision}{amx} | {' | '.join(rates)} | {value['median']:.1f} |"
                rows[model, ratio] = row
    last = [run["speed"]["models"][model]["ratios"][ratio] for run in measured if model in run["speed"]["models"]]
    before, now = (f"{each['least']:.1f} to {each['most']:.1f}" for each in last[-2:])
    return [*lines, *rows.values(), f"gave {now}, earlier ones of attention in longer rows {before}"]


def suite_lines(run: dict) -> list[str]:
    """Rows of the variants of a GPU that were measured."""
    head = "| way to train | real tokens a second | MFU | of a matrix product | 210,000 steps |"
    lines = [f"{head}\n|---|---|---|---|---|"]
    for row in run["suite"]:
        if "skipped" not in row:
            cut = f"{row['step']} in {row['parts']}" if row["parts"] > 1 else f"{row['step']}"
            way = f"{row['kind']}, {cut} samples of {row['length']} tokens, dropout {row['dropout']}"
            way += f", {row['attention']}" + (", compiled" if row["compile"] else "")
            way += "" if gpu_suite.replayed(row) else ", launched one by one"
            minutes = "" if row["published_run_minutes"] is None else f"{row['published_run_minutes']:.0f} min"
            shares = f"{row['mfu']:.1%} | {row['of_product']:.1%}".replace("%", " %")
            lines.append(f"| {way} | {row['tokens_per_second']:,} | {shares} | {minutes} |")
    return lines


def training_lines(runs: list[dict]) -> list[str]:
    """What README.md says of training, from bench/results/training.json: the lines to paste are these."""
    lines = []
    if newest(runs, "speed"):
        lines += speed_lines(runs)
    if run := newest(runs, "thread"):
        own, machine = run["thread"]["wall_milliseconds"], run["machine"]
        lines.append(
            f"the main thread's own work takes {own:.2f} ms an optimizer step of {run['thread']['samples_per_step']} "
            f"samples ({machine['cores']} cores of an {machine['cpu']})"
        )
    if (run := newest(runs, "loss")) and run["loss"]["reached"]:
        measured = run["loss"]
        lines.append(
            f"reaches the loss of {measured['published']['seconds'] / 60:.1f} published minutes in "
            f"{measured['ratio']:.1%} of the time".replace("%", " %")
        )
    if run := newest(runs, "suite"):
        lines += suite_lines(run)
    return lines


@pytest.mark.skipif(not TRAINING.exists(), reason="training was not measured yet")
def test_the_figures_of_training_are_the_measured_ones():
    text = " ".join(README.split())
    for line in training_lines(json.loads(TRAINING.read_text(encoding="utf-8"))):
        assert f"{line}\n" in README if line.startswith("|") else line in text, line


@pytest.mark.skipif(not EVALUATION.exists(), reason="no model was compared with its twin yet")
def test_the_scores_beside_random_weights_are_the_measured_ones():
    content = json.loads(EVALUATION.read_text(encoding="utf-8"))
    sizes = content["model"]
    said = f"({sizes['num_hidden_layers']} layers of width {sizes['hidden_size']}, {sizes['vocab_size']:,} pieces)"
    assert said in " ".join(README.split())
    assert "\n".join(bench_evaluation.table(content)) in README


@pytest.mark.skipif(not RECIPE.exists(), reason="no recipes were compared yet")
def test_the_comparisons_of_recipes_are_the_measured_ones():
    for study in bench_recipe.read_studies(RECIPE):
        assert f"{bench_recipe.measured_on(study)}:" in " ".join(README.split())
        assert "\n".join(bench_recipe.table(study)) in README


@pytest.mark.skipif(not RECIPE.exists(), reason="no recipes were compared yet")
def test_what_is_said_of_the_recipes_is_measured():
    """Of each pair of variants that the page compares, which is ahead, and for every seed where it says so."""
    of = {study["settings"]["device"]: bench_recipe.by_variant(study) for study in bench_recipe.read_studies(RECIPE)}

    def bits_of(name: str) -> dict[int, float]:
        found = {seed: run["bits_per_character"] for seed, run in of["cpu"][name].items()}
        assert len(found) >= 3
        return found

    def ahead(better: str, worse: str) -> bool:
        found, others = bits_of(better), bits_of(worse)
        return all(found[seed] < others[seed] for seed in found | others)

    for name in ("v2_adamw", "v2_mask_15", "v2_mask_falling", "v2_words", "v2_lr_half"):
        assert ahead("v2", name), name
    for name in ("v2_constant", "v2_lr_2x", "v2_pairs"):
        assert ahead(name, "v2"), name
    nsp, without = bits_of("v2_nsp"), bits_of("v2")
    assert min(nsp[seed] - without[seed] for seed in nsp) < 0 < max(nsp[seed] - without[seed] for seed in nsp)
    assert ahead("v2_adam", "v2_adamw")
    rates = {
        "adamw": ("v2_adamw_half", "v2_adamw", "v2_adamw_2x", "v2_adamw_4x"),
        "muon": ("v2_lr_half", "v2", "v2_lr_2x", "v2_lr_4x"),
    }
    best = {optimizer: min(names, key=lambda name: mean(bits_of(name).values())) for optimizer, names in rates.items()}
    assert best == {"adamw": "v2_adamw", "muon": "v2_lr_2x"}
    assert recipes.VARIANTS["v2_lr_2x"].lr == 4 * recipes.VARIANTS["v2_adamw"].lr
    assert recipes.VARIANTS["v2_lr_half"].lr == recipes.VARIANTS["v2_adamw"].lr
    assert ahead("v2_lr_2x", "v2_adamw") and ahead("v2_adamw", "v2_lr_half")
    steps = {name: {run["steps"] for run in of["cpu"][name].values()} for name in ("v2_lr_2x", "v2_adamw")}
    assert max(steps["v2_lr_2x"]) < min(steps["v2_adamw"])
    tokens = {at: mean(run["seen"]["tokens"] for runs in of[at].values() for run in runs.values()) for at in of}
    assert round(tokens["cuda"] / tokens["cpu"]) == 10
    card = {name: list(runs.values()) for name, runs in of["cuda"].items()}
    bits = {name: min(run["bits_per_character"] for run in found) for name, found in card.items()}
    assert bits["muon_2x"] == min(bits.values())
    untrained = {"lr_2x", "literature"}
    assert min(bits[name] for name in untrained) > 1.4 * max(bits[name] for name in set(bits) - untrained)
    assert bits["mask_30"] < bits["mask_falling"]
    assert bits["baseline"] < bits["linear"]
    assert max(bits["mask_30"], bits["none"]) < bits["baseline"] < bits["whole_words"]
    scores: dict[bool, list[float]] = {True: [], False: []}
    for name in set(card) - untrained:
        for run in card[name]:
            scores[run["options"]["samples"]["objective"] == "nsp"].append(run["jsts_spearman"])
    assert min(scores[True]) > max(scores[False])


def test_the_sample_lines_of_the_formats_are_valid(texts):
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"```text\n(.*?)\n```", page).group(1)
    assert sentence in (texts / "jawiki.txt").read_text(encoding="utf-8").split("\n")
    index, *samples = re.findall(r"```json\n(.*?)\n```", page)
    assert json.loads(index) in [json.loads(row) for row in (texts / "jawiki.index.jsonl").read_text().splitlines()]
    fields = [set(_parse(line.encode(), "README")[0]) for line in samples]
    both = {"input_ids", "token_type_ids"}
    paired = both | {"next_sentence_label"}
    assert fields == [paired, paired | {"labels"}, both, paired | {"word_starts"}]
