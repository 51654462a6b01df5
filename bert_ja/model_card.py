"""The model card and changelog of a release, written from records alone: what they do not say is not in them.

`public` takes out of a record what concerns one machine only, and what a private corpus keeps for itself. The card's
metadata is what the Hub reads: its licence, widget and model-index.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bert_ja import files

PROMPT = "専門として[MASK]を専攻しています"  # of the widget and the example, as published
PATH = re.compile(r"""(?:^|[\s"'(=,;])(?:/|~/|\\\\|file:|[A-Za-z]:[\\/])\S""")  # but not https://, CC BY-SA 3.0/GFDL
MLM_METRICS = {  # key of test.py's result -> the Hub's metric, its name here
    "mlm_loss": ("loss", "MLM loss (nats a masked token)"),
    "perplexity": ("perplexity", "MLM perplexity"),
    "mlm_accuracy": ("accuracy", "MLM accuracy"),
}
NSP_METRICS = {
    "nsp_loss": ("loss", "NSP loss (nats a sample)"),
    "nsp_accuracy": ("accuracy", "NSP accuracy"),
}
TOTAL = {"test_loss": ("loss", "Test loss (MLM + NSP)")}
COUNTS = ("samples", "tokens")
CC_BY_SA = "https://creativecommons.org/licenses/by-sa/4.0/"
RESULT_KEYS = (*TOTAL, *MLM_METRICS, *NSP_METRICS, *COUNTS)
OF_THE_TEXT = ("dump", "counts", "samples", "unigram_entropy")  # what records say of it beyond name, licence, source


# Records without what is private


def strings(value) -> Iterator[str]:
    """Every string of a record that `public` would keep if it held no path."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if _is_public(name):
                yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _is_public(name: str) -> bool:
    return name != "run" and not name.startswith("_")


def has_path(text: str) -> bool:
    """Whether a text names a place on a machine: "my text, /home/taro/a.txt", but not "https://ja.wikipedia.org/"."""
    return PATH.search(text) is not None


def public(value, private: bool = False):
    """A record without `run`, without names that begin with _, and with None where a string holds a path.

    That of a `private` corpus is also without what it says of the text beyond name, licence and source.
    """
    if isinstance(value, dict):
        left_out = OF_THE_TEXT if private else ()
        return {n: public(inner, private) for n, inner in value.items() if _is_public(n) and n not in left_out}
    if isinstance(value, list):
        return [public(inner, private) for inner in value]
    return None if isinstance(value, str) and has_path(value) else value


# Facts


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a card is written from; the records as `public` leaves them."""

    name: str
    license: str  # of the model, as the Hub abbreviates it: cc-by-sa-4.0
    model: dict  # record of export_model.py
    tokenizer: dict  # record of convert_tokenizer.py
    config: dict  # config.json
    parameters: int
    test: dict | None = None  # what test.py printed
    test_record: dict | None = None

    @property
    def private(self) -> bool:
        """Whether the text that the model and its vocabulary come from is."""
        return any(files.corpus_facts(record)["private"] for record in (self.model, self.tokenizer))

    @property
    def training(self) -> dict:
        return self.model.get("training") or {}

    @property
    def corpus(self) -> dict:
        """Name, licence, source and dump of the training text; all None for a text of unknown origin."""
        known = self.training.get("corpus") or {}
        return {name: known.get(name) for name in ("name", "license", "source", "dump")}

    @property
    def is_wikipedia(self) -> bool:
        return "wikipedia" in (self.corpus["source"] or "").lower()

    def unknown(self) -> list[str]:
        """What a reader of the card would want to know and the records do not say."""
        corpus = self.corpus
        wanted = {
            "the name of the training text": corpus["name"],
            "the source of the training text": corpus["source"],
            "the licence of the training text": corpus["license"],
            "the dump of the training text": corpus["dump"] or not self.is_wikipedia or self.private,
            "how many samples there were": self.training.get("counts") or self.private,
            "the model's test result": self.test,
        }
        return [name for name, known in wanted.items() if not known]


def parse_result(text: str) -> dict:
    """What test.py printed; ValueError unless it is one JSON object of finite numbers (None for an NSP left out)."""
    result = json.loads(text)
    if not isinstance(result, dict):
        raise ValueError("no JSON object")
    for key in RESULT_KEYS:
        if key not in result:
            raise ValueError(f"{key} is missing")
        value = result[key]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number and not (value is None and key in NSP_METRICS):
            raise ValueError(f"{key} is {value}")
    return {key: result[key] for key in RESULT_KEYS}


def count_parameters(weights: Path) -> int:
    """Numbers in a safetensors file; tied weights stand in it once."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as file:
        names = list(file.keys())
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


# Metadata


def _results(facts: Facts) -> list:
    """The measured values of test.py as EvalResults; none where nothing was measured."""
    from huggingface_hub import EvalResult

    if facts.test is None:
        return []
    origin = ((facts.test_record or {}).get("corpus") or {}).get("name")
    tasks = (
        ("fill-mask", "Masked language modelling", TOTAL | MLM_METRICS),
        ("text-classification", "Next sentence prediction", NSP_METRICS),
    )
    return [
        EvalResult(
            task_type=task,
            task_name=task_name,
            dataset_type=_line(origin or "unknown"),
            dataset_name=f"{_line(origin)}, test samples" if origin else "test samples of unknown origin",
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=facts.test[key],
        )
        for task, task_name, metrics in tasks
        for key, (metric, name) in metrics.items()
        if facts.test[key] is not None
    ]


def metadata(facts: Facts):
    """The card's YAML front matter as a huggingface_hub.ModelCardData."""
    from huggingface_hub import ModelCardData

    results = _results(facts)
    return ModelCardData(
        language="ja",
        license=facts.license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["bert", "japanese", "masked-lm"],
        datasets=["wikipedia"] if facts.is_wikipedia else None,
        widget=[{"text": PROMPT}],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


# Text


def _line(text: str) -> str:
    """A record's text on one line, so that it cannot begin a heading or end the front matter."""
    return " ".join(text.split())


def _bullets(items: Iterable[str | None]) -> str:
    return "\n".join(f"- {item}" for item in items if item)


def _dump(dump: dict) -> str:
    date = f"of {dump['date']}" if dump.get("date") else "of unknown date"
    file = f", `{_line(dump['file'])}`" if dump.get("file") else ""
    sums = "".join(f", {kind} `{dump[kind]}`" for kind in ("sha256", "sha1") if dump.get(kind))
    return f"Dump: {date}{file}{sums}"


def _pairs(counts: dict) -> str:
    """What a share of the samples is for the second task, where they have one."""
    for name, what in (("random_pairs", "a random second part"), ("swapped_pairs", "their two parts exchanged")):
        if name in counts:
            return f", {counts[name] / counts['samples']:.1%} with {what}"
    return ""


def _data(facts: Facts) -> str:
    corpus, counts = facts.corpus, facts.training.get("counts")
    samples = (facts.training.get("samples") or {}).get("train") or []
    if not any(corpus.values()):
        origin = ["The origin and the licence of the training text are unknown: no record says them."]
    else:
        origin = [
            f"Corpus: {_line(corpus['name'])}" if corpus["name"] else "Corpus: unknown",
            f"Source: {_line(corpus['source'])}" if corpus["source"] else "Source: unknown",
            f"Licence of the text: {_line(corpus['license'])}" if corpus["license"] else "Licence of the text: unknown",
            _dump(corpus["dump"]) if corpus["dump"] else None,
        ]
    numbers = counts and [
        f"Training part: {counts['documents']:,} documents, {counts['sentences']:,} sentences",
        f"Samples: {counts['samples']:,}, {counts['tokens']:,} tokens ({counts['tokens'] / counts['samples']:.1f} a "
        f"sample){_pairs(counts)}",
    ]
    checksums = [
        f"Sample file: {file['size']:,} bytes, sha256 `{file['sha256']}`"
        for file in (samples if isinstance(samples, list) else [samples])
        if file
    ]
    silence = "The text is private: this is all that is said of it" if facts.private else None
    return "## Training data\n\n" + _bullets([*origin, *(numbers or ()), *checksums, silence])


def _model(facts: Facts) -> str:
    config = facts.config
    return "## Model\n\n" + _bullets(
        [
            f"BERT with a masked-LM and a next-sentence head, {facts.parameters:,} parameters",
            f"{config['num_hidden_layers']} layers, width {config['hidden_size']:,}, "
            f"{config['num_attention_heads']} attention heads, feed-forward width {config['intermediate_size']:,}",
            f"Reads up to {config['max_position_embeddings']:,} tokens",
            f"Vocabulary: {config['vocab_size']:,}",
        ]
    )


def _tokenizer(facts: Facts) -> str:
    tokenizer, parity = facts.model["tokenizer"], facts.tokenizer.get("parity")
    agreed = parity and (
        f"`AutoTokenizer` was compared with SentencePiece on {parity['lines']:,} lines: "
        f"{parity['differences']:,} differences, and {sum(parity['known_differences'].values()):,} of known kinds"
    )
    return "## Tokenizer\n\n" + _bullets(
        [
            f"SentencePiece unigram model, {tokenizer['vocab_size']:,} pieces",
            "Special pieces: `<pad>`, `<unk>`, `[CLS]`, `[SEP]`, `[MASK]`",
            f"`spm.model`: sha256 `{tokenizer['sha256']}`",
            agreed,
        ]
    )


def _schedule(options: dict) -> str:
    after = {"constant": "then constant", "linear": "then linear to zero"}.get(options["lr_schedule"])
    return (
        f"Learning rate: {options['lr']}, after a linear warm-up over {options['num_warmup_steps']:,} steps"
        f"{', ' + after if after else ''}"
    )


def _training(facts: Facts) -> str:
    options, settings = facts.model["model"], facts.training.get("settings") or {}
    decay = f", weight decay {options['weight_decay']}" if options["optimizer"] == "adamw" else ""
    versions = facts.training.get("versions") or {}
    source = (facts.training.get("continued_from") or {}).get("name")
    rows = [f"Continued from the model {_line(source)}"] if source else []
    rows.append(f"{facts.model['steps']:,} optimizer steps")
    if settings.get("samples_per_step"):
        rows.append(f"{settings['samples_per_step']:,} samples an optimizer step")
    rows += [
        f"Optimizer: {options['optimizer']}{decay}",
        _schedule(options),
        f"Dropout: {options['hidden_dropout_prob']}, of attention weights {options['attention_probs_dropout_prob']}",
    ]
    named = {"gradient_clip_val": "Gradient norm clipped at", "precision": "Precision:", "seed": "Seed:"}
    rows += [f"{label} {settings[key]}" for key, label in named.items() if settings.get(key) is not None]
    if versions:
        rows.append("Trained with " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "## Training\n\n" + _bullets(rows)


def _evaluation(facts: Facts) -> str:
    if facts.test is None:
        return "## Evaluation\n\nNot evaluated: this release was made without a test result."
    origin = ((facts.test_record or {}).get("corpus") or {}).get("name")
    entropy = facts.training.get("unigram_entropy")
    rows = [
        f"| {name} | {facts.test[key]:.4f} |"
        for key, (_, name) in (TOTAL | MLM_METRICS | NSP_METRICS).items()
        if facts.test[key] is not None
    ]
    text = f"of {_line(origin)}" if origin else "of a text of unknown origin"
    compare = entropy is not None and (
        f"\n\nKnowing only how frequent each token of the training samples is would give an MLM loss of {entropy:.4f} "
        "(unigram entropy)."
    )
    return (
        f"## Evaluation\n\nMeans over {facts.test['samples']:,} test samples ({facts.test['tokens']:,} tokens) {text}:"
        "\n\n| Measure | Value |\n|---|---|\n" + "\n".join(rows) + (compare or "")
    )


def _usage(facts: Facts) -> str:
    versions = facts.model.get("versions") or {}
    made_with = ", ".join(f"{name} {versions[name]}" for name in ("transformers", "torch") if name in versions)
    return f"""## How to use

`NAME` stands for this folder, or for its repository on the Hub.

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model="NAME")
for guess in fill_mask("{PROMPT}"):
    print(guess["token_str"], round(guess["score"], 4))
```

`BertForPreTraining.from_pretrained("NAME")` has the next-sentence head as well; every other BERT class starts a
fine-tuning from these weights.{f" Exported with {made_with}." if made_with else ""}"""


def _limits(facts: Facts) -> str:
    longest = facts.training.get("longest_sample")
    positions = facts.config["max_position_embeddings"]
    untrained = longest is not None and longest < positions
    return "## Intended use and limits\n\n" + _bullets(
        [
            "Meant for filling masks in Japanese text and as the start of a fine-tuning. It does not write text.",
            "Its predictions are not facts. It repeats what its training text holds, errors and prejudices included; "
            "how much of these was not measured.",
            untrained
            and f"Its longest training sample had {longest:,} of {positions:,} tokens: "
            "the positions beyond were never trained.",
            "Measure it on your own task before you rely on it.",
        ]
    )


def _licence(facts: Facts) -> str:
    corpus = facts.corpus
    text = f" ({_line(corpus['source'])})" if corpus["source"] else ""
    if not corpus["license"]:
        data = f"The licence of the training text{text} is unknown."
    elif facts.is_wikipedia:
        named = _line(corpus["license"])
        link = f", {CC_BY_SA}" if named == "CC BY-SA 4.0" else ""
        data = (
            f"The training text{text} is by Wikipedia contributors, who are named in each article's history, under "
            f"{named}{link}."
        )
    else:
        data = f"The training text{text} is under this licence: {_line(corpus['license'])}."
    return f"## Licence and attribution\n\nThis model is released under `{facts.license}`.\n\n{data}"


def model_card(facts: Facts) -> str:
    """The README.md of a release."""
    from huggingface_hub import ModelCard

    sections = (_usage, _data, _model, _tokenizer, _training, _evaluation, _limits, _licence)
    title = f"# {facts.name}\n\nA Japanese BERT, pre-trained with masked words and next sentences."
    body = "\n\n".join([title, *(section(facts) for section in sections)])
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}\n"))


def changelog(facts: Facts) -> str:
    """The CHANGELOG.md of a first release."""
    config, corpus = facts.config, facts.corpus
    dump = f", dump of {corpus['dump']['date']}" if (corpus["dump"] or {}).get("date") else ""
    text = f"{_line(corpus['name'])}{dump}" if corpus["name"] else "of unknown origin"
    test = facts.test
    result = test and f"MLM loss {test['mlm_loss']:.4f} on {test['samples']:,} test samples"
    items = [
        f"First release: {config['num_hidden_layers']} layers of width {config['hidden_size']:,}, "
        f"{facts.parameters:,} parameters, vocabulary {config['vocab_size']:,}, trained for {facts.model['steps']:,} "
        "optimizer steps",
        f"Training text: {text}",
        result or "Not evaluated",
    ]
    return f"# Changelog of {facts.name}\n\n## v1.0\n\n{_bullets(items)}\n"
