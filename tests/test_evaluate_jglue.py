"""evaluate_jglue.py, the stage: settings and seeds, what a kill leaves, results, tables, and what it refuses."""

import json
import shutil
import types
from pathlib import Path

import pytest
import torch
import transformers
from conftest import SAMPLE, refusal, shared, stage

import evaluate_jglue
from bert_ja import (
    disclosure,
    evaluation,
    files,
    finetuning,
    jglue,
    model_folder,
    results,
    score_card,
    tokenization,
    verification,
)
from bert_ja.cli import StageError
from bert_ja.evaluation import Recipe
from bert_ja.finetuning import Setting

COLOURS = ("赤い", "青い", "白い", "黒い", "黄色い")


def pair(number: int) -> dict:
    same = number % 3
    return {
        "sentence1": f"{COLOURS[number % 5]}花が{number}本ある。",
        "sentence2": f"{COLOURS[(number + same) % 5]}花が{number}本ある。",
        "label": float(5 - 2 * same),
    }


def nli(number: int) -> dict:
    return pair(number) | {"label": jglue.NLI[number % 3]}


def choice(number: int) -> dict:
    return {
        "question": f"{COLOURS[number % 5]}花は？",
        **{f"choice{at}": c for at, c in enumerate(COLOURS)},
        "label": number % 5,
    }


def article(number: int) -> dict:
    context = f"花{number} [SEP] {COLOURS[number % 5]}花が{number}本ある。"
    answer = {"text": f"{number}本", "answer_start": context.index(f"{number}本")}
    asked = {"id": f"q{number}", "question": "何本？", "answers": [answer, answer]}
    return {"title": f"花{number}", "paragraphs": [{"context": context, "qas": [asked]}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder like JGLUE's datasets, with files of our own."""
    folder = tmp_path_factory.mktemp("datasets")
    sizes = {"train": range(12), "valid": range(12, 20), "test": range(20, 26)}
    for name, row in (("jsts", pair), ("jnli", nli), ("jcommonsenseqa", choice), ("jsquad", article)):
        (folder / f"{name}-v1.3").mkdir()
        for split, numbers in sizes.items():
            rows = [row(number) for number in numbers]
            lines = [{"data": rows}] if name == "jsquad" else rows
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (folder / f"{name}-v1.3" / f"{split}-v1.3.json").write_text(text, encoding="utf-8")
    return folder


QUICK = ("--learning_rates", "1e-3", "--epochs", "1", "--batch_size", "4", "--accelerator", "cpu")


def two_seeds(data: Path, folder: Path) -> tuple:
    """Options of an evaluation that takes seconds."""
    return "--data_dir", data, "--output_dir", folder, "--seeds", 2, *QUICK


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data, work, model):
    """The folder that all tasks of a tiny model are evaluated into, and what was said on the way."""
    folder = tmp_path_factory.mktemp("evaluated") / "evaluation"
    done = stage("evaluate_jglue.py", model, *two_seeds(data, folder), cwd=work)
    return folder, done


def test_all_tasks_are_scored_and_the_record_says_of_what(evaluated, data, work, model):
    folder, done = evaluated
    result = json.loads((folder / "jglue.json").read_text())
    assert list(result["tasks"]) == ["jsts", "jnli", "jsquad", "jcommonsenseqa"]
    for name, task in result["tasks"].items():
        assert list(task["scores"]) == list(jglue.TASKS[name].metrics)
        assert task["examples"] == {"train": 12, "valid": 8, "test": 6}
        for splits in task["scores"].values():
            assert set(splits) == {"valid", "test"}
            for found in splits.values():
                assert len(found["values"]) == 2
                assert found["mean"] == pytest.approx(sum(found["values"]) / 2)
                assert all(-1 <= value <= 1 for value in found["values"])
    assert result["model"]["weights"] == files.describe(model / "model.safetensors")
    assert result["model"]["steps"] == files.read_record(model)["steps"]
    record = files.read_record(folder)
    assert record["stage"] == "evaluate_jglue.py"
    assert files.describe(model / "model.safetensors") in record["inputs"]
    assert record["outputs"] == [files.describe(folder / name) for name in ("jglue.json", "jglue.md")]
    assert done.stdout == (folder / "jglue.md").read_text()


def test_the_overlap_is_that_with_the_text_of_the_training(evaluated, work):
    folder, _ = evaluated
    result = json.loads((folder / "jglue.json").read_text())
    assert result["training_text"] is True  # data/train.txt is what the model's records name
    assert result["tasks"]["jsts"]["overlap"]["test"] == {
        "sentences": 10,  # of six pairs, two say the same twice
        "in_training_text": 0,
    }


def test_the_table_has_the_model_above_published_scores_with_their_source(evaluated):
    folder, _ = evaluated
    lines = (folder / "jglue.md").read_text().splitlines()
    heads = lines[lines.index("## valid") + 2]
    columns = ["JSTS pearson", "JSTS spearman", "JNLI accuracy", "JSQuAD f1", "JSQuAD exact match"]
    assert heads == f"| {' | '.join(['model', *columns, 'JCommonsenseQA accuracy'])} |"
    assert "| Tohoku BERT base | 0.909 | 0.868 | 0.906 | 0.941 | 0.871 | 0.808 |" in lines
    assert "| Tohoku BERT base | 0.907 | 0.865 | 0.876 | 0.946 | 0.879 | 0.782 |" in lines
    assert "| human | 0.899 | 0.861 | 0.925 | 0.944 | 0.871 | 0.986 |" in lines[: lines.index("## test")]
    assert not any(line.startswith("| human") for line in lines[lines.index("## test") :])
    own = next(line for line in lines if line.startswith("| model | 0") or line.startswith("| model | -"))
    assert own.count("±") == 6
    assert any("https://github.com/yahoojapan/JGLUE" in line for line in lines)


def test_a_release_can_publish_the_whole_result(evaluated):
    (found,) = results.read(evaluated[0], "", results.JGLUE)
    assert disclosure.undecided(found.content, disclosure.RESULT) == []
    assert disclosure.undecided(found.record) == []
    assert score_card.published(found, False).whole
    assert results.wrong_means(found.content) == []
    assert "| JSQuAD v1.3 | Exact match |" in score_card.jglue_table(found.content)


@pytest.mark.full
def test_a_release_with_these_scores_is_verified(evaluated, work, model, result, tmp_path):
    options = ("--model_dir", model, "--test_result", result, "--jglue_result", evaluated[0])
    stage("release_model.py", *options, "--release_dir", tmp_path, cwd=work)
    checks = verification.verify(tmp_path / "bert-base-ja", SAMPLE.parent, None)
    assert [check.result for check in checks if check.stage == "evaluate_jglue.py"] == ["ok"]


def test_what_is_done_is_not_done_again_and_what_is_not_is(evaluated, data, work, model, tmp_path):
    folder = tmp_path / "evaluation"
    shutil.copytree(evaluated[0], folder)
    before = (folder / "jglue.json").read_bytes()
    (folder / "jglue.json").unlink()
    gone = next((folder / "runs" / "jnli").iterdir())
    gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.json")}
    done = stage("evaluate_jglue.py", model, *two_seeds(data, folder), cwd=work)
    assert done.stderr.count(": valid ") == 1
    assert gone.exists() and all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert (folder / "jglue.json").read_bytes() == before  # the same numbers, too


def test_results_are_not_replaced_by_those_of_another_model_or_by_fewer(evaluated, data, work, model, run, tmp_path):
    folder = tmp_path / "evaluation"
    shutil.copytree(evaluated[0], folder)
    options = two_seeds(data, folder)
    said = refusal("evaluate_jglue.py", run / "checkpoints" / "last.ckpt", *options, cwd=work)
    assert said.endswith("is of model, fine-tuned on train, and would be replaced: name another --output_dir")
    said = refusal("evaluate_jglue.py", model, *options, "--tasks", "jnli", cwd=work)
    assert "would lose jsts, jsquad, jcommonsenseqa: pass --tasks jsts,jnli,jsquad,jcommonsenseqa" in said
    (folder / "jglue.json").write_text("[]")
    assert "is not a result of evaluate_jglue.py" in refusal("evaluate_jglue.py", model, *options, cwd=work)


def test_what_is_kept_is_of_these_very_examples(model, data, tmp_path):
    """Drawn otherwise, the held-out part is another, and no fine-tuning of before is taken for one of it."""
    task = jglue.TASKS["jnli"]
    found = jglue.find_files(task, data)
    recipe = Recipe((1e-3,), (1,), 1, train_split="valid")
    with model_folder.opened(str(model)) as measured:
        subject = evaluation.Subject(measured, False, finetuning.Device("cpu"))
        tokenizer = tokenization.load_tokenizer(model)
        splits = evaluation.read_splits(task, found, "valid")
        other = splits | {"train": splits["train"][1:], "valid": splits["valid"] + splits["train"][:1]}
        facts = [
            evaluation.fixed_facts(evaluation.Evaluation(task, subject, tokenizer, each), found, recipe)
            for each in (splits, splits, other)
        ]
    assert facts[0] == facts[1] != facts[2]


def test_weights_in_several_files_are_known_by_all_of_them(model, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        bert = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.from_pretrained(model))
        bert.save_pretrained(tmp_path / str(seed), max_shard_size="100KB")
    described = []
    for seed in ("1", "2"):
        with model_folder.opened(str(tmp_path / seed)) as measured:
            described.append(measured.weights)
    assert described[0]["name"] == described[1]["name"] == "model.safetensors.index.json"
    assert described[0]["sha256"] != described[1]["sha256"]
    assert described[0]["size"] > 100_000


def test_positions_that_a_model_keeps_for_padding_hold_no_token():
    tokenizer = types.SimpleNamespace(model_max_length=10**30)
    size = {
        "vocab_size": 10,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    roberta = transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=3, **size)
    assert model_folder.longest_input(roberta, tokenizer) == 510
    bert = transformers.BertConfig(max_position_embeddings=512, **size)
    assert model_folder.longest_input(bert, tokenizer) == 512
    assert model_folder.longest_input(bert, types.SimpleNamespace(model_max_length=128)) == 128


def test_quick_is_one_fine_tuning_unless_more_are_asked_for(data, work, model, tmp_path):
    options = ("--data_dir", data, "--output_dir", tmp_path, "--tasks", "jnli", "--accelerator", "cpu")
    stage("evaluate_jglue.py", model, *options, "--quick", "True", "--epochs", "1,2", cwd=work)
    result = json.loads((tmp_path / "jglue.json").read_text())
    assert result["seeds"] == 1
    tried = [(each["learning_rate"], each["epochs"]) for each in result["tasks"]["jnli"]["tried"]]
    assert tried == [(5e-5, 1), (5e-5, 2)]


def test_the_overlap_is_only_with_what_is_known_to_be_the_training_text(data, work, model, tmp_path):
    """A model of elsewhere beside somebody's data/train.txt was not trained on that."""
    shutil.copytree(model, tmp_path / "peer")
    (tmp_path / "peer" / "meta.json").unlink()
    options = ("--data_dir", data, "--tasks", "jnli", "--quick", "True", *QUICK)
    done = stage("evaluate_jglue.py", tmp_path / "peer", "--output_dir", tmp_path / "a", *options, cwd=work)
    assert "peer: its records do not name data/train.txt as its text, pass --training_text_file" in done.stderr
    assert json.loads((tmp_path / "a" / "jglue.json").read_text())["tasks"]["jnli"]["overlap"] is None
    (tmp_path / "mine.txt").write_text("赤い花が20本ある。\n", encoding="utf-8")
    named = ("--training_text_file", tmp_path / "mine.txt")
    stage("evaluate_jglue.py", tmp_path / "peer", "--output_dir", tmp_path / "b", *options, *named, cwd=work)
    result = json.loads((tmp_path / "b" / "jglue.json").read_text())
    assert result["tasks"]["jnli"]["overlap"]["test"]["in_training_text"] == 1
    assert result["training_text"] is None
    assert "the text that was searched for them" in (tmp_path / "b" / "jglue.md").read_text()


def test_a_run_that_is_damaged_is_named(evaluated, data, work, model, tmp_path):
    folder = tmp_path / "evaluation"
    shutil.copytree(evaluated[0], folder)
    broken = next((folder / "runs" / "jsts").iterdir())
    broken.write_bytes(broken.read_bytes()[:50])
    said = refusal("evaluate_jglue.py", model, *two_seeds(data, folder), cwd=work)
    assert said == f"{broken} is damaged: remove it, and run the same command again"


def test_another_model_or_setting_is_another_run(tmp_path):
    first = evaluation.Runs(tmp_path, {"weights": "a"})
    second = evaluation.Runs(tmp_path, {"weights": "b"})
    setting = Setting(1e-3, 1)
    paths = {first.path(setting, 1), first.path(setting, 2), first.path(Setting(1e-3, 2), 1), second.path(setting, 1)}
    assert len(paths) == 4
    assert first.path(Setting(1e-3, 1), 1) in paths


def test_a_checkpoint_and_random_weights_are_evaluated_too(data, work, run, tmp_path):
    options = ("--data_dir", data, "--tasks", "jnli", "--quick", "True", *QUICK)
    checkpoint = run / "checkpoints" / "last.ckpt"
    stage("evaluate_jglue.py", checkpoint, "--output_dir", tmp_path / "a", *options, cwd=work)
    result = json.loads((tmp_path / "a" / "jglue.json").read_text())
    assert result["model"]["weights"] == files.describe(checkpoint)
    assert result["seeds"] == 1
    assert result["tasks"]["jnli"]["scores"]["accuracy"]["valid"]["sd"] is None
    stage(
        "evaluate_jglue.py",
        checkpoint,
        "--output_dir",
        tmp_path / "b",
        *options,
        "--random_weights",
        "True",
        cwd=work,
    )
    drawn = json.loads((tmp_path / "b" / "jglue.json").read_text())
    assert drawn["random_weights"] is True
    assert drawn["model"]["name"].endswith(", random weights")
    assert drawn["tasks"]["jnli"]["overlap"] is None
    assert "was not pre-trained" in (tmp_path / "b" / "jglue.md").read_text()


def test_trained_on_valid_the_test_set_is_scored_and_a_part_is_held_out(tmp_path):
    (tmp_path / "jnli-v1.3").mkdir()
    for split, count in (("valid", 200), ("test", 5)):
        text = "".join(json.dumps(nli(number), ensure_ascii=False) + "\n" for number in range(count))
        (tmp_path / "jnli-v1.3" / f"{split}-v1.3.json").write_text(text, encoding="utf-8")
    task = jglue.TASKS["jnli"]
    found = jglue.find_files(task, tmp_path)
    with pytest.raises(
        StageError, match="JNLI has no train file of version v1.3: pass --train_split valid, or git clone"
    ):
        evaluation.read_splits(task, found, "train")
    splits = evaluation.read_splits(task, found, "valid")
    assert list(splits) == ["train", "valid", "test"]
    assert len(splits["train"]) + len(splits["valid"]) == 200
    assert len(splits["test"]) == 5


def test_the_setting_that_is_best_on_valid_is_chosen():
    tried = [
        (Setting(1e-5, 3), {"valid": {"pearson": 0.5, "spearman": 0.9}, "test": {"pearson": 0.9}}),
        (Setting(2e-5, 3), {"valid": {"pearson": 0.7, "spearman": 0.1}, "test": {"pearson": 0.1}}),
        (Setting(3e-5, 3), {"valid": {"pearson": 0.7, "spearman": 0.8}, "test": {"pearson": 0.2}}),
    ]
    assert evaluation.choose(jglue.TASKS["jsts"], tried) == Setting(2e-5, 3)


def test_the_defaults_are_the_published_recipe():
    usual = evaluate_jglue.USUAL
    recipe = Recipe(usual["learning_rates"], usual["epochs"], usual["seeds"])
    settings = recipe.settings
    assert {(each.learning_rate, each.epochs) for each in settings} == {
        (lr, n) for lr in (2e-5, 3e-5, 5e-5) for n in (3, 4)
    }
    assert {(each.batch_size, each.warmup_ratio, each.dropout) for each in settings} == {(32, 0.1, 0.1)}
    lengths = {name: task.max_length for name, task in jglue.TASKS.items()}
    assert lengths == {"jsts": 128, "jnli": 128, "jsquad": 384, "jcommonsenseqa": 64, "jcola": 128, "marc_ja": 512}
    assert recipe.runs == 10


def test_published_scores_fit_the_tasks(tmp_path):
    published = evaluation.read_published()
    assert published["models"][1]["valid"]["jsts"] == [0.909, 0.868]
    for wrong in ("jsts: [0.9]", "jsts: [90, 86]", "glue: [0.9]", "jsts: 0.9"):
        path = tmp_path / "scores.yaml"
        path.write_text(f"source: here\nmodels:\n  - name: mine\n    valid: {{{wrong}}}\n")
        with pytest.raises(StageError, match="is not as its first model is"):
            evaluation.read_published(path)


def test_an_overlap_is_counted_by_distinct_sentences_after_nfkc(tmp_path):
    text = tmp_path / "train.txt"
    text.write_text("花が１本ある。\n\n犬がいる。\n別の文。\n", encoding="utf-8")
    wanted = {"jsts": {"valid": {"花が1本ある。", "犬がいる。", "猫がいる。"}, "test": {"犬がいる"}}}
    assert evaluation.overlaps(text, wanted) == {
        "jsts": {
            "valid": {"sentences": 3, "in_training_text": 2},
            "test": {"sentences": 1, "in_training_text": 0},
        }
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--tasks", "jsts,glue"),
            "--tasks must be some of jsts, jnli, jsquad, jcommonsenseqa, jcola, marc_ja, got 'glue'",
        ),
        (("--seeds", "0"), "--seeds must be 1 or more, got 0"),
        (
            ("--learning_rates", "1e-5,fast"),
            "--learning_rates must be numbers above 0 parted by commas, got '1e-5,fast'",
        ),
        (("--epochs", "0"), "--epochs must be whole numbers above 0 parted by commas, got '0'"),
        (("--dropout", "1"), "--dropout must be from 0 to below 1, got 1"),
        (("--precision", "8"), "--precision must be 32-true, bf16-mixed, 16-mixed, got 8"),
        (("--train_split", "test"), "--train_split must be train or valid, got test"),
        (
            ("--data_dir", "nowhere"),
            "nowhere not found, the folder of JGLUE's files: git clone https://github.com/yahoojapan/JGLUE",
        ),
        (("--tasks", "jcola"), "has no jcola-v*, the files of JCoLA: git clone https://github.com/osekilab/JCoLA"),
        (
            ("", "nothing"),
            "nothing not found: name a model folder, a checkpoint file, a run folder, best or last",
        ),
        (("", "data"), "data has no config.json: name a model folder"),
        (("", "data/train.txt"), "cannot be read as a checkpoint"),
        (("--training_text_file", "absent.txt"), "absent.txt not found: name the text that the model was trained on"),
        (("--sedes", "3"), "--sedes is not an option of evaluate_jglue.py (did you mean --seeds?)"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(work, model, data, tmp_path, options, message):
    given = {"--data_dir": data, "--output_dir": tmp_path / "out"} | dict([options])
    arguments = [part for option in given.items() for part in option if part != ""]
    assert message in refusal("evaluate_jglue.py", *arguments, cwd=work)
    assert not (tmp_path / "out" / "jglue.json").exists()


def test_several_models_have_a_folder_each(work, model, run, data, tmp_path):
    checkpoint = run / "checkpoints" / "last.ckpt"
    options = ("--data_dir", data, "--output_dir", tmp_path, "--tasks", "jnli", "--quick", "True", *QUICK)
    stage("evaluate_jglue.py", model, checkpoint, *options, cwd=work)
    assert {path.parent.name for path in tmp_path.glob("*/jglue.json")} == {"model", "version_0-last"}
    said = refusal(
        "evaluate_jglue.py", checkpoint, run / "checkpoints" / ".." / "checkpoints" / "last.ckpt", *options, cwd=work
    )
    assert said.startswith("two of the models have one name")


def test_two_evaluations_do_not_write_the_same_folder(work, model, data, tmp_path):
    (tmp_path / "out").mkdir()
    with files.locked(tmp_path / "out"):
        said = refusal("evaluate_jglue.py", "--data_dir", data, "--output_dir", tmp_path / "out", *QUICK, cwd=work)
    assert "another run is writing" in said


def test_a_checkpoint_is_a_folder_only_as_long_as_it_is_open(run, work, monkeypatch):
    monkeypatch.chdir(work)
    with model_folder.opened(str(run)) as measured:
        folder = measured.folder
        assert (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()
        assert measured.steps > 0 and measured.tokens > 0
        assert measured.objective == "nsp"
    assert not folder.exists()


def test_numbers_are_told_once_each():
    assert evaluate_jglue.numbers("learning_rates", "2e-5,3e-5,2e-5", float) == (2e-5, 3e-5)


@pytest.mark.full
def test_real_tasks_are_evaluated_by_a_tiny_model(work, model, tmp_path):
    folder = shared("data", "jglue")
    options = (
        "--quick",
        "True",
        "--train_split",
        "valid",
        "--learning_rates",
        "1e-3",
        "--epochs",
        "1",
        "--accelerator",
        "cpu",
    )
    stage("evaluate_jglue.py", model, "--data_dir", folder, "--output_dir", tmp_path, *options, cwd=work)
    result = json.loads((tmp_path / "jglue.json").read_text())
    assert result["tasks"]["jsquad"]["examples"]["test"] == 4420
    assert 0 < result["tasks"]["jsquad"]["unreachable_answers"]["test"] < 0.6
