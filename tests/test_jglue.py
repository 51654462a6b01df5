"""JGLUE's own files: what is read of them, and what is refused with its place."""

import json
from pathlib import Path

import pytest
from conftest import shared

from bert_ja import jglue
from bert_ja.cli import StageError
from bert_ja.jglue import TASKS, Answer, Example

PAIR = {"sentence_pair_id": "0", "sentence1": "犬がいる。", "sentence2": "猫がいる。", "label": 1.2}
CHOICE = {"q_id": 3, "question": "空は？", **{f"choice{number}": f"{number}番" for number in range(5)}, "label": 4}


def written(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def squad(*questions, context: str = "犬 [SEP] 犬は動物である。") -> dict:
    return {"data": [{"title": "犬", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(*answers) -> dict:
    return {
        "id": "q1",
        "question": "犬は何？",
        "answers": [dict(zip(("text", "answer_start"), each, strict=True)) for each in answers],
    }


def test_each_kind_of_task_is_read_from_its_own_form(tmp_path):
    file = tmp_path / "file.json"
    assert jglue.read(TASKS["jsts"], written(file, PAIR)) == [Example(("犬がいる。", "猫がいる。"), 1.2)]
    assert jglue.read(TASKS["jnli"], written(file, PAIR | {"label": "neutral"}))[0].label == 2
    assert jglue.read(TASKS["jcommonsenseqa"], written(file, CHOICE)) == [
        Example(("空は？", "0番", "1番", "2番", "3番", "4番"), 4)
    ]
    acceptable = {"uid": 1, "label": 1, "sentence": "太郎が本を読んだ。"}
    assert jglue.read(TASKS["jcola"], written(file, acceptable)) == [Example(("太郎が本を読んだ。",), 1)]
    review = {"review_id": "R1", "sentence": "良い品だ。", "label": "positive"}
    assert jglue.read(TASKS["marc_ja"], written(file, review)) == [Example(("良い品だ。",), 1)]
    context = "犬 [SEP] 犬は動物である。"
    asked = squad(question(("動物", 10), ("犬", 0)))
    assert jglue.read(TASKS["jsquad"], written(file, asked)) == [
        Example(("犬は何？", context), (Answer("動物", 10), Answer("犬", 0)))
    ]


def test_a_line_separator_within_a_sentence_does_not_end_its_line(tmp_path):
    assert len(jglue.read(TASKS["jsts"], written(tmp_path / "file.json", PAIR | {"sentence1": "犬\u2028猫"}))) == 1


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("jsts", {**PAIR, "label": None}, "line 2, has no label, so that nothing can be learned or scored there"),
        ("jsts", {k: v for k, v in PAIR.items() if k != "label"}, "line 2, has no label"),
        ("jsts", {**PAIR, "label": "3"}, "line 2, has the label '3', which is no number"),
        ("jsts", {**PAIR, "label": float("nan")}, "line 2, has the label nan, which is no number"),
        ("jsts", {**PAIR, "sentence2": " "}, "line 2, has no text 'sentence2'"),
        ("jnli", PAIR, "line 2, has the label 1.2, which is none of contradiction, entailment, neutral"),
        ("jcommonsenseqa", {**CHOICE, "label": 5}, "line 2, has the label 5, which is none of 0, 1, 2, 3, 4"),
        ("jcommonsenseqa", {**CHOICE, "label": True}, "line 2, has the label True"),
        ("jcommonsenseqa", {**CHOICE, "choice3": 7}, "line 2, has no text 'choice3'"),
        ("jsts", [1, 2], "line 2, is not a JSON object"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_named(tmp_path, task, row, message):
    good = {"jsts": PAIR, "jnli": PAIR | {"label": "neutral"}, "jcommonsenseqa": CHOICE}[task]
    with pytest.raises(StageError) as error:
        jglue.read(TASKS[task], written(tmp_path / "file.json", good, row))
    assert message in str(error.value)
    assert str(error.value).endswith(": get the file again")


def test_a_file_that_is_cut_short_is_named(tmp_path):
    file = written(tmp_path / "file.json", PAIR, PAIR)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StageError, match="line 2, is not a JSON object"):
        jglue.read(TASKS["jsts"], file)
    file.write_bytes("犬".encode("shift_jis"))
    with pytest.raises(StageError, match="is not UTF-8 text"):
        jglue.read(TASKS["jsts"], file)
    file.write_bytes(b"")
    with pytest.raises(StageError, match="holds no example"):
        jglue.read(TASKS["jsts"], file)
    file.write_text(json.dumps(squad(question(("動物", 10))))[:-9])
    with pytest.raises(StageError, match="is not a JSON object with `data`"):
        jglue.read(TASKS["jsquad"], file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (squad(question()), "question q1, has no answers"),
        (squad(question(("動物", 9))), "question q1, has an answer that does not stand in the context"),
        (squad(question(("動物", 10)) | {"question": ""}), "question q1, has no text 'question'"),
        (squad(question(("動物", 10)), context=""), "question q1, has no text 'context'"),
        ({"data": [{"title": "犬"}]}, "has an article without paragraphs or questions"),
        (squad("犬"), "question None, has no text 'question'"),
    ],
)
def test_a_question_that_is_not_as_it_should_be_is_named(tmp_path, content, message):
    with pytest.raises(StageError) as error:
        jglue.read(TASKS["jsquad"], written(tmp_path / "file.json", content))
    assert message in str(error.value)


def test_the_newest_version_of_a_task_is_taken(tmp_path):
    for version in ("1.3", "1.10", "1.2"):
        (tmp_path / f"jsts-v{version}").mkdir()
        written(tmp_path / f"jsts-v{version}" / f"valid-v{version}.json", PAIR)
    found = jglue.find_files(TASKS["jsts"], tmp_path)
    assert (found.version, found.paths) == ("v1.10", {"valid": tmp_path / "jsts-v1.10" / "valid-v1.10.json"})


@pytest.mark.parametrize(
    ("task", "how"), [("jsts", "yahoojapan/JGLUE"), ("jcola", "osekilab/JCoLA"), ("marc_ja", "no longer")]
)
def test_files_that_are_absent_are_said_how_to_get(tmp_path, task, how):
    with pytest.raises(StageError, match=how):
        jglue.find_files(TASKS[task], tmp_path)


def test_what_is_held_out_shares_no_text_with_what_stays():
    """Pairs both ways, and linked through a third: a-b, b-a, b-c are one group."""
    pairs = [(f"{n}a", f"{n}b") for n in range(300)] + [(f"{n}b", f"{n}a") for n in range(300)]
    pairs += [(f"{n}b", f"{n}c") for n in range(0, 300, 3)]
    examples = [Example(pair, 0) for pair in pairs]
    stays, held = jglue.hold_out(TASKS["jnli"], examples, 7)
    assert sorted(e.texts for e in stays + held) == sorted(pairs)
    assert 0.09 < len(held) / len(pairs) <= 0.1
    assert not {text for e in stays for text in e.texts} & {text for e in held for text in e.texts}
    assert jglue.hold_out(TASKS["jnli"], examples, 7) == (stays, held)
    assert jglue.hold_out(TASKS["jnli"], examples, 8) != (stays, held)


def test_questions_on_one_article_are_held_out_together_and_equal_questions_are_not():
    examples = [Example(("いつ？", f"題{number // 8} [SEP] 段落{number // 4}"), ()) for number in range(400)]
    stays, held = jglue.hold_out(TASKS["jsquad"], examples, 7)
    assert len(held) == 40
    titles = [{e.texts[1].partition(" ")[0] for e in part} for part in (stays, held)]
    assert not titles[0] & titles[1]


def test_the_sentences_of_a_context_are_those_behind_its_title():
    example = Example(("犬は何？", "犬 [SEP] 犬は動物である。　猫も①匹いる。"), ())
    assert jglue.sentences_of(TASKS["jsquad"], [example]) == {"犬は何?", "犬は動物である。", "猫も1匹いる。"}
    choice = Example(("空は？", "青い", "赤い", "緑", "黒", "白"), 0)
    assert jglue.sentences_of(TASKS["jcommonsenseqa"], [choice]) == {"空は?"}


@pytest.mark.parametrize("examples", [[("甲", "乙")] * 3, [(f"甲{number}", "同じ文") for number in range(100)]])
def test_where_nothing_can_be_held_out_it_is_said(examples):
    with pytest.raises(StageError, match=rf"JNLI: of {len(examples)} validation examples none can be held out, as"):
        jglue.hold_out(TASKS["jnli"], [Example(texts, 0) for texts in examples], 1)


def test_the_real_files_are_read_whole():
    folder = shared("data", "jglue")
    nli = jglue.read(TASKS["jnli"], folder / "jnli-v1.3" / "valid-v1.3.json")
    stays, held = jglue.hold_out(TASKS["jnli"], nli, 1)
    assert len(held) == 243
    assert not {text for e in stays for text in e.texts} & {text for e in held for text in e.texts}
    counts = {
        name: {
            split: len(jglue.read(TASKS[name], path))
            for split, path in jglue.find_files(TASKS[name], folder).paths.items()
        }
        for name in jglue.DEFAULT_TASKS
    }
    assert counts == {
        "jsts": {"train": 12451, "valid": 1457, "test": 1589},
        "jnli": {"valid": 2434, "test": 2508},
        "jsquad": {"valid": 4442, "test": 4420},
        "jcommonsenseqa": {"train": 8939, "valid": 1119, "test": 1118},
    }
