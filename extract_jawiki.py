"""Stage 1: a MediaWiki dump to clean text, one sentence a line, a blank line after each article.

Reads the .xml.bz2 files of a dump (classic, multistream or Content File Exports), plain XML, or either on standard
input; writes the text, its index (one JSON row an article) and a record; the same bytes for any number of workers:

    python3 extract_jawiki.py jawiki-20261101-pages-articles-multistream.xml.bz2 --output_file data/jawiki.txt
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from bert_ja import cli, documents, dumps, files, pages, sentences, wikitext, workers

PAGE_SECONDS = 5  # of CPU time; real pages take 0.3 at most
OUTPUT_PER_BYTE = {True: 2.5, False: 0.65}  # text and index per byte of bz2 (True) and XML; 315 real articles: 2.4, 0.6
KINDS = ("pages", "articles", "redirects", "other_namespaces", "empty", "failed")
FAILURES_SAID = 20
FAILURES_RECORDED = 1000


class Article(NamedTuple):
    row: dict  # of the index
    text: documents.Lines


class Extract(NamedTuple):
    """What became of some pages."""

    counts: Counter
    articles: list[Article]
    failures: list[dict]  # rows of the pages that failed, with their error


def kind(page: pages.Page) -> str | None:
    """Why a page is left out before it is looked into, None for one that may hold prose."""
    if page.namespace != 0:
        return "other_namespaces"
    if page.redirect or wikitext.is_redirect(page.text):
        return "redirects"
    return None if page.text.strip() else "empty"


def sentences_of(text: str) -> list[str]:
    """Clean wikitext and split it."""
    return [
        line
        for paragraph in wikitext.clean(text)
        for sentence in sentences.split(paragraph)
        for piece in sentences.cut(sentence)
        if (line := documents.tidy(piece)) and wikitext.HAS_WORD.search(line)
    ]


def extract(found: Iterable[pages.Page]) -> Extract:
    """Clean and split pages; what goes wrong in one stays with it."""
    counts, articles, failures = Counter(), [], []
    for page in found:
        counts["pages"] += 1
        if left_out := kind(page):
            counts[left_out] += 1
            continue
        row = {"id": page.id, "title": page.title, "revision": page.revision}
        try:
            with workers.cpu_limit(PAGE_SECONDS):
                text = documents.Lines.of(sentences_of(page.text))
        except MemoryError:
            raise
        except Exception as error:  # whatever it is, one page must not cost the other million
            counts["failed"] += 1
            failures.append(row | {"error": f"{type(error).__name__}: {error}"[:200]})
            continue
        counts["articles" if text.count else "empty"] += 1
        articles += [Article(row, text)] if text.count else []
    return Extract(counts, articles, failures)


def say_failures(failures: list[dict], said_before: int) -> None:
    for row in failures[: max(0, FAILURES_SAID - said_before)]:
        tqdm.write(f"skipped page {row['id']} {row['title']}: {row['error']}", file=sys.stderr)


def write(extracts: Iterable[Extract], writer: documents.Writer, progress: tqdm) -> tuple[Counter, list[dict]]:
    """Write every article that has a sentence; returns the counts and the pages that failed, for the record."""
    counts, failures = Counter(dict.fromkeys(KINDS, 0)), []
    for extracted in extracts:
        say_failures(extracted.failures, counts["failed"])
        failures += extracted.failures[: FAILURES_RECORDED - len(failures)]
        counts.update(extracted.counts)
        for article in extracted.articles:
            writer.write_lines(article.row, article.text)
        progress.set_postfix_str(f"{counts['pages']:,} pages", refresh=False)
    return counts, failures


def extracts_of(paths: list[Path], num_workers: int, progress: tqdm, inputs: list[dict]) -> Iterator[Extract]:
    """What all files hold, in page order; `inputs` gets a description of each file once it was read."""
    seen = pages.Seen()
    for path in paths:
        with contextlib.closing(pages.DumpFile(path, progress.update)) as dump:
            yield from pages.map_pages(extract, dump, num_workers, seen)
            inputs.append(dump.describe())


def check(paths: tuple[str, ...], text: Path, index: Path, num_workers: int | None) -> tuple[list[Path], int | None]:
    """Refuse what cannot work; the dump's files in page order and their size, None where it is not known."""
    cli.require(
        {
            "no dump is named: extract_jawiki.py FILE... (- is standard input)": bool(paths),
            f"--num_workers must be 1 or more, got {num_workers}": num_workers is None or num_workers >= 1,
            f"--index_file and --output_file are both {text}: give the index another name": index != text,
            "standard input is a terminal: pipe a dump into it": "-" not in paths or not sys.stdin.isatty(),
        }
    )
    inputs = dumps.dump_files(paths)
    for path in inputs:
        if path.resolve() in (text.resolve(), index.resolve()):
            raise cli.StageError(f"{path} is both input and output: name another --output_file")
    sizes = [path.stat().st_size if path.is_file() else None for path in inputs]
    per_byte = [OUTPUT_PER_BYTE[path.suffix == ".bz2"] for path in inputs]
    needed = sum((size or 0) * ratio for size, ratio in zip(sizes, per_byte, strict=True))
    files.require_space(text.parent, int(needed), "the extracted text")
    return inputs, None if None in sizes else sum(sizes)


def record(
    paths: list[Path], inputs: list[dict], writer: documents.Writer, counts: Counter, failures: list[dict]
) -> dict:
    """What the record of the text says, but for the run."""
    return {
        "stage": "extract_jawiki.py",
        "options": {},
        "seed": None,
        "versions": files.versions(),
        "inputs": inputs,
        "outputs": writer.outputs(),
        "counts": {**counts, "sentences": writer.sentences, "characters": writer.characters},
        "failed_pages": failures,
        "corpus": {"name": None, "license": None, "source": None, "dump": dumps.facts(paths, inputs)},
        "history": files.history(*filter(Path.is_file, paths)),
    }


def main(
    *dump_files: str,
    output_file: str = "data/jawiki.txt",
    index_file: str | None = None,
    num_workers: int | None = None,
) -> None:
    """Extract clean sentences from a MediaWiki dump.

    Every article of the main namespace with a sentence in it is kept; redirects and empty pages are not. A page that
    takes more than 5 CPU seconds is skipped and named.

    Args:
        dump_files: Files of one dump, .xml.bz2 or .xml, or - for standard input. Parts (pXpY) are put into page order;
            multistream indexes and checksum lists among them are passed over.
        output_file: Text to write: one sentence a line, a blank line after each article.
        index_file: Index to write, one JSON row an article with id, title, revision and its lines; when not given,
            output_file's name with .index.jsonl, where prepare_corpus.py looks for it.
        num_workers: Processes that unpack and clean pages, beside the one that reads and writes; with 1, one process
            does all. When not given, one for each core. The output does not depend on it.
    """
    started = time.time()
    text = Path(output_file)
    cli.require({f"{text} is a folder, --output_file must name a file": not text.is_dir()})
    index = Path(index_file) if index_file is not None else documents.index_path(text)
    paths, size = check(dump_files, text, index, num_workers)
    num_workers = num_workers or workers.available_cores()
    inputs: list[dict] = []

    with (
        tqdm(total=size, unit="B", unit_scale=True, desc="extracting", delay=1) as progress,
        contextlib.ExitStack() as records,
        documents.writers((text, index)) as (writer,),
    ):
        with contextlib.closing(extracts_of(paths, num_workers, progress, inputs)) as extracts:
            counts, failures = write(extracts, writer, progress)
        if not writer.documents:
            raise cli.StageError(
                f"{inputs[0]['name']} has no article with a sentence ({counts['pages']:,} pages, "
                f"{counts['failed']:,} failed): name a pages-articles dump of a wiki"
            )
        run = files.run_facts(output_file=text, index_file=index) | {"num_workers": num_workers}
        writer.sync()
        records.enter_context(cli.no_interrupt())
        facts = record(paths, inputs, writer, counts, failures) | {"run": run}
        records.enter_context(files.record_around(text, facts))
    cli.say(
        f"wrote {writer.sentences:,} sentences of {counts['articles']:,} articles to {text} "
        f"({counts['pages']:,} pages; left out: {counts['other_namespaces']:,} of other namespaces, "
        f"{counts['redirects']:,} redirects, {counts['empty']:,} without a sentence, {counts['failed']:,} failed) "
        f"in {time.time() - started:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
