"""The tokenizer files of a model folder: the same bytes, verified before they are written; and the check for users."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, refusal, stage
from test_parity import COMPAT, READY, lower_a_score, tampered, write_bert
from test_tokenization import changed, made_up_lines, small_model

import convert_tokenizer
from bert_ja import files, hard_lines, tokenization
from bert_ja.cli import StageError
from bert_ja.parity import SPACES

CONFIG = {"model_type": "bert", "vocab_size": 400, "max_position_embeddings": 512}
NAMES = sorted(tokenization.FOLDER_FILES)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with output/spm/sp.model and a text."""
    monkeypatch.chdir(tmp_path)
    files.write_bytes("output/spm/sp.model", small_model())
    Path("data").mkdir()
    Path("data/valid.txt").write_text("\n".join(made_up_lines(50, seed=3)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def model(place) -> Path:
    """A model folder as export_model.py leaves it."""
    folder = place / "model"
    tokenization.write_tokenizer_folder(small_model(), folder)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "meta.json").write_text('{"stage": "export_model.py"}', encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def configure(folder: Path, **changes) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")


# Converting


def test_an_absent_folder_is_made_with_the_files_of_training(place):
    convert_tokenizer.main("output/spm/sp.model", "model")
    built = contents(place / "model")
    assert sorted(built) == sorted([*NAMES, "tokenizer.meta.json"])
    assert {name: built[name] for name in tokenization.FOLDER_FILES} == tokenization.folder_files(small_model())
    assert sorted(path.name for path in place.iterdir()) == ["data", "model", "output"]


def test_exports_copy_is_confirmed_and_nothing_else_touched(model, capsys):
    before = contents(model)
    convert_tokenizer.main("output/spm/sp.model", "model")
    after = contents(model)
    record = json.loads(after.pop("tokenizer.meta.json"))
    assert after == before
    assert (record["stage"], record["inputs"]) == ("convert_tokenizer.py", [files.describe("output/spm/sp.model")])
    assert record["tokenizer"] == tokenization.tokenizer_facts(model)
    assert sorted(output["name"] for output in record["outputs"]) == NAMES
    assert (record["parity"]["lines"], record["parity"]["differences"]) == (len(hard_lines.ADVERSARIAL_LINES), 0)
    talk = capsys.readouterr().err.splitlines()
    assert talk[0] == "data/train.txt not found: only our own list is compared (pass --text_file to compare more)"
    assert talk[-1].startswith("wrote spm.model, tokenizer.json, tokenizer_config.json to model, same ids by AutoTo")


def test_a_named_text_is_compared_line_by_line(model):
    convert_tokenizer.main("output/spm/sp.model", "model", "data/valid.txt")
    assert files.read_record(model, "tokenizer.meta.json")["parity"]["lines"] == 50 + len(hard_lines.ADVERSARIAL_LINES)


def test_the_training_text_is_sampled_where_it_is(model):
    Path("data/train.txt").write_text("\n\n".join(made_up_lines(70)), encoding="utf-8")
    convert_tokenizer.main("output/spm/sp.model", "model")
    assert files.read_record(model, "tokenizer.meta.json")["parity"]["lines"] == 70 + len(hard_lines.ADVERSARIAL_LINES)


def test_the_models_positions_become_its_longest_sample(model, capsys):
    configure(model, max_position_embeddings=128)
    convert_tokenizer.main("output/spm/sp.model", "model")
    assert (model / "tokenizer_config.json").read_text(encoding="utf-8") == tokenization.tokenizer_config_json(128)
    said = "model/tokenizer_config.json: model_max_length 512 is replaced by 128, the model's positions"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_another_file_in_the_folder_is_named_and_kept(model, name):
    (model / name).write_bytes((model / name).read_bytes().replace(b"[CLS]", b"[CLZ]", 1))
    before = contents(model)
    with pytest.raises(StageError) as error:
        convert_tokenizer.main("output/spm/sp.model", "model")
    assert str(error.value) == (
        f"model/{name} is not what output/spm/sp.model gives: pass the --spm_model that this model was trained with, "
        f"or move {name} away to have it built anew"
    )
    assert contents(model) == before


def test_a_vocabulary_of_another_size_is_refused_with_both_numbers(model):
    configure(model, vocab_size=32000)
    before = contents(model)
    with pytest.raises(StageError) as error:
        convert_tokenizer.main("output/spm/sp.model", "model")
    assert str(error.value) == (
        "model/config.json has vocab_size 32000, output/spm/sp.model has 400 pieces: "
        "pass the --spm_model that this model was trained with"
    )
    assert contents(model) == before


def test_a_damaged_config_is_refused(model):
    (model / "config.json").write_text('{"vocab_size": ', encoding="utf-8")
    with pytest.raises(StageError, match="model/config.json is damaged .*: run export_model.py again"):
        convert_tokenizer.main("output/spm/sp.model", "model")


def test_what_differs_is_not_written(model, monkeypatch):
    """A model whose scores were never rounded has ties that the libraries break differently; here NFC is taken away."""
    right = tokenization.tokenizer_json
    monkeypatch.setattr(
        tokenization, "tokenizer_json", lambda spm: right(spm).replace('"type": "NFC"', '"type": "NFD"')
    )
    for name in tokenization.FOLDER_FILES:
        (model / name).unlink()
    before = contents(model)
    with pytest.raises(
        StageError, match="model does not tokenize as its SentencePiece model does .* line .* our own list"
    ):
        convert_tokenizer.main("output/spm/sp.model", "model")
    assert contents(model) == before
    assert not (model.parent / ".model.work").exists()


def test_a_wrong_spm_model_is_refused(place):
    Path("old.model").write_bytes(changed(lambda proto: setattr(proto.normalizer_spec, "add_dummy_prefix", True)))
    Path("file").write_text("x", encoding="utf-8")
    for spm_model, folder, message in [
        ("none.model", "model", "none.model not found: run train_tokenizer.py first"),
        (
            "data/valid.txt",
            "model",
            "data/valid.txt is not a SentencePiece model, or is damaged: run train_tokenizer.py",
        ),
        ("data", "model", "data has no spm.model: name a folder that train_tokenizer.py wrote, such as output/model"),
        (
            "old.model",
            "model",
            "old.model: this SentencePiece model cannot be used (add_dummy_prefix is on): train one",
        ),
        (None, "file", "file is a file, --output_dir needs a model folder"),
    ]:
        with pytest.raises(StageError) as error:
            convert_tokenizer.main(spm_model, folder)
        assert str(error.value).startswith(message)
    assert not Path("model").exists()


def test_a_wrong_text_is_refused(model):
    Path("a.jsonl").write_text('{"input_ids": []}', encoding="utf-8")
    for text, message in [("none.txt", "none.txt not found"), ("a.jsonl", "a.jsonl is JSON")]:
        with pytest.raises(StageError, match=f"{message}.*: pass --text_file with a text of one sentence a line"):
            convert_tokenizer.main("output/spm/sp.model", "model", text)


def test_the_tokenizer_of_a_private_text_stays_private(model, capsys):
    """Its record has what train_tokenizer.py recorded of the text."""
    known = {"name": "ours", "license": None, "source": "our files", "dump": None, "private": True}
    files.write_record("output/spm", {"corpus": known})
    convert_tokenizer.main("output/spm/sp.model", "model")
    assert files.read_record(model, "tokenizer.meta.json")["corpus"] == known
    with pytest.raises(StageError, match="output/spm is of a private corpus, as its record says"):
        convert_tokenizer.main("output/spm/sp.model", "model", private_corpus=False)
    files.write_record("output/spm", {"corpus": known | {"private": False}})
    convert_tokenizer.main("output/spm/sp.model", "model", "data/valid.txt", private_corpus=True)
    assert files.read_record(model, "tokenizer.meta.json")["corpus"] == known


# The layout of the published model

WARNING = (
    "transformers 5 mis-tokenizes every line with such a folder, and so does transformers 4 unless AutoTokenizer is "
    "called with use_fast=False"
)


def test_the_published_layout_is_that_of_transformers_4(place, capsys):
    convert_tokenizer.main("output/spm/sp.model", "published", tokenizer_class="DebertaV2Tokenizer")
    names = ["special_tokens_map.json", "spm.model", "tokenizer_config.json"]
    assert sorted(path.name for path in Path("published").iterdir()) == sorted([*names, "tokenizer.meta.json"])
    assert Path("published/spm.model").read_bytes() == small_model()
    config = json.loads(Path("published/tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["tokenizer_class"], config["model_max_length"]) == ("DebertaV2Tokenizer", 512)
    record = files.read_record("published", "tokenizer.meta.json")
    assert (record["tokenizer_class"], record["parity"], record["warning"]) == ("DebertaV2Tokenizer", None, WARNING)
    assert sorted(output["name"] for output in record["outputs"]) == names
    talk = capsys.readouterr().err.splitlines()
    assert talk[0].startswith(
        "wrote spm.model, tokenizer_config.json, special_tokens_map.json to published, not compared"
    )
    assert talk[1:] == [
        f"warning: {WARNING}; check it with make .venv-compat, then .venv-compat/bin/python convert_tokenizer.py "
        "--check_only True"
    ]


def test_transformers_5_mis_tokenizes_the_published_layout(place):
    """What the warning says; when this fails, it can go."""
    convert_tokenizer.main("output/spm/sp.model", "published", tokenizer_class="DebertaV2Tokenizer")
    tokenizer = tokenization.load_tokenizer("published", slow=True)
    spm = tokenization.load_model(small_model())
    lines = made_up_lines(50, seed=3)
    assert [line for line in lines if tokenizer(line)["input_ids"] == [2, *spm.encode(line), 3]] == []


def test_the_published_layout_is_refused_where_it_does_not_belong(place, model):
    with pytest.raises(StageError) as error:
        convert_tokenizer.main("output/spm/sp.model", "model", tokenizer_class="DebertaV2Tokenizer")
    assert str(error.value) == (
        "model has a tokenizer.json, which the published layout has not: name another --output_dir"
    )
    convert_tokenizer.main("output/spm/sp.model", "published", tokenizer_class="DebertaV2Tokenizer")
    with pytest.raises(StageError) as error:
        convert_tokenizer.main(output_dir="published", check_only=True)
    assert str(error.value).startswith(f"published is for transformers 4 only ({WARNING}): check it with make ")
    with pytest.raises(
        StageError, match="--tokenizer_class must be PreTrainedTokenizerFast or DebertaV2Tokenizer, got 'X'"
    ):
        convert_tokenizer.main("output/spm/sp.model", "other", tokenizer_class="X", encodings_file="a.txt")
    assert not Path("other").exists()


@pytest.mark.full
def test_the_published_layout_is_what_transformers_4_saves_and_its_slow_tokenizer_reads(place):
    if not READY.is_file():
        pytest.skip(".venv-compat is not built: make .venv-compat")
    code = (
        "from transformers import DebertaV2Tokenizer as T; names = dict(unk_token='<unk>', sep_token='[SEP]', "
        "pad_token='<pad>', cls_token='[CLS]', mask_token='[MASK]'); "
        "T('output/spm/sp.model', model_max_length=512, **names).save_pretrained('saved')"
    )
    subprocess.run([COMPAT, "-c", code], check=True, capture_output=True)
    command = [COMPAT, ROOT / "convert_tokenizer.py", "--output_dir", "published", "--text_file", "data/valid.txt"]
    done = subprocess.run([*command, "--tokenizer_class", "DebertaV2Tokenizer"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"warning: {WARNING}"
    record = json.loads(Path("published/tokenizer.meta.json").read_text())
    assert record["parity"]["lines"] == 50 + len(hard_lines.ADVERSARIAL_LINES)
    assert record["parity"]["known_differences"][SPACES] > 30
    saved = contents(Path("saved"))
    assert {name: content for name, content in contents(Path("published")).items() if name in saved} == saved
    assert len(saved) == 3


# Checking


def test_check_only_reports_and_writes_nothing(model, capsys):
    (model / "model.safetensors").unlink()
    before = contents(model)
    convert_tokenizer.main(output_dir="model", text_file="data/valid.txt", check_only=True)
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == "model"
    assert report["tokenizer"] == tokenization.tokenizer_facts(model)
    assert report["lines"] == report["with_mask"] == 50 + len(hard_lines.ADVERSARIAL_LINES)
    assert (report["differences"], report["first_difference"]) == (0, None)
    assert sum(report["known_differences"].values()) == 13
    assert contents(model) == before


def test_check_only_fills_masks_where_there_is_a_model_and_writes_encodings(place, model, capsys):
    write_bert(model)
    convert_tokenizer.main(output_dir="model", text_file="data/valid.txt", check_only=True, encodings_file="a.txt")
    report = json.loads(capsys.readouterr().out)
    assert report["fill_mask"] == 4
    assert report["text"] == report["text"] | {"lines": 50, "with_mask": 50, "pairs": 25, "known_differences": {}}
    rows = Path("a.txt").read_text(encoding="utf-8").splitlines()
    own = len(hard_lines.ADVERSARIAL_LINES)
    assert len(rows) == (own + own + own // 2) + (50 + 50 + 25) + 4
    convert_tokenizer.main(output_dir="model", text_file="data/valid.txt", check_only=True, encodings_file="b.txt")
    assert Path("b.txt").read_bytes() == Path("a.txt").read_bytes()
    Path("data/valid.txt").write_text("\n".join([*made_up_lines(49, seed=3), "別の文。"]), encoding="utf-8")
    convert_tokenizer.main(output_dir="model", text_file="data/valid.txt", check_only=True, encodings_file="b.txt")
    others = Path("b.txt").read_text(encoding="utf-8").splitlines()
    differing = [row.partition(":")[0] for row, other in zip(rows, others, strict=True) if row != other]
    line = "line 50 of data/valid.txt"
    assert differing == [line, line.replace(" of", " with [MASK] of"), f"the pair ending in {line}"]


def test_encodings_are_written_when_checking_only(model):
    with pytest.raises(StageError, match="--encodings_file needs --check_only True"):
        convert_tokenizer.main("output/spm/sp.model", "model", encodings_file="a.txt")


def test_check_only_names_a_missing_tokenizer_json(model):
    """AutoTokenizer makes one of spm.model alone, which transformers 5 gets wrong."""
    (model / "tokenizer.json").unlink()
    with pytest.raises(StageError, match="model has no tokenizer.json: build it with convert_tokenizer.py"):
        convert_tokenizer.main(output_dir="model", check_only=True)


def test_check_only_ends_with_an_error_on_a_difference(place, model):
    lines = made_up_lines(50, seed=3)
    tampered(model, place / "wrong", lower_a_score)
    command = ("--check_only", "True", "--output_dir", "wrong", "--text_file", "data/valid.txt")
    result = stage("convert_tokenizer.py", *command, cwd=place, check=False)
    report = json.loads(result.stdout)
    assert result.returncode == 2
    assert report["differences"] > 0
    number = 1 + next(number for number, line in enumerate(lines) if "望遠鏡を" in line)
    assert report["first_difference"].startswith(f"line {number} of data/valid.txt, {lines[number - 1]!r}: ids ")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("convert_tokenizer.py: error: wrong does not tokenize as its SentencePiece model does (")
    assert last.endswith(report["first_difference"])


@pytest.mark.parametrize("says", ["the text", "an edited text", "the folder", "the user", "nobody"])
def test_check_only_shows_no_line_of_a_private_corpus(place, model, capsys, says):
    text, wrong = Path("data/valid.txt"), tampered(model, place / "wrong", lower_a_score)
    text.write_text("望遠鏡を珊瑚色の鍵穴に。\n" + text.read_text(encoding="utf-8"), encoding="utf-8")
    private = says.endswith(" text")
    files.write_record(text, {"outputs": [files.describe(text)], "corpus": {"private": private}})
    files.write_record(wrong, {"corpus": {"private": True}}, "tokenizer.meta.json") if says == "the folder" else None
    if says == "an edited text":
        text.write_text(text.read_text(encoding="utf-8") + "\n最後の文。\n", encoding="utf-8")
    options = {"check_only": True, "private_corpus": True if says == "the user" else None}
    with pytest.raises(StageError) as error:
        convert_tokenizer.main(None, "wrong", "data/valid.txt", **options)
    shown = capsys.readouterr()
    report, said = json.loads(shown.out), shown.out + shown.err + str(error.value)
    assert report["differences"] > 0
    assert report["first_difference"].startswith("line 1 of data/valid.txt, ")
    assert str(error.value).endswith(report["first_difference"])
    if says == "nobody":
        assert "'望遠鏡を珊瑚色の鍵穴に。': ids [" in report["first_difference"]
    else:
        assert report["first_difference"] == "line 1 of data/valid.txt, not shown, the corpus is private"
        assert [part for part in ("珊瑚", "鍵穴", "望遠鏡", " ids ") if part in said] == []


def test_check_only_compares_with_a_named_model(model):
    (model / "model.safetensors").unlink()
    Path("other.model").write_bytes(tokenization.train_sentencepiece(made_up_lines(500), 300))
    with pytest.raises(StageError, match="model does not tokenize as its SentencePiece model does"):
        convert_tokenizer.main("other.model", "model", check_only=True)


def test_check_only_needs_a_folder(place):
    assert refusal("convert_tokenizer.py", "--check_only", "True", cwd=place) == (
        "model not found: pass --output_dir with the tokenizer or model folder to check"
    )
    with pytest.raises(StageError, match="data has no spm.model"):
        convert_tokenizer.main(output_dir="data", check_only=True)


@pytest.mark.parametrize("script", ["train_tokenizer.py", "convert_tokenizer.py"])
def test_help_explains_every_option(place, script):
    import importlib
    import inspect

    result = stage(script, "--help", cwd=place)
    shown = result.stdout + result.stderr
    for name in inspect.signature(importlib.import_module(script.removesuffix(".py")).main).parameters:
        assert f"--{name}=" in shown or name.upper() in shown


def test_a_model_may_have_more_rows_than_its_tokenizer_has_pieces(tmp_path):
    """As the export's record says: model.embedding_rows, or a vocabulary padded to a multiple of 64."""
    files.write_record(tmp_path, {"stage": "export_model.py", "tokenizer": {"vocab_size": 400}})
    require = convert_tokenizer.require_same_vocabulary
    require(tmp_path, {"vocab_size": 448}, Path("sp.model"), 400)
    with pytest.raises(StageError, match="has vocab_size 448, sp.model has 390 pieces"):
        require(tmp_path, {"vocab_size": 448}, Path("sp.model"), 390)
