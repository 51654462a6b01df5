"""Results of the two evaluations of a model: read with their records, unchanged since, in the shape that others need.

evaluate_jglue.py leaves a folder with jglue.json, evaluate_text.py a file, which may hold results of several models.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bert_ja import files
from bert_ja import scores as jglue_scores
from bert_ja.cli import StageError

JGLUE, TEXT = "evaluate_jglue.py", "evaluate_text.py"
JGLUE_FILE = "jglue.json"  # in the folder of evaluate_jglue.py
TRAIN = "train"  # the part of JGLUE that a fine-tuning is meant to see
PARTS = {"valid": "validation", "test": "test"}  # that scores are of, and their names
JGLUE_METRICS = {  # key of a score -> the Hub's metric, its name here
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "accuracy": ("accuracy", "Accuracy"),
    "mcc": ("matthews_correlation", "Matthews correlation"),
    "exact_match": ("exact_match", "Exact match"),
    "f1": ("f1", "F1"),
}
TEXT_METRICS = {  # key of a measure of the model -> the Hub's metric, its name here
    "bits_per_character": ("bits_per_character", "Pseudo-likelihood (bits a character)"),
    "pseudo_perplexity_per_character": ("perplexity", "Pseudo-perplexity a character"),
    "bits_per_character_single_masks": (
        "bits_per_character_single_masks",
        "Pseudo-likelihood, each token masked alone (bits a character)",
    ),
    "fill_mask_accuracy_at_1": ("accuracy", "Masked words filled at the first guess (share)"),
    "fill_mask_accuracy_at_5": ("accuracy", "Masked words filled in five guesses (share)"),
    "fill_mask_content_accuracy_at_1": ("accuracy", "Masked content words filled at the first guess (share)"),
    "fill_mask_content_accuracy_at_5": ("accuracy", "Masked content words filled in five guesses (share)"),
    "nsp_accuracy": ("accuracy", "Next sentences told from others (share)"),
}
TOKENIZER_MEASURES = {  # of its tokenizer on the same text
    "characters_per_token": "Characters a token",
    "unknown_rate": "Unknown tokens (share)",
    "whole_word_rate": "Words that are one token (share)",
    "word_border_rate": "Words that begin and end where tokens do (share)",
}
TEXT_MEASURES = {key: name for key, (_, name) in TEXT_METRICS.items()} | TOKENIZER_MEASURES
TEXT_COUNTS = ("sentences", "characters", "tokens", "too_long", "nsp_pairs")
TEXT_COUNTS += ("fill_mask_words", "fill_mask_content_words")
DRAWN = ("drawn_sentences", "seed")  # what was drawn of a text
MEAN_DIGITS = 1e-5  # by which a mean may differ from that of its values


@dataclass(frozen=True)
class Result:
    """What one evaluation found of one model."""

    path: Path  # where it was read
    stage: str  # JGLUE or TEXT
    content: dict
    record: dict  # of the file or folder it stands in
    sha256: str  # of the file

    @property
    def weights(self) -> str:
        """The sha256 of the weights that were measured."""
        return self.content["model"]["weights"]["sha256"]

    @property
    def is_random(self) -> bool:
        """Whether not these weights were measured, but random ones of their shape."""
        return bool(self.content.get("random_weights"))

    def is_whole(self, content: dict) -> bool:
        """Whether the file holds this content and nothing else."""
        return self.sha256 in sums(content)


def short(sha256: str | None) -> str:
    return f"sha256 {str(sha256)[:12]}"


def sums(content: dict) -> list[str]:
    """The sha256 of a file with this content, in one line and as records are written."""
    texts = (json.dumps(content), json.dumps(content, ensure_ascii=False, indent=1))
    return [hashlib.sha256(f"{text}\n".encode()).hexdigest() for text in texts]


# Their shape


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


def _is_line(value) -> bool:
    return isinstance(value, str) and value.isprintable()


def _require_object(value, name: str, required: tuple[str, ...] = ()) -> None:
    _require(isinstance(value, dict), f"{name} is no JSON object")
    for key in required:
        _require(key in value, f"{name}.{key}".removeprefix("it.") + " is missing")


def _check_model(content) -> None:
    """A result says which weights it is of, and how long they were trained, where that is known."""
    _require_object(content, "it", ("model",))
    model = content["model"]
    _require_object(model, "model", ("weights",))
    _require_object(model["weights"], "model.weights", ("sha256",))
    _require(isinstance(model["weights"]["sha256"], str), "model.weights.sha256 is no text")
    _require(isinstance(model.get("name") or "", str), "model.name is no text")
    for name in ("steps", "tokens"):
        value = model.get(name)
        _require(value is None or _is_count(value), f"model.{name} is {value}")


def _check_numbers(value, name: str) -> None:
    """{"train": 0.01, "valid": 0.02}, or nothing."""
    _require_object(value or {}, name)
    for key, number in (value or {}).items():
        _require(number is None or _is_number(number), f"{name}.{key} is {number}")


def _check_score(score, name: str, seeds: int) -> None:
    """{"mean": 0.9, "sd": 0.01, "values": [...]}, a value a seed."""
    _require_object(score, name, ("mean", "sd", "values"))
    values = score["values"]
    _require(isinstance(values, list) and len(values) == seeds, f"{name}.values are not {seeds}")
    numbers = [("mean", score["mean"]), ("sd", 0 if score["sd"] is None else score["sd"])]
    for key, value in [*numbers, *(("values", value) for value in values)]:
        _require(_is_number(value), f"{name}.{key} is {value}")


def _check_task(task, name: str, seeds: int) -> None:
    _require_object(task, name, ("title", "version", "setting", "tried", "scores"))
    for key in ("title", "version"):
        _require(_is_line(task[key]), f"{name}.{key} is no text")
    _require_object(task["setting"], f"{name}.setting")
    _check_numbers({key: each for key, each in task["setting"].items() if not isinstance(each, str)}, f"{name}.setting")
    _require(isinstance(task["tried"], list), f"{name}.tried is no list")
    for key in ("examples", "cut", "unreachable_answers"):
        _check_numbers(task.get(key), f"{name}.{key}")
    _require_object(task.get("overlap") or {}, f"{name}.overlap")
    for part, counts in (task.get("overlap") or {}).items():
        _require_object(counts, f"{name}.overlap.{part}", ("sentences", "in_training_text"))
        for key, count in counts.items():
            _require(_is_count(count), f"{name}.overlap.{part}.{key} is {count}")
    _require_object(task["scores"], f"{name}.scores")
    _require(bool(task["scores"]), f"{name}.scores is empty")
    for metric, parts in task["scores"].items():
        _require(metric in JGLUE_METRICS, f"{name}.scores.{metric} is no score that is known here")
        _require_object(parts, f"{name}.scores.{metric}")
        _require(bool(parts) and set(parts) <= set(PARTS), f"{name}.scores.{metric} is of {', '.join(parts)}")
        for part, score in parts.items():
            _check_score(score, f"{name}.scores.{metric}.{part}", seeds)


def check_jglue(content) -> None:
    """ValueError unless this is what evaluate_jglue.py found, whole or as much as a release keeps; numbers finite."""
    _check_model(content)
    _require_object(content, "it", ("random_weights", "train_split", "seeds", "tasks"))
    _require(isinstance(content["random_weights"], bool), f"random_weights is {content['random_weights']}")
    _require(_is_line(content["train_split"]), f"train_split is {content['train_split']}")
    seeds = content["seeds"]
    _require(_is_count(seeds) and seeds > 0, f"seeds is {seeds}")
    _require_object(content["tasks"], "tasks")
    _require(bool(content["tasks"]), "tasks is empty")
    for name, task in content["tasks"].items():
        _check_task(task, f"tasks.{name}", seeds)


def check_text(content) -> None:
    """ValueError unless this is what evaluate_text.py found of one model; a measure that it has not is null."""
    _check_model(content)
    _require_object(content, "it", tuple(TEXT_MEASURES))
    for key in TEXT_MEASURES:
        value = content[key]
        _require(_is_number(value) or (value is None and key != "bits_per_character"), f"{key} is {value}")
    for key in TEXT_COUNTS:
        _require(content.get(key) is None or _is_count(content[key]), f"{key} is {content.get(key)}")
    _require_object(content.get("text") or {}, "text")


CHECKS = {JGLUE: check_jglue, TEXT: check_text}


def parse(text: str, stage: str) -> list[dict]:
    """The results in a file, one a model. Raises ValueError for what is none."""
    content = json.loads(text)
    several = isinstance(content, dict) and stage == TEXT and "results" in content
    found = content["results"] if several else [content]
    _require(isinstance(found, list) and bool(found), "results is no list of results")
    for each in found:
        CHECKS[stage](each)
    return found


def scores(content: dict) -> Iterator[tuple[str, str, str, dict]]:
    """(task, metric, part, {"mean": ..., "sd": ..., "values": ...}) of each score of JGLUE."""
    for task, found in content["tasks"].items():
        for metric, parts in found["scores"].items():
            for part in PARTS:
                if part in parts:
                    yield task, metric, part, parts[part]


def wrong_means(content: dict) -> list[tuple[str, float, float]]:
    """(name, what follows from the values, what is said) of means and deviations that are not those of their values."""
    found = []
    for task, metric, part, score in scores(content):
        expected = jglue_scores.summary(score["values"])
        for key in ("mean", "sd"):
            value, said = expected[key], score[key]
            same = said == value if None in (said, value) else math.isclose(said, value, abs_tol=MEAN_DIGITS)
            found += [] if same else [(f"{task}.{metric}.{part}.{key}", value, said)]
    return found


# Files


def read(path: Path | str, again: str, stage: str | None = None) -> list[Result]:
    """The results in a file of either evaluation, or of `stage`, or in a folder of evaluate_jglue.py.

    Raises StageError where it is none, has no record or was changed since; `again` says what to do then.
    """
    path = Path(path) / JGLUE_FILE if Path(path).is_dir() else Path(path)
    file = files.behind_link(files.require_file(path, again))
    place = file.parent if file.name == JGLUE_FILE else file
    stages = (stage,) if stage else (JGLUE, TEXT)
    said = (files.read_record(place) or {}).get("stage")
    record = files.require_record(place, said if said in stages else " or ".join(stages))
    described = {each["name"]: each.get("sha256") for each in record["outputs"]}
    found = files.sha256(file)
    if found != described.get(file.name):
        raise StageError(
            f"{path} was changed after {said} wrote it ({short(found)}, its record says "
            f"{short(described.get(file.name))}): {again}"
        )
    try:
        contents = parse(file.read_text(encoding="utf-8"), said)
    except ValueError as error:
        raise StageError(f"{path} is not a result of {said} ({error}): {again}") from None
    return [Result(path, said, content, record, found) for content in contents]
