"""How fast are samples made and drawn, beside the published procedure's algorithm (baseline_samples.py)?

Repeats texts to --megabytes, makes samples of them with prepare_train_data.py, draws them from a file of
--draw_gigabytes under a limit of memory, lets the baseline do the same to fewer samples in turn, and prints a table.

    python3 bench/bench_samples.py data/train.txt --output_file bench/results/samples.json
"""

import concurrent.futures
import datetime
import itertools
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import baseline_samples, runs
from bert_ja import cli, files, tokenization, workers
from bert_ja.tokenization import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
RAW = {"masked": True, "plain": False}  # what --get_raw makes
BASELINES = {"baseline": False, "lean_baseline": True}  # as published, and the quickest of its kind
BLOCK = 1 << 20  # bytes of text that bare SentencePiece gets at once
HEAD = 1 << 16  # bytes of text: prepare_train_data.py shows samples of as many, so a run on them is start-up
STRETCH = 100  # lines that stand together in the part of the text that the baseline gets
LOOK_SECONDS = 0.01  # how often a look is taken at the memory of workers
DATA_LIMIT = 512_000_000  # bytes of memory that no file stands behind, for a process that draws
SEED = 1000
DRAWS = (("draw", 256), ("step", 32), ("step", 256), ("step", 1024))  # a method of Batches, samples a batch
MANY = 1_000_000  # samples of which the first batch is to come within a second
LEAST = {"rounds": 1, "megabytes": 0.1, "draw_gigabytes": 0.001, "draw_samples": 1024, "baseline_samples": 100}
TEXT_DISK, DRAW_DISK, ROW_DISK = 22, 2, 16_000  # bytes for each: of text, of what is drawn from, baseline's sample


# Texts


def repeated(texts: list[bytes], size: int) -> Iterator[bytes]:
    """The texts again and again, each time with another one first, up to the line that fills `size` bytes."""
    for turn in itertools.count():
        for number in range(len(texts)):
            text = texts[(turn + number) % len(texts)]
            if len(text) >= size:
                yield text[: text.index(b"\n", size - 1) + 1]
                return
            yield text
            size -= len(text)


def spread(lines: Iterable[bytes], step: int) -> Iterator[bytes]:
    """One of `step` lines, from all over a text, in stretches of STRETCH."""
    return (line for number, line in enumerate(lines) if number // STRETCH % step == 0)


def write_texts(folder: Path, texts: list[bytes], size: int, wanted: int) -> dict:
    """Write text.txt, its head.txt and, of it, a part.txt of about `wanted` lines for the baseline; their sizes."""
    text, part, head = folder / "text.txt", folder / "part.txt", folder / "head.txt"
    with open(text, "wb") as file:
        file.writelines(repeated(texts, size))
    with open(text, "rb") as file:
        head.write_bytes(file.read(HEAD) + file.readline())
        file.seek(0)
        step = -(-sum(1 for line in file if line.strip()) // wanted)
        file.seek(0)
        part.write_bytes(b"".join(spread(filter(bytes.strip, file), step)))
    return {f"{path.stem}_bytes": path.stat().st_size for path in (text, part, head)}


# Processes


def in_child(function: Callable, *arguments) -> dict:
    """What a function returns in a fresh process, where nothing was imported, read or limited before."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise cli.StageError(
                f"the process of {function.__name__} died (out of memory?): close other programs and run it again"
            ) from None


def memory(process: int | str) -> dict[str, float]:
    """MB of memory of a process, by the kernel's names; {} when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = re.findall(r"^(VmHWM|VmData|RssAnon):\s+(\d+) kB$", status, re.MULTILINE)
    return {name: round(int(size) * 1024 / 1e6, 1) for name, size in found}


def family(process: int) -> list[tuple[str, str]]:
    """(parent or worker, number) of a process and its children."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        children = []
    return [("parent", str(process)), *(("worker", child) for child in children)]


def peak_memory(command: list[str], output: Path) -> dict[str, dict[str, float]]:
    """Run a command; {parent, worker: {kernel's name: the most MB that a look at one of them found}}."""
    output.mkdir(parents=True, exist_ok=True)
    peaks: dict[str, dict[str, float]] = {"parent": {}, "worker": {}}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        while process.poll() is None:
            for who, number in family(process.pid):
                for name, size in memory(number).items():
                    peaks[who][name] = max(size, peaks[who].get(name, 0))
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise cli.StageError(f"{runs.as_typed(command)} ended with exit code {process.returncode}: run it by hand")
    return peaks


# Samples are made


def prepare(text: Path, output: Path, tokenizer_model: str, raw: bool, num_workers: int) -> list[str]:
    script = [sys.executable, str(ROOT / "prepare_train_data.py"), "--filename", str(text)]
    options = ["--tokenizer_model", tokenizer_model, "--get_raw", str(raw), "--num_workers", str(num_workers)]
    return [*script, *options, "--output_file", str(output / "samples.jsonl")]


def encode(text: str, tokenizer_model: str) -> dict:
    """Bare SentencePiece on the lines of a text, BLOCK bytes at a time, in one thread; reading is not counted."""
    spm = tokenization.load_sentencepiece(tokenizer_model)
    started, cpu, count = time.perf_counter(), 0.0, 0
    with open(text, "rb") as file:
        while block := file.read(BLOCK) + file.readline():
            lines = [line for line in block.decode().split("\n") if line.strip()]
            before = time.process_time()
            spm.encode(lines, num_threads=1)
            cpu += time.process_time() - before
            count += len(lines)
    return {"seconds": round(time.perf_counter() - started, 3), "cpu_seconds": round(cpu, 3), "lines": count}


def made(output: Path) -> dict:
    """The record of what a run of ours wrote."""
    return files.read_record(output / "samples.jsonl")


def without_start(each: list[dict], heads: list[dict], samples: int) -> list[dict]:
    """Runs with the samples per CPU second that they made beyond what the run on the head in the same round did."""
    # A text that is hardly longer than its head leaves nothing: a millisecond then.
    cpu = [max(0.001, run["cpu_seconds"] - head["cpu_seconds"]) for run, head in zip(each, heads, strict=True)]
    return [run | {"per_cpu_second": round(samples / more)} for run, more in zip(each, cpu, strict=True)]


def rated(each: list[dict], what: str) -> list[dict]:
    """Runs with how much of `what` they did per CPU second."""
    return [run | {"per_cpu_second": round(run[what] / run["cpu_seconds"])} for run in each]


def require_same_samples(outputs: Iterable[Path]) -> None:
    """A speed counts only if the same samples came out of every run of ours."""
    if len({made(output)["outputs"][0]["sha256"] for output in outputs}) > 1:
        raise cli.StageError("prepare_train_data.py wrote different samples with 1 and 2 workers: mend that first")


def making_ratios(each: dict[str, list[dict]]) -> dict:
    rate = "per_cpu_second"
    return {
        **{
            f"{kind}_to_{baseline}": runs.ratio(each[f"{kind}_1_worker"], each[f"{kind}_{baseline}"], rate)
            for kind in RAW
            for baseline in BASELINES
        },
        "plain_to_encode": runs.ratio(each["plain_1_worker"], each["encode"], rate),
        "masked_speedup_of_2_workers": runs.ratio(each["masked_1_worker"], each["masked_2_workers"], "seconds"),
        "plain_speedup_of_2_workers": runs.ratio(each["plain_1_worker"], each["plain_2_workers"], "seconds"),
    }


def making_runs(folder: Path, tokenizer_model: str) -> dict[str, tuple[str, Callable[[], dict]]]:
    """{name of a run: (how it is started, what runs and measures it)}."""
    text, head, part, rows = (folder / name for name in ("text.txt", "head.txt", "part.txt", "rows.jsonl"))
    found = {}
    for kind, raw in RAW.items():
        for name, source, number in (("1_worker", text, 1), ("2_workers", text, 2), ("head", head, 1)):
            output = folder / f"{kind}_{name}"
            command = prepare(source, output, tokenizer_model, raw, number)
            found[output.name] = runs.as_typed(command), partial(runs.measure, command, output)
        for name, lean in BASELINES.items():
            baseline = partial(in_child, baseline_samples.prepare, str(part), tokenizer_model, raw, str(rows), lean)
            found[f"{kind}_{name}"] = f"baseline_samples.prepare, part.txt, masked={raw}, lean={lean}", baseline
    bare = partial(in_child, encode, str(text), tokenizer_model)
    return found | {"encode": (f"encode(list, num_threads=1), text.txt, {BLOCK:,} bytes at once", bare)}


def with_rates(each: dict[str, list[dict]], samples: dict[str, int]) -> dict[str, list[dict]]:
    """The runs with what each did per CPU second; `samples` are those that runs of ours make."""
    rates = {"encode": rated(each["encode"], "lines")}
    for kind in RAW:
        heads = each[f"{kind}_head"]
        rates |= {f"{kind}_{name}": rated(each[f"{kind}_{name}"], "samples") for name in BASELINES}
        for name in (f"{kind}_1_worker", f"{kind}_2_workers"):
            rates[name] = without_start(each[name], heads, samples[name] - samples[f"{kind}_head"])
    return each | rates


def measure_making(folder: Path, tokenizer_model: str, rounds: int) -> dict:
    """Everything about making samples, all runs in turn; those that were watched for their memory were the warm-up."""
    planned = making_runs(folder, tokenizer_model)
    each = runs.in_turn({name: run for name, (_, run) in planned.items()}, rounds, warm_up=False)
    counts = {output.name: made(output)["counts"] for output in folder.iterdir() if output.is_dir()}
    for kind in RAW:
        require_same_samples(folder / f"{kind}_{name}" for name in ("1_worker", "2_workers"))
    each = with_rates(each, {name: count["samples"] for name, count in counts.items()})
    ours, baseline = counts["plain_1_worker"], each["plain_baseline"][0]
    return {
        "samples": ours["samples"],
        "tokens_per_sample": round(ours["tokens"] / ours["samples"], 1),
        "baseline_tokens_per_sample": round(baseline["tokens"] / baseline["samples"], 1),
        "runs": {
            name: {"run": planned[name][0], "median": runs.medians(found), "each": found}
            for name, found in each.items()
        },
        "ratios": making_ratios(each),
    }


def measure_memory(folder: Path, tokenizer_model: str) -> dict[str, dict]:
    """Peaks of a run with 2 workers of each kind, looked at from outside."""
    found = {}
    for kind, raw in RAW.items():
        cli.say(f"memory: {kind}, 2 workers")
        output = folder / f"{kind}_2_workers"
        found[kind] = peak_memory(prepare(folder / "text.txt", output, tokenizer_model, raw, 2), output)
    return found


# Samples are stored


def padded_rows(samples: Path, wanted: int, vocabulary: Vocabulary) -> Iterator[tuple[bytes, str, int]]:
    """(a row of ours, the baseline's of the same sample, its tokens) of about `wanted` samples from all over a file."""
    step = -(-made(samples.parent)["counts"]["samples"] // wanted)
    with open(samples, "rb") as file:
        for row in itertools.islice(file, 0, None, step):
            sample = json.loads(row)
            yield row, baseline_samples.to_row(sample, vocabulary), len(sample["input_ids"])


def measure_disk(samples: Path, wanted: int, vocabulary: Vocabulary) -> dict:
    """Bytes of rows of ours beside those of the same samples as the baseline stores them."""
    rows = [(len(row), len(padded), tokens) for row, padded, tokens in padded_rows(samples, wanted, vocabulary)]
    ours, padded, tokens = map(sum, zip(*rows, strict=True))
    means = {"bytes": ours / len(rows), "baseline_bytes": padded / len(rows), "tokens": tokens / len(rows)}
    return (
        {"samples": len(rows)}
        | {name: round(mean, 1) for name, mean in means.items()}
        | {"ratio": round(ours / padded, 3)}
    )


def write_rows(samples: Path, path: Path, wanted: int, vocabulary: Vocabulary) -> float:
    """Write rows for the baseline to draw, of samples that we draw too; their mean tokens."""
    tokens = []
    with open(path, "w") as file:
        for _, row, length in padded_rows(samples, wanted, vocabulary):
            file.write(row)
            tokens.append(length)
    return sum(tokens) / len(tokens)


def repeat(samples: Path, path: Path, size: int) -> None:
    """Write a file of samples over and over, whole, until `size` bytes are full; and its record."""
    with files.output(path) as out:
        while out.size < size:
            with open(samples, "rb") as file:
                while block := file.read(files.BLOCK):
                    out.write(block)
    files.write_record(path, {"stage": "prepare_train_data.py", "outputs": [out.describe()]})


# Samples are drawn


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def build(samples: str) -> dict:
    """Build the columns of a file with a worker for each core; what it cost."""
    from bert_ja import dataset

    started, cpu, record = time.perf_counter(), cpu_seconds(), files.read_record(samples)
    columns = dataset.Columns.open(samples, record)
    cost = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - cpu}
    sizes = {"bytes": os.path.getsize(samples), "samples": len(columns), "tokens": len(columns.ids)}
    return {name: round(value, 3) for name, value in cost.items()} | sizes | {"workers": workers.available_cores()}


def draw(samples_file: str, tokenizer_model: str, samples: int) -> dict:
    """Seconds to the first batch of a file whose columns are built, then samples per CPU second of each of DRAWS."""
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, DATA_LIMIT))  # torch is imported under it
    begun = time.perf_counter()
    from bert_ja import dataset

    vocabulary = tokenization.vocabulary(tokenizer_model)
    started = time.perf_counter()
    columns = dataset.Columns.open(samples_file, files.read_record(samples_file))
    dataset.Batches(columns, vocabulary, 256, SEED, shuffle=True).step(0, 0)
    found = {"first_batch_seconds": round(time.perf_counter() - started, 3)}
    for epoch, (method, size) in enumerate(DRAWS):
        batches = dataset.Batches(columns, vocabulary, size, SEED, shuffle=True)
        count, make = min(max(1, samples // size), len(batches)), getattr(batches, method)
        cpu = time.process_time()
        for number in range(count):
            make(epoch, number)
        cpu = time.process_time() - cpu
        found[f"{method}_{size}"] = round(min(count * size, len(columns)) / cpu)
    return found | {"seconds": round(time.perf_counter() - begun, 3)} | memory(os.getpid())


def draw_ratios(each: dict[str, list[dict]]) -> dict:
    """{"draw_256_to_baseline": ..., "draw_256_to_lean_baseline": ...} and so on for all of DRAWS."""
    found = {}
    for method, size in DRAWS:
        ours = [{"per_cpu_second": run[f"{method}_{size}"]} for run in each["ours"]]
        for name in BASELINES:
            found[f"{method}_{size}_to_{name}"] = runs.ratio(ours, each[name], "per_cpu_second")
    return found


def measure_draws(folder: Path, samples: Path, tokenizer_model: str, size: int, options: dict) -> dict:
    """Everything about drawing from a file of `size` bytes that holds `samples` over and over."""
    path, rows = folder / "draw.jsonl", folder / "rows.jsonl"
    repeat(samples, path, size)
    vocabulary = tokenization.vocabulary(tokenizer_model)
    baseline_tokens = write_rows(samples, rows, options["baseline_samples"], vocabulary)
    cli.say(f"building the columns of {path.stat().st_size / 1e9:.3f} GB")
    built = in_child(build, str(path))
    measures = {
        "ours": partial(in_child, draw, str(path), tokenizer_model, options["draw_samples"]),
        **{
            name: partial(in_child, baseline_samples.draw, str(rows), tokenizer_model, lean)
            for name, lean in BASELINES.items()
        },
    }
    each = runs.in_turn(measures, options["rounds"], warm_up=False)  # what is drawn from was just written
    each |= {name: rated(found, "samples") for name, found in each.items() if name != "ours"}
    return {
        "built": built,
        "tokens_per_sample": round(built["tokens"] / built["samples"], 1),
        "baseline_tokens_per_sample": round(baseline_tokens, 1),
        "data_limit": f"RLIMIT_DATA of {DATA_LIMIT:,} bytes, set before torch was imported",
        "runs": {name: {"median": runs.medians(found), "each": found} for name, found in each.items()},
        "ratios": draw_ratios(each),
    }


# What follows from the figures


def targets(making: dict, peaks: dict, disk: dict, drawing: dict) -> list[dict]:
    """The figures that samples are held to, from the medians of the ratios; of memory, the most that was seen."""
    ratios = {name: ratio["median"] for name, ratio in (making["ratios"] | drawing["ratios"]).items()}
    many = drawing["built"]["samples"] >= MANY
    first = drawing["runs"]["ours"]["median"]["first_batch_seconds"] if many else None
    found = [
        runs.target("samples per CPU s, --get_raw True / baseline", ratios["masked_to_baseline"], at_least=20),
        runs.target(
            "samples per CPU s, --get_raw False / lines, encode(list)", ratios["plain_to_encode"], at_least=0.333
        ),
    ]
    for kind, raw in RAW.items():
        speedup = ratios[f"{kind}_speedup_of_2_workers"]
        found.append(runs.target(f"wall time of 1 worker / 2 workers, --get_raw {raw}", speedup, at_least=1.8))
    found.append(
        runs.target("samples drawn per CPU s, draw of 256 / baseline", ratios["draw_256_to_baseline"], at_least=60)
    )
    found.append(runs.target(f"seconds to the first batch of {MANY:,} samples or more", first, at_most=1))
    found.append(runs.target("bytes of a sample, --get_raw True / baseline", disk["ratio"], at_most=0.4))
    for kind, raw in RAW.items():
        peak = peaks[kind]["worker"].get("VmHWM")
        found.append(runs.target(f"MB of a worker at its peak, --get_raw {raw}", peak, at_most=500))
    return found


# The table

ABOUT = (
    "samples per CPU second, ours: of the whole process with 1 worker, less the samples and the CPU seconds of a run "
    f"on the first {HEAD:,} bytes of the text in the same round (its start-up)",
    "samples per CPU second, baseline: in one process and one thread, without its imports, on lines from all over the "
    "text; a pair at a time by the tokenizer of transformers, padded to 512 and masked in lists, as published",
    "lean baseline, to which no target refers: raw SentencePiece, each line once, masked before padding, numpy",
    "lines per CPU second, bare SentencePiece: encode(list) alone in one thread, reading and start-up not counted",
    "ratios are of runs in the same round; the runs watched for their memory went before and warmed the page cache",
    "memory: VmHWM and RssAnon of the processes of a run with 2 workers, read from outside every "
    f"{LOOK_SECONDS * 1000:.0f} ms",
    "draws are shuffled over the whole file and masked anew; the first batch is of 256, with tensors and rows, in a "
    "fresh process, the columns in the page cache, imports and vocabulary not counted",
)


def run_lines(measured: dict) -> Iterator[str]:
    for name, run in measured.items():
        median = run["median"]
        rate = f"{median['per_cpu_second']:12,.0f}" if "per_cpu_second" in median else " " * 12
        yield f"{rate}{median.get('cpu_seconds', 0):11.2f}{median['seconds']:11.2f}  {name}"


def ratio_lines(ratios: dict) -> Iterator[str]:
    for name, found in ratios.items():
        yield f"{found['median']:12.2f}  {name} (from {found['least']:.2f} to {found['most']:.2f})"


def memory_lines(peaks: dict) -> Iterator[str]:
    for kind, found in peaks.items():
        for who, sizes in found.items():
            named = ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items())
            yield f"{kind}, 2 workers, {who}: {named or 'none was seen'}"


def draw_lines(drawing: dict) -> Iterator[str]:
    built, ours = drawing["built"], drawing["runs"]["ours"]["median"]
    yield (
        f"{built['samples']:,} samples, {built['bytes'] / 1e9:.3f} GB, {drawing['tokens_per_sample']} tokens a sample "
        f"(baseline {drawing['baseline_tokens_per_sample']}); columns built in {built['seconds']:.1f} s by "
        f"{built['workers']} workers, {built['cpu_seconds']:.1f} CPU s"
    )
    for method, size in DRAWS:
        yield f"{ours[f'{method}_{size}']:12,.0f}  samples per CPU s, {method} of {size}"
    for name in BASELINES:
        rate = drawing["runs"][name]["median"]["per_cpu_second"]
        yield f"{rate:12,.0f}  samples per CPU s, {name.replace('_', ' ')}, batches of {baseline_samples.BATCH}"
    yield f"{ours['first_batch_seconds']:12.3f}  seconds to the first batch"


def table(result: dict) -> Iterator[str]:
    """The result as lines to read."""
    on, text, making, disk = result["machine"], result["text"], result["making"], result["disk"]
    yield f"{on['cpu']} ({' '.join(on['flags'])}), {on['cores']} cores, load {on['load_before']}, {result['date']}"
    yield ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    yield (
        f"{text['text_bytes'] / 1e6:,.1f} MB of text, {making['samples']:,} samples of {making['tokens_per_sample']} "
        f"tokens (baseline {making['baseline_tokens_per_sample']}); rounds: {result['options']['rounds']}"
    )
    yield from ("", "per CPU s        CPU s     wall s".rjust(34), *run_lines(making["runs"]))
    yield from (*ratio_lines(making["ratios"]), "", *memory_lines(result["memory"]))
    yield f"{disk['bytes']} bytes a sample, {disk['baseline_bytes']} of the baseline, {disk['tokens']} tokens"
    yield from ("", *draw_lines(result["drawing"]), *ratio_lines(result["drawing"]["ratios"]), "")
    words = {True: "met", False: "MISSED", None: "nothing to measure"}
    for judged in result["targets"]:
        yield f"{words[judged['met']]}: {judged['figure']} {judged['value']}, target {judged['bound']}"


# The command


def check(paths: tuple[str, ...], tokenizer_model: str, output_file: str | None, options: dict) -> None:
    wrong = {
        f"--{name} must be {LEAST[name]} or more, got {size}": size >= LEAST[name] for name, size in options.items()
    }
    to_folder = output_file is not None and Path(output_file).is_dir()
    wrong["name at least one text of one sentence a line"] = bool(paths)
    cli.require(wrong | {f"{output_file} is a folder, the name of a file is needed": not to_folder})
    if not tokenization.has_sentencepiece(tokenizer_model):
        raise cli.StageError(f"{tokenizer_model} has no {tokenization.MODEL_FILE}: name a folder of train_tokenizer.py")
    tokenization.load_sentencepiece(tokenizer_model)


def bench(paths: list[Path], tokenizer_model: str, options: dict) -> dict:
    """The result: every measurement, what follows from it, and whether that is what it should be."""
    on, texts, wanted = runs.machine(), list(map(runs.content, paths)), options["baseline_samples"]
    size, drawn_size = (int(options[name] * unit) for name, unit in (("megabytes", 1e6), ("draw_gigabytes", 1e9)))
    os.environ.update(ONE_THREAD)  # of all processes that are started from here on
    with tempfile.TemporaryDirectory(prefix="bert-ja-bench-") as temporary:
        folder = Path(temporary)
        needed = size * TEXT_DISK + drawn_size * DRAW_DISK + wanted * ROW_DISK
        files.require_space(folder, needed, "the repeated texts and what is made of them")
        written = write_texts(folder, texts, size, wanted)
        peaks = measure_memory(folder, tokenizer_model)
        making = measure_making(folder, tokenizer_model, options["rounds"])
        masked, plain = (folder / f"{kind}_1_worker" / "samples.jsonl" for kind in RAW)
        disk = measure_disk(masked, wanted, tokenization.vocabulary(tokenizer_model))
        drawing = measure_draws(folder, plain, tokenizer_model, drawn_size, options)
    return {
        "command": runs.as_typed(["python3", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": on,
        "versions": files.versions("numpy", "orjson", "sentencepiece", "torch"),
        "about": ABOUT,
        "options": options,
        "text": written | {"inputs": list(map(files.describe, paths))},
        "tokenizer": tokenization.tokenizer_facts(tokenizer_model),
        "making": making,
        "memory": peaks,
        "disk": disk,
        "drawing": drawing,
        "targets": targets(making, peaks, disk, drawing),
    }


def main(
    *text_files: str,
    tokenizer_model: str = "output/model",
    output_file: str | None = None,
    rounds: int = 5,
    megabytes: float = 180,
    draw_gigabytes: float = 2,
    draw_samples: int = 250_000,
    baseline_samples: int = 20_000,
) -> None:
    """Measure how fast samples are made and drawn, beside the published procedure's algorithm.

    Args:
        text_files: Texts of one sentence a line, a blank line after each document, also as .xz; small enough for
            memory.
        tokenizer_model: Folder of the tokenizer, one of train_tokenizer.py.
        output_file: JSON to write, with every measurement; when not given, the table is all.
        rounds: Rounds in which all runs take turns; medians and ranges are over these.
        megabytes: MB of text to make samples of: the texts over and over, in changing order.
        draw_gigabytes: GB of JSON lines to draw samples from: those of the text over and over.
        draw_samples: Samples to draw in each way.
        baseline_samples: Samples that the baseline makes and draws, from all over the text.
    """
    options = {"rounds": rounds, "megabytes": megabytes, "draw_gigabytes": draw_gigabytes}
    options |= {"draw_samples": draw_samples, "baseline_samples": baseline_samples}
    check(text_files, tokenizer_model, output_file, options)
    result = bench(list(map(Path, text_files)), tokenizer_model, options)
    print("\n".join(table(result)))
    if output_file is not None:
        files.write_bytes(output_file, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())


if __name__ == "__main__":
    cli.run(main)
