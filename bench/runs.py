"""What benches share: the machine, texts, programs run in turn with what each run cost, figures beside their bounds."""

import lzma
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bert_ja import cli, files

TICKS = os.sysconf("SC_CLK_TCK")  # a second
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
MEASURES = ("seconds", "cpu_seconds", "parent_cpu_seconds", "output_megabytes")


def machine() -> dict:
    """What figures are measured on, and how busy it is: take it before the first run."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": name[1] if name else platform.machine(),
        "flags": [flag for flag in FLAGS if flags and flag in flags[1].split()],
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
    }


def content(path: Path) -> bytes:
    """A text, unpacked where it is .xz, all of it in memory; a blank line ends it."""
    opener = lzma.open if path.suffix == ".xz" else files.open_binary
    try:
        with opener(files.require_text(path, "name texts of one sentence a line", opener)) as file:
            return file.read().rstrip(b"\n") + b"\n\n"
    except (lzma.LZMAError, EOFError):
        raise cli.StageError(f"{path} is no .xz, or is cut short: make it or download it again") from None


def as_typed(command: list[str]) -> str:
    """A command without the folders of this machine: /usr/bin/python3 /tmp/a.py --x 1 -> python3 a.py --x 1."""
    return shlex.join(Path(word).name if word.startswith("/") else word for word in command)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def run_stage(command: list[str], cwd: Path, threads: int, output: Path | None = None) -> None:
    """Run a script of the repository as a user does, with so many threads; what it prints goes to `output`.

    Raises StageError with its last line when it fails; all that it said stands in stage.log of `cwd`.
    """
    variables = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    environment = os.environ | variables | {cli.PARENT: str(os.getpid())}
    log = cwd / "stage.log"
    with open(log, "wb") as said, open(output or os.devnull, "wb") as printed:
        done = subprocess.run(
            [sys.executable, *command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=said
        )
    if done.returncode:
        reason = last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise cli.StageError(
            f"{as_typed(command)} ended with exit code {done.returncode} ({reason}): see {log}, mend that, and "
            "run this again"
        )


def options_of(given: dict) -> list[str]:
    """{"a": 1} -> ["--a", "1"]"""
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def own_cpu_seconds(process: int) -> float:
    """User and system time of a process that has ended and was not waited for yet, without its children's."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(command: list[str], output: Path) -> dict:
    """Run a command that writes into the folder `output`, emptied before; what it cost.

    cpu_seconds are those of the process and of all below it: the kernel adds a child's when its parent waits for it,
    so a program that leaves children behind looks too cheap. parent_cpu_seconds are its own alone. Peak memory is left
    out, as the kernel counts the memory of whoever starts a process as its own. Raises StageError when the command
    fails.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - started
        parent = own_cpu_seconds(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = last_line(errors.read().decode(errors="replace"))
    if process.returncode:
        raise cli.StageError(f"{as_typed(command)} ended with exit code {process.returncode} ({said}): run it by hand")
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    values = (seconds, usage.ru_utime + usage.ru_stime, parent, written / 1e6)
    return {name: round(value, 3) for name, value in zip(MEASURES, values, strict=True)}


def in_turn(measures: dict[str, Callable[[], dict]], rounds: int, warm_up: bool = True) -> dict[str, list[dict]]:
    """What each measure says in each round, A B C A B C ...; an unmeasured round before them warms the page cache.

    A measure is called without arguments, and says its "seconds" and whatever else it found.
    """
    runs: dict[str, list[dict]] = {name: [] for name in measures}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, measured in measures.items():
            run = measured()
            cli.say(f"{f'round {number}' if number else 'warm-up'}: {name}, {run['seconds']:.1f} s")
            runs[name] += [run] if number else []
    return runs


def interleaved(commands: dict[str, list[str]], outputs: dict[str, Path], rounds: int) -> dict[str, list[dict]]:
    """Run the commands in turn, see `in_turn` and `measure`."""
    return in_turn({name: partial(measure, command, outputs[name]) for name, command in commands.items()}, rounds)


def medians(runs: list[dict]) -> dict:
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


def ratio(runs: list[dict], others: list[dict], measure: str) -> dict:
    """A measure of `runs` divided by that of the run in the same round of `others`: median and range."""
    each = [round(run[measure] / other[measure], 3) for run, other in zip(runs, others, strict=True)]
    return {"median": round(statistics.median(each), 3), "least": min(each), "most": max(each), "each": each}


def target(figure: str, value: float | None, at_least: float | None = None, at_most: float | None = None) -> dict:
    """A figure beside its bound; `met` is None where there was nothing to measure or to count."""
    bound = f">= {at_least}" if at_least is not None else f"<= {at_most}"
    met = None if value is None else (value >= at_least if at_least is not None else value <= at_most)
    return {"figure": figure, "value": value, "bound": bound, "met": met}
