"""Results of several models beside each other: whether they may be compared, and a row of scores for each model."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from bert_ja import results, score_curve
from bert_ja.cli import StageError
from bert_ja.results import JGLUE, TEXT, Result, short

# Measures of a text that tell models apart; those of a tokenizer are the same at every step of a run.
OF_A_TEXT = {
    "bits_per_character": "bits a character",
    "fill_mask_accuracy_at_1": "masked words, first guess",
    "fill_mask_content_accuracy_at_1": "content words, first guess",
    "nsp_accuracy": "next sentences",
}


def _require_same(found: Iterable[tuple[object, Result]], what: str, mend: str) -> None:
    """Refuse results with two values of what they must agree on."""
    (first, one), *others = found
    for value, other in others:
        if value != first:
            raise StageError(f"{other.path} {what} {value}, and {one.path} {first}: {mend}")


def _drawn(result: Result) -> str:
    """What was measured: "1,000 sentences of the text with sha256 5a5a5a5a5a5a, drawn by seed 1000"."""
    text = result.content.get("text") or {}
    sentences, seed = (text.get(name) for name in results.DRAWN)
    count = f"{sentences:,}" if isinstance(sentences, int) else "the"
    left = result.content.get("too_long")
    count += f" sentences, less {left:,} too long," if left else " sentences"
    return f"{count} of the text with {short(text.get('sha256'))}, drawn by seed {seed}"


def require_comparable(found: list[Result]) -> None:
    """Refuse results of other tasks, of other parts trained on, or of another text, in one sentence."""
    jglue, text = ([result for result in found if result.stage == stage] for stage in (JGLUE, TEXT))
    if jglue:
        trained = [(result.content["train_split"], result) for result in jglue]
        _require_same(trained, "is of fine-tuning on", "compare results of one part")
    tasks = dict.fromkeys(task for result in jglue for task in result.content["tasks"])
    for task in tasks:
        measured = [result for result in jglue if task in result.content["tasks"]]
        versions = [(result.content["tasks"][task]["version"], result) for result in measured]
        _require_same(versions, f"is of {task}", "compare results of one version")
    if text:
        _require_same([(_drawn(result), result) for result in text], "measures", "compare results on one text and draw")


def _scores(result: Result, part: str) -> dict[str, tuple[float, float | None]]:
    content = result.content
    if result.stage == TEXT:
        return {name: (content[key], None) for key, name in OF_A_TEXT.items() if content[key] is not None}
    return {
        f"{content['tasks'][task]['title']} {results.JGLUE_METRICS[metric][1]}, {results.PARTS[part]}": (
            score["mean"],
            score["sd"],
        )
        for task, metric, scored, score in results.scores(content)
        if scored == part
    }


def _row(result: Result, scores: dict) -> score_curve.Row:
    """Random weights were trained for no steps, whatever the model whose shape they have."""
    model = result.content["model"]
    name = model.get("name") or short(result.weights)
    if result.is_random:
        return score_curve.Row(name, None, None, scores)
    return score_curve.Row(name, model.get("steps"), model.get("tokens"), scores)


def rows(found: list[Result], part: str) -> list[score_curve.Row]:
    """A row for each model, those of unknown steps last; results of the same weights share one.

    Different weights with one name get their sum behind it. JGLUE's scores on its `part` go first.
    Raises StageError where two results have one score of the same weights.
    """
    joined: dict[tuple, tuple[Result, dict]] = {}
    came: dict[tuple, Result] = {}
    for result in sorted(found, key=lambda result: result.stage != JGLUE):
        key = (result.weights, result.is_random)
        first, scores = joined.setdefault(key, (result, {}))
        own = _scores(result, part)
        for name in own:
            if name in scores:
                raise StageError(
                    f"{came[key, name].path} and {result.path} both have {name} of the same weights "
                    f"({short(result.weights)}): name one of them"
                )
            came[key, name] = result
        scores |= own
    names = dict.fromkeys(name for _, name in came)
    whole = [(first, {name: scores.get(name) for name in names}) for first, scores in joined.values()]
    found_rows = [_row(first, scores) for first, scores in whole]
    called = Counter(row.name for row in found_rows)
    return score_curve.in_order(
        dataclasses.replace(row, name=f"{row.name} ({short(first.weights)})") if called[row.name] > 1 else row
        for row, (first, _) in zip(found_rows, whole, strict=True)
    )


def doubts(found: list[Result]) -> list[str]:
    """What of the results of JGLUE was done otherwise, and may be the reason of a difference."""
    how = {
        "seeds": lambda content: content["seeds"],
        "precision": lambda content: content["precision"],
        "settings tried": lambda content: max(len(task.get("tried") or [0]) for task in content["tasks"].values()),
    }
    contents = [result.content for result in found if result.stage == JGLUE]
    values = {name: list(dict.fromkeys(read(content) for content in contents)) for name, read in how.items()}
    return [f"{name} differ: {', '.join(map(str, given))}" for name, given in values.items() if len(given) > 1]
