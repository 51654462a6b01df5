"""What of a record may be published: the records of the whole pipeline, field by field, and what is kept back."""

import json
from pathlib import Path

import evaluations
import pytest

from bert_ja import disclosure, files, model_card, results, training
from bert_ja.disclosure import has_path, paths_in, public, undecided

RECORD = {
    "stage": "prepare_corpus.py",
    "options": {"name": "reports", "text_field": "patient", "id_field": "case", "min_sentences": 2},
    "seed": 1000,
    "inputs": [{"name": "secret_hospital.txt", "size": 3, "sha256": "aa"}],
    "outputs": [{"name": "train.txt", "size": 4, "sha256": "bb"}, {"name": "train.index.jsonl", "size": 5}],
    "counts": {"documents": 2},
    "random_sentences": ["患者は痛みを訴えた。"],
    "corpus": {
        **{"name": "reports", "license": "in-house", "source": "ours, /home/taro/reports", "private": False},
        **{"dump": {"date": "2026-11-01", "file": "a.xml", "sha256": "cc"}},
    },
    "run": {"host": "h", "command": ["/home/taro/a.py"], "paths": {"a": "/a"}},
    "surprise": {"of": "tomorrow"},
}


def test_public_keeps_what_is_allowed_and_no_path():
    expected = {name: value for name, value in RECORD.items() if name not in ("random_sentences", "run", "surprise")}
    assert public(RECORD) == expected | {"corpus": RECORD["corpus"] | {"source": None}}
    assert paths_in(RECORD) == ["ours, /home/taro/reports"]
    assert public(None) is None
    assert model_card.public is public


def test_a_private_corpus_keeps_more_for_itself():
    """What is said of the text, and what its owner has called things; of the model's own files nothing."""
    weights = [{"name": "last.ckpt", "size": 1, "sha256": "dd"}, {"name": "sp.model", "size": 2, "sha256": "ee"}]
    record = RECORD | {"inputs": RECORD["inputs"] + weights, "training": {"samples": {"train": None}, "shares": [1, 2]}}
    assert public(record, private=True) == {
        "stage": "prepare_corpus.py",
        "options": {"name": "reports", "min_sentences": 2},
        "seed": 1000,
        "inputs": [{}, *weights],
        "outputs": [{"name": "train.txt"}, {"name": "train.index.jsonl"}],
        "corpus": {"name": "reports", "license": "in-house", "source": None, "private": False},
        "training": {},
    }


def test_a_record_that_says_that_its_text_is_private_needs_nobody_to_say_it_again():
    record = RECORD | {"corpus": RECORD["corpus"] | {"private": True}}
    assert public(record) == public(record, private=True) != public(RECORD)


def test_a_field_of_another_shape_than_expected_is_not_let_through():
    record = {"stage": {"line": "患者は"}, "steps": [1], "corpus": "患者は", "tokenizer": ["a", {"b": 1}], "counts": 3}
    assert public(record) == {"stage": None, "steps": [1], "corpus": None, "tokenizer": [None, {}], "counts": None}
    assert undecided(record) == ["corpus", "counts", "stage", "tokenizer", "tokenizer.b"]


def records_below(work: Path) -> dict[str, dict]:
    """The records of all stages that stand in the folder of the fixtures, and what a checkpoint says."""
    paths = [*work.glob("data/*meta.json"), *work.glob("output/*/meta.json"), *work.glob("model/*meta.json")]
    paths += [work / "test_result.json.meta.json"]
    return {str(path.relative_to(work)): json.loads(path.read_text()) for path in sorted(paths)}


def test_every_field_of_every_record_is_published_or_left_out_on_purpose(work, model, result, run):
    """A new field of a record makes this fail until somebody has decided: in FIELDS or in LEFT_OUT."""
    found = records_below(work)
    assert {record["stage"] for record in found.values()} == {
        *("extract_jawiki.py", "prepare_corpus.py", "train_tokenizer.py", "prepare_train_data.py", "test.py"),
        *("export_model.py", "convert_tokenizer.py"),
    }
    assert {name: fields for name, record in found.items() if (fields := undecided(record))} == {}
    provenance = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["provenance"]
    assert undecided({"training": provenance}) == []
    assert undecided(found["data/train.txt.meta.json"] | {"new": 1, "options": {"new": 2}}) == ["new", "options.new"]


def test_what_is_left_out_stands_in_real_records(work, model, result):
    names = {name for record in records_below(work).values() for name in record}
    assert set(disclosure.LEFT_OUT) - names == {"_instantiator"}  # of checkpoints
    kept = [public(record) for record in records_below(work).values()]
    assert {name for record in kept for name in record} & set(disclosure.LEFT_OUT) == set()


def test_published_records_of_the_pipeline_keep_what_a_check_needs(work, model, result):
    for record in records_below(work).values():
        kept = public(record)
        for field in ("stage", "options", "seed", "versions", "inputs", "outputs", "tokenizer", "corpus"):
            assert kept.get(field) == record.get(field)


@pytest.mark.parametrize(
    "text",
    ["/home/taro/a.txt", "mine, /data/a", "~/a.txt", r"C:\texts\a.txt", "file:///a", "(/mnt/a)", r"\\server\share"],
)
def test_paths_are_known(text):
    assert has_path(text)


@pytest.mark.parametrize(
    "text",
    ["", "jawiki", "Japanese Wikipedia, https://ja.wikipedia.org/", "CC BY-SA 3.0/GFDL", "CC BY / GFDL", "3:10", "a~b"],
)
def test_names_and_addresses_are_no_paths(text):
    assert not has_path(text)


def test_settings_of_a_tokenizer_lose_the_path_that_transformers_wrote(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"name_or_path": "/home/taro/bert", "mask_token": "[MASK]", "do_lower_case": false}')
    assert disclosure.remove_paths(path) == ["name_or_path"]
    assert json.loads(path.read_text()) == {"mask_token": "[MASK]", "do_lower_case": False}
    before = path.read_bytes()
    assert disclosure.remove_paths(path) == []
    assert path.read_bytes() == before
    path.write_text("{")
    assert disclosure.remove_paths(path) == []


def test_a_checkpoint_is_described_by_the_names_that_training_gives(run):
    for path in (run / "checkpoints").iterdir():
        assert disclosure.OF_THE_MODEL.fullmatch(files.describe(path)["name"])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "from:/home/taro/x",
            "server:/mnt/x",
            "テキスト：/home/x",
            "社内文書、/home/x",
            "（/home/x）",
            "`/home/x`",
            "[/home/x]",
        ),
        *("</home/taro/x>", "path:C:\\Users\\x", "-d/usr/lib", "-d /usr/lib/x", "$HOME/x", "${HOME}", "~/a", "~taro/b"),
    ],
)
def test_paths_are_known_wherever_they_stand(text):
    assert has_path(text)


@pytest.mark.parametrize("text", ["</s>", "[/INST]", "1/2", "and/or", "日本/東京", "public domain / CC0", "v1.0/2.0"])
def test_slashes_of_other_kinds_are_no_paths(text):
    assert not has_path(text)


def test_settings_of_a_tokenizer_lose_paths_within_them_too(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    settings = {"mecab_kwargs": {"mecab_dic": "unidic_lite", "mecab_option": "-d /home/taro/dic"}, "eos_token": "</s>"}
    path.write_text(json.dumps(settings | {"files": [{"a": 1, "b": "/data/kunde"}]}))
    assert disclosure.remove_paths(path) == ["mecab_kwargs.mecab_option", "files.b"]
    kept = {"mecab_kwargs": {"mecab_dic": "unidic_lite"}, "eos_token": "</s>", "files": [{"a": 1}]}
    assert json.loads(path.read_text()) == kept


def test_a_sentencepiece_model_loses_where_and_on_what_it_was_trained(tmp_path):
    """As spm_train writes it; ours has nothing of it."""
    import sentencepiece

    lines = [f"{a}の{b}に{c}がある。" for a in "春夏秋冬" for b in "山川海野町村" for c in "花鳥風月雨雪"]
    (tmp_path / "taro").mkdir()
    (tmp_path / "taro" / "secret.txt").write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "taro" / "secret.txt"),
        model_prefix=str(tmp_path / "taro" / "sp"),
        vocab_size=40,
        minloglevel=2,
    )
    path = tmp_path / "taro" / "sp.model"
    tested = lines[0].encode()  # field 4, self_test_data, of earlier versions
    path.write_bytes(path.read_bytes() + bytes([4 << 3 | 2, len(tested)]) + tested)
    before = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(lines)
    assert b"secret.txt" in path.read_bytes()
    assert disclosure.remove_training_facts(path) == ["input", "model_prefix", "self_test_data"]
    left = path.read_bytes()
    assert b"taro" not in left and not any(line.encode() in left for line in lines)
    assert sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(lines) == before
    assert disclosure.remove_training_facts(path) == [] and path.read_bytes() == left


def test_files_that_a_release_of_a_private_model_needs_keep_their_names():
    described = {"size": 1, "sha256": "aa"}
    for name in ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.txt", "onnx/model.onnx"):
        assert disclosure.public({"outputs": [{"name": name} | described]}, True) == {
            "outputs": [{"name": name} | described]
        }
    checkpoint = {"inputs": [{"name": "kunde-x.ckpt"} | described, {"name": "kunde.txt"} | described]}
    assert disclosure.public(checkpoint, True) == {"inputs": [described, {}]}


def test_every_field_of_a_result_is_published():
    for content in (evaluations.jglue(evaluations.model("5a")), evaluations.text(evaluations.model("5a"))):
        assert disclosure.public_result(content) == content
        assert undecided(content, disclosure.RESULT) == []
        assert undecided(content | {"new": 1}, disclosure.RESULT) == ["new"]


def test_a_result_of_a_private_text_keeps_scores_and_weights_and_nothing_of_the_text():
    jglue, text = evaluations.jglue(evaluations.model("5a")), evaluations.text(evaluations.model("5a", name="hospital"))
    tasks = {name: {key: task[key] for key in task if key != "overlap"} for name, task in jglue["tasks"].items()}
    measured = {"name": None, "steps": 7, "weights": jglue["model"]["weights"]}
    assert disclosure.public_result(jglue, private=True) == jglue | {"model": measured, "tasks": tasks}
    kept = {key: text[key] for key in results.TEXT_MEASURES}
    assert disclosure.public_result(text, private=True) == kept | {"model": measured}
    results.check_jglue(disclosure.public_result(jglue, private=True))  # as --verify does
    results.check_text(disclosure.public_result(text, private=True))


def test_a_name_that_is_a_path_stays_behind():
    content = evaluations.text(evaluations.model("5a", name="/home/taro/bert"))
    assert disclosure.public_result(content)["model"]["name"] is None
