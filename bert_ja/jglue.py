"""JGLUE (Kurihara et al. 2022, https://github.com/yahoojapan/JGLUE): its tasks, and its own files read into examples.

A folder of the JGLUE repository's files is one folder a task, `jsts-v1.3` and so on, each with JSON files of its
splits; JCoLA (Someya et al. 2024, https://github.com/osekilab/JCoLA) and MARC-ja have the same form.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_ja import draws
from bert_ja.cli import StageError
from bert_ja.sentences import split

SPLITS = ("train", "valid", "test")
GET = "git clone https://github.com/yahoojapan/JGLUE, then pass --data_dir JGLUE/datasets"
GET_JCOLA = "git clone https://github.com/osekilab/JCoLA, then put its data/jcola-v1.0 into --data_dir"
GET_MARC = "Amazon gives the reviews out no longer, so only files that you have of before will do"
NLI = ("contradiction", "entailment", "neutral")
HELD_OUT = 0.1  # of what is trained on, for the choice of a setting, where the validation set itself is trained on
TITLE_END = " [SEP] "  # between title and paragraph in JSQuAD's contexts


@dataclass(frozen=True)
class Answer:
    """An answer that stands in a context from the character `start` on."""

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """What a model reads, and what it should say.

    `texts` are one sentence, a pair of them, a question and its choices, or a question and its context; `label` is the
    number of a class or choice, a degree of similarity, or all answers that count as right.
    """

    texts: tuple[str, ...]
    label: float | int | tuple[Answer, ...]


@dataclass(frozen=True)
class Task:
    """A task: what its files hold, how a model is fine-tuned for it, and what is measured."""

    name: str
    title: str
    kind: str  # regression, classification, choice or spans
    max_length: int  # tokens; those of JGLUE's own experiments
    metrics: tuple[str, ...]  # the first is what a setting is chosen by
    folder: str  # of its files, up to the version
    fields: tuple[str, ...] = ()  # of a line: the texts
    labels: tuple = ()  # of classes, in the order of their numbers
    files: tuple[str, ...] = SPLITS  # names up to the version, by split
    get: str = GET  # how to get its files

    @property
    def classes(self) -> int:
        """Outputs of the model's head."""
        return len(self.labels) or 1


PAIR = ("sentence1", "sentence2")
CHOICES = ("question", *(f"choice{number}" for number in range(5)))
TASKS = {
    task.name: task
    for task in (
        Task("jsts", "JSTS", "regression", 128, ("pearson", "spearman"), "jsts", PAIR),
        Task("jnli", "JNLI", "classification", 128, ("accuracy",), "jnli", PAIR, NLI),
        Task("jsquad", "JSQuAD", "spans", 384, ("f1", "exact_match"), "jsquad"),
        Task(
            "jcommonsenseqa", "JCommonsenseQA", "choice", 64, ("accuracy",), "jcommonsenseqa", CHOICES, tuple(range(5))
        ),
        Task(
            "jcola",
            "JCoLA",
            "classification",
            128,
            ("accuracy", "mcc"),
            "jcola",
            ("sentence",),
            labels=(0, 1),
            files=("in_domain_train", "in_domain_valid"),  # its test sets are not public
            get=GET_JCOLA,
        ),
        Task(
            "marc_ja",
            "MARC-ja",
            "classification",
            512,
            ("accuracy",),
            "marc_ja",
            ("sentence",),
            labels=("negative", "positive"),
            get=GET_MARC,
        ),
    )
}
DEFAULT_TASKS = ("jsts", "jnli", "jsquad", "jcommonsenseqa")


# Files


@dataclass(frozen=True)
class TaskFiles:
    """The files of a task: its version, and the file of each split that is there."""

    version: str  # "v1.3"
    paths: dict[str, Path]


def _version(path: Path) -> tuple[int, ...]:
    """jsts-v1.10 -> (1, 10)"""
    return tuple(map(int, re.findall(r"\d+", path.name.rpartition("-v")[2])))


def find_files(task: Task, data_dir: Path) -> TaskFiles:
    """The files of the newest version of a task in a folder. Raises StageError where there is none."""
    folders = [path for path in data_dir.glob(f"{task.folder}-v*") if path.is_dir() and _version(path)]
    if not folders:
        raise StageError(f"{data_dir} has no {task.folder}-v*, the files of {task.title}: {task.get}")
    folder = max(folders, key=_version)
    found = {
        split: path
        for split, name in zip(SPLITS, task.files, strict=False)
        for path in sorted(folder.glob(f"{name}-v*.json*"))[:1]
    }
    return TaskFiles("v" + folder.name.rpartition("-v")[2], found)


def _damaged(path: Path, where: str, what: str) -> StageError:
    return StageError(f"{path}, {where}, {what}: get the file again")


def _text(row, field: str, wrong: Callable[[str], StageError]) -> str:
    value = row.get(field) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise wrong(f"has no text {field!r}")
    return value


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _label(task: Task, row: dict, wrong: Callable[[str], StageError]) -> float | int:
    if row.get("label") is None:
        raise wrong("has no label, so that nothing can be learned or scored there")
    label = row["label"]
    if task.kind == "regression":
        if not _number(label):
            raise wrong(f"has the label {label!r}, which is no number")
        return float(label)
    if isinstance(label, bool) or label not in task.labels:
        raise wrong(f"has the label {label!r}, which is none of {', '.join(map(str, task.labels))}")
    return task.labels.index(label)


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """The objects of a file with one a line, with the numbers of their lines from 1."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start}", "is not UTF-8 text") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise _damaged(path, f"line {number:,}", "is not a JSON object (cut short?)")
        yield number, row


def _examples(task: Task, path: Path) -> Iterator[Example]:
    for number, row in _rows(path):

        def wrong(what: str, number: int = number) -> StageError:
            return _damaged(path, f"line {number:,}", what)

        yield Example(tuple(_text(row, field, wrong) for field in task.fields), _label(task, row, wrong))


def _answers(question: dict, context: str, wrong: Callable[[str], StageError]) -> tuple[Answer, ...]:
    given = question.get("answers")
    if not isinstance(given, list) or not given:
        raise wrong("has no answers, so that nothing can be learned or scored there")
    for each in given:
        start = each.get("answer_start") if isinstance(each, dict) else None
        text = _text(each, "text", wrong)
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            raise wrong("has an answer that does not stand in the context at answer_start")
    return tuple(Answer(each["text"], each["answer_start"]) for each in given)


def _questions(path: Path) -> Iterator[Example]:
    """The questions of a file in the form of SQuAD 1.1: all of it is one JSON object."""
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{path} is not a JSON object with `data` (cut short?): get the file again") from None
    try:
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        asked = [(paragraph, question) for paragraph in paragraphs for question in paragraph["qas"]]
    except (KeyError, TypeError):
        raise StageError(f"{path} has an article without paragraphs or questions: get the file again") from None
    for paragraph, question in asked:

        def wrong(what: str, question=question) -> StageError:
            name = question.get("id") if isinstance(question, dict) else None
            return _damaged(path, f"question {name}", what)

        context = _text(paragraph, "context", wrong)
        texts = _text(question, "question", wrong), context
        yield Example(texts, _answers(question, context, wrong))


def read(task: Task, path: Path) -> list[Example]:
    """The examples of a file. Raises StageError with the place of a line that is broken or has no label."""
    examples = list(_questions(path) if task.kind == "spans" else _examples(task, path))
    if not examples:
        raise StageError(f"{path} holds no example: get the file again")
    return examples


def _groups(task: Task, examples: list[Example]) -> list[int]:
    """A number for each example, equal for those that share a text, directly or through others.

    JNLI has nearly each pair the other way round too, and several pairs of one image: a part that is held out must not
    show them again. Of questions on a context the title of its article counts, of choices the question.
    """
    leader: dict[str, str] = {}

    def lead(text: str) -> str:
        while leader.setdefault(text, text) != text:
            leader[text] = text = leader[leader[text]]
        return text

    kept = {"spans": lambda texts: (texts[1].partition(TITLE_END)[0],), "choice": lambda texts: texts[:1]}
    texts = [kept.get(task.kind, tuple)(example.texts) for example in examples]
    for first, *others in texts:
        for other in others:
            leader[lead(other)] = lead(first)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(lead(first), len(numbers)) for first, *_ in texts]


def hold_out(
    task: Task, examples: list[Example], seed: int, share: float = HELD_OUT
) -> tuple[list[Example], list[Example]]:
    """(what stays for training, what is drawn for a choice, at most `share` of all), with no group in both.

    Raises StageError where nothing can be drawn: of very few examples, or of those that nearly all share a text.
    """
    groups = np.array(_groups(task, examples))
    sizes = np.bincount(groups)
    room, held = round(share * len(examples)), np.zeros(len(sizes), bool)
    for group in np.argsort(draws.uniform(draws.key(seed, "hold out"), np.arange(len(sizes))), kind="stable"):
        if sizes[group] <= room:
            held[group], room = True, room - sizes[group]
    drawn = held[groups]
    if not drawn.any():
        raise StageError(
            f"{task.title}: of {len(examples):,} validation examples none can be held out, as they are too few or "
            "nearly all have a text in common: fine-tune on a training set, or on more of them"
        )
    return (
        [example for example, out in zip(examples, drawn, strict=True) if not out],
        [example for example, out in zip(examples, drawn, strict=True) if out],
    )


# The overlap with a training text


def sentences_of(task: Task, examples: list[Example]) -> set[str]:
    """The distinct sentences of examples, as `normalised`; of a choice only the question, its choices are words."""
    if task.kind == "choice":
        texts = (example.texts[0] for example in examples)
    elif task.kind == "spans":  # of a context without the title before it
        texts = (
            sentence
            for example in examples
            for text in (example.texts[0], example.texts[1].partition(TITLE_END)[2] or example.texts[1])
            for sentence in split(text)
        )
    else:
        texts = (text for example in examples for text in example.texts)
    return {normalised(text) for text in texts} - {""}


def normalised(sentence: str) -> str:
    """A sentence as two texts are compared: NFKC, without white space at its ends."""
    return unicodedata.normalize("NFKC", sentence).strip()
