"""Stage 1: texts to train.txt, valid.txt and test.txt, split by document, and a report.

Reads texts (one sentence a line, a blank line after each document; .gz, .bz2 and .xz too), with or without an index
beside them; writes three texts, each with its index and its record, and corpus.meta.json, the report:

    python3 prepare_corpus.py data/jawiki.txt --name jawiki --output_dir data
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from bert_ja import cli, corpus, documents, files

NAME_A_TEXT = "name a text with one sentence a line, like the data/jawiki.txt of extract_jawiki.py"
REPORT = "corpus.meta.json"
TEXT_PER_PACKED_BYTE = 8  # of .gz, .bz2 and .xz, at most


def check(files_given: Sequence[str], outputs: list[Path], valid: int | None, test: int | None) -> list[Path]:
    """Refuse what cannot work; the texts to read."""
    names = [documents.plain_path(path).name for path in files_given]
    twice = sorted({name for name in names if names.count(name) > 1})
    cli.require(
        {
            "no text is named: prepare_corpus.py FILE... --name NAME": bool(files_given),
            f"two files are called {', '.join(twice)}, and documents are named after their file: rename one": not twice,
            f"--valid_sentences must be 1 or more, got {valid}": valid is None or valid >= 1,
            f"--test_sentences must be 1 or more, got {test}": test is None or test >= 1,
        }
    )
    taken = {path.resolve() for output in outputs for path in (output, documents.index_path(output))}
    for path in map(Path, files_given):
        files.require_file(path, NAME_A_TEXT)
        if not path.is_file():
            raise cli.StageError(f"{path} is not a regular file, and a corpus is read twice: save it to a file first")
        if taken & {path.resolve(), documents.index_path(path).resolve()}:
            raise cli.StageError(f"{path} would be overwritten by {outputs[0].parent}: name another --output_dir")
        documents.require_text(path, NAME_A_TEXT)
    return [Path(path) for path in files_given]


def unpacked_size(path: Path) -> int:
    """About how many bytes of text a file holds."""
    return path.stat().st_size * (TEXT_PER_PACKED_BYTE if documents.is_compressed(path) else 1)


def origin(paths: list[Path], name: str, license: str | None, source: str | None) -> dict:
    """What later stages say of the corpus: options first, then what the records of the inputs say."""
    known = [facts for path in paths if (facts := files.corpus_of(path))]

    def carried(key: str) -> str | None:
        return "; ".join(dict.fromkeys(facts[key] for facts in known if facts.get(key))) or None

    found = [facts["dump"] for facts in known if facts.get("dump")]
    return {
        "name": name,
        "license": license or carried("license"),
        "source": source or carried("source"),
        "dump": found[0] if found else None,
    }


def all_documents(paths: list[Path]) -> Iterator[tuple[dict, Iterator[str]]]:
    """The documents of all texts; of several texts each row says its source."""
    for path in paths:
        for row, sentences in documents.documents(path):
            yield row if len(paths) == 1 else row | {"source": row.get("source", path.name)}, sentences


def write_records(folder: Path, writers: list[documents.Writer], common: dict) -> None:
    """The record of each text, then the report on all."""
    run = {"run": files.run_facts(output_dir=folder)}
    for writer in writers:
        files.write_record(writer.text.path, common | {"outputs": writer.outputs(), "counts": writer.counts()} | run)
    outputs = [described for writer in writers for described in writer.outputs()]
    parts = {
        part: writer.counts() | {"sentences_by_characters": writer.length_histogram()}
        for part, writer in zip(corpus.PARTS, writers, strict=True)
    }
    files.write_record(folder, common | {"outputs": outputs, "parts": parts} | run, REPORT)


def main(
    *text_files: str,
    name: str,
    output_dir: str = "data",
    valid_sentences: int | None = None,
    test_sentences: int | None = None,
    seed: int = 1000,
    license: str | None = None,
    source: str | None = None,
) -> None:
    """Split texts by document into train, valid and test.

    Which part a document goes to depends on its id and the seed alone, so that two dumps of a wiki agree but for a
    few documents; their order stays that of the input.

    Args:
        text_files: Texts to read as one corpus: UTF-8, one sentence a line, a blank line after each document. An
            index beside a text (jawiki.index.jsonl of jawiki.txt) names its documents; without one a document's id
            is the file's name and its number.
        name: What the corpus is called in records, reports and the model card.
        output_dir: Folder for train.txt, valid.txt, test.txt, their indexes and records, and corpus.meta.json.
        valid_sentences: Sentences that valid.txt holds at least. When not given, 500,000 as published if the corpus
            has 10 million or more, else 1 %.
        test_sentences: The same for test.txt.
        seed: Number that fixes, with a document's id, the part it goes to; another one gives another split.
        license: Licence of the text, for the model card; when not given, what the records of the texts say.
        source: Where the text comes from, a name or an address, for the model card.
    """
    started = time.time()
    folder = Path(output_dir)
    outputs = [folder / f"{part}.txt" for part in corpus.PARTS]
    paths = check(text_files, outputs, valid_sentences, test_sentences)
    files.require_space(folder, int(1.1 * sum(map(unpacked_size, paths))), "the split text")
    about = origin(paths, name, license, source)
    inputs = [files.describe(path) for path in paths]
    with tqdm(unit=" documents", desc="reading", delay=1) as progress:
        keys, counts = corpus.take_inventory(paths, seed, progress.update)
    parts = corpus.split(keys, counts, valid_sentences, test_sentences)

    with documents.writers(*((text, documents.index_path(text)) for text in outputs)) as writers:
        progress = tqdm(all_documents(paths), total=len(parts), unit=" documents", desc="splitting", delay=1)
        for part, (row, sentences) in zip(parts, progress, strict=True):
            writers[part].write(row, sentences)
        (folder / REPORT).unlink(missing_ok=True)  # the one of an earlier corpus

    common = {
        "stage": "prepare_corpus.py",
        "options": {"name": name, "valid_sentences": valid_sentences, "test_sentences": test_sentences},
        "seed": seed,
        "versions": files.versions("numpy"),
        "inputs": inputs,
        "corpus": about,
    }
    write_records(folder, writers, common)
    said = ", ".join(f"{w.text.path.name} {w.sentences:,} ({w.documents:,})" for w in writers)
    cli.say(f"wrote sentences (documents) to {folder}: {said}, in {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.run(main)
