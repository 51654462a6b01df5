"""Stage 1: a MediaWiki dump to clean text, one sentence a line, a blank line after each article.

Reads the .xml.bz2 files of a dump (classic or Content File Exports) or plain XML; writes the text, its index (one
JSON row an article) and a record; the same bytes for any number of workers:

    python3 extract_jawiki.py jawiki-20261101-pages-articles-multistream.xml.bz2 --output_file data/jawiki.txt
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from bert_ja import cli, documents, dumps, files, sentences, wikitext, workers

BATCH = 200_000  # characters of wikitext that a worker takes at once, about 20 articles
OUTPUT_PER_BYTE = {True: 2.5, False: 0.65}  # text and index per byte of bz2 (True) and XML; 315 real articles: 2.4, 0.6
KINDS = ("pages", "articles", "redirects", "other_namespaces", "empty", "failed")
FAILURES_SAID = 20
FAILURES_RECORDED = 1000


class Extract(NamedTuple):
    """What became of a page: its index row and sentences, and why there are none if it failed."""

    row: dict
    sentences: list[str]
    failure: str | None = None


def extract(page: dumps.Page) -> Extract:
    """Clean and split one page; what goes wrong in it stays with it."""
    row = {"id": page.id, "title": page.title, "revision": page.revision}
    try:
        found = [
            line
            for paragraph in wikitext.clean(page.text)
            for sentence in sentences.split(paragraph)
            for piece in sentences.cut(sentence)
            if (line := documents.tidy(piece))
        ]
    except Exception as error:  # whatever it is, one page must not cost the other million
        return Extract(row, [], f"{type(error).__name__}: {error}"[:200])
    return Extract(row, found)


def extract_batch(pages: list[dumps.Page]) -> list[Extract]:
    return [extract(page) for page in pages]


def with_prose(pages: Iterable[dumps.Page], counts: Counter) -> Iterator[dumps.Page]:
    """The pages worth a worker's time; the others are counted by their kind."""
    for page in pages:
        counts["pages"] += 1
        if page.namespace != 0:
            counts["other_namespaces"] += 1
        elif page.redirect or wikitext.is_redirect(page.text):
            counts["redirects"] += 1
        elif not page.text.strip():
            counts["empty"] += 1
        else:
            yield page


def batches(pages: Iterable[dumps.Page]) -> Iterator[list[dumps.Page]]:
    """Lists of pages with BATCH characters of wikitext or a little more."""
    batch, size = [], 0
    for page in pages:
        batch.append(page)
        size += len(page.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_articles(extracts: Iterable[Extract], writer: documents.Writer, counts: Counter) -> list[dict]:
    """Write every article that has a sentence; the pages that failed, for the record."""
    failures: list[dict] = []
    for row, found, failure in extracts:
        if failure is not None:
            counts["failed"] += 1
            if len(failures) < FAILURES_RECORDED:
                failures.append(row | {"error": failure})
            if counts["failed"] <= FAILURES_SAID:
                tqdm.write(f"skipped page {row['id']} {row['title']}: {failure}", file=sys.stderr)
        elif found:
            counts["articles"] += 1
            writer.write(row, found)
        else:
            counts["empty"] += 1
    return failures


def read(paths: list[Path], counts: Counter, progress: tqdm) -> Iterator[dumps.Page]:
    """The pages worth extracting, with the progress bar kept up to date."""
    for page in with_prose(dumps.pages(paths, progress.update), counts):
        progress.set_postfix_str(f"{counts['pages']:,} pages", refresh=False)
        yield page


def check(paths: tuple[str, ...], text: Path, index: Path, num_workers: int) -> list[Path]:
    """Refuse what cannot work; the dump's files in page order."""
    cli.require(
        {
            "no dump is named: extract_jawiki.py FILE...": bool(paths),
            f"--num_workers must be 1 or more, got {num_workers}": num_workers >= 1,
            f"--index_file and --output_file are both {text}: give the index another name": index != text,
        }
    )
    inputs = dumps.dump_files(paths)
    for path in inputs:
        if not path.is_file():
            raise cli.StageError(f"{path} is not a regular file, and a dump is read twice: save it to a file first")
        if path.resolve() in (text.resolve(), index.resolve()):
            raise cli.StageError(f"{path} is both input and output: name another --output_file")
    needed = sum(path.stat().st_size * OUTPUT_PER_BYTE[path.suffix == ".bz2"] for path in inputs)
    files.require_space(text.parent, int(needed), "the extracted text")
    return inputs


def main(
    *dump_files: str,
    output_file: str = "data/jawiki.txt",
    index_file: str | None = None,
    num_workers: int = 1,
) -> None:
    """Extract clean sentences from a MediaWiki dump.

    Every article of the main namespace with a sentence in it is kept; redirects and empty pages are not.

    Args:
        dump_files: Files of one dump, .xml.bz2 or .xml. Parts (pXpY) are put into page order; multistream indexes
            and checksum lists among them are passed over.
        output_file: Text to write: one sentence a line, a blank line after each article.
        index_file: Index to write, one JSON row an article with id, title, revision and its lines; when not given,
            output_file's name with .index.jsonl, where prepare_corpus.py looks for it.
        num_workers: Processes that clean pages, beside the one that reads the dump; with 1, one process does both.
            The output does not depend on it.
    """
    started = time.time()
    text = Path(output_file)
    cli.require({f"{text} is a folder, --output_file must name a file": not text.is_dir()})
    index = Path(index_file) if index_file is not None else documents.index_path(text)
    paths = check(dump_files, text, index, num_workers)
    inputs = [files.describe(path) for path in paths]
    counts = Counter(dict.fromkeys(KINDS, 0))

    size = sum(described["size"] for described in inputs)
    with (
        tqdm(total=size, unit="B", unit_scale=True, desc="extracting", delay=1) as progress,
        documents.writers((text, index)) as (writer,),
    ):
        done = workers.ordered_map(extract_batch, batches(read(paths, counts, progress)), num_workers)
        failures = write_articles((extract for batch in done for extract in batch), writer, counts)
        if not writer.documents:
            raise cli.StageError(
                f"{paths[0]} has no article with a sentence ({counts['pages']:,} pages, {counts['failed']:,} failed): "
                "name a pages-articles dump of a wiki"
            )

    record = {
        "stage": "extract_jawiki.py",
        "options": {},
        "seed": None,
        "versions": files.versions(),
        "inputs": inputs,
        "outputs": writer.outputs(),
        "counts": {**counts, "sentences": writer.sentences, "characters": writer.characters},
        "failed_pages": failures,
        "corpus": {"name": None, "license": None, "source": None, "dump": dumps.facts(paths, inputs)},
        "run": files.run_facts(output_file=text, index_file=index) | {"num_workers": num_workers},
    }
    files.write_record(text, record)
    cli.say(
        f"wrote {writer.sentences:,} sentences of {counts['articles']:,} articles to {text} "
        f"({counts['pages']:,} pages; left out: {counts['other_namespaces']:,} of other namespaces, "
        f"{counts['redirects']:,} redirects, {counts['empty']:,} without a sentence, {counts['failed']:,} failed) "
        f"in {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
