"""A model folder: written from a checkpoint, and opened to be measured, whoever wrote it.

What an evaluation measures is a folder that transformers loads: of export_model.py, of anybody else, or one that is
made of a checkpoint for as long as it is measured.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from bert_ja import cli, continuing, files, tokenization

CONFIG_FILE = continuing.CONFIG_FILE
POSITIONS_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "luke", "mpnet", "data2vec-text")
NEWEST_RUN = ("best", "last")
# What a record of export_model.py or a checkpoint says of where a model comes from, for whoever reads its scores.
KEPT = ("tokenizer", "steps", "seen", "training", "corpus", "history")


# Writing


def write_tokenizer(source: Path, folder: Path, positions: int) -> None:
    """The run's tokenizer: built anew from an spm.model of our kind, with the model's positions; else byte for byte."""
    if tokenization.is_convertible(source):
        tokenization.write_tokenizer_folder((source / tokenization.MODEL_FILE).read_bytes(), folder, positions)
        return
    for file in tokenization.tokenizer_files(source):
        shutil.copyfile(file, folder / file.name)


def write_model(model, vocabulary: tokenization.Vocabulary, folder: Path) -> None:
    """Weights and config.json, under the architecture that the Hub's fill-mask widget looks for."""
    config = model.config
    config.pad_token_id, config.cls_token_id, config.sep_token_id = vocabulary.pad, vocabulary.cls, vocabulary.sep
    config.bos_token_id, config.eos_token_id, config.mask_token_id = vocabulary.cls, vocabulary.sep, vocabulary.mask
    model.save_pretrained(folder)
    path = folder / CONFIG_FILE
    written = json.loads(path.read_text()) | {"architectures": ["BertForMaskedLM"]}
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


# Opening


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model that is to be measured."""

    folder: Path  # AutoModel and AutoTokenizer load it
    name: str  # in tables: bert-base-ja, version_0 step 1,500
    weights: dict  # the file that holds them, as `files.describe` does
    record: dict  # KEPT of what is known of its training; {} for a folder of elsewhere

    @property
    def steps(self) -> int | None:
        """Optimizer steps of its training."""
        return self.record.get("steps")

    @property
    def tokens(self) -> int | None:
        """Tokens that its training has seen."""
        return (self.record.get("seen") or {}).get("tokens")

    @property
    def private(self) -> bool:
        """Whether its training text is."""
        return files.corpus_facts(self.record)["private"]

    @property
    def objective(self) -> str | None:
        """The second task of its training: nsp, sop or none; None where it is not known."""
        options = (self.record.get("training") or {}).get("options") or {}
        return (options[0] if isinstance(options, list) else options).get("objective")

    def facts(self) -> dict:
        """What a result says of the model: its name, its weights, and how long it was trained."""
        return {"name": self.name, "weights": self.weights, "steps": self.steps, "tokens": self.tokens}


def is_folder(model: str) -> bool:
    """Whether `model` names a model folder and not a checkpoint, which may be `best`, `last`, a file or a run."""
    path = Path(model)
    return model not in NEWEST_RUN and path.is_dir() and not (path / "checkpoints").is_dir()


def require(model: str) -> None:
    """Refuse a name of nothing, before any of several models is measured."""
    if model not in NEWEST_RUN and not Path(model).exists():
        raise cli.StageError(f"{model} not found: name a model folder, a checkpoint file, a run folder, best or last")


def file_name(model: str) -> str:
    """A name for what belongs to a model: its folder's, or its run's and checkpoint's, version_0-epoch=0-step=750."""
    if is_folder(model):
        return Path(model).resolve().name
    from bert_ja import training

    path = training.find_checkpoint(model).resolve()
    return f"{path.parent.parent.name}-{path.stem}"


def _describe_weights(paths: list[Path]) -> dict:
    """The file of a model's weights; of weights in several, their list with the size and a sum of them all."""
    described = [files.describe(path) for path in paths]
    if len(described) == 1:
        return described[0]
    sums = "".join(file["sha256"] for file in described)
    size = sum(file["size"] for file in described)
    return {"name": described[0]["name"], "size": size, "sha256": hashlib.sha256(sums.encode()).hexdigest()}


def longest_input(config, tokenizer) -> int:
    """Tokens that a model reads at most: RoBERTa and its kin keep positions for padding and before."""
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    kept = (config.pad_token_id or 0) + 1 if config.model_type in POSITIONS_BEHIND_PADDING else 0
    return int(min(positions - kept, tokenizer.model_max_length))


def _open_folder(folder: Path) -> Measured:
    if not (folder / CONFIG_FILE).is_file():
        raise cli.StageError(
            f"{folder} has no {CONFIG_FILE}: name a model folder (of export_model.py, or of the Hub by hf download "
            "NAME --local-dir FOLDER), a run, or a checkpoint"
        )
    weights = _describe_weights(continuing.weight_files(folder))
    record = files.read_record(folder) or {}
    return Measured(folder, folder.resolve().name, weights, {name: record[name] for name in KEPT if name in record})


def tokenizer_of(config: Path) -> Path:
    """The tokenizer folder that a run's config.yaml names. Raises StageError where it is not there."""
    import yaml

    try:
        folder = Path(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["tokenizer_model"])
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise cli.StageError(f"{config} names no data.tokenizer_model: name the config.yaml of the run") from None
    if not folder.exists():
        raise cli.StageError(f"{folder} not found, which {config} names as tokenizer: run it where the run was started")
    return folder


def _checkpoint_record(checkpoint: dict) -> dict:
    provenance = checkpoint["provenance"]
    return {
        "tokenizer": provenance.get("tokenizer"),
        "steps": checkpoint["global_step"],
        "seen": checkpoint.get("callbacks", {}).get("Throughput"),
        "training": {name: fact for name, fact in provenance.items() if name != "history"},
        "corpus": files.corpus_facts(provenance),
        "history": provenance.get("history", []),
    }


def _open_checkpoint(model: str, folder: Path) -> Measured:
    from bert_ja import pretraining, training

    path = training.find_checkpoint(model)
    checkpoint = training.load_checkpoint(path)
    tokenizer = tokenizer_of(training.find_config(None, path))
    vocabulary = tokenization.vocabulary(tokenizer)
    training.require_same_vocabulary(path, checkpoint, vocabulary)
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if name[0] != "_"}
    module = pretraining.BertPretraining(**options)
    training.load_weights(module, path, checkpoint)
    write_model(module.model, vocabulary, folder)
    write_tokenizer(tokenizer, folder, module.hparams.max_position_embeddings)
    record = _checkpoint_record(checkpoint)
    name = f"{path.absolute().parent.parent.name} step {checkpoint['global_step']:,}"
    return Measured(folder, name, files.describe(path), record)


@contextlib.contextmanager
def opened(model: str) -> Iterator[Measured]:
    """What `model` names, to be measured: a folder, or a checkpoint (a file, a run, best or last) as a folder for now.

    Raises StageError where it is neither, is damaged, or has another tokenizer than it was trained with.
    """
    require(model)
    if is_folder(model):
        yield _open_folder(Path(model))
        return
    with files.work_folder(None) as folder:
        yield _open_checkpoint(model, folder)
