"""Stage 3: text to next-sentence samples as JSON lines, the same bytes for any number of workers.

Reads a text (one sentence a line, a blank line after each document) and the tokenizer folder of train_tokenizer.py;
writes one JSON object a sample (data/README.md), to standard output or --output_file, and a record beside the file:

    python3 prepare_train_data.py --filename data/train.txt --get_raw False > data/train.jsonl
"""

import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from bert_ja import cli, files, samples, tokenization
from bert_ja.masking import MaskingRule

SHORTEST_SAMPLE, LONGEST_SAMPLE = 8, 65_536  # tokens: [CLS] A [SEP] B [SEP] with something in A and B
DISK_PER_TEXT_BYTE = {False: 6.0, True: 8.0}  # columns + JSON; 4.0 and 5.7 were measured with 4,000 pieces


def check(
    filename: str, output_file: str | None, max_seq_len: int, buffer_size: int, num_workers: int, rule: MaskingRule
) -> Path:
    """Refuse what cannot work; the path of the text."""
    random = rule.random_replace_prob
    length_fits = SHORTEST_SAMPLE <= max_seq_len <= LONGEST_SAMPLE
    cli.require(
        {
            f"--max_seq_len must be from {SHORTEST_SAMPLE} to {LONGEST_SAMPLE:,}, got {max_seq_len}": length_fits,
            f"--buffer_size must be 1 or more, got {buffer_size}": buffer_size >= 1,
            f"--num_workers must be 1 or more, got {num_workers}": num_workers >= 1,
            f"--mlm_probability must lie between 0 and 1, got {rule.mlm_probability}": 0 < rule.mlm_probability < 1,
            "--mask_replace_prob and --random_replace_prob must be 0 or more and 1 or less together, "
            f"got {rule.mask_replace_prob} and {random}": min(rule.mask_replace_prob, random) >= 0
            and rule.mask_replace_prob + random <= 1 + 1e-9,
        }
    )
    text = Path(filename)
    if text.exists() and not text.is_file() and not text.is_dir():
        raise cli.StageError(f"{text} is not a regular file: save the text to a file first")
    text = files.require_text(text, "make it with get_jawiki.sh, or name your own text with --filename")
    if output_file and os.path.exists(output_file) and os.path.samefile(text, output_file):
        raise cli.StageError(f"--output_file {output_file} is the text itself: name another file")
    return text


def open_output(output_file: str | None) -> contextlib.AbstractContextManager[files.Output]:
    """--output_file, or standard output unless that is a terminal."""
    if output_file is not None:
        return files.output(output_file)
    if sys.stdout.isatty():
        raise cli.StageError("samples would fill the terminal: add > data/train.jsonl, or pass --output_file")
    return files.standard_output()


def encode(text: Path, folder: Path, tokenizer_model: str, max_seq_len: int, num_workers: int) -> tuple[dict, dict]:
    """Encode the text into columns in `folder`: (counts, the text's description for the record)."""
    read = files.Output(open(os.devnull, "wb"), text)  # counts and hashes the bytes on their way
    with tqdm(total=text.stat().st_size, unit="B", unit_scale=True, desc="encoding", delay=1) as progress:

        def on_bytes(block: bytes) -> None:
            read.write(block)
            progress.update(len(block))

        counts = samples.encode_text(text, tokenizer_model, folder, max_seq_len, num_workers, on_bytes)
    return counts, read.describe()


def require_pairs(text: Path, counts: dict) -> None:
    if counts["sentences"] == counts["documents"]:
        raise cli.StageError(
            f"{text} has no document of two sentences or more ({counts['sentences']:,} sentences, "
            f"{counts['documents']:,} documents): a document's lines must stand together, with a blank line after them"
        )
    if counts["documents"] == 1:
        cli.say(
            f"warning: {text} is one document (no blank lines): random sentences are drawn from the document itself"
        )


def write_samples(out: files.Output, folder: Path, counts: dict, rule: samples.PairRule, num_workers: int) -> Counter:
    """Write all samples; their counts, with the longest in tokens."""
    total, longest = Counter(), 0
    pairs = counts["sentences"] - counts["documents"]
    blocks = samples.sample_blocks(folder, counts["sentences"], rule, num_workers)
    with (
        contextlib.closing(blocks),
        tqdm(total=pairs, unit=" samples", unit_scale=True, desc="writing", delay=1) as progress,
    ):
        for block in blocks:
            out.write(block.lines)
            total.update(block.counts)
            longest = max(longest, block.longest)
            progress.update(block.counts["samples"])
    total["longest_sample"] = longest
    return total


def record(
    rule: samples.PairRule, inputs: list[dict], outputs: list[dict], counts: dict, written: Counter, corpus: dict
) -> dict:
    """The record of a JSONL, but for its field `run`."""
    options = {"max_seq_len": rule.max_seq_len, "buffer_size": rule.buffer_size, "get_raw": rule.masked}
    return {
        "stage": "prepare_train_data.py",
        "options": options | (vars(rule.masking) if rule.masked else {}),
        "seed": rule.seed,
        "versions": files.versions("sentencepiece", "numpy"),
        "inputs": inputs,
        "outputs": outputs,
        "counts": counts | {name: written[name] for name in sorted(written)},
        "tokenizer": rule.vocabulary.facts(),
        "longest_sample": written["longest_sample"],
        "corpus": corpus,
    }


def main(
    filename: str,
    buffer_size: int = 10000,
    tokenizer_model: str = "output/model",
    max_seq_len: int = 512,
    seed: int = 1000,
    get_raw: bool = False,
    output_file: str | None = None,
    num_workers: int | None = None,
    mlm_probability: float = 0.15,
    mask_replace_prob: float = 0.8,
    random_replace_prob: float = 0.1,
    private_corpus: bool | None = None,
) -> None:
    """Turn a text into next-sentence samples, one JSON object a line.

    Args:
        filename: Text to read: UTF-8, one sentence a line, a blank line after each document.
        buffer_size: How many sentences away from A, on both sides, a random sentence B may stand.
        tokenizer_model: Folder of the tokenizer that train_tokenizer.py wrote.
        max_seq_len: Longest sample in tokens, [CLS] and both [SEP] included; a longer pair is cut on its longer side.
        seed: Number that fixes which pairs are random and which tokens are masked.
        get_raw: True masks each sample once and for all and stores its labels, as valid and test data need it;
            False stores plain samples, which the trainer masks anew each time it draws them.
        output_file: File to write instead of standard output.
        num_workers: Worker processes; one for each core when not given. The output does not depend on it.
        mlm_probability: Share of a sample's tokens that are selected, with --get_raw True.
        mask_replace_prob: Share of the selected tokens that become [MASK].
        random_replace_prob: Share of the selected tokens that become a random token; the others stay.
        private_corpus: True keeps every piece of the text out of what this and all later stages print and record;
            when not given, what the record of the text, or of the tokenizer, says.
    """
    started = time.time()
    num_workers = num_workers if num_workers is not None else len(os.sched_getaffinity(0))
    masking = MaskingRule(mlm_probability, mask_replace_prob, random_replace_prob)
    text = check(filename, output_file, max_seq_len, buffer_size, num_workers, masking)
    vocabulary = tokenization.vocabulary(tokenizer_model)
    corpus = files.corpus_of(text, tokenization.record_folder(tokenizer_model), private=private_corpus)
    destination = Path(output_file) if output_file else files.stdout_file()
    files.require_space(
        destination.parent if destination else tempfile.gettempdir(),
        int(text.stat().st_size * DISK_PER_TEXT_BYTE[get_raw]),
        "this stage",
    )
    rule = samples.PairRule(max_seq_len, buffer_size, seed, get_raw, vocabulary, masking)

    with open_output(output_file) as out, files.work_folder(out.path) as folder:
        counts, read = encode(text, folder, tokenizer_model, max_seq_len, num_workers)
        require_pairs(text, counts)
        written = write_samples(out, folder, counts, rule, num_workers)

    if out.path is not None:
        paths = files.run_facts(filename=filename, tokenizer_model=tokenizer_model) | {"num_workers": num_workers}
        files.write_record(out.path, record(rule, [read], [out.describe()], counts, written, corpus) | {"run": paths})
    cli.say(
        f"wrote {written['samples']:,} samples, {written['tokens'] / written['samples']:.1f} tokens on average "
        f"({counts['documents']:,} documents, {written['random_pairs'] / written['samples']:.1%} random pairs, "
        f"{written['cut_pairs']:,} cut to {max_seq_len}), to {out.path or 'standard output'} "
        f"in {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
