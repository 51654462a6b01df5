"""What a model card says of the results of the two evaluations: in tables and sentences, and in the Hub's metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bert_ja import disclosure, files, results, scores

# The facts of a template that are of these results. Those that do not apply are not among `values`.
FACTS = (
    *("jglue_training", "jglue_seeds", "jglue", "jglue_settings", "jglue_unreachable", "jglue_overlap"),
    *("measured_text", "text_measures"),
)
HUB_PARTS = {"valid": "validation", "test": "test"}
HUB_TASKS = {  # task of JGLUE -> the Hub's kind of task, its name there
    "jsts": ("sentence-similarity", "Sentence similarity"),
    "jnli": ("text-classification", "Natural language inference"),
    "jcommonsenseqa": ("multiple-choice", "Multiple choice"),
    "jsquad": ("question-answering", "Question answering"),
}
CLASSIFICATION = ("text-classification", "Text classification")
PART_NAMES = {"train": "training"} | results.PARTS


@dataclass(frozen=True)
class Published:
    """What of a result and its record may leave."""

    content: dict
    record: dict
    private: bool  # the text that the model was trained on, or the one it was measured on
    whole: bool  # whether nothing of the file that the record describes is left out

    @property
    def origin(self) -> str | None:
        """The name of the text that was measured, on one line."""
        return " ".join((files.corpus_facts(self.record)["name"] or "").split()) or None


def published(result: results.Result, private: bool) -> Published:
    """A result for a card and a release, of a model whose text is `private` or not."""
    private = private or files.corpus_facts(result.record)["private"]
    content = disclosure.public_result(result.content, private)
    return Published(content, disclosure.public(result.record, private), private, result.is_whole(content))


# The card


def title(content: dict, task: str) -> str:
    """ "JSTS v1.3"."""
    found = content["tasks"][task]
    return f"{found['title']} {found['version']}"


def seeds(content: dict, several: str) -> str:
    """ "one seed", or "mean of 5 seeds"."""
    return "one seed" if content["seeds"] == 1 else f"{several}{content['seeds']:,} seeds"


def jglue_table(content: dict) -> str:
    """A row for each task and metric, a column for each part that has scores."""
    rows: dict[tuple[str, str], dict] = {}
    for task, metric, part, found in results.scores(content):
        rows.setdefault((task, metric), {})[part] = found
    parts = [part for part in results.PARTS if any(part in row for row in rows.values())]
    lines = [["Task", "Measure", *(results.PARTS[part].capitalize() for part in parts)]]
    lines.append(["---"] * len(lines[0]))
    for (task, metric), row in rows.items():
        name = results.JGLUE_METRICS[metric][1]
        lines.append([title(content, task), name, *(scores.shown(row.get(part)) for part in parts)])
    return "\n".join(f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |" for line in lines)


def _setting(task: dict) -> str:
    """ "JSTS: learning rate 5e-05, 4 epochs of batches of 32, at most 128 tokens; the best of 6 settings on ..."."""
    setting, tried, cut = task["setting"], len(task["tried"]), sum((task.get("cut") or {}).values())
    known = [
        f"learning rate {setting['learning_rate']:g}" if "learning_rate" in setting else None,
        f"{setting['epochs']:g} epoch{'s' * (setting['epochs'] != 1)}" if "epochs" in setting else None,
        f"batches of {setting['batch_size']:,}" if "batch_size" in setting else None,
        f"at most {setting['max_length']:,} tokens" if "max_length" in setting else None,
    ]
    said = ", ".join(each for each in known if each) or "settings that are not known"
    said += f" ({cut:,} examples are longer)" if cut else ""
    chosen = "no other setting was tried"
    if tried > 1:
        chosen = f"chosen among {tried:,} settings by the validation part, whose scores are a little too high for that"
    return f"- {task['title']}: {said}; {chosen}"


def _by_part(values: dict, show) -> str:
    return ", ".join(f"{show(values[part])} ({PART_NAMES.get(part, part)})" for part in values)


def _unreachable(content: dict) -> str | None:
    """The share of questions that a model which points at tokens cannot answer."""
    said = []
    for task in content["tasks"].values():
        shares = {part: share for part, share in (task.get("unreachable_answers") or {}).items() if share is not None}
        what = f"Questions of {task['title']} of whose answers none begins and ends where tokens do"
        said += [f"- {what}: {_by_part(shares, '{:.1%}'.format)}"] if shares else []
    return "\n".join(said) or None


def _overlap(content: dict) -> str | None:
    """How many sentences of the tasks stand in the training text too; None where another one may have been read."""
    if content.get("training_text") is not True:
        return None

    def share(counts: dict) -> str:
        return f"{counts['in_training_text']:,} of {counts['sentences']:,}"

    found = {task["title"]: task["overlap"] for task in content["tasks"].values() if task.get("overlap")}
    said = "; ".join(f"{name} {_by_part(parts, share)}" for name, parts in found.items())
    return f"- Sentences of the tasks that stand in the training text too: {said}" if said else None


def _jglue_values(content: dict, private: bool) -> Iterator[tuple[str, str | None]]:
    train = content["train_split"]
    held_out = "nine tenths of the validation part, the rest of which is what validation means here,"
    known = {results.TRAIN: "the training part", "valid": held_out}
    yield "jglue_training", known.get(train, f"the part {train}")
    yield "jglue_seeds", seeds(content, "mean ± standard deviation of ")
    yield "jglue", jglue_table(content)
    yield "jglue_settings", "\n".join(map(_setting, content["tasks"].values()))
    if unreachable := _unreachable(content):
        yield "jglue_unreachable", unreachable
    if not private:
        yield "jglue_overlap", _overlap(content)


def _measured_text(content: dict, origin: str | None, private: bool) -> str:
    """ "1,000 sentences (40,000 characters) of jawiki"."""
    of = origin or ("a private text" if private else "a text of unknown origin")
    counts = [content.get(name) for name in ("sentences", "characters")]
    if private or None in counts:
        return of
    long = content.get("too_long")
    left = f", without {long:,} sentences that are too long for the model" if long else ""
    return f"{counts[0]:,} sentences ({counts[1]:,} characters) of {of}{left}"


def _text_values(content: dict, origin: str | None, private: bool) -> Iterator[tuple[str, str | None]]:
    yield "measured_text", _measured_text(content, origin, private)
    known = {name: content[key] for key, name in results.TEXT_MEASURES.items() if content[key] is not None}
    rows = [f"| {name} | {value:.4f} |" for name, value in known.items()]
    yield "text_measures", "\n".join(["| Measure | Value |", "|---|---|", *rows])


def values(evaluated: Mapping[str, Published]) -> dict[str, str | None]:
    """Those of FACTS that the results of the evaluations, by stage, say something of; None for what is not known."""
    jglue, text = evaluated.get(results.JGLUE), evaluated.get(results.TEXT)
    found = dict(_jglue_values(jglue.content, jglue.private)) if jglue else {}
    return found | (dict(_text_values(text.content, text.origin, text.private)) if text else {})


def said(evaluated: Mapping[str, Published]) -> str | None:
    """One line for a changelog: "JGLUE (JSTS, JNLI)"."""
    jglue = evaluated.get(results.JGLUE)
    names = [f"JGLUE ({', '.join(task['title'] for task in jglue.content['tasks'].values())})"] if jglue else []
    names += ["a text without fine-tuning"] if results.TEXT in evaluated else []
    return f"Scores on {' and '.join(names)} stand in the model card" if names else None


# The metadata


def _jglue_results(content: dict) -> Iterator:
    from huggingface_hub import EvalResult

    trained = "" if content["train_split"] == results.TRAIN else f", fine-tuned on {content['train_split']}"
    for task, metric, part, found in results.scores(content):
        if (content["train_split"], part) == ("valid", "valid"):
            continue
        kind, name = results.JGLUE_METRICS[metric]
        task_type, task_name = HUB_TASKS.get(task, CLASSIFICATION)
        yield EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type="jglue",  # the files of its authors: data sets of the Hub with that name have other versions
            dataset_name=f"JGLUE {title(content, task)}",
            dataset_config=task,
            dataset_split=HUB_PARTS[part],
            dataset_revision=content["tasks"][task]["version"],
            metric_type=kind,
            metric_name=f"{name} ({seeds(content, 'mean of ')}{trained})",
            metric_value=found["mean"],
        )


def _text_results(content: dict, origin: str | None) -> Iterator:
    from huggingface_hub import EvalResult

    for key, (kind, name) in results.TEXT_METRICS.items():
        if content[key] is not None:
            pairs = key == "nsp_accuracy"
            yield EvalResult(
                task_type="text-classification" if pairs else "fill-mask",
                task_name="Next sentence prediction" if pairs else "Masked language modelling",
                dataset_type=origin or "unknown",
                dataset_name=f"{origin}, running text" if origin else "a text of unknown origin",
                metric_type=kind,
                metric_name=name,
                metric_value=content[key],
            )


def eval_results(evaluated: Mapping[str, Published]) -> list:
    """The scores as EvalResults of huggingface_hub, those on a part of the validation set not among them."""
    jglue, text = evaluated.get(results.JGLUE), evaluated.get(results.TEXT)
    found = list(_jglue_results(jglue.content)) if jglue else []
    return found + (list(_text_results(text.content, text.origin)) if text else [])
