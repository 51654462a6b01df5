"""SentencePiece models are repeatable, and what is no model of ours is refused."""

import functools
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from conftest import ROOT
from tokenizers import Tokenizer

from bert_ja import tokenization
from bert_ja.cli import StageError

WHEN = [
    "昨日",
    "今朝",
    "去年の春",
    "1987年",
    "戦後まもなく",
    "雨の夜に",
    "祭りの前の日",
    "20世紀の終わり",
    "毎週金曜日に",
]
WHO = [
    "漁師",
    "若い医師",
    "村長",
    "隣の少年",
    "設計者の佐藤",
    "灯台守",
    "新聞記者",
    "オーケストラの指揮者",
    "JR東日本の駅員",
]
WHERE = [
    "港で",
    "古い図書館で",
    "山の頂で",
    "工場の裏で",
    "北海道の牧場で",
    "研究室で",
    "川沿いの道で",
    "ニューヨークで",
]
WHAT = [
    "網を",
    "望遠鏡を",
    "長い手紙を",
    "三色の旗を",
    "水車を",
    "計算機を",
    "「春の歌」を",
    "5,000円の切符を",
    "ピアノを",
]
DID = [
    "直した。",
    "見つけた。",
    "忘れた。",
    "運んでいた。",
    "作ろうとした。",
    "譲った。",
    "写真に撮った。",
    "壊してしまった。",
]
FREQUENT = ("望遠鏡を", "計算機を")  # two pieces of the small model
ALPHABET = (
    "Aaeocfnpdku<>[]CLSEPMK秘カ조東京～~\u3099と\u309aと\u0301と\u0323と「」ばがぱか奈良語前後始まり二つ行末全角で中"
)


def made_up_lines(count: int, seed: int = 1) -> list[str]:
    """Sentences recombined from phrases of our own."""
    rng = random.Random(seed)
    return [
        "".join((rng.choice(WHEN), rng.choice("、は"), rng.choice(WHO), "が", *map(rng.choice, (WHERE, WHAT, DID))))
        + rng.choice(("", "", f"第{rng.randint(1, 99)}回。", " Ver.2 もある。", "（初めて）"))
        for _ in range(count)
    ]


@functools.cache
def small_model() -> bytes:
    """A model of 400 pieces that knows the characters of the hard lines, so that they are not all <unk>."""
    return tokenization.train_sentencepiece([*made_up_lines(2000), *[ALPHABET] * 9], 400, character_coverage=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenization.write_tokenizer_folder(small_model(), folder)
    return folder


@pytest.fixture(scope="module")
def spm():
    return tokenization.load_model(small_model())


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


# Sentences to train on


def test_lines_are_counted_by_what_training_makes_of_them(tmp_path):
    longest = "あ" * 1397 + "a"  # 4,192 bytes
    text = write(tmp_path / "a.txt", "文。", "", "　", " \t", longest, longest + "a", "表▅", "a\0b", "最後\r")
    assert tokenization.count_lines(text) == tokenization.LineCounts(eligible=3, blank=3, too_long=1, reserved=2)
    assert list(tokenization.draw_lines(text, 3, 9, 0, "x")) == ["文。", longest, "最後"]


def test_what_we_do_not_draw_is_what_sentencepiece_skips(tmp_path):
    """Left in, such a line changes nothing; that is why it must not be drawn in place of another."""
    lines = made_up_lines(300)
    skipped = [*lines[:150], "文" * 1500, "表▅です", "", *lines[150:]]
    assert tokenization.train_sentencepiece(skipped, 250) == tokenization.train_sentencepiece(lines, 250)


def test_drawn_lines_keep_their_order_and_never_repeat(tmp_path):
    lines = [f"{number}番目の文。" for number in range(1000)]
    text = write(tmp_path / "a.txt", *itertools.chain.from_iterable((line, "") for line in lines))
    drawn = list(tokenization.draw_lines(text, 1000, 300, 7, "x"))
    assert len(set(drawn)) == 300
    assert drawn == sorted(drawn, key=lines.index)
    assert drawn == list(tokenization.draw_lines(text, 1000, 300, 7, "x"))
    assert drawn != list(tokenization.draw_lines(text, 1000, 300, 8, "x"))
    assert drawn != list(tokenization.draw_lines(text, 1000, 300, 7, "y"))
    assert 110 < sum(lines.index(line) < 500 for line in drawn) < 190  # evenly spread


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    text = write(tmp_path / "a.txt", "文。", b"\xff\xfe")
    with pytest.raises(StageError, match="line 2 is not UTF-8: repair the text or leave the line out"):
        tokenization.count_lines(text)


# Training


def test_the_model_has_the_published_settings():
    model = tokenization.parse_model(small_model())
    trainer = model.trainer_spec
    assert [piece.piece for piece in model.pieces[:5]] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert (trainer.model_type, trainer.vocab_size, len(model.pieces)) == (trainer.UNIGRAM, 400, 400)
    assert (trainer.num_threads, trainer.required_chars, trainer.shuffle_input_sentence) == (16, "▁", True)
    assert list(trainer.user_defined_symbols) == ["[MASK]"]
    assert (list(trainer.input), trainer.model_prefix) == ([], "")
    assert (model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix) == ("nmt_nfkc", False)


def test_scores_are_multiples_of_a_1024th():
    scores = [piece.score for piece in tokenization.parse_model(small_model()).pieces if piece.type == piece.NORMAL]
    assert len(scores) == 395
    assert all((score * 1024).is_integer() for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_the_vocab_text_has_spm_trains_own_layout(tmp_path):
    text = write(tmp_path / "a.txt", *made_up_lines(300))
    prefix = str(tmp_path / "sp")
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=prefix, vocab_size=250, minloglevel=2)
    model = (tmp_path / "sp.model").read_bytes()
    assert tokenization.vocab_text(model) == (tmp_path / "sp.vocab").read_text(encoding="utf-8")


TRAIN_ON_CORES = """
import hashlib, os, sys
from bert_ja import tokenization
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[2])])
eligible = tokenization.count_lines(sys.argv[1]).eligible
lines = tokenization.draw_lines(sys.argv[1], eligible, 1000, 1000, "sentencepiece")
print(hashlib.sha256(tokenization.train_sentencepiece(lines, 300)).hexdigest())
"""


def test_two_processes_on_one_and_two_cores_train_the_same_bytes(tmp_path):
    text = write(tmp_path / "a.txt", *made_up_lines(3000))
    hashes = [
        subprocess.run(
            [sys.executable, "-c", TRAIN_ON_CORES, str(text), cores],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for cores in ("1", "2")
    ]
    assert len(hashes[0]) == 65
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("too_many", [True, False])
def test_an_impossible_vocabulary_is_refused_with_the_size_that_works(too_many):
    lines = made_up_lines(200)
    with pytest.raises(StageError) as error:
        tokenization.train_sentencepiece(lines, 32000 if too_many else 20)
    said = str(error.value)
    number = int(said.partition("--vocab_size ")[2].split()[0])
    assert said == (
        f"the text supports no more than {number:,} pieces, 32,000 are asked for: pass --vocab_size {number} or less, "
        "or train on more text"
        if too_many
        else f"a vocabulary of 20 pieces is smaller than the {number:,} that the text's characters need: "
        f"pass --vocab_size {number} or more, or a lower --character_coverage"
    )
    model = tokenization.train_sentencepiece(lines, number)
    assert len(tokenization.parse_model(model).pieces) == number


@pytest.mark.parametrize("lines", [[], [" "]])
def test_a_text_without_a_sentence_is_refused(lines):
    with pytest.raises(StageError, match="the text has no line to train on"):
        tokenization.train_sentencepiece(lines, 100)


# Tokenizer files


def test_the_module_imports_without_torch_transformers_or_sentencepiece():
    heavy = "{'torch', 'transformers', 'tokenizers', 'sentencepiece'}"
    code = f"import sys; from bert_ja import tokenization; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_a_folder_has_three_files_and_the_model_unchanged(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["spm.model", "tokenizer.json", "tokenizer_config.json"]
    assert (folder / "spm.model").read_bytes() == small_model()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["tokenizer_class"], config["model_max_length"]) == ("PreTrainedTokenizerFast", 512)
    assert '"model_max_length": 128' in tokenization.tokenizer_config_json(128)


def test_a_pair_by_hand(spm):
    encoded = Tokenizer.from_str(tokenization.tokenizer_json(small_model())).encode("灯台守が ", "[MASK]を直した。")
    a, b = spm.encode("灯台守が"), spm.encode("を直した。")
    assert encoded.ids == [2, *a, 3, 4, *b, 3]
    assert encoded.type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 2)


def test_the_vocabulary_knows_its_special_ids(folder):
    vocabulary = tokenization.vocabulary(folder)
    ids = (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask)
    assert (vocabulary.size, ids) == (400, (0, 1, 2, 3, 4))
    assert vocabulary.ordinary_ids.tolist() == list(range(5, 400))
    assert vocabulary.facts() == tokenization.tokenizer_facts(folder / "spm.model")
    assert tokenization.tokenizer_facts(folder)["vocab_size"] == 400


def changed(change) -> bytes:
    """The small model after change(proto)."""
    proto = tokenization.parse_model(small_model())
    change(proto)
    return proto.SerializeToString()


def with_dummy_prefix(proto):
    proto.normalizer_spec.add_dummy_prefix = True


def with_bytes(proto):
    proto.trainer_spec.byte_fallback = True


def as_bpe(proto):
    proto.trainer_spec.model_type = proto.trainer_spec.BPE


def with_swapped_ids(proto):
    proto.pieces[2].piece, proto.pieces[4].piece = "[MASK]", "[CLS]"


def with_spaces_kept(proto):
    proto.normalizer_spec.remove_extra_whitespaces = False


@pytest.mark.parametrize(
    "change, reason",
    [
        (with_dummy_prefix, "add_dummy_prefix is on"),
        (with_bytes, "byte_fallback is on"),
        (as_bpe, "it is not a unigram model"),
        (with_spaces_kept, "remove_extra_whitespaces is off"),
        (
            with_swapped_ids,
            "its first pieces are <pad> <unk> [MASK] [SEP] [CLS] and not <pad> <unk> [CLS] [SEP] [MASK]",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path, change, reason):
    path = tmp_path / "spm.model"
    path.write_bytes(changed(change))
    with pytest.raises(StageError) as error:
        tokenization.load_sentencepiece(tmp_path)
    assert str(error.value) == (
        f"{path}: this SentencePiece model cannot be used ({reason}): train one with train_tokenizer.py"
    )


@pytest.mark.parametrize("size", [1, 7, 100, 4000, -60000, -3])
def test_a_cut_model_is_refused(tmp_path, size):
    (tmp_path / "spm.model").write_bytes(small_model()[:size])
    with pytest.raises(StageError, match="is damaged: run train_tokenizer.py first|cannot be used"):
        tokenization.load_sentencepiece(tmp_path)


def test_what_is_no_model_is_refused(tmp_path):
    text = write(tmp_path / "a.txt", "文です。")
    for path, message in [
        (tmp_path / "none", f"{tmp_path / 'none'} not found: run train_tokenizer.py first"),
        (tmp_path, f"{tmp_path} has no spm.model: name a folder that train_tokenizer.py wrote, such as output/model"),
        (text, f"{text} is not a SentencePiece model, or is damaged: run train_tokenizer.py first"),
    ]:
        for read in (tokenization.load_sentencepiece, tokenization.vocabulary):
            with pytest.raises(StageError) as error:
                read(path)
            assert str(error.value) == message
