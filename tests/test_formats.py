"""ONNX and TensorFlow weights of a small model, beside PyTorch."""

import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, refusal
from transformers import AutoTokenizer, BertForPreTraining

import release_model
from bert_ja import files, formats, model_folder, tokenization
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
needs_onnx = pytest.mark.skipif(
    any(formats.importlib.util.find_spec(package) is None for package in formats.ONNX_PACKAGES),
    reason="pip install -r requirements-onnx.txt",
)


@pytest.fixture(scope="module")
def plain(words, tmp_path_factory) -> Path:
    """A model folder; tests read it and never change it."""
    folder = tmp_path_factory.mktemp("home-of-hanako") / "model"
    folder.mkdir()
    torch.manual_seed(5)
    module = BertPretraining(tokenization.vocabulary(words).size, **SHAPE)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model_folder.write_model(module.model, tokenization.vocabulary(words), folder)
    tokenization.write_tokenizer_folder((words / "spm.model").read_bytes(), folder, 512)
    return folder


@pytest.fixture(scope="module")
def onnx_folder(plain) -> tuple[Path, dict]:
    """The same with onnx/model.onnx, and what is said of it."""
    folder = Path(shutil.copytree(plain, plain.parent / "with-onnx"))
    return folder, formats.write(folder, [formats.ONNX])["onnx"]


def session_of(folder: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])


# Before the work


@pytest.mark.parametrize(
    "asked, chosen",
    [
        ("safetensors", []),
        ("", None),
        ("safetensors,pytorch", None),
    ],
)
def test_formats_are_named_and_unknown_ones_refused(asked, chosen):
    if chosen is not None:
        assert formats.require(asked) == chosen
        return
    name = asked.rpartition(",")[2]
    with pytest.raises(StageError) as error:
        formats.require(asked)
    assert str(error.value) == (f"--formats has {name!r}: formats are safetensors, onnx, tensorflow, parted by commas")


def test_missing_packages_are_one_sentence_with_the_command_before_any_work(tmp_path, monkeypatch):
    """A user's environment without them: the interpreter finds none in an empty folder of packages."""
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(formats, "ONNX_PACKAGES", ("onnx_that_is_absent", "onnxruntime_that_is_absent"))
    monkeypatch.setattr(formats, "PYTHON", tmp_path / ".venv-tensorflow" / "bin" / "python")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError) as error:
        release_model.main(formats="safetensors, onnx")
    assert str(error.value) == (
        "--formats onnx needs onnx_that_is_absent and onnxruntime_that_is_absent, not installed here: "
        "pip install -r requirements-onnx.txt"
    )
    with pytest.raises(StageError) as error:
        release_model.main(formats="tensorflow")
    assert str(error.value) == (
        "--formats tensorflow needs an environment of its own, .venv-tensorflow: make .venv-tensorflow"
    )


def test_the_commands_of_these_sentences_exist():
    assert (ROOT / "requirements-onnx.txt").is_file()
    assert re.search(r"^\.venv-compat .*\.venv-tensorflow.*: \.venv-%", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert (ROOT / "requirements-tensorflow.txt").is_file()


@pytest.mark.full
def test_the_command_line_takes_formats(tmp_path):
    (tmp_path / "model").mkdir()
    said = refusal("release_model.py", "--formats", "safetensors,jax", cwd=tmp_path)
    assert said == "--formats has 'jax': formats are safetensors, onnx, tensorflow, parted by commas"


# ONNX


def test_batches_have_several_shapes_paddings_and_both_token_types(plain):
    model, given = formats._load(plain)
    assert [batch["input_ids"].shape for batch in given] == [(1, 1), (1, 512), (8, 9), (3, 130)]
    assert [int((1 - batch["attention_mask"]).sum()) for batch in given] == [0, 0, 8 * 9 - 9 - 7 - 5 - 3 - 4, 6]
    for batch in given[1:]:
        assert set(batch["token_type_ids"].flatten()) == {0, 1}
        assert (batch["input_ids"][:, 0] == 2).all()
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()


@needs_onnx
def test_onnx_answers_as_pytorch_at_shapes_that_it_was_not_exported_with(onnx_folder):
    folder, said = onnx_folder
    assert said["file"] == "onnx/model.onnx"
    assert 0 < said["largest_difference"] <= 1e-5 * max(1, said["largest_logit"])
    session = session_of(folder)
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [each.name for each in session.get_outputs()] == ["logits", "seq_relationship_logits"]
    assert session.get_inputs()[0].shape == ["batch", "sequence"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertForPreTraining.from_pretrained(folder).eval()
    for lines in (["祖母は庭で"], ["弟と妹は", "隣の猫が赤い傘を見つけた。", "本を三冊"] * 5):
        batch = tokenizer(lines, padding=True, return_tensors="np")
        mlm, nsp = session.run(None, dict(batch))
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(values) for name, values in batch.items()})
        real = batch["attention_mask"].astype(bool)
        assert np.allclose(mlm[real], expected.prediction_logits.numpy()[real], rtol=0, atol=2e-5)  # of logits up to 5
        assert np.allclose(nsp, expected.seq_relationship_logits.numpy(), rtol=0, atol=1e-5)


@needs_onnx
def test_onnx_holds_each_weight_once_and_nothing_of_this_machine(onnx_folder):
    folder, _ = onnx_folder
    content = (folder / "onnx" / "model.onnx").read_bytes()
    assert len(content) < 1.5 * (folder / "model.safetensors").stat().st_size
    named = [str(ROOT), str(folder.parent), "hanako", ".py", "site-packages", "Traceback", socket.gethostname()]
    assert [word for word in named if word.encode() in content] == []


@needs_onnx
def test_the_example_of_the_readme_runs(onnx_folder, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (example,) = [block for block in blocks if "onnxruntime" in block]
    monkeypatch.chdir(onnx_folder[0].parent)
    assert '"release/bert-base-ja"' in example
    exec(example.replace("release/bert-base-ja", onnx_folder[0].name), {})
    assert len(capsys.readouterr().out.split()) == 5


def test_the_tests_have_the_pins_of_the_requirements_of_onnx():
    pins = [line for line in (ROOT / "requirements-onnx.txt").read_text().splitlines() if "==" in line]
    assert len(pins) == 3
    assert set(pins) <= {line.split(" ")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}


@pytest.mark.full
@needs_onnx
def test_onnx_has_the_same_bytes_again(onnx_folder, plain, tmp_path):
    again = Path(shutil.copytree(plain, tmp_path / "again"))
    formats.write_onnx(again)
    assert (again / "onnx/model.onnx").read_bytes() == (onnx_folder[0] / "onnx/model.onnx").read_bytes()


@pytest.mark.full
@needs_onnx
def test_onnx_that_answers_otherwise_is_refused(plain, tmp_path, monkeypatch):
    """As when the exporter took the wrong activation: here the model that it gets is another."""
    folder, export = Path(shutil.copytree(plain, tmp_path / "model")), formats._export

    def exported(model):
        other = BertForPreTraining.from_pretrained(folder, hidden_act="relu").eval()
        return export(other)

    monkeypatch.setattr(formats, "_export", exported)
    with pytest.raises(
        StageError, match="the logits of onnx/model.onnx differ from PyTorch's by .* .at most .*: nothing was"
    ):
        formats.write_onnx(folder)


def test_a_nan_is_a_difference_and_padding_is_none():
    mlm, nsp, mask = np.full((1, 2, 3), -4.0), np.zeros((1, 2)), np.array([[1, 0]])
    assert formats._compare((mlm, nsp), (mlm, nsp), mask) == (0.0, 4.0)
    at_padding = mlm + np.array([0, 9])[None, :, None]
    assert formats._compare((at_padding, nsp), (mlm, nsp), mask) == (0.0, 4.0)
    assert formats._compare((mlm, nsp * np.nan), (mlm, nsp), mask)[0] > 1


def test_differences_are_judged_by_the_largest_logit():
    assert formats._facts("f", [(9e-6, 0.5), (3e-6, 0.2)], {})["largest_difference"] == 9e-6
    assert formats._facts("f", [(9e-5, 12.0)], {})["largest_logit"] == 12.0
    for difference, largest, allowed in ((2e-5, 0.5, "1.0e-05"), (2e-4, 12.0, "1.2e-04")):
        with pytest.raises(StageError) as error:
            formats._facts("onnx/model.onnx", [(difference, largest)], {})
        assert str(error.value) == (
            f"the logits of onnx/model.onnx differ from PyTorch's by {difference:.1e} (at most {allowed}): nothing was "
            "written, leave the format out of --formats, and please report this"
        )


# In a release


@pytest.mark.full
@needs_onnx
def test_a_release_has_onnx_in_its_folder_and_its_record_and_can_be_replaced(release, copy, monkeypatch):
    folder = copy("model", "test_result.json")
    monkeypatch.chdir(folder)
    release_model.main(name="bert-tiny-ja", formats="safetensors,onnx")
    made = Path("release/bert-tiny-ja")
    record = files.require_record(made, "release_model.py")
    assert "onnx/model.onnx" in [file["name"] for file in record["outputs"]]
    assert record["formats"]["onnx"]["largest_difference"] <= 1e-5 * record["formats"]["onnx"]["largest_logit"]
    assert (made / "model.safetensors").read_bytes() == (release / "model.safetensors").read_bytes()
    assert str(folder).encode() not in (made / "onnx/model.onnx").read_bytes()
    release_model.main(name="bert-tiny-ja")  # the earlier release is ours to replace
    assert not (made / "onnx").exists()
    assert files.read_record(made)["formats"] == {}


# TensorFlow


@pytest.fixture(scope="module")
def tensorflow() -> Path:
    if not (formats.PYTHON.parents[1] / "ready").is_file():
        pytest.skip("make .venv-tensorflow")
    return formats.PYTHON


@pytest.mark.full
def test_tensorflow_weights_answer_as_pytorch(plain, tensorflow, tmp_path):
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    said = formats.write(folder, [formats.TENSORFLOW])["tensorflow"]
    assert said["file"] == "tf_model.h5"
    assert 0 < said["largest_difference"] <= 1e-5 * max(1, said["largest_logit"])
    assert set(said["versions"]) == {"transformers", "tensorflow-cpu", "tf-keras", "torch"}
    content = (folder / "tf_model.h5").read_bytes()
    assert [word for word in (str(tmp_path), "hanako", str(ROOT)) if word.encode() in content] == []
    assert {path.name for path in folder.iterdir()} - {path.name for path in plain.iterdir()} == {"tf_model.h5"}
    again = Path(shutil.copytree(plain, tmp_path / "again"))
    formats.write_tensorflow(again)
    assert (again / "tf_model.h5").read_bytes() == content


@pytest.mark.full
def test_why_tensorflow_fails_is_one_sentence(plain, tensorflow, tmp_path):
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(content | {"position_embedding_type": 3, "hidden_act": "gelu_accurate"})
    )
    with pytest.raises(StageError, match="TensorFlow could not write tf_model.h5 .*: make its environment again"):
        formats.write_tensorflow(folder)
    assert not (folder / "tf_model.h5").exists()
