"""Stage 8 on a model of two small layers, exported and converted by the code of the stages before."""

import errno
import getpass
import json
import re
import shutil
import socket
from pathlib import Path

import evaluations
import pytest
import yaml
from conftest import refusal, stage
from huggingface_hub import ModelCard

import convert_tokenizer
import release_model
from bert_ja import (
    continuing,
    files,
    gate,
    hub,
    loss_curve,
    model_card,
    model_folder,
    monitoring,
    release_inputs,
    results,
    tokenization,
)
from bert_ja.cli import StageError
from bert_ja.pretraining import BertPretraining

CHECKPOINT = {"name": "epoch=0-step=7.ckpt", "size": 1, "sha256": "c0ffee" * 10 + "c0ff"}
SAMPLES = {"name": "test.jsonl", "size": 2, "sha256": "5a" * 32}
RESULT = {
    "test_loss": 6.25,
    "mlm_loss": 5.5,
    "mlm_accuracy": 0.125,
    "perplexity": 244.69193226422038,
    "nsp_loss": 0.75,
    "nsp_accuracy": 0.4375,
    "samples": 1600,
    "tokens": 64000,
}
CORPUS = {
    "name": "jawiki",
    "license": "CC BY-SA 4.0",
    "source": "Japanese Wikipedia, https://ja.wikipedia.org/",
    "dump": {"date": "2026-11-01", "file": "jawiki-20261101-pages-articles.xml.bz2", "sha256": "da" * 32},
}
CURVE = {"train_mlm_loss": [[2, 7.5], [4, 6.5]], "val_mlm_loss": [[4, 6.75]]}
HISTORY = {
    "seen": {"samples": 224, "tokens": 4480},
    "hardware": [{"device": "NVIDIA H100 80GB HBM3", "devices": 1, "seconds": 3.5}],
    "curve": CURVE,
}
SETTINGS = {
    **{"samples_per_step": 32, "gradient_clip_val": 1.0, "precision": "32-true", "seed": 1000, "data_seed": 1000},
    **{"mlm_probability": 0.15, "mask_replace_prob": 0.8, "random_replace_prob": 0.1},
}
COUNTS = {"sentences": 500, "documents": 20, "samples": 480, "tokens": 9600, "random_pairs": 240}
OPTIONS = {
    "vocab_size": 120,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "lr": 0.0001,
    "num_warmup_steps": 10,
    "lr_schedule": "constant",
    "optimizer": "adam",
    "weight_decay": 0.0,
    "_instantiator": "pytorch_lightning.cli.instantiate_module",
}
RELEASED = [".gitattributes", "CHANGELOG.md", "README.md", "config.json", "loss_curve.png", "meta.json"]
RELEASED += ["model.safetensors", "spm.model", "tokenizer.json", "tokenizer_config.json"]
SOON = "make it with test.py --ckpt_path ... > test_result.json, or pass --test_result none"


def write_test_result(folder: Path, result: dict, **changes) -> None:
    """test_result.json and its record, as test.py leaves them."""
    files.write_bytes(folder / "test_result.json", json.dumps(result).encode())
    record = {
        "stage": "test.py",
        "inputs": [CHECKPOINT, SAMPLES],
        "outputs": [files.describe(folder / "test_result.json")],
        "corpus": CORPUS,
        "run": files.run_facts(checkpoint=folder / "secret" / "best.ckpt"),
    }
    files.write_record(folder / "test_result.json", record | changes)


def write_model_record(folder: Path, training: dict, answers: dict | None = None) -> None:
    """meta.json of a model folder, as export_model.py leaves it; the gate's answers stay unless there are others."""
    record = {
        "stage": "export_model.py",
        "options": {},
        "versions": files.versions("torch", "transformers"),
        "inputs": [CHECKPOINT],
        "outputs": files.describe_folder(folder),
        "tokenizer": tokenization.tokenizer_facts(folder),
        "model": OPTIONS,
        "steps": 7,
        "training": training,
        **HISTORY,
        "gate": answers or files.read_record(folder)["gate"],
        "run": files.run_facts(checkpoint=folder / "secret" / "best.ckpt"),
    }
    files.write_record(folder, record)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """model/, test_result.json and sp.model; tests read it and never change it."""
    import torch

    folder = tmp_path_factory.mktemp("home-of-hanako")
    patch = pytest.MonkeyPatch()
    patch.setattr(socket, "gethostname", lambda: "host-of-hanako")
    lines = [f"{a}は{b}で{c}を専攻している。" for a in "彼母兄私君" for b in "東京駅村海山川" for c in "工学法医文史"]
    (folder / "sp.model").write_bytes(tokenization.train_sentencepiece(lines, 40))
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    vocabulary = tokenization.vocabulary(folder / "sp.model")
    shape = {name: OPTIONS[name] for name in list(OPTIONS)[1:6]}
    torch.manual_seed(0)
    module = BertPretraining(vocabulary.size, **shape)
    answers = gate.expect(module, folder / "sp.model", continuing.LINES, monitoring.PROMPTS, private=False).facts
    with files.output_folder(folder / "model", "export_model.py") as model:
        model_folder.write_model(module.model, vocabulary, model)
        tokenization.write_tokenizer_folder((folder / "sp.model").read_bytes(), model, 32)
        training = {"tokenizer": vocabulary.facts(), "samples": {"train": SAMPLES}, "counts": COUNTS, "corpus": CORPUS}
        training |= {"longest_sample": 30, "settings": SETTINGS}
        write_model_record(model, training | {"unigram_entropy": 6.0, "versions": files.versions("torch")}, answers)
    spm = tokenization.read_model(folder / "sp.model")
    convert_tokenizer.convert(folder / "model", folder / "sp.model", spm, folder / "lines.txt", private=False)
    write_test_result(folder, RESULT)
    patch.undo()
    return folder


@pytest.fixture
def here(built, tmp_path, monkeypatch) -> Path:
    """A copy of it as the current folder."""
    shutil.copytree(built, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def release(built) -> Path:
    """release/bert-base-ja, made as a user would; tests read it and never change it."""
    shutil.copytree(built, built.parent / "made")
    finished = stage("release_model.py", cwd=built.parent / "made")
    last = finished.stderr.splitlines()[-1]
    assert re.fullmatch(r"wrote 9 files, 0\.\d MB, to release/bert-base-ja, which answers as the export did", last), (
        finished.stderr
    )
    assert finished.stdout == ""
    return built.parent / "made" / "release" / "bert-base-ja"


def error(**options) -> str:
    with pytest.raises(StageError) as raised:
        release_model.main(**options)
    assert not Path("release").exists() or list(Path("release").iterdir()) == []
    return str(raised.value)


def edit_record(path: str, **changes) -> None:
    record = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(record | changes))


# What a release holds


def test_release_holds_the_model_files_unchanged_and_nothing_else(release, built):
    assert sorted(file.name for file in release.iterdir()) == RELEASED
    for name in release_inputs.NEEDED:
        assert (release / name).read_bytes() == (built / "model" / name).read_bytes()
    assert sorted(file.name for file in release.parent.iterdir()) == ["bert-base-ja"]


def test_record_describes_every_file_and_keeps_the_records_behind_it(release, built):
    record = json.loads((release / "meta.json").read_text())
    facts = tokenization.tokenizer_facts(built / "sp.model")
    assert record["outputs"] == files.describe_folder(release)
    assert record["stage"] == "release_model.py"
    assert record["options"] == {"name": "bert-base-ja", "license": "cc-by-sa-4.0", "tag": "v1.0"}
    assert record["tokenizer"] == facts
    assert record["result"] == RESULT
    assert {file["name"] for file in record["inputs"]} == {*release_inputs.NEEDED, "test_result.json"}
    assert list(record["records"]) == ["export_model.py", "convert_tokenizer.py", "test.py"]
    for stage_name, path in (("export_model.py", "model/meta.json"), ("test.py", "test_result.json.meta.json")):
        original = json.loads((built / path).read_text())
        del original["run"]
        original.get("model", {}).pop("_instantiator", None)
        assert record["records"][stage_name] == original


def test_nothing_of_this_machine_is_in_any_file(release, built):
    private = [str(built.parent), "hanako", "secret", '"run"', "_instantiator"]
    private += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4]  # `root` is a word
    assert "host-of-hanako" in (built / "model/meta.json").read_text()
    for file in release.iterdir():
        content = file.read_bytes()
        assert [word for word in private if word.encode() in content] == [], file


def test_two_releases_have_the_same_bytes(release, here):
    release_model.main()
    again = here / "release" / "bert-base-ja"
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {f.name: f.read_bytes() for f in release.iterdir()}


def test_card_is_what_the_records_say(release, built):
    record = json.loads((release / "meta.json").read_text())["records"]
    config = json.loads((built / "model/config.json").read_text())
    facts = model_card.Facts(
        name="bert-base-ja",
        license="cc-by-sa-4.0",
        model=record["export_model.py"],
        tokenizer=record["convert_tokenizer.py"],
        config=config,
        parameters=record_parameters(built / "model"),
        test=RESULT,
        test_record=record["test.py"],
        tried=tried(release),
    )
    assert (release / "README.md").read_text() == model_card.model_card(facts)
    assert (release / "CHANGELOG.md").read_text() == model_card.changelog(facts)
    assert (release / "loss_curve.png").read_bytes() == loss_curve.draw(CURVE, 6.0)
    assert model_card.unknown(facts) == []


def tried(folder: Path) -> model_card.Tried:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    loaded = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return model_card.try_out(*loaded, model_card.PROMPTS)


def record_parameters(folder: Path) -> int:
    from transformers import BertForPreTraining

    return sum(parameter.numel() for parameter in BertForPreTraining.from_pretrained(folder).parameters())


def test_front_matter_has_the_numbers_of_the_json(release):
    card = ModelCard.load(release / "README.md")
    assert card.data.to_dict() == yaml.safe_load((release / "README.md").read_text().split("---\n")[1])
    assert card.data.model_name == "bert-base-ja"
    assert {(r.task_type, r.metric_name): r.metric_value for r in card.data.eval_results} == {
        ("fill-mask", "Test loss (MLM + NSP)"): 6.25,
        ("fill-mask", "MLM loss (nats a masked token)"): 5.5,
        ("fill-mask", "MLM perplexity"): 244.69193226422038,
        ("fill-mask", "MLM accuracy"): 0.125,
        ("text-classification", "NSP loss (nats a sample)"): 0.75,
        ("text-classification", "NSP accuracy"): 0.4375,
    }


def examples(release: Path) -> list[str]:
    """The Python of the card."""
    return re.findall(r"```python\n(.*?)```", (release / "README.md").read_text(), re.DOTALL)


def test_the_first_example_of_the_card_prints_what_the_card_says(release, capsys, monkeypatch):
    monkeypatch.chdir(release.parent)
    exec(examples(release)[0].replace("NAME", "bert-base-ja"), {})
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 5
    assert f"This model answers:\n\n```text\n{printed}```\n" in (release / "README.md").read_text()


def test_the_card_shows_the_picture_that_lies_beside_it(release):
    assert (
        "![Losses of training and validation over the optimizer steps](loss_curve.png)"
        in (release / "README.md").read_text()
    )


def test_the_released_folder_loads_with_both_heads(release):
    from transformers import BertForPreTraining

    _, loading = BertForPreTraining.from_pretrained(release, output_loading_info=True)
    assert {kind: list(names) for kind, names in loading.items() if names} == {}


# Options


def test_without_a_result_the_card_has_no_evaluation(here, capsys):
    Path("test_result.json").unlink()
    release_model.main(test_result=None)
    card = Path("release/bert-base-ja/README.md").read_text()
    assert "## Evaluation" not in card
    assert "model-index" not in card
    assert "not known, and left out of the card: test samples, results\n" in capsys.readouterr().err
    record = json.loads(Path("release/bert-base-ja/meta.json").read_text())
    assert record["result"] is None
    assert list(record["records"]) == ["export_model.py", "convert_tokenizer.py"]


def test_a_run_without_events_has_a_card_without_a_picture(here, capsys):
    edit_record("model/meta.json", curve=None, hardware=None)
    release_model.main()
    assert "not known, and left out of the card: hardware, loss curve\n" in capsys.readouterr().err
    assert sorted(file.name for file in Path("release/bert-base-ja").iterdir()) == [
        name for name in RELEASED if name != "loss_curve.png"
    ]
    assert "loss_curve.png" not in Path("release/bert-base-ja/README.md").read_text()


def test_a_text_of_unknown_origin_is_said_to_be_unknown(here, capsys):
    write_model_record(Path("model"), {"corpus": None, "counts": None, "samples": {"train": None}})
    edit_record("model/tokenizer.meta.json", corpus={"private": False})
    assert error() == (
        "--license is needed, none follows from what the model is made of (its text: unknown): name the licence that "
        "you release it under, such as apache-2.0 or other"
    )
    release_model.main(license="apache-2.0")
    card = Path("release/bert-base-ja/README.md").read_text()
    assert "The licence of the training text is unknown." in card
    assert "This model is released under `apache-2.0`." in card
    assert "CC BY-SA" not in card
    said = capsys.readouterr().err
    assert "left out of the card: sources, training part, samples, sample files, samples per step, " in said
    doubt = "make sure that the training text (licence unknown) may be used for a model under apache-2.0"
    assert f"warning: {doubt}\n" in said


def test_wikipedia_released_under_another_licence_is_warned_of(here, capsys):
    release_model.main(license="apache-2.0")
    assert "warning: jawiki (CC BY-SA 4.0) asks for the same licence of what is made of it: " in capsys.readouterr().err
    assert ModelCard.load("release/bert-base-ja/README.md").data.license == "apache-2.0"


def test_several_texts_are_all_in_the_card_and_the_record(here, capsys):
    hospital = {"name": "hospital", "license": "in-house", "source": "our reports", "dump": None, "share": 0.3}
    sources = [CORPUS | {"share": 0.7}, hospital]
    write_model_record(Path("model"), {"corpus": {**CORPUS, "name": "jawiki; hospital", "sources": sources}})
    release_model.main()
    card = Path("release/bert-base-ja/README.md").read_text()
    assert "- Text: hospital, 30.0% of the samples\n  - Source: our reports\n  - Licence: in-house\n" in card
    assert files.read_record("release/bert-base-ja")["corpus"]["sources"] == sources
    warning = "warning: make sure that hospital (in-house) may be used for a model under cc-by-sa-4.0\n"
    assert warning in capsys.readouterr().err


def test_a_source_that_is_a_path_is_left_out_and_said(here, capsys):
    training = {"corpus": CORPUS | {"source": "mine, /home/hanako/texts"}, "counts": COUNTS}
    write_model_record(Path("model"), training)
    release_model.main()
    said = "warning: left out of the release, it names a path of this machine: 'mine, /home/hanako/texts'"
    assert said in capsys.readouterr().err
    for file in Path("release/bert-base-ja").iterdir():
        assert b"hanako" not in file.read_bytes()


def test_a_path_in_the_settings_of_a_model_is_left_out_and_said(here, capsys):
    edit_record("model/config.json", _name_or_path="/home/hanako/bert")
    edit_record("model/meta.json", outputs=files.describe_folder("model"))
    release_model.main()
    assert "left out of config.json, a path of this machine stands there: _name_or_path\n" in capsys.readouterr().err
    for file in Path("release/bert-base-ja").iterdir():
        assert b"hanako" not in file.read_bytes()


def test_a_field_that_nobody_has_allowed_is_not_released(here):
    edit_record("model/meta.json", command=["hanako"], training={"corpus": CORPUS, "notes": "hanako"})
    release_model.main()
    for file in Path("release/bert-base-ja").iterdir():
        assert b"hanako" not in file.read_bytes()


def test_a_template_and_prompts_of_ones_own(here):
    Path("card.md").write_text("---\n$metadata\n---\n\n# $name\n\n$steps 歩。\n\n$predictions\n")
    Path("prompts.txt").write_text("母は[MASK]で文を専攻している。\n彼は[MASK]を専攻している。\n")
    release_model.main(card_template="card.md", prompts="prompts.txt")
    card = ModelCard.load("release/bert-base-ja/README.md")
    assert [each["text"] for each in card.data.widget] == Path("prompts.txt").read_text().splitlines()
    assert card.text.startswith("\n# bert-base-ja\n\n7 歩。\n\nThis model answers:\n\n```text\n")
    assert card.text.count("彼は[MASK]を専攻している。\n  ") == 1


def test_a_template_that_cannot_work_is_refused_before_the_work(here):
    Path("card.md").write_text("---\n$metadata\n---\n\n# $nam\n")
    shutil.rmtree("model/")
    Path("model").mkdir()  # which is looked into later
    assert error(card_template="card.md").startswith("card.md line 5: $nam is no fact of a card, those are metadata, ")
    hint = "name a template with --card_template, or leave it out"
    assert error(card_template="none.md") == f"none.md not found: {hint}"


def test_a_prompt_that_is_too_long_is_refused(here):
    Path("prompts.txt").write_text("母は東京で工を専攻している。" * 9 + "[MASK]\n")
    said = error(prompts="prompts.txt")
    assert re.fullmatch(
        r"the prompt 母は東京で工を専攻している。母は東京で工\.\.\. has \d+ tokens, the model reads 32: shorten it",
        said,
    )


WARNING = (
    "warning: the corpus is private, and the vocabulary (spm.model, tokenizer.json) holds words of its text: "
    "read it before you hand the release on\n"
)


@pytest.mark.parametrize("name", ["meta.json", "tokenizer.meta.json"])
def test_a_private_corpus_is_warned_of_once_and_the_release_is_silent_on_it(here, release, capsys, name):
    edit_record(f"model/{name}", corpus=CORPUS | {"private": True})
    release_model.main()
    assert capsys.readouterr().err.count(WARNING) == 1
    folder, record = Path("release/bert-base-ja"), files.read_record("release/bert-base-ja")
    expected = {name: CORPUS[name] for name in ("name", "license", "source")} | {"dump": None, "private": True}
    assert record["corpus"] == expected
    assert "- The text is private: this is all that is said of it\n" in (folder / "README.md").read_text()
    assert "This model answers" not in (folder / "README.md").read_text()
    for figure in ("500 sentences", "9,600 tokens", "2026-11-01", '"sentences": 500', '"unigram_entropy": 6.0'):
        assert any(figure in (release / name).read_text() for name in ("README.md", "meta.json"))
        assert not any(figure in (folder / name).read_text() for name in ("README.md", "CHANGELOG.md", "meta.json"))


def test_a_public_corpus_needs_no_such_warning(here, capsys):
    release_model.main()
    assert WARNING not in capsys.readouterr().err
    assert files.read_record("release/bert-base-ja")["corpus"] == CORPUS | {"private": False}


def test_results_on_a_private_text_make_the_record_private_and_not_the_vocabulary(here, capsys):
    edit_record("test_result.json.meta.json", corpus={"name": "ours", "private": True})
    release_model.main()
    assert WARNING not in capsys.readouterr().err
    assert files.read_record("release/bert-base-ja")["corpus"] == CORPUS | {"private": True}


def test_own_changelog_is_taken_as_it_is(here):
    Path("news.md").write_text("# 変更履歴\n\n- 第二版\n", encoding="utf-8")
    release_model.main(changelog="news.md")
    assert Path("release/bert-base-ja/CHANGELOG.md").read_text() == "# 変更履歴\n\n- 第二版\n"


def test_an_edited_changelog_can_be_passed_back(here):
    release_model.main()
    path = Path("release/bert-base-ja/CHANGELOG.md")
    path.write_text(path.read_text() + "\n## v1.1\n\n- Better\n")
    expected = path.read_text()
    release_model.main(changelog=str(path))
    assert path.read_text() == expected


@pytest.mark.parametrize("name, hint", [("README.md", ""), ("CHANGELOG.md", f", or pass --changelog {'{}'}")])
def test_an_edited_card_is_not_lost(here, name, hint):
    release_model.main()
    path = Path("release/bert-base-ja", name)
    path.write_text("mine\n")
    with pytest.raises(StageError) as raised:
        release_model.main()
    said = f"{path} was edited, and the edit would be lost: move it away first{hint.format(path)}"
    assert (str(raised.value), path.read_text()) == (said, "mine\n")


def test_a_file_that_no_record_names_stays_behind(here, capsys):
    Path("model/notes.txt").write_text("mine")
    release_model.main()
    assert "left out, no record names it: model/notes.txt\n" in capsys.readouterr().err
    assert sorted(file.name for file in Path("release/bert-base-ja").iterdir()) == RELEASED


def test_help_explains_every_option(here):
    finished = stage("release_model.py", "--help", cwd=here)
    options = ("model_dir", "name", "release_dir", "test_result", "license", "changelog", "card_template", "prompts")
    for option in (*options, "jglue_result", "text_result", "repo", "push", "public", "tag"):
        assert f"--{option}" in finished.stdout + finished.stderr
    assert not Path("release").exists()


# Whole or not at all


@pytest.mark.parametrize("broken", ["README.md", "CHANGELOG.md", "meta.json"])
def test_a_failing_write_leaves_no_release(here, monkeypatch, broken):
    output = files.output

    def full(path):
        if Path(path).name == broken:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return output(path)

    monkeypatch.setattr(files, "output", full)
    with pytest.raises(OSError, match="No space left"):
        release_model.main()
    assert list(Path("release").iterdir()) == []


def test_a_failure_leaves_the_earlier_release_as_it_was(here, monkeypatch):
    release_model.main()
    before = files.describe_folder("release/bert-base-ja")
    monkeypatch.setattr(model_card, "changelog", lambda facts, tag: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        release_model.main(license="mit")
    assert files.describe_folder("release/bert-base-ja") == before
    assert [path.name for path in Path("release").iterdir()] == ["bert-base-ja"]


# Refusals


def test_command_line_refuses_in_one_line(here):
    assert refusal("release_model.py", "--nam", "x", cwd=here).startswith("--nam is not an option of release_model.py")
    said = refusal("release_model.py", "--name", "me/bert", "--license", "CC BY", cwd=here)
    assert said == (
        "--name must be a repository name of the Hub without the account (letters, digits, -, _ and ., at most 96; "
        "no -- or .., no - or . at an end, no .git), got 'me/bert'; --license must be a licence as the Hub abbreviates "
        "it, such as cc-by-sa-4.0, apache-2.0 or other, got 'CC BY'"
    )


BAD = ["", ".", "..", "-a", "a-", "a.", ".a", "a--b", "a..b", "a b", "a/b", "../a", "a.git", "日本", "a\n", "a" * 97]


@pytest.mark.parametrize("name", BAD)
def test_names_that_the_hub_refuses(name, here):
    assert error(name=name).startswith("--name must be a repository name of the Hub")


@pytest.mark.parametrize("name", ["bert-base-ja", "a", "BERT_2.0", "a" * 96])
def test_names_that_the_hub_takes(name):
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)
    assert hub.NAME.fullmatch(name)


def rewrite(path: str, text: str) -> None:
    Path(path).write_text(text)


def short(path: str) -> str:
    return f"sha256 {files.sha256(path)[:12]}"


def other_weights(here):
    content = bytearray(Path("model/model.safetensors").read_bytes())
    content[-1] ^= 1
    was = short("model/model.safetensors")
    Path("model/model.safetensors").write_bytes(content)
    return (
        f"model/model.safetensors is not the file that export_model.py wrote ({short('model/model.safetensors')}, its "
        f"record says {was}): run export_model.py again"
    )


def longer_config(here):
    size = Path("model/config.json").stat().st_size
    with open("model/config.json", "a") as file:
        file.write("\n")
    return f"model/config.json has {size + 1:,} bytes, its record says {size:,}: make it again with export_model.py"


def no_model(here):
    shutil.rmtree("model")
    return "model is not a folder: run export_model.py first, or pass --model_dir"


def no_model_record(here):
    Path("model/meta.json").unlink()
    return "model has no record (meta.json), so it may be cut short: make it again with export_model.py"


def record_of_another_stage(here):
    edit_record("model/meta.json", stage="train_tokenizer.py")
    return "model was written by train_tokenizer.py, an output of export_model.py is needed"


def damaged_record(here):
    rewrite("model/meta.json", "{")
    return "model/meta.json is damaged (not a JSON object): run the stage that wrote it again"


def record_without_weights(here):
    outputs = [file for file in files.describe_folder("model") if file["name"] != "model.safetensors"]
    edit_record("model/meta.json", outputs=outputs)
    return "model has no model.safetensors in its records: run export_model.py again"


def unverified_tokenizer(here):
    Path("model/tokenizer.meta.json").unlink()
    return (
        "model has no tokenizer.meta.json, so its tokenizer is not verified: run convert_tokenizer.py "
        "--spm_model output/spm/sp.model --output_dir model first"
    )


def published_layout(here):
    edit_record("model/tokenizer.meta.json", tokenizer_class="DebertaV2Tokenizer")
    return (
        "the tokenizer of model is in the published layout (transformers 5 mis-tokenizes every line with such a "
        "folder, and so does transformers 4 unless AutoTokenizer is called with use_fast=False): run "
        "convert_tokenizer.py --output_dir model without --tokenizer_class first"
    )


def another_tokenizer(here):
    edit_record("model/tokenizer.meta.json", tokenizer={"sha256": "ab" * 32, "vocab_size": 40})
    return (
        f"the tokenizer of model (sha256 abababababab) is not the one that its model was trained with "
        f"({short('sp.model')}): run convert_tokenizer.py with the sp.model of that run"
    )


def tokenizer_of_another_record(here):
    outputs = json.loads(Path("model/tokenizer.meta.json").read_text())["outputs"]
    outputs[1]["sha256"] = "ab" * 32
    edit_record("model/tokenizer.meta.json", outputs=outputs)
    return (
        f"model/tokenizer.json is not the file that convert_tokenizer.py wrote ({short('model/tokenizer.json')}, its "
        "record says sha256 abababababab): run convert_tokenizer.py again"
    )


def no_result(here):
    Path("test_result.json").unlink()
    return f"test_result.json not found: {SOON}"


def empty_result(here):
    rewrite("test_result.json", "")
    return f"test_result.json is empty: {SOON}"


def result_without_record(here):
    Path("test_result.json.meta.json").unlink()
    return (
        "test_result.json has no record (test_result.json.meta.json), so it may be cut short: make it again with "
        "test.py, or pass --test_result none"
    )


def result_of_another_stage(here):
    edit_record("test_result.json.meta.json", stage="prepare_train_data.py")
    return "test_result.json was written by prepare_train_data.py, an output of test.py is needed"


def embellished_result(here):
    was = short("test_result.json")
    rewrite("test_result.json", Path("test_result.json").read_text().replace("6.25", "1.25"))
    return (
        f"test_result.json was changed after test.py wrote it ({short('test_result.json')}, its record says {was}): "
        f"{SOON}"
    )


def result_of_another_checkpoint(here):
    write_test_result(here, RESULT, inputs=[CHECKPOINT | {"sha256": "ab" * 32}, SAMPLES])
    return (
        "test_result.json measures another checkpoint (sha256 abababababab) than the one in model (sha256 "
        "c0ffeec0ffee): run test.py with that one, or pass --test_result none"
    )


def result_without_a_key(here):
    write_test_result(here, {key: value for key, value in RESULT.items() if key != "nsp_loss"})
    return f"test_result.json is not a result of test.py (nsp_loss is missing): {SOON}"


def result_that_is_no_number(here):
    write_test_result(here, RESULT | {"mlm_loss": float("nan")})
    return f"test_result.json is not a result of test.py (mlm_loss is nan): {SOON}"


def result_that_is_a_list(here):
    write_test_result(here, [RESULT])
    return f"test_result.json is not a result of test.py (no JSON object): {SOON}"


def result_that_is_no_json(here):
    write_test_result(here, RESULT)
    files.write_bytes(here / "test_result.json", b"test_loss 6.25")
    outputs = [files.describe(here / "test_result.json")]
    record = {"stage": "test.py", "inputs": [CHECKPOINT], "outputs": outputs}
    files.write_record(here / "test_result.json", record)
    return f"test_result.json is not a result of test.py (Expecting value: line 1 column 1 (char 0)): {SOON}"


CASES = [
    *(other_weights, longer_config, no_model, no_model_record, record_of_another_stage, damaged_record),
    *(record_without_weights, unverified_tokenizer, published_layout, another_tokenizer, tokenizer_of_another_record),
    *(no_result, empty_result, result_without_record, result_of_another_stage, embellished_result),
    *(result_of_another_checkpoint, result_without_a_key, result_that_is_no_number, result_that_is_a_list),
    result_that_is_no_json,
]


@pytest.mark.parametrize("damage", CASES, ids=lambda case: case.__name__)
def test_refuses(damage, here):
    expected = damage(here)
    assert error() == expected


def test_refuses_a_changelog_that_is_none(here):
    hint = "name a text with --changelog, or leave it out"
    assert error(changelog="news.md") == f"news.md not found: {hint}"
    Path("news.md").write_bytes(b"\xff" * 100)
    assert error(changelog="news.md") == f"news.md is not UTF-8 text (byte 0): {hint}"


def test_refuses_a_folder_that_holds_something_else(here):
    folder = Path("release/bert-base-ja")
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(StageError) as raised:
        release_model.main()
    assert str(raised.value) == (
        "release/bert-base-ja holds thesis.txt, which this stage did not write: move it away or name another folder"
    )
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "options", [{"release_dir": ".", "name": "model"}, {"release_dir": "model"}, {"model_dir": "release/bert-base-ja"}]
)
def test_refuses_to_release_into_the_model_folder(here, options):
    if "model_dir" in options:
        shutil.copytree("model", "release/bert-base-ja")
    source, folder = options.get("model_dir", "model"), options.get("release_dir", "release")
    target = Path(folder, options.get("name", "bert-base-ja"))
    with pytest.raises(StageError) as raised:
        release_model.main(**options)
    assert str(raised.value) == f"{target} and {source} must be two folders: name another --release_dir"


def test_refuses_when_the_disk_is_too_small(here, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert error().startswith("the release needs about 2 MB on the disk of ")


def change_weights(change) -> None:
    """Apply `change` to the weights of model/, and make its record agree."""
    from safetensors.torch import load_file, save_file

    weights = load_file("model/model.safetensors")
    change(weights)
    save_file(weights, "model/model.safetensors", {"format": "pt"})
    edit_record("model/meta.json", outputs=files.describe_folder("model"))


def refused(*faults: str) -> bool:
    """Whether the release is refused, with these faults first."""
    return error().startswith(f"model cannot be released ({'; '.join(faults)}")


def test_refuses_a_model_that_lacks_weights(here):
    change_weights(lambda weights: weights.pop("bert.embeddings.LayerNorm.weight"))
    assert refused("BertForPreTraining finds no bert.embeddings.LayerNorm.weight in it")


def test_refuses_a_model_whose_predictions_are_not_finite(here):
    change_weights(lambda weights: weights["bert.embeddings.LayerNorm.weight"].fill_(float("nan")))
    assert refused("bert.embeddings.LayerNorm.weight is not finite; it fills ")


def test_refuses_weights_and_a_tokenizer_that_are_others_though_records_agree(here):
    change_weights(lambda weights: weights["cls.predictions.bias"][7].add_(1.0))
    assert refused("it fills ")
    lines = [f"{a}の{b}に{c}がある。" for a in "春夏秋冬" for b in "山川海野町村" for c in "花鳥風月雨雪"]
    tokenization.write_tokenizer_folder(tokenization.train_sentencepiece(lines, 40), "model", 32)
    facts = tokenization.tokenizer_facts("model")
    edit_record("model/meta.json", outputs=files.describe_folder("model"), tokenizer=facts)
    outputs = [files.describe(Path("model", name)) for name in tokenization.FOLDER_FILES]
    edit_record("model/tokenizer.meta.json", outputs=outputs, tokenizer=facts)
    assert refused("its tokenizer has another vocabulary; AutoTokenizer gives other ids than in training; ")


def test_refuses_an_export_of_an_earlier_version(here):
    edit_record("model/meta.json", gate=None)
    assert error() == "model was exported by another version of bert-ja: run export_model.py again"


@pytest.mark.parametrize("private", [False, True])
def test_the_reason_why_a_private_model_does_not_load_is_left_out(here, private):
    content = json.loads(Path("model/tokenizer.json").read_text())
    content["model"]["vocab"][20][1] = "珊瑚色の鍵穴"
    rewrite("model/tokenizer.json", json.dumps(content, ensure_ascii=False))
    for name in ("meta.json", "tokenizer.meta.json"):
        outputs = [file for file in files.describe_folder("model") if name == "meta.json" or "token" in file["name"]]
        edit_record(f"model/{name}", outputs=outputs, corpus={"private": private})
    said = error()
    assert said.startswith("model cannot be released (AutoTokenizer does not load it (")
    assert ("珊瑚色の鍵穴" in said, "(not shown, the corpus is private)" in said) == (not private, private)


def test_refuses_a_model_that_does_not_load(here):
    rewrite("model/config.json", '{"model_type": "no-such-model"}')
    edit_record("model/meta.json", outputs=files.describe_folder("model"))
    said = error()
    assert said.startswith("model cannot be released (AutoModelForMaskedLM does not load it (")
    assert "no-such-model" in said


# Scores of the evaluations


def weights() -> str:
    return files.sha256("model/model.safetensors")


def test_scores_come_into_the_card_its_metadata_and_the_record(here, capsys):
    jglue, text = (
        evaluations.jglue(evaluations.model(weights())),
        evaluations.text(evaluations.model(CHECKPOINT["sha256"])),
    )
    evaluations.write_jglue(here / "evaluation", jglue)
    other = evaluations.text(evaluations.model("ab" * 32, "peer"), bits_per_character=1.5)
    evaluations.write_text(here / "text_result.json", other, text)
    release_model.main(jglue_result="evaluation", text_result="text_result.json")
    card = ModelCard.load("release/bert-base-ja/README.md")
    assert "| JSTS v1.3 | Pearson correlation | 0.880 ± 0.005 | 0.870 ± 0.005 |\n" in card.text
    assert "| Pseudo-likelihood (bits a character) | 3.5000 |\n" in card.text
    measured = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert (
        measured["JGLUE JSTS v1.3", "test", "pearsonr"] == jglue["tasks"]["jsts"]["scores"]["pearson"]["test"]["mean"]
    )
    assert measured["aozora, running text", None, "bits_per_character"] == 3.5
    record = files.read_record("release/bert-base-ja")
    whole = {results.JGLUE: {"result": jglue, "whole": True}, results.TEXT: {"result": text, "whole": False}}
    assert record["scores"] == whole
    assert list(record["records"])[-2:] == [results.JGLUE, results.TEXT]
    assert {"jglue.json", "jglue.md", "text_result.json"} < {file["name"] for file in record["inputs"]}
    for file in Path("release/bert-base-ja").iterdir():
        assert [word for word in (b"secret", str(here).encode()) if word in file.read_bytes()] == [], file
    assert "not known" not in capsys.readouterr().err


@pytest.mark.parametrize("private", ["model", "text"])
def test_of_a_private_text_scores_come_without_its_figures(here, private):
    if private == "model":
        edit_record("model/meta.json", corpus=CORPUS | {"private": True})
    jglue, text = (
        make(evaluations.model(weights(), "hospital", 7, 4480)) for make in (evaluations.jglue, evaluations.text)
    )
    evaluations.write_jglue(here / "evaluation", jglue)
    corpus = {"corpus": evaluations.CORPUS | {"private": True}} if private == "text" else {}
    evaluations.write_text(here / "text_result.json", text, **corpus)
    release_model.main(jglue_result="evaluation/jglue.json", text_result="text_result.json")
    said = Path("release/bert-base-ja/README.md").read_text()
    assert "Without a fine-tuning, on aozora:\n" in said
    assert ("stand in the training text too" in said) == (private == "text")
    record = files.read_record("release/bert-base-ja")
    found = json.dumps(record["scores"][results.TEXT])
    for figure in ("hospital", "45678", "26101", "4096", evaluations.TEXT_FILE["sha256"], "4480"):
        assert figure in json.dumps(text) and figure not in found
    assert record["scores"][results.TEXT]["result"]["bits_per_character"] == 3.5
    kept = json.dumps(record["scores"][results.JGLUE])
    assert ("in_training_text" in kept, "hospital" in kept) == ((private == "text",) * 2)
