"""The variants of a recipe, what they are compared by, and the comparison once on tiny models."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, stage
from evaluations import write_jsts
from properties import every
from texts import text

import trainer
from bench import bench_recipe, recipes, runs
from bert_ja import files, tokenization
from bert_ja.cli import StageError
from bert_ja.dataset import Columns

SCALE = recipes.Scale(layers=1, width=32, max_seq_len=64, step_tokens=512, lr=1e-3, precision="32-true", device="cpu")
BASELINE = recipes.VARIANTS[recipes.BASELINE]
ONE_CHANGE = {  # of each variant, what differs from the published recipe
    "segments": {"unit": "segment"},
    "none": {"objective": "none", "unit": "segment"},
    "sop": {"objective": "sop"},
    "sop_segments": {"objective": "sop", "unit": "segment"},
    "mask_30": {"mlm_probability": 0.3},
    "mask_falling": {"mlm_probability": 0.3, "mlm_probability_end": 0.15},
    "whole_words": {"whole_word_mask": True},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "linear": {"lr_schedule": "linear"},
    "cosine": {"lr_schedule": "cosine"},
    "lr_2x": {"lr": 2.0},
    "lr_4x": {"lr": 4.0},
    "batch_half": {"tokens": 0.5},
    "batch_double": {"tokens": 2.0},
    "dropout_0": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "muon": {"optimizer": "muon", "weight_decay": 0.01},
    "muon_2x": {"optimizer": "muon", "weight_decay": 0.01, "lr": 2.0},
}
V2_CHANGE = {  # of each variant that changes v2, what differs from it
    "literature": {"whole_word_mask": True, "optimizer": "adamw"},
    "v2_adamw": {"optimizer": "adamw", "lr": 1.0},
    "v2_adamw_half": {"optimizer": "adamw", "lr": 0.5},
    "v2_adamw_2x": {"optimizer": "adamw"},
    "v2_adamw_4x": {"optimizer": "adamw", "lr": 4.0},
    "v2_adam": {"optimizer": "adam", "weight_decay": 0.0, "lr": 1.0},
    "v2_words": {"whole_word_mask": True},
    "v2_mask_15": {"mlm_probability": 0.15},
    "v2_mask_falling": {"mlm_probability_end": 0.15},
    "v2_nsp": {"objective": "nsp"},
    "v2_pairs": {"objective": "nsp", "unit": "sentence"},
    "v2_constant": {"lr_schedule": "constant"},
    "v2_dropout": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "v2_lr_half": {"lr": 1.0},
    "v2_lr_2x": {"lr": 4.0},
    "v2_lr_4x": {"lr": 8.0},
}


def flat(variant: recipes.Variant) -> dict:
    """{"objective": "nsp", ..., "lr": 1.0}"""
    return variant.samples | variant.model | variant.data | {"tokens": variant.tokens, "lr": variant.lr}


# The variants


def changes(name: str, base: str) -> dict:
    """What differs between two variants."""
    usual = flat(recipes.VARIANTS[base])
    return {option: value for option, value in flat(recipes.VARIANTS[name]).items() if value != usual[option]}


def test_each_variant_changes_one_thing_of_the_published_recipe_or_of_v2():
    """Weight decay goes with an optimizer that has it; segments go with one that has no pairs."""
    of_v2 = {name: changes(name, "v2") for name in ("v2", *V2_CHANGE)}
    assert of_v2 == {"v2": {}} | V2_CHANGE
    found = {name: changes(name, recipes.BASELINE) for name in recipes.VARIANTS if name not in of_v2}
    assert found == {recipes.BASELINE: {}} | ONE_CHANGE
    assert len(changes("v2", recipes.BASELINE)) == 9
    assert len({str(flat(variant)) for variant in recipes.VARIANTS.values()}) == len(recipes.VARIANTS)
    with pytest.raises(TypeError, match="unknown options of a variant: mask"):
        recipes.changed("", mask=0.3)


def test_v2_is_the_shipped_configuration():
    """But for sizes, steps and learning rate, which are those of a large model."""
    shipped, variant = yaml.safe_load((ROOT / "configs" / "base-v2.yaml").read_text()), recipes.VARIANTS["v2"]
    scaled = ("lr", "num_warmup_steps", "compile")
    assert {name: value for name, value in shipped["model"].items() if name not in scaled} == variant.model
    assert shipped["data"]["mlm_probability"] == variant.data["mlm_probability"]
    assert shipped["data"].get("mlm_probability_end") == variant.data["mlm_probability_end"]
    comment = (ROOT / "configs" / "base-v2.yaml").read_text().partition("seed_everything")[0]
    assert "prepare_train_data.py --objective none, for train.txt" in comment
    assert variant.samples == {"objective": "none", "unit": "segment", "whole_word_mask": False}


@pytest.mark.parametrize("name", every(4, recipes.VARIANTS))
def test_every_variant_is_a_configuration_of_the_real_command_line(name, tmp_path, capsys):
    variant = recipes.VARIANTS[name]
    made = recipes.config(variant, SCALE, tmp_path, tmp_path / "model", 32.0, 40, 7)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made))
    with pytest.raises(SystemExit) as ended:
        trainer.main(["--config", str(tmp_path / "config.yaml"), "--print_config"])
    assert ended.value.code == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    for section in ("model", "data"):
        assert {option: parsed[section][option] for option in made[section]} == made[section]
    assert parsed["model"] | variant.model == parsed["model"]
    assert parsed["data"] | variant.data == parsed["data"]
    assert parsed["data"]["batch_size"] == round(16 * variant.tokens)
    assert parsed["model"]["lr"] == 1e-3 * variant.lr
    assert (parsed["seed_everything"], parsed["data"]["seed"], parsed["trainer"]["max_steps"]) == (7, 7, 40)
    assert (parsed["model"]["num_warmup_steps"], parsed["val_every_n_steps"]) == (2, 40)


def test_all_variants_read_as_many_tokens_a_step():
    """32 segments of 128 tokens or 128 pairs of 32 are one step; a variant may ask for twice as many."""
    scale = SCALE._replace(step_tokens=4096)
    assert recipes.batch_size(BASELINE, scale, 32.0) == 128
    assert recipes.batch_size(recipes.VARIANTS["segments"], scale, 128.0) == 32
    assert recipes.batch_size(recipes.VARIANTS["batch_double"], scale, 32.0) == 256
    assert recipes.batch_size(BASELINE, scale, 9000.0) == 1


def test_variants_whose_step_is_the_same_work_take_equally_many_steps():
    alike = {name for name, each in recipes.VARIANTS.items() if recipes.cost_of(each) == recipes.cost_of(BASELINE)}
    assert alike == {recipes.BASELINE, "whole_words", "adamw", "linear", "cosine", "lr_2x", "lr_4x"}
    costs = {name: recipes.cost_of(variant) for name, variant in recipes.VARIANTS.items()}
    assert costs["muon_2x"] == costs["muon"]
    of_v2 = {name for name, cost in costs.items() if cost == costs["v2"]}
    assert of_v2 == {"v2", "v2_words", "v2_constant", "v2_lr_half", "v2_lr_2x", "v2_lr_4x"}
    assert costs["v2_adam"] == costs["v2_adamw"] == costs["v2_adamw_4x"] == costs["literature"]
    assert recipes.cost_of(recipes.VARIANTS["mask_falling"]) == (
        "nsp sentence, masked 0.225, adam, dropout 0.1 0.1, tokens x 1"
    )


# Results


def run_of(name: str, seed: int, bits: float, jsts: float, steps: int = 100, on: str = "A") -> dict:
    variant = recipes.VARIANTS[name]
    found = {"variant": name, "seed": seed, "options": bench_recipe.plain(variant.options()), "steps": steps}
    return found | {"on": on, "bits_per_character": bits, "jsts_spearman": jsts}


FACTS = {"machine": {"cpu": "A", "flags": ["avx2"], "cores": 2, "device": "cpu"}, "date": "2026-11-27"}
SETTINGS = {"model": "4x256", "precision": "32-true", "step_tokens": 4096, "minutes": 7, "threads": 1, "device": "cpu"}


@pytest.fixture
def results(tmp_path) -> bench_recipe.Results:
    return bench_recipe.Results(tmp_path / "recipe.json", SETTINGS, FACTS)


def test_a_run_stands_in_the_results_once_its_variant_is_still_the_same(results, monkeypatch):
    with results.changing() as study:
        study["runs"].append(run_of("muon", 1, 2.0, 0.5))
    again = bench_recipe.Results(results.path, SETTINGS, FACTS | {"date": "2026-11-28"})
    assert again.has("muon", 1)
    assert not again.has("muon", 2) and not again.has("adamw", 1)
    assert again.study["date"] == "2026-11-27"
    other = bench_recipe.Results(results.path, SETTINGS | {"minutes": 8}, FACTS)
    assert not other.has("muon", 1)
    with other.changing() as study:
        study["runs"].append(run_of("adamw", 1, 2.0, 0.5))
    assert [len(study["runs"]) for study in bench_recipe.read_studies(results.path)] == [1, 1]
    monkeypatch.setitem(recipes.VARIANTS, "muon", recipes.changed("", optimizer="muon"))
    assert not again.has("muon", 1)


def test_an_error_on_the_way_leaves_the_results_as_they_were(results):
    with results.changing() as study:
        study["runs"].append(run_of("muon", 1, 2.0, 0.5))
    before = results.path.read_bytes()
    with pytest.raises(KeyError), results.changing() as study:
        study["runs"].clear()
        raise KeyError
    assert results.path.read_bytes() == before


@pytest.mark.parametrize("content", ["{}", "[1]", "nothing", '[{"settings": {}}]'])
def test_a_file_of_something_else_is_refused(results, content):
    results.path.write_text(content)
    with pytest.raises(StageError, match="holds no comparisons of recipes: name another --output_file"):
        bench_recipe.read_studies(results.path)


def test_steps_by_hand():
    """600 of the baseline in its time: 500 of a variant whose step takes 1.2 times as long."""
    base, muon, v2, pairs = (recipes.cost_of(recipes.VARIANTS[name]) for name in ("baseline", "muon", "v2", "v2_pairs"))
    times = {base: (1.0, base), muon: (1.2, base), v2: (0.8, base), pairs: (1.5, v2)}
    ratios = {cost: {"median": median, "to": to} for cost, (median, to) in times.items()}
    study = {"step": {"baseline_steps": 600, "ratios": ratios}}
    assert bench_recipe.steps_of(study, recipes.VARIANTS["muon"]) == 500
    assert bench_recipe.steps_of(study, recipes.VARIANTS["v2"]) == 750
    assert bench_recipe.steps_of(study, recipes.VARIANTS["v2_pairs"]) == 500  # 600 / (0.8 x 1.5)
    assert bench_recipe.steps_of(study, recipes.VARIANTS["linear"]) == 600
    assert bench_recipe.untimed(study, list(recipes.VARIANTS)) == [
        *("segments", "none", "mask_30", "mask_falling", "dropout_0", "literature", "v2_mask_15"),
        *("v2_nsp", "v2_dropout", "v2_mask_falling", "sop", "sop_segments", "batch_half", "batch_double"),
    ]
    assert bench_recipe.untimed({"step": None}, ["linear", "adamw"]) == ["linear"]


def test_the_table_by_hand(results):
    """Differences are of the same seed: 0.2 and 0.4 less, though the means differ by 0.8; those of v2_... are to v2."""
    with results.changing() as study:
        study["runs"] += [run_of("baseline", seed, bits, 0.5) for seed, bits in ((1, 3.0), (2, 3.2), (3, 4.6))]
        study["runs"] += [run_of("muon", 1, 2.8, 0.6, 80), run_of("muon", 2, 2.8, 0.7, 80), run_of("v2", 9, 2.0, 0.4)]
        study["runs"].append(run_of("v2_adamw", 9, 2.5, 0.3))
    rows = bench_recipe.summary(results.study)
    assert list(rows) == ["baseline", "muon", "v2", "v2_adamw"]
    assert rows["baseline"]["bits_per_character"] == {
        "mean": pytest.approx(3.6),
        "sd": pytest.approx(0.8717798),
        "difference": None,
    }
    assert rows["muon"]["bits_per_character"]["difference"] == pytest.approx((-0.3, 0.1414214))
    assert rows["muon"]["jsts_spearman"]["difference"] == pytest.approx((0.15, 0.0707107))
    assert rows["v2"]["jsts_spearman"] == {"mean": 0.4, "sd": None, "difference": None}
    shown = [line.split(" | ") for line in bench_recipe.table(results.study)]
    assert shown[2][0].startswith("| `baseline`: the published variant: sentence pairs, ")
    assert [cells[1:] for cells in shown[2:]] == [
        ["3", "100", "3.600 ± 0.872", "", "0.500 ± 0.000", " |"],
        ["2", "80", "2.800 ± 0.000", "-0.300 ± 0.141", "0.650 ± 0.071", "+0.150 ± 0.071 |"],
        ["1", "100", "2.000", "", "0.400", " |"],
        ["1", "100", "2.500", "+0.500", "0.300", "-0.100 |"],
    ]


def test_what_was_measured_on_another_machine_is_said(results):
    cost, other = (recipes.cost_of(recipes.VARIANTS[name]) for name in ("baseline", "muon"))
    with results.changing() as study:
        study["runs"] += [run_of("baseline", 1, 3.0, 0.5), run_of("muon", 1, 2.8, 0.6)]
        study["step"] = {"baseline_steps": 600, "ratios": {cost: {"on": "A"}, other: {"on": "A"}}}
    here = "4 layers of width 256, 4,096 tokens a step, 32-true, 420 seconds of optimizer steps on 1 of 2 cores of an A"
    here += " (avx2)"
    assert bench_recipe.measured_on(results.study) == here
    elsewhere = bench_recipe.Results(results.path, SETTINGS, {"machine": FACTS["machine"] | {"cpu": "B"}})
    assert elsewhere.on == "B"
    with elsewhere.changing() as study:
        study["runs"] += [run_of("baseline", seed, 3.1, 0.5, on=elsewhere.on) for seed in (2, 3)]
    assert bench_recipe.measured_on(results.study) == f"{here}; 2 of 4 runs were taken on: B"
    with elsewhere.changing() as study:
        study["step"]["ratios"][other]["on"] = elsewhere.on
    said = f"{here}; 2 of 4 runs were taken, 1 of 2 times of steps measured on: B"
    assert bench_recipe.measured_on(results.study) == said


# The work


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("texts"), {}
    for number, part in enumerate(("train", "valid", "test")):
        found[part] = folder / f"{part}.txt"
        found[part].write_text(text(300 if part == "train" else 40, seed=number), encoding="utf-8")
    return found


@pytest.fixture
def given(texts, words) -> dict:
    """The options of the smallest comparison."""
    given = {"model": "1x32", "max_seq_len": 64, "step_tokens": 512, "lr": 1e-3, "precision": "32-true"}
    given |= {"device": "cpu", "minutes": 0.01, "threads": 1, "max_sentences": 5, "timed_steps": 1, "rounds": 1}
    return given | {"tokenizer_model": str(words)} | {f"{part}_file": str(path) for part, path in texts.items()}


def test_steps_are_timed_in_turn_and_kept(tmp_path, texts, given):
    settings = bench_recipe.settings_of(given, texts)
    results = bench_recipe.Results(tmp_path / "recipe.json", settings, FACTS)
    for name in (recipes.BASELINE, "none"):
        bench_recipe.prepare_samples(recipes.VARIANTS[name], tmp_path, texts, given, settings)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("samples/*/*.jsonl")}
    assert sorted(path.parent.name for path in made) == ["none-segment"] * 2 + ["nsp-sentence"] * 2
    bench_recipe.prepare_samples(recipes.VARIANTS["muon"], tmp_path, texts, given, settings)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    bench_recipe.ensure_times(results, ["none", "lr_2x"], SCALE, tmp_path, given)
    step = results.study["step"]
    costs = [recipes.cost_of(recipes.VARIANTS[name]) for name in (recipes.BASELINE, "none", "muon")]
    assert set(step["ratios"]) == set(costs[:2])
    assert step["ratios"][costs[0]]["median"] == 1.0
    assert step["baseline_steps"] == max(4, round(0.6 / step["ratios"][costs[0]]["seconds"]))
    assert step["ratios"][costs[1]]["to"] == costs[0]
    bench_recipe.ensure_times(results, ["muon", "none"], SCALE, tmp_path, given)
    again = results.study["step"]
    muon = again["ratios"].pop(costs[2])
    assert (muon["median"] > 0, muon["on"]) == (True, "A")
    assert again == step  # what was measured before is kept
    shorter = settings | {"max_seq_len": 32}
    train = tmp_path / "samples" / "none-segment" / "train.jsonl"
    assert bench_recipe.is_made(train, "train", settings)
    assert not bench_recipe.is_made(train, "train", shorter)
    assert not bench_recipe.is_made(train, "valid", settings)
    assert bench_recipe.tokens_per_sample(train.parent) == pytest.approx(
        len(Columns.open(train).ids) / len(Columns.open(train))
    )


def test_a_stage_that_fails_is_told_with_its_last_line(tmp_path):
    with pytest.raises(StageError) as error:
        runs.run_stage([str(ROOT / "test.py"), "--ckpt", "a"], tmp_path, 1)
    said = "test.py --ckpt a ended with exit code 2 (test.py: error: "
    assert str(error.value).startswith(said)
    assert str(error.value).endswith(f"see {tmp_path / 'stage.log'}, mend that, and run this again")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variants": "baseline,mask_31"}, "--variants must be some of baseline, segments, none, mask_30, "),
        ({"seeds": "1,b"}, "--seeds must be whole numbers with commas, got 1,b"),
        ({"precision": "bf16"}, "--precision must be one of 32-true, bf16-mixed, got bf16"),
        ({"device": "gpu"}, "--device must be cpu or cuda, got gpu"),
        ({"lr": 0.0}, "--lr must be above 0, got 0.0"),
        ({"minutes": 0.0}, "--minutes must be 0.01 or more, got 0.0"),
        ({"model": "4x200"}, "--model must be layers x width, as 4x256 (from 128 on a multiple of 64), got 4x200"),
        (
            {"test_file": "no.txt"},
            "no.txt not found: make it with get_jawiki.sh or prepare_corpus.py, or name another ",
        ),
        ({"jglue_dir": "no"}, "no is not a folder: name that of JGLUE with --jglue_dir"),
        ({"output_file": "."}, ". is a folder, the name of a file is needed"),
    ],
)
def test_wrong_options_are_told_before_any_work(options, said, texts, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {f"{part}_file": str(path) for part, path in texts.items()} | {"tokenizer_model": str(words)}
    given |= {"jglue_dir": str(tmp_path), "output_file": "recipe.json"}
    with pytest.raises(StageError) as error:
        bench_recipe.main(**given | options)
    assert str(error.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_tiny_comparison_gives_every_figure_and_repeats_nothing(tmp_path, given):
    options = given | {"seeds": 1, "output_file": "out/recipe.json", "jglue_dir": write_jsts(tmp_path / "jglue")}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    for name in (recipes.BASELINE, "muon"):
        stage("bench/bench_recipe.py", *arguments, "--variants", name, cwd=tmp_path, stdout=tmp_path / "table")
    first = (tmp_path / "out" / "recipe.json").read_bytes()
    (study,) = json.loads(first)
    assert [(run["variant"], run["seed"]) for run in study["runs"]] == [(recipes.BASELINE, 1), ("muon", 1)]
    for run in study["runs"]:
        assert run["steps"] == bench_recipe.steps_of(study, recipes.VARIANTS[run["variant"]])
        assert 0.9 < run["seen"]["samples"] / run["steps"] / run["samples_per_step"] <= 1  # an epoch ends with fewer
        assert 0.5 < run["seen"]["tokens"] / run["steps"] / 512 < 1.5
        assert 0 < run["bits_per_character"] < 20
        assert -1 <= run["jsts_spearman"] <= 1
    assert study["settings"]["tokenizer"] == tokenization.tokenizer_facts(given["tokenizer_model"])
    head, *rows = (tmp_path / "table").read_text().splitlines()
    assert head.startswith("1 layers of width 32, 512 tokens a step, 32-true, 1 seconds of optimizer steps on 1 of ")
    assert rows[1:] == list(bench_recipe.table(study))
    assert not list(tmp_path.glob("recipe/runs/*/lightning_logs"))
    both = ("--variants", f"{recipes.BASELINE},muon")
    stage("bench/bench_recipe.py", *arguments, *both, cwd=tmp_path, stdout=tmp_path / "table")
    assert (tmp_path / "out" / "recipe.json").read_bytes() == first


@pytest.mark.full
def test_a_run_that_was_ended_starts_over_and_one_that_was_trained_does_not(tmp_path, texts, given):
    settings = bench_recipe.settings_of(given, texts)
    bench_recipe.prepare_samples(BASELINE, tmp_path, texts, given, settings)
    place, run = tmp_path / "samples" / "nsp-sentence", tmp_path / "runs" / "baseline-1"
    run.mkdir(parents=True)
    tokenizer = Path(given["tokenizer_model"])
    config = recipes.config(BASELINE, SCALE, place, tokenizer, bench_recipe.tokens_per_sample(place), 4, 1)
    last = bench_recipe.train(config, run, 1)
    before = last.stat().st_mtime_ns
    assert bench_recipe.train(config, run, 1).stat().st_mtime_ns == before
    longer = recipes.config(BASELINE, SCALE, place, tokenizer, bench_recipe.tokens_per_sample(place), 5, 1)
    assert not bench_recipe.is_trained(longer, run, last)
    last.unlink()  # as an ended run leaves it
    assert bench_recipe.train(config, run, 1) == last
    assert last.stat().st_mtime_ns > before
    assert files.read_record(place / "train.jsonl")["options"]["objective"] == "nsp"
