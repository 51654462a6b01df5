"""Whether a release is what its records say: text, tokenizer and samples are made again and compared, stage by stage.

The record of a release has, in `history`, those of the stages behind it. Each stage is run again as a script, on the
dump or text that a checker has, and its outputs are compared with what is recorded; the other records are compared with
each other. Training is not repeated: what follows from it is said and never counts as verified.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bert_ja import __version__, cli, documents, files, results, samples, tokenization
from bert_ja.cli import StageError, say

ROOT = Path(__file__).resolve().parents[1]
STAGE = "release_model.py"
OK, DIFFERS, NOT_CHECKED = "ok", "differs", "not checked"
HASH = re.compile("[0-9a-f]{64}")
CONFIG = "config.json"
SETTINGS = (CONFIG, "tokenizer_config.json", "special_tokens_map.json")  # which may name paths of a machine
DONE = ".done"  # in the folder of a run that ended well
EXTRACT, TEXT = "extract_jawiki.py", "prepare_corpus.py"
TOKENIZER, SAMPLES = "train_tokenizer.py", "prepare_train_data.py"
WEIGHTS = "model.safetensors"
EXPORT, CONVERT, TEST, DOWNLOAD = "export_model.py", "convert_tokenizer.py", "test.py", "get_jawiki.sh"
# Options of a record that go on the command line as they are; a release cannot name paths to write to.
OPTIONS = {
    EXTRACT: (),
    TEXT: (
        *("name", "valid_sentences", "test_sentences", "text_field", "id_field", "split_sentences"),
        *("min_characters", "japanese_only", "min_sentences", "max_repeated"),
    ),
    TOKENIZER: ("input_sentence_size", "vocab_size", "character_coverage"),
    SAMPLES: (
        *("objective", "unit", "max_seq_len", "buffer_size", "short_seq_prob", "dupe_factor", "get_raw"),
        *("whole_word_mask", "mlm_probability", "mask_replace_prob", "random_replace_prob"),
    ),
    CONVERT: (),
}
SCORES, EVALUATIONS = (results.JGLUE, results.TEXT), "evaluations"
DICTS = ("options", "versions", "counts", "tokenizer", "corpus", "training")  # of a record, where it has them
# The keys of a test's result in the order in which test.py prints them.
PRINTED = ("test_loss", "mlm_loss", "mlm_accuracy", "perplexity", "nsp_loss", "nsp_accuracy", "samples", "tokens")
PACKAGES = ("numpy", "sentencepiece", "tokenizers", "transformers")  # that the bytes of text and samples depend on
LARGE = 100_000_000  # bytes from which on reading takes a while
LAST_WORDS = 10_000  # bytes of what a stage says that are kept
WORK_PER_TEXT_BYTE = 2  # of what a stage needs for a while, beside its outputs


class Difference(NamedTuple):
    """Something that is not as a record has it."""

    name: str  # of a file, or of a record
    what: str  # size, sha256, counts.samples ...
    recorded: object
    found: object

    def __str__(self) -> str:
        return f"{self.name}: {self.what} is {_short(self.found)}, the record says {_short(self.recorded)}"


class Check(NamedTuple):
    """What became of one stage."""

    stage: str
    result: str  # OK, DIFFERS or NOT_CHECKED
    about: str  # what was compared, the first difference, or why nothing was compared
    differences: tuple[Difference, ...] = ()
    possible: bool = True  # whether anybody can check it without training again

    def line(self) -> str:
        return f"{self.result} {self.stage}: {self.about}"


class NotChecked(Exception):
    """Why a stage cannot be run again."""


def _short(value) -> str:
    if isinstance(value, str) and HASH.fullmatch(value):
        return value[:12]
    return f"{value:,}" if type(value) is int else str(value)


# Records


def _is_file(described, nested: bool = False) -> bool:
    """Whether this is {name, size, sha256} of a file that stands in its folder, or below it where `nested`."""
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        return False
    path = PurePosixPath(described["name"])
    inside = path.parts and not path.is_absolute() and ".." not in path.parts and (nested or len(path.parts) == 1)
    numbers = type(described.get("size")) is int and HASH.fullmatch(str(described.get("sha256"))) is not None
    return bool(inside) and numbers


def _is_record(record, nested: bool = False) -> bool:
    """Whether this has the shape of a stage's record; `nested`: its files may stand in folders."""
    described = functools.partial(_is_file, nested=nested)
    return (
        isinstance(record, dict)
        and isinstance(record.get("stage"), str)
        and all(isinstance(record.get(name) or {}, dict) for name in DICTS)
        and isinstance(record.get("outputs"), list)
        and isinstance(record.get("inputs", []), list)
        and all(map(described, [*record.get("inputs", []), *record["outputs"]]))
        and (record["stage"] != SAMPLES or _has_counts(record))
        and _are_sources((record.get("corpus") or {}).get("sources"))
    )


def _are_sources(sources) -> bool:
    """Whether this is what a record says of several texts, or nothing."""
    texts = sources if isinstance(sources, list) else [None] if sources else []
    return all(isinstance(text, dict) and isinstance(text.get("share") or 0, int | float) for text in texts)


def _are_shares(shares, number: int) -> bool:
    """Whether these are the shares of so many files."""
    numbers = isinstance(shares, list) and all(isinstance(share, int | float) and share > 0 for share in shares)
    return numbers and len(shares) == number


def _has_counts(record: dict) -> bool:
    """Whether a record says what those of samples do."""
    counts = record.get("counts")
    return bool(record.get("options") and counts) and all(type(count) is int for count in counts.values())


def _with_whole_files(records):
    """Records of stages, without files that are not described."""
    if not isinstance(records, dict) or not all(isinstance(each, dict) for each in records.values()):
        return None

    def whole(described) -> list[dict]:
        return [file for file in described or [] if _is_file(file, nested=True)]

    lists = ("inputs", "outputs")
    return {stage: each | {name: whole(each.get(name)) for name in lists} for stage, each in records.items()}


def _are_scores(scores) -> bool:
    """Whether these are results of evaluations, by stage."""
    try:
        for stage, score in scores.items():
            results.CHECKS[stage](score["result"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def read_release(folder: Path) -> dict:
    """The record of a release folder. Raises StageError when there is none, or it has not the shape of one."""
    if not folder.is_dir():
        raise StageError(f"{folder} is not a folder: name the folder of a release with --verify")
    record = files.read_record(folder)
    if record is None:
        raise StageError(f"{folder} has no meta.json: name the folder of a release with --verify")
    if record.get("stage") != STAGE:
        raise StageError(f"{folder} was written by {record.get('stage')}: name the folder of a release with --verify")
    records, history = record.get("records"), record.get("history", [])
    if files.corpus_facts(record)["private"]:  # which leaves out what files of the text are like
        records = record["records"] = _with_whole_files(records)
    whole = isinstance(records, dict) and isinstance(history, list) and isinstance(record.get("result") or {}, dict)
    whole = whole and _are_scores(record.get("scores", {}))
    named = records.items() if whole else ()
    whole = whole and all(_is_record(each, stage != CONVERT) and each["stage"] == stage for stage, each in named)
    whole = whole and all(map(_is_record, history)) and bool(record.get("outputs"))
    if not whole or not all(_is_file(file, nested=True) for file in record["outputs"]):
        raise StageError(f"{folder}/meta.json is damaged (not the records of stages): fetch the release again")
    return record


def history_of(public: Callable[[dict, bool], dict], *records: dict | None) -> dict:
    """{"history": ...} of a release from the records of its stages; {} where they know none.

    `public` reduces each record to what may leave; see model_card. What is of a private corpus stays here as a whole:
    sizes, counts and hashes tell of its text.
    """
    behind = files.each_once(each for record in records if record for each in record.get("history", []))
    history = [public(record, False) for record in behind if not files.corpus_facts(record)["private"]]
    return {"history": history} if history else {}


# What differs


def compare_dicts(name: str, what: str, recorded: dict | None, found: dict | None) -> list[Difference]:
    """One Difference for each key with another value, of dicts within too."""
    one, other, differences = recorded or {}, found or {}, []
    for key in dict.fromkeys([*one, *other]):
        then, now = one.get(key), other.get(key)
        if isinstance(then, dict) and isinstance(now, dict):
            differences += compare_dicts(name, f"{what}.{key}", then, now)
        elif json.dumps(then, sort_keys=True) != json.dumps(now, sort_keys=True):
            differences.append(Difference(name, f"{what}.{key}", then, now))
    return differences


def compare_file(described: dict, path: Path | None) -> list[Difference]:
    """Whether a file, or the folder of a corpus, is there and has the size and sha256 of a record."""
    name = described["name"]
    if path is None or not path.exists():
        return [Difference(name, "file", "there", "missing")]
    if path.is_file() and path.stat().st_size != described["size"]:  # which takes no reading
        return [Difference(name, "size", described["size"], path.stat().st_size)]
    if described["size"] > LARGE:
        say(f"reading {path}")
    found = documents.describe(path)
    what = next((what for what in ("size", "sha256") if described[what] != found[what]), None)
    return [Difference(name, what, described[what], found[what])] if what else []


def _dump(record: dict) -> dict:
    """What a record says of the dump, but for a sum that only its download knows; a date as 20261101."""
    dump = files.corpus_facts(record)["dump"]
    dump = dump if isinstance(dump, dict) else {}
    date = {"date": str(dump["date"]).replace("-", "")} if dump.get("date") else {}
    return {name: dump[name] for name in ("file", "sha256") if dump.get(name)} | date


def compare_corpora(name: str, recorded: dict | None, found: dict | None) -> list[Difference]:
    """Whether two records, or what they say of a corpus, name the same texts, sources and licences."""
    one, other = (files.corpus_facts(record) for record in (recorded, found))
    return compare_dicts(name, "corpus", one | {"private": None}, other | {"private": None})


def compare_records(name: str, recorded: dict, made: dict) -> list[Difference]:
    """What the record of a stage that was run again says otherwise, but for the origin that a user gave the text."""
    found = [
        difference
        for what in ("counts", "options", "tokenizer")
        for difference in compare_dicts(name, what, recorded.get(what), made.get(what))
    ]
    known = _dump(made)
    return found + compare_dicts(name, "dump", {key: _dump(recorded).get(key) for key in known}, known)


def installed(package: str) -> str:
    """The version of a package here, as records name it."""
    ours = {"bert-ja": __version__, "python": sys.version.split()[0]}
    try:
        return ours.get(package) or importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "not installed"


def likely_reason(record: dict, differences: Iterable[Difference]) -> str:
    """What can explain differences, in parentheses: other versions, a page that took too long; "" where nothing can."""
    versions = {name: (version, installed(name)) for name, version in (record.get("versions") or {}).items()}
    others = [f"{name} {then}, here {now}" for name, (then, now) in versions.items() if then != now]
    reasons = [f"made with {'; '.join(others)}"] if others else []
    if any(difference.what == "counts.failed" for difference in differences):
        reasons.append("extraction gives up on a page after 5 CPU seconds, which a busy machine reaches earlier")
    return f" (likely because: {'; '.join(reasons)})" if reasons else ""


# Stages that are run again


@dataclass(frozen=True)
class Job:
    """A run of a stage, from the records of what it wrote, one for each place."""

    records: list[dict]

    @property
    def stage(self) -> str:
        return self.records[0]["stage"]

    @property
    def inputs(self) -> list[dict]:
        return self.records[0].get("inputs", [])

    @property
    def outputs(self) -> list[dict]:
        return [output for record in self.records for output in record.get("outputs", [])]

    def names(self) -> str:
        return ", ".join(output["name"] for output in self.outputs)


def _key(record: dict) -> str:
    """The same for all records of one run."""
    facts = [record.get(name) for name in ("stage", "options", "seed", "inputs")]
    return json.dumps([*facts, record.get("tokenizer") if record["stage"] == SAMPLES else None], sort_keys=True)


def jobs_of(history: list[dict]) -> list[Job]:
    """The runs that can be repeated, in their order."""
    runs: dict[str, list[dict]] = {}
    for record in history:
        if record["stage"] in OPTIONS:
            runs.setdefault(_key(record), []).append(record)
    return [Job(records) for records in runs.values()]


def _options(job: Job) -> list[str]:
    """Options and seed of a stage, as its record has them; those that are None were not given."""
    record, known = job.records[0], OPTIONS[job.stage]
    options = dict(record.get("options") or {})
    private = options.pop("private", False)
    if unknown := [name for name in options if name not in known]:
        raise NotChecked(f"its record has the option {unknown[0]}, which this version does not know")
    options |= {"seed": record.get("seed"), "private_corpus": True if private else None}
    if job.stage == CONVERT:
        options["tokenizer_class"] = record.get("tokenizer_class")
    if job.stage == TEXT:  # named in the text's record and nowhere else
        options["name"] = files.corpus_facts(record)["name"] or "corpus"
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def arguments(job: Job) -> list[str]:
    """The command line of a stage in its folder, where in/ has what it reads and out/ is to be written."""
    names, options = [described["name"] for described in job.inputs], _options(job)
    if not job.outputs or not names or (len(names) > 1 and job.stage not in (EXTRACT, TEXT)):
        raise NotChecked(f"its record names {len(names)} inputs and {len(job.outputs)} outputs")
    if job.stage == EXTRACT:
        named = zip(("output_file", "index_file"), job.outputs, strict=False)
        return [*(f"in/{name}" for name in names), *(f"--{option}=out/{file['name']}" for option, file in named)]
    if job.stage == TEXT:
        indexes = {documents.index_path(name).name for name in names}
        return [*(f"in/{name}" for name in names if name not in indexes), "--output_dir=out", *options]
    if job.stage == TOKENIZER:
        return [f"--train_file=in/{names[0]}", "--spm_model_dir=out/spm", "--model_dir=out/model", *options]
    if job.stage == CONVERT:
        return [f"--spm_model=in/{names[0]}", "--output_dir=out", *options]
    read = [f"--filename=in/{names[0]}", "--tokenizer_model=in/tokenizer"]
    return [*read, f"--output_file=out/{job.outputs[0]['name']}", *options]


@functools.cache
def code(script: str) -> str:
    """A hash of the code that a stage runs."""
    digest = hashlib.sha256()
    for path in (ROOT / script, *sorted((ROOT / "bert_ja").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_script(script: str, words: list[str], folder: Path) -> None:
    """Run a stage in `folder`; of what it says its progress is shown. Raises NotChecked with what it refused with."""
    said, drawn = b"", False
    command = [sys.executable, str(ROOT / script), *words]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    ends = functools.partial(cli.end_with_parent, os.getpid(), signal.SIGTERM)  # when we are killed
    with subprocess.Popen(command, cwd=folder, preexec_fn=ends, **streams) as process:
        try:
            while part := process.stderr.read1():
                said = (said + part)[-LAST_WORDS:]
                if part.startswith(b"\r") and b"\n" not in part:  # as bars are drawn
                    print(part.decode(errors="replace"), end="", file=sys.stderr, flush=True)
                    drawn = True
        except BaseException:
            process.terminate()
            raise
    if drawn:
        print(file=sys.stderr)
    if process.returncode:
        last = (said.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        raise NotChecked(f"it ended with exit code {process.returncode}: {last.partition(' error: ')[2] or last}")


def prepare_folder(folder: Path, inputs: dict[str, Path]) -> None:
    """The folder of a run: in/ with links to what it reads, out/."""
    shutil.rmtree(folder / "in", ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir(exist_ok=True)
    for name, path in inputs.items():
        (folder / "in" / name).symlink_to(path.absolute())


# The verification


def bytes_needed(jobs: list[Job]) -> int:
    """Room for all that is made again, and for what the largest stage needs for a while."""
    texts = [file["size"] for job in jobs if job.stage != EXTRACT for file in job.inputs]
    return sum(file["size"] for job in jobs for file in job.outputs) + WORK_PER_TEXT_BYTE * max(texts, default=0)


class Verification:
    """The checks of one release, with what a checker has in `data`, in the folder `work`."""

    def __init__(self, release: Path, data: Path, work: Path):
        self.release, self.data, self.work = release, data, work
        self.record = read_release(release)
        self.history, self.records = self.record.get("history", []), self.record["records"]
        self.checks: list[Check] = []
        self.made: dict[str, Path] = {}  # by sha256: what is equal to its record, of earlier stages and of the release
        self._found: dict[str, Path | None] = {}  # by sha256: files of `data`

    def add(self, stage: str, result: str, about: str, differences: Iterable[Difference] = (), **more) -> None:
        self.checks.append(Check(stage, result, about, tuple(differences), **more))
        say(self.checks[-1].line())

    def agree(self, stage: str, differences: list[Difference], about: str, record: dict | None = None) -> None:
        """One check: ok where nothing differs, else the first difference and how many more there are."""
        if not differences:
            self.add(stage, OK, about)
            return
        more = f", and {len(differences) - 1:,} more" if len(differences) > 1 else ""
        reason = likely_reason(record, differences) if record else ""
        self.add(stage, DIFFERS, f"{differences[0]}{more}{reason}", differences)

    # Files

    def check_files(self) -> None:
        """Every file of the release against its record."""
        outputs, found = self.record["outputs"], []
        for described in outputs:
            path = self.release / described["name"]
            differences = compare_file(described, path)
            found += differences
            if not differences:
                self.made.setdefault(described["sha256"], path)
        named = {described["name"] for described in outputs}
        for name in files.names_in(self.release):
            if name not in named and name[0] != "." and not name.endswith("meta.json"):
                found.append(Difference(name, "file", "nothing of it", "there"))
        self.agree("release", found, f"{len(outputs)} files are those of its record")

    def in_data(self, described: dict) -> tuple[Path | None, list[Difference]]:
        """(the file of `data` with these bytes, or None, how the one with this name differs)."""
        if described["sha256"] in self._found:
            return self._found[described["sha256"]], []
        within = sorted(path for path in self.data.iterdir() if path.is_dir() and os.access(path, os.R_OK | os.X_OK))
        places = [self.data, *within]
        named = [place / described["name"] for place in places if (place / described["name"]).exists()]
        others = [path for place in places for path in sorted(place.iterdir()) if path.is_file() and path not in named]
        others = [path for path in others if path.stat().st_size == described["size"]]  # renamed
        differences: list[Difference] = []
        for path in [*named, *others]:
            found = compare_file(described, path)
            if not found:
                self._found[described["sha256"]] = path
                return path, []
            differences += found if path in named else []
        return None, differences[:1]

    def check_data(self, jobs: list[Job]) -> None:
        """The files that no stage makes, of a dump or a user's own text. Raises StageError where all are absent."""
        made, made_names, wanted = set(), set(), {}
        for job in jobs:
            wanted |= {file["sha256"]: file for file in job.inputs if file["sha256"] not in made}
            made |= {file["sha256"] for file in job.outputs}
            made_names |= {file["name"] for file in job.outputs}
        found = {sha256: self.in_data(described) for sha256, described in wanted.items()}
        lost = [wanted[sha256] for sha256, (path, differences) in found.items() if path is None and not differences]
        lost = [file for file in lost if file["name"] not in made_names]
        if lost and len(lost) == len(wanted) and not any(self.in_data(file)[0] for job in jobs for file in job.inputs):
            raise StageError(
                f"{self.data} has none of the files that {self.release} was made from ({lost[0]['name']}, "
                f"{lost[0]['size']:,} bytes): name the folder that has them with --data"
            )
        differences = [difference for _, differences in found.values() for difference in differences]
        differences += self._downloads(jobs)
        if lost and not differences:
            self.add("data", NOT_CHECKED, f"{lost[0]['name']} is not in {self.data}, and no recorded stage makes it")
        elif wanted or differences:
            names = ", ".join(described["name"] for described in wanted.values())
            self.agree("data", differences, names if len(wanted) < 4 else f"{len(wanted)} files")

    def _downloads(self, jobs: list[Job]) -> list[Difference]:
        """Where a download is not what was read."""
        read = {file["name"]: file["sha256"] for job in jobs for file in job.inputs}
        outputs = [file for record in self.history if record["stage"] == DOWNLOAD for file in record["outputs"]]
        return [
            Difference(file["name"], "sha256 as downloaded", read[file["name"]], file["sha256"])
            for file in outputs
            if file["name"] in read and read[file["name"]] != file["sha256"]
        ]

    # Stages

    def find(self, described: dict, earlier: list[Job]) -> Path:
        """The bytes that a stage reads. Raises NotChecked, or StageError where they contradict an earlier record."""
        path = self.made.get(described["sha256"]) or self.in_data(described)[0]
        if path is not None:
            return path
        outputs = [(job.stage, file) for job in earlier for file in job.outputs]
        if any(file["sha256"] == described["sha256"] for _, file in outputs):
            raise NotChecked(f"its input {described['name']} could not be made again")
        said = f"its input {described['name']} (sha256 {described['sha256'][:12]})"
        for stage, file in outputs:
            if file["name"] == described["name"]:
                raise StageError(f"{said} is not what {stage} wrote (sha256 {file['sha256'][:12]})")
        raise NotChecked(f"{said} is no output of a recorded stage, and not in {self.data}")

    def tokenizer_folder(self, facts: dict) -> Path:
        """The tokenizer that samples were made with: made again, or that of the release."""
        sha256 = str((facts or {}).get("sha256"))
        path = self.made.get(sha256)
        if path is not None and (path.name == tokenization.MODEL_FILE):
            return path.parent
        with contextlib.suppress(StageError):
            if tokenization.tokenizer_facts(self.release)["sha256"] == sha256:
                return self.release
        raise NotChecked(f"its tokenizer (sha256 {sha256[:12]}) is neither made by a recorded stage nor in the release")

    def inputs(self, job: Job, earlier: list[Job]) -> dict[str, Path]:
        """What a stage reads, by its name there."""
        found = {described["name"]: self.find(described, earlier) for described in job.inputs}
        if len(found) < len(job.inputs):
            raise NotChecked("two of its inputs have one name")
        if job.stage == SAMPLES:
            found["tokenizer"] = self.tokenizer_folder(job.records[0].get("tokenizer"))
        return found

    def folder_of(self, job: Job, words: list[str]) -> Path:
        """A folder for this run of this code, on these bytes, with these packages, and for no other."""
        record = job.records[0]
        packages = {name: installed(name) for name in sorted(record.get("versions") or {})}
        read = [file["sha256"] for file in job.inputs]
        read += [str((record.get("tokenizer") or {}).get("sha256"))] if job.stage == SAMPLES else []
        read += [file["sha256"] for file in self.record["outputs"] if (job.stage, file["name"]) == (CONVERT, CONFIG)]
        key = json.dumps([words, read, packages, code(job.stage)])
        return self.work / f"{job.stage.removesuffix('.py')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def is_done(self, job: Job) -> bool:
        """Whether an earlier verification ran this already."""
        try:
            return (self.folder_of(job, arguments(job)) / DONE).exists()
        except NotChecked:
            return False

    def run(self, job: Job, earlier: list[Job]) -> Path:
        """The out/ of a stage's run, made now unless an earlier verification did."""
        words, inputs = arguments(job), self.inputs(job, earlier)
        folder = self.folder_of(job, words)
        if (folder / DONE).exists():
            return folder / "out"
        say(f"running {job.stage} for {job.names()}")
        prepare_folder(folder, inputs)
        if job.stage == CONVERT and (self.release / CONFIG).is_file():  # which says how long a sample may be
            shutil.copyfile(self.release / CONFIG, folder / "out" / CONFIG)
        run_script(job.stage, words, folder)
        files.write_bytes(folder / DONE, b"")
        return folder / "out"

    def check_job(self, job: Job, earlier: list[Job]) -> None:
        """Run a stage again and compare what it writes with its records."""
        try:
            out = self.run(job, earlier)
        except NotChecked as reason:
            self.add(job.stage, NOT_CHECKED, f"{job.names()}: {reason}")
            return
        except StageError as broken:
            self.add(job.stage, DIFFERS, f"{job.names()}: {broken}")
            return
        borrowed = self.borrowed(job, earlier)
        made, differences = {path.name: path for path in sorted(out.rglob("*")) if path.is_file()}, []
        for record in job.records:
            for described in record["outputs"]:
                path = made.get(described["name"])
                found = compare_file(described, path)
                differences += found
                if not found:
                    self._keep(described["sha256"], path)
            differences += self._compare_record(record, made) + self._compare_text(record, earlier)
        taken = f" (from {', '.join(borrowed)} as it stands in {self.data})" if borrowed else ""
        self.agree(job.stage, differences, f"{job.names()} made again, the same bytes{taken}", job.records[0])

    def borrowed(self, job: Job, earlier: list[Job]) -> list[str]:
        """Inputs that an earlier stage should have made, and that were taken from `data` instead."""
        outputs = {file["sha256"] for before in earlier for file in before.outputs}
        return [file["name"] for file in job.inputs if file["sha256"] in outputs and file["sha256"] not in self.made]

    def _keep(self, sha256: str, path: Path) -> None:
        """What was made again goes before what stands in the release; a tokenizer's folder before its spm folder."""
        before = self.made.get(sha256)
        if before is None or before.parent == self.release or path.name == tokenization.MODEL_FILE:
            self.made[sha256] = path

    def _compare_record(self, record: dict, made: dict[str, Path]) -> list[Difference]:
        path = made.get(record["outputs"][0]["name"]) if record["outputs"] else None
        if path is None or record["stage"] == CONVERT:
            return []
        beside = files.read_record(path) or files.read_record(path.parent)
        return compare_records(record["outputs"][0]["name"], record, beside or {})

    def _compare_text(self, record: dict, earlier: list[Job]) -> list[Difference]:
        """Whether a record has the origin of the text that its stage read."""
        if record["stage"] not in (TOKENIZER, SAMPLES) or not record["outputs"]:
            return []
        read = record["inputs"][0]["sha256"]
        texts = (text for job in earlier for text in job.records for file in text["outputs"] if file["sha256"] == read)
        name = record["outputs"][0]["name"]
        return [found for text in itertools.islice(texts, 1) for found in compare_corpora(name, text, record)]

    # Records against each other

    def check_training(self) -> None:
        """What the model was trained on, against the records of the samples."""
        training = self.records[EXPORT].get("training") or {}
        made = {file["sha256"]: each for each in self.history if each["stage"] == SAMPLES for file in each["outputs"]}
        recorded = {file["name"]: sha256 for sha256, each in made.items() for file in each["outputs"]}
        samples_of, by_part = training.get("samples"), {}
        for part, found in samples_of.items() if isinstance(samples_of, dict) else ():
            by_part[part] = list(filter(_is_file, found if isinstance(found, list) else [found]))
        if not made or not any(by_part.values()):
            self.add("trainer.py", NOT_CHECKED, "the release does not hold the records of its samples")
            return
        differences = [
            Difference(f"{part} samples", "sha256", recorded.get(file["name"], "no record of them"), file["sha256"])
            for part, found in by_part.items()
            for file in found
            if file["sha256"] not in made
        ]
        trained = [made.get(file["sha256"]) for file in by_part.get("train", [])]
        if trained and all(trained):
            differences += self._compare_training(training, trained)
        self.agree("trainer.py", differences, "its samples, their options and its tokenizer are those of the records")

    @staticmethod
    def _compare_training(training: dict, trained: list[dict]) -> list[Difference]:
        merged, found = samples.merged(trained), []
        for what in ("options", "counts"):
            recorded, known = merged[what], training.get(what)
            if isinstance(recorded, dict) or isinstance(known, dict):
                recorded, known = (value if isinstance(value, dict) else {} for value in (recorded, known))
                found += compare_dicts("training", what, recorded, known)
            elif recorded != known:
                found.append(Difference("training", what, recorded, known))
        for record in trained:
            found += compare_dicts("training", "tokenizer", record.get("tokenizer"), training.get("tokenizer"))
        shares = training.get("shares") or [1.0]
        if not _are_shares(shares, len(trained)):
            return [*found, Difference("training", "shares", f"those of {len(trained)} files", shares)]
        corpus = files.merged_corpora([files.corpus_facts(record) for record in trained], shares)
        return found + compare_corpora("training", {"corpus": corpus}, training)

    def _compare_copies(self, what: str, outputs: list[dict], mended: bool = False) -> list[Difference]:
        """Whether the release has these files; `mended` where paths may have been taken out of their settings."""
        released = {file["name"]: file for file in self.record["outputs"]}
        return [
            difference
            for file in outputs
            if not (mended and file["name"] in SETTINGS and file["name"] in released)
            for difference in compare_dicts(file["name"], what, file, released.get(file["name"]))
        ]

    def check_export(self) -> None:
        """The files of the model, and that all records mean one tokenizer."""
        record = self.records[EXPORT]
        released = {file["name"]: file for file in self.record["outputs"]}
        found = self._compare_copies("exported", record["outputs"], CONVERT not in self.records)
        tokenizers = {"release": self.record, "training": record.get("training") or {}}
        tokenizers |= {stage: each for stage, each in self.records.items() if each.get("tokenizer")}
        wanted = record.get("tokenizer")
        for name, each in tokenizers.items():
            found += compare_dicts(name, "tokenizer", wanted, each.get("tokenizer"))
        found += compare_corpora("export", record.get("training"), record)
        model = released.get(tokenization.MODEL_FILE)
        if model and wanted and model["sha256"] != wanted.get("sha256"):
            found.append(Difference(model["name"], "sha256", wanted.get("sha256"), model["sha256"]))
        files_said = "the released files are the exported ones"
        files_said += "" if CONVERT in self.records else f" (but for {', '.join(SETTINGS)}, without paths)"
        self.agree(EXPORT, found, f"{files_said}, and all records name one tokenizer")

    def check_converted(self, earlier: list[Job]) -> None:
        """The tokenizer of the release, built again from the SentencePiece model."""
        record = self.records.get(CONVERT)
        if record is None:
            ours = any(file["name"] == tokenization.MODEL_FILE for file in self.record["outputs"])
            self.add(CONVERT, NOT_CHECKED, "the release has no record of it", possible=ours)
            return
        if found := self._compare_copies("converted", record["outputs"]):
            self.agree(CONVERT, found, "")
            return
        self.check_job(Job([record]), earlier)

    def check_test(self) -> None:
        """Which checkpoint and samples a result is of."""
        record, result = self.records.get(TEST), self.record.get("result")
        if record is None:
            said = "the release has a result and no record of it" if result else "the release has no result"
            self.add(TEST, DIFFERS if result else NOT_CHECKED, said, possible=bool(result))
            return
        inputs, exported = record.get("inputs", []), self.records[EXPORT].get("inputs", [])
        found = []
        if not inputs or not exported or inputs[0]["sha256"] != exported[0]["sha256"]:
            tested, released = (files[0]["sha256"] if files else "not named" for files in (inputs, exported))
            found.append(Difference("checkpoint of the result", "sha256", released, tested))
        made = {file["sha256"] for each in self.history if each["stage"] == SAMPLES for file in each["outputs"]}
        if self.history:
            lost = [file for file in inputs[1:] if file["sha256"] not in made]
            found += [Difference(file["name"], "sha256", "no such samples", file["sha256"]) for file in lost]
        printed = {key: result[key] for key in PRINTED if key in (result or {})}
        sha256 = hashlib.sha256(json.dumps(printed).encode() + b"\n").hexdigest()
        kept_back = files.corpus_facts(self.record)["private"] and len(printed) < len(
            PRINTED
        )  # counts of a private text
        if record["outputs"] and not kept_back and record["outputs"][0]["sha256"] != sha256:
            found.append(Difference("result", "sha256", record["outputs"][0]["sha256"], sha256))
        self.agree(TEST, found, "the result is of the exported checkpoint and of recorded samples")

    def check_scores(self, stage: str) -> None:
        """Which weights the result of an evaluation is of, and whether it is what its record and its own values say."""
        score, record = (self.record.get("scores") or {}).get(stage), self.records.get(stage)
        if score is None and record is None:
            return
        if score is None or record is None:
            what = ("result", "record of it") if record is None else ("record of a result", "result")
            self.add(stage, DIFFERS, f"the release has a {what[0]} and no {what[1]}")
            return
        content, found = score["result"], []
        released = [file["sha256"] for file in self.record["outputs"] if file["name"] == WEIGHTS]
        ours = [*released, *(file["sha256"] for file in self.records[EXPORT].get("inputs", [])[:1])]
        measured = content["model"]["weights"]["sha256"]
        if measured not in ours:
            found.append(Difference("weights of the result", "sha256", ours[0] if ours else "not named", measured))
        if stage == results.JGLUE:
            found += [Difference("result", *wrong) for wrong in results.wrong_means(content)]
        sums = results.sums(content)
        if score.get("whole") and not {file["sha256"] for file in record["outputs"]} & set(sums):
            written = next((file["sha256"] for file in record["outputs"]), "not named")
            found.append(Difference("result", "sha256", written, sums[0]))
        self.agree(stage, found, "the result is of the released weights, or of the checkpoint that they are from")

    def check_all(self) -> list[Check]:
        """All checks, in the order in which data goes."""
        jobs = jobs_of(self.history)
        self.check_files()
        self.check_data(jobs)
        to_do = [job for job in jobs if not self.is_done(job)]
        files.require_space(self.work, bytes_needed(to_do), "making text, tokenizer and samples again")
        if not jobs:
            private = files.corpus_facts(self.record)["private"]
            why = "its corpus is private" if private else "it was made without them"
            self.add("text, tokenizer and samples", NOT_CHECKED, f"the release does not hold their records ({why})")
        for stage in dict.fromkeys(each["stage"] for each in self.history if each["stage"] not in (DOWNLOAD, *OPTIONS)):
            said = "of an earlier model, whose training is not repeated"
            self.add(stage, NOT_CHECKED, said, possible=False)
        for number, job in enumerate(jobs):
            self.check_job(job, jobs[:number])
        if EXPORT not in self.records:
            self.add(EXPORT, DIFFERS, "the release has no record of it")
            return self.checks
        self.check_training()
        self.check_export()
        self.check_converted(jobs)
        self.check_test()
        for stage in SCORES:
            self.check_scores(stage)
        for written in (self.record.get("formats") or {}).values():
            said = f"that {written['file']} answers as model.safetensors does was found when it was written"
            self.add(written["file"], NOT_CHECKED, said, possible=False)
        said = "not repeated: nothing here proves that the weights come from the samples, and the losses from them"
        self.add("training and test", NOT_CHECKED, said, possible=False)
        if self.record.get("scores"):
            said = "not repeated: that the weights have these scores was found when they were measured"
            self.add(EVALUATIONS, NOT_CHECKED, said, possible=False)
        return self.checks


# The report


def report(release: Path, checks: list[Check]) -> dict:
    """What stdout gets, as JSON."""
    told = [
        {
            "stage": check.stage,
            "result": check.result,
            "about": check.about,
            "differences": [difference._asdict() for difference in check.differences],
        }
        for check in checks
    ]
    return {
        "release": release.name,
        "verified": not faults(checks),
        "versions": files.versions(*PACKAGES),
        "checks": told,
    }


def faults(checks: list[Check]) -> list[Check]:
    """The checks that keep a release from being verified, those that differ first."""
    differing = [check for check in checks if check.result == DIFFERS]
    return differing + [check for check in checks if check.result == NOT_CHECKED and check.possible]


def require_folders(release: Path, data: Path, work: Path | None) -> None:
    """Refuse what cannot work, before any work."""
    read_release(release)
    if not data.is_dir():
        raise StageError(f"{data} is not a folder: name the folder of the dump, or of the text, with --data")
    for folder in (release, data):
        place, read = (work or Path(tempfile.gettempdir()) / "x").resolve(), folder.resolve()
        if work and (place.is_relative_to(read) or read.is_relative_to(place)):
            raise StageError(f"--work_dir {work} and {folder} must be two folders, neither inside the other")
    if work and work.exists() and not work.is_dir():
        raise StageError(f"--work_dir {work} is a file: name a folder")


@contextlib.contextmanager
def work_folder(asked: Path | None) -> Iterator[Path]:
    """The folder of the runs: one that stays, locked, or a temporary one."""
    if asked is None:
        with files.work_folder(None) as folder:
            yield folder
        return
    asked.mkdir(parents=True, exist_ok=True)
    with files.locked(asked):
        yield asked


def verify(release: Path, data: Path, work: Path | None) -> list[Check]:
    """Check a release against its records and what is in `data`; print the report as JSON.

    With a `work` folder an earlier verification that was ended, or repeated, goes on from what is made already.
    Raises StageError where anything differs, or could be checked and was not.
    """
    require_folders(release, data, work)
    with work_folder(work) as folder:
        checks = Verification(release, data, folder.absolute()).check_all()
    print(json.dumps(report(release, checks), ensure_ascii=False, indent=1), flush=True)
    if found := faults(checks):
        more = f" (and {len(found) - 1} more, above)" if len(found) > 1 else ""
        raise StageError(f"{release} is not verified: {found[0].line()}{more}")
    good = sum(check.result == OK for check in checks)
    repeated = "training, test and evaluations" if checks[-1].stage == EVALUATIONS else "training and test"
    say(f"verified {release}: {good} checks; {repeated} were not repeated")
    return checks
