"""How fast and how clean is extract_jawiki.py, beside wikiextractor 3.1.0 on the same file?

Repeats the pages of a dump under new ids, runs both programs on them in turn, counts the faults in what both make of
the pages as they are, and prints a table. wikiextractor is AGPL: it is only run, from an environment of its own.

    python3 bench/bench_extract.py jawiki-pages-articles.xml.bz2 --output_file bench/results/extract.json
"""

import bz2
import datetime
import html
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import quality, runs
from bert_ja import cli, files

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data/sample/jawiki-sample-pages-articles.xml"
WIKIEXTRACTOR = "3.1.0"
STREAM = 100  # pages in a bz2 stream, as Wikimedia writes multistream dumps
FULL_DUMP = 16_500  # MB of XML in a dump of jawiki, late 2026
CORES = (2, 16)
DISK = 3_000_000  # bytes for each MB of XML: two files of 0.25, five outputs of about 0.5
CASES_SHOWN = 20

ID = re.compile(r"<id>\d+</id>")
PAGE = re.compile(r"[ \t]*<page>.*?</page>\n?", re.DOTALL)
REDIRECT = re.compile(r"\s*[#＃](?:redirect|転送)", re.IGNORECASE)


# The file that both programs read


class Dump(NamedTuple):
    head: str
    pages: list[str]  # <page> elements as they are written
    tail: str


def read_dump(paths: list[Path]) -> Dump:
    """The XML of dump files, compressed or not, all of it in memory; head and tail are those of the first file."""
    texts = []
    for path in paths:
        data = files.require_file(path, "name the files of a dump").read_bytes()
        texts.append((bz2.decompress(data) if data.startswith(b"BZh") else data).decode())
    pages = [PAGE.findall(text) for text in texts]
    if not all(pages):
        raise cli.StageError(f"{paths[pages.index([])]} has no <page>: name the files of a pages-articles dump")
    return Dump(texts[0].partition(pages[0][0])[0], sum(pages, []), texts[0].rpartition(pages[0][-1])[2])


def repeated(pages: list[str], times: int) -> Iterator[str]:
    """The pages `times` over, numbered from 1 on; nothing else in them changes."""
    numbers = count(1)
    for _ in range(times):
        for page in pages:
            yield ID.sub(f"<id>{next(numbers)}</id>", page, count=1)


def parts(dump: Dump, times: int) -> Iterator[bytes]:
    """What stands in a bz2 stream each of a multistream dump: the head, STREAM pages at a time, the tail."""
    yield dump.head.encode()
    pages = repeated(dump.pages, times)
    while batch := list(islice(pages, STREAM)):
        yield "".join(batch).encode()
    yield dump.tail.encode()


def write_multistream(path: Path, dump: Dump, times: int) -> int:
    """Write a multistream dump; the bytes of XML in it."""
    size = 0
    with open(path, "wb") as file:
        for part in parts(dump, times):
            file.write(bz2.compress(part))
            size += len(part)
    return size


def write_single_stream(path: Path, dump: Dump, times: int) -> None:
    with bz2.open(path, "wb") as file:
        file.writelines(parts(dump, times))


# The programs


def install_wikiextractor(folder: Path) -> Path:
    """The program in its environment, which is made where it is missing."""
    program = folder / "bin/wikiextractor"
    if not program.exists():
        cli.say(f"installing wikiextractor {WIKIEXTRACTOR} into {folder}")
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", folder], [*pip, f"wikiextractor=={WIKIEXTRACTOR}"]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise cli.StageError(
                    f"wikiextractor {WIKIEXTRACTOR} cannot be installed into {folder} "
                    f"({runs.last_line(done.stderr)}): name an environment that has it with --wikiextractor_venv"
                )
    found = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    if found != f"wikiextractor {WIKIEXTRACTOR}":
        raise cli.StageError(
            f"{program} is {found or 'broken'}, not version {WIKIEXTRACTOR}: name another --wikiextractor_venv"
        )
    return program


def ours(dump: Path, output: Path, num_workers: int) -> list[str]:
    script = [sys.executable, str(ROOT / "extract_jawiki.py"), str(dump), "--num_workers", str(num_workers)]
    return [*script, "--output_file", str(output / "text.txt"), "--index_file", str(output / "index.jsonl")]


def theirs(program: Path, dump: Path, output: Path, *options: str) -> list[str]:
    return [str(program), str(dump), "--no-templates", "--processes", "1", "-q", *options, "-o", str(output)]


# Quality, on the pages as they are


def articles(pages: list[str]) -> list[quality.Page]:
    """The pages of the main namespace that are no redirects, each under its number in the dump."""
    found = []
    for number, element in enumerate(map(ElementTree.fromstring, pages), 1):
        text = element.findtext("revision/text") or ""
        if element.findtext("ns") in (None, "0") and element.find("redirect") is None and not REDIRECT.match(text):
            found.append(quality.Page(number, element.findtext("title") or "", text))
    return found


def our_texts(output: Path) -> dict[int, str]:
    """{page: its sentences, one a line} of a text and its index."""
    lines = (output / "text.txt").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(row) for row in open(output / "index.jsonl", encoding="utf-8")]
    return {row["id"]: "\n".join(lines[row["first_line"] : row["first_line"] + row["lines"]]) for row in rows}


def their_texts(output: Path) -> dict[int, str]:
    """{page: its text} of wikiextractor's --json, which writes & < > as entities: they are taken back once."""
    rows = [json.loads(row) for path in sorted(output.rglob("wiki_*")) for row in open(path, encoding="utf-8")]
    return {int(row["id"]): html.unescape(row["text"]) for row in rows}


def measure_quality(folder: Path, dump: Dump, wikiextractor: Path) -> tuple[dict, dict[str, list[quality.Case]]]:
    """({tool: its figures}, {tool: each fault})."""
    path, our_output, their_output = folder / "pages.xml.bz2", folder / "outputs/pages", folder / "outputs/their_pages"
    write_multistream(path, dump, 1)
    runs.measure(ours(path, our_output, 1), our_output)
    runs.measure(theirs(wikiextractor, path, their_output, "--json"), their_output)
    pages = articles(dump.pages)
    texts = {"ours": our_texts(our_output), "wikiextractor": their_texts(their_output)}
    counted = {tool: quality.count(pages, text) for tool, text in texts.items()}
    figures = {tool: found for tool, (found, _) in counted.items()}
    return {"articles": len(pages), **figures}, {tool: cases for tool, (_, cases) in counted.items()}


# Speed, on the repeated pages


def require_same_text(outputs: list[Path]) -> None:
    """A speed counts only if the same text came out of every run of ours."""
    if len({files.sha256(output / "text.txt") for output in outputs}) > 1:
        raise cli.StageError("extract_jawiki.py wrote different texts with 1 and 2 workers: mend that first")


def measure_speed(folder: Path, dump: Dump, times: int, wikiextractor: Path, rounds: int) -> tuple[float, dict]:
    """(MB of XML in the file, {name of a run: its command, its medians, each measurement}), all runs in turn."""
    multistream, single = folder / "multistream.xml.bz2", folder / "single-stream.xml.bz2"
    megabytes = round(write_multistream(multistream, dump, times) / 1e6, 3)
    write_single_stream(single, dump, times)
    names = ("ours", "wikiextractor", "ours_2_workers", "ours_single_stream", "ours_single_stream_2_workers")
    outputs = {name: folder / "outputs" / name for name in names}
    commands = {
        "ours": ours(multistream, outputs["ours"], 1),
        "wikiextractor": theirs(wikiextractor, multistream, outputs["wikiextractor"]),
        "ours_2_workers": ours(multistream, outputs["ours_2_workers"], 2),
        "ours_single_stream": ours(single, outputs["ours_single_stream"], 1),
        "ours_single_stream_2_workers": ours(single, outputs["ours_single_stream_2_workers"], 2),
    }
    measured = runs.interleaved(commands, outputs, rounds)
    require_same_text([output for name, output in outputs.items() if name != "wikiextractor"])
    return megabytes, {
        name: {"command": runs.as_typed(commands[name]), "median": rated(each, megabytes), "each": each}
        for name, each in measured.items()
    }


def rated(each: list[dict], megabytes: float) -> dict:
    """The medians of runs on `megabytes` of XML, and the rate that follows from the CPU time."""
    median = runs.medians(each)
    return median | {"megabytes_per_cpu_second": round(megabytes / median["cpu_seconds"], 3)}


def ratios(measured: dict) -> dict:
    each = {name: run["each"] for name, run in measured.items()}
    one, two = "ours_single_stream", "ours_single_stream_2_workers"
    return {
        "rate_of_ours_to_wikiextractor": runs.ratio(each["wikiextractor"], each["ours"], "cpu_seconds"),
        "speedup_of_2_workers": runs.ratio(each["ours"], each["ours_2_workers"], "seconds"),
        "speedup_of_2_workers_single_stream": runs.ratio(each[one], each[two], "seconds"),
    }


# What follows from the figures


def projection(run: dict, megabytes: float) -> dict:
    """How long FULL_DUMP MB take, from the medians of a run with 2 workers on `megabytes` of XML.

    The cores share all CPU time; what the parent does (cut the file, write the text) only one of them can do.
    """
    total, parent = run["cpu_seconds"] / megabytes, run["parent_cpu_seconds"] / megabytes
    wall = run["seconds"] / megabytes
    sums = {
        f"{cores}_cores": (max(total / cores, parent), f"max({total:.5f} / {cores}, {parent:.5f}) s/MB of CPU time")
        for cores in CORES
    }
    sums["2_workers_as_measured"] = (wall, f"{wall:.5f} s/MB of wall time")
    return {
        "xml_megabytes": FULL_DUMP,
        "cpu_seconds_per_megabyte": round(total, 5),
        "parent_cpu_seconds_per_megabyte": round(parent, 5),
        "assumes": "as many workers as cores, each core as fast as those here, and a disk that keeps up",
    } | {
        name: {
            "minutes": round(FULL_DUMP * rate / 60, 1),
            "arithmetic": f"{FULL_DUMP:,} MB x {text} = {FULL_DUMP * rate:,.0f} s",
        }
        for name, (rate, text) in sums.items()
    }


def targets(speed: dict, figures: dict) -> list[dict]:
    """The figures that the extraction is held to, from the ratios and from the quality of ours."""
    rate, speedup = speed["rate_of_ours_to_wikiextractor"], speed["speedup_of_2_workers"]
    faults, kept = figures["faults"], figures["text_kept"]
    return [
        runs.target("MB of XML per CPU second, ours / wikiextractor", rate["median"], at_least=1.5),
        runs.target("wall time of 1 worker / 2 workers, multistream", speedup["median"], at_least=1.8),
        runs.target("empty （） per million characters", figures["per_million_characters"]["（）"], at_most=3),
        runs.target("empty 「」", faults["「」"], at_most=0),
        runs.target("leftover markup", sum(faults[kind] for kind in quality.MARKUP), at_most=0),
        runs.target("% of the texts in {{lang}} kept", kept["lang"]["percent"], at_least=92),
        runs.target("% of the texts in {{仮リンク}} kept", kept["仮リンク"]["percent"], at_least=80),
        runs.target("% of lines that start with a closing bracket", figures["closing_bracket_percent"], at_most=0.05),
    ]


# The table


def speed_lines(measured: dict, speed: dict) -> Iterator[str]:
    """Numbers first, names last: Japanese letters are two columns wide."""
    yield "   MB/CPU s      CPU s     wall s   parent CPU s"
    for name, run in measured.items():
        median = run["median"]
        yield (
            f"{median['megabytes_per_cpu_second']:11.2f}{median['cpu_seconds']:11.2f}{median['seconds']:11.2f}"
            f"{median['parent_cpu_seconds']:15.2f}  {name}"
        )
    for name, found in speed.items():
        yield f"{found['median']:11.2f}  {name} (from {found['least']:.2f} to {found['most']:.2f})"


def in_columns(mine: float | None, other: float | None, name: str) -> str:
    return "".join(f"{'-' if value is None else f'{value:.2f}':>14}" for value in (mine, other)) + f"  {name}"


def quality_lines(mine: dict, other: dict) -> Iterator[str]:
    yield "          ours wikiextractor"
    for kind, value in mine["per_million_characters"].items():
        yield in_columns(value, other["per_million_characters"][kind], f"{kind} per million characters")
    name = "closing_bracket_percent"
    yield in_columns(mine[name], other[name], "% of lines that start with a closing bracket")
    for kind, found in mine["text_kept"].items():
        others = other["text_kept"][kind]["percent"]
        yield in_columns(found["percent"], others, f"% of the {found['in_prose']:,} texts in {{{{{kind}}}}} kept")


def table(result: dict) -> Iterator[str]:
    """The result as lines to read."""
    on, file = result["machine"], result["file"]
    yield f"{on['cpu']} ({' '.join(on['flags'])}), {on['cores']} cores, load {on['load_before']}, {result['date']}"
    yield ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    yield f"{file['xml_megabytes']:,} MB: {file['pages']:,} pages, {file['times']} times; rounds: {file['rounds']}"
    yield from ("", *speed_lines(result["runs"], result["ratios"]))
    yield from ("", *quality_lines(result["quality"]["ours"], result["quality"]["wikiextractor"]), "")
    for name, projected in result["projection"].items():
        if isinstance(projected, dict):
            yield f"{projected['minutes']:11.1f} min, full dump, {name}: {projected['arithmetic']}"
    yield ""
    words = {True: "met", False: "MISSED", None: "nothing to count"}
    for judged in result["targets"]:
        yield f"{words[judged['met']]}: {judged['figure']} {judged['value']}, target {judged['bound']}"


def case_lines(cases: list[quality.Case]) -> Iterator[str]:
    for case in cases[:CASES_SHOWN]:
        context = " ".join(case.context.split())
        yield f"left by ours: {case.kind} in line {case.line} of page {case.page}, {case.title}: {context}"


# The command


def check(megabytes: int, pairs: int, outputs: tuple[str | None, ...]) -> None:
    problems = {
        f"--megabytes must be 1 or more, got {megabytes}": megabytes >= 1,
        f"--pairs must be 1 or more, got {pairs}": pairs >= 1,
    }
    folders = [path for path in outputs if path is not None and Path(path).is_dir()]
    cli.require(problems | {f"{path} is a folder, the name of a file is needed": False for path in folders})


def write_cases(path: str, cases: dict[str, list[quality.Case]]) -> None:
    rows = ({"tool": tool} | case._asdict() for tool, found in cases.items() for case in found)
    files.write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def bench(paths: list[Path], megabytes: int, rounds: int, venv: str | None) -> tuple[dict, dict]:
    """(the result, {tool: each fault}); faults are named in it by page and line, without the text of the dump."""
    on, dump = runs.machine(), read_dump(paths)
    times = max(1, round(megabytes * 1e6 / sum(len(page.encode()) for page in dump.pages)))
    with tempfile.TemporaryDirectory(prefix="bert-ja-bench-") as temporary:
        folder = Path(temporary)
        files.require_space(folder, megabytes * DISK, "the repeated pages and what is made of them")
        wikiextractor = install_wikiextractor(Path(venv or folder / "venv").absolute())
        figures, cases = measure_quality(folder, dump, wikiextractor)
        measured_megabytes, measured = measure_speed(folder, dump, times, wikiextractor, rounds)
    file = {"pages": len(dump.pages), "times": times, "xml_megabytes": measured_megabytes, "rounds": rounds}
    speed = ratios(measured)
    result = {
        "command": shlex.join(["python3", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": on,
        "versions": files.versions() | {"wikiextractor": WIKIEXTRACTOR},
        "file": file | {"inputs": [files.describe(path) for path in paths]},
        "runs": measured,
        "ratios": speed,
        "quality": figures,
        "left_by_ours": [{"kind": case.kind, "page": case.page, "line": case.line} for case in cases["ours"]],
        "projection": projection(measured["ours_2_workers"]["median"], measured_megabytes),
        "targets": targets(speed, figures["ours"]),
    }
    return result, cases


def main(
    *dump_files: str,
    megabytes: int = 100,
    pairs: int = 5,
    output_file: str | None = None,
    cases_file: str | None = None,
    wikiextractor_venv: str | None = None,
) -> None:
    """Compare extract_jawiki.py with wikiextractor on the pages of a dump: speed, faults, text kept.

    Args:
        dump_files: Files of a dump, .xml.bz2 or .xml, small enough for memory; when none is named, the sample dump.
        megabytes: MB of XML to measure on, as nearly as repeating all pages allows.
        pairs: Rounds in which the programs take turns; medians and ranges are over these.
        output_file: JSON to write, with every measurement; when not given, the table is all.
        cases_file: JSON lines to write, one for each fault of either program, with the text around it.
        wikiextractor_venv: Folder of an environment with wikiextractor, made where there is none; when not given, a
            temporary one.
    """
    check(megabytes, pairs, (output_file, cases_file))
    paths = [Path(name) for name in dump_files or (SAMPLE,)]
    result, cases = bench(paths, megabytes, pairs, wikiextractor_venv)
    print("\n".join([*table(result), *case_lines(cases["ours"])]))
    if output_file is not None:
        files.write_bytes(output_file, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
    if cases_file is not None:
        write_cases(cases_file, cases)


if __name__ == "__main__":
    cli.run(main)
