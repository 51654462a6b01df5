"""A model beside its twin with random weights: what is put together, what is refused, and a comparison once."""

import json
from pathlib import Path

import evaluations
import pytest
import transformers
from evaluations import write_jsts
from texts import write_tokenizer

from bench import bench_evaluation
from bert_ja import files, jglue, results, tokenization
from bert_ja.cli import StageError
from bert_ja.scores import summary


@pytest.fixture
def model(tmp_path) -> Path:
    """A tiny model in a folder as export_model.py makes it."""
    folder = write_tokenizer(tmp_path / "model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=tokenization.vocabulary(folder).size, **sizes)
    transformers.BertForPreTraining(config).save_pretrained(folder)
    return folder


def leave(work_dir: Path, weights: str, task: str, sha256: str, values: tuple = (0.7,), **changes) -> None:
    """A result of evaluate_jglue.py in its place."""
    changes |= {"random_weights": bench_evaluation.WEIGHTS[weights], "seeds": len(values)}
    whole = evaluations.jglue(evaluations.model(sha256), values, **changes)
    whole["tasks"] = {"jsts": whole["tasks"]["jsts"]}
    scores = {"accuracy": {"valid": summary(values), "test": summary([value - 0.1 for value in values])}}
    if task != "jsts":
        whole["tasks"] = {task: whole["tasks"]["jsts"] | {"title": jglue.TASKS[task].title, "scores": scores}}
    evaluations.write_jglue(bench_evaluation.folder_of(work_dir, weights, task), whole)


def test_what_is_done_makes_a_table(model, tmp_path):
    sha256 = files.sha256(model / "model.safetensors")
    leave(tmp_path, "pre-trained", "jsts", sha256, (0.875, 0.88, 0.885))
    leave(tmp_path, "pre-trained", "jnli", sha256, (0.7, 0.75), train_split="valid")
    leave(tmp_path, "random", "jnli", sha256, (0.65,), train_split="valid")
    content = bench_evaluation.compared(tmp_path, model)
    assert content["model"]["num_hidden_layers"] == 1
    assert content["tasks"]["jnli"]["pre-trained"]["scores"]["accuracy"]["test"]["values"] == [0.7 - 0.1, 0.75 - 0.1]
    assert list(bench_evaluation.table(content))[2:] == [
        "| JSTS | Pearson correlation, test | 12,451 of training | 0.870 ± 0.005 | - |",
        "| JSTS | Spearman correlation, validation | 12,451 of training | 0.830 ± 0.005 | - |",
        "| JNLI | Accuracy, test | 12,451 of validation | 0.625 ± 0.035 | 0.550 |",
    ]


def test_results_of_another_model_are_refused(model, tmp_path):
    leave(tmp_path, "random", "jsts", "5a" * 32)
    with pytest.raises(StageError, match=r"random/jsts is of another model: name another --work_dir"):
        bench_evaluation.compared(tmp_path, model)


def test_a_changed_result_is_refused(model, tmp_path):
    leave(tmp_path, "random", "jsts", files.sha256(model / "model.safetensors"))
    path = bench_evaluation.folder_of(tmp_path, "random", "jsts") / results.JGLUE_FILE
    path.write_text(path.read_text().replace("0.7", "0.8"))
    with pytest.raises(StageError, match="was changed after"):
        bench_evaluation.compared(tmp_path, model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": "jsts,glue"}, "--tasks must be some of jsts, jnli, jcommonsenseqa, jsquad, got jsts,glue"),
        ({"weights": "none"}, "--weights must be some of pre-trained, random, got none"),
        ({"threads": 0}, "--threads must be 1 or more, got 0"),
        ({"model": "nowhere"}, "nowhere has no model.safetensors: name a folder of export_model.py"),
        ({"jglue_dir": "nowhere"}, "nowhere is not a folder: name that of JGLUE with --jglue_dir"),
        ({"output_file": "."}, ". is a folder, the name of a file is needed"),
    ],
)
def test_wrong_options_are_told_before_any_work(model, tmp_path, options, said):
    given = {"model": str(model), "jglue_dir": str(tmp_path), "work_dir": str(tmp_path / "work")}
    with pytest.raises(StageError) as error:
        bench_evaluation.main(**given | options)
    assert str(error.value) == said
    assert not (tmp_path / "work").exists()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_tiny_comparison_trains_both_on_what_is_there(model, tmp_path, monkeypatch, capsys):
    data = write_jsts(tmp_path / "jglue")
    rows = [{"sentence1": "あ" * at, "sentence2": "い" * at, "label": jglue.NLI[at % 3]} for at in range(1, 41)]
    (data / "jnli-v1.3").mkdir()
    for part in ("valid", "test"):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / "jnli-v1.3" / f"{part}-v1.3.json").write_text(lines, encoding="utf-8")
    recipe = {"learning_rates": "1e-3", "epochs": 1, "seeds": 2}
    monkeypatch.setattr(bench_evaluation, "RECIPES", {"jsts": recipe, "jnli": recipe | {"batch_size": 8}})
    output = tmp_path / "evaluation.json"
    given = {"model": str(model), "jglue_dir": str(data), "tasks": "jsts,jnli", "output_file": str(output)}
    (text := tmp_path / "train.txt").write_text("あ\n\n", encoding="utf-8")
    given |= {"training_text_file": str(text), "work_dir": str(tmp_path / "work")}
    bench_evaluation.main(**given, accelerator="cpu")
    content = json.loads(output.read_bytes())
    assert {name: task["train_split"] for name, task in content["tasks"].items()} == {"jsts": "train", "jnli": "valid"}
    for task in content["tasks"].values():
        assert all(task[weights]["setting"]["learning_rate"] == 1e-3 for weights in bench_evaluation.WEIGHTS)
    overlap = [content["tasks"]["jnli"][weights]["overlap"] for weights in bench_evaluation.WEIGHTS]
    assert sum(part["in_training_text"] for part in (overlap[0]["train"], overlap[0]["valid"])) == 1
    assert overlap[1] is None  # it has read no text
    pearson = [content["tasks"]["jsts"][of]["scores"]["pearson"]["valid"]["values"] for of in bench_evaluation.WEIGHTS]
    assert len(pearson[0]) == len(pearson[1]) == 2
    assert pearson[0] != pearson[1]
    assert capsys.readouterr().out.splitlines() == list(bench_evaluation.table(content))
