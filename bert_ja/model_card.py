"""The model card and changelog of a release, written from records alone: what they do not say is not in them.

A card is a template (configs/model_card.md) whose $facts are filled in. A line with a fact that is not known is left
out, a heading with nothing below it too. The card's metadata is what the Hub reads: licence, widget and model-index.
"""

import dataclasses
import json
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bert_ja import files, licences, score_card
from bert_ja.cli import StageError
from bert_ja.disclosure import public  # noqa: F401, as records come into a card and a release

TEMPLATE = Path(__file__).resolve().parents[1] / "configs" / "model_card.md"
PICTURE = "loss_curve.png"
MASK = "[MASK]"  # in a prompt, whatever the tokenizer calls its own
PROMPTS = (  # of the example and the widget; the first as published
    "専門として[MASK]を専攻しています",
    "日本の首都は[MASK]である。",
    "朝ご飯に[MASK]を食べた。",
    "この小説は[MASK]年に出版された。",
)
LIKELIEST = 5  # fillings of the first prompt in a card
OTHERS_LIKELIEST = 3  # of the others
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
SECOND = {"nsp": ("NSP", "Next sentence prediction"), "sop": ("SOP", "Sentence order prediction")}  # by objective
COUNTS = ("samples", "tokens")
CC_BY_SA = "https://creativecommons.org/licenses/by-sa/4.0/"
RESULT_KEYS = (*TOTAL, *MLM_METRICS, *NSP_METRICS, *COUNTS)
TASKS = {"nsp": "masked words and next sentences", "sop": "masked words and the order of sentences"}
NOT_ASKED = ""  # the value of a fact that does not apply: its line is left out, and nobody misses it


# Facts


@dataclasses.dataclass(frozen=True)
class Tried:
    """What a model folder gave when it was loaded and tried, see `try_out`."""

    mask: str
    special_pieces: tuple[str, ...]
    tokenizer: str  # its kind, in words
    filled: dict[str, list[tuple[str, float]]]  # prompt -> (token, probability) of the likeliest
    spm_sha256: str | None = None  # of the spm.model that is released


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a card is written from; the records as `public` leaves them."""

    name: str
    license: str  # of the model, as the Hub abbreviates it: cc-by-sa-4.0
    model: dict  # record of export_model.py
    tokenizer: dict | None  # record of convert_tokenizer.py, None for a tokenizer that is not SentencePiece's
    config: dict  # config.json
    parameters: int
    test: dict | None = None  # what test.py printed
    test_record: dict | None = None
    scores: Mapping[str, score_card.Published] = dataclasses.field(default_factory=dict)  # by stage, of the evaluations
    prompts: tuple[str, ...] = PROMPTS
    tried: Tried | None = None

    @property
    def private(self) -> bool:
        """Whether the text that the model and its vocabulary come from is."""
        return any(files.corpus_facts(record)["private"] for record in (self.model, self.tokenizer))

    @property
    def test_is_private(self) -> bool:
        """Whether the text is that the test result is of."""
        return self.private or files.corpus_facts(self.test_record)["private"]

    @property
    def training(self) -> dict:
        return self.model.get("training") or {}

    @property
    def continued(self) -> dict:
        """What is known of the model that training continued from; {} where it began from nothing."""
        return self.training.get("continued_from") or {}

    @property
    def corpus(self) -> dict:
        """Name, licence, source and dump of the training text, and its sources; None for what is not known."""
        known = self.training.get("corpus") or {}
        whole = {name: known.get(name) for name in files.ORIGIN}
        return whole | ({"sources": known["sources"]} if known.get("sources") else {})

    @property
    def sources(self) -> list[dict]:
        """The texts of the training, each once, in the order of the record."""
        return files.sources(self.training.get("corpus"))

    @property
    def earlier_sources(self) -> list[dict]:
        """Texts behind the model and the tokenizer that this one was begun with, as far as records say, not its own."""
        earlier = files.sources(self.continued.get("corpus")) + files.sources((self.tokenizer or {}).get("corpus"))
        own = [{name: text.get(name) for name in files.ORIGIN} for text in self.sources]
        origins = [{name: text.get(name) for name in files.ORIGIN} for text in earlier]
        return [text for at, text in enumerate(origins) if text not in own and text not in origins[:at]]

    @property
    def licensed(self) -> list[dict]:
        """All that the model is made of and that has a licence of its own: texts, and the model that was continued."""
        model = [{"name": self.continued.get("name"), "license": self.continued.get("license")}]
        texts = self.sources or [dict.fromkeys(files.ORIGIN)]
        return [*texts, *self.earlier_sources, *(model if self.continued else [])]

    @property
    def is_wikipedia(self) -> bool:
        return any(map(licences.is_wikipedia, self.sources))


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


def _read(path: Path) -> str:
    """The text of a user's file, of which require_text has seen the beginning."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def read_prompts(path: str | None) -> tuple[str, ...]:
    """The sentences of a text, one a line with one [MASK] each; PROMPTS where none is named."""
    if path is None:
        return PROMPTS
    text = files.require_text(path, "name a text of prompts with --prompts, or leave it out")
    prompts = tuple(line.strip() for line in _read(text).splitlines() if line.strip())
    for prompt in prompts:
        if prompt.count(MASK) != 1:
            raise StageError(f"{path}: {prompt[:40]!r} must have one {MASK}: give each prompt a line with one")
    if not prompts:
        raise StageError(f"{path} has no prompt: give it sentences with one {MASK} each, one a line")
    return prompts


def _tokenizer_kind(tokenizer) -> str:
    """ "SentencePiece unigram model", or what transformers says of another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(backend.model).__name__ if backend is not None else None
    own = tokenizer.init_kwargs
    parts = [own.get("word_tokenizer_type"), own.get("subword_tokenizer_type")]
    details = ", ".join([part for part in parts if part] or ([kind] if kind else []))
    return f"`{type(tokenizer).__name__}`" + (f" ({details})" if details else "")


def try_out(model, tokenizer, prompts: Iterable[str]) -> Tried:
    """Fill the mask of each prompt with a model that transformers has loaded.

    Raises StageError for a prompt that the model cannot read whole.
    """
    import transformers

    fill_mask = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    longest, filled = model.config.max_position_embeddings, {}
    for prompt in prompts:
        text = prompt.replace(MASK, tokenizer.mask_token)
        tokens = len(tokenizer(text)["input_ids"])
        if tokens > longest:
            raise StageError(
                f"the prompt {prompt[:20]}... has {tokens:,} tokens, the model reads {longest:,}: shorten it"
            )
        filled[prompt] = [(guess["token_str"], guess["score"]) for guess in fill_mask(text, top_k=LIKELIEST)]
    pieces = (getattr(tokenizer, f"{role}_token") for role in ("pad", "unk", "cls", "sep", "mask"))
    pieces = tuple(piece for piece in pieces if piece is not None)
    return Tried(tokenizer.mask_token, pieces, _tokenizer_kind(tokenizer), filled)


# Metadata


def second_name(facts: Facts) -> str:
    """NSP, or SOP where the second parts of samples were exchanged."""
    return SECOND.get(objective(facts), SECOND["nsp"])[0]


def second_metrics(facts: Facts) -> dict[str, tuple[str, str]]:
    """NSP_METRICS under the name of the second task that was trained."""
    return {key: (kind, name.replace("NSP", second_name(facts))) for key, (kind, name) in NSP_METRICS.items()}


def _total(facts: Facts) -> dict[str, tuple[str, str]]:
    return {key: (kind, name.replace("NSP", second_name(facts))) for key, (kind, name) in TOTAL.items()}


def _results(facts: Facts) -> list:
    """The measured values of test.py as EvalResults; none where nothing was measured."""
    from huggingface_hub import EvalResult

    if facts.test is None:
        return []
    corpus = (facts.test_record or {}).get("corpus") or {}
    origin, date = corpus.get("name"), (corpus.get("dump") or {}).get("date")
    tasks = (
        ("fill-mask", "Masked language modelling", _total(facts) | MLM_METRICS),
        ("text-classification", SECOND.get(objective(facts), SECOND["nsp"])[1], second_metrics(facts)),
    )
    return [
        EvalResult(
            task_type=task,
            task_name=task_name,
            dataset_type=_line(origin or "unknown"),
            dataset_name=f"{_line(origin)}, test samples" if origin else "test samples of unknown origin",
            dataset_split="test",
            dataset_revision=date,
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

    results = _results(facts) + score_card.eval_results(facts.scores)
    mask = facts.tried.mask if facts.tried else MASK
    return ModelCardData(
        language="ja",
        license=facts.license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["bert", "japanese", "masked-lm"],
        datasets=["wikipedia"] if facts.is_wikipedia else None,
        widget=[{"text": prompt.replace(MASK, mask)} for prompt in facts.prompts],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


# Facts as text: None is not known, NOT_ASKED does not apply


def _line(text: str) -> str:
    """A record's text on one line, so that it cannot begin a heading or end the front matter."""
    return " ".join(text.split())


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _dump(dump: dict) -> str:
    date = f"of {dump['date']}" if dump.get("date") else "of unknown date"
    file = f", `{_line(dump['file'])}`" if dump.get("file") else ""
    sums = "".join(f", {kind} `{dump[kind]}`" for kind in ("sha256", "sha1") if dump.get(kind))
    return f"Dump: {date}{file}{sums}"


def _source(source: dict, role: str = "") -> str:
    """A text with its own licence: a bullet, and one below it for each thing that is known."""
    share = f", {source['share']:.1%} of the samples" if source.get("share") is not None else ""
    name = _line(source["name"]) if source.get("name") else "a text of unknown name"
    known = [
        f"Source: {_line(source['source'])}" if source.get("source") else None,
        f"Licence: {_line(source['license'])}" if source.get("license") else None,
        _dump(source["dump"]) if source.get("dump") else None,
    ]
    return "\n".join([f"- Text: {name}{share}{role}", *(f"  - {fact}" for fact in known if fact)])


def _sources(facts: Facts) -> str | None:
    earlier = [
        _source(text, ", behind the model or the tokenizer that this one was begun with")
        for text in facts.earlier_sources
    ]
    return "\n".join([*map(_source, facts.sources), *earlier]) or None


def _pairs(counts: dict) -> str:
    """What a share of the samples is for the second task, where they have one."""
    for name, what in (("random_pairs", "a random second part"), ("swapped_pairs", "their two parts exchanged")):
        if name in counts:
            return f", {counts[name] / counts['samples']:.1%} with {what}"
    return ""


def _data_values(facts: Facts) -> Iterator[tuple[str, str | None]]:
    counts, said = facts.training.get("counts"), (facts.training.get("samples") or {}).get("train")
    described = [file for file in (said if isinstance(said, list) else [said]) if file]
    unknown = NOT_ASKED if facts.private else None
    yield "sources", _sources(facts)
    part = counts and f"{counts['documents']:,} documents, {counts['sentences']:,} sentences"
    yield "training_part", part or unknown
    mean = counts and f"{counts['tokens'] / counts['samples']:.1f} a sample"
    yield (
        "samples",
        f"{counts['samples']:,}, {counts['tokens']:,} tokens ({mean}){_pairs(counts)}" if counts else unknown,
    )
    lines = [f"- Sample file: {file['size']:,} bytes, sha256 `{file['sha256']}`" for file in described]
    yield "sample_files", "\n".join(lines) or unknown
    silence = "- The text is private: this is all that is said of it"
    yield "privacy", silence if facts.private else NOT_ASKED


def _model_values(facts: Facts) -> Iterator[tuple[str, str | None]]:
    config = facts.config
    yield "parameters", _count(facts.parameters)
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    shape = [config.get(name) for name in sizes]
    sentence = "{} layers, width {:,}, {} attention heads, feed-forward width {:,}"
    yield "architecture", None if None in shape else sentence.format(*shape)
    yield "positions", _count(config.get("max_position_embeddings"))
    yield "vocabulary", _count(config.get("vocab_size"))


def _tokenizer_values(facts: Facts) -> Iterator[tuple[str, str | None]]:
    tokenizer, tried = facts.model.get("tokenizer") or {}, facts.tried
    size, ours = tokenizer.get("vocab_size"), facts.tokenizer is not None
    kind = "SentencePiece unigram model" if ours else tried and tried.tokenizer
    yield "tokenizer", f"{kind}, {size:,} pieces" if kind and size else None
    yield "special_pieces", ", ".join(f"`{piece}`" for piece in tried.special_pieces) if tried else None
    digest, file = tokenizer.get("sha256"), "`spm.model`" if ours else "Its files"
    digest = tried.spm_sha256 or digest if ours and tried else digest
    yield "tokenizer_sha256", f"{file}: sha256 `{digest}`" if digest else None
    parity = (facts.tokenizer or {}).get("parity")
    agreed = parity and (
        f"`AutoTokenizer` was compared with SentencePiece on {parity['lines']:,} lines: "
        f"{parity['differences']:,} differences, and {sum(parity['known_differences'].values()):,} of known kinds"
    )
    yield "tokenizer_check", agreed if ours else NOT_ASKED


def _learning_rate(options: dict) -> str | None:
    if "lr" not in options:
        return None
    after = {"constant": "then constant", "linear": "then linear to zero"}.get(options["lr_schedule"])
    after = after or f"then {options['lr_schedule']}"
    return f"{options['lr']}, after a linear warm-up over {options['num_warmup_steps']:,} steps, {after}"


def duration(seconds: float) -> str:
    """30 -> "30 s", 4000 -> "67 min", 100,000 -> "27.8 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _hardware(parts: list[dict] | None) -> str | None:
    if not parts:
        return None
    return "; ".join(
        f"{str(part['devices']) + ' x ' if part['devices'] > 1 else ''}{_line(part['device'])}, "
        f"{duration(part['seconds'])}"
        for part in parts
    )


def _base_model(continued: dict) -> str:
    if not continued:
        return NOT_ASKED
    license = f", which is under `{_line(continued['license'])}`" if continued.get("license") else ""
    return f"the model {_line(continued['name'])}{license}"


def _masking(settings: dict) -> str | None:
    if "mlm_probability" not in settings:
        return None
    chosen, mask, random = (settings[n] for n in ("mlm_probability", "mask_replace_prob", "random_replace_prob"))
    last = settings.get("mlm_probability_end")
    share = f"{chosen:.1%}" if last is None else f"{chosen:.1%} (at the first step, linearly to {last:.1%} at the last)"
    return (
        f"{share} of the tokens, of which {mask:.1%} became the mask, {random:.1%} a random token, and the others "
        "stayed"
    )


def _training_values(facts: Facts) -> Iterator[tuple[str, str | None]]:
    options, settings = facts.model.get("model") or {}, facts.training.get("settings") or {}
    versions, seen = facts.training.get("versions") or {}, facts.model.get("seen")
    yield "base_model", _base_model(facts.continued)
    yield "steps", _count(facts.model.get("steps"))
    yield "samples_per_step", _count(settings.get("samples_per_step"))
    unknown = NOT_ASKED if facts.private else None
    yield "seen", f"{seen['samples']:,} samples, {seen['tokens']:,} tokens" if seen else unknown
    decay = f", weight decay {options['weight_decay']}" if options.get("optimizer") in ("adamw", "muon") else ""
    yield "optimizer", f"{options['optimizer']}{decay}" if options.get("optimizer") else None
    yield "learning_rate", _learning_rate(options)
    dropout, attention = options.get("hidden_dropout_prob"), options.get("attention_probs_dropout_prob")
    yield "dropout", None if dropout is None else f"{dropout}, of attention weights {attention}"
    yield "masking", _masking(settings)
    clip = settings.get("gradient_clip_val")
    yield "gradient_clipping", str(clip) if clip is not None else NOT_ASKED if settings else None
    for name in ("precision", "seed"):
        yield name, str(settings[name]) if settings.get(name) is not None else None
    yield "hardware", _hardware(facts.model.get("hardware"))
    yield "training_versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or None
    curve = f"![Losses of training and validation over the optimizer steps]({PICTURE})"
    yield "loss_curve", curve if facts.model.get("curve") else None


def _evaluation_values(facts: Facts) -> Iterator[tuple[str, str | None]]:
    origin = ((facts.test_record or {}).get("corpus") or {}).get("name")
    text, test = f"of {_line(origin)}" if origin else "of a text of unknown origin", facts.test
    counted = f"{test['samples']:,} test samples ({test['tokens']:,} tokens) {text}" if test else None
    yield "test_samples", NOT_ASKED if facts.test_is_private else counted
    rows = [
        f"| {name} | {test[key]:.4f} |"
        for key, (_, name) in (_total(facts) | MLM_METRICS | second_metrics(facts)).items()
        if test and test[key] is not None
    ]
    yield "results", "\n".join(["| Measure | Value |", "|---|---|", *rows]) if test else None
    entropy = facts.training.get("unigram_entropy")
    nothing = NOT_ASKED if facts.private or not test else None
    yield "unigram_entropy", f"{entropy:.4f}" if test and entropy is not None else nothing
    scored = score_card.values(facts.scores)
    yield from ((name, scored.get(name, NOT_ASKED)) for name in score_card.FACTS)


def _limit_values(facts: Facts) -> Iterator[tuple[str, str | None]]:
    longest, positions = facts.training.get("longest_sample"), facts.config.get("max_position_embeddings")
    sentence = "Its longest training sample had {:,} of {:,} tokens: the positions beyond were never trained."
    if facts.continued:
        sentence = "The longest sample of this training had {:,} of {:,} tokens: what is beyond stayed as it was."
    known = longest is not None and positions is not None
    limit = sentence.format(longest, positions) if known and longest < positions else NOT_ASKED
    yield "untrained_positions", limit if known else None
    head = "is as it was before this training" if facts.continued else "was not trained"
    yield "untrained_head", f"Its next-sentence head {head}." if objective(facts) == "none" else NOT_ASKED


def objective(facts: Facts) -> str | None:
    """The second task of the training samples: nsp, sop or none; None where it is not known."""
    options = facts.training.get("options") or {}
    return (options[0] if isinstance(options, list) else options).get("objective")


def _attribution(source: dict) -> str:
    """The sentence on a text and its licence."""
    shown = source.get("source") or source.get("name")
    text = f"The text {_line(source['name'])}" if source.get("name") else "A training text"
    text += f" ({_line(source['source'])})" if source.get("source") else ""
    if not source.get("license"):
        return f"The licence of the training text{f' ({_line(shown)})' if shown else ''} is unknown."
    named = _line(source["license"])
    if licences.is_wikipedia(source):
        link = f", {CC_BY_SA}" if named == "CC BY-SA 4.0" else ""
        return f"{text} is by Wikipedia contributors, who are named in each article's history, under {named}{link}."
    return f"{text} is under this licence: {named}."


def _attributions(facts: Facts) -> str:
    texts = [*(facts.sources or [{}]), *facts.earlier_sources]
    said = list(dict.fromkeys(map(_attribution, texts)))
    if facts.continued:
        license = facts.continued.get("license")
        known = f"is under this licence: {_line(license)}" if license else "has a licence that is not known here"
        said.append(f"The model {_line(facts.continued['name'])}, from which the training continued, {known}.")
    return "\n\n".join(said)


def _guesses(filled: list[tuple[str, float]], most: int, indent: str = "") -> list[str]:
    """Lines as the example prints them."""
    return [f"{indent}{token} {round(score, 3)}".replace("\n", " ") for token, score in filled[:most]]


def _predictions(facts: Facts) -> str | None:
    """What the model fills into the prompts, as the example prints it; a private one would quote its text."""
    if facts.private:
        return NOT_ASKED
    if facts.tried is None:
        return None
    (first, filled), *others = facts.tried.filled.items()
    blocks = ["This model answers:", "\n".join(["```text", *_guesses(filled, LIKELIEST), "```"])]
    if others:
        shown = (
            (prompt.replace(MASK, facts.tried.mask), _guesses(found, OTHERS_LIKELIEST, "  "))
            for prompt, found in others
        )
        lines = [line for prompt, guesses in shown for line in (prompt, *guesses)]
        blocks += ["And to other sentences:", "\n".join(["```text", *lines, "```"])]
    return "\n\n".join(blocks)


def values(facts: Facts) -> dict[str, str | None]:
    """The facts of a card by the names that a template has for them."""
    versions = facts.model.get("versions") or {}
    made_with = [f"{name} {versions[name]}" for name in ("transformers", "torch") if name in versions]
    mask = facts.tried.mask if facts.tried else MASK
    return {
        "metadata": metadata(facts).to_yaml().rstrip("\n"),
        "name": facts.name,
        "license": facts.license,
        "tasks": TASKS.get(objective(facts), "masked words"),
        "prompt": json.dumps(facts.prompts[0].replace(MASK, mask), ensure_ascii=False),
        "predictions": _predictions(facts),
        "export_versions": ", ".join(made_with) or None,
        **dict(_data_values(facts)),
        **dict(_model_values(facts)),
        **dict(_tokenizer_values(facts)),
        **dict(_training_values(facts)),
        **dict(_evaluation_values(facts)),
        **dict(_limit_values(facts)),
        "attribution": _attributions(facts),
    }


# The template


def _units(text: str) -> list[str]:
    """The lines of a Markdown text, those of a fenced block together."""
    units: list[str] = []
    open_fence = False
    for line in text.split("\n"):
        if open_fence:
            units[-1] += "\n" + line
        else:
            units.append(line)
        if line.startswith("```"):
            open_fence = not open_fence
    return units


def _level(unit: str) -> int:
    """2 of "## Heading", 0 of what is none."""
    found = re.match(r"(#+) ", unit)
    return len(found[1]) if found else 0


def _without_empty_sections(units: list[str]) -> list[str]:
    """Without headings that nothing follows before the next one of their level, and without blank lines in a row."""
    kept: list[str] = []  # from the end
    for unit in reversed(units):
        following = next((later for later in reversed(kept) if later.strip()), None)
        ends = following is None or 0 < _level(following) <= _level(unit)
        if (_level(unit) and ends) or (not unit.strip() and kept and not kept[-1].strip()):
            continue
        kept.append(unit)
    return kept[::-1]


def fill(template: str, known: dict[str, str | None]) -> tuple[str, list[str]]:
    """(a template with its $facts filled in, those that are not known, by name); $$ is a dollar.

    A line, or a fenced block, with a fact that is not known or does not apply is left out.
    """
    units, unknown = [], []
    for unit in _units(template):
        parsed = string.Template(unit)
        names = parsed.get_identifiers()
        unknown += [name for name in names if known[name] is None]
        if all(known[name] for name in names):
            units.append(parsed.substitute(known))
    return "\n".join(_without_empty_sections(units)), list(dict.fromkeys(unknown))


def read_template(path: str | None) -> str:
    """The template in a file, ours where none is named. Raises StageError for one that cannot become a card."""
    from huggingface_hub import ModelCard

    file = files.require_text(path or TEMPLATE, "name a template with --card_template, or leave it out")
    text, names = _read(file), values(NOTHING).keys()
    for number, line in enumerate(text.split("\n"), start=1):
        parsed = string.Template(line)
        if not parsed.is_valid():
            raise StageError(f"{file} line {number}: a $ that begins no fact must be written $$")
        if unknown := [name for name in parsed.get_identifiers() if name not in names]:
            raise StageError(f"{file} line {number}: ${unknown[0]} is no fact of a card, those are {', '.join(names)}")
    example, _ = fill(text, dict.fromkeys(names, "x") | {"metadata": "license: mit"})
    try:
        right = ModelCard(example).data.license == "mit"
    except Exception:  # PyYAML's, and the client's own
        right = False
    if not right:
        raise StageError(f"{file} must begin with the lines ---, $metadata and ---, and what YAML you add between them")
    return text


NOTHING = Facts("x", "x", model={}, tokenizer=None, config={}, parameters=0)


def model_card(facts: Facts, template: str | None = None) -> str:
    """The README.md of a release."""
    text, _ = fill(template or TEMPLATE.read_text(encoding="utf-8"), values(facts))
    return text.rstrip("\n") + "\n"


def unknown(facts: Facts, template: str | None = None) -> list[str]:
    """What the template asks for and the records do not say, in words: "learning rate"."""
    _, names = fill(template or TEMPLATE.read_text(encoding="utf-8"), values(facts))
    asked = [name for name in names if name not in ("predictions", "special_pieces", "tokenizer") or facts.tried]
    return [name.replace("_", " ") for name in asked] + _unknown_of_sources(facts)


def _unknown_of_sources(facts: Facts) -> list[str]:
    """What is not known of the texts and of the model that was continued, for which a card has no line of its own."""
    found = []
    for source in facts.sources:
        missing = [what for what in ("name", "source", "license") if not source.get(what)]
        if licences.is_wikipedia(source) and not facts.private:
            missing += [] if source.get("dump") else ["dump"]
        of = f" of {_line(source['name'])}" if source.get("name") else " of the training text"
        found += [f"{'licence' if what == 'license' else what}{of}" for what in missing]
    if facts.continued and not facts.continued.get("license"):
        found.append(f"licence of {_line(facts.continued['name'])}")
    return found


def changelog(facts: Facts, tag: str = "v1.0") -> str:
    """The CHANGELOG.md of a first release, whose version is `tag`."""
    config, test = facts.config, facts.test
    texts = [
        _line(text["name"]) + (f", dump of {text['dump']['date']}" if (text.get("dump") or {}).get("date") else "")
        for text in facts.sources
        if text.get("name")
    ]
    on = "a private text" if facts.test_is_private else f"{test['samples']:,} test samples" if test else ""
    result = test and f"MLM loss {test['mlm_loss']:.4f} on {on}"
    items = [
        f"First release: {config['num_hidden_layers']} layers of width {config['hidden_size']:,}, "
        f"{facts.parameters:,} parameters, vocabulary {config['vocab_size']:,}, trained for {facts.model['steps']:,} "
        "optimizer steps",
        f"Training text: {'; '.join(texts) or 'of unknown origin'}",
        result or score_card.said(facts.scores) or "Not evaluated",
    ]
    return f"# Changelog of {facts.name}\n\n## {tag}\n\n" + "".join(f"- {item}\n" for item in items)
