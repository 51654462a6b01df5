"""AutoTokenizer gives what SentencePiece does on every line, in every field, but for the classes that we name."""

import functools
import json
import lzma
import subprocess
import tempfile
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT, shared
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples
from test_tokenization import FREQUENT, changed, made_up_lines, small_model
from tokenizers import Tokenizer

from bert_ja import hard_lines, parity, tokenization
from bert_ja.cli import StageError
from bert_ja.parity import LITERALS, MARKS, SPACES, Parity

COMPAT, READY = ROOT / ".venv-compat" / "bin" / "python", ROOT / ".venv-compat" / "ready"  # written last


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenization.write_tokenizer_folder(small_model(), folder)
    return folder


@pytest.fixture(scope="module")
def spm():
    return tokenization.load_model(small_model())


def test_autotokenizer_agrees_on_every_made_up_line(folder, spm):
    found = parity.check_parity(folder, made_up_lines(2500, seed=2), spm)
    assert found.record() == {
        "lines": 2500,
        "with_mask": 2500,
        "pairs": 1250,
        "truncated": 199 + 199 + 99,  # a tenth of the lines, and pairs of neighbours among these, in 3 batches
        "alone": 250,
        "differences": 0,
        "known_differences": {},
    }


def test_on_the_adversarial_lines_only_known_classes_differ(folder, spm):
    found = parity.check_parity(folder, hard_lines.ADVERSARIAL_LINES, spm)
    assert found.first is None
    assert found.differences == 0
    assert found.known == {LITERALS: 7, MARKS: 5, f"{LITERALS} and {MARKS}": 1}


@pytest.mark.parametrize("line", [*hard_lines.ADVERSARIAL_LINES[:39], "京都 [MASK] 奈良", "京都[MASK]奈良", "[MASK]。"])
def test_an_adversarial_line_alone(folder, spm, line):
    found = parity.check_parity(folder, [line], spm)
    assert found.differences == 0
    assert not found.known or "\u0301" in line


# A minimal text -> the known class in which it differs.
CAUSES = [
    ("行末の<pad>", LITERALS),
    ("<unk>で始まる", LITERALS),
    ("中の[CLS]です", LITERALS),
    ("全角の［ＳＥＰ］", LITERALS),
    ("全角の＜ｕｎｋ＞", LITERALS),
    ("Ａ\u0301", MARKS),  # a full-width letter
    ("㊙\u0301", MARKS),  # a compatibility character
    ("a\u0301\u0323", MARKS),  # out of canonical order
    ("ê\u0301", MARKS),  # on a letter that has one
    ("조\u11bf", MARKS),  # a final consonant on a whole Hangul syllable
    ("½\u200d", MARKS),  # a joiner on a compatibility character
    ("<pad>とＡ\u0301", f"{LITERALS} and {MARKS}"),
    ("［Ｓ\u0489ＥＰ］", f"{LITERALS} and {MARKS}"),  # a special piece once the mark is gone
]


@pytest.mark.parametrize("text, cause", CAUSES)
def test_each_known_class_is_counted_by_its_cause(folder, spm, text, cause):
    found = parity.check_parity(folder, ["前の文。", text], spm)
    assert found.differences == 0
    assert found.known[cause] >= 2  # alone or with a mask, and in the pair
    assert set(found.known) <= {cause, LITERALS, MARKS}  # a mask may have come into one of two


IN_THE_OTHER_MAJOR = """
import json, sys
from bert_ja import parity, tokenization
folder, slow, lines = json.loads(sys.argv[1])
spm = tokenization.load_sentencepiece(folder)
print(json.dumps([parity.check_parity(folder, [line], spm, slow=slow).record() for line in lines]))
"""


def in_the_other_major(folder: Path, lines: list[str], slow: bool = False) -> list[dict]:
    """What transformers 4.57 makes of lines, a record each; skips where its environment is not built."""
    if not READY.is_file():
        pytest.skip(".venv-compat is not built: make .venv-compat")
    command = [COMPAT, "-c", IN_THE_OTHER_MAJOR, json.dumps([str(folder), slow, lines])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.full
def test_the_known_classes_are_the_same_in_transformers_4(folder, spm):
    texts = [text for text, _ in CAUSES]
    for (text, cause), record in zip(CAUSES, in_the_other_major(folder, texts), strict=True):
        assert (text, record) == (text, parity.check_parity(folder, [text], spm).record())
        assert cause in record["known_differences"]


@pytest.mark.full
def test_slow_tokenizers_differ_beside_masks_alone(tmp_path):
    for name, content in tokenization.published_files(small_model()).items():
        (tmp_path / name).write_bytes(content)
    lines = ["京都と [MASK] 奈良", "京都[MASK]奈良", "中の[CLS]です", "Ａ\u0301と か\u3099", *made_up_lines(20)]
    found = in_the_other_major(tmp_path, lines, slow=True)
    assert [record["differences"] for record in found] == [0] * 24
    assert found[0]["known_differences"] == {SPACES: 1}  # a second mask was put into the first
    assert found[1]["known_differences"] in ({}, {SPACES: 1})  # by the spaces that a second mask may have
    assert LITERALS in found[2]["known_differences"]
    assert {kind for record in found[3:] for kind in record["known_differences"]} == {SPACES}


@pytest.mark.parametrize(
    "text", ["か\u3099は\u309aう\u3099", "ｶﾞﾊﾟｳﾞ", "かﾞ", "cafe\u0301 n\u0303", "東京～", "Ａ［ＭＡＳＫ］", "がパ"]
)
def test_what_merely_looks_like_a_known_class_agrees(folder, spm, text):
    found = parity.check_parity(folder, [text], spm)
    assert (found.differences, dict(found.known)) == (0, {})


def write_ties(folder: Path) -> bytes:
    """A tokenizer of which 日本|語 and 日|本語 score the same, but past 16,384 float32 drops the odd 1,024ths."""
    step = tokenization.SCORE_STEP
    scores = {"▁": -1, "日": -3, "語": -3 - step, "本": -3, "日本": -4 - step, "本語": -4 - 2 * step}

    def tie(proto):
        del proto.pieces[5:]
        for piece, score in scores.items():
            proto.pieces.add(piece=piece, score=score)

    model = changed(tie)
    tokenization.write_tokenizer_folder(model, folder)
    return model


def test_a_tie_in_a_line_of_thousands_of_pieces_is_known(tmp_path):
    spm = tokenization.load_model(write_ties(tmp_path))
    assert not parity.check_parity(tmp_path, ["日本語" * 2000], spm).known
    found = parity.check_parity(tmp_path, ["日本語" * 3000], spm)
    assert found.differences == 0
    assert set(found.known) == {parity.TIE}


@pytest.mark.full
def test_a_tie_is_the_same_in_transformers_4(tmp_path):
    write_ties(tmp_path)
    short, long = in_the_other_major(tmp_path, ["日本語" * 2000, "日本語" * 3000])
    assert (short["differences"], short["known_differences"]) == (0, {})
    assert (long["differences"], set(long["known_differences"])) == (0, {parity.TIE})


def test_the_library_tokenizers_reads_the_folder_alone(folder, spm):
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("京都で[MASK]を 直した。", "か\u3099")
    a, b = spm.encode("京都で"), spm.encode("を 直した。")
    assert encoded.ids == [2, *a, 4, *b, 3, *spm.encode("が"), 3]
    assert [encoded.offsets[place] for place in (0, 1, len(a) + 1, -1)] == [(0, 0), (0, 1), (3, 9), (0, 0)]


def tampered(folder: Path, target: Path, change) -> Path:
    """A copy of a tokenizer folder whose tokenizer.json went through change(content)."""
    tokenization.write_tokenizer_folder((folder / "spm.model").read_bytes(), target)
    content = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (target / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def lower_a_score(content):
    next(entry for entry in content["model"]["vocab"] if entry[0] == FREQUENT[0])[1] -= 30


def swap_a_pair(content):
    vocab = content["model"]["vocab"]
    one, other = (next(entry for entry in vocab if entry[0] == piece) for piece in FREQUENT)
    one[0], other[0] = other[0], one[0]


def drop_nfc(content):
    content["normalizer"]["normalizers"].pop(2)


def nfkc_first(content):
    content["normalizer"]["normalizers"].insert(0, {"type": "NFKC"})


def keep_runs_of_spaces(content):
    content["normalizer"]["normalizers"].pop(3)


def mask_eats_spaces(content):
    content["added_tokens"][4]["lstrip"] = True


def mask_as_written(content):
    content["added_tokens"][4]["normalized"] = False


def one_type(content):
    content["post_processor"]["pair"][3]["Sequence"]["type_id"] = 0


def prepend_a_space(content):
    content["pre_tokenizer"]["prepend_scheme"] = content["decoder"]["prepend_scheme"] = "always"
    content["pre_tokenizer"]["add_prefix_space"] = content["decoder"]["add_prefix_space"] = True


@pytest.mark.parametrize(
    "change, line",
    [
        (lower_a_score, FREQUENT[0]),
        (swap_a_pair, FREQUENT[1]),
        (drop_nfc, "か\u3099"),
        (nfkc_first, "東京～"),
        (keep_runs_of_spaces, "二つ  の"),
    ],
)
def test_a_tampered_tokenizer_is_caught_with_its_first_line(folder, spm, tmp_path, change, line):
    used = set(map(spm.piece_to_id, FREQUENT))
    lines = [line for line in made_up_lines(200) if used.isdisjoint(spm.encode(line))][:20]
    wrong = tampered(folder, tmp_path / "wrong", change)
    found = parity.check_parity(wrong, [*lines, line], spm, "a list")
    assert found.first.startswith(f"line 21 of a list, {line!r}: ids [2, ")
    assert found.first.endswith(f" by AutoTokenizer, {[2, *spm.encode(line), 3]} by SentencePiece")
    with pytest.raises(StageError) as error:
        parity.require_parity(found, wrong)
    start = f"{wrong} does not tokenize as its SentencePiece model does ({found.differences} of 60 comparisons): "
    assert str(error.value) == start + found.first
    private = parity.check_parity(wrong, [line], spm, "a list", private=True)
    assert private.first == "line 1 of a list, not shown, the corpus is private"
    assert private.differences > 0


@pytest.mark.parametrize(
    "change, line",
    [(mask_eats_spaces, "京都 [MASK] 奈良"), (mask_as_written, "京都 [MASK] 奈良"), (prepend_a_space, "前の文。")],
)
def test_a_fault_beside_masks_or_at_the_start_is_caught(folder, spm, tmp_path, change, line):
    found = parity.check_parity(tampered(folder, tmp_path / "wrong", change), [line], spm)
    assert found.first.startswith(f"line 1 of the text, {line!r}: ids [2, ")


def test_wrong_types_of_a_pair_are_caught(folder, spm, tmp_path):
    found = parity.check_parity(tampered(folder, tmp_path / "wrong", one_type), ["前の文。", "後の文。"], spm)
    assert found.differences == 1
    assert found.first.startswith("the pair ending in line 2 of the text, '前の文。' + '後の文。': token_type_ids [0, ")


def spaces_to_the_last(content):
    content["normalizer"]["normalizers"][3] = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}


def control_characters_to_the_charsmap(content):
    content["normalizer"]["normalizers"].pop(0)


def no_decoder(content):
    content["decoder"] = None


def truncate_always(content):
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize(
    "change, line, message",
    [
        (spaces_to_the_last, "本 ゜", "offsets [(0, 0), "),
        (control_characters_to_the_charsmap, "\x07長い手紙", "offsets [(0, 0), "),
        (no_decoder, "港で、灯台守", "text '"),
        (truncate_always, "港で、灯台守", "ids [2, "),
    ],
)
def test_faults_in_other_fields_are_caught(folder, spm, tmp_path, change, line, message):
    found = parity.check_parity(tampered(folder, tmp_path / "wrong", change), [line], spm)
    assert found.first.startswith(f"line 1 of the text, {line!r}: {message}")
    assert found.first.endswith(" by what it gives else" if change is truncate_always else " by SentencePiece")


@pytest.mark.parametrize("side", ["truncation_side", "padding_side"])
def test_truncation_and_padding_at_the_wrong_end_are_caught(folder, spm, tmp_path, side):
    tokenization.write_tokenizer_folder(small_model(), tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {side: "left"}), encoding="utf-8")
    lines = ["文。", *made_up_lines(20)]
    found = parity.check_parity(tmp_path, lines, spm)
    assert found.differences > 0
    assert " truncated to 8 tokens, " in found.first
    assert found.first.startswith(f"line {1 if side == 'padding_side' else 11} of the text, ")


def test_lengths_are_cut_from_the_longer_segment():
    assert [parity.cut_lengths([7], budget) for budget in (9, 7, 5)] == [[7], [7], [5]]
    pairs = {(5, 2): [4, 2], (2, 5): [2, 4], (5, 5): [3, 3], (6, 1): [5, 1], (3, 3): [3, 3], (9, 9): [3, 3]}
    assert {pair: parity.cut_lengths(list(pair), 6) for pair in pairs} == pairs
    odd = {(5, 5): [3, 4], (6, 5): [4, 3], (5, 6): [3, 4], (9, 2): [5, 2]}
    assert {pair: parity.cut_lengths(list(pair), 7) for pair in odd} == odd


def test_offsets_are_the_characters_that_a_piece_was_made_of(spm):
    def offsets(line, *found):
        segment = parity.read_segments(spm, [line])[0]
        return parity.offsets_agree(segment, list(found), spm)

    assert parity.read_segments(spm, ["か\u3099  ㊙"])[0].pieces == ["が", "▁", "秘"]
    assert offsets("か\u3099  ㊙", (0, 1), (2, 3), (4, 5))  # tokenizers' way
    assert offsets("か\u3099  ㊙", (0, 2), (2, 4), (4, 5))  # SentencePiece's own
    assert not offsets("か\u3099  ㊙", (0, 1), (1, 3), (4, 5))
    assert not offsets("か\u3099  ㊙", (0, 1), (2, 3), (3, 5))
    assert not offsets("か\u3099  ㊙", (0, 0), (2, 3), (4, 5))
    assert offsets(" [MASK]", (1, 7))
    assert not offsets(" [MASK]", (1, 6))


def test_a_long_difference_is_shown_from_shortly_before_it(folder, spm, tmp_path):
    wrong = tampered(folder, tmp_path / "wrong", lower_a_score)
    found = parity.check_parity(wrong, ["港、" * 50 + FREQUENT[0] + "港、" * 50], spm)
    assert ": ids from position " in found.first
    assert len(found.first) < 900


def test_a_folder_that_does_not_load_is_refused(tmp_path, spm):
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(StageError, match=f"AutoTokenizer cannot load {tmp_path}: "):
        parity.check_parity(tmp_path, ["文。"], spm)


def test_a_piece_that_an_error_quotes_is_left_out_of_a_private_vocabulary(folder, spm, tmp_path):
    def spoil(content):
        content["model"]["vocab"][50][1] = "珊瑚色の鍵穴"

    wrong = tampered(folder, tmp_path / "wrong", spoil)
    with pytest.raises(StageError, match="AutoTokenizer cannot load .*珊瑚色の鍵穴"):
        parity.check_parity(wrong, ["文。"], spm)
    with pytest.raises(StageError) as error:
        parity.check_parity(wrong, ["文。"], spm, private=True)
    assert str(error.value) == f"AutoTokenizer cannot load {wrong}: not shown, the corpus is private"


CHARACTERS = st.one_of(st.sampled_from(hard_lines.ODD), st.characters(exclude_categories=["Cs"]))


@examples(200, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(CHARACTERS, st.sampled_from(made_up_lines(9))), max_size=12).map("".join))
def test_any_text_agrees_or_differs_for_a_known_cause(text):
    comparison = comparison_of_small_model()
    comparison.found = Parity()
    comparison.check([1, 2], [text, "前の文。"], 8)
    assert comparison.found.first is None
    literal = parity.LITERAL.search(unicodedata.normalize("NFKC", text))
    marked = any(map(parity._is_mark, text))
    assert set(comparison.found.known) <= {LITERALS: literal, MARKS: marked}.keys() | {f"{LITERALS} and {MARKS}"}
    assert not comparison.found.known or literal or marked


@functools.cache
def comparison_of_small_model() -> parity.Comparison:
    with tempfile.TemporaryDirectory() as folder:
        tokenization.write_tokenizer_folder(small_model(), folder)
        return parity.Comparison(folder, tokenization.load_model(small_model()))


def test_odd_lines_agree_or_differ_for_a_known_cause(folder, spm):
    found = parity.check_parity(folder, hard_lines.odd_lines(made_up_lines(200), 1000), spm)
    assert (found.lines, found.first) == (1000, None)
    assert set(found.known) == {LITERALS, MARKS, f"{LITERALS} and {MARKS}"}


def test_odd_lines_are_repeatable_and_hold_every_odd_character():
    lines = made_up_lines(50)
    odd = list(hard_lines.odd_lines(lines, 2000))
    assert odd == list(hard_lines.odd_lines(lines, 2000)) != list(hard_lines.odd_lines(lines, 2000, seed=1))
    assert odd[:10] == list(hard_lines.odd_lines(lines, 10))
    assert [text for text in hard_lines.ODD if not any(text in line for line in odd)] == []


def real_lines(*names: str) -> list[str]:
    packed = (shared("data", "text", f"{name}.txt.xz").read_bytes() for name in names)
    return [line for content in packed for line in lzma.decompress(content).decode().split("\n")]


def test_parity_holds_on_real_lines(tmp_path):
    lines = real_lines("ud_gsd", "wac")
    model = tokenization.train_sentencepiece(filter(str.strip, lines[:6000]), 3000)
    tokenization.write_tokenizer_folder(model, tmp_path)
    found = parity.check_parity(tmp_path, lines[3000:7000], tokenization.load_model(model))
    assert (found.lines, found.first, dict(found.known)) == (4000, None, {})


@pytest.mark.full
def test_parity_holds_on_a_hundred_thousand_real_lines_and_fifty_thousand_odd_ones(tmp_path):
    lines = real_lines("wac", "wikinews", "jawiki_articles")
    eligible = [line for line in lines if line.strip() and len(line.encode()) <= tokenization.MAX_LINE_BYTES]
    model = tokenization.train_sentencepiece(eligible[::4], 8000)
    tokenization.write_tokenizer_folder(model, tmp_path)
    found = parity.check_parity(tmp_path, lines, tokenization.load_model(model))
    assert found.lines > 100_000
    assert (found.first, dict(found.known)) == (None, {})
    found = parity.check_parity(tmp_path, hard_lines.odd_lines(eligible, 50_000), tokenization.load_model(model))
    assert (found.lines, found.first) == (50_000, None)
    assert set(found.known) <= {LITERALS, MARKS, f"{LITERALS} and {MARKS}"}


# Filling masks


def write_bert(folder: Path) -> Path:
    """A model folder with random weights."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(vocab_size=400, **sizes)).save_pretrained(folder)
    return folder


def test_the_pipeline_gives_what_the_model_predicts_for_sentencepieces_ids(folder, spm, tmp_path):
    write_bert(tmp_path)
    tokenization.write_tokenizer_folder(small_model(), tmp_path)
    rows = []
    assert parity.check_fill_mask(tmp_path, spm, written=rows.append) == len(rows) == 4
    tampered(folder, tmp_path, swap_a_pair)  # the small model knows neither piece of the prompts
    assert parity.check_fill_mask(tmp_path, spm) == 4
    (tmp_path / "config.json").rename(tmp_path / "config")
    with pytest.raises(StageError, match=r"pipeline\('fill-mask'\) cannot load .*: "):
        parity.check_fill_mask(tmp_path, spm)
    (tmp_path / "config").rename(tmp_path / "config.json")
    tampered(folder, tmp_path, no_decoder)
    with pytest.raises(
        StageError, match="pipeline\\('fill-mask'\\) of .* predicts for 専門として.* apart: .*'token_str'"
    ):
        parity.check_fill_mask(tmp_path, spm)
    with pytest.raises(StageError, match="apart: not shown, the corpus is private$"):
        parity.check_fill_mask(tmp_path, spm, private=True)
