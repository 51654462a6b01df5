"""Files between stages: written whole or not at all, each with a record of where it came from.

A record (`train.jsonl.meta.json`; in a folder, `meta.json`) is written last: an output without one is not finished.
Everything in it follows from inputs, options and seed, but for the field `run` (time, host, paths, worker counts).
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bert_ja import __version__
from bert_ja.cli import StageError, say

BLOCK = 1 << 20  # bytes read or hashed at once
MEGABYTE = 1_000_000
JOURNAL, JOURNAL_SECONDS = "journal.json", 5.0  # how often a long work saves how far it is
TEMPORARY, TEMPORARY_SECONDS = "bert-ja-", 60  # name of temporary folders; when one without a lock was left behind
TOKENIZER_RECORD = "tokenizer.meta.json"  # of convert_tokenizer.py, beside the meta.json of a model folder
ORIGIN = ("name", "license", "source", "dump")  # of a corpus
# What a record keeps when later ones carry it along: what it takes to make its outputs again and to compare them.
CARRIED = ("stage", "options", "seed", "versions", "inputs", "outputs", "counts", "tokenizer", "corpus")
_started = time.time()


# Names beside an output


def behind_link(path: Path | str) -> Path:
    """The place that a symbolic link stands for, any other path as it is: outputs go there, and the link stays."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def record_path(output: Path | str) -> Path:
    """data/train.jsonl -> data/train.jsonl.meta.json; a folder model -> model/meta.json; a link -> of what it means."""
    output = behind_link(output)
    return output / "meta.json" if output.is_dir() else output.with_name(output.name + ".meta.json")


def partial_path(output: Path | str) -> Path:
    """data/train.txt -> data/.train.txt.partial, the name under which it is written."""
    output = Path(output)
    return output.with_name(f".{output.name}.partial")


def work_path(output: Path | str) -> Path:
    """data/train.jsonl -> data/.train.jsonl.work, the folder of what is made on the way to it."""
    return Path(output).with_name(f".{Path(output).name}.work")


# Checks before the work


def require_file(path: Path | str, made_by: str) -> Path:
    """The path of a file that exists and is not empty; `made_by` says where it comes from, for the error."""
    path = Path(path)
    if not path.exists():
        raise StageError(f"{path} not found: {made_by}")
    if path.is_dir():
        raise StageError(f"{path} is a folder, a file is needed: {made_by}")
    if path.is_file() and path.stat().st_size == 0:
        raise StageError(f"{path} is empty: {made_by}")
    return path


def open_binary(path: Path | str):
    return open(path, "rb")


def require_text(path: Path | str, made_by: str, opener: Callable = open_binary) -> Path:
    """The path of a file that begins like UTF-8 text of sentences: not compressed, not XML, not JSON.

    `opener` opens it for bytes, for a caller that reads compressed files.
    """
    path = require_file(path, made_by)
    with opener(path) as file:
        head = file.read(4096)
    if head.lstrip().startswith((b"<mediawiki", b"<?xml")):
        raise StageError(f"{path} is XML, text with one sentence a line is needed: {made_by}")
    if head.startswith(b'{"'):
        raise StageError(f"{path} is JSON, text with one sentence a line is needed: {made_by}")
    try:
        head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not only a character cut by the end of the block
            raise StageError(f"{path} is not UTF-8 text (byte {error.start}): {made_by}") from None
    if b"\0" in head:
        raise StageError(f"{path} is not text (it holds zero bytes): {made_by}")
    return path


def require_space(folder: Path | str, needed: int, what: str) -> None:
    """Refuse to start when `folder`, or the one to make it in, is read-only or has fewer than `needed` bytes free."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise StageError(f"{folder} cannot be written to: check its permissions, or write elsewhere")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StageError(
            f"{what} needs about {needed / MEGABYTE:,.0f} MB on the disk of {folder}, but only "
            f"{free / MEGABYTE:,.0f} MB are free: "
            "free some space or write elsewhere"
        )


# Writing


class InUse(StageError):
    """Another run is writing the same output."""


class Output:
    """A binary file that counts and hashes what is written to it."""

    def __init__(self, file, path: Path | None):
        self.file, self.path = file, path
        self.size = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.file.write(data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    def digest(self) -> str:
        """The sha256 of what was written so far."""
        return self._hash.hexdigest()

    def go_on(self, size: int, sha256: str) -> bool:
        """Keep the first `size` bytes that an earlier run wrote, counted and hashed, and drop what it wrote after.

        False where there are fewer, or others.
        """
        self.file.seek(0)
        while block := self.file.read(min(BLOCK, size - self.size)):
            self._hash.update(block)
            self.size += len(block)
        self.file.truncate(self.size)
        return self.size == size and self.digest() == sha256

    def start_over(self) -> None:
        """Drop everything that was written."""
        self.file.seek(0)
        self.file.truncate(0)
        self.size, self._hash = 0, hashlib.sha256()

    def describe(self) -> dict:
        return {"name": self.path.name if self.path else None, "size": self.size, "sha256": self.digest()}


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, output: Path) -> bool:
    """Lock an open file or folder against a second run of the same stage; False when it no longer stands at `path`.

    Another run may have renamed or removed it between our open and our lock. Raises StageError while one holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(f"another run is writing {output} now: wait for it, or end it first") from None
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _open_locked(partial: Path, output: Path):
    """The partial file, locked and emptied."""
    while True:
        left = partial.exists()
        file = open(partial, "ab")
        try:
            if _lock(file.fileno(), partial, output):
                break
        except StageError:
            file.close()
            raise
        file.close()
    if left:
        say(f"{output}: an earlier run did not finish, starting over")
    file.truncate(0)
    return file


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _open_locked_folder(folder: Path, output: Path, keep: bool = False) -> int:
    """A descriptor that locks a folder, made where there is none and emptied unless `keep`."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another run has just finished
            continue
        try:
            if _lock(lock, folder, output):
                break
        except StageError:
            os.close(lock)
            raise
        os.close(lock)
    if not keep:
        _empty(folder)
    return lock


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder that a run writes to for long. Raises InUse while another process holds it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock, folder, folder)
        yield
    finally:
        os.close(lock)


def put_into_place(finished: Path, path: Path) -> None:
    """Rename a finished file that is on the disk to `path`; the record of what stood there goes first."""
    record_path(path).unlink(missing_ok=True)
    os.replace(finished, path)
    sync_folder(path.absolute().parent)


def require_writable(path: Path | str) -> Path:
    """The place of an output file, behind a link. Raises StageError where none can be."""
    path = Path(path)
    if path.is_dir():
        raise StageError(f"{path} is a folder, the name of a file to write is needed")
    if path.exists() and not path.is_file():
        raise StageError(f"{path} is a device or a pipe, and would be replaced by a file: name a file to write")
    path = behind_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def output(path: Path | str, stays: Callable[[], bool] = lambda: False) -> Iterator[Output]:
    """Write `path` beside it under its partial name and rename it into place once complete and on the disk.

    The record of an earlier output goes away at the start of the replacement; after an error nothing is left, or the
    partial file where `stays` says so.
    """
    path = require_writable(path)
    partial = partial_path(path)
    file = _open_locked(partial, path)
    with file:
        try:
            result = Output(file, path)
            yield result
            file.flush()
            os.fsync(file.fileno())
            put_into_place(partial, path)
        except BaseException:
            if not stays():
                partial.unlink(missing_ok=True)  # while it is still locked, so that no other run's goes
            raise


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a small file whole or not at all."""
    with output(path) as file:
        file.write(data)


def stdout_file() -> Path | None:
    """The regular file that standard output goes to (`> FILE`), None for a pipe or a terminal."""
    if not os.path.isfile("/proc/self/fd/1"):
        return None
    path = Path(os.readlink("/proc/self/fd/1"))
    if not path.exists():
        raise StageError(
            "the file behind standard output was replaced or removed, by another run perhaps: run it again"
        )
    return path


class _ShellsOutput(Output):
    """The file behind `> FILE`, which another run's `> FILE` may empty under our hands."""

    def write(self, data: bytes | memoryview) -> int:
        self.require_ours()
        return super().write(data)

    def require_ours(self) -> None:
        """Refuse to go on where bytes that were written are gone: zeros would stand in their place."""
        self.file.flush()
        if self.path is not None and os.fstat(self.file.fileno()).st_size != self.size:
            raise StageError(f"another run wrote to {self.path} meanwhile: run one at a time, each to its own file")


@contextlib.contextmanager
def standard_output(may_append: bool = False) -> Iterator[Output]:
    """Standard output as an Output: `path` is the file behind `> FILE`, so that its record can be written beside it.

    The shell owns that file: what a kill leaves in it has no record, and the next stage refuses it; an error empties
    it. A file that holds something already (`>>`, a log) is refused, or written to without a record (`may_append`).
    """
    path = stdout_file()
    if path is not None and may_append and os.fstat(1).st_size > 0:
        path = None
    if path is not None:
        if os.fstat(1).st_size > 0:
            raise StageError(f"{path} already holds {os.fstat(1).st_size:,} bytes: write with > and not >>")
        record_path(path).unlink(missing_ok=True)
    try:
        with open(1, "wb", closefd=False) as file:
            result = _ShellsOutput(file, path)
            yield result
            result.require_ours()
            if path is not None:
                os.fsync(1)
    except BaseException:
        if path is not None:
            os.ftruncate(1, 0)
            os.lseek(1, 0, os.SEEK_SET)
        raise


@contextlib.contextmanager
def output_folder(path: Path | str, stage: str | None) -> Iterator[Path]:
    """A new folder, filled under its partial name and put into place once complete.

    An earlier folder is replaced only when `stage` wrote it and every file in it is named in a record there; without a
    stage the name is ours alone, and what has it is replaced. Raises InUse while another run is writing it.
    """
    path = behind_link(path)
    if stage is not None:
        require_replaceable(path, stage)
    partial = partial_path(path)
    left = partial.exists()
    lock = _open_locked_folder(partial, path)
    if left:
        say(f"{path}: an earlier run did not finish, starting over")
    try:
        yield partial
        for file in partial.rglob("*"):
            sync_folder(file)  # or file, which takes the same
        replaced = path.with_name(f".{path.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():
            os.replace(path, replaced)
        os.replace(partial, path)
        sync_folder(path.absolute().parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def wait_for(path: Path | str) -> None:
    """Return when no run is writing the folder `path` any more, finished or not."""
    try:
        lock = os.open(partial_path(behind_link(path)), os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


@contextlib.contextmanager
def subfolder(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder in another, gone afterwards."""
    inner = folder / name
    shutil.rmtree(inner, ignore_errors=True)
    inner.mkdir()
    try:
        yield inner
    finally:
        shutil.rmtree(inner, ignore_errors=True)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A locked folder in the system's own place, gone afterwards; those that killed runs left there go before."""
    for left in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # of another user, or gone meanwhile
            if left.is_dir() and time.time() - left.stat().st_mtime > TEMPORARY_SECONDS:
                lock = os.open(left, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(lock)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(lock)


@contextlib.contextmanager
def work_folder(output: Path | None) -> Iterator[Path]:
    """An empty folder for intermediate files beside `output` (or in the system's, for a pipe), gone afterwards.

    What a killed run left in it is removed by the next run of the same output.
    """
    if output is None:
        with _temporary_folder() as folder:
            yield folder
        return
    folder = work_path(output)
    if (folder / JOURNAL).is_file():
        say(f"{output}: what an earlier run kept in {folder.name} is dropped")
    lock = _open_locked_folder(folder, Path(output))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


class Journal:
    """How far a long work is, in a folder beside its output: what an earlier run saved for the same `key`, and saves.

    `state` is a dict of plain values, {} at first. The folder also holds the files that grow meanwhile.
    """

    def __init__(self, folder: Path, key: dict | None):
        self.folder, self._key, self.state = folder, key, {}
        self._saved, self._saving, self._failure = time.monotonic(), None, None
        if key is None:
            return
        if (folder / JOURNAL).is_file():
            with contextlib.suppress(ValueError, AttributeError):
                content = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
                state = content.get("state") if content.get("key") == key else {}
                self.state = state if all(isinstance(part, dict) for part in state.values()) else {}
        if not self.state:
            _empty(folder)

    def is_due(self) -> bool:
        """Whether it is time to save: every JOURNAL_SECONDS, not while a save is under way, never without a key."""
        under_way = self._saving is not None and self._saving.is_alive()
        return self._key is not None and not under_way and time.monotonic() - self._saved >= JOURNAL_SECONDS

    def save(self, state: dict, growing: Iterable) -> None:
        """Put the open files `growing` on the disk, then `state`: both survive a power cut. Nothing without a key.

        A thread does it, lest the work stand still meanwhile; see `wait`. What is written to the files after this call
        does not count as done.
        """
        if self._key is None:
            return
        self.wait()
        descriptors = []
        for file in growing:
            file.flush()
            descriptors.append(file.fileno())
        content = json.dumps({"key": self._key, "state": state}).encode()
        self.state, self._saved = state, time.monotonic()
        self._saving = threading.Thread(target=self._put, args=(descriptors, content))
        self._saving.start()

    def _put(self, descriptors: list[int], content: bytes) -> None:
        try:
            for descriptor in descriptors:
                os.fsync(descriptor)
            write_bytes(self.folder / JOURNAL, content)
        except Exception as error:  # it is for the main thread to fail
            self._failure = error

    def wait(self) -> None:
        """Return when the last save is on the disk. Raises what it failed with."""
        if self._saving is not None:
            self._saving.join()
        failure, self._saving, self._failure = self._failure, None, None
        if failure is not None:
            raise failure

    def clear(self) -> None:
        """Start over; the files that grow are the caller's to empty."""
        self.state = {}
        (self.folder / JOURNAL).unlink(missing_ok=True)


@contextlib.contextmanager
def journal(output: Path | str, key: dict) -> Iterator[Journal]:
    """A Journal for work on `output`, locked; its folder goes when the work is done, and stays for a later run when it
    is ended in any way after a first save. A later run with another key starts over.
    """
    output = require_writable(output)
    folder = work_path(output)
    lock = _open_locked_folder(folder, output, keep=True)
    done, result = False, Journal(folder, None)
    try:
        left = any(folder.iterdir())
        result = Journal(folder, key)
        if left:
            say(f"{output}: an earlier run did not finish, {'going on' if result.state else 'starting over'}")
        yield result
        done = True
    finally:
        with contextlib.suppress(OSError):  # the work has failed for another reason
            result.wait()
        if done or not (folder / JOURNAL).is_file():
            (folder / JOURNAL).unlink(missing_ok=True)  # first, so that nobody goes on with half of the rest
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"what is done of {output} is kept in {folder.name}: run the same command again to go on")
        os.close(lock)


def _names(folder: Path) -> Iterator[str]:
    """The names of everything in a folder, as onnx/model.onnx where it has folders; of these the empty ones alone."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            yield path.relative_to(folder).as_posix()


def require_replaceable(folder: Path | str, stage: str) -> None:
    """Refuse to replace a folder of another stage, or one that holds anything which no record in it names."""
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StageError(f"{folder} is a file, the name of a folder to write is needed")
    written_by = (read_record(folder) or {}).get("stage", stage)
    if written_by != stage:
        raise StageError(f"{folder} was written by {written_by}: name another folder")
    ours = {file["name"] for record in folder.glob("*meta.json") for file in _parse_record(record).get("outputs", [])}
    others = sorted(name for name in _names(folder) if name not in ours and not name.endswith("meta.json"))
    if others:
        raise StageError(
            f"{folder} holds {others[0]}, which this stage did not write: move it away or name another folder"
        )


# Records


def sha256(path: Path | str, on_block: Callable[[bytes], None] = lambda block: None) -> str:
    """The hash of a file of any size; `on_block` sees its bytes, BLOCK at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            on_block(block)
    return digest.hexdigest()


def describe(path: Path | str) -> dict:
    """Name, size in bytes and sha256 of a file, as records hold them."""
    path = Path(path)
    return {"name": path.name, "size": path.stat().st_size, "sha256": sha256(path)}


def names_in(folder: Path | str) -> list[str]:
    """The names of all files of a folder, sorted: ["README.md", "onnx/model.onnx"]."""
    return sorted(name for name in _names(Path(folder)) if (Path(folder) / name).is_file())


def describe_folder(folder: Path | str) -> list[dict]:
    """The same for every file of a folder but its records; the name of one in a folder in it is onnx/model.onnx."""
    names = [name for name in names_in(folder) if not name.endswith("meta.json")]
    return [describe(Path(folder) / name) | {"name": name} for name in names]


def versions(*packages: str) -> dict:
    return {
        "bert-ja": __version__,
        "python": sys.version.split()[0],
        **{package: importlib.metadata.version(package) for package in packages},
    }


def run_facts(**paths) -> dict:
    """What may differ between equal runs: kept apart in the record's field `run`."""
    return {
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - _started, 1),
        "host": socket.gethostname(),
        "command": sys.argv,
        "paths": {name: str(path) for name, path in paths.items()},
    }


def _as_bytes(record: dict) -> bytes:
    return (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()


def write_record(target: Path | str, record: dict, name: str | None = None) -> None:
    """Write the record of an output file or folder that is in its place; `name` for a second record in a folder."""
    write_bytes(Path(target) / name if name else record_path(target), _as_bytes(record))


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file is whatever its name: another after it was replaced; None where there is none."""
    if not path.exists():
        return None
    facts = path.stat()
    return facts.st_dev, facts.st_ino


@contextlib.contextmanager
def record_around(target: Path | str, record: dict) -> Iterator[None]:
    """Write the record of an output under its partial name, let the output be put into place, then the record too.

    So a run that is ended meanwhile leaves no text that could pass for a user's own: the partial record, which stays
    where the output was replaced or lost its earlier record, tells it apart. See `require_finished`.
    """
    path, place = record_path(target), behind_link(target)
    had_record, before = path.exists(), _identity(place)

    def stays() -> bool:
        return place.exists() and not path.exists() and (had_record or _identity(place) != before)

    with output(path, stays) as file:
        file.write(_as_bytes(record))
        file.flush()
        yield


def require_finished(target: Path | str) -> None:
    """Refuse an output whose record was not put into place: its run was killed, or is not through."""
    name, record = Path(target).name, record_path(target)
    if name.startswith(".") and name.endswith(".partial"):
        raise StageError(f"{target} is what a run left that did not finish: run the stage that writes it again")
    unfinished = partial_path(record)
    if unfinished.exists() and not record.exists() and behind_link(target).exists():
        raise StageError(
            f"{target} is not finished, {unfinished.name} stands beside it: run the stage that writes it again, "
            "or remove that file if you put your own text there since"
        )


def _parse_record(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict):
        raise StageError(f"{path} is damaged (not a JSON object): run the stage that wrote it again")
    outputs = record.get("outputs", [])
    if not isinstance(outputs, list) or not all(
        isinstance(file, dict) and {"name", "size"} <= set(file) for file in outputs
    ):
        raise StageError(f"{path} is damaged (its outputs are no list of files): run the stage that wrote it again")
    return record


def read_record(target: Path | str, name: str | None = None) -> dict | None:
    """The record of an output, None where there is none. Raises StageError when it is damaged."""
    path = Path(target) / name if name else record_path(target)
    return _parse_record(path) if path.is_file() else None


def require_record(path: Path | str, stage: str, override: str | None = None) -> dict:
    """The record of a finished output of `stage`; refuses another stage's, a missing one and another size.

    `override` names the option that lets the file through without a record.
    """
    path = Path(path)
    hint = f", or pass {override}" if override else ""
    record = read_record(path)
    if record is None:
        raise StageError(
            f"{path} has no record ({record_path(path).name}), so it may be cut short: make it again with {stage}{hint}"
        )
    if record.get("stage") != stage:
        raise StageError(f"{path} was written by {record.get('stage')}, an output of {stage} is needed")
    expected = {file["name"]: file["size"] for file in record.get("outputs", [])}
    files = {name: path / name for name in expected} if path.is_dir() else {behind_link(path).name: path}
    for name, file in files.items():
        size = file.stat().st_size if file.is_file() else 0
        if size != expected.get(name, size):
            raise StageError(
                f"{file} has {size:,} bytes, its record says {expected[name]:,}: make it again with {stage}{hint}"
            )
    return record


def require_recorded(
    path: Path | str, described: dict, mend: str, on_block: Callable[[bytes], None] = lambda block: None
) -> None:
    """Read a file whole and refuse other bytes than a record `described` (an entry of its outputs).

    `mend` says what to do then; `on_block` sees the bytes.
    """
    path = Path(path)
    size = path.stat().st_size if path.is_file() else None
    if size != described["size"]:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise StageError(f"{path} {found}, its record says {described['size']:,} bytes: {mend}")
    found, said = sha256(path, on_block), str(described.get("sha256"))
    if found != said:
        raise StageError(
            f"{path} holds other bytes than its record says (sha256 {found[:12]} instead of {said[:12]}): {mend}"
        )


# What outputs were made from


def has_recorded_size(path: Path | str, record: dict) -> bool:
    """Whether a file, or every file of a folder, still has the size that its record says."""
    path = behind_link(path)
    sizes = {file["name"]: file["size"] for file in record.get("outputs", [])}
    if path.is_dir():
        return all((path / name).is_file() and (path / name).stat().st_size == size for name, size in sizes.items())
    return path.is_file() and path.stat().st_size == sizes.get(path.name)


def each_once(records: Iterable[dict]) -> list[dict]:
    """Records in their order, without those that are equal to an earlier one."""
    kept: list[dict] = []
    for record in records:
        kept += [] if record in kept else [record]
    return kept


def history(*inputs: Path | str) -> list[dict]:
    """The records of all that the inputs of a stage were made from, theirs included, earliest first and each once.

    Without `run`, and without what is large. A user's own text has none, and a file that was changed since its record
    was written counts as one.
    """
    found = []
    for path in inputs:
        record = read_record(path)
        if record is not None and has_recorded_size(path, record):
            found += [*record.get("history", []), {name: record[name] for name in CARRIED if name in record}]
    return each_once(found)


# What is known of a corpus


def corpus_facts(record: dict | None, private: bool = False) -> dict:
    """Name, license, source and dump of a corpus as a record has them, None where it does not; and `private`.

    `private` makes it so whatever the record says, never the other way round.
    """
    known = (record or {}).get("corpus")
    facts = dict.fromkeys(ORIGIN) | (known if isinstance(known, dict) else {})
    return facts | {"private": private or bool(facts.get("private"))}


def sources(corpus: dict | None) -> list[dict]:
    """The texts that a corpus is made of, each with name, license, source, dump and, of several, its share or None.

    Empty where nothing is known of it. Earlier records name several texts as one, "a; b".
    """
    whole = {name: (corpus or {}).get(name) for name in ORIGIN}
    return (corpus or {}).get("sources") or ([whole] if any(whole.values()) else [])


def distinct_sources(found: list[dict]) -> list[dict]:
    """Each source once, in the order of their first places; the shares of equal ones are added."""
    texts: list[dict] = []
    for each in found:
        origin, share = {name: each.get(name) for name in ORIGIN}, each.get("share")
        same = next((text for text in texts if {name: text[name] for name in ORIGIN} == origin), None)
        if same is None:
            texts.append(origin | {"share": share})
        else:
            same["share"] = None if None in (share, same["share"]) else round(share + same["share"], 6)
    return texts


def merged_corpora(corpora: list[dict], shares: list[float] | None = None) -> dict:
    """What is known of several corpora together, as `corpus_facts` has it: "a; b" where both are known and differ.

    Unknown where one is unknown; private where one is. Where they are of several texts, `sources` lists those, each
    with its part of `shares` unless its corpus has several itself.
    """
    merged = {"private": any(corpus["private"] for corpus in corpora)}
    for name in ORIGIN:
        values = [corpus[name] for corpus in corpora]
        distinct = [value for number, value in enumerate(values) if value not in values[:number]]
        texts = all(isinstance(value, str) for value in distinct)
        merged[name] = distinct[0] if len(distinct) == 1 else "; ".join(distinct) if texts else None
    every = []
    for corpus, share in zip(corpora, shares or [None] * len(corpora), strict=True):
        own = corpus.get("sources") or [{name: corpus.get(name) for name in ORIGIN}]
        part = share / sum(shares) if share is not None and len(own) == 1 else None
        every += [each | {"share": None if part is None else round(part, 6)} for each in own]
    every = distinct_sources(every)
    return merged | ({"sources": every} if len(every) > 1 else {})


def is_private(*inputs: Path | str, asked: bool | None = None) -> bool:
    """Whether what a stage makes of its inputs (texts, samples, folders of tokenizers or models) is private.

    It is when the record of one of them says so, be that edited since or not, or when `asked` (--private_corpus) is
    True. Raises StageError when `asked` is False and a record says otherwise, and for an output that is not finished.
    """
    for path in inputs:
        require_finished(path)
        folder_records = [read_record(path, TOKENIZER_RECORD)] if Path(path).is_dir() else []
        if any(corpus_facts(record)["private"] for record in [read_record(path), *folder_records]):
            if asked is False:
                raise StageError(
                    f"{path} is of a private corpus, as its record says, and so is all that is made from it: "
                    "leave private_corpus out, or name another input"
                )
            return True
    return bool(asked)


def corpus_of(text: Path | str, *others: Path | str, private: bool | None = None) -> dict:
    """What is known of the corpus that a text is from, as `corpus_facts` has it; all None for a user's own text.

    A text that was edited since its record was written counts as the user's own, and that is said; what was private
    stays so. `others` are inputs beside the text, `private` is --private_corpus: see `is_private`.
    """
    found, record = is_private(text, *others, asked=private), read_record(text)
    if record is not None and not has_recorded_size(text, record):
        say(f"warning: {text} was changed after its record was written: its origin and licence count as unknown")
        record = None
    return corpus_facts(record, found)


def shown(text: str, private: bool) -> str:
    """What a message may show of a text, or of a library's words that may quote one: nothing of a private corpus."""
    return "not shown, the corpus is private" if private else text
