"""Stage 3: text to samples as JSON lines, the same bytes for any number of workers.

Reads a text (one sentence a line, a blank line after each document) and a tokenizer folder; writes one JSON object a
sample (data/README.md), to standard output or --output_file, and a record beside the file. With --output_file a run
that was ended at any moment goes on when it is run again:

    python3 prepare_train_data.py --filename data/train.txt --get_raw False > data/train.jsonl
"""

import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bert_ja import cli, encoding, files, samples, tokenization, workers
from bert_ja.masking import MaskingRule

# Bytes for each byte of text; of Wikipedia with 4,000 pieces, 1.0, 3.1, 2.4 and 1.4 were measured.
COLUMN_BYTES, JSON_BYTES, LABEL_BYTES, WORD_BYTES = 1.5, 4.5, 2.5, 2.0
MOST_UNKNOWN, MOST_CUT = 0.005, 0.05  # shares of tokens and samples above which something is wrong


def check(filename: str, output_file: str | None, rule: samples.SampleRule, dupe_factor: int, num_workers: int) -> Path:
    """Refuse what cannot work; the path of the text."""
    problems, workers_fit = rule.problems(dupe_factor), f"--num_workers must be 1 or more, got {num_workers}"
    cli.require(problems | {workers_fit: num_workers >= 1})
    text = Path(filename)
    if text.exists() and not text.is_file() and not text.is_dir():
        raise cli.StageError(f"{text} is not a regular file: save the text to a file first")
    text = files.require_text(text, "make it with get_jawiki.sh, or name your own text with --filename")
    if output_file and os.path.exists(output_file) and os.path.samefile(text, output_file):
        raise cli.StageError(f"--output_file {output_file} is the text itself: name another file")
    destination = output_file or files.stdout_file()
    record = files.record_path(destination) if destination else None
    if record and record.exists() and os.path.samefile(text, record):
        raise cli.StageError(f"the record of {destination} would replace the text {text}: name another file")
    return text


def require_space(text: Path, output_file: str | None, rule: samples.SampleRule, copies: int, words: bool) -> None:
    destination = Path(output_file) if output_file else files.stdout_file()
    lines = JSON_BYTES + LABEL_BYTES * rule.masked + WORD_BYTES * words
    needed = int(text.stat().st_size * (COLUMN_BYTES + copies * lines))
    left = files.work_path(destination) if destination else None
    if left is not None and left.is_dir():
        needed -= sum(file.stat().st_size for file in left.iterdir())
    files.require_space(destination.parent if destination else tempfile.gettempdir(), needed, "this stage")


# Where samples go


@dataclass
class Work:
    """The file that samples go to, and what is done of it."""

    out: files.Output
    journal: files.Journal


@contextlib.contextmanager
def open_work(output_file: str | None, key: dict) -> Iterator[Work]:
    """--output_file, which an ended run goes on with, or standard output unless that is a terminal."""
    if output_file is None:
        if sys.stdout.isatty():
            raise cli.StageError("samples would fill the terminal: add > data/train.jsonl, or pass --output_file")
        with files.standard_output() as out, files.work_folder(out.path) as folder:
            yield Work(out, files.Journal(folder, None))
        return
    with files.journal(output_file, key) as journal:
        path = files.require_writable(output_file)
        growing = journal.folder / "output"
        with open(growing, "r+b" if growing.exists() else "w+b") as file:
            yield Work(files.Output(file, path), journal)
            file.flush()
            os.fsync(file.fileno())
        files.put_into_place(growing, path)


# The work


def why_no_samples(text: Path, counts: dict, objective: str) -> cli.StageError | None:
    """Why a text gives no sample, None where it does; warns of one document."""
    if counts["sentences"] <= (0 if objective == "none" else counts["documents"]):
        return cli.StageError(
            f"{text} has no document of two sentences or more ({counts['sentences']:,} sentences, "
            f"{counts['documents']:,} documents): a document's lines must stand together, with a blank line after them"
        )
    if counts["documents"] == 1:
        random = "random sentences are drawn from the document itself"
        said = random if objective == "nsp" else "samples may join sentences of different texts"
        cli.say(f"warning: {text} is one document (no blank lines): {said}")
    return None


def progress_bar(total: int, unit: str, what: str) -> tuple[tqdm, Callable[[int], None]]:
    """A bar, and what moves it on; first by what an earlier run did, which says nothing of the time that is left."""
    bar = tqdm(total=total, unit=unit, unit_scale=True, desc=what, delay=1)
    moved = False

    def move(more: int) -> None:
        nonlocal moved
        if not moved:
            bar.initial = more
        moved = True
        bar.update(more)

    return bar, move


def encode(
    text: Path, journal: files.Journal, encoder: encoding.Encoder, longest: int, words: bool, num_workers: int
) -> tuple[dict, dict]:
    """The text's columns, with progress: (counts, the text's description for the record)."""
    bar, move = progress_bar(text.stat().st_size, "B", "encoding")
    with bar:
        return encoding.encode_text(text, encoder, journal, longest, words, num_workers, move)


def write(
    work: Work, sentences: int, rule: samples.SampleRule, copies: int, vocabulary, num_workers: int
) -> tuple[Counter, np.ndarray, int]:
    """All samples, with progress: (their counts, how many have 0, 1, 2 ... tokens, how many this run made)."""
    started, made = time.monotonic(), 0
    bar, move = progress_bar(sentences * copies, " sentences", "writing")

    def on_block(more: int, total: int, of_this_run: int) -> None:
        nonlocal made
        made = of_this_run
        rate = of_this_run / (time.monotonic() - started)
        bar.set_postfix_str(f"{total:,} samples, {rate:,.0f} samples/s", refresh=False)
        move(more)

    with bar:
        tasks = samples.block_tasks(sentences, copies, rule)
        counts, lengths = samples.write_samples(work.out, work.journal, tasks, rule, vocabulary, num_workers, on_block)
    return counts, lengths, made


# What is said of it


def report(text: Path, path: Path | None, found: dict, rule: samples.SampleRule, made: int, seconds: float) -> None:
    """One warning for each share that is unhealthy, and the facts in one line; this run made `made` of the samples."""
    shares, counts = found["shares"], found["counts"]
    if shares["unknown_tokens"] > MOST_UNKNOWN:
        cli.say(
            f"warning: {shares['unknown_tokens']:.2%} of the tokens are unknown (at most {MOST_UNKNOWN:.1%} is "
            f"healthy): the tokenizer does not fit {text}, train one on it"
        )
    if shares["cut_samples"] > MOST_CUT:
        cli.say(
            f"warning: {shares['cut_samples']:.2%} of the samples were cut to {rule.max_seq_len} tokens (at most "
            f"{MOST_CUT:.0%} is healthy): raise --max_seq_len, or split long lines into sentences"
        )
    pairs = samples.EXCHANGED[rule.objective]
    about = f"{shares[pairs]:.1%} {pairs.replace('_', ' ')}, " if pairs else ""
    cli.say(
        f"wrote {counts['samples']:,} samples, {counts['tokens'] / counts['samples']:.1f} tokens on average "
        f"({counts['documents']:,} documents, {about}{counts['cut_samples']:,} cut to {rule.max_seq_len}), to "
        f"{path or 'standard output'} in {seconds:.0f} s, {made / seconds:,.0f} samples/s"
    )


def main(
    filename: str,
    buffer_size: int = 10000,
    tokenizer_model: str = "output/model",
    max_seq_len: int = 512,
    seed: int = 1000,
    get_raw: bool = False,
    objective: str = "nsp",
    unit: str = "sentence",
    whole_word_mask: bool = False,
    short_seq_prob: float = 0.1,
    dupe_factor: int = 1,
    output_file: str | None = None,
    num_workers: int | None = None,
    mlm_probability: float = 0.15,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
    private_corpus: bool | None = None,
) -> None:
    """Turn a text into samples, one JSON object a line.

    Args:
        filename: Text to read: UTF-8, one sentence a line, a blank line after each document.
        buffer_size: How many sentences away from A, on both sides, a random B may begin.
        tokenizer_model: Folder of the tokenizer: that of train_tokenizer.py, or any that AutoTokenizer loads and that
            has cls, sep, mask and pad.
        max_seq_len: Longest sample in tokens, special ones included; a longer pair is cut on its longer side.
        seed: Number that fixes which pairs are random and which tokens are masked.
        get_raw: True masks each sample once and for all and stores its labels, as valid and test data need it;
            False stores plain samples, which the trainer masks anew each time it draws them.
        objective: The second task. With nsp, B is a random one in half of the samples; with sop, A and B are exchanged
            in half of them; with none, a sample is one segment of whole sentences of a document.
        unit: What A and B are. With sentence, a line each; with segment, as many consecutive lines as fit together into
            max_seq_len. Objective none knows no unit.
        whole_word_mask: True finds where words begin, so that whole words are masked, here and in the trainer. Needs
            the packages fugashi and unidic-lite.
        short_seq_prob: Share of the segment samples that aim at a random, shorter length.
        dupe_factor: Copies of the corpus, each with other pairs and masks.
        output_file: File to write instead of standard output; a run that was ended goes on when it is run again.
        num_workers: Worker processes; one for each core when not given. The output does not depend on it.
        mlm_probability: Share of a sample's tokens that are selected, with --get_raw True.
        mask_replace_prob: Share of the selected tokens that become [MASK].
        random_replace_prob: Share of the selected tokens that become a random token; the others stay.
        private_corpus: True keeps every piece of the text out of what this and all later stages print and record;
            when not given, what the record of the text, or of the tokenizer, says.
    """
    started = time.monotonic()
    num_workers = num_workers if num_workers is not None else workers.available_cores()
    masking = MaskingRule(mlm_probability, mask_replace_prob, random_replace_prob)
    rule = samples.SampleRule(max_seq_len, buffer_size, seed, get_raw, masking, objective, unit, short_seq_prob)
    text = check(filename, output_file, rule, dupe_factor, num_workers)
    corpus = files.corpus_of(text, tokenization.record_folder(tokenizer_model), private=private_corpus)
    encoder = encoding.open_encoder(tokenizer_model, whole_word_mask, corpus["private"])
    require_space(text, output_file, rule, dupe_factor, whole_word_mask)
    if encoder.said:
        cli.say(encoder.said)

    agreed = {
        "stage": "prepare_train_data.py",
        "options": rule.options(dupe_factor, whole_word_mask),
        "seed": seed,
        "versions": files.versions(*encoder.packages, "numpy"),
        "tokenizer": encoder.vocabulary.facts(),
    }
    with open_work(output_file, agreed) as work:
        if not corpus["private"]:
            with files.subfolder(work.journal.folder, "look") as folder:
                for sample in samples.first_samples(text, encoder, folder, rule, whole_word_mask):
                    cli.say(sample)
        counts, read = encode(text, work.journal, encoder, max_seq_len, whole_word_mask, num_workers)
        if refused := why_no_samples(text, counts, objective):
            work.journal.clear()
            raise refused
        written, lengths, made = write(work, counts["sentences"], rule, dupe_factor, encoder.vocabulary, num_workers)
    out, found, seconds = work.out, samples.findings(rule, counts, written, lengths), time.monotonic() - started
    if out.path is not None:
        about = {"inputs": [read], "outputs": [out.describe()], "corpus": corpus}
        about["history"] = files.history(text, tokenization.record_folder(tokenizer_model))
        run = files.run_facts(filename=filename, tokenizer_model=tokenizer_model) | {"num_workers": num_workers}
        run["samples_per_second"] = round(made / seconds)
        files.write_record(out.path, agreed | about | found | {"run": run})
    report(text, out.path, found, rule, made, seconds)


if __name__ == "__main__":
    cli.run(main)
