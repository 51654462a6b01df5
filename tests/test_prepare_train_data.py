"""Stage 3 as a user calls it: standard output and --output_file, kills, and every sentence with which it refuses."""

import bz2
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TIMEOUT, refusal, stage
from properties import every
from texts import text, write_tokenizer, write_wordpiece

import prepare_train_data
from bert_ja import encoding, files, samples, tokenization
from bert_ja.cli import StageError

SCRIPT = "prepare_train_data.py"
PUBLISHED = (
    *("--filename", "data/train.txt", "--buffer_size", 10000, "--tokenizer_model", "output/model"),
    *("--max_seq_len", 512, "--seed", 1000, "--get_raw"),
)
NAME_A_TEXT = "make it with get_jawiki.sh, or name your own text with --filename"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def here(tmp_path, tokenizer) -> Path:
    """A folder with data/train.txt, 60 documents, and output/model."""
    (tmp_path / "data").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "model").symlink_to(tokenizer)
    (tmp_path / "data" / "train.txt").write_text(text(60))
    return tmp_path


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def record_of(path: Path) -> dict:
    """A record without what may differ between equal runs."""
    record = files.require_record(path, SCRIPT)
    assert sorted(record.pop("run")) == [
        *("command", "finished", "host", "num_workers", "paths", "samples_per_second", "seconds")
    ]
    return record


@pytest.mark.parametrize("raw", ["False", "True"])
def test_the_published_command_and_output_file_give_the_same_bytes_and_records(here, raw):
    by_shell = stage(SCRIPT, *PUBLISHED, raw, cwd=here, stdout=here / "data" / "train.jsonl")
    (here / "other").mkdir()
    options = ("--output_file", "other/train.jsonl", "--num_workers", 1)
    # A new interpreter, whose sets have another order.
    by_option = stage(SCRIPT, "--filename=data/train.txt", f"--get_raw={raw}", *options, cwd=here, env={})
    shell, option = here / "data" / "train.jsonl", here / "other" / "train.jsonl"
    assert shell.read_bytes() == option.read_bytes()
    assert record_of(shell) == record_of(option)
    assert names(here / "data") == ["train.jsonl", "train.jsonl.meta.json", "train.txt"]
    assert names(here / "other") == ["train.jsonl", "train.jsonl.meta.json"]
    samples, documents = shell.read_bytes().count(b"\n"), 60
    for result, path in ((by_shell, shell), (by_option, "other/train.jsonl")):
        assert result.stdout == ""
        assert re.fullmatch(
            rf"wrote {samples:,} samples, \d+\.\d tokens on average \({documents} documents, \d\d\.\d% random pairs, "
            rf"0 cut to 512\), to {path} in \d+ s, [\d,]+ samples/s",
            result.stderr.splitlines()[-1],
        )


def test_a_record_says_where_the_samples_come_from(here, tokenizer):
    about = {"name": "jawiki", "license": "CC BY-SA 4.0", "source": None, "dump": None, "private": False}
    source = here / "data" / "train.txt"
    files.write_record(source, {"outputs": [files.describe(source)], "corpus": about})
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    record = record_of(here / "a.jsonl")
    found = [json.loads(line) for line in (here / "a.jsonl").read_bytes().splitlines()]
    ids = [sample["input_ids"] for sample in found]
    lines = source.read_text().split("\n")
    assert record == {
        "stage": SCRIPT,
        "options": {
            "objective": "nsp",
            "unit": "sentence",
            "max_seq_len": 512,
            "buffer_size": 10000,
            "short_seq_prob": 0.1,
            "dupe_factor": 1,
            "get_raw": True,
            "whole_word_mask": False,
            "mlm_probability": 0.15,
            "mask_replace_prob": 0.8,
            "random_replace_prob": 0.1,
        },
        "seed": 1000,
        "versions": files.versions("sentencepiece", "numpy"),
        "inputs": [files.describe(source)],
        "outputs": [files.describe(here / "a.jsonl")],
        "counts": {
            "sentences": sum(map(bool, lines)),
            "documents": 60,
            "cut_sentences": 0,
            "lines_without_tokens": 0,
            "cut_samples": 0,
            "masked_tokens": sum(label != -100 for sample in found for label in sample["labels"]),
            "random_pairs": sum(sample["next_sentence_label"] for sample in found),
            "samples": sum(map(bool, lines)) - 60,
            "tokens": sum(map(len, ids)),
            "unknown_tokens": 0,
        },
        "shares": {
            "unknown_tokens": 0.0,
            "cut_samples": 0.0,
            "random_pairs": round(sum(sample["next_sentence_label"] for sample in found) / len(found), 6),
        },
        "token_lengths": record["token_lengths"],  # below
        "tokenizer": {"sha256": files.sha256(tokenizer / "spm.model"), "vocab_size": 200},
        "longest_sample": max(map(len, ids)),
        "corpus": about,
        "history": [{"outputs": [files.describe(source)], "corpus": about}],
    }


def test_a_pipe_gets_the_samples_and_no_record(here):
    piped = stage(SCRIPT, *PUBLISHED, "False", cwd=here)
    stage(SCRIPT, *PUBLISHED, "False", "--output_file", "a.jsonl", cwd=here)
    assert piped.stdout == (here / "a.jsonl").read_text()
    assert names(here) == ["a.jsonl", "a.jsonl.meta.json", "data", "output"]
    assert names(here / "data") == ["train.txt"]
    assert ", to standard output in " in piped.stderr.splitlines()[-1]


def test_one_document_gets_a_warning(here):
    (here / "data" / "train.txt").write_text(text(1, seed=5, most_sentences=9))
    result = stage(SCRIPT, *PUBLISHED, "False", "--output_file=a.jsonl", cwd=here)
    said = (
        "warning: data/train.txt is one document (no blank lines): random sentences are drawn from the document itself"
    )
    assert said in result.stderr.splitlines()


# A private corpus

MARKER = "珊瑚色の鍵穴"


@pytest.mark.parametrize("says", ["the text", "an edited text", "the tokenizer", "the user", "nobody"])
def test_samples_of_a_private_text_or_tokenizer_are_private(here, tmp_path, monkeypatch, capsys, says):
    monkeypatch.chdir(here)
    source, asked = here / "data" / "train.txt", True if says == "the user" else None
    source.write_text(f"{MARKER}を見つけた。\n{MARKER}に触れた。\n\n" + source.read_text())
    model = shutil.copytree(here / "output" / "model", here / "copy")
    for path, private in ((source, says.endswith(" text")), (model, says == "the tokenizer")):
        outputs = [files.describe(path)] if path.is_file() else files.describe_folder(path)
        files.write_record(path, {"outputs": outputs, "corpus": {"name": "ours", "private": private}})
    if says == "an edited text":
        source.write_text(source.read_text() + "最後の文。\n")
    prepare_train_data.main("data/train.txt", tokenizer_model="copy", output_file="a.jsonl", private_corpus=asked)
    name = None if says == "an edited text" else "ours"
    expected = {"name": name, "license": None, "source": None, "dump": None, "private": says != "nobody"}
    assert record_of(here / "a.jsonl")["corpus"] == expected
    said = "".join(capsys.readouterr()) + Path("a.jsonl.meta.json").read_text()
    assert ("sample (" in said) == (says == "nobody")
    if says != "nobody":
        assert MARKER not in said and "鍵穴" not in said


def test_a_private_text_is_not_quoted_where_it_is_broken(here):
    (here / "data" / "train.txt").write_bytes((f"{MARKER}を見つけた。\n" * 500).encode() + MARKER.encode()[:-1] + b"\n")
    for workers in (1, 2):
        options = ("--output_file=a.jsonl", "--num_workers", workers, "--private_corpus", "True")
        found = refused(here, *PUBLISHED, "False", *options)
        assert found.startswith("data/train.txt is not UTF-8 at byte ")
        assert "鍵穴" not in found


def test_what_a_record_calls_private_cannot_be_made_public(here):
    files.write_record(here / "data" / "train.txt", {"outputs": [], "corpus": {"private": True}})
    assert refused(here, *PUBLISHED, "False", "--output_file=a.jsonl", "--private_corpus", "False") == (
        "data/train.txt is of a private corpus, as its record says, and so is all that is made from it: "
        "leave private_corpus out, or name another input"
    )


# A look at it


def test_three_samples_are_shown_with_their_masks_before_the_work(here):
    result = stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    shown = [line for line in result.stderr.splitlines() if line.startswith("sample (")]
    assert len(shown) == 3
    assert result.stderr.splitlines()[:3] == shown
    assert {line.partition(",")[0] for line in shown} == {"sample (B follows A", "sample (B is random"}
    # The text is shorter than what is looked at, so that these are samples of the file.
    encoder = encoding.open_encoder(here / "output" / "model")
    found = [json.loads(line) for line in (here / "a.jsonl").read_bytes().splitlines()]
    for line in shown:
        words = line.partition("): ")[2].split(" ")
        now = [word.strip("{}").rpartition("→")[2] if word.startswith("{") else word for word in words]
        before = [word.strip("{}").partition("→")[0] if word.startswith("{") else word for word in words]
        (sample,) = (sample for sample in found if encoder.shown(sample["input_ids"]) == now)
        pairs = zip(sample["input_ids"], sample["labels"], strict=True)
        assert encoder.shown([token if label == -100 else label for token, label in pairs]) == before
        masked = [word.startswith("{") for word in words]
        assert masked == [label != -100 for label in sample["labels"]]


@pytest.mark.parametrize(
    ("objective", "names"), [("sop", {"in order", "exchanged"}), ("none", {"one segment"}), ("nsp", None)]
)
def test_what_is_shown_says_what_a_sample_is(here, objective, names):
    result = stage(
        SCRIPT, *PUBLISHED, "False", "--output_file=a.jsonl", "--objective", objective, "--unit=segment", cwd=here
    )
    shown = [line for line in result.stderr.splitlines() if line.startswith("sample (")]
    assert {line.removeprefix("sample (").partition(",")[0] for line in shown} == (
        names or {"B follows A", "B is random"}
    )
    about = {"sop": "swapped pairs", "none": "", "nsp": "random pairs"}[objective]
    assert about in result.stderr.splitlines()[-1]
    assert ("pairs" in result.stderr.splitlines()[-1]) == (objective != "none")


def test_unhealthy_numbers_get_one_warning_each(here):
    published = ("--filename=data/train.txt", "--get_raw=False", "--output_file=a.jsonl", "--max_seq_len=64")
    content = "知らぬ謎字鬱。\n彁暃椦鿫靉。\n" + "".join("庭で古い時計を見つけた。" * 30 + "\n" for _ in range(4))
    (here / "data" / "train.txt").write_text(content)
    result = stage(SCRIPT, *published, cwd=here)
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    shares = record_of(here / "a.jsonl")["shares"]
    assert warnings == [
        "warning: data/train.txt is one document (no blank lines): random sentences are drawn from the document itself",
        f"warning: {shares['unknown_tokens']:.2%} of the tokens are unknown (at most 0.5% is healthy): the tokenizer "
        "does not fit data/train.txt, train one on it",
        f"warning: {shares['cut_samples']:.2%} of the samples were cut to 64 tokens (at most 5% is healthy): raise "
        "--max_seq_len, or split long lines into sentences",
    ]
    assert shares["unknown_tokens"] > 0.005
    assert shares["cut_samples"] == 0.8


def test_a_histogram_has_few_bins_and_every_sample(here):
    stage(SCRIPT, *PUBLISHED, "False", "--output_file=a.jsonl", "--unit=segment", cwd=here)
    lengths = [len(json.loads(line)["input_ids"]) for line in (here / "a.jsonl").read_bytes().splitlines()]
    bins = record_of(here / "a.jsonl")["token_lengths"]
    assert len(bins) <= 32
    assert [one["samples"] for one in bins] == [
        sum(one["from"] <= length <= one["to"] for length in lengths) for one in bins
    ]
    assert sum(one["samples"] for one in bins) == len(lengths)


# Whole words and other tokenizers


def test_whole_words_are_stored_and_masked_whole(here):
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", "--whole_word_mask", "True", cwd=here)
    encoder = encoding.open_encoder(here / "output" / "model", whole_words=True)
    for line in (here / "a.jsonl").read_bytes().splitlines():
        sample = json.loads(line)
        starts = set(sample["word_starts"])
        half = sample["token_type_ids"].index(1)
        assert {1, half} <= starts
        assert not starts & {0, half - 1, len(sample["input_ids"]) - 1}
        pairs = zip(sample["input_ids"], sample["labels"], strict=True)
        ids = [token if label == -100 else label for token, label in pairs]
        assert len(ids) == len(sample["input_ids"])
        for place in range(1, len(ids) - 1):
            if place not in starts and place not in (half - 1, half):
                assert (sample["labels"][place] == -100) == (sample["labels"][place - 1] == -100)
    record = record_of(here / "a.jsonl")
    assert record["options"]["whole_word_mask"] is True
    assert {"fugashi", "unidic-lite"} <= set(record["versions"])
    assert encoder.packages == ("sentencepiece", "fugashi", "unidic-lite")


def test_without_an_analyser_whole_words_are_refused_before_the_work(here):
    (here / "blocked").mkdir()
    (here / "blocked" / "fugashi.py").write_text("raise ImportError('blocked', name='fugashi')\n")
    asked = (*PUBLISHED, "False", "--output_file=a.jsonl", "--whole_word_mask=True")
    assert refused(here, *asked, env={"PYTHONPATH": str(here / "blocked"), "PYTHONDONTWRITEBYTECODE": "1"}) == (
        "--whole_word_mask needs a morphological analyser (fugashi is not installed): pip install fugashi unidic-lite"
    )


def test_samples_of_a_wordpiece_folder(here):
    """A folder of the Tohoku kind: MeCab and WordPiece, special ids of its own order."""
    folder = here / "bert-base-japanese"
    pieces = sorted({*"".join(text(60)), *("##" + letter for letter in "".join(text(60)))} - {"\n", "##\n"})
    write_wordpiece(folder, [*pieces, "[UNK]", "[SEP]", "[MASK]", "[PAD]", "[CLS]"])
    asked = ("--filename=data/train.txt", "--tokenizer_model=bert-base-japanese", "--get_raw=True")
    result = stage(SCRIPT, *asked, "--output_file=a.jsonl", "--num_workers=2", cwd=here)
    said = "bert-base-japanese has no spm.model: ids come from its BertJapaneseTokenizer"
    assert result.stderr.splitlines()[0] == said
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = [
        [tokenizer(line, add_special_tokens=False)["input_ids"] for line in document.split("\n")]
        for document in text(60).strip("\n").split("\n\n")
    ]
    firsts = [pair for document in documents for pair in zip(document, document[1:], strict=False)]
    found = [json.loads(line) for line in (here / "a.jsonl").read_bytes().splitlines()]
    cls, sep, mask = (tokenizer.convert_tokens_to_ids(piece) for piece in ("[CLS]", "[SEP]", "[MASK]"))
    for (first, second), sample in zip(firsts, found, strict=True):
        pairs = zip(sample["input_ids"], sample["labels"], strict=True)
        ids = [token if label == -100 else label for token, label in pairs]
        assert ids[: len(first) + 2] == [cls, *first, sep]
        assert ids[-1] == sep
        if sample["next_sentence_label"] == 0:
            assert ids == [cls, *first, sep, *second, sep]
    assert mask in {token for sample in found for token in sample["input_ids"]}
    record = record_of(here / "a.jsonl")
    assert record["tokenizer"] == tokenization.tokenizer_facts(folder)
    assert record["tokenizer"]["vocab_size"] == len(pieces) + 5
    assert {"transformers", "tokenizers", "fugashi", "unidic-lite"} <= set(record["versions"])
    one = stage(SCRIPT, *asked, "--output_file=b.jsonl", "--num_workers=1", "--whole_word_mask=True", cwd=here)
    assert said in one.stderr
    for plain, line in zip(found, (here / "b.jsonl").read_bytes().splitlines(), strict=True):
        sample = json.loads(line)
        starts = [
            place
            for place, (token, label) in enumerate(zip(plain["input_ids"], plain["labels"], strict=True))
            if not tokenizer.convert_ids_to_tokens(token if label == -100 else label).startswith(("##", "[CLS", "[SEP"))
        ]
        assert sample["word_starts"] == starts


# Kills

KILLED = """
import glob, os, runpy, signal, sys
from bert_ja import encoding, files, samples
stage, calls = os.getpid(), 0
os.fsync = lambda descriptor: None  # what is written survives a kill without
encoding.TEXT_BLOCK, samples.SAMPLE_BLOCK = 1000, 20
awaited = sys.argv.pop(1)
files.JOURNAL_SECONDS = 0.0 if awaited else 3600.0
save, encode, write = files.Journal.save, encoding.SentencePieceEncoder.encode, samples.to_json

def is_saved():
    return any(f'"{awaited}"' in open(journal).read() for journal in glob.glob(".*.work/journal.json"))

def save_and_wait(journal, *arguments):
    save(journal, *arguments)
    journal.wait()

def third_call_kills():
    global calls
    calls += 1
    if calls >= 3 and (not awaited or is_saved()):
        os.kill(stage, signal.SIGKILL)

def kill_while_encoding(self, lines):
    if glob.glob(".*.work/ids"):  # behind the look at the first lines, of which nothing is kept
        third_call_kills()
    return encode(self, lines)

def kill_while_writing(*arguments):
    third_call_kills()
    return write(*arguments)

files.Journal.save = save_and_wait
if sys.argv.pop(1) == "encoding":
    encoding.SentencePieceEncoder.encode = kill_while_encoding
else:
    samples.to_json = kill_while_writing
sys.argv[0] = "prepare_train_data.py"
runpy.run_path(os.path.join(os.environ["PYTHONPATH"], sys.argv[0]), run_name="__main__")
"""


def run_killed(when: str, *arguments, cwd: Path, saved: str = "", **options) -> None:
    """Run the stage until a worker kills it all with -9: at its third block to encode, or to write.

    With `saved` ("encoding", "encoded" or "written"), at the first block from there on with that in the journal;
    without, it is never time to save.
    """
    command = [sys.executable, "-c", KILLED, saved, when, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, timeout=TIMEOUT, **options)
    assert result.returncode == -signal.SIGKILL, result.stderr


@pytest.mark.parametrize(
    ("when", "saved", "how"),
    [
        ("encoding", "", "starting over"),
        ("encoding", "encoding", "going on"),
        ("writing", "", "going on"),  # the columns are saved when they are finished, whatever the time
        ("writing", "written", "going on"),
    ],
)
def test_kill_9_and_a_second_run_give_the_same_bytes(here, when, saved, how):
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=whole.jsonl", cwd=here)
    run_killed(when, *PUBLISHED, "True", "--output_file=a.jsonl", "--num_workers=1", cwd=here, saved=saved)
    assert not (here / "a.jsonl").exists()
    assert (here / ".a.jsonl.work" / "ids").exists()
    result = stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    assert result.stderr.splitlines()[0] == f"a.jsonl: an earlier run did not finish, {how}"
    assert result.stderr.count("starting over") == (how == "starting over")  # and does not refuse what was kept
    assert (here / "a.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert record_of(here / "a.jsonl") | {"outputs": None} == record_of(here / "whole.jsonl") | {"outputs": None}
    assert [name for name in names(here) if name.startswith(".")] == []


def test_a_run_with_other_options_starts_over(here):
    run_killed("writing", *PUBLISHED, "True", "--output_file=a.jsonl", "--num_workers=2", cwd=here, saved="encoded")
    stage(SCRIPT, *PUBLISHED, "False", "--output_file=whole.jsonl", cwd=here)
    result = stage(SCRIPT, *PUBLISHED, "False", "--output_file=a.jsonl", cwd=here)
    assert result.stderr.splitlines()[0] == "a.jsonl: an earlier run did not finish, starting over"
    assert (here / "a.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()


def test_a_text_that_changed_between_two_runs_starts_over(here):
    run_killed("writing", *PUBLISHED, "True", "--output_file=a.jsonl", "--num_workers=1", cwd=here, saved="written")
    with open(here / "data" / "train.txt", "a") as file:
        file.write(text(2, seed=5))
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=whole.jsonl", cwd=here)
    result = stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    assert "data/train.txt or what was kept of it was changed since: starting over" in result.stderr.splitlines()
    assert (here / "a.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()


DAMAGE = {
    "ids cut": lambda work: os.truncate(work / "ids", 1000),
    "ids gone": lambda work: (work / "ids").unlink(),
    "ends cut": lambda work: os.truncate(work / "ends", 800),
    "documents longer": lambda work: os.truncate(work / "documents", 10**6),
    "starts cut": lambda work: os.truncate(work / "document_starts", 80),
    "output changed": lambda work: (work / "output").write_bytes(b"{}" + (work / "output").read_bytes()[2:]),
    "output cut": lambda work: os.truncate(work / "output", 10),
    "output gone": lambda work: (work / "output").unlink(),
    "journal cut": lambda work: os.truncate(work / "journal.json", 300),
    "journal gone": lambda work: (work / "journal.json").unlink(),
    "journal of another form": lambda work: rewrite_state(work / "journal.json", [1]),
    "journal without a state": lambda work: rewrite_state(work / "journal.json", None),
    "journal of numbers": lambda work: rewrite_state(work / "journal.json", {"encoded": 5}),
}


def rewrite_state(journal: Path, state) -> None:
    journal.write_text(json.dumps(json.loads(journal.read_text()) | {"state": state}))


@pytest.mark.parametrize("damage", every(3, DAMAGE))
def test_a_damaged_folder_of_an_ended_run_never_gives_other_samples(here, monkeypatch, damage):
    asked = {"filename": "data/train.txt", "get_raw": True, "num_workers": 1, "unit": "segment", "max_seq_len": 64}
    monkeypatch.chdir(here)
    prepare_train_data.main(**asked, output_file="whole.jsonl")
    options = [f"--{name}={value}" for name, value in asked.items()]
    run_killed("writing", *options, "--output_file=a.jsonl", cwd=here, saved="written")
    DAMAGE[damage](here / ".a.jsonl.work")
    prepare_train_data.main(**asked, output_file="a.jsonl")
    assert (here / "a.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert [name for name in names(here) if name.startswith(".")] == []


def test_the_rate_of_a_run_that_goes_on_counts_its_own_samples(here, monkeypatch):
    run_killed("writing", *PUBLISHED, "True", "--output_file=a.jsonl", "--num_workers=1", cwd=here, saved="written")
    journal = json.loads((here / ".a.jsonl.work" / "journal.json").read_text())
    before = journal["state"].get("written", {"counts": {"samples": 0}})["counts"]["samples"]
    reported = []
    monkeypatch.setattr(prepare_train_data, "report", lambda *arguments: reported.append(arguments))
    monkeypatch.setattr(samples, "SAMPLE_BLOCK", 20)
    monkeypatch.chdir(here)
    prepare_train_data.main("data/train.txt", get_raw=True, output_file="a.jsonl", num_workers=1)
    ((_, _, found, _, made, _),) = reported
    assert made == found["counts"]["samples"] - before


def test_a_run_ended_after_its_output_is_in_place_is_done_again(here):
    """Killed between the file and its record: the next stage refuses it, a second run gives the same bytes."""
    stage(SCRIPT, *PUBLISHED, "True", "--output_file=a.jsonl", cwd=here)
    whole = (here / "a.jsonl").read_bytes()
    run_killed("writing", *PUBLISHED, "True", "--output_file=b.jsonl", "--num_workers=1", cwd=here, saved="written")
    (here / ".b.jsonl.work" / "output").rename(here / "b.jsonl")
    result = stage(SCRIPT, *PUBLISHED, "True", "--output_file=b.jsonl", cwd=here)
    assert result.stderr.splitlines()[0] == "b.jsonl: an earlier run did not finish, going on"
    assert (here / "b.jsonl").read_bytes() == whole
    assert record_of(here / "b.jsonl")["outputs"][0]["size"] == len(whole)


SMALL_BLOCKS = """
import sys
import prepare_train_data
from bert_ja import cli, files, samples
files.JOURNAL_SECONDS, samples.SAMPLE_BLOCK = 0.0, 200
prepare_train_data.require_space = lambda *arguments: None
sys.argv[0] = "prepare_train_data.py"
cli.run(prepare_train_data.main)
"""


def test_a_full_disk_keeps_what_is_done_and_the_next_run_goes_on(here, disk):
    """A disk that fills while samples are written; with room made, the same command ends the work."""
    folder = disk(4_000_000)
    (here / "data" / "train.txt").write_text(text(1500))
    asked = ("--filename=data/train.txt", "--get_raw=True", f"--output_file={folder}/a.jsonl", "--num_workers=1")
    command = [sys.executable, "-c", SMALL_BLOCKS, *asked]
    options = {"cwd": here, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    (folder / "blocker").write_bytes(b"x" * 2_000_000)
    failed = subprocess.run(command, timeout=120, **options)
    assert failed.returncode == 2, failed.stderr
    assert "the disk is full: free some space and run the same command again" in failed.stderr
    assert f"what is done of {folder}/a.jsonl is kept in .a.jsonl.work: run the same command again" in failed.stderr
    assert names(folder) == [".a.jsonl.work", "blocker"]
    (folder / "blocker").unlink()
    done = subprocess.run(command, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    assert "an earlier run did not finish, going on" in done.stderr
    stage(SCRIPT, "--filename=data/train.txt", "--get_raw=True", "--output_file=whole.jsonl", cwd=here)
    assert (folder / "a.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert names(folder) == ["a.jsonl", "a.jsonl.meta.json"]


def test_what_kill_9_leaves_behind_standard_output_is_refused_and_a_second_run_is_whole(here):
    stage(SCRIPT, *PUBLISHED, "False", cwd=here, stdout=here / "a.jsonl")
    whole = (here / "a.jsonl").read_bytes()
    with open(here / "a.jsonl", "wb") as file:
        run_killed("writing", *PUBLISHED, "False", "--num_workers=1", cwd=here, stdout=file)
    with pytest.raises(StageError, match="has no record .* so it may be cut short: make it again with prepare_train"):
        files.require_record(here / "a.jsonl", SCRIPT)
    stage(SCRIPT, *PUBLISHED, "False", cwd=here, stdout=here / "a.jsonl")
    assert (here / "a.jsonl").read_bytes() == whole
    assert names(here) == ["a.jsonl", "a.jsonl.meta.json", "data", "output"]


# Refusals


def refused(here, *arguments, **options) -> str:
    """The sentence, after a check that nothing is left of the attempt."""
    before = sorted(path for path in here.rglob("*"))
    sentence = refusal(SCRIPT, *arguments, cwd=here, **options)
    assert sorted(path for path in here.rglob("*")) == before
    return sentence


def test_wrong_options_are_refused_all_at_once(here):
    wrong = ("--max_seq_len=7", "--buffer_size=0", "--num_workers=0", "--mlm_probability=1", "--mask_replace_prob=0.95")
    assert refused(here, "--filename=data/train.txt", *wrong) == (
        "--max_seq_len must be from 8 to 65,536, got 7; --buffer_size must be 1 or more, got 0; "
        "--mlm_probability must lie between 0 and 1, got 1.0; "
        "--mask_replace_prob and --random_replace_prob must be 0 or more and 1 or less together, got 0.95 and 0.1; "
        "--num_workers must be 1 or more, got 0"
    )
    odd = ("--objective=mlm", "--unit=paragraph", "--short_seq_prob=1.5", "--dupe_factor=0")
    assert refused(here, "--filename=data/train.txt", *odd) == (
        "--objective must be one of nsp, sop, none, got mlm; --unit must be one of sentence, segment, got paragraph; "
        "--short_seq_prob must be from 0 to 1, got 1.5; --dupe_factor must be 1 or more, got 0"
    )
    assert refused(here, "--filename=data/train.txt", "--objective=none", "--dupe_factor=2") == (
        "--dupe_factor with --objective none needs --get_raw True, as its copies differ in masks only"
    )
    assert refused(here, "--filename=data/train.txt", "--max_seq_len=70000", "--random_replace_prob=nan") == (
        "--max_seq_len must be from 8 to 65,536, got 70000; "
        "--mask_replace_prob and --random_replace_prob must be 0 or more and 1 or less together, got 0.8 and nan"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, f"data/a.txt not found: {NAME_A_TEXT}"),
        (b"", f"data/a.txt is empty: {NAME_A_TEXT}"),
        (b"\0\1\2\3" * 9, f"data/a.txt is not text (it holds zero bytes): {NAME_A_TEXT}"),
        (b'{"id": 1}\n', f"data/a.txt is JSON, text with one sentence a line is needed: {NAME_A_TEXT}"),
        (b"<mediawiki>\n", f"data/a.txt is XML, text with one sentence a line is needed: {NAME_A_TEXT}"),
        (bz2.compress(text(9).encode()), f"data/a.txt is not UTF-8 text (byte 10): {NAME_A_TEXT}"),
        (
            text(60).encode() + b"\xff\n" + text(60).encode(),
            f"data/a.txt is not UTF-8 at byte {len(text(60).encode()):,}: "
            "repair it (iconv -c -f UTF-8 -t UTF-8), run again",
        ),
        (
            "一つの文。\n\nもう一つの文。\n\n\n".encode(),
            "data/a.txt has no document of two sentences or more (2 sentences, 2 documents): "
            "a document's lines must stand together, with a blank line after them",
        ),
        (
            b"\n \n\n",
            "data/a.txt has no document of two sentences or more (0 sentences, 0 documents): "
            "a document's lines must stand together, with a blank line after them",
        ),
    ],
)
def test_what_is_no_text_of_documents_is_refused(here, content, sentence):
    if content is not None:
        (here / "data" / "a.txt").write_bytes(content)
    found = refused(here, "--filename=data/a.txt", "--output_file=data/a.jsonl", "--num_workers=2")
    assert re.sub(r"byte \d+\)", "byte 10)", found) == sentence


def test_a_text_that_the_record_would_replace_is_refused(here):
    (here / "data" / "train.txt").rename(here / "a.jsonl.meta.json")
    for output in ("a.jsonl", "./a.jsonl"):
        assert refused(here, "--filename=a.jsonl.meta.json", f"--output_file={output}") == (
            f"the record of {output} would replace the text a.jsonl.meta.json: name another file"
        )


def test_temporary_folders_that_killed_runs_left_are_removed(here, tmp_path):
    place = tmp_path / "temporary"
    for name in ("bert-ja-old", "bert-ja-new", "other-old"):
        (place / name).mkdir(parents=True)
        (place / name / "ids").write_bytes(b"1234")
    for name in ("bert-ja-old", "other-old"):
        os.utime(place / name, (0, 0))
    stage(SCRIPT, *PUBLISHED, "False", cwd=here, env={"TMPDIR": str(place)})
    assert names(place) == ["bert-ja-new", "other-old"]


def test_a_private_vocabulary_is_not_quoted_where_it_is_broken(here):
    broken = here / "broken"
    broken.mkdir()
    content = json.loads((here / "output" / "model" / "tokenizer.json").read_text())
    content["model"]["vocab"][50] = [MARKER, MARKER]  # where a score must stand
    (broken / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
    (broken / "tokenizer_config.json").write_text((here / "output" / "model" / "tokenizer_config.json").read_text())
    asked = ("--filename=data/train.txt", "--tokenizer_model=broken", "--output_file=a.jsonl")
    found = refused(here, *asked, "--private_corpus=True")
    assert found == "AutoTokenizer cannot load broken: not shown, the corpus is private"
    assert MARKER in refused(here, *asked)


def test_a_broken_text_leaves_nothing_in_the_file_behind_standard_output(here):
    (here / "data" / "train.txt").write_bytes(text(60).encode() + b"\xff\n")
    found = refusal(SCRIPT, *PUBLISHED, "False", cwd=here, stdout=here / "a.jsonl")
    assert found.startswith("data/train.txt is not UTF-8 at byte ")
    assert (here / "a.jsonl").read_bytes() == b""
    assert names(here) == ["a.jsonl", "data", "output"]


def test_a_pipe_as_the_text_is_refused_before_it_is_read(here):
    os.mkfifo(here / "a.txt")
    assert refused(here, "--filename=a.txt", "--output_file=a.jsonl") == (
        "a.txt is not a regular file: save the text to a file first"
    )


def test_a_missing_or_damaged_tokenizer_is_refused(here):
    asked = ("--filename=data/train.txt", "--output_file=a.jsonl", "--tokenizer_model")
    assert refused(here, *asked, "output/other") == "output/other not found: run train_tokenizer.py first"
    assert refused(here, *asked, "data") == (
        "data has no spm.model: name a folder that train_tokenizer.py wrote, such as output/model"
    )
    (here / "data" / "spm.model").write_bytes(b"not a model")
    assert refused(here, *asked, "data") == (
        "data/spm.model is not a SentencePiece model, or is damaged: run train_tokenizer.py first"
    )


def test_outputs_that_cannot_be_written_are_refused(here):
    asked = ("--filename=data/train.txt", "--output_file")
    assert refused(here, *asked, "data") == "data is a folder, the name of a file to write is needed"
    assert refused(here, *asked, "data/../data/train.txt") == (
        "--output_file data/../data/train.txt is the text itself: name another file"
    )
    assert refused(here, *asked, "data/train.txt/a.jsonl").endswith(": check the path and its permissions")
    assert refused(here, *asked, "a" * 300).startswith("File name too long (")
    (here / "a.jsonl").write_text("mine\n")
    with open(here / "a.jsonl", "ab") as file:
        result = subprocess.run(
            [sys.executable, ROOT / SCRIPT, *map(str, PUBLISHED), "False"],
            cwd=here,
            stdout=file,
            stderr=subprocess.PIPE,
        )
    assert result.returncode == 2
    assert result.stderr.decode() == (
        f"{SCRIPT}: error: {here / 'a.jsonl'} already holds 5 bytes: write with > and not >>\n"
    )
    assert (here / "a.jsonl").read_text() == "mine\n"


def test_a_terminal_as_standard_output_is_refused(here):
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / SCRIPT), *map(str, PUBLISHED), "False"]
    result = subprocess.run(command, cwd=here, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.close(ours)
    assert result.returncode == 2
    assert result.stderr == (
        f"{SCRIPT}: error: samples would fill the terminal: add > data/train.jsonl, or pass --output_file\n"
    )


def test_a_disk_without_room_is_refused_before_the_work(here):
    disk = here / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    try:
        found = refusal(SCRIPT, *PUBLISHED, "False", "--output_file=disk/a.jsonl", cwd=here)
        assert names(disk) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert re.sub(r"about \d MB", "about 1 MB", found) == (
        f"this stage needs about 1 MB on the disk of {disk}, but only 0 MB are free: free some space or write elsewhere"
    )
