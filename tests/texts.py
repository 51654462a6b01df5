"""Texts and tokenizers of our own, so small that a test makes them in a moment."""

import json
import random
from pathlib import Path

from bert_ja import tokenization

SUBJECTS = (
    "祖母は",
    "隣の猫が",
    "先生は",
    "若い大工が",
    "その川は",
    "市の図書館は",
    "春の風が",
    "港の船は",
    "弟と妹は",
)
PLACES = ("庭で", "山の上で", "雨の中を", "駅前の店で", "静かな朝に", "遠い町から", "")
OBJECTS = ("古い時計を", "赤い傘を", "長い手紙を", "小さな橋を", "白い花を", "重い荷物を", "本を三冊")
VERBS = ("見つけた。", "運んでいる。", "直すつもりだ。", "忘れてしまった。", "描いた。", "待っていたのだろうか。")

# Seven characters, each rarer than the one before, and ▁: the vocabulary is 5 あ, 6 い, 7 。, 8 う, 9 え, 10 ▁, 11 お.
LETTERS = ["あいうえお。"] + ["あいうえ。"] * 2 + ["あいう。"] * 3 + ["あい。"] * 4 + ["あ"] * 9


def sentence(rng: random.Random) -> str:
    return "".join(map(rng.choice, (SUBJECTS, PLACES, OBJECTS, VERBS)))


def text(documents: int, seed: int = 0, most_sentences: int = 9) -> str:
    """Documents of 1 to `most_sentences` lines, a blank line after each."""
    rng = random.Random(seed)
    return "".join(
        "".join(sentence(rng) + "\n" for _ in range(rng.randint(1, most_sentences))) + "\n" for _ in range(documents)
    )


def write_tokenizer(folder: Path, lines: list[str] | None = None, vocab_size: int = 200) -> Path:
    """A tokenizer folder (output/model) trained on `lines`, or on sentences as `text` has them."""
    model = tokenization.train_sentencepiece(lines or text(150, seed=99).split(), vocab_size)
    tokenization.write_tokenizer_folder(model, folder)
    return folder


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # of a WordPiece vocabulary, in the order of its ids


def write_wordpiece(folder: Path, pieces: list[str], **options) -> Path:
    """A tokenizer folder of the Tohoku kind, MeCab and WordPiece; `pieces` in the order of their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "model_max_length": 512,
        "word_tokenizer_type": "mecab",
        "subword_tokenizer_type": "wordpiece",
        "mecab_kwargs": {"mecab_dic": "unidic_lite"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | options))
    return folder
