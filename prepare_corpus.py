"""Stage 1: any text to train.txt, valid.txt and test.txt, filtered and split by document, with a report.

Reads texts (one sentence a line, a blank line after each document), with or without an index beside them, JSONL, and
folders of files, compressed or not; writes three texts, each with its index and its record, and the report, which
corpus.meta.json holds as a record and corpus.md for people to read:

    python3 prepare_corpus.py data/jawiki.txt --name jawiki --output_dir data
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from bert_ja import cli, corpus, documents, files
from bert_ja.documents import Reading
from bert_ja.filters import NONE, Filters
from bert_ja.inventory import Inventory

NAME_A_TEXT = "name a text with one sentence a line, like the data/jawiki.txt of extract_jawiki.py, a JSONL or a folder"
REPORT, SUMMARY = "corpus.meta.json", "corpus.md"
FILTERS = {"default": Filters(), "none": NONE}
DISK_PER_TEXT_BYTE = 1.5  # text and indexes 1.1; hashes 0.1 at 120 bytes a sentence, 0.4 at 30


def filter_checks(name: str, given: dict) -> dict[str, bool]:
    """What must hold for --filters and the options that say more of them."""
    low = [option for option in ("min_characters", "min_sentences") if given.get(option, 1) < 1]
    share = given.get("max_repeated", 0)
    options = ", ".join(f"--{option}" for option in given)
    return {
        f"--filters must be default or none, got {name}": name in FILTERS,
        f"--filters {name} leaves nothing to {options}: leave one or the other out": name != "none" or not given,
        **{f"--{option} must be 1 or more, got {given[option]}": False for option in low},
        f"--max_repeated must be from 0 to 1, got {share}": 0 <= share <= 1,
    }


def require_apart(path: Path, outputs: list[Path]) -> None:
    """Refuse an input that the outputs would replace, or would be part of."""
    folder = outputs[0].parent
    if path.is_dir() and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path)):
        raise cli.StageError(f"{folder} lies in {path}, which is read: name another --output_dir")
    written = [file for output in outputs for file in (output, documents.index_path(output), files.record_path(output))]
    written += [folder / REPORT, folder / SUMMARY]
    taken = {os.path.realpath(name) for file in written for name in (file, files.partial_path(file))}
    if taken & {os.path.realpath(path), os.path.realpath(documents.index_path(path))}:
        raise cli.StageError(f"{path} would be overwritten by {folder}: name another --output_dir")


def check(given: Sequence[str], reading: Reading, outputs: list[Path], options: dict[str, bool]) -> list[Path]:
    """Refuse what cannot work, `options` that do not hold included; the texts to read."""
    names = [documents.plain_path(path).name for path in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    cli.require(
        {
            "no text is named: prepare_corpus.py FILE... --name NAME": bool(given),
            "standard input cannot be read twice, as a corpus is: save it to a file first": "-" not in given,
            f"two files are called {', '.join(twice)}, and documents are named after their file: rename one": not twice,
        }
        | options
    )
    paths = [Path(path) for path in given]
    for output in [outputs[0].parent / SUMMARY, outputs[0].parent / REPORT, *outputs]:
        cli.require({f"{output} is a folder, where a file is to go: name another --output_dir": not output.is_dir()})
    for path in paths:
        require_apart(path, outputs)
        documents.require_documents(path, reading, NAME_A_TEXT)
    needed = DISK_PER_TEXT_BYTE * sum(map(documents.unpacked_size, paths))
    files.require_space(outputs[0].parent, int(needed), "the split text")
    return paths


def all_documents(paths: list[Path], reading: Reading, title: str) -> Iterator[tuple[dict, Iterator[str]]]:
    """The documents of all texts; of several texts each row says its source."""
    total = sum(map(documents.size, paths))
    with tqdm(total=total, unit="B", unit_scale=True, desc=title, delay=1) as progress:
        for path in paths:
            for row, sentences in documents.documents(path, reading, progress.update):
                yield row if len(paths) == 1 else row | {"source": row.get("source", path.name)}, sentences


def write_report(folder: Path, writers: list[documents.Writer], record: dict) -> None:
    """The summary, also to standard output, and the record of the whole corpus."""
    summary = corpus.summary(record)
    with files.output(folder / SUMMARY) as file:
        file.write(summary.encode())
    outputs = [described for writer in writers for described in writer.outputs()] + [file.describe()]
    files.write_record(folder, record | {"outputs": outputs}, REPORT)
    print(summary, end="", flush=True)


def prepare(
    paths: list[Path], reading: Reading, chosen: Filters, outputs: list[Path], work: Path, common: dict
) -> list[documents.Writer]:
    """Both passes over the texts, and what is said of them; the writers of the three parts."""
    folder, seed, asked = outputs[0].parent, common["seed"], common["options"]
    before, inventory = corpus.state(paths), Inventory(work)
    common["inputs"] = [documents.describe(file) for path in paths for file in documents.with_index(path)]
    inventory.take(all_documents(paths, reading, "reading"), chosen, seed)
    inventory.count_repeats(chosen.min_sentences)
    corpus.plan(inventory, chosen, asked["valid_sentences"], asked["test_sentences"])
    drawn = None if common["corpus"]["private"] else corpus.Drawn(inventory, seed)

    texts = ((text, documents.index_path(text)) for text in outputs)
    with contextlib.ExitStack() as records, documents.writers(*texts) as writers:
        removed = corpus.write(all_documents(paths, reading, "writing"), inventory, chosen, writers, drawn)
        if corpus.state(paths) != before:
            raise corpus.changed()
        report = corpus.report(writers, removed, chosen, inventory, drawn)
        run = {"run": files.run_facts(output_dir=folder)}
        for writer in writers:
            writer.sync()  # a full disk shows while the earlier corpus still has its report
        records.enter_context(cli.no_interrupt())
        for writer in writers:
            facts = common | {"outputs": writer.outputs(), "counts": writer.counts()} | run
            records.enter_context(files.record_around(writer.text.path, facts))
        for earlier in (REPORT, SUMMARY):
            (folder / earlier).unlink(missing_ok=True)
    write_report(folder, writers, common | report | run)
    return writers


def main(
    *text_files: str,
    name: str,
    output_dir: str = "data",
    valid_sentences: int | None = None,
    test_sentences: int | None = None,
    seed: int = 1000,
    split_sentences: bool = False,
    text_field: str = "text",
    id_field: str | None = None,
    filters: str = "default",
    min_characters: int | None = None,
    japanese_only: bool | None = None,
    min_sentences: int | None = None,
    max_repeated: float | None = None,
    private_corpus: bool | None = None,
    license: str | None = None,
    source: str | None = None,
) -> None:
    """Filter texts and split them by document into train, valid and test.

    Which part a document goes to depends on its id and the seed alone, so that two dumps of a wiki agree but for a
    few documents; their order stays that of the input. Lines are filtered first, then documents by what is left of
    them; the report counts what each filter removed.

    Args:
        text_files: Texts to read as one corpus, in UTF-8, also as .gz, .bz2, .xz or .zst. A text has one sentence a
            line and a blank line after each document; an index beside it (jawiki.index.jsonl of jawiki.txt) names
            its documents. A .jsonl has a document a row, a folder one a file.
        name: What the corpus is called in records, reports and the model card.
        output_dir: Folder for train.txt, valid.txt, test.txt, their indexes and records, and the report,
            corpus.meta.json and corpus.md.
        valid_sentences: Sentences that valid.txt holds at least. When not given, 500,000 as published if the corpus
            has 10 million or more after the filters, else 1 %.
        test_sentences: The same for test.txt.
        seed: Number that fixes, with a document's id, the part it goes to; another one gives another split.
        split_sentences: True for prose: each line is split into sentences.
        text_field: Field of a .jsonl that holds a document's text, a string or a list of strings.
        id_field: Field of a .jsonl that holds a document's id; without one it is the file's name and the row's number.
        filters: default for those below, none for no filter at all.
        min_characters: A line that is shorter goes; 3 when not given, which keeps はい。 and little that is shorter.
        japanese_only: A line without kana or kanji goes, unless this is False; True when not given.
        min_sentences: A document with fewer lines left goes; 2 when not given: one alone has no next sentence.
        max_repeated: A document goes when more than this share of its lines stood in earlier documents, as in articles
            that a program wrote; 0.5 when not given. What stays loses no line by it.
        private_corpus: True keeps every piece of the text out of the report, and out of what all later stages print
            and record; when not given, what the records of the texts say.
        license: Licence of the text, for the model card; when not given, what the records of the texts say.
        source: Where the text comes from, a name or an address, for the model card.
    """
    started = time.time()
    folder, private = Path(output_dir), corpus.is_private(list(map(Path, text_files)), private_corpus)
    reading = Reading(text_field, id_field, split_sentences, private)
    outputs = [folder / f"{part}.txt" for part in corpus.PARTS]
    values = dict(zip(Filters._fields, (min_characters, japanese_only, min_sentences, max_repeated), strict=True))
    given = {option: value for option, value in values.items() if value is not None}
    asked = {"valid_sentences": valid_sentences, "test_sentences": test_sentences}
    checks = {"--name is empty: give the corpus a name": bool(name.strip())}
    checks |= {f"--{key} must be 1 or more, got {value}": value is None or value >= 1 for key, value in asked.items()}
    paths = check(text_files, reading, outputs, checks | filter_checks(filters, given))
    chosen = FILTERS[filters]._replace(**given)
    common = {
        "stage": "prepare_corpus.py",
        "options": {"name": name, **asked, **reading._asdict(), **chosen._asdict()},
        "seed": seed,
        "versions": files.versions("numpy"),
        "corpus": corpus.origin(paths, name, license, source, private),
        "history": files.history(*filter(Path.is_file, paths)),
    }

    with files.work_folder(folder / REPORT) as work:  # holds off a second run until the records are written
        writers = prepare(paths, reading, chosen, outputs, work, common)
    said = ", ".join(f"{w.text.path.name} {w.sentences:,} ({w.documents:,})" for w in writers)
    cli.say(f"wrote sentences (documents) to {folder}: {said}, in {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.run(main)
