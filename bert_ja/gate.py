"""The gate of an export: what a folder answers in a process that knows nothing of training, beside the trained model.

The process has the folder and nothing else: it loads it as a user does, by transformers' Auto classes, and answers with
facts and logits. What they should be comes from the checkpoint and from the tokenizer of the run; every difference is
named. The record of export_model.py keeps what was expected but the logits, and a release is asked again.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bert_ja import cli, files, tokenization

TOLERANCE = 1e-5  # of logits, by the same arithmetic on both sides
# Of a guess's probability, relative or absolute: training's attention over packed samples rounds otherwise.
SCORE_TOLERANCE, SMALLEST_SCORE = 1e-4, 1e-6
GUESSES = 5  # for each prompt
SAMPLES, POSITIONS = 64, 1024  # that logits are compared on, at most; a longest sample may exceed the latter
FIRST_SAMPLES = 1000  # of a file, from which they are taken
ARCHITECTURE = "BertForMaskedLM"  # which the Hub's fill-mask widget looks for
NOT_IN_MASKED_LM = ("cls.seq_relationship.", "bert.pooler.")  # of all heads, which are in the folder
DECODER, WORDS = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
CONFIG_ROLES = ("pad", "cls", "sep", "mask", "bos", "eos")  # bos is cls, eos is sep
SHOWN_FAULTS = 12
Sample = tuple[list[int], list[int]]  # ids and token types, never padded


@dataclasses.dataclass(frozen=True)
class Questions:
    """What a folder is asked."""

    lines: Sequence[str]
    prompts: Sequence[str]
    samples: Sequence[Sample]


def digest(value) -> str:
    """The sha256 of lists of ids or pieces, as the record has it."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


# In the process that knows nothing of training


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _load(folder: str, kind: str, **options):
    import transformers

    return getattr(transformers, kind).from_pretrained(folder, local_files_only=True, **options)


def _report(loading: dict) -> dict[str, list[str]]:
    """What transformers found missing, left over or misshapen in a folder."""
    misshapen = [f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in loading["mismatched_keys"]]
    return {
        "missing": sorted(loading["missing_keys"]),
        "unexpected": sorted(loading["unexpected_keys"]),
        "misshapen": sorted(misshapen),
    }


def _tokenizer_facts(folder: str, questions: Questions) -> dict:
    tokenizer = _load(folder, "AutoTokenizer")
    pair, asked = (tokenizer(*questions.lines[:2], **kind) for kind in ({}, {"return_token_type_ids": True}))
    prompts = [prompt.replace(tokenization.MASK, str(tokenizer.mask_token)) for prompt in questions.prompts]
    return {
        "tokenizer_ids": {role: getattr(tokenizer, f"{role}_token_id") for role in tokenization.ROLES},
        "vocabulary": tokenization.pieces_by_id(tokenizer),
        "model_max_length": min(tokenizer.model_max_length, 1 << 31),  # transformers' "none" is 1e30
        "line_ids": tokenizer(list(questions.lines), add_special_tokens=False, verbose=False)["input_ids"],
        "pair": [asked["input_ids"], asked["token_type_ids"]],
        "pair_by_default": [pair["input_ids"], pair.get("token_type_ids")],
        "prompts": prompts,
        "prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts],
    }


def _guesses(folder: str, prompts: Sequence[str]) -> list[list[tuple[int, float]]] | str:
    """(id, probability) of the likeliest fillings, as a user's pipeline gives them; why, where it does not."""
    import transformers

    try:
        fill_mask = transformers.pipeline("fill-mask", model=folder, device="cpu", top_k=GUESSES)
        return [[(int(guess["token"]), float(guess["score"])) for guess in fill_mask(prompt)] for prompt in prompts]
    except Exception as error:  # whatever transformers raises
        return _reason(error)


def _is_tied(model) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _file_facts(folder: str) -> tuple[list[str], bool]:
    """(types of the weights in the file, whether it has no output layer but the word embeddings)."""
    import torch
    from safetensors import safe_open

    with safe_open(Path(folder) / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        dtypes = sorted({file.get_slice(name).get_dtype() for name in names})
        tied = DECODER not in names or torch.equal(file.get_tensor(DECODER), file.get_tensor(WORDS))
    return dtypes, tied


def _model_facts(folder: str, model, masked, reports: dict) -> dict:
    words = model.get_input_embeddings().weight
    weights, (dtypes, tied) = model.state_dict(), _file_facts(folder)
    return {
        "config": json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")),
        "reports": reports,
        "rows": len(words),
        "positions": model.config.max_position_embeddings,
        "tied": tied and all(map(_is_tied, (model, masked))),
        "dtypes": dtypes,
        "not_finite": sorted(name for name, tensor in weights.items() if not bool(tensor.isfinite().all())),
    }


def _logits(model, masked, sample: Sample) -> tuple[np.ndarray, np.ndarray, float]:
    """(MLM logits, NSP logits, largest difference between the MLM logits of the two classes)."""
    import torch

    given = {"input_ids": torch.tensor([sample[0]]), "token_type_ids": torch.tensor([sample[1]])}
    with torch.no_grad():
        both, alone = model(**given), masked(**given).logits
    between = float((both.prediction_logits - alone).abs().max())
    return both.prediction_logits[0].float().numpy(), both.seq_relationship_logits[0].float().numpy(), between


def answers(folder: Path | str, questions: Questions) -> Iterator:
    """The facts of a folder, loaded as a user loads it; then what `_logits` are of each sample.

    A folder that does not load has one fact, "error"; a sample that cannot be read ends it, with the reason.
    """
    folder, kind, loaded = str(folder), "AutoTokenizer", []
    try:
        facts = _tokenizer_facts(folder, questions)
        for kind in ("BertForPreTraining", "AutoModelForMaskedLM"):
            loaded.append(_load(folder, kind, output_loading_info=True, ignore_mismatched_sizes=True))
        (model, report), (masked, masked_report) = loaded
        reports = {"BertForPreTraining": _report(report), type(masked).__name__: _report(masked_report)}
        facts |= _model_facts(folder, model.eval(), masked.eval(), reports)
    except Exception as error:  # whatever transformers and its parsers raise
        yield {"error": f"{kind} does not load it", "reason": _reason(error)}
        return
    yield facts | {"guesses": _guesses(folder, facts["prompts"])}
    for sample in questions.samples:
        try:
            yield _logits(model, masked, sample)
        except Exception as error:  # as of an id without a row
            yield f"it cannot read a sample of {len(sample[0])} tokens ({_reason(error)})"
            return


def _serve(connection: Connection) -> None:
    """Answer for each folder that comes, until there is nobody to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the stage's to handle
    cli.end_with_parent(os.getppid(), signal.SIGKILL)  # the server that forked us, which ends with the stage
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with contextlib.suppress(EOFError, OSError):
        while True:
            folder, questions = connection.recv()
            for answer in answers(folder, questions):
                connection.send(answer)


# What was expected


def _samples_of(path: Path, positions: int, rows: int, types: int) -> Iterator[Sample]:
    """Samples of a JSONL that the model can read, the longest of the first ones first."""
    with open(path, "rb") as file:
        lines = list(itertools.islice(file, FIRST_SAMPLES))
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            sample = json.loads(line)
            ids, kinds = sample["input_ids"], sample["token_type_ids"]
            if 0 < len(ids) == len(kinds) <= positions and max(ids) < rows and max(kinds) < types:
                found.append((ids, kinds))
    longest = max(range(len(found)), key=lambda number: len(found[number][0]), default=0)
    yield from found[longest : longest + 1] + found[:longest] + found[longest + 1 :]


def _pair(first: list[int], second: list[int], vocabulary: tokenization.Vocabulary) -> Sample:
    """[CLS] A [SEP] B [SEP] and its token types."""
    ids = [vocabulary.cls, *first, vocabulary.sep, *second, vocabulary.sep]
    return ids, [0] * (len(first) + 2) + [1] * (len(second) + 1)


def draw_samples(config, vocabulary: tokenization.Vocabulary, line_ids: list[list[int]], paths: Iterable[Path]) -> list:
    """What logits are compared on: samples of the run itself, where its files are there, and pairs of our own lines.

    SAMPLES of them at most, half of POSITIONS tokens and a longest sample of each kind.
    """
    positions, types = config.max_position_embeddings, config.type_vocab_size
    pairs = (_pair(*both, vocabulary) for both in itertools.pairwise(line_ids))
    clipped = ((ids[:positions], [min(kind, types - 1) for kind in kinds[:positions]]) for ids, kinds in pairs)
    own = itertools.chain.from_iterable(_samples_of(path, positions, config.vocab_size, types) for path in paths)
    drawn = []
    for source in (own, clipped):
        tokens = 0
        for sample in itertools.islice(source, SAMPLES // 2):
            if tokens and tokens + len(sample[0]) > POSITIONS // 2:
                continue
            tokens += len(sample[0])
            drawn.append(sample)
    return drawn


def _fill_mask(module, encoder, prompts: Iterable[str], private: bool) -> list[dict]:
    """What the module that was trained makes of prompts, by its own attention; of a private one no ids."""
    from bert_ja import monitoring

    found = []
    for prompt in dict.fromkeys(prompts):
        ids, place = monitoring.encode_prompt(prompt, encoder)
        if len(ids) > module.model.config.max_position_embeddings:
            continue
        guesses = [(token, share / 100) for token, share in monitoring.likeliest(module, ids, place)]
        shown = [[None if private else token, float(f"{score:.8g}")] for token, score in guesses[:GUESSES]]
        found.append({"prompt": prompt, "ids": None if private else ids, "guesses": shown})
    return found


def _gives_token_types(tokenizer: Path, private: bool) -> bool:
    """Whether a tokenizer does unasked; BertJapaneseTokenizer of transformers 5 does not, that of 4 did."""
    return "token_type_ids" in tokenization.load_tokenizer(tokenizer, private).model_input_names


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a folder should answer. `facts` are kept in the record; the rest names differences, where it is known."""

    facts: dict
    lines: Sequence[str]
    line_ids: list[list[int]] | None = None
    vocabulary: list[str] | None = None
    private: bool = False

    @property
    def prompts(self) -> list[str]:
        return [each["prompt"] for each in self.facts["fill_mask"]]


def expect(module, tokenizer: Path, lines: Sequence[str], prompts: Iterable[str], private: bool) -> Expected:
    """What an export of a BertPretraining module with the tokenizer of its run should answer."""
    from bert_ja import encoding

    encoder = encoding.open_encoder(tokenizer, private=private)
    vocabulary, config = encoder.vocabulary, module.model.config
    positions, ours = config.max_position_embeddings, tokenization.is_convertible(tokenizer)
    line_ids = encoder.encode(list(lines))
    known = ours or not tokenization.has_sentencepiece(tokenizer)  # else transformers may have pieces of its own
    pieces = encoder.pieces() if known else None
    module.eval()
    facts = {
        "special_ids": {role: getattr(vocabulary, role) for role in tokenization.ROLES},
        "rows": config.vocab_size,
        "positions": positions,
        "dtype": "F32",  # as safetensors names it: a checkpoint's weights are, whatever a run computes in
        "lines": digest(lines),
        "line_ids": digest(line_ids),
        "vocabulary": digest(pieces) if known else None,
        "model_max_length": positions if ours else None,
        "copied_tokenizer": not ours,
        "token_types_by_default": ours or _gives_token_types(tokenizer, private),
        "fill_mask": _fill_mask(module, encoder, prompts, private),
    }
    return Expected(facts, lines, line_ids, pieces, private)


# What differs


def _loading_faults(reports: dict) -> Iterator[str]:
    said = {
        "missing": "finds no {} in it",
        "unexpected": "does not use {} of it",
        "misshapen": "finds another shape in it than config.json says, {}",
    }
    both = reports["BertForPreTraining"]  # has all heads
    for kind, report in reports.items():
        for what, names in report.items():
            if report is not both:
                names = [name for name in names if name not in both[what] and not name.startswith(NOT_IN_MASKED_LM)]
            if names:
                more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
                yield f"{kind} {said[what].format(names[0] + more)}"


def _config_faults(facts: dict, found: dict) -> Iterator[str]:
    config, ids = found["config"], facts["special_ids"]
    wanted = {"architectures": [ARCHITECTURE], "model_type": "bert", "vocab_size": facts["rows"]}
    wanted["max_position_embeddings"] = facts["positions"]
    for name, value in wanted.items():
        if config.get(name) != value:
            yield f"{name} is {config.get(name)!r} in config.json and has to be {value!r}"
    for role, trained in zip(CONFIG_ROLES, (*(ids[r] for r in CONFIG_ROLES[:4]), ids["cls"], ids["sep"]), strict=True):
        if config.get(f"{role}_token_id") != trained:
            yield f"{role}_token_id is {config.get(f'{role}_token_id')} in config.json, in training it was {trained}"
    classes = [kind for kind in found["reports"] if kind != "BertForPreTraining"]
    if classes != [ARCHITECTURE]:
        yield f"AutoModelForMaskedLM makes a {classes[0]} of it"


def _weight_faults(facts: dict, found: dict) -> Iterator[str]:
    if not found["tied"]:
        yield f"{DECODER} is not the word embeddings, which it was in training"
    if found["dtypes"] != [facts["dtype"]]:
        yield f"its weights are {' and '.join(found['dtypes'])}, in training they were {facts['dtype']}"
    if names := found["not_finite"]:
        yield f"{names[0]} is not finite" + (f", nor are {len(names) - 1:,} more" if len(names) > 1 else "")


def _first_difference(one: Sequence, other: Sequence) -> tuple[int, object, object] | None:
    """(place, this, that) where two sequences begin to differ."""
    for place, (this, that) in enumerate(itertools.zip_longest(one, other)):
        if this != that:
            return place, this, that
    return None


def _tokenizer_faults(expected: Expected, found: dict) -> Iterator[str]:
    facts = expected.facts
    for role, trained in facts["special_ids"].items():
        here = found["tokenizer_ids"][role]
        if (-1 if here is None else here) != trained:
            yield f"the {role} token of its tokenizer is {here}, in training it was {trained}"
    if facts["vocabulary"] not in (None, digest(found["vocabulary"])):
        differs = expected.vocabulary and _first_difference(found["vocabulary"], expected.vocabulary)
        said = files.shown(f"{differs[1]!r}, in training {differs[2]!r}", expected.private) if differs else "another"
        yield "its tokenizer has another vocabulary" + (f" (piece {differs[0]:,}: {said})" if differs else "")
    if len(found["vocabulary"]) > found["rows"]:
        yield f"its tokenizer has {len(found['vocabulary']):,} pieces, the model {found['rows']:,} rows of embeddings"
    if facts["model_max_length"] not in (None, found["model_max_length"]):
        length = found["model_max_length"]
        yield f"its tokenizer has model_max_length {length:,}, the model {facts['positions']:,} positions"
    yield from _line_faults(expected, found)


def _line_faults(expected: Expected, found: dict) -> Iterator[str]:
    """Ids of the lines, and of a pair of them with its token types; no token of a private vocabulary."""
    if expected.line_ids is not None:
        for line, trained, here in zip(expected.lines, expected.line_ids, found["line_ids"], strict=True):
            if differs := _first_difference(here, trained):
                place, now, then = differs
                yield f"AutoTokenizer gives other ids (token {place + 1} of {line} is {now}, in training {then})"
                return
    if digest(found["line_ids"]) != expected.facts["line_ids"]:
        yield "AutoTokenizer gives other ids than in training"
        return
    ids = expected.facts["special_ids"]
    first, second = found["line_ids"][:2]
    pair = [ids["cls"], *first, ids["sep"], *second, ids["sep"]]
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    by_default = types if expected.facts["token_types_by_default"] else None
    if found["pair"] != [pair, types] or found["pair_by_default"] != [pair, by_default]:
        yield "its tokenizer does not make [CLS] A [SEP] B [SEP] of a pair, with token types 0 and 1"


def _guess_faults(facts: dict, found: dict, private: bool) -> Iterator[str]:
    if isinstance(found["guesses"], str):
        yield f'pipeline("fill-mask") fails on it ({files.shown(found["guesses"], private)})'
        return
    wrong = []
    for trained, ids, guesses in zip(facts["fill_mask"], found["prompt_ids"], found["guesses"], strict=True):
        if trained["ids"] not in (None, ids):
            wrong.append(f"{trained['prompt']} becomes other ids than in training")
        elif fault := _other_guess(trained["guesses"], guesses):
            wrong.append(f"it fills {trained['prompt']} otherwise than in training ({fault})")
    yield from [f"{wrong[0]}, as do {len(wrong) - 1} more" if len(wrong) > 1 else wrong[0]] if wrong else ()


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SCORE_TOLERANCE, abs_tol=SMALLEST_SCORE)


def _other_guess(trained: list, found: list) -> str | None:
    """The first guess that is another or has another probability; two that are equally likely may change places."""
    scores = dict(trained)
    for place, ((token, score), (here, here_score)) in enumerate(zip(trained, found, strict=True), start=1):
        tied = _is_close(scores.get(here, trained[-1][1]), score)
        if token not in (None, here) and not tied:
            return f"guess {place} is id {here}, and was {token}"
        if not _is_close(score, here_score):
            return f"guess {place} has probability {here_score:.6f}, and had {score:.6f}"
    return None


def faults(expected: Expected, found: dict) -> list[str]:
    """Everything in the facts of a folder that is not as expected, in words."""
    if "error" in found:
        return [f"{found['error']} ({files.shown(found['reason'], expected.private)})"]
    return [
        *_loading_faults(found["reports"]),
        *_config_faults(expected.facts, found),
        *_weight_faults(expected.facts, found),
        *_tokenizer_faults(expected, found),
        *_guess_faults(expected.facts, found, expected.private),
    ]


@dataclasses.dataclass
class Differences:
    """The largest differences of logits."""

    mlm: float = 0.0
    nsp: float = 0.0
    classes: float = 0.0  # between BertForPreTraining and AutoModelForMaskedLM

    def add(self, model, sample: Sample, answer: tuple) -> None:
        """Compare one sample's logits with those of the trained BertForPreTraining. A nan is a difference, of inf."""
        import torch

        mlm, nsp, between = answer
        with torch.no_grad():
            trained = model(input_ids=torch.tensor([sample[0]]), token_type_ids=torch.tensor([sample[1]]))
        for name, logits, here in (
            ("mlm", trained.prediction_logits[0], mlm),
            ("nsp", trained.seq_relationship_logits[0], nsp),
        ):
            here = torch.from_numpy(here)
            same = logits.shape == here.shape
            setattr(self, name, _largest(getattr(self, name), (logits - here).abs().max() if same else math.inf))
        self.classes = _largest(self.classes, between)

    def faults(self) -> list[str]:
        """Those above TOLERANCE, in words."""
        named = {
            "MLM logits differ from the checkpoint's": self.mlm,
            "NSP logits differ from the checkpoint's": self.nsp,
            "MLM logits of AutoModelForMaskedLM and BertForPreTraining differ": self.classes,
        }
        return [
            f"{what} by {value:.1e} (at most {TOLERANCE:.0e})" for what, value in named.items() if value > TOLERANCE
        ]


def _largest(so_far: float, value) -> float:
    return math.inf if math.isnan(value := float(value)) else max(so_far, value)


def require_same_files(source: Path, folder: Path) -> None:
    """Refuse a tokenizer of another kind than ours that is not, byte for byte, the one in `source`."""
    wanted, found = ({f.name: f.read_bytes() for f in tokenization.tokenizer_files(p)} for p in (source, folder))
    if differing := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise cli.StageError(f"{folder / differing[0]} is not the file of {source}: please report this")


def sentence(found: list[str]) -> str:
    """Faults as part of an error: the first ones, and how many more there are."""
    more = len(found) - SHOWN_FAULTS
    return "; ".join(found[:SHOWN_FAULTS]) + (f"; and {more:,} more" if more > 0 else "")


# Asking


class FreshProcess:
    """A process that has nothing of this one but what it is asked. Use it as a context."""

    def __enter__(self) -> "FreshProcess":
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        return self

    def __exit__(self, *exception) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self, folder: Path):
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            raise cli.StageError(
                f"the process that loaded {folder} ended (exit code {code}): look whether the memory suffices, then "
                "run the same command again"
            ) from None

    def ask(self, folder: Path, questions: Questions) -> Iterator:
        """The `answers` of that process, one after another."""
        with contextlib.suppress(OSError):  # of a process that ended, which `_receive` says
            self._connection.send((str(folder), questions))
        for _ in range(1 + len(questions.samples)):
            answer = self._receive(folder)
            yield answer
            if isinstance(answer, str) or (isinstance(answer, dict) and "error" in answer):
                return


def examine(process: FreshProcess, folder: Path, expected: Expected, model=None, samples: Sequence[Sample] = ()):
    """(every fault of a folder, Differences of its logits from those of `model`, the trained BertForPreTraining)."""
    found, differences = process.ask(folder, Questions(expected.lines, expected.prompts, samples)), Differences()
    named = faults(expected, next(found))
    for sample, answer in zip(samples, found, strict=False):  # there are fewer where it fails
        if isinstance(answer, str):
            return [*named, answer], differences
        differences.add(model, sample, answer)
    return named + differences.faults(), differences


def require_as_recorded(folder: Path, source: Path, record: dict, private: bool) -> None:
    """Ask a copy of the folder `source`, whose record of export_model.py is given. Raises StageError with all faults.

    What may be quoted comes from its spm.model; for another tokenizer there are the hashes of the record alone.
    """
    from bert_ja import continuing, encoding

    facts = record.get("gate") or {}
    if facts.get("lines") != digest(continuing.LINES):
        raise cli.StageError(f"{source} was exported by another version of bert-ja: run export_model.py again")
    ids, pieces = None, None
    if not facts["copied_tokenizer"]:
        encoder = encoding.SentencePieceEncoder(folder, whole_words=False)  # open_encoder wants a finished folder
        ids, pieces = encoder.encode(list(continuing.LINES)), encoder.pieces()
    with FreshProcess() as process:
        found, _ = examine(process, folder, Expected(facts, continuing.LINES, ids, pieces, private))
    if found:
        raise cli.StageError(f"{source} cannot be released ({sentence(found)}): run export_model.py again")
