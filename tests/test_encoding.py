"""Text to columns of token ids: blocks, journals, any tokenizer, and where words begin."""

import contextlib
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, shared
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from texts import SPECIAL, text, write_tokenizer, write_wordpiece

from bert_ja import encoding, files, tokenization
from bert_ja.cli import StageError

NOTHING = (lambda done: None,)


PIECES = [
    *SPECIAL,
    "東京",
    "##都",
    "に",
    "住む",
    "。",
    "猫",
    "##たち",
    "が",
    "いる",
    "駅",
]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> Path:
    return write_wordpiece(tmp_path_factory.mktemp("wordpiece"), PIECES)


def encode(content: bytes, tokenizer: Path, folder: Path, longest: int = 510, whole_words: bool = False, workers=1):
    """(columns as lists by name, counts, description) of a text."""
    path = folder / "a.txt"
    path.write_bytes(content)
    encoder, journal = encoding.open_encoder(tokenizer, whole_words), files.Journal(folder / "work", None)
    counts, described = encoding.encode_text(path, encoder, journal, longest, whole_words, workers, *NOTHING)
    columns = encoding.Sentences.open(folder / "work")
    return {name: getattr(columns, name).tolist() for name in encoding.COLUMNS}, counts, described


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path


# Columns


def test_columns_worked_by_hand(letters, folder):
    content = "あいう。\nえお。\nあ。\n\nい\nうえ。\n\nお。\n".encode()
    columns, counts, described = encode(content, letters, folder, longest=3)
    assert columns == {
        "ids": [5, 6, 8, 9, 11, 7, 5, 7, 6, 8, 9, 7, 11, 7],
        "word_starts": [],
        "ends": [3, 6, 8, 9, 12, 14],
        "documents": [0, 0, 0, 1, 1, 2],
        "document_starts": [0, 3, 5, 6],
    }
    assert counts == {"sentences": 6, "documents": 3, "cut_sentences": 1, "lines_without_tokens": 0}
    assert described == files.describe(folder / "a.txt")
    sentences = encoding.Sentences.open(folder / "work")
    assert sentences.starts(np.array([0, 1, 5, 6])).tolist() == [0, 3, 12, 14]
    assert not sentences.is_one_document


def test_a_line_without_an_end_is_refused_and_not_held_in_memory(letters, folder, monkeypatch):
    monkeypatch.setattr(encoding, "TEXT_BLOCK", 100)
    monkeypatch.setattr(encoding, "LONGEST_LINE", 2_000_000)
    content = "あい。\n".encode() * 30 + "い".encode() * 1_000_000 + "\nう。\n".encode()
    with pytest.raises(StageError) as error:
        encode(content, letters, folder)
    assert str(error.value) == (
        f"{folder / 'a.txt'} has a line of over 2 MB from byte 220 on: part it into sentences, with prepare_corpus.py "
        "--split_sentences True"
    )


# Going on after an end at any moment


class Ended(Exception):
    """Stands for a kill: nothing of ours handles it."""


def until_ended(content: bytes, tokenizer: Path, folder: Path, blocks: int, key: dict) -> dict:
    """Encode until so many blocks are done, saving after each; what the journal holds then."""
    path, seen = folder / "a.txt", []
    path.write_bytes(content)
    encoder, journal = encoding.open_encoder(tokenizer), files.Journal(folder / "work", key)

    def on_bytes(done: int) -> None:
        seen.append(done)
        if len(seen) > blocks + 1:
            raise Ended

    with contextlib.suppress(Ended):
        encoding.encode_text(path, encoder, journal, 510, False, 1, on_bytes)
    return journal.state


def columns_after(content: bytes, tokenizer: Path, folder: Path, key: dict) -> tuple[dict, int]:
    """(the columns after a second run, how many bytes it took over from the first)."""
    path, seen = folder / "a.txt", []
    path.write_bytes(content)
    encoder, journal = encoding.open_encoder(tokenizer), files.Journal(folder / "work", key)
    counts, described = encoding.encode_text(path, encoder, journal, 510, False, 1, seen.append)
    columns = encoding.Sentences.open(folder / "work")
    lists = {name: getattr(columns, name).tolist() for name in encoding.COLUMNS}
    assert (described, sum(seen)) == (files.describe(path), len(content))
    return lists | {"counts": counts}, seen[0]


@pytest.fixture
def saves_at_once(monkeypatch):
    """A journal that saves after every block, and is on the disk before the next."""
    save = files.Journal.save

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self.wait()

    monkeypatch.setattr(files, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(files.Journal, "save", save_and_wait)
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)  # hundreds, which take a slow disk minutes


@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 11, 1000])
def test_a_second_run_goes_on_and_gives_the_same_columns(words, folder, monkeypatch, saves_at_once, blocks):
    monkeypatch.setattr(encoding, "TEXT_BLOCK", 500)
    content = text(40, seed=3).encode() + "途中で終わる".encode()
    (folder / "whole" / "work").mkdir(parents=True)
    expected, _ = columns_after(content, words, folder / "whole", {"a": 1})
    state = until_ended(content, words, folder, blocks, {"a": 1})
    found, taken_over = columns_after(content, words, folder, {"a": 1})
    assert found == expected
    assert (taken_over > 0) == bool(state) == (blocks > 0)


@pytest.mark.parametrize("change", ["key", "beginning", "end", "shorter", "journal"])
def test_what_an_earlier_run_left_is_taken_only_for_the_same_work(
    words, folder, monkeypatch, saves_at_once, change, capsys
):
    monkeypatch.setattr(encoding, "TEXT_BLOCK", 500)
    content, key = text(40, seed=3).encode(), {"a": 1}
    until_ended(content, words, folder, 4, key)
    if change == "key":
        key = {"a": 2}
    elif change == "beginning":
        content = content.replace("庭".encode(), "猫".encode(), 1)
    elif change == "end":
        content += "もう一つの文。\n".encode()
    elif change == "shorter":
        content = content[:600].decode(errors="ignore").encode()
    else:
        (folder / "work" / files.JOURNAL).write_text('{"key": {"a": 1}, "state": {"enc')
    (folder / "whole" / "work").mkdir(parents=True)
    expected, _ = columns_after(content, words, folder / "whole", key)
    found, taken_over = columns_after(content, words, folder, key)
    assert found == expected
    assert (taken_over > 0) == (change == "end")
    said = "was changed since: starting over" in capsys.readouterr().err
    assert said == (change in ("beginning", "shorter"))


def test_columns_that_are_finished_are_taken_as_they_are(words, folder):
    content = text(10).encode()
    expected, _ = columns_after(content, words, folder, {"a": 1})
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "work").iterdir()}
    assert columns_after(content, words, folder, {"a": 1}) == (expected, len(content))
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "work").iterdir()} == before


# Where words begin


def test_words_worked_by_hand():
    pieces = ["▁東", "京都", "の", "▁", "人", "は"]
    assert encoding.starts_of_words(pieces, ["東京", "都", "の", "人", "は"]) == [True, False, True, True, False, True]
    assert encoding.starts_of_words([], []) == []
    assert encoding.starts_of_words(["▁", "▁"], []) == [True, False]


def test_the_analyser_finds_words_and_never_loses_a_character():
    analyser = encoding.Analyser()
    assert analyser.words("関西国際空港へ行く。") == ["関西", "国際", "空港", "へ", "行く", "。"]
    assert analyser.words("") == []
    assert analyser.words("  a  b ") == ["a", "b"]
    assert "".join(analyser.words("零\0字と\t\x1c\x85\u3000印")) == "零\0字と\t\x1c\x85\u3000印"


ODD = st.sampled_from("猫東京都のにへ。、 \u3000▁aZ9\0\t\x1c\x85\u2028😀が\u3099[MASK]")
TEXT = st.text(ODD | st.characters(codec="utf-8"), max_size=40)


@given(st.lists(TEXT.map(lambda line: line.replace("\n", "")), max_size=5))
@examples(150)
def test_words_of_any_line_are_flags_of_its_tokens(words, lines):
    encoder = encoding.open_encoder(words, whole_words=True)
    found = list(encoder.encode_words(lines, 30))
    assert [ids for ids, _ in found] == [ids[:30] for ids in encoder.encode(lines)]
    for ids, starts in found:
        assert len(ids) == len(starts)
        assert not ids or starts[0]


def slow_starts(spm, line: str, analyser: encoding.Analyser) -> list[bool]:
    """Where words begin, by marks on every character of the line's pieces."""
    pieces = spm.encode(line, out_type=str)
    joined = "".join(pieces)
    begins, at = set(), 0
    for word in analyser.words(joined.replace("▁", " ")):
        space = at
        while joined[at] == "▁":
            at += 1
        begins.add(space)
        assert joined[at : at + len(word)] == word
        at += len(word)
    starts, at = [], 0
    for piece in pieces:
        starts.append(at in begins)
        at += len(piece)
    return starts


def test_words_of_real_text_are_where_a_slow_checker_finds_them(tmp_path):
    lines = lzma.open(shared("data", "text", "wikinews.txt.xz"), "rt", encoding="utf-8").read(100_000).split("\n")
    lines = [line for line in lines if line.strip()]
    tokenizer = write_tokenizer(tmp_path / "real", lines, 3000)
    encoder, analyser = encoding.open_encoder(tokenizer, whole_words=True), encoding.Analyser()
    spm = tokenization.load_sentencepiece(tokenizer)
    found = [starts for _, starts in encoder.encode_words(lines, 10_000)]
    assert found == [slow_starts(spm, line, analyser) for line in lines]
    flags = sum(found, [])
    assert 0.5 < sum(flags) / len(flags) < 0.98  # real words, neither every token nor whole lines


@pytest.mark.parametrize("missing", ["fugashi", "unidic_lite"])
def test_a_missing_analyser_is_one_sentence(words, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StageError) as error:
        encoding.open_encoder(words, whole_words=True)
    assert str(error.value) == (
        f"--whole_word_mask needs a morphological analyser ({missing} is not installed): "
        "pip install fugashi unidic-lite"
    )
    assert encoding.open_encoder(words).encode(["猫"])


# Any tokenizer


def test_special_ids_of_a_sentencepiece_folder_are_those_that_its_files_name(tmp_path):
    import sentencepiece

    lines = text(60, seed=1).split()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "spm"),
        model_type="bpe",
        vocab_size=150,
        pad_id=3,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["<cls>", "<sep>", "<extra>"],
        user_defined_symbols=["<mask>"],
        minloglevel=2,
    )
    config = {"cls_token": "<cls>", "sep_token": {"content": "<sep>"}, "mask_token": "<mask>", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = tokenization.vocabulary(tmp_path)
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    expected = [spm.piece_to_id(piece) for piece in ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>")]
    assert [vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask] == expected
    assert vocabulary.others == (spm.piece_to_id("<extra>"),)
    assert set(range(150)) - set(vocabulary.ordinary_ids.tolist()) == {*expected, spm.piece_to_id("<extra>")}
    assert encoding.open_encoder(tmp_path).encode(lines[:50]) == spm.encode(lines[:50])
    del config["mask_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(StageError) as error:
        tokenization.vocabulary(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} has no mask token: name a tokenizer with cls, sep, mask and pad, such as output/model of "
        "train_tokenizer.py"
    )


def test_special_pieces_that_a_folder_adds_to_its_sentencepiece_model_have_their_ids(tmp_path):
    """As DeBERTa's [MASK], which stands in added_tokens.json or in added_tokens_decoder only."""
    import sentencepiece

    options = {"vocab_size": 150, "pad_id": 0, "unk_id": 3, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text(60, seed=1).split()),
        model_prefix=str(tmp_path / "spm"),
        control_symbols=["[CLS]", "[SEP]"],
        **options,
    )
    config = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(StageError, match="has no mask token"):
        tokenization.vocabulary(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"[MASK]": 150}')
    first = tokenization.vocabulary(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    config["added_tokens_decoder"] = {"150": {"content": "[MASK]", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert tokenization.vocabulary(tmp_path) == first
    assert (first.mask, first.size, 150 in first.ordinary_ids) == (150, 151, False)


def test_special_pieces_that_sentencepiece_finds_in_a_text_are_text(tmp_path):
    """A model that was trained with them as user-defined symbols, as published."""
    import sentencepiece

    options = {"vocab_size": 150, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text(60, seed=1).split()),
        model_prefix=str(tmp_path / "spm"),
        user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"],
        **options,
    )
    line = "祖母は[SEP]庭で[CLS]待っている。"
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    encoder = encoding.open_encoder(tmp_path, whole_words=True)
    found = encoder.vocabulary
    assert {found.cls, found.sep} <= set(spm.encode(line))
    expected = [1 if token in (found.cls, found.sep) else token for token in spm.encode(line)]
    assert encoder.encode([line]) == [expected]
    ((ids, starts),) = encoder.encode_words([line], 100)
    assert (ids, len(starts)) == (expected, len(expected))


def test_whole_words_in_bytes_are_refused(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text(60, seed=1).split()),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=400,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece="<pad>",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        user_defined_symbols=["[MASK]"],
        minloglevel=2,
    )
    assert encoding.open_encoder(tmp_path).encode(["鑫"])
    with pytest.raises(StageError, match="cannot tell where words begin in the bytes of"):
        encoding.open_encoder(tmp_path, whole_words=True)


def test_a_wordpiece_folder_gives_the_ids_of_its_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    order = ["[UNK]", "猫", "[SEP]", "##たち", "が", "[MASK]", "いる", "。", "[CLS]", "東京", "[PAD]", "##都"]
    folder = write_wordpiece(tmp_path / "other", order)
    encoder, tokenizer = encoding.open_encoder(folder), AutoTokenizer.from_pretrained(folder)
    assert encoder.said == f"{folder} has no spm.model: ids come from its BertJapaneseTokenizer"
    lines = ["猫たちがいる。", "東京都の猫。", "", "[SEP]と[CLS]がいる[PAD]。"]
    assert encoder.encode(lines)[:3] == [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines[:3]]
    assert not {8, 2, 10} & set(encoder.encode(lines)[3])  # spelled out, they are text
    found = encoder.vocabulary
    assert (found.size, found.pad, found.unk, found.cls, found.sep, found.mask) == (12, 10, 0, 8, 2, 5)
    assert found.ordinary_ids.tolist() == [1, 3, 4, 6, 7, 9, 11]
    assert found == tokenization.vocabulary(folder)


def test_the_hash_of_a_wordpiece_tokenizer_changes_with_its_files_only(tmp_path):
    first = tokenization.vocabulary(write_wordpiece(tmp_path / "first", PIECES))
    (tmp_path / "first" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "first" / "README.md").write_text("a card")
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    assert tokenization.vocabulary(tmp_path / "copy") == tokenization.vocabulary(tmp_path / "first") == first
    other = tokenization.vocabulary(write_wordpiece(tmp_path / "other", [*PIECES, "新"]))
    assert other.sha256 != first.sha256


def test_word_starts_of_wordpiece_are_its_words(wordpiece, tmp_path):
    lines = ["東京都に猫たちがいる。", "駅"]
    encoder = encoding.open_encoder(wordpiece, whole_words=True)
    for (ids, starts), line in zip(encoder.encode_words(lines, 100), lines, strict=True):
        pieces = [PIECES[token] for token in ids]
        assert ids == encoder.encode([line])[0]
        assert starts == [not piece.startswith("##") for piece in pieces]
    assert [ids for ids, _ in encoder.encode_words(lines, 2)] == [ids[:2] for ids in encoder.encode(lines)]
    characters = write_wordpiece(
        tmp_path / "characters", [*PIECES[:5], *"東京都に猫たちがいる。"], subword_tokenizer_type="character"
    )
    ((_, starts),) = encoding.open_encoder(characters, whole_words=True).encode_words(["東京都に猫がいる。"], 100)
    expected = [True, False, True, True, True, True, True, False, True]  # 東京 都 に 猫 が いる 。
    assert starts == expected
    encoder = encoding.open_encoder(characters, whole_words=True)
    for special in ("[UNK]", "[SEP]", "[MASK]"):
        ((_, starts),) = encoder.encode_words([f"東京都に猫がいる。{special}東京都に猫がいる。"], 100)
        assert starts == [*expected, True, *expected]


def test_words_of_a_tokenizer_that_does_not_know_them_are_refused(tmp_path):
    shutil.copytree(write_tokenizer(tmp_path / "ours"), tmp_path / "json")
    (tmp_path / "json" / "spm.model").unlink()
    assert encoding.open_encoder(tmp_path / "json").encode(["猫"])
    with pytest.raises(StageError, match="cannot tell where words begin in the tokens of .*: it can for"):
        encoding.open_encoder(tmp_path / "json", whole_words=True)


def test_a_tokenizer_json_alone_gives_the_ids_of_its_sentencepiece_model(tmp_path):
    ours = write_tokenizer(tmp_path / "ours")
    shutil.copytree(ours, tmp_path / "json")
    (tmp_path / "json" / "spm.model").unlink()
    lines = text(30, seed=4).split()
    encoders = [encoding.open_encoder(folder) for folder in (ours, tmp_path / "json")]
    assert encoders[0].encode(lines) == encoders[1].encode(lines)


@pytest.mark.parametrize(
    ("files_of", "reason"),
    [
        ({}, "has no spm.model: name a folder that train_tokenizer.py wrote, such as output/model"),
        ({"tokenizer_config.json": "{"}, "AutoTokenizer cannot load"),
        ({"tokenizer_config.json": '{"tokenizer_class": "BertTokenizer"}'}, "finds no vocabulary in|cannot load"),
        (
            {
                "vocab.txt": "a\nb\n[UNK]\n",
                "tokenizer_config.json": json.dumps(
                    {"tokenizer_class": "BertTokenizer", "mask_token": None, "cls_token": None}
                ),
            },
            "has no cls and no mask token: name a tokenizer with cls, sep, mask and pad|cannot load",
        ),
    ],
)
def test_a_folder_that_is_no_tokenizer_is_refused_in_one_sentence(tmp_path, files_of, reason):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files_of.items():
        (folder / name).write_text(content)
    with pytest.raises(StageError, match=reason):
        encoding.open_encoder(folder)


def test_sentencepiece_is_read_without_torch(words, tmp_path):
    code = (
        "import sys; from bert_ja import encoding; encoding.open_encoder(sys.argv[1], True).encode(['猫']); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, words], cwd=ROOT).returncode == 0
