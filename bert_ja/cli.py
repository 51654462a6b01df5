"""The door of every stage: strict command lines, and errors of one sentence.

Fire alone runs the whole stage before it complains about a misspelt flag, and reads `[MASK]` as a list and `20210620`
as a number. So `run(main)` checks names and types against main's signature before any work; Fire writes the help.
"""

import contextlib
import ctypes
import difflib
import errno
import inspect
import os
import signal
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator

# Nothing leaves this machine unless release_model.py is told to push: no look-ups, no telemetry.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",  # its uploads are several commits, by a client with connections and logs of its own
    "TOKENIZERS_PARALLELISM": "false",
    "GOMP_SPINCOUNT": "10000",  # of libgomp's 300,000: beside other work, long spinning made a step twice as slow
}.items():
    os.environ.setdefault(_name, _value)

PR_SET_PDEATHSIG = 1  # prctl(2)
PARENT = "BERT_JA_PARENT"  # environment variable: the process of a script that must not leave its stages behind
RANK = "BERT_JA_RANK"  # environment variable: the number of this process among those of a run; 0 speaks for all
OTHERS_SECONDS = 10  # in which a process that hit the error of all is ended by whoever started it
# What the system says to a path that cannot be used.
PATH_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR),
    *(errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG),  # EEXIST: a file where a folder is to be made
)
TRUE_WORDS = ("true", "yes", "1")
FALSE_WORDS = ("false", "no", "0")
NONE_WORDS = ("none", "null")


class StageError(Exception):
    """What is wrong, the value, and what to do next, in one sentence for the user."""


def _accepted_types(annotation) -> tuple:
    """(int, NoneType) for `int | None`, (str,) for `str`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def convert(text: str, annotation):
    """The value that `text` stands for under a type annotation: ("False", bool) -> False, ("[MASK]", str) -> "[MASK]".

    Raises ValueError, with the expected form as its message, when the text does not fit.
    """
    accepted = _accepted_types(annotation)
    if type(None) in accepted and text.lower() in NONE_WORDS:
        return None
    if bool in accepted:
        if text.lower() in TRUE_WORDS + FALSE_WORDS:
            return text.lower() in TRUE_WORDS
        raise ValueError("True or False")
    for number, name in ((int, "a whole number"), (float, "a number")):
        if number in accepted:
            try:
                return number(text)
            except ValueError:
                raise ValueError(name) from None
    return text


def _split_flag(token: str) -> tuple[str, str | None]:
    """'--max-seq-len=512' -> ('max_seq_len', '512'); '--get_raw' -> ('get_raw', None)."""
    name, equals, value = token[2:].partition("=")
    return name.replace("-", "_"), value if equals else None


def _short_flag(token: str, options: list[str]) -> str:
    """'-b' -> '--buffer_size' where no other option begins with b, as Fire's help offers it; else the token."""
    if len(token) != 2 or token[0] != "-" or not token[1].isalpha():
        return token
    meant = [name for name in options if name.startswith(token[1])]
    return f"--{meant[0]}" if len(meant) == 1 else token


def _unknown(name: str, known: list[str], program: str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean --{close[0]}?" if close else f"see python3 {program} --help"
    return f"--{name} is not an option of {program} ({hint})"


def _follows_as_value(rest: list[str], annotation, files_follow: bool) -> bool:
    """Whether the token after a flag is its value: not before another flag, nor when a bool stands before a file."""
    if not rest or rest[0].startswith("--"):
        return False
    may_stand_alone = bool in _accepted_types(annotation) and files_follow
    return not may_stand_alone or rest[0].lower() in TRUE_WORDS + FALSE_WORDS


def _not_text(argv: list[str]) -> list[str]:
    """What is wrong with words that cannot go into a record: bytes that are no text come in as lone surrogates."""
    wrong = [token for token in argv if any("\ud800" <= character <= "\udfff" for character in token)]
    return [f"{ascii(token)} is not text in this locale: rename it, or set LC_ALL=C.UTF-8" for token in wrong]


def _read(
    argv: list[str], hints: dict, options: list[str], files_follow: bool, program: str
) -> tuple[list, dict, list]:
    """(words that belong to no option, {option: its text}, what is wrong) of a command line."""
    positional, texts, problems = [], {}, []
    rest = list(argv)
    while rest:
        token = _short_flag(rest.pop(0), options)
        if not token.startswith("--"):
            positional.append(token)
            continue
        name, value = _split_flag(token)
        if name not in options and name.startswith("no") and hints.get(name[2:]) is bool and value is None:
            name, value = name[2:], "False"
        hint = hints[name] if name in options else str
        if value is None and _follows_as_value(rest, hint, files_follow):
            value = rest.pop(0)
        if name not in options:
            problems.append(_unknown(name, options, program))
        elif value is None and bool not in _accepted_types(hint):
            problems.append(f"--{name} needs a value")
        else:
            problems += [f"--{name} is given twice"] if name in texts else []
            texts[name] = "True" if value is None else value
    return positional, texts, problems


def parse(main: Callable, argv: list[str], program: str) -> tuple[list, dict]:
    """Arguments for `main(*files, **options)` from a command line, checked against its signature.

    Raises StageError that names every unknown option, wrong type and missing value at once.
    """
    parameters = inspect.signature(main).parameters
    hints = typing.get_type_hints(main)
    files = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    options = [name for name in parameters if name != files]
    required = [name for name in options if parameters[name].default is inspect.Parameter.empty]
    positional, values, problems = _read(argv, hints, options, files is not None, program)
    problems = _not_text(argv) + problems
    if files is None:
        for name in [n for n in required if n not in values][: len(positional)]:
            values[name] = positional.pop(0)
        problems += [f"{extra!r} is not expected (options are written --name value)" for extra in positional]
        positional = []
    problems += [f"--{name} is required" for name in required if name not in values]
    for name, value in values.items():
        try:
            values[name] = convert(value, hints[name])
        except ValueError as expected:
            problems.append(f"--{name} must be {expected}, got {value!r}")
    if problems:
        raise StageError("; ".join(problems))
    return positional, values


def require(checks: dict[str, bool]) -> None:
    """Raise one StageError that holds every sentence of `checks` whose condition is false."""
    problems = [sentence for sentence, holds in checks.items() if not holds]
    if problems:
        raise StageError("; ".join(problems))


def rank() -> int:
    """The number of this process in a training run on several devices; 0 everywhere else."""
    return int(os.environ.get(RANK, 0))


def say(message: str) -> None:
    """One line of talk on stderr, if this process speaks; stdout is for results."""
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a body that takes milliseconds: renames that belong together, a new process.

    The mask of signals would not do: the system gives a signal to any thread, and Python to the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = []
    before = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting and callable(before):
        before(signal.SIGINT, waiting[0])


def _leave(program: str, message: str, code: int) -> typing.NoReturn:
    where = ""
    if rank() > 0:
        # All processes of a run hit most errors alike. Process 0 says those and ends, and the others with it; what this
        # one still lives to say happened here alone.
        time.sleep(OTHERS_SECONDS)
        where = f"process {rank()} of the run: "
    print(f"{program}: error: {where}{' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn what the user can mend into one line on stderr and exit code 2; a bug of ours keeps its traceback."""
    try:
        yield
    except StageError as error:
        _leave(program, str(error), 2)
    except KeyboardInterrupt:
        if rank() > 0:
            sys.exit(130)
        _leave(program, "interrupted: nothing half-written is left; run the same command again", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at exit has somewhere to go
        _leave(program, "the reader of standard output went away", 141)
    except MemoryError:
        _leave(program, "out of memory: close other programs, or run it with fewer --num_workers where it has them", 2)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _leave(program, f"the disk is full{where}: free some space and run the same command again", 2)
        if error.errno in PATH_ERRORS:
            _leave(program, f"{error.strerror}{where}: check the path and its permissions", 2)
        raise


def end_with_parent(parent: int, by: signal.Signals) -> None:
    """Have the system send us a signal when our parent process ends, kill -9 included."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _open_standard_streams() -> None:
    """Put /dev/null where the caller closed stdin, stdout or stderr, lest an output get its number, and our talk."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))


def run(main: Callable, program: str | None = None) -> None:
    """Run a stage's `main` from sys.argv; `program` is what the user called, when that is not the script itself."""
    _open_standard_streams()
    if os.environ.get(PARENT) == str(os.getppid()):
        end_with_parent(os.getppid(), signal.SIGTERM)
    program = program or os.path.basename(sys.argv[0])
    if "--help" in sys.argv[1:] or "-h" in sys.argv[1:]:
        import fire

        fire.Fire(main, command=["--help"], name=program)
        return
    with one_line_errors(program):
        files, options = parse(main, sys.argv[1:], program)
        main(*files, **options)
